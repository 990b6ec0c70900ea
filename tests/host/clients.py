# SPDX-License-Identifier: Apache-2.0
"""Runs inside the test host, with hardend's own interpreter: clients of the status service.

``clients.py ask N``: N calls on one connection, N connections of one call, microseconds; a JSON line.
``clients.py hostile N SECONDS``: N clients that send garbage, half a call or nothing, ask without
reading, or come again and again; says "ready" when all are there.
``clients.py monitor SECONDS``: what Monitor says of guard and state; a JSON line each.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable

from hardend.errors import UnreachableError
from hardend.model import Host
from hardend.varlink import VarlinkError
from hardend.varlink_client import Connection

PATH = "/run/hardend/status"
STATUS = "io.hardend.Status.GetStatus"
ASK = json.dumps({"method": STATUS}).encode() + b"\0"


def ask(count: int) -> dict[str, object]:
    """Return median and worst time of calls, and of connections with a call."""

    def figures(work: Callable[[], object]) -> dict[str, int]:
        times = []
        for _ in range(count):
            start = time.perf_counter_ns()
            work()
            times.append((time.perf_counter_ns() - start) // 1000)
            time.sleep(0.001)
        times.sort()
        return {"median": times[count // 2], "p99": times[count * 99 // 100], "worst": times[-1]}

    def connect_and_call() -> None:
        with Connection(Host()) as connection:
            connection.call(STATUS)

    connect_and_call()  # starts the service
    with Connection(Host()) as connection:
        calls = figures(lambda: connection.call(STATUS))
    return {"call": calls, "connection": figures(connect_and_call)}


def hostile(count: int, seconds: float) -> None:
    """Stay for a time and keep it up."""

    def connect() -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(PATH)
        client.setblocking(False)
        return client

    def misbehave(client: socket.socket, number: int) -> None:
        data = (os.urandom(500), ASK[:20], ASK * 50, b"[" * 9000, b"")[number % 5]
        with contextlib.suppress(OSError):
            client.send(data)

    clients = [connect() for _ in range(count)]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    end = time.monotonic() + seconds
    turn = 0
    while time.monotonic() < end:
        number = turn % count
        if turn // count % 2:
            clients[number].close()
            with contextlib.suppress(BlockingIOError):
                clients[number] = connect()
        misbehave(clients[number], number)
        turn += 1
        time.sleep(0.001)


def monitor(seconds: float) -> None:
    """Print what is told for a time."""
    end = time.monotonic() + seconds
    with contextlib.suppress(UnreachableError), Connection(Host(), timeout_s=seconds) as connection:
        for reply in connection.stream("io.hardend.Status.Monitor"):
            sys.stdout.write(json.dumps([reply["guard"], reply["state"], reply["unproven_since"]]) + "\n")
            sys.stdout.flush()
            if time.monotonic() > end:
                return


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    try:
        if verb == "ask":
            print(json.dumps(ask(int(words[0]))))
        elif verb == "hostile":
            hostile(int(words[0]), float(words[1]))
        else:
            monitor(float(words[0]))
    except VarlinkError as error:
        print(json.dumps({"error": error.name, **error.parameters}))
