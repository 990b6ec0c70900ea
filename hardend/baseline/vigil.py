# SPDX-License-Identifier: Apache-2.0
"""The store behind a running guard: whether the generation that it enforces still stands there, whole.

What was loaded is in memory and in the spares, so a damaged store hurts no path at once; but the next
restart, and the next restore of a large file, read it. A look by lstat costs microseconds and is made at
every sweep; what it finds changed, and everything once per interval, is read again in slices.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from typing import Protocol

from hardend.baseline import manifest
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.errors import StoreError
from hardend.model import printable

SLICE_S = 0.001  # what a slice may take from the loop, and what one block more takes
SLICE_GAP_S = 0.05
_BLOCK = 256 << 10
_Identity = tuple[int, int, int, int, int, int]


class Reporter(Protocol):
    """Who is told: the guard's reporter."""

    faults: list[str]
    changed: bool

    def store_fault(self, text: str) -> None:
        """Tell of a fault, which stays in the published document."""


class Vigil:
    """Watches the store for a guard that enforces one generation of it. Nothing here raises."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._generation: Generation | None = None
        self._paths: list[str] = []
        self._known: list[_Identity | None] = []
        self._signatures: tuple[str, ...] = ()
        self._pass: Iterator[None] | None = None
        self._found: list[str] = []
        self._again = False
        self.faults: tuple[str, ...] = ()

    def accept(self, generation: Generation) -> None:
        """Take what is in the store now for what was loaded; called when the guard has loaded it."""
        self._generation = generation
        self._paths = self._store.files_of(generation)
        self._known = self._look()
        self._signatures = self._signature_digests(generation.number)
        self._pass = None

    def changed(self) -> bool:
        """Return whether anything of it was touched since; then ``step`` is due at once."""
        if self._look() == self._known:
            return False
        if self._generation is not None:  # a commit that is finished moves what it rests on
            self._paths = self._store.files_of(self._generation)
        self._known = self._look()
        self._again = self._pass is not None  # one that runs is not ended: it might never come to an end
        return True

    def tend(self, reporter: Reporter, interval_s: float) -> float:
        """Do a step; tell of what it found, and take back what was told and is mended."""
        before = self.faults
        wait_s = self.step(interval_s)
        if before != self.faults:
            mended = set(before) - set(self.faults)
            reporter.faults[:] = [text for text in reporter.faults if text not in mended]
            for text in self.faults:
                if text not in before:
                    reporter.store_fault(text)
            reporter.changed = True
        return wait_s

    def step(self, interval_s: float) -> float:
        """Check a part of it, about a millisecond long; return after how many seconds to go on.

        ``faults`` is what the last complete pass found: one sentence each.
        """
        if self._generation is None:
            return interval_s
        if self._pass is None:
            self._again = False
            self._pass = self._check(self._generation)
        end = time.monotonic() + SLICE_S
        for _ in self._pass:
            if time.monotonic() >= end:
                return SLICE_GAP_S
        self._pass = None
        self.faults = tuple(dict.fromkeys(self._found))
        return SLICE_GAP_S if self._again else interval_s

    def _check(self, generation: Generation) -> Iterator[None]:
        """Look at one thing a turn; what is wrong goes to ``_found``."""
        number = generation.number
        self._found = []
        try:
            current = self._store.current().number
            if current < number:
                self._found.append(f"the store went back to generation {current}; {number} is enforced")
        except StoreError as error:
            self._found.append(str(error))
        yield
        try:
            if manifest.digest(manifest.render(generation)) != self._store.manifest_digest(number):
                self._found.append(f"generation {number} is not the one that was loaded: it was rewritten")
            self._store.generation(number)
        except StoreError as error:
            self._found.append(str(error))
        if self._signatures and not set(self._signatures) <= set(self._signature_digests(number)):
            self._found.append(f"the signature of generation {number} is not the one that was loaded")
        yield
        for entry in generation.entries.values():
            if entry.digest:
                yield from self._check_object(entry.digest, printable(entry.path))

    def _check_object(self, digest: str, shown: str) -> Iterator[None]:
        sha = hashlib.sha256()
        try:
            with self._store.open_object(digest) as file:
                while block := file.read(_BLOCK):
                    sha.update(block)
                    yield
        except (StoreError, OSError) as error:
            self._found.append(f"{error} ({shown})")
            return
        if sha.hexdigest() != digest:
            self._found.append(f"the stored content of {shown} is damaged: object {digest}")

    def _signature_digests(self, number: int) -> tuple[str, ...]:
        try:
            signed = (self._store.signature(number), self._store.origin(number))
        except StoreError:
            return ()
        return tuple(manifest.digest(item.manifest + item.signature) for item in signed if item)

    def _look(self) -> list[_Identity | None]:
        return [_identity(path) for path in self._paths]


def _identity(path: str) -> _Identity | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_ctime_ns, found.st_mode, found.st_uid, found.st_size)
