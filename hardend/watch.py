# SPDX-License-Identifier: Apache-2.0
"""Watching with inotify(7): three descriptors, watches on directories and on inodes, one reader.

watchdog's InotifyFD opens the descriptors, keeps the watches and parses the records; its thread is
never started. An event says only "look at this path".
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

from hardend.model import Role, Word
from hardend.table import Held, is_watched_content

_C = InotifyConstants
# One mask for each kind of object: a second watch on an inode replaces the mask of the first.
_INODE = Mask(_C.IN_MODIFY | _C.IN_ATTRIB | _C.IN_CLOSE_WRITE | _C.IN_MOVE_SELF | _C.IN_DELETE_SELF)
_NAMES = Mask(
    _C.IN_ATTRIB
    | _C.IN_MOVED_FROM
    | _C.IN_MOVED_TO
    | _C.IN_CREATE
    | _C.IN_DELETE
    | _C.IN_MOVE_SELF
    | _C.IN_DELETE_SELF
    | _C.IN_ONLYDIR
)
_HINT = Mask(_C.IN_OPEN | _C.IN_CLOSE_NOWRITE)
_GONE = _C.IN_IGNORED | _C.IN_UNMOUNT
_BUFFER = 1 << 16
_RECORD = 16  # struct inotify_event without a name
_HINTS_BUFFER = 256 * _RECORD
_ID = CallbackId(1)

# A readable file can be opened in a loop by anybody: past this many hints in the span, the path's
# hints are off for as long again and the sweep covers it.
HINTS_PER_SPAN = 200
SPAN_S = 0.1
_RARE = 16  # hints in a span, to each of which a closer look is given
_LINGER = 24  # times, 2 us each


class Channel(Word):
    """The three descriptors: an overflow of one loses nothing of the others."""

    CONFIG = "config"
    HINTS = "hints"
    QUEUES = "queues"


class _Bookkeeping:
    """InotifyFD wants a callback for each watch; we read the descriptor ourselves."""

    def on_event(self, event: InotifyEvent) -> None:
        """Never called: the loop dispatches by watch descriptor."""

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Never called: see on_event."""

    def on_queue_overflow(self) -> None:
        """Never called: see on_event."""


_CALLBACK = _Bookkeeping()


@dataclass(slots=True)
class _Bucket:
    count: int = 0
    since: float = 0.0
    off_until: float = 0.0


@dataclass(slots=True, eq=False)
class _Instance:
    """One inotify descriptor and which entry each of its watches belongs to."""

    inotify: InotifyFD
    descriptor: int
    held: dict[int, Held] = field(default_factory=dict)
    events: int = 0
    overflows: int = 0

    def add(self, held: Held, descriptor: int, mask: Mask) -> int:
        path = f"/proc/self/fd/{descriptor}".encode()
        watch = self.inotify.add_callback(path, mask, _CALLBACK, _ID)
        self.held[watch] = held
        return watch

    def remove(self, watch: int) -> None:
        self.held.pop(watch, None)
        with contextlib.suppress(OSError):
            self.inotify.remove_callbacks([(WatchDescriptor(watch), _ID)])

    def read(self) -> Iterable[tuple[int, int, int, bytes]]:
        """Return the records that are waiting; the caller knows that there are some."""
        return InotifyFD._parse_event_buffer(os.read(self.descriptor, _BUFFER))  # noqa: SLF001


@dataclass(slots=True)
class Batch:
    """What one reading says: paths and how many events each had, names, overflow, lost watches."""

    paths: dict[Held, int] = field(default_factory=dict)
    names: dict[tuple[Held, bytes], None] = field(default_factory=dict)
    overflow: bool = False
    lost: dict[Held, None] = field(default_factory=dict)


class Watch:
    """All watches of the guard. Implements the enforcer's Watcher."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.instances = {channel: _open_instance() for channel in Channel}
        self._hints = self.instances[Channel.HINTS]
        # Of each entry: inode -> watch, so that no inode is watched twice.
        self._watches: dict[Held, dict[Channel, dict[int, int]]] = {}
        self._buckets: dict[Held, _Bucket] = {}
        self._quiet: list[Held] = []
        self._alarm = -1  # the watch of the program that takes locks off
        self.alerted = False  # it was started since this was set back

    def close(self) -> None:
        """Close the three descriptors, and the pipes that InotifyFD keeps beside them."""
        for instance in self.instances.values():
            instance.inotify._is_reading = False  # noqa: SLF001 - no thread: close at once
            instance.inotify.close()

    @property
    def count(self) -> int:
        """How many watches there are."""
        return sum(len(instance.held) for instance in self.instances.values())

    def arm(self, held: Held, descriptor: int) -> None:
        """Watch one more inode of the entry, before it is exchanged in."""
        if not is_watched_content(held):
            return
        self._add(held, Channel.CONFIG, descriptor, _INODE)
        if "i" in held.entry.flags:
            self._add(held, Channel.HINTS, descriptor, _HINT)

    def settle(self, held: Held) -> None:
        """Watch the live inode (and the waiting spare), and drop the watches of older inodes.

        The old watch goes here, so that purging a taken inode is never "watch lost".
        """
        keep = set()
        for descriptor in (held.descriptor, held.spare.descriptor if held.spare else -1):
            if descriptor >= 0:
                keep.add(os.fstat(descriptor).st_ino)
        for channel, watches in self._watches.get(held, {}).items():
            for inode in set(watches) - keep:
                self.instances[channel].remove(watches.pop(inode))
        if held.is_directory and held.descriptor >= 0:
            chosen = _channel_of(held)
            if chosen is not None:
                self._add(held, chosen, held.descriptor, _NAMES)
            return
        if held.descriptor >= 0:
            self.arm(held, held.descriptor)
        if held.spare is not None:
            self.arm(held, held.spare.descriptor)

    def forget(self, held: Held) -> None:
        """Watch nothing of the entry any more."""
        for channel, watches in self._watches.pop(held, {}).items():
            for watch in watches.values():
                self.instances[channel].remove(watch)
        self._buckets.pop(held, None)
        self._quiet = [quiet for quiet in self._quiet if quiet is not held]

    def read(self, channel: Channel) -> Batch:
        """Read what waits on a descriptor that poll says is readable."""
        return self._digest(channel, self.instances[channel].read())

    def read_hints(self, ask: Callable[[Held], bool]) -> Batch:
        """Read the hints, and ``ask`` for the lock of each path before anything else is worked out.

        A shell writes as little as 100 us after its chattr(1) has taken the lock, and chattr(1) takes it
        some 20 us after it opened the file (measured): going back to sleep in between loses the race.
        So a lock that is still on is asked for a little longer, unless hints come all the time.
        """
        data = os.read(self._hints.descriptor, _HINTS_BUFFER)
        held_by = self._hints.held
        last = None
        for at in range(0, len(data), _RECORD):  # inodes are watched here: no record has a name
            watch = int.from_bytes(data[at : at + 4], sys.byteorder, signed=True)
            held = held_by.get(watch)
            if held is None:
                self.alerted = self.alerted or watch == self._alarm
                continue
            if held is last:
                continue
            last = held
            if not ask(held) and self._is_rare(held):
                any(ask(held) for _ in range(_LINGER))
        return self._digest(Channel.HINTS, InotifyFD._parse_event_buffer(data))  # noqa: SLF001

    def _is_rare(self, held: Held) -> bool:
        bucket = self._buckets.get(held)
        return bucket is None or bucket.count < _RARE or self._clock() - bucket.since > SPAN_S

    def _digest(self, channel: Channel, records: Iterable[tuple[int, int, int, bytes]]) -> Batch:
        instance = self.instances[channel]
        batch = Batch()
        held_by = instance.held
        count = 0
        for watch, mask, _cookie, name in records:
            count += 1
            if mask & _C.IN_Q_OVERFLOW:
                instance.overflows += 1
                batch.overflow = True
                continue
            held = held_by.get(watch)
            if held is None:
                if watch == self._alarm and mask & (_GONE | _C.IN_MOVE_SELF):
                    self.ignore_alarm()  # another stands in its place: see heed
                continue
            if mask & _GONE:
                instance.remove(watch)
                self._lose(held, channel, watch)
                batch.lost[held] = None
            elif name:
                batch.names[held, name] = None
            else:
                batch.paths[held] = batch.paths.get(held, 0) + 1
        instance.events += count
        return batch

    def hinted(self, held: Held, count: int = 1) -> bool:
        """Count hints; False when the path's are more than are listened to, and are off now."""
        now = self._clock()
        bucket = self._buckets.setdefault(held, _Bucket(since=now))
        if now - bucket.since > SPAN_S:
            bucket.count, bucket.since = 0, now
        bucket.count += count
        if bucket.count < HINTS_PER_SPAN:
            return True
        bucket.off_until = now + SPAN_S
        for watch in self._watches.get(held, {}).pop(Channel.HINTS, {}).values():
            self.instances[Channel.HINTS].remove(watch)
        self._quiet.append(held)
        return False

    def heed(self, program: str) -> None:
        """Be warned by the start of a program: half a millisecond before it opens what it is to change.

        Called every few seconds: the program may have been replaced, or its warnings be off for a while.
        """
        if self._alarm < 0:
            with contextlib.suppress(OSError):
                self._alarm = self._hints.inotify.add_callback(
                    os.fsencode(program), Mask(_C.IN_OPEN | _C.IN_MOVE_SELF), _CALLBACK, _ID
                )

    def ignore_alarm(self) -> None:
        """Be warned no more, until ``heed`` is called again."""
        watch, self._alarm = self._alarm, -1
        with contextlib.suppress(OSError):
            self._hints.inotify.remove_callbacks([(WatchDescriptor(watch), _ID)])

    def listen_again(self) -> list[Held]:
        """Put the hint watches back whose pause is over; return their paths, to be looked at."""
        now = self._clock()
        back = [held for held in self._quiet if self._buckets[held].off_until <= now]
        for held in back:
            self._quiet.remove(held)
            self._buckets[held].count = 0
            self.settle(held)
        return back

    @property
    def quiet(self) -> Sequence[Held]:
        """The paths whose hints are off for the moment: whoever wants to know must look."""
        return self._quiet

    def _add(self, held: Held, channel: Channel, descriptor: int, mask: Mask) -> None:
        watches = self._watches.setdefault(held, {}).setdefault(channel, {})
        inode = os.fstat(descriptor).st_ino
        if inode not in watches:
            with contextlib.suppress(OSError):
                watches[inode] = self.instances[channel].add(held, descriptor, mask)

    def _lose(self, held: Held, channel: Channel, watch: int) -> None:
        watches = self._watches.get(held, {}).get(channel, {})
        for inode in [inode for inode, known in watches.items() if known == watch]:
            del watches[inode]


def _open_instance() -> _Instance:
    inotify = InotifyFD()
    descriptor = inotify._inotify_fd  # noqa: SLF001 - pinned by tests/unit/test_watch_contract.py
    os.set_inheritable(descriptor, False)  # inotify_init(2) leaves it to children
    os.set_blocking(descriptor, False)
    return _Instance(inotify, descriptor)


def _channel_of(held: Held) -> Channel | None:
    """A queue directory is watched through its parent only: its own churn must cost no event."""
    if held.entry.role is Role.QUEUE:
        return None
    if any(child.entry.role is Role.QUEUE for child in held.children.values()):
        return Channel.QUEUES
    return Channel.CONFIG
