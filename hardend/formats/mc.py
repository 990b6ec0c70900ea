# SPDX-License-Identifier: Apache-2.0
"""sendmail.mc and submit.mc as lossless documents (cf/README): bytes in, the same bytes out.

Read as m4 reads them once cf.m4 is loaded: ``#`` is no comment, only ``dnl`` is. Values also come from
the OSTYPE, DOMAIN and include files, which are not looked at: what counts in the end is the .cf.
Every edit returns another document in which only its own lines differ, and the same document when
there is nothing to do; it raises FormatError for a file with a ``fault`` and where it cannot be made.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from hardend.errors import FormatError
from hardend.formats.cf import Value
from hardend.formats.m4 import Call, Fault, Reading, read
from hardend.formats.m4_edit import bare, commented, cut, quoted, says, with_line
from hardend.formats.m4_names import CF_DEFAULTS, CF_MACROS, FEATURE_DEFINES, FEATURES_WITH_MAILERS
from hardend.model import printable

_CF_M4 = b"cf.m4"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FEATURE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PROGRAMS = frozenset({"syscmd", "esyscmd", "maketemp", "mkstemp", "debugfile", "indir", "builtin"})
_READERS = frozenset({"include", "sinclude", "undivert"})
# Each includes DIRECTORY/ARGUMENT.m4; an argument with a slash leaves the directory.
_BY_NAME = frozenset({"FEATURE", "OSTYPE", "DOMAIN", "HACK", "MAILER"})
_MAILERS = frozenset({"MAILER", "MAILER_DEFINITIONS"})
_HEAD = _BY_NAME | {"define", "undefine", "include", "sinclude", "VERSIONID", "DAEMON_OPTIONS"}
_DIGITS = re.compile(r"-?[0-9]*")
_LARGEST = 1 << 20  # bytes; real ones have a hundredth of it


@dataclass(frozen=True, slots=True)
class Named:
    """A FEATURE or a MAILER: its name, and the arguments behind it, without any of their quotes.

    ``depth`` as in Call: more than 0 is perhaps active. ``late``: behind the first mailer, where
    cf.m4 complains about a FEATURE and some have no effect any more.
    """

    name: str
    arguments: tuple[str, ...]
    line: int
    depth: int = 0
    late: bool = False


class Mc:
    """A parsed .mc. Any bytes parse; ``render`` gives them back. ``path`` is for messages.

    ``fault`` says from which line on the file is not understood, and why; None when all of it is.
    """

    def __init__(self, data: bytes, path: str = "sendmail.mc") -> None:
        self.path = path
        self._data = data
        self._reading = reading = _read(data)
        self._sure = [call for call in reading.calls if not call.depth]
        self._outside = [call for call in reading.calls if not call.nested]
        self._starts = [call.start for call in self._outside]
        self._mailer = next((call.start for call in self._sure if _makes_mailers(call)), None)

    @property
    def fault(self) -> Fault | None:
        """Where the reading stopped: an open quote or parenthesis, changequote, m4exit, junk."""
        return self._reading.fault

    def render(self) -> bytes:
        """Return the bytes that were parsed."""
        return self._data

    # Reading ---------------------------------------------------------------------------------------

    def calls(self, name: str = "") -> list[Call]:
        """Return the calls of a macro, or of all, as m4 makes them; also those made perhaps."""
        return [call for call in self._reading.calls if name in {"", call.name}]

    def define(self, name: str) -> Value | None:
        """Return the last active define of a macro, as it expands: without any outer quotes.

        None when there is none, or it is undefined later, or cf.m4 or FEATURE(`msp') overwrites it.
        """
        live = self._live(name)
        if not live:
            return None
        return Value(bare("".join(live[-1].arguments[1:2])), live[-1].line, name)

    def features(self) -> list[Named]:
        """Return every FEATURE, in order."""
        return list(self._named("FEATURE"))

    def feature(self, name: str) -> Named | None:
        """Return the first active FEATURE of a name, or the first that is perhaps active."""
        found = [feature for feature in self.features() if feature.name == name]
        return min(found, key=lambda feature: bool(feature.depth), default=None)

    def mailers(self) -> list[Named]:
        """Return every MAILER, in order."""
        return list(self._named("MAILER"))

    def includes(self) -> list[Value]:
        """Return the files that m4 reads; ``name`` is the macro that names each.

        Those of FEATURE, OSTYPE, DOMAIN, HACK and MAILER only where they leave Sendmail's directory.
        """
        return [
            Value(text, call.line, call.name)
            for call in self._reading.calls
            for text in map(bare, call.arguments[: None if call.name == "undivert" else 1])
            if (call.name in _READERS and not _DIGITS.fullmatch(text))
            or (call.name in _BY_NAME and "/" in text)
        ]

    def programs(self) -> list[Value]:
        """Return what reaches for the system: syscmd, esyscmd, temporary and debug files.

        ``name`` is the macro, ``text`` its first argument; ``indir`` and ``builtin`` may be any macro.
        A file of unknown origin that has any must not be shown to m4.
        """
        return [
            Value("".join(call.arguments[:1]), call.line, call.name)
            for call in self._reading.calls
            if call.name in _PROGRAMS
        ]

    @property
    def ostype(self) -> str:
        """The argument of the first active OSTYPE; ``""`` without."""
        return next((item.name for item in self._named("OSTYPE") if not item.depth), "")

    @property
    def domain_name(self) -> str:
        """The argument of the first active DOMAIN; ``""`` without."""
        return next((item.name for item in self._named("DOMAIN") if not item.depth), "")

    # Editing ---------------------------------------------------------------------------------------

    def set_define(self, name: str, value: str, *, after: str = "") -> Mc:
        """Return the document in which a macro is defined as ``value``, and stays so.

        The last active define gets the new value where it stands. When there is none, or something
        behind it overwrites it (undefine, FEATURE(`msp'), OSTYPE, DOMAIN, a define that is made
        perhaps), or it stands before ``after`` (a macro, or the name of a FEATURE), a line is added:
        before the mailers, or behind what overwrites it. The value comes out as it is: a macro in it
        is quoted and not expanded. Raises FormatError for what cannot be quoted: a quote, a control
        character but a tab or the line end before a continuation line, ``$1``.
        """
        self._demand_sense()
        if not _NAME.fullmatch(name):
            raise FormatError(self.path, 0, f"{name!r} is no name of a macro")
        text = self._quoted(value, name)
        floor = self._floor(name, after)
        live = self._live(name)
        if live and live[-1].start >= floor:
            return self._with_value(live[-1], text)
        return self._with_line(self._place_of_define(floor), f"define(`{name}', {text})dnl")

    def add_feature(self, name: str, *arguments: str) -> Mc:
        """Return the document with a FEATURE, behind the last one that stands before the mailers.

        Nothing changes when it is active, with whatever arguments; one behind the mailers is moved.
        Raises FormatError for arguments as ``set_define`` does for values.
        """
        self._demand_sense()
        if not _FEATURE_NAME.fullmatch(name):
            raise FormatError(self.path, 0, f"{name!r} is no name of a FEATURE")
        known = self._features(name)
        if known:
            return self if any(map(self._is_early, known)) else self.move_before_mailer(name)
        words = ", ".join([f"`{name}'", *map(self._quoted, arguments)])
        return self._with_line(self._place_of_feature(), f"FEATURE({words})dnl")

    def remove_feature(self, name: str) -> Mc:
        """Return the document with ``dnl`` before every line of each active FEATURE of a name.

        Those that are only perhaps active stay. Raises FormatError for one in the arguments of another
        macro.
        """
        self._demand_sense()
        return self._without(self._features(name))

    def remove_define(self, name: str) -> Mc:
        """Return the document with ``dnl`` before every line of each active define of a macro."""
        self._demand_sense()
        mc = self
        # Without one, another whose name is not quoted may define it.
        while calls := [call for call in mc._sure if _defines(call, name)]:
            mc = mc._without(calls)
        return mc

    def move_before_mailer(self, feature: str) -> Mc:
        """Return the document with a FEATURE that stands behind the mailers moved before them."""
        self._demand_sense()
        calls = self._features(feature)
        late = [call for call in calls if not self._is_early(call)]
        if not late:
            return self
        self._demand_outside(late)
        data, line, breaks = self._data, b"", frozenset(self._reading.breaks)
        for call in reversed(late):
            data, line = cut(data, breaks, call)
        if len(late) == len(calls):
            data = with_line(data, self._place_of_feature(), line)
        return Mc(data, self.path)

    # What is active --------------------------------------------------------------------------------

    def _named(self, macro: str) -> Iterator[Named]:
        for call in self.calls(macro):
            texts = tuple(map(bare, call.arguments)) or ("",)
            yield Named(texts[0], texts[1:], call.line, call.depth, late=not self._is_early(call))

    def _features(self, name: str) -> list[Call]:
        return [call for call in self._sure if _feature_of(call) == name]

    def _is_early(self, call: Call) -> bool:
        return self._mailer is None or call.start <= self._mailer

    def _live(self, name: str) -> list[Call]:
        """Return the defines that are in force at the end, the last one counts (pushdef stacks)."""
        live: list[Call] = []
        for call in self._sure:
            if _defines(call, name):
                live[len(live) - (call.name == "define") :] = [call]
            elif call.name == "popdef" and name in call.literals:
                live[-1:] = []
            elif self._ends(call, name):
                live.clear()
        return live

    def _ends(self, call: Call, name: str) -> bool:
        """Return whether a call undoes every define of a name before it."""
        if call.name == "undefine":
            return name in call.literals
        if call.name == "FEATURE":
            return name in FEATURE_DEFINES.get(_feature_of(call), ())
        return call.end == self._reading.began and name in CF_DEFAULTS

    # Where lines go --------------------------------------------------------------------------------

    def _floor(self, name: str, after: str) -> int:
        """Return the end of the last call behind which a define of a name is safe."""
        return max((self._outermost(call).end for call in self._floors(name, after)), default=0)

    def _floors(self, name: str, after: str) -> Iterator[Call]:
        for call in self._reading.calls:
            if call.depth:
                touches = _defines(call, name) or self._ends(call, name)
            else:
                touches = self._ends(call, name) or call.name in {"OSTYPE", "DOMAIN"}
                touches |= call.end == self._reading.began
                touches |= bool(after) and after in {call.name, _feature_of(call)}
            if touches or (call.name == "popdef" and name in call.literals):
                yield call

    def _outermost(self, call: Call) -> Call:
        """Return the call outside of all others in whose parentheses a call stands."""
        index = bisect_right(self._starts, call.start) - 1
        return self._outside[index] if index >= 0 and self._outside[index].end > call.start else call

    def _place_of_define(self, floor: int) -> int:
        mailer = next((call for call in self._outside if call.name in _MAILERS and not call.depth), None)
        if mailer:
            place = self._line_before(mailer.start)
        else:
            place = self._line_behind(max((call.end for call in self._head()), default=0))
        return place if place >= floor else self._line_behind(floor)

    def _head(self) -> list[Call]:
        """Return what stands before the first section of rules and lines for the .cf."""
        head = takewhile(lambda call: not call.name.startswith("LOCAL_"), self._outside)
        return [call for call in head if call.name in _HEAD]

    def _place_of_feature(self) -> int:
        top = len(self._data) if self._mailer is None else self._line_before(self._mailer)
        early = [call for call in self._head() if self._is_early(call) and not _makes_mailers(call)]
        features = [call for call in early if call.name == "FEATURE" and not call.depth]
        behind = features[-1:] or ([] if self._mailer is not None else early[-1:])
        place = min(self._line_behind(behind[0].end), top) if behind else top
        if place < (self._reading.began or 0):
            raise FormatError(self.path, 0, "no line between the include of cf.m4 and the first MAILER")
        return place

    def _line_before(self, at: int) -> int:
        breaks = self._reading.breaks
        return breaks[bisect_right(breaks, at) - 1]

    def _line_behind(self, at: int) -> int:
        breaks = self._reading.breaks
        index = bisect_left(breaks, at)
        return breaks[index] if index < len(breaks) else len(self._data)

    # Changing bytes --------------------------------------------------------------------------------

    def _demand_sense(self) -> None:
        if self.fault:
            raise FormatError(self.path, self.fault.line, f"{self.fault.what}; edit the file by hand")

    def _demand_outside(self, calls: list[Call]) -> None:
        for call in calls:
            if call.nested:
                what = f"{call.name} in the arguments of another macro; edit it by hand"
                raise FormatError(self.path, call.line, what)

    def _quoted(self, value: str, name: str = "") -> str:
        try:
            return quoted(value, self._reading.words | {name})
        except ValueError as error:
            raise FormatError(self.path, 0, f"{printable(value)}: {error}") from error

    def _with_value(self, call: Call, text: str) -> Mc:
        new = text.encode("utf-8", "surrogateescape")
        if len(call.parts) < 2:  # noqa: PLR2004 - define(NAME)
            start = end = call.parts[0].end
            new = b", " + new
        elif says(call.parts[1], text):
            return self
        else:
            start, end = call.parts[1].start, call.parts[1].end
        return Mc(self._data[:start] + new + self._data[end:], self.path)

    def _with_line(self, place: int, line: str) -> Mc:
        return Mc(with_line(self._data, place, line.encode("utf-8", "surrogateescape")), self.path)

    def _without(self, calls: list[Call]) -> Mc:
        self._demand_outside(calls)
        data, breaks = self._data, frozenset(self._reading.breaks)
        for call in reversed(calls):
            data = commented(data, breaks, call)
        return Mc(data, self.path) if calls else self


def _read(data: bytes) -> Reading:
    if len(data) > _LARGEST:
        return Reading((), (0,), Fault(1, f"larger than {_LARGEST} bytes: no sendmail.mc"), frozenset())
    if _CF_M4 in data:
        reading = read(data, CF_MACROS, include=_CF_M4)
        if reading.began is not None:
            return reading
    return read(data, CF_MACROS)  # cf.m4 is on the command line of m4


def _feature_of(call: Call) -> str:
    """Return the name of a FEATURE; ``""`` for any other call."""
    return bare(call.arguments[0]) if call.name == "FEATURE" and call.parts else ""


def _makes_mailers(call: Call) -> bool:
    return call.name in _MAILERS or _feature_of(call) in FEATURES_WITH_MAILERS


def _defines(call: Call, name: str) -> bool:
    """Return whether a call defines a name; an unquoted one that is defined gives way to its text."""
    is_define = call.name in {"define", "pushdef"} and call.arguments[:1] == (name,)
    return is_define and call.parts[0].literal
