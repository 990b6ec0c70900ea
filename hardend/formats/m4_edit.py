# SPDX-License-Identifier: Apache-2.0
"""Changing an m4 text without touching more than its own lines: quoting, adding, commenting out."""

from __future__ import annotations

import re
from collections.abc import Collection

from hardend.formats.m4 import REST, Argument, Call

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUOTES = re.compile(r"[`']")
# In the text of a macro m4 puts its arguments for these, in whatever quotes they stand.
_PARAMETER = re.compile(r"\$[0-9#*@]")
# A line of a value that does not begin with white space would be a line of its own in the .cf.
_CONTROL = re.compile(r"(?!\t|\n[ \t])[\0-\x1f\x7f]")
_COMMENT = b"dnl "
_ONLY_MARKS = re.compile(rb"[ \t#]*\Z")


def bare(text: str) -> str:
    """Return an argument as it comes out in the end: without the quotes around the whole of it."""
    while text[:1] == "`" and _close_of(text) == len(text):
        text = text[1:-1]
    return text


def _close_of(text: str) -> int:
    level = 0
    for match in _QUOTES.finditer(text):
        level += 1 if match[0] == "`" else -1
        if level == 0:
            return match.end()
    return -1


def quoted(value: str, macros: Collection[str]) -> str:
    """Return a value as an argument that comes out as it is, whatever of ``macros`` is in it.

    Quoted twice where one pair of quotes would let m4 expand a word, or take a parenthesis for its
    own. Raises ValueError, with a reason, for what no quotes protect.
    """
    if _CONTROL.search(value):
        raise ValueError("it has a control character, or a line that is no continuation")
    if _QUOTES.search(value):
        raise ValueError("it has a quote of m4")
    if _PARAMETER.search(value):
        raise ValueError("m4 would put something for $ and a digit, #, * or @")
    expands = any(word in macros or word.startswith("conf") for word in _WORD.findall(value))
    return f"``{value}''" if expands or "(" in value or ")" in value else f"`{value}'"


def says(argument: Argument, text: str) -> bool:
    """Return whether an argument is already what ``quoted`` made, in whatever form it is written."""
    same = {text[1:-1]} if text.startswith("``") else {text[1:-1], text}
    return argument.literal and argument.text in same


def with_line(data: bytes, place: int, line: bytes) -> bytes:
    """Return the text with a line added at ``place``, the start of a line or the end of the text."""
    end = line_end(data, place)
    before = end if data[:place] and data[place - 1 : place] != b"\n" else b""
    return data[:place] + before + line + end + data[place:]


def line_end(data: bytes, place: int) -> bytes:
    """Return how the line before ``place`` ends, or else the one at it: LF or CR LF."""
    newline = data.rfind(b"\n", 0, place)
    if newline < 0:
        newline = data.find(b"\n", place)
    return b"\r\n" if data[max(newline - 1, 0) : newline] == b"\r" else b"\n"


def _lines_of(data: bytes, breaks: Collection[int], call: Call) -> tuple[int, int] | None:
    """Return the span of a call's lines where nothing else stands on them, otherwise None."""
    start = data.rfind(b"\n", 0, call.start) + 1
    rest = REST.match(data, call.end)
    alone = start in breaks and _ONLY_MARKS.match(data[start : call.start])
    return (start, rest.end()) if alone and rest else None


def commented(data: bytes, breaks: Collection[int], call: Call) -> bytes:
    """Return the text with ``dnl`` before every line of a call; what else stands there stays active.

    ``breaks`` are the starts of lines outside of every call and quote, as far as the call.
    """
    end = line_end(data, call.end)
    lines = _lines_of(data, breaks, call)
    start, stop = lines or (call.start, call.end)
    text = data[start:stop]
    last = text.endswith(b"\n")
    text = _COMMENT + text[: len(text) - last].replace(b"\n", b"\n" + _COMMENT) + text[len(text) - last :]
    rest = REST.match(data, call.end)
    if (lines and not last) or not (lines or (rest and rest["dnl"])):
        text += end
    return data[:start] + text + data[stop:]


def cut(data: bytes, breaks: Collection[int], call: Call) -> tuple[bytes, bytes]:
    """Return the text without a call, and the line that the call makes elsewhere, without its end."""
    start, stop = _lines_of(data, breaks, call) or (call.start, call.end)
    line = data[call.start : stop].rstrip(b"\r\n")
    if not line[call.end - call.start :].strip():
        line = data[call.start : call.end] + b"dnl"
    return data[:start] + data[stop:], line
