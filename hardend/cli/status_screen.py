# SPDX-License-Identifier: Apache-2.0
"""The screen of ``hardend status``: rows of a label and a text, laid out for the terminal there is."""

from __future__ import annotations

import os
import shutil
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Self, TextIO

from hardend.model import Drift, State, printable
from hardend.state import Guard

if TYPE_CHECKING:
    from hardend.cli.status_facts import Facts, Quarantine
    from hardend.events import Record

HEADLINE = "headline"  # the label of the row that has none and stands at the margin

_START = "systemctl start hardend.service"
_LABEL = 13
_NARROW = 60  # columns; below it texts do not stand in a column of their own
_INDENT = 4
_PATHS_SHOWN = 15  # one screen; --json has them all
_PATHS_LEAST = 3
_QUEUES_SHOWN = 4
_CONTESTED_SHOWN = 3
_MIB = 1 << 20
_ERR = 3  # syslog(3)
_WARNING = 4

_WORDS = {
    "clean": "every protected path is at the baseline",
    "drifted": "something differs from the baseline and is not put back",
    "contested": "a path keeps drifting and is put back each time",
    "failed": "something could not be put back",
    "window": "a maintenance window is open: changes to its paths are let through until it ends",
    "unprotected": "no baseline: protects nothing (hardend approve --reason TEXT makes one)",
    "off": "enforcement is paused and nothing is put back",
    "starting": "the guard has started and is looking at everything",
}


class Tone(StrEnum):
    """How a row is meant; its value is what selects the colour (ECMA-48, SGR)."""

    PLAIN = ""
    GOOD = "32"
    CARE = "33"
    BAD = "31"


_TONES = {
    "clean": Tone.GOOD,
    "starting": Tone.PLAIN,
    "failed": Tone.BAD,
    "unprotected": Tone.BAD,
    "off": Tone.BAD,
    "restored": Tone.PLAIN,
}


@dataclass(frozen=True, slots=True)
class Row:
    """A label and its text; a row without a label goes on with the one before."""

    label: str
    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Terminal:
    """Where the screen goes: columns and lines, 0 for one that has no end, and whether in colour."""

    columns: int = 0
    lines: int = 0
    colour: bool = False

    @classmethod
    def of(cls, stream: TextIO) -> Self:
        """Return what a stream is written to: a file or a pipe gets whole lines without colour."""
        if not stream.isatty():
            return cls()
        size = shutil.get_terminal_size()
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return cls(size.columns, size.lines, colour=not plain)

    def lay_out(self, rows: Iterable[Row]) -> list[str]:
        """Return the lines of rows."""
        return [line for row in rows for line in self._lines(row)]

    def _lines(self, row: Row) -> Iterator[str]:
        is_narrow = 0 < self.columns < _NARROW
        indent = " " * (_INDENT if is_narrow or row.label == HEADLINE else _LABEL)
        first = f"  {row.label} " if is_narrow else f"  {row.label}".ljust(_LABEL)
        first = "" if row.label == HEADLINE else first if row.label else indent
        lines = [first + row.text]
        if self.columns:
            lines = textwrap.wrap(
                row.text,
                max(self.columns, _INDENT * 3),
                initial_indent=first,
                subsequent_indent=indent,
                break_on_hyphens=False,
            ) or [first]
        for line in lines:
            yield f"\x1b[{row.tone}m{line}\x1b[0m" if self.colour and row.tone else line


def screen(
    document: Mapping[str, object], guard: Guard, published: float | None, facts: Facts, where: Terminal
) -> list[str]:
    """Return the lines of the screen; parts that are not known are left out."""
    above = [*_headline(document, guard, published), *_off(document), *_windows(document)]
    above += [*_baseline(document, guard, facts), *_guard(document, guard)]
    faults = document.get("faults")
    told = [_text(fault) for fault in faults] if isinstance(faults, list) else []
    told += [_text(fault) for fault in facts.faults if guard is not Guard.RUNNING]
    above += [Row("fault", fault, Tone.BAD) for fault in dict.fromkeys(told)]
    below = [*_contested(document), *_quarantine(facts.quarantine), *_queues(facts), *_mta(facts)]
    below += [*_counters(document), *_events(facts)]
    first, last = where.lay_out(above), where.lay_out(below)
    room = where.lines - 1 - len(first) - len(last) if where.lines else 0
    return [*first, *_fitting(_paths(document), room, where), *last]


def _fitting(paths: list[Row], room: int, where: Terminal) -> list[str]:
    """Return the lines of as many paths as there is room for, and how many more there are."""
    lines: list[str] = []
    for count, row in enumerate(paths):
        more = where.lay_out([row])
        is_full = room and count >= _PATHS_LEAST and len(lines) + len(more) + 1 > room
        if is_full or count >= _PATHS_SHOWN:
            left = len(paths) - count
            return [*lines, *where.lay_out([Row("", f"and {left} more: hardend status --json")])]
        lines += more
    return lines


def _headline(
    document: Mapping[str, object], guard: Guard, published: float | None
) -> Iterator[Row]:
    word = _text(document.get("state")) or "unknown"
    if guard is Guard.RUNNING:
        mode = _text(document.get("mode"))
        text = f"{word}{f' ({mode})' if mode else ''}: {_WORDS.get(word, 'a state not known here')}"
        yield Row(HEADLINE, text, _TONES.get(word, Tone.CARE))
        return
    if guard is Guard.NEVER_STARTED:
        text = f"not running: the guard has not started since boot; nothing is proven ({_START})"
        yield Row(HEADLINE, text, Tone.BAD)
        return
    since = when(published)
    if guard is Guard.HUNG:
        yield Row(HEADLINE, f"hung: the guard does not answer: unproven since {since}", Tone.BAD)
        yield Row("", f"its last word was {word}; the watchdog restarts it within seconds")
    else:
        yield Row(HEADLINE, f"not running: unproven since {since} ({_START})", Tone.BAD)
        yield Row("", f"the guard's last word was {word}; locked files stay locked")


def _off(document: Mapping[str, object]) -> Iterator[Row]:
    off = document.get("off")
    if isinstance(off, Mapping):
        who = f" by {_text(off.get('by'))}" if off.get("by") else ""
        yield Row("off", f"until {when(off.get('until'))}{who}: {_text(off.get('reason'))}", Tone.BAD)


def _windows(document: Mapping[str, object]) -> Iterator[Row]:
    windows = document.get("windows")
    for window in windows if isinstance(windows, list) else ():
        if not isinstance(window, Mapping):
            continue
        moment = f"expired at {when(window.get('until'))}" if window.get("expired") else ""
        moment = moment or f"open until {when(window.get('until'))}"
        who = _text(window.get("by"))
        yield Row("window", f"{moment}, by {who}: {_text(window.get('reason'))}", Tone.CARE)
        changes, paths = window.get("changes"), window.get("paths")
        if isinstance(paths, list):
            changed = len(changes) if isinstance(changes, Mapping) else 0
            yield Row("", f"{len(paths)} paths let go, {changed} changed; hardend lock ends it")


def _baseline(document: Mapping[str, object], guard: Guard, facts: Facts) -> Iterator[Row]:
    """Yield what is to be enforced, as the store has it where that can be read, and what is enforced."""
    held, approved = document.get("generation"), document.get("approved")
    known = facts.baseline
    number: object = held
    told: Mapping[str, object] = approved if isinstance(approved, Mapping) else {}
    if known is not None:
        number = known.number
        told = {"time": known.time, "author": known.author, "reason": known.reason}
    if not number:
        if facts.is_new and not document:
            yield Row("baseline", "none yet: hardend approve --reason TEXT makes one", Tone.CARE)
        return
    words = [f"generation {_text(number)}"]
    if told:
        age = _age(told.get("time"))
        words += [f"of {when(told.get('time'))}", f"({age})" if age else ""]
        words += [f"by {_text(told.get('author'))}:", _text(told.get("reason"))]
    yield Row("baseline", " ".join(word for word in words if word))
    if held and held != number:
        verb = "holds" if guard is Guard.RUNNING else "held"
        yield Row("", f"approved since the guard's last word: it {verb} {_text(held)}", Tone.CARE)
    if facts.signature:
        tone = Tone.BAD if "not verify" in facts.signature else Tone.PLAIN
        yield Row("", _text(facts.signature), tone)
    if document.get("layout"):
        entries = f", {_text(document['entries'])} paths held" if document.get("entries") else ""
        yield Row("layout", f"{_text(document['layout'])}{entries}")


def _guard(document: Mapping[str, object], guard: Guard) -> Iterator[Row]:
    if not document:
        return
    words = [guard.value, f"pid {_text(document.get('pid'))}"]
    if document.get("since"):
        words.append(f"since {when(document['since'])}")
    if document.get("scheduling"):
        words.append(f"scheduling {_text(document['scheduling'])}")
    if document.get("last_pass"):
        words.append(f"last pass {when(document['last_pass'])}")
    if document.get("watches"):
        words.append(f"{_text(document['watches'])} watches")
    yield Row("guard", ", ".join(words))


def _paths(document: Mapping[str, object]) -> list[Row]:
    """Return the paths that are not clean, the worst first."""
    paths = document.get("paths")
    if not isinstance(paths, Mapping):
        return []
    order = ("failed", "contested", "drifted", "restored")

    def rank(item: tuple[object, object]) -> tuple[int, str]:
        state = item[1].get("state") if isinstance(item[1], Mapping) else ""
        return (order.index(state) if state in order else len(order), str(item[0]))

    return [
        _path(str(path), held if isinstance(held, Mapping) else {})
        for path, held in sorted(paths.items(), key=rank)
    ]


def _path(path: str, held: Mapping[str, object]) -> Row:
    drift, state = held.get("drift"), _text(held.get("state"))
    kinds = ", ".join(_text(kind) for kind in drift) if isinstance(drift, list) else ""
    words = [printable(path), state]
    if held.get("since"):
        words.append(f"since {when(held['since'])}")
    text = " ".join(words) + (f": {kinds}" if kinds else "")
    text += f" ({_text(held['reason'])})" if held.get("reason") else ""
    if drift == [Drift.UNEXPECTED.value] and state == State.DRIFTED.value:
        text += "; hardend approve PATH --reason TEXT takes it in"
    return Row("path", text, _TONES.get(state, Tone.CARE))


def _contested(document: Mapping[str, object]) -> Iterator[Row]:
    paths = document.get("contested")
    if isinstance(paths, list) and paths:
        shown = ", ".join(_text(path) for path in paths[:_CONTESTED_SHOWN])
        more = f" and {len(paths) - _CONTESTED_SHOWN} more" if len(paths) > _CONTESTED_SHOWN else ""
        hint = "hardend events --kind path-contested tells who"
        yield Row("contested", f"{shown}{more} ({hint})", Tone.CARE)


def _quarantine(held: Quarantine | None) -> Iterator[Row]:
    if held is None:
        return
    waiting = f", {held.waiting} wait to be collected" if held.waiting else ""
    size = f"{held.size_bytes / _MIB:.1f} of {held.max_bytes // _MIB} MiB"
    yield Row("quarantine", f"{held.kept} kept{waiting}, {size} (hardend quarantine list)")


def _queues(facts: Facts) -> Iterator[Row]:
    for count, queue in enumerate(facts.queues[:_QUEUES_SHOWN]):
        yield Row("" if count else "queues", _text(queue))
    if len(facts.queues) > _QUEUES_SHOWN:
        yield Row("", f"and {len(facts.queues) - _QUEUES_SHOWN} more: hardend layout")


def _mta(facts: Facts) -> Iterator[Row]:
    for count, said in enumerate(facts.mta):
        yield Row("" if count else "mta", _text(said), Tone.CARE if "another" in said else Tone.PLAIN)


def _events(facts: Facts) -> Iterator[Row]:
    for count, event in enumerate(facts.events):
        moment = datetime.fromtimestamp(event.time_ns / 1e9, UTC).astimezone()
        today = moment.date() == datetime.now(UTC).astimezone().date()
        stamp = moment.strftime("%H:%M:%S" if today else "%m-%d %H:%M")
        text = f"{stamp} {_text(event.event)} {_what(event)}"
        yield Row("" if count else "events", text, _event_tone(event.priority))


def _what(event: Record) -> str:
    """Return a path and what happened to it, in a word; without a path or a word what the journal says."""
    word = event.fields.get("rule") or ", ".join(event.drift)
    return f"{printable(event.path)} ({_text(word)})" if event.path and word else _text(event.message)


def _event_tone(priority: int) -> Tone:
    if priority <= _ERR:
        return Tone.BAD
    return Tone.CARE if priority == _WARNING else Tone.PLAIN


def _counters(document: Mapping[str, object]) -> Iterator[Row]:
    names = ("restores", "relocks", "taken", "passes", "rebuilds", "reloads")
    counts = [f"{_text(document[name])} {name}" for name in names if document.get(name) is not None]
    if counts:
        yield Row("counters", ", ".join(counts))
    latency = document.get("restore_us")
    if isinstance(latency, Mapping) and latency.get("count"):
        text = (
            f"median {_text(latency.get('median'))} us, p99 {_text(latency.get('p99'))} us, "
            f"last {_text(latency.get('last'))} us"
        )
        yield Row("latency", text)
    overflows = document.get("overflows")
    if isinstance(overflows, Mapping) and any(overflows.values()):
        words = ", ".join(f"{_text(n)} {printable(str(c))}" for c, n in sorted(overflows.items()))
        yield Row("overflows", words)
    if document.get("journal_dropped"):
        lost = f"{_text(document['journal_dropped'])} events lost: journald is slow"
        yield Row("journal", lost, Tone.CARE)


def _text(value: object) -> str:
    """Return a value of the state for the screen; reasons and names come from anybody."""
    if value is None:
        return ""
    text = str(value)
    return text if text.isprintable() else printable(text)


def when(moment: object) -> str:
    """Return local time of a realtime stamp (seconds) or of ISO 8601 text."""
    stamp = _moment(moment)
    if stamp is None:
        return _text(moment) if isinstance(moment, (str, int, float)) else "an unknown time"
    return stamp.strftime("%Y-%m-%d %H:%M:%S %Z")


def _moment(moment: object) -> datetime | None:
    try:
        if isinstance(moment, str):
            return datetime.fromisoformat(moment).astimezone()
        if isinstance(moment, (int, float)):
            return datetime.fromtimestamp(moment, UTC).astimezone()
    except (ValueError, OverflowError, OSError):
        return None
    return None


def _age(moment: object) -> str:
    """Return how long ago a moment is, "" where that is not known or yet to come."""
    stamp = _moment(moment)
    passed = time.time() - stamp.timestamp() if stamp is not None else -1.0
    for unit, word in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if passed >= 2 * unit:
            return f"{passed / unit:.0f} {word} ago"
    return "just now" if passed >= 0 else ""
