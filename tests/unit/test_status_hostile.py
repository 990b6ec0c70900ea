# SPDX-License-Identifier: Apache-2.0
"""Clients that mean harm: whatever they do, nothing is raised and the next one gets its answer."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardend.status_service import Limits
from hardend.varlink import MESSAGE_LIMIT
from tests.unit.serving import ASK, INFO, MONITOR, Served, served

SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
NOBODY = 65534


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        yield made


def send(client: socket.socket, data: bytes) -> None:
    """Send what the service takes; it may have closed the connection already."""
    client.setblocking(False)
    try:
        client.sendall(data)
    except (BlockingIOError, BrokenPipeError, ConnectionResetError):
        return
    finally:
        client.settimeout(5)


CLOSED = {
    "nothing": b"\0",
    "another protocol": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\0",
    "no text": b"\xff\xfe\xfd\0",
    "no object": b"[1, 2]\0",
    "nested without end": b"[" * 5000 + b"\0",
    "nested too deep": b'{"method":"a.B","parameters":{"x":' + b"[" * 20 + b"]" * 20 + b"}}\0",
    "a number without end": b"9" * 6000 + b"\0",
    "too long": b'{"method":"' + b"x" * MESSAGE_LIMIT + b'"}\0',
    "too long and without end": b"x" * (3 * MESSAGE_LIMIT),
}


@pytest.mark.parametrize("what", CLOSED)
def test_garbage_ends_the_connection_and_no_other(service: Served, what: str) -> None:
    with service.connect() as client, service.connect() as other:
        send(client, CLOSED[what])
        assert service.is_closed(client)
        other.sendall(ASK)
        assert len(service.said(other)) == 1
    assert service.ask()["guard"] == "running"


WRONG = {
    "no method": b"{}\0",
    "a method that is no text": b'{"method":{"x":1}}\0',
    "a method that is none": b'{"method":""}\0',
    "parameters that are none": b'{"method":"io.hardend.Status.GetStatus","parameters":7}\0',
    "a flag that is none": b'{"method":"io.hardend.Status.Monitor","more":"yes"}\0',
    "terminal control": b'{"method":"io.hardend.Status.\\u001b[2J"}\0',
    "half a character": b'{"method":"io.hardend.Status.\\ud800"}\0',
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_call_is_an_error_and_the_connection_stays(service: Served, what: str) -> None:
    with service.connect() as client:
        client.sendall(WRONG[what] + INFO)
        error, info = service.said(client)
        assert error["error"].startswith("org.varlink.service.")
        assert "product" in info["parameters"]


@settings(deadline=None, suppress_health_check=SLOW, max_examples=60)
@given(
    st.lists(st.binary(min_size=1, max_size=50) | st.sampled_from([ASK, INFO, MONITOR, b"\0"]), max_size=6),
    st.booleans(),
)
def test_any_bytes_in_any_pieces_are_survived(service: Served, parts: list[bytes], shut: bool) -> None:
    with service.connect() as client:
        for part in parts:
            send(client, part)
            service.settle()
        if shut:
            try:
                client.shutdown(socket.SHUT_WR)
            except OSError:
                assert service.is_closed(client)
            service.settle()
    service.settle()
    assert service.clients == 0
    with service.connect() as client:
        client.sendall(ASK)
        assert len(service.said(client)) == 1


def test_a_monitor_that_talks_on_is_let_go_at_the_limit(service: Served) -> None:
    with service.connect() as client:
        client.sendall(MONITOR)
        assert len(service.said(client)) == 1
        client.sendall(b"x" * (MESSAGE_LIMIT - 1))
        service.settle()
        assert service.clients == 1
        client.sendall(b"x")
        assert service.is_closed(client)


def test_what_a_client_sends_ahead_stays_in_the_kernel(service: Served) -> None:
    with service.connect() as client:
        send(client, INFO * 4000)
        for _ in range(20):
            service.service.turn(0)
            (held,) = service.service._clients.values()
            assert len(held.incoming) <= 2 * MESSAGE_LIMIT


# Time ---------------------------------------------------------------------------------------------


def test_silence_a_slow_call_and_a_slow_reader_have_each_their_time(tmp_path: Path) -> None:
    limits = Limits(silent_s=2.0, message_s=0.3, reply_s=0.3)
    much = {f"/etc/mail/{number:05}": {"state": "failed", "drift": []} for number in range(8000)}
    with served(tmp_path, limits) as service:
        service.station.publish(paths=much)
        with service.connect() as silent, service.connect() as slow, service.connect() as reader:
            service.settle()
            names = dict(zip(service.service._clients, ("silent", "slow", "reader"), strict=True))
            start = time.monotonic()
            reader.sendall(ASK)
            slow.sendall(b"{")
            gone: dict[str, float] = {}
            while len(gone) < 3 and time.monotonic() < start + 20:
                send(slow, b" ")  # a byte now and then does not make the time longer
                service.turn_for(0.03)
                for descriptor in names.keys() - service.service._clients.keys():
                    gone.setdefault(names[descriptor], time.monotonic() - start)
            assert gone["slow"] >= 0.3 and gone["reader"] >= 0.3 and gone["silent"] >= 1.9
            assert gone["silent"] == max(gone.values())
            assert service.is_closed(silent)


def test_a_client_that_asks_now_and_then_stays(tmp_path: Path) -> None:
    with served(tmp_path, Limits(silent_s=0.5)) as service, service.connect() as client:
        for _ in range(4):
            service.turn_for(0.25)
            client.sendall(INFO)
            assert len(service.said(client)) == 1


# Many ---------------------------------------------------------------------------------------------


def hostile(service: Served, number: int) -> socket.socket:
    """Return a client that sends garbage, half a call or nothing, or asks without reading."""
    client = service.connect()
    kind = number % 5
    if kind == 0:
        send(client, os.urandom(2000).replace(b"\0", b"x"))
    elif kind == 1:
        send(client, ASK[:20])
    elif kind == 2:
        send(client, ASK * 200)
    elif kind == 3:
        send(client, MONITOR)
    service.service.turn(0)
    return client


def test_a_hundred_hostile_clients_leave_room_for_the_next(service: Served) -> None:
    before = len(os.listdir("/proc/self/fd"))
    many = [hostile(service, number) for number in range(100)]
    limit = Limits().clients_of_a_user
    assert service.clients <= limit
    assert len(os.listdir("/proc/self/fd")) <= before + 100 + limit
    # One turn lets it in, and one answers it, whatever the others have left to be done.
    with service.connect() as next_one:
        next_one.sendall(ASK)
        service.service.turn(0)
        service.service.turn(0)
        next_one.setblocking(False)
        assert next_one.recv(1 << 16).startswith(b'{"parameters"')
    for client in many:
        client.close()
    service.settle()
    assert service.clients == 0
    assert service.ask()["guard"] == "running"


def test_the_stalest_goes_first_and_who_monitors_last(tmp_path: Path) -> None:
    with served(tmp_path, Limits(clients_of_a_user=3)) as service:
        with service.connect() as monitor, service.connect() as old, service.connect() as asking:
            for client, data in ((monitor, MONITOR), (old, INFO), (asking, INFO)):
                client.sendall(data)
                assert len(service.said(client)) == 1
            with service.connect() as newest:
                newest.sendall(INFO)
                assert len(service.said(newest)) == 1
                assert service.is_closed(old)
                asking.sendall(INFO)
                assert len(service.said(asking)) == 1
                assert not service.is_closed(monitor)


def as_nobody(service: Served, count: int) -> int:
    """Connect as another user from another process, which stays; returns its pid."""
    for directory in (service.station.host.run_dir, service.station.host.root):
        os.chmod(directory, 0o755)
    os.chmod(service.path, 0o666)
    working = os.open(service.station.host.run_dir, os.O_PATH)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.fchdir(working)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            clients = []
            for _ in range(count):
                client = socket.socket(socket.AF_UNIX)
                client.connect("status")
                clients.append(client)
            os.write(writing, b"x")
            time.sleep(60)
        finally:
            os._exit(0)
    os.close(working)
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    os.close(writing)
    return child


@pytest.mark.root
def test_a_user_who_takes_all_that_one_may_takes_nothing_of_others(tmp_path: Path) -> None:
    with served(tmp_path, Limits(clients=8, clients_of_a_user=5)) as service:
        with service.connect() as first:
            service.settle()
            child = as_nobody(service, 20)
            try:
                service.settle()
                uids = sorted(client.uid for client in service.service._clients.values())
                assert uids == [0] + [NOBODY] * 5
                others = [service.connect() for _ in range(3)]
                service.settle()
                # All places are taken: the next is one of those who have most.
                uids = sorted(client.uid for client in service.service._clients.values())
                assert uids == [0] * 4 + [NOBODY] * 4
                for client in (first, *others):
                    client.sendall(INFO)
                    assert len(service.said(client)) == 1
                    client.close()
            finally:
                os.kill(child, 9)
                os.waitpid(child, 0)
        service.settle()
        assert service.clients == 0


def test_what_is_owed_to_slow_readers_has_a_limit(tmp_path: Path) -> None:
    much = {f"/etc/mail/{number:05}": {"state": "failed", "drift": []} for number in range(8000)}
    with served(tmp_path, Limits(pending_bytes=1_000_000)) as service:
        service.station.publish(paths=much)
        clients = [service.connect() for _ in range(10)]
        for client in clients:
            client.sendall(ASK)
        service.settle()
        owed = sum(len(client.outgoing) for client in service.service._clients.values())
        assert 0 < owed <= 1_000_000
        assert 0 < service.clients < 10
        assert len(service.said(clients[-1])) == 1
        for client in clients:
            client.close()


def test_a_service_without_a_descriptor_left_lets_one_go_and_does_not_spin(
    service: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service.connect() as old:
        service.settle()

        class Exhausted:
            def accept(self) -> None:
                raise OSError(24, "Too many open files")

            def fileno(self) -> int:
                return service.listener.fileno()

        monkeypatch.setattr(service.service, "_listener", Exhausted())
        with service.connect() as waiting:
            service.service.turn(0)
            monkeypatch.undo()
            assert service.is_closed(old)
            waiting.sendall(INFO)
            assert len(service.said(waiting)) == 1
