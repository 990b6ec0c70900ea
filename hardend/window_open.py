# SPDX-License-Identifier: Apache-2.0
"""Opening and extending maintenance windows: the guard does, or this process where none runs."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hardend import commit, control, pause, state, window, window_files
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.errors import RefusedError
from hardend.journal import Event, Journal
from hardend.kernel import flags as inode_flags
from hardend.model import Entry, FileType, Host
from hardend.window import Window

_BOOTED = "/run/systemd/system"
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Opened:
    """A window that is open: its id, what it lets go, how many locks that took off, and its end."""

    id: str
    paths: tuple[str, ...]
    released: int
    until: str
    by_guard: bool
    note: str = ""


def open_window(
    host: Host,
    settings: Settings,
    *,
    paths: Sequence[str],
    seconds: float,
    reason: str,
    command: str = "",
    identifier: str = "",
) -> Opened:
    """Let the paths go, or all that is locked; raises RefusedError with who holds one already."""
    commit.require_root()
    by_guard = state.guard_is_alive(host)
    is_off = not by_guard and pause.read(host) is not None
    window.require_possible(seconds, settings.max_window_s, is_off=is_off)
    asked = window.Asked(
        tuple(paths),
        seconds,
        reason,
        commit.caller(),
        _caller_uid(),
        command=command,
        id=identifier or window.new_id(),
    )
    return _by_guard(host, asked) if by_guard else _without_guard(host, settings, asked)


def _by_guard(host: Host, asked: window.Asked) -> Opened:
    reply = _ask(host, asked.as_request())
    opened = reply.get("paths")
    return Opened(
        id=str(reply.get("id")),
        paths=tuple(map(str, opened if isinstance(opened, list) else ())),
        released=int(str(reply.get("released", 0))),
        until=str(reply.get("until")),
        by_guard=True,
    )


def _without_guard(host: Host, settings: Settings, asked: window.Asked) -> Opened:
    entries = Store(host).current().entries
    with window_files.ending(host):
        made = asked.opened(host, entries, window_files.read_all(host))
        window_files.write(host, made)
    count = sum(_unlock(host, entries[path]) for path in made.paths if path in entries)
    _tell_opened(host, made, count)
    note = _schedule(host, settings, made)
    return Opened(made.id, made.paths, count, made.until_text(), by_guard=False, note=note)


def extend(host: Host, settings: Settings, item: Window, seconds: float) -> str:
    """Move the end of a window and return it. Raises RefusedError past ``max_window``."""
    commit.require_root()
    if state.guard_is_alive(host):
        reply = _ask(host, {"verb": "window-extend", "id": item.id, "seconds": seconds})
        return str(reply.get("until"))
    with window_files.ending(host):
        later = window.extended(item, seconds, settings.max_window_s)
        window_files.write(host, later)
    _schedule(host, settings, later)
    return later.until_text()


def _ask(host: Host, request: control.Request) -> Mapping[str, object]:
    reply = control.ask(host, request, timeout_s=120.0)
    if not reply.get("ok"):
        raise RefusedError(str(reply.get("error")), hint=str(reply.get("hint") or ""))
    return reply


def _caller_uid() -> int:
    """Return the uid behind commit.caller(): the one whose terminals are told."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(commit.caller()).pw_uid
    return os.getuid()


def _unlock(host: Host, entry: Entry) -> bool:
    """Take the lock off a file, as the guard would; one that is not there has none."""
    if entry.kind is not FileType.FILE or "i" not in entry.flags:
        return False
    try:
        descriptor = os.open(host.at(entry.path), _OPEN)
    except OSError:
        return False
    try:
        return inode_flags.hold_flags(descriptor, "")
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _tell_opened(host: Host, made: Window, count: int) -> None:
    journal = Journal(host)
    journal.event(
        Event.WINDOW_OPENED,
        f"{made.describe()}; {len(made.paths)} paths, {count} locks released, no guard runs",
        PATH=made.paths,
        WINDOW_ID=made.id,
        WHO=made.by,
        WHO_UID=made.uid,
    )
    journal.close()


def _schedule(host: Host, settings: Settings, made: Window) -> str:
    """Have a timer of systemd's end the window, as no guard does; return why there is none, or ""."""
    if host.is_tree or not os.path.isdir(_BOOTED):
        return "no systemd here: hardend lock, hardend window or a guard's start ends it"
    warnings = [made.remaining_s - left for left in settings.warn_s if left < made.remaining_s]
    command = [
        "/usr/bin/systemd-run",
        "--quiet",
        "--collect",
        f"--unit={_unit(made.id)}",
        *(f"--on-active={seconds:.0f}s" for seconds in (*warnings, made.remaining_s + 1)),
        "--timer-property=AccuracySec=1s",
        "/usr/sbin/hardend",
        "window",
        "--quiet",
    ]
    unschedule(host, made.id)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"no timer could be set: {done.stderr.strip()}" if done.returncode else ""


def unschedule(host: Host, identifier: str) -> None:
    """Take the timer of a window away, if there is one."""
    if not host.is_tree and os.path.isdir(_BOOTED):
        stop = ["/usr/bin/systemctl", "stop", f"{_unit(identifier)}.timer"]
        subprocess.run(stop, capture_output=True, check=False)


def _unit(identifier: str) -> str:
    return f"hardend-window-{identifier}"
