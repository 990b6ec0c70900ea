# SPDX-License-Identifier: Apache-2.0
"""``hardend unlock``, ``lock`` and ``window``: maintenance windows, opened, ended, and looked after."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable

from hardend import boot, commit, config, terminal, window, window_diff, window_end, window_files, window_open
from hardend.baseline.store import Store
from hardend.cli.messages import say, say_each
from hardend.cli.options import common_options, json_option
from hardend.config import Settings
from hardend.errors import Exit, HardendError, RefusedError, UsageError
from hardend.journal import Event
from hardend.model import Host, printable
from hardend.window import Window
from hardend.window_end import Ended
from hardend.window_mend import Mender
from hardend.window_review import Review, Verdict, intact

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs."""
    common = common_options()
    unlock = verbs.add_parser(
        "unlock",
        parents=[common],
        help="let paths go for a time: changes to them are noted down and not put back",
        description="Open a maintenance window. Only the named paths are let go (a directory with what is in "
        "it, a source with its map); without PATH everything that is locked.",
        epilog="Example: hardend unlock /etc/mail/access --for 30m --reason 'new partner'",
    )
    unlock.add_argument("paths", nargs="*", metavar="PATH")
    unlock.add_argument("--for", dest="time", type=seconds, metavar="30m", help="how long at most")
    unlock.add_argument("--reason", metavar="TEXT")
    unlock.add_argument("--extend", type=seconds, metavar="30m", help="prolong the window that is open")
    json_option(unlock, "the window")
    unlock.set_defaults(run=_unlock)
    lock = verbs.add_parser(
        "lock",
        parents=[common],
        help="end a window: show what changed, and keep it or put it back",
        description="Show what changed in a window, path by path, and keep it as a new generation (if no "
        "rule gets worse and Sendmail takes it) or put it back; what is put back goes to the quarantine.",
        epilog="Exit status: 0 ended as asked; 1 something could not be put back; 4 it may not be kept, and "
        "the window stays open.",
    )
    lock.add_argument("paths", nargs="*", metavar="PATH")
    how = lock.add_mutually_exclusive_group()
    how.add_argument("--keep", action="store_true", help="keep everything, without asking")
    how.add_argument("--revert", action="store_true", help="put everything back, without asking")
    lock.add_argument("--reason", metavar="TEXT", help="that of the generation; else the window's")
    json_option(lock, "what came of it")
    lock.set_defaults(run=_lock)
    look = verbs.add_parser(
        "window",
        parents=[common],
        help="list the windows; end those that ran out, and warn the owners of those that will",
        description="List the windows that are open, end those whose time is over as on_expiry in "
        "hardend.toml says, and tell the owners of those that end soon. The guard starts this itself.",
    )
    json_option(look, "the windows")
    look.add_argument("--quiet", "-q", action="store_true", help="print problems only")
    look.set_defaults(run=_window)


def seconds(text: str) -> int:
    """Return the seconds of a time such as 30m (argparse)."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text, re.ASCII)
    if not match or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30m, 2h or 1d")
    return int(match[1]) * _UNITS[match[2]]


def _unlock(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    settings = config.load(host)
    named = [os.path.abspath(path) for path in args.paths]
    if args.extend is not None:
        item = chosen(host, named)
        if item is None:
            raise RefusedError("no window is open", hint="hardend unlock --for 30m --reason TEXT opens one")
        until = window_open.extend(host, settings, item, args.extend)
        print(json.dumps({"id": item.id, "until": until}) if args.json else f"open until {until}")
        return Exit.OK
    if not args.reason or not args.reason.strip():
        raise UsageError("--reason TEXT is missing", hint="say why; others see it while the window is open")
    opened = window_open.open_window(
        host,
        settings,
        paths=named,
        seconds=args.time or settings.default_window_s,
        reason=args.reason,
    )
    if args.json:
        document = {"id": opened.id, "until": opened.until, "paths": list(opened.paths)}
        print(json.dumps(document, indent=2))
        return Exit.OK
    for path in opened.paths:
        print(f"  {printable(path)}")
    print(f"open until {opened.until}: {len(opened.paths)} paths, {opened.released} locks released")
    print("hardend lock ends it, hardend unlock --extend 30m prolongs it")
    if not opened.by_guard:
        say("no guard is running: nothing is noted down until hardend lock looks")
    if opened.note:
        say(opened.note)
    return Exit.OK


def chosen(host: Host, paths: Iterable[str]) -> Window | None:
    """Return the window that is meant: of the paths, the caller's own, or the only one; None for none.

    Raises RefusedError where several might be meant, or a path is in none.
    """
    windows = window_files.read_all(host)
    named = list(paths)
    for path in named:
        if not any(item.holds(path) for item in windows):
            raise RefusedError(f"{printable(path)}: in no window", hint="hardend window lists them")
    if named:
        windows = [item for item in windows if any(item.holds(path) for path in named)]
    elif len(windows) > 1:
        own = [item for item in windows if item.by == commit.caller()]
        windows = own or windows
    if len(windows) > 1:
        shown = "; ".join(f"{printable(item.paths[0])}: {item.describe()}" for item in windows)
        raise RefusedError(f"several windows are open: {shown}", hint="name a path of the one you mean")
    return windows[0] if windows else None


# Ending ---------------------------------------------------------------------------------------------


def _lock(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    named = [os.path.abspath(path) for path in args.paths]
    item = chosen(host, named)
    if item is None:
        print("{}" if args.json else "no window is open: everything is held")
        return Exit.OK
    settings = config.load(host)
    closing: tuple[str, ...] = ()
    if named:
        closing = window.expand(intact(Store(host)).entries, named)[0]
        closing = tuple(path for path in closing if path in item.paths)
    review = Review(host, settings, item, closing)
    wanted = review.changed if args.keep else []
    if review.changed and not args.keep and not args.revert:
        wanted = _asked(review)
    elif not args.json:
        show(review, review.changed)
    verdict = review.judge(wanted)
    say_each(verdict.refused)
    if verdict.refused:
        raise RefusedError(
            "not all of it may be kept: nothing was done, and the window stays open",
            hint=verdict.hint
            or "correct it and lock again; without --keep each path is asked for, --revert puts all back",
        )
    ended = window_end.end(host, settings, review, verdict, reason=args.reason or item.reason)
    window_end.tell(host, ended, Event.WINDOW_CLOSED, "closed")
    if args.json:
        print(json.dumps(ended.as_json(), indent=2, sort_keys=True))
    else:
        report(ended)
    return Exit.DRIFT if ended.failed else Exit.OK


def _asked(review: Review) -> list[str]:
    """Show each path and ask what is to become of it; return what is to be kept."""
    if not sys.stdin.isatty():
        show(review, review.changed)
        raise RefusedError(
            f"{len(review.changed)} paths changed, and nobody can be asked: the window stays open",
            hint="hardend lock --keep keeps them, --revert puts them back",
        )
    kept: list[str] = []
    for number, path in enumerate(review.changed):
        show(review, [path])
        answer = ""
        while answer not in set("kraq"):
            answer = _answer(f"{printable(path)}: keep, revert, keep all, quit? [k/r/a/q] ")
        if answer == "q":
            raise RefusedError("nothing was done, and the window stays open")
        if answer == "a":
            return [*kept, *review.changed[number:]]
        if answer == "k":
            kept.append(path)
    return kept


def _answer(question: str) -> str:
    print(question, end="", flush=True)
    line = sys.stdin.readline()
    return line.strip().lower()[:1] or ("q" if not line else "?")


def show(review: Review, paths: Iterable[str]) -> None:
    """Print how paths were and are."""
    if review.broken:
        say(f"what changed cannot be judged: {review.broken}")
    live = review.live.entries if review.live is not None else {}
    for path in paths:
        before = review.current.entries.get(path)
        gone = review.is_gone(path)
        for line in window_diff.lines(path, before, live.get(path), review.store, gone=gone):
            print(line)


def report(ended: Ended) -> None:
    """Print what came of a window."""
    for path in ended.kept:
        print(f"kept: {printable(path)}")
    for note in ended.notes:
        print(note)
    for path, why in ended.reverted.items():
        print(f"put back: {printable(path)}" + (f": {why}" if why else ""))
    for path, why in ended.failed.items():
        say(f"not put back: {printable(path)}: {why}")
    if ended.generation:
        print(f"generation {ended.generation} approved; the window is closed")
    else:
        has_changed = ended.reverted or ended.failed or ended.notes
        print("the window is closed" if has_changed else "nothing had changed; the window is closed")


# The job of the guard -------------------------------------------------------------------------------


def _window(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    settings = config.load(host)
    windows = window_files.read_all(host)
    if args.json:
        print(json.dumps([item.as_json() for item in windows], indent=2, sort_keys=True))
    code = Exit.OK
    for item in windows:
        if window_files.is_orphan(host, item):
            item.until = min(item.until, boot.clock())
        if not item.is_over:
            _warn(host, settings, item)
            if not args.quiet and not args.json:
                print(f"{item.describe()}: {', '.join(map(printable, item.paths))}")
            continue
        try:
            ended = window_end.expire(host, settings, item, say=say)
        except HardendError as error:
            say(f"{item.describe()}: it could not be ended: {error}")
            code = Exit.DRIFT
            continue
        _tell_owner(item, ended)
        if not args.quiet and not args.json:
            report(ended)
    if not windows and not args.quiet and not args.json:
        print("no window is open")
    return code


def _warn(host: Host, settings: Settings, item: Window) -> None:
    for threshold_s in settings.warn_s:
        if window.is_warning_due(item, threshold_s) and window_files.tell_once(host, item.id, threshold_s):
            left = max(1, round(item.remaining_s / 60))
            terminal.tell(
                item.uid,
                f"hardend: your window ends in {left} min ({item.reason}): hardend lock ends it, "
                f"hardend unlock --extend 30m prolongs it",
            )


def _tell_owner(item: Window, ended: Ended) -> None:
    did = f"{len(ended.kept)} paths kept, {len(ended.reverted)} put back"
    did += f", {len(ended.failed)} could not be put back" if ended.failed else ""
    terminal.tell(item.uid, f"hardend: your window ({item.reason}) ran out: {did}; hardend events tells why")


# What a run in a window wants of it (hardend run) ----------------------------------------------------


def conclude(host: Host, settings: Settings, item: Window, *, keep: bool, why: str) -> Ended:
    """End the window of a command: what may stay stays, if ``keep``; else ``why`` nothing does.

    What breaks a rule that the host met is mended first, and only else put back.
    """
    review = Review(host, settings, item)
    show(review, review.changed)
    verdict = Verdict(refused=dict.fromkeys(review.changed, why))
    if keep:
        verdict = review.judge(review.changed, Mender(host, settings, review.current))
    ended = window_end.end(host, settings, review, verdict, reason=item.reason)
    window_end.tell(host, ended, Event.WINDOW_CLOSED, "closed")
    return ended
