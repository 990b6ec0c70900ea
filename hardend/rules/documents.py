# SPDX-License-Identifier: Apache-2.0
"""The documents of a host as the rules see them: contents and attributes, read once, never the disk.

A value: rules return changed copies. Paths are those of the host, links above them resolved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType

from hardend.config import Policy as Policy  # noqa: PLC0414 - part of what this module offers
from hardend.formats.aliases import Aliases
from hardend.formats.cf import Cf
from hardend.formats.mc import Mc
from hardend.layout import Layout
from hardend.model import FileType


class UnknownError(Exception):
    """A rule needs what could not be read: path and reason, for the administrator."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


class NotApplicableError(Exception):
    """The host has no such thing; the text says what."""


class CannotMendError(Exception):
    """The fault cannot be mended from here; the text says what the administrator can do."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What lstat tells of a path; ``flags`` are the inode flags ("i", "a"), None where unknown."""

    kind: FileType
    uid: int
    gid: int
    mode: int
    target: str = ""
    flags: str | None = None
    acl: bool = False
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Documents:
    """Everything that rules may look at.

    ``content`` holds the bytes of each document and list that was read, ``attributes`` what lstat says
    of them, of every directory above them, and of the programs that they name; ``names`` what is in
    the directories that count (smrsh's); ``unreadable`` why something was not read. ``sources`` says
    which .mc makes which .cf, where the .mc is the truth; a .cf in ``stale`` is not made yet from its
    changed .mc. ``users`` and ``groups`` are those of the host. ``stale_maps`` maps a database to why
    it does not answer as its source would, ``unmade`` a .cf to why it is not what its .mc makes.
    """

    layout: Layout
    content: Mapping[str, bytes]
    attributes: Mapping[str, Attributes] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    stale: frozenset[str] = frozenset()
    users: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    stale_maps: Mapping[str, str] = field(default_factory=dict)
    unmade: Mapping[str, str] = field(default_factory=dict)
    unbuilt: Mapping[str, str] = field(default_factory=dict)
    lockable: tuple[str, ...] = ()
    policy: Policy = field(default_factory=Policy)

    # Reading ---------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        """Return the bytes of a document. Raises UnknownError, or NotApplicableError if it is missing."""
        if path in self.content:
            return self.content[path]
        if path in self.unreadable:
            raise UnknownError(path, self.unreadable[path])
        raise NotApplicableError(f"{path} does not exist" if path else "this host has no such file")

    def is_there(self, path: str) -> bool:
        """Return whether the path was found."""
        return path in self.attributes or path in self.content

    def cf(self, path: str = "") -> Cf:
        """Return sendmail.cf, or the .cf at ``path``. Raises UnknownError, NotApplicableError."""
        return parsed_cf(self.read(path or self.layout.cf))

    @property
    def submit(self) -> Cf:
        """Return submit.cf. Raises UnknownError, NotApplicableError on a host without one."""
        return self.cf(self._submit_path())

    def _submit_path(self) -> str:
        if not self.layout.submit_cf:
            raise NotApplicableError("this host has no submit.cf")
        return self.layout.submit_cf

    def mc_of(self, cf: str) -> tuple[str, Mc] | None:
        """Return path and document of the .mc that makes a .cf, or None where the .cf is the truth."""
        path = self.sources.get(cf, "")
        return (path, parsed_mc(self.read(path), path)) if path else None

    def alias_files(self) -> Iterator[tuple[str, Aliases]]:
        """Yield path and document of every alias file. Raises UnknownError for one not to be read."""
        for path in dict.fromkeys(spec.source for spec in self.layout.aliases):
            if self.is_there(path) or path in self.unreadable:
                yield path, parsed_aliases(self.read(path), path)

    # Changing --------------------------------------------------------------------------------------

    def with_content(self, path: str, data: bytes) -> Documents:
        """Return the documents with other bytes for one; the same documents where they are equal."""
        if self.content.get(path) == data:
            return self
        stale = self.stale | {cf for cf, mc in self.sources.items() if mc == path}
        content = MappingProxyType({**self.content, path: data})
        return replace(self, content=content, stale=stale)

    def with_attributes(self, path: str, attributes: Attributes) -> Documents:
        """Return the documents with other attributes for a path."""
        if self.attributes.get(path) == attributes:
            return self
        return replace(self, attributes=MappingProxyType({**self.attributes, path: attributes}))

    def without(self, path: str) -> Documents:
        """Return the documents without a path: not its content, its attributes, its name."""
        directory, _, name = path.rpartition("/")
        names = dict(self.names)
        if name in names.get(directory, ()):
            names[directory] = tuple(known for known in names[directory] if known != name)
        return replace(
            self,
            content=MappingProxyType({key: data for key, data in self.content.items() if key != path}),
            attributes=MappingProxyType({key: item for key, item in self.attributes.items() if key != path}),
            names=MappingProxyType(names),
        )


@lru_cache(maxsize=16)
def parsed_cf(data: bytes) -> Cf:
    """Parse a .cf once."""
    return Cf(data)


@lru_cache(maxsize=16)
def parsed_mc(data: bytes, path: str) -> Mc:
    """Parse a .mc once; ``path`` is for messages."""
    return Mc(data, path)


@lru_cache(maxsize=8)
def parsed_aliases(data: bytes, path: str) -> Aliases:
    """Parse an alias file once; ``path`` is for messages."""
    return Aliases(data, path)
