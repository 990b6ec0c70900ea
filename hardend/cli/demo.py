# SPDX-License-Identifier: Apache-2.0
"""``hardend demo``: the guard at work on a mail host of the demo's own, for whoever wants to see it."""

from __future__ import annotations

import argparse

from hardend import demo


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb. There is no --root: it never touches a host that is there."""
    defaults = demo.Options()
    parser = verbs.add_parser(
        "demo",
        help="show the guard at work on a mail host in a scratch directory; nothing of it stays",
    )
    parser.add_argument(
        "--dir",
        default=defaults.parent,
        metavar="DIR",
        help=f"make the scratch directory in DIR ({defaults.parent})",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=defaults.patience_s,
        metavar="SECONDS",
        help=f"count a drift as not put back after SECONDS ({defaults.patience_s:g})",
    )
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    return demo.run(demo.Options(args.dir, args.patience), _say)


def _say(line: str) -> None:
    print(line, flush=True)
