# SPDX-License-Identifier: Apache-2.0
"""The status service on the booted host: on demand, for the group adm, true whatever the guard does."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.host.test_guard import CF, state, wait_clean
from tests.unit import varlinkctl
from tests.unit.test_status_view import faults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.machine import Machine

STATUS = "io.hardend.Status.GetStatus"
PYTHON = "/usr/lib/hardend/venv/bin/python -I"
UNIT = "hardend-status.service"
PROGRAM = Path(__file__).with_name("clients.py")


@pytest.fixture(scope="module")
def host(machine: Machine) -> Machine:
    """The host with the socket, a member of adm who is nobody else, and no guard."""
    machine.put(PROGRAM, "/root/clients.py")
    machine.run("install -m 0755 /root/clients.py /usr/local/bin/clients.py; usermod -aG adm nobody")
    machine.run("systemctl enable --now hardend-status.socket")
    return machine


@pytest.fixture(scope="module")
def watched(host: Machine, guarded: Machine) -> Machine:
    """The same under a guard."""
    assert host is guarded
    return guarded


def call(machine: Machine, method: str = STATUS, parameters: str = "{}", user: str = "nobody") -> Any:
    """Return what a method says, with its error under "error"."""
    script = (
        "import json, sys\n"
        "from hardend.model import Host\n"
        "from hardend.varlink import VarlinkError\n"
        "from hardend.varlink_client import Connection\n"
        "try:\n"
        "    with Connection(Host(), timeout_s=30) as c:\n"
        "        said = c.call(sys.argv[1], json.loads(sys.argv[2]))\n"
        "except VarlinkError as error:\n"
        "    said = {'error': error.name, **error.parameters}\n"
        "print(json.dumps(said))\n"
    )
    done = machine.run([*PYTHON.split(), "-c", script, method, parameters], user=user)
    said = json.loads(done.stdout)
    error = said.get("error", "")
    assert faults(method, error, {key: value for key, value in said.items() if key != "error"}) == []
    return said


def wait_for(machine: Machine, seconds: float, **wanted: object) -> Any:
    """Ask until the answer is as wanted; returns the last one."""
    end = time.monotonic() + seconds
    said = call(machine)
    while any(said.get(key) != value for key, value in wanted.items()) and time.monotonic() < end:
        time.sleep(0.2)
        said = call(machine)
    return said


@contextlib.contextmanager
def running(machine: Machine, words: str, user: str = "nobody") -> Iterator[subprocess.Popen[str]]:
    """Run clients.py beside; it is ended with the block."""
    # setpriv(1) sets the user first: a change of user would undo the signal.
    become = [f"--reuid={user}", f"--regid={machine.run(['id', '-g', user]).stdout.strip()}", "--init-groups"]
    argv = [*PYTHON.split(), "/usr/local/bin/clients.py", *words.split()]
    with subprocess.Popen(
        [
            *("nsenter", "--target", str(machine.leader), "--all"),
            *("setpriv", *become, "--pdeathsig", "KILL", *argv),
        ],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def is_active(machine: Machine, unit: str = UNIT) -> str:
    return machine.run(["systemctl", "is-active", unit], check=False).stdout.strip()


# Before there is a guard ---------------------------------------------------------------------------


def test_the_socket_is_for_root_and_adm(host: Machine) -> None:
    assert host.run("stat -c '%a %U %G' /run/hardend/status").stdout == "660 root adm\n"
    host.run("id alice || useradd -m alice")
    done = host.run("hardend status --socket", user="alice", check=False)
    assert done.returncode == 3
    assert "Permission denied" in done.stderr
    assert is_active(host) == "inactive"


def test_a_client_starts_it_and_it_says_that_no_guard_ever_ran(host: Machine) -> None:
    said = call(host)
    assert said == {
        "error": "io.hardend.Status.NotRunning",
        "guard": "never_started",
        "unproven_since": None,
        "last_state": "unknown",
    }
    assert is_active(host) == "active"
    assert is_active(host, "hardend.service") != "active"


def test_it_has_no_right_and_sees_only_what_it_answers_from(host: Machine) -> None:
    call(host)
    pid = host.run(f"systemctl show -p MainPID --value {UNIT}").stdout.strip()
    lines = host.run(f"cat /proc/{pid}/status").stdout.splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert "0" not in status["Uid"].split() + status["Gid"].split()
    assert status["Threads"] == "1"
    # As itself, because to be root would be to see what is closed to others.
    seen = "import os, sys\nfor p in sys.argv[1:]:\n try: print(*os.listdir(p))\n except OSError: print()"
    closed = ["/etc/mail", "/etc", "/var", "/root", "/home", "/opt", "/srv", "/run/hardend", "/run"]
    user, group = (status[name].split()[0] for name in ("Uid", "Gid"))
    inside = ["nsenter", "-m", "-t", pid, "setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    listed = host.run([*inside, *PYTHON.split(), "-c", seen, *closed]).stdout.split("\n")
    shown = dict(zip(closed, map(str.split, listed), strict=False))
    assert "status" in shown.pop("/run/hardend")
    assert set(shown.pop("/run")) <= {"hardend", "systemd", "credentials", "user", "host"}
    assert set(shown.pop("/etc")) <= {"ld.so.cache"}
    assert set(shown.pop("/var")) <= {"tmp"}
    assert {path: names for path, names in shown.items() if names} == {}
    security = host.run(f"systemd-analyze security --no-pager {UNIT}").stdout
    print(security.splitlines()[-1])


def test_it_leaves_when_nobody_asks_and_comes_back(host: Machine) -> None:
    directory = f"/run/systemd/system/{UNIT}.d"
    text = "[Service]\\nExecStart=\\nExecStart=/usr/sbin/hardend serve-status --idle 1\\n"
    host.run(f"mkdir -p {directory}; printf '{text}' > {directory}/idle.conf; systemctl daemon-reload")
    host.run(f"systemctl stop {UNIT}")
    try:
        for _ in range(2):
            call(host)
            assert is_active(host) == "active"
            end = time.monotonic() + 20
            while is_active(host) == "active" and time.monotonic() < end:
                time.sleep(0.2)
            assert is_active(host) == "inactive"  # and not "failed"
        with running(host, "monitor 30") as process:
            assert process.stdout is not None and process.stdout.readline()
            time.sleep(2.5)
            assert is_active(host) == "active"
    finally:
        host.run(f"rm -r {directory}; systemctl daemon-reload; systemctl stop {UNIT}")


# Under a guard -------------------------------------------------------------------------------------


def test_what_the_guard_publishes_is_what_is_told(watched: Machine) -> None:
    said = wait_for(watched, 20, guard="running", state="clean")
    assert said["unproven_since"] is None
    document = state(watched)
    assert set(document) - {"schema"} <= set(said), "the interface lacks what the guard says"
    assert said["generation"] == document["generation"] == 1
    assert said["own_files"] == document["own_files"]
    baseline = call(watched, "io.hardend.Status.GetBaseline")
    assert (baseline["generation"], baseline["approved"]["reason"]) == (1, "first")
    assert call(watched, "io.hardend.Status.GetDrift") == {"state": "clean", "drifts": []}


def test_the_verb_says_the_same_over_the_socket(watched: Machine) -> None:
    done = watched.run("hardend status --socket", user="nobody")
    assert done.stdout.splitlines()[0].startswith("clean (enforce)")


def test_debian_13_s_varlinkctl_gets_it_as_nobody(watched: Machine) -> None:
    tree = varlinkctl.tree()
    subprocess.run(["cp", "-a", str(tree), str(watched.path("/opt/varlinkctl"))], check=True)
    watched.run("chmod -R go+rX /opt/varlinkctl")
    words = varlinkctl.command("/opt/varlinkctl")
    asked = [*words, "--json=short", "call", "/run/hardend/status", STATUS, "{}"]
    assert json.loads(watched.run(asked, user="nobody").stdout)["guard"] == "running"
    assert watched.run(asked, user="alice", check=False).returncode != 0


def test_it_is_quick_while_the_guard_is_busy_and_a_hundred_clients_are_hostile(watched: Machine) -> None:
    ask = f"{PYTHON} /usr/local/bin/clients.py ask 200"
    drift = "python3 /root/drifts.py mixed 40 7 bind-mount"

    def restore_us() -> Any:
        return state(watched)["restore_us"]

    watched.run("systemctl restart hardend")
    print("status, alone:           ", watched.run(ask, user="nobody").stdout.strip())
    watched.run(drift, timeout=300)
    before = restore_us()
    print("restores, alone:         ", before)
    watched.run("systemctl restart hardend")
    with running(watched, "hostile 100 600") as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        drifting = ["nsenter", "--target", str(watched.leader), "--all", *drift.split()]
        with subprocess.Popen(drifting, stdout=subprocess.DEVNULL) as drifts:
            busy = watched.run(ask, user="root", timeout=300).stdout.strip()
            print("status, all of them busy:", busy)
            mine = watched.run(f"{ask[:-3]}50", user="nobody", timeout=300, check=False)
            print("status, the same user's: ", (mine.stdout + mine.stderr).strip().splitlines()[-1])
            assert drifts.wait(300) == 0
        assert process.poll() is None
    after = restore_us()
    print("restores, all of it:     ", after)
    assert after["count"] > 0
    assert wait_clean(watched) == ""
    assert is_active(watched) == "active"
    entries = watched.run(f"journalctl -q -o cat -u {UNIT}").stdout
    assert "Traceback" not in entries
    assert "overflow" not in {entry.get("HARDEND_EVENT") for entry in watched.journal()}


def test_a_monitor_sees_a_killed_guard_go_and_its_successor_come(watched: Machine) -> None:
    with running(watched, "monitor 60") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())[0] == "running"
        watched.run("systemctl kill --kill-whom=main -s KILL hardend")
        told: list[list[Any]] = []
        while not told or told[-1][0] != "running":
            told.append(json.loads(process.stdout.readline()))
    print("told:", told)
    assert {guard for guard, _, _ in told[:-1]} <= {"dead", "starting"}
    assert len(told) > 1
    assert all(since is not None for _, _, since in told[:-1])
    assert wait_for(watched, 20, state="clean")["guard"] == "running"


def test_a_guard_that_is_stopped_by_a_signal_is_stale_and_not_clean(watched: Machine) -> None:
    watched.run("systemctl kill --kill-whom=main -s STOP hardend")
    stopped = time.time()
    end = time.monotonic() + 9
    said = call(watched)
    while "error" not in said and time.monotonic() < end:
        time.sleep(0.1)
        said = call(watched)
    assert said["error"] == "io.hardend.Status.Stale"
    assert (said["guard"], said["last_state"]) == ("hung", "clean")
    assert stopped - 5 < said["unproven_since"] < stopped + 1
    watched.run("systemctl kill --kill-whom=main -s CONT hardend")
    assert wait_for(watched, 30, guard="running", state="clean")["guard"] == "running"


def test_a_guard_that_is_not_running_is_unproven_since_its_last_word(watched: Machine) -> None:
    watched.run("systemctl stop hardend")
    try:
        said = call(watched)
        assert said["error"] == "io.hardend.Status.NotRunning"
        assert (said["guard"], said["last_state"]) == ("dead", "clean")
        assert time.time() - 30 < said["unproven_since"] < time.time()
        watched.run(f"chattr -i {CF}; echo x >> {CF}")  # nobody knows of it, and nobody claims to
        assert call(watched)["last_state"] == "clean"
        metrics = watched.run("hardend metrics", user="nobody").stdout
        assert "\nhardend_up 0\n" in metrics
        assert "hardend_paths" not in metrics
    finally:
        watched.run("systemctl start hardend")
    assert wait_clean(watched) == ""


# Metrics and the end -------------------------------------------------------------------------------


def test_the_timer_writes_the_metrics_for_node_exporter(watched: Machine) -> None:
    where = "/var/lib/prometheus/node-exporter"
    watched.run("systemctl start hardend-metrics.service")
    assert watched.run(f"test -e {where}", check=False).returncode == 1
    watched.run(f"mkdir -p {where}; systemctl start hardend-metrics.service hardend-metrics.timer")
    assert watched.run(f"ls {where}").stdout == "hardend.prom\n"
    assert watched.run(f"stat -c '%a %U' {where}/hardend.prom").stdout == "644 root\n"
    text = watched.run(f"cat {where}/hardend.prom", user="nobody").stdout
    assert "\nhardend_up 1\n" in text
    assert '\nhardend_state{state="clean"} 1\n' in text
    assert watched.run("systemctl show -p Result --value hardend-metrics.service").stdout == "success\n"


def test_uninstalling_takes_the_socket_and_the_service_with_it(watched: Machine) -> None:
    call(watched)
    watched.run("cd /root/hardend && ./run uninstall", timeout=120)
    assert is_active(watched) != "active"
    assert is_active(watched, "hardend-status.socket") != "active"
    left = watched.run("ls /usr/lib/systemd/system /etc/systemd/system/*.wants /usr/share; ls /run").stdout
    assert "hardend" not in left
