# SPDX-License-Identifier: Apache-2.0
"""Drafts of edits: private copies that stay on the disk until their content is approved or thrown away.

They are outside of what is guarded, in a directory each: whatever an editor leaves beside its file (swap
and backup files) is kept and goes with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from datetime import datetime

from hardend.errors import FileError, RefusedError
from hardend.model import Host, printable

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NAME_LENGTH = 60
_LARGEST = 512 << 20
_HOLDER_LENGTH = 300


class Draft:
    """One draft; it is there until ``remove`` is called."""

    def __init__(self, host: Host, path: str, content: bytes, original: bytes) -> None:
        """Write ``content``; ``original`` is what nobody typed. Raises OSError, and leaves nothing then."""
        parent = drafts_dir(host)
        os.makedirs(parent, 0o700, exist_ok=True)
        self.directory = tempfile.mkdtemp(prefix=_prefix(path), dir=parent)
        self.path = os.path.join(self.directory, os.path.basename(path))
        self._untouched = (content, original)
        try:
            with open(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            self.remove()
            raise

    def read(self) -> bytes:
        """Return what is typed so far. Raises FileError when no file is there to read."""
        try:
            with open(os.open(self.path, _READ), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
                    raise FileError(f"{printable(self.path)}: not a file of a size that can be read")
                return file.read()
        except OSError as error:
            raise FileError(f"{printable(self.path)}: {error.strerror}") from error

    @property
    def is_untouched(self) -> bool:
        """Whether nothing is in it that somebody could miss."""
        try:
            is_alone = os.listdir(self.directory) == [os.path.basename(self.path)]
            return is_alone and self.read() in self._untouched
        except FileNotFoundError:
            return True
        except (OSError, FileError):
            return False

    def remove(self) -> None:
        """Throw it away, with all that the editor left beside it."""
        shutil.rmtree(self.directory, ignore_errors=True)


def drafts_dir(host: Host) -> str:
    """Return where drafts are."""
    return os.path.join(host.state_dir, "drafts")


def left_over(host: Host, path: str) -> list[str]:
    """Return the files of earlier drafts of a path, oldest first; a lone swap file's directory too."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(drafts_dir(host)):
            if entry.name.startswith(_prefix(path)) and entry.is_dir(follow_symlinks=False):
                file = os.path.join(entry.path, os.path.basename(path))
                when = entry.stat(follow_symlinks=False).st_mtime
                found.append((when, file if os.path.lexists(file) else entry.path))
    return [file for _, file in sorted(found)]


@contextlib.contextmanager
def alone(host: Host, path: str, who: str) -> Iterator[None]:
    """Hold the right to edit a path, for as long as this process lives; ``who`` is what others are told.

    Raises RefusedError with who holds it.
    """
    directory = os.path.join(host.run_dir, "edit")
    os.makedirs(directory, 0o700, exist_ok=True)
    name = os.path.join(directory, f"{_prefix(path)}lock")
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = printable(os.pread(descriptor, _HOLDER_LENGTH, 0).decode("utf-8", "replace"))
            raise RefusedError(
                f"{printable(path)} is being edited by {holder or 'somebody else'}",
                hint="wait until that is done, or ask who it is",
            ) from None
        since = datetime.now().astimezone().strftime("%H:%M")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{who} (pid {os.getpid()}, since {since})".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _prefix(path: str) -> str:
    """Return how names of drafts of a path begin; two paths never share it."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    name = os.fsencode(os.path.basename(path))[:_NAME_LENGTH]
    return f"{os.fsdecode(name)}-{digest}-"
