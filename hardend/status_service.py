# SPDX-License-Identifier: Apache-2.0
"""The status service: one thread and one epoll loop for all who may ask, each of them bounded.

A client costs others nothing: it is read and written without blocking, one call a turn; what it sends
has a limit in bytes, what it does a limit in time; a user has a number of connections, and another one
takes the place of the same user's stalest. The guard is not asked at all (``status_view``).
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import stat
import struct
import time
from dataclasses import dataclass, field

from hardend.errors import ProtocolError, RefusedError
from hardend.model import Host
from hardend.status_answers import MONITOR, Answers
from hardend.status_view import Outlook
from hardend.varlink import MESSAGE_LIMIT, VarlinkError, error_message, parse_call, take_message

_FIRST_FD = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
_CREDENTIALS = struct.Struct("3i")
_ACCEPTS = 16  # in one turn, so that a crowd at the door does not keep those inside waiting


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take. Times in seconds."""

    clients: int = 128
    clients_of_a_user: int = 32
    silent_s: float = 30.0  # connected, without asking anything
    message_s: float = 5.0  # from the first byte of a call to its last
    reply_s: float = 10.0  # until a reply is taken
    pending_bytes: int = 64 << 20  # replies of all that are not taken
    monitor_s: float = 0.25  # between two looks for those who monitor; the guard publishes as often
    idle_s: float = 60.0  # without a client, until the service leaves


@dataclass(slots=True, eq=False)
class _Client:
    socket: socket.socket
    uid: int
    deadline: float
    active: float  # when it connected or was last answered
    incoming: bytearray = field(default_factory=bytearray)
    outgoing: memoryview = field(default_factory=lambda: memoryview(b""))
    monitors: bool = False
    seen: bytes = b""  # what it was told last by the monitor
    ended: bool = False  # it will not send anything more
    events: int = select.EPOLLIN

    @property
    def has_call(self) -> bool:
        """Whether a whole call of it waits to be answered."""
        return not self.monitors and not self.outgoing and 0 in self.incoming


class StatusService:
    """Serves ``listener``, a listening Unix socket, until nobody has been there for a while."""

    def __init__(self, host: Host, listener: socket.socket, limits: Limits | None = None) -> None:
        self._answers = Answers(Outlook(host))
        self._limits = limits or Limits()
        self._listener = listener
        self._epoll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self._left_alone = time.monotonic()
        self._next_look = 0.0
        listener.setblocking(False)
        self._epoll.register(listener.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Serve until no client has been there for ``idle_s``. Who comes then starts the next one."""
        while self._clients or time.monotonic() - self._left_alone < self._limits.idle_s:
            self.turn(self._timeout())

    def close(self) -> None:
        """Let every client go and close the epoll descriptor; the listener is the caller's."""
        for client in list(self._clients.values()):
            self._drop(client)
        self._epoll.close()

    def turn(self, timeout_s: float) -> bool:
        """Wait so long for something to do, and do it; returns whether there was anything."""
        ready = self._epoll.poll(timeout_s)
        for descriptor, _ in ready:
            if client := self._clients.get(descriptor):
                self._guarded(client)
        waiting = [client for client in self._clients.values() if client.has_call]
        for client in waiting:
            self._answer_one(client)
        if any(descriptor == self._listener.fileno() for descriptor, _ in ready):
            self._accept()
        now = time.monotonic()
        self._tell_monitors(now)
        self._look_at_the_clock(now)
        return bool(ready or waiting)

    def _timeout(self) -> float:
        if any(client.has_call for client in self._clients.values()):
            return 0.0
        now = time.monotonic()
        due = min((client.deadline for client in self._clients.values()), default=math.inf)
        if any(client.monitors for client in self._clients.values()):
            due = min(due, self._next_look)
        if not self._clients:
            due = self._left_alone + self._limits.idle_s
        return max(0.0, min(due - now, self._limits.idle_s))

    # Coming and going -----------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # it is gone again, or we are out of descriptors
                self._drop_stalest(list(self._clients.values()))
                return
            self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            connection.close()
            return
        uid = _CREDENTIALS.unpack(said)[1]
        self._make_room(uid)
        now = time.monotonic()
        client = _Client(connection, uid, deadline=now + self._limits.silent_s, active=now)
        self._clients[connection.fileno()] = client
        self._epoll.register(connection.fileno(), client.events)

    def _make_room(self, uid: int) -> None:
        """Let the stalest client of the same user go, or of the user who has most of them."""
        by_user: dict[int, list[_Client]] = {}
        for client in self._clients.values():
            by_user.setdefault(client.uid, []).append(client)
        if len(by_user.get(uid, ())) >= self._limits.clients_of_a_user:
            self._drop_stalest(by_user[uid])
        elif len(self._clients) >= self._limits.clients:
            self._drop_stalest(max(by_user.values(), key=len))

    def _drop_stalest(self, clients: list[_Client]) -> None:
        """A monitor that keeps up with its stream is the last to go: it is silent by nature."""
        if clients:
            self._drop(min(clients, key=lambda each: (each.monitors and not each.outgoing, each.active)))

    def _drop(self, client: _Client) -> None:
        descriptor = client.socket.fileno()
        if self._clients.get(descriptor) is client:
            del self._clients[descriptor]
            with contextlib.suppress(OSError):
                self._epoll.unregister(descriptor)
            client.socket.close()
            self._left_alone = time.monotonic()

    # One client -----------------------------------------------------------------------------------

    def _guarded(self, client: _Client) -> None:
        """Read and write; a client whose connection fails is let go."""
        try:
            if client.outgoing:
                self._write(client)
            elif not client.has_call:
                self._read(client)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)

    def _read(self, client: _Client) -> None:
        part = client.socket.recv(MESSAGE_LIMIT)
        now = time.monotonic()
        if part and not client.incoming and not client.monitors:
            client.deadline = now + self._limits.message_s
        client.incoming += part
        client.ended = not part
        if not client.has_call and (client.ended or len(client.incoming) >= MESSAGE_LIMIT):
            self._drop(client)

    def _write(self, client: _Client) -> None:
        client.outgoing = client.outgoing[client.socket.send(client.outgoing) :]
        if not client.outgoing:
            self._rest(client)

    def _rest(self, client: _Client) -> None:
        """Nothing is owed to a client: wait for its next call, or for what it monitors."""
        client.outgoing = memoryview(b"")
        client.active = now = time.monotonic()
        if client.ended and not client.has_call:
            self._drop(client)
            return
        limits = self._limits
        client.deadline = now + (limits.message_s if client.incoming else limits.silent_s)
        if client.monitors:
            client.deadline = math.inf
        self._wait_for(client, 0 if client.ended else select.EPOLLIN)

    def _wait_for(self, client: _Client, events: int) -> None:
        if events != client.events:
            client.events = events
            self._epoll.modify(client.socket.fileno(), events)

    def _answer_one(self, client: _Client) -> None:
        """Answer the first call of a client; what is no call ends the connection."""
        try:
            message = take_message(client.incoming)
            if message is None:
                return
            self._serve(client, message)
        except (ProtocolError, OSError):
            self._drop(client)

    def _serve(self, client: _Client, message: bytes) -> None:
        try:
            call = parse_call(message)
        except VarlinkError as error:
            self._send(client, error_message(error))
            return
        if call.more and call.method == MONITOR and not call.parameters and not call.oneway:
            if client.ended:  # nobody is there to read on
                self._drop(client)
                return
            client.monitors = True
            client.seen = self._answers.stream()
            self._send(client, client.seen)
            return
        reply = self._answers.answer(call)
        self._send(client, b"" if call.oneway else reply)

    def _send(self, client: _Client, data: bytes) -> None:
        client.outgoing = memoryview(data)
        with contextlib.suppress(BlockingIOError):
            client.outgoing = client.outgoing[client.socket.send(data) :] if data else client.outgoing
        if not client.outgoing:
            self._rest(client)
            return
        client.deadline = time.monotonic() + self._limits.reply_s
        self._wait_for(client, select.EPOLLOUT)
        owed = sum(len(each.outgoing) for each in self._clients.values())
        if owed > self._limits.pending_bytes:
            self._drop_stalest([each for each in self._clients.values() if each.outgoing])

    # Time -----------------------------------------------------------------------------------------

    def _tell_monitors(self, now: float) -> None:
        """Tell those who monitor what is new; who has not taken the last reply gets a later one."""
        if now < self._next_look:
            return
        self._next_look = now + self._limits.monitor_s
        monitors = [each for each in self._clients.values() if each.monitors and not each.outgoing]
        if not monitors:
            return
        news = self._answers.stream()
        for client in monitors:
            if client.seen != news:
                client.seen = news
                try:
                    self._send(client, news)
                except OSError:
                    self._drop(client)

    def _look_at_the_clock(self, now: float) -> None:
        for client in [each for each in self._clients.values() if each.deadline <= now]:
            self._drop(client)


def activated() -> socket.socket:
    """Return the listening socket that systemd handed over, as sd_listen_fds(3) has it, once.

    Raises RefusedError when this process was not started by a socket unit with one Unix socket.
    """
    given = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if given != ("1", str(os.getpid())):
        raise _not_activated()
    try:
        if not stat.S_ISSOCK(os.fstat(_FIRST_FD).st_mode):
            raise _not_activated()
        os.set_inheritable(_FIRST_FD, False)
        listener = socket.socket(fileno=_FIRST_FD)
    except OSError as error:
        raise _not_activated() from error
    if listener.family != socket.AF_UNIX or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise _not_activated()
    return listener


def _not_activated() -> RefusedError:
    return RefusedError(
        "the status service is started by its socket",
        hint="systemctl enable --now hardend-status.socket",
    )
