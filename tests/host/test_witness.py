# SPDX-License-Identifier: Apache-2.0
"""Who changed a guarded file, as a real kernel tells it, of real writers on a booted mail host."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hardend.quarantine import time_of
from tests.host.test_guard import wait_clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.machine import Machine

pytestmark = pytest.mark.host
ACCESS = "/etc/mail/access"
SMRSH = "/etc/mail/smrsh"
TIMES = 8
NEVER_TRIED_AGAIN = ("cp new", "ln new")
UNIT = "hardend-witness.service"
DROP_IN = f"/etc/systemd/system/{UNIT}.d/test.conf"


@pytest.fixture(scope="module")
def witnessed(guarded: Machine) -> Machine:
    """The guarded host with a witness."""
    guarded.put(Path(__file__).with_name("culprits.py"), "/root/culprits.py")
    before = guarded.json("hardend status --json")
    assert before["state"] == "clean", before
    guarded.run(f"systemctl enable --now {UNIT}")
    return guarded


@pytest.fixture(autouse=True)
def clean(witnessed: Machine) -> Iterator[Machine]:
    """The host, clean before and after, its witness running on."""
    yield witnessed
    assert wait_clean(witnessed) == ""


def cost(machine: Machine) -> list[int]:
    found: list[int] = machine.json(["python3", "/root/culprits.py", "cost", ACCESS, "2000"])
    return found


def culprits(machine: Machine, kind: str, path: str, times: int, unit: str = "") -> list[int]:
    """Have a path changed; return the numbers of the processes that did."""
    command = ["python3", "/root/culprits.py", kind, path, str(times)]
    if unit:
        command = ["systemd-run", "--quiet", "--collect", "--pipe", "--wait", f"--unit={unit}", *command]
    done: list[int] = machine.json(command)
    assert len(done) == times
    return done


def kept(machine: Machine, path: str, since: float) -> list[dict[str, Any]]:
    """Return what was set aside of a path since a moment, once it is collected."""
    objects: list[dict[str, Any]] = []
    for _ in range(120):
        busy = machine.run("systemctl is-active hardend-collect", check=False).stdout.strip()
        found = machine.json(["hardend", "quarantine", "list", "--json", "--path", path])
        objects = [item for item in found["objects"] if time_of(item["id"]) >= since]
        # Who it was is written once everything is moved.
        if busy == "inactive" and objects and not any(item["waits"] for item in objects):
            return objects
        time.sleep(0.5)
    raise AssertionError(f"{path}: nothing was collected: {objects}")


def share(objects: list[dict[str, Any]], kind: str, seconds: float) -> None:
    """Print how much was known."""
    known = dict.fromkeys(("pid", "exe", "comm", "unit", "uid", "candidates"), 0)
    for item in objects:
        for name in known:
            known[name] += name in item["who"]
    words = ", ".join(f"{name} {count}" for name, count in known.items())
    print(f"{kind:14} of {len(objects):3}: {words} ({seconds:.1f} s)")


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        *((kind, ACCESS) for kind in ("sed -i", "sh echo >>", "tee", "python exits")),
        *((kind, f"{SMRSH}/evil") for kind in ("cp new", "ln new")),
    ],
)
def test_of_those_who_are_gone_at_once_nobody_is_named_wrongly(clean: Machine, kind: str, path: str) -> None:
    since = time.time()
    pids = culprits(clean, kind, path, TIMES, unit="short")
    objects = [item for item in kept(clean, path, since) if set(item["drift"]) - {"flags"}]
    share(objects, kind, time.time() - since)
    for item in objects:
        who = item["who"]
        if "exe" in who:
            program = {"sed -i": "sed", "sh echo >>": "dash", "cp new": "cp", "ln new": "ln"}.get(kind, "")
            assert program in who["exe"], who
        if "unit" in who:
            assert who["unit"] == "short.service", who
        if "pid" in who and kind in NEVER_TRIED_AGAIN:
            assert who["pid"] in pids, who


@pytest.mark.parametrize("kind", ["python stays", "rename stays"])
def test_who_goes_on_for_a_while_is_named_with_program_user_login_and_unit(clean: Machine, kind: str) -> None:
    since = time.time()
    pids = culprits(clean, kind, ACCESS, TIMES, unit="evil-cron")
    # What only lost its lock was changed by nobody yet: that is an ioctl, and no event tells of it.
    objects = [item for item in kept(clean, ACCESS, since) if set(item["drift"]) - {"flags"}]
    share(objects, kind, time.time() - since)
    named = [item for item in objects if item["who"]]
    assert len(named) >= TIMES // 2
    for item in named:
        who = item["who"]
        assert who["exe"].startswith("/usr/bin/python3"), who
        assert who["unit"] == "evil-cron.service"
        assert who["uid"] == 0
        assert who["pid"] in pids
        assert "candidates" not in who
    events = clean.journal("HARDEND_EVENT=drift-attributed", "HARDEND_WHO_UNIT=evil-cron.service")
    assert {event["HARDEND_PATH"] for event in events} == {ACCESS}
    assert {event["HARDEND_QUARANTINE_ID"] for event in events} & {item["id"] for item in named}


def test_somebody_who_logged_in_is_found_by_his_number_after_sudo(clean: Machine) -> None:
    since = time.time()
    clean.run(f"echo 4711 > /proc/self/loginuid; exec python3 /root/culprits.py 'python stays' {ACCESS} 1")
    item = next(one for one in kept(clean, ACCESS, since) if "content" in one["drift"])
    assert (item["who"]["uid"], item["who"]["loginuid"]) == (0, 4711)
    clean.run("journalctl --sync")
    shown = clean.run("hardend events --who 4711").stdout
    assert item["id"] in shown
    assert "drift-attributed" in shown
    assert "login uid 4711" in clean.run(f"hardend quarantine show {item['id']}").stdout
    listed = clean.run("hardend quarantine list").stdout.splitlines()
    assert any("login uid 4711" in line and item["id"] in line for line in listed)
    print(f"\n{shown}")


def test_who_changes_a_mode_in_place_is_named_without_anything_set_aside(clean: Machine) -> None:
    culprits(clean, "chmod stays", "/etc/mail/aliases.db", 1, unit="modes")
    told = clean.journal("HARDEND_EVENT=drift-attributed", "HARDEND_WHO_UNIT=modes.service")
    assert [event["HARDEND_PATH"] for event in told] == ["/etc/mail/aliases.db"]
    assert "HARDEND_QUARANTINE_ID" not in told[0]


def test_two_who_may_have_done_it_are_both_named_and_neither_for_a_fact(clean: Machine) -> None:
    since = time.time()
    guard = clean.run("systemctl show -p MainPID --value hardend").stdout.strip()
    clean.run(f"kill -STOP {guard}")
    try:
        for unit in ("one", "other"):
            command = f"echo '# {unit}' >> {ACCESS}; sleep 5"
            clean.run(f"chattr -i {ACCESS}")
            clean.run(["systemd-run", "--quiet", f"--unit={unit}", "sh", "-c", command])
            time.sleep(0.5)
    finally:
        clean.run(f"kill -CONT {guard}")
    item = next(one for one in kept(clean, ACCESS, since) if "content" in one["drift"])
    who = item["who"]
    assert sorted(one["unit"] for one in who["candidates"]) == ["one.service", "other.service"]
    assert (who["exe"], who["uid"]) == ("/usr/bin/dash", 0)  # as both have it
    assert not {"pid", "unit"} & who.keys()
    clean.run("journalctl --sync")
    for asked in ("one", "other.service"):
        assert item["id"] in clean.run(f"hardend events --who {asked}").stdout
    shown = clean.run(f"hardend quarantine show {item['id']}").stdout
    assert "not known for a fact: " in shown
    assert "other.service" in shown


def test_a_witness_that_hangs_holds_up_nobody_and_is_not_missed_for_long(clean: Machine) -> None:
    clean.run(f"systemctl kill -s STOP {UNIT}")
    since = time.time()
    culprits(clean, "python stays", ACCESS, 1)
    item = next(one for one in kept(clean, ACCESS, since) if "content" in one["drift"])
    print(f"with a stopped witness: {time.time() - since:.1f} s, who {item['who']}")
    assert item["who"] == {}
    clean.run(f"systemctl kill -s CONT {UNIT}")


def test_what_it_costs_is_printed(clean: Machine) -> None:
    print("\nopen, read and close of a protected file, ns, median and 99th of a hundred:")
    for act in ("stop", "start") * 3:
        clean.run(f"systemctl {act} {UNIT}")
        print(f"  {'without' if act == 'stop' else 'with'} a witness: {cost(clean)}")
    pid = clean.run(f"systemctl show -p MainPID --value {UNIT}").stdout.strip()
    used = clean.run(f"grep VmRSS /proc/{pid}/status; ps -o cputimes=,etimes= -p {pid}").stdout
    print(used, clean.json("cat /run/hardend/state.json")["restore_us"])
    print(clean.run(f"systemd-analyze security --no-pager {UNIT} | tail -1").stdout)
    print(clean.run(f"ls -l /run/hardend; journalctl -u {UNIT} -o cat | tail -5").stdout)


def test_where_fanotify_is_refused_that_is_said_once_and_the_guard_goes_on(clean: Machine) -> None:
    clean.run(f"mkdir -p $(dirname {DROP_IN}); printf '[Service]\\nCapabilityBoundingSet=\\n' > {DROP_IN}")
    clean.run(f"systemctl daemon-reload; systemctl restart {UNIT}", check=False)
    time.sleep(7)
    state = clean.run(f"systemctl show -p ActiveState -p NRestarts -p ExecMainStatus {UNIT}").stdout
    assert "ActiveState=failed" in state
    assert "NRestarts=0" in state
    assert "ExecMainStatus=4" in state
    said = clean.run(f"journalctl -u {UNIT} -o cat --since -8s | grep -c 'fanotify is refused'").stdout
    assert said.strip() == "1"
    assert json.loads(clean.run("hardend status --json", check=False).stdout)["state"] == "clean"
    clean.run(f"rm {DROP_IN}; systemctl daemon-reload; systemctl restart {UNIT}")
