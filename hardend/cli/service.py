# SPDX-License-Identifier: Apache-2.0
"""``hardend guard``: what hardend.service runs."""

from __future__ import annotations

import argparse

from hardend.cli.options import common_options
from hardend.errors import ConfigError, Exit


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    guard = verbs.add_parser("guard", parents=[common_options()], help="run the guard (the service)")
    guard.set_defaults(run=_guard)


def _guard(args: argparse.Namespace) -> int:
    # Here, not above: the guard's modules are for the guard alone.
    from hardend import config, guard  # noqa: PLC0415

    try:
        settings = config.load(args.host)
    except ConfigError as error:
        error.exit_code = Exit.CONFIG
        raise
    return guard.serve(args.host, settings)
