# SPDX-License-Identifier: Apache-2.0
"""What a single value of hardend.toml may be: each check returns the setting or says what is accepted."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum

from hardend.model import Class, printable

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_SHOWN = 60  # characters of a wrong value that are worth showing


class FaultError(Exception):
    """What is accepted instead; the caller adds file and key."""


def number(low: int, high: int) -> Callable[[object], int]:
    """Accept a whole number from ``low`` to ``high``."""

    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise FaultError(f"a whole number from {low} to {high}")
        return value

    return check


def time_span(unit: str, low: str, high: str) -> Callable[[object], int]:
    """Accept "30s", "5m", "2h", "90d", from ``low`` to ``high``; the setting counts in ``unit``."""

    def check(value: object) -> int:
        seconds = _seconds(value) if isinstance(value, str) else -1
        if not _seconds(low) <= seconds <= _seconds(high) or seconds % _UNITS[unit]:
            whole = ' in whole days, such as "90d"' if unit == "d" else ' such as "30s", "5m", "2h"'
            raise FaultError(f'a time{whole}, from "{low}" to "{high}"')
        return seconds // _UNITS[unit]

    return check


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,7})([smhd])", text)
    return int(match[1]) * _UNITS[match[2]] if match else -1


def time_spans(value: object) -> tuple[int, ...]:
    """Accept a list of times; the longest comes first, in seconds."""
    check = time_span("s", "10s", "1d")
    try:
        found = [check(item) for item in value] if isinstance(value, list) else None
    except FaultError:
        found = None
    if found is None:
        raise FaultError('a list of times from "10s" to "1d", such as ["10m", "2m"]')
    return tuple(sorted(set(found), reverse=True))


def word_of(kind: type[StrEnum]) -> Callable[[object], StrEnum]:
    """Accept a word of these."""

    def check(value: object) -> StrEnum:
        if not isinstance(value, str) or value not in {word.value for word in kind}:
            raise FaultError("one of " + ", ".join(f'"{word}"' for word in kind))
        return kind(value)

    return check


def is_path(item: object) -> bool:
    """Return whether this is an absolute path as the rest of hardend writes it, or a glob of such."""
    if not isinstance(item, str) or not item.startswith("/") or "\0" in item:
        return False
    return item == "/" or all(part not in {"", ".", ".."} for part in item[1:].split("/"))


def path_list(value: object) -> tuple[str, ...]:
    """Accept a list of absolute paths and globs of such."""
    if not isinstance(value, list) or not all(is_path(item) for item in value):
        raise FaultError('a list of absolute paths without "..", such as ["/etc/mail/access"]')
    return tuple(dict.fromkeys(value))


def name_list(what: str, pattern: str) -> Callable[[object], tuple[str, ...]]:
    """Accept a list of what fits a pattern; ``what`` says what that is."""

    def check(value: object) -> tuple[str, ...]:
        fits = isinstance(value, list) and all(
            isinstance(item, str) and re.fullmatch(pattern, item) for item in value
        )
        if not isinstance(value, list) or not fits:
            raise FaultError(f"a list of {what}")
        return tuple(dict.fromkeys(value))

    return check


def text_like(what: str, pattern: str) -> Callable[[object], str]:
    """Accept a text that fits a pattern; ``what`` says what that is."""

    def check(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise FaultError(what)
        return value

    return check


def command_line(value: object) -> tuple[str, ...]:
    """Accept a program with its path, and its arguments, or nothing."""
    whole = isinstance(value, list) and all(isinstance(item, str) and "\0" not in item for item in value)
    if not isinstance(value, list) or not whole or (value and not is_path(value[0])):
        raise FaultError('a program with its path, and its arguments, such as ["/usr/local/sbin/page"]')
    return tuple(value)


def truth(value: object) -> bool:
    """Accept true and false."""
    if not isinstance(value, bool):
        raise FaultError("true or false")
    return value


def classes_by_path(value: object) -> tuple[tuple[str, Class], ...]:
    """Accept a table of paths and globs, each with a class."""
    words = [word.value for word in Class]
    wanted = f"absolute paths, each with one of {', '.join(words)}"
    if not isinstance(value, dict):
        raise FaultError(f'{wanted}, such as "/etc/mail/access" = "checked"')
    wrong = {path: word for path, word in value.items() if not is_path(path) or word not in words}
    if wrong:
        raise FaultError(f"{wanted}; this is not: {short(wrong)}")
    return tuple((path, Class(word)) for path, word in value.items())


def short(value: object) -> str:
    """Return a wrong value as it is shown in a fault."""
    text = printable(repr(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
