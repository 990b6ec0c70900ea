# SPDX-License-Identifier: Apache-2.0
"""Whether the MTA greets, and where it is asked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hardend.probe import greeting, listening_address


@contextmanager
def server(*answers: bytes, after_s: float = 0.0) -> Iterator[int]:
    """Answer one connection with these pieces, then hang up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        time.sleep(after_s)
        client, _ = listener.accept()
        with client:
            for answer in answers:
                client.sendall(answer)
                time.sleep(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    thread.join(5)
    listener.close()


def test_a_greeting_is_read_and_is_welcome() -> None:
    with server(b"220 mail.example.com ESMTP\r\n") as port:
        answer = greeting("127.0.0.1", port, within_s=5)
    assert answer.is_welcome
    assert answer.text == "220 mail.example.com ESMTP"


def test_a_greeting_in_pieces_is_one_line() -> None:
    with server(b"22", b"0 mail", b".example.com\r\n") as port:
        assert greeting("127.0.0.1", port, within_s=5).text == "220 mail.example.com"


@pytest.mark.parametrize("said", [b"554 no\r\n", b"421 later\r\n", b"2200 x\r\n", b"\xff\xfe\n"])
def test_another_code_is_no_welcome(said: bytes) -> None:
    with server(said) as port:
        assert not greeting("127.0.0.1", port, within_s=5).is_welcome


def test_a_daemon_that_hangs_up_is_no_welcome() -> None:
    with server() as port:
        answer = greeting("127.0.0.1", port, within_s=5)
    assert not answer.is_welcome
    assert answer.why


def test_a_daemon_that_says_nothing_is_given_up() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    answer = greeting("127.0.0.1", listener.getsockname()[1], within_s=0.3)
    listener.close()
    assert not answer.is_welcome
    assert answer.why


def test_a_flood_without_a_line_end_is_bounded() -> None:
    with server(b"2" * 3000, b"2" * 3000) as port:
        assert not greeting("127.0.0.1", port, within_s=5).is_welcome


def test_a_refused_connection_is_tried_again_and_named() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    answer = greeting("127.0.0.1", port, within_s=0.3)
    assert answer.why == f"127.0.0.1 port {port}: Connection refused"


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ((), ("127.0.0.1", 25)),
        (("DaemonPortOptions=Name=MTA",), ("127.0.0.1", 25)),
        (("DaemonPortOptions=Family=inet,  Name=MTA-v4, Port=smtp, Addr=192.0.2.1",), ("192.0.2.1", 25)),
        (("DaemonPortOptions=F=inet6, A=::, P=25",), ("::1", 25)),
        (("DaemonPortOptions=Port=2525, Addr=127.0.0.1",), ("127.0.0.1", 2525)),
        (("DaemonPortOptions=Port=587, M=Ea", "DaemonPortOptions=Port=25"), ("127.0.0.1", 25)),
        (("DaemonPortOptions=Family=local, Addr=/run/smtp",), ("127.0.0.1", 25)),
        (("DaemonPortOptions=Port=no-such-service",), ("127.0.0.1", 25)),
        (("ClientPortOptions=Port=99",), ("127.0.0.1", 25)),
    ],
)
def test_the_daemon_is_asked_where_it_listens(
    options: tuple[str, ...], where: tuple[str, int]
) -> None:
    assert listening_address(options) == where
