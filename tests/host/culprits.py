# SPDX-License-Identifier: Apache-2.0
"""Runs inside the test host: changes a guarded file as different programs do it, and says which process did.

``python3 culprits.py KIND PATH TIMES``: prints one JSON list of the process numbers. A lock is taken off
through a descriptor that is kept open, as an intruder would who knows that chattr(1) is seen.
``python3 culprits.py cost PATH TIMES``: prints nanoseconds of open, read and close, median and 99th of 100.
Stands alone: none of our modules is on its path.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

WAIT_S = 20.0
GAP_S = 0.3
ASIDE = "/etc/mail-culprits"
LINGER_S = 0.5
ON_THEIR_OWN = ("python exits", "python stays", "rename stays", "chmod stays", "cp new", "ln new")


def unlock_once(path: str) -> None:
    """Take the lock off as chattr(1) does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        clear(descriptor)
    finally:
        os.close(descriptor)


def clear(descriptor: int) -> None:
    """Take the lock off if it is on."""
    now = struct.unpack("I4x", fcntl.ioctl(descriptor, 0x80086601, bytes(8)))[0]
    if now & 0x30:
        fcntl.ioctl(descriptor, 0x40086602, struct.pack("I4x", now & ~0x30))


def unlock(path: str, seconds: float) -> None:
    """Take the lock off again and again, following the file as it is replaced."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            inode = os.fstat(descriptor).st_ino
            try:
                for count in range(100_000):
                    clear(descriptor)
                    if not count % 64 and os.stat(path).st_ino != inode:
                        break
            finally:
                os.close(descriptor)


def by_program(argv: Sequence[str]) -> int:
    """Run a program until it succeeds; return its number."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        child = subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        if child.wait() == 0:
            return child.pid
    raise SystemExit(f"{argv}: not once in {WAIT_S} s")


def by_python(path: str, change: Callable[[str], object], linger_s: float) -> int:
    """Change a locked file in a child that goes on for a while; return its number."""
    child = os.fork()
    if child == 0:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                unlock_once(path)
                change(path)
            except OSError:
                continue
            time.sleep(linger_s)
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return child


def append(path: str) -> None:
    with open(path, "ab", buffering=0) as file:
        file.write(b"# evil\n")


def rename_over(path: str) -> None:
    os.makedirs(ASIDE, exist_ok=True)
    with open(f"{ASIDE}/new", "wb") as file:
        file.write(b"# another\n")
    os.rename(f"{ASIDE}/new", path)


def kinds(path: str) -> dict[str, Callable[[], int]]:
    """Return how a path is changed, by the name of the kind."""
    return {
        "sed -i": lambda: by_program(["sed", "-i", "1i # evil", path]),
        "sh echo >>": lambda: by_program(["sh", "-c", f"echo '# evil' >> {path}"]),
        "tee": lambda: by_program(["sh", "-c", f"echo '# evil' | tee -a {path}"]),
        "chmod": lambda: by_program(["chmod", "666", path]),
        "cp new": lambda: by_program(["cp", "/bin/true", path]),
        "ln new": lambda: by_program(["ln", "-s", "/bin/sh", path]),
        "python exits": lambda: by_python(path, append, 0.0),
        "python stays": lambda: by_python(path, append, LINGER_S),
        "rename stays": lambda: by_python(path, rename_over, LINGER_S),
        "chmod stays": lambda: by_python(path, lambda where: os.chmod(where, 0o666), LINGER_S),
    }


def cost(path: str, times: int) -> list[int]:
    """Return median and 99th of a hundred of open, read and close, in nanoseconds."""
    took = []
    for _ in range(times):
        begin = time.perf_counter_ns()
        descriptor = os.open(path, os.O_RDONLY)
        os.read(descriptor, 4096)
        os.close(descriptor)
        took.append(time.perf_counter_ns() - begin)
        time.sleep(0.0005)
    return [int(statistics.median(took)), sorted(took)[times * 99 // 100]]


def main() -> None:
    """Do what the command line says."""
    kind, path, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if kind == "cost":
        print(json.dumps(cost(path, times)))
        return
    done = []
    unlocker = 0 if kind in ON_THEIR_OWN else os.fork()
    if unlocker == 0 and kind not in ON_THEIR_OWN:
        unlock(path, 120)
        os._exit(0)
    try:
        for _ in range(times):
            done.append(kinds(path)[kind]())
            time.sleep(GAP_S)
    finally:
        if unlocker:
            os.kill(unlocker, 9)
            os.waitpid(unlocker, 0)
    print(json.dumps(done))


if __name__ == "__main__":
    main()
