# SPDX-License-Identifier: Apache-2.0
"""A short dialogue with an SMTP server (RFC 5321, 4.2), bounded in time and in bytes.

The server may be anything: what it says is text to be judged, garbage ends the dialogue with a reason.
Every dialogue that was begun ends with QUIT.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LINE_LIMIT = 4096  # bytes; RFC 5321, 4.5.3.1.5 allows 512
REPLY_LINES = 128
DIALOGUE_LIMIT = 64 << 10  # bytes of all replies
_PIECE = 4096
_REPLY = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?")
_QUIT_S = 2.0  # for the last reply, which nobody reads

GREETING = ""  # under this key stands what the server said first


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply: its code, and its lines without the code."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The first line, with the code, as it came."""
        return f"{self.code} {self.lines[0]}"


@dataclass(frozen=True, slots=True)
class Dialogue:
    """The replies by command (``GREETING`` for the first), and why it ended early, "" when it did not.

    ``refused``: nothing listens there.
    """

    replies: Mapping[str, Reply] = field(default_factory=dict)
    why: str = ""
    refused: bool = False


class _SpeechError(Exception):
    """What the server sent is no reply; the text says why."""


def converse(
    address: str, port: int, commands: Sequence[str], *, within_s: float, tls: bool = False
) -> Dialogue:
    """Say the commands one after the other and return the replies; never raises for what the server does.

    The whole takes at most ``within_s`` seconds and two more for QUIT. A name is looked up first, within
    the resolver's own limits. ``tls``: the server speaks TLS from the first byte on (M=s).
    """
    deadline = time.monotonic() + within_s
    replies: dict[str, Reply] = {}
    try:
        connection = _connect(address, port, within_s, tls=tls)
    except ConnectionRefusedError as error:
        return Dialogue(why=error.strerror or str(error), refused=True)
    except (OSError, ValueError) as error:  # ValueError: a name that no resolver takes
        return Dialogue(why=_reason(error, within_s))
    with connection:
        peer = _Peer(connection, deadline)
        try:
            replies[GREETING] = peer.reply()
            for command in commands:
                replies[command] = peer.ask(command)
        except (_SpeechError, OSError) as error:
            return Dialogue(replies, _reason(error, within_s))
        finally:
            peer.quit()
    return Dialogue(replies)


def _connect(address: str, port: int, within_s: float, *, tls: bool) -> socket.socket:
    connection = socket.create_connection((address, port), timeout=within_s)
    if not tls:
        return connection
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # our own listener is asked what it says, nothing is entrusted to it
    try:
        return context.wrap_socket(connection)
    except BaseException:
        connection.close()
        raise


def _reason(error: Exception, within_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {within_s:g} s"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)


class _Peer:
    """The server's side: replies are read to their last line and no further."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._buffer = b""
        self._taken = 0

    def ask(self, command: str) -> Reply:
        """Send a command and return the reply; a server that already said more is out of step."""
        if self._buffer:
            raise _SpeechError("it said more than it was asked")
        self._wait_until_deadline()
        self._connection.sendall(command.encode("ascii") + b"\r\n")
        return self.reply()

    def reply(self) -> Reply:
        lines: list[str] = []
        code = b""
        while len(lines) < REPLY_LINES:
            line = self._line()
            match = _REPLY.fullmatch(line)
            if match is None or (code and match[1] != code):
                said = line[:60].decode("ascii", "backslashreplace")
                raise _SpeechError(f"it does not speak SMTP: {said!a}")
            code = match[1]
            lines.append((match[3] or b"").decode("ascii", "backslashreplace"))
            if match[2] != b"-":
                return Reply(int(code), tuple(lines))
        raise _SpeechError(f"a reply of more than {REPLY_LINES} lines")

    def quit(self) -> None:
        """Say QUIT, whatever was before; a server that listens no more is no trouble."""
        self._deadline = time.monotonic() + _QUIT_S
        self._buffer = b""
        self._taken = 0
        with contextlib.suppress(OSError, _SpeechError):
            self._wait_until_deadline()
            self._connection.sendall(b"QUIT\r\n")
            self.reply()

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) >= LINE_LIMIT:
                raise _SpeechError(f"a line of more than {LINE_LIMIT} bytes")
            self._wait_until_deadline()
            piece = self._connection.recv(_PIECE)
            if not piece:
                raise _SpeechError("it hung up")
            self._taken += len(piece)
            if self._taken > DIALOGUE_LIMIT:
                raise _SpeechError(f"more than {DIALOGUE_LIMIT} bytes of replies")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.removesuffix(b"\r")

    def _wait_until_deadline(self) -> None:
        """Give the next operation of the socket the time that is left."""
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)
