# SPDX-License-Identifier: Apache-2.0
"""``hardend tell``: what hardend-tell.service runs when the guard put back what somebody changed."""

from __future__ import annotations

import argparse

from hardend import commit, control, writers
from hardend.baseline.store import Store
from hardend.cli.options import common_options
from hardend.errors import Exit
from hardend.model import Host


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "tell",
        parents=[common_options()],
        help="tell at terminals what was just put back",
        description="Write one line to each terminal where somebody has just typed who is root or may "
        "become it: which guarded file was changed and put back, and what to use. At most once a minute for "
        "each terminal. The guard starts this itself.",
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="do not print how many were told")
    parser.set_defaults(run=_tell)


def _tell(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    reply = control.ask(host, {"verb": "put-back"})
    paths = reply.get("paths")
    count = 0
    if isinstance(paths, list) and paths and not host.is_tree:
        count = writers.tell(host, Store(host).current().entries, map(str, paths))
    if not args.quiet:
        print(f"{count} terminals were told")
    return Exit.OK
