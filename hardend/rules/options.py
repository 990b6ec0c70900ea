# SPDX-License-Identifier: Apache-2.0
"""Setting an option of sendmail.cf: in the .mc that makes it, or in the .cf where that is the truth."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hardend.formats.cf import Cf, Value
from hardend.rules.documents import Documents

# "O Name=value", "O Name value" and "Opvalue": what stands before the value stays as it is.
_BEFORE_VALUE = re.compile(rb"\AO(?: [ \t]*[\w.]+[ \t]*=?[ \t]*|[^ \n])")


@dataclass(frozen=True, slots=True)
class Option:
    """An option under its two names (cf/README, "TWEAKING CONFIGURATION OPTIONS")."""

    name: str
    macro: str


def place_of(documents: Documents, cf: str, option: Option) -> tuple[str, int]:
    """Return file and line where the option is to be changed: of the .mc where there is one."""
    source = documents.mc_of(cf)
    if source is not None:
        path, mc = source
        known = mc.define(option.macro)
        return path, known.line if known is not None else 0
    value = documents.cf(cf).option(option.name)
    return cf, value.line if value is not None else 0


def set_option(documents: Documents, cf: str, option: Option, value: str) -> Documents:
    """Return the documents with an option set; no other byte changes.

    Raises FormatError when the .mc cannot be edited.
    """
    source = documents.mc_of(cf)
    if source is not None:
        path, mc = source
        return documents.with_content(path, mc.set_define(option.macro, value).render())
    return documents.with_content(cf, with_option(documents.cf(cf), option.name, value).render())


def defined(documents: Documents, cf: str, option: Option) -> str | None:
    """Return what the .mc defines for an option, None where it says nothing or there is no .mc.

    A .mc that was just edited says more than the .cf that is not made from it yet.
    """
    source = documents.mc_of(cf)
    known = source[1].define(option.macro) if source is not None else None
    return known.text if known is not None else None


def with_option(cf: Cf, name: str, value: str) -> Cf:
    """Return the .cf with the last line of an option given another value, or one added.

    A new line goes behind the commented one that Sendmail's own files have for each option, or behind
    the last option.
    """
    known = cf.options(name)
    if known:
        return cf.replace(known[-1].line, _valued(cf, known[-1], value))
    text = f"O {name}={value}".encode("utf-8", "surrogateescape")
    comment = re.compile(rb"#[ \t]*O[ \t]+%s\b" % re.escape(name.encode()), re.IGNORECASE)
    after = [line for line in cf.lines if comment.match(line.raw)]
    after = after[-1:] or [line for line in cf.lines if line.kind == "O"][-1:] or list(cf.lines[-1:])
    if not after:
        return Cf(text + b"\n")
    line = after[0]
    end = line_end(line.raw)
    before = line.raw if line.raw.endswith(b"\n") else line.raw + end
    return cf.replace(line.number, before + text + end)


def _valued(cf: Cf, value: Value, new: str) -> bytes:
    raw = next(line.raw for line in cf.lines if line.number == value.line)
    before = _BEFORE_VALUE.match(raw)
    head = before[0] if before else b"O %s=" % value.name.encode()
    if head[1:2] == b" " and not head.rstrip(b" \t").endswith(b"="):
        head = head.rstrip(b" \t") + b"="
    return head + new.encode("utf-8", "surrogateescape") + (line_end(raw) if raw.endswith(b"\n") else b"")


def line_end(raw: bytes) -> bytes:
    """Return the line end that a line has, or would have."""
    return b"\r\n" if raw.endswith(b"\r\n") else b"\n"
