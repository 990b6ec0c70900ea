# SPDX-License-Identifier: Apache-2.0
"""How often a shell that takes a lock off and writes is refused: by the guard, and by a bare C loop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.mailtree import LOCKED, BenchError, MailTree
from tests.bench.processes import RR_PRIORITY, Restorers, stop

_BLOCK = 25
_GAP_S = 0.02


class Refusals:
    """The two in turn, in blocks, each with the other stopped: both would have the one processor."""

    def __init__(self, tree: MailTree, restorers: Restorers, sentry: subprocess.Popen[str]) -> None:
        self._chattr = tree.chattr
        self._sides = (
            (tree.mail / LOCKED, restorers.guard.pid, sentry.pid),
            (_asked(tree), sentry.pid, restorers.guard.pid),
        )

    def count(self, tries: int) -> tuple[int, int]:
        """Return how often each refused, the guard and the loop, of ``tries`` (to whole blocks)."""
        refused = [0, 0]
        for _ in range(0, tries, _BLOCK):
            for side, (path, active, other) in enumerate(self._sides):
                os.kill(other, signal.SIGSTOP)
                os.kill(active, signal.SIGCONT)
                time.sleep(_GAP_S)
                refused[side] += sum(_is_refused(self._chattr, path) for _ in range(_BLOCK))
        for _, pid, _ in self._sides:
            os.kill(pid, signal.SIGCONT)
        return refused[0], refused[1]


def to_blocks(tries: int) -> int:
    """Return how many tries ``count`` makes of ``tries``."""
    return -(-tries // _BLOCK) * _BLOCK


@contextlib.contextmanager
def sentry(tree: MailTree, programs: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the loop under SCHED_RR, as the guard."""
    path = _asked(tree)
    path.write_bytes(b"asked for\n")
    process = subprocess.Popen([str(programs / "sentry"), str(path)], stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise BenchError("the sentry did not start")
        os.sched_setscheduler(process.pid, os.SCHED_RR, os.sched_param(RR_PRIORITY))
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
        stop(process)
        subprocess.run(["chattr", "-i", str(path)], check=False)


def _asked(tree: MailTree) -> Path:
    return tree.aside / "asked"


def _is_refused(chattr: Path, path: Path) -> bool:
    command = ["sh", "-c", '"$1" -i "$2"; echo evil >> "$2"', "sh", str(chattr), str(path)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    time.sleep(_GAP_S)
    return done.returncode != 0
