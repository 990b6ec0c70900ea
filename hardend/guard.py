# SPDX-License-Identifier: Apache-2.0
"""The guard: one process, one thread, one epoll loop that keeps the protected paths at the baseline."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import time

from hardend import classes, layout, pause, state
from hardend.baseline import trust
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.baseline.vigil import Vigil
from hardend.config import Settings
from hardend.control import ControlServer
from hardend.enforcer import Enforcer
from hardend.errors import FileError, HardendError, RefusedError
from hardend.guard_verbs import Verbs
from hardend.guard_windows import GuardWindows
from hardend.inspection import require_same_layout
from hardend.jobs import Jobs
from hardend.journal import Event, Journal, notify
from hardend.lookout import CHATTR, Lookout
from hardend.model import Drift, Host, Mode
from hardend.mountwatch import MountWatch
from hardend.own_files import OwnFiles
from hardend.report import GuardReporter
from hardend.watch import Batch, Channel, Watch

_PET_S = 2.0
_PUBLISH_S = 0.25  # each publication costs half a millisecond
_HEARTBEAT_S = 1.0
_PASS_GAP_S = 0.2
_RR_PRIORITY = 10
_QUIET_LOOK_S = 0.005  # an ioctl each: under 0.1 % of a processor


class Guard:
    """Owns everything that the guard process has. ``run`` returns the exit code."""

    def __init__(self, host: Host, settings: Settings) -> None:
        self.host = host
        self.settings = settings
        self.lock = state.GuardLock(host)
        if not self.lock.acquire():
            raise RefusedError(
                "another guard is running on this host", hint="systemctl status hardend"
            )
        self.journal = Journal(host)
        self.store = Store(host)
        self.vigil = Vigil(self.store)
        self.watch = Watch()
        # The hints first: a lock that is off goes back on within microseconds, or somebody writes.
        self._channels = tuple(
            (channel, self.watch.instances[channel].descriptor)
            for channel in (Channel.HINTS, Channel.CONFIG, Channel.QUEUES)
        )
        self.reporter = GuardReporter(self.journal)
        self.enforcer = Enforcer(host, settings, self.store, self.reporter, self.watch)
        self.reporter.enforcer = self.enforcer
        self.lookout = Lookout(self.watch, self.enforcer)
        self.jobs = Jobs(host)
        self.epoll = select.epoll()
        self.windows = GuardWindows(self)
        self.verbs = Verbs(self)
        self.control = ControlServer(host, self.epoll, self.verbs.answer)
        self.mounts = MountWatch(host)
        self.own_files = OwnFiles(host, self.journal)
        self.pause: pause.Pause | None = None
        self.since = time.time()
        self.last_pass = 0.0
        self.last_pass_at = 0.0
        self.scheduling = "other"
        self._stop = False
        self._due = dict.fromkeys(("sweep", "pet", "publish", "hash", "own", "store"), 0.0)
        self._hash_queue: list[str] = []
        self._overflowed = False
        self._wake, self._signal_end = socket.socketpair()

    def run(self) -> int:
        """Guard until a signal says stop."""
        self._prepare()
        try:
            self._start()
            while not self._stop:
                self._turn()
        finally:
            self._finish()
        return 0

    def _prepare(self) -> None:
        for end in (self._wake, self._signal_end):
            end.setblocking(False)
        signal.set_wakeup_fd(self._signal_end.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self.epoll.register(self._wake.fileno(), select.EPOLLIN)
        self.watch.heed(self.host.at(CHATTR))
        for instance in self.watch.instances.values():
            self.epoll.register(instance.descriptor, select.EPOLLIN)
        self.epoll.register(self.mounts.descriptor, select.EPOLLPRI | select.EPOLLERR)

    def _ask_for_rr(self) -> None:
        """Ask for SCHED_RR, after the start's long pass: LimitRTTIME ends what computes too long.

        Refused in containers without the right; the guard works without it, only slower under load.
        """
        with contextlib.suppress(OSError):
            policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(0, policy, os.sched_param(_RR_PRIORITY))
        now = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        self.scheduling = "rr" if now == os.SCHED_RR else "other"

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._stop = True

    def _start(self) -> None:
        self.pause = pause.read(self.host)
        self.enforcer.paused = self.pause is not None
        generation = self._load_at_start()
        if generation:
            digests = {held.entry.digest for held in self.enforcer.table if held.entry.digest}
            self._set_leftovers_aside(digests)
            for held in list(self.enforcer.table):
                self.enforcer.look(held, thorough=True)
        self._classify()  # from the sendmail.cf that is back in its place
        if generation:
            self.full_pass(thorough=False)
            self.enforcer.pending.rebuild = True
        own_files = self.own_files.begin()
        gc.collect()
        gc.freeze()
        self._ask_for_rr()
        self.publish()
        notify("READY=1\nSTATUS=" + self.status_line())
        self.journal.event(
            Event.GUARD_STARTED,
            f"guard started: {self.status_line()}",
            GENERATION=generation,
            STATE=self.overall(),
            **own_files,
        )

    def _load_at_start(self) -> int:
        """Load the generation in force, or the last one that reads; 0 when there is none."""
        if not self.store.has_baseline():
            return 0
        try:
            generation = self.generation_in_force()
        except HardendError as error:
            self.reporter.store_fault(str(error))
            return 0
        self.enforcer.load(generation, strict=False)
        self.vigil.accept(generation)
        return generation.number

    def generation_in_force(self) -> Generation:
        """Return the generation to enforce; why it is not the newest is told. Raises HardendError."""
        found = trust.in_force(self.host, self.store, self.settings)
        for fault in found.faults:
            self.reporter.store_fault(fault)
        require_same_layout(self.host, found.generation)
        return found.generation

    def _set_leftovers_aside(self, digests: set[str]) -> None:
        """After a crash a spare's name may hold what an attacker had put in place."""
        spares = self.enforcer.spares
        root = self.enforcer.table.by_path.get("/")
        for name in spares.leftovers(digests):
            if root is not None:
                with contextlib.suppress(OSError):
                    self.enforcer.aside.take(
                        spares.directory,
                        name,
                        root.entry,
                        frozenset({Drift.CONTENT}),
                        time.time_ns(),
                        path="",
                    )
                    self.enforcer.pending.collect = True

    def _classify(self) -> None:
        try:
            found = layout.find(self.host)
        except HardendError as error:
            self.reporter.store_fault(str(error))
            return
        for strangers in (self.enforcer.strangers, self.enforcer.released.strangers):
            strangers.classify = lambda path: classes.class_of(path, found, self.settings)

    # The loop -------------------------------------------------------------------------------------

    def _turn(self) -> None:
        enforcer = self.enforcer
        attentive = self.lookout.glance()
        busy = bool(enforcer.pending.stage) and not attentive
        ready = self.epoll.poll(0 if busy or attentive else self._timeout())
        enforcer.wake_ns = time.monotonic_ns()
        descriptors = [descriptor for descriptor, _ in ready]
        for channel, descriptor in self._channels:
            if descriptor not in descriptors or (attentive and channel is Channel.HINTS):
                continue
            if channel is Channel.HINTS:
                self._look_at(channel, self.watch.read_hints(enforcer.ask_for_lock))
                self.lookout.begin()
            else:
                self._look_at(channel, self.watch.read(channel))
        if not ready and busy:
            enforcer.stage_next()
        for descriptor in descriptors:
            if self.control.owns(descriptor):
                self.control.handle(descriptor)
            elif descriptor == self.mounts.descriptor:
                self._look_at_mounts()
            elif descriptor == self._wake.fileno():
                with contextlib.suppress(BlockingIOError):
                    self._wake.recv(64)
        if not self.lookout.is_on:  # nothing of it is urgent within a few milliseconds
            self._timers(time.monotonic())

    def _look_at(self, channel: Channel, batch: Batch) -> None:
        enforcer = self.enforcer
        if batch.overflow:
            self.reporter.overflow(channel.value)
            self._overflowed = True
        if channel is Channel.HINTS:
            for held, count in batch.paths.items():
                if self.watch.hinted(held, count) and not enforcer.paused:
                    enforcer.look_at_lock(held)
            return
        for held in batch.paths:
            enforcer.look(held)
        for directory, name in batch.names:
            enforcer.look_at_name(directory, name)
        for held in batch.lost:
            self.watch.settle(held)
            enforcer.look(held)

    def _look_at_mounts(self) -> None:
        paths = set(self.enforcer.table.by_path)
        mounts = {path for path, held in self.enforcer.table.by_path.items() if held.entry.mount}
        covered = set(self.mounts.changed(paths, mounts))
        for path, held in self.enforcer.table.by_path.items():
            if path in covered:
                if self.enforcer.cover(held) and not self.enforcer.paused:
                    self.jobs.unmount(path)
            elif held.covered:
                self.enforcer.uncover(held)

    def _timeout(self) -> float:
        now = time.monotonic()
        due = min(self._due.values())  # the sweep's at the latest
        if self.watch.quiet:
            due = min(due, now + _QUIET_LOOK_S)
        return max(0.0, due - now)

    def _timers(self, now: float) -> None:
        if self.watch.quiet:
            self._look_at_quiet()
        if self._overflowed and now - self.last_pass > _PASS_GAP_S:
            self._overflowed = False
            self.full_pass(thorough=False)
        if now >= self._due["sweep"]:
            self._sweep(now)
        if now >= self._due["hash"]:
            self._hash_one(now)
        if now >= self._due["own"]:
            self._due["own"] = now + self.own_files.step(self.settings.hash_interval_s)
        if now >= self._due["store"]:
            interval_s = self.settings.hash_interval_s
            self._due["store"] = time.monotonic() + self.vigil.tend(self.reporter, interval_s)
        if now >= self._due["pet"]:
            self._due["pet"] = now + _PET_S
            notify("WATCHDOG=1\nSTATUS=" + self.status_line())
            if self.pause is not None and self.pause.remaining_s <= 0:
                self.resume("the time is over")
            self.windows.turn()
            self.watch.heed(self.host.at(CHATTR))
        if now >= self._due["publish"] or (
            self.reporter.changed and now >= self._due["publish"] - _HEARTBEAT_S + _PUBLISH_S
        ):
            self.publish()
        self._run_jobs()

    def _look_at_quiet(self) -> None:
        """Ask the locks of paths whose hints are off: the flood must not hide a chattr(1)."""
        for held in self.watch.quiet:
            self.enforcer.look_at_lock(held)
        for held in self.watch.listen_again():
            self.enforcer.look_at_lock(held)

    def _sweep(self, now: float) -> None:
        # The interval grows with the number of entries: 20 entries four times a second cost 0.1 %.
        entries = len(self.enforcer.table)
        self._due["sweep"] = now + self.settings.sweep_ms / 1000 * max(1.0, entries / 64)
        if not self.enforcer.paused:
            self.enforcer.sweep()
        if self.vigil.changed():
            self._due["store"] = now

    def _hash_one(self, now: float) -> None:
        """Hash one entry: everything once per interval, a little at a time."""
        if not self._hash_queue:
            self._hash_queue = list(self.enforcer.table.by_path)
        self._due["hash"] = now + self.settings.hash_interval_s / max(1, len(self._hash_queue))
        if self._hash_queue:
            held = self.enforcer.table.by_path.get(self._hash_queue.pop())
            if held is not None:
                self.enforcer.look(held, thorough=True)
                self.enforcer.look_inside(held)

    def _run_jobs(self) -> None:
        pending = self.enforcer.pending
        self.jobs.reap()
        if self.enforcer.mode is not Mode.ENFORCE and not pending.rebuild:
            return
        if pending.collect and self.jobs.start("collect"):
            pending.collect = False
        if pending.tell and pending.put_back and not self.host.is_tree and self.jobs.start("tell"):
            pending.tell = False
        if pending.rebuild and not self.enforcer.paused and self.jobs.start("rebuild"):
            pending.rebuild = False

    def full_pass(self, *, thorough: bool) -> None:
        """Look at everything now."""
        self.enforcer.wake_ns = time.monotonic_ns()
        written = set(self.enforcer.pending.put_back)
        self.enforcer.full_pass(thorough=thorough)
        self.enforcer.pending.put_back = written  # what a pass puts back, nobody wrote just now
        self.last_pass = time.monotonic()
        self.last_pass_at = time.time()
        self.reporter.changed = True

    def resume(self, why: str) -> None:
        """End the pause: everything back to the baseline."""
        self.pause = None
        pause.end(self.host)
        self.enforcer.paused = False
        self.journal.event(Event.ENFORCEMENT_RESUMED, f"enforcement is on again: {why}")
        self.full_pass(thorough=True)

    # What others see ------------------------------------------------------------------------------

    def overall(self) -> str:
        """Return the one word for the host: the worst state of its paths."""
        return self.reporter.overall(paused=self.pause is not None)

    def status_line(self) -> str:
        """Return the line that systemctl status shows."""
        if self.pause is not None:
            return f"OFF until {self.pause.until_text()}, by {self.pause.by}: {self.pause.reason}"
        generation = self.enforcer.generation
        if generation is None and self.reporter.faults:
            return f"failed: {self.reporter.faults[-1]}"
        if generation is None:
            return "no baseline: protects nothing (hardend approve --reason TEXT)"
        windows = "".join(f"{text}; " for text in self.windows.describe())
        return (
            f"{windows}{self.overall()}, {self.enforcer.mode.value}, generation {generation.number}, "
            f"{len(self.enforcer.table)} paths, {self.enforcer.counters.restores} restores"
        )

    def publish(self) -> None:
        """Write state.json."""
        self._due["publish"] = time.monotonic() + _HEARTBEAT_S
        self.reporter.changed = False
        with contextlib.suppress(OSError):
            state.publish(self.host, self.reporter.document(self))
        self.journal.flush()

    def _finish(self) -> None:
        notify("STOPPING=1\nSTATUS=stopping; files stay locked")
        self.journal.event(
            Event.GUARD_STOPPED,
            "guard stopped; files stay locked: hardend off --for 2h --reason TEXT releases them",
        )
        self.publish()
        self.control.close()
        self.enforcer.close()
        self.watch.close()
        self.journal.close()


def serve(host: Host, settings: Settings) -> int:
    """Run the guard in the foreground; the exit code. Raises HardendError when it cannot start."""
    if os.geteuid() != 0:
        raise RefusedError("the guard must run as root", hint="systemctl start hardend")
    try:
        return Guard(host, settings).run()
    except OSError as error:
        raise FileError(f"the guard cannot go on: {error}") from error
