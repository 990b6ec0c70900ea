# SPDX-License-Identifier: Apache-2.0
"""What the guard publishes for others to read, and how they tell that it is alive.

The lock is an open file description lock (fcntl(2), F_OFD_SETLK): the kernel releases it however
the guard ends, and F_OFD_GETLK tests it without taking it. Testing with flock(2) would take it for
a moment, and a guard that starts in that moment would find it taken. The file is 0600, because
whoever may open it may lock it; others find the lock in /proc/locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import struct
import time
from enum import StrEnum

from hardend.errors import FileError
from hardend.model import Host

STALE_AFTER_S = 10.0  # WatchdogSec of hardend.service: a heartbeat older than this is a hung guard

_FLOCK = "hhqqi0q"  # struct flock: type, whence, start, length, pid
_STATE_LIMIT = 16 << 20


class Guard(StrEnum):
    """Whether a guard runs, as seen from another process."""

    RUNNING = "running"
    HUNG = "hung"
    DEAD = "dead"
    NEVER_STARTED = "never-started"


def publish(host: Host, state: dict[str, object]) -> None:
    """Replace /run/hardend/state.json by ``state``: atomic, 0644, not synced (/run is memory).

    Raises OSError; what was published before stays. Only the holder of the lock publishes.
    """
    aside = f"{host.state_file}.new"
    data = json.dumps(state, sort_keys=True).encode("ascii")
    try:
        descriptor = _create(host, aside, os.O_WRONLY | os.O_TRUNC)
        try:
            os.fchmod(descriptor, 0o644)
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
        finally:
            os.close(descriptor)
        os.rename(aside, host.state_file)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise


def read(host: Host) -> dict[str, object] | None:
    """Return what was published last, or None when nothing ever was. Raises FileError."""
    where = host.state_file
    try:
        descriptor = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size  # a read of the limit would allocate the limit
            data = file.read(min(size, _STATE_LIMIT))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileError(f"{where}: {error.strerror}") from error
    try:
        state = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{where}: not a state: {error}", hint=_RESTART) from error
    if not isinstance(state, dict):
        raise FileError(f"{where}: not a state", hint=_RESTART)
    return state


_RESTART = "the guard writes it anew: systemctl restart hardend.service"


def published_at(host: Host) -> float | None:
    """Return when the state was published (realtime seconds), or None when it never was."""
    try:
        return os.lstat(host.state_file).st_mtime
    except OSError:
        return None


class GuardLock:
    """The lock that only one guard of a host can hold.

    It goes with the process: children that exec do not inherit it. The file stays, the pid in it.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._where = _lock_file(host)
        self._descriptor = -1

    def acquire(self) -> bool:
        """Take the lock; False when another guard has it. Raises FileError."""
        try:
            descriptor = _create(self._host, self._where, os.O_RDWR)
        except OSError as error:
            raise FileError(f"{self._where}: {error.strerror}") from error
        try:
            os.fchmod(descriptor, 0o600)
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _whole_file(fcntl.F_WRLCK))
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as error:
            os.close(descriptor)
            raise FileError(f"{self._where}: {error.strerror}") from error
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def guard_is_alive(host: Host) -> bool:
    """Return whether a process holds the guard's lock; any user may ask, it disturbs nobody."""
    try:
        descriptor = _open_lock(host)
    except PermissionError:
        return _is_in_proc_locks(_lock_file(host))
    except OSError:
        return False
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _whole_file(fcntl.F_RDLCK))
    finally:
        os.close(descriptor)
    kind: int = struct.unpack(_FLOCK, answer)[0]
    return kind != fcntl.F_UNLCK


def guard_pid(host: Host) -> int:
    """Return the pid that the last guard wrote into its lock, 0 when there is none."""
    try:
        descriptor = _open_lock(host)
        try:
            return int(os.pread(descriptor, 20, 0))
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return 0


def guard_of(host: Host, state: dict[str, object] | None) -> Guard:
    """Return what became of the guard, from its lock and the heartbeat in ``state``.

    A guard that holds the lock but has not published yet is running: the state is a former one's.
    """
    if not guard_is_alive(host):
        return Guard.NEVER_STARTED if state is None else Guard.DEAD
    if not is_of_this_guard(host, state):
        return Guard.RUNNING
    heartbeat = state.get("heartbeat") if state else None
    if not isinstance(heartbeat, (int, float)):
        return Guard.HUNG
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - heartbeat
    return Guard.HUNG if age_s > STALE_AFTER_S else Guard.RUNNING


def is_of_this_guard(host: Host, state: dict[str, object] | None) -> bool:
    """Return whether ``state`` was published by the guard that last took the lock, in this boot."""
    if state is None or state.get("boot_id") not in {boot_id(), None}:
        return False
    if pid := guard_pid(host):
        return state.get("pid") == pid
    try:  # may not read it: what is older than the lock is a former guard's
        return os.lstat(host.state_file).st_mtime_ns >= os.lstat(_lock_file(host)).st_mtime_ns
    except OSError:
        return False


def boot_id() -> str:
    """Return the kernel's id of this boot (random(4)), as it goes into the state."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _lock_file(host: Host) -> str:
    return os.path.join(host.run_dir, "guard.lock")


def _is_in_proc_locks(where: str) -> bool:
    """Return whether proc_locks(5) shows a write lock on the file; needs no right to open it."""
    try:
        found = os.lstat(where)
        with open("/proc/locks", encoding="ascii") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    device = found.st_dev
    identity = f"{os.major(device):02x}:{os.minor(device):02x}:{found.st_ino}"
    return any(
        "WRITE" in (words := line.split()) and "OFDLCK" in words and identity in words for line in lines
    )


def _whole_file(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def _open_lock(host: Host) -> int:
    """Open the lock to look at it; raises OSError also for what is not a plain file."""
    descriptor = os.open(_lock_file(host), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise FileNotFoundError(_lock_file(host))


def _create(host: Host, where: str, flags: int) -> int:
    """Open a file of /run/hardend for writing, with the directory where tmpfiles.d did not run."""
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(where, flags, 0o644)
    except FileNotFoundError:
        os.makedirs(host.run_dir, 0o755, exist_ok=True)
        return os.open(where, flags, 0o644)
