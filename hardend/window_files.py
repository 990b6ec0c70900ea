# SPDX-License-Identifier: Apache-2.0
"""The windows of a host on disk: a file each in /run/hardend/windows, which survives a guard, not a reboot.

One process writes: the guard while it runs, else the command that opens or ends a window.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
from collections.abc import Iterator, Mapping

from hardend import boot
from hardend.model import Host
from hardend.window import Change, Window, is_id

_FLOCK = "hhqqi0q"  # struct flock: type, whence, start, length, pid
_LARGEST = 4 << 20


def directory(host: Host) -> str:
    """Return where the windows of a host are."""
    return os.path.join(host.run_dir, "windows")


def write(host: Host, window: Window) -> None:
    """Write a window, whole or not at all; anybody may read it, as state.json. Raises OSError."""
    os.makedirs(directory(host), 0o755, exist_ok=True)
    os.chmod(directory(host), 0o755)  # noqa: S103 - who a window is of stands in state.json for all
    path = _path(host, window.id)
    document = {
        "boot": window.boot,
        "paths": window.paths,
        "trees": window.trees,
        "opened": window.opened,
        "until": window.until,
        "reason": window.reason,
        "by": window.by,
        "uid": window.uid,
        "command": window.command,
        "attempts": window.attempts,
        "changes": {path: change.as_json() for path, change in window.changes.items()},
    }
    with open(f"{path}.new", "w", encoding="ascii") as file:
        json.dump(document, file)
        os.fchmod(file.fileno(), 0o644)
    os.rename(f"{path}.new", path)


def remove(host: Host, identifier: str) -> None:
    """Forget a window, there or not."""
    for path in (_path(host, identifier), _told_path(host, identifier), runner_path(host, identifier)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def identifiers(host: Host) -> frozenset[str]:
    """Return the ids of the windows on disk, readable or not; one directory listing."""
    try:
        names = os.listdir(directory(host))
    except OSError:
        return frozenset()
    return frozenset(name[:-5] for name in names if name.endswith(".json") and is_id(name[:-5]))


def read_all(host: Host) -> list[Window]:
    """Return the windows of this boot, the first opened first; a damaged file is no window."""
    found = [window for name in identifiers(host) if (window := read(host, name)) is not None]
    return sorted(found, key=lambda window: (window.opened, window.id))


def read(host: Host, identifier: str) -> Window | None:
    """Return a window of this boot, or None."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(_path(host, identifier), flags), "rb") as file:
            document = json.loads(file.read(_LARGEST))
        window = _from_json(identifier, document)
        window.until_text()
        if window.boot != boot.identity(host):
            return None
    except (OSError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return None
    return window


def _from_json(identifier: str, document: Mapping[str, object]) -> Window:
    paths, trees, changes = document["paths"], document["trees"], document["changes"]
    if not isinstance(paths, list) or not isinstance(trees, list) or not isinstance(changes, dict):
        raise TypeError("not a window")
    return Window(
        id=identifier,
        boot=str(document["boot"]),
        paths=tuple(map(str, paths)),
        trees=tuple(map(str, trees)),
        opened=_number(document["opened"]),
        until=_number(document["until"]),
        reason=str(document["reason"]),
        by=str(document["by"]),
        uid=int(_number(document["uid"])),
        command=str(document["command"]),
        attempts=int(_number(document["attempts"])),
        changes={str(path): _change_of(change) for path, change in changes.items()},
    )


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError("not a number")
    return float(value)


def _change_of(document: Mapping[str, object]) -> Change:
    drift = document["drift"]
    if not isinstance(drift, list):
        raise TypeError("not a change")
    first, last, count = (_number(document[name]) for name in ("first", "last", "count"))
    return Change(first, last, int(count), tuple(map(str, drift)))


def _path(host: Host, identifier: str) -> str:
    return os.path.join(directory(host), f"{identifier}.json")


def _told_path(host: Host, identifier: str) -> str:
    return os.path.join(directory(host), f"{identifier}.told")


def tell_once(host: Host, identifier: str, threshold_s: int) -> bool:
    """Return whether the owner is still to be told that this many seconds are left, and note it as done."""
    try:
        with open(_told_path(host, identifier), "a+", encoding="ascii") as file:
            file.seek(0)
            if str(threshold_s) in file.read(4096).split():
                return False
            file.write(f"{threshold_s}\n")
    except (OSError, ValueError):
        return False
    return True


# Who runs a command in a window ----------------------------------------------------------------------


def runner_path(host: Host, identifier: str) -> str:
    """Return the file that the process of ``hardend run`` holds locked."""
    return os.path.join(directory(host), f"{identifier}.run")


def hold_runner(host: Host, identifier: str) -> int:
    """Lock the runner's file and return its descriptor; the kernel releases it however we end.

    An open file description lock (fcntl(2), F_OFD_SETLK), which children that exec do not inherit.
    """
    os.makedirs(directory(host), 0o755, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(runner_path(host, identifier), flags, 0o600)
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    return descriptor


def hold_for(host: Host, identifier: str, pid: int) -> None:
    """Have a window last as long as a process that knows nothing of it. Raises OSError."""
    os.makedirs(directory(host), 0o755, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(runner_path(host, identifier), flags, 0o600), "w", encoding="ascii") as file:
        file.write(f"{pid}\n")


def holder(host: Host, identifier: str) -> int:
    """Return the process that a window was made to last as long as, dead or alive; 0 for none."""
    try:
        descriptor = os.open(runner_path(host, identifier), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, encoding="ascii") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return 0


def is_orphan(host: Host, window: Window) -> bool:
    """Return whether the process that ran the command of a window is gone."""
    if not window.command:
        return False
    if pid := holder(host, window.id):
        return not _lives(pid)
    try:
        descriptor = os.open(runner_path(host, window.id), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    kind: int = struct.unpack(_FLOCK, answer)[0]
    return kind == fcntl.F_UNLCK


def _lives(pid: int) -> bool:
    """Return whether a process is there; not by /proc, where the guard does not see it (ProtectProc=)."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def ending(host: Host) -> Iterator[None]:
    """Wait until nobody else ends a window, and be the one who does."""
    os.makedirs(directory(host), 0o755, exist_ok=True)
    path = os.path.join(directory(host), "ending.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
