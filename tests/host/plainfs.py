# SPDX-License-Identifier: Apache-2.0
"""Runs inside the test host: a file system that has neither RENAME_EXCHANGE nor inode flags nor xattrs.

No kernel file system of today lacks the first (kernel-made ones all got it by Linux 6.0), but network
and user-space ones do. This one passes everything else through to a directory, by the FUSE protocol
(linux/fuse.h, version 7.31), without a library: ``python3 -m tests.host.plainfs SOURCE MOUNTPOINT``
serves until it is unmounted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import stat
import struct
import sys
from collections.abc import Callable

_HEADER = struct.Struct("<IIQQIIIHH")
_REPLY = struct.Struct("<IiQ")
_ATTR = struct.Struct("<6Q10I")
_INIT = struct.Struct("<4I2H2I2H8I")
_SETATTR = struct.Struct("<2I6Q3I5I")
_STATFS = struct.Struct("<5Q4I24x")
_REQUEST_BYTES = 1 << 18
_MOUNT_OPTIONS = "rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
_NOSUID_NODEV = 0x6
_MODE, _UID, _GID, _SIZE = 1, 2, 4, 8
_ATIME, _MTIME, _ATIME_NOW, _MTIME_NOW = 16, 32, 128, 256


class Plain:
    """The served directory: an O_PATH descriptor for each inode that was ever looked up."""

    def __init__(self, source: str, device: int) -> None:
        self._device = device
        self._inodes = {1: os.open(source, os.O_PATH | os.O_DIRECTORY)}
        self._known: dict[tuple[int, int], int] = {}
        self._listings: dict[int, list[bytes]] = {}
        self._verbs: dict[int, Callable[[int, bytes], bytes]] = {
            1: self._lookup,
            3: lambda node, _body: self._attributes(node),
            4: self._set_attributes,
            5: lambda node, _body: os.readlink(b"", dir_fd=self._inodes[node]),
            6: self._symlink,
            8: self._mknod,
            9: self._mkdir,
            10: self._unlink,
            11: self._rmdir,
            12: self._rename,
            13: self._link,
            14: self._open,
            15: self._read,
            16: self._write,
            17: self._statfs,
            18: self._release,
            20: self._sync,
            27: self._open_listing,
            28: self._read_listing,
            29: self._release_listing,
            35: self._create,
        }
        self._owner = (0, 0)

    def serve(self) -> None:
        """Answer requests until the file system is unmounted."""
        while True:
            try:
                request = os.read(self._device, _REQUEST_BYTES)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in {errno.EINTR, errno.ENOENT}:
                    continue
                raise
            _, verb, unique, node, uid, gid, *_ = _HEADER.unpack_from(request)
            if verb in {2, 36, 42}:  # FORGET, INTERRUPT, BATCH_FORGET have no reply
                continue
            self._owner = (uid, gid)
            self._reply(verb, unique, node, request[_HEADER.size :])

    def _reply(self, verb: int, unique: int, node: int, body: bytes) -> None:
        failed, data = 0, b""
        try:
            if verb == 26:
                data = _INIT.pack(7, 31, 1 << 17, 0, 16, 12, 1 << 17, 1, 0, 0, *(0,) * 8)
            elif verb in self._verbs:
                data = self._verbs[verb](node, body)
            else:
                failed = errno.ENOSYS  # RENAME2, IOCTL and the xattrs among them
        except OSError as error:
            failed = error.errno or errno.EIO
        try:
            os.write(self._device, _REPLY.pack(_REPLY.size + len(data), -failed, unique) + data)
        except OSError as error:
            if error.errno != errno.ENOENT:  # who asked is gone
                raise

    def _at(self, node: int) -> str:
        return f"/proc/self/fd/{self._inodes[node]}"

    def _attributes(self, node: int) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + _attributes(os.fstat(self._inodes[node]))

    def _entry(self, parent: int, name: bytes) -> bytes:
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._inodes[parent])
        found = os.fstat(descriptor)
        node = self._known.setdefault((found.st_dev, found.st_ino), len(self._inodes) + 1)
        if node in self._inodes:
            os.close(descriptor)
        else:
            self._inodes[node] = descriptor
        return struct.pack("<4Q2I", node, 1, 0, 0, 0, 0) + _attributes(found)

    def _made(self, parent: int, name: bytes) -> bytes:
        """Give what was made to who asked, as the kernel would; a setgid directory gives its group."""
        directory = self._inodes[parent]
        group = -1 if os.fstat(directory).st_mode & stat.S_ISGID else self._owner[1]
        os.chown(name, self._owner[0], group, dir_fd=directory, follow_symlinks=False)
        return self._entry(parent, name)

    def _lookup(self, node: int, body: bytes) -> bytes:
        return self._entry(node, body.rstrip(b"\0"))

    def _set_attributes(self, node: int, body: bytes) -> bytes:
        valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = (
            _SETATTR.unpack_from(body)
        )
        path = self._at(node)
        if valid & _SIZE:
            os.truncate(path, size)
        if valid & (_UID | _GID):
            os.chown(path, uid if valid & _UID else -1, gid if valid & _GID else -1)
        if valid & _MODE:
            os.chmod(path, stat.S_IMODE(mode))
        if valid & (_ATIME | _MTIME):
            now = os.stat(path)
            times = [now.st_atime_ns, now.st_mtime_ns]
            if valid & _ATIME:
                times[0] = atime * 10**9 + atime_ns
            if valid & _MTIME:
                times[1] = mtime * 10**9 + mtime_ns
            if valid & (_ATIME_NOW | _MTIME_NOW):
                os.utime(path)
            else:
                os.utime(path, ns=(times[0], times[1]))
        return self._attributes(node)

    def _symlink(self, node: int, body: bytes) -> bytes:
        name, target, _ = body.split(b"\0")
        os.symlink(target, name, dir_fd=self._inodes[node])
        return self._made(node, name)

    def _mknod(self, node: int, body: bytes) -> bytes:
        mode, device, _, _ = struct.unpack_from("<4I", body)
        name = body[16:].rstrip(b"\0")
        os.mknod(name, mode, device, dir_fd=self._inodes[node])
        return self._made(node, name)

    def _mkdir(self, node: int, body: bytes) -> bytes:
        (mode,) = struct.unpack_from("<I", body)
        name = body[8:].rstrip(b"\0")
        os.mkdir(name, mode, dir_fd=self._inodes[node])
        return self._made(node, name)

    def _unlink(self, node: int, body: bytes) -> bytes:
        os.unlink(body.rstrip(b"\0"), dir_fd=self._inodes[node])
        return b""

    def _rmdir(self, node: int, body: bytes) -> bytes:
        os.rmdir(body.rstrip(b"\0"), dir_fd=self._inodes[node])
        return b""

    def _rename(self, node: int, body: bytes) -> bytes:
        (to,) = struct.unpack_from("<Q", body)
        name, new, _ = body[8:].split(b"\0")
        os.rename(name, new, src_dir_fd=self._inodes[node], dst_dir_fd=self._inodes[to])
        return b""

    def _link(self, node: int, body: bytes) -> bytes:
        (old,) = struct.unpack_from("<Q", body)
        name = body[8:].rstrip(b"\0")
        os.link(self._at(old), name, dst_dir_fd=self._inodes[node], follow_symlinks=True)
        return self._entry(node, name)

    def _open(self, node: int, body: bytes) -> bytes:
        (flags,) = struct.unpack_from("<I", body)
        handle = os.open(self._at(node), flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW))
        return struct.pack("<QII", handle, 0, 0)

    def _create(self, node: int, body: bytes) -> bytes:
        flags, mode, _, _ = struct.unpack_from("<4I", body)
        name = body[16:].rstrip(b"\0")
        handle = os.open(name, flags | os.O_CREAT, mode, dir_fd=self._inodes[node])
        return self._made(node, name) + struct.pack("<QII", handle, 0, 0)

    @staticmethod
    def _read(_node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(handle, size, offset)

    @staticmethod
    def _write(_node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", os.pwrite(handle, body[40 : 40 + size], offset), 0)

    @staticmethod
    def _sync(_node: int, body: bytes) -> bytes:
        os.fsync(struct.unpack_from("<Q", body)[0])
        return b""

    @staticmethod
    def _release(_node: int, body: bytes) -> bytes:
        os.close(struct.unpack_from("<Q", body)[0])
        return b""

    def _statfs(self, node: int, _body: bytes) -> bytes:
        all_of = os.statvfs(self._at(node))
        return _STATFS.pack(
            *(all_of.f_blocks, all_of.f_bfree, all_of.f_bavail, all_of.f_files, all_of.f_ffree),
            *(all_of.f_bsize, all_of.f_namemax, all_of.f_frsize, 0),
        )

    def _open_listing(self, node: int, _body: bytes) -> bytes:
        handle = max(self._listings, default=0) + 1
        with os.scandir(self._at(node)) as names:
            found = [(item.inode(), os.fsencode(item.name)) for item in names]
        self._listings[handle] = [
            struct.pack("<QQII", inode, at, len(name), 0) + name + bytes(-len(name) % 8)
            for at, (inode, name) in enumerate(found, 1)
        ]
        return struct.pack("<QII", handle, 0, 0)

    def _read_listing(self, _node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        data = b""
        for record in self._listings[handle][offset:]:
            if len(data) + len(record) > size:
                break
            data += record
        return data

    def _release_listing(self, _node: int, body: bytes) -> bytes:
        del self._listings[struct.unpack_from("<Q", body)[0]]
        return b""


def _attributes(found: os.stat_result) -> bytes:
    times = (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
    return _ATTR.pack(
        *(found.st_ino, found.st_size, found.st_blocks),
        *(when // 10**9 for when in times),
        *(when % 10**9 for when in times),
        *(found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_rdev, 4096, 0),
    )


def main(source: str, where: str) -> None:
    """Mount, and serve until it is unmounted."""
    os.umask(0)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},{_MOUNT_OPTIONS}".encode()
    if libc.mount(b"plainfs", where.encode(), b"fuse.plainfs", _NOSUID_NODEV, options):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), where)
    Plain(source, device).serve()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
