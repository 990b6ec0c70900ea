# SPDX-License-Identifier: Apache-2.0
"""Setting aside what a restore replaced: one rename, then a record; the rest is hardend-collect's."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from hardend.errors import FileError
from hardend.kernel import exchange
from hardend.model import Drift, Entry, Host
from hardend.observe import file_type

BESIDE = b".hardend"  # our directory beside what is on another mount than /etc/hardend
_ATTEMPTS = 4
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What file systems answer whose rename takes no flags: network and user-space ones.
NO_FLAGS = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


@dataclass(frozen=True, slots=True)
class Taken:
    """An object that was set aside: its id, and the record to write once the path is safe.

    ``at`` is where the object stays when its mount is not that of the taken directory. ``mended`` is true
    where there is no object: attributes were put right in place, and the record alone tells what they were.
    """

    id: str
    path: str
    cls: str
    drift: tuple[str, ...]
    generation: int
    time_ns: int
    found: os.stat_result
    at: str = ""
    mended: bool = False

    def record(self, incident: str) -> dict[str, object]:
        """Return the record; ``incident`` is the id of the first object of the incident."""
        moment = datetime.fromtimestamp(self.time_ns / 1e9, UTC)
        record: dict[str, object] = {
            "id": self.id,
            "path": self.path,
            "cls": self.cls,
            "drift": list(self.drift),
            "generation": self.generation,
            "time": moment.isoformat(timespec="microseconds"),
            "time_ns": self.time_ns,
            "incident": incident or self.id,
            "kind": file_type(self.found.st_mode).value,
            "uid": self.found.st_uid,
            "gid": self.found.st_gid,
            "mode": stat.S_IMODE(self.found.st_mode),
            "size": self.found.st_size,
            "mtime_ns": self.found.st_mtime_ns,
            "ctime_ns": self.found.st_ctime_ns,
            "who": {},
        }
        if self.at:
            record["at"] = self.at
        if self.mended:
            record["mended"] = True
        return record


class Aside:
    """The directory ``/etc/hardend/taken``."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._serial = 0
        self.generation = 0
        self.count = 0
        try:
            os.makedirs(host.taken_dir, 0o700, exist_ok=True)
            self._directory = os.open(host.taken_dir, _DIRECTORY)
            os.fchown(self._directory, 0, 0)
            os.fchmod(self._directory, 0o700)
        except OSError as error:
            raise FileError(
                f"{host.taken_dir}: cannot set anything aside: {error.strerror}",
                hint="hardend runs as root and needs /etc writable",
            ) from error

    def close(self) -> None:
        """Close the directory."""
        os.close(self._directory)

    def take(
        self,
        directory: int,
        name: bytes,
        entry: Entry,
        drift: frozenset[Drift],
        now_ns: int,
        *,
        path: str = "",
    ) -> Taken:
        """Rename an object out of ``directory``; it keeps its inode, and the writer's descriptors.

        On another mount it goes to our directory beside it, and the record says where. ``path`` is its
        own path where that is not the entry's. Raises OSError.
        """
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        identifier = self._next_id(now_ns)
        at = ""
        try:
            move_in(directory, name, self._directory, identifier.encode())
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            at = _move_beside(directory, name, f"taken-{identifier}")
        self.count += 1
        return Taken(
            identifier,
            path or entry.path,
            entry.cls.value,
            tuple(sorted(drift)),
            self.generation,
            now_ns,
            found,
            at,
        )

    def note(self, entry: Entry, drift: frozenset[Drift], now_ns: int, found: os.stat_result) -> Taken:
        """Return the record of attributes that were put right in place; nothing else tells what they were."""
        words = tuple(sorted(drift))
        number = self.generation
        return Taken(
            self._next_id(now_ns), entry.path, entry.cls.value, words, number, now_ns, found, mended=True
        )

    def _next_id(self, now_ns: int) -> str:
        self._serial += 1
        moment = datetime.fromtimestamp(now_ns / 1e9, UTC)
        return f"{moment:%Y%m%dT%H%M%S.%f}-{self._serial:04d}"

    def write_record(self, taken: Taken, incident: str) -> None:
        """Write the record beside the object; on a full disk the collector makes one of its own."""
        name = f"{taken.id}.json"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        data = json.dumps(taken.record(incident), sort_keys=True).encode()
        try:
            descriptor = os.open(f"{name}.new", flags, 0o600, dir_fd=self._directory)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)
            os.rename(
                f"{name}.new", name, src_dir_fd=self._directory, dst_dir_fd=self._directory
            )
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(f"{name}.new", dir_fd=self._directory)

    def forget(self, directory: int, name: bytes) -> bool:
        """Remove a plain file that a fight left behind; False when it is anything that must be kept."""
        with contextlib.suppress(OSError):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode):
                os.unlink(name, dir_fd=directory)
                return True
        return False


def open_beside(parent: int) -> int:
    """Open, or make, our private directory in ``parent``; the caller closes it.

    What else has its name is renamed out of the way. Raises OSError.
    """
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(FileExistsError):
            os.mkdir(BESIDE, 0o700, dir_fd=parent)
        with contextlib.suppress(NotADirectoryError):
            directory = os.open(BESIDE, _DIRECTORY, dir_fd=parent)
            found = os.fstat(directory)
            if found.st_uid == 0 and not found.st_mode & 0o077:
                return directory
            os.close(directory)
        os.rename(BESIDE, f"hardend-{time.time_ns()}", src_dir_fd=parent, dst_dir_fd=parent)
    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(BESIDE))


def leave_beside(directory: int) -> None:
    """Remove our directory beside a target once nothing is left in it; any other stays."""
    with contextlib.suppress(OSError):
        if os.path.basename(os.readlink(f"/proc/self/fd/{directory}")) != os.fsdecode(BESIDE):
            return
        parent = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.rmdir(BESIDE, dir_fd=parent)
        finally:
            os.close(parent)


def move_in(from_dir: int, name: bytes, to_dir: int, new_name: bytes) -> None:
    """Rename to a name that must be free, also where rename(2) takes no flags.

    There a second link is made first, which never replaces anything; of a directory there can be none,
    and a name that comes in between is replaced if it is an empty directory. Raises FileExistsError
    when the name is not free, or another OSError.
    """
    try:
        exchange.move_in(from_dir, name, to_dir, new_name)
    except OSError as error:
        if error.errno not in NO_FLAGS:
            raise
    else:
        return
    if stat.S_ISDIR(os.stat(name, dir_fd=from_dir, follow_symlinks=False).st_mode):
        with contextlib.suppress(FileNotFoundError):
            os.stat(new_name, dir_fd=to_dir, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(new_name))
        os.rename(name, new_name, src_dir_fd=from_dir, dst_dir_fd=to_dir)
    else:
        os.link(name, new_name, src_dir_fd=from_dir, dst_dir_fd=to_dir, follow_symlinks=False)
        os.unlink(name, dir_fd=from_dir)


def _move_beside(directory: int, name: bytes, new_name: str) -> str:
    """Move an object to our directory in its own, or, where it is there already, to another name."""
    here = os.readlink(f"/proc/self/fd/{directory}")
    if os.path.basename(here) == os.fsdecode(BESIDE):
        move_in(directory, name, directory, new_name.encode())
        return os.path.join(here, new_name)
    for attempt in range(1, _ATTEMPTS + 1):
        beside = open_beside(directory)
        try:
            move_in(directory, name, beside, new_name.encode())
            return os.path.join(os.readlink(f"/proc/self/fd/{beside}"), new_name)
        except FileNotFoundError:  # the collector removed it, empty as it was, or the object is gone
            if attempt == _ATTEMPTS:
                raise
        finally:
            os.close(beside)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(name))
