# SPDX-License-Identifier: Apache-2.0
"""The values that all of hardend speaks in: entries, drifts, states. No I/O, nothing of ours imported.

Paths are ``str`` as ``os.fsdecode`` gives them (surrogateescape), absolute, and those of the host:
``/etc/mail/access`` also when the host is a tree under ``--root``. ``Host.at`` gives the path to open.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import StrEnum


class Word(StrEnum):
    """A word of a fixed set. Hashed as the text it equals: enum's own hash is a Python function."""

    __hash__ = str.__hash__


class Mode(Word):
    """Whether drift is put back (enforce) or only reported (observe)."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


class Class(Word):
    """What is held at a path (design 7.1)."""

    LOCKED = "locked"
    CHECKED = "checked"
    ATTRIBUTES = "attributes"
    IGNORED = "ignored"


class Role(Word):
    """What a protected path is to Sendmail, which decides how it is compared and put back."""

    ANCESTOR = "ancestor"  # a directory above a protected one: owner, group, mode
    DIRECTORY = "directory"  # holds protected files; a file that appears in it is reported
    CLOSED = "closed"  # holds exactly its entries; what appears in it is taken aside
    QUEUE = "queue"  # a mail queue: the directory itself, never its content
    SOURCE = "source"  # a file held byte by byte, or by attributes where the class says so
    MAP = "map"  # a database built from a source, compared by what it answers
    LINK = "link"  # a symbolic link held by its target


class FileType(Word):
    """Type of a file system object, named as find(1) and stat(1) do."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    DEVICE = "device"


class Drift(Word):
    """How a path differs from its entry."""

    CONTENT = "content"
    OWNER = "owner"
    GROUP = "group"
    MODE = "mode"
    FLAGS = "flags"
    ACL = "acl"
    XATTR = "xattr"
    TYPE = "type"
    TARGET = "target"
    MISSING = "missing"
    UNEXPECTED = "unexpected"
    MOUNT = "mount"
    STALE = "stale"  # its time stamp is not the approved one (make(1) would rebuild, or not)


class State(Word):
    """What became of a path; the same words in the journal, the socket and the manual."""

    CLEAN = "clean"
    DRIFTED = "drifted"
    RESTORED = "restored"
    CONTESTED = "contested"
    FAILED = "failed"
    UNPROTECTED = "unprotected"


@dataclass(frozen=True, slots=True)
class MapSpec:
    """How a map is built from its source: newaliases or makemap, with the class and flags of its K line.

    ``builder`` is ``newaliases`` or ``makemap``; ``map_class`` is ``hash``, ``btree`` or ``dbm``;
    ``flags`` are makemap options (``-f``, ``-N``, ...), empty for newaliases.
    """

    builder: str
    map_class: str
    source: str
    database: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Protected:
    """A path that hardend is to hold, as the layout and the classes decide it; not yet its state."""

    path: str
    role: Role
    cls: Class
    immutable: bool = False
    spec: MapSpec | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of the baseline and the state it was approved in (design section 2).

    ``flags`` is a subset of ``"ia"`` (chattr(1)); ``xattrs`` holds (name, value as hex), sorted,
    POSIX ACLs among them; ``digest`` is the SHA-256 of the content where content is held;
    ``answers`` is the SHA-256 of what a map answers, ``builder`` the program and library that made it;
    ``sources`` names (path, digest) of what a derived entry was built from.
    A map whose side build did not equal the live one at approval is ``opaque``: attributes only.
    """

    path: str
    role: Role
    cls: Class
    kind: FileType
    uid: int
    gid: int
    mode: int
    flags: str = ""
    mtime_ns: int = 0
    size: int = 0
    digest: str = ""
    target: str = ""
    xattrs: tuple[tuple[str, str], ...] = ()
    spec: MapSpec | None = None
    answers: str = ""
    builder: str = ""
    sources: tuple[tuple[str, str], ...] = ()
    opaque: bool = False
    mount: bool = False  # a mount point when it was approved: crossing it is expected

    @property
    def holds_content(self) -> bool:
        """Whether the bytes of the file are part of the baseline."""
        return self.role is Role.SOURCE and self.cls in {Class.LOCKED, Class.CHECKED}

    def with_flags(self, flags: str) -> Entry:
        """Return this entry with other inode flags."""
        return replace(self, flags=flags)


@dataclass(frozen=True, slots=True)
class Host:
    """The host that hardend works on: this machine, or a tree under another root.

    Every path of hardend's own is derived here, so that a whole guard can run inside a tree.
    """

    root: str = "/"

    def at(self, path: str) -> str:
        """Return where ``path`` of the host is found from here."""
        return path if self.root == "/" else self.root.rstrip("/") + path

    @property
    def is_tree(self) -> bool:
        """Whether this is a tree and not the running machine."""
        return self.root != "/"

    @property
    def config_dir(self) -> str:
        """hardend.toml, conf.d/, and the staging directories."""
        return self.at("/etc/hardend")

    @property
    def spare_dir(self) -> str:
        """Verified copies, ready to be exchanged in; 0700, on the mount of /etc."""
        return self.at("/etc/hardend/spare")

    @property
    def taken_dir(self) -> str:
        """What restores replaced, until hardend-collect moves it to the quarantine."""
        return self.at("/etc/hardend/taken")

    @property
    def state_dir(self) -> str:
        """Everything that must survive a reboot."""
        return self.at("/var/lib/hardend")

    @property
    def store_dir(self) -> str:
        """Objects and generations."""
        return self.at("/var/lib/hardend/baseline")

    @property
    def quarantine_dir(self) -> str:
        """What was replaced, kept with its story."""
        return self.at("/var/lib/hardend/quarantine")

    @property
    def run_dir(self) -> str:
        """Sockets, state.json and the guard's lock."""
        return self.at("/run/hardend")

    @property
    def control_socket(self) -> str:
        """Root's way to the guard."""
        return self.at("/run/hardend/control")

    @property
    def state_file(self) -> str:
        """What the guard publishes."""
        return self.at("/run/hardend/state.json")


def printable(name: str) -> str:
    r"""Return ``name`` with control characters, escapes and undecodable bytes shown as ``\xNN``.

    Names come from whoever can create a file; a terminal or a log must not obey them.
    """
    if name.isprintable() and "\\" not in name:
        return name
    encoded = name.encode("utf-8", "surrogatepass" if not _is_decoded(name) else "surrogateescape")
    shown = []
    for byte in encoded:
        char = chr(byte)
        plain = char.isascii() and char.isprintable() and char != "\\"
        shown.append(char if plain else f"\\x{byte:02x}")
    return "".join(shown)


def _is_decoded(name: str) -> bool:
    """Return whether every surrogate stands for an undecodable byte, as os.fsdecode makes them."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True
