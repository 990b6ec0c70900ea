# SPDX-License-Identifier: Apache-2.0
"""A change of hardend's own files on a real host: told, whether the guard runs or not, and once."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.host.machine import Machine

MAIN = "/etc/hardend/hardend.toml"
DROP_IN = "/etc/systemd/system/hardend.service.d"
WANTS = "/etc/systemd/system/multi-user.target.wants/hardend.service"
QUICK_S = 10  # the shortest hash_interval
MODULES = "/usr/lib/hardend/venv/lib/python3*/site-packages/hardend/"
# What the guard's start and its loop pay: as the service runs it, three times, the last counts.
MEASURE = """
import time
from hardend.journal import Journal
from hardend.model import Host
from hardend.own_files import OwnFiles
own = OwnFiles(Host(), Journal(Host()))
for _ in range(3):
    start = time.perf_counter()
    count = own.begin()["OWN_FILES_COUNT"]
    whole = time.perf_counter() - start
own.step(1)
slices = []
while not slices or due != 1:
    start = time.perf_counter()
    due = own.step(1)
    slices.append(time.perf_counter() - start)
print(f"{count} files: {whole * 1000:.1f} ms at start, then {len(slices)} slices,"
      f" the longest {max(slices) * 1000:.1f} ms")
"""


class Told:
    """The events of one kind, as far as they were not read yet."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.read = 0

    def __call__(self) -> list[dict[str, Any]]:
        events = self.machine.journal("HARDEND_EVENT=self-changed")
        new = events[self.read :]
        self.read = len(events)
        return new

    def drifts(self, number: int, seconds: float) -> dict[str, str]:
        """Return path and drift of what is told until ``number`` events are there or time is over."""
        found: list[dict[str, Any]] = []
        end = time.monotonic() + seconds
        while len(found) < number and time.monotonic() < end:
            time.sleep(0.2)
            found += self()
        assert len({event["HARDEND_PATH"] for event in found}) == len(found)
        assert {event["PRIORITY"] for event in found} <= {"4"}
        return {event["HARDEND_PATH"]: event["HARDEND_DRIFT"] for event in found}


@pytest.fixture(scope="module")
def told(guarded: Machine) -> Told:
    """The guard with the shortest interval; what it told before the test is read."""
    assert guarded.journal("HARDEND_EVENT=self-changed") == []  # a first start
    guarded.run(f"printf '[guard]\\nhash_interval = \"{QUICK_S}s\"\\n' > /etc/hardend/conf.d/quick.toml")
    guarded.run("systemctl restart hardend")
    told = Told(guarded)
    assert told.drifts(1, 5) == {"/etc/hardend/conf.d/quick.toml": "unexpected"}
    return told


def test_the_start_tells_the_digest_of_all(guarded: Machine, told: Told) -> None:
    assert told() == []
    first, last = guarded.journal("HARDEND_EVENT=guard-started")
    assert re.fullmatch("[0-9a-f]{64}", last["HARDEND_OWN_FILES"])
    assert last["HARDEND_OWN_FILES"] != first["HARDEND_OWN_FILES"]
    assert int(last["HARDEND_OWN_FILES_COUNT"]) == int(first["HARDEND_OWN_FILES_COUNT"]) + 1
    document = guarded.json("cat /run/hardend/state.json")["own_files"]
    assert document["digest"] == last["HARDEND_OWN_FILES"]
    seen = set(guarded.json("cat /var/lib/hardend/own-files.json")["files"])
    assert {MAIN, "/usr/sbin/hardend", "/usr/lib/systemd/system/hardend.service", WANTS} <= seen
    assert any(path.endswith("/site-packages/hardend/guard.py") for path in seen)
    assert any(path.endswith("/watchdog/observers/inotify_c.py") for path in seen)
    assert not any(path.startswith("/lib/") for path in seen)  # merged into /usr/lib
    mode = guarded.run("stat -c '%a %U' /var/lib/hardend/own-files.json").stdout
    assert mode.split() == ["600", "root"]


def test_what_changes_while_the_guard_runs_is_told_once(guarded: Machine, told: Told) -> None:
    guarded.run(f"echo '# a comment' >> {MAIN}")
    guarded.run(f"mkdir {DROP_IN}; printf '[Service]\\nNice=5\\n' > {DROP_IN}/nice.conf")
    changed = {MAIN: "content", DROP_IN: "unexpected", f"{DROP_IN}/nice.conf": "unexpected"}
    assert told.drifts(3, QUICK_S + 10) == changed
    assert told.drifts(1, QUICK_S + 5) == {}
    guarded.run("systemctl restart hardend")
    assert told.drifts(1, 3) == {}
    shown = guarded.run("hardend events --kind self-changed").stdout
    assert f"{MAIN} [content]" in shown
    explained = guarded.run("journalctl -q -x --no-pager HARDEND_EVENT=self-changed").stdout
    assert "Otherwise treat the host as attacked" in explained
    assert guarded.run(f"cat {DROP_IN}/nice.conf").stdout == "[Service]\nNice=5\n"


def test_what_changed_while_no_guard_ran_is_told_at_the_start(guarded: Machine, told: Told) -> None:
    guarded.run("systemctl stop hardend")
    guarded.run(f"rm -r {DROP_IN}; chmod 666 {MAIN}; echo '# x' >> /usr/sbin/hardend")
    guarded.run(f"rm {WANTS}")  # as systemctl disable does
    guarded.run("systemctl start hardend")
    assert told.drifts(5, 5) == {
        DROP_IN: "missing",
        f"{DROP_IN}/nice.conf": "missing",
        MAIN: "mode",
        "/usr/sbin/hardend": "content",
        WANTS: "missing",
    }
    assert told.drifts(1, QUICK_S + 3) == {}
    assert guarded.run(f"stat -c %a {MAIN}").stdout == "666\n"  # report only


def test_an_upgrade_is_one_event(guarded: Machine, told: Told) -> None:
    guarded.run(f"for file in {MODULES}*.py; do echo '# new' >> $file; done")
    number = int(guarded.run(f"ls {MODULES}*.py | wc -l").stdout)
    guarded.run("systemctl restart hardend")
    time.sleep(1)
    [event] = told()
    assert int(event["HARDEND_COUNT"]) == number
    assert event["HARDEND_DRIFT"] == "content"
    assert event["MESSAGE"].startswith(f"{number} files of hardend itself changed while no guard ran: ")
    assert event["MESSAGE"].endswith(f" and {number - 5} more")
    assert event["MESSAGE"].count(".py") == 5
    assert guarded.run("hardend check").returncode == 0


def test_garbage_that_is_remembered_ends_no_start(guarded: Machine, told: Told) -> None:
    guarded.run("systemctl stop hardend; head -c 99999 /dev/urandom > /var/lib/hardend/own-files.json")
    guarded.run("systemctl start hardend; sleep 1")
    [event] = told()
    assert "own-files.json cannot be read" in event["MESSAGE"]
    guarded.run("systemctl restart hardend; sleep 1")
    assert told() == []


def test_looking_costs_the_guard_little(guarded: Machine) -> None:
    guarded.run("systemctl stop hardend")
    done = guarded.run(["/usr/lib/hardend/venv/bin/python", "-I", "-c", MEASURE])
    print(done.stdout.strip())
    assert int(done.stdout.split()[0]) > 100
    guarded.run("systemctl start hardend")
    assert guarded.run("systemctl is-active hardend").stdout == "active\n"
