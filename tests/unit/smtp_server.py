# SPDX-License-Identifier: Apache-2.0
"""A scripted SMTP server on a real socket: it says what it is told to, and keeps what it was told."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

QUIT = b"QUIT\r\n"
GREETING = b"220 mail.example.com ESMTP\r\n"
Talk = Callable[["Server", socket.socket], None]


@dataclass
class Server:
    """What became of one connection; complete when the ``with`` block has ended."""

    port: int = 0
    heard: list[bytes] = field(default_factory=list)
    sent: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def say(self, client: socket.socket, data: bytes) -> None:
        client.sendall(data)
        self.sent += len(data)

    def hear(self, client: socket.socket) -> bytes:
        """Return the next line, "" when the client hung up."""
        line = b""
        while not line.endswith(b"\n"):
            byte = client.recv(1)
            if not byte:
                return b""
            line += byte
        self.heard.append(line.strip())
        return line


@contextlib.contextmanager
def serving(talk: Talk, *, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serve one connection with ``talk``; what it trips over when the client is gone is no error."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener.getsockname()[1])

    def serve() -> None:
        with contextlib.suppress(OSError):
            client, _ = listener.accept()
            with tls.wrap_socket(client, server_side=True) if tls else client as spoken:
                talk(server, spoken)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(30)
        assert not thread.is_alive()


def answering(*answers: bytes, greeting: bytes = GREETING) -> Talk:
    """Greet, give one answer to each line, then hear what is left, until QUIT."""

    def talk(server: Server, client: socket.socket) -> None:
        server.say(client, greeting)
        for answer in answers:
            if server.hear(client) in {b"", QUIT}:
                return
            server.say(client, answer)
        silent(server, client)

    return talk


def saying(data: bytes) -> Talk:
    """Say this and listen to nothing."""

    def talk(server: Server, client: socket.socket) -> None:
        server.say(client, data)

    return talk


def flooding(piece: bytes) -> Talk:
    """Say the same for ever."""

    def talk(server: Server, client: socket.socket) -> None:
        while not server.over.is_set():
            server.say(client, piece)

    return talk


def silent(server: Server, client: socket.socket) -> None:
    """Say nothing, but hear, until QUIT."""
    while server.hear(client) not in {b"", QUIT}:
        pass


def dripping(server: Server, client: socket.socket) -> None:
    """Say a greeting that never ends, one byte at a time: each in time, the whole never."""
    while not server.over.is_set():
        server.say(client, b"2")
        time.sleep(0.02)
