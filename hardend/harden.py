# SPDX-License-Identifier: Apache-2.0
"""Hardening a host: the plan becomes one generation, is brought about, and is proven; else all goes back.

Nothing live changes before the generation is on the disk, so that an interruption leaves the old state
or the new one; a note beside the store tells the next run of one that did not come to its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from hardend import classes, commit, rebuild, verify
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.errors import HardendError, RefusedError, StoreError
from hardend.inspection import inspect
from hardend.model import Class, Entry, FileType, Host, Protected, Role, printable
from hardend.plan import Plan
from hardend.propose import Proposal, Proposer
from hardend.rules.catalogue import judge_all
from hardend.rules.rule import Verdict

_NOTE = "harden.json"
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

    def carry_out(self, reason: str) -> Result:
        was = self._as_it_is()
        proposal = replace(was, entries=dict(was.entries), warnings=[])
        self._change(proposal)
        for warning in proposal.warnings:
            self._say(f"warning: {warning}")
        with _noted(self._host, reason):
            generation = self._commit(proposal, reason)
            if not self._host.is_tree and (why := self._unproven()):
                self._undo(was, generation, why)
        return self._result

    def _as_it_is(self) -> Proposal:
        """Return the current generation, or the whole host where nothing was approved yet."""
        store = self._proposer.store
        if not store.has_baseline():
            return self._proposer.whole_host()
        return Proposal.of(store.current())

    def _change(self, proposal: Proposal) -> None:
        """Put the plan into a proposal; what hardend does not hold is left for the administrator."""
        plan, by_hand = self._plan, self._result.by_hand
        found = self._proposer.layout
        known = {item.path: item for item in classes.protected(self._host, found, self._settings)}
        for path in plan.removed:
            if proposal.entries.pop(path, None) is None:
                by_hand.append(f"rm {printable(path)}")
        for path, data in plan.contents.items():
            cls = classes.class_of(path, found, self._settings)
            protected = known.get(path) or Protected(path, Role.SOURCE, cls)
            is_new = path not in plan.before.attributes
            if protected.cls is Class.IGNORED or not (is_new or path in known):
                by_hand.append(f"edit {printable(path)} as the diff says")
                continue
            self._proposer.put_content(proposal, protected, data, create=is_new)
        for path, target in plan.links.items():
            proposal.entries[path] = Entry(
                path, Role.LINK, Class.LOCKED, FileType.SYMLINK, 0, 0, 0o777, target=target
            )
        for path, attributes in plan.attributes.items():
            entry = proposal.entries.get(path)
            if entry is None:
                by_hand += plan.commands_for(path)
            else:
                proposal.entries[path] = replace(
                    entry, uid=attributes.uid, gid=attributes.gid, mode=attributes.mode
                )

    def _commit(self, proposal: Proposal, reason: str) -> Generation:
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
        back = replace(was, entries=dict(was.entries), warnings=[])
        self._commit(back, f"back from generation {generation.number}: {why}")
        with contextlib.suppress(HardendError):
            self._result.mta = self._load().mta


@contextlib.contextmanager
def _noted(host: Host, reason: str) -> Iterator[None]:
    """Leave a note while a plan is carried out; it stays when this process is killed."""
    path = os.path.join(host.state_dir, _NOTE)
    number = 0
    with contextlib.suppress(StoreError):
        number = Store(host).current().number
    note = {"before": number, "pid": os.getpid(), "reason": reason}
    os.makedirs(host.state_dir, 0o700, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
        json.dump(note, file)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def interrupted(host: Host) -> str:
    """Return what an earlier run that was killed left behind, one sentence, "" for nothing; forget it."""
    path = os.path.join(host.state_dir, _NOTE)
    note = _read_note(path)
    if note is None:
        return ""
    with contextlib.suppress(OSError):
        os.unlink(path)
    before, reason = note.get("before"), printable(str(note.get("reason", "")))
    now = 0
    with contextlib.suppress(StoreError):
        now = Store(host).current().number
    if now == before:
        return f"an earlier run ({reason}) was interrupted before it changed anything"
    return (
        f"an earlier run ({reason}) was interrupted after generation {now} was committed: "
        "hardend check tells whether the host is there, and the guard or hardend approve brings it there"
    )


def _read_note(path: str) -> Mapping[str, object] | None:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            note = json.loads(file.read(65536))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None
