# SPDX-License-Identifier: Apache-2.0
"""Telling the journal what happened, without ever waiting for it.

The native protocol of systemd-journald (systemd.io/JOURNAL_NATIVE_PROTOCOL) over a non-blocking
socket: sd_journal_sendv(3) as systemd-python calls it blocks with the interpreter's lock held, so a
stopped journald would stop the guard. What does not fit is queued, then counted; what must not be
lost is in the quarantine's records. Content of files never goes to the journal.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TextIO

from hardend.model import Host, printable

JOURNALD_SOCKET = "/run/systemd/journal/socket"
QUEUED_TIME = "HARDEND_TIME_NS"  # when it happened, on events that had to wait for journald

_FACILITY_MAIL = 2
_ERR, _WARNING, _NOTICE, _INFO = 3, 4, 5, 6
_WORDS = {_ERR: "error", _WARNING: "warning", _NOTICE: "notice", _INFO: "info"}

_QUEUE_EVENTS = 1000
_QUEUE_BYTES = 1 << 20
_FLUSH_AT_ONCE = 32  # datagrams in one go, 7 us each: a recovered journald never delays a restore
_LINE_BYTES = 4096  # PIPE_BUF: a pipe that polls writable takes this much without blocking
_SUN_PATH_BYTES = 107
_UNSURE = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ECONNREFUSED, errno.ENOENT, errno.ENOTCONN})
_INVALID = re.compile(r"[^A-Z0-9_]")
_NAME_LENGTH = 64  # journald drops a field with a longer name


class Event(StrEnum):
    """The kinds of events; each has its MESSAGE_ID, its priority and its catalog entry."""

    DRIFT_FOUND = "drift-found"
    PATH_RESTORED = "path-restored"
    PATH_CONTESTED = "path-contested"
    RESTORE_FAILED = "restore-failed"
    LOCK_REMOVED = "lock-removed"
    RULES_BROKEN = "rules-broken"
    DRIFT_ATTRIBUTED = "drift-attributed"
    MAP_VERIFIED = "map-verified"
    MAP_REBUILT = "map-rebuilt"
    MTA_RESTARTED = "mta-restarted"
    OUTCOME_FAILED = "outcome-failed"
    WINDOW_OPENED = "window-opened"
    WINDOW_CLOSED = "window-closed"
    WINDOW_EXPIRED = "window-expired"
    BASELINE_APPROVED = "baseline-approved"
    BASELINE_REJECTED = "baseline-rejected"
    BASELINE_FORCED = "baseline-forced"
    ENFORCEMENT_PAUSED = "enforcement-paused"
    ENFORCEMENT_RESUMED = "enforcement-resumed"
    OVERFLOW = "overflow"
    SELF_CHANGED = "self-changed"
    GUARD_STARTED = "guard-started"
    GUARD_STOPPED = "guard-stopped"


@dataclass(frozen=True, slots=True)
class Kind:
    """What is fixed for a kind of event: its MESSAGE_ID (never changed) and its PRIORITY."""

    message_id: str
    priority: int


KINDS: Mapping[Event, Kind] = {
    Event.DRIFT_FOUND: Kind("285fd6ec8a3f4c8eaa170994976837ff", _WARNING),
    Event.PATH_RESTORED: Kind("e000e09c72c94466a9e1c8930642bba1", _INFO),
    Event.PATH_CONTESTED: Kind("14791114a1444de79ec06a07d34f094c", _WARNING),
    Event.RESTORE_FAILED: Kind("81ec9e39f1c0453296077c09b83c0ae3", _ERR),
    Event.LOCK_REMOVED: Kind("763bf469a0ce4e569d9ef48a6d58f6a0", _WARNING),
    Event.RULES_BROKEN: Kind("b9588686622e41dfb8f58699dc6d1121", _WARNING),
    Event.DRIFT_ATTRIBUTED: Kind("202f99a2312b40368e86a62ca29b9ccd", _NOTICE),
    Event.MAP_VERIFIED: Kind("484c53c3596b4552be534d6f22ce0027", _INFO),
    Event.MAP_REBUILT: Kind("2e69d3e2847b47b89c6acde7d31f20eb", _INFO),
    Event.MTA_RESTARTED: Kind("58cbbb5c64c340f794cb736087ae989c", _NOTICE),
    Event.OUTCOME_FAILED: Kind("9359d26ae61c4ab1a1e9ea5e9a89d26c", _ERR),
    Event.WINDOW_OPENED: Kind("dd174497e3f2489fb43e9e44cded098b", _NOTICE),
    Event.WINDOW_CLOSED: Kind("16e51ba1466343938ec92977076dbd06", _NOTICE),
    Event.WINDOW_EXPIRED: Kind("2ab6a22cdbbc4fd08d53ceda838029cc", _WARNING),
    Event.BASELINE_APPROVED: Kind("b104a97ca03a415193a65bf5fe79c9f4", _NOTICE),
    Event.BASELINE_REJECTED: Kind("aed7085ccf7f48ba8a07203b2fd925d3", _WARNING),
    Event.BASELINE_FORCED: Kind("5570155709f047b3b8221bf562079e26", _WARNING),
    Event.ENFORCEMENT_PAUSED: Kind("89ce174e3af247a4b2f4ec7e073441e3", _WARNING),
    Event.ENFORCEMENT_RESUMED: Kind("1ddc7c43428946648a5e58f284e6415d", _NOTICE),
    Event.OVERFLOW: Kind("59ae520836664410b2fb003451efca93", _WARNING),
    Event.SELF_CHANGED: Kind("a3703da60fe04394b12d702be09b0847", _WARNING),
    Event.GUARD_STARTED: Kind("e3660ac5d6884f2bb45b70b4916ed469", _INFO),
    Event.GUARD_STOPPED: Kind("224162a6ecd849119af87e55c2d85fb6", _NOTICE),
}


class Journal:
    """The way to the journal; a host without journald (a tree, a container) gets lines on a stream.

    A field is named without its prefix (``path``, ``latency_us``); None and "" are left out, a list
    or tuple is joined with blanks, a mapping is spread: ``who={"pid": 1}`` is HARDEND_WHO_PID.
    """

    def __init__(self, host: Host, *, identifier: str = "hardend", stream: TextIO | None = None) -> None:
        # Not at the top: the CLI reads the table of events and needs no logger (13 MiB, 50 ms).
        import structlog  # noqa: PLC0415

        where = host.at(JOURNALD_SOCKET)
        self._sender: _Datagrams | _Lines
        render: Callable[[object, str, MutableMapping[str, Any]], object]
        if os.path.exists(where) and len(os.fsencode(where)) <= _SUN_PATH_BYTES:
            self._sender, render = _Datagrams(where), _to_datagram
        else:
            self._sender, render = _Lines(stream or sys.stderr, identifier), _to_line
        # A logger of our own and no structlog.configure: two journals in one process stay apart.
        self._log = structlog.wrap_logger(
            self._sender,
            processors=[_name_fields, render],
            wrapper_class=structlog.BoundLogger,
            context_class=dict,
        ).bind(heads=_heads(identifier))

    def event(self, kind: Event, message: str, /, **fields: object) -> None:
        """Send or queue one event. Never blocks and never raises."""
        self._log.send(message, kind=kind, fields=fields)

    def flush(self) -> None:
        """Send some of what is queued, if journald takes it now."""
        self._sender.flush()

    def close(self) -> None:
        """Try once more to send what is queued, then close the socket."""
        self._sender.close()

    @property
    def dropped(self) -> int:
        """How many events were lost because the queue was full."""
        return self._sender.dropped


def notify(state: str) -> bool:
    """Send ``state`` ("READY=1", "WATCHDOG=1") to the service manager as sd_notify(3) does.

    Never blocks and never raises; False when there is no manager or it did not take the message.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(
                os.fsencode(state),
                b"\0" + os.fsencode(address[1:]) if address[0] == "@" else os.fsencode(address),
            )
    except OSError:
        return False
    return True


class _Datagrams:
    """Native protocol datagrams with a bounded queue, in order."""

    def __init__(self, address: str) -> None:
        self.dropped = 0
        self._address = address
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def send(self, datagram: bytes) -> None:
        """Send, or queue, or count as dropped."""
        if self._waiting:
            self.flush()
        if not self._waiting and self._sent(datagram):
            return
        datagram += b"%s=%d\n" % (QUEUED_TIME.encode(), time.time_ns())
        size = self._waiting_bytes + len(datagram)
        if len(self._waiting) >= _QUEUE_EVENTS or size > _QUEUE_BYTES:
            self.dropped += 1
            return
        self._waiting.append(datagram)
        self._waiting_bytes = size

    def flush(self) -> None:
        """Send what waits, oldest first, at most ``_FLUSH_AT_ONCE``."""
        for _ in range(min(len(self._waiting), _FLUSH_AT_ONCE)):
            if not self._sent(self._waiting[0]):
                return
            self._waiting_bytes -= len(self._waiting.popleft())

    def close(self) -> None:
        """Flush all that is taken without waiting and close."""
        while before := len(self._waiting):
            self.flush()
            if len(self._waiting) == before:
                break
        self._socket.close()

    def _sent(self, datagram: bytes) -> bool:
        """Return False when it should be tried again; what journald can never take is dropped."""
        try:
            self._socket.sendto(datagram, self._address)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                return self._sent_as_file(datagram)
            if error.errno in _UNSURE:
                return False
            self.dropped += 1
        return True

    def _sent_as_file(self, datagram: bytes) -> bool:
        """Pass a datagram over the socket's limit as a sealed memfd, as the protocol has it."""
        try:
            descriptor = os.memfd_create("hardend-event", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            self.dropped += 1
            return True
        try:
            os.write(descriptor, datagram)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(4, sys.byteorder))]
            self._socket.sendmsg([], passed, 0, self._address)
        except OSError as error:
            if error.errno in _UNSURE:
                return False
            self.dropped += 1
        finally:
            os.close(descriptor)
        return True


class _Lines:
    """One readable line per event on a stream; a stream that would block loses the line."""

    def __init__(self, stream: TextIO, identifier: str) -> None:
        self.dropped = 0
        self._stream = stream
        self._prefix = f"{identifier}[{os.getpid()}]"
        self._poll: select.poll | None = None
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError, AttributeError):
            return  # not a file: cannot block
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def send(self, line: str) -> None:
        """Write the line, or count it as dropped."""
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        full = f"{moment} {self._prefix}: {line}"
        try:
            if self._poll is not None and not self._writable():
                self.dropped += 1
                return
            self._write(full)
        except (OSError, ValueError):
            self.dropped += 1

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Leave the stream to the caller."""

    def _writable(self) -> bool:
        ready = self._poll.poll(0) if self._poll is not None else []
        return bool(ready) and not ready[0][1] & (select.POLLERR | select.POLLHUP | select.POLLNVAL)

    def _write(self, full: str) -> None:
        data = full.encode(self._stream.encoding or "utf-8", "backslashreplace")[: _LINE_BYTES - 1]
        self._stream.write(data.decode(self._stream.encoding or "utf-8", "ignore") + "\n")
        self._stream.flush()


def _heads(identifier: str) -> dict[Event, bytes]:
    """Return what every datagram of a kind begins with."""
    return {
        event: (
            f"MESSAGE_ID={kind.message_id}\nPRIORITY={kind.priority}\n"
            f"SYSLOG_FACILITY={_FACILITY_MAIL}\nSYSLOG_IDENTIFIER={identifier}\n"
            f"HARDEND_EVENT={event}\n"
        ).encode()
        for event, kind in KINDS.items()
    }


def _name_fields(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Spread mappings, leave out what is unknown, make the names valid (structlog processor)."""
    event["fields"] = [
        (_field_name(name), value)
        for name, value in _spread(event["fields"].items())
        if value is not None and value not in ("", ())
    ]
    return event


def _spread(items: Iterable[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    for name, value in items:
        if isinstance(value, Mapping):
            yield from ((f"{name}_{part}", inner) for part, inner in value.items())
        elif isinstance(value, (list, tuple, set, frozenset)):
            words = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
            yield name, " ".join(str(word) for word in words)
        else:
            yield name, value


def _field_name(name: str) -> str:
    """Return the journal's name of a field: upper case, prefixed, nothing that journald refuses."""
    return ("HARDEND_" + _INVALID.sub("_", name.upper()))[:_NAME_LENGTH]


def _to_datagram(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[bytes], dict[str, Any]]:
    """Return the datagram: values with their length, so that no newline in one begins a field."""
    parts = [event["heads"][event["kind"]], _framed("MESSAGE", _one_line(event["event"]))]
    parts.extend(_framed(name, value) for name, value in event["fields"])
    return (b"".join(parts),), {}


def _framed(name: str, value: object) -> bytes:
    data = value if isinstance(value, bytes) else _encoded(str(value))
    return b"%s\n%s%s\n" % (name.encode("ascii"), len(data).to_bytes(8, "little"), data)


def _encoded(text: str) -> bytes:
    """Return the bytes of a path as the kernel has them, of other text as UTF-8."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def _to_line(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[str], dict[str, Any]]:
    """Return the readable form: priority, kind, message, and the fields as name=value."""
    kind: Event = event["kind"]
    words = [f"{_WORDS[KINDS[kind].priority]}: {kind}: {_one_line(event['event'])}"]
    for name, value in event["fields"]:
        text = os.fsdecode(value) if isinstance(value, bytes) else str(value)
        words.append(f"{name.removeprefix('HARDEND_').lower()}={_one_line(text)}")
    return (" ".join(words),), {}


def _one_line(message: str) -> str:
    """Return text that cannot end its line in mail.log, nor command a terminal."""
    if message.isprintable():
        return message
    try:
        return printable(message)
    except UnicodeEncodeError:  # lone surrogates, from JSON of a peer: no path has them
        return ascii(message)[1:-1]
