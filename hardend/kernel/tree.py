# SPDX-License-Identifier: Apache-2.0
"""A host's files by their paths there: links resolved inside its root, no open that can block.

The root may be a tree that somebody else wrote: no link of it leads out, no FIFO hangs a reader.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hardend.errors import FileError
from hardend.model import Host, printable

FILE_LIMIT = 16 << 20  # bytes; the largest file that is read here is the sendmail binary, 2 MiB
_LINKS = 40  # as the kernel (path_resolution(7))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path leads to, and the symbolic links that it leads over (their own real paths)."""

    path: str
    links: tuple[str, ...] = ()


class Tree:
    """The files of a host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def place(self, path: str) -> Place:
        """Resolve every link of ``path`` inside the root; what is not there resolves to itself.

        Raises FileError on a loop of links.
        """
        todo = [part for part in reversed(path.split("/")) if part not in {"", "."}]
        done: list[str] = []
        links: list[str] = []
        while todo:
            part = todo.pop()
            if part == "..":
                done = done[:-1]
                continue
            here = "/" + "/".join([*done, part])
            target = self._target(here)
            if target is None:
                done.append(part)
                continue
            links.append(here)
            if len(links) > _LINKS:
                raise FileError(
                    f"{printable(path)}: too many symbolic links",
                    hint=f"ls -l {printable(here)} shows one of the loop",
                )
            if target.startswith("/"):
                done = []
            todo += [piece for piece in reversed(target.split("/")) if piece not in {"", "."}]
        return Place("/" + "/".join(done), tuple(dict.fromkeys(links)))

    def real(self, path: str) -> str:
        """Return where a path leads to. Raises FileError on a loop of links."""
        return self.place(path).path

    def mode(self, path: str) -> int:
        """Return st_mode of what a path leads to, 0 when nothing is there."""
        return self.link_mode(self.real(path)) if path else 0

    def link_mode(self, path: str) -> int:
        """Return st_mode of the object itself, a link not followed, 0 when nothing is there."""
        try:
            return os.lstat(self._host.at(path)).st_mode
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return 0

    def exists(self, path: str) -> bool:
        """Return whether something is there, links resolved inside the root."""
        return self.mode(path) != 0

    def first(self, places: Iterable[str]) -> str:
        """Return where the first place leads to at which something is, or ``""``."""
        return next((self.real(place) for place in places if self.exists(place)), "")

    def read(self, path: str) -> bytes:
        """Return the bytes of a regular file. Raises FileError, its OSError as the cause."""
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
        shown = printable(path)
        try:
            with open(os.open(self._host.at(self.real(path)), flags), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise FileError(f"{shown}: not a regular file")
                data = file.read(FILE_LIMIT + 1)
        except OSError as error:
            hint = "only root may read it" if error.errno == errno.EACCES else ""
            raise FileError(f"{shown}: {error.strerror}", hint=hint) from error
        if len(data) > FILE_LIMIT:
            raise FileError(f"{shown}: over {FILE_LIMIT >> 20} MiB")
        return data

    def contents(self, path: str) -> bytes:
        """Return the bytes of a regular file, or none where it is not there or not to be read."""
        if not stat.S_ISREG(self.mode(path)):
            return b""
        try:
            return self.read(path)
        except FileError:
            return b""

    def records(self, path: str) -> Iterator[list[str]]:
        """Yield the fields of each line of a file such as passwd(5) or group(5), none where it is missing."""
        for line in self.contents(path).decode("utf-8", "surrogateescape").split("\n"):
            yield line.split(":")

    def names(self, path: str) -> list[str]:
        """Return the sorted names in a directory, links resolved. Raises FileError."""
        try:
            return sorted(os.listdir(self._host.at(self.real(path))))
        except OSError as error:
            hint = "only root may read it" if error.errno == errno.EACCES else ""
            raise FileError(f"{printable(path)}: {error.strerror}", hint=hint) from error

    def directories(self, path: str) -> list[str]:
        """Return the sorted paths of a directory's subdirectories, links to directories among them.

        Empty when there is no such directory. Raises FileError when it cannot be read.
        """
        if not stat.S_ISDIR(self.mode(path)):
            return []
        inside = [os.path.join(path, name) for name in self.names(path)]
        return [child for child in inside if stat.S_ISDIR(self.mode(child))]

    def expand_queue(self, pattern: str) -> list[str]:
        """Return the directories that a QueueDirectory or a P= of a queue group names.

        As sendmail's multiqueue_cache() has it, an asterisk counts only at the end of the path, and
        stands for directories whose name begins with what is before it, never for hidden ones.
        """
        if not pattern.endswith("*"):
            return [pattern]
        directory, _, prefix = pattern[:-1].rpartition("/")
        return [
            path
            for path in self.directories(directory or "/")
            if (name := os.path.basename(path)).startswith(prefix) and not name.startswith(".")
        ]

    def _target(self, path: str) -> str | None:
        try:
            return os.readlink(self._host.at(path))
        except (OSError, ValueError):
            return None
