# SPDX-License-Identifier: Apache-2.0
"""Alerts on the booted host: what the guard meets reaches a command, and a relay on another host."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.host.machine import Machine

UNIT = "hardend-alert.service"
GOT = "/run/hardend-test-alerts"
MAIL = "/etc/mail"
# The other host: a network namespace, and in it a relay that keeps one message.
RELAY = """
import socket
listener = socket.create_server(("192.0.2.25", 25))
print("up", flush=True)
client, _ = listener.accept()
lines = client.makefile("rb")
client.sendall(b"220 relay\\r\\n")
body = False
for line in lines:
    print(line.decode().rstrip(), flush=True)
    word = line.strip().upper()
    if body and word != b".":
        continue
    body = word == b"DATA"
    client.sendall(b"354 go\\r\\n" if body else b"250 ok\\r\\n")
    if word == b"QUIT":
        break
"""


@pytest.fixture(scope="module")
def host(guarded: Machine) -> Machine:
    """The guarded host with the service and a command that keeps what it is given."""
    # A command of alerts may write where the administrator lets the unit.
    guarded.run(
        f"mkdir -p {GOT} /etc/systemd/system/{UNIT}.d; "
        f"printf '[Service]\\nReadWritePaths={GOT}\\n' > /etc/systemd/system/{UNIT}.d/test.conf; "
        f"printf '#!/bin/sh\\ncat >> {GOT}/got\\n' > /usr/local/sbin/page; chmod 755 /usr/local/sbin/page; "
        "printf '[alerts]\\ncommand = [\"/usr/local/sbin/page\"]\\n' > /etc/hardend/conf.d/alerts.toml; "
        f"systemctl daemon-reload; systemctl enable --now {UNIT}"
    )
    return guarded


def got(host: Machine) -> list[dict[str, Any]]:
    text = host.run(f"cat {GOT}/got", check=False).stdout
    return [json.loads(line) for line in text.splitlines()]


def wait_for(host: Machine, fits: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
    """Return the first alert that fits."""
    end = time.monotonic() + seconds
    while True:
        found = next((each for each in got(host) if fits(each)), None)
        if found is not None:
            return found
        assert time.monotonic() < end, [(each["phase"], each["subject"]) for each in got(host)]
        time.sleep(0.2)


def is_about(kind: str, phase: str, path: str = "") -> Callable[[dict[str, Any]], bool]:
    return lambda each: (each["kind"], each["phase"], each.get("path", "")) == (kind, phase, path)


def test_a_test_arrives_by_the_service_in_its_sandbox(host: Machine) -> None:
    done = host.run("hardend alert test")
    assert done.stdout == "delivered: hardend-alert.service delivered it\n"
    [told] = got(host)
    assert (told["phase"], told["host"]) == ("test", "mail.example.com")
    print(host.run(f"systemd-analyze security --no-pager {UNIT}").stdout.splitlines()[-1])
    pid = host.run(f"systemctl show -p MainPID --value {UNIT}").stdout.strip()
    print(host.run(f"grep -E 'VmRSS|CapEff' /proc/{pid}/status").stdout)


def test_a_drift_is_told_and_that_it_is_over_and_a_killed_guard(host: Machine) -> None:
    host.run(f"chmod 0777 {MAIL}")
    began = wait_for(host, is_about("drift", "began", MAIL), 20)
    assert began["event"]["event"] == "path-restored"
    assert began["event"]["drift"] == ["mode"]
    host.run("systemctl kill --signal=KILL --kill-who=main hardend.service")
    killed = wait_for(host, is_about("guard-killed", "began"), 20)
    assert killed["priority"] == "crit"
    listed = host.json("hardend alert list --json")
    assert {each["kind"] for each in listed["incidents"]} >= {"drift", "guard-killed"}
    assert listed["waiting"] == []
    over = wait_for(host, is_about("drift", "over", MAIL))
    assert over["incident"] == began["incident"]


def test_a_guard_that_is_gone_is_told_and_that_it_is_back(host: Machine) -> None:
    host.run("systemctl stop hardend.service")
    gone = wait_for(host, is_about("guard", "began"), 40)
    assert gone["priority"] == "crit"
    host.run("systemctl start hardend.service")
    wait_for(host, is_about("guard", "over"), 30)


def test_mail_goes_over_another_host_and_never_over_this_one(host: Machine) -> None:
    host.path("/root/relay.py").write_text(RELAY)
    host.run(
        "ip netns add relay; ip link add out type veth peer name in netns relay; "
        "ip addr add 192.0.2.1/24 dev out; ip link set out up; "
        "ip -n relay addr add 192.0.2.25/24 dev in; ip -n relay link set in up; "
        "systemd-run --quiet --unit=relay -p StandardOutput=file:/root/relay.log "
        "ip netns exec relay python3 /root/relay.py; "
        "until grep -q up /root/relay.log; do sleep 0.1; done"
    )
    told = '[alerts]\\nrelay = "%s"\\nto = ["ops@example.net"]\\n'
    configure = f"printf '{told}' {{}} > /etc/hardend/conf.d/alerts.toml"
    for own in ("127.0.0.1", "mail.example.com", "192.0.2.1"):
        host.run(configure.format(own))
        time.sleep(1.5)  # the service looks for changes of the configuration once a second
        done = host.run("hardend alert test", check=False)
        assert done.returncode == 1
        assert f"{own} is this host itself" in done.stdout
    host.run(configure.format("192.0.2.25"))
    time.sleep(1.5)
    assert host.run("hardend alert test").stdout == "delivered: hardend-alert.service delivered it\n"
    heard = host.run("cat /root/relay.log").stdout
    assert "rcpt TO:<ops@example.net>" in heard
    assert "Subject: [hardend info] mail.example.com: a test: alerts of hardend" in heard


def test_after_all_that_nothing_waits_and_the_unit_never_failed(host: Machine) -> None:
    assert "every alert was delivered" in host.run("hardend alert list").stdout
    assert host.run(f"systemctl show -p NRestarts --value {UNIT}").stdout == "0\n"
    assert host.run("hardend alert list", user="nobody", check=False).returncode == 4
