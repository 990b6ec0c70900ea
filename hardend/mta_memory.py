# SPDX-License-Identifier: Apache-2.0
"""What hardend-rebuild remembers between its runs, on disk: what each MTA process has loaded."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from hardend.errors import FileError
from hardend.model import Host
from hardend.mta import Kind, Loaded

_SCHEMA = 1
_LIMIT = 1 << 20


@dataclass(slots=True)
class Memory:
    """By kind of process: what it has loaded, when hardend last acted on it, what was told."""

    loaded: dict[Kind, Loaded] = field(default_factory=dict)
    acted_ns: dict[Kind, int] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)  # what was reported once, by subject
    verified_ns: dict[str, int] = field(default_factory=dict)  # by map: proven after a drift


def read(host: Host) -> Memory:
    """Return what is remembered; a missing or damaged memory is an empty one: all is unknown."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(_path(host), flags), "rb") as file:
            document = json.loads(file.read(_LIMIT))
        if document["schema"] != _SCHEMA:
            return Memory()
        return Memory(
            loaded={
                Kind(kind): _loaded(item) for kind, item in document["loaded"].items()
            },
            acted_ns={Kind(kind): int(value) for kind, value in document["acted_ns"].items()},
            told={str(name): str(value) for name, value in document["told"].items()},
            verified_ns={str(path): int(value) for path, value in document["verified_ns"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Memory()


def _loaded(item: Any) -> Loaded:
    """Return one memory; a wrong shape raises what ``read`` catches."""
    boot, pid, ticks = item["identity"]
    options = item["options"]
    return Loaded(
        (str(boot), int(pid), int(ticks)),
        int(item["from_ns"]),
        int(item["until_ns"]),
        {str(path): str(value) for path, value in item["digests"].items()},
        None if options is None else tuple(str(value) for value in options),
    )


def write(host: Host, memory: Memory) -> None:
    """Replace what is remembered: aside, synced, renamed. Raises FileError."""
    document = {
        "schema": _SCHEMA,
        "loaded": {
            kind.value: {
                "identity": item.identity,
                "from_ns": item.from_ns,
                "until_ns": item.until_ns,
                "digests": dict(item.digests),
                "options": item.options,
            }
            for kind, item in memory.loaded.items()
        },
        "acted_ns": {kind.value: value for kind, value in memory.acted_ns.items()},
        "told": memory.told,
        "verified_ns": memory.verified_ns,
    }
    aside = _path(host) + ".new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.makedirs(host.state_dir, 0o700, exist_ok=True)
        with os.fdopen(os.open(aside, flags, 0o600), "w", encoding="ascii") as file:
            json.dump(document, file, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, _path(host))
    except OSError as error:
        raise FileError(f"{_path(host)}: {error.strerror}") from error


def _path(host: Host) -> str:
    return os.path.join(host.state_dir, "mta.json")
