# SPDX-License-Identifier: Apache-2.0
"""The test host itself: a real mail host, and nothing left of it afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host import image
from tests.host.machine import Machine, MachineError, sweep

OWNER = """\
import sys, time
from tests.host.machine import Machine
with Machine(install=False) as machine:
    print(machine.name, flush=True)
    time.sleep(600)
"""


def traces_of(name: str) -> list[str]:
    """Return what is left of a machine: processes, mounts, files."""
    left = [str(path) for path in image.cache_dir().glob(f"{name}*")]
    left += [str(path) for path in Path("/run/systemd/nspawn").glob(f"*/{name}")]
    left += [line for line in Path("/proc/mounts").read_text("utf-8").splitlines() if name in line]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if name in line:
            left.append(line)
    return left


def test_sendmail_answers_on_port_25(machine: Machine) -> None:
    talk = """
import smtplib
with smtplib.SMTP("127.0.0.1", 25, timeout=20) as smtp:
    print(smtp.ehlo()[0], smtp.ehlo_resp.decode().splitlines()[0])
"""
    done = machine.run(["python3", "-c", talk])
    assert done.stdout.startswith("250 mail.example.com Hello")


def test_inode_flags_work_and_the_copy_shares_no_file_with_the_image(machine: Machine) -> None:
    machine.run("echo x >/etc/mail/probe; chattr +i /etc/mail/probe")
    assert "i" in machine.run("lsattr /etc/mail/probe").stdout.split()[0]
    assert machine.run("echo y >/etc/mail/probe", check=False).returncode != 0
    assert machine.path("/etc/mail/probe").read_text("utf-8") == "x\n"
    machine.run("chattr -i /etc/mail/probe; rm /etc/mail/probe")
    assert machine.path("/etc/mail/sendmail.cf").stat().st_nlink == 1


def test_a_unit_may_take_real_time_priority(machine: Machine) -> None:
    script = "chrt -R -r -p 10 $BASHPID && chrt -p $BASHPID".replace("$", "$$")
    done = machine.run(["systemd-run", "--quiet", "--wait", "--pipe", "bash", "-c", script])
    assert "SCHED_RR|SCHED_RESET_ON_FORK" in done.stdout


def test_installing_starts_nothing_and_enables_nothing(machine: Machine) -> None:
    state = machine.run(["systemctl", "show", "-p", "ActiveState,UnitFileState", "hardend"]).stdout
    assert state.splitlines() == ["ActiveState=inactive", "UnitFileState=disabled"]
    assert machine.run(["hardend", "--version"]).stdout.startswith("hardend ")
    assert machine.run("lsattr -d /etc/mail/*.*").stdout.count("i-") == 0


def test_the_journal_comes_as_json(machine: Machine) -> None:
    machine.run(["logger", "--tag", "hardend", "a word"])
    assert [entry["MESSAGE"] for entry in machine.journal("PRIORITY=5")][-1:] == ["a word"]


def test_a_command_that_fails_is_told_with_its_words(machine: Machine) -> None:
    with pytest.raises(MachineError, match="no such thing"):
        machine.run("echo no such thing >&2; exit 3")


def test_a_command_that_takes_too_long_is_ended(machine: Machine) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        machine.run(["sleep", "7654"], timeout=0.5)
    assert machine.run(["pgrep", "-f", "sleep 7654"], check=False).stdout == ""


def test_a_reboot_gives_a_new_boot_id_and_mail_again(machine: Machine) -> None:
    boot_id = "/proc/sys/kernel/random/boot_id"
    before = machine.run(["cat", boot_id]).stdout
    machine.reboot()
    assert machine.run(["cat", boot_id]).stdout != before
    assert "127.0.0.1:25" in machine.run(["ss", "-Hltn"]).stdout


def break_in_the_block(machine: Machine) -> None:
    with machine:
        machine.run("touch /etc/mail/locked; chattr +i /etc/mail/locked /etc/mail")
        machine.run("mount --bind /etc/hostname /etc/mail/sendmail.cf")
        assert traces_of(machine.name)
        raise ZeroDivisionError


def test_nothing_is_left_after_an_error_in_the_block() -> None:
    machine = Machine(install=False)
    with pytest.raises(ZeroDivisionError):
        break_in_the_block(machine)
    assert traces_of(machine.name) == []


def interrupted(number: signal.Signals) -> str:
    """Start a machine from another process, send that a signal, and return the machine's name."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        cwd=image.REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert owner.stdout is not None
    with owner, owner.stdout:
        name = owner.stdout.readline().strip()
        owner.send_signal(number)
        owner.wait(timeout=60)
    assert name
    return name


def test_nothing_is_left_after_an_interrupt() -> None:
    assert traces_of(interrupted(signal.SIGINT)) == []


def test_what_a_killed_run_left_is_swept() -> None:
    name = interrupted(signal.SIGKILL)
    assert traces_of(name)
    sweep()
    assert traces_of(name) == []


def test_a_machine_in_use_is_not_swept(machine: Machine) -> None:
    sweep()
    assert machine.run(["true"]).returncode == 0
    assert os.path.lexists(machine.tree)
