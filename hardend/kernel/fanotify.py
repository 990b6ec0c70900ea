# SPDX-License-Identifier: Apache-2.0
"""fanotify(7), notifications only: what changed, by directory and name, and a descriptor of who did it.

Never permission events: nobody may ever wait for us. Nothing here opens a file that is watched.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from dataclasses import dataclass

from hardend.errors import RefusedError

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_mark.argtypes = (
    *(ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p),
)

# linux/fanotify.h
MODIFY, ATTRIB, CLOSE_WRITE, OPEN = 0x2, 0x4, 0x8, 0x20
MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x40, 0x80, 0x100, 0x200
OVERFLOW = 0x4000
ON_CHILD, ONDIR = 0x08000000, 0x40000000
NAMES = MOVED_FROM | MOVED_TO | CREATE | DELETE  # what happens to a name in a directory
CHANGES = NAMES | MODIFY | ATTRIB | CLOSE_WRITE

_CLOEXEC, _NONBLOCK, _PIDFD = 0x1, 0x2, 0x80
_FID, _DIR_FID, _NAME = 0x200, 0x400, 0x800
_ADD, _FLUSH = 0x1, 0x80
_INFO_FID, _INFO_DFID_NAME, _INFO_DFID, _INFO_PIDFD = 1, 2, 3, 4
NO_PIDFD = -1  # FAN_NOPIDFD: it had ended when the event was read

_VERSION = 3
_META = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata
_HEADER = struct.Struct("=BBH")
_HANDLE = struct.Struct("=iiIi")  # fsid, then bytes and type of struct file_handle
_HANDLE_MAX = 128  # MAX_HANDLE_SZ
_EMPTY_PATH = 0x1000  # AT_EMPTY_PATH
_BUFFER = 1 << 16

# An object whatever its name: file system, type of the handle, handle (name_to_handle_at(2)).
Handle = tuple[int, int, bytes]


@dataclass(frozen=True, slots=True)
class Event:
    """One record: ``directory`` and ``name`` say where, ``file`` is the object, where the kernel told.

    ``pidfd`` is open, and the reader's to close, unless it is negative.
    """

    mask: int
    pid: int
    pidfd: int = NO_PIDFD
    directory: Handle | None = None
    name: bytes = b""
    file: Handle | None = None


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("bytes", ctypes.c_uint),
        ("type", ctypes.c_int),
        ("data", ctypes.c_ubyte * _HANDLE_MAX),
    )


class Group:
    """A notification group. Raises RefusedError where the kernel or a sandbox refuses one."""

    def __init__(self) -> None:
        flags = _CLOEXEC | _NONBLOCK | _PIDFD | _FID | _DIR_FID | _NAME
        self.descriptor = int(
            _libc.fanotify_init(ctypes.c_uint(flags), ctypes.c_uint(os.O_RDONLY | os.O_CLOEXEC))
        )
        if self.descriptor < 0:
            why = os.strerror(ctypes.get_errno())
            raise RefusedError(
                f"fanotify is refused: {why}",
                hint="it takes CAP_SYS_ADMIN and Linux 5.15, and in a container the permission of its host: "
                "nobody is named, and all else works without it",
            )

    def mark(self, descriptor: int, mask: int) -> None:
        """Watch the object of a descriptor, which may be O_PATH, for ``mask`` too. Raises OSError."""
        path = f"/proc/self/fd/{descriptor}"
        if _libc.fanotify_mark(self.descriptor, _ADD, mask, -1, path.encode()):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)

    def forget(self) -> None:
        """Watch nothing any more."""
        _libc.fanotify_mark(self.descriptor, _FLUSH, 0, -1, b"/")

    def read(self) -> list[Event]:
        """Return what happened; empty when there is nothing. Raises OSError."""
        try:
            return parse(os.read(self.descriptor, _BUFFER))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Leave nothing watched."""
        os.close(self.descriptor)


def handle_of(descriptor: int) -> Handle:
    """Return the handle of an object as events name it. Raises OSError where its file system has none."""
    handle = _FileHandle(bytes=_HANDLE_MAX)
    mount = ctypes.c_int()
    if _libc.name_to_handle_at(
        descriptor, b"", ctypes.byref(handle), ctypes.byref(mount), _EMPTY_PATH
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return os.fstatvfs(descriptor).f_fsid, handle.type, bytes(handle.data[: handle.bytes])


def open_by_id(mount: int, kind: int, identifier: int) -> int:
    """Open, O_PATH, an object whose handle is one number; needs CAP_DAC_READ_SEARCH. Raises OSError."""
    handle = _FileHandle(bytes=8, type=kind)
    ctypes.memmove(handle.data, identifier.to_bytes(8, sys.byteorder), 8)
    descriptor = _libc.open_by_handle_at(mount, ctypes.byref(handle), os.O_PATH | os.O_CLOEXEC)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(descriptor)


def parse(data: bytes) -> list[Event]:
    """Return the events in what was read of a group; ends at the first record that is none."""
    events = []
    at = 0
    while at + _META.size <= len(data):
        length, version, _, head, mask, _, pid = _META.unpack_from(data, at)
        if version != _VERSION or not _META.size <= head <= length <= len(data) - at:
            break
        events.append(_event(mask, pid, data[at + head : at + length]))
        at += length
    return events


def _event(mask: int, pid: int, info: bytes) -> Event:
    """Return an event with what its information records tell; those of other kinds are passed over."""
    pidfd, name = NO_PIDFD, b""
    directory: Handle | None = None
    file: Handle | None = None
    at = 0
    while at + _HEADER.size <= len(info):
        kind, _, length = _HEADER.unpack_from(info, at)
        if not _HEADER.size <= length <= len(info) - at:
            break
        body = info[at + _HEADER.size : at + length]
        if kind == _INFO_PIDFD and len(body) >= 4:  # noqa: PLR2004 - an int
            pidfd = int.from_bytes(body[:4], sys.byteorder, signed=True)
        elif kind in {_INFO_DFID_NAME, _INFO_DFID}:
            directory, rest = _handle(body)
            name = rest.partition(b"\0")[0] if kind == _INFO_DFID_NAME else b""
        elif kind == _INFO_FID:
            file, _ = _handle(body)
        at += length
    return Event(mask, pid, pidfd, directory, name, file)


def _handle(body: bytes) -> tuple[Handle | None, bytes]:
    """Return the handle that a record holds, and what stands behind it."""
    if len(body) < _HANDLE.size:
        return None, b""
    low, high, size, kind = _HANDLE.unpack_from(body)
    end = _HANDLE.size + size
    if end > len(body):
        return None, b""
    # As statvfs(3) of glibc puts the two halves together.
    return ((low & 0xFFFFFFFF) | (high & 0xFFFFFFFF) << 32, kind, body[_HANDLE.size : end]), body[end:]
