# SPDX-License-Identifier: Apache-2.0
"""The sources of makemap and the word lists of Sendmail as lossless documents.

``Table`` is access, virtusertable, mailertable, genericstable, domaintable: what makemap.c of Sendmail
8.17 takes in of a file. ``WordList`` is relay-domains, local-host-names: what an F line of sendmail.cf
takes in (fileclass(), readcf.c). Neither knows continuation lines. ASCII alone is folded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest

from hardend.errors import FormatError
from hardend.model import printable

# makemap and sendmail read pieces of so many bytes; the rest of a line counts as a line of its own.
_TABLE_PIECE = 1023
_WORDS_PIECE = 2047
_MOST_VALUES = 1000  # of a table, that are kept to be shared

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
        self._data = data
        self._faults: list[tuple[int, str]] = []
        self.entries: tuple[Row, ...] = tuple(self._rows())

    def render(self) -> bytes:
        """Return the bytes that were parsed."""
        return self._data

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
        return self.with_values(dict.fromkeys(lines, ""))

    def set_value(self, line: int, value: str) -> Table:
        """Return the table with another value on a line; key and blanks stay.

        Raises KeyError for a line without an entry, ValueError for a value that is none.
        """
        if not value:
            raise ValueError("no value of a table: it is empty")
        return self.with_values({line: value})

    def with_values(self, values: Mapping[int, str]) -> Table:
        """Return the table with other values on lines, all of them numbers of this one; "" takes one out.

        Raises KeyError for a line without an entry, ValueError for a value that is none.
        """
        _require(values, self.entries)
        for value in values.values():
            if _encoded(value) != _encoded(value).strip() or not re.fullmatch(r"[^\n\0]*", value):
                raise ValueError(f"no value of a table: {printable(value)}")
        lines = [
            raw if number not in values else self._valued(number, raw, values[number])
            for number, raw in enumerate(self._lines(), start=1)
        ]
        expected = (
            (row.key, values.get(row.line) or row.value)
            for row in self.entries
            if values.get(row.line) != ""
        )
        return self._edited(b"".join(lines), expected)

    def _valued(self, number: int, raw: bytes, value: str) -> bytes:
        if not value:
            return b""
        match = _ROW.match(raw)
        if match is None or len(raw) > _TABLE_PIECE:
            raise FormatError(self.path, number, f"over {_TABLE_PIECE} bytes or no value: edit it by hand")
        if match[3] == _encoded(value):
            return raw
        end = _LINE_END.search(raw)
        return match[1] + match[2] + _encoded(value) + (end[0] if end else b"")

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
        data = _with_last(self._data, _encoded(f"{key}\t{value}"))
        return self._edited(data, [*((each.key, each.value) for each in self.entries), row])

    def _lines(self) -> Iterator[bytes]:
        return (match[0] for match in _PHYSICAL.finditer(self._data))

    @property
    def _last(self) -> int:
        return sum(1 for _ in self._lines())

    def _rows(self) -> Iterator[Row]:
        values: dict[bytes, str] = {}  # most tables have few: one string for each
        for number, piece in _pieces(self._lines(), _TABLE_PIECE):
            text, newline, _ = piece.partition(b"\n")
            # The end of the file ends a line, too, but not a whole piece.
            last = not newline and len(piece) < _TABLE_PIECE
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
                value = value.rstrip()
                if len(values) < _MOST_VALUES:
                    values.setdefault(value, _decoded(value))
                yield Row(self._folded(key), values.get(value) or _decoded(value), number)
            else:
                self._faults.append((number, f"{printable(_decoded(key))}: no value"))

    def _folded(self, key: bytes) -> str:
        return _decoded(key if "-f" in self.flags else key.lower())

    def _edited(self, data: bytes, expected: Iterable[tuple[str, str]]) -> Table:
        """Return the edited table when it means what it should."""
        if data == self._data:
            return self
        edited = Table(data, self.path, self.flags)
        rows = ((row.key, row.value) for row in edited.entries)
        if any(one != other for one, other in zip_longest(rows, expected)):
            raise FormatError(self.path, self._last, "an edit would change other entries: edit it by hand")
        return edited


def rows_with(data: bytes, word: re.Pattern[bytes], flags: tuple[str, ...] = ()) -> Iterator[Row]:
    """Yield the entries of a table on lines in which ``word`` is found; the others are not even parsed."""
    for number, match in enumerate(_PHYSICAL.finditer(data) if word.search(data) else (), start=1):
        if word.search(match[0]):
            for row in Table(match[0], flags=flags).entries:
                yield Row(row.key, row.value, number)


class WordList:
    """The words that a class file gives. Any bytes parse; ``render`` gives them back.

    ``pattern`` is the scanf(3) format of the F line: ``%s`` takes the first word of each line,
    ``%[^#]`` every word before a ``#``. A line with ``#`` in its first column is always a comment.
    """

    def __init__(self, data: bytes, path: str = "", pattern: str = "%s") -> None:
        self.path = path
        self.pattern = pattern
        self._scan = _scanner(_encoded(pattern))
        self._data = data
        self.words: tuple[Word, ...] = tuple(self._read())

    def render(self) -> bytes:
        """Return the bytes that were parsed."""
        return self._data

    def has(self, word: str) -> bool:
        """Return whether a word is in the class, in any case."""
        return any(each.text.lower() == word.lower() for each in self.words)

    def remove(self, *lines: int) -> WordList:
        """Return the list without these lines, all of them numbers of this one.

        Raises KeyError for a line without a word.
        """
        _require(lines, self.words)
        gone = set(lines)
        kept = [line for number, line in enumerate(self._lines(), start=1) if number not in gone]
        return self._edited(b"".join(kept), (word.text for word in self.words if word.line not in gone))

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
        lines = [cut.sub(b"", each) if at == line else each for at, each in enumerate(self._lines(), start=1)]
        kept = (each.text for each in self.words if (each.line, each.text) != (line, word))
        return self._edited(b"".join(lines), kept)

    def add(self, word: str) -> WordList:
        """Return the list with one more word, on a line at its end; the same list where it is there.

        Raises ValueError for what is no single word by the pattern.
        """
        if any(each.text == word for each in self.words):
            return self
        alone = WordList(_encoded(word) + b"\n", self.path, self.pattern)
        if [each.text for each in alone.words] != [word]:
            raise ValueError(f"not one word: {printable(word)}")
        data = _with_last(self._data, _encoded(word))
        return self._edited(data, [*(each.text for each in self.words), word])

    def _lines(self) -> Iterator[bytes]:
        return (match[0] for match in _PHYSICAL.finditer(self._data))

    @property
    def _last(self) -> int:
        return sum(1 for _ in self._lines())

    def _read(self) -> Iterator[Word]:
        for number, piece in _pieces(self._lines(), _WORDS_PIECE):
            match = self._scan.match(piece.partition(b"\0")[0]) if piece[:1] != b"#" else None
            for word in match[1].split() if match else ():
                yield Word(_decoded(word), number)

    def _edited(self, data: bytes, expected: Iterable[str]) -> WordList:
        """Return the edited list when it means what it should."""
        edited = WordList(data, self.path, self.pattern)
        words = (word.text for word in edited.words)
        if any(one != other for one, other in zip_longest(words, expected)):
            raise FormatError(self.path, self._last, "an edit would change other words: edit it by hand")
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


def _pieces(lines: Iterable[bytes], size: int) -> Iterator[tuple[int, bytes]]:
    """Yield the pieces that fgets() gives, with the number of their line."""
    for number, line in enumerate(lines, start=1):
        if len(line) <= size:
            yield number, line
        else:
            for at in range(0, len(line), size):
                yield number, line[at : at + size]


def _require(lines: Iterable[int], entries: Iterable[Row | Word]) -> None:
    """Raise KeyError for the first of the lines on which no entry stands."""
    missing = dict.fromkeys(lines)
    for entry in entries:
        missing.pop(entry.line, None)
    for line in missing:
        raise KeyError(line)


def _with_last(data: bytes, text: bytes) -> bytes:
    """Return the bytes with one more line, with the line end of the first."""
    end = b"\r\n" if data.partition(b"\n")[0].endswith(b"\r") and b"\n" in data else b"\n"
    return data + (end if data and not data.endswith(b"\n") else b"") + text + end


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
