# SPDX-License-Identifier: Apache-2.0
"""The kernel's own time stamps of what the restorers do (tracefs, Documentation/trace/ftrace.rst).

An instance of our own with the monotonic clock records the renameat2(2) and ioctl(2) calls of the two
restorers; nobody has to look on while they work, so that nobody takes a processor from them.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.mailtree import BenchError

_CALLS = ("renameat2", "ioctl")
_SETFLAGS = 0x40086602
_BUFFER_KIB = 8192  # for each processor; a series of 10,000 drifts fills a third of it
_RECORD = re.compile(
    r"-(?P<pid>\d+)\s+\[\d+\]\s+\S+\s+(?P<time>\d+\.\d{6}): sys_(?P<call>\w+)"
    r"(?:\((?P<words>.*)\)| -> (?P<result>0x[0-9a-f]+))"
)
_FLAGS = re.compile(r"flags: ([0-9a-f]+)")
_EXCHANGE = 2
_GRAIN_NS = 1000  # the text has microseconds, rounded down


@dataclass(frozen=True)
class Act:
    """A system call that restored something: monotonic nanoseconds."""

    began: int
    ended: int


@dataclass(frozen=True)
class Drift:
    """A drift: when its system call began, and after how many nanoseconds it was seen to be over."""

    began: int
    seen_ns: int


@dataclass(frozen=True)
class Trace:
    """The instance, while it records."""

    instance: Path

    def clear(self) -> None:
        """Forget what was recorded."""
        (self.instance / "trace").write_text("")

    def acts(self, kind: str) -> dict[int, list[Act]]:
        """Return the calls of each process that put back a drift of this kind, in order."""
        wanted = "ioctl" if kind == "unlock" else "renameat2"
        begun: dict[int, int] = {}
        acts: dict[int, list[Act]] = {}
        with (self.instance / "trace").open() as lines:
            for line in lines:
                found = _RECORD.search(line)
                if found is None or found["call"] != wanted:
                    continue
                pid, now_ns = int(found["pid"]), int(found["time"].replace(".", "")) * 1000
                if found["result"] is None:
                    begun.pop(pid, None)
                    if _puts_back(kind, found["words"]):
                        begun[pid] = now_ns
                elif (start_ns := begun.pop(pid, -1)) >= 0 and int(found["result"], 16) == 0:
                    acts.setdefault(pid, []).append(Act(start_ns, now_ns))
        return acts


def durations(drifts: list[Drift], acts: list[Act]) -> list[int]:
    """Return, for each drift, the nanoseconds to the end of the first act that began after it.

    Both are in order. A process can lose its processor on the way out of the call, when everybody sees
    the restore already: then it lasted until it was seen. Raises BenchError when acts are missing.
    """
    begun = [act.began for act in acts]
    found = []
    for drift, following in itertools.pairwise([*drifts, Drift(sys.maxsize, 0)]):
        place = bisect.bisect_left(begun, drift.began - _GRAIN_NS)
        if place == len(acts) or acts[place].began >= following.began:
            raise BenchError("the trace lacks a restore that was seen (--clock poll does without it)")
        found.append(max(0, min(acts[place].ended - drift.began, drift.seen_ns)))
    return found


def _puts_back(kind: str, words: str) -> bool:
    """Tell a restore from the renames that follow it; a file that is missing is not exchanged in."""
    if kind in {"unlock", "unlink"}:
        return True
    flags = _FLAGS.search(words)
    return flags is not None and int(flags[1], 16) == _EXCHANGE


@contextlib.contextmanager
def trace(name: str, pids: tuple[int, ...]) -> Iterator[Trace]:
    """Record the calls of these processes. Raises OSError where the kernel or the sandbox has no tracefs."""
    with _tracefs() as tracefs:
        instance = tracefs / "instances" / name
        instance.mkdir()
        try:
            _enable(instance, " || ".join(f"common_pid == {pid}" for pid in pids))
            yield Trace(instance)
        finally:
            instance.rmdir()


def _enable(instance: Path, processes: str) -> None:
    (instance / "trace_clock").write_text("mono")
    (instance / "buffer_size_kb").write_text(str(_BUFFER_KIB))
    for call in _CALLS:
        calls = f"({processes}) && cmd == {_SETFLAGS:#x}" if call == "ioctl" else processes
        for event, chosen in ((f"sys_enter_{call}", calls), (f"sys_exit_{call}", processes)):
            directory = instance / "events/syscalls" / event
            (directory / "filter").write_text(chosen)
            (directory / "enable").write_text("1")


@contextlib.contextmanager
def _tracefs() -> Iterator[Path]:
    """Find tracefs, or mount it for as long as it is needed."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        words = line.split()
        if words[2] == "tracefs":
            yield Path(words[1])
            return
    # Not in the scratch directory, which is removed with all that is in it.
    where = Path(tempfile.mkdtemp(prefix="hardend-tracefs-"))
    try:
        command = ["mount", "-t", "tracefs", "none", str(where)]
        mounted = subprocess.run(command, capture_output=True, check=False)
        if mounted.returncode:
            raise FileNotFoundError(mounted.stderr.decode(errors="replace").strip())
        try:
            yield where
        finally:
            subprocess.run(["umount", str(where)], check=False)
    finally:
        where.rmdir()
