# SPDX-License-Identifier: Apache-2.0
"""``hardend quarantine restore``, ``approve`` and ``purge``: what changes something, so root's alone."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

from hardend import commit, config, quarantine_use
from hardend.cli.messages import say, say_each, warn
from hardend.cli.options import json_option
from hardend.errors import Exit, RefusedError, UsageError
from hardend.model import Host, printable
from hardend.quarantine import Quarantine
from hardend.quarantine_reader import TRUNCATED, Kept, Shelf

_PATIENCE_S = 10.0  # for a hardend-collect that is at work
_KIB = 1024


def register(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
    age: Callable[[str], float],
) -> None:
    """Add the verbs; ``age`` reads a time such as 30d."""
    restore = verbs.add_parser("restore", parents=[common], help="write an object's bytes to a new file")
    restore.add_argument("id", metavar="ID")
    restore.add_argument("--to", required=True, metavar="FILE", help="made anew, 0600; never overwritten")
    restore.add_argument("--inside", default="", metavar="NAME", help="this file of a directory")
    json_option(restore, "what was written")
    restore.set_defaults(run=_restore)
    approve = verbs.add_parser(
        "approve", parents=[common], help="make an object's content the next generation's of its path"
    )
    approve.add_argument("id", metavar="ID")
    approve.add_argument("--reason", required=True, metavar="TEXT")
    approve.add_argument("--force", action="store_true", help="although it breaks a rule that is met now")
    json_option(approve, "the generation")
    approve.set_defaults(run=_approve)
    purge = verbs.add_parser(
        "purge",
        parents=[common],
        help="remove objects for good",
        epilog="The first object of an incident stays unless it is named by --id, or --all is given.",
    )
    purge.add_argument("--older", type=age, metavar="AGE", help="than 30d, 12h")
    purge.add_argument("--path", default="", help="of this path and what is below it")
    purge.add_argument("--id", action="append", nargs="+", default=[], metavar="ID", dest="ids")
    purge.add_argument("--all", action="store_true", help="the first objects of incidents too")
    purge.add_argument("--yes", action="store_true", help="without asking")
    json_option(purge, "what was removed")
    purge.set_defaults(run=_purge, usage=purge.error)


def _restore(args: argparse.Namespace) -> int:
    commit.require_root()
    with Shelf(args.host) as shelf:
        kept = shelf.find(args.id)
        size = quarantine_use.write_out(shelf, kept, args.to, inside=args.inside)
    whole = kept.stored != TRUNCATED or bool(args.inside)
    if args.json:
        document = {"schema": 1, "id": kept.id, "file": args.to, "bytes": size, "whole": whole}
        print(json.dumps(document, indent=2, sort_keys=True))
    else:
        print(f"{printable(args.to)}: {size} bytes of {kept.id}, mode 0600")
    say(*shelf.faults)
    if not whole:
        say(f"only the beginning of {kept.size} bytes was kept")
    return Exit.OK


def _approve(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    if not args.reason.strip():
        raise UsageError("--reason is empty", hint="say why; it stands in the baseline's log")
    settings = config.load(host)
    with Shelf(host) as shelf:
        kept = shelf.find(args.id)
        done = quarantine_use.approve(shelf, kept, settings, reason=args.reason, force=args.force)
    say(*shelf.faults)
    failed = dict(done.outcome.failed) if done else {}
    if args.json:
        document = {
            "schema": 1,
            "id": kept.id,
            "path": kept.path,
            "generation": done.generation.number if done else 0,
            "failed": failed,
            "forced": list(done.forced) if done else [],
            "warnings": list(done.warnings) if done else [],
        }
        print(json.dumps(document, indent=2, sort_keys=True))
    elif done is None:
        print(f"{printable(kept.path)} has this content already: nothing to approve")
    else:
        print(f"generation {done.generation.number} approved: {printable(kept.path)} has this content")
    if done is not None:
        for text in (*done.warnings, *done.forced):
            warn(text)
    say_each(failed)
    return Exit.DRIFT if failed else Exit.OK


def _purge(args: argparse.Namespace) -> int:
    host: Host = args.host
    ids = [text for texts in args.ids for text in texts]
    if bool(ids) == bool(args.older is not None or args.path):
        args.usage("either --id ID..., or --older AGE and --path PATH or one of them")
    commit.require_root()
    with Shelf(host) as shelf:
        if ids:
            chosen, spared = [_collected(shelf.find(text)) for text in ids], 0
        else:
            chosen, spared = _chosen(shelf, args)
    say(*shelf.faults)
    if not chosen:
        return _told(args, [], 0, spared)
    if not args.yes:
        _ask(chosen)
    try:
        with Quarantine(host, patience_s=_PATIENCE_S) as quarantine:
            freed = quarantine.remove(kept.id for kept in chosen)
    except OSError as error:
        raise RefusedError(f"{host.quarantine_dir}: {error.strerror}; some may be gone") from error
    return _told(args, chosen, freed, spared)


def _collected(kept: Kept) -> Kept:
    if kept.waits:
        raise RefusedError(f"{kept.id} still waits to be collected", hint="hardend collect, then purge")
    return kept


def _chosen(shelf: Shelf, args: argparse.Namespace) -> tuple[list[Kept], int]:
    """Return what is to go, and how many first objects of incidents are spared."""
    before = time.time() - args.older if args.older is not None else float("inf")
    top = args.path.rstrip("/")
    fits = [
        kept
        for kept in shelf.all()
        if not kept.waits
        and kept.time < before
        and (not args.path or kept.path == top or kept.path.startswith(f"{top}/"))
    ]
    chosen = [kept for kept in fits if args.all or not kept.is_first]
    return chosen, len(fits) - len(chosen)


def _ask(chosen: list[Kept]) -> None:
    if not sys.stdin.isatty():
        raise RefusedError("nobody is there to be asked", hint="--yes purges without asking")
    paths = sorted({printable(kept.path) or "?" for kept in chosen})
    shown = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more paths" if len(paths) > 3 else "")  # noqa: PLR2004 - a line
    if input(f"remove {len(chosen)} objects of {shown} for good? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise RefusedError("nothing was removed")


def _told(args: argparse.Namespace, chosen: list[Kept], freed: int, spared: int) -> int:
    if args.json:
        document = {
            "schema": 1,
            "removed": [kept.id for kept in chosen],
            "freed_bytes": freed,
            "firsts_kept": spared,
        }
        print(json.dumps(document, indent=2, sort_keys=True))
    elif chosen:
        print(f"{len(chosen)} objects removed, {freed / _KIB:.0f} KiB freed")
    else:
        say("nothing is kept that fits")
    if spared and not args.json:
        say(f"{spared} first objects of incidents stay: --all, or --id, removes them too")
    return Exit.OK if chosen else Exit.DRIFT
