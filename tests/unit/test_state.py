# SPDX-License-Identifier: Apache-2.0
"""Publishing, the guard's lock, and telling running from hung from dead."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardend import state
from hardend.errors import FileError
from hardend.model import Host
from hardend.state import Guard, GuardLock

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


@pytest.fixture
def host() -> Iterator[Host]:
    # Not tmp_path: nobody else may enter pytest's directory, and here others ask too.
    with tempfile.TemporaryDirectory(prefix="hardend-state-", dir="/var/tmp") as root:
        os.chmod(root, 0o755)
        yield Host(root)


@pytest.fixture
def other_guard(host: Host) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    code = (
        "import sys, time; from hardend.state import GuardLock; from hardend.model import Host\n"
        "lock = GuardLock(Host(sys.argv[1])); print(lock.acquire(), flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, host.root], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def of_now(host: Host, **changes: object) -> dict[str, object]:
    """Return the state of a guard that was alive a moment ago."""
    return {
        "state": "clean",
        "pid": state.guard_pid(host),
        "boot_id": state.boot_id(),
        "heartbeat": time.clock_gettime(time.CLOCK_BOOTTIME),
        **changes,
    }


def as_nobody(host: Host) -> str:
    """Return what guard_is_alive and guard_of say to a user without any right."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        answer = f"{state.guard_is_alive(host)} {state.guard_of(host, state.read(host))}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as file:
        return file.read()


def test_what_is_published_is_read(host: Host) -> None:
    state.publish(host, {"state": "clean", "paths": {"/etc/\udcff\n": {"drift": ["mode"]}}})
    assert state.read(host) == {"state": "clean", "paths": {"/etc/\udcff\n": {"drift": ["mode"]}}}


def test_the_state_is_for_everybody_to_read_whatever_the_umask(host: Host) -> None:
    before = os.umask(0o077)
    try:
        state.publish(host, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(host.state_file).st_mode) == 0o644


def test_nothing_published_is_none(host: Host) -> None:
    assert state.read(host) is None
    assert state.published_at(host) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\xff", "[" * 100_000])
def test_a_damaged_state_is_an_error_and_not_a_clean_host(host: Host, text: str) -> None:
    state.publish(host, {})
    Path(host.state_file).write_text(text, encoding="latin-1")
    with pytest.raises(FileError, match=r"state\.json"):
        state.read(host)


def test_a_reader_never_sees_half_a_state(host: Host) -> None:
    stop = threading.Event()
    torn: list[Exception] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        while not stop.is_set():
            try:
                document = state.read(host)
            except FileError as error:
                torn.append(error)
                return
            assert document is not None
            reads += 1

    state.publish(host, {"x": "y"})
    reader = threading.Thread(target=read)
    reader.start()
    for number in range(300):
        state.publish(host, {"x": "y" * (number * 100)})
    stop.set()
    reader.join()
    assert reads > 0
    assert not torn


def test_a_link_in_the_place_of_the_state_is_not_followed(host: Host, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("{}")
    state.publish(host, {})
    os.unlink(host.state_file)
    os.symlink(victim, host.state_file)
    with pytest.raises(FileError):
        state.read(host)
    os.symlink(victim, host.state_file + ".new")
    with pytest.raises(OSError, match="symbolic link"):
        state.publish(host, {"x": 1})
    assert victim.read_text() == "{}"


@pytest.mark.root
def test_a_full_file_system_keeps_the_state_that_was_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(run)], check=True)
    try:
        host = Host(str(tmp_path))
        state.publish(host, {"generation": 1})
        with pytest.raises(OSError, match="No space left"):
            state.publish(host, {"x": "y" * 100_000})
        assert state.read(host) == {"generation": 1}
        assert os.listdir(host.run_dir) == ["state.json"]
        state.publish(host, {"generation": 2})
        assert state.read(host) == {"generation": 2}
    finally:
        subprocess.run(["umount", str(run)], check=True)


def test_one_guard_at_a_time(host: Host, other_guard: subprocess.Popen[str]) -> None:
    lock = GuardLock(host)
    assert not lock.acquire()
    assert state.guard_pid(host) == other_guard.pid
    assert state.guard_is_alive(host)


def test_the_lock_goes_with_the_process_however_it_ends(
    host: Host, other_guard: subprocess.Popen[str]
) -> None:
    other_guard.send_signal(signal.SIGKILL)
    other_guard.wait()
    assert not state.guard_is_alive(host)
    lock = GuardLock(host)
    assert lock.acquire()
    assert state.guard_pid(host) == os.getpid()
    assert state.guard_is_alive(host)
    lock.release()
    lock.release()
    assert not state.guard_is_alive(host)


def test_a_child_that_was_started_by_the_guard_does_not_keep_the_lock(host: Host) -> None:
    lock = GuardLock(host)
    assert lock.acquire()
    with subprocess.Popen(["sleep", "600"]) as child:
        lock.release()
        assert not state.guard_is_alive(host)
        child.kill()


def test_asking_never_takes_the_lock_from_a_guard_that_starts(host: Host) -> None:
    lock = GuardLock(host)
    assert lock.acquire()
    lock.release()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            state.guard_is_alive(host)

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(500):
            assert lock.acquire()
            lock.release()
    finally:
        stop.set()
        for asker in askers:
            asker.join()


@pytest.mark.root
def test_a_user_can_see_the_guard_but_not_lock_it_out(host: Host, other_guard: subprocess.Popen[str]) -> None:
    state.publish(host, of_now(host))
    assert stat.S_IMODE(os.stat(os.path.join(host.run_dir, "guard.lock")).st_mode) == 0o600
    assert as_nobody(host) == "True running"
    state.publish(host, of_now(host, heartbeat=0.0))
    assert as_nobody(host) == "True hung"
    other_guard.kill()
    other_guard.wait()
    assert as_nobody(host) == "False dead"


def test_a_fifo_in_the_place_of_the_lock_does_not_hang_the_question(host: Host) -> None:
    os.makedirs(host.run_dir)
    os.mkfifo(os.path.join(host.run_dir, "guard.lock"))
    assert not state.guard_is_alive(host)
    assert state.guard_pid(host) == 0


def test_a_guard_that_never_ran_is_told_from_one_that_died(host: Host) -> None:
    assert state.guard_of(host, state.read(host)) is Guard.NEVER_STARTED
    state.publish(host, of_now(host))
    assert state.guard_of(host, state.read(host)) is Guard.DEAD


def test_an_old_heartbeat_is_a_hung_guard(host: Host, other_guard: subprocess.Popen[str]) -> None:
    assert other_guard.pid
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert state.guard_of(host, of_now(host)) is Guard.RUNNING
    old = now - state.STALE_AFTER_S - 1
    assert state.guard_of(host, of_now(host, heartbeat=old)) is Guard.HUNG
    assert state.guard_of(host, of_now(host, heartbeat=None)) is Guard.HUNG


@pytest.mark.parametrize("changes", [{"pid": 1}, {"boot_id": "another"}])
def test_the_state_of_a_former_guard_says_nothing_of_this_one(
    host: Host, other_guard: subprocess.Popen[str], changes: dict[str, object]
) -> None:
    assert other_guard.pid
    document = of_now(host, heartbeat=0.0, **changes)
    assert not state.is_of_this_guard(host, document)
    assert state.guard_of(host, document) is Guard.RUNNING


def test_the_lock_is_one_that_any_tool_can_see(host: Host) -> None:
    lock = GuardLock(host)
    assert lock.acquire()
    lock_file = os.path.join(host.run_dir, "guard.lock")
    with open(lock_file, "rb") as file, pytest.raises(BlockingIOError):
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, state._whole_file(fcntl.F_RDLCK))
    lock.release()


def test_what_is_published_is_plain_json(host: Host) -> None:
    state.publish(host, {"b": 1, "a": "\u00e9"})
    data = Path(host.state_file).read_bytes()
    assert data.isascii()
    assert json.loads(data) == {"a": "\u00e9", "b": 1}
