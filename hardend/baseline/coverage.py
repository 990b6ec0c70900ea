# SPDX-License-Identifier: Apache-2.0
"""How far a signature reaches: what of a generation may differ from the signed one. Pure.

A host must be able to keep its own names, its own numbers of accounts, and databases that its own library
built; everything else of a signed generation stands as it was signed:

* paths that [baseline] own names, with the maps built from them, and directories that only lead there;
* uid and gid, where every one is exchanged for the same other one throughout, and root stays root;
* the bytes of a map, as long as it answers what was signed;
* content of class checked, and what its maps answer: that may change without an approval anyway;
* whether a path is a mount point.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from hardend.model import Class, Entry, Role, printable

Entries = Mapping[str, Entry]
_IDS = ("uid", "gid")


def is_own(entry: Entry, own: Iterable[str]) -> bool:
    """Return whether an entry is this host's own: it, or the source of the map that it is, is named."""
    names = {entry.path, entry.spec.source if entry.spec else entry.path}
    return any(fnmatchcase(name, pattern) for name in names for pattern in own)


def differences(entries: Entries, signed: Entries, own: Iterable[str] = ()) -> list[str]:
    """Return what of a generation its signature does not reach, one sentence each; [] when it reaches all.

    ``own`` holds paths and globs. Neither side is changed.
    """
    patterns = tuple(own)
    ours = {path: entry for path, entry in entries.items() if not is_own(entry, patterns)}
    theirs = {path: entry for path, entry in signed.items() if not is_own(entry, patterns)}
    faults = list(_exchanges(ours, theirs))
    for path in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(path), theirs.get(path)
        if mine is None or other is None:
            only = mine or other
            if only is not None and only.role is not Role.ANCESTOR:
                faults.append(f"{printable(path)} is {'not signed' if mine else 'signed, and not there'}")
        elif _substance(mine, entries) != _substance(other, signed):
            faults.append(f"{printable(path)} is not as it was signed")
    return faults


def correspondence(pairs: Iterable[tuple[str, int, int]]) -> dict[int, int]:
    """Return which number stands here for which there, from (path, there, here).

    Raises ValueError when one stands for two, two for one, or root's for another.
    """
    here_of: dict[int, int] = {0: 0}
    there_of: dict[int, int] = {0: 0}
    for path, there, here in pairs:
        if here_of.setdefault(there, here) != here or there_of.setdefault(here, there) != there:
            raise ValueError(f"{printable(path)}: {there} there is {here} here, elsewhere it is not")
    return here_of


def _exchanges(ours: Entries, theirs: Entries) -> Iterator[str]:
    """Yield why the owners of two hosts do not correspond."""
    for kind in _IDS:
        pairs = [
            (path, getattr(theirs[path], kind), getattr(ours[path], kind))
            for path in sorted(ours.keys() & theirs.keys())
        ]
        try:
            correspondence(pairs)
        except ValueError as error:
            yield f"{kind}: {error}"


def _substance(entry: Entry, among: Entries) -> Entry:
    """Return an entry without what may differ."""
    plain = replace(entry, uid=0, gid=0, mount=False)
    if entry.role is Role.MAP and not entry.opaque:
        plain = replace(plain, digest="", size=0, mtime_ns=0, builder="")
        source = among.get(entry.spec.source) if entry.spec else None
        if source is not None and source.cls is Class.CHECKED:
            plain = replace(plain, answers="", sources=())
    elif entry.cls is Class.CHECKED and entry.holds_content:
        plain = replace(plain, digest="", size=0, mtime_ns=0)
    return plain
