# SPDX-License-Identifier: Apache-2.0
"""The screen of hardend status: terminals of any size, colour, what the store and the host add to it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend import state
from hardend.cli import status_facts
from hardend.cli.main import main
from hardend.cli.status_screen import Row, Terminal, screen
from hardend.model import Host
from hardend.state import Guard, GuardLock
from tests.unit.command import Run
from tests.unit.command import approved as approved  # noqa: PLC0414 - a fixture
from tests.unit.command import run as run  # noqa: PLC0414 - a fixture
from tests.unit.conftest import Tree

_SGR = re.compile(r"\x1b\[\d*m")
_NOBODY = 65534
_LONG = "because a long story has to be told here, of a host that nobody wanted to touch for ten years"


def published(host: Host, **changes: object) -> dict[str, object]:
    document: dict[str, object] = {
        "schema": 1,
        "state": "contested",
        "mode": "enforce",
        "pid": os.getpid(),
        "since": 1795500000.0,
        "last_pass": 1795500001.0,
        "watches": 42,
        "boot_id": state.boot_id(),
        "heartbeat": time.clock_gettime(time.CLOCK_BOOTTIME),
        "generation": 1,
        "layout": "debian",
        "entries": 21,
        "approved": {"time": "2026-11-24T06:15:01+00:00", "author": "alice", "reason": _LONG},
        "paths": {
            f"/etc/mail/{number}": {"state": "contested", "since": 1795500000.0, "drift": ["content"]}
            for number in range(30)
        },
        "contested": [f"/etc/mail/{number}" for number in range(30)],
    }
    document.update(changes)
    state.publish(host, document)
    return document


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A tree whose guard runs and has published."""
    made = Host(str(tmp_path))
    lock = GuardLock(made)
    assert lock.acquire()
    published(made)
    yield made
    lock.release()


class Shown:
    """``hardend status`` on a terminal of its own."""

    def __init__(
        self, host: Host, *words: str, size: tuple[int, int] = (24, 80), environment: Mapping[str, str] = {}
    ) -> None:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        told = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hardend", "status", "--root", host.root, *words],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**told, "TERM": "xterm", "NO_COLOR": "", **environment},
        )
        os.close(follower)
        self.text = ""

    def read_until(self, what: str, count: int = 1) -> str:
        """Read what it shows until ``what`` stands in it that often, or until its end."""
        while self.text.count(what) < count:
            readable, _, _ = select.select([self._leader], [], [], 30)
            try:
                data = os.read(self._leader, 1 << 16) if readable else b""
            except OSError:  # EIO: it has ended
                data = b""
            if not data:
                break
            self.text += data.decode("utf-8", "replace").replace("\r\n", "\n")
        return self.text

    def end(self, *, by: int = 0) -> int:
        """Return its exit code, after a signal."""
        if by:
            self._process.send_signal(by)
        else:
            self.read_until("\0")
        code = self._process.wait(30)
        os.close(self._leader)
        return code


def test_a_terminal_gets_colour(host: Host) -> None:
    shown = Shown(host)
    assert shown.end() == 1
    assert shown.text.startswith("\x1b[33mcontested (enforce): ")


def test_no_color_is_heeded_and_so_is_a_dumb_terminal(host: Host) -> None:
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        shown = Shown(host, environment=environment)
        assert shown.end() == 1
        assert shown.text.startswith("contested (enforce): ")
        assert "\x1b" not in shown.text


def test_a_pipe_gets_whole_lines_without_colour(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--root", host.root]) == 1
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert f"by alice: {_LONG}\n" in text


@pytest.mark.parametrize("size", [(24, 80), (50, 132), (24, 40), (24, 20)])
def test_the_screen_fits_the_terminal(host: Host, size: tuple[int, int]) -> None:
    shown = Shown(host, size=size)
    shown.end()
    lines = _SGR.sub("", shown.text).splitlines()
    assert max(map(len, lines)) <= size[1]
    joined = "".join("".join(lines).split())
    assert "".join(_LONG.split()) in joined, "nothing is cut off"
    assert "more:hardendstatus--json" in joined
    if size[1] >= 80:
        assert len(lines) < size[0]


def test_what_is_contested_and_watched_is_said(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    main(["status", "--root", host.root])
    text = capsys.readouterr().out
    assert "42 watches" in text
    assert "contested  /etc/mail/0, /etc/mail/1, /etc/mail/2 and 27 more" in text


def test_a_new_file_is_shown_with_the_way_to_take_it_in(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    new = {"state": "drifted", "since": 1795500000.0, "drift": ["unexpected"], "reason": "no entry"}
    published(host, paths={"/etc/mail/new": new})
    main(["status", "--root", host.root])
    assert "(no entry); hardend approve PATH --reason TEXT takes it in" in capsys.readouterr().out


def test_watch_shows_it_again_until_ctrl_c(host: Host) -> None:
    shown = Shown(host, "--watch", "0.2")
    assert shown.read_until("contested (enforce)", 2).startswith("\x1b[H")
    published(host, state="clean", paths={}, contested=[])
    assert "clean (enforce)" in shown.read_until("clean (enforce)")
    assert shown.end(by=signal.SIGINT) == 0, "the code of the last screen"


def test_watch_never_scrolls_a_low_terminal(host: Host) -> None:
    shown = Shown(host, "--watch", "0.2", size=(6, 30))
    frames = shown.read_until("\x1b[H", 3).split("\x1b[H")[1:-1]
    shown.end(by=signal.SIGINT)
    assert {frame.count("\n") for frame in frames} == {5}


@pytest.mark.parametrize("words", ["--watch 0", "--watch nan", "--watch x", "--json --watch"])
def test_a_period_that_is_none_is_refused(words: str) -> None:
    with pytest.raises(SystemExit) as error:
        main(["status", *words.split()])
    assert error.value.code == 2


@given(st.text(), st.integers(0, 200))
def test_any_text_is_laid_out_within_the_columns(text: str, columns: int) -> None:
    lines = Terminal(columns).lay_out([Row("reason", text)])
    assert lines
    if columns >= 12:
        assert all(len(line) <= columns for line in lines)


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
_NAMES = (
    *("state", "mode", "off", "windows", "generation", "approved", "layout", "entries", "pid", "since"),
    *("last_pass", "watches", "faults", "paths", "contested", "restores", "restore_us", "overflows"),
)


@given(st.dictionaries(st.sampled_from(_NAMES), _ANYTHING), st.sampled_from(Guard), st.integers(0, 90))
def test_no_state_that_anybody_published_raises(
    document: dict[str, object], guard: Guard, columns: int
) -> None:
    lines = screen(document, guard, None, status_facts.Facts(), Terminal(columns, 24))
    assert lines
    assert all(line.isprintable() for line in lines)


# What the store and the host add ------------------------------------------------------------------------


@pytest.mark.root
def test_a_generation_that_no_guard_has_applied_is_said(
    approved: Tree, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    published(approved.host, state="clean", paths={}, contested=[])
    assert run("approve", "--reason", "while it was dead")[0] == 0
    code, text, _ = run("status")
    assert code == 3
    assert "generation 2 of " in text
    assert "(just now) by " in text
    assert ": while it was dead\n" in text
    assert "approved since the guard's last word: it held 1" in text
    assert "not signed" in text
    capsys.readouterr()


@pytest.fixture
def queued(tree: Tree, run: Run) -> Iterator[Tree]:
    """A tree that is approved and says where its queue is."""
    with tree.at("/etc/mail/sendmail.cf").open("ab") as file:
        file.write(b"O QueueDirectory=/var/spool/mqueue\n")
    assert run("approve", "--reason", "first")[0] == 0
    yield tree
    run("release")


@pytest.mark.root
@pytest.mark.usefixtures("queued")
def test_a_guard_that_never_started_leaves_the_baseline_and_the_queues(run: Run) -> None:
    code, text, _ = run("status")
    assert code == 3
    assert "has not started since boot" in text
    assert "generation 1 of " in text
    assert "/var/spool/mqueue 0700 0:0" in text
    assert " held " not in text


@pytest.mark.root
def test_where_nothing_is_approved_the_way_to_it_is_said(run: Run) -> None:
    assert "none yet: hardend approve --reason TEXT makes one" in run("status")[1]


@pytest.mark.root
def test_the_quarantine_is_counted(approved: Tree, run: Run) -> None:
    assert "quarantine" not in run("status")[1]
    taken = Path(approved.host.taken_dir)
    (taken / "20261124T060000.000000-0001").write_bytes(b"evil")
    (taken / "20261124T060000.000000-0001.json").write_text('{"path": "/etc/mail/access"}')
    assert "0 kept, 1 wait to be collected, 0.0 of 256 MiB" in run("status")[1]
    assert run("collect")[0] == 0
    assert "1 kept, 0.0 of 256 MiB" in run("status")[1]


@pytest.mark.root
def test_nobody_is_shown_what_nobody_may_read(queued: Tree) -> None:
    published(queued.host, state="clean", paths={}, contested=[])
    for directory in (queued.root, queued.root / "run/hardend"):
        directory.chmod(0o755)
    Path(queued.host.state_dir).chmod(0o700)
    document = state.read(queued.host)
    assert document is not None
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        facts = status_facts.gather(queued.host, document)
        is_known = facts.baseline or facts.quarantine or facts.signature or facts.events
        os._exit(1 if is_known or not facts.queues else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
