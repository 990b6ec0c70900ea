# SPDX-License-Identifier: Apache-2.0
"""``hardend quarantine``: what restores replaced: listed, shown, compared; used and purged elsewhere.

Exit status: 0 done; 1 nothing is kept that fits; 2 usage; 4 refused.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from hardend import quarantine_use
from hardend.attribution import candidates_of, sentence
from hardend.cli import quarantine_acts
from hardend.cli.messages import say
from hardend.cli.options import common_options, json_option
from hardend.errors import Exit, RefusedError
from hardend.model import FileType, printable
from hardend.quarantine_reader import Kept, Shelf
from hardend.textdiff import safe_line

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_AGO = re.compile(r"(\d{1,9})([smhdw])")
_HEAD = ("AGE", "PATH", "DRIFT", "KIND", "SIZE", "WHO", "ID", "INCIDENT", "BROKE")
_PATH_WIDTH = 60  # a longer one pushes its own line only
_ENTRIES_SHOWN = 50
_KIB = 1024
_WHO = (("exe", ""), ("pid", "pid "), ("uid", "uid "), ("loginuid", "login uid "), ("unit", ""))
_FIELDS = (
    *("path", "time", "age", "drift", "broke", "kind", "owner", "mode", "size", "modified", "flags"),
    *("target", "device", "xattrs", "class", "generation", "incident", "who", "trusted", "content", "note"),
)


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its own verbs."""
    quarantine = verbs.add_parser("quarantine", help="what restores replaced: list, show, use, purge")
    own = quarantine.add_subparsers(metavar="VERB", required=True)
    common = common_options()
    listing = own.add_parser("list", parents=[common], help="everything that is kept, newest last")
    listing.add_argument("--path", default="", help="only of this path and what is below it")
    listing.add_argument(
        "--since", type=_moment, default=0.0, metavar="TIME", help='30m, 2h, 7d ago, or "2026-11-24 06:15"'
    )
    listing.add_argument("--kind", action="append", default=[], choices=[kind.value for kind in FileType])
    json_option(listing, "everything that is known of them")
    listing.set_defaults(run=_list)
    show = own.add_parser("show", parents=[common], help="what is known of an object, or its bytes")
    show.add_argument("id", metavar="ID", help="or any part of it that no other has")
    what = show.add_mutually_exclusive_group()
    what.add_argument("--content", action="store_true", help="print its bytes, unchanged")
    what.add_argument("--json", action="store_true", help="print the record as JSON")
    show.add_argument("--inside", default="", metavar="NAME", help="with --content: this file of a directory")
    show.set_defaults(run=_show)
    diff = own.add_parser("diff", parents=[common], help="how an object differs from the baseline")
    diff.add_argument("id", metavar="ID")
    json_option(diff, "the difference")
    diff.set_defaults(run=_diff)
    quarantine_acts.register(own, common, _ago)


def _ago(text: str) -> float:
    """Return seconds for an age (argparse type)."""
    if match := _AGO.fullmatch(text):
        return float(int(match[1]) * _UNITS_S[match[2]])
    raise argparse.ArgumentTypeError(f"{printable(text)}: not an age such as 30m, 2h, 7d")


def _moment(text: str) -> float:
    """Return realtime seconds for an age or a local time (argparse type)."""
    if _AGO.fullmatch(text):
        return time.time() - _ago(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise argparse.ArgumentTypeError(
            f"{printable(text)}: neither an age (30m, 2h, 7d) nor a time (2026-11-24 06:15)"
        ) from error


def _list(args: argparse.Namespace) -> int:
    with Shelf(args.host) as shelf:
        found = [kept for kept in shelf.all(args.since) if _fits(kept, args.path, args.kind)]
    if args.json:
        document = {
            "schema": 1,
            "objects": [_document(kept) for kept in found],
            "faults": list(shelf.faults),
        }
        print(json.dumps(document, indent=2, sort_keys=True))
    elif found:
        _print_table([_row(kept, time.time()) for kept in found])
    say(*shelf.faults)
    if not found and not args.json:
        say("nothing is kept that fits")
    return Exit.OK if found else Exit.DRIFT


def _fits(kept: Kept, path: str, kinds: Sequence[str]) -> bool:
    if kinds and kept.kind not in kinds:
        return False
    top = path.rstrip("/")
    return not top or kept.path == top or kept.path.startswith(f"{top}/")


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (_HEAD, *rows)) for column in range(len(_HEAD))]
    widths[1] = min(widths[1], _PATH_WIDTH)
    for row in (_HEAD, *rows):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


def _row(kept: Kept, now: float) -> tuple[str, ...]:
    incident = "first" if kept.is_first else printable(kept.incident)
    return (
        _age(now - kept.time) if kept.time else "?",
        printable(kept.path) or "?",
        printable(",".join(kept.drift)) or ("-" if kept.path else "?"),  # "-": replaced by an approval
        printable(kept.kind) or "?",
        _size(kept.size),
        _who(kept.who) or "-",
        kept.id,
        f"{incident}, waits to be collected" if kept.waits else incident,
        printable(",".join(kept.rules)),
    )


def _age(seconds: float) -> str:
    for unit in ("w", "d", "h", "m"):
        if seconds >= 2 * _UNITS_S[unit]:
            return f"{int(seconds // _UNITS_S[unit])}{unit}"
    return f"{max(0, int(seconds))}s"


def _size(size: int) -> str:
    amount = float(size)
    for unit in ("", "K", "M", "G", "T"):
        if amount < _KIB:
            return f"{amount:.0f}{unit}" if not unit or amount >= 10 else f"{amount:.1f}{unit}"  # noqa: PLR2004 - two digits
        amount /= _KIB
    return f"{amount:.0f}P"


def _who(who: Mapping[str, object], *, in_full: bool = False) -> str:
    """Return what is known of the writer, in the words of hardend events."""
    known = ", ".join(f"{label}{printable(str(who[name]))}" for name, label in _WHO if name in who)
    if not (candidates := candidates_of(who)):
        return known
    if not in_full:
        return f"{known or '?'} (one of {len(candidates)})"
    return f"not known for a fact: {', or '.join(sentence(one) for one in candidates)}"


def _document(kept: Kept) -> dict[str, object]:
    """Return the documented form of an object in ``list --json``."""
    return {
        "id": kept.id,
        "path": kept.path,
        "time": _time(kept),
        "drift": list(kept.drift),
        "kind": kept.kind,
        "size": kept.size,
        "class": kept.cls,
        "generation": kept.generation,
        "rules": list(kept.rules),
        "incident": kept.incident,
        "first": kept.is_first,
        "who": dict(kept.who),
        "digest": kept.digest,
        "stored": "" if kept.waits else kept.stored,
        "waits": kept.waits,
    }


def _time(kept: Kept) -> str:
    if not kept.time:
        return ""
    return datetime.fromtimestamp(kept.time, UTC).isoformat(timespec="microseconds")


def _show(args: argparse.Namespace) -> int:
    with Shelf(args.host) as shelf:
        kept = shelf.find(args.id)
        if args.content:
            return _print_content(shelf, kept, args.inside)
    if args.json:
        print(json.dumps({"schema": 1, **_document(kept), "record": kept.record}, indent=2, sort_keys=True))
    else:
        _print_record(kept)
    say(*shelf.faults)
    return Exit.OK


def _print_content(shelf: Shelf, kept: Kept, inside: str) -> int:
    """Print the bytes; a terminal gets only what it cannot take for commands."""
    digest = kept.content_of(inside)
    shelf.check(digest)
    if sys.stdout.isatty() and not _is_plain(b"".join(shelf.blocks(digest))):
        raise RefusedError(
            f"{kept.id}: binary, or with control characters: not for a terminal",
            hint=f"hardend quarantine show {kept.id} --content | cat -v, or restore {kept.id} --to FILE",
        )
    sys.stdout.flush()
    for block in shelf.blocks(digest):
        sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()
    if kept.stored == "truncated" and not inside:
        say(f"only the beginning of {kept.size} bytes was kept")
    return Exit.OK


def _is_plain(data: bytes) -> bool:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(part.isprintable() for line in text.split("\n") for part in line.split("\t"))


def _print_record(kept: Kept) -> None:
    print(kept.id)
    record = kept.record
    plain = ("flags", "target", "device")
    facts = {name: str(record[name]) for name in plain if record.get(name)}
    facts["path"] = kept.path or "not known: its record was lost in a crash"
    facts["time"] = _time(kept)
    facts["age"] = _age(time.time() - kept.time) if kept.time else ""
    facts["drift"] = " ".join(kept.drift)
    facts["broke"] = " ".join(kept.rules)
    facts["kind"] = kept.kind
    facts["size"] = f"{kept.size} bytes"
    facts["class"] = kept.cls
    facts["generation"] = str(kept.generation or "")
    facts["incident"] = "began with it" if kept.is_first else f"began with {kept.incident}"
    facts["who"] = _who(kept.who, in_full=True) or "not known"
    facts["trusted"] = str(record.get("trusted", ""))
    facts["content"] = _content_note(kept)
    facts.update(_owner(record))
    facts["note"] = _notes(record)
    for name in _FIELDS:
        if facts.get(name):
            print(f"  {name:<10} {_printed(facts[name])}")
    for text in kept.faults:
        print(f"    {_printed(text)}")
    _print_entries(kept)


def _printed(text: str) -> str:
    return text if text.isprintable() else printable(text)


def _owner(record: Mapping[str, object]) -> dict[str, str]:
    facts = {}
    if "uid" in record:
        facts["owner"] = f"{record['uid']}:{record.get('gid', '?')}"
    mode, modified, xattrs = record.get("mode"), record.get("mtime_ns"), record.get("xattrs")
    if isinstance(mode, int):
        facts["mode"] = f"{mode:04o}"
    facts["modified"] = quarantine_use.moment(modified) or ""
    if isinstance(xattrs, list):
        facts["xattrs"] = " ".join(str(pair[0]) for pair in xattrs if isinstance(pair, list) and pair)
    return facts


def _content_note(kept: Kept) -> str:
    if kept.waits:
        return "waits in /etc/hardend/taken to be collected"
    if kept.stored == "truncated":
        return f"only its beginning was kept: {kept.digest or 'see below'}"
    if kept.stored == "whole":
        return f"kept whole: {kept.digest or 'see below'}"
    return "not kept"


def _notes(record: Mapping[str, object]) -> str:
    words = {
        "recovered": "its record was lost in a crash and made anew",
        "unstable": "it was written to while it was copied",
        "gone": "it was gone before it was collected",
        "mended": "put right where it stands: this tells what its attributes were",
    }
    return "; ".join(text for name, text in words.items() if record.get(name))


def _print_entries(kept: Kept) -> None:
    entries = kept.entries
    for item in entries[:_ENTRIES_SHOWN]:
        mode = item.get("mode")
        shown = f"{mode:04o}" if isinstance(mode, int) else "?"
        target = f" -> {item['target']}" if item.get("target") else ""
        held = "" if item.get("digest") or item.get("kind") != FileType.FILE else " (content not kept)"
        words = f"{item.get('kind', '?')!s:9} {shown} {item.get('uid', '?')}:{item.get('gid', '?')}"
        name = safe_line(f"{item.get('name', '?')}{target}")
        print(f"    {printable(words)} {item.get('size', '?')!s:>8}  {name}{held}")
    if len(entries) > _ENTRIES_SHOWN:
        print(f"    ... and {len(entries) - _ENTRIES_SHOWN} more: --json lists them")


def _diff(args: argparse.Namespace) -> int:
    with Shelf(args.host) as shelf:
        kept = shelf.find(args.id)
        found = quarantine_use.compare(shelf, kept)
    if args.json:
        document = {
            "schema": 1,
            "id": kept.id,
            "path": kept.path,
            "generation": found.generation,
            "attributes": [
                {"name": name, "approved": approved, "kept": now} for name, approved, now in found.attributes
            ],
            "content": "\n".join(found.content),
            "notes": found.notes,
        }
        print(json.dumps(document, indent=2, sort_keys=True))
    else:
        for line in _differences(kept, found):
            print(line)
    say(*shelf.faults)
    return Exit.OK


def _differences(kept: Kept, found: quarantine_use.Difference) -> Iterable[str]:
    lines = [
        f"{printable(kept.path)}: {printable(name)} {printable(approved)} -> {printable(now)}"
        for name, approved, now in found.attributes
    ]
    lines += [*found.notes, *found.content]
    return lines or [f"no difference from generation {found.generation}"]
