# SPDX-License-Identifier: Apache-2.0
"""The outcome, not the files: does the MTA answer after it was told to load its configuration."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass

_GREETING_BYTES = 4096
_SMTP_PORTS = frozenset({"", "smtp", "25"})
_ANY = frozenset({"", "0.0.0.0", "::", "*"})  # noqa: S104 - what the daemon listens on, not we


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the MTA said first: ``text`` is "" when it said nothing in time, ``why`` says why."""

    text: str
    why: str = ""

    @property
    def is_welcome(self) -> bool:
        """Whether the MTA takes mail: a complete line of code 220 (RFC 5321, 4.2)."""
        return self.text[:3] == "220" and self.text[3:4] in {" ", "-"}


def listening_address(options: tuple[str, ...]) -> tuple[str, int]:
    """Return where the daemon answers SMTP on this host, from its DaemonPortOptions (op guide 5.6).

    The first daemon on port 25; 127.0.0.1 and 25 where none says otherwise. A name or an address of
    another host's family stays as it is written.
    """
    found = [_address(option.partition("=")[2]) for option in options if _is_daemon(option)]
    smtp = [item for item in found if item is not None]
    on_25 = [item for item in smtp if item[1] == 25]  # noqa: PLR2004 - SMTP
    return (on_25 or smtp or [("127.0.0.1", 25)])[0]


def _is_daemon(option: str) -> bool:
    return option.partition("=")[0].lower() == "daemonportoptions"


def _address(text: str) -> tuple[str, int] | None:
    """Return address and port of one daemon; None for a UNIX socket. A key is its first letter."""
    values = {"F": "inet", "A": "", "P": ""}
    for item in text.split(","):
        key, _, value = item.strip().partition("=")
        values[key.strip()[:1].upper()] = value.strip()
    family = values["F"].lower()
    if family in {"local", "unix"}:
        return None
    port = 25
    if values["P"].lower() not in _SMTP_PORTS:
        try:
            port = int(values["P"]) if values["P"].isdigit() else socket.getservbyname(values["P"])
        except OSError:
            return None
    loopback = "::1" if family == "inet6" else "127.0.0.1"
    return (loopback if values["A"] in _ANY else values["A"]), port


def greeting(address: str = "127.0.0.1", port: int = 25, *, within_s: float = 15.0) -> Greeting:
    """Return the greeting of the MTA; waits while it is refused, at most ``within_s``."""
    deadline = time.monotonic() + within_s
    why = "no answer"
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((address, port), timeout=left_s) as connection:
                line = _first_line(connection, deadline)
                with contextlib.suppress(OSError):
                    connection.sendall(b"QUIT\r\n")
            return Greeting(line, "" if line else "it accepted and said nothing")
        except OSError as error:
            why = error.strerror or str(error)
            time.sleep(min(0.2, left_s))
    return Greeting("", f"{address} port {port}: {why}")


def _first_line(connection: socket.socket, deadline: float) -> str:
    """Read the first line, bounded in bytes and time; "" when the peer hangs up first."""
    data = b""
    while b"\n" not in data and len(data) < _GREETING_BYTES:
        connection.settimeout(max(0.05, deadline - time.monotonic()))
        part = connection.recv(_GREETING_BYTES)
        if not part:
            return ""
        data += part
    return data.partition(b"\n")[0].decode("ascii", "backslashreplace").strip()
