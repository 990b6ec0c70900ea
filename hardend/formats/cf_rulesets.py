# SPDX-License-Identifier: Apache-2.0
"""The rulesets of a sendmail.cf (Sendmail op guide, sections 5.1 and 5.2): S and R lines.

Read as readcf() reads them: an S line that names a ruleset again goes on with it; names are told apart
by case; the two sides of an R line are parted by tabs, and what follows a third tab is a comment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from hardend.formats.cf import Cf

_RULESET = re.compile(r"S[ \t]*(\w+)(?:[ \t]*=[ \t]*(\w+))?")
_SIDES = re.compile(r"R([^\t]*)\t+([^\t]*)", re.DOTALL)
# Class and macro names keep their case; all other tokens match in any case (match() in parseaddr.c).
_PIECE = re.compile(r"\$[=~&?]?(?:\{[^}]*\}|.)|\s+|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RewriteRule:
    """An R line: its two sides without blanks and in lower case, and the number of its line.

    Sides of different spelling that sendmail reads as the same tokens are equal.
    """

    line: int
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class Ruleset:
    """A ruleset by the name it is called by: the line of its first S line, and its rules in order."""

    name: str
    line: int
    rules: tuple[RewriteRule, ...]


def squashed(text: str) -> str:
    """Return one side of a rule as tokens are compared: no blanks, lower case but for ``$`` names."""
    return "".join(_squash(piece) for piece in _PIECE.findall(text))


def rewrite_rule(text: str) -> RewriteRule | None:
    """Return the rule of an R line without its number; None for another line, or one without a tab."""
    match = _SIDES.match(text)
    return RewriteRule(0, squashed(match[1]), squashed(match[2])) if match else None


@lru_cache(maxsize=4)
def rulesets(cf: Cf) -> dict[str, Ruleset]:
    """Return the rulesets of a .cf by name, each under its number too (``Sname=97``)."""
    names: dict[str, str] = {}
    found: dict[str, tuple[int, list[RewriteRule]]] = {}
    current = "0"
    for line in cf.lines:
        if line.kind == "S":
            current = _entered(line.text.decode("utf-8", "surrogateescape"), names) or current
            found.setdefault(current, (line.number, []))
        elif line.kind == "R":
            rule = rewrite_rule(line.text.decode("utf-8", "surrogateescape"))
            if rule is not None:
                rules = found.setdefault(current, (line.number, []))[1]
                rules.append(RewriteRule(line.number, rule.left, rule.right))
    known = {key: key for key in found} | names
    return {name: Ruleset(name, found[key][0], tuple(found[key][1])) for name, key in known.items()}


def _entered(text: str, names: dict[str, str]) -> str:
    """Return the key of the ruleset that an S line begins or goes on with; "" for junk."""
    match = _RULESET.match(text)
    if match is None:
        return ""
    if match[2]:
        names.setdefault(match[1], match[2])
    return names.get(match[1], match[1])


def _squash(piece: str) -> str:
    if piece.isspace():
        return ""
    return piece if piece[0] == "$" else piece.lower()
