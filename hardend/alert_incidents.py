# SPDX-License-Identifier: Apache-2.0
"""Incidents: what the journal tells event by event becomes few alerts. No clock and no file in here.

An incident is a path and a kind. It is told when it begins, again when it goes on for long, and when
it is over: the path is clean, and was for a while that grows with how often it drifted. What begins
beyond ``burst`` in a minute is told together. Everything is bounded, whatever the journal holds.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from hardend.events import Record
from hardend.journal import KINDS, Event
from hardend.model import State, printable
from hardend.settings import Priority, Settings
from hardend.status_view import View, Watched
from hardend.varlink import shown

MINUTE_S = 60.0
QUIET_S = 30.0  # clean for so long, times how often it drifted, is over
QUIET_MAX_S = 600.0
REMEMBERED_S = 3600.0  # what begins again within this is the same thing going on and off
MOST = 1000  # incidents at a time
LISTED = 20  # lines of a summary
# A guard that crashed is there again within a second, and an upgrade takes a few.
GRACE_S = {Watched.DEAD: 15.0, Watched.HUNG: 15.0, Watched.STARTING: 150.0, Watched.NEVER_STARTED: 150.0}
GUARD, KILLED, OFF, DRIFT = "guard", "guard-killed", "off", "drift"

# What lasts until something is clean again; every other event is over as it happens.
_LASTING = {
    Event.DRIFT_FOUND: (DRIFT, Priority.WARNING),
    Event.PATH_RESTORED: (DRIFT, Priority.WARNING),
    Event.LOCK_REMOVED: ("lock", Priority.WARNING),
    Event.PATH_CONTESTED: ("contested", Priority.ERR),
    Event.RESTORE_FAILED: ("failed", Priority.ERR),
    Event.ENFORCEMENT_PAUSED: (OFF, Priority.WARNING),
}
_EVENTS = frozenset(Event)
_PRIORITIES = {priority.number: priority for priority in Priority}
_NO_GUARD = {
    Watched.DEAD: "no guard runs: it stopped, or was killed, and is not there again",
    Watched.HUNG: "the guard hangs",
    Watched.STARTING: "the guard does not get further than its start",
    Watched.NEVER_STARTED: "no guard has run since the host was booted",
}


class Phase(StrEnum):
    """What an alert tells of its incident."""

    BEGAN = "began"
    GOES_ON = "goes-on"
    OVER = "over"
    SUMMARY = "summary"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing to tell; ``document`` is what goes out, safe to show."""

    id: str
    priority: Priority
    document: dict[str, object]


@dataclass(slots=True)
class Incident:
    """A path and a kind, from its first event. Times are realtime seconds; 0 is not yet."""

    path: str
    kind: str
    priority: str
    id: str
    began: float
    last: float
    message: str
    lasting: bool
    count: int = 1
    told: float = 0.0
    over: float = 0.0
    single: bool = False  # told by itself, not in a summary
    event: dict[str, Any] = field(default_factory=dict)

    @property
    def quiet_s(self) -> float:
        """How long it must be clean to be over."""
        return min(QUIET_S * self.count, QUIET_MAX_S)


@dataclass(frozen=True, slots=True)
class Sight:
    """How the host is: the guard, the paths that are not clean, and whether enforcement is off.

    What a guard said that does not run is not how the host is: then nothing is known to be clean.
    """

    guard: Watched
    known: bool = False
    dirty: frozenset[str] = frozenset()
    off: bool = False


def sight_of(view: View) -> Sight:
    """Return what matters here of the guard's last word."""
    # Restored is put right; it differs from clean by what is still being checked.
    dirty = {str(each["path"]) for each in view.drifts() if each.get("state") != State.RESTORED.value}
    return Sight(view.guard, view.proven, frozenset(dirty), bool(view.document.get("off")))


class Incidents:
    """The incidents of a host. ``saw`` and ``advance`` in any order, then ``take`` what is to be told."""

    def __init__(self, host: str, settings: Settings) -> None:
        self.settings = settings
        self._host = host
        self._known: dict[tuple[str, str], Incident] = {}
        self._ready: list[Alert] = []
        self._sent: list[float] = []
        self._held: list[tuple[int, str]] = []  # priority and line, the worst LISTED
        self._held_count = 0
        self._held_since = 0.0
        self._guard_runs: bool | None = None  # by what the journal says; None before it said anything
        self._no_guard_since = 0.0

    @property
    def open(self) -> list[Incident]:
        """The incidents that are not over, the worst first."""
        going_on = [each for each in self._known.values() if not each.over]
        return sorted(going_on, key=lambda each: (Priority(each.priority).number, each.began))

    def saw(self, record: Record, now: float) -> None:
        """Take note of an event."""
        event = record.event
        if event not in _EVENTS or (event == Event.DRIFT_FOUND and record.fields.get("window_id")):
            return  # what changes in a window is what it is for
        kind, priority = _LASTING.get(Event(event), (event, _priority_of(Event(event))))
        lasting = Event(event) in _LASTING
        message = record.message
        if event == Event.GUARD_STARTED:
            if self._guard_runs:
                kind, priority = KILLED, Priority.CRIT
                message = "the guard began again without having stopped: it crashed or was killed"
            self._guard_runs = True
        elif event == Event.GUARD_STOPPED:
            self._guard_runs = False
        document = shown(record.as_json())
        self._happened(
            Incident(
                path=printable(record.path),
                kind=kind,
                priority=priority.value,
                id=_id(record.path, kind, str(record.time_ns)),
                began=record.time_ns / 1e9,
                last=now,
                message=printable(message),
                lasting=lasting,
                event=document if isinstance(document, dict) else {},
            ),
            now,
        )

    def advance(self, now: float, sight: Sight) -> None:
        """Take note of how the host is and of the time."""
        self._look_at_guard(now, sight)
        for key, incident in list(self._known.items()):
            if incident.over:
                if not 0 <= now - incident.over < REMEMBERED_S:
                    del self._known[key]
            elif not _is_clean(incident, sight):
                if now - incident.told >= self.settings.alert_repeat_s:
                    self._tell(incident, Phase.GOES_ON, now)
            elif incident.kind == GUARD or now - incident.last >= incident.quiet_s:
                incident.over = now
                if incident.lasting or incident.count > 1:
                    self._tell(incident, Phase.OVER, now)
        if self._held_count and not 0 <= now - self._held_since < MINUTE_S:
            self._summarize(now)

    def take(self) -> list[Alert]:
        """Return what is to be told, once."""
        ready, self._ready = self._ready, []
        return ready

    def document(self) -> dict[str, object]:
        """Return everything that must survive, for ``restore``; what ``take`` has not given does not."""
        return {
            "incidents": [asdict(each) for each in self._known.values()],
            "sent": self._sent,
            "held": self._held,
            "held_count": self._held_count,
            "held_since": self._held_since,
            "guard_runs": self._guard_runs,
            "no_guard_since": self._no_guard_since,
        }

    def restore(self, document: dict[str, Any]) -> None:
        """Go on from a ``document``. Raises ValueError, TypeError or KeyError for what is none."""
        names = {each.name for each in fields(Incident)}
        for raw in list(document["incidents"])[:MOST]:
            incident = Incident(**{name: value for name, value in dict(raw).items() if name in names})
            Priority(incident.priority)
            self._known[incident.path, incident.kind] = incident
        self._sent = [float(moment) for moment in document["sent"]]
        self._held = [(int(number), str(line)) for number, line in document["held"]]
        self._held_count = int(document["held_count"])
        self._held_since = float(document["held_since"])
        self._guard_runs = None if document["guard_runs"] is None else bool(document["guard_runs"])
        self._no_guard_since = float(document["no_guard_since"])

    def _happened(self, new: Incident, now: float) -> None:
        """Begin an incident, or count one more of one that is open or was a while ago."""
        if Priority(new.priority).number > self.settings.alert_min_priority.number:
            return
        known = self._known.get((new.path, new.kind))
        if known and not known.over:
            known.count, known.last, known.message, known.event = known.count + 1, now, new.message, new.event
            return
        if known:
            new.count = known.count + 1
        elif new.priority != Priority.CRIT and len(self._known) >= MOST and not self._forget_one():
            self._hold(new, f"{new.path}: {new.message}", now)
            return
        self._known[new.path, new.kind] = new
        self._tell(new, Phase.BEGAN, now)

    def _forget_one(self) -> bool:
        """Forget an incident that is over; whether there was one."""
        over = next((key for key, each in self._known.items() if each.over), None)
        if over is not None:
            del self._known[over]
        return over is not None

    def _look_at_guard(self, now: float, sight: Sight) -> None:
        if self._guard_runs is None:
            self._guard_runs = sight.guard is Watched.RUNNING
        if sight.guard is Watched.RUNNING:
            self._no_guard_since = 0.0
            return
        since = self._no_guard_since = min(self._no_guard_since or now, now)
        known = self._known.get(("", GUARD))
        if now - since >= GRACE_S[sight.guard] and not (known and not known.over):
            message = _NO_GUARD[sight.guard]
            identifier = _id("", GUARD, str(since))
            crit = Priority.CRIT.value
            self._happened(Incident("", GUARD, crit, identifier, since, now, message, lasting=True), now)

    def _tell(self, incident: Incident, phase: Phase, now: float) -> None:
        """Make an alert, or hold it back for the summary."""
        incident.told = now
        subject = _subject(incident, phase)
        self._sent = [moment for moment in self._sent if 0 <= now - moment < MINUTE_S]
        # Who was called for it, a pager say, has to hear by itself that it is over.
        is_due = phase is Phase.OVER and incident.single
        if not is_due:
            is_free = phase is not Phase.OVER and len(self._sent) < self.settings.alert_burst
            if not is_free and incident.priority != Priority.CRIT:
                self._hold(incident, subject, now)
                return
            self._sent.append(now)
            incident.single = True
        about: dict[str, object] = {
            "subject": subject,
            "incident": incident.id,
            "kind": incident.kind,
            "path": incident.path,
            "message": incident.message,
            "count": incident.count,
            "since": _iso(incident.began),
            "event": incident.event,
        }
        identifier = f"{incident.id}-{phase.value}" + (f"-{int(now)}" if phase is Phase.GOES_ON else "")
        priority = Priority(incident.priority)
        self._ready.append(make(self._host, identifier, phase, priority, now, **about))

    def _hold(self, incident: Incident, line: str, now: float) -> None:
        self._held_since = self._held_since if self._held_count else now
        self._held_count += 1
        number = Priority(incident.priority).number
        if len(self._held) < LISTED or number < self._held[-1][0]:
            self._held = sorted([*self._held, (number, line)], key=lambda each: each[0])[:LISTED]

    def _summarize(self, now: float) -> None:
        about: dict[str, object] = {
            "subject": f"{self._held_count} more alerts within a minute",
            "kind": Phase.SUMMARY.value,
            "count": self._held_count,
            "lines": [line for _, line in self._held],
            "since": _iso(self._held_since),
        }
        identifier = _id("", Phase.SUMMARY.value, str(self._held_since))
        priority = _PRIORITIES[self._held[0][0]]
        self._ready.append(make(self._host, identifier, Phase.SUMMARY, priority, now, **about))
        self._held, self._held_count = [], 0


def make(
    host: str, identifier: str, phase: Phase, priority: Priority, now: float, /, **about: object
) -> Alert:
    """Return an alert with what every alert has."""
    document: dict[str, object] = {
        "schema": 1,
        "id": identifier,
        "host": printable(host),
        "time": _iso(now),
        "phase": phase.value,
        "priority": priority.value,
        **about,
    }
    return Alert(identifier, priority, document)


def _priority_of(event: Event) -> Priority:
    return _PRIORITIES[KINDS[event].priority]


def _is_clean(incident: Incident, sight: Sight) -> bool:
    if not incident.lasting:
        return True
    if incident.kind == GUARD:
        return sight.guard is Watched.RUNNING
    if not sight.known:
        return False
    return not sight.off if incident.kind == OFF else incident.path not in sight.dirty


def _subject(incident: Incident, phase: Phase) -> str:
    what = incident.message
    if phase is Phase.BEGAN:
        return what
    times = f", {incident.count} times" if incident.count > 1 else ""
    if phase is Phase.OVER and not incident.lasting:
        return f"{what} ({incident.count} times)"
    about = f"{incident.path}: {incident.kind}" if incident.path else incident.kind
    return f"{about}: {'over' if phase is Phase.OVER else 'goes on'}{times}; it was: {what}"


def _id(*parts: str) -> str:
    """Return the same id for the same thing, so that what is read twice is told once."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
