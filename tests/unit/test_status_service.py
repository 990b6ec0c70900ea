# SPDX-License-Identifier: Apache-2.0
"""The status service on real sockets: what it answers, streams, and how it comes and goes."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardend.cli.main import main
from hardend.errors import RefusedError, UnreachableError
from hardend.status_answers import MONITOR as MONITOR_METHOD
from hardend.status_service import Limits, activated
from hardend.varlink import Call, VarlinkError, call_message
from hardend.varlink_client import Connection
from tests.unit.serving import ASK, INFO, MONITOR, Served, served
from tests.unit.test_status_view import Station, faults

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as made:
        yield made


def test_a_call_is_answered_and_the_connection_stays(service: Served) -> None:
    with service.connect() as client:
        for _ in range(3):
            client.sendall(ASK)
            (reply,) = service.said(client)
            assert reply["parameters"]["guard"] == "running"
        assert service.clients == 1
    service.settle()
    assert service.clients == 0


def test_the_client_of_the_command_gets_replies_and_errors(service: Served) -> None:
    assert service.ask()["generation"] == 3
    assert service.ask("io.hardend.Status.GetBaseline")["layout"] == "debian"
    with pytest.raises(VarlinkError, match="MethodNotFound"):
        service.ask("io.hardend.Status.Nothing")
    service.station.lock.release()
    with pytest.raises(VarlinkError, match=r"io\.hardend\.Status\.NotRunning") as caught:
        service.ask()
    assert caught.value.parameters["guard"] == "dead"
    assert service.ask(parameters={"unproven": True})["guard"] == "dead"


def test_calls_that_come_together_are_answered_in_their_order(service: Served) -> None:
    with service.connect() as client:
        client.sendall(ASK + INFO + ASK)
        replies = [reply["parameters"] for reply in service.said(client)]
        assert ["guard" in reply for reply in replies] == [True, False, True]
        assert "product" in replies[1]


def test_a_call_may_come_byte_by_byte(service: Served) -> None:
    with service.connect() as client:
        for byte in ASK:
            client.sendall(bytes([byte]))
            service.settle()
        assert len(service.said(client)) == 1


def test_who_has_finished_sending_still_gets_the_answers(service: Served) -> None:
    with service.connect() as client:
        client.sendall(ASK + ASK)
        client.shutdown(socket.SHUT_WR)
        assert len(service.said(client)) == 2
        assert service.is_closed(client)
    assert service.clients == 0


def test_a_call_without_its_end_is_no_call(service: Served) -> None:
    with service.connect() as client:
        client.sendall(ASK[:-1])
        client.shutdown(socket.SHUT_WR)
        assert service.said(client) == []
        assert service.is_closed(client)


def test_one_way_calls_are_not_answered(service: Served) -> None:
    one_way = call_message(Call("io.hardend.Status.GetStatus", oneway=True))
    unknown = call_message(Call("io.hardend.Status.Nothing", oneway=True))
    monitor = call_message(Call(MONITOR_METHOD, more=True, oneway=True))
    with service.connect() as client:
        client.sendall(one_way + unknown + monitor + INFO)
        (reply,) = service.said(client)
        assert "product" in reply["parameters"]


def test_more_of_what_does_not_stream_is_one_reply(service: Served) -> None:
    with service.connect() as client:
        client.sendall(call_message(Call("io.hardend.Status.GetStatus", more=True)) + INFO)
        first, second = service.said(client)
        assert "continues" not in first
        assert "product" in second["parameters"]


# Monitor ------------------------------------------------------------------------------------------


def test_a_monitor_is_told_at_once_and_then_what_is_new(service: Served) -> None:
    with service.connect() as client:
        client.sendall(MONITOR)
        (first,) = service.said(client)
        assert first["continues"] is True
        assert faults(MONITOR_METHOD, "", first["parameters"]) == []
        assert first["parameters"]["state"] == "contested"
        service.station.publish(looks=1_000_000, watches=31)  # work, nothing new
        service.turn_for(0.6)
        assert service.said(client) == []
        service.station.publish(state="clean", paths={})
        service.turn_for(0.6)
        (second,) = service.said(client)
        assert (second["parameters"]["state"], second["parameters"]["drifts"]) == ("clean", [])


def test_a_monitor_sees_the_guard_go_and_come_back(service: Served) -> None:
    station = service.station
    with service.connect() as client:
        client.sendall(MONITOR)
        service.settle()
        station.lock.release()
        service.turn_for(0.4)
        assert station.lock.acquire()
        service.turn_for(0.4)
        station.publish()
        service.turn_for(0.4)
        guards = [reply["parameters"]["guard"] for reply in service.said(client)]
        # The lock names this process all the while, so there is no start to be seen.
        assert guards == ["running", "dead", "running"]


def test_a_monitor_without_more_is_one_reply(service: Served) -> None:
    with service.connect() as client:
        client.sendall(call_message(Call(MONITOR_METHOD)))
        (reply,) = service.said(client)
        assert "continues" not in reply
        service.station.publish(state="clean")
        service.turn_for(0.4)
        assert service.said(client) == []


def test_a_monitor_outlives_every_limit_of_time(tmp_path: Path) -> None:
    with served(tmp_path, Limits(silent_s=0.1, message_s=0.1, reply_s=0.1)) as service:
        with service.connect() as client:
            client.sendall(MONITOR)
            service.turn_for(0.5)
            service.station.publish(state="clean")
            service.turn_for(0.5)
            assert len(service.said(client)) == 2
        service.settle()
        assert service.clients == 0


def test_a_monitor_that_reads_slowly_gets_the_latest_and_not_each(service: Served) -> None:
    much = {f"/etc/mail/{number:05}": {"state": "failed", "drift": []} for number in range(8000)}
    with service.connect() as client:
        client.sendall(MONITOR)
        assert len(service.said(client)) == 1
        for restores in range(100, 106):
            service.station.publish(paths=much, restores=restores)
            service.turn_for(0.3)
        told = [reply["parameters"]["restores"] for reply in service.said(client)]
        service.turn_for(0.3)
        told += [reply["parameters"]["restores"] for reply in service.said(client)]
        assert (told[0], told[-1]) == (100, 105)
        assert len(told) < 6


def test_the_stream_of_the_command_s_client_ends_with_the_service(service: Served) -> None:
    seen: list[object] = []

    def follow() -> None:
        with Connection(service.station.host) as connection:
            for reply in connection.stream(MONITOR_METHOD):
                seen.append(reply["restores"])
                service.station.publish(restores=1000 + len(seen))
                if len(seen) == 3:
                    return

    service.beside(follow)
    assert seen == [12, 1001, 1002]
    service.settle()
    assert service.clients == 0


# Coming and going ---------------------------------------------------------------------------------


def test_it_leaves_when_nobody_is_there_and_not_before(tmp_path: Path) -> None:
    with served(tmp_path, Limits(idle_s=0.2)) as service:
        start = time.monotonic()
        service.service.run()
        assert time.monotonic() - start >= 0.2
        with service.connect() as client:
            client.sendall(MONITOR)
            service.settle()
            end = threading.Timer(0.6, client.close)
            end.start()
            service.service.run()
            assert end.finished.is_set()
            end.join()


def test_it_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with served(tmp_path) as service:
        clients = [service.connect() for _ in range(5)]
        service.settle()
        clients[0].sendall(MONITOR)
        service.settle()
    for client in clients:
        client.close()
    assert len(os.listdir("/proc/self/fd")) == before


ACTIVATE = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2] + "/run/hardend/status")
listener.listen()
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="hardend-status.socket")
print("listening", flush=True)
os.execv(sys.executable, [sys.executable, "-m", "hardend", "serve-status", *sys.argv[1:]])
"""


def test_it_takes_the_socket_that_systemd_hands_over(station: Station) -> None:
    os.makedirs(station.host.run_dir, exist_ok=True)
    assert station.lock.acquire()
    station.publish()
    with subprocess.Popen(
        [sys.executable, "-c", ACTIVATE, "--root", station.host.root],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "listening\n"
        with Connection(station.host, timeout_s=30) as connection:
            assert connection.call("io.hardend.Status.GetStatus")["guard"] == "running"
        process.terminate()
        assert process.stderr.read() == ""


def test_it_is_not_started_by_hand() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hardend", "serve-status"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr.splitlines() == [
        "hardend: the status service is started by its socket",
        "hardend: hint: systemctl enable --now hardend-status.socket",
    ]


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path)
    yield made
    made.lock.release()


def handed(descriptor: int, count: str = "1", pid: int = 0) -> int:
    """Return 0 when a child takes what it has as descriptor 3, 4 when it refuses it."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(descriptor, 3)
            os.environ.update(LISTEN_FDS=count, LISTEN_PID=str(pid or os.getpid()))
            with activated() as listener:
                good = fcntl.fcntl(listener.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
                os._exit(0 if good and not {*os.environ} & {"LISTEN_FDS", "LISTEN_PID"} else 1)
        except RefusedError as error:
            os._exit(int(error.exit_code))
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_only_one_listening_unix_socket_meant_for_us_is_taken(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_INET) as inet,
        open("/dev/null", "rb") as file,
    ):
        unix.bind(str(tmp_path / "s"))
        inet.bind(("127.0.0.1", 0))
        inet.listen()
        assert handed(unix.fileno()) == 4  # it does not listen
        unix.listen()
        assert handed(unix.fileno()) == 0
        assert handed(unix.fileno(), count="2") == 4
        assert handed(unix.fileno(), count="x") == 4
        assert handed(unix.fileno(), pid=1) == 4  # another process's
        assert handed(inet.fileno()) == 4
        assert handed(file.fileno()) == 4


@pytest.mark.parametrize(
    "said", [b"", b"x\0", b"[]\0", b'{"parameters":1}\0', b'{"parameters":{}}', b"\xff\0"]
)
def test_a_service_that_talks_nonsense_is_an_error_of_the_command(station: Station, said: bytes) -> None:
    os.makedirs(station.host.run_dir)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{station.host.run_dir}/status")
        listener.listen()

        def answer() -> None:
            with listener.accept()[0] as peer:
                peer.recv(1 << 16)
                peer.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(UnreachableError, match="does not answer"), Connection(station.host) as asking:
            asking.call("a.B")
        thread.join()


# The verb ------------------------------------------------------------------------------------------


def told(service: Served, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return what ``hardend status`` says while the service runs."""
    code = service.beside(lambda: main(["status", "--root", service.station.host.root, *words]))
    return code, capsys.readouterr().out


def test_the_verb_says_the_same_over_the_socket(
    service: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    def same() -> str:
        """Return the screen, after a check that it is one and the same both ways."""
        screen = told(service, capsys)
        assert told(service, capsys, "--socket") == screen
        code, text = told(service, capsys, "--socket", "--json")
        asked = json.loads(text)
        code_read, text_read = told(service, capsys, "--json")
        read = json.loads(text_read)
        assert code == code_read
        assert asked == {key: read[key] for key in read if key in asked and read[key] is not None}
        assert read.keys() - asked.keys() <= {"of a later version", "off", "windows"}
        return screen[1]

    assert "/etc/mail/\\xff\\x0a contested" in same()
    service.station.publish(heartbeat=Station.ago(60))
    assert same().startswith("hung")
    service.station.publish(state="clean", paths={}, off=None, windows=[])
    assert same().startswith("clean (enforce)")
    service.station.lock.release()
    assert "unproven since" in same()
    os.unlink(service.station.host.state_file)
    (code, screen), asked = told(service, capsys), told(service, capsys, "--socket")
    assert screen.startswith("not running: the guard has not started")
    assert (code, screen.splitlines()[:1]) == (asked[0], asked[1].splitlines()), "the store is not asked"


def test_the_verb_says_where_nobody_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--socket", "--root", str(tmp_path)]) == 3
    assert "hint: systemctl enable --now hardend-status.socket" in capsys.readouterr().err
