# SPDX-License-Identifier: Apache-2.0
"""Building a sendmail.cf from its .mc to the side, and telling whether two of them are the same.

m4 runs confined (sandbox.py) and sees copies: the .mc on its standard input, Sendmail's macros, the
files that the .mc includes as far as they may be shown. It exits with 0 on every error of cf.m4, so what
it says counts: a warning is passed on, anything else refuses. Of a tree nothing is run, not even
Sendmail's own makeinfo.sh: m4 is this machine's, without the macros that run programs.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from hardend.command import Ran
from hardend.errors import CommandError, FormatError
from hardend.formats.cf import Cf
from hardend.formats.cf_origin import as_comment, lasting
from hardend.formats.mc import Mc
from hardend.kernel.distribution import family
from hardend.layout import Tree
from hardend.m4_files import M4Files, macros_of
from hardend.maps import Tools, program_lines
from hardend.model import Host, printable
from hardend.sandbox import Limits, run_confined
from hardend.textdiff import unified

_M4 = "/usr/bin/m4"
_TIMEOUT_S = 30.0  # a build takes a tenth of a second
# A build takes 6 MiB and five processes. What a hostile one could have at most is the product.
_LIMITS = Limits(memory=64 << 20, processes=12)
_STDIN = "stdin"  # what m4 calls its standard input, which the .mc is
_MOST_SHOWN = 5

# Where a message of standard error begins. cf.m4 forgets the newline behind some, and goes on in a line
# without a blank in front in one (proto.m4, ldap_routing).
_BETWEEN = re.compile(
    r"\n(?![ \t]|without setting conf)|(?=\*\*\* )|(?=m4:[^\s:]+:\d+: )|(?<!\* )(?=WARNING: )"
)
_WARNING = re.compile(r"(?:\*\*\* )?WARNING: |NOTE: |m4:(?:[^\s:]+:\d+: )?[Ww]arning: |\*\*\* .* is obsolete")
_PLACED = re.compile(r"m4:([^\s:]+):(\d+): (.*)", re.DOTALL)
_NAMED = re.compile(r"(FEATURE|MAILER|OSTYPE)\([`\"]*(\w*)")

# What m4 must not have for a .mc of a tree. makeinfo.sh, which cf.m4 runs for the head of the file, is
# left out by cf.m4's own switch.
_NOTHING_RUNS = (
    "-D_NO_MAKEINFO_", "-Usyscmd", "-Uesyscmd", "-Ubuiltin", "-Uindir", "-Umaketemp", "-Umkstemp",
)  # fmt: skip
_HOST_NAME = re.compile(rb"[A-Za-z0-9.-]+")

_DEBIAN_DIR = "/etc/mail"


@dataclass(frozen=True, slots=True)
class Build:
    """A .cf that was built, and what m4 and cf.m4 warned of, as one line each."""

    cf: bytes
    warnings: tuple[str, ...] = ()


def build_cf(mc_path: str, content: bytes, host: Host, tools: Tools) -> Build:
    """Return the .cf that a .mc at ``mc_path`` with these bytes makes, as the host's own make would.

    cf.m4 is the one that the .mc includes, else it is read first, as in ``m4 ../m4/cf.m4 FILE``.
    Raises FormatError with file and line (0 where none is known) for what m4 or cf.m4 complains of and
    for an include that may not be shown; CommandError without m4, without Sendmail's macros, where m4
    cannot be confined, and when it is not done in time.
    """
    mc = Mc(content, mc_path)
    if host.is_tree and (programs := mc.programs()):
        what = f"{programs[0].name} runs programs, and nothing of a tree is run"
        raise FormatError(mc_path, programs[0].line, what)
    if not os.access(_M4, os.X_OK):
        raise CommandError(f"there is no {_M4} to build {printable(mc_path)} with", hint="install m4")
    macros = macros_of(mc, host)
    files = M4Files(host, mc, macros)
    first = [] if macros.included else [f"-D_CF_DIR_={macros.directory}/", f"{macros.directory}/m4/cf.m4"]
    argv = ["m4", *(_for_tree(host) if host.is_tree else ()), *first, "-"]
    timeout_s = min(_TIMEOUT_S, tools.timeout_s)
    shown = files.readable()
    try:
        done = run_confined(
            argv,
            timeout_s=timeout_s,
            stdin=content,
            directory=macros.start,
            readable=shown,
            limits=_LIMITS,
        )
    except CommandError as error:
        raise CommandError(f"{printable(mc_path)}: {error}", hint=error.hint) from error
    warnings = _judged(done, mc)
    _demand_configuration(done.output, mc_path)
    cf = done.output
    if family(Tree(host))[0] == "debian" and os.path.dirname(mc_path) == _DEBIAN_DIR:
        cf += as_comment(mc_path, content)
    return Build(cf, warnings)


def same_configuration(one: bytes, other: bytes) -> bool:
    """Return whether two .cf files differ in nothing but when, where and by whom they were built.

    Comments count: a hand that only adds one is a hand. The copy of the .mc that Debian appends does not.
    """
    return lasting(one) == lasting(other)


def difference(one: bytes, other: bytes) -> str:
    """Return a unified diff of what same_configuration compares; "" when it is the same."""
    if same_configuration(one, other):
        return ""
    return "\n".join(unified("/sendmail.cf", lasting(one), lasting(other), mask=True))


def new_programs(before: bytes, after: bytes) -> tuple[str, ...]:
    """Return the lines of a .cf that make Sendmail run a program (F|, program maps) and are new in it."""
    known = set(program_lines(Cf(before)))
    lines = dict.fromkeys(program_lines(Cf(after)))
    return tuple(printable(line) for line in lines if line not in known)


def _for_tree(host: Host) -> list[str]:
    """Return m4's options for a tree: nothing runs, and the host's name is the tree's."""
    name = _HOST_NAME.match(Tree(host).contents("/etc/hostname"))
    return [*_NOTHING_RUNS, *([f"-D__HOST__={name[0].decode()}"] if name else [])]


def _judged(done: Ran, mc: Mc) -> tuple[str, ...]:
    """Return the warnings. Raises FormatError for everything else that m4 or a macro said."""
    said = done.errors.decode("utf-8", "surrogateescape")
    messages = [text.strip() for text in _BETWEEN.split(said) if text.strip()]
    errors = [text for text in messages if not _WARNING.match(text)]
    if errors:
        path, line, _ = _placed(errors[0], mc)
        shown = "; ".join(_placed(text, mc)[2] for text in errors[:_MOST_SHOWN])
        more = len(errors) - _MOST_SHOWN
        raise FormatError(printable(path), line, f"{shown}; and {more} more" if more > 0 else shown)
    if done.status:
        raise CommandError(f"m4 {printable(mc.path)}: exit status {done.status}, without a message")
    return tuple(_one_line(text) for text in messages)


def _placed(message: str, mc: Mc) -> tuple[str, int, str]:
    """Return the file, the line and the text of a message; 0 for a line that nothing tells."""
    match = _PLACED.match(message)
    if match:
        path = mc.path if match[1] == _STDIN else match[1]
        return path, int(match[2]), _one_line(match[3])
    return mc.path, _line_of(message, mc), _one_line(message)


def _line_of(message: str, mc: Mc) -> int:
    """Return the line of the .mc with the macro that a message of cf.m4 speaks of."""
    for macro, name in _NAMED.findall(message):
        late = [item.line for item in mc.features() if item.late]
        if macro == "FEATURE" and not name and late:
            return late[0]
        named = {"FEATURE": mc.features, "MAILER": mc.mailers}.get(macro, list)()
        lines = [item.line for item in named if item.name == name]
        if lines:
            return lines[-1]
    return 0


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _demand_configuration(cf: bytes, mc_path: str) -> None:
    """Raise FormatError for an output without a version line: m4exit, or everything diverted."""
    if not any(line.kind == "V" for line in Cf(cf).lines):
        raise FormatError(mc_path, 0, "m4 made no configuration of it: there is no V line")
