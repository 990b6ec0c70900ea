# SPDX-License-Identifier: Apache-2.0
"""What the guide lacks of owners and modes: of the configuration, the maps and all directories above."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from hardend.model import FileType, MapSpec, printable
from hardend.rules.documents import Attributes, Documents, NotApplicableError, UnknownError
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity
from hardend.rules.trust import ROOT, above, opening, owner_of, trusted

_SET_ID = 0o6000
_STICKY = 0o1000
_OTHERS_READ = 0o004
_OTHERS = 0o007
_DATABASE = 0o644
# The shell runs these as root when Sendmail starts.
_START_FILES = ("/etc/mail/sendmail.conf", "/etc/sysconfig/sendmail", "/etc/conf.d/sendmail")
# Directories that are root's on every host; what other packages keep elsewhere is theirs to mend.
ROOTS = frozenset(
    {"/", "/etc", "/etc/conf.d", "/etc/sysconfig", "/run", "/usr", "/usr/lib"}
    | {"/var", "/var/lib", "/var/run", "/var/spool"}
)
_PASSWORDS = re.compile(rb"(?:\A|\n)authinfo:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Change:
    """What is wrong with a path: what it has, what it should have; ``is_ours`` is whether mend does it."""

    path: str
    known: Attributes
    wanted: Attributes
    what: str
    is_ours: bool = True

    def fault(self, documents: Documents) -> Fault:
        """Return it as a fault, with the command that mends it."""
        path = printable(self.path)
        words = []
        if self.wanted.uid != self.known.uid:
            words.append(f"chown {owner_of(documents, self.wanted)} {path}")
        if self.wanted.mode != self.known.mode:
            words.append(f"chmod {self.wanted.mode:04o} {path}")
        remedy = " && ".join(words)
        if not self.is_ours:
            remedy = f"see what else needs it so; {remedy}, or keep Sendmail's files elsewhere"
        return Fault(self.path, 0, self.what, remedy, mendable=self.is_ours)


def change_faults(
    documents: Documents, changes: Iterable[Change], looked_at: Iterable[str]
) -> Iterator[Fault]:
    """Yield the faults; where there is none, raise UnknownError for a path that could not be looked at."""
    found = [change.fault(documents) for change in changes]
    yield from found
    for path in () if found else looked_at:
        if path in documents.unreadable and path not in documents.attributes:
            raise UnknownError(path, documents.unreadable[path])


def with_changes(documents: Documents, changes: Iterable[Change]) -> Documents:
    """Return the documents with the changes that are ours."""
    for change in list(changes):
        now = documents.attributes[change.path]
        wanted = change.wanted
        if change.is_ours:
            # Two changes of one path add up: a mode only ever loses bits.
            uid = wanted.uid if wanted.uid != change.known.uid else now.uid
            wanted = replace(now, uid=uid, mode=now.mode & wanted.mode)
            documents = documents.with_attributes(change.path, wanted)
    return documents


# The configuration and the directories above it ------------------------------------------------------


def _configuration(documents: Documents) -> tuple[str, ...]:
    layout = documents.layout
    paths = [
        layout.cf, layout.submit_cf, layout.mc, layout.submit_mc, layout.access, layout.helpfile,
        *layout.class_files, *layout.host_names, *layout.relay_domains, *layout.text_maps,
        *(spec.source for spec in (*layout.aliases, *layout.maps)), *_START_FILES,
    ]  # fmt: skip
    return tuple(path for path in dict.fromkeys(paths) if path)


def _file_changes(documents: Documents) -> Iterator[Change]:
    paths = _configuration(documents)
    directories = {
        directory
        for path in (*paths, *documents.layout.links, *(spec.database for spec in _databases(documents)))
        for directory in above(path)
    }
    for path in (*sorted(directories), *paths):
        known = documents.attributes.get(path)
        if known is None or known.kind is FileType.SYMLINK:
            continue
        yield from _opened(documents, path, known)
        if known.mode & _OTHERS_READ and path not in directories and _holds_passwords(documents, path):
            what = f"mode {known.mode:04o}: everybody can read the passwords in it"
            yield Change(path, known, replace(known, mode=known.mode & ~_OTHERS), what)


def _opened(documents: Documents, path: str, known: Attributes) -> Iterator[Change]:
    """Yield how others than root and TrustedUser can change a file, or what stands in a directory."""
    layout = documents.layout
    is_above = known.kind is FileType.DIRECTORY and not is_in_mail_directory(documents, path)
    owners = ROOT if is_above else trusted(documents)
    found = opening(documents, path, owners)
    if found is None:
        return
    closed = found.closed
    if known.uid not in owners:
        is_debians = path == layout.mail_dir and layout.profile == "debian"
        # A file of somebody's that is given to root must not run as root.
        mode = closed.mode & ~_SET_ID if known.kind is FileType.FILE else closed.mode
        closed = replace(closed, uid=_owner(documents) if is_debians else 0, mode=mode)
    what = f"{found.what}: who can write here decides what Sendmail runs"
    yield Change(path, known, closed, what, _is_ours(documents, path, known))


def _owner(documents: Documents) -> int:
    """Return who owns databases and, on Debian, the mail directory: TrustedUser, without one root."""
    return documents.users.get(documents.layout.trusted_user, 0)


def _is_ours(documents: Documents, path: str, known: Attributes) -> bool:
    """Return whether nobody else needs a path as it is: not /tmp, a home, a list manager's own files."""
    if known.kind is FileType.DIRECTORY:
        return not known.mode & _STICKY and (path in ROOTS or is_in_mail_directory(documents, path))
    return path in _START_FILES or os.path.dirname(path) == "/etc" or is_in_mail_directory(documents, path)


def is_in_mail_directory(documents: Documents, path: str) -> bool:
    """Return whether a path is the mail directory or below it."""
    directory = documents.layout.mail_dir
    return bool(directory) and f"{path}/".startswith(f"{directory}/")


def _holds_passwords(documents: Documents, path: str) -> bool:
    """Return whether a source or database holds what this host authenticates with elsewhere."""
    source = path.removesuffix(".db")
    name = os.path.basename(source)
    return name.startswith("authinfo") or _PASSWORDS.search(documents.content.get(source, b"")) is not None


def _judge_files(documents: Documents) -> Iterator[Fault]:
    yield from change_faults(documents, _file_changes(documents), _configuration(documents))
    yield from _with_acl(documents, _configuration(documents))


def _mend_files(documents: Documents) -> Documents:
    return with_changes(documents, _file_changes(documents))


def _with_acl(documents: Documents, paths: Iterable[str]) -> Iterator[Fault]:
    """Yield advice on ACLs: what one gives is cut by its mask, which is the group's part of the mode."""
    for path in paths:
        known = documents.attributes.get(path)
        if known is not None and known.acl:
            what = "has an ACL; its mask decides what it gives, and no rule looks at the entries"
            yield Fault(path, 0, what, f"setfacl --remove-all {printable(path)}", advice=True, mendable=False)


# Databases -------------------------------------------------------------------------------------------


def _databases(documents: Documents) -> tuple[MapSpec, ...]:
    return (*documents.layout.aliases, *documents.layout.maps)


def _database_changes(documents: Documents) -> Iterator[Change]:
    allowed = owners(documents, documents.layout.cf)
    # RunAsUser may read a database only as everybody does.
    may_close = documents.cf().option("RunAsUser") is None
    for path in dict.fromkeys(spec.database for spec in _databases(documents)):
        known = documents.attributes.get(path)
        if known is None or known.kind is not FileType.FILE:
            continue
        is_secret = _holds_passwords(documents, path)
        most = _DATABASE & ~_OTHERS if is_secret else _DATABASE
        wanted = replace(known, mode=known.mode & most)
        what = [f"mode {known.mode:04o} is more than {most:04o}"] if wanted != known else []
        if known.uid not in allowed:
            what.append(f"it belongs to {owner_of(documents, known)}")
            wanted = replace(wanted, uid=_owner(documents))
        if what:
            why = "passwords are in it" if is_secret else "Sendmail reads a database whoever wrote it"
            is_ours = not is_secret or may_close
            yield Change(path, known, wanted, f"{' and '.join(what)}: {why}", is_ours)


def owners(documents: Documents, cf: str) -> frozenset[int]:
    """Return who may own what Sendmail writes: root, TrustedUser, RunAsUser of a .cf (Bat book table 4-1)."""
    value = documents.cf(cf).option("RunAsUser")
    name = re.split(r"[:.]", value.text)[0].strip() if value else ""
    uid = int(name) if name.isdecimal() else documents.users.get(name)
    return trusted(documents) | (frozenset() if uid is None else {uid})


def _judge_databases(documents: Documents) -> Iterator[Fault]:
    paths = [spec.database for spec in _databases(documents)]
    if not paths:
        raise NotApplicableError("the configuration names no database")
    yield from change_faults(documents, _database_changes(documents), paths)
    yield from _with_acl(documents, paths)
    yield from lockable(documents, paths, "chmod 0640 lasts until it is made anew with another mode")


def _mend_databases(documents: Documents) -> Documents:
    return with_changes(documents, _database_changes(documents))


def lockable(documents: Documents, paths: Iterable[str], remedy: str) -> Iterator[Fault]:
    """Yield advice on files that everybody can open: on Linux that is enough to lock one (flock(2))."""
    for path in paths:
        known = documents.attributes.get(path)
        if known is not None and known.mode & _OTHERS_READ and known.kind is FileType.FILE:
            what = f"mode {known.mode:04o}: who can open it can lock it, and Sendmail waits for the lock"
            yield Fault(path, 0, what, remedy, advice=True, mendable=False)


def _example(title: str, files: dict[str, str], modes: dict[str, str], profile: str = "debian") -> Example:
    return Example(title, files, modes=modes, profile=profile)


_CF = "/etc/mail/sendmail.cf"
_ALIASES = {"/etc/aliases": "postmaster: root\n", "/etc/mail/aliases.db": ""}

RULES = (
    Rule(
        id="exposure-files",
        title="Only root and TrustedUser can change what configures Sendmail, and the directories above it",
        section=Section.EXPOSURE,
        severity=Severity.HIGH,
        fix=Fix.AUTO,
        rationale=(
            "Who can write a configuration file, or a directory anywhere above it, decides what Sendmail "
            "runs as root. TrustedUser may own files and the mail directory: Debian's /etc/mail is "
            "smmta:smmsp 2755 by design and stays so. STIG GEN004360 wants root alone, and its finding "
            "comes back at every rebuild. Groups and ACLs are kept; with write access taken from the group, "
            "the mask of an ACL gives none either, which is what GEN004390 is about. What other software "
            "keeps elsewhere (a list manager's aliases, a home) is found and left to you: it may need it "
            "so."
        ),
        judge=_judge_files,
        mend=_mend_files,
        references=(
            "STIG GEN004360", "STIG GEN004370", "STIG GEN004380", "STIG GEN004390",
            "sendmail README, directory permissions", "sendmail/SECURITY", "Bat book table 4-1",
        ),
        examples=(
            _example(
                "a group that can write, and an owner who is nobody of Sendmail's",
                {_CF: "V10/Berkeley\n", "/etc/mail/access": ""},
                {
                    _CF: "root:smmsp 0664 -> root:smmsp 0644",
                    "/etc/mail/access": "alice:alice 0640 -> root:alice 0640",
                },
            ),
            _example(
                "the directories above count, each with its own owner",
                {},
                {
                    "/etc": "root:root 0777 -> root:root 0755",
                    "/etc/mail": "alice:smmsp 2775 -> smmta:smmsp 2755",
                },
            ),
            _example(
                "passwords that everybody can read",
                {"/etc/mail/access": 'AuthInfo:mail.example.com\t"U:me" "P:secret"\n'},
                {"/etc/mail/access": "root:smmsp 0644 -> root:smmsp 0640"},
            ),
            _example(
                "Debian's own: TrustedUser owns the directory and a file",
                {_CF: "V10/Berkeley\n", "/etc/mail/access": ""},
                {"/etc/mail": "smmta:smmsp 2755", "/etc/mail/access": "smmta:smmsp 0640"},
            ),
        ),
    ),
    Rule(
        id="exposure-databases",
        title="Only root, TrustedUser and RunAsUser can change a database",
        section=Section.EXPOSURE,
        severity=Severity.HIGH,
        fix=Fix.AUTO,
        rationale=(
            "newaliases and makemap keep the owner and mode of a database that is there, and Sendmail reads "
            "it without complaint, also with mode 0666. STIG GEN004360 wants root as its owner: Sendmail "
            "gives it to TrustedUser whenever root rebuilds it, so that finding never stays mended. "
            "GEN004380 allows 0644; Sendmail's README wants 0640, because who can open a file can lock it, "
            "but Debian's make writes 0644: less is advice. GEN004370 names the group smmsp or root, as the "
            "text has it; the group is kept, it cannot write."
        ),
        judge=_judge_databases,
        mend=_mend_databases,
        references=(
            "STIG GEN004360", "STIG GEN004370", "STIG GEN004380", "STIG GEN004390", "Bat book table 4-1",
            "sendmail README, file and map permissions",
        ),
        examples=(
            _example(
                "everybody can write the aliases that Sendmail looks up",
                _ALIASES,
                {"/etc/mail/aliases.db": "smmta:smmsp 0666 -> smmta:smmsp 0644"},
            ),
            _example(
                "a user's database",
                {"/etc/mail/access": "", "/etc/mail/access.db": ""},
                {"/etc/mail/access.db": "alice:alice 0664 -> root:alice 0644"},
                "redhat",
            ),
            _example("TrustedUser's, by design", _ALIASES, {"/etc/mail/aliases.db": "smmta:smmsp 0640"}),
        ),
    ),
)
