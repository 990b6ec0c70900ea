# SPDX-License-Identifier: Apache-2.0
"""File systems for a test, mounted where nobody else sees them and gone with it, also after kill -9."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def private_mounts() -> Iterator[None]:
    """Live in a mount namespace of our own: it, and every mount in it, ends with the last process."""
    here = Path.cwd()
    before = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_NEWNS))
        try:
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            yield
        finally:
            _check(_libc.setns(before, _CLONE_NEWNS))
            os.chdir(here)
    finally:
        os.close(before)


def mount_image(where: Path, image: Path, mebibytes: int, *, kind: str = "ext4") -> None:
    """Mount a new file system of that size; its loop device goes with the mount."""
    where.mkdir(exist_ok=True)
    with image.open("wb") as file:
        file.truncate(mebibytes << 20)
    options = ["-m", "0", "-O", "^has_journal"] if kind == "ext4" else []
    subprocess.run([f"mkfs.{kind}", "-q", *options, str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(where)], check=True)


def mount_memory(where: Path) -> None:
    """Mount a tmpfs."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "hardend-test", str(where)], check=True)


def remount(where: Path, *options: str) -> None:
    """Mount again with other options ("ro", "rw")."""
    subprocess.run(["mount", "-o", ",".join(("remount", *options)), str(where)], check=True)
