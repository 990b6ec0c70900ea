# SPDX-License-Identifier: Apache-2.0
"""What the UNIX STIGs ask of Sendmail: each is answered by a rule, or the manual says why none does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hardend.rules.catalogue import CATALOGUE
from hardend.rules.rule import Rule

MANUAL = Path(__file__).resolve().parents[2] / "man/hardend-rules.7"
# GEN0043xx to GEN0047xx of the RHEL 5, SLES 11, Solaris 10 and AIX 6.1 texts.
CHECKS = [
    f"GEN00{number}"
    for number in (
        4360, 4370, 4380, 4390, 4400, 4410, 4420, 4430, 4440, 4460, 4480, 4500, 4510, 4540, 4560, 4580,
        4600, 4620, 4640, 4660, 4680, 4700, 4710,
    )
]  # fmt: skip
UNANSWERED = {"GEN004600", "GEN004620", "GEN004700"}
# Those whose own fix or check is wrong: makes it worse, changes nothing, or comes back at every rebuild.
WRONG = {
    "GEN004360": "rebuil", "GEN004440": "long form", "GEN004540": "deletes the helpfile",
    "GEN004560": "loses the name of the host", "GEN004580": "deletes every .forward",
    "GEN004640": "telnet", "GEN004660": "confPRIVACYFLAGS", "GEN004680": "252",
    "GEN004710": "promiscuous_relay",
}  # fmt: skip


def answering(check: str) -> list[Rule]:
    return [rule for rule in CATALOGUE if f"STIG {check}" in rule.references]


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_is_answered_by_a_rule_or_the_manual_says_why_not(check: str) -> None:
    assert bool(answering(check)) == (check not in UNANSWERED)
    text = MANUAL.read_text("utf-8").partition(".Sh STANDARDS")[2]
    said = text.partition(f".It {check}\n")[2].partition(".It ")[0].replace("\\-", "-")
    assert said.strip()
    for rule in answering(check):
        assert re.search(rf"\b{rule.id}\b", said)


@pytest.mark.parametrize("check", WRONG)
def test_where_the_stigs_own_way_is_wrong_the_rule_says_why_ours_differs(check: str) -> None:
    assert any(WRONG[check] in rule.rationale for rule in answering(check))


def test_no_rule_names_a_check_that_there_is_not() -> None:
    named = {name for rule in CATALOGUE for name in re.findall(r"GEN\d+", " ".join(rule.references))}
    assert named == set(CHECKS) - UNANSWERED
