# SPDX-License-Identifier: Apache-2.0
"""Reading what is kept: the quarantine's records and objects, and what still waits to be collected.

Nothing is locked or changed, so that a look never stands in the way of hardend-collect. The
directory may be damaged: what cannot be read is a fault that names the file, and the rest is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Self, TypeVar

from hardend.errors import Exit, HardendError, RefusedError
from hardend.model import FileType, Host, printable
from hardend.observe import file_type
from hardend.quarantine import Record, load_record, time_of

WHOLE, TRUNCATED = "whole", "truncated"  # how much of a content was stored; else attributes only
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 18
_SHOWN = 5  # ids that an abbreviation could mean
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_T = TypeVar("_T")


class NothingFoundError(HardendError):
    """Nothing is kept that fits what was asked for."""

    exit_code = Exit.DRIFT


@dataclass(frozen=True, slots=True)
class Kept:
    """An object that a restore replaced, as its record tells.

    ``time`` is realtime seconds; ``size`` is what the object had, in bytes; ``stored`` is ``whole``,
    ``truncated`` or ``attributes``; ``incident`` is the id of the first object of its incident.
    ``waits`` tells that it is still in the taken directory, its content not stored yet. ``record`` is
    all that is known.
    """

    id: str
    path: str
    drift: tuple[str, ...]
    time: float
    kind: str
    size: int
    cls: str
    generation: int
    incident: str
    who: Mapping[str, object]
    digest: str
    stored: str
    waits: bool
    record: Record

    @property
    def is_first(self) -> bool:
        """Whether its incident began with it: what is never purged by age or path."""
        return self.incident == self.id

    @property
    def entries(self) -> list[Record]:
        """What a directory held, names relative to it."""
        entries = self.record.get("entries")
        return [item for item in entries if isinstance(item, dict)] if isinstance(entries, list) else []

    @property
    def rules(self) -> tuple[str, ...]:
        """The ids of the rules that it broke, as far as that was judged."""
        return _words(self.record.get("rules"))

    @property
    def faults(self) -> tuple[str, ...]:
        """Where and how it broke them, one sentence each."""
        return _words(self.record.get("faults"))

    def content_of(self, inside: str = "") -> str:
        """Return the digest of its content, or of the file ``inside`` of a directory.

        Raises RefusedError where nothing is stored of it, with the reason.
        """
        if self.waits:
            raise RefusedError(f"{self.id} still waits to be collected", hint="hardend collect does it")
        digest: object = self.digest
        if inside:
            found = [item for item in self.entries if item.get("name") == inside]
            if not found:
                raise NothingFoundError(f"{self.id}: holds no {printable(inside)}")
            digest = found[0].get("digest")
        elif self.kind == FileType.DIRECTORY:
            raise RefusedError(
                f"{self.id}: is a directory",
                hint=f"hardend quarantine show {self.id} lists it; --inside NAME takes a file of it",
            )
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            what = "a secret is held by its attributes" if self.cls == "attributes" else self.kind
            shown = printable(what) or "its record is damaged"
            raise RefusedError(f"{self.id}: nothing of its content was kept ({shown})")
        return digest


@dataclass(slots=True)
class Shelf:
    """The quarantine, open for reading; a context manager. ``faults`` grows as it is read.

    Raises RefusedError for who may not read it.
    """

    host: Host
    faults: dict[str, None] = field(default_factory=dict)  # an ordered set
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _taken: int = -1
    _records: int = -1
    _objects: int = -1

    def __enter__(self) -> Self:
        """Open the directories; one that is missing is empty."""
        with contextlib.ExitStack() as stack:
            opened = partial(self._open, stack)
            self._taken = opened(self.host.taken_dir)
            self._records = opened(self._where("records"))
            self._objects = opened(self._where("objects"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._stack.close()

    def all(self, since: float = 0.0) -> list[Kept]:
        """Return what is kept since a moment (realtime seconds), newest last."""
        taken = self._ids(self._taken)  # first: what is collected meanwhile is in both, not in none
        records = self._ids(self._records)
        found = [self._kept(one) for one in records if self._is_since(one, since)]
        found += [self._waiting(one) for one in taken - records if self._is_since(one, since)]
        return sorted((item for item in found if item is not None), key=lambda item: (item.time, item.id))

    def find(self, text: str) -> Kept:
        """Return the object of an id, or of the one id that begins with ``text``, else that holds it.

        Raises NothingFoundError, or HardendError when several could be meant.
        """
        taken, records = self._ids(self._taken), self._ids(self._records)
        known = sorted(taken | records)
        fits = [one for one in known if one == text]
        if text:
            fits = fits or [one for one in known if one.startswith(text)]
            fits = fits or [one for one in known if text in one]
        if len(fits) > 1:
            shown = ", ".join(fits[:_SHOWN]) + (", ..." if len(fits) > _SHOWN else "")
            raise HardendError(f"{printable(text)}: {len(fits)} ids fit", hint=f"one of {shown}")
        kept = None
        if fits:
            kept = self._kept(fits[0]) if fits[0] in records else self._waiting(fits[0])
        if kept is None:
            why = f" ({list(self.faults)[-1]})" if fits and self.faults else ""
            raise NothingFoundError(
                f"{printable(text)}: nothing of that id is kept{why}", hint="hardend quarantine list"
            )
        return kept

    def blocks(self, digest: str) -> Iterator[bytes]:
        """Yield an object's bytes. Raises RefusedError at the end of one that is not what it was."""
        sha = hashlib.sha256()
        where = os.path.join(self._where("objects"), digest)
        try:
            descriptor = os.open(digest, _READ, dir_fd=self._objects)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise RefusedError(f"{where}: not a regular file")
                while block := file.read(_BLOCK):
                    sha.update(block)
                    yield block
        except OSError as error:
            why = os.strerror(error.errno) if self._objects >= 0 and error.errno else "missing"
            raise RefusedError(f"{where}: {why}") from error
        if sha.hexdigest() != digest:
            raise RefusedError(f"{where}: damaged: it is not what its name says", hint=_DAMAGED)

    def check(self, digest: str) -> int:
        """Return the size of an object in bytes. Raises RefusedError when it is damaged or missing."""
        return sum(len(block) for block in self.blocks(digest))

    def object_path(self, digest: str) -> str:
        """Return where an object lies."""
        return os.path.join(self._where("objects"), digest)

    def _where(self, name: str) -> str:
        return os.path.join(self.host.quarantine_dir, name)

    def _open(self, stack: contextlib.ExitStack, where: str) -> int:
        try:
            descriptor = os.open(where, _DIRECTORY)
        except FileNotFoundError:
            return -1
        except PermissionError as error:
            raise RefusedError(f"{where}: only root may read it", hint="run it with sudo") from error
        except OSError as error:
            self.faults[f"{where}: {error.strerror}"] = None
            return -1
        stack.callback(os.close, descriptor)
        return descriptor

    def _ids(self, directory: int) -> set[str]:
        """Return the ids that a directory speaks of."""
        if directory < 0:
            return set()
        names = os.listdir(directory)
        found = set()
        for name in names:
            if name == ".new":  # what is being written
                continue
            if directory == self._taken:
                identifier = name.removesuffix(".new").removesuffix(".json")
            else:
                identifier = name.removesuffix(".json") if name.endswith(".json") else ""
            if _ID.fullmatch(identifier):
                found.add(identifier)
            else:
                self._fault(directory, name, "not a name of hardend's")
        return found

    def _is_since(self, identifier: str, since: float) -> bool:
        moment = time_of(identifier)
        return moment == 0 or moment >= since

    def _fault(self, directory: int, name: str, why: str) -> None:
        where = self.host.taken_dir if directory == self._taken else self._where("records")
        self.faults[f"{where}/{printable(name)}: {why}"] = None

    def _kept(self, identifier: str) -> Kept | None:
        record = self._record(self._records, f"{identifier}.json")
        return None if record is None else self._read(identifier, record, waits=False)

    def _record(self, directory: int, name: str) -> Record | None:
        try:
            return load_record(directory, name)
        except FileNotFoundError:  # evicted, or collected, since it was listed
            return None
        except OSError as error:
            self._fault(directory, name, error.strerror or str(error))
        except ValueError as error:
            self._fault(directory, name, f"damaged: {error}")
        return None

    def _waiting(self, identifier: str) -> Kept | None:
        """Return what waits in the taken directory, as its record tells, else as it looks."""
        record = self._record(self._taken, f"{identifier}.json")
        record = record or self._record(self._taken, f"{identifier}.json.new")
        try:
            found = os.stat(identifier, dir_fd=self._taken, follow_symlinks=False)
        except OSError:  # collected by now; or its mount made it stay beside its path
            return self._read(identifier, record, waits=True) if record else None
        seen: Record = {
            "kind": file_type(found.st_mode).value,
            "uid": found.st_uid,
            "gid": found.st_gid,
            "mode": stat.S_IMODE(found.st_mode),
            "size": found.st_size,
            "mtime_ns": found.st_mtime_ns,
        }
        return self._read(identifier, {**seen, **(record or {})}, waits=True)

    def _read(self, identifier: str, record: Record, *, waits: bool) -> Kept:
        """Return a record as a value; a field of the wrong type is a fault and counts as missing."""
        field_of = partial(self._field, self._taken if waits else self._records, identifier, record)
        drift = field_of("drift", list) or []
        return Kept(
            id=identifier,
            path=field_of("path", str) or "",
            drift=tuple(word for word in drift if isinstance(word, str)),
            time=time_of(identifier),
            kind=field_of("kind", str) or "",
            size=field_of("size", int) or 0,
            cls=field_of("cls", str) or "",
            generation=field_of("generation", int) or 0,
            incident=field_of("incident", str) or identifier,
            who=field_of("who", dict) or {},
            digest=field_of("digest", str) or "",
            stored=field_of("stored", str) or "attributes",
            waits=waits,
            record={**record, "id": identifier},
        )

    def _field(
        self, directory: int, identifier: str, record: Record, name: str, kind: type[_T]
    ) -> _T | None:
        value = record.get(name)
        if value is None or isinstance(value, kind):
            return value
        self._fault(directory, f"{identifier}.json", f"damaged: {name!r} is not {kind.__name__}")
        return None


def _words(value: object) -> tuple[str, ...]:
    return tuple(word for word in value if isinstance(word, str)) if isinstance(value, list) else ()


_DAMAGED = "its record still tells what it was; hardend quarantine purge --id removes both"
