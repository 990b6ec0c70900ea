# SPDX-License-Identifier: Apache-2.0
"""Talking to an SMTP server that may be anything: bounded, and always ended with QUIT."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardend.smtp_dialogue import (
    DIALOGUE_LIMIT,
    GREETING,
    LINE_LIMIT,
    REPLY_LINES,
    Dialogue,
    converse,
)
from tests.unit.smtp_server import Talk, answering, dripping, flooding, saying, serving, silent

EHLO = "EHLO localhost"
# What the kernel takes from a server whose client reads no more: the buffers of both sockets.
IN_FLIGHT = 16 << 20


def talked(talk: Talk, *commands: str, within_s: float = 10.0) -> tuple[Dialogue, list[bytes]]:
    with serving(talk) as server:
        dialogue = converse("127.0.0.1", server.port, commands, within_s=within_s)
    return dialogue, server.heard


def test_each_command_has_its_reply_and_quit_comes_last() -> None:
    dialogue, heard = talked(
        answering(b"250-mail.example.com\r\n250-SIZE 10\r\n250 HELP\r\n", b"502 5.7.0 no\r\n", b"221\r\n"),
        EHLO,
        "EXPN root",
    )
    assert dialogue.why == ""
    assert dialogue.replies[GREETING].text == "220 mail.example.com ESMTP"
    assert dialogue.replies[EHLO].lines == ("mail.example.com", "SIZE 10", "HELP")
    assert dialogue.replies["EXPN root"].code == 502
    assert heard == [b"EHLO localhost", b"EXPN root", b"QUIT"]


@pytest.mark.parametrize("newline", [b"\r\n", b"\n"])
def test_a_reply_of_a_code_alone_is_a_reply(newline: bytes) -> None:
    dialogue, _ = talked(answering(b"250" + newline), EHLO)
    assert dialogue.replies[EHLO].lines == ("",)


@pytest.mark.parametrize(
    ("greeting", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "it does not speak SMTP"),
        (b"\r\n", "it does not speak SMTP"),
        (b"2200 mail\r\n", "it does not speak SMTP"),
        (b"999 mail\r\n", "it does not speak SMTP"),
        (b"220-one\r\n250 two\r\n", "it does not speak SMTP"),
        (b"\xff\x00\x1b[2J\r\n", "it does not speak SMTP"),
        (b"220 mail\r\n250 and more\r\n", "it said more than it was asked"),
        (b"x" * (LINE_LIMIT + 4096), f"a line of more than {LINE_LIMIT} bytes"),
        (b"220-more\r\n" * (REPLY_LINES + 1), f"a reply of more than {REPLY_LINES} lines"),
        ((b"220-" + b"x" * 4000 + b"\r\n") * 20, f"more than {DIALOGUE_LIMIT} bytes of replies"),
    ],
)
def test_what_is_no_reply_ends_the_dialogue_with_quit(greeting: bytes, why: str) -> None:
    dialogue, heard = talked(answering(greeting=greeting), EHLO)
    assert dialogue.why.startswith(why)
    assert EHLO not in dialogue.replies
    assert heard[-1:] == [b"QUIT"]
    assert dialogue.why.isprintable()


def test_a_server_that_hangs_up_leaves_what_it_said_before() -> None:
    dialogue, _ = talked(saying(b"220 mail.example.com\r\n"), EHLO)
    assert dialogue.replies[GREETING].code == 220
    assert dialogue.why in {"it hung up", "Connection reset by peer", "Broken pipe"}


@pytest.mark.parametrize("talk", [silent, dripping])
def test_silence_and_a_drip_end_with_the_time(talk: Talk) -> None:
    dialogue, _ = talked(talk, EHLO, within_s=0.3)
    assert dialogue.why == "no answer within 0.3 s"
    assert dialogue.replies == {}


def test_a_silent_server_is_told_that_we_go() -> None:
    _, heard = talked(silent, EHLO, within_s=0.2)
    assert heard == [b"QUIT"]


@pytest.mark.parametrize("piece", [b"x" * 4096, b"220-x\r\n" * 512, b"\n" * 4096, b"\0" * 4096])
def test_an_endless_server_is_left_after_a_bounded_number_of_bytes(piece: bytes) -> None:
    with serving(flooding(piece)) as server:
        dialogue = converse("127.0.0.1", server.port, [EHLO], within_s=30)
    assert dialogue.why
    assert dialogue.why != "no answer within 30 s"
    assert server.sent < IN_FLIGHT


def test_a_port_on_which_nothing_listens_is_refused() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    dialogue = converse("127.0.0.1", port, [EHLO], within_s=5)
    assert dialogue.refused
    assert dialogue.why == "Connection refused"


@pytest.mark.parametrize("address", ["", "a" * 300, "..", "no such host", "\udc80"])
def test_an_address_that_is_none_is_a_reason_and_no_traceback(address: str) -> None:
    dialogue = converse(address, 1, [EHLO], within_s=1)
    assert dialogue.why


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from([b"220 mail\r\n", b"220-a\r\n", b"250 ok\r\n", b"250\n", b"\r\n", b"220"]),
        ),
        max_size=8,
    )
)
def test_whatever_a_server_says_there_is_a_result(said: list[bytes]) -> None:
    dialogue, _ = talked(saying(b"".join(said)), EHLO)
    assert set(dialogue.replies) <= {GREETING, EHLO}
    assert dialogue.why or set(dialogue.replies) == {GREETING, EHLO}
    assert all(line.isascii() for reply in dialogue.replies.values() for line in reply.lines)


def certificate(directory: Path) -> ssl.SSLContext:
    """Make a certificate that nobody trusts."""
    files = [str(directory / name) for name in ("cert.pem", "key.pem")]
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-subj", "/CN=x", "-days", "1", "-out", files[0], "-keyout", files[1]),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context


@pytest.mark.openssl
def test_a_listener_that_speaks_tls_at_once_is_asked_in_tls(tmp_path: Path) -> None:
    with serving(answering(b"250 mail\r\n"), tls=certificate(tmp_path)) as server:
        dialogue = converse("127.0.0.1", server.port, [EHLO], within_s=10, tls=True)
    assert dialogue.why == ""
    assert dialogue.replies[EHLO].code == 250


@pytest.mark.parametrize("talk", [saying(b"220 mail.example.com\r\n" * 3), silent])
def test_a_server_without_tls_is_a_reason_when_tls_was_expected(talk: Talk) -> None:
    with serving(talk) as server:
        dialogue = converse("127.0.0.1", server.port, [EHLO], within_s=0.5, tls=True)
    assert dialogue.why
    assert dialogue.replies == {}
