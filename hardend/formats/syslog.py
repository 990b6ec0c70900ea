# SPDX-License-Identifier: Apache-2.0
"""Which messages a syslog daemon keeps: the selector lines of syslog.conf(5), which rsyslogd reads too.

Statements of rsyslog's own language (``if ... then``, ``ruleset``) are not read; ``has_script`` tells of
them, so that what no selector takes is not said to be lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PRIORITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
_OTHER_NAMES = {"panic": "emerg", "error": "err", "warn": "warning"}
_LINE = re.compile(r"\s*((?:[\w*,]+\.[=!\w*]+)(?:;[\w*,]+\.[=!\w*]+)*)\s+(\S.*)")
_FILE = re.compile(r"-?(/[^\s;]+)")
_ACTION_FILE = re.compile(r"\bomfile\b.*?\bfile\s*=\s*\"([^\"]+)\"", re.IGNORECASE)
_SCRIPT = re.compile(r"^\s*(?:if\b.*\bthen\b|ruleset\b|:\w|call\b)", re.MULTILINE | re.IGNORECASE)
_DISCARDED = re.compile(r"~|stop\b")


@dataclass(frozen=True, slots=True)
class Selector:
    """One line: what it takes, its action, the file that it writes ("" for none), and its number."""

    text: str
    action: str
    line: int

    @property
    def file(self) -> str:
        """The file that the action appends to."""
        match = _FILE.match(self.action) or _ACTION_FILE.search(self.action)
        return match[1] if match else ""

    @property
    def keeps(self) -> bool:
        """Whether the action does something with a message other than dropping it."""
        return not _DISCARDED.match(self.action)

    def names(self, facility: str) -> bool:
        """Return whether a facility is named, not only meant by ``*``."""
        return any(facility in part.partition(".")[0].split(",") for part in self.text.split(";"))

    def takes(self, facility: str, priority: str) -> bool:
        """Return whether a message is taken: later parts of a line change what earlier ones say."""
        taken = False
        for part in self.text.split(";"):
            facilities, _, wanted = part.partition(".")
            if facility in facilities.split(",") or "*" in facilities.split(","):
                taken = _answer(wanted.lower(), priority, taken)
        return taken


def selectors(text: str) -> Iterator[Selector]:
    """Yield the selector lines; a line that ends in a backslash goes on with the next."""
    whole, first = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        first = first or number
        whole += line
        if whole.endswith("\\"):
            whole = whole[:-1]
            continue
        match = _LINE.fullmatch(whole)
        if match and not whole.lstrip().startswith("#"):
            yield Selector(match[1], match[2].strip(), first)
        whole, first = "", 0


def has_script(text: str) -> bool:
    """Return whether something else than selectors decides what is kept."""
    return _SCRIPT.search(text) is not None


def _answer(wanted: str, priority: str, taken: bool) -> bool:  # noqa: FBT001 - what was said so far
    """Return what a part of a selector says: ``p`` and above, ``=p`` only it, ``!p`` not, ``none``."""
    if wanted == "none":
        return False
    excludes, only = wanted.startswith("!"), "=" in wanted[:2]
    name = _OTHER_NAMES.get(wanted.lstrip("!="), wanted.lstrip("!="))
    if name == "*":
        return not excludes
    if name not in _PRIORITIES:
        return taken
    at, least = _PRIORITIES.index(priority), _PRIORITIES.index(name)
    matches = at == least if only else at <= least
    return (taken and not matches) if excludes else (taken or matches)
