# SPDX-License-Identifier: Apache-2.0
"""The paths that windows let go, as the enforcer sees them: looked at and noted down, never put back."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import replace

from hardend import standing, window_files
from hardend.aside import Aside
from hardend.kernel import flags as inode_flags
from hardend.model import Class, Drift, FileType, Host, Mode, Role, State
from hardend.observe import from_descriptor, from_stat
from hardend.parties import Reporter, Watcher
from hardend.reconcile import compare
from hardend.strangers import Strangers
from hardend.table import Held, Table, open_live
from hardend.window import Window


class Released:
    """The windows in force, and the looks at what they let go. ``dirty`` names those to be written.

    Only a guard ``tells`` of changes; one pass without it has nothing to say of them.
    """

    def __init__(self, host: Host, reporter: Reporter, watcher: Watcher, aside: Aside) -> None:
        self._host = host
        self._reporter = reporter
        self._watcher = watcher
        self.strangers = Strangers(aside, reporter, Mode.OBSERVE)  # observing, it takes nothing away
        self.windows: dict[str, Window] = {}
        self.dirty: set[str] = set()
        self.tells = False
        self.read()

    def read(self) -> None:
        """Take up the windows on disk; of one that is known already the changes noted here count."""
        found = {window.id: window for window in window_files.read_all(self._host)}
        for identifier, window in found.items():
            if identifier in self.windows:
                window.changes = self.windows[identifier].changes
        self.windows = found

    def mark(self, table: Table) -> None:
        """Say of every path of a table which window lets it go."""
        by_path = {path: window.id for window in self.windows.values() for path in window.paths}
        trees = [window for window in self.windows.values() if window.trees]
        for held in table:
            path = held.entry.path
            held.window = by_path.get(path, "")
            if not held.window:
                held.window = next((window.id for window in trees if window.holds_tree_of(path)), "")

    def look(self, held: Held) -> None:
        """Note how a path differs now; opens the inode that is new there, puts nothing back.

        Raises OSError.
        """
        if held.parent is not None and held.parent.descriptor < 0:
            return
        found = held.lstat()
        if held.is_as_known(found) and held.state in {State.CLEAN, State.DRIFTED}:
            return
        drift = self._drift(held, found)
        changed = drift != held.drift or (found is not None and found.st_ctime_ns != held.ctime_ns)
        if found is not None:
            held.identify(found, time.time_ns())
        else:
            held.ctime_ns = 0
        held.bad_answers = held.unverified = held.relocked = False
        if not drift:
            held.fresh = False
            standing.set_state(held, State.CLEAN)
            return
        held.drift = drift
        standing.set_state(held, State.DRIFTED)
        window = self.windows.get(held.window)
        if changed and window is not None and not held.fresh:
            self.dirty.add(window.id)
            if window.note(held.entry.path, drift) and self.tells:
                self._reporter.drifted(held, drift)

    def look_inside(self, held: Held) -> None:
        """Note what appeared in a directory that is let go."""
        before = set(held.strangers)
        self.strangers.scan(held)
        self._note_strangers(held, before)

    def look_at_name(self, held: Held, name: bytes) -> None:
        """Note a name that appeared in a directory that is let go."""
        before = set(held.strangers)
        self.strangers.look(held, name)
        self._note_strangers(held, before)

    def _note_strangers(self, held: Held, before: Iterable[bytes]) -> None:
        window = self.windows.get(held.window)
        for name in held.strangers.difference(before):
            if window is not None:
                window.note(os.path.join(held.entry.path, os.fsdecode(name)), {Drift.UNEXPECTED})
                self.dirty.add(window.id)

    def _drift(self, held: Held, found: os.stat_result | None) -> frozenset[Drift]:
        """Compare without reading content: who is let work must not have every write hashed."""
        if found is None:
            held.drop()
            return frozenset({Drift.MISSING})
        entry = held.entry
        actual = from_stat(found)
        if actual.kind is not entry.kind:
            return frozenset({Drift.TYPE})
        if entry.kind is FileType.SYMLINK:
            target = os.fsdecode(os.readlink(held.name, dir_fd=held.parent_descriptor))
            actual = replace(actual, target=target)
        elif held.is_same(found) or self._adopt(held, found):
            actual = from_descriptor(held.descriptor, content=False)
        drift = set(compare(entry, actual)) - {Drift.FLAGS, Drift.STALE}
        if entry.kind is FileType.FILE and entry.digest and self._is_rewritten(held, found):
            drift.add(Drift.CONTENT)
        return frozenset(drift)

    @staticmethod
    def _is_rewritten(held: Held, found: os.stat_result) -> bool:
        entry = held.entry
        return (found.st_mtime_ns, found.st_size) != (entry.mtime_ns, entry.size)

    def _adopt(self, held: Held, found: os.stat_result) -> bool:
        if not open_live(held, found):
            return False  # leased, or another by now: lstat has to do
        held.identify(found, 0)
        self._watcher.settle(held)
        return True


def let_go(table: Iterable[Held]) -> int:
    """Take the lock off every path that a window lets go; return how many had it."""
    count = 0
    for held in table:
        if held.window and "i" in held.entry.flags and held.descriptor >= 0:
            with contextlib.suppress(OSError):
                count += inode_flags.hold_flags(held.descriptor, "")
    return count


def take_back(ended: Iterable[Held], wrong: Iterable[str] = ()) -> None:
    """Put the locks back on paths whose window ended, before anything is compared: that is no drift.

    ``wrong`` are the maps that are known to answer otherwise than approved.
    """
    doubted = frozenset(wrong)
    for held in ended:
        is_file = held.entry.kind is FileType.FILE and held.descriptor >= 0
        if is_file and held.entry.flags and held.entry.cls is Class.LOCKED:
            with contextlib.suppress(OSError):
                inode_flags.hold_flags(held.descriptor, held.entry.flags)
        held.settled = False
        held.ctime_ns = 0
        held.bad_answers = held.entry.role is Role.MAP and held.entry.path in doubted
