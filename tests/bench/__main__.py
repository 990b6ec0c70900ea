# SPDX-License-Identifier: Apache-2.0
"""``./run bench``: from the start of a drifting system call until the path is restored.

The guard, as ``hardend guard`` runs on a small approved tree, and floor.c, a minimal C program that
does the same restore, both resident; drifter.c drifts a file of the one and of the other in turn.
Nothing here fails for being slow: only a drift that was not restored is a failure.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import host, processes, refusals, tracing
from tests.bench.mailtree import BenchError, MailTree
from tests.bench.processes import Drifter, Restorers, Series
from tests.bench.tables import print_head, print_row
from tests.host.machine import MachineError

KINDS = ("write", "chmod", "unlink", "rename-over")
_QUICK_ROUNDS = 60
_SETTLE_S = 1.0
_FLOOD_S = 5.0
# A hint watch listens to 20 hints in 100 ms; the drifter's own two for each round stay below.
_UNLOCK_GAP_US = 25_000
_UNLOCK_SHARE = 5  # so much slower: a fifth of the rounds
_REFUSED_SHARE = 5


@dataclass
class Bench:
    """One run: the tree, who restores in it, and what was asked for."""

    tree: MailTree
    programs: Path
    restorers: Restorers
    drifter: Drifter
    rounds: int
    gap_us: int
    missed: int = field(default=0)

    def latency(self) -> None:
        """Print a table for each load and each scheduling."""
        for loaded in (False, True):
            for rr in (False, True):
                with self._conditions(loaded=loaded, rr=rr) as title:
                    print_head(title)
                    for kind in KINDS:
                        self._series(kind, kind, rr=rr)

    def relocking(self) -> None:
        """Print how long a lock is off after chattr -i alone."""
        print_head("chattr -i alone: start of the ioctl to locked again")
        for loaded in (False, True):
            for rr in (False, True):
                name = ("loaded" if loaded else "idle") + (", RR" if rr else "")
                with self._conditions(loaded=loaded, rr=rr):
                    self._series("unlock", name, rr=rr)

    def refusing(self) -> None:
        """Print how often ``chattr -i F; echo >> F`` in a shell was refused, under SCHED_RR."""
        tries = refusals.to_blocks(max(1, self.rounds // _REFUSED_SHARE))
        print(f"\nchattr -i F; echo evil >> F in a shell, {tries} times on each side: refused, SCHED_RR")
        print(f"{'':14}{'guard':>9}{'C loop that asks every 10 us':>32}", flush=True)
        for loaded in (False, True):
            with (
                self._conditions(loaded=loaded, rr=True),
                refusals.sentry(self.tree, self.programs) as sentry,
            ):
                counts = refusals.Refusals(self.tree, self.restorers, sentry).count(tries)
            shares = [f"{100 * count / tries:.1f} %" for count in counts]
            print(f"{'loaded' if loaded else 'idle':14}{shares[0]:>9}{shares[1]:>32}", flush=True)

    def hint_flood(self) -> None:
        """Print what an unprivileged process that opens a protected file in a loop does to the guard."""
        for rr in (False, True):
            with self._conditions(loaded=False, rr=rr) as title:
                quiet = self._guard_cpu(_FLOOD_S)
                started = time.monotonic()
                with processes.flood(self.tree, self.programs) as opens:
                    flooded = self._guard_cpu(_FLOOD_S)
                    print_head(f"{title}, and nobody opens a locked file in a loop")
                    for kind in ("write", "chmod", "unlock"):
                        self._series(kind, kind, rr=rr, share=2)
                    passed = time.monotonic() - started
                print(
                    f"guard CPU, no drift: {flooded:.1f} % under {opens[0] / passed:,.0f} opens/s, "
                    f"{quiet:.1f} % without"
                )

    def idle(self, seconds: float) -> None:
        """Print the guard's processor time while nothing happens."""
        with self._conditions(loaded=False, rr=True):
            share = self._guard_cpu(seconds)
        print(f"\nidle for {seconds:.0f} s: guard CPU {share:.3f} %", flush=True)

    def closing(self) -> None:
        """Print what the guard says of itself, and compare everything with the baseline."""
        published = self.tree.published()
        own = published.get("restore_us")
        print(
            f"\nguard: VmRSS {processes.resident_mib(self.restorers.guard.pid):.1f} MiB, "
            f"CPU {processes.cpu_s(self.restorers.guard.pid):.1f} s, {published.get('restores')} restores"
        )
        if isinstance(own, dict):
            print(
                f"its own clock, from waking up until all is done, the last {own['count']}: "
                f"median {own['median']} us, p99 {own['p99']} us"
            )
        print(f"events {published.get('events')}, overflows {published.get('overflows')}")
        try:
            self.tree.hardend("check")
        except BenchError as error:
            print(error)
            self.missed += 1
        else:
            print("hardend check: everything is at the baseline")

    @contextlib.contextmanager
    def _conditions(self, *, loaded: bool, rr: bool) -> Iterator[str]:
        self.restorers.schedule(rr=rr)
        with contextlib.ExitStack() as stack:
            if loaded:
                stack.enter_context(processes.load(self.tree, self.programs))
            time.sleep(_SETTLE_S)
            title = "queue churn and two CPU hogs" if loaded else "idle"
            yield title + (", SCHED_RR" if rr else ", SCHED_OTHER")

    def _series(self, kind: str, name: str, *, rr: bool, share: int = 1) -> None:
        gap_us = _UNLOCK_GAP_US if kind == "unlock" else self.gap_us
        rounds = max(1, self.rounds // (_UNLOCK_SHARE if kind == "unlock" else share))
        times = self.drifter.run(Series(kind, rounds, gap_us, rr))
        self.missed += times.missed
        print_row(name, times)

    def _guard_cpu(self, seconds: float) -> float:
        """Return the guard's share of one processor over a span, in percent."""
        pid = self.restorers.guard.pid
        before, started = processes.cpu_s(pid), time.monotonic()
        time.sleep(seconds)
        return 100 * (processes.cpu_s(pid) - before) / (time.monotonic() - started)


def main() -> int:
    """Run the bench; 0 when every drift was restored, 1 when not, 2 when it cannot be run."""
    args = _parser().parse_args()
    if os.geteuid() != 0:
        print("bench: it locks files and asks for SCHED_RR: run it as root", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        return _run(args)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbench: interrupted; everything is cleaned up", file=sys.stderr)
        return 130


def _interrupt(_number: int, _frame: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # cleaning up is not interrupted
    raise KeyboardInterrupt


def _run(args: argparse.Namespace) -> int:
    rounds = args.rounds or (_QUICK_ROUNDS if args.quick else 1000)
    if args.host:
        return _run_on_host(rounds, args.gap)
    with MailTree(args.dir) as tree:
        programs = tree.scratch / "programs"
        processes.build(programs)
        with contextlib.ExitStack() as stack:
            restorers = stack.enter_context(processes.restorers(tree, programs))
            trace = _trace(stack, args.clock, tree, restorers)
            drifter = Drifter(tree, programs, restorers, trace)
            bench = Bench(tree, programs, restorers, drifter, rounds, args.gap)
            _print_setting(bench)
            if args.idle:
                bench.idle(args.idle)
            bench.latency()
            bench.relocking()
            bench.refusing()
            bench.hint_flood()
            time.sleep(_SETTLE_S)
            bench.closing()
    if bench.missed:
        print(f"{bench.missed} drifts were not restored", file=sys.stderr)
    return 1 if bench.missed else 0


def _run_on_host(rounds: int, gap_us: int) -> int:
    with tempfile.TemporaryDirectory(prefix="hardend-bench-") as scratch:
        programs = Path(scratch) / "programs"
        processes.build(programs, "-static")
        try:
            missed = host.run(programs, rounds, gap_us)
        except MachineError as error:
            raise BenchError(str(error)) from error
    print(f"{missed} drifts were not restored" if missed else "every drift was restored")
    return 1 if missed else 0


def _trace(
    stack: contextlib.ExitStack, clock: str, tree: MailTree, restorers: Restorers
) -> tracing.Trace | None:
    """Start the trace; None where it is not wanted, or not to be had and not insisted on."""
    if clock == "poll":
        return None
    try:
        pids = (restorers.guard.pid, restorers.floor.pid)
        return stack.enter_context(tracing.trace(tree.scratch.name, pids))
    except OSError as error:
        if clock == "trace":
            raise BenchError(f"no trace to be had: {error}") from error
        print(f"bench: no trace to be had ({error}): timed by looking on", file=sys.stderr)
        return None


def _print_setting(bench: Bench) -> None:
    print(
        f"Linux {os.uname().release}, {os.cpu_count()} processors, Python {sys.version.split()[0]}\n"
        f"{bench.rounds} drifts of each kind on each side, interleaved, {bench.gap_us} us apart on average,\n"
        f"from the start of the system call until restored, by "
        f"{'the trace of the kernel' if bench.drifter.trace else 'looking on'}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./run bench", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--rounds", type=_positive, metavar="N", help="drifts of each kind (1000)")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_ROUNDS} of each, under a minute")
    parser.add_argument(
        "--idle", type=_positive, nargs="?", const=60, metavar="S", help="also the CPU of S idle seconds (60)"
    )
    parser.add_argument(
        "--gap", type=_positive, default=4000, metavar="US", help="mean time between two drifts (4000)"
    )
    parser.add_argument(
        "--clock", choices=("auto", "trace", "poll"), default="auto", help="see drifter.c (auto)"
    )
    parser.add_argument(
        "--host", action="store_true", help="on the booted test host, with status and alerts beside or not"
    )
    parser.add_argument("--dir", default="/var/tmp", help="where the tree is made (/var/tmp)")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be greater than 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
