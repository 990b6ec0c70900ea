# SPDX-License-Identifier: Apache-2.0
"""Settings in a file that a shell reads, as a lossless document: ``KEY="value"``, nothing is ever run.

Debian's /etc/mail/sendmail.conf and Red Hat's /etc/sysconfig/sendmail. What is understood is a
statement of sh(1) that is one assignment, ``export`` before it or not. A quoted string may go over
several lines, as for the shell. All other statements are left alone, and named by ``faults``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from hardend.errors import FormatError
from hardend.model import printable

_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
# A piece of a word: a backslash and what it quotes, quoted strings, then any other byte of a word.
_WORD = re.compile(rb"""(?:\\.|'[^']*'|"(?:[^"\\]|\\.)*"|[^\s\\'";&|()<>])+""", re.DOTALL)
_ASSIGNMENT = re.compile(rb"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=")
_TAIL = re.compile(rb"(?:[ \t]+#[^\n]*|[ \t]*;[ \t]*(?:#[^\n]*)?|[ \t]*)\r?(?:\n|\Z)")
_IDLE = re.compile(rb"[ \t\r]*(?:#[^\n]*)?(?:\n|\Z)")
_PIECE = re.compile(
    rb"""'(?P<hard>[^']*)'|"(?P<soft>(?:[^"\\]|\\.)*)"|\\(?P<one>.)|(?P<plain>[^'"\\]+)""", re.DOTALL
)
_PUT_IN = re.compile(rb"\\.|([$`])", re.DOTALL)
_SOFT_ESCAPE = re.compile(rb"\\([$`\"\\\n])")
_TO_ESCAPE = re.compile(rb"[$`\"\\]")
_RETURN = "a carriage return: the shell takes it into the value"
_WITHOUT_END = "a statement without end"


@dataclass(frozen=True, slots=True)
class Setting:
    """One assignment: name, value without quotes, and the line that it begins on, from 1.

    ``literal`` is false where the shell would put something in (``$X``, a command): then ``value`` is
    what stands there.
    """

    name: str
    value: str
    line: int
    literal: bool = True


@dataclass(frozen=True, slots=True)
class _Statement:
    raw: bytes
    line: int
    word: tuple[int, int] = (0, 0)
    setting: Setting | None = None
    fault: str = ""
    open_ended: bool = False


class ShellSettings:
    """A parsed file of assignments. Any bytes parse; ``render`` gives them back; edits make a new one."""

    def __init__(self, data: bytes, path: str = "") -> None:
        self.path = path
        self._statements = tuple(_statements(data))
        self.settings = tuple(each.setting for each in self._statements if each.setting is not None)

    def render(self) -> bytes:
        """Return the bytes that were parsed."""
        return b"".join(each.raw for each in self._statements)

    def get(self, name: str) -> Setting | None:
        """Return the last assignment of a name, the one that counts."""
        return next((each for each in reversed(self.settings) if each.name == name), None)

    def faults(self) -> list[tuple[int, str]]:
        """Return the statements that are no assignment, with the line: what they set is not known."""
        return [(each.line, each.fault) for each in self._statements if each.fault]

    def set(self, name: str, value: str) -> ShellSettings:
        """Return the document with this value: in the last assignment of the name, or in a new one.

        The value is put in double quotes, the only ones that Debian's scripts read. Raises ValueError
        for what is no name, or a value with a line end or a NUL; FormatError when nothing can be put
        behind the end of the file.
        """
        if not _NAME.fullmatch(_encoded(name)) or re.search(r"[\n\r\0]", value):
            raise ValueError(f"no setting of a shell: {printable(name)}={printable(value)}")
        known = self.get(name)
        if known is not None and known.literal and known.value == value:
            return self
        word = b'"' + _TO_ESCAPE.sub(rb"\\\g<0>", _encoded(value)) + b'"'
        if known is None:
            return self._added(_encoded(name) + b"=" + word)
        raws = [
            each.raw[: each.word[0]] + word + each.raw[each.word[1] :] if each.setting is known else each.raw
            for each in self._statements
        ]
        return ShellSettings(b"".join(raws), self.path)

    def _added(self, assignment: bytes) -> ShellSettings:
        last = self._statements[-1] if self._statements else None
        if last is not None and last.open_ended:
            raise FormatError(self.path, last.line, "a statement without end: edit the file by hand")
        data = self.render()
        end = b"\r\n" if data.partition(b"\n")[0].endswith(b"\r") else b"\n"
        if data and not data.endswith(b"\n"):
            data += end
        return ShellSettings(data + assignment + end, self.path)


def _statements(data: bytes) -> Iterator[_Statement]:
    """Yield the statements; a line with several, or with none that is known, is one."""
    at, line = 0, 1
    while at < len(data):
        found = _statement(data, at, line)
        yield found
        at += len(found.raw)
        line += found.raw.count(b"\n")


def _statement(data: bytes, at: int, line: int) -> _Statement:
    idle = _IDLE.match(data, at)
    if idle:
        return _Statement(idle[0], line)
    begun = _ASSIGNMENT.match(data, at)
    if begun:
        word = _WORD.match(data, begun.end())
        tail = _TAIL.match(data, word.end() if word else begun.end())
        if tail:
            text = word[0] if word else b""
            setting = Setting(_decoded(begun[1]), _decoded(_value(text)), line, not _is_expanded(text))
            start = begun.end() - at
            span = (start, start + len(text))
            # The line end that is quoted there is the last: what is put behind would be part of it.
            if text.endswith(b"\\\n") and not tail[0]:
                return _Statement(data[at : tail.end()], line, span, setting, _WITHOUT_END, open_ended=True)
            returns = b"\r" in tail[0].partition(b"#")[0]
            return _Statement(data[at : tail.end()], line, span, setting, _RETURN if returns else "")
    end, open_ended = _passed(data, at)
    what = _WITHOUT_END if open_ended else "not one assignment of a shell"
    return _Statement(data[at:end], line, fault=what, open_ended=open_ended)


def _passed(data: bytes, at: int) -> tuple[int, bool]:
    """Return where an unknown statement ends: at a line end outside quotes; or that there is none."""
    quote = b""
    escaped, word_begins = False, True
    while at < len(data):
        char = data[at : at + 1]
        escaped = quote != b"'" and char == b"\\"
        if escaped:
            at += 1
        elif quote:
            quote = b"" if char == quote else quote
        elif char == b"#" and word_begins:
            end = data.find(b"\n", at)
            at = len(data) if end < 0 else end
            continue
        elif char == b"\n":
            return at + 1, False
        elif char in {b"'", b'"', b"`"}:
            quote = char
        word_begins = not escaped and char in b" \t;&|()<>"
        at += 1
    return len(data), bool(quote) or escaped


def _is_expanded(word: bytes) -> bool:
    pieces = [match[0] for match in _PIECE.finditer(word) if match["hard"] is None]
    return word[:1] == b"~" or any(found[1] for piece in pieces for found in _PUT_IN.finditer(piece))


def _value(word: bytes) -> bytes:
    """Return a word without its quotes, as the shell has it; a backslash and a line end go."""
    value = b""
    for match in _PIECE.finditer(word):
        if match["soft"] is not None:
            value += _SOFT_ESCAPE.sub(lambda escape: escape[1].strip(b"\n"), match["soft"])
        elif match["one"] is not None:
            value += match["one"].strip(b"\n")
        else:
            value += match["hard"] if match["hard"] is not None else match["plain"]
    return value


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
