# SPDX-License-Identifier: Apache-2.0
"""The processes of the bench: the restorers, the drifter and what loads the machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.mailtree import DRIFTED, LOCKED, BenchError, MailTree, environment
from tests.bench.tracing import Drift, Trace, durations

PROGRAMS = ("floor", "drifter", "load", "sentry")
RR_PRIORITY = 10  # that of the guard
_ONLOOKER_PRIORITY = 1  # lower than theirs
SPIN_US = 2000
_HOGS = 2
_MESSAGES_PER_S = 1500
_STOP_S = 20.0
_TAIL = 2000


@dataclass(frozen=True)
class Restorers:
    """The two that restore."""

    guard: subprocess.Popen[bytes]
    floor: subprocess.Popen[str]

    def schedule(self, *, rr: bool) -> None:
        """Give both SCHED_RR, or take it from both (the guard asks for it itself at its start)."""
        for process in (self.guard, self.floor):
            if rr:
                policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
                os.sched_setscheduler(process.pid, policy, os.sched_param(RR_PRIORITY))
            else:
                os.sched_setscheduler(process.pid, os.SCHED_OTHER, os.sched_param(0))

    def check_alive(self) -> None:
        """Raise BenchError when one of them has ended."""
        for name, process in (("guard", self.guard), ("floor", self.floor)):
            if process.poll() is not None:
                raise BenchError(f"the {name} has ended: exit {process.returncode}")


def build(programs: Path, *options: str) -> None:
    """Compile the C programs into a directory, ``options`` for the compiler. Raises BenchError."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise BenchError("no C compiler: install gcc")
    programs.mkdir()
    for name in PROGRAMS:
        source = Path(__file__).with_name(f"{name}.c")
        command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", *options, "-o", str(programs / name)]
        command.append(str(source))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"{source.name}: {done.stderr.strip()}")


@contextlib.contextmanager
def restorers(tree: MailTree, programs: Path) -> Iterator[Restorers]:
    """Start the guard on the tree and the floor beside it; both are ready when this is entered."""
    with contextlib.ExitStack() as stack:
        guard = stack.enter_context(_guard(tree))
        floor = stack.enter_context(_floor(tree, programs))
        yield Restorers(guard, floor)


@contextlib.contextmanager
def _guard(tree: MailTree) -> Iterator[subprocess.Popen[bytes]]:
    log = tree.scratch / "guard.log"
    command = [sys.executable, "-m", "hardend", "guard", "--root", str(tree.root)]
    with log.open("wb") as output:
        # A process group of its own: its jobs go with it, and Ctrl-C stops the bench first. Not a
        # session: with autogroups (sched(7)) that would be a scheduling group of its own, unlike the floor's.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(),
            process_group=0,
        )
    try:
        try:
            tree.wait_for_guard(process.pid)
        except BenchError as error:
            raise BenchError(f"{error}\n{log.read_text()[-_TAIL:]}") from error
        yield process
    finally:
        stop(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _floor(tree: MailTree, programs: Path) -> Iterator[subprocess.Popen[str]]:
    directories = [str(tree.floor_mail), str(tree.floor_stage)]
    command = [str(programs / "floor"), *directories, DRIFTED, LOCKED]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise BenchError("the floor did not start")
        yield process
    finally:
        stop(process)


@contextlib.contextmanager
def load(tree: MailTree, programs: Path) -> Iterator[None]:
    """Two processors' worth of hogs, and messages through the queue."""
    program = str(programs / "load")
    churn = [program, "churn", str(tree.queue), str(_MESSAGES_PER_S)]
    with contextlib.ExitStack() as stack:
        for command in ([[program, "hog"]] * _HOGS) + [churn]:
            stack.callback(stop, subprocess.Popen(command))
        yield


@contextlib.contextmanager
def flood(tree: MailTree, programs: Path) -> Iterator[list[int]]:
    """Nobody opens a locked file of the guard's for ever; afterwards the list holds how often."""
    command = [str(programs / "load"), "open", str(tree.mail / LOCKED)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    opens: list[int] = []
    try:
        yield opens
        process.terminate()
        opens.append(int(process.communicate(timeout=_STOP_S)[0]))
    finally:
        stop(process)


@dataclass(frozen=True)
class Series:
    """What the drifter is asked for: one kind of drift, on both sides in turn."""

    kind: str
    rounds: int
    gap_us: int
    rr: bool


@dataclass
class Times:
    """Microseconds of each drift that was restored, and how many were not, or with other bytes."""

    guard: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    missed: int = 0

    def of(self, which: int) -> list[float]:
        """Return the times of a side as the drifter numbers them: 0 the guard, 1 the floor."""
        return self.floor if which else self.guard


@dataclass(frozen=True)
class Drifter:
    """Runs series of drifts, timed by the trace, or by looking on where there is none."""

    tree: MailTree
    programs: Path
    restorers: Restorers
    trace: Trace | None

    def run(self, series: Series) -> Times:
        """Run one series. Raises BenchError when the drifter fails."""
        if self.trace is not None:
            self.trace.clear()
        spin_us = 0 if self.trace is not None else SPIN_US
        # Looking on among hogs with less, it would see late what was done in time.
        priority = _ONLOOKER_PRIORITY if series.rr and spin_us else 0
        numbers = (series.rounds, series.gap_us, spin_us, priority, series.rounds + len(series.kind))
        command = [str(self.programs / "drifter"), series.kind, *map(str, numbers), str(self.tree.aside)]
        command.append(LOCKED if series.kind == "unlock" else DRIFTED)
        command += [str(self.tree.mail), str(self.tree.floor_mail)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                output, complaint = process.communicate()
            finally:
                stop(process)
        if process.returncode:
            raise BenchError(f"{series.kind}: {complaint.strip() or process.returncode}")
        self.restorers.check_alive()
        return self._times(series.kind, output)

    @staticmethod
    def count(output: str, times: Times) -> tuple[list[Drift], list[Drift]]:
        """Add to ``times`` what the drifter saw; the drifts of the guard and of the floor."""
        drifts: tuple[list[Drift], list[Drift]] = ([], [])
        for line in output.splitlines():
            which, began, ns, right = map(int, line.split())
            times.missed += ns < 0 or not right
            if ns >= 0:
                times.of(which).append(ns / 1000)
                drifts[which].append(Drift(began, ns))
        return drifts

    def _times(self, kind: str, output: str) -> Times:
        times = Times()
        drifts = self.count(output, times)
        if self.trace is not None:
            acts = self.trace.acts(kind)
            times = Times(missed=times.missed)  # the trace knows better
            for which, pid in enumerate((self.restorers.guard.pid, self.restorers.floor.pid)):
                spans = durations(drifts[which], acts.get(pid, []))
                times.of(which).extend(span / 1000 for span in spans)
        return times


def cpu_s(pid: int) -> float:
    """Return the processor time of a process with one thread (proc_pid_schedstat(5))."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def resident_mib(pid: int) -> float:
    """Return the resident set of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def stop(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """End a process, and wait until it has ended."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
