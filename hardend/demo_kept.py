# SPDX-License-Identifier: Apache-2.0
"""Finding what a restore replaced: set aside by the guard, or in the quarantine by now."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

from hardend.model import Host

QUARANTINE = "quarantine"  # stands for the directory, whose full path is long
_SHOWN = 16  # digits of a digest, enough to name the object


@dataclass(frozen=True, slots=True)
class Kept:
    """A replaced object. ``where`` is its place on the host, in the quarantine a name beneath QUARANTINE.

    A digest in it is cut short with ``*``. ``content`` is None but for a file that is there whole;
    ``names`` are those in a directory.
    """

    where: str
    kind: str
    mode: int
    content: bytes | None = None
    target: str = ""
    names: tuple[str, ...] = ()


def kept_of(host: Host, path: str, since_ns: int) -> Iterator[Kept]:
    """Yield what was kept of a path since a moment (realtime ns), from the quarantine first."""
    records = os.path.join(host.quarantine_dir, "records")
    for identifier, record in _records(records, path, since_ns):
        yield _quarantined(host, identifier, record)
    for identifier, record in _records(host.taken_dir, path, since_ns):
        with contextlib.suppress(OSError):  # on its way to the quarantine this moment
            yield _taken(host, identifier, record)


def _records(directory: str, path: str, since_ns: int) -> Iterator[tuple[str, dict[str, object]]]:
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(directory)):
            if not name.endswith(".json"):
                continue
            with contextlib.suppress(OSError, ValueError):
                with open(os.path.join(directory, name), "rb") as file:
                    record = json.load(file)
                if record["path"] == path and record["time_ns"] >= since_ns:
                    yield name.removesuffix(".json"), record


def _quarantined(host: Host, identifier: str, record: dict[str, object]) -> Kept:
    where = f"{QUARANTINE}/records/{identifier}.json"
    content = None
    digest = str(record.get("digest", ""))
    if digest and record.get("stored") == "whole":
        with contextlib.suppress(OSError):
            with open(os.path.join(host.quarantine_dir, "objects", digest), "rb") as file:
                content = file.read()
            where = f"{QUARANTINE}/objects/{digest[:_SHOWN]}*"
    entries = record.get("entries")
    return Kept(
        where,
        str(record["kind"]),
        int(str(record["mode"])),
        content,
        str(record.get("target", "")),
        tuple(str(entry["name"]) for entry in entries) if isinstance(entries, list) else (),
    )


def _taken(host: Host, identifier: str, record: dict[str, object]) -> Kept:
    where = f"taken/{identifier}"
    path = os.path.join(host.taken_dir, identifier)
    kind = str(record["kind"])
    content, target = None, ""
    names: tuple[str, ...] = ()
    if kind == "symlink":
        target = os.readlink(path)
    elif kind == "directory":
        names = tuple(sorted(os.listdir(path)))
    elif kind == "file":
        with open(path, "rb") as file:
            content = file.read()
    return Kept(where, kind, int(str(record["mode"])), content, target, names)
