# SPDX-License-Identifier: Apache-2.0
"""Blocks: lines of a held file that somebody else writes, and whether a change keeps to them. Pure.

A list manager's part of an alias file, say: between two marker lines, or all lines like a pattern. What
is around them is compared byte by byte, and must go on meaning what it meant.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from hardend.formats.aliases import Aliases
from hardend.model import printable
from hardend.settings import Block

_PHYSICAL = re.compile(rb"[^\n]*\n|[^\n]+")
_END_OF_LINE = b"\r\n"
_BLANKS = (b" ", b"\t")


def of(path: str, blocks: Iterable[Block]) -> tuple[Block, ...]:
    """Return the blocks of a file."""
    return tuple(block for block in blocks if block.path == path)


def outside(content: bytes, blocks: Iterable[Block]) -> bytes:
    """Return a file without the lines that its blocks give away; the markers stay.

    A block that is not closed gives nothing away. A line like a pattern is given away only where it is
    a whole logical line: it begins without a blank, ends without a backslash, and is not continued.
    """
    marks = {_encoded(block.begin): _encoded(block.end) for block in blocks if block.begin}
    patterns = [_encoded(block.pattern) for block in blocks if block.pattern]
    lines: list[bytes] = _PHYSICAL.findall(content)
    kept = []
    at = 0
    while at < len(lines):
        kept.append(lines[at])
        marker = lines[at].rstrip(_END_OF_LINE)
        if marker in marks and not _is_continued(lines, at - 1):
            closing = _closing(lines, at + 1, marks[marker])
            if closing:
                at = closing
                continue
            del marks[marker]  # nor is it closed further down
        elif _is_like(lines, at, patterns):
            kept.pop()
        at += 1
    return b"".join(kept)


def fault(path: str, before: bytes, after: bytes, blocks: Iterable[Block], *, aliases: bool) -> str:
    """Return why new content changes more than its blocks may, "" when it does not.

    ``aliases``: the file is an alias file, in which a block could name again what stands outside.
    """
    given = tuple(blocks)
    around = outside(after, given)
    if around != outside(before, given):
        return f"{printable(path)} was changed outside of its block"
    if aliases:
        known = set(_meant_otherwise(around, before))
        for name in _meant_otherwise(around, after):
            if name in known:
                continue
            return f"{printable(path)}: a block names {printable(name)} again, which stands outside of it"
    return ""


def _meant_otherwise(around: bytes, whole: bytes) -> Iterator[str]:
    """Yield the aliases from around the blocks that the whole file makes something else of."""
    values = defaultdict(list)
    for entry in Aliases(whole).entries:
        values[entry.key].append(entry.value)
    mine = defaultdict(list)
    for entry in Aliases(around).entries:
        mine[entry.key].append(entry.value)
    for key, meant in mine.items():
        if values[key] != meant:
            yield key


def _closing(lines: list[bytes], first: int, end: bytes) -> int:
    """Return where the end marker stands, 0 when the block is not closed."""
    for at in range(first, len(lines)):
        if lines[at].rstrip(_END_OF_LINE) == end and not _is_continued(lines, at - 1):
            return at
    return 0


def _is_continued(lines: list[bytes], at: int) -> bool:
    return at >= 0 and lines[at].rstrip(_END_OF_LINE).endswith(b"\\")


def _is_like(lines: list[bytes], at: int, patterns: list[bytes]) -> bool:
    line = lines[at].rstrip(_END_OF_LINE)
    if not any(fnmatchcase(line, pattern) for pattern in patterns):
        return False
    is_part = line.startswith(_BLANKS) or _is_continued(lines, at) or _is_continued(lines, at - 1)
    goes_on = at + 1 < len(lines) and lines[at + 1].startswith(_BLANKS)
    return not (is_part or goes_on or not lines[at].endswith(b"\n"))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
