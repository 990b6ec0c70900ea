# SPDX-License-Identifier: Apache-2.0
"""Who a process is: what /proc says of it, of any bytes, and that no other is taken for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend import witness_process
from hardend.witness_process import Process, Processes

STAT = "7 ({}) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0"


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_to_something_or_nothing(text: bytes) -> None:
    comm, start = witness_process.parse_stat(text)
    assert (comm == "") <= (start >= -1)
    witness_process.parse_unit(text)
    for parse in (witness_process.parse_uid, witness_process.parse_loginuid):
        number = parse(text)
        assert number is None or 0 <= number < 10**10


@pytest.mark.parametrize("name", ["sh", "a b", ") S 1 (", "((", "", "\udcff\x1b"])
def test_a_name_may_hold_what_it_likes(name: str) -> None:
    assert witness_process.parse_stat(os.fsencode(STAT.format(name))) == (name, 4711)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        (b"0::/system.slice/cron.service\n", "cron.service"),
        (b"0::/system.slice/system-getty.slice/getty@tty1.service\n", "getty@tty1.service"),
        (b"0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        # Not a user's own unit: anybody may call his hardend.service.
        (b"0::/user.slice/user-7.slice/user@7.service/app.slice/hardend.service\n", "user@7.service"),
        (b"0::/init.scope\n", "init.scope"),
        (b"0::/\n", ""),
        (b"0::/../../docker/abc\n", ""),
        (b"0::/system.slice/_cpu.service (deleted)\n", "cpu.service"),
        (b"9:name=systemd:/system.slice/a.service\n1:cpu:/b.service\n0::/\n", "a.service"),
        # One that has ended is in the root of the old hierarchy, and where it was in the new one.
        (b"9:name=systemd:/\n8:pids:/\n0::/system.slice/evil.service\n", "evil.service"),
        (b"3:cpu:/system.slice/not-systemds.service\n", ""),
        (b"0::/a:b/x.service:y\n", ""),
    ],
)
def test_the_unit_is_that_of_the_system(text: bytes, unit: str) -> None:
    assert witness_process.parse_unit(text) == unit


@pytest.mark.parametrize(
    ("text", "uid"), [(b"1000\n", 1000), (b"0", 0), (b"4294967295\n", None), (b"", None), (b"-1", None)]
)
def test_a_login_is_a_user_or_nobody(text: bytes, uid: int | None) -> None:
    assert witness_process.parse_loginuid(text) == uid


def test_the_user_is_the_real_one() -> None:
    assert witness_process.parse_uid(b"Name:\tpasswd\nUid:\t1000\t0\t0\t0\n") == 1000
    assert witness_process.parse_uid(b"Uid:\n") is None


class Proc:
    """A procfs of our own, and the processes read from it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes = Processes(str(root))

    def put(self, pid: int, name: str = "sh", start: int = 4711, exe: str = "/bin/sh") -> None:
        where = self.root / str(pid)
        where.mkdir(exist_ok=True)
        (where / "stat").write_text(STAT.format(name).replace("4711", str(start)))
        (where / "cgroup").write_text("0::/system.slice/cron.service\n")
        (where / "status").write_text("Uid:\t0\t0\t0\t0\n")
        (where / "loginuid").write_text("1000")
        (where / "exe").unlink(missing_ok=True)
        (where / "exe").symlink_to(exe)

    def end(self, pid: int) -> None:
        for name in ("stat", "cgroup", "status", "loginuid", "exe"):
            (self.root / str(pid) / name).unlink()

    def of(self, now_s: float, *, ended: bool = False) -> Process:
        return self.processes.of(7, -1 if ended else 10**6, now_s)


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[Proc]:
    made = Proc(tmp_path)
    yield made
    made.processes.close()


def test_a_process_is_read_whole(proc: Proc) -> None:
    proc.put(7)
    known = proc.of(0.0)
    assert known == Process(7, 4711, "/bin/sh", "sh", "cron.service", 0, 1000)
    told = {"pid": 7, "exe": "/bin/sh", "comm": "sh", "unit": "cron.service", "uid": 0, "loginuid": 1000}
    assert known.as_json() == told


def test_what_opened_a_file_is_known_when_it_has_ended_by_the_time_it_wrote(proc: Proc) -> None:
    proc.put(7)
    proc.of(0.0)
    proc.end(7)
    assert proc.of(0.1).exe == "/bin/sh"
    assert proc.of(0.2, ended=True).exe == "/bin/sh"


def test_a_program_that_another_became_is_the_new_one(proc: Proc) -> None:
    proc.put(7)
    proc.of(0.0)
    proc.put(7, "tee", exe="/usr/bin/tee")
    assert (proc.of(0.1).exe, proc.of(0.1).comm) == ("/usr/bin/tee", "tee")


def test_another_process_of_the_same_number_is_not_the_one_before(proc: Proc) -> None:
    proc.put(7)
    proc.of(0.0)
    proc.put(7, "vim", start=9999, exe="/usr/bin/vim")
    assert proc.of(0.1).exe == "/usr/bin/vim"
    proc.end(7)
    assert proc.of(100.0) == Process(7)  # it may be anybody's by now
    assert proc.of(100.0, ended=True) == Process(7)


def test_of_what_had_ended_when_the_event_was_read_proc_is_not_asked(proc: Proc) -> None:
    proc.put(7)
    assert proc.of(0.0, ended=True) == Process(7)


def test_what_is_remembered_is_bounded(proc: Proc) -> None:
    for pid in range(3000):
        proc.processes.of(pid, 10**6, 0.0)
    assert len(proc.processes._known) <= 1024


def test_this_process_is_known() -> None:
    processes = Processes()
    descriptor = os.pidfd_open(os.getpid())
    known = processes.of(os.getpid(), descriptor, 0.0)
    assert known.exe == os.path.realpath(sys.executable)
    assert known.uid == os.getuid()
    os.close(descriptor)
    processes.close()


def test_a_child_that_nobody_waited_for_is_known_by_its_name_and_user() -> None:
    processes = Processes()
    with subprocess.Popen(["true"]) as child:
        descriptor = os.pidfd_open(child.pid)
        os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOWAIT)
        known = processes.of(child.pid, descriptor, 0.0)
        assert (known.exe, known.comm, known.uid) == ("", "true", os.getuid())
        os.close(descriptor)
    processes.close()
