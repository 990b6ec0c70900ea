# SPDX-License-Identifier: Apache-2.0
"""Section 1 of the guide: what smrsh's directory holds, and who can change it.

smrsh looks at no owner and no mode (smrsh.c): what stands in its directory, mail can run.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType

from hardend.model import FileType, printable
from hardend.rules import smrsh_mailer
from hardend.rules.deliveries import absolute_programs
from hardend.rules.documents import Attributes, Documents, NotApplicableError, Policy, UnknownError
from hardend.rules.programs import (
    DEBIAN_LINKS,
    SENSIBLE_MDA,
    Linked,
    allowed_by_default,
    is_listed,
    is_risky,
    linked,
    objection,
)
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity
from hardend.rules.trust import Opening, above, opening, owners_for, way_to

_DEBIAN_CONF = "/etc/mail/sendmail.conf"
_HANDS_OFF = re.compile(rb"(?m)^[ \t]*HANDS_OFF=[\"']?([^\"';\s]*)")

# What it holds -----------------------------------------------------------------------------------------


def _judge_programs(documents: Documents) -> Iterator[Fault]:
    items = linked(documents)
    needed = _needed_for_delivery(documents, items)
    for item in items:
        shown = printable(item.name) + (f" ({printable(item.leads_to)})" if item.leads_to else "")
        why = objection(documents, item)
        if why:
            yield Fault(item.path, 0, f"{shown} {why}", *_programs_remedy(documents, item, needed))
        elif is_risky(item):
            yield Fault(
                item.path,
                0,
                f"{shown} is on the configured list, but who writes a .forward runs any program with it",
                "take it off smrsh_programs when no alias needs it any more",
                advice=True,
                mendable=False,
            )
    yield from _linked_again(documents, items)


def _programs_remedy(documents: Documents, item: Linked, needed: frozenset[str]) -> tuple[str, bool, bool]:
    """Return what to do, and that it is no advice, and whether ``_mend_programs`` does it."""
    if item.name in needed:
        remedy = f"link mail.local beside it first, then rm {printable(item.path)}: it delivers local mail"
        return remedy, False, False
    remedy = f"rm {printable(item.path)}"
    if item.name in SENSIBLE_MDA and _has_sensible_mda(documents):
        remedy += "; sensible-mda then delivers local mail with the next of its programs"
    return remedy, False, True


def _mend_programs(documents: Documents) -> Documents:
    items = linked(documents)
    needed = _needed_for_delivery(documents, items)
    for item in items:
        if objection(documents, item) and item.name not in needed:
            documents = documents.without(item.path)
    return documents


def _needed_for_delivery(documents: Documents, items: tuple[Linked, ...]) -> frozenset[str]:
    """Return what must stay because Debian's sensible-mda delivers local mail with nothing else.

    Without any of its programs it answers 75 and all mail waits (seen).
    """
    if not _has_sensible_mda(documents):
        return frozenset()
    agents = [item for item in items if item.name in SENSIBLE_MDA]
    refused = [item for item in agents if objection(documents, item)]
    return frozenset(item.name for item in agents) if len(refused) == len(agents) else frozenset()


def _has_sensible_mda(documents: Documents) -> bool:
    try:
        local = documents.cf().mailer("local")
    except (NotApplicableError, UnknownError):
        return False
    return local is not None and os.path.basename(local.path) == "sensible-mda"


def _linked_again(documents: Documents, items: tuple[Linked, ...]) -> Iterator[Fault]:
    """Yield advice about what Debian's update_smrsh links again at every upgrade and sendmailconfig.

    HANDS_OFF would stop it, and much more: update_conf then removes /etc/cron.d/sendmail, which runs
    the client queue (seen). A file of that name in its place would stop it too, and local mail as well:
    sensible-mda tries to run it (seen). So nothing is done here but to take it away again.
    """
    hands_off = _HANDS_OFF.findall(documents.content.get(_DEBIAN_CONF, b""))
    if documents.layout.profile != "debian" or hands_off[-1:] not in ([], [b"No"]):
        return
    there = {item.name for item in items}
    names = [
        name
        for name in DEBIAN_LINKS
        if name not in allowed_by_default(documents)
        and not is_listed(documents, name, f"/usr/bin/{name}")
        and (name in there or documents.is_there(f"/usr/bin/{name}"))
    ]
    if names:
        yield Fault(
            _DEBIAN_CONF,
            0,
            f"Debian's update_smrsh links {', '.join(names)} again at every upgrade and sendmailconfig",
            "let the guard take it away again, or remove the package; not HANDS_OFF, which also removes "
            "the cron job of the client queue",
            advice=True,
            mendable=False,
        )


# What the configuration lists ---------------------------------------------------------------------------


def _judge_listed(documents: Documents) -> Iterator[Fault]:
    directory = documents.layout.smrsh_dir
    for name, path in _lacking(documents):
        shown = printable(path or name)
        item = _as_linked(documents, name, path)
        why = objection(documents, item)
        link = printable(item.path)
        if not documents.is_there(path):
            message = f"smrsh_programs lists {shown}, which is not on this host"
            remedy = "correct its path, or take it off the list"
            yield Fault(directory, 0, message, remedy, advice=True, mendable=False)
        elif why:
            message = f"smrsh_programs lists {shown}, which {why}: it is not linked"
            yield Fault(directory, 0, message, "take it off the list", advice=True, mendable=False)
        else:
            message = f"smrsh_programs lists {shown}, but {link} does not exist: smrsh would stop it"
            yield Fault(directory, 0, message, f"ln -s {shown} {link}")


def _mend_listed(documents: Documents) -> Documents:
    directory = documents.layout.smrsh_dir
    for name, path in list(_lacking(documents)):
        item = _as_linked(documents, name, path)
        if documents.is_there(path) and not objection(documents, item):
            names = (*documents.names[directory], name)
            documents = replace(documents, names=MappingProxyType({**documents.names, directory: names}))
            link = Attributes(FileType.SYMLINK, 0, 0, 0o777, target=path)
            documents = documents.with_attributes(item.path, link)
    return documents


def _as_linked(documents: Documents, name: str, path: str) -> Linked:
    link = f"{documents.layout.smrsh_dir}/{name}"
    return Linked(name, link, (link, *way_to(documents, path)))


def _lacking(documents: Documents) -> Iterator[tuple[str, str]]:
    """Yield name and path of what the configuration lists and smrsh's directory has not.

    A program that is listed by name has the path that an alias gives it, "" where none does.
    """
    directory = documents.layout.smrsh_dir
    linked(documents)  # raises where the directory is missing or could not be read
    listed = {os.path.basename(entry): entry for entry in documents.policy.smrsh_programs}
    there = {"", *documents.names[directory]}
    lacking = {name: entry for name, entry in listed.items() if name not in there}
    is_full = all(entry.startswith("/") for entry in lacking.values())
    used = {} if is_full else {os.path.basename(path): path for path in sorted(absolute_programs(documents))}
    for name, entry in lacking.items():
        yield name, entry if entry.startswith("/") else used.get(name, "")


# Who can change it --------------------------------------------------------------------------------------


def _judge_ownership(documents: Documents) -> Iterator[Fault]:
    directory = documents.layout.smrsh_dir
    for found in _openings(documents):
        remedy = found.remedy
        if found.known.kind is FileType.DIRECTORY and found.path != directory:
            remedy = f"{remedy}, or move what mail runs to a directory of root's"
        message = f"{found.what}: who can change it decides what mail runs"
        is_advice = found.is_by_design
        yield Fault(found.path, 0, message, remedy, advice=is_advice, mendable=_is_ours(documents, found))


def _mend_ownership(documents: Documents) -> Documents:
    for found in _openings(documents):
        if _is_ours(documents, found):
            documents = documents.with_attributes(found.path, found.closed)
    return documents


def _is_ours(documents: Documents, found: Opening) -> bool:
    """Return whether to close it here: other directories than smrsh's own have other users too."""
    return found.is_ours or found.path == documents.layout.smrsh_dir


def _openings(documents: Documents) -> list[Opening]:
    """Return the openings of smrsh, of its directory, of what is there, where it leads, and all above."""
    items = linked(documents)
    directory = documents.layout.smrsh_dir
    places = (directory, documents.layout.smrsh, *(hop for item in items for hop in item.way))
    paths = dict.fromkeys(path for place in places if place for path in (place, *above(place)))
    found = (opening(documents, path, owners_for(documents, path)) for path in paths)
    return [one for one in found if one is not None]


_DIRECTORY = "/etc/mail/smrsh/"
_LOCAL = "V10/Berkeley\nMlocal, P=/usr/sbin/sensible-mda, F=lsDFMAw5:/|@qPn9S, A=sensible-mda $g $u $h\n"
_MAILMAN = "/usr/lib/mailman/mail/mailman"
_QUEUE = "/usr/lib/sympa/bin/queue"

RULES = (
    smrsh_mailer.RULE,
    Rule(
        id="smrsh-programs",
        title="The smrsh directory holds no interpreter and no program that is not on the list",
        section=Section.SMRSH,
        severity=Severity.HIGH,
        fix=Fix.ASK,
        rationale=(
            "A shell, an interpreter or a program that starts others makes smrsh a detour to /bin/sh, under "
            "whatever name it is linked. So does procmail, which the guide and Debian link: it runs what its "
            "arguments and ~/.procmailrc say (smrsh(8) calls it a very bad idea); it stays only when "
            "smrsh_programs names it. On Debian sensible-mda delivers local mail with the first of procmail, "
            "maildrop, deliver and mail.local that is linked there: without procmail mail.local does it and "
            "~/.procmailrc is no longer read; the last of them is never removed. /bin/mail, which the guide "
            "links, runs commands of the mail's text in some versions (~!): list it if you need it."
        ),
        judge=_judge_programs,
        mend=_mend_programs,
        references=("guide 1", "smrsh(8)", "Tiger misc011w", "sendmail/smrsh/README"),
        examples=(
            Example(
                "a shell under another name",
                {_DIRECTORY: "", "/etc/mail/smrsh/vacation": "-> /bin/sh"},
                {"/etc/mail/smrsh/vacation": None},
            ),
            Example(
                "an interpreter with its version",
                {_DIRECTORY: "", "/etc/mail/smrsh/python3.11": "-> /usr/bin/python3.11"},
                {"/etc/mail/smrsh/python3.11": None},
            ),
            Example(
                "procmail as the guide and Debian link it",
                {
                    "/etc/mail/sendmail.cf": _LOCAL,
                    "/etc/mail/smrsh/mail.local": "-> /usr/libexec/sendmail/mail.local",
                    "/etc/mail/smrsh/procmail": "-> /usr/bin/procmail",
                },
                {"/etc/mail/smrsh/procmail": None},
            ),
            Example(
                "a shell that the configuration lists",
                {_DIRECTORY: "", "/etc/mail/smrsh/bash": "-> /bin/bash"},
                {"/etc/mail/smrsh/bash": None},
                policy=Policy(smrsh_programs=("bash",)),
            ),
            Example(
                "procmail that the configuration lists",
                {_DIRECTORY: "", "/etc/mail/smrsh/procmail": "-> /usr/bin/procmail"},
                policy=Policy(smrsh_programs=("procmail",)),
            ),
            Example(
                "what Debian's package links, without procmail",
                {
                    "/etc/mail/smrsh/mail.local": "-> /usr/libexec/sendmail/mail.local",
                    "/etc/mail/smrsh/sensible-mda": "-> /usr/sbin/sensible-mda",
                    "/etc/mail/smrsh/vacation": "-> /usr/bin/vacation",
                },
            ),
        ),
    ),
    Rule(
        id="smrsh-listed",
        title="The programs that the configuration lists are in the smrsh directory",
        section=Section.SMRSH,
        severity=Severity.LOW,
        fix=Fix.AUTO,
        rationale=(
            "smrsh_programs in the configuration says what mail may run; smrsh itself knows only its "
            "directory. Without the link an alias with that program stops with 'Service unavailable'."
        ),
        judge=_judge_listed,
        mend=_mend_listed,
        references=("guide 1", "smrsh(8)"),
        examples=(
            Example(
                "Mailman's wrapper, listed by its path",
                {_DIRECTORY: "", _MAILMAN: "(the program)"},
                {"/etc/mail/smrsh/mailman": f"-> {_MAILMAN}"},
                policy=Policy(smrsh_programs=(_MAILMAN,)),
            ),
            Example(
                "a list that names nothing that mail may run",
                {_DIRECTORY: "", "/bin/bash": "(the shell)"},
                policy=Policy(smrsh_programs=("/bin/bash",)),
            ),
        ),
    ),
    Rule(
        id="smrsh-ownership",
        title="Only root changes the smrsh directory and what it leads to",
        section=Section.SMRSH,
        severity=Severity.HIGH,
        fix=Fix.AUTO,
        rationale=(
            "smrsh checks neither owners nor modes: who can write to its directory, to a program or to a "
            "directory above it decides what mail runs. Debian gives its directory to smmta, its "
            "TrustedUser, again at every upgrade; that account owns aliases.db anyway and may keep it. A "
            "set-id program of a list manager keeps its owner: given to root it would run as root. "
            "Directories that other programs use are named, not changed."
        ),
        judge=_judge_ownership,
        mend=_mend_ownership,
        references=("guide 1", "STIG GEN004400", "STIG GEN004410", "STIG GEN004420", "sendmail/SECURITY"),
        examples=(
            Example(
                "everybody can add a program",
                {_DIRECTORY: ""},
                modes={"/etc/mail/smrsh": "smmta:smmsp 2777 -> smmta:smmsp 2755"},
            ),
            Example(
                "a linked program of a user's",
                {"/etc/mail/smrsh/vacation": "-> /opt/mail/vacation", "/opt/mail/vacation": "(the program)"},
                modes={"/opt/mail/vacation": "alice:root 0775 -> root:root 0755"},
            ),
            Example(
                "Debian's directory",
                {"/etc/mail/smrsh/mail.local": "-> /usr/libexec/sendmail/mail.local"},
                modes={"/etc/mail": "smmta:smmsp 2755", "/etc/mail/smrsh": "smmta:smmsp 2755"},
            ),
            Example(
                "a list manager's set-uid program",
                {"/etc/mail/smrsh/queue": f"-> {_QUEUE}", _QUEUE: "(the program)"},
                modes={_QUEUE: "mail:mail 4755"},
                policy=Policy(smrsh_programs=("queue",)),
            ),
        ),
    ),
)
