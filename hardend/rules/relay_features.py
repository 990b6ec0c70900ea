# SPDX-License-Identifier: Apache-2.0
"""Which FEATUREs about relaying made a .cf, told from its rulesets and maps alone (cf/m4/proto.m4).

The ``##### $Id: NAME.m4`` comments are only a proof of origin, and hand-edited files have none. What is
looked for are the rules that a FEATURE adds, takes away or changes, also under FEATURE(`delay_checks'),
with any map, any text of the denial, and in rulesets that were edited by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from hardend.formats.cf import Cf
from hardend.formats.cf_rulesets import RewriteRule, Ruleset, rulesets

# Where m4 decides on a recipient: all of it in check_rcpt before 8.10, and checkrcpt with delay_checks.
_ENTRIES = ("check_rcpt", "checkrcpt", "Basic_check_rcpt")
_RELAY_SETS = (*_ENTRIES, "Rcpt_ok", "Relay_ok")
_MAIL_SETS = ("check_mail", "checkmail", "Basic_check_mail")
# What they return is believed when it begins with $#, and ignored otherwise (tried with 8.17.1).
_LOCAL_SETS = ("Local_check_rcpt", "Local_Relay_Auth")

# A left side that every address matches, or every host and address with the $| of check_relay.
_ANYTHING = re.compile(r"(?:\$[*+-]|[<>@.]|\$\|)*\$[*+][<>.]*(?:\$\|\$[*+][<>.]*)?")
_FINAL = re.compile(r"(?:\$[@:])?\$#(?!error|discard|temp)[a-z]")
_RETURNED = re.compile(r"\$@(?:relay|ok)(?![a-z])")
_SENDER = re.compile(r"\$&(?:f|\{mail_(?:addr|from)\})")
_LOADED = re.compile(r"\$:(?!.*\$[1-9])")
_LOOKUP = re.compile(r"\$[(\[&>]")
_ZONE = re.compile(r"\$\(\s*(\w[\w.]*)\s+((?:\$\d\s*\.\s*)+)([A-Za-z0-9][\w.-]*?)\.?\s+\$")
_NO_DOMAIN = re.compile(r'"\d{3}domainname')
_OF_ADDRESSES = 4


@dataclass(frozen=True, slots=True)
class Blocklist:
    """A list that is asked over DNS: its zone, the FEATURE that asks it, the line of the look-up."""

    zone: str
    feature: str
    line: int


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A rule that accepts everything that reaches it; ``sure`` when everything does reach it.

    ``lines`` are its own and those of the rules behind it in the same ruleset that would do the same.
    """

    ruleset: str
    lines: tuple[int, ...]
    sure: bool

    @property
    def line(self) -> int:
        """The line of the rule that decides."""
        return self.lines[0]


def has_rulesets(cf: Cf) -> bool:
    """Return whether a .cf has any rule; Sendmail accepts no mail with one that has none."""
    return any(known.rules for known in rulesets(cf).values())


@lru_cache(maxsize=4)
def features(cf: Cf) -> Mapping[str, int]:
    """Return the FEATUREs of a .cf, each with the line that shows it, 0 where a whole ruleset lacks.

    Names are those of cf/README. ``relay_mail_from domain`` stands beside ``relay_mail_from`` where its
    argument was given; blocklist_recipients also stands for its old name, which leaves no other trace.
    """
    found: dict[str, int] = {}
    for name, lines in (
        ("promiscuous_relay", _promiscuous(cf)),
        *_sender_relaying(cf),
        ("relay_based_on_MX", _accepting(cf, "<$*:$=w.:$*>$*")),
        ("relay_entire_domain", _accepting(cf, "$=m")),
        ("relay_hosts_only", _accepting(cf, "$+<@$=R>")),
        ("loose_relay_check", _loose(cf)),
        ("access_db", (item.line for item in cf.maps() if item.name == "access")),
        ("blocklist_recipients", _blocklisting(cf)),
        ("accept_unqualified_senders", _unqualified(cf)),
        ("accept_unresolvable_domains", _unresolvable(cf)),
        ("use_cw_file", (item.line for item in cf.class_files() if item.name == "w")),
        ("use_ct_file", (item.line for item in cf.class_files() if item.name == "t")),
        ("delay_checks", _delayed(cf)),
        *((item.feature, (item.line,)) for item in blocklists(cf)),
    ):
        first = next(iter(lines), None)
        if first is not None:
            found.setdefault(name, first)
    return MappingProxyType(found)


def relay_files(cf: Cf) -> list[str]:
    """Return the files of class R: relay-domains, and those of RELAY_DOMAIN_FILE."""
    return [item.path for item in cf.class_files() if item.name == "R" and not item.program]


def trusted_mechanisms(cf: Cf) -> list[str]:
    """Return the mechanisms of TRUST_AUTH_MECH: who signs in with one of them may relay."""
    return [word.text for word in cf.class_words("TrustAuthMech")]


def blocklists(cf: Cf) -> list[Blocklist]:
    """Return the lists of rbl, dnsbl, enhdnsbl and rhsbl, in the order they are asked."""
    classes = {item.name: item.map_class for item in cf.maps()}
    found = []
    for line in cf.lines:
        match = _ZONE.search(line.text.decode("utf-8", "surrogateescape")) if line.kind == "R" else None
        if match:
            by_address = match[2].count("$") == _OF_ADDRESSES
            feature = {"ednsbl": "enhdnsbl", "host": "rbl"}.get(match[1], "dnsbl")
            if by_address or classes.get(match[1]) in {"dns", "host"}:
                zone = match[3].lower()
                found.append(Blocklist(zone, feature if by_address else "rhsbl", line.number))
    return found


def acceptances(cf: Cf) -> list[Acceptance]:
    """Return the rules that let every recipient pass, whoever sends: written by hand, m4 writes none."""
    known = rulesets(cf)
    found = [_acceptance(known[name], _FINAL.match) for name in _LOCAL_SETS if name in known]
    found += [_acceptance(known[name], _accepts) for name in _RELAY_SETS if name in known]
    return [item for item in found if item is not None]


def local_acceptances(cf: Cf, name: str) -> list[Acceptance]:
    """Return the rule of a local ruleset (Local_check_relay, Local_check_mail) that ends all checks."""
    known = rulesets(cf).get(name)
    found = _acceptance(known, _FINAL.match) if known else None
    return [found] if found else []


# What the rulesets say ----------------------------------------------------------------------------


def _rules(cf: Cf, names: Iterable[str]) -> Iterator[RewriteRule]:
    known = rulesets(cf)
    for name in names:
        if name in known:
            yield from known[name].rules


def _accepts(right: str) -> object:
    return _FINAL.match(right) or _RETURNED.match(right)


def _accepting(cf: Cf, left: str) -> list[int]:
    """Return the lines of rules that let a recipient or a client pass, with ``left`` on the left."""
    return [rule.line for rule in _rules(cf, _RELAY_SETS) if left in rule.left and _accepts(rule.right)]


def _promiscuous(cf: Cf) -> Iterator[int]:
    """Without the rule that denies what nothing allowed, all is allowed; its text does not matter."""
    denials = [rule for rule in _rules(cf, _ENTRIES) if _is_denial(rule)]
    if not denials:
        known = rulesets(cf)
        yield max((known[name].line for name in _ENTRIES if name in known), default=0)


def _is_denial(rule: RewriteRule) -> bool:
    return rule.right.startswith("$#error") and _ANYTHING.fullmatch(rule.left) is not None


def _sender_relaying(cf: Cf) -> Iterator[tuple[str, list[int]]]:
    """Between a look at the sender ($&f) and the next fresh value, what accepts believes the sender."""
    for name in (*_RELAY_SETS, "Local_check_rcpt"):
        sender, table = False, False
        for rule in _rules(cf, (name,)):
            if _SENDER.search(rule.right) and not rule.right.startswith("$:$1$|"):
                sender, table = True, False
            elif sender and rule.left == "$*" and _LOADED.match(rule.right):
                sender = False
            if not sender:
                continue
            if "$(access" in rule.right or "$>searchlist" in rule.right:
                table = True
                if "<d:" in rule.right or "<e:" in rule.right:
                    yield "relay_mail_from domain", [rule.line]
            elif _FINAL.match(rule.right) or (name != "Local_check_rcpt" and _accepts(rule.right)):
                yield ("relay_mail_from" if table else "relay_local_from"), [rule.line]


def _loose(cf: Cf) -> Iterator[int]:
    known = rulesets(cf)
    strict = any("$>parserecipient" in rule.right for rule in _rules(cf, _RELAY_SETS))
    if not strict and "Rcpt_ok" in known and "ParseRecipient" in known:
        yield next((rule.line for rule in known["Rcpt_ok"].rules), known["Rcpt_ok"].line)


def _blocklisting(cf: Cf) -> list[int]:
    """Return the lines at which REJECT of a recipient is obeyed."""
    rules = _rules(cf, _RELAY_SETS)
    return [rule.line for rule in rules if rule.left == "<reject>$*" and rule.right.startswith("$#error")]


def _unqualified(cf: Cf) -> Iterator[int]:
    rules = [rule for rule in _rules(cf, _MAIL_SETS) if rule.right.startswith("$#error")]
    if not any(rule.left == "<?$+>$*" or _NO_DOMAIN.search(rule.right) for rule in rules):
        yield _line_of(cf, _MAIL_SETS)


def _unresolvable(cf: Cf) -> Iterator[int]:
    rules = list(_rules(cf, _MAIL_SETS))
    if not any("<perm>$)" in rule.right or "<perm>$]" in rule.right for rule in rules):
        marked = [rule.line for rule in rules if rule.left == "<?>$*<@$+>" and rule.right.startswith("$:<")]
        yield from marked or [_line_of(cf, _MAIL_SETS)]


def _delayed(cf: Cf) -> list[int]:
    return [rule.line for rule in _rules(cf, ("check_rcpt",)) if "$>checkrcpt" in rule.right]


def _line_of(cf: Cf, names: Iterable[str]) -> int:
    known = rulesets(cf)
    return max((known[name].line for name in names if name in known), default=0)


def _acceptance(known: Ruleset, accepts: Callable[[str], object]) -> Acceptance | None:
    """Return the rule that accepts all that reaches it.

    It is not sure that all does where something was looked up before and a rule refused some cases.
    """
    refused = looked_up = sure = False
    lines: list[int] = []
    for rule in known.rules:
        if accepts(rule.right):
            if _ANYTHING.fullmatch(rule.left):
                sure = sure or not (lines or (refused and looked_up))
                lines.append(rule.line)
        elif not lines:
            refused = refused or rule.right.startswith(("$@", "$#"))
            looked_up = looked_up or _LOOKUP.search(rule.right) is not None
    return Acceptance(known.name, tuple(lines), sure) if lines else None
