# SPDX-License-Identifier: Apache-2.0
"""``hardend audit --sarif``: what a scanning service of SARIF 2.1.0 demands of it, and nothing else."""

from __future__ import annotations

import json
import os
import re
from datetime import date
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

from hardend import findings
from hardend.cli import sarif
from hardend.cli.main import main
from hardend.errors import Exit
from hardend.model import Host
from hardend.rules.catalogue import BY_ID, CATALOGUE, Judgement, judge_all
from hardend.rules.rule import Fault, Verdict
from hardend.settings import Waiver
from tests.unit.rulehost import documents_of
from tests.unit.test_survey import tree

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TODAY = date(2026, 11, 24)
TEXT = {"text": str}
# Of the schema: which members an object may have, and what they are; * is one that must be there.
REGION = {"*startLine": int}
ARTIFACT = {"*uri": str, "uriBaseId": str}
LOCATION = {"*physicalLocation": {"*artifactLocation": ARTIFACT, "region": REGION}}
SUPPRESSION = {"*kind": {"inSource", "external"}, "status": {"accepted"}, "justification": str}
RESULT = {
    "*ruleId": str,
    "ruleIndex": int,
    "kind": {"notApplicable", "pass", "fail", "review", "open", "informational"},
    "level": {"none", "note", "warning", "error"},
    "*message": TEXT,
    "partialFingerprints": {"hardend/v1": str},
    "locations": [LOCATION],
    "suppressions": [SUPPRESSION],
}
RULE = {
    "*id": str,
    "shortDescription": TEXT,
    "fullDescription": TEXT,
    "help": TEXT,
    "defaultConfiguration": {"level": {"none", "note", "warning", "error"}},
    "properties": {"tags": [str], "section": str, "severity": str, "fix": str},
}
RUN = {
    "*tool": {"*driver": {"*name": str, "version": str, "rules": [RULE]}},
    "invocations": [{"*executionSuccessful": bool}],
    "originalUriBaseIds": {"ROOT": {"uri": str}},
    "columnKind": {"utf16CodeUnits", "unicodeCodePoints"},
    "results": [RESULT],
}
LOG = {"$schema": str, "*version": {"2.1.0"}, "*runs": [RUN]}


def demand(value: Any, schema: Any, where: str = "log") -> None:
    """Check a value against a schema as above."""
    if isinstance(schema, set):
        assert value in schema, where
    elif isinstance(schema, list):
        assert isinstance(value, list), where
        for number, item in enumerate(value):
            demand(item, schema[0], f"{where}[{number}]")
    elif isinstance(schema, dict):
        known = {name.lstrip("*"): each for name, each in schema.items()}
        assert set(value) <= set(known), where
        assert {name[1:] for name in schema if name.startswith("*")} <= set(value), where
        for name, item in value.items():
            demand(item, known[name], f"{where}.{name}")
    else:
        assert type(value) is schema, where


def checked(log: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the results of a log that is valid, also in what the schema says in words."""
    demand(log, LOG)
    [run] = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    base = urlsplit(run["originalUriBaseIds"]["ROOT"]["uri"])
    assert base.scheme == "file" and base.path.endswith("/")
    for found in run["results"]:
        assert rules[found["ruleIndex"]]["id"] == found["ruleId"]
        assert found["message"]["text"].isprintable()
        assert found["kind"] == "fail" or found["level"] == "none", "3.27.10"
        for location in found.get("locations", ()):
            where = location["physicalLocation"]
            assert re.fullmatch(r"[A-Za-z0-9._~/%-]+", where["artifactLocation"]["uri"])
            assert not where["artifactLocation"]["uri"].startswith("/"), "3.4.4: relative to its base"
            assert where["artifactLocation"]["uriBaseId"] == "ROOT"
            assert where.get("region", {"startLine": 1})["startLine"] >= 1
    return list(run["results"])


def log_of(*judged: Judgement, waivers: tuple[Waiver, ...] = ()) -> dict[str, Any]:
    results = findings.results(judged, waivers, TODAY)
    log = sarif.document(Host(), [item.rule for item in judged], results)
    return dict(json.loads(json.dumps(log)))


def test_what_the_verb_prints_is_valid_and_the_same_each_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree(tmp_path)
    printed = []
    for _ in range(2):
        assert main(["audit", "--root", str(tmp_path), "--sarif"]) == Exit.DRIFT
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    log = json.loads(printed[0])
    results = checked(log)
    assert {found["ruleId"] for found in results} == {rule.id for rule in CATALOGUE}
    assert unquote(log["runs"][0]["originalUriBaseIds"]["ROOT"]["uri"]) == f"file://{tmp_path}/"


def test_it_says_what_the_json_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path)
    main(["audit", "--root", str(tmp_path), "--json"])
    plain = json.loads(capsys.readouterr().out)["findings"]
    main(["audit", "--root", str(tmp_path), "--sarif"])
    results = checked(json.loads(capsys.readouterr().out))
    failed = [(item["rule"], item["file"], item["line"]) for item in plain if item["verdict"] == "fail"]
    told = []
    for found in results:
        if found["kind"] == "fail":
            where = found["locations"][0]["physicalLocation"]
            line = where.get("region", {"startLine": 0})["startLine"]
            told.append((found["ruleId"], "/" + unquote(where["artifactLocation"]["uri"]), line))
    assert told == failed


def test_one_form_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["audit", "--sarif", "--json"])
    assert stopped.value.code == Exit.USAGE
    assert "not allowed with" in capsys.readouterr().err


def test_every_verdict_has_its_kind_and_a_waiver_is_a_suppression() -> None:
    rule = BY_ID["privacy-flags"]
    fault = Fault("/etc/mail/sendmail.cf", 3, "lacks x", "add it")
    kinds = {}
    for verdict in (Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN, Verdict.NOT_APPLICABLE):
        faults = (fault,) if verdict in {Verdict.FAIL, Verdict.UNKNOWN} else ()
        [found] = checked(log_of(Judgement(rule, verdict, faults, "a reason")))
        kinds[verdict] = (found["kind"], found["level"])
    assert kinds == {
        Verdict.PASS: ("pass", "none"),
        Verdict.FAIL: ("fail", "warning"),
        Verdict.UNKNOWN: ("open", "none"),
        Verdict.NOT_APPLICABLE: ("notApplicable", "none"),
    }
    waiver = Waiver("privacy-flags", "a lab\x1b[31m")
    [found] = checked(log_of(Judgement(rule, Verdict.FAIL, (fault,)), waivers=(waiver,)))
    assert found["suppressions"][0]["justification"] == "waived: a lab\\x1b[31m"


def test_advice_fails_nothing() -> None:
    fault = Fault("/etc/aliases", 2, "games: goes to root", advice=True)
    found = checked(log_of(Judgement(BY_ID["privacy-flags"], Verdict.PASS, (fault,))))
    assert [item["kind"] for item in found] == ["pass", "informational"]


def test_names_that_are_no_text_become_valid_addresses() -> None:
    path = os.fsdecode(b"/etc/mail/a b\n\xff#?.cf")
    fault = Fault(path, 0, f"{path} is wrong")
    [found] = checked(log_of(Judgement(BY_ID["privacy-flags"], Verdict.FAIL, (fault,))))
    uri = found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "etc/mail/a%20b%0A%FF%23%3F.cf"


def test_a_finding_is_known_again_when_lines_move() -> None:
    one, other = (
        checked(log_of(*judge_all(documents_of({"/etc/mail/sendmail.cf": text}), [BY_ID["privacy-flags"]])))
        for text in ("V10/Berkeley\nO PrivacyOptions=public\n", "V10/Berkeley\n#\nO PrivacyOptions=public\n")
    )
    prints = [[found["partialFingerprints"] for found in results] for results in (one, other)]
    lines = [
        [found["locations"][0]["physicalLocation"]["region"]["startLine"] for found in results]
        for results in (one, other)
    ]
    assert prints[0] == prints[1]
    assert lines[0] != lines[1]
