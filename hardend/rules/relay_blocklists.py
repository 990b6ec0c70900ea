# SPDX-License-Identifier: Apache-2.0
"""Section 8 of the guide: lists of spammers that are asked over DNS, and which of them are dead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from hardend.formats.m4 import Call
from hardend.formats.m4_edit import bare
from hardend.formats.mc import Mc
from hardend.rules.documents import CannotMendError, Documents
from hardend.rules.relay_changes import relaying_cf
from hardend.rules.relay_features import Blocklist, blocklists
from hardend.rules.relay_mend import without_blocklist
from hardend.rules.relay_texts import CF, CLOSED, MC, RELAY_CHECKED, asked, mc
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity

# Zones, and all under them, that answer nobody any more: what became of them. From the operators' own
# announcements, as kept by dnsbl.com ("status of ...: DEAD") and the release notes of Sendmail.
_DEAD = {
    "maps.vix.com": "moved and closed to the public in 2001; Sendmail 8.12 dropped FEATURE(`rbl') for it",
    "orbs.org": "shut down in 2001",
    "relays.osirusoft.com": "listed the whole world when it was shut down in 2003",
    "opm.blitzed.org": "shut down in 2006",
    "ordb.org": "shut down in 2006, and listed the whole world in 2008",
    "dsbl.org": "shut down in 2008",
    "rfc-ignorant.org": "shut down in 2012",
    "njabl.org": "shut down in 2013",
    "ahbl.org": "shut down in 2014, and listed the whole world in 2015",
    "virbl.bit.nl": "shut down in 2017",
    "spamcannibal.org": "expired in 2018, and listed the whole world",
    "bl.emailbasura.org": "expired in 2019, and listed the whole world",
    "megarbl.net": "expired in 2019, and listed the whole world",
    "dnsbl.inps.de": "shut down in 2020",
    "sorbs.net": "shut down in 2024",
    "ix.dnsbl.manitu.net": "shut down in 2025",
}
_ASKING = ("dnsbl", "enhdnsbl", "rhsbl")
_WHOLE_LINE = re.compile(rb"[ \t]*(?:dnl\b[^\n]*)?\r?(?:\n|\Z)")


def fate_of(zone: str) -> str:
    """Return what became of a list; "" for one that is not known to be dead."""
    zone = zone.lower().strip(".")
    return next((fate for dead, fate in _DEAD.items() if zone == dead or zone.endswith(f".{dead}")), "")


def _judge(documents: Documents) -> Iterator[Fault]:
    path = documents.layout.cf
    cf = relaying_cf(documents)
    found = [item for item in blocklists(cf) if fate_of(item.zone)]
    source = documents.mc_of(path)
    for item in found:
        message = f"{item.zone} is asked about every client, and {fate_of(item.zone)}"
        if source is None:
            mendable = without_blocklist(cf, item.zone) is not None
            remedy = f"remove its rules from {path}, and put no other list in its place unasked"
            yield Fault(path, item.line, message, remedy, mendable=mendable)
            continue
        calls = _calls(source[1], (item.zone,))
        mendable = bool(calls) and all(_is_alone(source[1].render(), call) for call in calls)
        where = f"{source[0]}:{calls[0].line}" if calls else f"the files that {source[0]} includes"
        remedy = f"remove FEATURE(`{item.feature}', `{item.zone}') from {where}"
        yield Fault(path, item.line, message, remedy, mendable=mendable)
    yield from _not_built(documents, found)


def _not_built(documents: Documents, found: list[Blocklist]) -> Iterator[Fault]:
    """Yield what the .mc asks for and the .cf does not yet, FEATURE(`rbl') among it."""
    source = documents.mc_of(documents.layout.cf)
    if source is None:
        return
    path, document = source
    known = {item.zone for item in found}
    for call in _dead_calls(document):
        zone = _zone(call)
        if zone not in known:
            mendable = _is_alone(document.render(), call)
            what = "FEATURE(`rbl') is gone since Sendmail 8.12: m4 cannot find it, and asks no list at all"
            if _words(call)[0] != "rbl":
                what = f"the next build asks {zone} about every client, and it {fate_of(zone)}"
            yield Fault(path, call.line, what, f"remove {path}:{call.line}", mendable=mendable)


def _mend(documents: Documents) -> Documents:
    path = documents.layout.cf
    cf = relaying_cf(documents)
    dead = dict.fromkeys(item.zone for item in blocklists(cf) if fate_of(item.zone))
    source = documents.mc_of(path)
    if source is not None:
        return _mend_mc(documents, source[0], source[1], list(dead))
    changed, refused = cf, []
    for zone in dead:
        without = without_blocklist(changed, zone)
        refused += [] if without else [zone]
        changed = without or changed
    if refused and changed is cf:
        raise CannotMendError(f"{path} asks {', '.join(refused)} with rules that m4 does not write")
    return documents.with_content(path, changed.render())


def _mend_mc(documents: Documents, path: str, document: Mc, dead: list[str]) -> Documents:
    calls = _dead_calls(document)
    text = document.render()
    alone = [call for call in calls if _is_alone(text, call)]
    for call in reversed(alone):
        text = text[: call.start] + b"dnl " + text[call.start :]
    lost = [zone for zone in dead if zone not in {_zone(call) for call in calls}]
    lost = [] if documents.layout.cf in documents.stale else lost
    if not alone and (calls or lost):
        names = ", ".join(lost or map(_zone, calls))
        raise CannotMendError(f"{names} is not asked by a line of its own in {path}: remove it by hand")
    return documents.with_content(path, text)


def _dead_calls(document: Mc) -> list[Call]:
    calls = [call for call in document.calls("FEATURE") if not call.depth and call.arguments]
    old = [call for call in calls if _words(call)[0] == "rbl"]
    dead = [call for call in calls if _words(call)[0] in _ASKING and fate_of(_zone(call))]
    return sorted(old + dead, key=lambda call: call.start)


def _calls(document: Mc, zones: Iterable[str]) -> list[Call]:
    return [call for call in _dead_calls(document) if _zone(call) in zones]


def _zone(call: Call) -> str:
    """Return the zone that a call asks; that of FEATURE(`rbl') without an argument is MAPS."""
    return "".join(_words(call)[1:2]).lower().strip(".") or "rbl.maps.vix.com"


def _words(call: Call) -> list[str]:
    return [bare(argument) for argument in call.arguments]


def _is_alone(text: bytes, call: Call) -> bool:
    """Return whether a call fills its line: then ``dnl`` before it takes it out, and nothing else."""
    before = text[text.rfind(b"\n", 0, call.start) + 1 : call.start]
    whole = not before.strip() and b"\n" not in text[call.start : call.end]
    return whole and not call.nested and _WHOLE_LINE.match(text, call.end) is not None


RULES = (
    Rule(
        id="relay-blocklists",
        title="No dead blocklist is asked",
        section=Section.RELAYING,
        severity=Severity.MEDIUM,
        fix=Fix.ASK,
        rationale=(
            "A blocklist that is dead stops no spam, delays every connection until the look-up times out, "
            "and some day lists the whole world: then all mail is refused. The guide's FEATURE(`rbl') with "
            "maps.vix.com is one of them. A dead list is replaced by nothing: which list to trust with your "
            "mail is your decision. FEATURE(`dnsbl', `zone') asks one and rejects with its name; "
            "FEATURE(`enhdnsbl', `zone', `message', `t', `127.0.0.2.') also looks at what the list answers, "
            "and with t answers 4xx when it cannot be asked. Use a list only after reading whom it serves: "
            "large lists answer public resolvers with errors that look like a listing."
        ),
        judge=_judge,
        mend=_mend,
        references=("guide 8", "cf/README, dnsbl and enhdnsbl", "release notes of 8.12.0", "RFC 6471"),
        examples=(
            Example(
                "two lists without a .mc, one of them dead",
                {CF: CLOSED.replace(RELAY_CHECKED, RELAY_CHECKED + asked("ordb.org") + asked("bl.example"))},
                {CF: CLOSED.replace(RELAY_CHECKED, RELAY_CHECKED + asked("bl.example"))},
            ),
            Example(
                "the same in a .mc",
                {
                    CF: CLOSED.replace(RELAY_CHECKED, RELAY_CHECKED + asked("dnsbl.sorbs.net")),
                    MC: mc("FEATURE(`dnsbl', `dnsbl.sorbs.net')", "FEATURE(`dnsbl', `bl.example')"),
                },
                {MC: mc("dnl FEATURE(`dnsbl', `dnsbl.sorbs.net')", "FEATURE(`dnsbl', `bl.example')")},
            ),
            Example(
                "the FEATURE of the guide, on which m4 fails today",
                {CF: CLOSED, MC: mc("FEATURE(rbl)")},
                {MC: mc("dnl FEATURE(rbl)")},
            ),
            Example(
                "a list whose name only looks like a dead one",
                {CF: CLOSED.replace(RELAY_CHECKED, RELAY_CHECKED + asked("notsorbs.net"))},
            ),
        ),
    ),
)
