# SPDX-License-Identifier: Apache-2.0
"""From one generation to the next: what a held path keeps, and letting go of what is held no longer."""

from __future__ import annotations

import contextlib
import os

from hardend.config import Settings
from hardend.kernel import flags as inode_flags
from hardend.model import Entry, Mode
from hardend.parties import Watcher
from hardend.reconcile import History
from hardend.spares import Spares
from hardend.table import Held, Table, open_live


class Succession:
    """Moves descriptors, watches, history and spares from the old table into a new one."""

    def __init__(self, settings: Settings, watcher: Watcher, spares: Spares) -> None:
        self._settings = settings
        self._watcher = watcher
        self._spares = spares

    def carry_over(self, fresh: Table, entry: Entry, before: Held | None) -> Held:
        """Add an entry to ``fresh`` with what was held of its path; it is looked at anew in any case."""
        history = History(self._settings.contested_count, self._settings.contested_within_s)
        held = fresh.add(entry, before.history if before else history)
        if before is not None:
            self._inherit(held, before)
        elif entry.path != "/":
            found = held.lstat()
            if found is not None and open_live(held, found):
                held.identify(found, 0)
        if entry.path == "/":
            held.identify(os.fstat(held.descriptor), 0)
        held.settled = False
        held.ctime_ns = 0
        return held

    def _inherit(self, held: Held, before: Held) -> None:
        self._watcher.forget(before)
        if before.parent is None:
            before.drop()  # the new table has pinned the root itself
        else:
            held.descriptor, before.descriptor = before.descriptor, -1
        held.device, held.inode = before.device, before.inode
        held.since, held.state = before.since, before.state
        held.bad_answers = held.entry.answers != before.entry.answers
        if before.entry == held.entry:
            held.spare, before.spare = before.spare, None
        elif before.spare is not None:
            self._spares.discard(before.spare)

    def retire(self, held: Held) -> None:
        """Let go of a path that is no longer protected: its lock is taken off."""
        self._watcher.forget(held)
        if held.entry.flags and held.descriptor >= 0 and self._settings.mode is Mode.ENFORCE:
            with contextlib.suppress(OSError):
                inode_flags.hold_flags(held.descriptor, "")
        if held.spare is not None:
            self._spares.discard(held.spare)
        held.drop()


def release_locks(table: Table) -> int:
    """Take the lock off every entry that has one; return how many."""
    count = 0
    for held in table:
        if "i" in held.entry.flags and held.descriptor >= 0:
            with contextlib.suppress(OSError):
                count += inode_flags.hold_flags(held.descriptor, "")
    return count
