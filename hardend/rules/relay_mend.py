# SPDX-License-Identifier: Apache-2.0
"""Taking a FEATURE about relaying out of a .cf that has no .mc: only where the lines are m4's own.

What is left is what m4 makes without the FEATURE, line for line (tests/unit/test_rules_relay.py compares
them). Rules that m4 does not write are left alone: what they do is their author's to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from hardend.formats.cf import Cf, Line
from hardend.formats.cf_rulesets import RewriteRule, rewrite_rule, rulesets
from hardend.rules.options import line_end
from hardend.rules.relay_features import blocklists, features

_ID = rb"#{5}[ \t]+\$Id: %s\.m4,"
_SENDER = (
    "R$*\t$: <?> $>CanonAddr $&f",
    "R<?> $+ < @ $+ . >\t<?> $1 < @ $2 >",
)
_SENDER_MAY = (
    "R<?> $+ < @ $=w >\t$@ RELAY",
    "R<?> $+ < @ $+ >\t$: <@> $>SearchList <! From> $| <F:$1@$2> <>",
    "R<?> $+ < @ $+ >\t$: <@> $>SearchList <! From> $| <F:$1@$2> <D:$2> <>",
    "R<?> $+ < @ $+ >\t$: <@> $>SearchList <! From> $| <F:$1@$2> <E:$2> <>",
    "R<@> <RELAY>\t$@ RELAY",
    'R<@> <<TMPF>>\t$#TEMP $@ 4.3.0 $: "451 Temporary system failure. Please try again later."',
)
_AFTER_SENDER = "R$*\t$: < $&{client_resolve} >"
_ADDRESS = "R$*\t$: $&{client_addr}"
_OCTETS = "$-.$-.$-.$-"


@dataclass(frozen=True, slots=True)
class _Block:
    """What a FEATURE writes: runs of rules by ruleset, other lines, and what stands there without it.

    ``instead`` goes where the first rule of the first run stood; ``before`` before a line of that text.
    """

    runs: tuple[tuple[str, tuple[str, ...]], ...]
    comments: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    instead: str = ""
    before: tuple[str, str] = ("", "")


_MX_FAILS = '$#TEMP $@ 4.4.0 $: "450 Can not check MX records for recipient host " $1'
_BLOCKS = {
    "relay_based_on_MX": _Block(
        runs=(
            (
                "Rcpt_ok",
                (
                    "R$+ < @ $+ >\t$: < : $(mxserved $2 $) : > $1 < @ $2 >",
                    f"R< : $* <TEMP> : > $*\t{_MX_FAILS}",
                    "R<$* : $=w . : $*> $*\t$@ RELAY",
                    "R< : $* : > $*\t$: $2",
                ),
            ),
            (
                "ParseRecipient",
                (
                    "R<NO> $* < @ $+ >\t$: <MX> < : $(mxserved $2 $) : > < $1 < @$2 > >",
                    f"R<MX> < : $* <TEMP> : > $*\t{_MX_FAILS}",
                    "R<MX> < $* : $=w. : $* > < $+ >\t$: <RELAY> $4",
                    "R<MX> < : $* : > < $+ >\t$: <NO> $2",
                ),
            ),
        ),
        comments=(
            "# MX map (to allow relaying to hosts that we MX for)",
            "# allow relaying for hosts which we MX serve",
        ),
        lines=("Kmxserved bestmx -z: -T<TEMP>",),
    ),
    "relay_entire_domain": _Block(
        runs=(
            ("Rcpt_ok", ("R$+ < @ $* $=m >\t$@ RELAY",)),
            ("Relay_ok", ("R<?> $* $=m\t$@ RELAY",)),
            ("ParseRecipient", ("R<NO> $* < @ $* $=m >\t$: <RELAY> $1 < @ $2 $3 >",)),
        ),
        comments=("# if we relay, check username portion for user%host so host can be checked also",),
    ),
    "loose_relay_check": _Block(
        runs=(("Rcpt_ok", ("R$*\t$: $>CanonAddr $1", "R$* < @ $* . >\t$1 < @ $2 >")),),
        instead="R$*\t\t\t$: $>ParseRecipient $1\t\tstrip relayable hosts",
    ),
    "accept_unresolvable_domains": _Block(
        runs=(("Basic_check_mail", ("R<?> $* < @ $+ >\t$: <OKR> $1 < @ $2 >",)),),
        instead=(
            "R<?> $* < @ $+ >\t$: <? $(resolve $2 $: $2 <PERM> $) > $1 < @ $2 >\n"
            "R<? $* <$->> $* < @ $+ >\n\t\t\t$: <$2> $3 < @ $4 >"
        ),
        before=(
            "C{ResOk}OKR",
            "# Resolve map (to check if a host exists in check_mail)\nKresolve host -a<OKR> -T<TEMP>",
        ),
    ),
}
_SENDER_FEATURES = ("relay_local_from", "relay_mail_from")
_SENDER_COMMENTS = (
    "# check whether FROM is allowed to use system as relay",
    "# check whether local FROM is ok",
)


def without_feature(cf: Cf, feature: str) -> Cf | None:
    """Return the .cf without a FEATURE; None where its lines are not those that m4 writes.

    relay_local_from and relay_mail_from go together: both believe the sender.
    """
    if feature in _SENDER_FEATURES:
        changed = _without_sender(cf)
        gone: tuple[str, ...] = _SENDER_FEATURES
    elif feature in _BLOCKS:
        changed = _without_block(cf, feature, _BLOCKS[feature])
        gone = (feature,)
    else:
        return None
    return changed if changed is not None and not set(gone) & set(features(changed)) else None


def without_blocklist(cf: Cf, zone: str) -> Cf | None:
    """Return the .cf that does not ask a list any more; None where its lines are not m4's own."""
    wanted = next((item for item in blocklists(cf) if item.zone == zone), None)
    while wanted is not None:
        numbers = _asking(cf, wanted.line)
        if not numbers:
            return None
        cf = _edited(cf, numbers, comments=(f"# DNS based IP address spam list {zone}",))
        wanted = next((item for item in blocklists(cf) if item.zone == zone), None)
    return cf


def without_lines(cf: Cf, numbers: Iterable[int]) -> Cf:
    """Return the .cf without these logical lines."""
    gone = set(numbers)
    return Cf(b"".join(line.raw for line in cf.lines if line.number not in gone))


def _without_sender(cf: Cf) -> Cf | None:
    rules = _rules_of(cf, "Relay_ok")
    start = _find(rules, _SENDER)
    if start is None:
        return None
    allowed = {_key(text) for text in _SENDER_MAY}
    end = start + len(_SENDER)
    while end < len(rules) and _sides(rules[end]) in allowed:
        end += 1
    if end == len(rules) or _sides(rules[end]) != _key(_AFTER_SENDER):
        return None
    numbers = {rule.line for rule in rules[start:end]}
    return _edited(cf, numbers, comments=_SENDER_COMMENTS, ids=_SENDER_FEATURES)


def _without_block(cf: Cf, feature: str, block: _Block) -> Cf | None:
    numbers: list[int] = []
    for name, texts in block.runs:
        rules = _rules_of(cf, name)
        start = _find(rules, texts)
        if start is not None:
            numbers += [rule.line for rule in rules[start : start + len(texts)]]
        elif not numbers:
            return None  # the run that makes the FEATURE
    replaced = {numbers[0]: block.instead} if block.instead else {}
    anchor, text = block.before
    if anchor:
        at = next((line.number for line in cf.lines if _is(line, anchor)), None)
        if at is None or any(item.name == "resolve" for item in cf.maps()):
            return None
        replaced[at] = f"{text}\n{anchor}"
    others = {line.number for line in cf.lines if any(_is(line, text) for text in block.lines)}
    return _edited(cf, {*numbers, *others}, replaced, comments=block.comments, ids=(feature,))


def _asking(cf: Cf, number: int) -> set[int]:
    """Return the lines of the rules that dnsbl or enhdnsbl write for one list; none for others."""
    for known in rulesets(cf).values():
        rules = known.rules
        at = next((index for index, rule in enumerate(rules) if rule.line == number), None)
        if at is None:
            continue
        if at == 0 or rules[at].left != _OCTETS or _sides(rules[at - 1]) != _key(_ADDRESS):
            return set()
        end = at + 1
        while end < len(rules) and rules[end].left.startswith("<?>") and _ends(rules[end]):
            end += 1
        # What follows must load its own workspace: then nothing can miss what is gone.
        fresh = end == len(rules) or (rules[end].left == "$*" and "$1" not in rules[end].right)
        return {rule.line for rule in rules[at - 1 : end]} if fresh else set()
    return set()


def _ends(rule: RewriteRule) -> bool:
    return rule.right in {"$:oksofar", "$:tmpok"} or rule.right.startswith(("$#error", "$#discard"))


def _edited(
    cf: Cf,
    numbers: Iterable[int],
    replaced: Mapping[int, str] | None = None,
    *,
    comments: tuple[str, ...],
    ids: tuple[str, ...] = (),
) -> Cf:
    """Return the .cf without these lines, and without the comments that speak of them only."""
    gone, replaced = set(numbers), replaced or {}
    marks = [re.compile(_ID % name.encode()) for name in ids]
    parts: list[bytes] = []
    after_mark = False
    for line, following in zip(cf.lines, _following(cf.lines, gone), strict=True):
        is_mark = any(mark.match(line.raw) for mark in marks)
        about = _text(line) in comments and following
        if line.number in replaced:
            text = replaced[line.number].encode() + b"\n"
            parts.append(text.replace(b"\n", line_end(line.raw)))
        elif not (line.number in gone or is_mark or about or (after_mark and not line.raw.strip())):
            parts.append(line.raw)
        after_mark = is_mark
    return Cf(b"".join(parts))


def _following(lines: tuple[Line, ...], gone: set[int]) -> Iterator[bool]:
    """Tell for each line whether what follows it, comments aside, is gone."""
    flags: list[bool] = []
    state = False
    for line in reversed(lines):
        flags.append(state)
        if line.kind != "#":
            state = line.number in gone
    return reversed(flags)


def _rules_of(cf: Cf, name: str) -> tuple[RewriteRule, ...]:
    known = rulesets(cf).get(name)
    return known.rules if known else ()


def _find(rules: tuple[RewriteRule, ...], texts: tuple[str, ...]) -> int | None:
    keys = [_key(text) for text in texts]
    sides = [_sides(rule) for rule in rules]
    starts = range(len(sides) - len(keys) + 1)
    return next((start for start in starts if sides[start : start + len(keys)] == keys), None)


def _sides(rule: RewriteRule) -> tuple[str, str]:
    return rule.left, rule.right


def _key(text: str) -> tuple[str, str]:
    rule = rewrite_rule(text)
    return (rule.left, rule.right) if rule else ("", "")


def _is(line: Line, text: str) -> bool:
    return line.text.decode("utf-8", "surrogateescape") == text


def _text(line: Line) -> str:
    return line.raw.decode("utf-8", "surrogateescape").strip() if line.kind == "#" else ""
