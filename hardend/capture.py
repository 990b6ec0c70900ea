# SPDX-License-Identifier: Apache-2.0
"""Reading the live state of a path in full, as approval and ``hardend check`` do; opens the file."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace

from hardend import maps
from hardend.baseline.store import Store
from hardend.errors import FileError
from hardend.kernel import paths
from hardend.model import Class, Drift, Entry, FileType, Host, Protected, Role, printable
from hardend.observe import Actual, file_type, from_descriptor, from_stat
from hardend.reconcile import compare

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Live:
    """What stands at a path: its state, and its bytes where they were asked for."""

    actual: Actual
    content: bytes = b""


def built_map(
    entry: Entry, source: bytes, store: Store, tools: maps.Tools, *, library: str, mtime_ns: int
) -> tuple[Entry, list[str]]:
    """Return a map's entry with the map built aside from these bytes, and what its builder warned of.

    The bytes go into the store; ``library`` is that of the tools (``maps.library``). An entry without a
    spec is returned as it is. Raises HardendError where it does not build.
    """
    if entry.spec is None:
        return entry, []
    with maps.workdir() as directory:
        built = maps.build(entry.spec, source, directory, tools)
        with open(built.path, "rb") as file:
            data = file.read()
    made = replace(
        entry,
        digest=store.add_object(data),
        size=len(data),
        mtime_ns=mtime_ns,
        answers=built.answers,
        builder=library,
        opaque=False,
    )
    return made, list(built.warnings)


class Reader:
    """Reads paths of a host beneath its root; no symbolic link is followed on the way."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._root = os.open(host.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the root."""
        os.close(self._root)

    def read(self, path: str, *, content: bool) -> Live | None:
        """Return what stands at ``path``, or None.

        Raises FileError when it cannot be read, is reached through a link, or changes all the time.
        """
        try:
            for _ in range(_ATTEMPTS):
                live = self._read(path, content=content)
                if live is None or live.actual.digest != "":
                    return live
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            return None
        except OSError as error:
            raise FileError(
                f"{printable(path)}: cannot be read: {error.strerror}",
                hint="every directory above it must be a real one, not a symbolic link",
            ) from error
        raise FileError(f"{printable(path)}: changes while it is read", hint="try again")

    def _read(self, path: str, *, content: bool) -> Live | None:
        parent_path, name = os.path.split(path)
        if not name:
            return Live(self._directory("."))
        parent = paths.open_beneath(
            self._root, parent_path.lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY
        )
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                target = os.fsdecode(os.readlink(name, dir_fd=parent))
                return Live(replace(from_stat(found), target=target))
            if stat.S_ISDIR(found.st_mode):
                return Live(self._directory(path.lstrip("/")))
            if not stat.S_ISREG(found.st_mode):
                return Live(from_stat(found))
            return self._file(name, parent, content=content)
        finally:
            os.close(parent)

    def _directory(self, path: str) -> Actual:
        descriptor = paths.open_beneath(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return from_descriptor(descriptor, content=False)
        finally:
            os.close(descriptor)

    @staticmethod
    def _file(name: str, parent: int, *, content: bool) -> Live:
        descriptor = os.open(name, _READ | os.O_CLOEXEC, dir_fd=parent)
        with os.fdopen(descriptor, "rb") as file:
            if file_type(os.fstat(descriptor).st_mode) is not FileType.FILE:
                raise FileNotFoundError(2, "changed while it was opened", name)
            actual = from_descriptor(descriptor, content=content)
            return Live(actual, file.read() if content else b"")


def entry_of(protected: Protected, live: Live, store: Store | None) -> Entry:
    """Return the entry that approves what stands at a path; its content goes into the store."""
    actual = live.actual
    flags = actual.flags or ""
    if actual.kind is FileType.FILE and actual.flags is not None:
        flags = "i" if protected.immutable else ""
    holds = protected.role is Role.MAP or (
        protected.role is Role.SOURCE and protected.cls in {Class.LOCKED, Class.CHECKED}
    )
    digest = ""
    if holds and actual.kind is FileType.FILE and store is not None:
        digest = store.add_object(live.content)
    return Entry(
        path=protected.path,
        role=protected.role,
        cls=protected.cls,
        kind=actual.kind,
        uid=actual.uid,
        gid=actual.gid,
        mode=actual.mode,
        flags=flags,
        mtime_ns=actual.mtime_ns if actual.kind is not FileType.DIRECTORY else 0,
        size=len(live.content) if digest else 0,
        digest=digest,
        target=actual.target or "",
        xattrs=actual.xattrs or (),
        spec=protected.spec,
    )


def drift_of(entry: Entry, reader: Reader) -> frozenset[Drift]:
    """Return how the live path differs from its entry; a map's answers are not asked for here."""
    live = reader.read(entry.path, content=entry.holds_content)
    return compare(entry, live.actual if live else None)
