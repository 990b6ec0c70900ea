# SPDX-License-Identifier: Apache-2.0
"""What the guide lacks of a running Sendmail: its programs, its pid files, and root's own .forward."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator
from dataclasses import replace

from hardend.model import FileType, printable
from hardend.rules.documents import Documents, NotApplicableError, UnknownError
from hardend.rules.exposure import configurations
from hardend.rules.exposure_files import ROOTS, Change, change_faults, lockable, with_changes
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity
from hardend.rules.trust import above, opening, way_to

_SETUID = 0o4000
_SETGID = 0o2000
_OTHERS_WRITE = 0o002
_STICKY = 0o1000
_RUN_DIRECTORIES = frozenset({"sendmail", "mta", "msp"})
_ROOT_FORWARDS = ("/root/.forward", "/.forward")
_SHARED = re.compile(r"/(?:var/|usr/)?tmp/")
_OWN_PROGRAMS = ("sendmail", "smrsh", "makemap", "newaliases")


# The binary ------------------------------------------------------------------------------------------


def _judge_binaries(documents: Documents) -> Iterator[Fault]:
    layout = documents.layout
    programs = {name: getattr(layout, name) for name in _OWN_PROGRAMS}
    there = {name: path for name, path in programs.items() if documents.is_there(path)}
    if layout.sendmail in documents.unreadable:
        raise UnknownError(layout.sendmail, documents.unreadable[layout.sendmail])
    if "sendmail" not in there:
        raise NotApplicableError("the sendmail binary was not found")
    for path in dict.fromkeys(there.values()):
        found = opening(documents, path)
        if found is not None:
            what = f"{found.what}: who writes here becomes whoever runs it"
            yield Fault(path, 0, what, "install the package again", mendable=False)
    yield from _set_id(documents, there["sendmail"])


def _set_id(documents: Documents, path: str) -> Iterator[Fault]:
    known = documents.attributes.get(path)
    if known is None or known.kind is not FileType.FILE:
        return
    if known.mode & _SETUID:
        what = f"mode {known.mode:04o}: runs as its owner for every user, which no Sendmail since 8.12 needs"
        remedy = "make submit.cf and the group smmsp; then chown root:smmsp, chmod 2755 (sendmail/SECURITY)"
        yield Fault(path, 0, what, remedy, mendable=False)
    elif not known.mode & _SETGID and documents.layout.submit_cf:
        what = f"mode {known.mode:04o}: not set-group-ID, so users cannot write to the client queue"
        remedy = "chown root:smmsp and chmod 2755, unless a package means it so"
        yield Fault(path, 0, what, remedy, advice=True, mendable=False)
    elif known.mode & _SETGID and known.gid == 0:
        what = f"mode {known.mode:04o}: runs with group root for every user"
        yield Fault(path, 0, what, "chown root:smmsp and chmod 2755 (sendmail/SECURITY)", mendable=False)


# Pid files -------------------------------------------------------------------------------------------


def _run_files(documents: Documents) -> tuple[str, ...]:
    """Return the pid files and statistics files, where their links lead."""
    named = [documents.layout.pid_file, documents.layout.client_pid_file]
    for cf in configurations(documents):
        values = map(documents.cf(cf).option, ("PidFile", "StatusFile"))
        named += [value.text for value in values if value and value.text.startswith("/")]
    return tuple(dict.fromkeys(way_to(documents, path)[-1] for path in named if path))


def _run_changes(documents: Documents) -> Iterator[Change]:
    paths = _run_files(documents)
    directories = sorted({directory for path in paths for directory in above(path)})
    for path in (*paths, *directories):
        known = documents.attributes.get(path)
        if known is None or not known.mode & _OTHERS_WRITE or known.kind is FileType.SYMLINK:
            continue
        if known.kind is FileType.DIRECTORY and known.mode & _STICKY:
            continue
        what = f"mode {known.mode:04o}: everybody can change what scripts read as root, and end any process"
        is_ours = path in paths or path in ROOTS or os.path.basename(path) in _RUN_DIRECTORIES
        yield Change(path, known, replace(known, mode=known.mode & ~_OTHERS_WRITE), what, is_ours)


def _judge_run_files(documents: Documents) -> Iterator[Fault]:
    paths = _run_files(documents)
    yield from change_faults(documents, _run_changes(documents), paths)
    yield from lockable(documents, paths, "set TempFileMode to 0600 or 0640 and restart Sendmail")


def _mend_run_files(documents: Documents) -> Documents:
    return with_changes(documents, _run_changes(documents))


# .forward --------------------------------------------------------------------------------------------


def _judge_forward(documents: Documents) -> Iterator[Fault]:
    for path in _ROOT_FORWARDS:
        found = opening(documents, path)
        if found is not None:
            what = f"{found.what}: who writes here decides where root's mail goes, and what it runs"
            yield Fault(path, 0, what, f"{found.remedy}, once you know what it says", mendable=False)
        elif documents.is_there(path):
            what = "root's mail goes where this file says, and no look at the aliases shows it"
            yield Fault(path, 0, what, "an entry root: in the alias file", advice=True, mendable=False)
    value = documents.cf().option("ForwardPath")
    text = value.text if value else "$z/.forward"
    line = value.line if value else 0
    shared = [part for part in text.split(":") if _SHARED.match(part)]
    if shared:
        what = f"ForwardPath looks in {printable(shared[0])}, where everybody can leave a file for anybody"
        remedy = "define(`confFORWARD_PATH', `$z/.forward') in the .mc, or another directory of root's"
        yield Fault(documents.layout.cf, line, what, remedy, mendable=False)
    elif text:
        what = f"users forward mail, and run programs, with {printable(text)}"
        remedy = "where nobody needs it: define(`confFORWARD_PATH', `') in the .mc"
        yield Fault(documents.layout.cf, line, what, remedy, advice=True, mendable=False)


def _example(title: str, files: dict[str, str], modes: dict[str, str]) -> Example:
    return Example(title, files, modes=modes)


_CF = "/etc/mail/sendmail.cf"
_SENDMAIL = "/usr/libexec/sendmail/sendmail"
_PID = "/run/sendmail/mta/sendmail.pid"
_WITH_PID = {_CF: f"V10/Berkeley\nO PidFile={_PID}\n", _PID: "1\n"}

RULES = (
    Rule(
        id="exposure-binaries",
        title="Sendmail runs with the group of the client queue for users, and never as root",
        section=Section.EXPOSURE,
        severity=Severity.HIGH,
        fix=Fix.NEVER,
        rationale=(
            "Since 8.12 a user's sendmail needs the group smmsp and nothing else: it writes to the client "
            "queue, and the daemon does the rest. Set-user-ID root makes each of its faults a way to root. "
            "Not mended here: the mode belongs to the package (Debian keeps it in dpkg-statoverride), and "
            "without submit.cf and its queue nobody could send mail."
        ),
        judge=_judge_binaries,
        references=("sendmail/SECURITY", "op guide 4.9.1"),
        examples=(
            _example(
                "as the guide's time had it",
                {_SENDMAIL: ""},
                {_SENDMAIL: "root:root 4755 -> root:smmsp 2755"},
            ),
            _example("the package's", {_SENDMAIL: ""}, {_SENDMAIL: "root:smmsp 2755"}),
        ),
    ),
    Rule(
        id="exposure-pidfile",
        title="Nobody else writes the pid and statistics files",
        section=Section.EXPOSURE,
        severity=Severity.MEDIUM,
        fix=Fix.AUTO,
        rationale=(
            "Scripts end the process whose number stands in the pid file, as root. Groups keep what they "
            "have: Debian's submission program and mailstats write through theirs. That everybody can read "
            "such a file is advice: who can open it can lock it (sendmail README, file locking)."
        ),
        judge=_judge_run_files,
        mend=_mend_run_files,
        references=("sendmail README, file and map permissions", "op guide 5.6"),
        examples=(
            _example(
                "the file and its directory",
                _WITH_PID,
                {
                    _PID: "root:smmsp 0666 -> root:smmsp 0664",
                    "/run/sendmail/mta": "smmta:smmsp 2777 -> smmta:smmsp 2775",
                },
            ),
            _example(
                "Debian's own, in which the group writes",
                _WITH_PID,
                {_PID: "root:smmsp 0640", "/run/sendmail/mta": "smmsp:smmsp 2775"},
            ),
        ),
    ),
    Rule(
        id="exposure-forward",
        title="No .forward file is somebody else's way to root's mail",
        section=Section.EXPOSURE,
        severity=Severity.MEDIUM,
        fix=Fix.NEVER,
        rationale=(
            "A .forward runs programs as its user. That users have them is advice: smrsh limits what they "
            "run. STIG GEN004580 wants none at all, and its script deletes every .forward on the host: that "
            "is the users' mail, and none is ever touched here. What fails is a .forward of root that "
            "others can write, and a ForwardPath through a directory in which everybody can leave a file."
        ),
        judge=_judge_forward,
        references=("STIG GEN004580", "op guide 4.9", "op guide 5.6"),
        examples=(
            _example(
                "root's, which a user owns",
                {"/root/.forward": "alice\n"},
                {"/root/.forward": "alice:alice 0644 -> root:root 0644"},
            ),
            Example(
                "in a directory for everybody",
                {_CF: "V10/Berkeley\nOJ$z/.forward:/var/tmp/$u\n"},
                {_CF: "V10/Berkeley\nOJ$z/.forward\n"},
            ),
            _example(
                "root's own, and users' in their homes",
                {_CF: "V10/Berkeley\nO ForwardPath=$z/.forward.$w:$z/.forward\n", "/root/.forward": "ops\n"},
                {"/root/.forward": "root:root 0600"},
            ),
        ),
    ),
)
