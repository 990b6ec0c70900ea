# SPDX-License-Identifier: Apache-2.0
"""Unified diffs of files of a host, made safe to show on a terminal."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from hardend.model import printable

_BINARY = 8000  # a NUL in these first bytes is no text
# authinfo, and passwords in maps: what stands behind them is nobody's to read in a log.
_SECRET = re.compile(r'("?(?:P|U|I):)[^"\s]*|(\b(?:pass(?:word|wd)?|secret)\b\s*[=:]\s*)\S+', re.IGNORECASE)


def unified(path: str, old: bytes, new: bytes, *, mask: bool = False) -> Iterator[str]:
    """Yield the lines of a unified diff; ``mask`` hides what looks like a secret."""
    shown = printable(path)
    if b"\0" in old[:_BINARY] or b"\0" in new[:_BINARY]:
        yield f"{shown}: binary content changed"
        return
    lines = difflib.unified_diff(
        old.decode("utf-8", "surrogateescape").split("\n"),  # not splitlines(): "\r" is a difference
        new.decode("utf-8", "surrogateescape").split("\n"),
        f"a{path}",
        f"b{path}",
        lineterm="",
    )
    for line in lines:
        text = _SECRET.sub(lambda found: f"{found[1] or found[2]}...", line) if mask else line
        yield safe_line(text)


def safe_line(text: str) -> str:
    """Return a line of a file as a terminal may show it: tabs stay, other control characters do not."""
    return "\t".join(printable(part) for part in text.split("\t"))
