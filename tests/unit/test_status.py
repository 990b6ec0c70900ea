# SPDX-License-Identifier: Apache-2.0
"""``hardend status`` for every state of host and guard."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hardend import state
from hardend.cli import status, status_screen
from hardend.model import Host

Result = tuple[int, str]


class Station:
    """A tree with or without a guard, and the verb on it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.host = Host(str(root))
        self.lock = state.GuardLock(self.host)
        self._capsys = capsys

    def publish(self, **changes: Any) -> None:
        document = {
            "schema": 1,
            "state": "clean",
            "mode": "enforce",
            "since": 1795500000.0,
            "pid": os.getpid(),
            "boot_id": state.boot_id(),
            "heartbeat": time.clock_gettime(time.CLOCK_BOOTTIME),
            "generation": 3,
            "layout": "debian",
            "entries": 21,
            "approved": {
                "time": "2026-11-24T06:15:01+00:00",
                "author": "alice",
                "reason": "first\nbaseline",
            },
            "paths": {},
            "restores": 12,
            "restore_us": {"count": 12, "last": 30, "median": 25, "p99": 90},
            "overflows": {"config": 0, "hints": 0},
            "scheduling": "rr",
            "off": None,
        }
        state.publish(self.host, {**document, **changes})

    def run(self, *words: str) -> Result:
        parser = argparse.ArgumentParser()
        status.register(parser.add_subparsers())
        args = parser.parse_args(["status", "--root", self.host.root, *words])
        return int(args.run(args)), self._capsys.readouterr().out

    def text(self) -> Result:
        return self.run()

    def document(self) -> tuple[int, dict[str, Any]]:
        code, text = self.run("--json")
        return code, json.loads(text)


@pytest.fixture
def station(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Station]:
    made = Station(tmp_path, capsys)
    yield made
    made.lock.release()


@pytest.fixture
def guarded(station: Station) -> Station:
    assert station.lock.acquire()
    return station


def test_a_clean_host_is_zero_and_says_what_is_held(guarded: Station) -> None:
    guarded.publish()
    code, text = guarded.text()
    assert code == 0
    assert text.splitlines()[0] == "clean (enforce): every protected path is at the baseline"
    assert "generation 3 of 2026-11-24 " in text
    assert "by alice: first\\x0abaseline" in text
    assert "debian, 21 paths held" in text
    assert f"running, pid {os.getpid()}, since 2026-11-24 " in text
    assert "scheduling rr" in text
    assert "12 restores" in text
    assert "median 25 us, p99 90 us, last 30 us" in text
    assert "overflows" not in text


def test_json_is_the_state_and_the_guard(guarded: Station) -> None:
    guarded.publish()
    code, document = guarded.document()
    assert code == 0
    assert document.pop("guard") == "running"
    assert document == state.read(guarded.host)


@pytest.mark.parametrize("word", ["drifted", "contested", "failed", "unprotected", "off", "new-word"])
def test_what_is_not_clean_is_one(guarded: Station, word: str) -> None:
    guarded.publish(state=word)
    code, text = guarded.text()
    assert code == 1
    assert text.startswith(f"{word} (enforce): ")


def test_no_baseline_says_that_nothing_is_protected(guarded: Station) -> None:
    guarded.publish(state="unprotected", generation=0, approved=None, layout="", entries=0)
    code, text = guarded.text()
    assert code == 1
    assert "no baseline: protects nothing" in text
    assert "generation" not in text


def test_paths_are_listed_with_the_worst_first_and_escaped(guarded: Station) -> None:
    guarded.publish(
        state="failed",
        paths={
            "/etc/a": {"state": "drifted", "since": 1795500000.0, "drift": ["mode"], "reason": ""},
            "/etc/z\x1b[2J": {
                "state": "failed",
                "since": 1795500000.0,
                "drift": ["content", "owner"],
                "reason": "read-only\nfile system",
            },
        },
    )
    _code, text = guarded.text()
    lines = [line.strip() for line in text.splitlines() if line.startswith("  path")]
    assert "/etc/z\\x1b[2J failed since 2026-" in lines[0]
    assert lines[0].endswith("content, owner (read-only\\x0afile system)")
    assert "/etc/a drifted" in lines[1]
    assert "\x1b" not in text


def test_a_thousand_paths_still_fit_one_screen(guarded: Station) -> None:
    paths = {f"/etc/{number}": {"state": "drifted", "drift": ["mode"]} for number in range(1000)}
    guarded.publish(state="drifted", paths=paths)
    _code, text = guarded.text()
    assert len(text.splitlines()) < 25
    assert "and 985 more" in text
    assert len(guarded.document()[1]["paths"]) == 1000


def test_off_says_until_when_why_and_by_whom(guarded: Station) -> None:
    off = {"until": "2026-11-24T08:15:00+00:00", "reason": "upgrade", "by": "alice"}
    guarded.publish(state="off", off=off)
    code, text = guarded.text()
    assert code == 1
    assert "until 2026-11-24 " in text
    assert "by alice: upgrade" in text


def test_faults_and_losses_are_shown(guarded: Station) -> None:
    guarded.publish(faults=["object abc: damaged"], journal_dropped=5, overflows={"config": 2, "hints": 0})
    _code, text = guarded.text()
    assert "object abc: damaged" in text
    assert "5 events lost" in text
    assert "2 config" in text


def test_a_dead_guard_is_three_and_unproven_since_its_last_word(station: Station) -> None:
    assert station.lock.acquire()
    station.publish()
    station.lock.release()
    os.utime(station.host.state_file, (1795500000, 1795500000))
    code, text = station.text()
    assert code == 3
    shown = status_screen.when(1795500000)
    assert text.splitlines()[0].startswith(f"not running: unproven since {shown}")
    assert "last word was clean" in text
    code, document = station.document()
    assert (code, document["guard"]) == (3, "dead")


def test_a_hung_guard_is_three(guarded: Station) -> None:
    guarded.publish(heartbeat=0.0)
    code, text = guarded.text()
    assert code == 3
    assert text.startswith("hung: the guard does not answer: unproven since ")
    assert guarded.document()[1]["guard"] == "hung"


def test_a_guard_that_never_started_is_three(station: Station) -> None:
    code, text = station.text()
    assert code == 3
    assert "has not started since boot" in text
    code, document = station.document()
    assert (code, document) == (3, {"schema": 1, "guard": "never-started"})


def test_a_starting_guard_is_not_judged_by_the_state_of_a_former_one(guarded: Station) -> None:
    guarded.publish(pid=1, heartbeat=0.0)
    code, text = guarded.text()
    assert code == 1
    assert text.startswith("starting: ")
    assert guarded.document()[1]["state"] == "starting"


@pytest.mark.parametrize(
    "changes",
    [
        {"paths": []},
        {"paths": {"/a": None, "/b": {"state": [1], "drift": "x", "since": {}}}},
        {"off": "yes", "approved": 3, "faults": {}, "overflows": [], "restore_us": 7},
        {"since": 1e300, "state": None},
        {"since": "not a time", "off": {"until": None}},
    ],
)
def test_a_state_of_another_version_raises_nothing(guarded: Station, changes: dict[str, Any]) -> None:
    guarded.publish(**changes)
    _code, text = guarded.text()
    assert text


def test_root_must_be_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file\x1b"
    file.touch()
    parser = argparse.ArgumentParser()
    status.register(parser.add_subparsers())
    for root in (str(file), str(tmp_path / "missing"), ""):
        with pytest.raises(SystemExit) as error:
            parser.parse_args(["status", "--root", root])
        assert error.value.code == 2
        shown = capsys.readouterr().err
        assert "not a directory" in shown
        assert "\x1b" not in shown


def test_root_names_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    status.register(parser.add_subparsers())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tree").mkdir()
    assert parser.parse_args(["status"]).host == Host()
    assert parser.parse_args(["status", "--root", "//"]).host == Host()
    assert parser.parse_args(["status", "--root", "tree"]).host == Host(str(tmp_path / "tree"))
    process = f"/proc/{os.getpid()}/root"
    assert parser.parse_args(["status", "--root", process]).host == Host(process)
