# SPDX-License-Identifier: Apache-2.0
"""Using what is kept: compared with the baseline, written to a new file, or approved as new content."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from hardend import commit, kept_approval, rebuild
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.errors import FileError, RefusedError, StoreError
from hardend.kept_approval import Approved
from hardend.model import Entry, FileType, Host, Role, printable
from hardend.quarantine_reader import TRUNCATED, WHOLE, Kept, Shelf
from hardend.textdiff import unified

DIFF_LIMIT = 256 << 10  # bytes of either side: difflib takes quadratic time on what an attacker chose
_GUARDED = frozenset({Role.DIRECTORY, Role.CLOSED, Role.QUEUE})
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ACLS = {"system.posix_acl_access": "acl", "system.posix_acl_default": "default acl"}


@dataclass(slots=True)
class Difference:
    """How a kept object differs from the entry of its path in the current generation.

    ``attributes`` holds (name, as approved, as kept); ``content`` are the lines of a unified diff from
    the approved content to the kept one, secrets masked; ``notes`` say what could not be compared.
    """

    generation: int
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare(shelf: Shelf, kept: Kept) -> Difference:
    """Compare with the current baseline. Raises StoreError where there is none, or it is damaged."""
    store = Store(shelf.host)
    generation = store.current()
    entry = generation.entries.get(kept.path)
    result = Difference(generation.number)
    if entry is None:
        result.notes.append(f"generation {generation.number} does not hold {printable(kept.path) or '?'}")
    else:
        result.attributes = list(_attributes(entry, kept))
    _compare_content(shelf, store, entry, kept, result)
    return result


def _attributes(entry: Entry, kept: Kept) -> Iterator[tuple[str, str, str]]:
    """Yield what is not as approved; what the record does not tell is not compared."""
    approved = {"kind": entry.kind.value, "owner": str(entry.uid), "group": str(entry.gid)}
    record = kept.record
    found = {"kind": kept.kind or None, "owner": record.get("uid"), "group": record.get("gid")}
    mode, flags = record.get("mode"), record.get("flags")
    kinds = {entry.kind.value, kept.kind}
    if FileType.SYMLINK in kinds:  # the mode of a link means nothing (symlink(7))
        approved["target"], found["target"] = entry.target or "-", record.get("target", "-")
    elif isinstance(mode, int):
        approved["mode"], found["mode"] = f"{entry.mode:04o}", f"{mode:04o}"
    if isinstance(flags, str):
        approved["flags"], found["flags"] = entry.flags or "-", flags or "-"
    if entry.holds_content and kinds == {FileType.FILE.value}:
        approved["modified"] = moment(entry.mtime_ns) or "-"
        found["modified"] = moment(record.get("mtime_ns"))
    for name, (before, after) in _xattrs(entry, record.get("xattrs")).items():
        approved[name], found[name] = before, after
    for name, value in found.items():
        if value is not None and approved[name] != str(value):
            yield name, approved[name], str(value)


def _xattrs(entry: Entry, kept: object) -> dict[str, tuple[str, str]]:
    """Return (as approved, as kept) of every extended attribute, values as hex, "-" for none."""
    if not isinstance(kept, list):
        return {}
    before = dict(entry.xattrs)
    after = {str(pair[0]): str(pair[1]) for pair in kept if isinstance(pair, list) and len(pair) > 1}
    return {
        _ACLS.get(name, name): (before.get(name, "-"), after.get(name, "-"))
        for name in sorted(before.keys() | after.keys())
    }


def _compare_content(
    shelf: Shelf, store: Store, entry: Entry | None, kept: Kept, result: Difference
) -> None:
    if kept.kind != FileType.FILE:
        return
    if entry is not None and entry.digest and entry.digest == kept.digest and kept.stored == WHOLE:
        return
    try:
        digest = kept.content_of()
        size = shelf.check(digest)
        approved = store.object(entry.digest) if entry is not None and entry.digest else b""
    except (RefusedError, StoreError) as error:
        result.notes.append(f"content was not compared: {error}")
        return
    if entry is not None and not entry.digest:
        result.notes.append("the baseline does not hold the content of this path")
        return
    if kept.stored == TRUNCATED:
        result.notes.append(f"only the first {size} of {kept.size} bytes were kept")
    if max(size, len(approved)) > DIFF_LIMIT:
        result.notes.append(
            f"content differs, and is too long to be compared line by line here ({len(approved)} and "
            f"{size} bytes): hardend quarantine restore {kept.id} --to FILE"
        )
        return
    result.content = list(unified(kept.path, approved, b"".join(shelf.blocks(digest)), mask=True))


def moment(value: object) -> str | None:
    """Return a time stamp (realtime nanoseconds) as ISO 8601 UTC, None for what is none."""
    if not isinstance(value, int):
        return None
    try:
        return datetime.fromtimestamp(value / 1e9, UTC).isoformat(timespec="microseconds")
    except (ValueError, OverflowError, OSError):
        return str(value)


def approve(
    shelf: Shelf, kept: Kept, settings: Settings, *, reason: str, force: bool = False
) -> Approved | None:
    """Make the kept content the next generation's of its path; None when it is that already.

    Owner, mode and flags stay as they are approved; a map of it is built anew. Raises RefusedError with
    the reason: not a whole file, a sendmail.cf that does not pass the gate, a broken rule that was not
    broken before (``force`` goes past that). What is refused changes nothing.
    """
    return kept_approval.approve(
        *(shelf, kept, settings),
        reason=reason,
        force=force,
        before_apply=partial(rebuild.note_mta, shelf.host, settings),
    )


def write_out(shelf: Shelf, kept: Kept, target: str, *, inside: str = "") -> int:
    """Write the kept bytes to a new file, 0600, synced; return how many.

    Raises RefusedError for a file that exists, a place that hardend guards, or content that was not
    kept; FileError when it cannot be written. What is refused leaves no file.
    """
    commit.require_root()
    digest = kept.content_of(inside)
    shelf.check(digest)
    where, name = os.path.split(target)
    if name in {"", ".", ".."}:
        raise RefusedError(f"{printable(target)}: not the name of a file")
    try:
        directory = os.open(where or ".", _DIRECTORY)
    except OSError as error:
        raise FileError(f"{printable(where)}: {error.strerror}") from error
    try:
        _require_free(shelf.host, directory, name, kept)
        return _write_new(shelf, digest, directory, name, target)
    finally:
        os.close(directory)


def _write_new(shelf: Shelf, digest: str, directory: int, name: str, target: str) -> int:
    try:
        descriptor = os.open(name, _NEW, 0o600, dir_fd=directory)
    except FileExistsError as error:
        raise RefusedError(
            f"{printable(target)}: exists, and is never overwritten", hint="name a new file"
        ) from error
    except OSError as error:
        raise FileError(f"{printable(target)}: {error.strerror}") from error
    size = 0
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            for block in shelf.blocks(digest):
                size += file.write(block)
            file.flush()
            os.fsync(descriptor)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)
        if isinstance(error, OSError):
            raise FileError(f"{printable(target)}: {error.strerror}") from error
        raise
    return size


def _require_free(host: Host, directory: int, name: str, kept: Kept) -> None:
    """Refuse a place that the guard holds: it would be reported, or taken aside again at once.

    Compared by identity and not by name: a link, or a bind mount, leads there too.
    """
    guarded: dict[tuple[int, int], str] = {}
    names: dict[tuple[int, int], set[str]] = {}
    for path in (host.config_dir, host.state_dir, host.run_dir):
        guarded[_identity(path)] = path
    for path, entry in _entries(host).items():
        identity = _identity(host.at(path))
        if entry.role in _GUARDED:
            guarded[identity] = path
        parent, base = os.path.split(path)
        names.setdefault(_identity(host.at(parent)), set()).add(base)
    hint = "write it elsewhere, such as /root; "
    if kept.path:
        hint += f"hardend quarantine approve {kept.id} --reason TEXT makes it the content of its path"
    else:
        hint += "hardend approve PATH --from FILE then makes it the content of a path"
    here = os.fstat(directory)
    if name in names.get((here.st_dev, here.st_ino), ()):
        raise RefusedError(f"{printable(name)}: a path that hardend guards", hint=hint)
    for identity in _upwards(directory):
        if identity in guarded:
            raise RefusedError(f"{printable(guarded[identity])}: hardend guards what is in it", hint=hint)


def _entries(host: Host) -> dict[str, Entry]:
    """Return what is guarded now; of a damaged store what was guarded last."""
    store = Store(host)
    for read in (store.current, store.last_good):
        with contextlib.suppress(StoreError):
            return dict(read().entries)
    return {}


def _identity(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return (-1, -1)  # of nothing that exists
    return found.st_dev, found.st_ino


def _upwards(directory: int) -> Iterator[tuple[int, int]]:
    """Yield the identity of a directory and of each above it, up to the root."""
    current = os.dup(directory)
    try:
        last: tuple[int, int] | None = None
        while True:
            found = os.fstat(current)
            identity = found.st_dev, found.st_ino
            if identity == last:
                return
            yield identity
            last = identity
            above = os.open("..", _DIRECTORY, dir_fd=current)
            os.close(current)
            current = above
    finally:
        os.close(current)
