# SPDX-License-Identifier: Apache-2.0
"""``hardend events``: what happened, from the journal, as a log or as one JSON object a line.

An object has ``time`` (ISO 8601 UTC), ``time_ns``, ``event``, ``message``, ``priority`` (as in
syslog(3)), and where they apply ``path``, ``drift`` (a list), ``state``, ``generation``,
``latency_us``, ``quarantine_id``, ``rule``, ``window_id`` and ``who`` (an object: pid, exe, comm, uid,
loginuid, unit; ``candidates``, a list of such, where it was one of several).
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hardend.attribution import sentence
from hardend.cli.messages import say
from hardend.cli.options import common_options, json_option
from hardend.errors import Exit
from hardend.journal import Event
from hardend.model import printable

if TYPE_CHECKING:
    from hardend.events import Record

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_AGO = re.compile(r"(\d{1,9})([smhdw])")
_ERR = 3
# Their messages say what path and drift do not.
_TOLD = frozenset({Event.MTA_RESTARTED, Event.RULES_BROKEN})
_KIND_WIDTH = max(len(kind) for kind in Event)


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "events",
        parents=[common_options()],
        help="what happened, from the journal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    json_option(parser, "one object a line")
    parser.add_argument("--follow", "-f", action="store_true", help="wait for more, until Ctrl-C")
    parser.add_argument("--path", type=_path, default="", help="only of this path and what is below it")
    parser.add_argument(
        "--kind",
        action="append",
        default=[],
        choices=[kind.value for kind in Event],
        metavar="KIND",
        help=f"only of this kind, may be repeated: {', '.join(Event)}",
    )
    parser.add_argument(
        "--since",
        type=_moment,
        default=0.0,
        metavar="TIME",
        help='not older than TIME: 30m, 2h, 7d ago, or "2026-11-24 06:15" local time',
    )
    parser.add_argument(
        "--who",
        type=_writer,
        default=None,  # argparse would hand a text to _writer
        metavar="WHO",
        help="only by this user (name or number, also before sudo), program or unit",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    # Not at the top: no other verb needs systemd's reader.
    from hardend.events import Query, records  # noqa: PLC0415

    query = Query(path=args.path, kinds=frozenset(args.kind), since=args.since, who=args.who or "")
    show = _as_json if args.json else _as_text
    found = False
    try:
        for record in records(args.host, query, follow=args.follow):
            found = True
            sys.stdout.write(show(record) + "\n")
            if args.follow:
                sys.stdout.flush()
    except KeyboardInterrupt:
        if not args.follow:
            raise
    if not (found or args.follow or args.json):
        say("no event is in the journal that fits")
    return Exit.OK


def _as_json(record: Record) -> str:
    return json.dumps(record.as_json(), sort_keys=True)


def _as_text(record: Record) -> str:
    """Return one line: time, kind, path, drift, state, latency, who, where the replaced copy is."""
    moment = datetime.fromtimestamp(record.time_ns / 1e9, UTC).astimezone()
    stamp = moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    words = [stamp, f"{_shown(record.event):<{_KIND_WIDTH}}"]
    if record.path:
        words.append(_shown(record.path))
        words.append(f"[{_shown(' '.join(record.drift))}]" if record.drift else "")
        words.append(_shown(record.state))
        latency = record.fields.get("latency_us")
        words.append(f"after {latency} us" if isinstance(latency, int) else "")
    words.append(_who(record))
    kept = record.fields.get("quarantine_id")
    words.append(f"kept {_shown(str(kept))}" if kept else "")
    if not record.path:
        words.append(_shown(record.message))
    elif record.priority <= _ERR or record.event in _TOLD:
        words.append(f"- {_shown(record.message)}")
    return " ".join(word for word in words if word)


def _who(record: Record) -> str:
    """Return what is known of the one who did it."""
    fields = record.fields
    parts = [
        f"{label}{_shown(str(fields[name]))}"
        for name, label in (
            ("who_exe", ""),
            ("who_pid", "pid "),
            ("who_uid", "uid "),
            ("who_loginuid", "login uid "),
            ("who_unit", ""),
        )
        if name in fields
    ]
    told = f"by {', '.join(parts)}" if parts else ""
    # Not at the top: no other verb needs systemd's reader.
    from hardend.events import candidates_of  # noqa: PLC0415

    candidates = [_shown(sentence(one)) for one in candidates_of(record)]
    return f"perhaps by {', or by '.join(candidates)}" if candidates else told


def _shown(text: str) -> str:
    return text if text.isprintable() else printable(text)


def _path(text: str) -> str:
    """Return a path as events name it (argparse type); the default stays empty."""
    return os.path.abspath(text) if text else ""


def _writer(text: str) -> str:
    """Return what a Query knows a writer by: the number of a user of this host, else the text itself."""
    if not text:
        raise argparse.ArgumentTypeError("empty: give a user, a program or a unit")
    try:
        return str(pwd.getpwnam(text).pw_uid)
    except (KeyError, ValueError, UnicodeError):
        return text


def _moment(text: str) -> float:
    """Return realtime seconds for an age or a local time (argparse type)."""
    if ago := _AGO.fullmatch(text):
        return time.time() - int(ago[1]) * _UNITS_S[ago[2]]
    try:
        moment = datetime.fromisoformat(text)
        return moment.timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise argparse.ArgumentTypeError(
            f"{printable(text)}: neither an age (30m, 2h, 7d) nor a time (2026-11-24 06:15)"
        ) from error
