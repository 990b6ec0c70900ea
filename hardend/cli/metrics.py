# SPDX-License-Identifier: Apache-2.0
"""``hardend metrics``: what node_exporter's textfile collector reads."""

from __future__ import annotations

import argparse
import sys

from hardend.cli.options import common_options
from hardend.errors import Exit
from hardend.metrics import render, write


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "metrics",
        parents=[common_options()],
        help="print metrics for Prometheus",
        description="Print how the guard stands in the Prometheus text format. "
        "hardend-metrics.timer writes it for node_exporter.",
        epilog="Exit status: 0, also when no guard runs: that is what hardend_up is for.",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="replace FILE, at once and readable for all, instead of printing"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    text = render(args.host)
    if args.output:
        write(args.output, text)
    else:
        sys.stdout.write(text)
    return Exit.OK
