# SPDX-License-Identifier: Apache-2.0
"""Metrics in the Prometheus text format, version 0.0.4, for node_exporter's textfile collector.

They say the same as the status service (``status_view``). While nothing is proven, only what is known
anyway is written: an alert on a value that a dead guard once said would be a lie, and so would silence.
The journal and the spool of alerts are there without a guard. The names are stable;
etc/prometheus/hardend.rules.yml has an alert for each that calls for one.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, cast

from hardend import __version__
from hardend.alert_spool import Spool
from hardend.errors import FileError, HardendError
from hardend.events import Entry, Reader, open_journal, to_record
from hardend.journal import KINDS
from hardend.model import Host, printable
from hardend.status_view import STATES, WORST_FIRST, Outlook, View, Watched

_PATHS = 20  # series by name; the number of all is in hardend_paths
_MODE = 0o644  # node_exporter is another user

Labels = Mapping[str, str]
Sample = tuple[Labels, float]


@dataclass(frozen=True, slots=True)
class Metric:
    """A family of the text format: its samples have its name and their labels. A counter ends in _total."""

    name: str
    help: str
    samples: tuple[Sample, ...]

    @property
    def kind(self) -> str:
        """Counter or gauge, as the name says."""
        return "counter" if self.name.endswith("_total") else "gauge"

    def lines(self) -> Iterator[str]:
        """Yield the lines of the family, none when it has no sample."""
        if self.samples:
            yield f"# HELP {self.name} {self.help}"
            yield f"# TYPE {self.name} {self.kind}"
        for labels, value in self.samples:
            inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            yield f"{self.name}{f'{{{inside}}}' if inside else ''} {_number(value)}"


class _Backwards(Reader, Protocol):
    """What is used besides of systemd.journal.Reader to find what is last."""

    def flush_matches(self) -> None:
        """Admit every entry."""

    def seek_tail(self) -> None:
        """Go behind the last entry."""

    def get_previous(self) -> Entry:
        """Return the entry before, empty at the beginning."""


# What is taken from state.json as it is: key, name of the metric, help.
_COUNTERS = (
    ("restores", "restores_total", "Paths put back since the guard started."),
    ("relocks", "relocks_total", "Locks put back since the guard started."),
    ("looks", "looks_total", "Looks at a path since the guard started."),
    ("passes", "passes_total", "Looks at all paths since the guard started."),
    ("rebuilds", "rebuilds_total", "Runs of hardend-rebuild since the guard started."),
    ("journal_dropped", "journal_dropped_total", "Events that journald was too slow for."),
)
_GAUGES = (
    ("generation", "generation", "Number of the baseline that is enforced, 0 without one."),
    ("entries", "entries", "Paths in the baseline."),
    ("watches", "watches", "Inotify watches that the guard holds."),
    ("taken", "taken_objects", "Replaced objects that wait for hardend-collect."),
    ("since", "guard_start_timestamp_seconds", "When the guard started."),
    ("last_pass", "last_pass_timestamp_seconds", "When the guard looked at all paths last."),
)
_BY_CHANNEL = (
    ("events", "events_total", "Inotify events since the guard started."),
    ("overflows", "overflows_total", "Times that the kernel dropped inotify events."),
)
_LATENCIES = (
    ("last", "restore_last_seconds", "How long the last restore took."),
    ("median", "restore_median_seconds", "Median of the last thousand restores."),
    ("p99", "restore_p99_seconds", "99th percentile of the last thousand restores."),
)


def render(host: Host) -> str:
    """Return the metrics of a host as it is now, whether a guard runs or not."""
    view = Outlook(host).look()
    families = [*_always(view), *_told(host), *(_proven(view) if view.proven else ())]
    return "".join(f"{line}\n" for family in families for line in family.lines())


def write(path: str, text: str) -> None:
    """Replace ``path`` by ``text``: atomic, 0644. Raises FileError; what was there stays.

    The name in between does not end in .prom, so that node_exporter never reads half a file.
    """
    aside = f"{path}.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(descriptor, _MODE)  # last: whoever reads it reads all of it
        os.rename(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise FileError(
            f"{printable(path)}: {error.strerror}", hint="hardend metrics prints them without --output"
        ) from error


def _always(view: View) -> Iterator[Metric]:
    yield _one("build_info", "The version that wrote this.", 1, {"version": __version__})
    yield _one("up", "Whether a guard runs and its word is fresh.", view.proven)
    yield _each("guard", "What became of the guard; 1 for what is true.", "guard", Watched, view.guard)
    if view.published is not None:
        yield _one(
            "published_timestamp_seconds", "When a guard said something last.", view.published
        )
    yield _one("metrics_timestamp_seconds", "When this was written.", time.time())


def _told(host: Host) -> Iterator[Metric]:
    """Yield what the journal and the spool of alerts know; nothing where there is none, or not for us."""
    moments = _last_events(host)
    text = "When an event of a kind was told last, as far back as the journal goes."
    yield _numbers("event_timestamp_seconds", text, [({"kind": kind}, at) for kind, at in moments.items()])
    waiting = _undelivered(host)
    if waiting is not None:
        yield _one("alerts_undelivered", "Alerts that wait to be delivered.", len(waiting))
        oldest = min(waiting, default=None)
        yield _numbers("alerts_oldest_timestamp_seconds", "Since when the oldest waits.", [({}, oldest)])


def _last_events(host: Host) -> dict[str, float]:
    """Return when each kind of event was last, of all processes: the guard is only one that tells.

    Not a count: the journal forgets, and a counter that falls counts anew.
    """
    moments: dict[str, float] = {}
    with contextlib.suppress(HardendError, OSError):
        reader = cast("_Backwards", open_journal(host))
        try:
            for kind, fixed in KINDS.items():
                reader.flush_matches()
                reader.add_match(MESSAGE_ID=fixed.message_id)
                reader.add_match(_UID="0")  # anybody may send our MESSAGE_ID; journald says who did
                reader.seek_tail()
                if entry := reader.get_previous():
                    moments[kind.value] = to_record(entry).time_ns / 1e9
        finally:
            reader.close()
    return moments


def _undelivered(host: Host) -> list[float] | None:
    """Return since when each alert waits, tests aside; None where nobody may say."""
    try:
        return [moment_ns / 1e9 for moment_ns in Spool(host).waiting_since()]
    except OSError:
        return None


def _proven(view: View) -> Iterator[Metric]:
    document = view.document
    yield _each("state", "The one word for the host; 1 for what is true.", "state", STATES, view.state)
    modes = ("enforce", "observe")
    yield _each("mode", "Whether drift is put back; 1 for what is true.", "mode", modes, document.get("mode"))
    for key, name, text in (*_COUNTERS, *_GAUGES):
        yield _numbers(name, text, [({}, document.get(key))])
    for key, name, text in _BY_CHANNEL:
        inner = _mapping(document, key)
        yield _numbers(name, text, [({"channel": channel}, inner[channel]) for channel in sorted(inner)])
    latency = _mapping(document, "restore_us")
    if latency.get("count"):
        for key, name, text in _LATENCIES:
            yield _numbers(name, text, [({}, latency.get(key))], scale=1e-6)
    faults = document.get("faults")
    count = len(faults) if isinstance(faults, list) else 0
    yield _one("faults", "Faults of the store or the layout.", count)
    yield from _dates(document)
    yield from _paths(view)


def _dates(document: Mapping[str, object]) -> Iterator[Metric]:
    approved = _seconds(_mapping(document, "approved").get("time"))
    yield _numbers("approved_timestamp_seconds", "When the baseline was approved.", [({}, approved)])
    off = _mapping(document, "off")
    yield _one("enforcement_off", "Whether enforcement is paused.", bool(off))
    until = _seconds(off.get("until"))
    yield _numbers("off_until_timestamp_seconds", "When the pause ends.", [({}, until)])
    windows = document.get("windows")
    count = len(windows) if isinstance(windows, list) else 0
    yield _one("windows_open", "Maintenance windows that are open.", count)
    own = _mapping(document, "own_files")
    yield _numbers("own_files", "Files of hardend itself.", [({}, own.get("count"))])
    changed = own.get("last_change")
    text = "When a file of hardend itself changed; 0 when not since the guard started."
    yield _numbers("own_files_change_timestamp_seconds", text, [({}, changed)])


def _paths(view: View) -> Iterator[Metric]:
    drifts = view.drifts()
    counts = dict.fromkeys(WORST_FIRST, 0)
    for drift in drifts:
        if (word := str(drift.get("state"))) in counts:
            counts[word] += 1
    yield Metric(
        "hardend_paths",
        "Paths that are not clean.",
        tuple(({"state": word}, count) for word, count in counts.items()),
    )
    yield _numbers(
        "path_since_timestamp_seconds",
        f"Since when a path is not clean; the worst {_PATHS}.",
        [
            ({"path": str(drift["path"]), "state": str(drift.get("state"))}, drift.get("since"))
            for drift in drifts[:_PATHS]
        ],
    )


def _one(name: str, text: str, value: float, labels: Labels | None = None) -> Metric:
    return Metric(f"hardend_{name}", text, ((labels or {}, value),))


def _each(name: str, text: str, label: str, words: Iterable[str], true: object) -> Metric:
    """Return a family with a sample for every word, 1 for the one that is true."""
    samples = tuple(({label: str(word)}, float(word == true)) for word in words)
    return Metric(f"hardend_{name}", text, samples)


def _numbers(
    name: str, text: str, samples: Iterable[tuple[Labels, object]], scale: float = 1
) -> Metric:
    """Return a family of what of ``samples`` is a number; what the guard does not say has no sample."""
    known = [(labels, _float(value)) for labels, value in samples]
    told = tuple((labels, value * scale) for labels, value in known if value is not None)
    return Metric(f"hardend_{name}", text, told)


def _float(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _mapping(document: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = document.get(key)
    return value if isinstance(value, Mapping) else {}


def _seconds(moment: object) -> float | None:
    """Return the realtime seconds of ISO 8601 text, None for what is none."""
    try:
        return datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else None
    except (ValueError, OverflowError, OSError):
        return None


def _number(value: float) -> str:
    if math.isfinite(value):
        return str(int(value)) if value == int(value) and abs(value) < 1 << 53 else repr(value)
    return "NaN" if math.isnan(value) else f"{'+' if value > 0 else '-'}Inf"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
