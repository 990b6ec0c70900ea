# SPDX-License-Identifier: Apache-2.0
"""A status service on a real socket, turned by hand, and clients of every kind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hardend.status_service import Limits, StatusService
from hardend.varlink import Call, Parameters, call_message
from hardend.varlink_client import STATUS_SOCKET, Connection, _address
from tests.unit.test_status_view import Station

T = TypeVar("T")
STATUS = "io.hardend.Status.GetStatus"
ASK = call_message(Call(STATUS))
INFO = call_message(Call("org.varlink.service.GetInfo"))
MONITOR = call_message(Call("io.hardend.Status.Monitor", more=True))


class Served:
    """A service whose loop turns only when a test says so."""

    def __init__(self, station: Station, limits: Limits | None = None) -> None:
        self.station = station
        os.makedirs(station.host.run_dir, exist_ok=True)
        self.path = os.path.join(station.host.run_dir, STATUS_SOCKET)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _address(station.host.run_dir, self.path) as address:
            self.listener.bind(address)
        self.listener.listen(128)
        self.service = StatusService(station.host, self.listener, limits)

    def close(self) -> None:
        self.service.close()
        self.listener.close()

    @property
    def clients(self) -> int:
        return len(self.service._clients)

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(5)
        with _address(self.station.host.run_dir, self.path) as address:
            client.connect(address)
        return client

    def settle(self) -> None:
        """Turn until there is nothing to do."""
        for _ in range(10_000):
            if not self.service.turn(0):
                return
        pytest.fail("the loop does not come to rest")

    def turn_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.service.turn(0.01)

    def beside(self, work: Callable[[], T]) -> T:
        """Do what blocks in another thread while the loop turns here."""
        done: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                done.append(work())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        while thread.is_alive():
            self.service.turn(0.01)
        thread.join()
        if failed:
            raise failed[0]
        return done[0]

    def ask(self, method: str = STATUS, parameters: Parameters | None = None) -> Parameters:
        """Ask as the command does."""

        def work() -> Parameters:
            with Connection(self.station.host) as connection:
                return connection.call(method, parameters)

        return self.beside(work)

    def said(self, client: socket.socket) -> list[dict[str, Any]]:
        """Return the messages that a client has been sent by now; nothing is left over."""
        self.settle()
        client.setblocking(False)
        data = b""
        with contextlib.suppress(BlockingIOError):
            while part := client.recv(1 << 16):
                data += part
                self.settle()
        client.settimeout(5)
        *messages, rest = data.split(b"\0")
        assert rest == b""
        return [json.loads(message) for message in messages]

    def is_closed(self, client: socket.socket) -> bool:
        """Return whether the service has ended a connection; what it sent before is thrown away."""
        self.settle()
        client.setblocking(False)
        try:
            while client.recv(1 << 16):
                self.settle()
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        finally:
            client.settimeout(5)
        return True


@contextlib.contextmanager
def served(root: Path, limits: Limits | None = None) -> Iterator[Served]:
    """A service of a guarded tree that is fine."""
    station = Station(root)
    assert station.lock.acquire()
    station.publish()
    made = Served(station, limits)
    try:
        yield made
    finally:
        made.close()
        station.lock.release()
