# SPDX-License-Identifier: Apache-2.0
"""What is known of the guard from outside: its last word, and whether that still holds.

Reads /run/hardend/state.json and the guard's lock, nothing else, and needs no privilege for it.
Status service and metrics answer from the same view, so that they cannot disagree.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from hardend import state as states
from hardend.errors import FileError
from hardend.model import Host
from hardend.varlink import shown

# The guard publishes once a second at least. Half of what its watchdog waits (state.STALE_AFTER_S),
# because the watchdog ends a hung guard at just that moment.
STALE_AFTER_S = 5.0
WORST_FIRST = ("failed", "contested", "drifted", "restored")
STATES = ("clean", "drifted", "contested", "failed", "window", "off", "unprotected", "starting", "unknown")

Document = Mapping[str, object]
_Identity = tuple[int, int, int]
_NOTHING: Document = {}


class Watched(StrEnum):
    """Whether a guard runs, as io.hardend.Status has it."""

    RUNNING = "running"
    STARTING = "starting"
    HUNG = "hung"
    DEAD = "dead"
    NEVER_STARTED = "never_started"


@dataclass(frozen=True, slots=True)
class View:
    """The guard's last word. Texts in ``document`` are safe to show (``varlink.shown``).

    ``published`` is when that word was said, realtime seconds; None when nothing ever was.
    """

    guard: Watched
    published: float | None = None
    document: Document = field(default_factory=dict)

    @property
    def proven(self) -> bool:
        """Whether the document is how the host is now."""
        return self.guard is Watched.RUNNING

    @property
    def unproven_since(self) -> float | None:
        """When it was proven last; None while it is, and when it never was."""
        return None if self.proven else self.published

    @property
    def state(self) -> str:
        """The one word for the host, or unknown."""
        if self.guard is Watched.STARTING:
            return "starting"
        word = self.document.get("state")
        return word if isinstance(word, str) and word in STATES else "unknown"

    def drifts(self) -> list[dict[str, object]]:
        """Return the paths that are not clean, the worst first, as GetDrift gives them."""
        paths = self.document.get("paths")
        if not isinstance(paths, Mapping):
            return []
        found = [{"path": path, **held} for path, held in paths.items() if isinstance(held, Mapping)]
        order = {word: place for place, word in enumerate(WORST_FIRST)}
        return sorted(found, key=lambda each: (order.get(str(each.get("state")), 9), str(each["path"])))


class Outlook:
    """Looks at the guard again and again; reads what it published only when that has changed."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._identity: _Identity | None = None
        self._raw: dict[str, object] | None = None
        self._shown: Document = _NOTHING
        self._damaged = False
        self._last = View(Watched.NEVER_STARTED)

    def look(self) -> View:
        """Return the view of now: the same object as before when nothing is new."""
        for _ in range(3):  # what a guard published between two of our looks is not mixed with the lock
            identity = self._identity_now()
            if identity != self._identity:
                self._read(identity)
            guard = self._guard()
            if identity == self._identity_now():
                break
        published = self._identity[1] / 1e9 if self._identity else None
        document = _NOTHING if guard is Watched.STARTING else self._shown
        last = self._last
        if (guard, published) != (last.guard, last.published) or document is not last.document:
            self._last = View(guard, published, document)
        return self._last

    def _identity_now(self) -> _Identity | None:
        try:
            found = os.lstat(self._host.state_file)
        except OSError:
            return None
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def _read(self, identity: _Identity | None) -> None:
        self._identity = identity
        self._damaged = False
        try:
            self._raw = states.read(self._host)
            whole = shown(self._raw)
        except (FileError, RecursionError):
            self._raw, whole = None, None
            self._damaged = True
        self._shown = whole if isinstance(whole, dict) else _NOTHING

    def _guard(self) -> Watched:
        if not states.guard_is_alive(self._host):
            never = self._raw is None and not self._damaged
            return Watched.NEVER_STARTED if never else Watched.DEAD
        if self._damaged:
            return Watched.HUNG
        if not states.is_of_this_guard(self._host, self._raw):
            return Watched.STARTING
        heartbeat = self._raw.get("heartbeat") if self._raw else None
        if not isinstance(heartbeat, int | float):
            return Watched.HUNG
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - heartbeat
        return Watched.HUNG if age_s > STALE_AFTER_S else Watched.RUNNING
