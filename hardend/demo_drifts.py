# SPDX-License-Identifier: Apache-2.0
"""The ten drifts of the demo: what an intruder with root does to a mail host, and how to see it undone.

Nothing here knows the guard: the locks are taken off as an intruder must, again and again because
they come back, and what is put back is seen by looking at the path.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

from hardend.demo_kept import Kept
from hardend.errors import CommandError
from hardend.kernel import flags as inode_flags
from hardend.kernel.exchange import exchange
from hardend.model import Host

_CF = "/etc/mail/sendmail.cf"
_ACCESS = "/etc/mail/access"
_QUEUE = "/var/spool/mqueue"
_PUBLIC = b"O PrivacyOptions=public\n"
_RELAY = b"Connect:\tRELAY\n"
_ATTEMPTS = 20_000
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Drifted:
    """When it drifted: monotonic ns just before the system call; ``tries`` counts those refused too."""

    began_ns: int
    tries: int = 1


Act = Callable[[], Drifted]


@dataclass(frozen=True, slots=True)
class Ground:
    """Where it happens: the host, and a directory of the intruder's on the same file system."""

    host: Host
    lair: str

    def at(self, path: str) -> str:
        """Return where a path of the host is."""
        return self.host.at(path)


@dataclass(frozen=True, slots=True)
class Trial:
    """One drift: ``ready`` prepares it and returns the act.

    ``restored`` is what comes back; ``is_copy`` knows the copy of what was replaced, None where
    nothing is, which ``no_copy`` explains.
    """

    happening: str
    path: str
    restored: str
    ready: Callable[[Ground], Act]
    is_copy: Callable[[Kept], bool] | None = None
    no_copy: str = ""


class Sight:
    """What an outsider sees of a path now, to know it again; opens it once per inode at most.

    Every inode stays open until ``close``: the last close of a deleted one takes milliseconds.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._opened: dict[int, int] = {}
        self._approved = _seen(path)
        self._lock = self._flags()

    def is_as_before(self) -> bool:
        """Return whether type, owner, mode, size, time stamp and lock are what they were."""
        return _seen(self._path) == self._approved and self._flags() == self._lock

    def close(self) -> None:
        """Close what was opened."""
        for descriptor in self._opened.values():
            os.close(descriptor)
        self._opened.clear()

    def _flags(self) -> int:
        """Return the lock of a regular file; asking an open one raises no event with the guard."""
        try:
            found = os.lstat(self._path)
            if not stat.S_ISREG(found.st_mode):
                return 0
            if found.st_ino not in self._opened:
                self._opened[found.st_ino] = os.open(self._path, _OPEN)
            return inode_flags.get_flags(self._opened[found.st_ino]) & inode_flags.HELD
        except OSError:
            return -1


def _seen(path: str) -> tuple[int, ...] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    attributes = (found.st_mode, found.st_uid, found.st_gid)
    if stat.S_ISDIR(found.st_mode):  # the very directory: an impostor may look the same
        return (*attributes, found.st_ino)
    return (*attributes, found.st_size, found.st_mtime_ns)


def _unlocked(path: str, change: Callable[[], object]) -> Drifted:
    """Change a locked file: take the lock off, and again as often as it comes back before the change."""
    for attempt in range(1, _ATTEMPTS + 1):
        unlock(path)
        began = time.monotonic_ns()
        try:
            change()
        except PermissionError:
            continue
        return Drifted(began, attempt)
    raise CommandError(f"{path}: the lock came back {_ATTEMPTS} times: the demo could not drift it")


def unlock(path: str) -> None:
    """Do what ``chattr -i`` does. Raises OSError."""
    descriptor = os.open(path, _OPEN)
    try:
        inode_flags.hold_flags(descriptor, "")
    finally:
        os.close(descriptor)


def _append(ground: Ground) -> Act:
    path = ground.at(_CF)
    return lambda: _written(path, os.O_APPEND, _PUBLIC)


def _written(path: str, flags: int, content: bytes) -> Drifted:
    for attempt in range(1, _ATTEMPTS + 1):
        unlock(path)
        try:
            descriptor = os.open(path, os.O_WRONLY | flags | os.O_CLOEXEC)
        except PermissionError:
            continue
        try:
            began = time.monotonic_ns()
            os.write(descriptor, content)
        except PermissionError:
            continue
        finally:
            os.close(descriptor)
        return Drifted(began, attempt)
    raise CommandError(f"{path}: the lock came back {_ATTEMPTS} times: the demo could not drift it")


def _rename_over(ground: Ground) -> Act:
    path, new = ground.at(_ACCESS), os.path.join(ground.lair, "access")
    with open(new, "wb") as file:
        file.write(_RELAY)
        os.fsync(file.fileno())  # else ext4 writes it within the rename, which is what is measured
    return lambda: _unlocked(path, lambda: os.rename(new, path))


def _delete(ground: Ground) -> Act:
    path = ground.at("/etc/mail/submit.cf")
    return lambda: _unlocked(path, lambda: os.unlink(path))


def _open_to_all(ground: Ground) -> Act:
    path = ground.at("/etc/mail/sendmail.mc")
    return lambda: _unlocked(path, lambda: os.chmod(path, 0o666))  # noqa: S103 - it is the drift


def _link(ground: Ground) -> Act:
    path, new = ground.at("/etc/aliases"), os.path.join(ground.lair, "aliases")
    os.symlink("/etc/shadow", new)
    return lambda: _unlocked(path, lambda: os.rename(new, path))


def _take_lock_off(ground: Ground) -> Act:
    descriptor = os.open(ground.at("/etc/mail/submit.mc"), _OPEN)

    def act() -> Drifted:
        try:
            began = time.monotonic_ns()
            inode_flags.hold_flags(descriptor, "")
        finally:
            os.close(descriptor)
        return Drifted(began)

    return act


def _shell_for_smrsh(ground: Ground) -> Act:
    def act() -> Drifted:
        began = time.monotonic_ns()
        os.symlink("/bin/sh", ground.at("/etc/mail/smrsh/sh"))
        return Drifted(began)

    return act


def _impostor(ground: Ground) -> Act:
    """An impostor changes places with the directory in one system call: there is never none."""
    impostor = os.path.join(ground.lair, "mail")
    os.mkdir(impostor, 0o755)
    with open(os.path.join(impostor, "sendmail.cf"), "wb") as file:
        file.write(_PUBLIC)
    lair = os.open(ground.lair, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    etc = os.open(ground.at("/etc"), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def act() -> Drifted:
        try:
            began = time.monotonic_ns()
            exchange(lair, b"mail", etc, b"mail")
        finally:
            os.close(lair)
            os.close(etc)
        return Drifted(began)

    return act


def _queue_for_all(ground: Ground) -> Act:
    def act() -> Drifted:
        began = time.monotonic_ns()
        os.chmod(ground.at(_QUEUE), 0o777)  # noqa: S103 - it is the drift
        return Drifted(began)

    return act


def _late_write(ground: Ground) -> Act:
    path = ground.at(_ACCESS)
    for _ in range(_ATTEMPTS):
        unlock(path)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except PermissionError:
            continue
        break
    else:
        raise CommandError(f"{path}: the lock came back {_ATTEMPTS} times before it could be opened")

    def act() -> Drifted:
        try:
            return _unlocked(path, lambda: os.pwrite(descriptor, _RELAY, 0))
        finally:
            os.close(descriptor)

    return act


TRIALS = (
    Trial(
        f"{_CF}: chattr -i, then PrivacyOptions=public appended",
        _CF,
        "content",
        _append,
        lambda kept: kept.content is not None and kept.content.endswith(b"\n" + _PUBLIC),
    ),
    Trial(
        f"{_ACCESS}: a file that relays for everyone renamed over it",
        _ACCESS,
        "content, owner and mode",
        _rename_over,
        lambda kept: kept.content == _RELAY,
    ),
    Trial(
        "/etc/mail/submit.cf: deleted",
        "/etc/mail/submit.cf",
        "the file",
        _delete,
        no_copy="nothing stood there",
    ),
    Trial(
        "/etc/mail/sendmail.mc: chmod 0666, writable by every user",
        "/etc/mail/sendmail.mc",
        "mode 0644",
        _open_to_all,
        lambda kept: kept.kind == "file" and kept.mode == 0o666,  # noqa: PLR2004
    ),
    Trial(
        "/etc/aliases: replaced by a link to /etc/shadow",
        "/etc/aliases",
        "the file",
        _link,
        lambda kept: kept.target == "/etc/shadow",
    ),
    Trial(
        "/etc/mail/submit.mc: chattr -i, and nothing else yet",
        "/etc/mail/submit.mc",
        "the lock",
        _take_lock_off,
        no_copy="nothing was replaced",
    ),
    Trial(
        "/etc/mail/smrsh/sh -> /bin/sh: mail may now run a shell",
        "/etc/mail/smrsh/sh",
        "link removed",
        _shell_for_smrsh,
        lambda kept: kept.target == "/bin/sh",
    ),
    Trial(
        "/etc/mail: renamed away, an impostor in its place",
        "/etc/mail",
        "the directory",
        _impostor,
        lambda kept: "sendmail.cf" in kept.names,
    ),
    Trial(
        f"{_QUEUE}: chmod 0777, every user may read and remove mail",
        _QUEUE,
        "mode 2750",
        _queue_for_all,
        no_copy="nothing was replaced",
    ),
    Trial(
        f"{_ACCESS}: written through a descriptor opened long before",
        _ACCESS,
        "content",
        _late_write,
        lambda kept: kept.content is not None and kept.content.startswith(_RELAY) and kept.content != _RELAY,
    ),
)
