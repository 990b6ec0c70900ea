# SPDX-License-Identifier: Apache-2.0
"""The findings of an audit as SARIF 2.1.0 (OASIS), which code scanning services take in.

The same host gives the same bytes: there is no time and no name of a machine in it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from hardend import __version__
from hardend.findings import Finding, Result
from hardend.model import Host, printable
from hardend.rules.rule import Rule, Severity, Verdict

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "ROOT"
_LEVELS = {
    Severity.HIGH: "error",
    Severity.MEDIUM: "warning",
    Severity.LOW: "note",
    Severity.ADVICE: "none",
}
# SARIF 2.1.0, 3.27.9: what could not be judged is open; only what fails has a level (3.27.10).
_KINDS = {
    Verdict.PASS: "pass",
    Verdict.FAIL: "fail",
    Verdict.WAIVED: "fail",
    Verdict.NOT_APPLICABLE: "notApplicable",
    Verdict.UNKNOWN: "open",
}


def document(host: Host, rules: Iterable[Rule], results: Iterable[Result]) -> dict[str, object]:
    """Return the log: one run, every rule that was asked for, and a result for each finding."""
    known = list(rules)
    index = {rule.id: number for number, rule in enumerate(known)}
    driver = {
        "name": "hardend",
        "version": __version__,
        "rules": [_descriptor(rule) for rule in known],
    }
    run = {
        "tool": {"driver": driver},
        "invocations": [{"executionSuccessful": True}],
        "originalUriBaseIds": {_ROOT: {"uri": _uri_of_root(host)}},
        "columnKind": "unicodeCodePoints",
        "results": [found for result in results for found in _results(result, index)],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _descriptor(rule: Rule) -> dict[str, object]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.rationale},
        "help": {"text": f"{rule.rationale}\n\nSee: {', '.join(rule.references)}"},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {
            "tags": [rule.section.value, *rule.references],
            "section": rule.section.value,
            "severity": rule.severity.value,
            "fix": rule.fix.value,
        },
    }


def _results(result: Result, index: dict[str, int]) -> Iterator[dict[str, object]]:
    for finding in result.findings:
        is_advice = finding.severity is Severity.ADVICE
        kind = "informational" if is_advice else _KINDS[finding.verdict]
        found: dict[str, object] = {
            "ruleId": finding.rule,
            "ruleIndex": index[finding.rule],
            "kind": kind,
            "level": _LEVELS[finding.severity] if kind == "fail" else "none",
            "message": {"text": _text(finding)},
            "partialFingerprints": {"hardend/v1": _fingerprint(finding)},
        }
        if finding.file:
            found["locations"] = [{"physicalLocation": _location(finding)}]
        if finding.verdict is Verdict.WAIVED and not is_advice:
            suppression = {"kind": "external", "status": "accepted", "justification": printable(result.note)}
            found["suppressions"] = [suppression]
        yield found


def _text(finding: Finding) -> str:
    message = printable(finding.message)
    return f"{message}. {printable(finding.fix)}" if finding.fix else message


def _fingerprint(finding: Finding) -> str:
    """Return what a finding keeps when other lines are added above it."""
    text = f"{finding.rule}\0{finding.file}\0{finding.message}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _location(finding: Finding) -> dict[str, object]:
    where: dict[str, object] = {
        "artifactLocation": {"uri": _quoted(finding.file.lstrip("/")), "uriBaseId": _ROOT}
    }
    if finding.line:
        where["region"] = {"startLine": finding.line}
    return where


def _uri_of_root(host: Host) -> str:
    return f"file://{_quoted(host.root.rstrip('/'))}/"


def _quoted(path: str) -> str:
    return quote(os.fsencode(path))
