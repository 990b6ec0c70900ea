# SPDX-License-Identifier: Apache-2.0
"""Section 8 of the guide: the access table and relay-domains, which say for whom mail is relayed.

How far an entry reaches was tried with check_rcpt of Sendmail 8.17: RELAY counts in any case; a name
covers all names under it, and the first octets of an address all addresses that begin so, unless
FEATURE(`relay_hosts_only') takes names as they are; a leading or trailing dot changes nothing in
relay-domains and makes an entry of access void; wildcards, CIDR and 0.0.0.0 match nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from hardend.formats.access import AccessEntry, Subject, access_entry, is_broader_than_network
from hardend.formats.cf import Cf
from hardend.formats.table import Table, WordList
from hardend.model import MapSpec, printable
from hardend.rules.documents import CannotMendError, Documents, NotApplicableError
from hardend.rules.relay_changes import (
    acceptance_fault,
    called,
    relaying_cf,
    without_acceptances,
)
from hardend.rules.relay_features import Acceptance, features, local_acceptances
from hardend.rules.relay_texts import (
    ACCESS,
    BLOCKLISTING,
    CF,
    CLOSED,
    HEAD,
    MC,
    RCPT_OK,
    mc,
)
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity

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
_BLOCKING = "blocklist_recipients"
_OLD_NAME = "blacklist_recipients"
_MOST = 1000  # faults that anybody reads, and entries that are taken out one by one


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
    for line, key, reach in _wide_entries(_access(documents), exact=exact):
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
    table = _access(documents)
    gone = [line for line, _, reach in _wide_entries(table, exact=exact) if reach.wide]
    _demand_few(documents.layout.access, gone)
    if gone:
        documents = documents.with_content(documents.layout.access, table.remove(*gone).render())
    for path, listed in _relay_domains(documents):
        words = listed
        found = [(word, _of_word(word.text, exact=exact)) for word in words.words]
        wide = [word for word, reach in found if reach and reach.wide]
        _demand_few(path, wide)
        # From the end: a line that goes moves those behind it. A word goes once, however often it is there.
        for line, text in dict.fromkeys((word.line, word.text) for word in reversed(wide)):
            words = words.remove_word(line, text)
        documents = documents.with_content(path, words.render())
    return documents


def _demand_few(path: str, found: Sequence[object]) -> None:
    if len(found) > _MOST:
        raise CannotMendError(f"{path} has over {_MOST} entries that relay for strangers: write it anew")


def _takes_names_as_they_are(documents: Documents) -> bool:
    """Return whether relay_hosts_only is on, in the .cf."""
    return "relay_hosts_only" in features(documents.cf())


def _access(documents: Documents) -> Table:
    """Return the access table; an empty one where it relays for nobody. Raises UnknownError."""
    path = documents.layout.access
    is_there = documents.is_there(path) or path in documents.unreadable
    data = documents.read(path) if is_there else b""
    spec = _map_of(documents)
    return Table(data if _RELAY.search(data) else b"", path, spec.flags if spec else ())


def _relay_domains(documents: Documents) -> Iterator[tuple[str, WordList]]:
    patterns = {item.path: item.pattern for item in documents.cf().class_files() if item.name == "R"}
    for path in documents.layout.relay_domains:
        if documents.is_there(path) or path in documents.unreadable:
            yield path, WordList(documents.read(path), path, patterns.get(path, "%s"))


def _wide_entries(table: Table, *, exact: bool) -> Iterator[tuple[int, str, _Reach]]:
    for row in table.entries:
        entry = access_entry(row.key, row.value)
        reach = _of_entry(entry, exact=exact) if entry.relays else None
        if reach:
            yield row.line, row.key, reach


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


# The table itself ---------------------------------------------------------------------------------


def _judge_table(documents: Documents) -> Iterator[Fault]:
    path = documents.layout.cf
    known = features(relaying_cf(documents))
    for acceptance in local_acceptances(documents.cf(), "Local_check_relay"):
        what = "every client: neither access nor a blocklist is asked about it"
        yield acceptance_fault(documents, acceptance, what)
    if "access_db" not in known:
        remedy = (
            "write /etc/mail/access, build it with makemap hash, and only then call FEATURE(`access_db'): "
            "without its database Sendmail answers 451 to everybody"
        )
        what = "no access table: nobody can be rejected, or relayed for, by name or network"
        yield Fault(path, 0, what, remedy, mendable=False)
    elif _BLOCKING not in known:
        what = f"no {_BLOCKING}: REJECT of a recipient in access has no effect"
        yield Fault(path, known["access_db"], what, _remedy(documents), mendable=_can_add(documents))
    old = called(documents, _OLD_NAME)
    if old is not None:
        what = f"FEATURE(`{_OLD_NAME}') is an old name"
        remedy = f"call it {_BLOCKING}: m4 warns since 8.16.1"
        yield Fault(documents.sources[path], old.line, what, remedy, advice=True, mendable=False)


def _mend_table(documents: Documents) -> Documents:
    path = documents.layout.cf
    known = features(relaying_cf(documents))
    documents = without_acceptances(documents, _client_acceptances)
    if "access_db" not in known or _BLOCKING in known:
        return documents
    source = documents.mc_of(path)
    if source is not None and _can_add(documents):
        return documents.with_content(source[0], source[1].add_feature(_BLOCKING).render())
    if path in documents.stale:
        return documents
    raise CannotMendError(_remedy(documents))


def _client_acceptances(cf: Cf) -> list[Acceptance]:
    return local_acceptances(cf, "Local_check_relay")


def _can_add(documents: Documents) -> bool:
    has_mc = documents.mc_of(documents.layout.cf) is not None
    return has_mc and not any(called(documents, name) for name in (_BLOCKING, _OLD_NAME))


def _remedy(documents: Documents) -> str:
    path = documents.layout.cf
    mc_path = documents.sources.get(path, "")
    if not mc_path:
        return f"{path} has no .mc: build a new one from a .mc with FEATURE(`{_BLOCKING}')"
    call = called(documents, _BLOCKING) or called(documents, _OLD_NAME)
    if call is not None:
        return f"build {path} again; {mc_path}:{call.line} must stand behind FEATURE(`access_db')"
    return f"add FEATURE(`{_BLOCKING}') to {mc_path}, behind FEATURE(`access_db')"


# Its database -------------------------------------------------------------------------------------


def _judge_map(documents: Documents) -> Iterator[Fault]:
    spec = _map_of(documents)
    if spec is None or not documents.is_there(spec.source):
        raise NotApplicableError("this host has no access table")
    why = documents.stale_maps.get(spec.database, "")
    source, database = documents.attributes.get(spec.source), documents.attributes.get(spec.database)
    if not why and database is None and spec.database not in documents.unreadable:
        why = "it is missing: Sendmail answers 451 to everybody"
    elif not why and source and database and database.mtime_ns < source.mtime_ns:
        why = f"it is older than {spec.source}: what was changed there is not in force"
    if why:
        remedy = f"hardend approve {spec.source}, or makemap {spec.map_class} {spec.database} < {spec.source}"
        yield Fault(spec.database, 0, why, remedy, mendable=False)


def _map_of(documents: Documents) -> MapSpec | None:
    found = (spec for spec in documents.layout.maps if spec.source == documents.layout.access)
    return next(found, None) if documents.layout.access else None


_CLOSED_WITH_ACCESS = CLOSED.replace(HEAD, HEAD + ACCESS)
_BLOCKING_CF = _CLOSED_WITH_ACCESS.replace(RCPT_OK, RCPT_OK + BLOCKLISTING)

RULES = (
    Rule(
        id="relay-access-db",
        title="The access table is asked, about recipients too",
        section=Section.RELAYING,
        severity=Severity.LOW,
        fix=Fix.ASK,
        rationale=(
            "FEATURE(`access_db') is how a host, a network or a sender is rejected or relayed for by name, "
            "more precisely than relay-domains can. FEATURE(`blocklist_recipients') lets it reject mail to "
            "one of your own users as well; the guide knows it as blacklist_recipients, which has nothing "
            "to do with relaying. Neither does anything before the table says something. A rule of "
            "Local_check_relay that accepts every client makes the table, and every blocklist, pointless."
        ),
        judge=_judge_table,
        mend=_mend_table,
        references=("guide 8", "cf/README, access_db and blocklist_recipients"),
        examples=(
            Example(
                "Debian has the one and not the other",
                {CF: _CLOSED_WITH_ACCESS, MC: mc("FEATURE(`access_db', , `skip')")},
                {MC: mc("FEATURE(`access_db', , `skip')", "FEATURE(`blocklist_recipients')")},
            ),
            Example(
                "a rule by hand that accepts every client",
                {CF: _BLOCKING_CF + "SLocal_check_relay\nR$* $| $*\t$# OK\n"},
                {CF: _BLOCKING_CF + "SLocal_check_relay\n"},
            ),
            Example(
                "both, by the old name: advice",
                {CF: _BLOCKING_CF, MC: mc("FEATURE(`access_db')", "FEATURE(`blacklist_recipients')")},
            ),
        ),
    ),
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
    Rule(
        id="relay-map-stale",
        title="The database of access says what access says",
        section=Section.RELAYING,
        severity=Severity.MEDIUM,
        fix=Fix.NEVER,
        rationale=(
            "Sendmail reads access.db, never access: an entry that is not built yet rejects nobody, and one "
            "that was taken out still relays. Where the database is missing, Sendmail answers 451 to "
            "everybody. hardend builds it by itself when access is approved; nothing is to be edited."
        ),
        judge=_judge_map,
        references=("guide 8", "makemap(8)"),
        examples=(
            Example(
                "it was never built",
                {"/etc/mail/access": "Connect:192.0.2\tREJECT\n"},
                {"/etc/mail/access.db": ""},
            ),
            Example("it is there", {"/etc/mail/access": "", "/etc/mail/access.db": ""}),
        ),
    ),
)
