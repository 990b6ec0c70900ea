# SPDX-License-Identifier: Apache-2.0
"""Removing what an attacker built: any type, depth, number and flags, never outside of it.

Nothing is walked by path and nothing is held in memory: a directory inside the object is renamed up
to its top and emptied there, so that a tree of any depth is only ever two levels deep. Mount points
inside are not crossed (openat2(2), RESOLVE_NO_XDEV) and are left, with what holds them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from hardend.kernel import flags as inode_flags
from hardend.kernel.paths import NO_XDEV, STRICT, open_beneath

_OCCUPIED = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})
_FLAGGED = stat.S_IFREG, stat.S_IFDIR  # what chattr(1) can make immutable


def remove(directory: int, name: str) -> None:
    """Remove ``name`` from ``directory``, whatever it is; flags in the way are cleared first.

    Raises OSError: EBUSY where a mount point is left inside, FileNotFoundError where it is missing.
    """
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        _insist(os.unlink, directory, name)
        return
    top = _open_own(directory, name)
    try:
        _Emptying(top).run()
    finally:
        os.close(top)
    _insist(os.rmdir, directory, name)


class _Emptying:
    """Empties one directory; remembers the first thing that would not go."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._serial = 0
        self._gone = 0
        self._fault: OSError | None = None

    def run(self) -> None:
        """Make passes until nothing is left. Raises OSError when a pass removed nothing."""
        while True:
            self._fault = None
            self._gone = 0
            with os.scandir(self._top) as entries:
                for entry in entries:
                    self._remove(self._top, entry, self._unfold)
            if self._gone:
                continue
            if self._fault is not None:
                raise self._fault
            return

    def _remove(self, directory: int, entry: os.DirEntry[str], full: Callable[[int, str], None]) -> None:
        """Remove an entry; ``full`` is what is done to a directory that is not empty."""
        try:
            if not entry.is_dir(follow_symlinks=False):
                _insist(os.unlink, directory, entry.name)
            else:
                try:
                    _insist(os.rmdir, directory, entry.name)
                except OSError as error:
                    if error.errno not in _OCCUPIED:
                        raise
                    full(directory, entry.name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._fault = self._fault or error
            return
        self._gone += 1

    def _unfold(self, directory: int, name: str) -> None:
        """Empty a directory of the top: its directories move up to the top, all else goes."""
        descriptor = _open_own(directory, name)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    self._remove(descriptor, entry, self._move_up)
        finally:
            os.close(descriptor)
        _insist(os.rmdir, directory, name)

    def _move_up(self, directory: int, name: str) -> None:
        with contextlib.suppress(OSError):  # its ".." changes: flags on itself forbid that too
            os.close(_open_own(directory, name))
        while True:
            self._serial += 1
            try:
                os.rename(name, f".{self._serial}", src_dir_fd=directory, dst_dir_fd=self._top)
            except OSError as error:
                if error.errno not in _OCCUPIED:
                    raise
            else:
                return


def _insist(remove_name: Callable[..., None], directory: int, name: str) -> None:
    """Remove a name; where that is not permitted clear the object's own flags and try again."""
    try:
        remove_name(name, dir_fd=directory)
    except PermissionError:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_IFMT(found.st_mode) not in _FLAGGED:
            raise
        flags = os.O_RDONLY | os.O_NONBLOCK
        descriptor = open_beneath(directory, name, flags, resolve=STRICT | NO_XDEV)
        try:
            if not _is_cleared(descriptor):
                raise
        finally:
            os.close(descriptor)
        remove_name(name, dir_fd=directory)


def _open_own(directory: int, name: str) -> int:
    """Open a directory that is to be emptied and take it from its owner, who may hold it open."""
    flags = os.O_RDONLY | os.O_DIRECTORY
    descriptor = open_beneath(directory, name, flags, resolve=STRICT | NO_XDEV)
    try:
        _is_cleared(descriptor)
        with contextlib.suppress(PermissionError):  # without CAP_CHOWN the mode must do
            os.fchown(descriptor, 0, 0)
        os.fchmod(descriptor, 0o700)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_cleared(descriptor: int) -> bool:
    """Take ``i`` and ``a`` from an inode; False when it had neither."""
    try:
        flags = inode_flags.get_flags(descriptor)
    except OSError as error:
        if error.errno in inode_flags.UNSUPPORTED:
            return False
        raise
    if not flags & inode_flags.HELD:
        return False
    inode_flags.set_flags(descriptor, flags & ~inode_flags.HELD)
    return True
