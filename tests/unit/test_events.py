# SPDX-License-Identifier: Apache-2.0
"""Events through a real journald and back, and what the two forms of ``hardend events`` show."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hardend.cli import events as verb
from hardend.errors import FileError, RefusedError
from hardend.events import Query, Record, open_journal, records, to_record
from hardend.journal import KINDS, Event, Journal
from hardend.model import Host

ROOT = Path(__file__).resolve().parents[2]
JOURNALD = "/usr/lib/systemd/systemd-journald"
# A journald of its own: private /run, nothing on disk, the kernel's log and audit left alone.
START = f"""
set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir -p /run/systemd/journal /run/log/journal /run/systemd/journald.conf.d
printf '[Journal]\\nStorage=volatile\\nAudit=no\\nReadKMsg=no\\nForwardToSyslog=no\\n' \
    > /run/systemd/journald.conf.d/test.conf
exec {JOURNALD}
"""
PR_SET_PDEATHSIG = 1


@pytest.fixture(scope="module")
def journald() -> Iterator[tuple[Host, int]]:
    """Run a journald; yield the host to reach it by and its pid."""
    assert os.path.exists(JOURNALD), "systemd-journald is missing: apt-get install systemd"
    libc = ctypes.CDLL(None)
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", START],
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            host = Host(f"/proc/{process.pid}/root")
            wait_for(lambda: os.path.exists(host.at("/run/systemd/journal/socket")))
            yield host, process.pid
        finally:
            process.kill()


@pytest.fixture
def host(journald: tuple[Host, int]) -> Host:
    return journald[0]


@pytest.fixture
def journal(host: Host) -> Iterator[Journal]:
    made = Journal(host)
    yield made
    made.close()


def wait_for(condition: Any) -> None:
    """Wait until ``condition()`` is true; fail after 20 seconds."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def read(host: Host, **query: Any) -> list[Record]:
    return list(records(host, Query(**query)))


def read_of(host: Host, path: str, count: int = 1) -> list[Record]:
    """Return the events of a path once journald has written ``count`` of them."""
    wait_for(lambda: len(read(host, path=path)) >= count)
    return read(host, path=path)


def run(*words: str) -> argparse.Namespace:
    """Parse a command line of the verb."""
    parser = argparse.ArgumentParser()
    verb.register(parser.add_subparsers())
    return parser.parse_args(["events", *words])


@pytest.mark.root
def test_an_event_comes_back_as_it_was_sent(host: Host, journal: Journal) -> None:
    path = os.fsdecode(b"/etc/mail/one-\xff\n\x1b[31m")
    before = time.time_ns()
    journal.event(
        Event.PATH_RESTORED,
        "put back",
        path=path,
        drift=["content", "mode"],
        state="restored",
        generation=3,
        latency_us=231,
        quarantine_id="20261124T061501.123456-0001",
        who={"pid": 7, "exe": "/usr/bin/\udcff", "unit": "evil.service"},
    )
    [record] = read_of(host, path)
    assert before - 10**6 <= record.time_ns <= time.time_ns()
    assert record.as_json() == {
        "time": datetime.fromtimestamp(record.time_ns / 1e9, UTC).isoformat(timespec="microseconds"),
        "time_ns": record.time_ns,
        "event": "path-restored",
        "message": "put back",
        "priority": 6,
        "path": path,
        "drift": ["content", "mode"],
        "state": "restored",
        "generation": 3,
        "latency_us": 231,
        "quarantine_id": "20261124T061501.123456-0001",
        "who": {"pid": 7, "exe": "/usr/bin/\udcff", "unit": "evil.service"},
    }


@pytest.mark.root
def test_filters_by_path_kind_and_time(host: Host, journal: Journal) -> None:
    for name in ("/filter", "/filter/below", "/filterless"):
        journal.event(Event.DRIFT_FOUND, "x", path=name)
    journal.event(Event.OVERFLOW, "x", path="/filter")
    read_of(host, "/filterless")
    read_of(host, "/filter", 3)
    assert [one.path for one in read(host, path="/filter")] == [
        "/filter",
        "/filter/below",
        "/filter",
    ]
    assert [one.event for one in read(host, path="/filter/", kinds=frozenset({"overflow"}))] == ["overflow"]
    assert read(host, path="/filter", since=time.time() + 60) == []
    assert len(read(host, path="/filter", since=time.time() - 60)) == 3


@pytest.mark.root
def test_another_user_cannot_put_events_there(host: Host, journal: Journal) -> None:
    address = host.at("/run/systemd/journal/socket")
    message = f"MESSAGE_ID={KINDS[Event.GUARD_STOPPED].message_id}\nHARDEND_PATH=/forged\n"
    code = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.connect(sys.argv[1])\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s.send(sys.argv[2].encode())\n"
    )
    subprocess.run([sys.executable, "-c", code, address, message], check=True)
    journal.event(Event.DRIFT_FOUND, "x", path="/after-the-forged")
    read_of(host, "/after-the-forged")
    assert read(host, path="/forged") == []


@pytest.mark.root
def test_a_stopped_journald_neither_blocks_nor_loses_nor_misdates(
    journald: tuple[Host, int], journal: Journal
) -> None:
    host, pid = journald
    slowest = 0.0
    os.kill(pid, signal.SIGSTOP)
    try:
        before = time.time_ns()
        for number in range(900):
            begin = time.perf_counter()
            journal.event(Event.DRIFT_FOUND, "x", path=f"/stopped/{number}")
            slowest = max(slowest, time.perf_counter() - begin)
        after = time.time_ns()
    finally:
        os.kill(pid, signal.SIGCONT)
    print(f"slowest event with journald stopped: {slowest * 1e6:.0f} us")
    assert journal.dropped == 0

    def is_all_there() -> bool:
        journal.flush()
        return len(read(host, path="/stopped")) == 900

    wait_for(is_all_there)
    stopped = read(host, path="/stopped")
    assert [one.path for one in stopped] == [f"/stopped/{number}" for number in range(900)]
    assert before <= stopped[-1].time_ns <= after


@pytest.mark.root
def test_following_shows_what_comes(host: Host, journal: Journal) -> None:
    command = [sys.executable, "-c", FOLLOW, host.root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as follower:
        try:
            assert follower.stdout is not None
            journal.event(Event.DRIFT_FOUND, "x", path="/follow/1")
            assert json.loads(follower.stdout.readline())["path"] == "/follow/1"
            journal.event(Event.DRIFT_FOUND, "x", path="/follow/2")
            assert json.loads(follower.stdout.readline())["path"] == "/follow/2"
            follower.send_signal(signal.SIGINT)
            assert follower.wait(timeout=20) == 0
        finally:
            follower.kill()


FOLLOW = """
import argparse, sys
from hardend.cli import events
parser = argparse.ArgumentParser()
events.register(parser.add_subparsers())
words = ["events", "--root", sys.argv[1], "--json", "--follow", "--path", "/follow"]
args = parser.parse_args(words)
sys.exit(args.run(args))
"""


@pytest.mark.root
def test_the_verb_prints_json_lines_and_a_log(
    host: Host, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        path = f"/verb/{number}"
        journal.event(Event.DRIFT_FOUND, "x", path=path, drift="mode", state="drifted")
    read_of(host, "/verb", 2)
    args = run("--root", host.root, "--path", "/verb", "--json", "--since", "1h")
    assert args.run(args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["/verb/1", "/verb/2"]
    args = run("--root", host.root, "--path", "/verb", "--kind", "drift-found")
    assert args.run(args) == 0
    for line in capsys.readouterr().out.splitlines():
        assert " drift-found " in line
        assert line.endswith(" [mode] drifted")


@pytest.mark.root
def test_a_log_without_a_line_says_so(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    args = run("--root", host.root, "--path", "/no/such/path")
    assert args.run(args) == 0
    assert tuple(capsys.readouterr()) == ("", "hardend: no event is in the journal that fits\n")


@pytest.mark.root
def test_the_log_says_which_rules_were_broken(
    host: Host, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.event(Event.RULES_BROKEN, "what stood there broke relay-open", path="/broken", drift="content")
    read_of(host, "/broken", 1)
    args = run("--root", host.root, "--path", "/broken")
    assert args.run(args) == 0
    assert "what stood there broke relay-open" in capsys.readouterr().out


def test_a_host_without_a_journal_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no journal"):
        list(records(Host(str(tmp_path)), Query()))


@pytest.mark.root
def test_a_user_who_may_not_read_is_told(tmp_path: Path) -> None:
    machine = tmp_path / "var/log/journal/0123"
    machine.mkdir(parents=True)
    (machine / "system.journal").touch(mode=0o600)
    tmp_path.chmod(0o755)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.chdir(tmp_path)
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            try:
                open_journal(Host("."))
            except RefusedError:
                os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


class Entries:
    """A reader over entries in memory."""

    def __init__(self, *entries: dict[str, Any]) -> None:
        self.left = list(entries)
        self.matches: list[dict[str, str]] = []
        self.closed = False

    def add_match(self, **fields: str) -> None:
        self.matches.append(fields)

    def seek_realtime(self, seconds: float) -> None:
        self.sought = seconds

    def seek_cursor(self, cursor: str) -> None:
        self.sought_cursor = cursor

    def get_next(self) -> dict[str, Any]:
        return self.left.pop(0) if self.left else {}

    def fileno(self) -> int:
        return 0

    def get_events(self) -> int:
        return 0

    def process(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True


def test_only_our_ids_and_only_root_are_asked_for() -> None:
    reader = Entries()
    query = Query(kinds=frozenset({"overflow"}), since=5.0)
    assert list(records(Host(), query, open_reader=lambda _host: reader)) == []
    ids = [{"MESSAGE_ID": KINDS[Event.OVERFLOW].message_id}]
    assert reader.matches == [*ids, {"_UID": "0"}]
    assert reader.sought == 5.0
    assert reader.closed


def test_odd_entries_are_read_for_what_they_have() -> None:
    record = to_record(
        {
            "HARDEND_EVENT": ["drift-found", "overflow"],
            "HARDEND_LATENCY_US": "many",
            "HARDEND_WHO_PID": "\u00b2",
            "HARDEND_PATH": b"/\xff",
            "HARDEND_TIME_NS": "x",
            "__REALTIME_TIMESTAMP": datetime(2026, 11, 24, tzinfo=UTC),
        }
    )
    assert record.event == "drift-found"
    assert record.path == "/\udcff"
    assert record.fields == {"latency_us": "many", "who_pid": "\u00b2"}
    assert record.priority == 6
    assert record.time_ns == 1795478400 * 10**9
    assert to_record({}).time_ns == 0


def test_a_line_shows_what_happened_to_what_and_by_whom() -> None:
    line = verb._as_text(
        Record(
            time_ns=time.time_ns(),
            event="path-restored",
            message="put back",
            priority=6,
            path="/etc/mail/\x1b[2J\n",
            drift=("content", "mode"),
            state="restored",
            fields={"latency_us": 231, "who_exe": "/bin/\nsh", "who_pid": 7, "quarantine_id": "i"},
        )
    )
    assert line.endswith(
        "path-restored       /etc/mail/\\x1b[2J\\x0a [content mode] restored after 231 us "
        "by /bin/\\x0ash, pid 7 kept i"
    )


def test_a_failure_and_an_event_without_path_show_their_message() -> None:
    failed = Record(0, "restore-failed", "read-only\x1b", 3, "/a", ("mode",), "failed")
    assert verb._as_text(failed).endswith(" /a [mode] failed - read-only\\x1b")
    started = Record(0, "guard-started", "guard of 20 paths", 6)
    assert verb._as_text(started).endswith("guard-started       guard of 20 paths")


@pytest.mark.root
def test_the_verb_shows_only_what_this_writer_did(
    host: Host, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.event(Event.DRIFT_FOUND, "x", path="/who", who={"exe": "/usr/bin/vim", "uid": 0})
    journal.event(Event.DRIFT_FOUND, "x", path="/who", who={"exe": "/usr/bin/sed", "uid": 65534})
    journal.event(Event.DRIFT_FOUND, "x", path="/who")
    read_of(host, "/who", 3)
    for who, exe in (("root", "vim"), ("65534", "sed"), ("sed", "sed")):
        args = run("--root", host.root, "--path", "/who", "--who", who)
        assert args.run(args) == 0
        shown = capsys.readouterr().out.splitlines()
        assert len(shown) == 1
        assert f"by /usr/bin/{exe}" in shown[0]
