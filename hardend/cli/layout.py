# SPDX-License-Identifier: Apache-2.0
"""``hardend layout``: where this host keeps its Sendmail, and what is held there."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from hardend import classes, config, layout
from hardend.cli.options import common_options, json_option
from hardend.errors import Exit
from hardend.model import Host, Protected, printable


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "layout",
        parents=[common_options()],
        help="show where Sendmail is kept, how that was found, and what is held",
    )
    json_option(parser, "the layout and the protected paths")
    parser.set_defaults(run=_layout)


def _layout(args: argparse.Namespace) -> int:
    host: Host = args.host
    found = layout.find(host)
    held = classes.protected(host, found, config.load(host))
    if args.json:
        document = {**dataclasses.asdict(found), "protected": [_as_json(item) for item in held]}
        json.dump(document, sys.stdout, indent=2, sort_keys=True)
        sys.stdout.write("\n")
        return Exit.OK
    facts = [(fact.name, fact.value, fact.origin) for fact in found.facts]
    rows = [(item.cls.value, item.role.value, "+i" if item.immutable else "-", item.path) for item in held]
    sys.stdout.write(_table(("WHAT", "WHERE", "FOUND IN"), facts))
    sys.stdout.write("\n")
    sys.stdout.write(_table(("CLASS", "ROLE", "LOCK", "PATH"), rows))
    return Exit.OK


def _as_json(item: Protected) -> dict[str, object]:
    return {
        "path": item.path,
        "role": item.role.value,
        "class": item.cls.value,
        "immutable": item.immutable,
        "source": item.spec.source if item.spec else "",
    }


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the rows under their heads, columns aligned, names made safe to show."""
    shown = [heads, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[at]) for row in shown) for at in range(len(heads))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    )
    return "".join(f"{line}\n" for line in lines)
