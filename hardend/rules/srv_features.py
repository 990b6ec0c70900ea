# SPDX-License-Identifier: Apache-2.0
"""What a client may do that others may not, or the other way round: srv_features (cf/README).

The letters come from entries of access, and from the rules of LOCAL_SRV_FEATURES in the .cf itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hardend.formats.cf import Cf
from hardend.rules.documents import Documents

ENTRY = re.compile(rb"srv_features:", re.IGNORECASE)
_RULESETS = frozenset({"srv_features", "local_srv_features"})
_ANSWER = re.compile(r"\$#\s*(.*)", re.DOTALL)


def access_table(documents: Documents) -> bytes:
    """Return the access table; nothing where there is none. Raises UnknownError."""
    path = documents.layout.access
    is_there = documents.is_there(path) or path in documents.unreadable
    return documents.read(path) if is_there else b""


def of_entry(key: str, value: str) -> list[str]:
    """Return the words of an entry of access, none where it is about something else."""
    return value.split() if key.lower().startswith("srv_features:") else []


def of_rules(cf: Cf) -> Iterator[tuple[int, list[str]]]:
    """Yield line and words of each rule that answers with features."""
    ruleset = ""
    for line in cf.lines:
        text = line.text.decode("utf-8", "surrogateescape")
        if line.kind == "S":
            ruleset = text[1:].split("=")[0].strip().lower()
        elif line.kind == "R" and ruleset in _RULESETS:
            sides = [part for part in text[1:].split("\t") if part]
            answer = _ANSWER.match(sides[1]) if len(sides) > 1 else None
            if answer and answer[1].split():
                yield line.number, answer[1].split()
