# SPDX-License-Identifier: Apache-2.0
"""Telling somebody on his terminals: each of his, no other's, and none that keeps us waiting."""

from __future__ import annotations

import os
import pty
import sys
import tempfile
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend import terminal

pytestmark = pytest.mark.root
UID = 61234


@pytest.fixture
def ends() -> Iterator[tuple[int, int, str]]:
    """The two ends of a terminal of the user, and its path."""
    master, slave = pty.openpty()
    path = os.ttyname(slave)
    os.chown(path, UID, -1)
    tty.setraw(slave)
    os.set_blocking(master, False)
    yield master, slave, path
    os.close(master)
    os.close(slave)


def test_a_user_is_told_on_his_terminal_and_nobody_else_is(ends: tuple[int, int, str]) -> None:
    master, _, path = ends
    assert terminal.terminals_of(UID) == [path]
    assert terminal.tell(UID + 1, "not for you") == 0
    with pytest.raises(BlockingIOError):
        os.read(master, 100)
    assert terminal.tell(UID, "your window ends") == 1
    assert os.read(master, 100) == b"\r\n\ayour window ends\r\n"


def test_a_reason_cannot_command_the_terminal(ends: tuple[int, int, str]) -> None:
    terminal.tell(UID, "window\x1b]0;evil\x07 \u202e\udcff ends")
    said = os.read(ends[0], 200)
    assert said == b"\r\n\awindow\\x1b]0;evil\\x07 \\xe2\\x80\\xae\\xff ends\r\n"


def test_a_stopped_terminal_is_passed_over(ends: tuple[int, int, str]) -> None:
    termios.tcflow(ends[1], termios.TCOOFF)  # what ^S does
    assert terminal.tell(UID, "never read") == 0


def test_a_file_or_a_link_is_no_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.chown(tmp_path / "file", UID, -1)
    (tmp_path / "link").symlink_to("/dev/null")
    os.lchown(tmp_path / "link", UID, -1)
    monkeypatch.setattr(terminal, "_PTS", str(tmp_path))
    assert terminal.terminals_of(UID) == []
    monkeypatch.setattr(terminal, "_PTS", str(tmp_path / "missing"))
    assert terminal.terminals_of(UID) == []


def record(kind: int, line: bytes) -> bytes:
    return (kind.to_bytes(2, sys.byteorder) + bytes(6) + line).ljust(384, b"\0")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (record(7, b"tty1") + record(7, b"pts/3") + record(7, b"ttyS0"), ["tty1", "ttyS0"]),
        (record(6, b"tty2"), []),  # a getty waits there
        (record(7, b"tty1")[:-1], []),  # cut off
        (record(7, b"tty/../../etc/passwd"), ["passwd"]),  # then it is no terminal of his
        (record(7, b"t" * 32), []),
        (b"", []),
    ],
)
def test_consoles_are_told_where_somebody_is_logged_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: bytes, expected: list[str]
) -> None:
    (tmp_path / "utmp").write_bytes(data)
    monkeypatch.setattr(terminal, "_UTMP", str(tmp_path / "utmp"))
    assert terminal._lines_in_use() == [f"/dev/{name}" for name in expected]


@given(st.binary(max_size=2000))
def test_any_bytes_are_lines_or_none(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file, pytest.MonkeyPatch.context() as patched:
        Path(file.name).write_bytes(data)
        patched.setattr(terminal, "_UTMP", file.name)
        assert all(path.count("/") == 2 for path in terminal._lines_in_use())
