# SPDX-License-Identifier: Apache-2.0
"""Suggestions as a fragment of hardend.toml, for people and for ``conf.d``."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator

from hardend.model import printable
from hardend.suggest import Suggestion, Suggestions

_WIDTH = 78
_HEAD = (
    "hardend suggest: read it, keep what is right in /etc/hardend/conf.d/local.toml, then hardend config"
    " check, hardend approve --reason TEXT and systemctl restart hardend."
)
_UNKNOWN = "Not recommended, for nobody is known who has to: take the # away only where you know better."


def fragment(found: Suggestions) -> str:
    """Return a TOML document with every suggestion and why; what nobody is known for is commented out."""
    lines = [*_comment(_HEAD), ""]
    by_class = [item for item in found.items if item.block is None]
    if by_class:
        lines += ["[paths.classes]", ""]
        for item in by_class:
            lines += [*_reasons(item), *_entry(item, [f"{_text(item.path)} = {_text(item.cls.value)}"]), ""]
    for item in found.items:
        if item.block is not None:
            keys = ("path", "begin", "end", "pattern", "reason")
            given = [(key, getattr(item.block, key)) for key in keys]
            body = ["[[blocks]]", *(f"{key} = {_text(value)}" for key, value in given if value)]
            lines += [*_reasons(item), *_entry(item, body), ""]
    if not found.items:
        lines += [*_comment("Nothing is to be added: nobody was found who writes what is held."), ""]
    for note in found.notes:
        lines += [*_comment(f"Note: {note}"), ""]
    return "\n".join(lines)


def as_json(found: Suggestions) -> dict[str, object]:
    """Return what ``hardend suggest --json`` prints."""
    return {
        "schema": 1,
        "classes": [
            {"path": item.path, "class": item.cls.value, "known": item.known, "why": item.why}
            for item in found.items
            if item.block is None
        ],
        "blocks": [
            {
                "path": item.block.path,
                "begin": item.block.begin,
                "end": item.block.end,
                "pattern": item.block.pattern,
                "reason": item.block.reason,
                "why": item.why,
            }
            for item in found.items
            if item.block is not None
        ],
        "notes": found.notes,
    }


def _reasons(item: Suggestion) -> Iterator[str]:
    for why in item.why:
        yield from _comment(why[:1].upper() + why[1:] + ".")
    if not item.known:
        yield from _comment(_UNKNOWN)


def _entry(item: Suggestion, lines: Iterable[str]) -> list[str]:
    """Return the lines, commented out where nobody is known, or where TOML cannot say a name."""
    pattern = item.block.pattern if item.block is not None else ""
    sure = item.known and _is_text(item.path) and _is_text(pattern)
    return [line if sure else f"# {line}" for line in lines]


def _comment(sentence: str) -> list[str]:
    wrapped = textwrap.wrap(printable(sentence), _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [f"# {line}" for line in wrapped]


def _is_text(name: str) -> bool:
    return name.isprintable() or not name


def _text(value: str) -> str:
    """Return a basic string of TOML; what it cannot hold is shown as it would be on a terminal."""
    return json.dumps(value if value.isprintable() else printable(value), ensure_ascii=False)
