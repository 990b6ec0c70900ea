# SPDX-License-Identifier: Apache-2.0
"""``hardend status``: the guard's view of the host on one screen, also when the guard is gone.

How the guard stands comes from /run/hardend/state.json and its lock, so it needs no privilege and
cannot disturb the guard. The rest of the screen (signature, quarantine, last events, queues, MTA) is
what the user may read of it; root sees all. With ``--json``: state.json with one more key, ``guard``:
``running``, ``hung``, ``dead`` or ``never-started``. With ``--socket`` how the guard stands comes from
the status service, as any other client of it would see it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Mapping
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

_EVERY_S = 2.0
_SHORTEST_S = 0.2
_LONGEST_S = 86400
# ECMA-48: the cursor to the first line; erase what is left of the line, of the screen.
_HOME, _REST_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"


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
    shown = parser.add_mutually_exclusive_group()
    json_option(shown, "the state")
    shown.add_argument(
        "--watch",
        nargs="?",
        type=_period,
        const=_EVERY_S,
        default=0.0,
        metavar="SECONDS",
        help=f"show it again every SECONDS ({_EVERY_S:g}) until Ctrl-C",
    )
    parser.add_argument(
        "--socket", action="store_true", help="ask the status service instead of reading the state"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.json:
        document, guard, _published = _told(args)
        shown = {**(document or {"schema": 1}), "guard": guard.value}
        sys.stdout.write(json.dumps(shown, indent=2, sort_keys=True) + "\n")
        return _exit_code(document, guard)
    if args.watch:
        return _watch(args)
    lines, code = _screen(args)
    sys.stdout.write("\n".join(lines) + "\n")
    return code


def _told(args: argparse.Namespace) -> _Told:
    return _asked(args.host) if args.socket else _read(args.host)


def _screen(args: argparse.Namespace) -> tuple[list[str], int]:
    """Return the lines of the screen as it is now, and the exit code."""
    # Here, not above: --json, which programs ask for often, needs none of it.
    from hardend.cli import status_facts, status_screen  # noqa: PLC0415

    document, guard, published = _told(args)
    facts = status_facts.Facts() if args.socket else status_facts.gather(args.host, document)
    where = status_screen.Terminal.of(sys.stdout)
    return status_screen.screen(document, guard, published, facts, where), _exit_code(document, guard)


def _watch(args: argparse.Namespace) -> int:
    """Show the screen again and again until Ctrl-C; returns the exit code of the last one."""
    is_terminal = sys.stdout.isatty()
    code = int(Exit.OK)
    try:
        while True:
            lines, code = _screen(args)
            if is_terminal:  # drawn over, not cleared first: no flicker
                lines = lines[: max(1, shutil.get_terminal_size().lines - 1)]
                sys.stdout.write(_HOME + "".join(f"{line}{_REST_OF_LINE}\n" for line in lines) + _REST)
            else:
                sys.stdout.write("\n".join(lines) + "\n\n")
            sys.stdout.flush()
            time.sleep(args.watch)
    except KeyboardInterrupt:
        return code


def _period(text: str) -> float:
    """Return a number of seconds (argparse type)."""
    with contextlib.suppress(ValueError):
        if _SHORTEST_S <= (seconds := float(text)) <= _LONGEST_S:
            return seconds
    raise argparse.ArgumentTypeError(
        f"{printable(text)}: not a number of seconds from {_SHORTEST_S} to {_LONGEST_S}"
    )


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
