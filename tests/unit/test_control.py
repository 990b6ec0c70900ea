# SPDX-License-Identifier: Apache-2.0
"""The control socket: whatever a client does, nothing is raised and the next one is answered."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardend import control
from hardend.control import ControlServer, Reply, Request, ask, parse_request
from hardend.errors import ProtocolError, UnreachableError
from hardend.model import Host

pytestmark = pytest.mark.root
NOBODY = 65534


class Served:
    """A server in a loop as the guard has it; ``turn`` is one turn of it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.epoll = select.epoll()
        self.requests: list[Request] = []
        self.reply: Reply = {"ok": True}
        self.server = ControlServer(host, self.epoll, self.answer)

    def answer(self, request: Request) -> Reply:
        self.requests.append(request)
        if request["verb"] == "full":
            raise OSError(28, "No space left on device")
        return self.reply

    def turn(self, timeout_s: float = 0.0) -> bool:
        ready = self.epoll.poll(timeout_s)
        for descriptor, _ in ready:
            assert self.server.owns(descriptor)
            self.server.handle(descriptor)
        return bool(ready)

    def settle(self) -> None:
        for _ in range(1000):
            if not self.turn():
                return
        pytest.fail("the loop does not come to rest")

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(5)
        with control._address(self.host) as address:
            client.connect(address)
        return client

    def ask(self, request: Request) -> Reply:
        """Ask from another thread while the loop turns here, as the CLI does from its process."""
        replies: list[Reply | UnreachableError] = []

        def run() -> None:
            try:
                replies.append(ask(self.host, request, timeout_s=10))
            except UnreachableError as error:
                replies.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        while thread.is_alive():
            self.turn(0.02)
        thread.join()
        if isinstance(replies[0], UnreachableError):
            raise replies[0]
        return replies[0]

    @property
    def clients(self) -> int:
        return len(self.server._clients)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(Host(str(tmp_path)))
    yield made
    made.server.close()
    made.epoll.close()


def _lines(served: Served, client: socket.socket) -> bytes:
    """Return all that the server says until it closes the connection."""
    served.settle()
    said = b""
    while part := client.recv(65536):
        said += part
    return said


def test_a_request_is_answered_and_the_client_let_go(served: Served) -> None:
    served.reply = {"ok": True, "what": "a\n\udcff"}
    assert served.ask({"verb": "ping"}) == {"ok": True, "what": "a\n\udcff"}
    assert served.requests == [{"verb": "ping"}]
    assert served.clients == 0


def test_the_socket_is_root_s_alone(served: Served) -> None:
    assert os.stat(served.host.control_socket).st_mode & 0o777 == 0o600


def test_a_server_replaces_the_socket_of_one_that_died(served: Served) -> None:
    second = Served(served.host)
    try:
        assert second.ask({"verb": "ping"}) == {"ok": True}
    finally:
        second.server.close()
        second.epoll.close()


@given(st.binary(max_size=100))
def test_any_line_is_a_request_or_refused(line: bytes) -> None:
    try:
        request = parse_request(line)
    except ProtocolError:
        return
    assert isinstance(request["verb"], str)


GARBAGE = {
    "nothing": b"\n",
    "no JSON": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no object": b"[1, 2]\n",
    "no verb": b'{"a": 1}\n',
    "a verb that is none": b'{"verb": {"x": 1}}\n',
    "no text": b"\xff\xfe\0\n",
    "nested without end": b"[" * 60_000 + b"\n",
    "a number without end": b"9" * 60_000 + b"\n",
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_gets_an_error_and_the_next_client_its_answer(served: Served, what: str) -> None:
    with served.connect() as client:
        client.sendall(GARBAGE[what])
        said = _lines(served, client)
    if what == "nothing":
        assert said == b""
    else:
        assert json.loads(said)["ok"] is False
    assert served.requests == []
    assert served.ask({"verb": "ping"}) == {"ok": True}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5), st.booleans())
def test_any_bytes_in_any_pieces_are_survived(served: Served, parts: list[bytes], shut: bool) -> None:
    with served.connect() as client:
        for part in parts:
            try:
                client.sendall(part)
            except BrokenPipeError:
                break
            served.settle()
        if shut:
            client.shutdown(socket.SHUT_WR)
            served.settle()
    served.settle()
    assert served.clients == 0


def test_a_line_without_end_is_cut_off(served: Served) -> None:
    client = served.connect()
    client.setblocking(False)
    sent = 0
    for _ in range(100):
        try:
            sent += client.send(b"x" * 65536)
        except OSError:
            break
        served.settle()
    client.close()
    assert sent <= 4 * control._LINE_LIMIT
    assert served.clients == 0
    assert served.ask({"verb": "ping"}) == {"ok": True}


def test_a_request_may_come_in_pieces(served: Served) -> None:
    with served.connect() as client:
        for byte in b'{"verb": "ping"}\n':
            client.sendall(bytes([byte]))
            served.settle()
        assert json.loads(_lines(served, client)) == {"ok": True}


def test_a_request_without_its_newline_is_answered_when_the_client_has_finished(served: Served) -> None:
    with served.connect() as client:
        client.sendall(b'{"verb": "ping"}')
        client.shutdown(socket.SHUT_WR)
        assert json.loads(_lines(served, client)) == {"ok": True}


def test_only_the_first_line_counts(served: Served) -> None:
    with served.connect() as client:
        client.sendall(b'{"verb": "one"}\n{"verb": "two"}\n')
        served.settle()
    assert [request["verb"] for request in served.requests] == ["one"]


def test_slow_clients_hold_up_nobody(served: Served) -> None:
    slow = [served.connect() for _ in range(10)]
    for client in slow:
        client.sendall(b'{"verb": ')
    served.settle()
    assert served.ask({"verb": "ping"}) == {"ok": True}
    for client in slow:
        client.close()
    served.settle()
    assert served.clients == 0


def test_a_client_that_never_reads_is_answered_and_dropped(served: Served) -> None:
    served.reply = {"ok": True, "much": "x" * (10 << 20)}
    with served.connect() as client:
        client.sendall(b'{"verb": "ping"}\n')
        served.settle()
        assert served.clients == 0
    served.reply = {"ok": True}
    assert served.ask({"verb": "ping"}) == {"ok": True}


def test_a_hundred_clients_leave_room_for_the_next(served: Served) -> None:
    before = len(os.listdir("/proc/self/fd"))
    many = []
    for _ in range(100):
        many.append(served.connect())
        served.settle()
    assert served.clients == control._CLIENTS
    assert len(os.listdir("/proc/self/fd")) == before + 100 + control._CLIENTS
    assert served.ask({"verb": "ping"}) == {"ok": True}
    for client in many:
        client.close()
    served.settle()
    assert served.clients == 0
    assert served.ask({"verb": "ping"}) == {"ok": True}


def test_an_event_without_anything_to_read_ends_no_conversation(served: Served) -> None:
    with served.connect() as client:
        served.settle()
        (descriptor,) = served.server._clients
        served.server.handle(descriptor)
        client.sendall(b'{"verb": "ping"}\n')
        assert json.loads(_lines(served, client)) == {"ok": True}


def test_a_client_that_is_gone_before_it_is_answered_is_survived(served: Served) -> None:
    for said in (b"", b'{"verb": "ping"}\n', b'{"verb"'):
        client = served.connect()
        client.sendall(said)
        client.close()
        served.settle()
    assert served.clients == 0
    assert served.ask({"verb": "ping"}) == {"ok": True}


def test_an_answer_that_fails_ends_the_connection_only(served: Served) -> None:
    with pytest.raises(UnreachableError):
        served.ask({"verb": "full"})
    assert served.ask({"verb": "ping"}) == {"ok": True}


def test_an_event_of_a_stranger_is_not_ours(served: Served) -> None:
    assert not served.server.owns(0)
    served.server.handle(9999)
    assert served.ask({"verb": "ping"}) == {"ok": True}


def test_only_root_is_listened_to_even_where_the_mode_lets_others_in(served: Served) -> None:
    for directory in Path(served.host.control_socket).parents:
        directory.chmod(directory.stat().st_mode | 0o011)
    os.chmod(served.host.control_socket, 0o666)
    child = os.fork()
    if not child:
        _exit_with_what_nobody_is_told(served)
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        served.turn(0.02)
    assert os.waitstatus_to_exitcode(ended[1]) == 0, "told nothing"
    assert served.requests == []
    assert served.clients == 0
    assert served.ask({"verb": "ping"}) == {"ok": True}


def _exit_with_what_nobody_is_told(served: Served) -> None:
    """In a child: connect as an unprivileged user; the exit code is how many bytes came back."""
    status = 99
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        client = served.connect()
        try:
            client.sendall(b'{"verb": "off"}\n')
            status = len(client.recv(100))
        except ConnectionError:
            status = 0
    finally:
        os._exit(status)


def test_no_guard_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="does not answer") as caught:
        ask(Host(str(tmp_path)), {"verb": "ping"}, timeout_s=1)
    assert "systemctl status hardend" in caught.value.hint


def test_a_guard_that_hangs_is_said_so(served: Served) -> None:
    with pytest.raises(UnreachableError, match="timed out"):
        ask(served.host, {"verb": "ping"}, timeout_s=0.05)


@pytest.mark.parametrize("said", [b"", b"no JSON\n", b"[1]\n", b"[" * 10_000, b"\xff\n"])
def test_an_answer_that_is_none_is_said_so(tmp_path: Path, said: bytes) -> None:
    host = Host(str(tmp_path))
    os.makedirs(host.run_dir)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with control._address(host) as address:
            listener.bind(address)
        listener.listen(1)

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                client.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(UnreachableError):
            ask(host, {"verb": "ping"}, timeout_s=5)
        thread.join()


def test_a_tree_far_down_can_be_asked_and_nothing_stays_open(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    made = Served(Host(str(deep)))
    try:
        for _ in range(3):
            assert made.ask({"verb": "ping"}) == {"ok": True}
    finally:
        made.server.close()
        made.epoll.close()
    assert len(os.listdir("/proc/self/fd")) == before
