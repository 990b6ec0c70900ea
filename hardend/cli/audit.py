# SPDX-License-Identifier: Apache-2.0
"""``hardend audit`` and ``hardend explain``: what is wrong with a host by the rules, and why it matters."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from hardend import config, findings, layout, maps, origin, survey
from hardend.cli import sarif
from hardend.cli.messages import warn
from hardend.cli.options import common_options, json_option
from hardend.errors import Exit, HardendError
from hardend.findings import Result, Summary
from hardend.model import Host, printable
from hardend.rules.catalogue import BY_ID, CATALOGUE, judge_all
from hardend.rules.rule import Example, Rule, Section, Verdict
from hardend.textdiff import safe_line

_TITLES = {
    Section.SMRSH: "1. smrsh: which programs mail may run",
    Section.ALIASES: "2. aliases",
    Section.PRIVACY: "3. privacy: EXPN, VRFY, VERB",
    Section.GREETING: "4. greeting and version",
    Section.QUEUE_VIEWING: "5. viewing the queue",
    Section.QUEUE_RUNNING: "6. running the queue",
    Section.IMMUTABLE: "7. immutable files",
    Section.RELAYING: "8. relaying",
    Section.EXPOSURE: "9. exposure: what the guide lacks",
}
_BUILDS = "exposure-source"  # the rule for which every .mc is built to the side
_SHOWN = 5  # faults of one rule; the rest is counted
_WIDTH = 100


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs."""
    audit = verbs.add_parser(
        "audit",
        parents=[common_options()],
        help="judge the host by the rules; 0 it meets them, 1 findings, 2 error",
        epilog="Example: hardend audit --rule privacy-flags --json",
    )
    audit.add_argument("--rule", action="append", metavar="ID", dest="rules", help="only this; repeatable")
    audit.add_argument("--all", action="store_true", help="show every fault, and the rules that pass")
    form = audit.add_mutually_exclusive_group()
    json_option(form, "the findings")
    form.add_argument("--sarif", action="store_true", help="print the findings as SARIF 2.1.0")
    audit.set_defaults(run=_audit)
    explain = verbs.add_parser("explain", help="say what a rule wants and why; without ID list them")
    explain.add_argument("rule", nargs="?", metavar="ID")
    json_option(explain, "the rule")
    explain.set_defaults(run=_explain)


def chosen(ids: Iterable[str] | None) -> tuple[Rule, ...]:
    """Return the rules with these ids, all for none. Raises HardendError for one that is not known."""
    if not ids:
        return CATALOGUE
    asked = list(ids)
    for rule_id in asked:
        if rule_id not in BY_ID:
            near = difflib.get_close_matches(rule_id, BY_ID, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else "hardend explain lists them"
            raise HardendError(f"{printable(rule_id)}: no such rule", hint=hint)
    return tuple(rule for rule in CATALOGUE if rule.id in asked)


def _audit(args: argparse.Namespace) -> int:
    host: Host = args.host
    rules = chosen(args.rules)
    settings = config.load(host)
    for waiver in settings.waivers:
        if waiver.rule not in BY_ID:
            warn(f"waivers: {printable(waiver.rule)}: no such rule; hardend explain lists them")
    found = layout.find(host)
    documents = survey.survey(host, found, settings)
    if any(rule.id == _BUILDS for rule in rules):
        documents = origin.compared(documents, host, maps.tools_for(host, found, settings))
    today = datetime.now(UTC).date()
    results = findings.results(judge_all(documents, rules), settings.waivers, today)
    summary = findings.summarize(results)
    name = printable(os.uname().nodename) if not host.is_tree else printable(host.root)
    if args.json:
        document = {
            "schema": findings.SCHEMA,
            "host": name,
            "layout": found.profile,
            "summary": summary.document(),
            "findings": [finding.document() for result in results for finding in result.findings],
        }
        json.dump(document, sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif args.sarif:
        json.dump(sarif.document(host, rules, results), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        print(f"{name}: Sendmail, {found.profile} layout")
        for section in Section:
            inside = [result for result in results if result.judgement.rule.section is section]
            _print_section(section, inside, everything=args.all)
        _print_summary(summary, is_root=os.geteuid() == 0)
    return Exit.OK if summary.is_met else Exit.DRIFT


def _print_section(section: Section, results: Sequence[Result], *, everything: bool) -> None:
    judged = [result for result in results if result.verdict is not Verdict.NOT_APPLICABLE]
    if not results or not (judged or everything):
        return
    passed = sum(result.verdict is Verdict.PASS for result in judged)
    print(f"\n{_TITLES[section]}: {passed} of {len(judged)} rules pass")
    for result in results:
        quiet = result.verdict in {Verdict.PASS, Verdict.NOT_APPLICABLE}
        if not quiet or everything or any(finding.file for finding in result.findings):
            _print_result(result, everything=everything)


def _print_result(result: Result, *, everything: bool) -> None:
    rule = result.judgement.rule
    shown = _grouped(result)
    word = "advice" if result.verdict is Verdict.PASS and shown else result.verdict.value
    severity = "" if result.verdict in {Verdict.PASS, Verdict.NOT_APPLICABLE} else f", {rule.severity.value}"
    print(f"  {word:<8} {rule.id}{severity}: {rule.title}")
    if result.note:
        print(_indented(result.note))
    for message, fix, places in shown if everything else shown[:_SHOWN]:
        print(_indented(f"{', '.join(places)}: {message}"))
        if fix:
            print(_indented(f"  -> {fix}"))
    if len(shown) > _SHOWN and not everything:
        print(_indented(f"... and {len(shown) - _SHOWN} more (--all)"))
    if result.verdict is Verdict.FAIL:
        print(_indented(f"fix: {findings.way_to_fix(result.judgement)}"))


def _grouped(result: Result) -> list[tuple[str, str, list[str]]]:
    """Return message and fix of each fault with all the places that have it."""
    groups: dict[tuple[str, str], list[str]] = {}
    for finding in result.findings:
        if finding.file:
            place = printable(finding.file) + (f":{finding.line}" if finding.line else "")
            groups.setdefault((finding.message, finding.fix), []).append(place)
    return [(message, fix, places) for (message, fix), places in groups.items()]


def _indented(text: str) -> str:
    lead = " " * 11
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=lead,
        subsequent_indent=lead + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _print_summary(summary: Summary, *, is_root: bool) -> None:
    counts = [f"{summary.passed} pass", f"{summary.failed} fail"]
    counts += [f"{summary.waived} waived"] if summary.waived else []
    counts += [f"{summary.unknown} unknown"] if summary.unknown else []
    counts += [f"{summary.not_applicable} not applicable"] if summary.not_applicable else []
    print(f"\nscore {summary.score} of 100: {', '.join(counts)}")
    if summary.unknown and not is_root:
        print("what could not be read counts as unknown: run it as root")
    if summary.failed:
        print("hardend harden --plan shows the change that mends it; hardend explain ID says why")


def _explain(args: argparse.Namespace) -> int:
    rules = chosen([args.rule] if args.rule else None)
    if args.json:
        json.dump([_as_json(rule) for rule in rules], sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif args.rule:
        _print_rule(rules[0])
    else:
        for section in Section:
            print(_TITLES[section])
            for rule in rules:
                if rule.section is section:
                    print(f"  {rule.id:<28} {rule.severity.value:<7} {rule.fix.value:<6} {rule.title}")
    return Exit.OK


def _as_json(rule: Rule) -> dict[str, object]:
    return {
        "id": rule.id,
        "title": rule.title,
        "section": rule.section.value,
        "severity": rule.severity.value,
        "fix": rule.fix.value,
        "rationale": rule.rationale,
        "references": list(rule.references),
    }


def _print_rule(rule: Rule) -> None:
    print(f"{rule.id}: {rule.title}")
    print(f"section {_TITLES[rule.section]}; severity {rule.severity.value}; fix: {rule.fix.value}")
    print()
    print(textwrap.fill(rule.rationale, _WIDTH, break_on_hyphens=False))
    print(f"\nsee: {', '.join(rule.references)}")
    for example in rule.examples:
        print(f"\n{'passes' if example.is_near_miss else 'example'}: {example.title}")
        for line in _example_lines(example):
            print(f"    {safe_line(line).expandtabs()}")


def _example_lines(example: Example) -> Iterator[str]:
    for path, text in example.before.items():
        after = example.after.get(path, text)
        mode = example.modes.get(path.rstrip("/"))
        yield path + (f"  ({mode})" if mode else "")
        before = text.splitlines()
        if after == text:
            yield from (f"  {line}" for line in before)
        else:
            diff = difflib.unified_diff(before, (after or "").splitlines(), lineterm="", n=3)
            yield from (line[:1] + " " + line[1:] for line in list(diff)[2:] if not line.startswith("@@"))
    for path in example.after.keys() - example.before.keys():
        yield f"{path}  (new)"
        yield from (f"+ {line}" for line in (example.after[path] or "").splitlines())
