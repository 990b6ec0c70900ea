# SPDX-License-Identifier: Apache-2.0
"""``hardend witness``: what hardend-witness.service runs."""

from __future__ import annotations

import argparse
import contextlib

from hardend.cli.messages import say
from hardend.cli.options import common_options
from hardend.commit import require_root
from hardend.errors import Exit


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "witness",
        parents=[common_options()],
        help="note who changes what is held (the service)",
        description="Note who changes what is held, until a signal says stop. A unit runs it.",
        epilog="Exit status: 0 stopped; 4 the kernel, or the host of a container, refuses fanotify.",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    # Here, not above: the witness's modules are for the witness alone.
    from hardend.witness import Witness  # noqa: PLC0415

    require_root()
    with contextlib.closing(Witness(args.host, say)) as witness:
        witness.run()
    return Exit.OK
