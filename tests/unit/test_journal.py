# SPDX-License-Identifier: Apache-2.0
"""The journal's protocol, its queue, and that nothing it meets blocks it or raises."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardend.journal import JOURNALD_SOCKET, KINDS, Event, Journal, notify
from hardend.model import Host

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(rb"[A-Z][A-Z0-9_]{0,63}")


class Journald:
    """A socket where journald's would be in a tree; ``read`` parses what arrived."""

    def __init__(self, root: Path) -> None:
        where = root / JOURNALD_SOCKET.lstrip("/")
        where.parent.mkdir(parents=True)
        self.host = Host(str(root))
        self.journals: list[Journal] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(where))
        self.socket.settimeout(0)

    def journal(self) -> Journal:
        """Return a journal that sends here, closed with the fixture."""
        self.journals.append(Journal(self.host))
        return self.journals[-1]

    def read(self) -> list[dict[str, list[bytes]]]:
        """Return every datagram that waits, memfds included."""
        arrived: list[dict[str, list[bytes]]] = []
        while True:
            try:
                data, fds, _flags, _address = socket.recv_fds(self.socket, 1 << 20, 1)
            except BlockingIOError:
                return arrived
            for descriptor in fds:
                with os.fdopen(descriptor, "rb") as file:
                    data = os.pread(file.fileno(), 1 << 28, 0)
            arrived.append(parse(data))

    def drain(self, journal: Journal) -> list[dict[str, list[bytes]]]:
        """Return what waits here and what the journal has queued."""
        arrived = batch = self.read()
        while batch:
            journal.flush()
            batch = self.read()
            arrived = arrived + batch
        return arrived


def parse(data: bytes) -> dict[str, list[bytes]]:
    """Read a native protocol message the way journald does; anything odd is an error."""
    fields: dict[str, list[bytes]] = {}
    while data:
        line, _newline, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + size], data[8 + size :]
            assert data[:1] == b"\n"
            data = data[1:]
        assert NAME.fullmatch(name), name
        fields.setdefault(name.decode(), []).append(value)
    return fields


@pytest.fixture
def journald(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journald]:
    # Not tmp_path: its name grows with the test's, and a socket's address has 107 bytes.
    receiver = Journald(tmp_path_factory.mktemp("j"))
    yield receiver
    receiver.socket.close()
    for journal in receiver.journals:
        journal.close()


def test_an_event_has_its_id_priority_facility_and_fields(journald: Journald) -> None:
    journald.journal().event(
        Event.PATH_RESTORED, "put back", path="/etc/mail/access", latency_us=231, drift=["content"]
    )
    [fields] = journald.read()
    assert fields == {
        "MESSAGE_ID": [KINDS[Event.PATH_RESTORED].message_id.encode()],
        "PRIORITY": [b"6"],
        "SYSLOG_FACILITY": [b"2"],
        "SYSLOG_IDENTIFIER": [b"hardend"],
        "HARDEND_EVENT": [b"path-restored"],
        "MESSAGE": [b"put back"],
        "HARDEND_PATH": [b"/etc/mail/access"],
        "HARDEND_LATENCY_US": [b"231"],
        "HARDEND_DRIFT": [b"content"],
    }


def test_every_kind_has_an_id_of_its_own_and_a_priority() -> None:
    assert set(KINDS) == set(Event)
    ids = [kind.message_id for kind in KINDS.values()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
    assert {event for event, kind in KINDS.items() if kind.priority == 3} == {
        Event.RESTORE_FAILED,
        Event.OUTCOME_FAILED,
    }


def test_every_kind_has_a_catalog_entry_that_says_what_to_do() -> None:
    text = (ROOT / "systemd/catalog/hardend.catalog").read_text(encoding="ascii")
    entries = dict(re.findall(r"^-- ([0-9a-f]{32})\n(.*?)(?=^-- |\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(entries) == {kind.message_id for kind in KINDS.values()}
    for event, kind in KINDS.items():
        entry = entries[kind.message_id]
        for header in ("Subject:", "Defined-By: hardend", "Documentation:"):
            assert header in entry, event
        head, _blank, body = entry.partition("\n\n")
        assert "Subject: " in head
        assert "hardend" in body or "journalctl" in body or "systemctl" in body, event


def test_catalog_compiles(tmp_path: Path) -> None:
    catalogs = tmp_path / "usr/lib/systemd/catalog"
    catalogs.mkdir(parents=True)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    source = ROOT / "systemd/catalog/hardend.catalog"
    (catalogs / "hardend.catalog").write_bytes(source.read_bytes())
    command = ["journalctl", f"--root={tmp_path}"]
    subprocess.run([*command, "--update-catalog"], check=True, capture_output=True)
    listed = subprocess.run([*command, "--list-catalog"], check=True, capture_output=True, text=True).stdout
    for kind in KINDS.values():
        assert kind.message_id in listed


def test_a_path_keeps_its_bytes(journald: Journald) -> None:
    name = b"/etc/mail/\xff\xfe\n\x1b[31mred"
    journald.journal().event(Event.DRIFT_FOUND, "x", path=os.fsdecode(name))
    [fields] = journald.read()
    assert fields["HARDEND_PATH"] == [name]


def test_a_newline_in_a_value_begins_no_field(journald: Journald) -> None:
    evil = "x\nPRIORITY=0\nMESSAGE_ID=00000000000000000000000000000000\n"
    journald.journal().event(Event.DRIFT_FOUND, evil, path=evil, reason=evil)
    [fields] = journald.read()
    assert fields["PRIORITY"] == [b"4"]
    assert len(fields["MESSAGE_ID"]) == 1
    assert b"\n" not in fields["MESSAGE"][0]
    assert fields["HARDEND_REASON"] == [evil.encode()]


def test_who_is_spread_and_what_is_unknown_left_out(journald: Journald) -> None:
    journald.journal().event(
        Event.DRIFT_FOUND, "x", who={"pid": 7, "exe": None, "unit": ""}, rule=None, generation=0
    )
    [fields] = journald.read()
    names = {name for name in fields if name.startswith("HARDEND_")}
    assert names == {"HARDEND_EVENT", "HARDEND_WHO_PID", "HARDEND_GENERATION"}
    assert fields["HARDEND_GENERATION"] == [b"0"]


def test_fields_may_be_named_in_upper_case(journald: Journald) -> None:
    journald.journal().event(Event.DRIFT_FOUND, "x", PATH="/a", QUARANTINE_ID=None)
    [fields] = journald.read()
    assert fields["HARDEND_PATH"] == [b"/a"]
    assert "HARDEND_QUARANTINE_ID" not in fields


@given(
    message=st.text(st.characters(codec=None)),
    fields=st.dictionaries(
        st.text(st.characters(codec=None), min_size=1).filter(lambda n: n != "self"),
        st.one_of(
            st.none(),
            st.integers(),
            st.text(st.characters(codec=None)),
            st.binary(),
            st.lists(st.text()),
        ),
        max_size=6,
    ),
)
@settings(max_examples=150, deadline=None)
def test_nothing_that_is_sent_breaks_the_framing(message: str, fields: dict[str, object]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        sent: list[bytes] = []
        patch.setattr("hardend.journal._Datagrams.send", lambda _self, data: sent.append(data))
        patch.setattr("hardend.journal.os.path.exists", lambda _path: True)
        journal = Journal(Host())
        journal.event(Event.DRIFT_FOUND, message, **fields)
        journal.close()
    [data] = sent
    parsed = parse(data)
    assert parsed["HARDEND_EVENT"][0] == b"drift-found"
    assert len(parsed["MESSAGE"]) == 1


def test_a_stopped_journald_never_blocks_and_the_rest_is_queued_then_counted(
    journald: Journald,
) -> None:
    journal = journald.journal()
    for number in range(3000):
        journal.event(Event.DRIFT_FOUND, "x", path=f"/{number}")
    assert journal.dropped > 0
    arrived = len(journald.drain(journal))  # it goes on: what was queued comes
    assert arrived + journal.dropped == 3000


def test_queued_events_come_in_order_and_say_when_they_happened(journald: Journald) -> None:
    journal = journald.journal()
    before = time.time_ns()
    for number in range(300):
        journal.event(Event.DRIFT_FOUND, "x", path=str(number))
    after = time.time_ns()
    received = journald.drain(journal)
    assert [fields["HARDEND_PATH"] for fields in received] == [
        [str(number).encode()] for number in range(300)
    ]
    assert "HARDEND_TIME_NS" not in received[0]
    assert before <= int(received[-1]["HARDEND_TIME_NS"][0]) <= after
    assert journal.dropped == 0


def test_a_flush_is_bounded(journald: Journald) -> None:
    journal = journald.journal()
    for number in range(300):
        journal.event(Event.DRIFT_FOUND, "x", path=str(number))
    journald.read()
    journal.flush()
    assert 0 < len(journald.read()) <= 32


def test_closing_sends_what_journald_takes(journald: Journald) -> None:
    journal = journald.journal()
    for number in range(12):
        journal.event(Event.DRIFT_FOUND, "x", path=str(number))
    first = journald.read()
    journal.close()
    assert len(first) + len(journald.read()) == 12


def test_an_event_over_the_size_of_a_datagram_goes_as_a_memfd(journald: Journald) -> None:
    journal = journald.journal()
    journal.event(Event.DRIFT_FOUND, "x", reason="y" * 5_000_000)
    [fields] = journald.read()
    assert fields["HARDEND_REASON"] == [b"y" * 5_000_000]
    assert journal.dropped == 0


def test_a_journald_that_went_away_is_waited_for(journald: Journald) -> None:
    journal = journald.journal()
    where = journald.socket.getsockname()
    journald.socket.close()
    journal.event(Event.DRIFT_FOUND, "refused")
    os.unlink(where)
    journal.event(Event.DRIFT_FOUND, "missing")
    journald.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journald.socket.bind(where)
    journald.socket.settimeout(0)
    journal.flush()
    assert [fields["MESSAGE"] for fields in journald.read()] == [[b"refused"], [b"missing"]]


def test_without_journald_events_are_lines(tmp_path: Path) -> None:
    stream = io.StringIO()
    journal = Journal(Host(str(tmp_path)), stream=stream)
    journal.event(Event.RESTORE_FAILED, "no\x1b[2J", path="/etc/\n\udcff", latency_us=3)
    line = stream.getvalue()
    assert re.fullmatch(r"\S+Z hardend\[\d+\]: error: restore-failed: .*\n", line)
    assert "\x1b" not in line
    assert line.endswith("path=/etc/\\x0a\\xff latency_us=3\n")


def test_lone_surrogates_raise_nothing(journald: Journald, tmp_path: Path) -> None:
    journald.journal().event(Event.DRIFT_FOUND, "\ud800", reason="\ud800")
    assert len(journald.read()) == 1
    stream = io.StringIO()
    Journal(Host(str(tmp_path)), stream=stream).event(Event.DRIFT_FOUND, "\ud800", reason="\ud800")
    assert stream.getvalue().isascii()


def test_a_pipe_that_nobody_reads_loses_lines_and_never_blocks(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with open(writing, "w", encoding="utf-8") as stream:
        journal = Journal(Host(str(tmp_path)), stream=stream)
        for _ in range(2000):
            journal.event(Event.DRIFT_FOUND, "x" * 100, reason="y" * 10_000)
        assert journal.dropped > 0
        os.close(reading)
        journal.event(Event.DRIFT_FOUND, "the reader is gone")


def test_a_socket_path_that_is_too_long_falls_back_to_lines(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    (deep / "run/systemd/journal").mkdir(parents=True)
    (deep / "run/systemd/journal/socket").touch()
    stream = io.StringIO()
    Journal(Host(str(deep)), stream=stream).event(Event.OVERFLOW, "x")
    assert "overflow" in stream.getvalue()


@pytest.mark.parametrize("abstract", [False, True])
def test_notify_reaches_the_manager(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, *, abstract: bool
) -> None:
    name = f"@hardend-test-{os.getpid()}" if abstract else str(tmp_path_factory.mktemp("n") / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert notify("READY=1\nSTATUS=one \udcff")
        assert manager.recv(100) == b"READY=1\nSTATUS=one \xff"


@pytest.mark.parametrize("address", ["", "vsock:2:1", "/nonexistent", "@" + "x" * 200, "relative"])
def test_notify_without_a_manager_is_false(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify("WATCHDOG=1")


def test_notify_does_not_wait_for_a_manager_that_hangs(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = str(tmp_path_factory.mktemp("n") / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(where)
        monkeypatch.setenv("NOTIFY_SOCKET", where)
        assert not all(notify("WATCHDOG=1") for _ in range(1000))


def test_the_table_of_events_is_there_without_the_logger() -> None:
    code = "import sys, hardend.journal; sys.exit('structlog' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
