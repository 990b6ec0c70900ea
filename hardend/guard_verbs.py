# SPDX-License-Identifier: Apache-2.0
"""What the guard does when root asks over the control socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hardend import pause
from hardend.errors import HardendError, ProtocolError, StoreError
from hardend.guard_windows import troubles
from hardend.journal import Event
from hardend.succession import release_locks
from hardend.table import ANYTHING

if TYPE_CHECKING:
    from hardend.control import Reply, Request
    from hardend.guard import Guard

_MAX_TEXT = 1000


class Verbs:
    """The verbs of the control socket; an unknown one is answered with the known ones."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._verbs: dict[str, Callable[[Request], Reply]] = {
            "ping": lambda _: {"ok": True},
            "load": self._load,
            "pass": self._pass,
            "rebuild": self._rebuild,
            "off": self._off,
            "on": self._on,
            "map-report": self._map_report,
            "put-back": self._put_back,
            **guard.windows.verbs,
        }

    def answer(self, request: Request) -> Reply:
        """Return the reply to a request; never raises for what a client sent."""
        verb = self._verbs.get(str(request["verb"]))
        if verb is None:
            return {"ok": False, "error": f"unknown verb; known: {', '.join(sorted(self._verbs))}"}
        try:
            return verb(request)
        except HardendError as error:
            return {"ok": False, "error": str(error), "hint": error.hint}

    def _load(self, _request: Request) -> Reply:
        """Swap in the generation that was committed, and bring the host to it."""
        guard = self._guard
        before, guard.reporter.faults = guard.reporter.faults, []
        try:
            generation = guard.generation_in_force()
            is_first = guard.enforcer.generation is None
            guard.enforcer.load(generation, strict=True)
        except StoreError as error:
            guard.reporter.faults = before
            guard.reporter.store_fault(str(error))
            raise
        withheld = {"withheld": "; ".join(guard.reporter.faults)} if guard.reporter.faults else {}
        guard.vigil.accept(generation)
        enforcer = guard.enforcer
        for held in enforcer.table if is_first else ():
            held.replaces = ANYTHING
        while enforcer.pending.stage:
            enforcer.stage_next()
        guard.full_pass(thorough=True)
        enforcer.pending.rebuild = True
        return {"ok": True, "generation": generation.number, **withheld, **troubles(guard)}

    def _pass(self, _request: Request) -> Reply:
        self._guard.full_pass(thorough=True)
        return {"ok": True, **troubles(self._guard)}

    def _rebuild(self, _request: Request) -> Reply:
        """Start hardend-rebuild, once more where it runs: there is something new for it to judge."""
        self._guard.enforcer.pending.rebuild = True
        return {"ok": True}

    def _off(self, request: Request) -> Reply:
        seconds = request.get("seconds")
        if not isinstance(seconds, int | float) or not 0 < seconds <= self._guard.settings.max_off:
            raise ProtocolError(f"seconds must be 1 to {self._guard.settings.max_off}")
        why, by = (str(request.get(name, ""))[:_MAX_TEXT] for name in ("reason", "by"))
        guard = self._guard
        guard.pause = pause.start(guard.host, seconds=float(seconds), reason=why, by=by)
        guard.enforcer.paused = True
        count = release_locks(guard.enforcer.table)
        guard.journal.event(
            Event.ENFORCEMENT_PAUSED,
            f"enforcement is off until {guard.pause.until_text()}, {count} locks released: {why}",
            WHO=by,
        )
        guard.publish()
        return {"ok": True, "released": count, "until": guard.pause.until_text()}

    def _on(self, request: Request) -> Reply:
        if self._guard.pause is not None:
            self._guard.resume(f"asked by {str(request.get('by', ''))[:_MAX_TEXT]}")
            self._guard.publish()
        return {"ok": True, **troubles(self._guard)}

    def _put_back(self, _request: Request) -> Reply:
        """Return the paths that were written and put back since this was asked last."""
        pending = self._guard.enforcer.pending
        paths, pending.put_back = sorted(pending.put_back), set()
        return {"ok": True, "paths": paths}

    def _map_report(self, request: Request) -> Reply:
        path, answers = request.get("path"), request.get("answers")
        ino, ctime_ns = request.get("ino"), request.get("ctime_ns")
        if (
            not isinstance(path, str)
            or not isinstance(answers, str)
            or not isinstance(ino, int)
            or not isinstance(ctime_ns, int)
        ):
            raise ProtocolError("map-report needs path, answers, ino and ctime_ns")
        taken = self._guard.enforcer.map_report(path, ino, ctime_ns, answers=answers)
        return {"ok": True, "taken": taken}
