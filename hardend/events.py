# SPDX-License-Identifier: Apache-2.0
"""Reading our events back from the journal. One thread only: a Reader must not be shared."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import systemd.journal

from hardend.errors import FileError, RefusedError
from hardend.journal import KINDS, QUEUED_TIME
from hardend.model import Host

_PREFIX = "HARDEND_"
_DIRECTORIES = ("/var/log/journal", "/run/log/journal")
_POLL_MS = 1000  # journald's files are also looked at without a wake-up: rotation, NFS
_CANDIDATES = 64  # of one event; the witness names eight
_KEPT_APART = frozenset({"EVENT", "PATH", "DRIFT", "STATE", "TIME_NS"})
_NUMBERS = frozenset({"generation", "latency_us", "who_pid", "who_uid", "who_loginuid"})

Entry = Mapping[str, Any]


class Reader(Protocol):
    """What is used of systemd.journal.Reader."""

    def add_match(self, **fields: str) -> None:
        """Admit entries with these fields: the same name again is "or", another name is "and"."""

    def seek_realtime(self, seconds: float) -> None:
        """Go to the first entry at that time or later."""

    def seek_cursor(self, cursor: str) -> None:
        """Go to the entry with that cursor, or to where it was."""

    def get_next(self) -> Entry:
        """Return the next entry, empty at the end."""

    def fileno(self) -> int:
        """Return what to poll for growth."""

    def get_events(self) -> int:
        """Return what to poll it for."""

    def process(self) -> int:
        """Take note of growth after a poll."""

    def close(self) -> None:
        """Close the journal."""


@dataclass(frozen=True, slots=True)
class Record:
    """One event as the journal has it.

    ``fields`` are the other HARDEND_ fields by lower-case name without prefix (``latency_us``,
    ``quarantine_id``, ``who_pid``), numbers as int where they are numbers.
    """

    time_ns: int
    event: str
    message: str
    priority: int
    path: str = ""
    drift: tuple[str, ...] = ()
    state: str = ""
    fields: Mapping[str, str | int] = field(default_factory=dict)
    cursor: str = ""

    def as_json(self) -> dict[str, object]:
        """Return the object that ``hardend events --json`` prints."""
        moment = datetime.fromtimestamp(self.time_ns / 1e9, UTC)
        document: dict[str, object] = {
            "time": moment.isoformat(timespec="microseconds"),
            "time_ns": self.time_ns,
            "event": self.event,
            "message": self.message,
            "priority": self.priority,
        }
        if self.path:
            document["path"] = self.path
        if self.drift:
            document["drift"] = list(self.drift)
        if self.state:
            document["state"] = self.state
        who: dict[str, object] = {
            name[4:]: value for name, value in self.fields.items() if name.startswith("who_")
        }
        if who:
            if (candidates := candidates_of(self)) or "candidates" in who:
                who["candidates"] = candidates
            document["who"] = who
        document.update((n, v) for n, v in self.fields.items() if not n.startswith("who_"))
        return document


@dataclass(frozen=True, slots=True)
class Query:
    """Which events: of ``path`` and below, of any of ``kinds``, since ``since`` (seconds), by ``who``.

    ``who`` is a program (its path or its last part), a unit (with or without ``.service``) or the
    number of a user, who may have become another since the login; also where it is one of several who may
    have done it. Events whose writer is not known
    are by nobody.
    """

    path: str = ""
    kinds: frozenset[str] = frozenset()
    since: float = 0.0
    who: str = ""

    def admits(self, record: Record) -> bool:
        """Return whether an event is one of those asked for."""
        return (
            (not self.kinds or record.event in self.kinds)
            and (not self.path or _is_at_or_below(record.path, self.path))
            and record.time_ns >= self.since * 1e9
            and (not self.who or self.who in _names(record))
        )


def records(
    host: Host,
    query: Query,
    *,
    follow: bool = False,
    open_reader: Callable[[Host], Reader] | None = None,
) -> Iterator[Record]:
    """Yield the events of the host in the journal's order; with ``follow`` wait for more, for ever.

    Raises FileError where there is no journal and RefusedError where this user may not read it.
    """
    reader = (open_reader or open_journal)(host)
    try:
        for event, kind in KINDS.items():
            if not query.kinds or event in query.kinds:
                reader.add_match(MESSAGE_ID=kind.message_id)
        reader.add_match(_UID="0")  # anybody may send our MESSAGE_ID; journald says who did
        if query.since:
            reader.seek_realtime(float(query.since))  # an int would be microseconds
        while True:
            while entry := reader.get_next():
                record = to_record(entry)
                if query.admits(record):
                    yield record
            if not follow:
                return
            _wait(reader)
    finally:
        reader.close()


class Follower:
    """Reads on where a former one stopped: behind ``cursor``, or from ``since`` (seconds) without one.

    ``cursor`` is that of the last event that was read. Raises as ``records`` does.
    """

    def __init__(self, host: Host, cursor: str, since: float) -> None:
        self.cursor = cursor
        self._reader = open_journal(host)
        for kind in KINDS.values():
            self._reader.add_match(MESSAGE_ID=kind.message_id)
        self._reader.add_match(_UID="0")
        try:
            if cursor:
                self._reader.seek_cursor(cursor)
        except (OSError, ValueError):
            cursor = ""  # none that is one
        if not cursor:
            self._reader.seek_realtime(float(since))

    def read(self, limit: int) -> list[Record]:
        """Return what is new, at most ``limit``."""
        found: list[Record] = []
        while len(found) < limit and (entry := self._reader.get_next()):
            record = to_record(entry)
            if record.cursor != self.cursor:  # where it stopped is read once more
                found.append(record)
            self.cursor = record.cursor
        return found

    def wait(self) -> None:
        """Wait until there may be more, a second at most."""
        _wait(self._reader)

    def close(self) -> None:
        """Close the journal."""
        self._reader.close()


def open_journal(host: Host) -> Reader:
    """Return a reader of the journal of this host, or of a tree. Raises FileError, RefusedError."""
    places = [host.at(where) for where in _DIRECTORIES]
    present = [where for where in places if os.path.isdir(where)]
    if not present:
        raise FileError(
            f"no journal on this host: neither {places[0]} nor {places[1]}",
            hint="without systemd-journald events go to the guard's standard error",
        )
    if not any(_may_read(where) for where in present):
        raise RefusedError(
            "the journal cannot be read by this user",
            hint="as root, or as a member of group adm or systemd-journal",
        )
    reader: Reader = systemd.journal.Reader(path=present[0]) if host.is_tree else systemd.journal.Reader()
    return reader


def to_record(entry: Entry) -> Record:
    """Return the event in a journal entry; fields that are missing or odd become empty."""
    texts = {
        name.removeprefix(_PREFIX): _text(value) for name, value in entry.items() if name.startswith(_PREFIX)
    }
    fields: dict[str, str | int] = {}
    for name, text in texts.items():
        if name not in _KEPT_APART:
            lower = name.lower()
            is_number = lower in _NUMBERS and text.isascii() and text.isdecimal()
            fields[lower] = int(text) if is_number else text
    priority = entry.get("PRIORITY")
    return Record(
        time_ns=_time_ns(entry),
        event=texts.get("EVENT", ""),
        message=_text(entry.get("MESSAGE", "")),
        priority=priority if isinstance(priority, int) else 6,
        path=texts.get("PATH", ""),
        drift=tuple(texts.get("DRIFT", "").split()),
        state=texts.get("STATE", ""),
        fields=fields,
        cursor=_text(entry.get("__CURSOR", "")),
    )


def _time_ns(entry: Entry) -> int:
    """Return when it happened: what the event says if it had to wait, else what journald says."""
    queued = _text(entry.get(QUEUED_TIME, ""))
    if queued.isascii() and queued.isdecimal():
        return int(queued)
    for name in ("_SOURCE_REALTIME_TIMESTAMP", "__REALTIME_TIMESTAMP"):
        stamp = entry.get(name)
        if isinstance(stamp, datetime):
            return round(stamp.timestamp() * 1e6) * 1000
    return 0


def _text(value: object) -> str:
    """Return the first value of a field; bytes of a path as Python has them."""
    if isinstance(value, list):
        value = value[0] if value else ""
    return os.fsdecode(value) if isinstance(value, bytes) else str(value)


def _names(record: Record) -> set[str]:
    """Return everything that the writer of a record may be called by."""
    known: dict[str, object] = {name[4:]: v for name, v in record.fields.items() if name.startswith("who_")}
    names: set[str] = set()
    for who in (known, *candidates_of(record)):
        exe, unit, uid, loginuid = (str(who.get(name, "")) for name in ("exe", "unit", "uid", "loginuid"))
        names |= {exe, exe.rpartition("/")[2], unit, unit.removesuffix(".service"), uid, loginuid}
    return names - {""}


def candidates_of(record: Record) -> list[dict[str, object]]:
    """Return the processes that may have done it, where it is not known which; what is none is left out."""
    try:
        found = json.loads(str(record.fields.get("who_candidates", "[]")))
    except (ValueError, RecursionError):
        return []
    return [one for one in found if isinstance(one, dict)][:_CANDIDATES] if isinstance(found, list) else []


def _is_at_or_below(path: str, top: str) -> bool:
    top = top.rstrip("/") or "/"
    return path == top or path.startswith(top if top == "/" else f"{top}/")


def _may_read(directory: str) -> bool:
    """Return whether any journal file in ``directory``/<machine id> can be opened."""
    try:
        machines = [entry.path for entry in os.scandir(directory) if entry.is_dir()]
        files = [entry.path for where in machines for entry in os.scandir(where)]
    except PermissionError:
        return False
    return not files or any(os.access(where, os.R_OK) for where in files)


def _wait(reader: Reader) -> None:
    """Wait until the journal may have grown."""
    waiting = select.poll()
    waiting.register(reader.fileno(), reader.get_events())
    waiting.poll(_POLL_MS)
    reader.process()
