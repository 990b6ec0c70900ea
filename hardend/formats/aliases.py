# SPDX-License-Identifier: Apache-2.0
"""The alias file as a lossless document (aliases(5)): bytes in, the same bytes out.

What is read is what readaliases() and contline() of Sendmail 8.17 read (alias.c): a line that begins
with a blank or a tab, or stands behind a backslash, continues the one before, comments too; ``#``
counts in the first column only; a NUL ends a physical line. Names are folded in ASCII only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest

from hardend.errors import FormatError
from hardend.formats.recipients import Kind, Target, decoded, joined, scan, targets, user_and_host
from hardend.model import printable

__all__ = ["LONGEST_LINE", "Alias", "Aliases", "Kind", "LogicalLine", "Target"]
__all__ += ["include_targets", "logical_lines"]

# newaliases passes over a logical line of so many bytes, or never ends on it (8.17.1.9).
LONGEST_LINE = 8191
# An include file is read in pieces of so many bytes (MAXLINE); the rest counts as another line.
_LONGEST_IN_INCLUDE = 2047

# More recipients are not held in memory: such a file is judged by nobody.
_MOST_RECIPIENTS = 1_000_000

_PHYSICAL = re.compile(rb"[^\n]*\n|[^\n]+")
_BLANKS = b" \t\n\v\f\r"
_CONTINUES = frozenset({b" ", b"\t"})
_ILLEGAL = re.compile(rb"[\x80-\x9f]")
_NOT_LOCAL = re.compile(rb"[|/]|:include:", re.IGNORECASE)
_LATE_COMMENT = re.compile(rb"[ \t\n\v\f\r]+#@#(?:[ \t\n\v\f\r].*)?\Z", re.DOTALL)
# A name that the scanner would give back as it stands.
_PLAIN_NAME = re.compile(rb"([\w+=-]+(?:\.[\w+=-]+)*)[ \t]*:")
_WHOLE = ((0, 0),)
_TOO_LONG = f"a logical line of {LONGEST_LINE} bytes or more: newaliases may hang"


@dataclass(frozen=True, slots=True)
class LogicalLine:
    """A logical line: its physical lines as they stand, the number of the first, from 1, and the last.

    ``text`` is what newaliases reads of it; ``length`` what its buffer has to hold. It passes over a
    line with a ``fault``. ``pieces`` says for each physical line where its part of ``text`` begins,
    and where it begins in ``raw``.
    """

    number: int
    last: int
    raw: bytes
    text: bytes
    length: int
    fault: str
    pieces: tuple[tuple[int, int], ...]

    def in_raw(self, at: int) -> int:
        """Return where in ``raw`` the byte at ``text[at]`` stands."""
        begin, raw = next(piece for piece in reversed(self.pieces) if piece[0] <= at)
        return raw + at - begin


@dataclass(frozen=True, slots=True)
class Alias:
    """One entry: ``name`` as it stands, ``key`` and ``value`` as the database has them.

    A host behind the name is not part of the key: newaliases takes in only names of this host.
    """

    name: str
    key: str
    targets: tuple[Target, ...]
    line: int
    last_line: int
    value: str


class Aliases:
    """A parsed alias file. Any bytes parse; ``render`` gives them back; edits make a new document.

    Raises FormatError for a file with so many recipients that they are not to be held in memory.
    """

    def __init__(self, data: bytes, path: str = "") -> None:
        self.path = path
        self._data = data
        # Line, fault, and whether it is that of a leading blank.
        self._faults: list[tuple[int, str, bool]] = []
        self.entries: tuple[Alias, ...] = tuple(self._read())

    @property
    def lines(self) -> Iterator[LogicalLine]:
        """The logical lines, read anew each time: kept, they would be most of what a file takes."""
        return logical_lines(self._data)

    def render(self) -> bytes:
        """Return the bytes that were parsed."""
        return self._data

    def _read(self) -> Iterator[Alias]:
        left = _MOST_RECIPIENTS
        for line in self.lines:
            entry, what = _entry(line)
            if what:
                self._faults.append((line.number, what, line.text[:1] in _CONTINUES and not line.fault))
            if entry is not None:
                left -= max(len(entry.targets), 1)
                if left < 0:
                    what = f"over {_MOST_RECIPIENTS} recipients: too many to be judged"
                    raise FormatError(self.path, line.number, what)
                yield entry

    def get(self, name: str) -> tuple[Alias, ...]:
        """Return all entries of a name, in any case; of several the last one is in the database."""
        key = _key(scan(_encoded(name), 0, b":").tokens)
        return tuple(entry for entry in self.entries if entry.key == key)

    def faults(self) -> list[tuple[int, str]]:
        """Return what newaliases complains of, with the line that it begins on, in order.

        Not what it can say only with a configuration: names of other hosts.
        """
        found = []
        blank_before = False
        for number, what, blank in self._faults:
            # It says this once for several in a row.
            if not (blank and blank_before):
                found.append((number, what))
            blank_before = blank
        seen: set[str] = set()
        for entry in self.entries:
            if entry.key in seen:
                found.append((entry.line, f"{printable(entry.key)}: duplicate name, the last one counts"))
            seen.add(entry.key)
        return sorted(found)

    def remove(self, *lines: int) -> Aliases:
        """Return the document without the entries that begin on these lines, continuations too.

        All lines are those of this document. Raises KeyError for one where no entry begins.
        """
        gone = set(lines)
        if missing := gone - {entry.line for entry in self.entries}:
            raise KeyError(min(missing))
        edited = self._with(b"".join(line.raw for line in self.lines if line.number not in gone))
        return self._checked(edited, (entry for entry in self.entries if entry.line not in gone))

    def remove_target(self, line: int, text: str) -> Aliases:
        """Return the document without a target, as ``Target.text`` has it, of the entry on a line.

        An entry whose last target goes is removed. Raises KeyError when there is no such entry or
        target, FormatError when it cannot be cut out without another meaning of the rest.
        """
        entry = self._entry_at(line)
        kept = [target for target in entry.targets if target.text != text]
        if len(kept) == len(entry.targets):
            raise KeyError(text)
        if not kept:
            return self.remove(line)
        logical = next(each for each in self.lines if each.number == line)
        raw = _without(logical, [target.text == text for target in entry.targets])
        edited = self._with(
            b"".join(raw if each.number == line else each.raw for each in self.lines)
        )
        changed = Alias(entry.name, entry.key, tuple(kept), line, 0, "")
        return self._checked(edited, (changed if each is entry else each for each in self.entries))

    def add(self, name: str, target: str) -> Aliases:
        """Return the document with one more entry at its end; the target is written as given.

        Raises ValueError for a name that has an entry (the new one would replace it) and for a name
        or target that do not read back as they are, FormatError when the file's end cannot be added to.
        """
        if self.get(name):
            raise ValueError(f"{printable(name)} has an entry")
        line = _encoded(f"{name}: {target}")
        read = [(entry.name, [each.text for each in entry.targets]) for entry in self._with(line).entries]
        if read != [(name, [target])] or b"\n" in line:
            raise ValueError(f"not one alias: {printable(name)}: {printable(target)}")
        data = self.render()
        end = b"\r\n" if data.partition(b"\n")[0].endswith(b"\r") else b"\n"
        if data and not data.endswith(b"\n"):
            data += end
        edited = self._with(data + line + end)
        return self._checked(edited, chain(self.entries, self._with(line).entries))

    def _entry_at(self, line: int) -> Alias:
        entry = next((entry for entry in self.entries if entry.line == line), None)
        if entry is None:
            raise KeyError(line)
        return entry

    def _with(self, data: bytes) -> Aliases:
        return Aliases(data, self.path)

    def _checked(self, edited: Aliases, expected: Iterable[Alias]) -> Aliases:
        """Return the edited document when it means what it should: no other entry changes."""
        for was, now in zip_longest(expected, edited.entries):
            if was is None or now is None:
                raise FormatError(self.path, 0, "an edit would be lost: edit it by hand")
            if (was.key, was.targets) != (now.key, now.targets):
                raise FormatError(self.path, was.line, "an edit would change this entry: edit it by hand")
        return edited


def logical_lines(data: bytes) -> Iterator[LogicalLine]:
    """Yield the logical lines of an alias file; together their ``raw`` is ``data``."""
    lines: list[bytes] = _PHYSICAL.findall(data)
    at = 0
    while at < len(lines):
        line = _simple_line(lines, at) or _logical_line(lines, at)
        at = line.last
        yield line


def _simple_line(lines: list[bytes], at: int) -> LogicalLine | None:
    """Return a logical line of one physical line without anything special; None where it is not one."""
    raw = lines[at]
    body = raw.removesuffix(b"\n")
    if len(body) >= LONGEST_LINE or b"\0" in raw or body.endswith(b"\\"):
        return None
    if at + 1 < len(lines) and lines[at + 1][:1] in _CONTINUES:
        return None
    return LogicalLine(at + 1, at + 1, raw, body, len(body), "", _WHOLE)


def _logical_line(lines: list[bytes], first: int) -> LogicalLine:
    """Read one logical line as readaliases() does: into one buffer, continuations before comments."""
    at, raw_at, length = first, 0, 0
    text, fault = b"", ""
    pieces = []
    going_on = True
    while going_on and at < len(lines):
        body, newline, _ = lines[at].partition(b"\n")
        pieces.append((len(text), raw_at))
        raw_at += len(lines[at])
        at += 1
        length = len(text) + len(body)
        if length >= LONGEST_LINE:
            fault = _TOO_LONG
            at = _flushed(lines, at, body[LONGEST_LINE - len(text) :])
            break
        before, nul, _ = body.partition(b"\0")
        text += before
        if newline and not nul and text.endswith(b"\\"):
            text = text[:-1]
            continue
        going_on = at < len(lines) and lines[at][:1] in _CONTINUES
        if nul and not going_on and at < len(lines):
            # It sees no line end, and reads on to the next one.
            fault = "a NUL: newaliases passes over this line and the next"
            at = _flushed(lines, at + 1, lines[at].rstrip(b"\n"))
    raw = b"".join(lines[first:at])
    return LogicalLine(first + 1, at, raw, text, length, fault, tuple(pieces))


def _flushed(lines: list[bytes], at: int, passed: bytes) -> int:
    """Return where newaliases reads on after a line that it passes over, with its continuations."""
    last = passed[-1:]
    while at < len(lines) and (last == b"\\" or lines[at][:1] in _CONTINUES):
        last = lines[at].rstrip(b"\n")[-1:] or last
        at += 1
    return at


def _entry(line: LogicalLine) -> tuple[Alias | None, str]:
    """Return the entry of a line, if newaliases takes one in, and what it complains of."""
    text = line.text
    if line.fault or text[:1] in {b"", b"#"}:
        return None, line.fault
    if text[:1] in _CONTINUES:
        return None, "a leading blank, and no entry that it continues"
    plain = _PLAIN_NAME.match(text)
    if plain:
        name, value = plain[1].decode("ascii"), text[plain.end() :].lstrip(_BLANKS)
        if not value:
            return None, f"{name}: missing value for alias"
        return _alias(line, name, name.lower(), value), ""
    name, colon, value = text.partition(b":")
    if not colon:
        return None, "no colon"
    # The name goes on to a colon outside quotes; the value begins after the first of all.
    found = scan(text, 0, b":")
    name = text[: found.end].strip(_BLANKS)
    key = _key(found.tokens)
    if not key or _ILLEGAL.search(name):
        return None, f"{printable(decoded(name))}: illegal alias name"
    if _NOT_LOCAL.match(_encoded(key)):
        return None, f"{printable(decoded(name))}: cannot alias a program, a file or a list"
    value = value.lstrip(_BLANKS)
    if not value:
        return None, f"{printable(decoded(name))}: missing value for alias"
    entry = _alias(line, decoded(name), key, value)
    return entry, found.fault and f"{printable(entry.name)}: {found.fault}"


def _alias(line: LogicalLine, name: str, key: str, value: bytes) -> Alias:
    """Return an entry; strings that are equal are one, for files with very many."""
    meant = tuple(target for _, _, target in targets(value))
    whole = decoded(value)
    text = meant[0].text if len(meant) == 1 and meant[0].text == whole else whole
    return Alias(name, name if name == key else key, meant, line.number, line.last, text)


def _key(tokens: tuple[bytes, ...]) -> str:
    return decoded(joined(user_and_host(tokens)[0]).lower())


def _without(line: LogicalLine, gone: list[bool]) -> bytes:
    """Return the physical lines without some targets: each goes with the comma before it.

    The first that stays goes to where the first stood.
    """
    begin = line.text.index(b":") + 1
    spans = [(begin + start, begin + end) for start, end, _ in targets(line.text[begin:])]
    raw = line.raw
    first = gone.index(False)
    for at in range(len(spans) - 1, first, -1):
        if gone[at]:
            cut = line.in_raw(spans[at - 1][1] - 1) + 1
            raw = raw[:cut] + raw[line.in_raw(spans[at][1] - 1) + 1 :]
    if first:
        raw = raw[: line.in_raw(spans[0][0])] + raw[line.in_raw(spans[first][0]) :]
    return raw


def include_targets(data: bytes) -> Iterator[tuple[int, Target]]:
    """Yield line and meaning of every recipient of an include file or a .forward (include(), recipient.c).

    No continuation lines here; ``#`` in the first column, and blank ``#@#`` anywhere, begin a comment.
    """
    for number, match in enumerate(_PHYSICAL.finditer(data), start=1):
        line = match[0].removesuffix(b"\n")
        for at in range(0, len(line), _LONGEST_IN_INCLUDE):
            text = line[at : at + _LONGEST_IN_INCLUDE].partition(b"\0")[0]
            if text[:1] != b"#":
                text = _LATE_COMMENT.sub(b"", text)
                yield from ((number, target) for _, _, target in targets(text))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
