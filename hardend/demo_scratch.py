# SPDX-License-Identifier: Apache-2.0
"""A private directory for the demo, on a file system with inode flags; nothing of it stays behind."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time

from hardend.command import run
from hardend.errors import CommandError, FileError, RefusedError
from hardend.kernel import flags as inode_flags
from hardend.kernel.mounts import unmount
from hardend.removal import remove

_IMAGE_BYTES = 256 << 20  # sparse: it takes what is written
_TIMEOUT_S = 60.0
_UNMOUNT_ATTEMPTS = 50
_UNMOUNT_GAP_S = 0.1


class Scratch:
    """A directory beneath ``parent`` that only root can enter; ``path`` is where to work.

    Where the file system of ``parent`` has no inode flags, ``image`` is true and ``path`` is an ext4
    image, mounted. Raises FileError, CommandError, or RefusedError where nobody may set the flags.
    """

    def __init__(self, parent: str) -> None:
        try:
            self.top = tempfile.mkdtemp(prefix="hardend-demo-", dir=parent)
        except OSError as error:
            raise FileError(f"{parent}: no directory can be made there: {error.strerror}") from error
        self.path = self.top
        self.image = False
        try:
            if not has_flags(self.top):
                self._mount_image()
        except BaseException:
            self.close()
            raise

    def _mount_image(self) -> None:
        image = os.path.join(self.top, "image")
        point = os.path.join(self.top, "mounted")
        with open(image, "wb") as file:
            file.truncate(_IMAGE_BYTES)
        os.mkdir(point, 0o700)
        for argv in (
            ["mkfs.ext4", "-q", "-F", "-m", "0", image],
            ["mount", "-t", "ext4", "-o", "loop,nodev,nosuid", image, point],
        ):
            done = run(argv, timeout_s=_TIMEOUT_S)
            if done.status:
                raise CommandError(
                    f"{argv[0]}: {done.last_words}",
                    hint="the demo needs inode flags (chattr): --dir names a directory on ext4 or xfs",
                )
            self.image = argv[0] == "mount"
        self.path = point
        if not has_flags(point):
            raise FileError(f"{point}: an ext4 image without inode flags")

    def close(self) -> None:
        """Unmount and remove everything, locks or not. Raises FileError naming what stayed."""
        try:
            if self.image:
                self._unmount()
            parent = os.open(os.path.dirname(self.top), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with contextlib.suppress(FileNotFoundError):
                    remove(parent, os.path.basename(self.top))
            finally:
                os.close(parent)
        except OSError as error:
            raise FileError(f"{self.top} cannot be removed: {error.strerror}") from error

    def _unmount(self) -> None:
        """Unmount; a process that still ends keeps it busy for a moment."""
        for _ in range(_UNMOUNT_ATTEMPTS):
            if not os.path.ismount(self.path):
                break
            if run(["umount", self.path], timeout_s=_TIMEOUT_S).status:
                time.sleep(_UNMOUNT_GAP_S)
        else:
            unmount(self.path)
        self.image = False


def has_flags(directory: str) -> bool:
    """Return whether files in ``directory`` can be made immutable.

    Raises RefusedError where the file system could but this process may not.
    """
    with tempfile.TemporaryFile(dir=directory) as probe:
        try:
            inode_flags.hold_flags(probe.fileno(), "i")
            inode_flags.hold_flags(probe.fileno(), "")
        except OSError as error:
            if error.errno in inode_flags.UNSUPPORTED:
                return False
            if error.errno in {errno.EPERM, errno.EACCES}:
                raise RefusedError(
                    "this machine does not let root lock a file (chattr +i: CAP_LINUX_IMMUTABLE)",
                    hint="a container needs that capability: --cap-add=LINUX_IMMUTABLE",
                ) from error
            raise FileError(f"{directory}: inode flags: {error.strerror}") from error
    return True
