# SPDX-License-Identifier: Apache-2.0
"""``hardend status``: the guard's view of the host on one screen, also when the guard is gone.

Everything comes from /run/hardend/state.json and the guard's lock, so it needs no privilege and
cannot disturb the guard. With ``--json``: state.json with one more key, ``guard``:
``running``, ``hung``, ``dead`` or ``never-started``. With ``--socket`` the same comes from the status
service, as any other client of it would see it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hardend import state as states
from hardend import window_files
from hardend.cli.options import common_options, json_option
from hardend.errors import Exit, UnreachableError
from hardend.model import printable
from hardend.state import Guard

if TYPE_CHECKING:
    from hardend.model import Host

_Told = tuple[dict[str, object], Guard, float | None]  # the document, of what guard, and when

_START = "systemctl start hardend.service"
_LABEL = 11
_PATHS_SHOWN = 15  # one screen; --json has them all

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


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "status",
        parents=[common_options()],
        help="what the guard holds and how it stands",
        description=__doc__,
        epilog="Exit status: 0 clean; 1 drifted, contested, failed, off, unprotected or window; "
        "3 no guard runs, or it hangs.",
    )
    json_option(parser, "the state")
    parser.add_argument(
        "--socket", action="store_true", help="ask the status service instead of reading the state"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    host: Host = args.host
    if args.socket:
        document, guard, published = _asked(host)
    else:
        document, guard, published = _read(host)
    if args.json:
        shown = {**(document or {"schema": 1}), "guard": guard.value}
        sys.stdout.write(json.dumps(shown, indent=2, sort_keys=True) + "\n")
    else:
        sys.stdout.write("\n".join(_screen(document, guard, published)) + "\n")
    return _exit_code(document, guard)


def _read(host: Host) -> _Told:
    document = states.read(host)
    guard = states.guard_of(host, document)
    if guard is Guard.RUNNING and not states.is_of_this_guard(host, document):
        document = {"schema": 1, "state": "starting", "pid": states.guard_pid(host)}
    if document and guard is Guard.DEAD:  # who opens and ends windows now does it without a guard
        document["windows"] = [window.as_json() for window in window_files.read_all(host)]
    return document or {}, guard, states.published_at(host)


def _asked(host: Host) -> _Told:
    """Return the same from the status service. Raises UnreachableError."""
    # Here, not above: the usual way needs no socket.
    from hardend.varlink import VarlinkError, original  # noqa: PLC0415
    from hardend.varlink_client import Connection  # noqa: PLC0415

    try:
        with Connection(host) as service:
            reply = original(service.call("io.hardend.Status.GetStatus", {"unproven": True}))
    except VarlinkError as error:
        raise UnreachableError(f"the status service answered {printable(error.name)}") from error
    known = reply if isinstance(reply, dict) else {}
    word = str(known.pop("guard", "")).replace("_", "-")
    published = known.pop("unproven_since", None)
    document = {name: value for name, value in known.items() if value is not None}
    try:
        guard = Guard.RUNNING if word == "starting" else Guard(word)
    except ValueError as error:
        raise UnreachableError("the status service does not tell how the guard is") from error
    if guard is Guard.NEVER_STARTED:
        document = {}
    return document, guard, published if isinstance(published, int | float) else None


def _exit_code(document: Mapping[str, object], guard: Guard) -> int:
    if guard is not Guard.RUNNING:
        return Exit.UNREACHABLE
    return Exit.OK if document.get("state") == "clean" else Exit.DRIFT


def _screen(document: Mapping[str, object], guard: Guard, published: float | None) -> Iterator[str]:
    """Yield the lines of the screen; parts that the state lacks are left out."""
    yield from _headline(document, guard, published)
    if not document:
        return
    yield from _off(document)
    yield from _windows(document)
    yield from _baseline(document)
    yield from _guard(document, guard)
    yield from _faults(document)
    yield from _paths(document)
    yield from _counters(document)


def _headline(document: Mapping[str, object], guard: Guard, published: float | None) -> Iterator[str]:
    word = _text(document.get("state")) or "unknown"
    if guard is Guard.RUNNING:
        mode = _text(document.get("mode"))
        yield f"{word}{f' ({mode})' if mode else ''}: {_WORDS.get(word, 'a state not known here')}"
        return
    if guard is Guard.NEVER_STARTED:
        yield f"not running: the guard has not started since boot; nothing is proven ({_START})"
        return
    since = _when(published)
    if guard is Guard.HUNG:
        yield f"hung: the guard does not answer: unproven since {since}"
        yield _line("", f"its last word was {word}; the watchdog restarts it within seconds")
    else:
        yield f"not running: unproven since {since} ({_START})"
        yield _line("", f"the guard's last word was {word}; locked files stay locked")


def _off(document: Mapping[str, object]) -> Iterator[str]:
    off = document.get("off")
    if isinstance(off, Mapping):
        who = f" by {_text(off.get('by'))}" if off.get("by") else ""
        yield _line("off", f"until {_when(off.get('until'))}{who}: {_text(off.get('reason'))}")


def _windows(document: Mapping[str, object]) -> Iterator[str]:
    windows = document.get("windows")
    for window in windows if isinstance(windows, list) else ():
        if not isinstance(window, Mapping):
            continue
        when = f"expired at {_when(window.get('until'))}" if window.get("expired") else ""
        when = when or f"open until {_when(window.get('until'))}"
        yield _line("window", f"{when}, by {_text(window.get('by'))}: {_text(window.get('reason'))}")
        changes, paths = window.get("changes"), window.get("paths")
        if isinstance(paths, list):
            changed = len(changes) if isinstance(changes, Mapping) else 0
            yield _line("", f"{len(paths)} paths let go, {changed} changed; hardend lock ends it")


def _baseline(document: Mapping[str, object]) -> Iterator[str]:
    number = document.get("generation")
    if not number:
        return
    words = [f"generation {_text(number)}"]
    approved = document.get("approved")
    if isinstance(approved, Mapping):
        words.append(f"of {_when(approved.get('time'))} by {_text(approved.get('author'))}:")
        words.append(_text(approved.get("reason")))
    yield _line("baseline", " ".join(words))
    if document.get("layout"):
        entries = f", {_text(document['entries'])} paths held" if document.get("entries") else ""
        yield _line("layout", f"{_text(document['layout'])}{entries}")


def _guard(document: Mapping[str, object], guard: Guard) -> Iterator[str]:
    words = [guard.value, f"pid {_text(document.get('pid'))}"]
    if document.get("since"):
        words.append(f"since {_when(document['since'])}")
    if document.get("scheduling"):
        words.append(f"scheduling {_text(document['scheduling'])}")
    if document.get("last_pass"):
        words.append(f"last pass {_when(document['last_pass'])}")
    yield _line("guard", ", ".join(words))


def _faults(document: Mapping[str, object]) -> Iterator[str]:
    faults = document.get("faults")
    if isinstance(faults, list):
        yield from (_line("fault", _text(fault)) for fault in faults)


def _paths(document: Mapping[str, object]) -> Iterator[str]:
    """Yield the paths that are not clean, the worst first."""
    paths = document.get("paths")
    if not isinstance(paths, Mapping) or not paths:
        return
    order = ("failed", "contested", "drifted", "restored")

    def rank(item: tuple[object, object]) -> tuple[int, str]:
        state = item[1].get("state") if isinstance(item[1], Mapping) else ""
        return (order.index(state) if state in order else len(order), str(item[0]))

    for path, held in sorted(paths.items(), key=rank)[:_PATHS_SHOWN]:
        yield _line("path", _path(str(path), held if isinstance(held, Mapping) else {}))
    if len(paths) > _PATHS_SHOWN:
        yield _line("", f"and {len(paths) - _PATHS_SHOWN} more: hardend status --json")


def _path(path: str, held: Mapping[str, object]) -> str:
    drift = held.get("drift")
    kinds = ", ".join(_text(kind) for kind in drift) if isinstance(drift, list) else ""
    words = [printable(path), _text(held.get("state"))]
    if held.get("since"):
        words.append(f"since {_when(held['since'])}")
    text = " ".join(words) + (f": {kinds}" if kinds else "")
    return text + (f" ({_text(held['reason'])})" if held.get("reason") else "")


def _counters(document: Mapping[str, object]) -> Iterator[str]:
    names = ("restores", "relocks", "taken", "passes", "rebuilds", "reloads", "watches")
    counts = [f"{_text(document[name])} {name}" for name in names if document.get(name) is not None]
    if counts:
        yield _line("counters", ", ".join(counts))
    latency = document.get("restore_us")
    if isinstance(latency, Mapping) and latency.get("count"):
        yield _line(
            "latency",
            f"median {_text(latency.get('median'))} us, p99 {_text(latency.get('p99'))} us, "
            f"last {_text(latency.get('last'))} us",
        )
    overflows = document.get("overflows")
    if isinstance(overflows, Mapping) and any(overflows.values()):
        words = ", ".join(f"{_text(n)} {printable(str(c))}" for c, n in sorted(overflows.items()))
        yield _line("overflows", words)
    if document.get("journal_dropped"):
        yield _line("journal", f"{_text(document['journal_dropped'])} events lost: journald is slow")


def _line(label: str, text: str) -> str:
    return f"{'  ' + label:<{_LABEL + 2}}{text}"


def _text(value: object) -> str:
    """Return a value of the state for the screen; reasons and names come from anybody."""
    if value is None:
        return ""
    text = str(value)
    return text if text.isprintable() else printable(text)


def _when(moment: object) -> str:
    """Return local time of a realtime stamp (seconds) or of ISO 8601 text."""
    try:
        if isinstance(moment, str):
            stamp = datetime.fromisoformat(moment)
        elif isinstance(moment, (int, float)):
            stamp = datetime.fromtimestamp(moment, UTC)
        else:
            return "an unknown time"
        return stamp.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    except (ValueError, OverflowError, OSError):
        return _text(moment)
