# SPDX-License-Identifier: Apache-2.0
"""``hardend harden``: the change that makes a host meet the rules: shown, applied as a whole, proven."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from hardend import affected, commit, config, harden, layout, maps, plan, ratchet, survey
from hardend.cli.audit import chosen
from hardend.cli.messages import say
from hardend.cli.options import common_options, json_option
from hardend.config import Settings
from hardend.errors import Exit, RefusedError
from hardend.harden import Result
from hardend.layout import Layout
from hardend.model import Host, printable
from hardend.plan import Plan, Truth
from hardend.rules.catalogue import CATALOGUE, Judgement, judge
from hardend.rules.documents import Documents
from hardend.rules.rule import Fix, Rule, Verdict

_ALL = "all"
_WIDTH = 100
_SHOWN = 12


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "harden",
        parents=[common_options()],
        help="make the host meet the rules: one diff, one generation, proven over SMTP",
        epilog="Example: hardend harden --plan; hardend harden --yes --reason 'first hardening'",
    )
    parser.add_argument("--plan", action="store_true", help="show the change and stop")
    parser.add_argument("--yes", action="store_true", help="make the changes that hit nobody, without asking")
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="RULE|all",
        help="with --yes or --plan: this rule too, which somebody may be hit by; repeatable",
    )
    parser.add_argument("--rule", action="append", metavar="ID", dest="rules", help="only this; repeatable")
    parser.add_argument("--reason", default="hardening by the rules", metavar="TEXT")
    parser.add_argument(
        "--truth",
        choices=[truth.value for truth in Truth],
        help="where a .cf is not what its .mc makes: which of them counts",
    )
    json_option(parser, "the plan, or what came of it")
    parser.set_defaults(run=_harden)


@dataclass(frozen=True)
class _Case:
    """The host as it is, and what is to be asked about it."""

    host: Host
    settings: Settings
    layout: Layout
    tools: maps.Tools
    live: Documents
    documents: Documents
    rules: tuple[Rule, ...]

    @cached_property
    def uses(self) -> list[affected.Use]:
        """What mail is known to run: every home and the mail log are read for it, once."""
        return affected.uses(self.host, self.documents, self.rules)

    def failing(self, rules: Iterable[Rule]) -> list[Judgement]:
        waived = ratchet.waived_today(self.settings)
        judged = (judge(self.documents, rule) for rule in rules if rule.id not in waived)
        return [item for item in judged if item.verdict is Verdict.FAIL]


def _harden(args: argparse.Namespace) -> int:
    host: Host = args.host
    if not args.plan:
        commit.require_root()
        harden.resume(host, config.load(host), say=say)
    elif os.geteuid() == 0 and (said := harden.interrupted(host)):
        say(said)
    rules = chosen(args.rules)
    included = _included(args.include)
    case = _case(host, Truth(args.truth) if args.truth else None, rules)
    failing = case.failing(rules)
    wanted = _wanted(args, case, failing, included)
    made = plan.make(case.live, case.documents, wanted, host, case.tools)
    if args.json and args.plan:
        json.dump(_as_json(made, case, failing, wanted), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return Exit.OK
    if args.plan or not args.yes:
        _print_plan(made)
    if args.plan and not (args.yes or args.include):
        _print_asked(wanted)
    _print_rest(case, failing, wanted, made, is_plan=args.plan)
    if args.plan or made.is_empty:
        if made.is_empty:
            print("nothing to do")
        return Exit.OK
    if not args.yes and not _asked("apply this as one generation?"):
        print("nothing was changed")
        return Exit.OK
    harden.require_clean(host, case.settings)
    result = harden.carry_out(host, case.settings, made, reason=args.reason, say=say)
    return _told(result, made, as_json=args.json)


def _case(host: Host, truth: Truth | None, rules: tuple[Rule, ...]) -> _Case:
    settings = config.load(host)
    found = layout.find(host)
    tools = maps.tools_for(host, found, settings)
    live = survey.survey(host, found, settings)
    documents, differing = plan.with_truth(live, host, tools, truth)
    for path, difference in differing.items():
        say(f"{printable(path)} is not what its .mc makes:")
        print(difference)
    return _Case(host, settings, found, tools, live, documents, rules)


def _included(named: list[str]) -> tuple[Rule, ...]:
    if _ALL in named:
        return CATALOGUE
    return chosen(named) if named else ()


def _wanted(
    args: argparse.Namespace, case: _Case, failing: list[Judgement], included: tuple[Rule, ...]
) -> tuple[Rule, ...]:
    """Return the rules to apply: the auto ones, the others that are included or said yes to."""
    wanted = []
    for item in failing:
        rule = item.rule
        if rule.mend is None:
            continue
        is_asked = rule.fix is Fix.ASK and rule not in included
        if rule.fix is Fix.AUTO or rule in included or (args.plan and not args.include and not args.yes):
            wanted.append(rule)
        elif is_asked and not args.yes and not args.plan:
            _print_question(case, item)
            if _asked(f"apply {rule.id}?"):
                wanted.append(rule)
    return tuple(wanted)


def _print_question(case: _Case, item: Judgement) -> None:
    print(f"\n{item.rule.id}: {item.rule.title}")
    for fault in item.failures[:_SHOWN]:
        print(_wrapped(f"{fault.place}: {fault.message}"))
    for line in _hit(case, item.rule):
        print(_wrapped(line))


def _hit(case: _Case, rule: Rule) -> list[str]:
    """Return who would be hit, one line each."""
    if rule.id not in affected.STOP_PROGRAMS:
        return []
    uses = case.uses
    stopped = [use for use in uses if use.why]
    lines = [f"would stop: {use.where}: {printable(use.command)} ({use.why})" for use in stopped[:_SHOWN]]
    if len(stopped) > _SHOWN:
        lines.append(f"... and {len(stopped) - _SHOWN} more")
    if uses and not stopped:
        lines.append(f"none of the {len(uses)} programs that mail is known to run would stop")
    return lines


def _print_plan(made: Plan) -> None:
    for line in made.diff():
        print(line)
    acts = list(made.acts())
    if acts:
        print("\nand:")
        for act in acts:
            print(f"  {act}")
    for warning in made.warnings:
        say(f"m4: {warning}")


def _print_asked(wanted: Iterable[Rule]) -> None:
    """Say what of the whole plan ``--yes`` alone would not do."""
    asked = [rule for rule in wanted if rule.fix is Fix.ASK]
    if asked:
        print("\n--yes alone leaves out what may hit somebody (--include RULE, or --include all, takes it):")
    for rule in asked:
        print(f"  {rule.id}: {rule.title}")


def _print_rest(
    case: _Case, failing: list[Judgement], wanted: tuple[Rule, ...], made: Plan, *, is_plan: bool
) -> None:
    """Say who is hit by what is planned, what is not done, and why."""
    for rule in wanted if is_plan else ():
        for line in _hit(case, rule):
            print(f"{rule.id}: {line}")
    left = [item for item in failing if item.rule not in wanted]
    if left:
        print("\nnot done:")
    for item in left:
        how = "by hand" if item.rule.mend is None else f"--include {item.rule.id}"
        print(f"  {item.rule.id}: {item.rule.title} ({how})")
        if item.rule.mend is not None:
            for line in _hit(case, item.rule):
                print(_wrapped(line))
    for rule_id, why in made.refused.items():
        print(_wrapped(f"{rule_id} cannot be mended from here: {why}"))
    for item in made.open:
        for fault in item.failures[:_SHOWN]:
            print(_wrapped(f"{item.rule.id} still fails: {fault.place}: {fault.message}; {fault.remedy}"))


def _told(result: Result, made: Plan, *, as_json: bool) -> int:
    is_good = not (result.failed or result.undone)
    if as_json:
        document = {
            "generation": result.generation,
            "undone": result.undone,
            "failed": result.failed,
            "mta": result.mta,
            "problems": result.problems,
            "by_hand": result.by_hand,
            "rules": [rule.id for rule in made.rules],
            "checks": [check.document() for check in result.checks],
        }
        json.dump(document, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return Exit.OK if is_good else Exit.REFUSED
    if result.undone:
        print(f"everything went back, as generation {result.generation}: {result.undone}")
        return Exit.REFUSED
    print(f"generation {result.generation}: {', '.join(rule.id for rule in made.rules)}")
    for path, why in result.failed.items():
        print(f"  not done: {printable(path)}: {why}")
    for kind, what in result.mta.items():
        print(f"  {kind}: {what}")
    failed = [check for check in result.checks if check.verdict is Verdict.FAIL]
    print(f"  outcome: {len(result.checks) - len(failed)} of {len(result.checks)} checks do not fail")
    for check in failed:
        print(_wrapped(check.message))
    if result.by_hand:
        print("by hand, for hardend does not hold these:")
        for command in result.by_hand:
            print(f"  {command}")
    return Exit.OK if is_good else Exit.DRIFT


def _as_json(
    made: Plan, case: _Case, failing: list[Judgement], wanted: tuple[Rule, ...]
) -> dict[str, object]:
    return {
        "schema": 1,
        "rules": [rule.id for rule in wanted],
        "diff": "\n".join(made.diff()),
        "commands": list(made.acts()),
        "hit": {item.rule.id: _hit(case, item.rule) for item in failing},
        "not_done": [item.rule.id for item in failing if item.rule not in wanted],
        "refused": dict(made.refused),
        "still_failing": [item.rule.id for item in made.open],
    }


def _asked(question: str) -> bool:
    if not sys.stdin.isatty():
        raise RefusedError("nobody is there to be asked", hint="--plan shows the change, --yes applies it")
    return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False
    )
