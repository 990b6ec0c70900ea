# SPDX-License-Identifier: Apache-2.0
"""Maintenance windows as the guard keeps them: opened and closed when root asks, ended by a job.

Judging what changed (rules, Sendmail's check, maps) is too slow for the guard: hardend-window does it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from hardend import boot, window, window_files
from hardend.errors import FileError, ProtocolError, RefusedError
from hardend.journal import Event, notify
from hardend.model import Mode, Role, State, printable
from hardend.released import let_go, take_back
from hardend.window import Asked, Window

if TYPE_CHECKING:
    from hardend.control import Reply, Request
    from hardend.guard import Guard

_JOB = "window"
_ATTEMPTS = 2  # of the job; then the guard itself puts everything back


def troubles(guard: Guard) -> Reply:
    """Return what could not be put back, as every verb that makes a pass replies."""
    return {
        "failed": {
            printable(held.entry.path): held.reason
            for held in guard.enforcer.table
            if held.state is State.FAILED
        }
    }


class GuardWindows:
    """The windows of a guard; ``turn`` is called every few seconds."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        guard.enforcer.released.tells = True
        self._seen = window_files.identifiers(guard.host)
        self._warned: set[tuple[str, int]] = set()
        self.verbs: dict[str, Callable[[Request], Reply]] = {
            "window-open": self._open,
            "window-extend": self._extend,
            "window-close": self._close,
        }

    def describe(self) -> list[str]:
        """Return a sentence for each window."""
        return [item.describe() for item in self._guard.enforcer.released.windows.values()]

    def turn(self) -> None:
        """Take up what the command line did meanwhile, write changes down, start the job when it is due."""
        guard, released = self._guard, self._guard.enforcer.released
        on_disk = window_files.identifiers(guard.host)
        if on_disk != self._seen:
            released.read()
            self._seen = on_disk
            self._apply()
        for item in released.windows.values():
            if not item.is_over and window_files.is_orphan(guard.host, item):
                item.until = boot.clock()
                released.dirty.add(item.id)
        self._write_dirty()
        if released.windows and not guard.jobs.is_running(_JOB):
            self._start_job()

    def _start_job(self) -> None:
        """Start the job for windows that ran out and owners to be told; give up on what it cannot end."""
        guard = self._guard
        windows = list(guard.enforcer.released.windows.values())
        over = [item for item in windows if item.is_over]
        hopeless = [item for item in over if item.attempts >= _ATTEMPTS]
        for item in hopeless:
            self._give_up(item)
        due = [item for item in over if item not in hopeless]
        warnings = {
            (item.id, threshold_s)
            for item in windows
            for threshold_s in guard.settings.warn_s
            if window.is_warning_due(item, threshold_s)
        } - self._warned
        if (due or warnings) and guard.jobs.start(_JOB):
            self._warned |= warnings
            for item in due:
                item.attempts += 1
                guard.enforcer.released.dirty.add(item.id)
            self._write_dirty()
            guard.reporter.changed = True

    def _write_dirty(self) -> None:
        released = self._guard.enforcer.released
        for identifier in list(released.dirty):
            item = released.windows.get(identifier)
            try:
                if item is not None:
                    window_files.write(self._guard.host, item)
            except OSError:
                return  # a full /run: tried again at the next turn
            released.dirty.discard(identifier)

    # What root asks for ---------------------------------------------------------------------------

    def _open(self, request: Request) -> Reply:
        """Let paths go, and tell until when."""
        guard = self._guard
        generation = guard.enforcer.generation
        asked = _asked(request)
        window.require_possible(asked.seconds, guard.settings.max_window_s, is_off=guard.pause is not None)
        if generation is None:
            raise RefusedError("no baseline: nothing is held", hint="hardend approve --reason TEXT")
        try:
            made = asked.opened(guard.host, generation.entries, guard.enforcer.released.windows.values())
            window_files.write(guard.host, made)
        except OSError as error:
            raise FileError(f"the window cannot be written down: {error.strerror}") from error
        guard.enforcer.released.windows[made.id] = made
        self._seen = window_files.identifiers(guard.host)
        count = self._apply()
        guard.journal.event(
            Event.WINDOW_OPENED,
            f"{made.describe()}; {len(made.paths)} paths, {count} locks released",
            PATH=made.paths,
            GENERATION=generation.number,
            WINDOW_ID=made.id,
            WHO=made.by,
            WHO_UID=made.uid,
        )
        guard.publish()
        told = {"id": made.id, "released": count, "paths": list(made.paths), "until": made.until_text()}
        return {"ok": True, **told}

    def _extend(self, request: Request) -> Reply:
        """Move the end of a window."""
        guard = self._guard
        item = self._asked(request)
        most = guard.settings.max_window_s
        seconds = _seconds(request)
        window.require_possible(seconds, most, is_off=False)
        later = window.extended(item, seconds, most)
        window_files.write(guard.host, later)
        guard.enforcer.released.windows[item.id] = later
        self._warned = {told for told in self._warned if told[0] != item.id}
        guard.publish()
        return {"ok": True, "until": later.until_text()}

    def _close(self, request: Request) -> Reply:
        """Hold the paths of a window again, or some of them; what differs from the baseline is put back."""
        guard = self._guard
        item = self._asked(request)
        self._end(item, window.without(item, _paths(request) or item.paths), _paths(request, "wrong"))
        return {"ok": True, **troubles(guard)}

    def _asked(self, request: Request) -> Window:
        item = self._guard.enforcer.released.windows.get(str(request.get("id")))
        if item is None:
            raise RefusedError("there is no such window any more", hint="hardend window lists them")
        return item

    # Ending ---------------------------------------------------------------------------------------

    def _give_up(self, item: Window) -> None:
        """End a window that the job did not end: everything is put back, now."""
        changed = sorted(item.changes)
        table = self._guard.enforcer.table.by_path
        maps = [path for path in changed if path in table and table[path].entry.role is Role.MAP]
        self._end(item, None, maps)
        failed = self._not_put_back(changed)
        self._guard.journal.event(
            Event.WINDOW_EXPIRED,
            f"{item.describe()}; it could not be judged what changed, everything was put back"
            + (f" but {'; '.join(failed)}" if failed else ""),
            PATH=changed,
            WINDOW_ID=item.id,
            WHO=item.by,
            WHO_UID=item.uid,
        )

    def _not_put_back(self, paths: Iterable[str]) -> list[str]:
        table = self._guard.enforcer.table.by_path
        failed = (path for path in paths if path in table and table[path].state is State.FAILED)
        return [f"{printable(path)}: {table[path].reason}" for path in failed]

    def _end(self, item: Window, left: Window | None, wrong: list[str]) -> None:
        guard, released = self._guard, self._guard.enforcer.released
        if left is not None:
            released.windows[item.id] = left
            window_files.write(guard.host, left)
        else:
            del released.windows[item.id]
            released.dirty.discard(item.id)
            window_files.remove(guard.host, item.id)
        self._seen = window_files.identifiers(guard.host)
        self._apply(wrong)
        guard.full_pass(thorough=True)
        guard.enforcer.pending.rebuild = True
        guard.publish()

    def _apply(self, wrong: list[str] | None = None) -> int:
        """Bring the table to the windows there are; return how many locks were taken off."""
        enforcer = self._guard.enforcer
        before = {held.entry.path: held.window for held in enforcer.table}
        for held in enforcer.table:
            if held.window:
                enforcer.look(held)  # the lock goes to the inode that is there now
        enforcer.released.mark(enforcer.table)
        ended = [held for held in enforcer.table if before[held.entry.path] and not held.window]
        opened = [held for held in enforcer.table if held.window and not before[held.entry.path]]
        if not enforcer.paused and enforcer.mode is Mode.ENFORCE:
            take_back(ended, wrong or ())
        self._guard.reporter.changed = True
        count = let_go(opened)
        notify("STATUS=" + self._guard.status_line())
        return count


def _asked(request: Request) -> Asked:
    identifier, uid = request.get("id") or window.new_id(), request.get("uid")
    if not window.is_id(identifier) or not isinstance(uid, int):
        raise ProtocolError("window-open needs paths, seconds, reason, by and uid")
    reason, by, command = (str(request.get(name, "")) for name in ("reason", "by", "command"))
    paths, seconds = tuple(_paths(request)), _seconds(request)
    return Asked(paths, seconds, reason, by, uid, command=command, id=str(identifier))


def _seconds(request: Request) -> float:
    """Return how long a window is to last; 0, which is refused, for what is no number."""
    seconds = request.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) and not isinstance(seconds, bool) else 0.0


def _paths(request: Request, name: str = "paths") -> list[str]:
    paths = request.get(name, [])
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise ProtocolError(f"{name} must be a list of paths")
    return [os.path.normpath(path) for path in paths]
