# SPDX-License-Identifier: Apache-2.0
"""``hardend baseline``: the generations, what they hold and how they differ."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

from hardend import commit, config, propose, worsening
from hardend.baseline import retention, trust
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.cli import transport
from hardend.cli.messages import say, say_outcome, warn
from hardend.cli.options import common_options, json_option
from hardend.errors import Exit, RefusedError, StoreError
from hardend.model import Class, Entry, Host, Role, printable
from hardend.textdiff import unified

_MOST_KEPT = 10**9
_DIGITS = 12  # of a digest, where people compare two
_LONGEST = 200
_DESCRIBED = (
    *("kind", "cls", "role", "uid", "gid", "flags", "mtime_ns", "target", "xattrs"),
    *("spec", "answers", "builder", "sources", "opaque", "mount"),
)


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its own verbs."""
    baseline = verbs.add_parser("baseline", help="show, compare, verify and roll back generations")
    own = baseline.add_subparsers(metavar="VERB", required=True)
    common = common_options()
    log = own.add_parser("log", parents=[common], help="every generation, newest first")
    log.add_argument("--json", action="store_true")
    log.set_defaults(run=_log)
    show = own.add_parser("show", parents=[common], help="the entries of a generation")
    show.add_argument("number", nargs="?", type=int, metavar="N")
    show.add_argument("--json", action="store_true")
    show.set_defaults(run=_show)
    diff = own.add_parser("diff", parents=[common], help="what changed between two generations")
    diff.add_argument("old", nargs="?", type=int, metavar="OLD")
    diff.add_argument("new", nargs="?", type=int, metavar="NEW")
    diff.set_defaults(run=_diff)
    verify = own.add_parser("verify", parents=[common], help="check every digest and the chain")
    verify.set_defaults(run=_verify)
    rollback = own.add_parser(
        "rollback", parents=[common], help="a new generation with the content of an old one"
    )
    rollback.add_argument("number", type=int, metavar="N")
    rollback.add_argument("--reason", required=True, metavar="TEXT")
    rollback.add_argument(
        "--force", action="store_true", help="also where a rule is broken by it that is met now"
    )
    rollback.set_defaults(run=_rollback)
    prune = own.add_parser(
        "prune",
        parents=[common],
        help="remove old generations, and the content that only they needed",
        epilog="What is in force stays, and so do the newest signed generations; the chain stays provable.",
    )
    prune.add_argument("--keep", required=True, type=_count, metavar="N", help="the newest N stay")
    json_option(prune, "what was removed")
    prune.set_defaults(run=_prune)
    transport.register(own)


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < _MOST_KEPT:
        return int(text)
    raise argparse.ArgumentTypeError(f"{printable(text)}: not a number of generations, 1 or more")


def _log(args: argparse.Namespace) -> int:
    store = Store(args.host)
    current = store.current().number
    try:
        note = retention.read_note(args.host)
    except StoreError as error:
        note = retention.Note()
        say(str(error))
    generations = [store.generation(number) for number in reversed(store.numbers())]
    if args.json:
        rows = [
            {
                "number": generation.number,
                "time": generation.time,
                "author": generation.author,
                "reason": generation.reason,
                "entries": len(generation.entries),
                "current": generation.number == current,
            }
            for generation in generations
        ]
        pruned = [[item.first, item.last] for item in note.ranges]
        print(json.dumps({"generations": rows, "pruned": pruned}, indent=2, sort_keys=True))
        return Exit.OK
    for generation in generations:
        mark = "*" if generation.number == current else " "
        print(
            f"{mark} {generation.number:4}  {generation.time}  {printable(generation.author)}  "
            f"{printable(generation.reason)}"
        )
    for item in note.ranges:
        print(f"  {_span(item)} pruned, last {note.time}  {printable(note.by)}")
    return Exit.OK


def _span(item: retention.Range) -> str:
    return f"{item.first}" if item.first == item.last else f"{item.first} to {item.last}"


def _generation(host: Host, number: int | None) -> Generation:
    """Return a generation, the current one for None; of what was pruned it is said that it was."""
    store = Store(host)
    if number is None:
        return store.current()
    if number not in store.numbers() and (note := retention.read_note(host)).holds(number):
        raise RefusedError(
            f"generation {number} was pruned, last {note.time} by {printable(note.by)}",
            hint="hardend baseline log shows what is left",
        )
    # Within the range a missing one is damage, of which the store tells.
    if not 0 < number <= max(store.numbers(), default=0):
        raise RefusedError(f"there is no generation {number}", hint="hardend baseline log lists them")
    return store.generation(number)


def _show(args: argparse.Namespace) -> int:
    store = Store(args.host)
    generation = _generation(args.host, args.number)
    if args.json:
        manifest = store.raw_manifest(generation.number)
        print(json.dumps(json.loads(manifest), indent=2, sort_keys=True))
        return Exit.OK
    print(
        f"generation {generation.number}, {generation.time}, by {printable(generation.author)}: "
        f"{printable(generation.reason)}"
    )
    print(f"layout {generation.layout}, hardend {generation.hardend}, {generation.sendmail}")
    for entry in generation.entries.values():
        print(f"{_line(entry)}  {printable(entry.path)}{_tail(entry)}")
    return Exit.OK


def _line(entry: Entry) -> str:
    flags = entry.flags or "-"
    return (
        f"{entry.cls:10} {entry.role:9} {flags:2} {entry.mode:04o} {entry.uid:5}:{entry.gid:<5} "
        f"{entry.digest[:_DIGITS] or '-':{_DIGITS}}"
    )


def _tail(entry: Entry) -> str:
    if entry.target:
        return f" -> {printable(entry.target)}"
    return " (attributes only: its source is not known)" if entry.opaque else ""


def _diff(args: argparse.Namespace) -> int:
    """Print what changed; without numbers, what the current generation changed."""
    store = Store(args.host)
    new = _generation(args.host, args.new)
    old_number = args.old if args.old is not None else new.number - 1
    if args.old is not None and args.new is None and args.old == new.number:
        raise RefusedError("that is the current generation", hint="baseline diff OLD NEW")
    old_entries = _generation(args.host, old_number).entries if old_number > 0 else {}
    changed = False
    for path in sorted(set(old_entries) | set(new.entries)):
        before, after = old_entries.get(path), new.entries.get(path)
        if before != after:
            changed = True
            for line in _describe(store, path, before, after):
                print(line)
    if not changed:
        print("no difference")
    return Exit.OK


def _describe(
    store: Store, path: str, before: Entry | None, after: Entry | None
) -> Iterator[str]:
    if before is None or after is None:
        yield f"{'added' if before is None else 'removed'}: {printable(path)}"
        return
    for name in _DESCRIBED:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield f"{printable(path)}: {name} {_value(name, old)} -> {_value(name, new)}"
    if before.mode != after.mode:
        yield f"{printable(path)}: mode {before.mode:04o} -> {after.mode:04o}"
    if before.digest != after.digest:
        yield from _content_diff(store, before, after)


def _value(name: str, value: object) -> str:
    """Return the value of a field of an entry, short and safe to show."""
    if name in {"answers", "builder"}:
        value = str(value)[:_DIGITS]
    elif name == "sources" and isinstance(value, tuple):
        value = ", ".join(f"{path} {digest[:_DIGITS] or '-'}" for path, digest in value)
    return printable(str(value)[:_LONGEST]) or "-"


def _content_diff(store: Store, before: Entry, after: Entry) -> Iterator[str]:
    """Yield a unified diff of text; secrets are held by attributes and never get here."""
    path = printable(after.path)
    if after.role is Role.MAP or Class.ATTRIBUTES in {before.cls, after.cls}:
        yield f"{path}: content changed"
        return
    old, new = (store.object(entry.digest) if entry.digest else b"" for entry in (before, after))
    yield from unified(after.path, old, new)


def _verify(args: argparse.Namespace) -> int:
    store = Store(args.host)
    if not store.has_baseline():
        store.current()  # says how to make the first
    faults = retention.verify(args.host) + trust.signature_faults(args.host, store)
    for fault in faults:
        print(fault)
    if faults:
        return Exit.REFUSED
    print(f"{len(store.numbers())} generations, every digest right, the chain unbroken")
    return Exit.OK


def _rollback(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    old = _generation(host, args.number)
    settings = config.load(host)
    proposal = propose.Proposal.of(old)
    worse: list[str] = []
    try:
        current = Store(host).current()
    except StoreError as error:  # damaged: going back is a way out
        proposal.warnings.append(f"{worsening.UNKNOWN}: {error}")
    else:
        worse = worsening.require_no_worse(host, settings, current, proposal, force=args.force)
    generation, outcome = commit.commit_and_apply(
        host, settings, proposal, reason=f"rollback to {args.number}: {args.reason}"
    )
    commit.announce(host, generation, worse)
    for warning in [*proposal.warnings, *(f"forced: {text}" for text in worse)]:
        warn(warning)
    print(f"generation {generation.number} has the content of {args.number}")
    return say_outcome(outcome)


def _prune(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    done = retention.prune(host, config.load(host), args.keep, by=commit.caller())
    for note in done.notes:
        say(note)
    if args.json:
        document = {
            "schema": 1,
            "removed": done.generations,
            "kept": done.kept,
            "objects": done.objects,
            "freed_bytes": done.freed_bytes,
            "notes": done.notes,
        }
        print(json.dumps(document, indent=2, sort_keys=True))
    else:
        print(
            f"{len(done.generations)} generations and {done.objects} objects removed, "
            f"{done.freed_bytes / 1024:.0f} KiB freed; {len(done.kept)} generations are kept"
        )
    return Exit.OK
