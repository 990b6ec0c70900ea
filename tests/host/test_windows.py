# SPDX-License-Identifier: Apache-2.0
"""Maintenance windows on a real mail host: their whole life, Sendmail's own tools, and a command in one."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.machine import Machine

pytestmark = pytest.mark.host
ACCESS = "/etc/mail/access"
CF = "/etc/mail/sendmail.cf"
LINE = "Connect:192.0.2.{} REJECT"
CONFIG = "/etc/hardend/conf.d/windows.toml"


def wait(machine: Machine, command: str, seconds: float = 30) -> str:
    """Wait until a command succeeds; "" then, else what it said last."""
    said = ""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done = machine.run(command, check=False)
        if done.returncode == 0:
            return ""
        said = done.stdout + done.stderr
        time.sleep(0.3)
    return said or "failed silently"


def wait_clean(machine: Machine) -> str:
    """Return what is not clean, of the guard's view and of a comparison from outside; "" for nothing."""
    return wait(machine, "hardend status") or wait(machine, "hardend check")


def number(machine: Machine) -> int:
    return int(machine.json("hardend status --json")["generation"])


def windows(machine: Machine) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = machine.json("hardend window --json")
    return found


def append(machine: Machine, count: int) -> str:
    """Add a line to access, and return it."""
    line = LINE.format(count)
    machine.run(f"echo '{line}' >> {ACCESS}")
    return line


def answers(machine: Machine, line: str) -> bool:
    key = line.partition(" ")[0]
    return machine.run(f"makemap -u hash {ACCESS} | grep -qi '^{key}'", check=False).returncode == 0


def is_locked(machine: Machine, path: str = ACCESS) -> bool:
    return "i" in machine.run(f"lsattr -d {path}").stdout.split()[0]


def events(machine: Machine, kind: str) -> list[dict[str, Any]]:
    return machine.journal(f"HARDEND_EVENT={kind}")


@pytest.fixture(autouse=True)
def held(guarded: Machine) -> Iterator[Machine]:
    """The host, clean and without windows; afterwards a test that failed has left nothing open."""
    guarded.run("rm -f /etc/mail/*.new")
    yield guarded
    guarded.run("systemctl start hardend; hardend lock --revert || hardend lock --revert", check=False)
    guarded.run(f"test ! -e {CONFIG} || {{ rm {CONFIG}; systemctl restart hardend; }}")
    assert wait_clean(guarded) == ""


# A window and Sendmail's tools ----------------------------------------------------------------------


def test_a_window_is_opened_worked_in_and_kept(held: Machine) -> None:
    before = number(held)
    held.run("hardend unlock --for 10m --reason 'new partner'")
    status = held.run("hardend status", check=False)
    assert status.returncode == 1
    assert "window     open until" in status.stdout and "by root: new partner" in status.stdout
    assert 'Status: "window open until' in held.run("systemctl status hardend").stdout
    assert held.json("cat /run/hardend/state.json")["state"] == "window"
    assert not is_locked(held)
    line = append(held, 1)
    held.run("echo 'joe: root' >> /etc/aliases; newaliases; make -C /etc/mail")
    assert answers(held, line)
    time.sleep(1.5)
    changes = held.json("hardend status --json")["windows"][0]["changes"]
    assert {ACCESS, "/etc/aliases", "/etc/mail/aliases.db"} <= set(changes)
    shown = held.run("hardend lock --keep").stdout
    assert f"+{line}" in shown and "+joe: root" in shown
    assert number(held) == before + 1
    assert wait_clean(held) == ""
    assert is_locked(held) and answers(held, line)
    assert held.run("sendmail -bv joe").stdout.startswith("root")
    assert held.run("ls /etc/mail/*.new", check=False).returncode != 0
    opened, closed = events(held, "window-opened")[-1], events(held, "window-closed")[-1]
    assert opened["HARDEND_WINDOW_ID"] == closed["HARDEND_WINDOW_ID"]
    assert closed["HARDEND_GENERATION"] == str(before + 1)
    assert not [event for event in held.journal() if event.get("HARDEND_EVENT") == "lock-removed"]


def test_everything_else_is_held_while_a_window_is_open(held: Machine) -> None:
    held.run(f"hardend unlock {ACCESS} --for 10m --reason one")
    held.run(f"chattr -i {CF}; sh -c 'echo evil >> {CF}'; chmod 666 /etc/mail/helpfile", check=False)
    assert wait(held, f"! grep -q evil {CF} && lsattr {CF} | grep -q -- -i-") == ""
    assert wait(held, "test $(stat -c %a /etc/mail/helpfile) != 666") == ""
    held.run("hardend lock --revert")


def test_what_is_put_back_is_in_the_quarantine(held: Machine) -> None:
    held.run("hardend unlock --for 10m --reason mistake")
    line = append(held, 2)
    held.run("make -C /etc/mail")
    assert answers(held, line)
    held.run("hardend lock --revert")
    assert wait_clean(held) == ""
    assert not answers(held, line)
    assert wait(held, f"grep -rqs '{line}' /var/lib/hardend/quarantine /etc/hardend/taken") == ""


def test_a_window_can_be_extended_and_is_nobody_elses(held: Machine) -> None:
    held.run(f"hardend unlock {ACCESS} --for 5m --reason mine")
    second = held.run("hardend unlock --for 5m --reason yours", check=False)
    assert second.returncode == 4 and "by root: mine" in second.stderr
    assert held.run("hardend unlock /etc/aliases --for 5m --reason other").returncode == 0
    held.run(f"hardend unlock {ACCESS} --extend 1h")
    assert held.run(f"hardend unlock {ACCESS} --extend 8h", check=False).returncode == 4
    held.run(f"hardend lock {ACCESS} --revert; hardend lock --revert")


def test_only_root_may(held: Machine) -> None:
    held.run("id bob || useradd -m bob")
    for words in ("unlock --reason x", "lock --keep", "window", "run --reason x -- true"):
        assert held.run(f"hardend {words}", user="bob", check=False).returncode == 4
    assert is_locked(held)
    assert windows(held) == []


# The end of the time --------------------------------------------------------------------------------


def test_what_is_no_worse_is_kept_when_time_runs_out_and_the_rest_goes_back(held: Machine) -> None:
    before = number(held)
    held.run("hardend unlock --for 5s --reason forgotten")
    line = append(held, 3)
    held.run("chmod 666 /etc/aliases")
    assert wait_clean(held) == ""
    assert number(held) == before + 1
    assert "window expired: forgotten" in held.run("hardend baseline log").stdout
    assert answers(held, line)
    assert held.run("stat -c %a /etc/aliases").stdout.strip() == "644"
    event = events(held, "window-expired")[-1]
    assert event["PRIORITY"] == "4"
    assert "put back: /etc/aliases" in event["MESSAGE"]
    assert f"kept as generation {before + 1}: {ACCESS}" in event["MESSAGE"]


def test_everything_goes_back_when_time_runs_out_and_the_host_wants_that(held: Machine) -> None:
    held.run(f"printf '[windows]\\non_expiry = \"revert\"\\n' > {CONFIG}; systemctl restart hardend")
    before = number(held)
    held.run("hardend unlock --for 5s --reason forgotten")
    append(held, 4)
    assert wait_clean(held) == ""
    assert number(held) == before


def test_the_owner_is_told_on_his_terminal(held: Machine) -> None:
    held.run(f"printf '[windows]\\nwarn = [\"10s\"]\\n' > {CONFIG}; systemctl restart hardend")
    held.run("(script -qfc 'sleep 60' /root/tty.log < /dev/null > /dev/null 2>&1 &)")
    assert wait(held, "test -e /root/tty.log") == ""
    held.run("hardend unlock --for 14s --reason forgotten")
    assert wait(held, "grep -q 'your window ends in 1 min (forgotten)' /root/tty.log") == ""
    assert wait(held, "grep -q 'your window (forgotten) ran out' /root/tty.log") == ""
    assert held.run("grep -c 'ends in' /root/tty.log").stdout.strip() == "1"
    held.run("pkill -x script", check=False)


def test_a_window_that_runs_out_while_no_guard_runs_is_ended_at_the_next_start(held: Machine) -> None:
    before = number(held)
    held.run("hardend unlock --for 4s --reason crash")
    line = append(held, 5)
    held.run("systemctl kill -s KILL hardend; systemctl stop hardend; sleep 5")
    assert held.run("hardend status", check=False).returncode == 3
    held.run("systemctl start hardend")
    assert wait_clean(held) == ""
    assert number(held) == before + 1 and answers(held, line)


def test_a_window_survives_a_restart_of_the_guard(held: Machine) -> None:
    held.run("hardend unlock --for 10m --reason long")
    line = append(held, 6)
    time.sleep(2.5)
    held.run("systemctl kill --kill-whom=main -s KILL hardend")
    assert wait(held, "hardend status --json | grep -q '\"guard\": \"running\"'") == ""
    time.sleep(1)
    assert line in held.run(f"cat {ACCESS}").stdout and not is_locked(held)
    assert ACCESS in windows(held)[0]["changes"]
    held.run("hardend lock --keep")


def test_a_job_that_cannot_end_a_window_has_everything_put_back(held: Machine) -> None:
    before = number(held)
    held.run("hardend unlock --for 4s --reason broken")
    append(held, 7)
    held.run(f"echo nonsense > {CONFIG}")  # the job cannot read its configuration
    assert wait(held, "hardend status", 60) == ""
    held.run(f"rm {CONFIG}")
    assert number(held) == before
    assert "everything was put back" in events(held, "window-expired")[-1]["MESSAGE"]


def test_what_nobody_can_judge_is_put_back_told_and_kept_aside(held: Machine) -> None:
    before = number(held)
    digest = held.run(f"sha256sum < {CF}").stdout.split()[0]
    damaged = f"/var/lib/hardend/baseline/objects/{digest}"
    held.run(f"mv {damaged} {damaged}.away")
    try:
        held.run("hardend unlock --for 6s --reason unreadable")
        line = append(held, 8)
        refused = held.run("hardend lock --keep", check=False)
        assert refused.returncode == 4 and "the baseline's store cannot be used (" in refused.stderr
        assert line in held.run(f"cat {ACCESS}").stdout and not is_locked(held)
        assert wait(held, f"! grep -q '{line}' {ACCESS}", 60) == ""
        told = events(held, "window-expired")[-1]["MESSAGE"]
        assert f"put back: {ACCESS} (the baseline's store cannot be used (" in told
    finally:
        held.run(f"mv {damaged}.away {damaged}")
    assert wait_clean(held) == ""
    assert number(held) == before
    assert wait(held, f"grep -rqs '{line}' /var/lib/hardend/quarantine /etc/hardend/taken") == ""


# Without a guard ------------------------------------------------------------------------------------


def test_a_window_works_without_a_guard(held: Machine) -> None:
    before = number(held)
    held.run("systemctl stop hardend")
    held.run(f"hardend unlock {ACCESS} --for 10m --reason 'guard dead'")
    assert not is_locked(held)
    line = append(held, 8)
    assert "window     open until" in held.run("hardend status", check=False).stdout
    held.run("hardend lock --keep")
    assert is_locked(held) and answers(held, line)
    held.run(f"hardend unlock {ACCESS} --for 10m --reason 'again'")
    gone = append(held, 9)
    held.run("make -C /etc/mail; hardend lock --revert")
    assert is_locked(held) and not answers(held, gone)
    assert "hardend-window-" not in held.run("systemctl list-timers --all").stdout
    held.run("systemctl start hardend")
    assert wait_clean(held) == ""
    assert number(held) == before + 1


def test_a_window_without_a_guard_is_ended_by_a_timer(held: Machine) -> None:
    held.run("systemctl stop hardend")
    held.run(f"hardend unlock {ACCESS} --for 3s --reason timer")
    line = append(held, 10)
    assert wait(held, f"lsattr -d {ACCESS} | grep -q -- -i-") == ""
    assert wait(held, "hardend check") == ""
    assert answers(held, line)


# hardend run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["make -C /etc/mail", "sendmailconfig", "newaliases"])
def test_sendmails_tools_run_in_a_window_and_leave_nothing(held: Machine, command: str) -> None:
    done = held.run(f"hardend run --reason maintenance -- {command}", timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert wait_clean(held) == ""
    assert held.run("ls /etc/mail/*.new", check=False).returncode != 0
    assert is_locked(held) and is_locked(held, CF)
    assert held.run("sendmail -bv root", check=False).stdout.startswith("root")


def test_a_command_that_weakens_a_rule_ends_with_the_host_as_hardened_as_before(held: Machine) -> None:
    before = held.run(f"sha256sum {CF}").stdout
    script = f"sed -i 's/^O PrivacyOptions=.*/O PrivacyOptions=public/' {CF}"
    done = held.run(f"hardend run --reason weaker -- {script}", check=False)
    assert done.returncode == 4
    assert f"put back: {CF}: " in done.stdout and "privacy" in done.stdout
    assert held.run(f"sha256sum {CF}").stdout == before
    assert wait_clean(held) == ""


def test_a_configuration_that_sendmail_refuses_is_put_back(held: Machine) -> None:
    done = held.run(f"hardend run --reason typo -- sh -c 'echo O NoSuchOption=1 >> {CF}'", check=False)
    assert done.returncode == 4 and "NoSuchOption" in done.stdout
    assert wait_clean(held) == ""


def test_a_failing_command_changes_nothing_and_its_exit_code_is_passed_on(held: Machine) -> None:
    before = number(held)
    done = held.run(f"hardend run --reason fails -- sh -c 'echo x >> {ACCESS}; exit 7'", check=False)
    assert done.returncode == 7
    assert wait_clean(held) == ""
    assert number(held) == before


def test_a_runner_that_is_killed_leaves_a_window_that_closes_itself(held: Machine) -> None:
    held.run("(hardend run --reason killed -- sleep 300 > /dev/null 2>&1 & echo $! > /root/pid)")
    assert wait(held, "hardend status | grep -q 'by root: killed'") == ""
    line = append(held, 11)
    held.run("kill -KILL $(cat /root/pid)")
    assert wait_clean(held) == ""
    assert answers(held, line) and windows(held) == []
    assert "killed" in events(held, "window-expired")[-1]["MESSAGE"]
    held.run("pkill -x sleep", check=False)


# A reboot, last -------------------------------------------------------------------------------------


def test_a_reboot_ends_a_window(held: Machine) -> None:
    held.run("hardend unlock --for 8h --reason reboot")
    line = append(held, 12)
    held.reboot()
    assert wait_clean(held) == ""
    assert line not in held.run(f"cat {ACCESS}").stdout
    assert is_locked(held)
    assert json.loads(held.run("hardend window --json").stdout) == []
