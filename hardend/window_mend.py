# SPDX-License-Identifier: Apache-2.0
"""Applying the rules again to what a command or a package changed: what they met, they meet afterwards.

Only rules that the generation in force meets: nobody is hardened by the way, and what the administrator
has not decided yet stays his to decide.
"""

from __future__ import annotations

from collections.abc import Iterable

from hardend import maps, plan, planned, ratchet, survey
from hardend.baseline.manifest import Generation
from hardend.config import Settings
from hardend.errors import RefusedError
from hardend.model import Host, printable
from hardend.plan import Truth
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
        planned.put(self._host, self._settings, made, proposal, proposer)
        return [f"{note} applied again" for note in notes]

    def _rules(self) -> Iterable[Rule]:
        waived = ratchet.waived_today(self._settings)
        for rule in CATALOGUE:
            if rule.mend is not None and rule.fix is not Fix.NEVER and rule.id not in waived:
                yield rule
