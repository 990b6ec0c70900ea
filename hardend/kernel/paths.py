# SPDX-License-Identifier: Apache-2.0
"""openat2(2): walking paths whose parents somebody else may be changing."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.PyDLL(None, use_errno=True)
_SYS_OPENAT2 = 437  # the same number on every architecture

NO_XDEV = 0x01
NO_MAGICLINKS = 0x02
NO_SYMLINKS = 0x04
BENEATH = 0x08
IN_ROOT = 0x10

# What a component of a protected path may be: a real directory, here, below, on this mount.
STRICT = NO_SYMLINKS | NO_MAGICLINKS | BENEATH


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_beneath(
    directory: int, path: str, flags: int, *, resolve: int = STRICT, mode: int = 0
) -> int:
    """Open ``path`` relative to a directory under the rules of ``resolve``; close-on-exec.

    Raises OSError: ELOOP or ENOTDIR where a component is a symbolic link, EXDEV where it leaves the
    directory or, with NO_XDEV, the mount.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    descriptor = _libc.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(directory),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int(descriptor)


def open_directory(parent: int, name: str, *, may_cross: bool) -> int:
    """Open a directory in ``parent`` for reading; ``may_cross`` lets it be a mount point."""
    resolve = STRICT if may_cross else STRICT | NO_XDEV
    return open_beneath(parent, name, os.O_RDONLY | os.O_DIRECTORY, resolve=resolve)


def path_of(descriptor: int) -> str:
    """Return where the object of a descriptor is now; ends in `` (deleted)`` when it has no name."""
    return os.readlink(f"/proc/self/fd/{descriptor}")
