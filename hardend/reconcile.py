# SPDX-License-Identifier: Apache-2.0
"""The judgement: how a path differs from its entry, and what is to be done about it. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hardend.model import Class, Drift, Entry, FileType, Mode, Role, Word
from hardend.observe import Actual

# A POSIX ACL lives in these attributes (acl(5)); the rest are plain extended attributes.
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")

_CONTAINERS = frozenset({Role.ANCESTOR, Role.DIRECTORY, Role.CLOSED, Role.QUEUE})


class Act(Word):
    """What to do about a drift."""

    NOTHING = "nothing"
    REPORT = "report"  # observe mode, or nothing that can be put back
    RELOCK = "relock"  # only the inode flags differ: set them on the same inode
    AMEND = "amend"  # owner, mode, ACL put right in place: directories, attributes, maps, checked files
    EXCHANGE = "exchange"  # the verified spare goes in, what was there goes aside
    REBUILD = "rebuild"  # the content may change; the rebuild unit checks it


def compare(entry: Entry, actual: Actual | None) -> frozenset[Drift]:
    """Return every way in which the path differs; fields of ``actual`` that are None are not judged."""
    if actual is None:
        return frozenset({Drift.MISSING})
    if actual.kind is not entry.kind:
        return frozenset({Drift.TYPE})
    drift = set()
    if actual.uid != entry.uid:
        drift.add(Drift.OWNER)
    if actual.gid != entry.gid:
        drift.add(Drift.GROUP)
    if actual.mode != entry.mode and entry.kind is not FileType.SYMLINK:
        drift.add(Drift.MODE)
    if actual.flags is not None and actual.flags != entry.flags:
        drift.add(Drift.FLAGS)
    if actual.xattrs is not None and actual.xattrs != entry.xattrs:
        drift |= _attribute_drift(entry, actual.xattrs)
    return frozenset(drift | _substance(entry, actual))


def _attribute_drift(entry: Entry, xattrs: tuple[tuple[str, str], ...]) -> set[Drift]:
    changed = {name for name, _ in set(xattrs) ^ set(entry.xattrs)}
    drift = {Drift.ACL} if changed & set(_ACLS) else set()
    return drift | ({Drift.XATTR} if changed - set(_ACLS) else set())


def _substance(entry: Entry, actual: Actual) -> set[Drift]:
    """Return the drifts of what the path holds, as far as its class holds it."""
    drift = set()
    if entry.role is Role.LINK:
        if actual.target is not None and actual.target != entry.target:
            drift.add(Drift.TARGET)
        return drift
    if not entry.holds_content:
        return drift
    if actual.digest is None:
        if actual.size != entry.size:
            drift.add(Drift.CONTENT)
    elif actual.digest != entry.digest:
        drift.add(Drift.CONTENT)
    # A checked file gets a new time stamp with its new content.
    if actual.mtime_ns != entry.mtime_ns and entry.cls is Class.LOCKED:
        drift.add(Drift.STALE)
    return drift


def decide(entry: Entry, drift: frozenset[Drift], mode: Mode) -> Act:
    """Return the act for a drift; the most thorough one that the entry allows."""
    if not drift:
        return Act.NOTHING
    if mode is Mode.OBSERVE:
        return Act.REPORT
    if entry.role in _CONTAINERS:
        return Act.AMEND
    if drift == {Drift.FLAGS}:
        return Act.RELOCK
    if entry.role is Role.SOURCE and entry.cls is Class.CHECKED and not drift & _GONE:
        return Act.REBUILD if drift <= _CHECKABLE else Act.AMEND
    if entry.role is Role.LINK or entry.holds_content:
        return Act.EXCHANGE
    if entry.role is Role.MAP and not entry.opaque and drift & _REPLACES_MAP:
        return Act.EXCHANGE
    if drift & _GONE:
        return Act.REPORT  # its content is not held (class attributes, opaque map)
    return Act.AMEND


_REPLACES_MAP = frozenset({Drift.MISSING, Drift.TYPE, Drift.CONTENT})
_GONE = frozenset({Drift.MISSING, Drift.TYPE})
_KEPT_IN_A_FIGHT = 64
_CHECKABLE = frozenset({Drift.CONTENT, Drift.STALE})


@dataclass(slots=True)
class History:
    """How often a path was put back lately: a fight is contested, and told once.

    Times are seconds of one steady clock. A contested path calms down when it was not touched for
    ``within_s``; while it lasts, it is told again after 60, 120, 240 ... seconds.
    """

    count: int
    within_s: float
    times: deque[float] = field(default_factory=deque)
    contested: bool = False
    incident: str = ""
    last: float = 0.0
    restores: int = 0
    kept: int = 0
    unproven: bool = False  # content was put back in a fight, and no rebuild was asked for since
    _tell_at: float = 0.0
    _pause_s: float = 60.0

    def note(self, now: float) -> bool:
        """Record a restore; True when it is to be told: not in a fight, or the fight's turn has come."""
        self._calm(now)
        self.times.append(now)
        self.last = now
        self.restores += 1
        while self.times and now - self.times[0] > self.within_s:
            self.times.popleft()
        if not self.contested:
            if len(self.times) < self.count:
                return True
            self.contested = True
            self._tell_at = now + self._pause_s
            return True
        if now < self._tell_at:
            return False
        self._pause_s = min(self._pause_s * 2, 3600.0)
        self._tell_at = now + self._pause_s
        return True

    @property
    def keeps(self) -> bool:
        """Whether what is replaced is kept; a fight would fill the disk with it: the beginning tells."""
        return not self.contested or self.kept < _KEPT_IN_A_FIGHT

    def settled(self, now: float) -> bool:
        """Return whether a contested path has been quiet long enough; forgets the fight then."""
        was = self.contested
        self._calm(now)
        return was and not self.contested

    def _calm(self, now: float) -> None:
        if self.last and now - self.last > self.within_s:
            self.times.clear()
            self.contested = False
            self.incident = ""
            self.restores = self.kept = 0
            self._pause_s = 60.0
