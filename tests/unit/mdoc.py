# SPDX-License-Identifier: Apache-2.0
"""Reads as much of mdoc(7) as the manuals use: sections, items of lists, and what is marked in them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_TOKEN = re.compile(r'"[^"]*"|\S+')
_ESCAPES = {r"\(dq": '"', r"\(aq": "'", r"\&": "", r"\e": "\\", r"\-": "-"}


@dataclass
class Item:
    """An item of a list: the words of its head, the lines below it, and the items inside of those."""

    head: list[list[str]]
    lines: list[str] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        """The head's words, with macros and without punctuation of their own."""
        return [word for line in self.head for word in line if word != ","]

    def marked(self, macro: str) -> list[str]:
        """Return the words that a macro marks in the head, a list of them too."""
        words = [word for line in self.head for word in line if word != ","]
        return words[1 : _end(words)] if words[:1] == [macro] else []


def _end(words: list[str]) -> int:
    """Return where the next macro begins: two letters, a capital before a small one."""
    after = (at for at, word in enumerate(words[1:], 1) if re.fullmatch(r"[A-Z][a-z]", word))
    return next(after, len(words))


def plain(text: str) -> str:
    """Return text as roff shows it."""
    for escape, shown in _ESCAPES.items():
        text = text.replace(escape, shown)
    return text


def words_of(line: str) -> list[str]:
    """Return the words of a macro line, without the dot."""
    return [plain(word.strip('"')) for word in _TOKEN.findall(line.lstrip("."))]


def section(page: Path, name: str) -> list[str]:
    """Return the lines of a section (.Sh) or subsection (.Ss); fails where the page has none."""
    lines = page.read_text("utf-8").splitlines()
    for begin in (f".Sh {name}", f".Ss {name}"):
        if begin in lines:
            at = lines.index(begin)
            ends = (".Sh ",) if begin.startswith(".Sh") else (".Sh ", ".Ss ")
            rest = (n for n, line in enumerate(lines[at + 1 :], at + 1) if line.startswith(ends))
            return lines[at + 1 : next(rest, len(lines))]
    raise AssertionError(f"{page.name} has no section {name}")


def items(lines: list[str]) -> list[Item]:
    """Return the outer items of the lists in some lines."""
    top = Item([])
    lists: list[Item] = []  # of each open list, what it is in
    current = top
    head: list[list[str]] | None = None
    for line in lines:
        if line.startswith(".Bl"):
            lists.append(current)
        elif line.startswith(".El"):
            current = lists.pop()
        elif line.startswith(".It"):
            head = [] if line.endswith(" Xo") else None
            current = Item([words_of(line)[1:]] if head is None else head)
            lists[-1].items.append(current)
        elif line == ".Xc":
            head = None
        elif head is not None:
            head.append(words_of(line))
        else:
            current.lines.append(line)
    return top.items
