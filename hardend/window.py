# SPDX-License-Identifier: Apache-2.0
"""Maintenance windows as values: what is let go, by whom, why and until when, and what changed in them.

The boot clock counts, so that nobody moves the end by setting the time.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from hardend import boot
from hardend.errors import RefusedError
from hardend.model import Class, Drift, Entry, FileType, Host, Role, printable

_ID = re.compile(r"[0-9a-f]{12}")
_MOST_CHANGES = 1000  # an attacker can make a million names; the first of them tell the story
_MOST_TEXT = 1000
_CONTAINERS = frozenset({Role.DIRECTORY, Role.CLOSED})


@dataclass(slots=True)
class Change:
    """What was seen of a released path: since when and when last (realtime), how often, how it differs."""

    first: float
    last: float
    count: int
    drift: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Return what is written down and shown of it."""
        return {"first": self.first, "last": self.last, "count": self.count, "drift": list(self.drift)}


@dataclass(slots=True)
class Window:
    """Paths that are not put back until the boot clock reads ``until`` (seconds).

    ``paths`` are the entries let go; ``trees`` the directories among them of which everything is, also
    what is new. ``command`` is that of ``hardend run``, which holds a lock as long as it lives.
    ``attempts`` counts the tries to end a window that ran out.
    """

    id: str
    boot: str
    paths: tuple[str, ...]
    trees: tuple[str, ...]
    opened: float
    until: float
    reason: str
    by: str
    uid: int
    command: str = ""
    attempts: int = 0
    changes: dict[str, Change] = field(default_factory=dict)

    @property
    def remaining_s(self) -> float:
        """Seconds left; 0 when it ran out."""
        return max(0.0, self.until - boot.clock())

    @property
    def is_over(self) -> bool:
        """Whether its time is over; what it let go stays so until somebody has ended it."""
        return self.remaining_s <= 0

    def until_text(self) -> str:
        """Return the end as ISO 8601 UTC, by the wall clock of now."""
        end = datetime.fromtimestamp(time.time() + self.until - boot.clock(), UTC)
        return end.isoformat(timespec="seconds")

    def describe(self) -> str:
        """Return the sentence that stands wherever the state of the host is told."""
        if self.is_over:
            return f"window expired at {self.until_text()}, by {self.by}: {self.reason}"
        return f"window open until {self.until_text()}, by {self.by}: {self.reason}"

    def holds(self, path: str) -> bool:
        """Return whether a path is let go."""
        return path in self.paths or self.holds_tree_of(path)

    def holds_tree_of(self, path: str) -> bool:
        """Return whether a path is let go with a directory above it."""
        return any(path.startswith(f"{tree}/") for tree in self.trees)

    def note(self, path: str, drift: Iterable[Drift]) -> bool:
        """Record that a path changed; True when that was not known of it yet."""
        now, words = time.time(), tuple(sorted(drift))
        known = self.changes.get(path)
        if known is None:
            if len(self.changes) >= _MOST_CHANGES:
                return False
            self.changes[path] = Change(now, now, 1, words)
            return True
        told = known.drift == words
        known.last, known.count, known.drift = now, known.count + 1, words
        return not told

    def as_json(self) -> dict[str, object]:
        """Return what state.json and ``hardend window --json`` show."""
        return {
            "id": self.id,
            "paths": list(self.paths),
            "until": self.until_text(),
            "expired": self.is_over,
            "by": self.by,
            "reason": self.reason,
            "command": self.command,
            "changes": {path: change.as_json() for path, change in sorted(self.changes.items())},
        }


def new_id() -> str:
    """Return an id that no other window has."""
    return uuid.uuid4().hex[:12]


def is_id(text: object) -> bool:
    """Return whether this is the id of a window, and so safe as a file name."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def expand(entries: Mapping[str, Entry], named: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the entries that a window on the named paths lets go, and the whole trees among them.

    No name is everything that is locked. A directory lets go what is in it, a link what it leads to, a
    source its map, a .mc its .cf. Raises RefusedError for a path that hardend does not hold.
    """
    derived: dict[str, list[str]] = {}
    for entry in entries.values():
        if entry.spec is not None:
            derived.setdefault(entry.spec.source, []).append(entry.path)
    wanted = list(named) or [path for path, entry in entries.items() if "i" in entry.flags]
    if not wanted:  # observe mode on a file system without flags: what would be locked
        locked = (entry for entry in entries.values() if entry.cls is Class.LOCKED)
        wanted = [entry.path for entry in locked if entry.holds_content]
    released: dict[str, None] = {}
    trees: dict[str, None] = {}
    while wanted:
        path = wanted.pop(0)
        if path in released:
            continue
        found = entries.get(path)
        if found is None or found.role is Role.ANCESTOR:
            raise RefusedError(
                f"{printable(path)}: not a path that hardend holds here",
                hint="hardend baseline show lists them; a window without PATH is for all that is locked",
            )
        released[path] = None
        if found.role in _CONTAINERS:
            trees[path] = None
            released.update(dict.fromkeys(name for name in entries if name.startswith(f"{path}/")))
        wanted += _led_to(entries, found)
    for path in list(released):
        built = f"{path.removesuffix('.mc')}.cf"
        from_it = [built] if path.endswith(".mc") and built in entries else []
        released.update(dict.fromkeys([*derived.get(path, []), *from_it]))
    return tuple(sorted(released)), tuple(sorted(trees))


def _led_to(entries: Mapping[str, Entry], entry: Entry) -> list[str]:
    if entry.kind is not FileType.SYMLINK:
        return []
    target = os.path.normpath(os.path.join(os.path.dirname(entry.path), entry.target))
    return [target] if target in entries and entries[target].role is Role.SOURCE else []


def make(
    host: Host,
    *,
    paths: tuple[str, ...],
    trees: tuple[str, ...],
    seconds: float,
    reason: str,
    by: str,
    uid: int,
    command: str = "",
    identifier: str = "",
) -> Window:
    """Return a new window, not yet on disk. Raises OSError where /run/hardend cannot be written."""
    now = boot.clock()
    return Window(
        id=identifier or new_id(),
        boot=boot.identity(host),
        paths=paths,
        trees=trees,
        opened=now,
        until=now + seconds,
        reason=reason,
        by=by,
        uid=uid,
        command=command,
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """A window that somebody asks for: what it is to let go, for how long, why, and who asks."""

    paths: tuple[str, ...]
    seconds: float
    reason: str
    by: str
    uid: int
    command: str = ""
    id: str = field(default_factory=new_id)

    def as_request(self) -> dict[str, object]:
        """Return what is asked of a guard."""
        return {"verb": "window-open", **asdict(self), "paths": list(self.paths)}

    def opened(self, host: Host, entries: Mapping[str, Entry], others: Iterable[Window]) -> Window:
        """Return the window, not yet on disk. Raises RefusedError, and OSError as ``make`` does.

        It is refused for what is not held, or is let go already by one of the others.
        """
        paths, trees = expand(entries, self.paths)
        require_free(others, paths)
        return make(
            host,
            paths=paths,
            trees=trees,
            seconds=self.seconds,
            reason=self.reason[:_MOST_TEXT],
            by=self.by[:_MOST_TEXT],
            uid=self.uid,
            command=self.command[:_MOST_TEXT],
            identifier=self.id,
        )


def require_possible(seconds: float, max_s: float, *, is_off: bool) -> None:
    """Raise RefusedError for a window that lasts longer than may be, or while nothing is held anyway."""
    if not 0 < seconds <= max_s:
        raise RefusedError(
            f"a window lasts {_hours(max_s)} at most", hint="max_window in [windows] of hardend.toml"
        )
    if is_off:
        raise RefusedError("enforcement is off: nothing is held now", hint="hardend on ends that")


def require_free(windows: Iterable[Window], paths: Iterable[str]) -> None:
    """Raise RefusedError where a path is let go already, with who holds it."""
    wanted = list(paths)
    for window in windows:
        held = set(window.paths)
        taken = [path for path in wanted if path in held or window.holds_tree_of(path)]
        if taken:
            more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
            raise RefusedError(
                f"{printable(taken[0])}{more}: {window.describe()}",
                hint=f"hardend lock {printable(taken[0])} ends it, hardend unlock --extend 30m prolongs it",
            )


def extended(window: Window, seconds: float, max_s: float) -> Window:
    """Return a window with a later end. Raises RefusedError for one that is over, or longer than may be."""
    if window.is_over:
        raise RefusedError(f"too late: {window.describe()}", hint="hardend lock ends it; open another one")
    if window.until + seconds - window.opened > max_s:
        left = int(max_s - (window.until - window.opened))
        raise RefusedError(
            f"a window lasts {_hours(max_s)} at most: this one can be prolonged by {max(0, left) // 60}m",
            hint="max_window in [windows] of hardend.toml",
        )
    return replace(window, until=window.until + seconds)


def without(window: Window, paths: Iterable[str]) -> Window | None:
    """Return what is left of a window when some paths are taken back, None for nothing.

    Raises RefusedError for a path that it does not hold, or that it holds with a whole directory.
    """
    gone = set(paths)
    for path in gone:
        if path not in window.paths:
            raise RefusedError(f"{printable(path)}: not in the window of {window.by}")
        above = [tree for tree in window.trees if path.startswith(f"{tree}/") and tree not in gone]
        if above:
            raise RefusedError(
                f"{printable(path)}: let go with {printable(above[0])}",
                hint=f"hardend lock {printable(above[0])} ends both",
            )
    left = tuple(path for path in window.paths if path not in gone)
    trees = tuple(tree for tree in window.trees if tree not in gone)
    changes = {path: change for path, change in window.changes.items() if path not in gone}
    return replace(window, paths=left, trees=trees, changes=changes) if left else None


def is_warning_due(window: Window, threshold_s: int) -> bool:
    """Return whether the owner is to be told that so much time is left; not in a shorter window."""
    return 0 < window.remaining_s <= threshold_s < window.until - window.opened


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:g}h"
