# SPDX-License-Identifier: Apache-2.0
"""fsync(2) that nobody waits for: io_submit(2) with IOCB_CMD_FSYNC, done by the kernel's own workers.

The guard has one thread, and on a busy disk an fsync takes milliseconds of it.
"""

from __future__ import annotations

import ctypes
import os
import platform

_NUMBERS: dict[str, tuple[int, ...]] = {  # io_setup, io_destroy, io_getevents, io_submit (syscalls(2))
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
    "riscv64": (0, 1, 4, 2),
}
_FSYNC = 2  # IOCB_CMD_FSYNC of linux/aio_abi.h
_DEPTH = 128


class _Iocb(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("reqprio", ctypes.c_int16),
        ("fildes", ctypes.c_uint32),
        ("buf", ctypes.c_uint64),
        ("nbytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("resfd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_uint64),
        ("obj", ctypes.c_uint64),
        ("res", ctypes.c_int64),
        ("res2", ctypes.c_int64),
    )


class Syncer:
    """Syncs files in the background where the kernel can, and at once where it cannot."""

    def __init__(self) -> None:
        libc = ctypes.PyDLL(None, use_errno=True)
        self._syscall = libc.syscall
        self._syscall.restype = ctypes.c_long
        self._numbers = _NUMBERS.get(platform.machine(), ())
        self._context = ctypes.c_ulong(0)
        self.under_way = 0  # not yet heard of
        self._done = (_Event * _DEPTH)()
        self.failures = 0  # of syncs that nobody waited for
        if self._numbers and self._syscall(self._numbers[0], _DEPTH, ctypes.byref(self._context)):
            self._numbers = ()

    @property
    def in_background(self) -> bool:
        """Whether the kernel syncs for us."""
        return bool(self._numbers)

    def sync(self, descriptor: int) -> None:
        """Bring a file to the disk, soon; the descriptor may be closed. Raises OSError.

        What fails later is counted in ``failures``.
        """
        self._reap()
        if not self._numbers or self.under_way >= _DEPTH or not self._submit(descriptor):
            os.fsync(descriptor)

    def close(self) -> None:
        """Wait for what is under way."""
        if self._numbers:
            self._syscall(self._numbers[1], self._context)
            self._numbers = ()

    def _submit(self, descriptor: int) -> bool:
        request = _Iocb(opcode=_FSYNC, fildes=descriptor)
        requests = (ctypes.POINTER(_Iocb) * 1)(ctypes.pointer(request))
        # The kernel copies the request before this returns.
        if self._syscall(self._numbers[3], self._context, ctypes.c_long(1), requests) != 1:
            return False  # a file system without it (EINVAL), a sandbox (EPERM)
        self.under_way += 1
        return True

    def _reap(self) -> None:
        if not self.under_way:
            return
        none = ctypes.c_long(0)
        count = self._syscall(
            self._numbers[2], self._context, none, ctypes.c_long(_DEPTH), self._done, None
        )
        for event in self._done[: max(0, count)]:
            self.under_way -= 1
            self.failures += event.res < 0
