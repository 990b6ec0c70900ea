# SPDX-License-Identifier: Apache-2.0
"""What the guard tells: events for the journal, and the document that it publishes."""

from __future__ import annotations

import os
import statistics
from collections import deque
from typing import TYPE_CHECKING

from hardend import boot
from hardend.journal import Event, Journal
from hardend.model import Class, Drift, Role, State, printable
from hardend.watch import Channel

if TYPE_CHECKING:
    from hardend.enforcer import Enforcer
    from hardend.guard import Guard
    from hardend.table import Held

UNLOCKED_BREAKS = "immutable-files"  # the rule; what else a drift breaks, hardend-collect works out
_WORST_FIRST = (State.FAILED, State.CONTESTED, State.DRIFTED)


class GuardReporter:
    """Implements the enforcer's Reporter; ``changed`` says that state.json is out of date."""

    enforcer: Enforcer

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.changed = True
        self._latencies: deque[int] = deque(maxlen=1000)
        self.faults: list[str] = []

    def drifted(self, held: Held, drift: frozenset[Drift]) -> None:
        """Report a drift that stays."""
        did = "changed in a maintenance window" if held.window else "drifted"
        self._tell(Event.DRIFT_FOUND, held, drift, f"{self._name(held)} {did}: {_words(drift)}")

    def restored(self, held: Held, drift: frozenset[Drift], taken: str, latency_us: int) -> None:
        """Report a drift and that it is put back."""
        self._latencies.append(latency_us)
        kind = Event.LOCK_REMOVED if drift == {Drift.FLAGS} else Event.PATH_RESTORED
        text = f"{self._name(held)} put back after {latency_us} us: {_words(drift)}"
        note = f"; {held.reason}" if held.reason else ""
        rule = UNLOCKED_BREAKS if kind is Event.LOCK_REMOVED else None
        self._tell(
            *(kind, held, drift, text + note),
            QUARANTINE_ID=taken or None,
            LATENCY_US=latency_us,
            RULE=rule,
        )

    def contested(self, held: Held, drift: frozenset[Drift]) -> None:
        """Report a fight over a path."""
        text = (
            f"{self._name(held)} keeps drifting ({held.history.restores} times): "
            f"still put back each time, reported rarely"
        )
        self._tell(Event.PATH_CONTESTED, held, drift, text)

    def failed(self, held: Held, drift: frozenset[Drift]) -> None:
        """Report a path that could not be put back."""
        self._tell(
            Event.RESTORE_FAILED,
            held,
            drift,
            f"{self._name(held)} could not be put back ({_words(drift)}): {held.reason}",
        )

    def unexpected(self, held: Held, name: bytes, taken: str) -> None:
        """Report a name that appeared in a protected directory."""
        path = os.path.join(held.entry.path, os.fsdecode(name))
        did = "set aside" if taken else "left in place"
        self.changed = True
        self._journal.event(
            Event.DRIFT_FOUND,
            f"{printable(path)} appeared in a protected directory: {did}",
            PATH=path,
            DRIFT=Drift.UNEXPECTED.value,
            GENERATION=self._generation(),
            STATE=(State.RESTORED if taken else State.DRIFTED).value,
            QUARANTINE_ID=taken or None,
            WINDOW_ID=held.window or None,
        )

    def overflow(self, channel: str) -> None:
        """Report that the kernel dropped events of a descriptor; a full pass follows."""
        self.changed = True
        self._journal.event(
            Event.OVERFLOW, f"events of the {channel} descriptor overflowed: looking at everything"
        )

    def store_fault(self, text: str) -> None:
        """Report a fault of the store or the layout; it stays in the published document."""
        if text not in self.faults:
            self.faults.append(text)
        self.changed = True
        self._journal.event(Event.BASELINE_REJECTED, text)

    def overall(self, *, paused: bool) -> str:
        """Return off, failed, unprotected, contested, drifted, window or clean; the first that is true.

        What differs in a maintenance window is no drift, and the host is not clean as long as one is open.
        """
        if paused:
            return "off"
        if self.faults:
            return State.FAILED.value
        if self.enforcer.generation is None:
            return State.UNPROTECTED.value
        table = [held for held in self.enforcer.table if not held.window]
        states = {held.state for held in table}
        for state in _WORST_FIRST:
            if state in states:
                return state.value
        if any(held.strangers for held in table):
            return State.DRIFTED.value
        return "window" if self.enforcer.released.windows else State.CLEAN.value

    def document(self, guard: Guard) -> dict[str, object]:
        """Return state.json (contract: hardend(8), FILES)."""
        enforcer = guard.enforcer
        generation = enforcer.generation
        instances = guard.watch.instances
        off = guard.pause
        return {
            "schema": 1,
            "state": guard.overall(),
            "mode": enforcer.mode.value,
            "since": guard.since,
            "pid": os.getpid(),
            "heartbeat": boot.clock(),
            "generation": generation.number if generation else 0,
            "layout": generation.layout if generation else "",
            "approved": {
                "time": generation.time,
                "author": generation.author,
                "reason": generation.reason,
            }
            if generation
            else None,
            "entries": len(enforcer.table),
            "faults": self.faults,
            "paths": self._paths(),
            "contested": [
                held.entry.path for held in enforcer.table if held.state is State.CONTESTED
            ],
            "off": {"until": off.until_text(), "reason": off.reason, "by": off.by} if off else None,
            "windows": [window.as_json() for window in enforcer.released.windows.values()],
            "last_drift": {
                path: {"since_ns": since, "until_ns": until}
                for path, (since, until) in enforcer.last_drift.items()
            },
            "events": {channel.value: instances[channel].events for channel in Channel},
            "overflows": {channel.value: instances[channel].overflows for channel in Channel},
            "last_pass": guard.last_pass_at,
            "passes": enforcer.counters.passes,
            "restores": enforcer.counters.restores,
            "relocks": enforcer.examiner.relocks,
            "looks": enforcer.counters.looks,
            "taken": enforcer.aside.count,
            "rebuilds": guard.jobs.started["rebuild"],
            "watches": guard.watch.count,
            "journal_dropped": self._journal.dropped,
            "restore_us": self._restore_us(),
            "scheduling": guard.scheduling,
            "own_files": guard.own_files.document,
        }

    def _paths(self) -> dict[str, dict[str, object]]:
        """Return every path that is not clean, with since when and why."""
        paths: dict[str, dict[str, object]] = {}
        for held in self.enforcer.table:
            if held.state not in {State.CLEAN, State.UNPROTECTED} or held.unverified:
                paths[held.entry.path] = {
                    "state": held.state.value,
                    "since": held.since,
                    "drift": sorted(held.drift),
                    "reason": held.reason
                    or ("what it holds is being checked" if held.unverified else "")
                    or ("let go by a maintenance window" if held.window else ""),
                }
            for name in held.strangers:
                paths[os.path.join(held.entry.path, os.fsdecode(name))] = {
                    "state": State.DRIFTED.value,
                    "since": held.since,
                    "drift": [Drift.UNEXPECTED.value],
                    "reason": "let go by a maintenance window" if held.window else "no entry of the baseline",
                }
        return paths

    def _restore_us(self) -> dict[str, int]:
        times = sorted(self._latencies)
        if not times:
            return {"count": 0, "last": 0, "median": 0, "p99": 0}
        return {
            "count": len(times),
            "last": self._latencies[-1],
            "median": int(statistics.median(times)),
            "p99": times[min(len(times) - 1, len(times) * 99 // 100)],
        }

    def _tell(
        self, kind: Event, held: Held, drift: frozenset[Drift], text: str, **fields: object
    ) -> None:
        self.changed = True
        self._journal.event(
            kind,
            text,
            PATH=held.entry.path,
            DRIFT=_words(drift),
            GENERATION=self._generation(),
            STATE=held.state.value,
            WINDOW_ID=held.window or None,
            **fields,
        )

    def _generation(self) -> int:
        return self.enforcer.generation.number if self.enforcer.generation else 0

    @staticmethod
    def _name(held: Held) -> str:
        secret = held.entry.cls is Class.ATTRIBUTES and held.entry.role is Role.SOURCE
        return printable(held.entry.path) + (" (attributes only)" if secret else "")


def _words(drift: frozenset[Drift]) -> str:
    return " ".join(sorted(drift))
