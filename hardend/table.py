# SPDX-License-Identifier: Apache-2.0
"""The protected paths as the guard holds them: pinned directories, kept descriptors, identities.

A path is always reached through the descriptor of its directory, and a directory through its own,
so that somebody who renames parents or swaps them for links never leads a restore astray.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from hardend.kernel import paths
from hardend.model import Class, Drift, Entry, FileType, Host, Role, State
from hardend.reconcile import History

# Where the unit's own sandbox mounts (ReadWritePaths=): crossing here is expected.
SANDBOX_MOUNTS = frozenset({"/", "/etc", "/var", "/var/spool"})
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
# Before Linux 6.13 a change within the tick of the one before leaves ctime as it was; two ticks of
# the slowest clock (HZ=100) tell them apart. Until then the sweep looks again.
SETTLE_NS = 20_000_000
ANYTHING = "*"


@dataclass(slots=True, eq=False)
class Spare:
    """A complete, synced copy of an entry, ready to be exchanged in, and what it was when staged."""

    directory: int
    name: bytes
    descriptor: int
    inode: int
    ctime_ns: int
    beside: bool = False  # staged on the target's own mount

    def is_intact(self) -> bool:
        """Return whether the name still is the object that was staged, unchanged since."""
        try:
            named = os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)
        except OSError:
            return False
        return named.st_ino == self.inode and named.st_ctime_ns == self.ctime_ns


@dataclass(slots=True, eq=False)
class Held:
    """One entry under guard: its directory, the descriptor of its live inode, and its state."""

    entry: Entry
    parent: Held | None
    name: bytes
    history: History
    descriptor: int = -1
    device: int = 0
    inode: int = 0
    ctime_ns: int = 0
    size: int = 0
    settled: bool = False
    state: State = State.UNPROTECTED
    since: float = 0.0
    drift: frozenset[Drift] = frozenset()
    reason: str = ""
    spare: Spare | None = None
    wants_spare: bool = False
    other_mount: bool = False
    fresh: bool = False  # approved a moment ago: bringing it there is no drift
    replaces: str = ""  # the digest of the content before the approval, ANYTHING for a first one
    covered: float = 0.0  # since when a mount lies over it (steady clock), or 0
    relocked: bool = False  # the lock was off and is on again; not told yet
    unverified: bool = False
    ask_at: float = 0.0  # when the rebuild unit may be asked again (steady clock)
    doubted: float = 0.0  # since when new content of a checked file is not judged (steady clock)
    bad_answers: bool = False
    window: str = ""  # the id of the maintenance window that lets it go, "" while it is held
    next_exchange: float = 0.0
    strangers: set[bytes] = field(default_factory=set)
    children: dict[bytes, Held] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        """Whether the entry is a directory, whatever is found there."""
        return self.entry.kind is FileType.DIRECTORY

    @property
    def parent_descriptor(self) -> int:
        """The descriptor through which the path is reached; -1 while its directory is missing."""
        return self.parent.descriptor if self.parent else -1

    def lstat(self) -> os.stat_result | None:
        """Return what is at the path now, or None; opens nothing. Raises OSError but not for ENOENT."""
        if self.parent is None:
            return os.fstat(self.descriptor)
        if self.parent.descriptor < 0:
            return None
        try:
            return os.stat(self.name, dir_fd=self.parent.descriptor, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_same(self, found: os.stat_result) -> bool:
        """Return whether this is the inode we hold."""
        return found.st_ino == self.inode and found.st_dev == self.device

    def is_as_known(self, found: os.stat_result | None) -> bool:
        """Return whether lstat alone says that nothing happened since the last look."""
        return (
            found is not None
            and found.st_ctime_ns == self.ctime_ns
            and found.st_ino == self.inode
            and found.st_size == self.size  # ramfs: truncate(2) leaves every time as it was
            and self.settled
            and not self.bad_answers
        )

    def is_condemned(self, found: os.stat_result | None) -> bool:
        """Return whether lstat alone says that a locked file must be exchanged, whatever is wrong."""
        entry = self.entry
        if entry.cls is not Class.LOCKED or not entry.digest or entry.role is not Role.SOURCE:
            return False
        return (
            found is None
            or found.st_ino != self.inode
            or found.st_mtime_ns != entry.mtime_ns
            or found.st_size != entry.size
            or found.st_mode != entry.mode | stat.S_IFREG
            or found.st_uid != entry.uid
            or found.st_gid != entry.gid
        )

    def identify(self, found: os.stat_result, now_ns: int) -> None:
        """Take an inode as ours; it is settled when it is older than the clock is coarse."""
        self.device = found.st_dev
        self.inode = found.st_ino
        self.ctime_ns = found.st_ctime_ns
        self.size = found.st_size
        self.settled = now_ns - found.st_ctime_ns > SETTLE_NS

    def drop(self) -> None:
        """Close the live descriptor and forget the inode."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1
        self.inode = self.ctime_ns = 0
        self.settled = False

    def adopt(self, descriptor: int) -> None:
        """Hold another inode from now on."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = descriptor


def open_live(held: Held, found: os.stat_result) -> bool:
    """Keep a descriptor of what is at the path, if it is of the entry's type; False if it is not.

    The type was seen by lstat first, and the descriptor is compared with it: a FIFO or a leased file
    put there in between does not block, and is not taken for ours.
    """
    if held.parent is None:
        return True
    try:
        if held.is_directory and stat.S_ISDIR(found.st_mode):
            crosses = held.entry.mount or held.entry.path in SANDBOX_MOUNTS
            descriptor = paths.open_directory(
                held.parent.descriptor, os.fsdecode(held.name), may_cross=crosses
            )
        elif held.entry.kind is FileType.FILE and stat.S_ISREG(found.st_mode):
            descriptor = os.open(held.name, _OPEN, dir_fd=held.parent.descriptor)
        elif held.entry.kind is FileType.SYMLINK and stat.S_ISLNK(found.st_mode):
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(held.name, flags, dir_fd=held.parent.descriptor)
        else:
            return False
    except OSError:
        return False
    opened = os.fstat(descriptor)
    if (opened.st_ino, opened.st_dev) != (found.st_ino, found.st_dev):
        os.close(descriptor)
        return False
    held.adopt(descriptor)
    return True


class Table:
    """All entries of a generation, directories before what they hold."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.by_path: dict[str, Held] = {}

    def __iter__(self) -> Iterator[Held]:
        return iter(self.by_path.values())

    def __len__(self) -> int:
        return len(self.by_path)

    def add(self, entry: Entry, history: History) -> Held:
        """Add an entry whose ancestors are in the table; the root itself is pinned here.

        Raises OSError when the root cannot be opened, KeyError when its directory is not an entry.
        """
        if entry.path == "/":
            held = Held(entry, None, b"/", history)
            held.descriptor = os.open(self._host.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            parent, name = os.path.split(entry.path)
            directory = self.by_path[parent]
            held = Held(entry, directory, os.fsencode(name), history)
            directory.children[held.name] = held
        self.by_path[entry.path] = held
        return held

    def remove(self, path: str) -> Held:
        """Take an entry out; its descriptors stay open for the caller to use and close."""
        held = self.by_path.pop(path)
        if held.parent is not None:
            held.parent.children.pop(held.name, None)
        return held

    def close(self) -> None:
        """Close every descriptor."""
        for held in self:
            with contextlib.suppress(OSError):
                held.drop()
            if held.spare is not None:
                os.close(held.spare.descriptor)
                held.spare = None


def is_watched_content(held: Held) -> bool:
    """Return whether writes to the inode itself matter (files; a link has no content of its own)."""
    return held.entry.kind is FileType.FILE and held.entry.role in {Role.SOURCE, Role.MAP}
