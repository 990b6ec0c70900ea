# SPDX-License-Identifier: Apache-2.0
"""Section 1 of the guide: the mailer of programs runs smrsh in place of a shell.

P= of the last definition of Mprog decides. A= is only argv[0], the name in smrsh's messages.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from hardend.errors import FormatError
from hardend.formats.cf import Cf, Mailer
from hardend.formats.mc import Mc
from hardend.model import printable
from hardend.rules.documents import CannotMendError, Documents, NotApplicableError
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity

_FEATURE = "smrsh"
_MACRO = "LOCAL_SHELL_PATH"  # what FEATURE(`smrsh') defines (cf/feature/smrsh.m4)
# Where the packages put smrsh, for trees without their programs; the classic one is the guide's.
_PLACES = {
    "debian": "/usr/libexec/sendmail/smrsh",
    "redhat": "/usr/sbin/smrsh",
    "suse": "/usr/lib/sendmail.d/bin/smrsh",
    "freebsd": "/usr/libexec/smrsh",
    "classic": "/usr/sbin/smrsh",
}
_DEBIAN_DEFAULT = "/usr/libexec/sendmail/smrsh"  # cf/ostype/debian.m4: confEBINDIR
_RUNS_NOTHING = frozenset({"false", "nologin"})
# A field of an M line in its bytes, as makemailer() and munchstring() part them.
_FIELD = re.compile(
    rb'[, \t\r\n\f\v]*(?P<name>[^=,]*)=\s*(?P<value>(?:"(?:\\.|[^"\\])*"?|\\.|[^,"\\])*)', re.DOTALL
)
_OWN_DEFINITION = re.compile(rb"(?m)^Mprog\b")


def _judge(documents: Documents) -> Iterator[Fault]:
    mailers = [(cf, mailer) for cf in _configurations(documents) for mailer in _prog(documents, cf)]
    if not mailers:
        raise NotApplicableError("no configuration has a mailer for programs")
    for cf, mailer in mailers:
        if _is_restricted(mailer):
            continue
        remedy, mendable = _remedy(documents, cf)
        yield Fault(
            cf,
            mailer.line,
            f"Mprog has P={printable(mailer.path) or '(nothing)'}: aliases and .forward files run anything",
            remedy,
            mendable=mendable,
        )


def _mend(documents: Documents) -> Documents:
    for cf in _configurations(documents):
        if not all(map(_is_restricted, _prog(documents, cf))):
            documents = _mended(documents, cf)
    return documents


def _mended(documents: Documents, cf: str) -> Documents:
    source = documents.mc_of(cf)
    if source is not None:
        path, mc = source
        return documents.with_content(path, _with_feature(documents, mc).render())
    return documents.with_content(cf, _with_path(documents.cf(cf), _smrsh(documents)).render())


def _remedy(documents: Documents, cf: str) -> tuple[str, bool]:
    """Return what to do, and whether ``_mend`` does it."""
    try:
        smrsh = _smrsh(documents)
        is_mended = _mended(documents, cf) is not documents
    except (CannotMendError, FormatError) as error:
        return str(error), False
    source = documents.mc_of(cf)
    if source is None:
        return f"set P={smrsh} in Mprog and leave its other fields alone", True
    path, mc = source
    if _OWN_DEFINITION.search(mc.render()):
        return f"{path} has an Mprog line of its own: set P={smrsh} there", False
    if cf not in documents.stale and not is_mended:
        return f"{path} switches smrsh on already: build {cf} from it", False
    words = ", ".join(f"`{word}'" for word in (_FEATURE, *_argument(mc, smrsh)))
    return f"FEATURE({words})dnl before the first MAILER in {path}", True


def _with_feature(documents: Documents, mc: Mc) -> Mc:
    """Return the .mc with smrsh switched on. A define behind the FEATURE would win: it is set too."""
    if _OWN_DEFINITION.search(mc.render()):
        return mc
    smrsh = _smrsh(documents)
    feature = mc.feature(_FEATURE)
    path = feature.arguments[0] if feature is not None and feature.arguments else ""
    if path and not _is_smrsh(path):
        mc = mc.remove_feature(_FEATURE)
    mc = mc.add_feature(_FEATURE, *_argument(mc, smrsh))
    known = mc.define(_MACRO)
    return mc if known is None or _is_smrsh(known.text) else mc.set_define(_MACRO, smrsh)


def _argument(mc: Mc, smrsh: str) -> tuple[str, ...]:
    """Return the path for FEATURE, or none where m4 finds the right one itself."""
    directory = mc.define("confEBINDIR")
    if directory is not None:
        default = f"{directory.text}/smrsh"
    else:
        default = _DEBIAN_DEFAULT if mc.ostype == "debian" else ""
    return () if smrsh == default else (smrsh,)


def _with_path(cf: Cf, smrsh: str) -> Cf:
    mailer = cf.mailer("prog")
    raw = next((line.raw for line in cf.lines if mailer and line.number == mailer.line), b"")
    spans = _paths(raw)
    if mailer is None or not spans:
        raise CannotMendError(f"Mprog has no P= that could be set: write P={smrsh} into it")
    start, end = spans[-1]
    changed = cf.replace(mailer.line, raw[:start] + os.fsencode(smrsh) + raw[end:])
    mended = changed.mailer("prog")
    if mended is None or mended.path != smrsh:
        raise CannotMendError(f"Mprog is written in a way that is not understood: set P={smrsh} in it")
    return changed


def _paths(raw: bytes) -> list[tuple[int, int]]:
    """Return where the values of P= stand in an M line; the last one counts."""
    found = []
    field = _FIELD.match(raw, raw.find(b","))
    while field is not None:
        if field["name"][:1] == b"P":
            found.append(field.span("value"))
        field = _FIELD.match(raw, field.end())
    return found


def _smrsh(documents: Documents) -> str:
    path = documents.layout.smrsh or _PLACES.get(documents.layout.profile, "")
    if not path:
        raise CannotMendError("this host has no smrsh: install it (Sendmail has it), then set P= to it")
    return path


def _configurations(documents: Documents) -> list[str]:
    return [path for path in (documents.layout.cf, documents.layout.submit_cf) if path]


def _prog(documents: Documents, cf: str) -> list[Mailer]:
    mailer = documents.cf(cf).mailer("prog")
    return [mailer] if mailer is not None else []


def _is_restricted(mailer: Mailer) -> bool:
    """Return whether it runs no shell: smrsh, another host (submit.cf), a program that does nothing."""
    return _is_smrsh(mailer.path) or mailer.path.startswith("[") or _base(mailer.path) in _RUNS_NOTHING


def _is_smrsh(path: str) -> bool:
    return _base(path) == _FEATURE


def _base(path: str) -> str:
    return os.path.basename(path.strip())


_CF = "/etc/mail/sendmail.cf"
_MC = "/etc/mail/sendmail.mc"
_OPEN = (
    "V10/Berkeley\n"
    "Mprog,\t\tP=/bin/sh, F=lsDFMoqeu9, S=EnvFromL/HdrFromL, R=EnvToL/HdrToL, D=$z:/,\n"
    "\t\tT=X-Unix/X-Unix/X-Unix,\n"
    "\t\tA=sh -c $u\n"
)
_CLOSED = _OPEN.replace("/bin/sh", "/usr/libexec/sendmail/smrsh")

RULE = Rule(
    id="smrsh-mailer",
    title="Programs of aliases and .forward files run under smrsh",
    section=Section.SMRSH,
    severity=Severity.HIGH,
    fix=Fix.ASK,
    rationale=(
        "With P=/bin/sh every alias, include file and .forward runs any command line; smrsh runs only "
        "what is in its directory, and no < > | ; & ` $ ( ). Only P= counts: A=sh -c $u is the name in "
        "smrsh's messages. The guide's whole line must not be copied: its S=10/30 and R=20/40 do not "
        "exist in today's files, and addresses are no longer rewritten. FEATURE(`smrsh') behind MAILER "
        "has no effect, and m4 exits 0. Programs that are not in the directory stop with 'Service "
        "unavailable': the plan names them, and smrsh_programs in the configuration lets them in."
    ),
    judge=_judge,
    mend=_mend,
    references=("guide 1", "smrsh(8)", "cf/README, FEATURE(smrsh)", "Tiger misc010w"),
    examples=(
        Example("what Debian ships, without a .mc", {_CF: _OPEN}, {_CF: _CLOSED}),
        Example(
            "only P= of the last definition is changed",
            {_CF: f"{_CLOSED}Mprog, P=/bin/sh, F=lsDFM, A=sh -c $u\n"},
            {_CF: f"{_CLOSED}Mprog, P=/usr/libexec/sendmail/smrsh, F=lsDFM, A=sh -c $u\n"},
        ),
        Example(
            "a .mc of Debian: m4 knows the place of smrsh",
            {
                _CF: _OPEN,
                _MC: "OSTYPE(`debian')dnl\nFEATURE(`use_cw_file')dnl\nMAILER(`local')dnl\n",
            },
            {
                _MC: (
                    "OSTYPE(`debian')dnl\nFEATURE(`use_cw_file')dnl\nFEATURE(`smrsh')dnl\n"
                    "MAILER(`local')dnl\n"
                )
            },
        ),
        Example(
            "a FEATURE behind MAILER has no effect: it is moved",
            {_CF: _OPEN, _MC: "OSTYPE(`debian')dnl\nMAILER(`local')dnl\nFEATURE(`smrsh')dnl\n"},
            {_MC: "OSTYPE(`debian')dnl\nFEATURE(`smrsh')dnl\nMAILER(`local')dnl\n"},
        ),
        Example(
            "Red Hat's smrsh is where m4 does not look",
            {_CF: _OPEN, _MC: "OSTYPE(`linux')dnl\nMAILER(`local')dnl\n"},
            {_MC: "OSTYPE(`linux')dnl\nFEATURE(`smrsh', `/usr/sbin/smrsh')dnl\nMAILER(`local')dnl\n"},
            profile="redhat",
        ),
        Example("smrsh under the name sh in A=", {_CF: _CLOSED}),
        Example(
            "submit.cf hands programs to the daemon",
            {_CF: _CLOSED, "/etc/mail/submit.cf": "V10/Berkeley\nMprog,\t\tP=[IPC], F=lmDFMuXk5, A=TCP $h\n"},
        ),
    ),
)
