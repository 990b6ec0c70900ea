# SPDX-License-Identifier: Apache-2.0
"""Moving what the guard set aside into the quarantine, with time to look at what it is.

An object may be a sparse file of 16 TB, a tree of a million entries, a FIFO, or still be written to
by whoever made it. Reading is bounded, links are never followed, mount points never crossed, and
nothing is removed from ``/etc/hardend/taken`` before its record and its content are synced. Every
step can be repeated: a crash loses nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hardend.aside import leave_beside
from hardend.errors import FileError
from hardend.kernel.paths import NO_XDEV, STRICT, open_beneath
from hardend.model import Class, FileType, Host
from hardend.observe import file_type, flags_of, xattrs_of
from hardend.quarantine import Limits, Quarantine, Record, read_record, time_of
from hardend.removal import remove
from hardend.state import guard_is_alive

ENTRIES_LISTED = 1000  # of a directory; the rest is counted as left out, not looked at
_DEPTH_LISTED = 32
_XATTR_BYTES = 64 << 10
_SETTLE_S = 10.0  # the guard writes a record microseconds after the rename, or never: died, full disk
_PATIENCE_S = 10.0  # for a purge that is at work
_LEASE_BREAK_S = 60.0  # proc(5), lease-break-time is 45 s; then the kernel takes the lease away
_POLL_S = 0.5
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK
Judging = Callable[[Quarantine, Iterable[str]], None]
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")


@dataclass(slots=True)
class Summary:
    """What one run did. ``failed`` holds (id, reason): those objects are where they were."""

    collected: int = 0
    recovered: int = 0
    truncated: int = 0
    unstable: int = 0
    evicted: int = 0
    waiting: int = 0
    size_bytes: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Return the documented form of ``hardend collect --json``."""
        failed = [{"id": identifier, "reason": reason} for identifier, reason in self.failed]
        counts = {name: getattr(self, name) for name in self.__slots__ if name != "failed"}
        return {"schema": 1, **counts, "failed": failed}


def collect(
    host: Host, limits: Limits, *, patience_s: float = _LEASE_BREAK_S, judging: Judging | None = None
) -> Summary:
    """Move everything that was taken into the quarantine, then evict what is over the limits.

    Waits at most ``patience_s`` for files under a write lease and for records that are not written
    yet; what is taken meanwhile is collected too, because systemd drops a start of a unit that runs.
    ``judging`` is called with the ids of what was moved.
    Raises FileError when the directories cannot be opened, RefusedError when another run is at work;
    what fails for one object is in the summary, and the next run tries it again.
    """
    summary = Summary()
    with Quarantine(host, patience_s=_PATIENCE_S) as quarantine:
        with contextlib.suppress(FileNotFoundError), _opened(host.taken_dir) as taken:
            collector = _Collector(host, quarantine, limits, summary, taken)
            give_up = time.monotonic() + patience_s
            while collector.run(give_up) or collector.judge(judging):
                _evict(quarantine, limits, summary)
        _evict(quarantine, limits, summary)
    return summary


def _evict(quarantine: Quarantine, limits: Limits, summary: Summary) -> None:
    try:
        summary.evicted += quarantine.evict(limits, time.time())
        summary.size_bytes = quarantine.size()
    except OSError as error:
        raise FileError(f"{quarantine.where}: {error.strerror}") from error


@contextlib.contextmanager
def _opened(where: str) -> Iterator[int]:
    try:
        descriptor = os.open(where, _DIRECTORY)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileError(f"{where}: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _WaitingError(Exception):
    """An object whose record is not written yet."""


@dataclass(slots=True)
class _Collector:
    """One run over the taken directory."""

    host: Host
    quarantine: Quarantine
    limits: Limits
    summary: Summary
    taken: int
    given_up: set[str] = field(default_factory=set)
    moved: list[str] = field(default_factory=list)

    def run(self, give_up: float) -> bool:
        """Collect what is there now; True when there may be more, and then it has waited for it.

        What is under a lease, or has no record yet, is left for the next time until ``give_up`` (steady
        clock), and is counted as left then.
        """
        names = {name.removesuffix(".new").removesuffix(".json") for name in os.listdir(self.taken)}
        todo = {name for name in names if _ID.fullmatch(name)} - self.given_up
        later = self._attempt(sorted(todo))
        if not todo:
            return False
        if later.keys() < todo:
            return True
        if time.monotonic() < give_up:
            time.sleep(_POLL_S)
            return True
        self.summary.waiting = sum(not why for why in later.values())
        self.summary.failed += [(one, why) for one, why in later.items() if why]
        self.given_up |= later.keys()
        return False

    def judge(self, judging: Judging | None) -> bool:
        """Have what was moved since the last time judged; True when there was any, for more may have come."""
        moved, self.moved = self.moved, []
        if judging is None or not moved:
            return False
        judging(self.quarantine, moved)
        return True

    def _attempt(self, identifiers: list[str]) -> dict[str, str]:
        """Collect objects; return those that have to wait, with the reason where it is a failure."""
        later = {}
        for identifier in identifiers:
            try:
                with contextlib.ExitStack() as stack:
                    self._collect(identifier, stack)
            except _WaitingError:
                later[identifier] = ""
            except BlockingIOError:
                later[identifier] = "a process holds a write lease on it"
            except OSError as error:
                self.given_up.add(identifier)
                self.summary.failed.append((identifier, error.strerror or str(error)))
        return later

    def _collect(self, identifier: str, stack: contextlib.ExitStack) -> None:
        """Record, then remove, one object. Each step finds what an earlier run already did."""
        told = read_record(self.taken, f"{identifier}.json")
        if told is None:
            if self._is_in_flight(identifier):
                raise _WaitingError
            told = read_record(self.taken, f"{identifier}.json.new")  # it died before the rename
        directory, name = self._place(identifier, told, stack)
        found = None
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        known = self.quarantine.read_record(identifier)
        if known is None:
            record = {**told, "id": identifier} if told else _recovered(identifier, found)
            self._record(record, directory, name, found)
        elif told is not None and known.get("recovered"):  # the record came after all
            self.quarantine.write_record({**known, **told, "id": identifier, "recovered": False})
        if found is not None:
            with contextlib.suppress(FileNotFoundError):
                remove(directory, name)
        if directory != self.taken:
            leave_beside(directory)
        for record_name in (f"{identifier}.json", f"{identifier}.json.new"):
            with contextlib.suppress(FileNotFoundError):
                remove(self.taken, record_name)
        self.summary.collected += 1
        self.moved.append(identifier)

    def _place(self, identifier: str, told: Record | None, stack: contextlib.ExitStack) -> tuple[int, str]:
        """Return directory and name of the object: taken/, or where another mount made it stay."""
        at = told.get("at") if told else None
        if not isinstance(at, str):
            return self.taken, identifier
        parent, name = os.path.split(at)
        if name != f"taken-{identifier}" or not parent.startswith("/"):
            raise OSError(0, f"its record names a place that is not its own: {at!r:.200}")
        root = os.open("/", _DIRECTORY)
        stack.callback(os.close, root)
        try:
            directory = open_beneath(root, parent.lstrip("/") or ".", os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # the directory went with the object
            return self.taken, identifier
        stack.callback(os.close, directory)
        return directory, name

    def _is_in_flight(self, identifier: str) -> bool:
        """Return whether the guard may be between the rename and the record."""
        if not guard_is_alive(self.host):
            return False
        age_s = time.time() - time_of(identifier)
        return 0 <= age_s < _SETTLE_S

    def _record(self, record: Record, directory: int, name: str, found: os.stat_result | None) -> None:
        """Write the record of an object, its content stored before."""
        full = {**record, "digest": "", "stored": "attributes"}
        if found is not None:
            full.update(self._describe(record, directory, name, found))
        elif not record.get("mended"):
            full["gone"] = True
        self.quarantine.write_record(full)
        self.summary.recovered += bool(full.get("recovered"))
        self.summary.truncated += full["stored"] == "truncated"
        self.summary.unstable += bool(full.get("unstable"))

    def _describe(self, record: Record, directory: int, name: str, found: os.stat_result) -> Record:
        """Return what is added to the record: content of a file, a listing of a directory."""
        kind = file_type(found.st_mode)
        facts: Record = _attributes(found) if record.get("kind") != kind.value else {}
        keeps_content = record.get("cls") != Class.ATTRIBUTES.value  # secrets are never copied
        if kind is FileType.SYMLINK:
            facts["target"] = os.readlink(name, dir_fd=directory)
        elif kind is FileType.DEVICE:
            facts["device"] = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        elif kind in {FileType.FILE, FileType.DIRECTORY}:
            flags = os.O_DIRECTORY if kind is FileType.DIRECTORY else 0
            descriptor = open_beneath(directory, name, _READ | flags, resolve=STRICT | NO_XDEV)
            try:
                facts.update(_hidden_attributes(descriptor))
                if kind is FileType.DIRECTORY:
                    budget = self.limits.object_bytes if keeps_content else 0
                    facts.update(_Listing(self.quarantine, descriptor, budget).facts())
                elif keeps_content:
                    facts.update(self._content(descriptor))
            finally:
                os.close(descriptor)
        return facts

    def _content(self, descriptor: int) -> Record:
        """Store the bytes of a file as stat, read, stat: a writer may still hold it open."""
        before = os.fstat(descriptor)
        stored = self.quarantine.store(descriptor, self.limits.object_bytes)
        facts: Record = {
            "digest": stored.digest,
            "stored": "truncated" if stored.truncated else "whole",
        }
        if _identity(before) != _identity(os.fstat(descriptor)):
            facts["unstable"] = True
        return facts


class _Listing:
    """What is kept of a directory: up to ENTRIES_LISTED entries, small files with their content."""

    def __init__(self, quarantine: Quarantine, top: int, budget: int) -> None:
        self._quarantine = quarantine
        self._top = top
        self._budget = budget
        self._entries: list[Record] = []
        self._is_whole = budget > 0

    def facts(self) -> Record:
        """Return the listing, breadth first, names relative to the directory."""
        waiting: deque[str] = deque([""])
        while waiting and len(self._entries) < ENTRIES_LISTED:
            prefix = waiting.popleft()
            try:
                directory = self._open(prefix or ".", os.O_DIRECTORY)
            except OSError:  # a mount point, or gone since it was listed
                self._is_whole = False
                continue
            try:
                waiting.extend(self._list(directory, prefix))
            finally:
                os.close(directory)
        if waiting:
            self._is_whole = False
        stored = "whole" if self._is_whole else "truncated" if self._budget else "attributes"
        return {"entries": self._entries, "stored": stored}

    def _list(self, directory: int, prefix: str) -> Iterator[str]:
        """Append the entries of one directory; yield the directories among them."""
        with os.scandir(directory) as entries:
            for entry in entries:
                if len(self._entries) >= ENTRIES_LISTED:
                    self._is_whole = False
                    return
                name = f"{prefix}/{entry.name}" if prefix else entry.name
                with contextlib.suppress(FileNotFoundError):
                    found = os.stat(entry.name, dir_fd=directory, follow_symlinks=False)
                    listed: Record = {"name": name, **_attributes(found)}
                    self._entries.append(listed)
                    if stat.S_ISLNK(found.st_mode):
                        listed["target"] = os.readlink(entry.name, dir_fd=directory)
                    elif stat.S_ISREG(found.st_mode):
                        self._keep(name, found, listed)
                    elif stat.S_ISDIR(found.st_mode):
                        if name.count("/") < _DEPTH_LISTED:
                            yield name
                        else:
                            self._is_whole = False

    def _keep(self, name: str, found: os.stat_result, listed: Record) -> None:
        """Store a file of the directory if it fits what is left of the budget."""
        if found.st_size > self._budget:
            self._is_whole = False
            return
        try:
            descriptor = self._open(name, 0)
        except OSError:  # under a lease, a mount point, gone
            self._is_whole = False
            return
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                stored = self._quarantine.store(descriptor, self._budget)
                listed["digest"] = stored.digest
                self._budget -= stored.size
                self._is_whole = self._is_whole and not stored.truncated
        finally:
            os.close(descriptor)

    def _open(self, name: str, flags: int) -> int:
        return open_beneath(self._top, name, _READ | flags, resolve=STRICT | NO_XDEV)


def _recovered(identifier: str, found: os.stat_result | None) -> Record:
    """Return the record of an object whose own was lost in a crash of the guard."""
    moment = time_of(identifier) or (found.st_ctime if found else 0.0)
    return {
        "id": identifier,
        "recovered": True,
        "path": "",
        "drift": [],
        "incident": identifier,
        "time": datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds"),
        "time_ns": int(moment * 1e9),
        "who": {},
        **(_attributes(found) if found else {}),
    }


def _attributes(found: os.stat_result) -> Record:
    return {
        "kind": file_type(found.st_mode).value,
        "uid": found.st_uid,
        "gid": found.st_gid,
        "mode": stat.S_IMODE(found.st_mode),
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
    }


def _hidden_attributes(descriptor: int) -> Record:
    """Return what stat(2) does not tell: inode flags, and extended attributes with ACLs."""
    facts: Record = {"flags": flags_of(descriptor) or ""}
    with contextlib.suppress(OSError):  # changed while they were read
        xattrs = xattrs_of(descriptor)
        room = sum(len(name) + len(value) for name, value in xattrs) <= _XATTR_BYTES
        facts["xattrs"] = [[name, value if room else ""] for name, value in xattrs]
    return facts


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns
