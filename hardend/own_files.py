# SPDX-License-Identifier: Apache-2.0
"""hardend's own files: what they are, what they were when the guard last looked; a change is told.

Report only (design section 9): nothing here is put back, and no approval has to do with it. What was
seen last is remembered in /var/lib/hardend/own-files.json, so that a change while no guard ran is told
at the next start.

Looked at: the configuration, allowed_signers, the units with their drop-ins and the links that start
them, the apt and dpkg hooks, tmpfiles.d, sysusers.d and catalog files, /usr/sbin/hardend, and where
the guard runs on this machine and not in a tree, the program: the package itself, what Python reads
before it (``*.pth``, sitecustomize, pyvenv.cfg) and the packages it is built on. Not looked at: the
interpreter, its library and compiled ``*.pyc`` files, which are thousands: a root intruder who knows
hardend can change it there, unseen (design section 1).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice

from hardend.config import FRAGMENTS, MAIN
from hardend.errors import FileError
from hardend.journal import Event, Journal
from hardend.kernel.tree import Tree
from hardend.model import Drift, Host, printable

SLICE_S = 0.001  # what a slice may take from the loop, and what one file more takes
SLICE_GAP_S = 0.05
_FILE_LIMIT = 1 << 20  # bytes that are hashed of a file; the largest of ours is 200 KiB
_NAMES_LIMIT = 4096  # names that are read of a directory: somebody may fill one
_PATHS_LIMIT = 10_000
_TOLD_ONE_BY_ONE = 5  # an upgrade changes every file of the package
_SCHEMA = 1
_MEMORY_LIMIT = 4 << 20
_MODE_MAX = 0xFFFFFFFF  # of mode_t

_SINGLE = (
    *(MAIN, "/etc/hardend", FRAGMENTS, "/etc/hardend/allowed_signers", "/usr/sbin/hardend"),
    # systemd.unit(5): a drop-in for every service is one for ours.
    *("/etc/systemd/system/service.d", "/run/systemd/system/service.d"),
)
_UNITS = (
    *("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system"),
    *("/usr/lib/systemd/system", "/lib/systemd/system"),
    *("/etc/systemd/system.control", "/run/systemd/system.control"),  # systemctl set-property
)
# Directory -> the names in it that are hardend's.
_PATTERNS = (
    (FRAGMENTS, "*.toml"),
    ("/etc/systemd/system/service.d", "*.conf"),
    ("/run/systemd/system/service.d", "*.conf"),
    ("/etc/apt/apt.conf.d", "*hardend*"),
    ("/etc/dpkg/dpkg.cfg.d", "*hardend*"),
    *((f"{top}/{kind}.d", "*hardend*") for kind in ("tmpfiles", "sysusers") for top in ("/etc", "/usr/lib")),
    ("/usr/lib/systemd/catalog", "*hardend*"),
)
_BEFORE_THE_PROGRAM = ("*.pth", "sitecustomize.py", "usercustomize.py")
_BUILT_ON = ("watchdog", "structlog", "systemd")


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a path. A link shows where it points, the rest is of what it leads to.

    ``digest`` is the SHA-256 of the content, empty for what has none, or the reason why there is
    none ("unreadable: ...", "1048577 bytes: too large"). ``mode`` is the whole st_mode.
    """

    digest: str
    mode: int
    uid: int
    gid: int
    target: str = ""

    @property
    def row(self) -> tuple[str, int, int, int, str]:
        """Return it as it is remembered."""
        return (self.digest, self.mode, self.uid, self.gid, self.target)


def drift_of(before: Seen | None, now: Seen | None) -> frozenset[Drift]:
    """Return how a file differs from what was seen; None is a file that is not there."""
    if before is None or now is None:
        return frozenset() if before is now else frozenset({Drift.MISSING if before else Drift.UNEXPECTED})
    differs = {
        Drift.TYPE: stat.S_IFMT(before.mode) != stat.S_IFMT(now.mode),
        Drift.TARGET: before.target != now.target,
        Drift.CONTENT: before.digest != now.digest,
        Drift.MODE: stat.S_IMODE(before.mode) != stat.S_IMODE(now.mode),
        Drift.OWNER: before.uid != now.uid,
        Drift.GROUP: before.gid != now.gid,
    }
    return frozenset(drift for drift, is_so in differs.items() if is_so)


@dataclass(frozen=True, slots=True)
class Program:
    """Where the program lies: its package, those that it is built on, a virtual environment's root."""

    package: str
    built_on: tuple[str, ...] = ()
    prefix: str = ""


def running_program() -> Program:
    """Return where the code lies that this process runs. Imports nothing."""
    built_on = []
    for name in _BUILT_ON:
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
            built_on += (spec.submodule_search_locations or []) if spec else []
    prefix = sys.prefix if sys.prefix != sys.base_prefix else ""
    return Program(os.path.dirname(os.path.abspath(__file__)), tuple(built_on), prefix)


class OwnFiles:
    """Looks at hardend's own files, a little at a time, and tells the journal what changed.

    ``program`` is what runs, by default this process's own code on a real host and nothing in a tree.
    Nothing here raises: what cannot be read, listed or remembered is a value or an event.
    """

    def __init__(self, host: Host, journal: Journal, program: Program | None = None) -> None:
        self.last_change = 0.0  # realtime seconds; 0 when none was seen by this guard
        self.digest = ""
        self._host = host
        self._journal = journal
        self._tree = Tree(host)
        self._program = program if program or host.is_tree else running_program()
        self._known: dict[str, Seen] = {}
        self._look: Iterator[None] = iter(())
        self._unsaved = ""  # why what is known is not on the disk

    @property
    def document(self) -> dict[str, object]:
        """Return what state.json says of them."""
        return {"count": len(self._known), "digest": self.digest, "last_change": self.last_change}

    def begin(self) -> dict[str, object]:
        """Look at everything, tell what changed since it was remembered; fields for guard-started."""
        before = self._remembered()
        self._known = before or {}
        for _ in self._pass(" while no guard ran", tell=before is not None):
            pass
        return {"OWN_FILES": self.digest, "OWN_FILES_COUNT": len(self._known)}

    def step(self, interval_s: float) -> float:
        """Look at some of them, about a millisecond long; return after how many seconds to go on.

        What changed is told when all are looked at, which begins anew every ``interval_s``.
        """
        end = time.monotonic() + SLICE_S
        for _ in self._look:
            if time.monotonic() >= end:
                return SLICE_GAP_S
        self._look = self._pass()
        return interval_s

    def paths(self) -> Iterator[str]:
        """Yield every path of hardend's that may be there, as the host has it, what is told first first."""
        yield from _SINGLE
        for directory, pattern in _PATTERNS:
            yield from self._matching(directory, pattern)
        for directory in _UNITS:
            if not (directory.startswith("/lib/") and os.path.islink(self._host.at("/lib"))):
                yield from self._units(directory)
        if self._program is not None:
            yield from self._of_program(self._program)

    def look_at(self, path: str) -> Seen | None:
        """Return what is at a path of the host, None when nothing is. Raises nothing."""
        where = self._host.at(path)
        target = ""
        try:
            found = os.lstat(where)
            if stat.S_ISLNK(found.st_mode):
                target = os.readlink(where)
                where = self._host.at(self._tree.real(path))
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # leads nowhere
                    found = os.lstat(where)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, FileError) as error:
            return Seen(f"unreadable: {_reason(error)}", 0, 0, 0, target)
        digest = ""
        if stat.S_ISREG(found.st_mode):
            digest, found = _hashed(where, found)
        return Seen(digest, found.st_mode, found.st_uid, found.st_gid, target)

    def _pass(self, since: str = "", *, tell: bool = True) -> Iterator[None]:
        """Look at one path a turn, then settle."""
        seen: dict[str, Seen] = {}
        for path in islice(self.paths(), _PATHS_LIMIT):
            if path not in seen and (now := self.look_at(path)) is not None:
                seen[path] = now
            yield
        everything = {**seen, **self._known}  # in the order of paths(), what is gone at the end
        drifts = {path: drift_of(self._known.get(path), seen.get(path)) for path in everything}
        changes = {path: drift for path, drift in drifts.items() if drift}
        self._known = seen
        if changes or not self.digest:
            self.digest = hashlib.sha256(_canonical(seen)).hexdigest()
        if changes and tell:
            self.last_change = time.time()
            self._tell(changes, since)
        if changes or self._unsaved:
            self._remember()

    def _tell(self, changes: dict[str, frozenset[Drift]], since: str) -> None:
        if len(changes) <= _TOLD_ONE_BY_ONE:
            for path, drift in changes.items():
                words = " ".join(sorted(drift))
                text = f"{printable(path)} of hardend itself changed{since}: {words}"
                self._journal.event(Event.SELF_CHANGED, text, PATH=path, DRIFT=words)
            return
        first = ", ".join(printable(path) for path in islice(changes, _TOLD_ONE_BY_ONE))
        self._journal.event(
            Event.SELF_CHANGED,
            f"{len(changes)} files of hardend itself changed{since}: {first} and"
            f" {len(changes) - _TOLD_ONE_BY_ONE} more",
            DRIFT=" ".join(sorted(frozenset[Drift]().union(*changes.values()))),
            COUNT=len(changes),
        )

    # Where they are -------------------------------------------------------------------------------

    def _matching(self, directory: str, pattern: str) -> list[str]:
        """Return the sorted paths in a directory whose names match; none where it cannot be read."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self._host.at(directory)) as names:
            found = [entry.name for entry in islice(names, _NAMES_LIMIT) if fnmatchcase(entry.name, pattern)]
        return [os.path.join(directory, name) for name in sorted(found)]

    def _units(self, directory: str) -> Iterator[str]:
        """Yield units, their drop-in directories and what is in these, and what starts them."""
        for path in self._matching(directory, "hardend*"):
            yield path
            if path.endswith(".d"):
                yield from self._matching(path, "*.conf")
        for kind in ("*.wants", "*.requires"):
            for path in self._matching(directory, kind):
                yield from self._matching(path, "hardend*")

    def _of_program(self, program: Program) -> Iterator[str]:
        if program.prefix:
            yield os.path.join(program.prefix, "pyvenv.cfg")
        for pattern in _BEFORE_THE_PROGRAM:
            yield from self._matching(os.path.dirname(program.package), pattern)
        for package in (program.package, *program.built_on):
            yield from self._modules(package)

    def _modules(self, package: str) -> Iterator[str]:
        for path in self._matching(package, "*"):
            if path.endswith((".py", ".so")):
                yield path
            elif not path.endswith("__pycache__") and self._is_directory(path):
                yield from self._modules(path)

    def _is_directory(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(os.lstat(self._host.at(path)).st_mode)
        except OSError:
            return False

    # What is remembered ---------------------------------------------------------------------------

    @property
    def _memory(self) -> str:
        return os.path.join(self._host.state_dir, "own-files.json")

    def _remembered(self) -> dict[str, Seen] | None:
        """Return what was seen last, None when nothing is remembered or it is not to be read."""
        try:
            return _parsed(_read(self._memory))
        except FileNotFoundError:
            self._unsaved = "nothing is remembered"
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = _reason(error) if isinstance(error, OSError) else "not what the guard wrote"
            self._unsaved = "what is remembered cannot be read"
            self._tell_of_memory(f"cannot be read ({why}): what changed while no guard ran is not known")
        return None

    def _remember(self) -> None:
        try:
            os.makedirs(self._host.state_dir, 0o700, exist_ok=True)
            _replace(self._memory, _canonical(self._known))
        except OSError as error:
            fault = _reason(error)
            if fault != self._unsaved:
                self._tell_of_memory(f"cannot be written ({fault}): the next start tells changes again")
            self._unsaved = fault
        else:
            self._unsaved = ""

    def _tell_of_memory(self, text: str) -> None:
        # Without the field PATH, so that "hardend events" shows the message.
        self._journal.event(Event.SELF_CHANGED, f"{printable(self._memory)} {text}")


def _hashed(where: str, found: os.stat_result) -> tuple[str, os.stat_result]:
    """Return the digest of a regular file, and its attributes, both of the same inode."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(where, flags)
        try:
            found = os.fstat(descriptor)
            if found.st_size > _FILE_LIMIT:
                return f"{found.st_size} bytes: too large", found
            return hashlib.sha256(os.read(descriptor, found.st_size)).hexdigest(), found
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"unreadable: {_reason(error)}", found


def _canonical(files: dict[str, Seen]) -> bytes:
    document = {"schema": _SCHEMA, "files": {path: seen.row for path, seen in files.items()}}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


def _parsed(data: bytes) -> dict[str, Seen]:
    """Return what ``_canonical`` wrote; anything else raises what a wrong shape raises."""
    document = json.loads(data)
    if document["schema"] != _SCHEMA:
        raise ValueError(document["schema"])
    return {path: _seen(item) for path, item in document["files"].items()}


def _seen(item: Iterable[object]) -> Seen:
    match list(item):
        case [str(digest), int(mode), int(uid), int(gid), str(target)] if 0 <= mode <= _MODE_MAX:
            return Seen(digest, mode, uid, gid, target)
    raise ValueError(item)


def _read(where: str) -> bytes:
    descriptor = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(where)
        return os.read(descriptor, _MEMORY_LIMIT)
    finally:
        os.close(descriptor)


def _replace(where: str, data: bytes) -> None:
    """Replace a file by one of 0600: aside, synced, renamed. Raises OSError."""
    aside = where + ".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(aside)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(aside, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(aside, where)


def _reason(error: OSError | FileError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
