# SPDX-License-Identifier: Apache-2.0
"""What is mounted where (proc_pid_mountinfo(5)), and taking a mount away."""

from __future__ import annotations

import ctypes
import os
import re

_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_OCTAL = re.compile(rb"\\([0-7]{3})")


def open_mountinfo() -> int:
    """Open /proc/self/mountinfo for reading and for poll(2): POLLPRI says that it changed."""
    return os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)


def mount_points(descriptor: int) -> list[tuple[int, str]]:
    """Return (mount id, mount point) of every mount of this namespace, oldest first."""
    parts = []
    offset = 0
    while part := os.pread(descriptor, 65536, offset):
        parts.append(part)
        offset += len(part)
    return parse_mountinfo(b"".join(parts))


def parse_mountinfo(text: bytes) -> list[tuple[int, str]]:
    """Return (mount id, mount point) of each line; lines that are not mountinfo are passed over."""
    mounts = []
    # Not splitlines(): the kernel escapes "\n" in a path, but not "\r" (seq_path(), mangle_path()).
    for line in text.split(b"\n"):
        fields = line.split(b" ")
        if len(fields) > 5 and fields[0].isdigit():  # noqa: PLR2004 - field 5 is the mount point
            point = _OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), fields[4])
            mounts.append((int(fields[0]), os.fsdecode(point)))
    return mounts


def unmount(path: str) -> None:
    """Detach the mount at ``path`` (umount2(2), MNT_DETACH, links not followed). Raises OSError."""
    if _libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
