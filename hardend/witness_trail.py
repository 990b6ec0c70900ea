# SPDX-License-Identifier: Apache-2.0
"""Who changed what lately, and who of them it was when the guard puts something back. No I/O.

The kernel's queue is in order: what stands in it before the guard's own rename of a path, and behind the
one before, was done to what the guard took away. Where that leaves several, all are named.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from hardend.witness_process import Process

_PATHS = 256
_PROCESSES = 16  # of a path: 4096 in all
_NEAR_NS = 5_000_000_000  # the guard looks within milliseconds, the slowest sweep within seconds
_FAR_NS = 3600_000_000_000
_ONE_RESTORE_NS = 200_000_000
_NAMED = 8


@dataclass(frozen=True, slots=True)
class Seen:
    """A process, and what it did to a path: words of ``witness_log.EXPLAINS``."""

    process: Process
    did: frozenset[str]
    at_ns: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who changed a path before it was put back; ``id`` is that of what was set aside, "" for nothing.

    ``is_sure`` tells that the kernel reported these ``suspects`` and nobody else; without it it may have been
    any of them, or somebody who was not seen.
    """

    path: str
    id: str
    time_ns: int
    suspects: tuple[Seen, ...]
    is_sure: bool


@dataclass(slots=True)
class _Trail:
    """The processes that changed a path: since the guard last acted on it, and before that act."""

    open: OrderedDict[int, Seen] = field(default_factory=OrderedDict)
    closed: dict[int, Seen] = field(default_factory=dict)
    closed_ns: int = 0


class Trails:
    """What is remembered of every path, within bounds."""

    def __init__(self) -> None:
        self._trails: OrderedDict[str, _Trail] = OrderedDict()
        self._renamed: OrderedDict[int, str] = OrderedDict()
        self._lost_ns = -_NEAR_NS

    def clear(self) -> None:
        """Forget everything: what is there now was approved."""
        self._trails.clear()

    def lost(self, now_ns: int) -> None:
        """Take note that the kernel dropped events: for a while nothing is sure."""
        self._lost_ns = now_ns

    def changed(self, path: str, by: Process, now_ns: int, did: frozenset[str]) -> None:
        """Take note of a change by somebody."""
        trail = self._trail(path)
        before = trail.open.get(by.pid)
        trail.open[by.pid] = Seen(by, did | before.did if before else did, now_ns)
        trail.open.move_to_end(by.pid)
        if len(trail.open) > _PROCESSES:
            trail.open.popitem(last=False)
            self._lost_ns = now_ns
        if "name" in did:
            self._rename(by.pid, path)

    def replaced(self, path: str, pid: int, now_ns: int) -> None:
        """Take note that hardend itself put something at a path, or took it away."""
        trail = self._trail(path)
        # One restore may take two renames.
        if trail.open or now_ns - trail.closed_ns > _ONE_RESTORE_NS:
            trail.closed, trail.closed_ns = dict(trail.open), now_ns
            trail.open.clear()
        self._rename(pid, path)

    def amended(self, path: str, now_ns: int) -> Verdict | None:
        """Take note that hardend itself put attributes back in place; return who had changed them lately."""
        trail = self._trail(path)
        verdict = self._verdict(path, "", dict(trail.open), now_ns, far_ns=_NEAR_NS)
        trail.open.clear()
        return verdict if verdict.suspects else None

    def taken(self, identifier: str, pid: int, now_ns: int) -> Verdict | None:
        """Judge who changed what process ``pid`` set aside; None where it is not known from where."""
        path = self._renamed.get(pid)
        if path is None:
            return None
        trail = self._trail(path)
        if trail.closed:
            changed, trail.closed = trail.closed, {}
        else:
            changed = dict(trail.open)
            trail.open.clear()
        changed.pop(pid, None)  # an administrator's own revert
        return self._verdict(path, identifier, changed, now_ns, far_ns=_FAR_NS)

    def _verdict(
        self, path: str, identifier: str, changed: dict[int, Seen], now_ns: int, far_ns: int
    ) -> Verdict:
        near = [one for one in changed.values() if now_ns - one.at_ns <= _NEAR_NS]
        suspects = near or [one for one in changed.values() if now_ns - one.at_ns <= far_ns]
        is_sure = bool(near) and len(near) <= _NAMED and now_ns - self._lost_ns > _NEAR_NS
        return Verdict(path, identifier, now_ns, tuple(suspects[-_NAMED:]), is_sure)

    def _trail(self, path: str) -> _Trail:
        trail = self._trails.setdefault(path, _Trail())
        self._trails.move_to_end(path)
        if len(self._trails) > _PATHS:
            self._trails.popitem(last=False)
        return trail

    def _rename(self, pid: int, path: str) -> None:
        self._renamed[pid] = path
        self._renamed.move_to_end(pid)
        if len(self._renamed) > _PROCESSES:
            self._renamed.popitem(last=False)
