# SPDX-License-Identifier: Apache-2.0
"""Putting directories back: the pinned inode is found where it went and moved home.

A queue's impostor is never set aside: mail may have been accepted into it.
"""

from __future__ import annotations

import contextlib
import os
import stat

from hardend.aside import NO_FLAGS, Aside, Taken, move_in
from hardend.kernel import flags as inode_flags
from hardend.kernel import paths
from hardend.kernel.exchange import exchange
from hardend.model import Drift, Role, printable
from hardend.restore import CannotRestoreError, amend, reason, unlock
from hardend.table import Held, open_live

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ATTEMPTS = 8
_KEEPS_IMPOSTOR = frozenset({Role.QUEUE, Role.ANCESTOR})


def put_back(held: Held, aside: Aside, drift: frozenset[Drift], now_ns: int) -> Taken | None:
    """Make the directory at the path be the approved one again; return what was set aside.

    Moved: exchanged home. Removed: made anew, empty. Only attributes: amended in place. ``held.reason``
    says what the administrator must know. Raises CannotRestoreError.
    """
    try:
        found = held.lstat()
        if found is not None and held.descriptor >= 0 and held.is_same(found):
            amend(held.descriptor, held.entry)
            return None
        taken = _bring_home(held, aside, drift, now_ns)
        amend(held.descriptor, held.entry)
    except OSError as error:
        raise CannotRestoreError(reason(error)) from error
    return taken


def _bring_home(
    held: Held, aside: Aside, drift: frozenset[Drift], now_ns: int
) -> Taken | None:
    why = ""
    for _ in range(_ATTEMPTS):
        where = paths.path_of(held.descriptor) if held.descriptor >= 0 else " (deleted)"
        if where.endswith(" (deleted)"):
            break
        try:
            return _exchange_home(held, where, aside, drift, now_ns)
        except OSError as error:
            why = (
                f"the directory itself is now at {printable(where)} ({reason(error)}): "
                f"a new one was made; move what is missing back from there"
            )
            if not isinstance(error, FileNotFoundError | FileExistsError):
                break
            # Whoever moves it did more of it meanwhile. It may be home, and its impostor gone: then it must
            # not be taken for that.
            found = held.lstat()
            if found is not None and held.is_same(found):
                return None
    held.reason = why
    return _make_anew(held, aside, drift, now_ns)


def _exchange_home(
    held: Held, where: str, aside: Aside, drift: frozenset[Drift], now_ns: int
) -> Taken | None:
    """Swap the pinned directory with whatever stands at its path, or move it in."""
    parent_path, name = os.path.split(where)
    elsewhere = os.open(parent_path, _DIRECTORY)
    try:
        there = os.fsencode(name)
        if os.stat(there, dir_fd=elsewhere, follow_symlinks=False).st_ino != held.inode:
            raise FileNotFoundError(2, "moved again", where)
        with contextlib.suppress(OSError):
            inode_flags.hold_flags(held.descriptor, "")
        unlock(held)
        try:
            exchange(elsewhere, there, held.parent_descriptor, held.name)
        except FileNotFoundError:
            move_in(elsewhere, there, held.parent_descriptor, held.name)
            return None
        except OSError as error:
            if error.errno not in NO_FLAGS:
                raise
            _swap(elsewhere, there, held.parent_descriptor, held.name)
        if held.entry.role in _KEEPS_IMPOSTOR:
            held.reason = f"what stood in its place is now {printable(where)}"
            return None
        return aside.take(elsewhere, there, held.entry, drift, now_ns)
    finally:
        os.close(elsewhere)


def _swap(one_dir: int, one: bytes, other_dir: int, other: bytes) -> None:
    """Swap two names in three renames, where there is no exchange; as it was when one of them fails."""
    spot = one + b".swap"
    os.rename(other, spot, src_dir_fd=other_dir, dst_dir_fd=one_dir)
    try:
        os.rename(one, other, src_dir_fd=one_dir, dst_dir_fd=other_dir)
    except OSError:
        os.rename(spot, other, src_dir_fd=one_dir, dst_dir_fd=other_dir)
        raise
    os.rename(spot, one, src_dir_fd=one_dir, dst_dir_fd=one_dir)


def _make_anew(held: Held, aside: Aside, drift: frozenset[Drift], now_ns: int) -> Taken | None:
    """Adopt a directory that stands at the path, or make an empty one."""
    parent = held.parent_descriptor
    taken = None
    found = held.lstat()
    if found is not None and not stat.S_ISDIR(found.st_mode):
        unlock(held)
        taken = aside.take(parent, held.name, held.entry, drift, now_ns)
        found = None
    if found is None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(held.name, 0o700, dir_fd=parent)
        found = held.lstat()
    held.drop()
    if found is None or not open_live(held, found):
        raise CannotRestoreError("something changes it faster than it can be made")
    held.identify(os.fstat(held.descriptor), now_ns)
    for child in held.children.values():
        child.ctime_ns = 0
    return taken
