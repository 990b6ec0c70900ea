# SPDX-License-Identifier: Apache-2.0
"""``hardend rebuild``: what hardend-rebuild.service runs; an administrator may run it any time."""

from __future__ import annotations

import argparse
import json
import sys

from hardend import commit, config, rebuild
from hardend.baseline.store import Store
from hardend.cli.messages import say
from hardend.cli.options import common_options, json_option
from hardend.errors import Exit
from hardend.model import Host, printable


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "rebuild",
        parents=[common_options()],
        help="check maps by what they answer, and what the MTA has loaded",
        description="Check every map by what it answers, build anew what another library built, and "
        "reload the MTA when it is known to have loaded something else. The guard starts this itself.",
        epilog="Exit status: 0 all right, or put right; 1 something is not, and why is printed.",
    )
    json_option(parser, "the report")
    parser.add_argument("--quiet", "-q", action="store_true", help="print problems only")
    parser.set_defaults(run=_rebuild)


def _rebuild(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    if args.quiet and not Store(host).has_baseline():
        return Exit.OK
    report = rebuild.run(host, config.load(host), say=say)
    if args.json:
        sys.stdout.write(json.dumps(report.as_json(), indent=2, sort_keys=True) + "\n")
    elif not args.quiet:
        for path, outcome in report.maps.items():
            print(f"{printable(path)}: {outcome}")
        for kind, outcome in report.mta.items():
            print(f"the MTA ({kind}): {outcome}")
    for problem in report.problems:
        say(problem)
    for promise in report.broken:
        say(f"the MTA does not do what its files say: {promise}")
    return Exit.DRIFT if report.problems or report.broken else Exit.OK
