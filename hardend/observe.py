# SPDX-License-Identifier: Apache-2.0
"""Reading the state of a path: by lstat and kept descriptors while guarding, in full at approval.

Guarding never opens a path: a plain open raises inotify events, breaks leases and blocks on a FIFO.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass

from hardend.kernel import flags as inode_flags
from hardend.model import FileType

_BLOCK = 1 << 18
# Labels that the system's own policy sets and changes; relabelling is not drift.
_FOREIGN_XATTRS = ("security.selinux", "security.ima", "security.evm")
_NO_XATTRS = frozenset({errno.EOPNOTSUPP, errno.ENODATA})

_TYPES = {
    stat.S_IFREG: FileType.FILE,
    stat.S_IFDIR: FileType.DIRECTORY,
    stat.S_IFLNK: FileType.SYMLINK,
    stat.S_IFIFO: FileType.FIFO,
    stat.S_IFSOCK: FileType.SOCKET,
}


@dataclass(frozen=True, slots=True)
class Actual:
    """What was found at a path. A field is None where it was not looked at."""

    kind: FileType
    uid: int
    gid: int
    mode: int
    mtime_ns: int
    size: int
    flags: str | None = None
    xattrs: tuple[tuple[str, str], ...] | None = None
    digest: str | None = None
    target: str | None = None


def file_type(mode: int) -> FileType:
    """Return the type in ``st_mode``."""
    return _TYPES.get(stat.S_IFMT(mode), FileType.DEVICE)


def from_stat(found: os.stat_result) -> Actual:
    """Return what lstat alone tells."""
    return Actual(
        kind=file_type(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        mode=stat.S_IMODE(found.st_mode),
        mtime_ns=found.st_mtime_ns,
        size=found.st_size,
    )


def from_descriptor(descriptor: int, *, content: bool) -> Actual:
    """Return everything that an O_RDONLY descriptor tells; raises no inotify event.

    With ``content`` the bytes are hashed as stat, read, stat; a file that changes while it is read
    has digest "". Raises OSError.
    """
    before = os.fstat(descriptor)
    found = from_stat(before)
    digest = None
    if content:
        digest = hash_descriptor(descriptor)
        after = os.fstat(descriptor)
        if (before.st_ctime_ns, before.st_size) != (after.st_ctime_ns, after.st_size):
            digest, found = "", from_stat(after)
    return Actual(
        kind=found.kind,
        uid=found.uid,
        gid=found.gid,
        mode=found.mode,
        mtime_ns=found.mtime_ns,
        size=found.size,
        flags=flags_of(descriptor),
        xattrs=xattrs_of(descriptor),
        digest=digest,
    )


def hash_descriptor(descriptor: int) -> str:
    """Return the SHA-256 of a file's bytes, read with pread: no offset moves, no event is raised."""
    size = os.fstat(descriptor).st_size
    if size <= _BLOCK:
        return hashlib.sha256(os.pread(descriptor, _BLOCK, 0)).hexdigest()
    sha = hashlib.sha256()
    offset = 0
    while block := os.pread(descriptor, _BLOCK, offset):
        sha.update(block)
        offset += len(block)
    return sha.hexdigest()


def flags_of(descriptor: int) -> str | None:
    """Return ``i`` and ``a`` of an inode, or None where the file system has no inode flags."""
    try:
        return inode_flags.to_letters(inode_flags.get_flags(descriptor))
    except OSError as error:
        if error.errno in inode_flags.UNSUPPORTED:
            return None
        raise


def xattrs_of(where: int | str) -> tuple[tuple[str, str], ...]:
    """Return the extended attributes of a descriptor or path (a link itself), ACLs among them."""
    follow = isinstance(where, int)
    try:
        names = os.listxattr(where, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    return tuple(
        sorted(
            (name, os.getxattr(where, name, follow_symlinks=follow).hex())
            for name in names
            if name not in _FOREIGN_XATTRS
        )
    )
