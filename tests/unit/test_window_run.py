# SPDX-License-Identifier: Apache-2.0
"""``hardend run``: a command in a window of its own; its input, output, signals and exit code are its own."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hardend import window_files
from hardend.baseline.store import Store
from hardend.errors import Exit
from tests.unit.command import ACCESS_PATH, Run, approved, is_locked, run
from tests.unit.conftest import ACCESS, Tree

pytestmark = pytest.mark.root
__all__ = ["approved", "run"]  # fixtures
REPOSITORY = Path(__file__).resolve().parents[2]
APPEND = "printf 'Connect:10\\tREJECT\\n' >> %s/etc/mail/access"


def argv(tree: Tree, *command: str) -> list[str]:
    hardend = [sys.executable, "-m", "hardend", "run", "--root", str(tree.root), "--reason", "why", "--"]
    return [*hardend, *command]


def started(tree: Tree, *command: str) -> subprocess.Popen[bytes]:
    """Run it in a process of its own, and wait until the command says that it runs."""
    child = subprocess.Popen(
        argv(tree, *command),
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None and child.stdout.readline() == b"runs\n"
    return child


def shell(tree: Tree, script: str) -> list[str]:
    return ["sh", "-c", script.replace("%s", str(tree.root))]


def settled(tree: Tree) -> None:
    assert window_files.read_all(tree.host) == []
    assert is_locked(tree, ACCESS_PATH)
    assert tree.drifts() == {}


def test_what_a_command_did_is_kept(approved: Tree, run: Run) -> None:
    code, out, err = run("run", "--reason", "why", "--", *shell(approved, APPEND))
    assert code == Exit.OK, err
    assert "+Connect:10\tREJECT" in out and f"kept: {ACCESS_PATH}" in out
    assert approved.at(ACCESS_PATH).read_bytes() == ACCESS + b"Connect:10\tREJECT\n"
    assert Store(approved.host).current().reason == "why"
    settled(approved)


def test_what_a_failing_command_did_is_put_back_and_its_code_passed_on(approved: Tree, run: Run) -> None:
    code, out, _ = run("run", "--reason", "why", "--", *shell(approved, APPEND + "; exit 7"))
    assert code == 7
    assert f"put back: {ACCESS_PATH}: the command failed (7)" in out
    assert approved.at(ACCESS_PATH).read_bytes() == ACCESS
    settled(approved)


def test_what_breaks_a_rule_with_a_fix_is_mended_and_the_reason_said(approved: Tree, run: Run) -> None:
    before = Store(approved.host).current().number
    code, out, _ = run("run", "--reason", "why", "--", *shell(approved, "chmod 666 %s/etc/mail/sendmail.cf"))
    assert code == Exit.OK
    assert "/etc/mail/sendmail.cf: " in out and "exposure-files applied again" in out
    assert "kept: " not in out
    assert Store(approved.host).current().number == before
    settled(approved)


@pytest.mark.parametrize(
    ("command", "expected"),
    [("true", 0), ("false", 1), ("/no/such", 127), ("/etc/passwd", 126), ("sh -c 'kill -9 $$'", 137)],
)
def test_the_exit_code_is_that_of_a_shell(approved: Tree, run: Run, command: str, expected: int) -> None:
    assert run("run", "--reason", "why", "--", *shlex.split(command))[0] == expected
    settled(approved)


def test_only_the_named_paths_are_let_go(approved: Tree, run: Run) -> None:
    script = shell(approved, "echo x >> %s/etc/mail/sendmail.cf && " + APPEND)
    code, _, _ = run("run", "--path", ACCESS_PATH, "--reason", "why", "--", *script)
    assert code == 2  # the shell was refused the first
    settled(approved)


def test_input_and_output_are_the_commands_own(approved: Tree) -> None:
    done = subprocess.run(
        argv(approved, "cat"), cwd=REPOSITORY, input=b"\x00\xffraw\n", capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"\x00\xffraw\n")
    settled(approved)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_reaches_the_command_and_the_window_is_ended(approved: Tree, number: signal.Signals) -> None:
    script = f"trap 'echo got; exit 5' {number.name[3:]}; {APPEND}; echo runs; while :; do sleep 0.05; done"
    child = started(approved, *shell(approved, script))
    child.send_signal(number)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 5
    assert out.startswith(b"got\n")
    assert approved.at(ACCESS_PATH).read_bytes() == ACCESS
    settled(approved)


def test_a_command_gets_the_signals_that_python_ignores_at_their_default(approved: Tree) -> None:
    child = subprocess.run(
        argv(approved, "grep", "^Sig[BI]", "/proc/self/status"),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        check=False,
    )
    blocked, ignored = (int(line.split()[1], 16) for line in child.stdout.splitlines()[:2])
    assert (blocked, ignored & (1 << (signal.SIGPIPE - 1))) == (0, 0)
    settled(approved)


def test_a_runner_that_is_killed_leaves_a_window_that_is_known_to_be_over(approved: Tree, run: Run) -> None:
    child = started(approved, *shell(approved, "echo runs; exec sleep 60"))
    (made,) = window_files.read_all(approved.host)
    assert made.command == "sh -c 'echo runs; exec sleep 60'"
    assert not window_files.is_orphan(approved.host, made)
    command = int(Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text("ascii"))
    child.kill()
    child.wait()
    end = time.monotonic() + 10
    while not window_files.is_orphan(approved.host, made) and time.monotonic() < end:
        time.sleep(0.01)
    assert window_files.is_orphan(approved.host, made)
    assert run("window", "--quiet")[0] == Exit.OK
    os.kill(command, signal.SIGKILL)
    for stream in (child.stdin, child.stdout, child.stderr):
        assert stream is not None
        stream.close()
    settled(approved)
