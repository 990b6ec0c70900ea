# SPDX-License-Identifier: Apache-2.0
"""Who is told at a terminal that a guarded file was put back: who has just typed, once a minute."""

from __future__ import annotations

import os
import pty
import subprocess
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardend import boot, terminal, writers
from hardend.model import Class, Entry, FileType, Host, Role

pytestmark = pytest.mark.root
UID = 61235
ACCESS = Entry("/etc/mail/access", Role.SOURCE, Class.LOCKED, FileType.FILE, 0, 0, 0o644, digest="0")
MAIL = Entry("/etc/mail", Role.DIRECTORY, Class.LOCKED, FileType.DIRECTORY, 0, 0, 0o755)
KEY = Entry("/etc/mail/tls/x.key", Role.SOURCE, Class.ATTRIBUTES, FileType.FILE, 0, 0, 0o600)
ENTRIES = {entry.path: entry for entry in (ACCESS, MAIL, KEY)}
LINE = "hardend: /etc/mail/access is guarded, a change of it was put back: use hardend edit /etc/mail/access"


@pytest.fixture
def ends() -> Iterator[tuple[int, int, str]]:
    """The two ends of a terminal of root where somebody has just typed, and its path."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    os.write(master, b"x")
    os.read(slave, 1)
    yield master, slave, os.ttyname(slave)
    os.close(master)
    os.close(slave)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(str(tmp_path))
    os.makedirs(host.run_dir)
    return host


def said(master: int) -> str:
    try:
        return os.read(master, 1000).decode()
    except BlockingIOError:
        return ""


def test_one_line_a_minute_is_written_where_somebody_typed(host: Host, ends: tuple[int, int, str]) -> None:
    assert writers.tell(host, ENTRIES, ["/etc/mail/access"]) >= 1
    assert said(ends[0]) == f"\r\n\a{LINE}\r\n"
    writers.tell(host, ENTRIES, ["/etc/mail/access"])
    assert said(ends[0]) == ""
    told = f'{{"{ends[2]}": {boot.clock() - 61}}}'
    Path(host.run_dir, "told.json").write_text(told)
    writers.tell(host, ENTRIES, ["/etc/mail/access"])
    assert LINE in said(ends[0])


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"x": "y"}', b"\xff", b"[" * 9999])
def test_a_damaged_note_of_who_was_told_is_none(
    host: Host, ends: tuple[int, int, str], damage: bytes
) -> None:
    Path(host.run_dir, "told.json").write_bytes(damage)
    writers.tell(host, ENTRIES, ["/etc/mail/access"])
    assert LINE in said(ends[0])


def test_nothing_is_said_of_what_is_not_held(host: Host, ends: tuple[int, int, str]) -> None:
    assert writers.tell(host, ENTRIES, ["/etc/other"]) == 0
    assert writers.tell(host, ENTRIES, []) == 0
    assert said(ends[0]) == ""


def test_a_terminal_where_nobody_typed_for_a_while_is_left_alone(ends: tuple[int, int, str]) -> None:
    assert ends[2] in writers.candidates()
    os.utime(ends[2], (1, 1))
    assert ends[2] not in writers.candidates()


def test_of_other_users_only_who_is_or_may_become_root_is_told(
    ends: tuple[int, int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(ends[2], UID, -1)
    assert ends[2] not in writers.candidates()
    shell = ["setsid", "-c", "sh", "-c", "read line"]  # as su(1): root's shell on another's terminal
    with subprocess.Popen(shell, stdin=ends[1]) as process:
        while not writers._line_of(f"/proc/{process.pid}"):
            assert process.poll() is None
        assert ends[2] in writers.candidates()
        process.kill()
    assert terminal.terminals()[ends[2]].st_uid == UID
    monkeypatch.setattr(writers, "_may_become_root", lambda uid: uid == UID)
    assert ends[2] in writers.candidates()


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/etc/mail/access"], LINE),
        (["/etc/mail", "/etc/mail/access"], LINE.replace("change of it", "change of it (and 1 more)")),
        (["/etc/mail"], "/etc/mail is guarded, a change of it was put back: use hardend unlock /etc/mail"),
        (["/etc/mail/tls/x.key"], "unlock /etc/mail/tls/x.key"),
        (["/etc/x"], ""),
    ],
)
def test_the_line_says_what_to_use(paths: list[str], expected: str) -> None:
    assert writers.sentence(ENTRIES, paths).endswith(expected)
    assert bool(writers.sentence(ENTRIES, paths)) is bool(expected)
