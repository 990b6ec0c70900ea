# SPDX-License-Identifier: Apache-2.0
"""How long generations stay: old ones and what only they needed go, and the chain stays provable.

What went is noted in ``pruned`` beside ``current``: ranges of numbers, each with the digest of its last
manifest. The generation after a range names that digest as its parent, so a note that was made up for
generations that somebody removed does not fit, and what went without a note is missing.

Never pruned are the current generation, the one that a running guard holds, and what a signature lies
with: the newest as many as are kept, or all of them where signatures are required, for trust may rest
on any of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hardend import state
from hardend.baseline import manifest
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.errors import HardendError, RefusedError, StoreError
from hardend.kernel import flags as inode_flags
from hardend.model import FileType, Host, printable
from hardend.quarantine import digests_of, read_record

GRACE_S = 3600.0  # a proposal stores its objects before its generation names them
_SCHEMA = 1
_GONE = ".pruned"  # a generation on its way out: no number any more
_OBJECT = re.compile(r"[0-9a-f]{64}(?:\.new)?")
_DIGEST = re.compile(r"(?:[0-9a-f]{64})?")
_SHOWN = 10  # numbers in a sentence
_NOTE_LIMIT = 16 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_VERIFY = "hardend baseline verify names every damaged part"


@dataclass(frozen=True, slots=True)
class Range:
    """Generations that were pruned, both ends included; ``digest`` is that of the last one's manifest."""

    first: int
    last: int
    digest: str


@dataclass(frozen=True, slots=True)
class Note:
    """What was pruned from a store, and when (ISO 8601 UTC) and by whom that was done last."""

    ranges: tuple[Range, ...] = ()
    time: str = ""
    by: str = ""

    def holds(self, number: int) -> bool:
        """Return whether a generation is among what was pruned."""
        return any(item.first <= number <= item.last for item in self.ranges)


@dataclass(slots=True)
class Pruned:
    """What pruning did; ``notes`` are sentences that the administrator should read."""

    generations: list[int] = field(default_factory=list)
    objects: int = 0
    freed_bytes: int = 0
    kept: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_note(host: Host) -> Note:
    """Return what was pruned, an empty note where nothing was. Raises StoreError for a damaged one."""
    where = _note_path(host)
    try:
        descriptor = os.open(where, _READ)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StoreError(f"{where}: not a regular file", hint=_VERIFY)
            data = file.read(min(os.fstat(descriptor).st_size, _NOTE_LIMIT))
    except FileNotFoundError:
        return Note()
    except OSError as error:
        raise StoreError(f"{where}: {error.strerror}", hint=_VERIFY) from error
    try:
        return _parse(json.loads(data))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{where}: damaged", hint=_VERIFY) from error


def _parse(document: object) -> Note:
    if not isinstance(document, dict) or document["schema"] != _SCHEMA:
        raise ValueError("schema")
    ranges = tuple(Range(*item) for item in document["ranges"])
    end = 0
    for item in ranges:
        if not (type(item.first) is type(item.last) is int and end < item.first <= item.last):
            raise ValueError("ranges")
        if not _DIGEST.fullmatch(item.digest):
            raise ValueError("digest")
        end = item.last
    if not isinstance(document["time"], str) or not isinstance(document["by"], str):
        raise TypeError("time or by")
    return Note(ranges, document["time"], document["by"])


def verify(host: Host) -> list[str]:
    """Return every fault of the store as Store.verify does; what was pruned is none, if the chain fits."""
    store = Store(host)
    faults = store.verify()
    try:
        note = read_note(host)
    except StoreError as error:
        return [str(error), *faults]
    if not note.ranges:
        return faults
    there = set(store.numbers())
    missing = {str(error) for number, error in _missing(store, note) if number not in there}
    found = [fault for fault in faults if fault not in missing]
    with contextlib.suppress(StoreError):
        current = store.current().number
        found += [
            f"{_note_path(host)}: names generation {item.last}, and {current} is in force"
            for item in note.ranges
            if item.last >= current
        ]
    for item in note.ranges:
        with contextlib.suppress(StoreError):  # named by the store's own faults
            if item.last + 1 in there and store.generation(item.last + 1).parent != item.digest:
                found.append(f"generation {item.last + 1}: its parent is not what was pruned before it")
    try:
        store.current()
    except StoreError as error:  # never hidden: what it names may be among what was pruned
        found.append(str(error))
    return list(dict.fromkeys(found))


def _missing(store: Store, note: Note) -> Iterator[tuple[int, StoreError]]:
    """Yield the fault of every generation that was pruned."""
    newest = max(store.numbers(), default=0)
    for item in note.ranges:
        for number in range(item.first, min(item.last, newest) + 1):
            try:
                store.generation(number)
            except StoreError as error:
                yield number, error


def prune(
    host: Host, settings: Settings, keep: int, *, by: str, grace_s: float = GRACE_S
) -> Pruned:
    """Remove all but the newest ``keep`` generations, and objects that nothing needs any more.

    An object that no generation ever named is spared for ``grace_s`` seconds: somebody may be about to.
    Crash-safe: the note is written first, and the next run takes away what a crash left. Raises
    StoreError, with nothing removed, when a generation that is to stay cannot be read, RefusedError when
    what is to stay does not follow each other.
    """
    store = Store(host)
    store.current()  # a baseline there is, before anything is made for a lock
    with store.locked():
        return _Pruning(host, store, keep).run(settings, by, grace_s)


class _Pruning:
    """One run, under the store's lock."""

    def __init__(self, host: Host, store: Store, keep: int) -> None:
        if keep < 1:
            raise RefusedError("at least one generation stays: the one in force")
        self._host = host
        self._store = store
        self._keep = keep
        self._current = store.current()
        self._generations = os.path.join(host.store_dir, "generations")
        self._objects = os.path.join(host.store_dir, "objects")
        self._result = Pruned()

    def run(self, settings: Settings, by: str, grace_s: float) -> Pruned:
        """Do it, in the order that a crash may cut anywhere."""
        result = self._result
        note, is_damaged = Note(), False
        try:
            note = read_note(self._host)
        except StoreError as error:  # it is written anew
            is_damaged = True
            result.notes.append(str(error))
        kept = self._kept(settings, note)
        there = self._store.numbers()
        gone = [number for number in there if number < self._current.number and number not in kept]
        result.kept, result.generations = sorted(kept), gone
        doomed = self._doomed(gone, kept)
        if gone or is_damaged:
            self._tell_of_lost(there, note)
            moment = datetime.now(UTC).isoformat(timespec="seconds")
            _write_note(self._host, Note(tuple(_ranges(kept)), moment, by))
        self._remove_generations(gone)
        self._remove_objects(_needed(kept.values(), self._store) | self._in_quarantine(), doomed, grace_s)
        return result

    def _tell_of_lost(self, there: Iterable[int], note: Note) -> None:
        """Note what somebody removed before: until now verify told of it."""
        lost = sorted(set(range(1, self._current.number)).difference(there))
        lost = [number for number in lost if not note.holds(number)]
        if lost:
            shown = ", ".join(map(str, lost[:_SHOWN])) + (", ..." if len(lost) > _SHOWN else "")
            self._result.notes.append(
                f"{len(lost)} generations were missing, and count as pruned from now on: {shown}"
            )

    def _remove_generations(self, gone: Iterable[int]) -> None:
        """Take generations out of the numbers, all at once but for a crash, then remove them."""
        for number in gone:
            place = os.path.join(self._generations, str(number))
            os.rename(place, place + _GONE)
        _sync(self._generations)
        for name in os.listdir(self._generations):
            if name.endswith(_GONE):
                place = os.path.join(self._generations, name)
                self._result.freed_bytes += _tree_size(place)
                shutil.rmtree(place)

    def _kept(self, settings: Settings, note: Note) -> dict[int, Generation]:
        """Return what stays. Raises StoreError for what of it is damaged, RefusedError for a broken chain."""
        store, current = self._store, self._current.number
        numbers = store.numbers()
        wanted = {number for number in range(current - self._keep + 1, current + 1) if number > 0}
        wanted = {number for number in wanted if number in numbers or not note.holds(number)}
        signed = [number for number in reversed(numbers) if store.has_signature(number)]
        wanted |= set(signed if settings.require_signature else signed[: self._keep])
        if (held := self._held_by_guard()) in numbers:
            wanted.add(held)
        kept = {number: store.generation(number) for number in sorted(wanted)}
        after = {item.last + 1: item.digest for item in note.ranges}
        for number, generation in kept.items():
            parent = after.get(number)
            with contextlib.suppress(StoreError):
                if parent is None and number > 1:
                    store.generation(number - 1)
                    parent = store.manifest_digest(number - 1)
            if parent is not None and parent != generation.parent:
                raise RefusedError(
                    f"generation {number}: its parent is not the one before it: pruning would hide that",
                    hint=_VERIFY,
                )
        return kept

    def _held_by_guard(self) -> int:
        """Return what a running guard holds: until it loads the newest, it needs the objects of that."""
        with contextlib.suppress(HardendError):
            published = state.read(self._host)
            if published and state.guard_is_alive(self._host):
                number = published.get("generation")
                return number if isinstance(number, int) else 0
        return 0

    def _doomed(self, gone: Iterable[int], kept: Mapping[int, Generation]) -> set[str]:
        """Return what the generations named that go; note what of them is damaged, or stays locked."""
        digests: set[str] = set()
        locked: dict[str, int] = {}
        for number in gone:
            try:
                generation = self._store.generation(number)
            except StoreError as error:
                self._result.notes.append(f"what is pruned was damaged: {error}")
                continue
            digests |= {entry.digest for entry in generation.entries.values() if entry.digest}
            locked.update(
                {
                    path: number
                    for path, entry in generation.entries.items()
                    if entry.flags and entry.kind is FileType.FILE
                }
            )
        for path, number in sorted(locked.items()):
            known = any(path in generation.entries for generation in kept.values())
            if not known and _is_locked(self._host.at(path)):
                self._result.notes.append(
                    f"{printable(path)} is still locked as generation {number} had it, and no longer held: "
                    "chattr -ia takes the lock off"
                )
        return digests

    def _in_quarantine(self) -> set[str]:
        """Return every digest that a record of the quarantine names."""
        digests: set[str] = set()
        where = os.path.join(self._host.quarantine_dir, "records")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            directory = os.open(where, _DIRECTORY)
            try:
                for name in os.listdir(directory):
                    digests.update(digests_of(read_record(directory, name) or {}))
            finally:
                os.close(directory)
        return digests

    def _remove_objects(self, needed: set[str], doomed: set[str], grace_s: float) -> None:
        before = time.time() - grace_s
        for name in os.listdir(self._objects):
            where = os.path.join(self._objects, name)
            if not _OBJECT.fullmatch(name) or name in needed:
                continue
            found = os.lstat(where)
            if not stat.S_ISREG(found.st_mode) or (name not in doomed and found.st_ctime > before):
                continue
            os.unlink(where)
            self._result.objects += 1
            self._result.freed_bytes += found.st_blocks * 512
        _sync(self._objects)


def _ranges(kept: Mapping[int, Generation]) -> Iterator[Range]:
    """Yield what lies between the generations that are kept, and before the first."""
    before = 0
    for number, generation in sorted(kept.items()):
        if number > before + 1:
            yield Range(before + 1, number - 1, generation.parent)
        before = number


def _needed(kept: Iterable[Generation], store: Store) -> set[str]:
    """Return the objects of generations, and of the signed ones that they were imported from."""
    digests: set[str] = set()
    for generation in kept:
        digests |= {entry.digest for entry in generation.entries.values() if entry.digest}
        with contextlib.suppress(StoreError):
            if origin := store.origin(generation.number):
                there = manifest.parse(origin.manifest, f"origin of generation {generation.number}")
                digests |= {entry.digest for entry in there.entries.values() if entry.digest}
    return digests


def _is_locked(path: str) -> bool:
    try:
        descriptor = os.open(path, _READ)
    except OSError:
        return False
    try:
        return bool(inode_flags.get_flags(descriptor) & inode_flags.HELD)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _tree_size(top: str) -> int:
    paths = [os.path.join(directory, name) for directory, _, files in os.walk(top) for name in files]
    return sum(os.lstat(path).st_blocks * 512 for path in paths)


def _note_path(host: Host) -> str:
    return os.path.join(host.store_dir, "pruned")


def _write_note(host: Host, note: Note) -> None:
    """Write the note aside, sync, rename, sync the directory."""
    document = {
        "schema": _SCHEMA,
        "ranges": [[item.first, item.last, item.digest] for item in note.ranges],
        "time": note.time,
        "by": note.by,
    }
    where = _note_path(host)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(f"{where}.new", flags, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(json.dumps(document, sort_keys=True).encode() + b"\n")
        file.flush()
        os.fsync(descriptor)
    os.rename(f"{where}.new", where)
    _sync(host.store_dir)


def _sync(directory: str) -> None:
    descriptor = os.open(directory, _DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
