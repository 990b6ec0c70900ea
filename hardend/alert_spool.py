# SPDX-License-Identifier: Apache-2.0
"""Alerts that are not delivered yet, one file each, and the incidents they came from.

A file is complete or not there, survives a reboot, and goes only when the alert was delivered: what
is interrupted in between is delivered again, with the same id. Over ``limit`` the least important
goes, and is counted. On a disk that takes nothing, alerts are kept in memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from dataclasses import dataclass, replace
from typing import Any

from hardend.errors import FileError, RefusedError
from hardend.model import Host

DIRECTORY = "/var/lib/hardend/alerts"
LIMIT = 1000
TEST = "7"  # how the names of tests begin; the first that go
_NAME = re.compile(r"([0-7])-(\d{20})-([0-9a-z-]{1,80})\.json")
_FILE_LIMIT = 1 << 20
_STATE_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class Waiting:
    """An alert that waits: its name sorts the worst first, then the oldest."""

    name: str
    document: dict[str, Any]
    attempts: int = 0
    error: str = ""


class Spool:
    """The directory, with everything in it. One process at a time: see ``lock``."""

    def __init__(self, host: Host, limit: int = LIMIT) -> None:
        self.directory = host.at(DIRECTORY)
        self._limit = limit
        self._unwritten: dict[str, Waiting] = {}
        self._lock = -1

    def open(self) -> None:
        """Make the directory, and remove what a crash left half written. Raises RefusedError, FileError."""
        try:
            os.makedirs(self.directory, 0o700, exist_ok=True)
            for name in os.listdir(self.directory):
                if name.startswith((".new-", f"{TEST}-")):  # nobody waits for that test any more
                    os.unlink(os.path.join(self.directory, name))
        except PermissionError as error:
            raise RefusedError(f"{self.directory}: {error.strerror}", hint="alerts are for root") from error
        except OSError as error:
            raise FileError(f"{self.directory}: {error.strerror}") from error

    def lock(self) -> bool:
        """Be the one who delivers, until ``close``; False where another process is."""
        where = os.path.join(self.directory, "lock")
        descriptor = os.open(where, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def close(self) -> None:
        """Let another process deliver."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def put(self, identifier: str, number: int, time_ns: int, document: dict[str, Any]) -> str:
        """Keep an alert until it is delivered; returns its name. The same id twice is one alert."""
        names = self.names()
        for name in names:
            if (match := _NAME.fullmatch(name)) and match[3] == identifier:
                return name
        name = f"{number}-{time_ns:020d}-{identifier}.json"
        if len(names) >= self._limit:
            # Of what matters equally the newest: how it began is worth most.
            last = max(names)
            least = max(last, name)
            self._count_dropped(0 if least.startswith(TEST) else 1)
            if least == name:
                return name
            self.remove(last)
        self._write_entry(Waiting(name, document))
        return name

    def put_test(self, identifier: str, time_ns: int, document: dict[str, Any]) -> str:
        """Keep an alert that somebody waits for."""
        return self.put(identifier, int(TEST), time_ns, document)

    def names(self) -> list[str]:
        """Return the names of what waits, the worst first, then the oldest."""
        with contextlib.suppress(OSError):
            there = {name for name in os.listdir(self.directory) if _NAME.fullmatch(name)}
            return sorted(there | self._unwritten.keys())
        return sorted(self._unwritten)

    def waiting_since(self) -> list[int]:
        """Return since when each alert on the disk waits (ns), tests aside. Raises OSError."""
        matches = (_NAME.fullmatch(name) for name in os.listdir(self.directory))
        return [int(match[2]) for match in matches if match and match[1] != TEST]

    def read(self, name: str) -> Waiting | None:
        """Return what waits under a name; None when it is gone. What is damaged is dropped and counted."""
        if name in self._unwritten:
            return self._unwritten[name]
        try:
            raw = _read(os.path.join(self.directory, name), _FILE_LIMIT)
            alert, attempts, error = raw["alert"], raw["attempts"], raw["error"]
            if isinstance(alert, dict) and isinstance(attempts, int) and isinstance(error, str):
                return Waiting(name, alert, attempts, error)
        except OSError:
            return None
        except (ValueError, KeyError, RecursionError):
            pass
        self.remove(name)
        self._count_dropped(1)
        return None

    def tried(self, waiting: Waiting, error: str) -> None:
        """Note that it was tried, and why it could not be delivered."""
        self._write_entry(replace(waiting, attempts=waiting.attempts + 1, error=error))

    def remove(self, name: str) -> None:
        """Forget what was delivered."""
        self._unwritten.pop(name, None)
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.directory, name))

    def state(self) -> dict[str, Any]:
        """Return what was saved last, {} when nothing was or it is damaged."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            return _read(os.path.join(self.directory, "state.json"), _STATE_LIMIT)
        return {}

    def save(self, state: dict[str, Any]) -> None:
        """Keep what must be known after a crash. Raises OSError."""
        self._write("state.json", state)

    @property
    def dropped(self) -> int:
        """How many alerts were lost since it was last told."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            return int(_read(os.path.join(self.directory, "dropped.json"), _FILE_LIMIT)["dropped"])
        return 0

    def told_of_dropped(self) -> None:
        """Begin to count anew."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.directory, "dropped.json"))

    def _count_dropped(self, more: int) -> None:
        with contextlib.suppress(OSError):
            self._write("dropped.json", {"dropped": self.dropped + more})

    def _write_entry(self, waiting: Waiting) -> None:
        document = {"alert": waiting.document, "attempts": waiting.attempts, "error": waiting.error}
        try:
            self._write(waiting.name, document)
            self._unwritten.pop(waiting.name, None)
        except OSError:
            self._unwritten[waiting.name] = waiting

    def _write(self, name: str, document: dict[str, Any]) -> None:
        """Put a whole file in place, on the disk when this returns."""
        aside = os.path.join(self.directory, f".new-{name}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(document, sort_keys=True).encode("ascii"))
                file.flush()
                os.fsync(file.fileno())
            os.rename(aside, os.path.join(self.directory, name))
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _read(where: str, limit: int) -> dict[str, Any]:
    descriptor = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = json.loads(file.read(limit))
    if not isinstance(found, dict):
        raise ValueError(where)  # noqa: TRY004 - as what is no JSON at all
    return found
