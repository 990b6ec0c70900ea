# SPDX-License-Identifier: Apache-2.0
"""What the witness saw, handed to hardend-collect: one JSON object a line in /run/hardend/witness.log.

Root's alone. The file is bounded: a full one becomes ``witness.log.1``. As long as a witness has it, it
holds a lock on it. The reader takes every line for what anybody may have written.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from hardend.errors import FileError, RefusedError
from hardend.model import Host

_NAME = "witness.log"
_LARGEST = 1 << 19
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TEXTS, _NUMBERS = ("exe", "comm", "unit"), ("pid", "uid", "loginuid")
_TEXT_LENGTH = 4096
_NUMBER_MAX = 0xFFFFFFFF
_NAMED = 8

Who = dict[str, str | int]
_BYTES = frozenset({"content", "type", "target", "missing", "unexpected"})
# What somebody who did this to a path can have made of it; flags no event tells of, nor a mount.
EXPLAINS = {
    "content": _BYTES | {"stale"},
    "name": _BYTES | {"stale", "owner", "group", "mode", "acl", "xattr"},
    "attributes": frozenset({"stale", "owner", "group", "mode", "acl", "xattr"}),
}


@dataclass(frozen=True, slots=True)
class Told:
    """What a line tells of an object that was set aside, as ``witness_trail.Verdict`` has it."""

    path: str
    suspects: tuple[Who, ...]
    is_sure: bool
    did: tuple[frozenset[str], ...] = ()

    def of(self, drift: Collection[str]) -> Told:
        """Return who of them can have made a drift; where that is not all of it, nothing is sure."""
        wanted = frozenset(drift) - {"flags"}
        fits = [frozenset().union(*(EXPLAINS[word] for word in did)) & wanted for did in self.did]
        if not any(fits):
            return Told(self.path, self.suspects, is_sure=False, did=self.did)
        some = [at for at, of in enumerate(fits) if of]
        return Told(
            self.path,
            tuple(self.suspects[at] for at in some),
            self.is_sure and wanted == frozenset().union(*fits),
            tuple(self.did[at] for at in some),
        )

    def who(self) -> dict[str, object]:
        """Return the ``who`` of a record: what is known for a fact, and the candidates where it is open."""
        if not self.suspects:
            return {}
        first, *others = self.suspects
        same = {k: v for k, v in first.items() if all(one.get(k) == v for one in others)}
        if self.is_sure and not others:
            return dict(same)
        return {**(same if self.is_sure else {}), "candidates": [dict(one) for one in self.suspects]}


@dataclass(slots=True)
class Log:
    """The file, open for appending. Raises FileError, or RefusedError when another witness has it."""

    host: Host
    _descriptor: int = field(init=False, default=-1)

    def __post_init__(self) -> None:
        """Open it."""
        self._open()

    def add(self, line: Mapping[str, object]) -> None:
        """Append a line. Raises OSError."""
        data = json.dumps(line, sort_keys=True).encode("ascii") + b"\n"
        if os.fstat(self._descriptor).st_size + len(data) > _LARGEST:
            where = os.path.join(self.host.run_dir, _NAME)
            os.rename(where, f"{where}.1")
            before = self._descriptor
            self._open()
            os.close(before)
        os.write(self._descriptor, data)

    def close(self) -> None:
        """Close it, which gives the lock back."""
        os.close(self._descriptor)

    def _open(self) -> None:
        where = os.path.join(self.host.run_dir, _NAME)
        try:
            os.makedirs(self.host.run_dir, 0o755, exist_ok=True)
            descriptor = os.open(where, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _FLAGS, 0o600)
            os.fchmod(descriptor, 0o600)
        except OSError as error:
            raise FileError(f"{where}: {error.strerror}", hint="the witness runs as root") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise RefusedError("another witness is running on this host") from error
        self._descriptor = descriptor


def is_there(host: Host) -> bool:
    """Return whether a witness has ever run since the host was started."""
    return os.path.lexists(os.path.join(host.run_dir, _NAME))


def is_running(host: Host) -> bool:
    """Return whether a witness runs, so that more may come."""
    try:
        descriptor = os.open(os.path.join(host.run_dir, _NAME), os.O_RDONLY | _FLAGS)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def read(host: Host) -> dict[str, Told]:
    """Return what is told of objects by their ids; never raises for what the files hold."""
    told: dict[str, Told] = {}
    for name in (f"{_NAME}.1", _NAME):
        for line in _content(os.path.join(host.run_dir, name)).split(b"\n"):
            with contextlib.suppress(ValueError, RecursionError):
                document = json.loads(line)
                if isinstance(document, dict):
                    identifier = document.get("id")
                    if isinstance(identifier, str) and (one := parse(document)) is not None:
                        told[identifier] = one
    return told


def parse(document: Mapping[str, object]) -> Told | None:
    """Return what an object of a line tells, None where it tells nothing; fields of a wrong type are none."""
    path, suspects = document.get("path"), document.get("suspects")
    if not isinstance(path, str) or not isinstance(suspects, list):
        return None
    known = [(who_of(one), did_of(one)) for one in suspects[:_NAMED] if isinstance(one, dict)]
    known = [(who, did) for who, did in known if who]
    return Told(
        path,
        tuple(who for who, _ in known),
        document.get("sure") is True and len(known) == len(suspects),
        tuple(did for _, did in known),
    )


def did_of(document: Mapping[str, object]) -> frozenset[str]:
    """Return what is told that a process did, of the words that there are."""
    did = document.get("did")
    return frozenset(word for word in EXPLAINS if word in did) if isinstance(did, list) else frozenset()


def who_of(document: Mapping[str, object]) -> Who:
    """Return what is told of a process: numbers that are numbers, texts that are texts and not too long."""
    found: Who = {}
    for name in _NUMBERS:
        value = document.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _NUMBER_MAX:
            found[name] = value
    for name in _TEXTS:
        value = document.get(name)
        if isinstance(value, str) and 0 < len(value) <= _TEXT_LENGTH and "\0" not in value:
            found[name] = value
    return found


def _content(where: str) -> bytes:
    """Return a file that root wrote and nobody else could, b"" where it is none."""
    try:
        descriptor = os.open(where, os.O_RDONLY | _FLAGS)
    except OSError:
        return b""
    try:
        found = os.fstat(descriptor)
        is_roots = found.st_uid == os.geteuid() and not found.st_mode & 0o022
        return os.read(descriptor, 2 * _LARGEST) if is_roots and stat.S_ISREG(found.st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(descriptor)
