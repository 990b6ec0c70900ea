# SPDX-License-Identifier: Apache-2.0
"""renameat2(2): the two renames that the standard library lacks.

PyDLL keeps the GIL: the guard has one thread, and releasing the lock costs more than the call.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.PyDLL(None, use_errno=True)
_renameat2 = _libc.renameat2
_renameat2.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
)
_renameat2.restype = ctypes.c_int

_NOREPLACE = 1
_EXCHANGE = 2


def exchange(one_dir: int, one: bytes, other_dir: int, other: bytes) -> None:
    """Swap two names atomically, whatever they are. Raises OSError with both names."""
    if _renameat2(one_dir, one, other_dir, other, _EXCHANGE):
        _raise(one, other)


def move_in(from_dir: int, name: bytes, to_dir: int, new_name: bytes) -> None:
    """Rename to a name that must be free. Raises FileExistsError when it is not, or another OSError."""
    if _renameat2(from_dir, name, to_dir, new_name, _NOREPLACE):
        _raise(name, new_name)


def _raise(one: bytes, other: bytes) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), os.fsdecode(one), None, os.fsdecode(other))
