# SPDX-License-Identifier: Apache-2.0
"""How a path of a window was and how it is: a unified diff of what is held, words for the rest."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Iterator

from hardend.baseline.store import Store
from hardend.errors import StoreError
from hardend.model import Entry, FileType, Role, printable
from hardend.textdiff import unified


def lines(
    path: str, before: Entry | None, after: Entry | None, store: Store, *, gone: bool
) -> Iterator[str]:
    r"""Yield the lines that show one path; secrets are masked, control characters shown as ``\xNN``.

    ``gone`` says that nothing stands there; what has no entry ``after`` otherwise cannot be taken in.
    """
    shown = printable(path)
    if after is None:
        yield f"{shown}: {'removed' if gone else 'changed, and nothing that could be taken in'}"
        return
    if before is None:
        yield f"{shown}: new {after.kind.value}, {_owner(after)} {after.mode:04o}"
    elif before == after:
        yield f"{shown}: changed, and nothing that could be taken in"
    else:
        yield from (f"{shown}: {words}" for words in _attributes(before, after))
    if after.role is Role.MAP:
        if before is None or before.answers != after.answers:
            yield f"{shown}: answers otherwise"
        return
    old, new = _content(before, store), _content(after, store)
    if old != new:
        yield from unified(path, old, new, mask=True)


def _content(entry: Entry | None, store: Store) -> bytes:
    if entry is None or not entry.digest or entry.kind is not FileType.FILE:
        return b""
    try:
        return store.object(entry.digest)
    except StoreError as error:
        return f"({error})\n".encode()


def _attributes(before: Entry, after: Entry) -> Iterator[str]:
    if before.kind is not after.kind:
        yield f"{before.kind.value} -> {after.kind.value}"
    if (before.uid, before.gid) != (after.uid, after.gid):
        yield f"owner {_owner(before)} -> {_owner(after)}"
    if before.mode != after.mode:
        yield f"mode {before.mode:04o} -> {after.mode:04o}"
    if before.target != after.target:
        yield f"leads to {printable(before.target)} -> {printable(after.target)}"
    if before.xattrs != after.xattrs:
        yield "ACL or extended attributes changed"
    if after.opaque and not before.opaque:
        yield "does not answer as its source says"
    if before.digest == after.digest and before.mtime_ns != after.mtime_ns:
        yield "another time stamp, the same content"


def _owner(entry: Entry) -> str:
    return f"{_name(pwd.getpwuid, entry.uid)}:{_name(grp.getgrgid, entry.gid)}"


def _name(ask: object, number: int) -> str:
    try:
        return str(ask(number)[0]) if callable(ask) else str(number)
    except KeyError:
        return str(number)
