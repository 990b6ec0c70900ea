# SPDX-License-Identifier: Apache-2.0
"""The sources of makemap and the word lists of Sendmail as lossless documents.

``Table`` is access, virtusertable, mailertable, genericstable, domaintable: what makemap.c of Sendmail
8.17 takes in of a file. ``WordList`` is relay-domains, local-host-names: what an F line of sendmail.cf
takes in (fileclass(), readcf.c). Neither knows continuation lines. ASCII alone is folded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hardend.errors import FormatError
from hardend.model import printable

# makemap and sendmail read pieces of so many bytes; the rest of a line counts as a line of its own.
_TABLE_PIECE = 1023
_WORDS_PIECE = 2047

_PHYSICAL = re.compile(rb"[^\n]*\n|[^\n]+")
_ROW = re.compile(rb"(\S+)(\s+)(.*?)(\s*)\Z", re.DOTALL)
_LINE_END = re.compile(rb"\r?\n\Z")
_SCANF = re.compile(rb"%(\*?)(\d*)(?:(s)|\[(\^?)(\]?[^\]]*)\])|(%%)|(\s+)|([^%])")


@dataclass(frozen=True, slots=True)
class Row:
    """One entry: the key as the map has it, the value without blanks around, the line from 1."""

    key: str
    value: str
    line: int


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a class, and the line that it stands on, from 1."""

    text: str
    line: int


class Table:
    """A parsed source of makemap. Any bytes parse; ``render`` gives them back; edits make a new one.

    ``flags`` are those of makemap that change what is read: ``-f`` keeps the case of keys, ``-e``
    takes empty values, ``-r`` lets the last of two entries win, ``-d`` keeps both.
    """

    def __init__(self, data: bytes, path: str = "", flags: tuple[str, ...] = ()) -> None:
        self.path = path
        self.flags = flags
        self._lines: list[bytes] = _PHYSICAL.findall(data)
        self._faults: list[tuple[int, str]] = []
        self.entries: tuple[Row, ...] = tuple(self._rows())

    def render(self) -> bytes:
        """Return the bytes that were parsed."""
        return b"".join(self._lines)

    def get(self, key: str) -> Row | None:
        """Return the entry that counts for a key: without ``-r`` the first of several."""
        folded = self._folded(_encoded(key))
        found = [row for row in self.entries if row.key == folded]
        return found[-1 if "-r" in self.flags else 0] if found else None

    def faults(self) -> list[tuple[int, str]]:
        """Return what makemap complains of, with the line; it passes over these lines."""
        found = list(self._faults)
        seen: set[str] = set()
        for row in self.entries:
            if row.key in seen and not {"-r", "-d"} & set(self.flags):
                found.append((row.line, f"{printable(row.key)}: duplicate key, the first one counts"))
            seen.add(row.key)
        return sorted(found)

    def remove(self, *lines: int) -> Table:
        """Return the table without these lines, all of them numbers of this one.

        Raises KeyError for a line without an entry.
        """
        _require(lines, self.entries)
        gone = set(lines)
        kept = [row for row in self.entries if row.line not in gone]
        return self._edited(_without(self._lines, lines), [(row.key, row.value) for row in kept])

    def set_value(self, line: int, value: str) -> Table:
        """Return the table with another value on a line; key and blanks stay.

        Raises KeyError for a line without an entry, ValueError for a value that is none.
        """
        _require((line,), self.entries)
        if _encoded(value) != _encoded(value).strip() or not re.fullmatch(r"[^\n\0]+", value):
            raise ValueError(f"no value of a table: {printable(value)}")
        raw = self._lines[line - 1]
        match = _ROW.match(raw)
        if match is None or len(raw) > _TABLE_PIECE:
            raise FormatError(self.path, line, f"over {_TABLE_PIECE} bytes or no value: edit it by hand")
        if match[3] == _encoded(value):
            return self
        end = _LINE_END.search(raw)
        changed = match[1] + match[2] + _encoded(value) + (end[0] if end else b"")
        lines = [changed if at == line else each for at, each in enumerate(self._lines, start=1)]
        expected = [(row.key, value if row.line == line else row.value) for row in self.entries]
        return self._edited(lines, expected)

    def set(self, key: str, value: str) -> Table:
        """Return the table with this value for a key: of the entry that counts, or of a new one.

        Raises ValueError for a key or value that does not read back as it is.
        """
        row = self.get(key)
        return self.add(key, value) if row is None else self.set_value(row.line, value)

    def add(self, key: str, value: str) -> Table:
        """Return the table with one more entry at its end.

        Raises ValueError for a key that is there, and for a key or value that does not read back as
        it is; FormatError when nothing can be put behind the end of the file.
        """
        if self.get(key) is not None:
            raise ValueError(f"{printable(key)} has an entry")
        row = (self._folded(_encoded(key)), value)
        alone = Table(_encoded(f"{key}\t{value}\n"), self.path, self.flags)
        if [(each.key, each.value) for each in alone.entries] != [row]:
            raise ValueError(f"not one entry of a table: {printable(key)} {printable(value)}")
        lines = _with_last(self._lines, _encoded(f"{key}\t{value}"))
        return self._edited(lines, [*((each.key, each.value) for each in self.entries), row])

    def _rows(self) -> Iterator[Row]:
        for number, piece in _pieces(self._lines, _TABLE_PIECE):
            text, newline, _ = piece.partition(b"\n")
            last = number == len(self._lines) and not newline and len(piece) < _TABLE_PIECE
            if not last and (not newline or b"\0" in text):
                self._faults.append((number, f"over {_TABLE_PIECE} bytes, or a NUL"))
                continue
            text = text.partition(b"\0")[0]
            if text[:1] in {b"", b"#"}:
                continue
            key, value = [*text.split(None, 1), b"", b""][:2]
            if text[:1].isspace():
                self._faults.append((number, "a leading blank"))
            elif value or "-e" in self.flags:
                yield Row(self._folded(key), _decoded(value.rstrip()), number)
            else:
                self._faults.append((number, f"{printable(_decoded(key))}: no value"))

    def _folded(self, key: bytes) -> str:
        return _decoded(key if "-f" in self.flags else key.lower())

    def _edited(self, lines: list[bytes], expected: list[tuple[str, str]]) -> Table:
        """Return the edited table when it means what it should."""
        edited = Table(b"".join(lines), self.path, self.flags)
        if [(row.key, row.value) for row in edited.entries] != expected:
            raise FormatError(self.path, len(self._lines), "an edit would change others: edit it by hand")
        return edited


class WordList:
    """The words that a class file gives. Any bytes parse; ``render`` gives them back.

    ``pattern`` is the scanf(3) format of the F line: ``%s`` takes the first word of each line,
    ``%[^#]`` every word before a ``#``. A line with ``#`` in its first column is always a comment.
    """

    def __init__(self, data: bytes, path: str = "", pattern: str = "%s") -> None:
        self.path = path
        self.pattern = pattern
        self._scan = _scanner(_encoded(pattern))
        self._lines: list[bytes] = _PHYSICAL.findall(data)
        self.words: tuple[Word, ...] = tuple(self._read())

    def render(self) -> bytes:
        """Return the bytes that were parsed."""
        return b"".join(self._lines)

    def has(self, word: str) -> bool:
        """Return whether a word is in the class, in any case."""
        return any(each.text.lower() == word.lower() for each in self.words)

    def remove(self, *lines: int) -> WordList:
        """Return the list without these lines, all of them numbers of this one.

        Raises KeyError for a line without a word.
        """
        _require(lines, self.words)
        gone = set(lines)
        kept = [word.text for word in self.words if word.line not in gone]
        return self._edited(_without(self._lines, lines), kept)

    def remove_word(self, line: int, word: str) -> WordList:
        """Return the list without a word of a line; a line without another word goes.

        Raises KeyError when the word does not stand there.
        """
        here = [each.text for each in self.words if each.line == line]
        if word not in here:
            raise KeyError(word)
        if set(here) == {word}:
            return self.remove(line)
        cut = re.compile(rb"(?<!\S)" + re.escape(_encoded(word)) + rb"(?:[ \t]+|(?=\s)|\Z)")
        raw = self._lines[line - 1]
        lines = [cut.sub(b"", raw) if at == line else each for at, each in enumerate(self._lines, start=1)]
        kept = [each.text for each in self.words if (each.line, each.text) != (line, word)]
        return self._edited(lines, kept)

    def add(self, word: str) -> WordList:
        """Return the list with one more word, on a line at its end; the same list where it is there.

        Raises ValueError for what is no single word by the pattern.
        """
        if any(each.text == word for each in self.words):
            return self
        alone = WordList(_encoded(word) + b"\n", self.path, self.pattern)
        if [each.text for each in alone.words] != [word]:
            raise ValueError(f"not one word: {printable(word)}")
        lines = _with_last(self._lines, _encoded(word))
        return self._edited(lines, [*(each.text for each in self.words), word])

    def _read(self) -> Iterator[Word]:
        for number, piece in _pieces(self._lines, _WORDS_PIECE):
            match = self._scan.match(piece.partition(b"\0")[0]) if piece[:1] != b"#" else None
            for word in match[1].split() if match else ():
                yield Word(_decoded(word), number)

    def _edited(self, lines: list[bytes], expected: list[str]) -> WordList:
        """Return the edited list when it means what it should."""
        edited = WordList(b"".join(lines), self.path, self.pattern)
        if [word.text for word in edited.words] != expected:
            raise FormatError(self.path, len(self._lines), "an edit would change others: edit it by hand")
        return edited


def _scanner(pattern: bytes) -> re.Pattern[bytes]:
    """Return what finds the first thing that a scanf(3) format stores; sets and ``%s`` are known."""
    found = b""
    at = 0
    while match := _SCANF.match(pattern, at):
        at = match.end()
        skipped, width, string, negated, chars, percent, blanks, literal = match.groups()
        if string or chars is not None:
            one = rb"\S" if string else b"[" + negated + _set(chars) + b"]"
            many = one + (b"{1,%s}+" % width if width else b"++")
            found += (rb"\s*+" if string else b"") + (b"(?:%s)" if skipped else b"(%s)") % many
            if not skipped:
                return re.compile(found)
        else:
            found += rb"\s*+" if blanks else re.escape(b"%" if percent else literal)
    return re.compile(rb"(?!)")  # it stores no text


def _set(chars: bytes) -> bytes:
    """Return the characters of a scanf(3) set for a regular expression; ranges stay ranges."""
    middle = re.sub(rb"[^-]", lambda char: re.escape(char[0]), chars[1:-1])
    return re.escape(chars[:1]) + middle + (re.escape(chars[-1:]) if len(chars) > 1 else b"")


def _pieces(lines: list[bytes], size: int) -> Iterator[tuple[int, bytes]]:
    """Yield the pieces that fgets() gives, with the number of their line."""
    for number, line in enumerate(lines, start=1):
        for at in range(0, len(line), size):
            yield number, line[at : at + size]


def _require(lines: tuple[int, ...], entries: Sequence[Row | Word]) -> None:
    known = {entry.line for entry in entries}
    for line in lines:
        if line not in known:
            raise KeyError(line)


def _without(lines: list[bytes], numbers: tuple[int, ...]) -> list[bytes]:
    gone = set(numbers)
    return [line for number, line in enumerate(lines, start=1) if number not in gone]


def _with_last(lines: list[bytes], text: bytes) -> list[bytes]:
    """Return the lines with one more, with the line end of the first."""
    end = b"\r\n" if lines and lines[0].endswith(b"\r\n") else b"\n"
    closed = [lines[-1] + end] if lines and not lines[-1].endswith(b"\n") else lines[-1:]
    return [*lines[:-1], *closed, text + end]


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
