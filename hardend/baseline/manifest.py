# SPDX-License-Identifier: Apache-2.0
"""The manifest of a generation: entries as canonical JSON, and back with every field checked."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

from hardend.errors import StoreError
from hardend.model import Class, Entry, FileType, MapSpec, Role

SCHEMA = 1
_T = TypeVar("_T")
_ENTRY_FIELDS = {field.name: field for field in fields(Entry)}


@dataclass(frozen=True, slots=True)
class Generation:
    """One approved state of the host.

    ``parent`` is the SHA-256 of the parent's manifest ("" for the first); ``time`` is ISO 8601 UTC.
    """

    number: int
    parent: str
    time: str
    author: str
    reason: str
    layout: str
    hardend: str
    sendmail: str
    entries: Mapping[str, Entry]


def render(generation: Generation) -> bytes:
    """Return the canonical manifest: sorted keys, no blanks, ASCII, one final newline."""
    document = {
        "schema": SCHEMA,
        "number": generation.number,
        "parent": generation.parent,
        "time": generation.time,
        "author": generation.author,
        "reason": generation.reason,
        "layout": generation.layout,
        "hardend": generation.hardend,
        "sendmail": generation.sendmail,
        "entries": [_entry_to_json(generation.entries[path]) for path in sorted(generation.entries)],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def digest(manifest: bytes) -> str:
    """Return the SHA-256 of manifest or object bytes as hex."""
    return hashlib.sha256(manifest).hexdigest()


def parse(manifest: bytes, where: str) -> Generation:
    """Return the generation that a manifest describes.

    Raises StoreError naming ``where`` and the field when anything in it is not as render writes it.
    """
    try:
        document = json.loads(manifest)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: not a manifest: {error}", hint=_HINT) from error
    try:
        _require_schema(_field(document, "schema", int))
        entries = [_entry_from_json(item) for item in _field(document, "entries", list)]
        generation = Generation(
            number=_field(document, "number", int),
            entries={entry.path: entry for entry in entries},
            **{name: _field(document, name, str) for name in _TEXTS},
        )
        _require_directories(generation.entries)
        _require_canonical(generation, manifest)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{where}: damaged manifest: {error}", hint=_HINT) from error
    return generation


_HINT = "hardend baseline verify names every damaged part; hardend baseline rollback N goes back"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HEX = re.compile(r"(?:[0-9a-f]{2})*")
# What the kernel takes (chown(2), chmod(2), utimensat(2)); anything else would fail at a restore.
_RANGES = {
    "uid": (0, (1 << 32) - 2),
    "gid": (0, (1 << 32) - 2),
    "mode": (0, 0o7777),
    "size": (0, (1 << 63) - 1),
    "mtime_ns": (-(1 << 63), (1 << 63) - 1),
}
_TEXTS = ("parent", "time", "author", "reason", "layout", "hardend", "sendmail")


def _require_schema(schema: int) -> None:
    if schema != SCHEMA:
        raise ValueError(f"schema {schema} is not {SCHEMA}")


def _require_canonical(generation: Generation, manifest: bytes) -> None:
    """Nothing is named twice or added: one generation has one manifest, so one digest."""
    if render(generation) != manifest:
        raise ValueError("it is not in the one form that hardend writes")


def _field(document: object, name: str, kind: type[_T]) -> _T:
    if not isinstance(document, dict) or name not in document:
        raise ValueError(f"{name!r} is missing")
    value = document[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name!r} is not {kind.__name__}")
    return value


def _entry_to_json(entry: Entry) -> dict[str, object]:
    """Return the fields of an entry that are not at their default."""
    document: dict[str, object] = {}
    for name, field in _ENTRY_FIELDS.items():
        value = getattr(entry, name)
        if name == "spec" and value is not None:
            value = {part.name: getattr(value, part.name) for part in fields(MapSpec)}
        if value != field.default:
            document[name] = value
    return document


def _entry_from_json(item: object) -> Entry:
    if not isinstance(item, dict) or not set(item) <= set(_ENTRY_FIELDS):
        raise ValueError(f"an entry with unknown fields: {item!r:.80}")
    values = {name: _READ[name](item, name) for name in item}
    entry = Entry(**values)  # type: ignore[arg-type] # each reader returns the type of its field
    _check(entry)
    return entry


def _check(entry: Entry) -> None:
    """Refuse values that no approval writes: a restore must never be what finds out."""
    if entry.path != os.path.normpath(entry.path) or entry.path[:2] in {"//", ""} or entry.path[0] != "/":
        raise ValueError(f"entry path {entry.path!r} is not absolute and plain")
    for name in (entry.path, entry.target, *(name for name, _ in entry.xattrs)):
        if b"\0" in os.fsencode(name):  # raises UnicodeEncodeError for what is no name at all
            raise ValueError(f"entry {entry.path!r}: a NUL in {name!r}")
    if entry.digest and not _DIGEST.fullmatch(entry.digest):
        raise ValueError(f"entry {entry.path!r}: {entry.digest!r:.80} is not a digest")
    if entry.flags not in {"", "i", "a", "ia"}:
        raise ValueError(f"entry {entry.path!r}: {entry.flags!r:.80} are not flags")
    if not all(_HEX.fullmatch(value) for _, value in entry.xattrs):
        raise ValueError(f"entry {entry.path!r}: an attribute's value is not hex")
    for name, (low, high) in _RANGES.items():
        if not low <= getattr(entry, name) <= high:
            raise ValueError(f"entry {entry.path!r}: {name} is out of range")


def _require_directories(entries: Mapping[str, Entry]) -> None:
    """Every path is reached through the entry of its directory, up to the root."""
    for path in entries:
        above = entries.get(os.path.dirname(path))
        if path != "/" and (above is None or above.kind is not FileType.DIRECTORY):
            raise ValueError(f"entry {path!r} stands without its directory")


def _text(item: dict[str, object], name: str) -> object:
    return _field(item, name, str)


def _number(item: dict[str, object], name: str) -> object:
    return _field(item, name, int)


def _truth(item: dict[str, object], name: str) -> object:
    return _field(item, name, bool)


def _pairs(item: dict[str, object], name: str) -> object:
    pairs = _field(item, name, list)
    if not all(
        isinstance(pair, list) and [type(part) for part in pair] == [str, str]
        for pair in pairs
    ):
        raise ValueError(f"{name!r} is not a list of pairs")
    return tuple((pair[0], pair[1]) for pair in pairs)


def _spec(item: dict[str, object], name: str) -> object:
    spec = _field(item, name, dict)
    flags = _field(spec, "flags", list)
    if not all(isinstance(flag, str) for flag in flags):
        raise ValueError("spec flags are not strings")
    return MapSpec(
        **{part: _field(spec, part, str) for part in ("builder", "map_class", "source", "database")},
        flags=tuple(flags),
    )


_READ: dict[str, Callable[[dict[str, object], str], object]] = {
    **dict.fromkeys(("path", "flags", "digest", "target", "answers", "builder"), _text),
    **dict.fromkeys(("uid", "gid", "mode", "mtime_ns", "size"), _number),
    **dict.fromkeys(("opaque", "mount"), _truth),
    **dict.fromkeys(("xattrs", "sources"), _pairs),
    "role": lambda item, name: Role(_field(item, name, str)),
    "cls": lambda item, name: Class(_field(item, name, str)),
    "kind": lambda item, name: FileType(_field(item, name, str)),
    "spec": _spec,
}
