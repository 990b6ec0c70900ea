# SPDX-License-Identifier: Apache-2.0
"""What the files promise of the running MTA, and whether it keeps it: asked over SMTP after a reload.

A section of the guide of which every rule is met promises what the outcome probe asks of that section;
one with a rule that fails, is waived or cannot be judged promises nothing. The whole of ``hardend
verify`` runs programs as root and as an ordinary user for many seconds; the dialogue is what a stranger
sees, takes a second, and needs nothing that the sandbox of hardend-rebuild keeps from it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from hardend import ratchet, smtp_outcome, survey
from hardend.formats.cf import Cf
from hardend.layout import Layout
from hardend.model import Host
from hardend.outcome import Check
from hardend.rules.catalogue import CATALOGUE, judge_all
from hardend.rules.rule import Section, Verdict
from hardend.settings import Settings

_MOST_LISTENERS = 4
_LONGEST_S = 20.0  # of one dialogue
_ASKED = frozenset({Section.PRIVACY, Section.GREETING})  # what the dialogue tells
_MET = frozenset({Verdict.PASS, Verdict.NOT_APPLICABLE})


def broken(host: Host, layout: Layout, settings: Settings, cf: bytes) -> list[str]:
    """Return the promises that the MTA does not keep on its listeners, one sentence each.

    ``cf`` is the configuration that it was told to load. Raises HardendError where the host cannot be
    judged.
    """
    promised = _promised(host, layout, settings)
    if not promised:
        return []
    return [
        f"{check.subject}: {check.check}: {check.message}"
        for check in _asked(Cf(cf), settings)
        if check.verdict is Verdict.FAIL and check.section in promised
    ]


def _promised(host: Host, layout: Layout, settings: Settings) -> frozenset[Section]:
    rules = [rule for rule in CATALOGUE if rule.section in _ASKED]
    waived = ratchet.waived_today(settings)
    judged = judge_all(survey.survey(host, layout, settings), rules)
    open_ = {item.rule.section for item in judged if item.verdict not in _MET or item.rule.id in waived}
    return _ASKED - open_


def _asked(document: Cf, settings: Settings) -> Iterator[Check]:
    for listener in smtp_outcome.listeners(document)[:_MOST_LISTENERS]:
        yield from smtp_outcome.checks(
            listener,
            running=True,
            host_name=os.uname().nodename,  # what $j is where it has no domain
            limit_s=min(_LONGEST_S, float(settings.command_timeout_s)),
        )
