# SPDX-License-Identifier: Apache-2.0
"""What appears in a protected directory without being an entry: reported, or set aside where closed."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from typing import Protocol

from hardend.aside import BESIDE, Aside
from hardend.model import Class, Drift, Mode, Role
from hardend.table import Held

# An attacker can make a million names; what matters is told by the first of them.
_MANY_NAMES = 10_000


class StrangerReporter(Protocol):
    """Who is told of a name that does not belong."""

    def unexpected(self, held: Held, name: bytes, taken: str) -> None:
        """``name`` appeared in the directory ``held``; ``taken`` is its id if it was set aside."""


class Strangers:
    """Judges names in directories; pure table look-ups for what is expected."""

    def __init__(self, aside: Aside, reporter: StrangerReporter, mode: Mode) -> None:
        self._aside = aside
        self._reporter = reporter
        self._mode = mode
        self.classify: Callable[[str], Class] = lambda _path: Class.LOCKED
        self.taken = 0

    def scan(self, held: Held) -> None:
        """Look at every name in a directory, up to ten thousand; opens nothing in it."""
        if held.entry.role not in {Role.DIRECTORY, Role.CLOSED} or held.descriptor < 0:
            return
        with contextlib.suppress(OSError):
            gone = {name for name in held.strangers if not _exists(held, name)}
            held.strangers -= gone
            with os.scandir(held.descriptor) as names:
                for count, item in enumerate(names):
                    if count >= _MANY_NAMES:
                        break
                    name = os.fsencode(item.name)
                    if name not in held.children:
                        self.look(held, name)

    def look(self, held: Held, name: bytes) -> None:
        """Judge one name that is no entry."""
        if held.entry.role not in {Role.DIRECTORY, Role.CLOSED}:
            return
        if not _exists(held, name):
            held.strangers.discard(name)
            return
        if name == BESIDE and _is_ours(held):
            return
        path = os.path.join(held.entry.path, os.fsdecode(name))
        if held.entry.role is Role.CLOSED and self._mode is Mode.ENFORCE:
            self._take(held, name)
        elif name not in held.strangers and (
            held.entry.role is Role.CLOSED or self.classify(path) is not Class.IGNORED
        ):
            held.strangers.add(name)
            self._reporter.unexpected(held, name, "")

    def _take(self, held: Held, name: bytes) -> None:
        path = os.path.join(held.entry.path, os.fsdecode(name))
        try:
            taken = self._aside.take(
                held.descriptor,
                name,
                held.entry,
                frozenset({Drift.UNEXPECTED}),
                time.time_ns(),
                path=path,
            )
        except OSError:
            if name not in held.strangers:
                held.strangers.add(name)
                self._reporter.unexpected(held, name, "")
            return
        held.strangers.discard(name)
        self._aside.write_record(taken, "")
        self.taken += 1
        self._reporter.unexpected(held, name, taken.id)


def _is_ours(held: Held) -> bool:
    """A link or a program of that name could be run from the smrsh directory: only ours is passed over."""
    with contextlib.suppress(OSError):
        found = os.stat(BESIDE, dir_fd=held.descriptor, follow_symlinks=False)
        return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and not found.st_mode & 0o077
    return False


def _exists(held: Held, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=held.descriptor, follow_symlinks=False)
    except OSError:
        return False
    return True
