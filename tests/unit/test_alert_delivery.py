# SPDX-License-Identifier: Apache-2.0
"""Alerts by a real command and over a real SMTP dialogue; never to this host's own mail system."""

from __future__ import annotations

import email
import email.policy
import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend import config
from hardend.alert_delivery import AUTH, DeliveryError, by_mail, deliver, is_this_host, mail_of
from hardend.errors import RefusedError
from hardend.model import Host, printable
from hardend.settings import Settings
from tests.unit.smtp_server import QUIT, Server, answering, dripping, serving

ROOT = Path(__file__).resolve().parents[2]
ALERT: dict[str, Any] = {
    "id": "0123456789abcdef-began",
    "incident": "0123456789abcdef",
    "host": "mail.example.com",
    "phase": "began",
    "priority": "warning",
    "subject": "/etc/mail/access put back after 231 us: content",
    "path": "/etc/mail/access",
    "event": {"who": {"pid": 7, "exe": "/usr/bin/vi"}},
}
PLAIN = "127.0.0.1"


def mailing(port: int) -> Settings:
    return Settings(alert_relay=f"{PLAIN}:{port}", alert_to=("ops@example.net", "two@example.net"))


def send(root: Path, port: int, limit_s: float = 20.0) -> str:
    """Send to a server of this test, which can only be on this host."""
    return by_mail(Host(str(root)), mailing(port), ALERT, limit_s, is_own=lambda _: False)


def auth(root: Path, mode: int = 0o600) -> None:
    where = Path(f"{root}{AUTH}")
    where.parent.mkdir(parents=True)
    where.write_text("user:secret\n")
    where.chmod(mode)


def taking(server: Server, client: socket.socket) -> None:
    """Be a relay that takes one message."""
    server.say(client, b"220 relay.example.net ESMTP\r\n")
    serve(server, client)


def serve(server: Server, client: socket.socket) -> None:
    while (line := server.hear(client).upper()) not in {b"", QUIT}:
        server.say(client, b"354 go on\r\n" if line == b"DATA\r\n" else b"250 ok\r\n")
        if line == b"DATA\r\n":
            while (part := server.hear(client)) not in {b"", b".\r\n"}:
                server.heard[-1] = part  # as it is: folded headers begin with a blank
            server.say(client, b"250 taken\r\n")
    server.say(client, b"221 bye\r\n")


# By a command -------------------------------------------------------------------------------------


def test_the_command_gets_the_alert_as_json_and_no_shell(tmp_path: Path) -> None:
    program = tmp_path / "page"
    program.write_text(f'#!/bin/sh\ncat > {tmp_path}/got\nprintf "%s|" "$@" > {tmp_path}/args\n')
    program.chmod(0o755)
    settings = Settings(alert_command=(str(program), "$(id)", "a b"))
    assert deliver(Host(), settings, ALERT) == f"{printable(str(program))} took it"
    assert json.loads((tmp_path / "got").read_text()) == ALERT
    assert (tmp_path / "args").read_text() == "$(id)|a b|"


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("/bin/sh", "-c", "echo no route >&2; exit 3"), "/bin/sh: exit status 3: no route"),
        (("/bin/sleep", "60"), "not done after 0.5 s"),
        (("/nowhere/page",), "/nowhere/page: cannot be run: No such file or directory"),
    ],
)
def test_a_command_that_fails_says_why(argv: tuple[str, ...], why: str) -> None:
    with pytest.raises(DeliveryError, match=why):
        deliver(Host(), Settings(alert_command=argv), ALERT, limit_s=0.5 if "sleep" in argv[0] else 20)


# By mail ------------------------------------------------------------------------------------------


def test_a_relay_gets_one_mail_for_all(tmp_path: Path) -> None:
    with serving(taking) as server:
        assert send(tmp_path, server.port) == f"127.0.0.1:{server.port} took it"
    heard = server.heard
    assert b"mail FROM:<hardend@mail.example.com>" in heard[1]
    assert [line for line in heard if line.startswith(b"rcpt")] == [
        b"rcpt TO:<ops@example.net>", b"rcpt TO:<two@example.net>"
    ]  # fmt: skip
    data = heard[heard.index(b"data") + 1 : heard.index(b".")]
    mail = email.message_from_bytes(b"".join(data), policy=email.policy.default)
    assert mail["Subject"] == f"[hardend warning] mail.example.com: {ALERT['subject']}"
    assert mail["Message-ID"] == "<0123456789abcdef-began@mail.example.com>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert "who:   pid 7, exe /usr/bin/vi" in mail.get_content()


@pytest.mark.parametrize(
    "name",
    ["localhost", "127.0.0.1", "127.8.9.1", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]"],  # noqa: S104 - not bound
)
def test_this_host_is_never_the_relay(name: str, tmp_path: Path) -> None:
    with serving(taking) as server:
        settings = Settings(alert_relay=f"{name}:{server.port}", alert_to=("ops@example.net",))
        with pytest.raises(RefusedError, match="is this host itself"):
            deliver(Host(str(tmp_path)), settings, ALERT)
    assert server.sent == 0


@pytest.mark.root
@pytest.mark.unshare
def test_addresses_of_interfaces_are_known_as_our_own() -> None:
    script = (
        "ip link set lo up; ip link add e0 type veth peer name e1; ip addr add 192.0.2.7/24 dev e0;"
        " ip -6 addr add 2001:db8::7/64 dev e0 nodad; ip link set e0 up; ip link set e1 up;"
        ' exec "$@"'
    )  # fmt: skip
    code = (
        "from hardend.alert_delivery import is_this_host as own\n"
        "print([own(a) for a in ('192.0.2.7', '2001:db8::7', '192.0.2.8', '2001:db8::8', '198.51.100.1')])"
    )
    done = subprocess.run(
        ["unshare", "--net", "sh", "-ec", script, "sh", sys.executable, "-B", "-c", code],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout == "[True, True, False, False, False]\n"
    assert is_this_host("127.0.0.1")


def test_the_other_end_of_the_connection_is_looked_at_again(tmp_path: Path) -> None:
    answers = iter([False, True])  # what a name server may say, one after the other
    with serving(taking) as server:
        with pytest.raises(RefusedError, match="is this host itself"):
            by_mail(Host(str(tmp_path)), mailing(server.port), ALERT, 20, is_own=lambda _: next(answers))
    assert not any(b"mail" in line.lower() for line in server.heard)


def test_a_relay_that_refuses_is_quoted(tmp_path: Path) -> None:
    talk = answering(b"250 relay\r\n", b"550 5.7.1 not \x1b[31m you\r\n", b"250 ok\r\n")
    with serving(talk) as server, pytest.raises(DeliveryError, match=r"550 5\.7\.1 not \\x1b\[31m you"):
        send(tmp_path, server.port)


def test_a_relay_that_drips_is_left_in_time(tmp_path: Path) -> None:
    with serving(dripping) as server, pytest.raises(DeliveryError, match="not done after 1 s"):
        send(tmp_path, server.port, limit_s=1)


def test_a_password_is_not_sent_without_tls(tmp_path: Path) -> None:
    auth(tmp_path)
    with serving(taking) as server, pytest.raises(DeliveryError, match="a password is not sent without"):
        send(tmp_path, server.port)
    assert not any(b"secret" in line or b"AUTH" in line for line in server.heard)


@pytest.mark.root
def test_a_password_that_others_may_read_is_refused(tmp_path: Path) -> None:
    auth(tmp_path, 0o640)
    with pytest.raises(RefusedError, match="others may read it"):
        send(tmp_path, 9)


@pytest.mark.openssl
@pytest.mark.parametrize("with_password", [False, True])
def test_a_relay_with_tls_has_to_prove_its_name_only_for_a_password(
    with_password: bool, tmp_path: Path
) -> None:
    pem = tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=relay",
         "-keyout", pem, "-out", tmp_path / "c"], check=True, capture_output=True,
    )  # fmt: skip
    pem.write_bytes(pem.read_bytes() + (tmp_path / "c").read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    def talk(server: Server, client: socket.socket) -> None:
        server.say(client, b"220 relay\r\n")
        server.hear(client)
        server.say(client, b"250-relay\r\n250 STARTTLS\r\n")
        server.hear(client)
        server.say(client, b"220 go\r\n")
        with context.wrap_socket(client, server_side=True) as spoken:
            serve(server, spoken)

    if with_password:
        auth(tmp_path)
    with serving(talk) as server:
        if with_password:
            with pytest.raises(DeliveryError, match=r"(?i)certificate"):
                send(tmp_path, server.port)
        else:
            assert "took it" in send(tmp_path, server.port)
    assert (b"data" in server.heard) is not with_password


@given(st.text(max_size=300), st.text(max_size=50))
def test_no_text_becomes_another_header(subject: str, host: str) -> None:
    mail = mail_of(
        Settings(alert_to=("ops@example.net",)), {**ALERT, "subject": subject, "host": host, "id": "x"}
    )
    found = email.message_from_bytes(mail.as_bytes(), policy=email.policy.default)
    assert sorted(found.keys()) == sorted(
        [
            *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"),
            *("Content-Type", "Content-Transfer-Encoding", "MIME-Version"),
        ]
    )


@given(st.from_regex(config._ADDRESS, fullmatch=True), st.from_regex(config._ADDRESS, fullmatch=True))
def test_every_address_that_the_configuration_takes_is_one_for_mail(sender: str, to: str) -> None:
    mail = mail_of(Settings(alert_from=sender, alert_to=(to,)), ALERT)
    assert (str(mail["From"]), str(mail["To"])) == (sender, to)


# The examples -------------------------------------------------------------------------------------


@contextmanager
def web(status: int = 200) -> Iterator[tuple[str, list[Any]]]:
    """Run a web server; yield its address and what it is told."""
    got: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", got
        finally:
            server.shutdown()
            thread.join()


def test_the_example_for_a_webhook_posts_the_alert() -> None:
    program = str(ROOT / "etc/alerts/alert-webhook")
    with web() as (address, got):
        deliver(Host(), Settings(alert_command=(program, address)), ALERT)
    assert got == [ALERT]
    with web(500) as (address, _), pytest.raises(DeliveryError, match="500"):
        deliver(Host(), Settings(alert_command=(program, address)), ALERT)


def test_the_example_for_a_pager_triggers_and_resolves(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k1\n")
    with web() as (address, got):
        settings = Settings(alert_command=(str(ROOT / "etc/alerts/alert-pager"), address, str(key)))
        deliver(Host(), settings, ALERT)
        deliver(Host(), settings, {**ALERT, "phase": "over"})
    assert [each["event_action"] for each in got] == ["trigger", "resolve"]
    assert {(each["routing_key"], each["dedup_key"]) for each in got} == {("k1", ALERT["incident"])}
