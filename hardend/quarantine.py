# SPDX-License-Identifier: Apache-2.0
"""The quarantine on disk: ``objects/<sha256>``, and ``records/<id>.json`` with the story of each.

Same content is kept once. An object is synced before a record names it, a record is synced before
the caller gives up the original, and records go before the objects that only they named: whatever
moment a crash picks, no record is half-written and none names an object that is not whole. One
process at a time, by a lock on the directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import heapq
import json
import os
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from hardend.errors import FileError, RefusedError
from hardend.model import Host

Record = dict[str, object]

_BLOCK = 1 << 18
_RECORD_LIMIT = 8 << 20
_POLL_S = 0.05
_ASIDE = ".new"  # the one name for what is being written; swept at the next opening
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept: bytes in all, age in seconds, and bytes of any one object."""

    max_bytes: int = 256 << 20
    max_age_s: float = 90 * 86400.0
    object_bytes: int = 8 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of some content: its digest, and whether the limit cut it short."""

    digest: str
    size: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class _Kept:
    """What eviction must know of a record."""

    id: str
    path: str
    is_first: bool
    digests: frozenset[str]
    size: int


class Quarantine:
    """The open quarantine; a context manager that holds the lock.

    Raises FileError when it cannot be opened, RefusedError when another process has it, and still has
    it after ``patience_s``.
    """

    def __init__(self, host: Host, *, patience_s: float = 0.0) -> None:
        self.where = host.quarantine_dir
        with contextlib.ExitStack() as stack:
            try:
                self._top = _open_made(self.where)
                stack.callback(os.close, self._top)
                _lock(self._top, time.monotonic() + patience_s)
                self._objects = _open_made(os.path.join(self.where, "objects"))
                stack.callback(os.close, self._objects)
                self._records = _open_made(os.path.join(self.where, "records"))
                stack.callback(os.close, self._records)
                for directory in (self._objects, self._records):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(_ASIDE, dir_fd=directory)
            except BlockingIOError as error:
                raise RefusedError(f"{self.where}: another hardend collect or purge is at work") from error
            except OSError as error:
                raise FileError(f"{self.where}: {error.strerror}") from error
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        """Return the open quarantine."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it and give the lock back."""
        self._stack.close()

    def store(self, source: int, limit: int) -> Stored:
        """Keep the content of a descriptor, at most ``limit`` bytes from its start. Raises OSError.

        The bytes are synced when this returns; holes and zeros take no space.
        """
        try:
            descriptor = os.open(_ASIDE, _WRITE, 0o600, dir_fd=self._objects)
            try:
                digest, size, truncated = _copy(source, descriptor, limit)
                if not self._holds(digest, size):
                    os.fsync(descriptor)
                    os.rename(_ASIDE, digest, src_dir_fd=self._objects, dst_dir_fd=self._objects)
                    os.fsync(self._objects)
                    return Stored(digest, size, truncated)
            finally:
                os.close(descriptor)
            os.unlink(_ASIDE, dir_fd=self._objects)
        except OSError:
            self._discard(self._objects)
            raise
        return Stored(digest, size, truncated)

    def read_record(self, identifier: str) -> Record | None:
        """Return a record, or None when there is none that can be read."""
        return read_record(self._records, f"{identifier}.json")

    def write_record(self, record: Mapping[str, object]) -> None:
        """Write or replace the record of its ``id``; synced when this returns. Raises OSError."""
        data = json.dumps(record, sort_keys=True).encode("ascii") + b"\n"
        try:
            descriptor = os.open(_ASIDE, _WRITE, 0o600, dir_fd=self._records)
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            name = f"{record['id']}.json"
            os.rename(_ASIDE, name, src_dir_fd=self._records, dst_dir_fd=self._records)
            os.fsync(self._records)
        except OSError:
            self._discard(self._records)
            raise

    def size(self) -> int:
        """Return the bytes that objects and records take on disk."""
        return sum(_sizes(self._objects).values()) + sum(_sizes(self._records).values())

    def evict(self, limits: Limits, now: float) -> int:
        """Remove records that are too old, then what is over the size, and return how many went.

        Over the size, the path that takes most gives up its oldest; the first object of an incident
        goes only when nothing else is left. Objects that no record names go first. Raises OSError.
        """
        objects, records = _sizes(self._objects), _sizes(self._records)
        old = {name for name in records if self._time(name) < now - limits.max_age_s}
        over = sum(objects.values()) + sum(records.values()) - limits.max_bytes
        if not old and over <= 0:
            return 0
        kept = [self._kept(name, size) for name, size in sorted(records.items()) if name not in old]
        references = Counter(digest for item in kept for digest in item.digests)
        over -= sum(records[name] for name in old)
        over -= sum(size for digest, size in objects.items() if not references[digest])
        victims = [item.id for item in _excess(kept, references, objects, over)]
        names = [*old, *(f"{identifier}.json" for identifier in victims)]
        for name in names:
            os.unlink(name, dir_fd=self._records)
        os.fsync(self._records)
        for digest in objects:
            if not references[digest]:
                os.unlink(digest, dir_fd=self._objects)
        return len(names)

    def remove(self, identifiers: Iterable[str]) -> int:
        """Remove records and the objects that only they named; return the bytes freed. Raises OSError.

        An identifier without a record is passed over. Records go first, as in ``evict``.
        """
        objects, records = _sizes(self._objects), _sizes(self._records)
        gone = {f"{identifier}.json" for identifier in identifiers} & records.keys()
        if not gone:
            return 0
        named = {name: frozenset(digests_of(read_record(self._records, name) or {})) for name in records}
        needed = frozenset().union(*(named[name] for name in records if name not in gone))
        loose = frozenset().union(*(named[name] for name in gone)) - needed
        for name in gone:
            os.unlink(name, dir_fd=self._records)
        os.fsync(self._records)
        unnamed = [digest for digest in loose if digest in objects]
        for digest in unnamed:
            os.unlink(digest, dir_fd=self._objects)
        os.fsync(self._objects)
        return sum(records[name] for name in gone) + sum(objects[digest] for digest in unnamed)

    def _holds(self, digest: str, size: int) -> bool:
        try:
            return os.stat(digest, dir_fd=self._objects, follow_symlinks=False).st_size == size
        except FileNotFoundError:
            return False

    def _discard(self, directory: int) -> None:
        with contextlib.suppress(OSError):
            os.unlink(_ASIDE, dir_fd=directory)

    def _kept(self, name: str, size: int) -> _Kept:
        identifier = name.removesuffix(".json")
        record = self.read_record(identifier) or {}
        first = record.get("incident") in {None, "", identifier}
        return _Kept(
            id=identifier,
            path=str(record.get("path", "")),
            is_first=bool(record) and first,
            digests=frozenset(digests_of(record)),
            size=size,
        )

    def _time(self, name: str) -> float:
        """Return when a record's object was taken: its id says so, else the file's own time."""
        return time_of(name) or os.stat(name, dir_fd=self._records, follow_symlinks=False).st_mtime


def time_of(identifier: str) -> float:
    """Return the time in an id (realtime seconds), 0 when it holds none."""
    try:
        return datetime.fromisoformat(identifier.partition("-")[0] + "+00:00").timestamp()
    except ValueError:
        return 0.0


def read_record(directory: int, name: str) -> Record | None:
    """Return the JSON object in a plain file, None when it is no such or missing."""
    try:
        return load_record(directory, name)
    except (OSError, ValueError):
        return None


def load_record(directory: int, name: str) -> Record:
    """Return the JSON object in a plain file. Raises OSError, or ValueError with what is wrong in it."""
    descriptor = os.open(name, _READ, dir_fd=directory)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size  # a read of the limit would allocate the limit
        data = file.read(min(size, _RECORD_LIMIT))
    try:
        record = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - content, not a caller's argument
    return record


def _excess(
    kept: list[_Kept], references: Counter[str], objects: Mapping[str, int], over: int
) -> Iterator[_Kept]:
    """Yield what must go until ``over`` bytes are freed, counting ``references`` down."""
    for firsts in (False, True):
        queues: defaultdict[str, deque[_Kept]] = defaultdict(deque)
        usage: Counter[str] = Counter()
        for item in kept:
            usage[item.path] += item.size + sum(objects.get(digest, 0) for digest in item.digests)
            if item.is_first is firsts:
                queues[item.path].append(item)
        heap = [(-usage[path], path) for path in queues]
        heapq.heapify(heap)
        while over > 0 and heap:
            taken, path = heapq.heappop(heap)
            if -taken != usage[path]:  # out of date: usage only falls
                heapq.heappush(heap, (-usage[path], path))
                continue
            victim = queues[path].popleft()
            yield victim
            references.subtract(victim.digests)
            freed = sum(objects.get(one, 0) for one in victim.digests if not references[one])
            over -= victim.size + freed
            usage[path] -= victim.size + sum(objects.get(one, 0) for one in victim.digests)
            if queues[path]:
                heapq.heappush(heap, (-usage[path], path))


def digests_of(record: Mapping[str, object]) -> Iterator[str]:
    """Yield the digests that a record names, those of a directory's files among them."""
    entries = record.get("entries")
    for part in (record, *(entries if isinstance(entries, list) else ())):
        digest = part.get("digest") if isinstance(part, dict) else None
        if isinstance(digest, str) and _DIGEST.fullmatch(digest):
            yield digest


def _copy(source: int, target: int, limit: int) -> tuple[str, int, bool]:
    """Copy up to ``limit`` bytes, skipping zeros; return digest, size, whether there was more."""
    sha = hashlib.sha256()
    offset = 0
    while block := os.pread(source, min(_BLOCK, limit - offset), offset):
        sha.update(block)
        if block.count(0) != len(block):
            os.lseek(target, offset, os.SEEK_SET)
            _write_all(target, block)
        offset += len(block)
    os.ftruncate(target, offset)
    return sha.hexdigest(), offset, bool(os.pread(source, 1, offset))


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _lock(descriptor: int, give_up: float) -> None:
    """Take the lock by ``give_up`` (steady clock). Raises BlockingIOError."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                raise
            time.sleep(_POLL_S)
        else:
            return


def _sizes(directory: int) -> dict[str, int]:
    """Return the bytes on disk of each plain file in ``directory``."""
    with os.scandir(directory) as entries:
        return {
            entry.name: entry.stat(follow_symlinks=False).st_blocks * 512
            for entry in entries
            if entry.is_file(follow_symlinks=False)
        }


def _open_made(where: str) -> int:
    """Open a directory, made 0700 where it is missing."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(where, _DIRECTORY)
    os.makedirs(where, 0o700, exist_ok=True)
    descriptor = os.open(where, _DIRECTORY)
    os.fchmod(descriptor, 0o700)
    _sync_parent(where)
    return descriptor


def _sync_parent(where: str) -> None:
    parent = os.open(os.path.dirname(where), _DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
