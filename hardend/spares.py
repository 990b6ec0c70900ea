# SPDX-License-Identifier: Apache-2.0
"""Staging: verified copies of entries, complete before they are needed, in a directory of our own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat

from hardend.aside import leave_beside, open_beside
from hardend.baseline.store import Store
from hardend.errors import FileError, StoreError
from hardend.kernel import flags as inode_flags
from hardend.kernel.sync import Syncer
from hardend.model import Entry, FileType, Host
from hardend.observe import hash_descriptor
from hardend.table import Held, Spare

_ATTEMPTS = 3
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Spares:
    """The staging directory ``/etc/hardend/spare``."""

    def __init__(self, host: Host, store: Store) -> None:
        self._store = store
        self._syncer = Syncer()
        self._serial = 0
        try:
            os.makedirs(host.spare_dir, 0o700, exist_ok=True)
            self.directory = os.open(host.spare_dir, _DIRECTORY)
            _make_private(self.directory)
        except OSError as error:
            raise FileError(
                f"{host.spare_dir}: cannot stage copies: {error.strerror}",
                hint="hardend runs as root and needs /etc writable",
            ) from error

    def close(self) -> None:
        """Close the staging directory."""
        self._syncer.close()
        os.close(self.directory)

    def stage(self, held: Held) -> Spare:
        """Make a spare of the entry: content, owner, mode, attributes, time stamp, synced.

        Raises StoreError when the object is damaged, OSError when it cannot be written; nothing is
        left behind then.
        """
        for _ in range(_ATTEMPTS):
            try:
                return self._stage(held)
            except FileNotFoundError:  # the collector removed our directory beside it, empty as it was
                if not held.other_mount:
                    raise
        return self._stage(held)

    def _stage(self, held: Held) -> Spare:
        beside = held.other_mount
        directory = open_beside(held.parent_descriptor) if beside else self.directory
        self._serial += 1
        key = hashlib.sha256(os.fsencode(held.entry.path)).hexdigest()[:24]
        name = f"{key}-{os.getpid():x}-{self._serial:x}".encode()
        aside = name + b".new"
        try:
            descriptor = (
                _stage_link(held.entry, directory, aside)
                if held.entry.kind is FileType.SYMLINK
                else self._stage_file(held.entry, directory, aside)
            )
            try:
                os.rename(aside, name, src_dir_fd=directory, dst_dir_fd=directory)
                made = os.fstat(descriptor)
            except OSError:
                os.close(descriptor)
                raise
        except (OSError, StoreError):
            with contextlib.suppress(OSError):
                os.unlink(aside, dir_fd=directory)
            if beside:
                leave_beside(directory)
                os.close(directory)
            raise
        return Spare(directory, name, descriptor, made.st_ino, made.st_ctime_ns, beside)

    def discard(self, spare: Spare) -> None:
        """Remove a spare that is not needed; what stands under its name is removed only if it is ours."""
        with contextlib.suppress(OSError):
            if spare.is_intact():
                os.unlink(spare.name, dir_fd=spare.directory)
        os.close(spare.descriptor)
        self.release(spare)

    def release(self, spare: Spare) -> None:
        """Close the directory of a spare that was staged beside its target, gone where it is empty."""
        if spare.beside:
            leave_beside(spare.directory)
            with contextlib.suppress(OSError):
                os.close(spare.directory)

    def leftovers(self, digests: set[str]) -> list[bytes]:
        """Remove our own copies of an earlier run; return the names that hold anything else.

        After a crash the name of a spare may hold what an attacker had put in place: whatever is not
        a known object is evidence.
        """
        strange = []
        with os.scandir(self.directory) as found:
            names = [os.fsencode(item.name) for item in found]
        for name in names:
            if name.endswith(b".new") or self._is_ours(name, digests):
                self._remove(name)
            else:
                strange.append(name)
        return strange

    def _is_ours(self, name: bytes, digests: set[str]) -> bool:
        found = os.stat(name, dir_fd=self.directory, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            return False
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self.directory)
        except OSError:
            return False
        try:
            # An impostor can be a sparse file of terabytes: never hash what no object is as large as.
            return found.st_size <= _HASH_LIMIT and hash_descriptor(descriptor) in digests
        finally:
            os.close(descriptor)

    def _remove(self, name: bytes) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self.directory)

    def _stage_file(self, entry: Entry, directory: int, name: bytes) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writer = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            self._store.copy_object(entry.digest, writer)
            os.fchown(writer, entry.uid, entry.gid)
            os.fchmod(writer, entry.mode)
            for attribute, value in entry.xattrs:
                os.setxattr(writer, attribute, bytes.fromhex(value))
            os.utime(writer, ns=(entry.mtime_ns, entry.mtime_ns))
            reader = os.open(f"/proc/self/fd/{writer}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                # Setting +i on an inode with dirty pages writes them back inside the ioctl, ten times
                # as slow (measured): synced now. By the reader: a sync under way keeps its file open,
                # and one open for writing would refuse a remount.
                self._syncer.sync(reader)
            except OSError:
                os.close(reader)
                raise
            return reader
        finally:
            os.close(writer)


_HASH_LIMIT = 256 << 20


def _stage_link(entry: Entry, directory: int, name: bytes) -> int:
    os.symlink(os.fsencode(entry.target), name, dir_fd=directory)
    os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
    times = (entry.mtime_ns, entry.mtime_ns)
    os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def _make_private(directory: int) -> None:
    """Make a directory of ours root's alone and writable by us, whatever was done to it."""
    with contextlib.suppress(OSError):
        inode_flags.hold_flags(directory, "")
    os.fchown(directory, 0, 0)
    os.fchmod(directory, 0o700)
