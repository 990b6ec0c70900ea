# SPDX-License-Identifier: Apache-2.0
"""The control socket: one JSON line in, one out; root only, checked by the kernel's word."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator

from hardend.errors import ProtocolError, UnreachableError
from hardend.model import Host

_LINE_LIMIT = 64 << 10
_CLIENTS = 16
_CREDENTIALS = struct.Struct("3i")

Request = dict[str, object]
Reply = dict[str, object]


def ask(host: Host, request: Request, timeout_s: float = 30.0) -> Reply:
    """Send one request to the guard and return its reply.

    Raises UnreachableError when no guard answers in time.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            with _address(host) as address:
                connection.connect(address)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline(_LINE_LIMIT * 16)
        reply = json.loads(line)
    except (OSError, ValueError, RecursionError) as error:
        raise UnreachableError(
            f"the guard does not answer on {host.control_socket}: {error}",
            hint="systemctl status hardend",
        ) from error
    if not isinstance(reply, dict):
        raise UnreachableError(f"the guard answered {line!r:.80}")
    return reply


@contextlib.contextmanager
def _address(host: Host) -> Iterator[str]:
    """Give an address that fits sun_path (108 bytes), also for a tree far down."""
    if len(os.fsencode(host.control_socket)) < 100:  # noqa: PLR2004
        yield host.control_socket
        return
    descriptor = os.open(host.run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/control"
    finally:
        os.close(descriptor)


def parse_request(line: bytes) -> Request:
    """Return a request. Raises ProtocolError for anything that is not one."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("not JSON") from error
    if not isinstance(request, dict) or not isinstance(request.get("verb"), str):
        raise ProtocolError('not an object with a "verb"')
    return request


class ControlServer:
    """Serves requests from the guard's own loop; never blocks, whatever a client does."""

    def __init__(
        self, host: Host, epoll: select.epoll, answer: Callable[[Request], Reply]
    ) -> None:
        self._epoll = epoll
        self._answer = answer
        self._clients: dict[int, tuple[socket.socket, bytearray]] = {}
        os.makedirs(host.run_dir, 0o755, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(host.control_socket)
        self._listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        before = os.umask(0o177)
        try:
            with _address(host) as address:
                self._listener.bind(address)
        finally:
            os.umask(before)
        self._listener.listen(_CLIENTS)
        epoll.register(self._listener.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Close the listener and every client; the socket stays for the next guard to replace."""
        for descriptor in list(self._clients):
            self._drop(descriptor)
        self._listener.close()

    def owns(self, descriptor: int) -> bool:
        """Return whether an event of this descriptor is ours to handle."""
        return descriptor == self._listener.fileno() or descriptor in self._clients

    def handle(self, descriptor: int) -> None:
        """Handle one event."""
        if descriptor == self._listener.fileno():
            self._accept()
        elif descriptor in self._clients:
            try:
                self._serve(descriptor)
            except (OSError, BlockingIOError):
                self._drop(descriptor)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            client.setblocking(False)
            credentials = client.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
            )
            if _CREDENTIALS.unpack(credentials)[1] != 0:
                client.close()
                return
            if len(self._clients) >= _CLIENTS:
                self._drop(next(iter(self._clients)))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LINE_LIMIT * 4)
            self._clients[client.fileno()] = (client, bytearray())
            self._epoll.register(client.fileno(), select.EPOLLIN)

    def _serve(self, descriptor: int) -> None:
        client, buffer = self._clients[descriptor]
        try:
            part = client.recv(_LINE_LIMIT)
        except BlockingIOError:
            return  # an event without anything to read ends no conversation
        buffer += part
        if b"\n" not in buffer and part and len(buffer) <= _LINE_LIMIT:
            return
        line = bytes(buffer).partition(b"\n")[0]
        if line:
            try:
                reply = self._answer(parse_request(line))
            except ProtocolError as error:
                reply = {"ok": False, "error": str(error)}
            client.send(json.dumps(reply).encode() + b"\n")
        self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        client, _ = self._clients.pop(descriptor)
        with contextlib.suppress(OSError):
            self._epoll.unregister(descriptor)
        client.close()
