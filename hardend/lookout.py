# SPDX-License-Identifier: Apache-2.0
"""A few milliseconds of close attention after chattr(1) was started, before it has opened anything.

The guard sleeps when a lock is taken off, and to wake up takes it 50 us and more: about as long as a shell
needs for the write that follows. The program's start is known half a millisecond earlier.
"""

from __future__ import annotations

import contextlib
import time

from hardend.enforcer import Enforcer
from hardend.kernel.flags import keep_immutable
from hardend.model import Mode
from hardend.table import Held
from hardend.watch import Watch

CHATTR = "/usr/bin/chattr"
# From its start to the lock chattr(1) takes 0.6 ms on an idle machine and several times that on a busy
# one; a shell writes 0.1 ms after it. For so long every lock is asked for, each 50 us.
_ON_S = 0.008
_CAUGHT_S = 0.005
# chattr may be waiting for this very processor. One that nobody waits for goes to sleep in the pause, and
# a virtual one may wake up a quarter of a millisecond late: so there are few of them.
_PAUSE_S = 0.00001
_PAUSE_EVERY_S = 0.001
# Anybody may start it, and need not have a lock of ours in mind: then the guard stops to listen for a while.
_VAIN_PER_S = 10


class Lookout:
    """Asks for every lock while somebody may be taking one off."""

    def __init__(self, watch: Watch, enforcer: Enforcer) -> None:
        self._watch = watch
        self._enforcer = enforcer
        self._since = self._until = self._pause_at = 0.0
        self._locked: list[Held] = []
        self._caught: dict[Held, None] = {}
        self._vain: list[float] = []
        self._relocks = 0

    @property
    def is_on(self) -> bool:
        """Whether somebody may be taking a lock off now: everything else can wait for that time."""
        return self._until > 0

    def begin(self) -> None:
        """Begin when the watch says that the program was started."""
        if self._watch.alerted:
            self._watch.alerted = False
            self._since = time.monotonic()
            self._until = self._since + _ON_S
            self._locked = [held for held in self._enforcer.table if self._is_locked(held)]

    def glance(self) -> bool:
        """Ask once; False when there is no need to. Hints need not be read as long as there is."""
        if not self._until:
            return False
        for held in self._locked:
            with contextlib.suppress(OSError):
                if keep_immutable(held.descriptor):
                    self._catch(held)
        now = time.monotonic()
        if now > self._until:
            self._end()
            return False
        if now >= self._pause_at:
            time.sleep(_PAUSE_S)
            self._pause_at = now + _PAUSE_EVERY_S
        return True

    def _is_locked(self, held: Held) -> bool:
        enforced = self._enforcer.mode is Mode.ENFORCE and not self._enforcer.paused and not held.window
        return enforced and held.entry.flags == "i" and held.descriptor >= 0

    def _catch(self, held: Held) -> None:
        held.relocked = True
        self._enforcer.examiner.relocks += 1
        self._caught[held] = None
        self._until = min(self._until, self._since + _CAUGHT_S)

    def _end(self) -> None:
        """Tell what was caught: a look takes a millisecond, in which nothing is asked."""
        now = time.monotonic()
        self._vain = [since for since in self._vain if now - since < 1.0]
        relocks = self._enforcer.examiner.relocks
        if relocks == self._relocks:  # none here, and none before it by the hints
            self._vain.append(now)
        self._relocks = relocks
        if len(self._vain) > _VAIN_PER_S:
            self._watch.ignore_alarm()
        self._until = 0.0
        for held in self._caught:
            self._enforcer.look_at_lock(held)
        self._caught.clear()
        self._locked.clear()
