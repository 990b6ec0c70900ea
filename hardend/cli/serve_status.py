# SPDX-License-Identifier: Apache-2.0
"""``hardend serve-status``: what hardend-status.service runs, started by its socket."""

from __future__ import annotations

import argparse

from hardend.cli.options import common_options
from hardend.errors import Exit
from hardend.status_service import Limits, StatusService, activated

_YEAR_S = 366 * 86400


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "serve-status",
        parents=[common_options()],
        help="answer on the status socket (the service)",
        description="Answer on the status socket that systemd hands over, until nobody asks any more.",
    )
    parser.add_argument(
        "--idle",
        type=_seconds,
        default=Limits().idle_s,
        metavar="SECONDS",
        help="leave when nobody was there for so long (default: %(default)g)",
    )
    parser.set_defaults(run=_run)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < _YEAR_S:
        raise ValueError(text)
    return seconds


def _run(args: argparse.Namespace) -> int:
    with activated() as listener:
        service = StatusService(args.host, listener, Limits(idle_s=args.idle))
        try:
            service.run()
        finally:
            service.close()
    return Exit.OK
