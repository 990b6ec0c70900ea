# SPDX-License-Identifier: Apache-2.0
"""Hardening a host: the plan becomes one generation, is brought about, and is proven; else all goes back.

Nothing live changes before the generation is on the disk, so that an interruption leaves the old state
or the new one; a note beside the store tells the next run of one that did not come to its end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from hardend import commit, interruption, planned, rebuild, verify
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.errors import HardendError, RefusedError, StoreError
from hardend.inspection import inspect
from hardend.model import Entry, Host, Mode, printable
from hardend.plan import Plan
from hardend.propose import Proposal, Proposer
from hardend.rules.catalogue import judge_all
from hardend.rules.rule import Verdict

Say = Callable[[str], None]


@dataclass(slots=True)
class Result:
    """What came of it: the generation, what the MTA did, what the outcome probe found.

    ``by_hand`` are the commands for paths that hardend does not hold; ``undone`` says why everything
    went back.
    """

    generation: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    mta: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    checks: list[verify.Check] = field(default_factory=list)
    by_hand: list[str] = field(default_factory=list)
    undone: str = ""


def require_clean(host: Host, settings: Settings) -> None:
    """Raise RefusedError where the host is not at its baseline: a plan of it would approve the drift."""
    store = Store(host)
    if not store.has_baseline():
        return
    drifts = inspect(host, store.current(), settings, None)
    if drifts:
        worst = [(printable(path), " ".join(sorted(drifts[path]))) for path in sorted(drifts)[:3]]
        shown = ", ".join(f"{path} ({words})" for path, words in worst)
        raise RefusedError(
            f"the host is not at its baseline: {shown}",
            hint="hardend check tells all; approve what is right, or let the guard put it back, then harden",
        )


def carry_out(host: Host, settings: Settings, plan: Plan, *, reason: str, say: Say) -> Result:
    """Commit a plan, bring it about, reload the MTA and prove the outcome; all goes back if that fails.

    Raises HardendError before anything changed, and RefusedError where the guard refuses it.
    """
    commit.require_root()
    return _Run(host, settings, plan, say).carry_out(reason)


class _Run:
    """One plan on its way."""

    def __init__(self, host: Host, settings: Settings, plan: Plan, say: Say) -> None:
        self._host = host
        self._settings = settings
        self._plan = plan
        self._say = say
        self._proposer = Proposer(host, settings)
        self._result = Result()
        self._made: tuple[str, ...] = ()

    def carry_out(self, reason: str) -> Result:
        was = self._as_it_is()
        proposal = replace(was, entries=dict(was.entries), warnings=[])
        by_hand = planned.put(self._host, self._settings, self._plan, proposal, self._proposer)
        self._result.by_hand += by_hand
        for warning in proposal.warnings:
            self._say(f"warning: {warning}")
        changed = [entry for path, entry in proposal.entries.items() if was.entries.get(path) != entry]
        interruption.require_room(self._host, changed)
        self._made = tuple(
            entry.path for entry in changed if not os.path.lexists(self._host.at(entry.path))
        )
        with self._noted(reason):
            generation = self._commit(proposal, reason)
            why = self._not_there(changed)
            if not why and not self._host.is_tree:
                why = self._unproven()
            if why:
                self._undo(was, generation, why)
        return self._result

    def _not_there(self, changed: list[Entry]) -> str:
        """Return what of the plan could not be brought about, "" for nothing."""
        if self._settings.mode is Mode.OBSERVE:
            return ""  # nothing was
        failed = self._result.failed
        paths = [entry.path for entry in changed if entry.path in failed]
        return "; ".join(f"{printable(path)}: {failed[path]}" for path in paths)

    @contextlib.contextmanager
    def _noted(self, reason: str) -> Iterator[None]:
        """Leave a note while a plan is carried out; it stays whatever ends this before its end.

        A refusal before anything was committed is told by its own words, and leaves none.
        """
        generation = _current(self._host)
        before = generation.number if generation else 0
        with interruption.noted(self._host, interruption.Note(before, reason, self._made)):
            try:
                yield
            except HardendError:
                generation = _current(self._host)
                if before == (generation.number if generation else 0):
                    interruption.forget(self._host)
                raise
            interruption.forget(self._host)

    def _as_it_is(self) -> Proposal:
        """Return the current generation, or the whole host where nothing was approved yet."""
        store = self._proposer.store
        if not store.has_baseline():
            return self._proposer.whole_host()
        return Proposal.after(store.current())

    def _commit(self, proposal: Proposal, reason: str) -> Generation:
        with interruption.held_off():
            generation, outcome = commit.commit_and_apply(
                self._host,
                self._settings,
                proposal,
                reason=reason,
                before_apply=partial(rebuild.note_mta, self._host, self._settings),
            )
        commit.announce(self._host, generation)
        self._result.generation = generation.number
        self._result.failed = outcome.failed
        return generation

    def _unproven(self) -> str:
        """Have the MTA load what it must and look from outside; why that is not as it was promised.

        A section of which a rule still fails promises nothing: only a mail host that no longer answers,
        or a promise that is not kept, undoes a plan.
        """
        self._say("the MTA loads what changed; then the outcome is probed")
        result = self._result
        report = self._load()
        result.mta, result.problems = report.mta, report.problems
        result.checks = verify.verify(self._host, self._proposer.layout, self._settings)
        judged = judge_all(self._plan.after)
        open_ = {item.rule.section for item in judged if item.verdict is Verdict.FAIL}
        promised = {rule.section for rule in self._plan.rules} - open_
        broken = [
            check
            for check in result.checks
            if check.verdict is Verdict.FAIL and (check.is_fatal or check.section in promised)
        ]
        return "; ".join([*result.problems, *(check.message for check in broken)])

    def _load(self) -> rebuild.Report:
        """Have the MTA load what changed, now: who asked for it is no storm of reloads."""
        at_once = replace(self._settings, reload_interval_s=1)
        return rebuild.run(self._host, at_once, say=self._say, asked=True)

    def _undo(self, was: Proposal, generation: Generation, why: str) -> None:
        """Commit the old content as a new generation, bring it about and have the MTA load it."""
        self._say(f"the outcome is not proven, everything goes back: {why}")
        self._result.undone = why
        back = replace(was, entries=dict(was.entries), warnings=[], follows=0)
        restored = self._commit(back, f"back from generation {generation.number}: {why}")
        for left in interruption.withdraw(self._host, self._made, back.entries, restored.number):
            self._say(f"not undone: {left}")
        with contextlib.suppress(HardendError):
            self._result.mta = self._load().mta


def interrupted(host: Host) -> str:
    """Return what an earlier run left that did not come to its end, one sentence, "" for nothing."""
    note = interruption.read(host)
    if note is None:
        return ""
    reason = printable(note.reason)
    generation = _current(host)
    now = generation.number if generation else 0
    if now <= note.before:
        return f"an earlier run ({reason}) was interrupted before it changed anything"
    if generation is not None and generation.entries == _entries_of(host, note.before):
        return f"an earlier run ({reason}) was undone: generation {now} is generation {note.before} again"
    return f"an earlier run ({reason}) was interrupted after generation {now} was committed"


def resume(host: Host, settings: Settings, *, say: Say) -> None:
    """Bring the host whole to the generation that an interrupted run left in force, and say so.

    What stands in the way of it is set aside. Raises HardendError where that does not do, and the next
    run tries it again.
    """
    interruption.require_no_other(host)
    said = interrupted(host)
    note = interruption.read(host)
    if note is None:
        return
    with Store(host).locked():
        generation = _current(host)  # a commit that died at its very end is brought to it by the lock
    if generation is not None and generation.number > note.before:
        with interruption.held_off():
            outcome = commit.apply(host, settings)
        left = interruption.withdraw(host, note.made, generation.entries, generation.number)
        failed = [f"{printable(path)}: {why}" for path, why in outcome.failed.items()]
        said += "; the host is there now" if not (failed or left) else ""
        for text in (*failed, *left):
            say(f"not done: {text}")
        if not host.is_tree:
            rebuild.run(host, replace(settings, reload_interval_s=1), say=say, asked=True)
            said += "; hardend verify proves the outcome"
    say(said)
    interruption.forget(host)


def _current(host: Host) -> Generation | None:
    with contextlib.suppress(StoreError):
        return Store(host).current()
    return None


def _entries_of(host: Host, number: int) -> dict[str, Entry]:
    with contextlib.suppress(StoreError):  # pruned, or none
        return dict(Store(host).generation(number).entries)
    return {}
