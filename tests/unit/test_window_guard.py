# SPDX-License-Identifier: Apache-2.0
"""The guard's side of windows: opened and closed over the control socket, ended by a job, or by itself."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hardend import boot, commit, window, window_files
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.guard import Guard
from hardend.journal import Event
from hardend.propose import Proposer
from tests.unit.command import is_locked
from tests.unit.conftest import ACCESS, Tree

pytestmark = pytest.mark.root
REPOSITORY = Path(__file__).resolve().parents[2]
ACCESS_PATH = "/etc/mail/access"
WANTED = ACCESS + b"Connect:10\tREJECT\n"


class Station:
    """A guard on a tree; what it tells the journal is kept, jobs run for real."""

    def __init__(self, tree: Tree, settings: Settings) -> None:
        self.tree = tree
        self.events: list[tuple[Event, str, dict[str, object]]] = []
        self.guard = Guard(tree.host, settings)
        self.guard.journal.event = self._event  # type: ignore[method-assign] # the journal is not asked

    def _event(self, kind: Event, message: str, /, **fields: object) -> None:
        self.events.append((kind, message, fields))

    def start(self) -> None:
        self.guard._prepare()
        self.guard._start()

    def ask(self, verb: str, **request: object) -> dict[str, Any]:
        return self.guard.verbs.answer({"verb": verb, **request})

    def open(self, *paths: str, seconds: float = 600, **more: object) -> dict[str, Any]:
        request = {"paths": list(paths), "seconds": seconds, "reason": "why", "by": "alice", "uid": 0}
        return self.ask("window-open", **{**request, **more})

    def turns(self, until_s: float) -> bool:
        """Turn the loop, as run() does, until no window is open; False when that takes too long."""
        end = time.monotonic() + until_s
        while time.monotonic() < end:
            self.guard._due["pet"] = min(self.guard._due["pet"], time.monotonic() + 0.05)
            self.guard._turn()
            if not self.guard.enforcer.released.windows:
                return True
        return False

    def told(self, kind: Event) -> list[str]:
        return [message for known, message, _ in self.events if known is kind]

    def close(self) -> None:
        guard = self.guard
        for child in guard.jobs._running.values():
            child.wait(timeout=60)
        guard._finish()
        guard.mounts.close()
        guard.epoll.close()
        guard._wake.close()
        guard._signal_end.close()
        guard.lock.release()
        gc.unfreeze()


@pytest.fixture
def station(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> Iterator[Station]:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(Guard, "_ask_for_rr", lambda _guard: None)  # the tests stay as they are
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # of the job, which is a process of its own
    monkeypatch.setattr("signal.set_wakeup_fd", lambda *_, **__: -1)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    tree.at("/etc/debian_version").write_text("12\n")
    commit.commit(tree.host, Proposer(tree.host, Settings()).whole_host(), reason="first")
    made = Station(tree, Settings(warn_s=()))
    made.start()
    yield made
    made.close()


@pytest.fixture
def started(station: Station, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that the guard starts; they do nothing."""
    verbs: list[str] = []

    def start(verb: str) -> bool:
        verbs.append(verb)
        return True

    monkeypatch.setattr(station.guard.jobs, "start", start)
    return verbs


# Opening --------------------------------------------------------------------------------------------


def test_a_window_lets_go_and_everybody_can_see_it(station: Station) -> None:
    reply = station.open()
    assert reply["ok"] and ACCESS_PATH in reply["paths"] and reply["released"] == 2
    assert not is_locked(station.tree, ACCESS_PATH)
    assert station.guard.overall() == "window"
    assert station.guard.status_line().startswith(f"window open until {reply['until'][:10]}")
    assert ", by alice: why; window, enforce" in station.guard.status_line()
    document = station.guard.reporter.document(station.guard)
    assert document["state"] == "window"
    assert document["windows"] == [made.as_json() for made in window_files.read_all(station.tree.host)]
    kind, message, fields = station.events[-1]
    assert kind is Event.WINDOW_OPENED and "by alice: why" in message
    assert fields["WINDOW_ID"] == reply["id"] and fields["WHO"] == "alice"


def test_a_change_is_an_event_with_the_id_of_the_window(station: Station) -> None:
    identifier = station.open(ACCESS_PATH)["id"]
    station.tree.at(ACCESS_PATH).write_bytes(WANTED)
    station.guard.full_pass(thorough=True)
    kind, message, fields = station.events[-1]
    assert (kind, fields["WINDOW_ID"]) == (Event.DRIFT_FOUND, identifier)
    assert message == f"{ACCESS_PATH} changed in a maintenance window: content"
    assert station.guard.overall() == "window"


def test_a_drift_outside_of_the_window_counts_more_than_it(station: Station) -> None:
    station.open(ACCESS_PATH)
    station.tree.at("/etc/mail/stranger").write_bytes(b"x")
    station.guard.full_pass(thorough=True)
    assert station.guard.overall() == "drifted"
    assert station.guard.status_line().startswith("window open until")


REFUSED = [
    ({"paths": ["/etc"]}, "not a path that hardend holds"),
    ({"seconds": 28801}, "a window lasts 8h at most"),
    ({"seconds": 0}, "a window lasts"),
    ({"seconds": True}, "a window lasts"),
    ({"seconds": "600"}, "a window lasts"),
    ({"seconds": float("nan")}, "a window lasts"),
    ({"paths": "x"}, "must be a list of paths"),
    ({"paths": [3]}, "must be a list of paths"),
    ({"uid": "0"}, "window-open needs"),
    ({"id": "../../etc"}, "window-open needs"),
]


@pytest.mark.parametrize(("request_", "why"), REFUSED, ids=lambda item: repr(item)[:30])
def test_what_is_no_window_is_refused(station: Station, request_: dict[str, object], why: str) -> None:
    reply = station.open(**request_)  # type: ignore[arg-type] # what a client may send
    assert not reply["ok"] and why in reply["error"]
    assert is_locked(station.tree, ACCESS_PATH)
    assert window_files.read_all(station.tree.host) == []


def test_a_second_window_for_a_path_is_refused_and_for_another_is_not(station: Station) -> None:
    station.open(ACCESS_PATH)
    reply = station.open(ACCESS_PATH, "/etc/mail/sendmail.cf", by="bob")
    assert not reply["ok"] and "by alice: why" in reply["error"]
    assert is_locked(station.tree, "/etc/mail/sendmail.cf")
    assert station.open("/etc/mail/sendmail.cf", by="bob")["ok"]
    assert station.guard.status_line().count("window open until") == 2


def test_no_window_is_opened_while_enforcement_is_off(station: Station) -> None:
    station.ask("off", seconds=60, reason="x", by="root")
    assert "enforcement is off" in station.open()["error"]


def test_a_pause_that_ends_leaves_an_open_window_open(station: Station) -> None:
    station.open(ACCESS_PATH)
    station.ask("off", seconds=60, reason="x", by="root")
    station.tree.at(ACCESS_PATH).write_bytes(WANTED)
    station.ask("on", by="root")
    assert station.tree.at(ACCESS_PATH).read_bytes() == WANTED
    assert is_locked(station.tree, "/etc/mail/sendmail.cf")


def test_a_window_is_extended_by_its_id(station: Station) -> None:
    reply = station.open(ACCESS_PATH, seconds=60)
    assert station.ask("window-extend", id=reply["id"], seconds=60)["ok"]
    (made,) = window_files.read_all(station.tree.host)
    assert 110 < made.remaining_s <= 120
    assert "no such window" in station.ask("window-extend", id="0" * 12, seconds=60)["error"]
    assert "at most" in station.ask("window-extend", id=reply["id"], seconds=28800)["error"]


# Closing --------------------------------------------------------------------------------------------


def test_closing_holds_the_paths_again_and_puts_back_what_differs(station: Station) -> None:
    identifier = station.open(ACCESS_PATH)["id"]
    station.tree.at(ACCESS_PATH).write_bytes(WANTED)
    assert station.ask("window-close", id=identifier, paths=[], wrong=[]) == {"ok": True, "failed": {}}
    assert station.tree.at(ACCESS_PATH).read_bytes() == ACCESS
    assert is_locked(station.tree, ACCESS_PATH)
    assert window_files.read_all(station.tree.host) == []
    assert "no such window" in station.ask("window-close", id=identifier)["error"]


def test_part_of_a_window_can_be_closed(station: Station) -> None:
    identifier = station.open()["id"]
    assert station.ask("window-close", id=identifier, paths=["/etc/mail/sendmail.cf"])["ok"]
    assert is_locked(station.tree, "/etc/mail/sendmail.cf")
    assert not is_locked(station.tree, ACCESS_PATH)
    assert station.guard.overall() == "window"
    assert "not in the window" in station.ask("window-close", id=identifier, paths=["/etc/x"])["error"]


def test_a_generation_that_is_loaded_meanwhile_closes_nothing(station: Station) -> None:
    station.open(ACCESS_PATH)
    station.tree.at(ACCESS_PATH).write_bytes(WANTED)
    proposal = Proposer(station.tree.host, Settings()).whole_host()
    commit.commit(station.tree.host, proposal, reason="second")
    assert station.ask("load")["ok"]
    assert not is_locked(station.tree, ACCESS_PATH)
    assert station.guard.enforcer.table.by_path[ACCESS_PATH].drift == frozenset()
    assert not any(message.startswith("the lock") for _, message, _ in station.events)


def test_windows_of_the_command_line_are_taken_up(station: Station) -> None:
    """Somebody who saw no guard wrote one, or ended one, while this one started."""
    host = station.tree.host
    made = window.make(host, paths=(ACCESS_PATH,), trees=(), seconds=600, reason="w", by="bob", uid=0)
    window_files.write(host, made)
    station.guard.windows.turn()
    assert not is_locked(station.tree, ACCESS_PATH)
    window_files.remove(host, made.id)
    station.guard.windows.turn()
    assert is_locked(station.tree, ACCESS_PATH)


# The end --------------------------------------------------------------------------------------------


def run_out(station: Station, identifier: str) -> None:
    made = station.guard.enforcer.released.windows[identifier]
    made.until = boot.clock()
    window_files.write(station.tree.host, made)


def test_what_is_no_worse_is_kept_by_the_job_when_time_is_over(station: Station) -> None:
    identifier = station.open(ACCESS_PATH)["id"]
    station.tree.at(ACCESS_PATH).write_bytes(WANTED)
    run_out(station, identifier)
    assert station.guard.status_line().startswith("window expired at ")
    assert station.turns(60)
    current = Store(station.tree.host).current()
    assert (current.number, current.reason, current.author) == (2, "window expired: why", "alice")
    assert station.tree.at(ACCESS_PATH).read_bytes() == WANTED
    assert is_locked(station.tree, ACCESS_PATH)
    assert station.guard.overall() == "clean"


def test_a_job_that_fails_twice_has_everything_put_back(station: Station, started: list[str]) -> None:
    identifier = station.open(ACCESS_PATH)["id"]
    station.tree.at(ACCESS_PATH).write_bytes(WANTED)
    station.guard.full_pass(thorough=True)
    run_out(station, identifier)
    station.guard.windows.turn()
    station.guard.windows.turn()
    assert started == ["window", "window"]
    assert station.tree.at(ACCESS_PATH).read_bytes() == WANTED
    station.guard.windows.turn()
    assert station.tree.at(ACCESS_PATH).read_bytes() == ACCESS
    assert "everything was put back" in station.told(Event.WINDOW_EXPIRED)[0]
    assert window_files.read_all(station.tree.host) == []


def test_a_job_that_runs_is_not_started_again(
    station: Station, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(station.guard.jobs, "is_running", lambda _verb: bool(started))
    run_out(station, station.open(ACCESS_PATH)["id"])
    for _ in range(5):
        station.guard.windows.turn()
    assert started == ["window"]
    assert station.guard.overall() == "window"


def test_the_window_of_a_command_that_was_killed_is_over(station: Station) -> None:
    host = station.tree.host
    descriptor = window_files.hold_runner(host, "0123456789ab")
    station.open(ACCESS_PATH, command="make", id="0123456789ab")
    station.guard.windows.turn()
    assert not window_files.read_all(host)[0].is_over
    os.close(descriptor)
    assert station.turns(60)
    assert is_locked(station.tree, ACCESS_PATH)


def test_the_owner_is_warned_once_for_each_time(station: Station, started: list[str]) -> None:
    station.guard.settings = replace(station.guard.settings, warn_s=(600, 120))
    made = station.open(ACCESS_PATH, seconds=1000)["id"]
    item = station.guard.enforcer.released.windows[made]
    for left, expected in ((700, 0), (599, 1), (300, 1), (119, 2), (60, 2)):
        item.until = boot.clock() + left
        item.opened = item.until - 1000
        station.guard.windows.turn()
        assert len(started) == expected
    assert station.ask("window-extend", id=made, seconds=100)["ok"]
    station.guard.windows.turn()
    assert len(started) == 3  # the time came again


def test_a_guard_that_starts_later_ends_what_ran_out(tree: Tree, station: Station) -> None:
    identifier = station.open(ACCESS_PATH)["id"]
    tree.at(ACCESS_PATH).write_bytes(WANTED)
    run_out(station, identifier)
    station.close()
    again = Station(tree, Settings(warn_s=()))
    try:
        again.start()
        assert again.guard.overall() == "window"
        assert tree.at(ACCESS_PATH).read_bytes() == WANTED
        assert again.turns(60)
        assert Store(tree.host).current().number == 2
    finally:
        station.guard = again.guard  # the fixture closes it
