# SPDX-License-Identifier: Apache-2.0
"""The witness: who changes what hardend holds, told by fanotify, and noted for hardend-collect.

Notifications only: a witness that is stopped, or slow, holds up nobody. It changes nothing and opens
nothing that is watched; where it is missing, all else works, and nobody is named.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import socket
import time
from collections.abc import Callable

from hardend.attribution import announce
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.errors import StoreError
from hardend.journal import Journal, notify
from hardend.kernel import fanotify
from hardend.model import Host, printable
from hardend.witness_log import Log, Told, who_of
from hardend.witness_marks import Marks
from hardend.witness_process import Processes
from hardend.witness_trail import Trails, Verdict

# What hardend itself does is nobody's drift. Any other unit that takes such a name is named.
OWN_UNITS = frozenset(
    {
        *("hardend.service", "hardend-collect.service", "hardend-rebuild.service", "hardend-tell.service"),
        *("hardend-window.service", "hardend-alert.service", "hardend-metrics.service"),
        *("hardend-status.service", "hardend-witness.service"),
    }
)
_ID = re.compile(r"\d{8}T\d{6}\.\d{6}-\d{4,}")
_DID = {
    "content": fanotify.MODIFY | fanotify.CLOSE_WRITE,
    "name": fanotify.NAMES,
    "attributes": fanotify.ATTRIB,
}
_LOOK_S = 2.0
_PET_S = 10.0
_AGAIN_S = 60.0  # the same is told of a path once in so long
_TOLD = 256
# Any user can open a readable file in a loop: above so many events a second they are left to gather, and
# who only opens is not looked at.
_EVENTS_A_SECOND = 2000
_GATHER_S = 0.01


class Witness:
    """Owns everything that the witness process has. ``run`` returns when a signal says stop."""

    def __init__(self, host: Host, say: Callable[[str], None]) -> None:
        self.host = host
        self._say = say
        self.group = fanotify.Group()
        self.log = Log(host)
        self.journal = Journal(host)
        self.store = Store(host)
        self.marks = Marks(host, self.group)
        self.processes = Processes()
        self.trails = Trails()
        self._numbers: list[int] = []
        self._stop = False
        self._faults: set[str] = set()
        self._told: dict[str, float] = {}
        self._second, self._count = 0, 0
        self._wake, self._signal_end = socket.socketpair()

    def run(self) -> None:
        """Watch until a signal says stop."""
        for end in (self._wake, self._signal_end):
            end.setblocking(False)
        signal.set_wakeup_fd(self._signal_end.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._look()
        notify("READY=1")
        waiting = select.poll()
        waiting.register(self.group.descriptor, select.POLLIN)
        waiting.register(self._wake, select.POLLIN)
        look_at = pet_at = 0.0
        while not self._stop:
            waiting.poll(int(_LOOK_S * 1000))
            self.turn()
            now = time.monotonic()
            if now >= look_at:
                look_at = now + _LOOK_S
                self._look()
            if now >= pet_at:
                pet_at = now + _PET_S
                notify("WATCHDOG=1")
        notify("STOPPING=1")

    def turn(self) -> None:
        """Take in what happened."""
        for event in self.group.read():
            try:
                self._take_in(event)
            finally:
                if event.pidfd >= 0:
                    os.close(event.pidfd)
        self.journal.flush()
        if self._count > _EVENTS_A_SECOND:
            time.sleep(_GATHER_S)

    def close(self) -> None:
        """Leave nothing open or watched."""
        signal.set_wakeup_fd(-1)
        self._wake.close()
        self._signal_end.close()
        self.group.close()
        self.log.close()
        self.processes.close()
        self.journal.close()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._stop = True

    def _look(self) -> None:
        """Follow the baseline, and directories that were replaced."""
        try:
            numbers = self.store.numbers()
            if numbers == self._numbers:
                self.marks.look()
            else:
                self.marks.renew(self._generation().entries)
                self.trails.clear()
                self._numbers = numbers
            faults = {
                f"{printable(path)}: cannot be watched: {why}"
                for path, why in self.marks.faults.items()
                if why != os.strerror(errno.ENOENT)  # the guard puts it back
            }
        except (StoreError, OSError) as error:  # what is watched stays watched
            faults = {f"the baseline cannot be read: {error}"} if self.store.has_baseline() else set()
        for fault in sorted(faults - self._faults):
            self._say(fault)
        self._faults = faults

    def _generation(self) -> Generation:
        """Return the generation in force, or the last that can be read. Raises StoreError."""
        try:
            return self.store.current()
        except StoreError:
            return self.store.last_good()

    def _take_in(self, event: fanotify.Event) -> None:
        now_ns = time.time_ns()
        if event.mask & fanotify.OVERFLOW:
            self.trails.lost(now_ns)
            self._say("the kernel dropped events: for a few seconds nobody is named for a fact")
            return
        if not event.mask & fanotify.CHANGES and self._is_flood():
            return
        by = self.processes.of(event.pid, event.pidfd, time.monotonic())
        path, is_by_name = self.marks.path_of(event)
        if not path or not event.mask & fanotify.CHANGES:
            return
        if identifier := self.marks.taken_of(path):
            if event.mask & fanotify.MOVED_TO and _ID.fullmatch(identifier):
                self._note(self.trails.taken(identifier, event.pid, now_ns))
        elif by.unit in OWN_UNITS:
            if is_by_name:
                self._own(event, path, now_ns)
        else:
            did = frozenset(word for word, mask in _DID.items() if event.mask & mask)
            self.trails.changed(path, by, now_ns, did)
            if event.mask & fanotify.NAMES:
                self.marks.follow(path)

    def _own(self, event: fanotify.Event, path: str, now_ns: int) -> None:
        """Take note of what hardend did."""
        if event.mask & fanotify.NAMES:
            self.trails.replaced(path, event.pid, now_ns)
            self.marks.follow(path)
        elif event.mask & fanotify.ATTRIB and (verdict := self.trails.amended(path, now_ns)):
            self._tell(verdict)

    def _note(self, verdict: Verdict | None) -> None:
        """Hand on who changed what was set aside."""
        if verdict is None:
            return
        line = {
            "id": verdict.id,
            "path": verdict.path,
            "time_ns": verdict.time_ns,
            "sure": verdict.is_sure,
            "suspects": [{**one.process.as_json(), "did": sorted(one.did)} for one in verdict.suspects],
        }
        try:
            self.log.add(line)
        except OSError as error:
            self._say(f"who changed {printable(verdict.path)} cannot be noted: {error.strerror}")

    def _tell(self, verdict: Verdict) -> None:
        """Tell at once who changed what was put right in place: nothing of it is collected."""
        suspects = [one for one in verdict.suspects if "attributes" in one.did]
        known = tuple(who_of(one.process.as_json()) for one in suspects)
        who = Told(verdict.path, known, verdict.is_sure).who()
        now = time.monotonic()
        processes = [one.process for one in suspects]
        key = repr((verdict.path, [(one.exe, one.unit, one.uid, one.loginuid) for one in processes]))
        if who and now - self._told.get(key, -_AGAIN_S) >= _AGAIN_S:
            if len(self._told) >= _TOLD:
                self._told.clear()
            self._told[key] = now
            announce(self.journal, verdict.path, who)

    def _is_flood(self) -> bool:
        """Count an event that only teaches; True when there are too many in this second."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        return self._count > _EVENTS_A_SECOND
