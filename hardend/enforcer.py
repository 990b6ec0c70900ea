# SPDX-License-Identifier: Apache-2.0
"""Observe, compare, decide, act: one look at one path, and passes over all of them.

The guard runs this in its loop; a commit without a running guard runs one pass of it.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace

from hardend import directory, standing
from hardend.aside import Aside, Taken
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.errors import StoreError
from hardend.examine import Examiner, of_lstat, put_in
from hardend.model import Drift, FileType, Host, Mode, Role, State
from hardend.parties import Reporter, Watcher
from hardend.pending import Counters, Pending
from hardend.reconcile import Act, decide
from hardend.released import Released
from hardend.restore import CannotRestoreError, Restorer, amend, lock_and_compare, reason
from hardend.spares import Spares
from hardend.strangers import Strangers
from hardend.succession import Succession
from hardend.table import Held, Table

_RETRY_S = 1.0
_UNMOUNT_S = 10.0  # what the helper may take until the path counts as failed
_EXCHANGES = frozenset({Act.EXCHANGE, Act.REBUILD})  # the latter where it was judged that content goes
# What a map was built from, or the MTA has loaded, may differ after these only.
_SUBSTANCE = frozenset({Drift.CONTENT, Drift.MISSING, Drift.TYPE, Drift.STALE})


class Enforcer:
    """The table of the baseline in force, and everything that is done about it."""

    def __init__(
        self,
        host: Host,
        settings: Settings,
        store: Store,
        reporter: Reporter,
        watcher: Watcher,
    ) -> None:
        self._host = host
        self._settings = settings
        self._store = store
        self._reporter = reporter
        self._watcher = watcher
        self.spares = Spares(host, store)
        self.aside = Aside(host)
        self._restorer = Restorer(self.spares, self.aside)
        self.table = Table(host)
        self.mode = settings.mode
        self.paused = False
        self.generation: Generation | None = None
        self.counters = Counters()
        self.pending = Pending()
        self.last_drift: dict[str, tuple[int, int]] = {}
        self.examiner = Examiner(settings, watcher)
        self.strangers = Strangers(self.aside, reporter, settings.mode)
        self.released = Released(host, reporter, watcher, self.aside)
        self.wake_ns = time.monotonic_ns()

    def close(self) -> None:
        """Close every descriptor; what is locked stays locked."""
        for held in self.table:
            if held.spare is not None:
                self.spares.discard(held.spare)
                held.spare = None
        self.table.close()
        self.spares.close()
        self.aside.close()

    def load(self, generation: Generation, *, strict: bool) -> None:
        """Swap the table for that of a generation; new spares are staged first.

        ``strict`` refuses a generation with an object that cannot be staged (StoreError) and keeps the
        old table; otherwise such a path is ``failed`` and the others are held.
        """
        if strict:
            for entry in generation.entries.values():
                if entry.digest:
                    self._store.object(entry.digest)
        succession = Succession(self._settings, self._watcher, self.spares)
        fresh = Table(self._host)
        old = dict(self.table.by_path)
        for path in sorted(generation.entries, key=lambda name: (name.count("/"), name)):
            before = old.pop(path, None)
            held = succession.carry_over(fresh, generation.entries[path], before)
            is_new = before is None and held.entry.role is not Role.MAP  # a map is asked what it answers
            held.replaces = before.entry.digest if before is not None else ""
            held.fresh = strict and (is_new or (before is not None and before.entry != held.entry))
            self.want_spare(held)
        for held in fresh:  # complete now: how a directory is watched depends on what it holds
            self._watcher.settle(held)
        for held in old.values():
            succession.retire(held)
        self.released.mark(fresh)
        self.table = fresh
        self.generation = generation
        self.aside.generation = generation.number

    def want_spare(self, held: Held) -> None:
        """Queue the staging of an entry's next spare, if it keeps one."""
        entry = held.entry
        keeps = entry.kind is FileType.SYMLINK or (
            bool(entry.digest) and entry.size <= self._settings.spare_max_mib << 20
        )
        if keeps and held.spare is None and not held.wants_spare and self.mode is Mode.ENFORCE:
            held.wants_spare = True
            self.pending.stage.append(held)

    def stage_next(self) -> None:
        """Stage one spare; a failure is the path's reason when it drifts, not before."""
        held = self.pending.stage.popleft()
        held.wants_spare = False
        if held.spare is not None or self.paused or held.parent_descriptor < 0:
            return
        if self.table.by_path.get(held.entry.path) is not held or held.other_mount:
            return  # retired; or staged beside its target, which must not hold copies for long
        try:
            held.spare = self.spares.stage(held)
        except StoreError as error:
            self._fail(held, frozenset(), str(error))
        except OSError:
            return  # a full disk: staged again at the restore, which says so if it cannot
        else:
            self._watcher.arm(held, held.spare.descriptor)

    def full_pass(self, *, thorough: bool) -> None:
        """Look at every path, directories first, and at what else is in them."""
        self.counters.passes += 1
        for held in list(self.table):
            self.look(held, thorough=thorough)
            self.look_inside(held)

    def sweep(self) -> None:
        """Look at every path that lstat says has changed."""
        for held in self.table:
            self.wake_ns = time.monotonic_ns()
            self.look(held)

    def look(self, held: Held, *, thorough: bool = False) -> None:
        """Bring one path to its entry, or say why not; what lstat says is as it was costs nothing."""
        if self.paused:
            return
        try:
            if held.window:
                self.released.look(held)
            else:
                self._look(held, thorough=thorough)
        except OSError as error:  # a disk that fails, a file system that went away
            self._fail(held, held.drift, reason(error))

    def _look(self, held: Held, *, thorough: bool) -> None:
        if held.covered:
            if time.monotonic() - held.covered > _UNMOUNT_S and self.mode is Mode.ENFORCE:
                self._fail(held, frozenset({Drift.MOUNT}), "a mount covers it and does not go away")
            return
        found = held.lstat()
        if not thorough and held.is_as_known(found) and held.state in standing.QUIET:
            standing.calm(held)
            self.pending.prove_if_clean(held)
            return
        self.counters.looks += 1
        if held.parent is not None and held.parent.descriptor < 0:
            return  # its directory comes first, and looks at what it holds
        if self.mode is Mode.ENFORCE and held.is_condemned(found):
            self._restore(held, found, None, Act.EXCHANGE)  # what was wrong is asked once it is gone
            return
        drift = self.examiner.drift(held, found)
        if held.unverified:
            self.pending.ask(held)
        act = put_in(held, drift, decide(held.entry, drift, self.mode))
        if act is Act.NOTHING:
            self._clean(held, found)
        elif act is Act.REPORT or (act is Act.REBUILD and self.pending.judge(held)):
            self._report(held, found, drift)
        elif act is not Act.REBUILD or held.bad_answers:  # judged: it may not stay
            self._restore(held, found, drift, act)

    def look_inside(self, held: Held) -> None:
        """Look for names that do not belong in a protected directory."""
        if held.window:
            self.released.look_inside(held)
        elif not self.paused:
            self.strangers.scan(held)
            self._collect_strangers()

    def look_at_name(self, held: Held, name: bytes) -> None:
        """Look at what an event names in a directory."""
        child = held.children.get(name)
        if child is not None:
            self.look(child)
        elif held.window:
            self.released.look_at_name(held, name)
        elif not self.paused:
            self.strangers.look(held, name)
            self._collect_strangers()

    def _collect_strangers(self) -> None:
        if self.strangers.taken:
            self.strangers.taken = 0
            self.pending.collect = True

    def ask_for_lock(self, held: Held) -> bool:
        """Put the lock of a path back if it is off, and nothing else; True when it was, or that is unknown.

        Who took it off writes next; telling of it can wait.
        """
        if self.mode is not Mode.ENFORCE or self.paused or held.window or held.descriptor < 0:
            return False
        try:
            return self.examiner.relock(held)
        except OSError:
            return True  # the look says why it cannot go back

    def look_at_lock(self, held: Held) -> None:
        """Answer a hint: the file was opened, as chattr(1) must; look at it if its lock is or was off."""
        if "i" not in held.entry.flags or held.descriptor < 0 or held.window:
            return
        if self.mode is not Mode.ENFORCE or held.relocked or self.ask_for_lock(held):
            self.look(held)

    def cover(self, held: Held) -> bool:
        """Take note that a mount covers a path; True when it is to be taken away, by a helper."""
        if held.covered:
            return False
        held.covered = time.monotonic()
        held.drift = frozenset({Drift.MOUNT})
        held.reason = "a mount covers it"
        standing.set_state(held, State.DRIFTED)
        self._reporter.drifted(held, held.drift)
        return self.mode is Mode.ENFORCE

    def uncover(self, held: Held) -> None:
        """Take note that the mount is gone, and look at what it covered."""
        held.covered = 0.0
        held.reason = ""
        self.look(held, thorough=True)

    def map_report(self, path: str, ino: int, ctime_ns: int, *, answers: str) -> bool:
        """Take the rebuild unit's word on what a map answers; False when the map changed since.

        A map that answers otherwise than approved is replaced by the stored object. So is a checked file,
        which has no answers, for any word: its content may not stay.
        """
        held = self.table.by_path.get(path)
        found = held.lstat() if held is not None else None
        if held is None or found is None or (found.st_ino, found.st_ctime_ns) != (ino, ctime_ns):
            return False
        held.bad_answers = answers != held.entry.answers
        held.unverified = False
        self.wake_ns = time.monotonic_ns()
        if held.bad_answers:
            self.look(held)
        else:
            held.identify(found, time.time_ns())
        return True

    def _clean(self, held: Held, found: os.stat_result | None) -> None:
        if found is not None:
            held.identify(found, time.time_ns())
        held.fresh = False
        held.unverified &= held.entry.role is Role.MAP  # of a file, what was in doubt is gone
        standing.clean(held)
        self.pending.prove_if_clean(held)
        self.want_spare(held)

    def _report(
        self, held: Held, found: os.stat_result | None, drift: frozenset[Drift]
    ) -> None:
        if found is not None and not held.unverified:
            held.identify(found, time.time_ns())
        if held.state is not State.DRIFTED or held.drift != drift:
            held.drift = drift
            standing.set_state(held, State.DRIFTED)
            if not held.unverified:
                self._reporter.drifted(held, drift)

    def _restore(
        self, held: Held, found: os.stat_result | None, drift: frozenset[Drift] | None, act: Act
    ) -> None:
        """Put a path back; ``drift`` is None where lstat alone says that a copy must go in."""
        now = time.monotonic()
        if held.next_exchange > now:
            return
        was_ctime = found.st_ctime_ns if found is not None else time.time_ns()
        note, held.reason = held.reason, ""
        try:
            if act in _EXCHANGES and not held.is_directory:
                drift, taken = self._exchange(held, found, drift)
            else:
                drift, taken = self._mend(held, found, drift or frozenset(), act)
            note = held.reason
        except (CannotRestoreError, OSError) as error:
            held.next_exchange, held.reason = now + _RETRY_S, note  # what was told is not told again
            self._fail(held, self.examiner.drift(held, found) if drift is None else drift, reason(error))
            return
        latency_us = (time.monotonic_ns() - self.wake_ns) // 1000
        if held.fresh:
            held.fresh = False
            standing.set_state(held, State.CLEAN)
            if taken is not None:  # what an approval replaced is kept by its path, and judged as no drift
                self.aside.write_record(replace(taken, drift=(), generation=0), "")
                self.pending.collect = True
        else:
            if drift & _SUBSTANCE:
                self.last_drift[held.entry.path] = (was_ctime, time.time_ns())
            self._tell(held, drift, taken, latency_us)
        held.reason = note
        self.want_spare(held)

    def _mend(
        self, held: Held, found: os.stat_result | None, drift: frozenset[Drift], act: Act
    ) -> tuple[frozenset[Drift], Taken | None]:
        """Put a path right in place; where that does not do, by an exchange."""
        now_ns = time.time_ns()
        if held.is_directory:
            return drift, self._put_back_directory(held, found, drift, now_ns)
        if act is Act.RELOCK:
            return self._exchange(held, found, drift) if lock_and_compare(held) else (drift, None)
        if held.entry.holds_content and os.fstat(held.descriptor).st_nlink > 1:
            return self._exchange(held, found, drift)  # of a checked file; attributes of what else it is
        amend(held.descriptor, held.entry)
        held.identify(os.fstat(held.descriptor), now_ns)
        # New content of a checked file is looked at next.
        return drift - _SUBSTANCE, self._restorer.note(held, found, drift - _SUBSTANCE, now_ns)

    def _exchange(
        self, held: Held, found: os.stat_result | None, drift: frozenset[Drift] | None
    ) -> tuple[frozenset[Drift], Taken | None]:
        """Exchange first; everything else waits until the path is safe."""
        was_same = found is not None and held.is_same(found)
        replaced = self._restorer.exchange(held, is_missing=found is None)
        if drift is None:
            drift = of_lstat(held.entry, found, replaced.old if was_same else -1)
        self._watcher.settle(held)
        held.bad_answers = held.unverified = False
        if held.entry.role is Role.MAP:
            held.next_exchange = (
                time.monotonic() + self._settings.map_exchange_interval_ms / 1000
            )
        keep = held.history.keeps
        taken = self._restorer.clear(replaced, held, drift, time.time_ns(), keep=keep)
        if taken is not None:
            held.history.kept += 1
        return drift, taken

    def _put_back_directory(
        self, held: Held, found: os.stat_result | None, drift: frozenset[Drift], now_ns: int
    ) -> Taken | None:
        inode = held.inode
        taken = directory.put_back(held, self.aside, drift, now_ns)
        held.identify(os.fstat(held.descriptor), now_ns)
        self._watcher.settle(held)
        if held.inode != inode or drift - {Drift.MODE, Drift.OWNER, Drift.GROUP}:
            for child in held.children.values():
                self.look(child, thorough=True)
            self.look_inside(held)
        is_same = found is not None and found.st_ino == held.inode == inode
        return self._restorer.note(held, found, drift, now_ns) if taken is None and is_same else taken

    def _tell(self, held: Held, drift: frozenset[Drift], taken: Taken | None, latency_us: int) -> None:
        self.counters.restores += 1
        held.drift = drift
        identifier = taken.id if taken is not None else ""
        was_contested = held.history.contested
        tell = held.history.note(time.monotonic())
        if tell:
            self.pending.note_writer(held)
        if not held.history.incident:
            held.history.incident = identifier
        if taken is not None:
            self.aside.write_record(taken, held.history.incident)
            self.pending.collect = True
        if held.history.contested:
            standing.set_state(held, State.CONTESTED)
            if tell:
                self._reporter.contested(held, drift)
        else:
            standing.set_state(held, State.RESTORED)
            self._reporter.restored(held, drift, identifier, latency_us)
        if drift & _SUBSTANCE and held.entry.role in {Role.SOURCE, Role.MAP}:
            held.history.unproven = True
        if tell or not was_contested:
            self.pending.prove(held)

    def _fail(self, held: Held, drift: frozenset[Drift], why: str) -> None:
        told = held.state is State.FAILED and held.reason == why
        held.reason = why
        held.drift = drift
        standing.set_state(held, State.FAILED)
        if not told:
            self._reporter.failed(held, drift)
