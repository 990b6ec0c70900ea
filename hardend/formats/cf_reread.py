# SPDX-License-Identifier: Apache-2.0
"""The options of a sendmail.cf as Sendmail itself reads them: what ``sendmail -bt -d37.1`` prints.

Compared with what our own parser reads: rules that judge other values than Sendmail obeys are worth
nothing. Sendmail prints the options of the file first, in their order, and some of its own after them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hardend.formats.cf import Cf, Value

_SETOPTION = re.compile(rb"^setoption ([^\s(]*) \((?:0x[0-9a-f]+|.)\)(\.[^=\n]*)?=")
_WHITE = re.compile(r"(?:\s|\\[nrtvf])+")
_OF_ANOTHER = b" (unsafe)"  # said of an option that it takes from root only, when another asks
_LONGEST = 60
_SHOWN = 3


def differences(document: Cf, said: bytes) -> list[str]:
    """Return where Sendmail reads other options than our parser, one phrase each.

    ``said`` is the output of ``-bt -d37.1`` for the document. Without a line of options in it there is
    nothing to compare.
    """
    theirs = list(_options(said))
    if not theirs:
        return []
    found: list[str] = []
    at = 0
    for value in document.all_options():
        where = f"line {value.line}: {value.name}: Sendmail"
        name, read = theirs[at] if at < len(theirs) else ("", "")
        if name.lower() == value.name.lower():
            at += 1
            if not _is_same(value, read):
                found.append(f"{where} reads {read[:_LONGEST]!r}")
        elif b" line %d: readcf: " % value.line not in said:  # else it was built without, and says so
            return [*found[:_SHOWN], f"{where} reads {name or 'nothing'} there"]
    return found[:_SHOWN]


def _options(said: bytes) -> Iterator[tuple[str, str]]:
    """Yield name and value of each option, as printed: one line each, white space escaped."""
    for line in said.split(b"\n"):
        if mark := _SETOPTION.match(line):
            name = mark[1] + (mark[2] or b"")
            yield _decoded(name), _decoded(line[mark.end() :].removesuffix(_OF_ANOTHER))


def _is_same(value: Value, read: str) -> bool:
    """Return whether two readings agree; bytes that Sendmail prints in a way of its own are not compared."""
    ours = _WHITE.sub(" ", value.text).strip()
    return not (ours.isascii() and ours.isprintable()) or _WHITE.sub(" ", read).strip() == ours


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
