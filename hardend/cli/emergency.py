# SPDX-License-Identifier: Apache-2.0
"""``hardend off``, ``on`` and ``release``: letting go, with or without a running guard."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import subprocess

from hardend import commit, config, control, pause, state
from hardend.baseline.store import Store
from hardend.cli.messages import say, say_each, warn
from hardend.cli.options import common_options
from hardend.errors import Exit, HardendError, RefusedError, StoreError
from hardend.kernel import flags as inode_flags
from hardend.model import Entry, FileType, Host, printable

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BOOTED = "/run/systemd/system"


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs."""
    common = common_options()
    off = verbs.add_parser(
        "off", parents=[common], help="release every lock and pause enforcement, for a time"
    )
    off.add_argument("--for", dest="time", required=True, type=_seconds, metavar="2h")
    off.add_argument("--reason", required=True, metavar="TEXT")
    off.set_defaults(run=_off)
    on = verbs.add_parser("on", parents=[common], help="end hardend off now: back to the baseline")
    on.set_defaults(run=_on)
    release = verbs.add_parser(
        "release", parents=[common], help="take every lock off, when hardend is to be removed"
    )
    release.set_defaults(run=_release)


def _seconds(text: str) -> int:
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if not match or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30m, 2h or 1d")
    return int(match[1]) * _UNITS[match[2]]


def _off(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    limit = config.load(host).max_off
    if args.time > limit:
        raise RefusedError(f"at most {limit // 3600}h", hint="max_off in hardend.toml")
    by = commit.caller()
    if state.guard_is_alive(host):
        request: control.Request = {
            "verb": "off",
            "seconds": args.time,
            "reason": args.reason,
            "by": by,
        }
        reply = control.ask(host, request)
        if not reply.get("ok"):
            raise RefusedError(str(reply.get("error")))
        print(f"off until {reply['until']}: {reply['released']} locks released; it ends by itself")
        return Exit.OK
    begun = pause.start(host, seconds=args.time, reason=args.reason, by=by)
    released, _ = _release_all(host)
    _schedule_end(host, args.time)
    print(f"off until {begun.until_text()}: {released} locks released (no guard is running)")
    return Exit.OK


def _schedule_end(host: Host, seconds: int) -> None:
    """Without a guard nobody else ends the pause: a timer of systemd's does."""
    if host.is_tree or not os.path.isdir(_BOOTED):
        say("no systemd here: hardend on, or a guard's start, ends it")
        return
    command = [
        "/usr/bin/systemd-run",
        "--quiet",
        "--collect",
        "--unit=hardend-on",
        f"--on-active={seconds}s",
        "--timer-property=AccuracySec=1s",
        "/usr/sbin/hardend",
        "on",
    ]
    subprocess.run(["/usr/bin/systemctl", "stop", "hardend-on.timer"], capture_output=True, check=False)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        say(f"no timer could be set: {done.stderr.strip()}")


def _on(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    if state.guard_is_alive(host):
        reply = control.ask(host, {"verb": "on", "by": commit.caller()}, timeout_s=120.0)
        failed = reply.get("failed")
        outcome = commit.Outcome(by_guard=True, failed=failed if isinstance(failed, dict) else {})
    else:
        pause.end(host)
        outcome = commit.apply(host, config.load(host), fresh=False)
    say_each(outcome.failed)
    count = len(outcome.failed)
    print(f"on: {count} paths could not be put back" if count else "on: all is held again")
    return Exit.DRIFT if outcome.failed else Exit.OK


def _release(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    if state.guard_is_alive(host):
        raise RefusedError(
            "a guard is running and would lock them again", hint="hardend off --for 2h, or stop it"
        )
    released, kept = _release_all(host)
    print(f"{released} locks released")
    return Exit.REFUSED if kept else Exit.OK


def _release_all(host: Host) -> tuple[int, int]:
    """Take ``i`` off every path that any readable generation locked; return how many had it, and keep it.

    Why one keeps it is said.
    """
    store = Store(host)
    with contextlib.suppress(StoreError, OSError), store.locked():
        pass  # a commit that died at its very end is finished: its number is known then
    locked: dict[str, Entry] = {}
    for number in store.numbers():
        try:
            entries = store.generation(number).entries
        except HardendError as error:
            warn(str(error))
            continue
        locked.update({path: entry for path, entry in entries.items() if "i" in entry.flags})
    released = kept = 0
    for path, entry in locked.items():
        if entry.kind is not FileType.FILE:
            continue
        try:
            released += _unlock(host.at(path))
        except OSError as error:
            say(f"{printable(path)}: {error.strerror}")
            kept += 1
    return released, kept


def _unlock(path: str) -> bool:
    """Take the lock off a file; False where there is none, or no such file. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link, which has no lock
            return False
        raise
    try:
        return inode_flags.hold_flags(descriptor, "")
    except OSError as error:
        if error.errno in inode_flags.UNSUPPORTED:
            return False
        raise
    finally:
        os.close(descriptor)
