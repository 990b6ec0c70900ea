# SPDX-License-Identifier: Apache-2.0
"""sendmail.cf as a lossless document (Sendmail op guide, section 5): bytes in, the same bytes out.

What is read is what sendmail's own readcf() reads: a line that begins with a blank or a tab
continues the one before, comments too; from configuration level 3 on, ``#`` in a line begins a
comment unless ``$`` or a backslash stands before it; a NUL ends a line. Text is decoded as
``os.fsdecode`` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from hardend.formats.cf_options import option_name

_PHYSICAL = re.compile(rb"[^\n]*\n|[^\n]+")
_LEVEL = re.compile(rb"V[ \t]*(\d{1,3})")
# What translate_dollars() sees as a unit: a macro (its name may be a #), an escaped #, a comment.
_PIECE = re.compile(
    rb"\$\$|\$[=~&?]?(?:\{[^}\n]*\}|[^\n])|(?P<escaped>\\#)|(?P<comment>[ \t\r\f\v]*#[^\n]*)|.",
    re.DOTALL,
)
_MACRO_NAME = re.compile(r"\{([^}]*)\}|(.)", re.DOTALL)
_MACRO_USE = re.compile(r"\$(?:\$|&?\{([^}]*)\}|&?(\w))")
_KEYED = re.compile(r"[ \t\n]*(\w[\w.]*)[ \t\n]+(\w+)[ \t\n]*(.*)\Z", re.DOTALL)
_INLINE_COMMENTS = 3  # configuration level
_EXPANSIONS = 10
# Of a macro's value, and of a text that is expanded on; sendmail's own buffers are smaller (MAXLINE).
_LONGEST_MACRO = 4096
_LONGEST_EXPANSION = 16_384


@dataclass(frozen=True, slots=True)
class Line:
    """A logical line: its physical lines as they stand, and the number of the first, from 1.

    ``text`` is what sendmail reads of it: no comments, CRLF as LF, no white space at the end. ``kind``
    is the letter that says what it is: ``O``, ``M``; ``#`` for a comment, ``""`` for none.
    """

    number: int
    raw: bytes
    text: bytes
    kind: str


@dataclass(frozen=True, slots=True)
class Value:
    """A value with the line that it stands on; ``name`` is what it is the value of."""

    text: str
    line: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class AliasSpec:
    """One specification of AliasFile: ``class:path``; without a class it is ``implicit``."""

    map_class: str
    path: str
    flags: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class ClassFile:
    """An F line: a class filled from a file, a program (``|``) or a look-up (``key@class:map``).

    ``path`` is the file, the command or the look-up; ``pattern`` the scanf(3) format of a file.
    """

    name: str
    path: str
    optional: bool
    program: bool
    line: int
    lookup: bool = False
    pattern: str = "%s"


@dataclass(frozen=True, slots=True)
class MapLine:
    """A K line: name, class, and its arguments split at white space; macros are expanded."""

    name: str
    map_class: str
    arguments: tuple[str, ...]
    line: int

    @property
    def flags(self) -> tuple[str, ...]:
        """The arguments that are flags: those before the first that does not begin with ``-``."""
        words = self.arguments
        first = next((at for at, word in enumerate(words) if word[:1] != "-"), len(words))
        return words[:first]

    @property
    def path(self) -> str:
        """The first argument that is no flag: the file of a file-backed map."""
        rest = self.arguments[len(self.flags) :]
        return rest[0] if rest else ""

    def has(self, letter: str) -> bool:
        """Return whether a flag is set; sendmail looks at the first letter of each."""
        return any(flag[1:2] == letter for flag in self.flags)


@dataclass(frozen=True, slots=True)
class Mailer:
    """An M line (or a Q line: a queue group): name, P=, A=, and every field in order."""

    name: str
    path: str
    arguments: str
    line: int
    fields: tuple[tuple[str, str], ...] = ()


class Cf:
    """A parsed sendmail.cf. Any bytes parse; ``render`` gives them back."""

    def __init__(self, data: bytes) -> None:
        self.lines = tuple(_logical(data))
        self._by_kind: dict[str, list[tuple[Line, str]]] = {}
        for line in self.lines:
            if line.text:
                self._by_kind.setdefault(line.kind, []).append((line, _decoded(line.text)))
        self._macros = {value.name: value.text for value in self.macros()}

    def render(self) -> bytes:
        """Return the bytes that were parsed."""
        return b"".join(line.raw for line in self.lines)

    def replace(self, number: int, raw: bytes) -> Cf:
        """Return the document with other bytes for the logical line that begins at ``number``.

        ``b""`` removes it. Raises KeyError when no logical line begins there.
        """
        if all(line.number != number for line in self.lines):
            raise KeyError(number)
        return Cf(b"".join(raw if line.number == number else line.raw for line in self.lines))

    def all_options(self) -> list[Value]:
        """Return every option with its value, in order, under its full name."""
        return list(self._options())

    def options(self, name: str) -> list[Value]:
        """Return every value of an option, in order: long, short and abbreviated, any case."""
        return [value for value in self._options() if value.name.lower() == name.lower()]

    def option(self, name: str) -> Value | None:
        """Return the last value of an option; it counts for all but the accumulating ones."""
        return next(reversed(self.options(name)), None)

    def greeting(self) -> Value | None:
        """Return SmtpGreetingMessage, or the macro ``e`` that older files define in its place."""
        return self.option("SmtpGreetingMessage") or self.macro("e")

    def privacy_flags(self) -> list[Value]:
        """Return the flags of all PrivacyOptions lines (they accumulate), in lower case."""
        return [
            Value(word.lower(), value.line, value.name)
            for value in self.options("PrivacyOptions")
            for word in re.findall(r"[A-Za-z0-9]+", value.text)
        ]

    def alias_files(self) -> list[AliasSpec]:
        """Return the specifications of all AliasFile lines (they accumulate), in look-up order."""
        return [spec for value in self.options("AliasFile") for spec in _alias_specs(value)]

    def macros(self) -> list[Value]:
        """Return the D lines; ``name`` without braces."""
        return [Value(_unquoted(rest), line.number, name) for line, name, rest in self._named("D")]

    def macro(self, name: str) -> Value | None:
        """Return the last definition of a macro."""
        return next((value for value in reversed(self.macros()) if value.name == name), None)

    def expand(self, text: str) -> str:
        """Replace ``$x``, ``${name}`` by the macros of this file; unknown ones stay as they are."""
        for _ in range(_EXPANSIONS if "$" in text else 0):
            expanded = _MACRO_USE.sub(self._macro_value, text)
            if expanded == text or len(expanded) > _LONGEST_EXPANSION:
                break
            text = expanded
        return text

    def class_words(self, name: str) -> list[Value]:
        """Return the words that C lines (and T lines, for class ``t``) put into a class."""
        lines = [(line, found, rest) for line, found, rest in self._named("C") if found == name]
        if name == "t":
            lines += [(line, "t", text[1:]) for line, text in self._of("T")]
        return [
            Value(word, line.number, name)
            for line, _, rest in sorted(lines, key=lambda item: item[0].number)
            for word in self.expand(rest).split()
        ]

    def class_files(self) -> list[ClassFile]:
        """Return the F lines. ``-o`` makes a file optional; ``|`` a program; ``@`` a look-up."""
        return [_class_file(name, rest, line.number) for line, name, rest in self._named("F")]

    def maps(self) -> list[MapLine]:
        """Return the K lines."""
        found = []
        for line, text in self._of("K"):
            match = _KEYED.match(self.expand(text[1:]))
            if match:
                arguments = tuple(match[3].split())
                found.append(MapLine(match[1], match[2].lower(), arguments, line.number))
        return found

    def programs(self) -> list[Value]:
        """Return what the file makes sendmail run: ``F{x}|prog`` lines, K lines of class program.

        A file of unknown origin that has any must not be shown to sendmail.
        """
        classes = [
            Value(item.path, item.line, item.name) for item in self.class_files() if item.program
        ]
        maps = [
            Value(" ".join(item.arguments), item.line, item.name)
            for item in self.maps()
            if item.map_class == "program"
        ]
        return sorted(classes + maps, key=lambda value: value.line)

    def mailers(self) -> list[Mailer]:
        """Return the M lines."""
        return [_mailer(text[1:], line.number) for line, text in self._of("M")]

    def mailer(self, name: str) -> Mailer | None:
        """Return the last definition of a mailer, the one that counts; any case."""
        named = [item for item in self.mailers() if item.name.lower() == name.lower()]
        return named[-1] if named else None

    def queue_groups(self) -> list[Mailer]:
        """Return the Q lines; ``path`` is the directory, which may end in ``*``."""
        return [_mailer(text[1:], line.number) for line, text in self._of("Q")]

    def _options(self) -> Iterator[Value]:
        for line, text in self._of("O"):
            if text[1:2] != " ":
                name = option_name(text[1:2], short=True)
                value = text[2:]
            else:
                before, _, value = text[2:].partition("=")
                long, dot, part = before.rstrip(" ").partition(".")
                name = option_name(long, short=False) + dot + part
            yield Value(value.lstrip(" "), line.number, name)

    def _of(self, kind: str) -> Iterator[tuple[Line, str]]:
        return iter(self._by_kind.get(kind, ()))

    def _named(self, kind: str) -> Iterator[tuple[Line, str, str]]:
        for line, text in self._of(kind):
            match = _MACRO_NAME.match(text, 1)
            if match:
                yield line, match[1] if match[2] is None else match[2], text[match.end() :]

    def _macro_value(self, match: re.Match[str]) -> str:
        name = match[1] if match[2] is None else match[2]
        return self._macros.get(name, match[0])[:_LONGEST_MACRO] if name else match[0]


def _logical(data: bytes) -> Iterator[Line]:
    level = first = 0
    physical: list[bytes] = []
    for number, raw in enumerate(_PHYSICAL.findall(data), start=1):
        if physical and raw[:1] in {b" ", b"\t"}:
            physical.append(raw)
            continue
        if physical:
            yield _line(first, physical, level)
            version = _LEVEL.match(physical[0])
            level = int(version[1]) if version else level
        first, physical = number, [raw]
    if physical:
        yield _line(first, physical, level)


def _line(number: int, physical: list[bytes], level: int) -> Line:
    """Return a logical line at a configuration level (of the last V line before it)."""
    raw = b"".join(physical)
    if raw[:1] == b"#":
        return Line(number, raw, b"", "#")
    text = raw.replace(b"\r\n", b"\n").partition(b"\0")[0]
    if level >= _INLINE_COMMENTS and b"#" in text:
        text = _PIECE.sub(_uncommented, text)
    text = text.rstrip(b" \t\n\r\f\v")
    return Line(number, raw, text, _decoded(text[:1]))


def _uncommented(piece: re.Match[bytes]) -> bytes:
    if piece["comment"] is not None:
        return b""
    return b"#" if piece["escaped"] else piece[0]


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _unquoted(text: str, stop: str = "") -> str:
    return _munched(text, stop)[0]


def _munched(text: str, stop: str) -> tuple[str, str]:
    """Do what munchstring() does: quotes go, backslashes escape, ``stop`` ends it; and the rest."""
    out: list[str] = []
    quoted = False
    at = 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1
            char = text[at : at + 1]
            out.append({"r": "\r", "n": "\n", "f": "\f", "b": "\b"}.get(char, char))
        elif char == '"':
            quoted = not quoted
        elif stop and char == stop and not quoted:
            return "".join(out), text[at:]
        else:
            out.append(char)
        at += 1
    return "".join(out), ""


def _alias_specs(value: Value) -> Iterator[AliasSpec]:
    """Split a value as setalias() does: at commas outside quotes, each with a class or without."""
    for part in re.findall(r'(?:[^,"]|"[^"]*"?)+', value.text):
        spec = part.strip()
        before, colon, rest = spec.partition(":")
        has_class = bool(colon) and not re.search(r"[ ,/]", before)
        words = (rest if has_class else spec).split()
        flags = tuple(word for word in words if word.startswith("-"))
        files = [word.strip('"') for word in words if not word.startswith("-")]
        if files:
            map_class = before.lower() if has_class else "implicit"
            yield AliasSpec(map_class, files[0], flags, value.line)


def _class_file(name: str, rest: str, number: int) -> ClassFile:
    rest = rest.lstrip()
    optional = rest.startswith("-o")
    if optional:
        rest = rest.partition(" ")[2].lstrip() if " " in rest else rest[2:].lstrip()
    if rest.startswith("|"):
        return ClassFile(name, rest[1:].strip(), optional, program=True, line=number)
    if not rest.startswith("/") and "@" in rest:
        return ClassFile(name, rest, optional, program=False, line=number, lookup=True)
    match = re.match(r'((?:[^ \t"\\]|\\.|"[^"]*"?)*)[ \t]*(.*)', rest, re.DOTALL)
    path = match[1].replace('"', "").replace("\\ ", " ") if match else rest
    pattern = match[2] if match and match[2] else "%s"
    return ClassFile(name, path, optional, program=False, line=number, pattern=pattern)


def _mailer(text: str, number: int) -> Mailer:
    match = re.match(r"[^,\s]*", text)
    name = match[0] if match else ""
    rest = text[len(name) :]
    fields: list[tuple[str, str]] = []
    while rest := rest.lstrip(", \t\n\r\f\v"):
        field = re.match(r"[^=,]*=\s*", rest)
        if field is None:
            break  # sendmail gives up here too: "`=' expected"
        value, rest = _munched(rest[field.end() :], ",")
        fields.append((field[0][0], value))
    known = dict(fields)
    return Mailer(name, known.get("P", ""), known.get("A", ""), number, tuple(fields))
