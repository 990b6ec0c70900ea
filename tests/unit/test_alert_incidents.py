# SPDX-License-Identifier: Apache-2.0
"""Incidents: one alert when it begins, one when it is over, few of many, and none that is lost."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.alert_incidents import LISTED, MOST, QUIET_S, REMEMBERED_S, Alert, Incidents, Sight
from hardend.events import Record
from hardend.journal import KINDS, Event
from hardend.settings import Priority, Settings
from hardend.status_view import Watched

CLEAN = Sight(Watched.RUNNING, known=True)
DEAD = Sight(Watched.DEAD)
ACCESS = "/etc/mail/access"
NOW = 1_800_000_000.0


def record(event: Event = Event.PATH_RESTORED, path: str = ACCESS, at: float = NOW, **fields: Any) -> Record:
    return Record(
        int(at * 1e9), event.value, f"{path} {event.value}", KINDS[event].priority, path, fields=fields
    )


def dirty(*paths: str) -> Sight:
    return Sight(Watched.RUNNING, known=True, dirty=frozenset(paths))


def told(incidents: Incidents) -> list[tuple[str, str, str]]:
    return [
        (str(a.document["phase"]), str(a.document["kind"]), str(a.document.get("path", "")))
        for a in incidents.take()
    ]


@pytest.fixture
def incidents() -> Incidents:
    return Incidents("mail.example.com", Settings())


def test_a_drift_that_was_put_back_is_told_once_and_once_more_when_it_stayed_clean(
    incidents: Incidents,
) -> None:
    incidents.saw(record(), NOW)
    incidents.advance(NOW, CLEAN)
    assert told(incidents) == [("began", "drift", ACCESS)]
    incidents.advance(NOW + QUIET_S - 1, CLEAN)
    assert told(incidents) == []
    incidents.advance(NOW + QUIET_S, CLEAN)
    assert told(incidents) == [("over", "drift", ACCESS)]
    incidents.advance(NOW + 10 * QUIET_S, CLEAN)
    assert told(incidents) == []
    assert incidents.open == []


def test_a_path_that_stays_drifted_is_told_again_after_a_day_and_is_over_when_clean(
    incidents: Incidents,
) -> None:
    incidents.saw(record(Event.DRIFT_FOUND), NOW)
    incidents.advance(NOW + 86399, dirty(ACCESS))
    assert told(incidents) == [("began", "drift", ACCESS)]
    incidents.advance(NOW + 86400, dirty(ACCESS))
    assert told(incidents) == [("goes-on", "drift", ACCESS)]
    incidents.advance(NOW + 86401, CLEAN)
    assert told(incidents) == [("over", "drift", ACCESS)]


def test_nothing_is_over_while_the_guard_is_not_there_to_say_so(incidents: Incidents) -> None:
    incidents.saw(record(), NOW)
    incidents.advance(NOW + 1000, DEAD)
    assert [phase for phase, _, _ in told(incidents)] == ["began"]


def test_each_kind_of_a_path_is_an_incident_of_its_own(incidents: Incidents) -> None:
    for event in (Event.PATH_RESTORED, Event.PATH_RESTORED, Event.LOCK_REMOVED, Event.RESTORE_FAILED):
        incidents.saw(record(event), NOW)
    assert told(incidents) == [("began", kind, ACCESS) for kind in ("drift", "lock", "failed")]
    assert [each.kind for each in incidents.open] == ["failed", "drift", "lock"]


def test_what_comes_and_goes_is_told_less_and_less_often(incidents: Incidents) -> None:
    began = 0
    for step in range(60):  # an hour of a change every minute
        incidents.saw(record(at=NOW + step * 60), NOW + step * 60)
        for second in range(0, 60, 10):
            incidents.advance(NOW + step * 60 + second, CLEAN)
        began += sum(phase == "began" for phase, _, _ in told(incidents))
    assert began <= 3
    incidents.advance(NOW + 3600 + 600, CLEAN)
    assert told(incidents) == [("over", "drift", ACCESS)]


def test_a_thousand_drifts_give_a_few_alerts(incidents: Incidents) -> None:
    phases: Counter[str] = Counter()
    paths = [f"/etc/mail/file{number}" for number in range(1000)]
    for number, path in enumerate(paths):
        incidents.saw(record(path=path), NOW + number / 100)
    for second in range(200):
        incidents.advance(NOW + second, CLEAN)
        found = incidents.take()
        phases.update(str(alert.document["phase"]) for alert in found)
        for alert in found:
            if alert.document["phase"] == "summary":
                lines = alert.document["lines"]
                assert isinstance(lines, list) and len(lines) == LISTED
    assert phases["began"] == Settings().alert_burst
    assert sum(phases.values()) <= 12
    assert phases["summary"] >= 1


def test_a_summary_is_as_urgent_as_the_worst_in_it_and_names_that_first(incidents: Incidents) -> None:
    for number in range(60):
        incidents.saw(record(path=f"/etc/mail/{number}"), NOW)
    incidents.saw(record(Event.RESTORE_FAILED), NOW)
    incidents.take()
    incidents.advance(NOW + 60, dirty(ACCESS))
    [summary] = [a for a in incidents.take() if a.document["phase"] == "summary"]
    assert summary.priority is Priority.ERR
    lines = summary.document["lines"]
    assert isinstance(lines, list) and ACCESS in lines[0]


def test_a_dead_guard_is_told_in_the_middle_of_a_burst(incidents: Incidents) -> None:
    for number in range(2 * MOST):
        incidents.saw(record(path=f"/etc/mail/{number}"), NOW)
    incidents.advance(NOW, DEAD)
    incidents.take()
    incidents.advance(NOW + 15, DEAD)
    assert ("began", "guard", "") in told(incidents)
    assert len(incidents.open) == MOST + 1
    incidents.advance(NOW + 16, CLEAN)
    assert ("over", "guard", "") in told(incidents)


def test_a_guard_that_is_there_again_at_once_is_no_incident(incidents: Incidents) -> None:
    incidents.advance(NOW, CLEAN)
    incidents.advance(NOW + 1, DEAD)
    incidents.saw(record(Event.GUARD_STOPPED, ""), NOW + 1)
    incidents.saw(record(Event.GUARD_STARTED, ""), NOW + 2)
    incidents.advance(NOW + 2, CLEAN)
    incidents.advance(NOW + 100, CLEAN)
    assert told(incidents) == []


def test_a_guard_that_begins_again_without_having_stopped_was_killed(incidents: Incidents) -> None:
    incidents.advance(NOW, CLEAN)
    incidents.saw(record(Event.GUARD_STARTED, ""), NOW + 1)
    assert told(incidents) == [("began", "guard-killed", "")]


def test_what_changes_in_a_window_is_not_told(incidents: Incidents) -> None:
    incidents.saw(record(Event.DRIFT_FOUND, window_id="w1"), NOW)
    assert told(incidents) == []


def test_enforcement_that_is_off_is_over_when_it_is_on(incidents: Incidents) -> None:
    incidents.saw(record(Event.ENFORCEMENT_PAUSED, ""), NOW)
    incidents.advance(NOW + 1000, Sight(Watched.RUNNING, known=True, off=True))
    assert told(incidents) == [("began", "off", "")]
    incidents.advance(NOW + 1001, CLEAN)
    assert told(incidents) == [("over", "off", "")]


@pytest.mark.parametrize("event", Event)
def test_every_event_is_told_when_its_priority_is_asked_for(event: Event) -> None:
    incidents = Incidents("host", Settings(alert_min_priority=Priority.INFO))
    incidents.saw(record(event), NOW)
    assert len(incidents.take()) == 1


def test_what_matters_less_is_not_told(incidents: Incidents) -> None:
    for event in Event:
        if KINDS[event].priority > 4 and event != Event.PATH_RESTORED:
            incidents.saw(record(event), NOW)
    assert told(incidents) == []


# Whatever happens -----------------------------------------------------------------------------------

LASTING = {"drift", "lock", "contested", "failed", "off", "guard"}
PATHS = st.sampled_from([ACCESS, "/etc/aliases", "/etc/mail/\udcff\n\x1b[2J", ""])
STEPS = st.lists(
    st.tuples(
        st.floats(0, 5000),
        st.lists(st.tuples(st.sampled_from(list(Event)), PATHS), max_size=5),
        st.builds(Sight, st.sampled_from(Watched), st.booleans(), st.frozensets(PATHS), st.booleans()),
        st.booleans(),
    ),
    max_size=30,
)


@given(STEPS, st.integers(1, 4), st.sampled_from(Priority))
def test_incidents_hold_their_promises_whatever_happens(
    steps: list[tuple[float, list[tuple[Event, str]], Sight, bool]], burst: int, least: Priority
) -> None:
    settings = Settings(alert_burst=burst, alert_min_priority=least)
    incidents = Incidents("host", settings)
    now, alerts, single = NOW, list[Alert](), list[float]()
    for wait, happened, sight, crashed in steps:
        now += wait
        for event, path in happened:
            incidents.saw(record(event, path, now), now)
        incidents.advance(now, sight)
        found = incidents.take()
        alerts += found
        begins = [a for a in found if a.document["phase"] in {"began", "goes-on"}]
        single += [now for a in begins if a.priority != Priority.CRIT]
        if crashed:
            document = json.loads(json.dumps(incidents.document()))
            incidents = Incidents("host", settings)
            incidents.restore(document)
            assert json.loads(json.dumps(incidents.document())) == document
    for alert in alerts:
        assert alert.priority.number <= least.number
        assert all(ord(char) < 128 and char.isprintable() for char in str(alert.document["subject"]))
    # Never more than ``burst`` within a minute, and over only what began.
    assert all(sum(0 <= at - start < 60 for at in single) <= burst for start in single)
    # In the end, clean and quiet for long, nothing is open and nothing is held back.
    incidents.advance(now + 86400, CLEAN)
    incidents.advance(now + 86400 + 61, CLEAN)
    incidents.advance(now + 86400 + 62 + REMEMBERED_S, CLEAN)
    alerts += incidents.take()
    assert incidents.open == []
    assert incidents.document()["incidents"] == []
    # What began by itself is over by itself, once; nothing is over that did not begin.
    phases = Counter((a.document.get("incident"), a.document["phase"]) for a in alerts)
    assert all(count == 1 for (_, phase), count in phases.items() if phase in {"began", "over"})
    overs = {incident for incident, phase in phases if phase == "over"}
    singles = {incident for incident, phase in phases if phase in {"began", "goes-on"}}
    lasting = {a.document["incident"] for a in alerts if a.document.get("kind") in LASTING}
    assert overs <= singles
    assert singles & lasting <= overs
    assert incidents.document()["held_count"] == 0


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda j: st.lists(j) | st.dictionaries(st.text(), j),
    )
)
def test_a_state_is_refused_as_none_or_is_the_one_that_is_kept_next(value: Any) -> None:
    whole = Incidents("host", Settings()).document()
    for name in whole:
        incidents, again = Incidents("host", Settings()), Incidents("host", Settings())
        try:
            incidents.restore({**whole, name: value})
        except (ValueError, TypeError, KeyError, OverflowError):
            continue
        kept = json.dumps(incidents.document())
        again.restore(json.loads(kept))
        assert json.dumps(again.document()) == kept
