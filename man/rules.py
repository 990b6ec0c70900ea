#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints hardend-rules(7) from the catalogue: ``PYTHONPATH=. python3 man/rules.py > man/hardend-rules.7``."""

from __future__ import annotations

import difflib
import re
import sys
import textwrap
from collections.abc import Iterator

from hardend.rules.catalogue import CATALOGUE
from hardend.rules.rule import Example, Rule, Section

_WIDTH = 76
_HEAD = r""".\" SPDX-License-Identifier: Apache-2.0
.\" From the catalogue of rules, by man/rules.py: not to be edited.
.Dd November 24, 2026
.Dt HARDEND-RULES 7
.Os
.Sh NAME
.Nm hardend-rules
.Nd what a hardened Sendmail host is, rule by rule
.Sh DESCRIPTION
.Ql hardend audit
judges a host by these rules,
.Ql hardend harden
makes it meet them, and
.Ql hardend explain ID
prints one of them with all its examples.
.Pp
A verdict is pass, fail, waived (see
.Bq waivers
in
.Xr hardend.toml 5 ) ,
not-applicable or unknown.
A severity is high, medium, low or advice; advice never fails an audit.
The fix says who decides:
.Bl -tag -width never
.It Cm auto
Nobody is hit by it;
.Ql hardend harden --yes
makes it.
.It Cm ask
Somebody may be hit by it;
.Ql hardend harden
names whom and asks.
.It Cm never
It is not ours to make.
.El
"""
_TAIL = r""".Sh SEE ALSO
.Xr hardend.toml 5 ,
.Xr hardend 8
.Sh STANDARDS
What the UNIX STIGs ask of Sendmail, and the rules that answer it.
Where the fix of a STIG is wrong, the rule says why ours differs.
"""
# What no rule answers, and why.
_UNANSWERED = {
    "GEN004600": (
        "is the package manager's: distributions mend old versions, and a number says nothing of that."
    ),
    "GEN004620": (
        "was mended before 8.6: no Sendmail of this century knows DEBUG, and each attempt is logged as "
        "critical, so that hardend never sends it."
    ),
    "GEN004700": "is the same for WIZ.",
    "RHEL-08-040002": "wants Sendmail removed: then nothing is left to harden.",
}
_TITLES = {
    Section.SMRSH: "Programs that mail may run",
    Section.ALIASES: "Aliases",
    Section.PRIVACY: "Privacy",
    Section.GREETING: "Greeting and version",
    Section.QUEUE_VIEWING: "Viewing the queue",
    Section.QUEUE_RUNNING: "Running the queue",
    Section.IMMUTABLE: "Immutable files",
    Section.RELAYING: "Relaying",
    Section.EXPOSURE: "Exposure: what the guide lacks",
}


def manual() -> str:
    """Return hardend-rules(7); the same catalogue gives the same text."""
    return _HEAD + "".join(f"{line}\n" for line in _sections()) + _TAIL + _standards()


def _sections() -> Iterator[str]:
    yield ".Sh RULES"
    for section in Section:
        yield f".Ss {_TITLES[section]}"
        yield ".Bl -tag -width Ds"
        for rule in CATALOGUE:
            if rule.section is section:
                yield from _rule(rule)
        yield ".El"


def _standards() -> str:
    """Return which rules answer which of the STIGs' checks, and why no rule answers the others."""
    answers: dict[str, list[str]] = {}
    for rule in CATALOGUE:
        for name in (item.removeprefix("STIG ") for item in rule.references):
            if re.fullmatch(r"(?:GEN|AIX|RHEL-|SOL-|TOSS-)[\w.-]+", name):
                answers.setdefault(name, []).append(rule.id)
    lines = [".Bl -tag -width GEN004360"]
    for name in sorted({*answers, *_UNANSWERED}):
        lines.append(f".It {_literal(name)}")
        lines += _text(f"{', '.join(answers[name])}." if name in answers else _UNANSWERED[name])
    return "\n".join([*lines, ".El", ""])


def _rule(rule: Rule) -> Iterator[str]:
    yield f".It Cm {rule.id} Pq {rule.severity.value} , fix: {rule.fix.value}"
    yield from _text(f"{rule.title}.")
    yield ".Pp"
    yield from _text(rule.rationale)
    if rule.references:
        yield ".Pp"
        yield from _text(f"See {', '.join(rule.references)}.")
    example = next((each for each in rule.examples if not each.is_near_miss), None)
    if example is not None:
        yield ".Pp"
        yield from _text(f"Example: {example.title}")
        yield ".Bd -literal"
        yield from map(_literal, _shown(example))
        yield ".Ed"


def _shown(example: Example) -> Iterator[str]:
    """Yield the files that an example changes: lines that go with -, lines that come with +."""
    for path in dict.fromkeys((*example.before, *example.after)):
        mode = example.modes.get(path.rstrip("/"))
        if path not in example.after and " -> " not in (mode or ""):
            continue
        yield path + (f"  ({mode})" if mode else "")
        before = example.before.get(path, "").splitlines()
        after = (example.after.get(path, example.before.get(path)) or "").splitlines()
        diff = list(difflib.unified_diff(before, after, lineterm="", n=0))[2:]
        yield from (f"{line[:1]} {line[1:]}" for line in diff if not line.startswith("@@"))


def _text(text: str) -> Iterator[str]:
    """Yield running text: each sentence on lines of its own, as mdoc(7) wants it."""
    for sentence in re.split(r"(?<=[.!?]) +(?=[A-Z(])", " ".join(text.split())):
        roff = _literal(sentence).replace("FreeBSD", r"Free\&BSD")  # mdoc(7) has a macro for it
        for line in textwrap.wrap(roff, _WIDTH, break_on_hyphens=False, break_long_words=False):
            yield rf"\&{line}" if line.startswith((".", "'")) else line


def _literal(line: str) -> str:
    r"""Return a line that roff(7) takes as it is: no escape, no request, plain ASCII."""
    safe = line.expandtabs().replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    safe = safe.replace("`", r"\(ga").replace("^", r"\(ha").replace("~", r"\(ti")
    safe = "".join(c if c.isascii() and c.isprintable() else rf"\[u{ord(c):04X}]" for c in safe)
    return rf"\&{safe}" if safe.startswith((".", "'")) else safe


if __name__ == "__main__":
    sys.stdout.write(manual())
