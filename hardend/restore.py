# SPDX-License-Identifier: Apache-2.0
"""The acts: exchanging a verified spare in, relocking, amending attributes in place.

Nothing here judges; what is reported restored was verified through the descriptor of the spare, after
the lock: re-reading the path would adopt whatever came in between.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

from hardend.aside import NO_FLAGS, Aside, Taken, move_in
from hardend.errors import StoreError
from hardend.kernel import flags as inode_flags
from hardend.kernel.exchange import exchange
from hardend.model import Drift, Entry, FileType
from hardend.observe import from_descriptor, from_stat, xattrs_of
from hardend.reconcile import compare
from hardend.spares import Spares
from hardend.table import Held, Spare

_ATTEMPTS = 4
_UNLOCKABLE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY

_REASONS = {
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EBUSY: "a mount covers it",
    errno.EPERM: "an inode flag or a security policy forbids it",
    errno.EAGAIN: "a process holds a write lease on it, or changes it all the time",
}


class CannotRestoreError(Exception):
    """The path could not be put back; the text is the reason for the administrator."""


@dataclass(slots=True)
class Replaced:
    """What an exchange left behind: the name in the staging directory, still to be set aside.

    ``old`` is the descriptor of the inode that was held. Closing it may free the inode, milliseconds
    on a busy disk: that waits until the path is safe.
    """

    spare: Spare
    something: bool
    old: int = -1


class Restorer:
    """Exchanges and amends; keeps no state of its own."""

    def __init__(self, spares: Spares, aside: Aside) -> None:
        self._spares = spares
        self._aside = aside

    def exchange(self, held: Held, *, is_missing: bool = False) -> Replaced:
        """Put the spare in place, lock it and verify it; the path is safe when this returns.

        ``is_missing`` says that nothing was seen at the path, so that it is moved in first.
        Raises CannotRestoreError with the reason; the live object is untouched then.
        """
        for _ in range(_ATTEMPTS):
            spare = held.spare
            held.spare = None
            if spare is not None and not spare.is_intact():
                self._spares.discard(spare)
                spare = None
            if spare is None:
                spare = self._stage(held)
            try:
                replaced = self._put_in(held, spare, is_missing=is_missing)
            except OSError as error:
                held.spare = spare
                if error.errno == errno.EXDEV and not held.other_mount:
                    held.other_mount = True
                    held.spare = None
                    self._spares.discard(spare)
                    continue
                raise CannotRestoreError(reason(error)) from error
            replaced.old, held.descriptor = held.descriptor, spare.descriptor
            try:
                if not lock_and_compare(held):
                    return replaced
            except OSError as error:
                self._set_aside(replaced, held)
                raise CannotRestoreError(f"its lock: {reason(error)}") from error
            self._set_aside(replaced, held)
        raise CannotRestoreError("something changes it faster than it can be verified")

    def _set_aside(self, replaced: Replaced, held: Held) -> None:
        """Keep what an attempt replaced that was not the last; the caller tells of that one only."""
        taken = self.clear(replaced, held, frozenset({Drift.CONTENT}), time.time_ns())
        if taken is not None:
            self._aside.write_record(taken, held.history.incident)

    def _stage(self, held: Held) -> Spare:
        try:
            return self._spares.stage(held)
        except StoreError as error:
            raise CannotRestoreError(str(error)) from error
        except OSError as error:
            raise CannotRestoreError(f"staging a copy: {reason(error)}") from error

    def _put_in(self, held: Held, spare: Spare, *, is_missing: bool) -> Replaced:
        """Exchange, or move in where nothing stands; unlock what stands there when that forbids it."""
        parent = held.parent_descriptor
        if is_missing:
            with contextlib.suppress(OSError):  # something stands there by now, or an exchange tells why
                move_in(spare.directory, spare.name, parent, held.name)
                return Replaced(spare, something=False)
        for attempt in range(_ATTEMPTS):
            try:
                exchange(spare.directory, spare.name, parent, held.name)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    with contextlib.suppress(FileExistsError):
                        move_in(spare.directory, spare.name, parent, held.name)
                        return Replaced(spare, something=False)
                elif error.errno == errno.EPERM and attempt < _ATTEMPTS - 1:
                    unlock(held)
                elif error.errno in NO_FLAGS:
                    unlock(held)  # link(2) and rename(2) both refuse what is immutable
                    return self._put_in_without_exchange(held, spare)
                else:
                    raise
            else:
                return Replaced(spare, something=True)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), held.entry.path)

    @staticmethod
    def _put_in_without_exchange(held: Held, spare: Spare) -> Replaced:
        """Keep what stands there under the staging name and rename over it (no RENAME_EXCHANGE).

        The second link is made first: there is no moment without a file, and nothing is lost.
        """
        parent = held.parent_descriptor
        kept = spare.name + b".replaced"
        found = held.lstat()
        something = found is not None and not stat.S_ISDIR(found.st_mode)
        if something:
            os.link(
                held.name,
                kept,
                src_dir_fd=parent,
                dst_dir_fd=spare.directory,
                follow_symlinks=False,
            )
        elif found is not None:
            os.rename(held.name, kept, src_dir_fd=parent, dst_dir_fd=spare.directory)
        try:
            os.rename(spare.name, held.name, src_dir_fd=spare.directory, dst_dir_fd=parent)
        except OSError:
            with contextlib.suppress(OSError):  # as it was, so that the next attempt finds a free name
                if something:
                    os.unlink(kept, dir_fd=spare.directory)
                elif found is not None:
                    os.rename(kept, held.name, src_dir_fd=spare.directory, dst_dir_fd=parent)
            raise
        if found is not None:
            os.rename(
                kept, spare.name, src_dir_fd=spare.directory, dst_dir_fd=spare.directory
            )
        return Replaced(spare, something=found is not None)

    def note(
        self, held: Held, found: os.stat_result | None, drift: frozenset[Drift], now_ns: int
    ) -> Taken | None:
        """Keep what the attributes were that were put right in place; of a lock alone the event tells all."""
        if found is None or held.fresh or not drift - {Drift.FLAGS} or not held.history.keeps:
            return None
        held.history.kept += 1
        return self._aside.note(held.entry, drift, now_ns, found)

    def clear(
        self, replaced: Replaced, held: Held, drift: frozenset[Drift], now_ns: int, *, keep: bool = True
    ) -> Taken | None:
        """Set aside what was replaced; the path is safe already, so a failure here is not one of it."""
        spare = replaced.spare
        taken = None
        if replaced.something and (
            keep or not self._aside.forget(spare.directory, spare.name)
        ):
            with contextlib.suppress(OSError):
                taken = self._aside.take(spare.directory, spare.name, held.entry, drift, now_ns)
        if replaced.old >= 0:
            os.close(replaced.old)
        self._spares.release(spare)
        return taken


def reason(error: OSError | CannotRestoreError) -> str:
    """Return why it did not work, in the administrator's words."""
    if isinstance(error, CannotRestoreError):
        return str(error)
    return _REASONS.get(error.errno or 0, (error.strerror or str(error)).lower())


def lock_and_compare(held: Held) -> frozenset[Drift]:
    """Set the inode flags of the entry, compare all that is held, and take the inode as ours if equal.

    All through the kept descriptor. The identity is read after the lock and before the comparison: a
    change that comes later shows as another ctime at the next look.
    """
    entry = held.entry
    descriptor = held.descriptor
    if entry.kind is FileType.FILE:
        with _flags_may_be_missing():
            inode_flags.hold_flags(descriptor, entry.flags)
    locked = os.fstat(descriptor)
    if entry.kind is FileType.SYMLINK:
        drift = compare(entry, from_stat(locked))
    else:
        found = from_descriptor(descriptor, content=bool(entry.digest))
        drift = compare(entry, found)
        if entry.digest and found.digest != entry.digest:
            drift |= {Drift.CONTENT}
    if not drift:
        held.identify(locked, time.time_ns())
    return drift


@contextlib.contextmanager
def _flags_may_be_missing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in inode_flags.UNSUPPORTED:
            raise


def unlock(held: Held) -> None:
    """Take ``i`` and ``a`` off whatever stands at the path, and off its directory, so that it can go."""
    parent = held.parent
    if parent is not None:
        with contextlib.suppress(OSError):
            inode_flags.hold_flags(parent.descriptor, parent.entry.flags)
    found = held.lstat()
    if found is None:
        return
    if held.is_same(found) and held.entry.kind is FileType.FILE:
        with contextlib.suppress(OSError):
            inode_flags.hold_flags(held.descriptor, "")
        return
    if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
        with contextlib.suppress(OSError):
            descriptor = os.open(held.name, _UNLOCKABLE, dir_fd=held.parent_descriptor)
            try:
                inode_flags.hold_flags(descriptor, "")
            finally:
                os.close(descriptor)


def amend(descriptor: int, entry: Entry) -> None:
    """Make owner, group, mode, ACL, attributes and flags of an inode those of the entry.

    Works through a descriptor, on the inode itself; content and time stamps stay. Raises OSError.
    """
    with _flags_may_be_missing():
        now = inode_flags.get_flags(descriptor)
        if now & inode_flags.HELD:
            inode_flags.set_flags(descriptor, now & ~inode_flags.HELD)
    found = os.fstat(descriptor)
    if (found.st_uid, found.st_gid) != (entry.uid, entry.gid):
        os.fchown(descriptor, entry.uid, entry.gid)
    wanted = dict(entry.xattrs)
    for name, value in xattrs_of(descriptor):
        if wanted.get(name) != value:
            with _attribute_may_be_gone():
                os.removexattr(descriptor, name)
    have = dict(xattrs_of(descriptor))
    for name, value in entry.xattrs:
        if have.get(name) != value:
            os.setxattr(descriptor, name, bytes.fromhex(value))
    # After chown, which clears setuid and setgid, and after the ACL, whose mask is the group's bits.
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != entry.mode:
        os.fchmod(descriptor, entry.mode)
    with _flags_may_be_missing():
        inode_flags.hold_flags(descriptor, entry.flags)


@contextlib.contextmanager
def _attribute_may_be_gone() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
