# SPDX-License-Identifier: Apache-2.0
"""Section 8 of the guide: the access table and relay-domains, which say for whom mail is relayed.

How far an entry reaches was tried with check_rcpt of Sendmail 8.17: RELAY counts in any case; a name
covers all names under it, and the first octets of an address all addresses that begin so, unless
FEATURE(`relay_hosts_only') takes names as they are; a leading or trailing dot changes nothing in
relay-domains and makes an entry of access void; wildcards, CIDR and 0.0.0.0 match nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from hardend.formats.access import AccessEntry, Subject, access_entry, is_broader_than_network
from hardend.formats.table import Row, Table, WordList
from hardend.model import MapSpec, printable
from hardend.rules.documents import CannotMendError, Documents
from hardend.rules.relay_features import features
from hardend.rules.relay_texts import CF, CLOSED
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity

_LINE = re.compile(rb"[^\n]*\n|[^\n]+")
_RELAY = re.compile(rb"relay", re.IGNORECASE)
_EVERYBODY = frozenset({"0.0.0.0", "0.0.0.0/0", "0", "::/0", "ipv6:::/0", "*", "*.*"})  # noqa: S104 - looked for
# One label that the world has names under: two letters, or one of these.
_TLDS = frozenset({
    "aero", "app", "arpa", "asia", "biz", "blog", "cat", "click", "cloud", "club", "com", "coop", "dev",
    "edu", "email", "fun", "gov", "icu", "info", "int", "jobs", "link", "live", "mil", "mobi", "museum",
    "name", "net", "news", "online", "org", "page", "post", "pro", "shop", "site", "space", "store",
    "tech", "tel", "top", "travel", "website", "work", "world", "xxx", "xyz",
})  # fmt: skip
_COUNTRY = re.compile(r"[a-z]{2}|xn--[a-z0-9-]+")
_UNDER_COUNTRY = re.compile(r"(?:ac|co|com|edu|go|gob|gov|mil|ne|net|nom|or|org|sch)\.[a-z]{2}")
_MOST = 1000  # faults that anybody reads, and entries that are taken out one by one
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class _Reach:
    """What is wrong with whom an entry or a word names; ``wide``: it is to go."""

    what: str
    remedy: str
    wide: bool = True
    advice: bool = False


# Entries ------------------------------------------------------------------------------------------


def _judge_entries(documents: Documents) -> Iterator[Fault]:
    shown = list(islice(_entry_faults(documents), _MOST + 1))
    yield from shown[:_MOST]
    if len(shown) > _MOST:
        what = f"and more entries like this: only the first {_MOST} are shown"
        yield Fault(shown[_MOST].path, 0, what, "write it anew", mendable=False)


def _entry_faults(documents: Documents) -> Iterator[Fault]:
    exact = _takes_names_as_they_are(documents)
    path = documents.layout.access
    for line, key, reach in _wide_entries(documents, exact=exact):
        what = f"{printable(key)} RELAY {reach.what}"
        yield Fault(path, line, what, reach.remedy, reach.advice, mendable=reach.wide)
    for path, words in _relay_domains(documents):
        for word in words.words:
            found = _of_word(word.text, exact=exact)
            if found:
                what = f"{printable(word.text)} {found.what}"
                yield Fault(path, word.line, what, found.remedy, found.advice, mendable=found.wide)
    for value in documents.cf().class_words("R"):
        found = _of_word(value.text, exact=exact)
        if found:
            remedy = f"{found.remedy}: RELAY_DOMAIN in the .mc, or class R at this line"
            what = f"{printable(value.text)} in class R {found.what}"
            yield Fault(documents.layout.cf, value.line, what, remedy, found.advice, mendable=False)


def _mend_entries(documents: Documents) -> Documents:
    exact = _takes_names_as_they_are(documents)
    path = documents.layout.access
    entries = (line for line, _, reach in _wide_entries(documents, exact=exact) if reach.wide)
    gone = _few(path, entries)
    if gone:
        lines = enumerate(_LINE.findall(documents.read(path)), start=1)
        documents = documents.with_content(path, b"".join(line for at, line in lines if at not in gone))
    for path, listed in _relay_domains(documents):
        words = listed
        found = ((word, _of_word(word.text, exact=exact)) for word in words.words)
        wide = _few(path, (word for word, reach in found if reach and reach.wide))
        # From the end: a line that goes moves those behind it. A word goes once, however often it is there.
        kept = words
        for line, text in dict.fromkeys((word.line, word.text) for word in reversed(wide)):
            kept = kept.remove_word(line, text)
        documents = documents.with_content(path, kept.render())
    return documents


def _few(path: str, found: Iterable[_Found]) -> list[_Found]:
    few = list(islice(found, _MOST + 1))
    if len(few) > _MOST:
        raise CannotMendError(f"{path} has over {_MOST} entries that relay for strangers: write it anew")
    return few


def _takes_names_as_they_are(documents: Documents) -> bool:
    """Return whether relay_hosts_only is on, in the .cf."""
    return "relay_hosts_only" in features(documents.cf())


def _relaying(documents: Documents) -> Iterator[tuple[int, Row]]:
    """Yield the entries of access that may relay, with their lines. Raises UnknownError.

    Only lines with the word are parsed: feeds fill the table with a million others.
    """
    path = documents.layout.access
    is_there = documents.is_there(path) or path in documents.unreadable
    data = documents.read(path) if is_there else b""
    spec = access_map(documents)
    lines = data.split(b"\n") if _RELAY.search(data) else []
    for number, line in enumerate(lines, start=1):
        if _RELAY.search(line):
            for row in Table(line + b"\n", path, spec.flags if spec else ()).entries:
                yield number, row


def _relay_domains(documents: Documents) -> Iterator[tuple[str, WordList]]:
    patterns = {item.path: item.pattern for item in documents.cf().class_files() if item.name == "R"}
    for path in documents.layout.relay_domains:
        if documents.is_there(path) or path in documents.unreadable:
            # A link may lead from the name in the .cf to this one: all have the pattern of the last then.
            pattern = patterns.get(path) or next(reversed(patterns.values()), "%s")
            yield path, WordList(documents.read(path), path, pattern)


def _wide_entries(documents: Documents, *, exact: bool) -> Iterator[tuple[int, str, _Reach]]:
    for line, row in _relaying(documents):
        entry = access_entry(row.key, row.value)
        reach = _of_entry(entry, exact=exact) if entry.relays else None
        if reach:
            yield line, row.key, reach


def _of_entry(entry: AccessEntry, *, exact: bool) -> _Reach | None:
    """Return what is wrong with an entry that relays."""
    subject = entry.subject.lower()
    if subject in _EVERYBODY:
        return _everybody()
    if entry.network is not None:
        return _of_network() if is_broader_than_network(entry) else None
    if entry.kind in {Subject.TLD, Subject.DOMAIN} and not exact:
        reach = _of_name(subject)
        if reach:
            return reach
        if entry.kind is Subject.DOMAIN and not entry.tag:
            what = "counts for clients of that name, for mail to it and for senders of it, all at once"
            return _Reach(what, f"write To:{subject} or Connect:{subject}, whichever is meant", wide=False)
    if entry.kind is Subject.OTHER:
        what = "matches nothing: Sendmail looks up names, addresses and their first octets only"
        remedy = "write it so: 192.0.2 for a network, example.com for a domain"
        return _Reach(what, remedy, wide=False, advice=True)
    return None


def _of_word(word: str, *, exact: bool) -> _Reach | None:
    """Return what is wrong with a word of class R: a client by name or address, a recipient's domain."""
    text = word.lower().strip(".")
    if text in _EVERYBODY or "*" in text:
        return _everybody()
    entry = access_entry(f"connect:{text}", "RELAY")
    if entry.network is not None:
        return _of_network() if is_broader_than_network(entry) else None
    return None if exact or entry.kind not in {Subject.TLD, Subject.DOMAIN} else _of_name(text)


def _of_name(name: str) -> _Reach | None:
    if name in _TLDS or _COUNTRY.fullmatch(name) or _UNDER_COUNTRY.fullmatch(name):
        what = "relays for every name under a top-level domain: for strangers"
        return _Reach(what, "remove it, and name the hosts or the domain that you mean")
    if "." not in name:
        what = "relays for every name that ends in it"
        return _Reach(what, "write the whole name of the host", wide=False, advice=True)
    return None


def _of_network() -> _Reach:
    what = "relays for more addresses than one site has: for strangers"
    return _Reach(what, "remove it, and name your networks: 192.0.2 or IPv6:2001:db8")


def _everybody() -> _Reach:
    what = "was meant for everybody: Sendmail matches it with nobody today, another kind of map would"
    return _Reach(what, "remove it, and name the hosts or networks that you mean")


def access_map(documents: Documents) -> MapSpec | None:
    """Return how the access table is built; None on a host without one."""
    found = (spec for spec in documents.layout.maps if spec.source == documents.layout.access)
    return next(found, None) if documents.layout.access else None


RULES = (
    Rule(
        id="relay-entries",
        title="No entry relays for more than a host, a network or a domain of yours",
        section=Section.RELAYING,
        severity=Severity.HIGH,
        fix=Fix.ASK,
        rationale=(
            "An entry covers everything under it: com RELAY is every .com in the world, Connect:192 every "
            "address from 192.0.0.0 on. A domain without a tag counts as Connect:, To: and From: at once, "
            "and mostly only one of them was meant. 0.0.0.0 and wildcards match nothing in Sendmail, but "
            "say what their author wanted. The fix removes what relays for strangers; which tag a domain "
            "should have is yours to say. FEATURE(`relay_hosts_only') takes names as they are."
        ),
        judge=_judge_entries,
        mend=_mend_entries,
        references=("guide 8", "cf/README, ANTI-SPAM CONFIGURATION CONTROL"),
        examples=(
            Example(
                "a top-level domain, an octet, everybody",
                {
                    "/etc/mail/access": (
                        "# ours\nConnect:192.0.2\tRELAY\nTo:com\trelay\nConnect:192\tRELAY\n0.0.0.0\tRELAY\n"
                    )
                },
                {"/etc/mail/access": "# ours\nConnect:192.0.2\tRELAY\n"},
            ),
            Example(
                "words of relay-domains",
                {"/etc/mail/relay-domains": "example.org\n.net\n*.example.com\nco.uk\n"},
                {"/etc/mail/relay-domains": "example.org\n"},
            ),
            Example(
                "what Debian and Red Hat ship, and what is precise",
                {
                    "/etc/mail/access": (
                        "Connect:127\t\tRELAY\nConnect:IPv6:::1\tRELAY\nConnect:localhost\tRELAY\n"
                        "Connect:localhost.localdomain\tRELAY\nConnect:10\tRELAY\nConnect:192.168\tRELAY\n"
                        "To:example.com\tRELAY\nConnect:mail.example.org\tRELAY\ncom\tREJECT\n"
                        "Connect:203.0.113.7\tRELAY # note\nClientRate:\t10\n"
                    ),
                    "/etc/mail/relay-domains": "# com\nexample.org\n10\n192.0.2\n",
                },
            ),
            Example(
                "names that are taken as they are",
                {
                    CF: CLOSED.replace("$* $=R >", "$=R >"),
                    "/etc/mail/access": "example.com\tRELAY\n",
                    "/etc/mail/relay-domains": "uk\n",
                },
            ),
        ),
    ),
)
