# SPDX-License-Identifier: Apache-2.0
"""``hardend suggest``: what to add to the configuration so that others who write here go on working."""

from __future__ import annotations

import argparse
import json
import sys
import time

from hardend import config, layout, suggest, suggest_text
from hardend.cli.options import common_options, json_option
from hardend.errors import Exit
from hardend.model import Host

_DAYS = 30


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "suggest",
        parents=[common_options()],
        help="find who else writes what is held, and print the configuration for it",
        description="Look for what writes into held files: cron jobs, units, renewal hooks, fail2ban "
        "actions, list managers and panels, and what changed so far as the journal has it (best after a "
        'week with mode = "observe"). Print what to add to the configuration, and why. Nothing of it is run '
        "and nothing is changed. As root: others may not read all of it.",
    )
    parser.add_argument(
        "--days", type=_days, default=_DAYS, metavar="N", help=f"read the journal so far back; {_DAYS} else"
    )
    json_option(parser, "the suggestions")
    parser.set_defaults(run=_suggest)


def _days(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:6]) <= 3650:  # noqa: PLR2004
        raise argparse.ArgumentTypeError("must be a number of days, 1 to 3650")
    return int(text)


def _suggest(args: argparse.Namespace) -> int:
    host: Host = args.host
    found = suggest.suggest(
        host, layout.find(host), config.load(host), since=time.time() - args.days * 86400
    )
    if args.json:
        sys.stdout.write(json.dumps(suggest_text.as_json(found), indent=2, sort_keys=True) + "\n")
    else:
        sys.stdout.write(suggest_text.fragment(found))
    return Exit.OK
