# SPDX-License-Identifier: Apache-2.0
"""A tree with what a guard set aside, for the tests of the collector."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hardend.collect import Summary, collect
from hardend.kernel import flags
from hardend.model import Host
from hardend.quarantine import Limits

ID = "20261124T061501.123456-0001"
MIB = 1 << 20


class Scene:
    """A tree with the guard's directory of taken objects, and the quarantine read back."""

    def __init__(self, root: Path) -> None:
        self.host = Host(str(root))
        self.taken = Path(self.host.taken_dir)
        self.taken.mkdir(parents=True, mode=0o700)
        self.objects = Path(self.host.quarantine_dir) / "objects"
        self.records = Path(self.host.quarantine_dir) / "records"

    def tell(self, identifier: str = ID, **changes: Any) -> Path:
        """Write the record of a taken object; return where the object belongs."""
        record = {
            "id": identifier,
            "path": "/etc/mail/access",
            "cls": "locked",
            "drift": ["content"],
            "generation": 3,
            "time": "2026-11-24T06:15:01.123456+00:00",
            "time_ns": 1795500901123456000,
            "incident": identifier,
            "kind": "file",
            "uid": 0,
            "gid": 0,
            "mode": 0o640,
            "size": 5,
            "mtime_ns": 1,
            "who": {"pid": 7},
            **changes,
        }
        (self.taken / f"{identifier}.json").write_text(json.dumps(record))
        return self.taken / identifier

    def put(self, content: bytes = b"evil\n", identifier: str = ID, **changes: Any) -> Path:
        where = self.tell(identifier, **changes)
        where.write_bytes(content)
        return where

    def collect(self, limits: Limits | None = None, patience_s: float = 0.0) -> Summary:
        return collect(self.host, limits or Limits(max_age_s=1e12), patience_s=patience_s)

    def record(self, identifier: str = ID) -> dict[str, Any]:
        document = json.loads((self.records / f"{identifier}.json").read_text())
        assert isinstance(document, dict)
        return document

    def content(self, digest: str) -> bytes:
        return (self.objects / digest).read_bytes()

    def is_swept(self) -> bool:
        return not list(self.taken.iterdir())


@contextlib.contextmanager
def open_scene() -> Iterator[Scene]:
    """Make a scene; it is gone afterwards, locks and all."""
    # Not tmp_path: it may be a tmpfs, and this is about inode flags and sync.
    root = Path(tempfile.mkdtemp(prefix="hardend-collect-", dir="/var/tmp"))
    try:
        yield Scene(root)
    finally:
        remove_tree(root)


def remove_tree(root: Path) -> None:
    """Unlock and remove a tree."""
    for directory, _names, files in os.walk(root):
        for name in (".", *files):
            unlock(Path(directory) / name)
    shutil.rmtree(root)


def lock(where: Path, bits: int = flags.IMMUTABLE) -> None:
    """Set inode flags."""
    descriptor = os.open(where, os.O_RDONLY | os.O_NONBLOCK)
    flags.set_flags(descriptor, flags.get_flags(descriptor) | bits)
    os.close(descriptor)


def unlock(where: Path) -> None:
    """Clear the flags that chattr sets, of a plain file or directory."""
    if stat.S_IFMT(where.lstat().st_mode) in {stat.S_IFREG, stat.S_IFDIR}:
        descriptor = os.open(where, os.O_RDONLY | os.O_NONBLOCK)
        flags.hold_flags(descriptor, "")
        os.close(descriptor)


def in_child(function: Callable[[], object]) -> int:
    """Run ``function`` in a child and return its exit status; 0 when it returned."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def unmount_below(top: Path) -> None:
    """Take every mount below a directory away."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in points:
        if point.startswith(f"{top}/"):
            subprocess.run(["umount", point], check=True)
