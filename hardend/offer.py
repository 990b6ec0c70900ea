# SPDX-License-Identifier: Apache-2.0
"""What a run of hardend-rebuild works with, and to whom it offers what a map answers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from hardend import control, state
from hardend.baseline import trust
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.enforcer import Enforcer
from hardend.errors import HardendError
from hardend.journal import Event, Journal
from hardend.layout import Layout
from hardend.maps import Copy, Tools
from hardend.model import Drift, Entry, Host
from hardend.mta_memory import Memory
from hardend.table import Held


@dataclass(frozen=True, slots=True)
class Means:
    """What a run of hardend-rebuild works with; without ``may_change`` it only reports."""

    host: Host
    settings: Settings
    layout: Layout
    tools: Tools
    store: Store
    journal: Journal
    memory: Memory
    may_change: bool

    def tell_once(self, subject: str, text: str, **fields: object) -> None:
        """Tell the journal of a failure, once for as long as it is the same."""
        if self.may_change and self.memory.told.get(subject) != text:
            self.memory.told[subject] = text
            self.journal.event(Event.OUTCOME_FAILED, text, **fields)

    def tell_refused(self, path: str, text: str) -> None:
        """Tell the journal of content that may not stay; the same once a minute, however often it comes."""
        told = f"{int(time.time() // 60)} {text}"
        if self.memory.told.get(f"refused {path}") != told:
            self.memory.told[f"refused {path}"] = told
            self.journal.event(Event.BASELINE_REJECTED, text, PATH=path)


class Offer(Protocol):
    """Takes the word on what a map answers, or a checked file holds; puts the stored one in where wrong."""

    def tell(self, entry: Entry, copy: Copy, answers: str) -> bool:
        """Return False when the file changed since it was copied: it must be looked at again."""

    def close(self) -> None:
        """Let go of everything."""


class ToGuard:
    """The guard runs: only it exchanges."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def tell(self, entry: Entry, copy: Copy, answers: str) -> bool:
        """Send a map-report; a guard that does not answer has not taken it."""
        request: control.Request = {
            "verb": "map-report",
            "path": entry.path,
            "ino": copy.ino,
            "ctime_ns": copy.ctime_ns,
            "size": len(copy.content),
            "answers": answers,
        }
        try:
            return bool(control.ask(self._host, request).get("taken"))
        except HardendError:
            return False

    def close(self) -> None:
        """Nothing is held."""


class ByOwnPass:
    """No guard runs and the administrator asks: this process does what the guard would do."""

    def __init__(self, host: Host, settings: Settings) -> None:
        self._host = host
        self._settings = settings
        self._enforcer: Enforcer | None = None
        self._generation = 0
        self.notes = Notes()

    def tell(self, entry: Entry, copy: Copy, answers: str) -> bool:
        """Exchange the stored map in if this one answers otherwise; nothing happens to a right one.

        Raises StoreError when the generation cannot be loaded.
        """
        if answers == entry.answers:
            return True
        return self._loaded().map_report(entry.path, copy.ino, copy.ctime_ns, answers=answers)

    def close(self) -> None:
        """Close the pass."""
        if self._enforcer is not None:
            self._enforcer.close()
            self._enforcer = None

    def _loaded(self) -> Enforcer:
        store = Store(self._host)
        generation = trust.in_force(self._host, store, self._settings).generation
        if self._enforcer is None or self._generation != generation.number:
            self.close()
            made = Enforcer(self._host, self._settings, store, self.notes, _Unwatched())
            self._enforcer, self._generation = made, generation.number
            made.load(generation, strict=True)
            made.full_pass(thorough=True)
        return self._enforcer


class OnlyReport:
    """Observe mode, or enforcement is off: nothing is exchanged."""

    def tell(self, entry: Entry, copy: Copy, answers: str) -> bool:
        """Take the word and do nothing."""
        del entry, copy, answers
        return True

    def close(self) -> None:
        """Nothing is held."""


def offer_for(means: Means) -> Offer:
    """Return to whom maps are offered on this host now."""
    if state.guard_is_alive(means.host):
        return ToGuard(means.host)
    return ByOwnPass(means.host, means.settings) if means.may_change else OnlyReport()


class Notes:
    """A reporter that remembers in sentences."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failures: list[str] = []

    def drifted(self, held: Held, drift: frozenset[Drift]) -> None:
        """A drift that stays."""
        self.failures.append(f"{held.entry.path}: {' '.join(sorted(drift))}")

    def restored(self, held: Held, drift: frozenset[Drift], taken: str, latency_us: int) -> None:
        """A path that was put back."""
        del taken, latency_us
        self.done.append(f"{held.entry.path}: put back: {' '.join(sorted(drift))}")

    def contested(self, held: Held, drift: frozenset[Drift]) -> None:
        """A path that was put back again."""
        self.done.append(f"{held.entry.path}: put back again: {' '.join(sorted(drift))}")

    def failed(self, held: Held, drift: frozenset[Drift]) -> None:
        """A path that could not be put back."""
        self.failures.append(f"{held.entry.path}: {' '.join(sorted(drift))}: {held.reason}")

    def unexpected(self, held: Held, name: bytes, taken: str) -> None:
        """What appeared in a directory is the guard's to tell."""


class _Unwatched:
    """A pass without a loop watches nothing."""

    def arm(self, held: Held, descriptor: int) -> None:
        """Do nothing."""

    def settle(self, held: Held) -> None:
        """Do nothing."""

    def forget(self, held: Held) -> None:
        """Do nothing."""
