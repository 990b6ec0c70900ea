# SPDX-License-Identifier: Apache-2.0
"""Applying the rules again to what a command or a package changed: what they met, they meet afterwards.

Only rules that the generation in force meets: nobody is hardened by the way, and what the administrator
has not decided yet stays his to decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from hardend import classes, maps, plan, ratchet, survey
from hardend.baseline.manifest import Generation
from hardend.config import Settings
from hardend.errors import RefusedError
from hardend.model import Class, Entry, FileType, Host, Role, printable
from hardend.plan import Plan, Truth
from hardend.propose import Proposal, Proposer
from hardend.rules.catalogue import CATALOGUE, judge
from hardend.rules.documents import Documents
from hardend.rules.rule import Fix, Rule, Verdict


class Mender:
    """Mends proposals that go on from one generation (``window_review.Mend``)."""

    def __init__(self, host: Host, settings: Settings, current: Generation) -> None:
        self._host = host
        self._settings = settings
        self._current = current
        self._live: Documents | None = None

    def __call__(self, proposal: Proposal, proposer: Proposer) -> list[str]:
        """Apply the rules that the proposal breaks; return what was done and why. Raises HardendError."""
        if self._live is None:
            self._live = survey.survey(self._host, proposer.layout, self._settings)
        before = ratchet.overlay(self._live, self._current.entries, proposer.store)
        after = ratchet.overlay(self._live, proposal.entries, proposer.store)
        notes: list[str] = []
        broken: list[Rule] = []
        for rule in self._rules():
            failures = judge(after, rule).failures
            if failures and judge(before, rule).verdict is Verdict.PASS:
                broken.append(rule)
                notes += [f"{fault.place}: {fault.message}: {rule.id}" for fault in failures]
        if not broken:
            return []
        tools = maps.tools_for(self._host, proposer.layout, self._settings)
        decided, differing = plan.with_truth(after, self._host, tools, Truth.CF)
        if differing:  # a .cf that is mended, and not what its .mc makes, would not outlive the next make
            known = plan.with_truth(before, self._host, tools, Truth.CF)[1]
            for cf in differing.keys() - known.keys():
                of_it = [note for note in notes if note.startswith(f"{printable(cf)}:")] or notes
                raise RefusedError(f"{'; '.join(of_it)}; {printable(cf)} is not what its .mc makes any more")
        made = plan.make(after, decided, broken, self._host, tools)
        self._put(made, proposal, proposer)
        return [f"{note} applied again" for note in notes]

    def _rules(self) -> Iterable[Rule]:
        today = datetime.now(UTC).date()
        waived = {waiver.rule for waiver in self._settings.waivers if waiver.holds(today)}
        for rule in CATALOGUE:
            if rule.mend is not None and rule.fix is not Fix.NEVER and rule.id not in waived:
                yield rule

    def _put(self, made: Plan, proposal: Proposal, proposer: Proposer) -> None:
        """Put a plan into a proposal, as far as it is about what is held; the rest nobody changed."""
        known = {item.path: item for item in classes.protected(self._host, proposer.layout, self._settings)}
        for path in made.removed:
            proposal.entries.pop(path, None)
        for path, data in made.contents.items():
            protected = known.get(path)
            if protected is not None and protected.cls is not Class.IGNORED:
                proposer.put_content(proposal, protected, data, create=path not in proposal.entries)
        for path, target in made.links.items():
            proposal.entries[path] = Entry(
                path, Role.LINK, Class.LOCKED, FileType.SYMLINK, 0, 0, 0o777, target=target
            )
        for path, new in made.attributes.items():
            if (entry := proposal.entries.get(path)) is not None:
                proposal.entries[path] = replace(entry, uid=new.uid, gid=new.gid, mode=new.mode)
