# SPDX-License-Identifier: Apache-2.0
"""What is said of a guard that runs, hangs, is dead or never was, and in the interface's own types."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardend import state
from hardend.errors import UnreachableError
from hardend.model import Host
from hardend.status_answers import MONITOR, MONITOR_FIELDS, STATUS, STATUS_FIELDS, Answers
from hardend.status_interface import SERVICE as SERVICE_TEXT
from hardend.status_interface import STATUS as STATUS_TEXT
from hardend.status_view import STALE_AFTER_S, STATES, Outlook, View, Watched
from hardend.varlink import Call, shown
from tests.unit import varlink_idl
from tests.unit.test_varlink import VALUES

SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
ROOT = Path(__file__).resolve().parents[2]
INTERFACES = {each.name: each for each in map(varlink_idl.parse, (STATUS_TEXT, SERVICE_TEXT))}
OURS = INTERFACES[STATUS]

# As hardend.report makes it; the host tests compare a guard's own with the interface.
DOCUMENT: dict[str, Any] = {
    "schema": 1,
    "state": "contested",
    "mode": "enforce",
    "since": 1795500000.25,
    "generation": 3,
    "layout": "debian",
    "approved": {"time": "2026-11-24T06:15:01+00:00", "author": "alice", "reason": "a\nb \\ \udcff"},
    "entries": 21,
    "faults": ["the store\tis damaged"],
    "paths": {
        "/etc/mail/a": {"state": "restored", "since": 1.0, "drift": ["mode"], "reason": ""},
        "/etc/mail/\udcff\n": {"state": "contested", "since": 2.0, "drift": ["content"], "reason": "x"},
        "/etc/mail/b": {"state": "failed", "since": 3.0, "drift": ["type"], "reason": "read-only"},
    },
    "contested": ["/etc/mail/\udcff\n"],
    "off": {"until": "2026-11-24T07:00:00+00:00", "reason": "work", "by": "bob"},
    "windows": [
        {
            "id": "0123456789ab",
            "paths": ["/etc/mail/access"],
            "until": "2026-11-24T07:00:00+00:00",
            "expired": False,
            "by": "alice",
            "reason": "a \x1b[31mfeed",
            "command": "make -C /etc/mail",
            "changes": {"/etc/mail/access": {"first": 1.5, "last": 2.5, "count": 3, "drift": ["content"]}},
        }
    ],
    "last_drift": {"/etc/mail/a": {"since_ns": 1795500000123456789, "until_ns": 0}},
    "events": {"config": 1, "hints": 2, "queues": 3},
    "overflows": {"config": 0, "hints": 0, "queues": 0},
    "last_pass": 1795500001.0,
    "passes": 1,
    "restores": 12,
    "relocks": 4,
    "looks": 99,
    "taken": 0,
    "rebuilds": 1,
    "watches": 30,
    "journal_dropped": 0,
    "restore_us": {"count": 12, "last": 30, "median": 25, "p99": 90},
    "scheduling": "rr",
    "own_files": {"count": 100, "digest": "ab", "last_change": 0.0},
    "of a later version": {"x": 1},
}


class Station:
    """A tree with or without a guard, and what is answered of it."""

    def __init__(self, root: Path) -> None:
        self.host = Host(str(root))
        self.lock = state.GuardLock(self.host)
        self.answers = Answers(Outlook(self.host))

    def publish(self, **changes: Any) -> None:
        document = {**DOCUMENT, "pid": os.getpid(), "heartbeat": self.ago(0), **changes}
        state.publish(self.host, document)

    @staticmethod
    def ago(seconds: float) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) - seconds

    def call(self, method: str, **parameters: Any) -> tuple[str, dict[str, Any]]:
        """Return the error, "" when there is none, and what was said; checked against the interface."""
        name = method if "." in method else f"{STATUS}.{method}"
        message = self.answers.answer(Call(name, parameters))
        assert message.endswith(b"\0") and message.count(0) == 1
        reply = json.loads(message[:-1])
        error = reply.get("error", "")
        said: dict[str, Any] = reply["parameters"]
        assert faults(name, error, said) == []
        return error.rpartition(".")[2], said


def faults(method: str, error: str, said: object) -> list[str]:
    """Return how a reply differs from its interface."""
    if error:
        interface = INTERFACES[error.rpartition(".")[0]]
        return interface.faults(interface.errors[error], said)
    interface_name, _, name = method.rpartition(".")
    return INTERFACES[interface_name].faults(INTERFACES[interface_name].gives[name], said)


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path)
    yield made
    made.lock.release()


@pytest.fixture
def guarded(station: Station) -> Station:
    assert station.lock.acquire()
    return station


def test_the_interface_file_is_what_clients_are_given() -> None:
    assert (ROOT / "etc/varlink/io.hardend.Status.varlink").read_text("utf-8") == STATUS_TEXT


def test_every_declared_field_is_served_and_no_other() -> None:
    own = {"schema", "guard", "unproven_since", "state"}
    for method, fields in (("GetStatus", STATUS_FIELDS), ("Monitor", MONITOR_FIELDS)):
        declared = OURS.gives[method]
        assert isinstance(declared, dict)
        extra = own if method == "GetStatus" else (own - {"schema"}) | {"drifts"}
        assert set(declared) == set(fields) | extra
    assert OURS.types["State"] == STATES
    assert OURS.types["Guard"] == tuple(each.value for each in Watched)


def test_a_guard_that_runs_is_proven(guarded: Station) -> None:
    guarded.publish()
    error, said = guarded.call("GetStatus")
    assert (error, said["guard"], said["unproven_since"], said["state"]) == ("", "running", None, "contested")
    for name in STATUS_FIELDS:
        if name not in {"pid", "heartbeat"}:
            assert said[name] == shown(DOCUMENT[name])
    assert guarded.call("GetStatus", unproven=True) == ("", said)


def test_texts_of_others_cannot_spoil_a_reply(guarded: Station) -> None:
    guarded.publish(state="\x1b[2J")
    _, said = guarded.call("GetStatus")
    assert said["contested"] == ["/etc/mail/\\xff\\x0a"]
    assert said["approved"]["reason"] == "a\\x0ab \\x5c \\xff"
    assert said["state"] == "unknown"


def test_the_drifts_are_told_the_worst_first(guarded: Station) -> None:
    guarded.publish()
    error, said = guarded.call("GetDrift")
    assert error == ""
    assert [drift["path"] for drift in said["drifts"]] == [
        "/etc/mail/b", "/etc/mail/\\xff\\x0a", "/etc/mail/a"
    ]  # fmt: skip
    assert said["drifts"][0] == {
        "path": "/etc/mail/b", "state": "failed", "since": 3.0, "drift": ["type"], "reason": "read-only"
    }  # fmt: skip


def test_the_baseline_is_told_with_its_approval(guarded: Station) -> None:
    guarded.publish()
    assert guarded.call("GetBaseline") == (
        "",
        {
            "generation": 3,
            "approved": shown(DOCUMENT["approved"]),
            "layout": "debian",
            "entries": 21,
        },
    )


def test_a_host_without_a_baseline_has_generation_0(guarded: Station) -> None:
    guarded.publish(state="unprotected", generation=0, layout="", approved=None, entries=0, paths={})
    assert guarded.call("GetBaseline")[1] == {
        "generation": 0, "approved": None, "layout": "", "entries": 0
    }  # fmt: skip
    assert guarded.call("GetDrift")[1] == {"state": "unprotected", "drifts": []}


METHODS = ("GetStatus", "GetDrift", "GetBaseline")


def assert_unproven(station: Station, error: str, guard: str, since: float | None, last: str) -> None:
    """Assert that every method says so, and that the last word can still be had."""
    for method in METHODS:
        assert station.call(method) == (
            error,
            {"guard": guard, "unproven_since": since, "last_state": last},
        )
    known, said = station.call("GetStatus", unproven=True)
    assert (known, said["guard"], said["unproven_since"], said["state"]) == ("", guard, since, last)
    known, said = station.call("Monitor")
    assert (known, said["guard"], said["unproven_since"], said["state"]) == ("", guard, since, last)


def published(station: Station) -> float:
    return os.stat(station.host.state_file).st_mtime_ns / 1e9


def test_a_guard_that_never_started_has_proven_nothing(station: Station) -> None:
    assert_unproven(station, "NotRunning", "never_started", None, "unknown")


def test_a_dead_guard_s_word_is_not_the_state_of_the_host(guarded: Station) -> None:
    guarded.publish(state="clean")
    assert guarded.call("GetStatus")[0] == ""
    guarded.lock.release()
    assert_unproven(guarded, "NotRunning", "dead", published(guarded), "clean")
    assert guarded.call("GetStatus", unproven=True)[1]["generation"] == 3


def test_a_guard_that_is_silent_for_seconds_is_stale(guarded: Station) -> None:
    guarded.publish(heartbeat=Station.ago(STALE_AFTER_S - 2))
    assert guarded.call("GetStatus")[0] == ""
    guarded.publish(heartbeat=Station.ago(STALE_AFTER_S + 0.1))
    assert_unproven(guarded, "Stale", "hung", published(guarded), "contested")
    guarded.publish()
    assert guarded.call("GetStatus")[0] == ""


def test_a_word_gets_old_without_anything_being_published(
    guarded: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded.publish()
    assert guarded.call("GetDrift")[0] == ""
    later = Station.ago(-STALE_AFTER_S - 0.1)
    monkeypatch.setattr(time, "clock_gettime", lambda _clock: later)
    assert guarded.call("GetDrift")[0] == "Stale"


def test_a_guard_that_has_not_published_yet_is_not_judged_by_the_one_before(guarded: Station) -> None:
    guarded.publish(pid=1, state="clean")
    assert_unproven(guarded, "Stale", "starting", published(guarded), "starting")
    assert guarded.call("GetStatus", unproven=True)[1]["paths"] is None
    guarded.publish(state="clean")
    assert guarded.call("GetStatus")[1]["state"] == "clean"


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100_000, '{"a":' * 700 + "1" + "}" * 700])
def test_a_damaged_state_proves_nothing(guarded: Station, text: str) -> None:
    guarded.publish()
    Path(guarded.host.state_file).write_text(text, encoding="latin-1")
    assert guarded.call("GetStatus")[0] == "Stale"
    guarded.lock.release()
    assert guarded.call("GetStatus")[0] == "NotRunning"


@settings(deadline=None, suppress_health_check=SLOW)
@given(st.dictionaries(st.sampled_from(["paths", "approved", "state", "generation", "heartbeat"]), VALUES))
def test_whatever_is_published_every_method_answers(guarded: Station, changes: dict[str, Any]) -> None:
    guarded.publish(**changes)
    for method in (*METHODS, "Monitor"):
        message = guarded.answers.answer(Call(f"{STATUS}.{method}", {}))
        assert isinstance(json.loads(message[:-1])["parameters"], dict)


def test_a_view_stays_the_same_object_until_something_is_new(guarded: Station) -> None:
    outlook = Outlook(guarded.host)
    guarded.publish()
    first = outlook.look()
    assert outlook.look() is first
    guarded.publish()
    assert outlook.look() is not first
    guarded.lock.release()
    dead = outlook.look()
    assert dead == View(Watched.DEAD, dead.published, dead.document)
    assert outlook.look() is dead


def test_what_cannot_be_read_is_no_answer_of_health(station: Station) -> None:
    os.makedirs(station.host.state_file)
    assert station.call("GetStatus")[0] == "NotRunning"


REFUSED = [
    ("com.example.Nothing.GetStatus", {}, "InterfaceNotFound", {"interface": "com.example.Nothing"}),
    ("nothing", {}, "InterfaceNotFound", {"interface": ""}),
    ("", {}, "InterfaceNotFound", {"interface": ""}),
    (f"{STATUS}.Getstatus", {}, "MethodNotFound", {"method": f"{STATUS}.Getstatus"}),
    ("org.varlink.service.X", {}, "MethodNotFound", {"method": "org.varlink.service.X"}),
    (f"{STATUS}.GetStatus", {"unproven": 1}, "InvalidParameter", {"parameter": "unproven"}),
    (f"{STATUS}.GetStatus", {"x": None}, "InvalidParameter", {"parameter": "x"}),
    (f"{STATUS}.GetDrift", {"unproven": True}, "InvalidParameter", {"parameter": "unproven"}),
    (MONITOR, {"": 1}, "InvalidParameter", {"parameter": ""}),
    ("org.varlink.service.GetInfo", {"x": 1}, "InvalidParameter", {"parameter": "x"}),
    ("org.varlink.service.GetInterfaceDescription", {}, "InvalidParameter", {"parameter": "interface"}),
]


@pytest.mark.parametrize(("method", "parameters", "error", "said"), REFUSED)
def test_what_is_not_offered_is_refused_by_name(
    station: Station, method: str, parameters: dict[str, Any], error: str, said: dict[str, str]
) -> None:
    reply = json.loads(station.answers.answer(Call(method, parameters))[:-1])
    assert reply == {"error": f"org.varlink.service.{error}", "parameters": said}


def test_the_service_describes_itself(station: Station) -> None:
    info = station.call("org.varlink.service.GetInfo")[1]
    assert sorted(info["interfaces"]) == sorted(INTERFACES)
    for name in info["interfaces"]:
        text = station.call("org.varlink.service.GetInterfaceDescription", interface=name)[1]
        assert varlink_idl.parse(text["description"]).name == name
    error, _ = station.call("org.varlink.service.GetInterfaceDescription", interface="a.b")
    assert error == "InterfaceNotFound"


def test_nobody_answers_where_no_service_is(station: Station) -> None:
    from hardend.varlink_client import Connection

    with pytest.raises(UnreachableError, match=r"run/hardend/status"):
        Connection(station.host)
