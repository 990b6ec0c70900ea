# SPDX-License-Identifier: Apache-2.0
"""Debian 13's varlinkctl on the service: the judge of whether what we speak is Varlink."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit import varlinkctl
from tests.unit.test_status_service import ACTIVATE
from tests.unit.test_status_view import DOCUMENT, Station

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.root  # apt's own directories are read


class Desk:
    """A guarded tree, the service in a process of its own, and varlinkctl."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.socket = f"{station.host.run_dir}/status"

    def run(self, verb: str, *words: str, json_form: str = "short") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*varlinkctl.command(varlinkctl.tree()), f"--json={json_form}", verb, *words],
            capture_output=True, text=True, timeout=30, check=False, env={"LANG": "C.UTF-8"},
        )  # fmt: skip

    def call(self, method: str, parameters: str = "{}") -> subprocess.CompletedProcess[str]:
        return self.run("call", self.socket, method, parameters)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    varlinkctl.tree()
    station = Station(tmp_path_factory.mktemp("host"))
    os.makedirs(station.host.run_dir, exist_ok=True)
    assert station.lock.acquire()
    station.publish()
    with subprocess.Popen(
        [sys.executable, "-c", ACTIVATE, "--root", station.host.root], cwd=ROOT, stdout=subprocess.PIPE
    ) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == b"listening\n"
        yield Desk(station)
        service.terminate()
    station.lock.release()


@pytest.fixture(autouse=True)
def alive(desk: Desk) -> None:
    desk.station.publish()


def test_the_interface_file_is_valid(desk: Desk) -> None:
    done = desk.run("validate-idl", str(ROOT / "etc/varlink/io.hardend.Status.varlink"))
    assert done.returncode == 0, done.stderr


def test_the_service_is_known_by_its_interfaces(desk: Desk) -> None:
    info = json.loads(desk.run("info", desk.socket).stdout)
    assert info["interfaces"] == ["org.varlink.service", "io.hardend.Status"]
    listed = desk.run("list-interfaces", desk.socket)
    assert "io.hardend.Status" in listed.stdout
    for interface in info["interfaces"]:
        described = desk.run("introspect", desk.socket, interface, json_form="off")
        assert described.returncode == 0, described.stderr
        assert f"interface {interface}" in described.stdout


def test_calls_are_answered(desk: Desk) -> None:
    done = desk.call("io.hardend.Status.GetStatus")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["guard"], said["state"], said["generation"]) == ("running", "contested", 3)
    assert said["contested"] == ["/etc/mail/\\xff\\x0a"]
    assert said["last_drift"] == DOCUMENT["last_drift"]
    for method in ("GetDrift", "GetBaseline", "Monitor"):
        assert desk.call(f"io.hardend.Status.{method}").returncode == 0


def test_errors_are_told_by_name(desk: Desk) -> None:
    for method, parameters, error in (
        ("io.hardend.Status.Nothing", "{}", "MethodNotFound"),
        ("com.example.Nothing.Get", "{}", "InterfaceNotFound"),
        ("io.hardend.Status.GetStatus", '{"x":1}', "InvalidParameter"),
    ):
        done = desk.call(method, parameters)
        assert done.returncode != 0
        assert error in done.stdout + done.stderr
    desk.station.publish(heartbeat=Station.ago(60))
    done = desk.call("io.hardend.Status.GetStatus")
    assert done.returncode != 0
    assert "io.hardend.Status.Stale" in done.stdout + done.stderr
    assert json.loads(desk.call("io.hardend.Status.GetStatus", '{"unproven":true}').stdout)["guard"] == "hung"


def test_monitor_streams(desk: Desk) -> None:
    argv = [*varlinkctl.command(varlinkctl.tree()), "--json=short", "--more", "call", desk.socket]
    with subprocess.Popen(
        [*argv, "io.hardend.Status.Monitor", "{}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None

        def next_one() -> dict[str, object]:
            """Skip the record separators of RFC 7464 that varlinkctl writes."""
            line: dict[str, object] = json.loads(process.stdout.readline().lstrip("\x1e"))  # type: ignore[union-attr]
            return line

        assert next_one()["restores"] == 12
        for restores in (13, 14):
            time.sleep(0.3)
            desk.station.publish(restores=restores)
            assert next_one()["restores"] == restores
        process.terminate()


def test_no_name_of_a_path_makes_the_status_unreadable(desk: Desk) -> None:
    names = [bytes([byte]) for byte in range(1, 256)]
    names += [b"\xed\xa0\x80", "\u2028\U0001f600é".encode(), b'"\\']
    paths = {
        "/etc/mail/" + os.fsdecode(name): {
            "state": "drifted", "since": 1.0, "drift": [], "reason": os.fsdecode(name)
        }
        for name in names
    }  # fmt: skip
    desk.station.publish(paths=paths)
    done = desk.call("io.hardend.Status.GetDrift")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["drifts"]) == len(names)
