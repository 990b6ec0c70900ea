# SPDX-License-Identifier: Apache-2.0
"""``hardend verify``: what the MTA of this host does, whatever its files say."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from hardend import config, layout, outcome
from hardend.cli.options import common_options, json_option
from hardend.errors import Exit
from hardend.model import Host, printable
from hardend.outcome import Check
from hardend.rules.rule import Section, Verdict
from hardend.verify import refuse_a_tree, verify

_TITLES = {
    Section.SMRSH: "programs that mail may run",
    Section.PRIVACY: "EXPN, VRFY, VERB",
    Section.GREETING: "greeting and version",
    Section.QUEUE_VIEWING: "viewing the queue",
    Section.QUEUE_RUNNING: "running the queue",
    Section.RELAYING: "relaying",
    Section.EXPOSURE: "where the MTA listens",
}


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "verify",
        parents=[common_options()],
        help="prove the outcome on the running MTA; 0 all checks pass, 1 not all do",
        description="Asks the MTA of this host over SMTP on its own listeners, sendmail -bt about relaying, "
        "and tries as an ordinary user to list and run the queues and to run a shell through smrsh. "
        "Nothing is changed and no mail is sent. As root; without it only the SMTP checks can be made.",
        epilog="Example: hardend verify --json",
    )
    json_option(parser, "the checks")
    parser.set_defaults(run=_verify)


def _verify(args: argparse.Namespace) -> int:
    host: Host = args.host
    refuse_a_tree(host)
    settings = config.load(host)
    checks = verify(host, layout.find(host), settings)
    name = printable(os.uname().nodename)
    if args.json:
        document = {
            "schema": outcome.SCHEMA,
            "host": name,
            "checks": [check.document() for check in checks],
            "summary": outcome.counts(checks),
        }
        json.dump(document, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _print(name, checks)
    return Exit.OK if outcome.is_proven(checks) else Exit.DRIFT


def _print(name: str, checks: Sequence[Check]) -> None:
    print(f"{name}: what the MTA does")
    for section, title in _TITLES.items():
        inside = [check for check in checks if check.section is section]
        if inside:
            print(f"\n{title}: {_count(inside)}")
        for check in inside:
            print(f"  {check.verdict.value:<8} {check.check}, {check.subject}: {check.message}")
    print(f"\n{_count(checks)}")


def _count(checks: Sequence[Check]) -> str:
    judged = [check for check in checks if check.verdict is not Verdict.NOT_APPLICABLE]
    passed = sum(check.verdict is Verdict.PASS for check in judged)
    return f"{passed} of {len(judged)} checks pass"
