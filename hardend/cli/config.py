# SPDX-License-Identifier: Apache-2.0
"""``hardend config check``: every fault of the configuration at once, and what it does in vain."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from hardend import classes, config, layout, witness_log
from hardend.cli.options import common_options
from hardend.errors import Exit, FileError
from hardend.kernel.tree import Tree
from hardend.model import Host, Role, printable


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser("config", help="check the configuration")
    own = parser.add_subparsers(metavar="VERB", required=True)
    check = own.add_parser("check", parents=[common_options()], help="tell every fault")
    check.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    host: Host = args.host
    settings = config.load(host)
    files = [printable(path) for path in config.fragments(host)]
    sys.stdout.write(f"no fault in {', '.join(files) or 'the defaults: there is no file'}\n")
    try:
        found = layout.find(host)
    except FileError as error:
        sys.stdout.write(f"its paths were not looked up: {error}\n")
        return Exit.OK
    for note in _in_vain(host, found, settings):
        sys.stdout.write(f"note: {note}\n")
    return Exit.OK


def _in_vain(host: Host, found: layout.Layout, settings: config.Settings) -> list[str]:
    """Return what the configuration asks for and this host has no use for; each is still valid."""
    held = classes.protected(host, found, settings)
    locked = [item.path for item in held if item.immutable]
    paths = [item.path for item in held]
    notes = [
        f'paths.lock: {printable(pattern)}: no file of class "locked" here has this name'
        for pattern in settings.lock
        if not any(classes.matches(path, pattern) for path in locked)
    ]
    notes += [
        f"paths.{key}: {printable(pattern)}: nothing that is held here has this name"
        for key, patterns in (("unlock", settings.unlock), ("protect", settings.protect))
        for pattern in patterns
        if not any(classes.matches(path, pattern) for path in paths)
    ]
    files = {item.path: item for item in held if item.role is Role.SOURCE}
    for block in settings.blocks:
        name = printable(block.path)
        if block.path not in files:
            notes.append(f"blocks: {name}: no file that is held here has this name (a link has none)")
        elif block.begin and not {block.begin, block.end} <= set(_lines(host, block.path)):
            notes.append(f"blocks: {name}: begin and end do not both stand in it: nothing is given away")
    if settings.trusted_units:
        notes += _trusted_in_vain(host, settings, set(files), set(locked))
    return notes


def _trusted_in_vain(
    host: Host, settings: config.Settings, files: set[str], locked: set[str]
) -> Iterator[str]:
    """Yield what keeps a trusted unit from being one."""
    for path in dict.fromkeys(path for unit in settings.trusted_units for path in unit.paths):
        name = f"trusted_units: {printable(path)}:"
        if path not in files:
            yield f"{name} no file that is held here has this name (a link has none)"
        elif path in locked:
            yield f"{name} immutable, refuses every writer: paths.unlock is for it"
    if not witness_log.is_running(host):
        yield "trusted_units: nobody tells who writes: systemctl enable --now hardend-witness"


def _lines(host: Host, path: str) -> list[str]:
    return Tree(host).contents(path).decode("utf-8", "surrogateescape").splitlines()
