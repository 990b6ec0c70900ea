# SPDX-License-Identifier: Apache-2.0
"""Findings: what an audit says, rule by rule, with the administrator's waivers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from hardend.rules.catalogue import Judgement
from hardend.rules.rule import Fix, Severity, Verdict
from hardend.settings import Waiver

SCHEMA = 1
# A high failure weighs as much as five low ones; advice weighs nothing.
_WEIGHTS = {Severity.HIGH: 10, Severity.MEDIUM: 5, Severity.LOW: 2, Severity.ADVICE: 0}
_FIXES = {
    Fix.AUTO: "hardend harden --yes",
    Fix.ASK: "hardend harden asks first",
    Fix.NEVER: "by hand",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of an audit; ``verdict`` of a fault is that of its rule, ``pass`` for advice."""

    rule: str
    section: str
    verdict: Verdict
    severity: Severity
    file: str
    line: int
    message: str
    fix: str
    references: tuple[str, ...]

    def document(self) -> dict[str, object]:
        """Return it as ``audit --json`` has it (design section 9)."""
        return {
            "rule": self.rule,
            "section": self.section,
            "verdict": self.verdict.value,
            "severity": self.severity.value,
            "file": self.file,
            "line": self.line,
            "message": self.message,
            "fix": self.fix,
            "references": list(self.references),
        }


@dataclass(frozen=True, slots=True)
class Result:
    """A rule's verdict after waivers, and its findings; ``note`` says why it is waived or not judged."""

    judgement: Judgement
    verdict: Verdict
    findings: tuple[Finding, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """How many rules have which verdict; ``score`` is 0 to 100, weighed by severity."""

    passed: int
    failed: int
    waived: int
    unknown: int
    not_applicable: int
    score: int

    @property
    def is_met(self) -> bool:
        """Whether the host meets the rules; what could not be judged is not met."""
        return self.failed == 0 and self.unknown == 0

    def document(self) -> dict[str, int]:
        """Return it as ``audit --json`` has it."""
        return {
            "pass": self.passed,
            "fail": self.failed,
            "waived": self.waived,
            "unknown": self.unknown,
            "not-applicable": self.not_applicable,
            "score": self.score,
        }


def results(judgements: Iterable[Judgement], waivers: Iterable[Waiver], today: date) -> list[Result]:
    """Return what each rule says, waivers that hold today applied; an expired one counts no more."""
    by_rule = {waiver.rule: waiver for waiver in waivers}
    return [_result(judgement, by_rule.get(judgement.rule.id), today) for judgement in judgements]


def _result(judgement: Judgement, waiver: Waiver | None, today: date) -> Result:
    verdict, note = judgement.verdict, judgement.reason
    if waiver is not None and verdict in {Verdict.FAIL, Verdict.UNKNOWN}:
        if waiver.holds(today):
            until = f" until {waiver.until}" if waiver.until else ""
            verdict, note = Verdict.WAIVED, f"waived{until}: {waiver.reason}"
        else:
            note = f"its waiver ended on {waiver.until}: {waiver.reason}"
    rule = judgement.rule
    found = [
        Finding(
            rule.id,
            rule.section.value,
            Verdict.PASS if fault.advice else verdict,
            Severity.ADVICE if fault.advice else rule.severity,
            fault.path,
            fault.line,
            fault.message,
            fault.remedy,
            rule.references,
        )
        for fault in judgement.faults
    ]
    if not any(finding.severity is not Severity.ADVICE for finding in found):
        text = note if verdict is Verdict.NOT_APPLICABLE else rule.title
        found.insert(
            0, Finding(rule.id, rule.section.value, verdict, rule.severity, "", 0, text, "", rule.references)
        )
    return Result(judgement, verdict, tuple(found), note)


def summarize(found: Iterable[Result]) -> Summary:
    """Count the verdicts."""
    counts = dict.fromkeys(Verdict, 0)
    gained = possible = 0
    for result in found:
        counts[result.verdict] += 1
        if result.verdict in {Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN}:
            weight = _WEIGHTS[result.judgement.rule.severity]
            possible += weight
            gained += weight if result.verdict is Verdict.PASS else 0
    return Summary(
        counts[Verdict.PASS],
        counts[Verdict.FAIL],
        counts[Verdict.WAIVED],
        counts[Verdict.UNKNOWN],
        counts[Verdict.NOT_APPLICABLE],
        100 * gained // possible if possible else 100,
    )


def way_to_fix(judgement: Judgement) -> str:
    """Return who mends it: one word or command for the administrator."""
    if not any(fault.mendable for fault in judgement.failures):
        return _FIXES[Fix.NEVER]
    return _FIXES[judgement.rule.fix]
