# SPDX-License-Identifier: Apache-2.0
"""Who else than root can change a file or a program: its owner, its mode, the directories above it."""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass, replace

from hardend.model import FileType, printable
from hardend.rules.documents import Attributes, Documents, UnknownError

ROOT = frozenset({0})
_MOST_LINKS = 40  # as many as the kernel follows
_OTHERS_WRITE = 0o022
_EVERYBODY_WRITES = 0o002
_OTHERS_RUN = 0o005
_SET_ID = 0o6000
_HOME = re.compile(r"/(?:home|root|users|Users|usr/home|export/home|var/home)(?:/|\Z)")


@dataclass(frozen=True, slots=True)
class Opening:
    """A way for somebody else to change what stands at ``path``; ``closed`` are attributes without it.

    A set-id program keeps its owner: given to root it would run as root.
    """

    path: str
    what: str
    known: Attributes
    closed: Attributes

    @property
    def is_by_design(self) -> bool:
        """Whether it is only that a set-id program belongs to the account that it runs as."""
        return self.known == self.closed

    @property
    def is_ours(self) -> bool:
        """Whether closing it breaks nothing else: a program that everybody can run, outside homes."""
        if self.known.kind is FileType.DIRECTORY or is_in_a_home(self.path):
            return False
        is_file = self.known.kind is FileType.FILE
        return not self.is_by_design and (not is_file or self.known.mode & _OTHERS_RUN == _OTHERS_RUN)

    @property
    def remedy(self) -> str:
        """The command that closes it."""
        if self.is_by_design:
            return f"see that nobody else can become the owner of {printable(self.path)}"
        words = []
        if self.closed.uid != self.known.uid:
            of_link = "-h " if self.known.kind is FileType.SYMLINK else ""
            words.append(f"chown {of_link}root {printable(self.path)}")
        if self.closed.mode != self.known.mode:
            words.append(f"chmod {self.closed.mode:04o} {printable(self.path)}")
        return " && ".join(words)


def opening(documents: Documents, path: str, owners: frozenset[int] = ROOT) -> Opening | None:
    """Return how others than ``owners`` can change a file, a directory or a link; None if they cannot.

    What does not exist has no opening. Raises UnknownError where the path could not be looked at.
    """
    known = documents.attributes.get(path)
    if known is None:
        if path in documents.unreadable:
            raise UnknownError(path, documents.unreadable[path])
        return None
    what = []
    closed = known
    if known.uid not in owners:
        runs = ", as whom it runs" if is_set_id(known) else ""
        what.append(f"it belongs to {owner_of(documents, known)}{runs}")
        closed = closed if runs else replace(closed, uid=0)
    if known.mode & _OTHERS_WRITE and known.kind is not FileType.SYMLINK:
        who = "everybody" if known.mode & _EVERYBODY_WRITES else "its group"
        what.append(f"{who} can write to it (mode {known.mode:04o})")
        closed = replace(closed, mode=known.mode & ~_OTHERS_WRITE)
    return Opening(path, " and ".join(what), known, closed) if what else None


def above(path: str) -> list[str]:
    """Return the directories above a path, the nearest first."""
    found = []
    while path not in {"/", ""}:
        path = os.path.dirname(path)
        found.append(path)
    return found


def way_to(documents: Documents, path: str) -> tuple[str, ...]:
    """Return the path and where its links lead, as far as they are known; the last is what is there."""
    way: list[str] = []
    for _ in range(_MOST_LINKS):
        path = _without_links_above(documents, path)
        way.append(path)
        known = documents.attributes.get(path)
        if known is None or known.kind is not FileType.SYMLINK:
            break
        path = _joined(os.path.dirname(path), known.target)
    return tuple(way)


def owner_of(documents: Documents, attributes: Attributes) -> str:
    """Return the name of an owner, or its number where the host has no name for it."""
    names = (name for name, uid in documents.users.items() if uid == attributes.uid)
    return next(names, f"uid {attributes.uid}")


def trusted(documents: Documents) -> frozenset[int]:
    """Return root and the host's TrustedUser, who owns its maps by design (op guide 5.6)."""
    uid = documents.users.get(documents.layout.trusted_user)
    return ROOT if uid is None else ROOT | {uid}


def owners_for(documents: Documents, path: str) -> frozenset[int]:
    """Return who may own a directory or program on the way to what mail runs: root.

    TrustedUser may own Sendmail's own directories: Debian's package gives them to it at every upgrade,
    and that account owns aliases.db anyway.
    """
    own = {documents.layout.mail_dir, documents.layout.smrsh_dir}
    return trusted(documents) if path in own else ROOT


def is_in_a_home(path: str) -> bool:
    """Return whether a path lies where users have their files."""
    return _HOME.match(path) is not None


def is_set_id(attributes: Attributes) -> bool:
    """Return whether a program runs as its owner or its group."""
    return attributes.kind is FileType.FILE and bool(attributes.mode & _SET_ID)


def _without_links_above(documents: Documents, path: str) -> str:
    path = _joined("/", path)
    for _ in range(_MOST_LINKS):
        for link in reversed(above(path)):
            known = documents.attributes.get(link)
            if known is not None and known.kind is FileType.SYMLINK:
                path = _joined(os.path.dirname(link), known.target, path[len(link) + 1 :])
                break
        else:
            break
    return path


def _joined(*parts: str) -> str:
    return "/" + os.path.normpath(os.path.join(*parts)).lstrip("/")
