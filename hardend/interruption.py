# SPDX-License-Identifier: Apache-2.0
"""What a change of the host leaves for the next run, when it does not come to its end.

A note beside the store tells of it; it is synced before anything changes, and goes when all is done.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from hardend.aside import Aside
from hardend.errors import RefusedError
from hardend.kernel import flags
from hardend.kernel.paths import open_beneath
from hardend.model import Class, Drift, Entry, FileType, Host, Role, printable

_NOTE = "harden.json"
_NOTE_LIMIT = 1 << 20
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_NONBLOCK
_SLACK = 1 << 20  # bytes of a disk: directories, records, what others write meanwhile
_COPIES = 3  # of new content: the spare that goes in, the next one, and one to go back with
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Note:
    """A change on its way: the generation before it, why, and the paths that it makes."""

    before: int
    reason: str
    made: tuple[str, ...] = ()


@contextlib.contextmanager
def noted(host: Host, note: Note) -> Iterator[None]:
    """Leave a note, synced before anything else is done, and hold it as a run that is at work.

    ``forget`` takes it away; whatever ends the run before that leaves it. Raises OSError.
    """
    os.makedirs(host.state_dir, 0o700, exist_ok=True)
    path = _path(host)
    document = {"before": note.before, "reason": note.reason, "made": list(note.made)}
    with open(os.open(f"{path}.new", _WRITE, 0o600), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
            os.rename(f"{path}.new", path)
            _sync(host.state_dir)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(f"{path}.new")
            raise
        yield


def require_no_other(host: Host) -> None:
    """Raise RefusedError while the run that left the note is still at work."""
    with contextlib.suppress(FileNotFoundError), open(_path(host), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RefusedError("another hardend harden is at work", hint="wait for its end") from error


def read(host: Host) -> Note | None:
    """Return the note that was left, None without one; what is no note of ours counts as none."""
    try:
        with open(os.open(_path(host), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            document = json.loads(file.read(_NOTE_LIMIT))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("before"), int):
        return None
    made = document.get("made")
    paths = made if isinstance(made, list) else []
    return Note(
        document["before"],
        str(document.get("reason", "")),
        tuple(path for path in paths if isinstance(path, str) and path.startswith("/")),
    )


def forget(host: Host) -> None:
    """Take the note away."""
    with contextlib.suppress(OSError):
        os.unlink(_path(host))


def _path(host: Host) -> str:
    return os.path.join(host.state_dir, _NOTE)


def _sync(directory: str) -> None:
    descriptor = os.open(directory, _DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held_off() -> Iterator[None]:
    """Keep Ctrl-C, a hang-up and a polite kill waiting: what is being put in place is put there whole."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def require_room(host: Host, changed: Iterable[Entry]) -> None:
    """Raise RefusedError where a disk has not the room for new content, and for the way back.

    Without it, some files could go in and others not.
    """
    needed: dict[int, tuple[str, int]] = {}
    for entry in changed:
        size = -(-entry.size // _BLOCK) * _BLOCK
        for where in (os.path.dirname(host.at(entry.path)), host.config_dir, host.state_dir):
            place = _existing(where)
            device = os.stat(place).st_dev
            needed[device] = (place, needed.get(device, ("", _SLACK))[1] + _COPIES * size)
    for place, size in needed.values():
        disk = os.statvfs(place)
        if disk.f_bfree * disk.f_frsize < size or (disk.f_files and not disk.f_ffree):
            raise RefusedError(
                f"{printable(place)}: the disk is full, or nearly: {size >> 10} KiB are needed",
                hint="nothing was changed; make room and do it again",
            )


def _existing(where: str) -> str:
    while not os.path.isdir(where):
        where = os.path.dirname(where)
    return where


def withdraw(host: Host, made: Iterable[str], entries: Mapping[str, Entry], generation: int) -> list[str]:
    """Set aside, for the quarantine, what a plan made that is undone; return what could not go.

    What the baseline holds now stays, whoever made it.
    """
    failed = []
    aside = Aside(host)
    aside.generation = generation
    try:
        for path in made:
            if path not in entries:
                try:
                    _set_aside(host, aside, path)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    failed.append(f"{printable(path)}: {error.strerror}")
    finally:
        aside.close()
    return failed


def _set_aside(host: Host, aside: Aside, path: str) -> None:
    with contextlib.ExitStack() as stack:
        root = os.open(host.root, _DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, root)
        parent, _, name = path.rpartition("/")
        directory = open_beneath(root, parent.lstrip("/") or ".", _DIRECTORY)
        stack.callback(os.close, directory)
        if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            descriptor = open_beneath(directory, name, _READ)
            stack.callback(os.close, descriptor)
            with contextlib.suppress(OSError):  # no flags there; else the rename says why it may not go
                flags.hold_flags(descriptor, "")
        entry = Entry(path, Role.SOURCE, Class.LOCKED, FileType.FILE, 0, 0, 0o644)
        taken = aside.take(directory, os.fsencode(name), entry, frozenset({Drift.UNEXPECTED}), time.time_ns())
        aside.write_record(taken, "")
