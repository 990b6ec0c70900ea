# SPDX-License-Identifier: Apache-2.0
"""What a pidfd tells of a process that /proc no longer shows (PIDFD_GET_INFO, Linux 6.13 and later)."""

from __future__ import annotations

import fcntl
import struct
from dataclasses import dataclass

_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info), the 64 bytes of its first version
_CREDS, _CGROUP, _EXIT = 0x2, 0x4, 0x8
_INFO = struct.Struct("=QQ12I")  # mask, cgroupid, pid, tgid, ppid, ruid, ...


@dataclass(frozen=True, slots=True)
class Info:
    """Real user and cgroup (the number of its directory); None where the kernel does not tell."""

    uid: int | None = None
    cgroup: int | None = None


def info_of(pidfd: int) -> Info:
    """Return what is known of a process, also of one that has ended; never raises."""
    request = bytearray(_INFO.pack(_CREDS | _CGROUP | _EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, request)
    except OSError:  # an older kernel; or it is gone altogether
        return Info()
    mask, cgroup, _, _, _, uid, *_ = _INFO.unpack(request)
    return Info(uid if mask & _CREDS else None, cgroup if mask & _CGROUP else None)
