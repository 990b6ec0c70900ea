# SPDX-License-Identifier: Apache-2.0
"""The demo, run to its end as a user runs it, and what is left of it: nothing."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from hardend import demo
from hardend.demo_drifts import TRIALS
from hardend.errors import Exit

pytestmark = pytest.mark.root

REPOSITORY = Path(__file__).resolve().parents[2]
PUT_BACK = re.compile(r"^    put back in (\d+) us: .+; (copy: \S+|nothing [a-z ]+)$")
GUARD = re.compile(r"the guard runs, pid (\d+)$")


@dataclass
class Run:
    """One run of the command."""

    status: int
    errors: str
    lines: list[str] = field(default_factory=list)
    guard: int = 0


Watch = Callable[[str, "subprocess.Popen[str]", Run], None]


def run_demo(parent: Path, *arguments: str, path: str = "", watch: Watch | None = None) -> Run:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    environment["PATH"] = f"{path}:{environment['PATH']}".lstrip(":")
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "hardend", "demo", "--dir", str(parent), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        ) as child,
    ):
        run = Run(-1, "")
        assert child.stdout is not None
        for line in child.stdout:
            run.lines.append(line.rstrip("\n"))
            if found := GUARD.search(line):
                run.guard = int(found[1])
            if watch is not None:
                watch(line, child, run)
        run.status = child.wait(120)
        errors.seek(0)
        run.errors = errors.read()
    return run


def assert_nothing_is_left(parent: Path, run: Run) -> None:
    assert list(parent.iterdir()) == []
    assert str(parent) not in Path("/proc/self/mountinfo").read_text("utf-8")
    assert not Path(f"/proc/{run.guard}/cwd").exists() or not run.guard
    running = b""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            running += (process / "cmdline").read_bytes()
    assert os.fsencode(parent) not in running
    for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            assert str(parent) not in loop.read_text("utf-8")


@pytest.fixture
def parent() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="hardend-demo-test-", dir="/var/tmp"))
    made.chmod(0o755)  # apt's own user fetches into it
    yield made
    shutil.rmtree(made)


def test_ten_drifts_are_put_back_and_nothing_stays(parent: Path) -> None:
    run = run_demo(parent)
    assert (run.status, run.errors) == (0, "")
    happened = [line for line in run.lines if re.match(r"[ 1]\d\. ", line)]
    told = [found for line in run.lines if (found := PUT_BACK.match(line))]
    assert [int(line[:2]) for line in happened] == list(range(1, 11))
    assert len(told) == 10
    assert all(int(found[1]) > 0 for found in told)
    assert sum(found[2].startswith("copy: ") for found in told) == 7
    assert any(line.startswith("10 of 10 put back; all ") for line in run.lines)
    assert not any(line.startswith("note:") for line in run.lines), "its maps were not built"
    assert max(map(len, run.lines)) <= 100
    assert run.guard
    assert_nothing_is_left(parent, run)


def test_a_guard_that_stands_still_makes_it_fail_and_nothing_stays(parent: Path) -> None:
    def stop(line: str, _child: subprocess.Popen[str], run: Run) -> None:
        if GUARD.search(line):
            os.kill(run.guard, signal.SIGSTOP)

    run = run_demo(parent, "--patience", "0.3", watch=stop)
    assert run.status == Exit.DRIFT
    assert sum("NOT PUT BACK" in line or "CANNOT BE TRIED" in line for line in run.lines) == 10
    assert any(line.startswith("0 of 10 put back") for line in run.lines)
    assert any(line.startswith("drifted still: /etc/mail") for line in run.lines)
    assert "Traceback" not in run.errors + "\n".join(run.lines)
    assert_nothing_is_left(parent, run)


def test_a_guard_that_dies_makes_it_fail_and_nothing_stays(parent: Path) -> None:
    def kill(line: str, _child: subprocess.Popen[str], run: Run) -> None:
        if line.startswith(" 2. "):
            os.kill(run.guard, signal.SIGKILL)

    run = run_demo(parent, "--patience", "0.3", watch=kill)
    assert run.status not in {0, -1}
    assert run.errors.startswith("hardend: the guard has ended")
    assert "Traceback" not in run.errors
    assert_nothing_is_left(parent, run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(parent: Path, number: signal.Signals) -> None:
    def interrupt(line: str, child: subprocess.Popen[str], _run: Run) -> None:
        if line.startswith(" 3. "):
            child.send_signal(number)
            time.sleep(0.05)
            child.send_signal(number)  # somebody impatient: the cleaning up goes on

    run = run_demo(parent, watch=interrupt)
    assert run.status == 130
    assert run.errors == ""
    assert run.lines[-1].startswith("interrupted")
    assert_nothing_is_left(parent, run)


def test_without_inode_flags_it_makes_a_file_system_that_has_them(parent: Path) -> None:
    place = parent / "no-flags"
    place.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "-o", "mode=755", "ramfs", str(place)], check=True)
    try:
        run = run_demo(place)
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", str(place)], check=True)
    place.rmdir()
    assert (run.status, run.errors) == (0, "")
    assert any(line.endswith("(an ext4 image)") for line in run.lines)
    assert_nothing_is_left(parent, run)


def test_without_packages_it_says_what_to_do(parent: Path) -> None:
    programs = parent / "programs"
    programs.mkdir()
    apt = programs / "apt-get"
    apt.write_text("#!/bin/sh\necho 'E: Failed to fetch' >&2\nexit 100\n")
    apt.chmod(0o755)
    run = run_demo(parent, path=str(programs))
    shutil.rmtree(programs)
    assert run.status == Exit.USAGE
    assert run.errors.splitlines() == [
        "hardend: apt-get update: E: Failed to fetch",
        "hardend: hint: the demo fetches Debian's Sendmail packages: apt-get update must work here",
    ]
    assert_nothing_is_left(parent, run)


def test_a_restore_whose_copy_is_missing_makes_it_fail(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, removed = TRIALS[0], TRIALS[3]
    monkeypatch.setattr(demo, "TRIALS", (kept, replace(removed, is_copy=lambda _: False)))
    lines: list[str] = []
    before = (os.environ.copy(), signal.getsignal(signal.SIGTERM))
    status = demo.run(demo.Options(str(parent), 2.0), lines.append)
    assert (os.environ.copy(), signal.getsignal(signal.SIGTERM)) == before
    assert status == Exit.DRIFT
    assert any("NO COPY" in line for line in lines)
    assert any(line.startswith("1 of 2 put back; all ") for line in lines)
    assert list(parent.iterdir()) == []
