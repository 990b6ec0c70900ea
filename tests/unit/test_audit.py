# SPDX-License-Identifier: Apache-2.0
"""``hardend audit`` and ``hardend explain``: what they print, count and exit with; waivers."""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from hardend import findings
from hardend.cli.main import main
from hardend.errors import Exit
from hardend.rules.catalogue import CATALOGUE, judge, judge_all
from hardend.rules.rule import Severity, Verdict
from hardend.settings import Waiver
from tests.unit.rulehost import documents_of
from tests.unit.test_survey import tree

if TYPE_CHECKING:
    from pathlib import Path

TODAY = date(2026, 11, 24)
OPEN_CF = {"/etc/mail/sendmail.cf": "V10/Berkeley\nO PrivacyOptions=public\n"}


def audited(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["audit", "--root", str(root), "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


def test_the_document_has_the_agreed_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path)
    code, document = audited(capsys, tmp_path)
    assert code == Exit.DRIFT
    assert list(document) == ["schema", "host", "layout", "summary", "findings"]
    assert set(document["summary"]) >= {"pass", "fail", "waived", "unknown", "score"}
    keys = ["rule", "section", "verdict", "severity", "file", "line", "message", "fix", "references"]
    assert all(list(finding) == keys for finding in document["findings"])
    assert {finding["rule"] for finding in document["findings"]} == {rule.id for rule in CATALOGUE}


def test_one_rule_alone_can_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path)
    code, document = audited(capsys, tmp_path, "--rule", "privacy-flags")
    assert code == Exit.OK
    assert [finding["rule"] for finding in document["findings"]] == ["privacy-flags"]
    code, document = audited(capsys, tmp_path, "--rule", "queue-viewing", "--rule", "privacy-flags")
    assert code == Exit.DRIFT
    assert document["summary"]["fail"] == 1


def test_a_rule_that_is_not_known_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--rule", "privacy-flag"]) == Exit.USAGE
    assert "did you mean privacy-flags?" in capsys.readouterr().err


def test_what_is_printed_names_file_line_reason_and_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree(tmp_path)
    assert main(["audit", "--root", str(tmp_path)]) == Exit.DRIFT
    printed = capsys.readouterr().out
    assert "5. viewing the queue: " in printed
    assert "/etc/mail/sendmail.cf:3: PrivacyOptions lacks restrictmailq: " in printed
    assert "-> add restrictmailq to PrivacyOptions in /etc/mail/sendmail.cf:3" in printed
    assert "score " in printed
    assert max(map(len, printed.splitlines())) <= 120


def test_a_waiver_holds_until_its_day_and_counts_as_a_finding_after_it() -> None:
    documents = documents_of(OPEN_CF)
    judged = [item for item in judge_all(documents) if item.rule.id == "privacy-flags"]
    held = findings.results(judged, [Waiver("privacy-flags", "a lab", TODAY)], TODAY)
    assert held[0].verdict is Verdict.WAIVED
    assert held[0].note == "waived until 2026-11-24: a lab"
    over = findings.results(judged, [Waiver("privacy-flags", "a lab", date(2026, 11, 23))], TODAY)
    assert over[0].verdict is Verdict.FAIL
    assert "ended on 2026-11-23" in over[0].note
    assert findings.summarize(held).is_met
    assert not findings.summarize(over).is_met


def test_a_waiver_of_a_rule_that_passes_changes_nothing() -> None:
    documents = documents_of({"/etc/mail/sendmail.cf": "V10/Berkeley\nO PrivacyOptions=goaway\n"})
    judged = [item for item in judge_all(documents) if item.rule.id == "privacy-flags"]
    assert findings.results(judged, [Waiver("privacy-flags", "x")], TODAY)[0].verdict is Verdict.PASS


def test_waivers_are_read_from_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path)
    (tmp_path / "etc/hardend").mkdir()
    (tmp_path / "etc/hardend/hardend.toml").write_text(
        '[[waivers]]\nrule = "queue-viewing"\nreason = "seen"\n'
        '[[waivers]]\nrule = "no-such"\nreason = "x"\n'
    )
    assert main(["audit", "--root", str(tmp_path), "--rule", "queue-viewing"]) == Exit.OK
    shown = capsys.readouterr()
    assert "waived   queue-viewing" in shown.out
    assert "waived: seen" in shown.out
    assert "no-such: no such rule" in shown.err


@pytest.mark.parametrize(("until", "is_planned"), [("", False), ("until = 2020-01-31\n", True)])
def test_a_plan_leaves_out_what_is_waived_until_that_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], until: str, *, is_planned: bool
) -> None:
    tree(tmp_path)
    (tmp_path / "etc/hardend").mkdir()
    (tmp_path / "etc/hardend/hardend.toml").write_text(
        f'[[waivers]]\nrule = "queue-viewing"\nreason = "seen"\n{until}'
    )
    assert main(["harden", "--root", str(tmp_path), "--plan", "--json"]) == Exit.OK
    planned = json.loads(capsys.readouterr().out)
    assert ("queue-viewing" in planned["hit"]) is is_planned


def test_the_score_weighs_by_severity() -> None:
    documents = documents_of(OPEN_CF)
    judged = judge_all(documents)
    summary = findings.summarize(findings.results(judged, (), TODAY))
    assert 0 < summary.score < 100
    high = next(rule for rule in CATALOGUE if rule.severity is Severity.HIGH and rule.id == "smrsh-mailer")
    assert summary.passed + summary.failed + summary.unknown + summary.not_applicable == len(CATALOGUE)
    assert judge(documents, high).verdict in set(Verdict)


@pytest.mark.parametrize("rule", CATALOGUE, ids=lambda rule: rule.id)
def test_every_rule_is_explained_with_its_examples(rule: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", rule.id]) == Exit.OK
    printed = capsys.readouterr().out
    assert printed.startswith(f"{rule.id}: {rule.title}\n")
    assert "see: " in printed
    assert printed.count("\nexample: ") + printed.count("\npasses: ") == len(rule.examples)
    assert "\\x09" not in printed


def test_explain_without_a_name_lists_every_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == Exit.OK
    printed = capsys.readouterr().out
    assert all(f"  {rule.id} " in printed for rule in CATALOGUE)
    assert main(["explain", "--json"]) == Exit.OK
    assert len(json.loads(capsys.readouterr().out)) == len(CATALOGUE)
