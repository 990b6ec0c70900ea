# SPDX-License-Identifier: Apache-2.0
"""What GNU m4 calls as it reads a text, with the bytes that each call stands on; nothing is run.

Read as m4 1.4 reads: a name is a whole word; `` ` `` and ``'`` quote and nest; ``(`` directly behind
a name begins its arguments, whose leading white space goes; macros in unquoted arguments are called
while these are collected, those in quoted ones perhaps later (``depth`` > 0); ``dnl`` takes the rest
of its line, also inside arguments. Macros of other files are known only where the caller names them,
and what a macro expands to is not followed.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from hardend.formats.m4_names import BUILTINS, Macro, Tail

_TEXT = re.compile(rb"(?P<word>[A-Za-z_][A-Za-z0-9_]*)|[`#\n]")
_ARGUMENT = re.compile(rb"(?P<word>[A-Za-z_][A-Za-z0-9_]*)|[`#(),]")
_QUOTE = re.compile(rb"[`']")
_BLANKS = re.compile(rb"[ \t\n\v\f\r]*")
# What may stand behind a call that ends its line: blanks, a dnl comment.
REST = re.compile(rb"[ \t\r\f\v]*(?P<dnl>dnl(?![A-Za-z0-9_(])[^\n]*)?(?:\n|\Z)")
# With these arguments the quotes are as they were, and there are no comments.
_DEFAULTS = {"changequote": ((),), "changecom": ((), ("",))}
_DEEPEST = 50  # what people nest stays below ten


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument as the macro receives it: its outer quotes and leading white space are gone.

    ``start`` and ``end`` are the bytes that make it, quotes included, without a ``dnl`` before or
    behind. ``literal``: no macro is called in it; otherwise ``text`` has the call as it is written.
    """

    text: str
    start: int
    end: int
    literal: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a macro on the bytes ``start`` to ``end``; ``line`` counts from 1.

    ``depth`` 0: m4 makes it. More: it stands in the quoted argument of another, or behind what may
    be a ``dnl``, so that it is made perhaps. ``nested``: it stands inside the parentheses of another.
    ``statement_end``: where its line ends, when no more than a ``dnl`` comment stands behind it;
    otherwise ``end``.
    """

    name: str
    parts: tuple[Argument, ...]
    line: int
    start: int
    end: int
    statement_end: int
    depth: int = 0
    nested: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """The texts of the arguments; ``()`` without parentheses."""
        return tuple(part.text for part in self.parts)

    @property
    def literals(self) -> tuple[str, ...]:
        """The texts of the arguments that are what they say: no macro is called in them."""
        return tuple(part.text for part in self.parts if part.literal)


@dataclass(frozen=True, slots=True)
class Fault:
    """From this line on it is not known what m4 does, and why."""

    line: int
    what: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read: the calls as m4 makes them (inner ones first), up to ``fault``.

    ``breaks`` are the starts of lines at which m4 is outside of every call and quote. ``words`` are
    the names that are macros at the end and need no ``(``. ``began`` is the end of the include that
    brought the caller's macros; None where there was none.
    """

    calls: tuple[Call, ...]
    breaks: tuple[int, ...]
    fault: Fault | None
    words: frozenset[str]
    began: int | None = None


class _StopError(Exception):
    def __init__(self, at: int, what: str) -> None:
        super().__init__(what)
        self.at = at
        self.what = what


class _Place(NamedTuple):
    depth: int = 0
    nested: bool = False
    level: int = 0


class _Word(NamedTuple):
    at: int  # where reading goes on
    end: int  # the end of what it adds to an argument
    literal: bool = True


def read(data: bytes, macros: Mapping[bytes, Macro | None], *, include: bytes = b"") -> Reading:
    """Read a text for which ``macros`` are defined besides m4's own; None: undefined. Any bytes do.

    ``include`` is the end of the path of the file that defines them: before the text includes it,
    they are none and ``#`` begins a comment. Without it they are there from the start and ``#`` is
    text like any other (after ``changecom()``).
    """
    scanner = _Scanner(data, macros, include)
    scanner.run()
    words = {name.decode() for name, macro in scanner.known.items() if macro and not macro.blind}
    calls, breaks = tuple(scanner.calls), tuple(scanner.breaks)
    return Reading(calls, breaks, scanner.fault, frozenset(words), scanner.began)


class _Scanner:
    def __init__(self, data: bytes, macros: Mapping[bytes, Macro | None], include: bytes) -> None:
        self.data = data
        self.known = dict(BUILTINS)
        self.macros = macros
        self.include = include
        self.comments = bool(include)
        if not include:
            self.known.update(macros)
        self.calls: list[Call] = []
        self.breaks = [0]
        self.fault: Fault | None = None
        self.began: int | None = None
        self._lines = [0, *(match.end() for match in re.finditer(rb"\n", data))]
        self._doubt = 0  # up to here a dnl may have taken the line
        self._dnls = 0  # seen in quoted text

    def run(self) -> None:
        """Fill ``calls``, ``breaks`` and ``fault``."""
        nul = self.data.find(b"\0")
        try:
            self._text(0, len(self.data) if nul < 0 else nul, _Place())
        except _StopError as stop:
            self.fault = Fault(self._line(stop.at), stop.what)
        if nul >= 0:
            self.fault = Fault(self._line(nul), "a NUL byte: this is no m4 text")

    def _line(self, at: int) -> int:
        return bisect_right(self._lines, at)

    def _text(self, at: int, end: int, place: _Place) -> None:
        outside = place == _Place()
        while match := _TEXT.search(self.data, at, end):
            token = match[0]
            at = match.end()
            if token == b"`":
                at = self._quote_end(match.start(), end)
            elif token == b"#":
                at = self._line_end(at, end) if self.comments else at
            elif token != b"\n":
                at = self._word(match, end, place).at
            if outside and self.data[at - 1 : at] == b"\n" and at > self.breaks[-1]:
                self.breaks.append(at)

    def _quote_end(self, at: int, end: int) -> int:
        level = 0
        for match in _QUOTE.finditer(self.data, at, end):
            level += 1 if match[0] == b"`" else -1
            if level == 0:
                return match.end()
        raise _StopError(at, "a quote (`) is not closed")

    def _line_end(self, at: int, end: int) -> int:
        newline = self.data.find(b"\n", at, end)
        return end if newline < 0 else newline + 1

    def _word(self, match: re.Match[bytes], end: int, place: _Place) -> _Word:
        name, start, at = match[0], match.start(), match.end()
        macro = self.known.get(name)
        called = self.data[at : at + 1] == b"(" and at < end
        if macro is None or (macro.blind and not called):
            return _Word(at, at)
        parts: list[Argument] = []
        quoted: list[list[tuple[int, int]]] = []
        if called:
            if place.level >= _DEEPEST:
                raise _StopError(start, f"macros are nested deeper than {_DEEPEST}")
            at = self._arguments(match, end, place, parts, quoted)
        call = self._call(match, at, parts, macro, place)
        # A bare word in quoted text is mostly prose.
        if name != b"dnl" and (called or not place.depth):
            self.calls.append(call)
        tail = self._effects(call, macro, quoted, place)
        if tail is Tail.PERHAPS and not place.depth:
            self._doubt = max(self._doubt, self._line_end(at, end))
        if tail is not Tail.STAYS and place.depth:
            self._dnls += 1
        after = self._line_end(at, end) if tail is Tail.GOES else at
        return _Word(after, start if name == b"dnl" else at, literal=name == b"dnl")

    def _call(
        self, match: re.Match[bytes], end: int, parts: list[Argument], macro: Macro, place: _Place
    ) -> Call:
        start = match.start()
        statement_end = end
        if not place.depth and not place.nested:
            rest = REST.match(self.data, end)
            statement_end = rest.end() if rest else end
            if macro.tail is Tail.GOES:
                statement_end = self._line_end(end, len(self.data))
        return Call(
            match[0].decode(), tuple(parts), self._line(start), start, end, statement_end,
            depth=place.depth or int(start < self._doubt), nested=place.nested,
        )  # fmt: skip

    # Arguments -------------------------------------------------------------------------------------

    def _arguments(
        self,
        match: re.Match[bytes],
        end: int,
        place: _Place,
        parts: list[Argument],
        quoted: list[list[tuple[int, int]]],
    ) -> int:
        """Collect the arguments behind the name, and what is quoted in each; return where they end."""
        inner = _Place(place.depth, nested=True, level=place.level + 1)
        at, separator = match.end() + 1, b","
        while separator == b",":
            quoted.append([])
            at, part, separator = self._argument(at, end, inner, quoted[-1])
            parts.append(part)
        if not separator and not place.depth:
            raise _StopError(match.start(), f"the arguments of {match[0].decode()} are not closed")
        return at

    def _argument(
        self, at: int, end: int, place: _Place, quoted: list[tuple[int, int]]
    ) -> tuple[int, Argument, bytes]:
        """Return where the argument ends, behind its separator; what it is; and its separator."""
        blanks = _BLANKS.match(self.data, at, end)
        at = blanks.end() if blanks else at
        builder = _Builder(self.data, at)
        level = 0
        while match := _ARGUMENT.search(self.data, at, end):
            builder.add(at, match.start())
            token, start, at = match[0], match.start(), match.end()
            if token == b"`":
                at = self._quote_end(start, end)
                quoted.append((start + 1, at - 1))
                builder.add(start, at, 1)
            elif match["word"]:
                word = self._word(match, end, place)
                builder.add(start, word.end)
                builder.literal &= word.literal or word.end == start
                at = word.at
            elif level == 0 and token in {b",", b")"}:
                return at, builder.argument(), token
            elif token == b"#" and self.comments:
                at = self._line_end(at, end)
                builder.add(start, at)
            else:
                level += {b"(": 1, b")": -1}.get(token, 0)
                builder.add(start, at)
        builder.add(at, end)
        return end, builder.argument(), b""

    # What a call does ------------------------------------------------------------------------------

    def _effects(
        self, call: Call, macro: Macro, quoted: list[list[tuple[int, int]]], place: _Place
    ) -> Tail:
        self._refuse(call)
        inner = _Place(max(call.depth, place.depth) + 1, nested=True, level=place.level + 1)
        before = self._dnls
        for spans in quoted[macro.read_from :]:
            for start, end in spans:
                self._text(start, end, inner)
        perhaps = Tail.PERHAPS if self._dnls > before else Tail.STAYS
        self._dnls = before
        if call.name in {"define", "pushdef"} and call.parts:
            self._define(call, perhaps)
            return Tail.STAYS
        if call.name in {"undefine", "popdef"} and not call.depth:
            for name in call.literals:
                self.known.pop(_encoded(name), None)
        if call.name == "changecom" and not call.depth:
            self.comments = False
        self._begin(call)
        if call.name == "m4wrap":
            return Tail.STAYS
        return perhaps if macro.tail is Tail.STAYS else macro.tail

    def _refuse(self, call: Call) -> None:
        """Stop at what changes how the rest is read, or hides what is called."""
        if call.name in {"indir", "builtin"}:
            _stop(call, f"{call.name} calls a macro by another way")
        if call.name in {"changequote", "changecom"} and call.arguments not in _DEFAULTS[call.name]:
            _stop(call, f"{call.name} changes how the rest is read")
        if call.name == "m4exit" and not call.depth:
            _stop(call, "m4exit: m4 reads no further")
        if call.name == "defn" and self._any_own(call.literals):
            _stop(call, "defn gives a macro another name")
        if call.name in {"define", "pushdef"} and call.parts[0].literal and self._any_own(call.arguments[:1]):
            _stop(call, f"{call.arguments[0]} is defined anew")
        if call.name == "popdef" and self._any_own(call.literals):
            _stop(call, "popdef of a macro that the text did not define")

    def _any_own(self, names: Iterable[str]) -> bool:
        found = [self.known.get(_encoded(name)) for name in names]
        return any(macro is not None and macro.own for macro in found)

    def _define(self, call: Call, tail: Tail) -> None:
        name = call.parts[0]
        if name.literal and re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name.text):
            self.known[_encoded(name.text)] = Macro(tail, own=False)

    def _begin(self, call: Call) -> None:
        """Take note that the file with the caller's macros is included here."""
        if not self.include or self.began is not None or call.depth:
            return
        path = call.arguments[0] if call.parts else ""
        if call.name in {"include", "sinclude"} and _encoded(path).endswith(self.include):
            self.known.update(self.macros)
            self.comments = False
            self.began = call.end


class _Builder:
    """An argument while it is collected."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._text: list[bytes] = []
        self._start = self._end = at
        self.literal = True

    def add(self, start: int, end: int, quotes: int = 0) -> None:
        """Add bytes, without so many quotes on both sides."""
        if start == end:
            return
        if not self._text:
            self._start = start
        self._end = end
        self._text.append(self._data[start + quotes : end - quotes])

    def argument(self) -> Argument:
        """Return what was collected."""
        text = b"".join(self._text).decode("utf-8", "surrogateescape")
        return Argument(text, self._start, self._end, self.literal)


def _stop(call: Call, what: str) -> NoReturn:
    raise _StopError(call.start, what)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
