# SPDX-License-Identifier: Apache-2.0
"""Inode flags of chattr(1), read and set through a descriptor (ioctl_iflags(2)).

An O_RDONLY descriptor is enough, and an ioctl on a kept descriptor raises no inotify event.
"""

from __future__ import annotations

import errno
import fcntl
import struct
import sys

_GETFLAGS = 0x80086601
_SETFLAGS = 0x40086602
_EMPTY = bytes(8)

IMMUTABLE = 0x10
APPEND = 0x20
HELD = IMMUTABLE | APPEND
_LOW_BYTE = 0 if sys.byteorder == "little" else 7

# What file systems without inode flags answer.
UNSUPPORTED = frozenset({errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


def get_flags(descriptor: int) -> int:
    """Return all inode flags. Raises OSError; its errno is in UNSUPPORTED where there are none."""
    return int.from_bytes(fcntl.ioctl(descriptor, _GETFLAGS, _EMPTY)[:4], sys.byteorder)


def keep_immutable(descriptor: int) -> bool:
    """Set ``i`` alone where it is not set; True when it was not. Raises OSError.

    For those who ask all the time: 1 us where it is set, and nothing between the two calls where it is not.
    """
    now = fcntl.ioctl(descriptor, _GETFLAGS, _EMPTY)
    if now[_LOW_BYTE] & IMMUTABLE:
        return False
    wanted = int.from_bytes(now, sys.byteorder) & ~APPEND | IMMUTABLE
    fcntl.ioctl(descriptor, _SETFLAGS, wanted.to_bytes(len(now), sys.byteorder))
    return True


def set_flags(descriptor: int, flags: int) -> None:
    """Set all inode flags; needs CAP_LINUX_IMMUTABLE to change ``i`` or ``a``."""
    fcntl.ioctl(descriptor, _SETFLAGS, struct.pack("I4x", flags))


def to_letters(flags: int) -> str:
    """Return the flags that hardend holds in the letters of chattr(1): ``i``, ``a``, ``ia`` or none."""
    return ("i" if flags & IMMUTABLE else "") + ("a" if flags & APPEND else "")


def from_letters(letters: str) -> int:
    """Return the bits for letters of ``to_letters``."""
    return (IMMUTABLE if "i" in letters else 0) | (APPEND if "a" in letters else 0)


def hold_flags(descriptor: int, letters: str) -> bool:
    """Make ``i`` and ``a`` of the inode be ``letters``, all other flags kept; True when that changed it."""
    now = get_flags(descriptor)
    wanted = now & ~HELD | from_letters(letters)
    if now == wanted:
        return False
    if now & wanted & IMMUTABLE:  # of a file that is immutable and stays so ext4 changes no other flag
        set_flags(descriptor, now & ~IMMUTABLE)
    set_flags(descriptor, wanted)
    return True
