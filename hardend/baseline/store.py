# SPDX-License-Identifier: Apache-2.0
"""The baseline on disk: objects by digest, generations by number, and which one is current.

``objects/<sha256>``, ``generations/<n>/manifest.json`` with its ``digest``, ``current``. A signature lies
beside the manifest as ``manifest.json.sig``; a generation that was imported keeps the signed manifest it
comes from as ``origin.json`` and ``origin.json.sig``. Everything is written aside, synced and renamed;
every read checks digests and follows no link. A damaged store is an error, never an empty baseline.

A commit writes ``generations/<n>.new``, then ``current``, and takes the ``.new`` away last: one that died
before ``current`` was written left nothing that counts, one that died after it is in force. So a
generation above the one that ``current`` names is never a leftover: ``current`` was changed back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from typing import BinaryIO

from hardend.baseline import manifest
from hardend.baseline.manifest import Generation
from hardend.baseline.signature import SIGNATURE_LIMIT, Signed
from hardend.errors import StoreError
from hardend.kernel import paths
from hardend.model import Host, printable

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_BLOCK = 1 << 20
_VERIFY = "hardend baseline verify names every damaged part"
MANIFEST_LIMIT = 64 << 20
_SIGNATURE = "manifest.json.sig"
_ORIGIN, _ORIGIN_SIGNATURE = "origin.json", "origin.json.sig"


class Store:
    """Reading and adding generations; one writer at a time through ``locked``."""

    def __init__(self, host: Host) -> None:
        self._dir = host.store_dir
        self._objects = os.path.join(self._dir, "objects")
        self._generations = os.path.join(self._dir, "generations")
        self._current = os.path.join(self._dir, "current")

    def has_baseline(self) -> bool:
        """Return whether anything was ever approved here, intact or not."""
        return os.path.lexists(self._current) or bool(self.numbers())

    def numbers(self) -> list[int]:
        """Return the numbers of all generations, oldest first."""
        try:
            names = os.listdir(self._generations)
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if _NUMBER.fullmatch(name))

    def current(self) -> Generation:
        """Return the generation in force. Raises StoreError when there is none or it is damaged."""
        number, digest = self._read_current()
        generation = self.generation(number)
        if self.manifest_digest(number) != digest:
            raise StoreError(f"{self._current}: does not match generation {number}", hint=_VERIFY)
        if (newest := max(self.numbers(), default=0)) > number:
            raise StoreError(
                f"{self._current}: names generation {number}, but {newest} is there: it was changed back",
                hint=_VERIFY,
            )
        return generation

    def last_good(self) -> Generation:
        """Return the newest generation that reads without a fault. Raises StoreError if none does."""
        for number in reversed(self.numbers()):
            with contextlib.suppress(StoreError):
                return self.generation(number)
        raise StoreError(f"{self._dir}: no generation can be read", hint=_VERIFY)

    def generation(self, number: int) -> Generation:
        """Return one generation, its manifest checked against its digest and its number."""
        where = self._manifest_path(number)
        data = self._read(where, MANIFEST_LIMIT)
        if manifest.digest(data) != self.manifest_digest(number):
            raise StoreError(f"{where}: its digest is wrong", hint=_VERIFY)
        generation = manifest.parse(data, where)
        if generation.number != number:
            raise StoreError(f"{where}: holds number {generation.number}", hint=_VERIFY)
        return generation

    def raw_manifest(self, number: int) -> bytes:
        """Return a manifest's bytes, unchecked: for those that print or copy it."""
        return self._read(self._manifest_path(number), MANIFEST_LIMIT)

    def manifest_digest(self, number: int) -> str:
        """Return the recorded digest of a generation's manifest."""
        where = self._place(number, "digest")
        return self._read(where, 200).decode("ascii", "replace").strip()

    def signature(self, number: int) -> Signed | None:
        """Return a generation's manifest with the signature that lies beside it, None without one."""
        return self._signed(number, "manifest.json", _SIGNATURE)

    def origin(self, number: int) -> Signed | None:
        """Return the signed manifest that a generation was imported from, None for one of this host."""
        return self._signed(number, _ORIGIN, _ORIGIN_SIGNATURE)

    def has_signature(self, number: int) -> bool:
        """Return whether a signature, its own or that of its origin, lies with a generation."""
        names = (_SIGNATURE, _ORIGIN_SIGNATURE)
        return any(os.path.lexists(self._place(number, name)) for name in names)

    def attach_signature(self, number: int, signature: bytes) -> None:
        """Put a signature beside a generation's manifest; the caller checked it and holds the lock."""
        self._write(self._place(number, _SIGNATURE), signature)

    def attach_origin(self, number: int, origin: Signed) -> None:
        """Keep with a generation the signed manifest that it comes from; the caller checked it."""
        self._write(self._place(number, _ORIGIN), origin.manifest)
        self._write(self._place(number, _ORIGIN_SIGNATURE), origin.signature)

    def files_of(self, generation: Generation) -> list[str]:
        """Return every path on which a generation rests: what a watcher of the store looks at."""
        names = ("manifest.json", "digest", _SIGNATURE, _ORIGIN, _ORIGIN_SIGNATURE)
        digests = {entry.digest for entry in generation.entries.values() if entry.digest}
        return [
            *(self._dir, self._objects, self._generations, self._current),
            self._place(generation.number, ""),
            *(self._place(generation.number, name) for name in names),
            *(os.path.join(self._objects, digest) for digest in sorted(digests)),
        ]

    def open_object(self, digest: str) -> BinaryIO:
        """Open an object for reading; the reader checks the digest (``copy_object`` does)."""
        where = os.path.join(self._objects, digest)
        try:
            return self._open(where)
        except OSError as error:
            raise StoreError(
                f"{where}: object cannot be read: {error.strerror}", hint=_VERIFY
            ) from error

    def object(self, digest: str) -> bytes:
        """Return the bytes of an object. Raises StoreError if missing or not what its name says."""
        with self.open_object(digest) as file:
            data = file.read()
        if manifest.digest(data) != digest:
            raise StoreError(f"{os.path.join(self._objects, digest)}: damaged", hint=_VERIFY)
        return data

    def copy_object(self, digest: str, descriptor: int) -> None:
        """Write an object to a descriptor, hashing what is written. Raises StoreError if damaged."""
        sha = hashlib.sha256()
        with self.open_object(digest) as file:
            while block := memoryview(file.read(_BLOCK)):
                sha.update(block)
                while block:
                    block = block[os.write(descriptor, block) :]
        if sha.hexdigest() != digest:
            raise StoreError(f"{os.path.join(self._objects, digest)}: damaged", hint=_VERIFY)

    def add_object(self, data: bytes) -> str:
        """Store bytes, synced; return their digest."""
        digest = manifest.digest(data)
        where = os.path.join(self._objects, digest)
        try:
            self.object(digest)
        except StoreError:  # missing, or damaged and now mended
            self._prepare()
            self._write(where, data)
        return digest

    @staticmethod
    def digest_of(data: bytes) -> str:
        """Return the name that bytes have in the store."""
        return manifest.digest(data)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store's lock: one commit at a time. Blocks."""
        self._prepare()
        descriptor = os.open(
            os.path.join(self._dir, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._finish()
            yield
        finally:
            os.close(descriptor)

    def next(self) -> tuple[int, str]:
        """Return the number of the generation to come and the digest of its parent ("" for none).

        It follows the one in force. Where that cannot be read, it follows everything that is there, so
        that approving anew is the way out of a damaged store; the caller holds the lock.
        """
        with contextlib.suppress(StoreError):
            current = self.current().number
            return current + 1, self.manifest_digest(current)
        parent = ""
        with contextlib.suppress(StoreError):
            parent = self.manifest_digest(self.last_good().number)
        return max(self.numbers(), default=0) + 1, parent

    def add_generation(self, generation: Generation) -> None:
        """Write a generation and make it current; the caller holds the lock.

        The number must be that of ``next``. A crash leaves the old generation in force, or the new
        one; nothing between. Raises StoreError for a generation that could not be read again.
        """
        number, _ = self.next()
        if generation.number != number:
            raise StoreError(f"generation {generation.number} does not follow {number - 1}")
        data = manifest.render(generation)
        manifest.parse(data, f"generation {number}")
        for entry in generation.entries.values():
            # It may have been pruned since the proposal read it: a baseline without it could not restore.
            if entry.digest and not os.path.lexists(os.path.join(self._objects, entry.digest)):
                raise StoreError(
                    f"{printable(entry.path)}: its stored content is gone", hint="the same command again"
                )
        digest = manifest.digest(data)
        aside = os.path.join(self._generations, f"{number}.new")
        # A commit that died before it became current leaves a directory that nothing refers to.
        shutil.rmtree(aside, ignore_errors=True)
        os.mkdir(aside, 0o700)
        self._write(os.path.join(aside, "manifest.json"), data)
        self._write(os.path.join(aside, "digest"), digest.encode() + b"\n")
        _sync_directory(self._generations)
        current = {"number": number, "manifest": digest}
        self._write(self._current, json.dumps(current, sort_keys=True).encode() + b"\n")
        self._finish()

    def _finish(self) -> None:
        """Roll a commit forward that wrote ``current`` and died; the caller holds the lock."""
        with contextlib.suppress(StoreError, FileNotFoundError):
            place = self._place(self._read_current()[0], "").rstrip("/")
            if place.endswith(".new"):
                os.rename(place, place.removesuffix(".new"))
                _sync_directory(self._generations)

    def verify(self) -> list[str]:
        """Return every fault of the store, one sentence each: digests, chain, objects, current."""
        faults = [] if not self.has_baseline() else list(self._strange())
        parent: str | None = ""  # of the first
        for number in range(1, self._newest() + 1):
            try:
                generation = self.generation(number)
            except StoreError as error:
                faults.append(str(error))
                parent = None
                continue
            if parent is not None and generation.parent != parent:
                faults.append(f"generation {number}: its parent is not generation {number - 1}")
            parent = self.manifest_digest(number)
            faults += self._object_faults(generation)
        if self.has_baseline():
            try:
                self.current()
            except StoreError as error:
                faults.append(str(error))
        return list(dict.fromkeys(faults))

    def _newest(self) -> int:
        """Return the number in force; a commit that died may have left a higher one behind."""
        with contextlib.suppress(StoreError):
            return self.current().number
        return max(self.numbers(), default=0)

    def _object_faults(self, generation: Generation) -> list[str]:
        faults = []
        for entry in generation.entries.values():
            if not entry.digest:
                continue
            try:
                self.object(entry.digest)
            except StoreError as error:
                faults.append(f"{error} (generation {generation.number}, {printable(entry.path)})")
        return faults

    def _read_current(self) -> tuple[int, str]:
        data = self._read(self._current, 4096)
        try:
            document = json.loads(data)
            number, digest = document["number"], document["manifest"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{self._current}: damaged", hint=_VERIFY) from error
        if not isinstance(number, int) or not isinstance(digest, str):
            raise StoreError(f"{self._current}: damaged", hint=_VERIFY)
        return number, digest

    def _strange(self) -> Iterator[str]:
        """Yield what stands in the store and cannot be hardend's: links, devices, what others can write."""
        for directory, below, files in os.walk(self._dir):
            for name in (".", *below, *files):
                path = os.path.normpath(os.path.join(directory, name))
                try:
                    found = os.lstat(path)
                except FileNotFoundError:  # a commit is going on
                    continue
                if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
                    yield f"{printable(path)}: neither a file nor a directory"
                elif found.st_uid not in {0, os.geteuid()} or found.st_mode & 0o022:
                    yield f"{printable(path)}: others than root can write it"

    def _signed(self, number: int, name: str, signature: str) -> Signed | None:
        where = self._place(number, signature)
        if not os.path.lexists(where):
            return None
        return Signed(
            self._read(self._place(number, name), MANIFEST_LIMIT), self._read(where, SIGNATURE_LIMIT)
        )

    def _manifest_path(self, number: int) -> str:
        return self._place(number, "manifest.json")

    def _place(self, number: int, name: str) -> str:
        """Return where a file of a generation is: in the ``.new`` of a commit that died at its end."""
        place = os.path.join(self._generations, str(number))
        with contextlib.suppress(StoreError):
            if not os.path.lexists(place) and self._read_current()[0] == number:
                place = f"{place}.new"
        return os.path.join(place, name)

    def _prepare(self) -> None:
        for directory in (self._dir, self._objects, self._generations):
            os.makedirs(directory, 0o700, exist_ok=True)

    def _read(self, where: str, limit: int) -> bytes:
        try:
            with self._open(where) as file:
                data = file.read(limit + 1)
        except FileNotFoundError as error:
            hint = _VERIFY if self.has_baseline() else "hardend approve --reason TEXT makes the first"
            raise StoreError(f"{where}: missing", hint=hint) from error
        except OSError as error:
            raise StoreError(f"{where}: {error.strerror}", hint=_VERIFY) from error
        if len(data) > limit:
            raise StoreError(f"{where}: over {limit} bytes", hint=_VERIFY)
        return data

    def _open(self, where: str) -> BinaryIO:
        """Open a regular file of the store, over no link; what else stands there does not block."""
        top = os.open(self._dir, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            name = os.path.relpath(where, self._dir)
            descriptor = paths.open_beneath(top, name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        finally:
            os.close(top)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file", where)
        return os.fdopen(descriptor, "rb")

    def _write(self, where: str, data: bytes) -> None:
        """Write aside, sync, rename, sync the directory."""
        aside = f"{where}.new"
        descriptor = os.open(
            aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, where)
        _sync_directory(os.path.dirname(where))


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
