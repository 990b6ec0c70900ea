# SPDX-License-Identifier: Apache-2.0
"""The access table and relay-domains: whom an entry relays for, and whether its database says so."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from hardend.rules.catalogue import BY_ID, judge
from hardend.rules.documents import CannotMendError, Documents, UnknownError
from hardend.rules.relay_texts import CF, CLOSED
from hardend.rules.rule import Fault, Verdict
from tests.unit.rulehost import documents_of

ACCESS = "/etc/mail/access"
DOMAINS = "/etc/mail/relay-domains"
EVERYBODY = "0.0.0.0"  # noqa: S104 - an entry, nothing is bound
EXACT = CLOSED.replace("$* $=R >", "$=R >")  # relay_hosts_only


def faults(documents: Documents, rule: str = "relay-entries") -> list[Fault]:
    return list(BY_ID[rule].judge(documents))


def mended(documents: Documents) -> Documents:
    mend = BY_ID["relay-entries"].mend
    assert mend is not None
    return mend(documents)


# How far each reaches was tried with check_rcpt: WIDE relays for strangers, or was meant to.
WIDE = [
    "com", "Connect:com", "To:net", "TO:ORG", "From:de", "To:co.uk", "com.br", "xn--p1ai", "Connect:192",
    "Connect:8", "203", "IPv6:2001", "Connect:IPv6:2a00", EVERYBODY, f"Connect:{EVERYBODY}/0", "To:*", "0",
]  # fmt: skip
# These are precise, private, or match nothing.
NARROW = [
    "To:example.com", "Connect:mail.example.org", "Connect:10", "10", "Connect:127", "Connect:192.168",
    "Connect:172.16", "192.0.2", "192.0.2.7", "Connect:IPv6:2001:db8", "IPv6:::1", "Connect:IPv6:fe80",
    "Connect:localhost", "localhost.localdomain", "user@example.com", "user@", "Connect:", "Spam:com",
    "To:uk.example", "CERTIssuer:com", "ClientRate:192", "Connect:[192.0.2.7]",
]  # fmt: skip


@pytest.mark.parametrize("key", WIDE)
def test_an_entry_for_strangers_goes_and_the_others_stay(key: str) -> None:
    documents = documents_of({ACCESS: f"# {key}\tRELAY\nConnect:192.0.2\tRELAY\n{key}\trelay\ncom\tREJECT\n"})
    assert [(fault.path, fault.line, fault.mendable) for fault in faults(documents)] == [(ACCESS, 3, True)]
    after = mended(documents)
    assert after.content[ACCESS].decode() == f"# {key}\tRELAY\nConnect:192.0.2\tRELAY\ncom\tREJECT\n"
    assert faults(after) == []
    assert mended(after) is after


@pytest.mark.parametrize("key", NARROW)
def test_an_entry_for_a_host_or_a_network_is_left_alone(key: str) -> None:
    documents = documents_of({ACCESS: f"{key}\tRELAY\n"})
    assert faults(documents) == []
    assert mended(documents) is documents


@pytest.mark.parametrize("value", ["OK", "REJECT", "RELAY # note", "RELAY to you", "550 RELAY", "SKIP"])
def test_what_is_not_relay_is_no_business_of_this_rule(value: str) -> None:
    assert faults(documents_of({ACCESS: f"com\t{value}\n"})) == []


def test_a_domain_without_a_tag_is_a_fault_that_only_its_author_can_mend() -> None:
    documents = documents_of({ACCESS: "example.com\tRELAY\n"})
    [fault] = faults(documents)
    assert (fault.advice, fault.mendable) == (False, False)
    assert fault.remedy == "write To:example.com or Connect:example.com, whichever is meant"
    assert mended(documents) is documents


@pytest.mark.parametrize("key", ["Connect:mailhost", "To:intern", "10.0.0.0/8", "To:.example.com"])
def test_a_name_of_one_label_and_what_matches_nothing_are_advice(key: str) -> None:
    documents = documents_of({ACCESS: f"{key}\tRELAY\n"})
    assert [fault.advice for fault in faults(documents)] == [True]
    assert mended(documents) is documents


@pytest.mark.parametrize(
    "word", ["com", ".net", "NET", "192", "192.", "*", "*.example.com", EVERYBODY, "co.uk"]
)
def test_a_word_of_relay_domains_for_strangers_goes(word: str) -> None:
    documents = documents_of({DOMAINS: f"example.org\n# {word}\n{word}\n192.0.2\n"})
    assert [(fault.path, fault.line) for fault in faults(documents)] == [(DOMAINS, 3)]
    after = mended(documents)
    assert after.content[DOMAINS].decode() == f"example.org\n# {word}\n192.0.2\n"
    assert mended(after) is after


@pytest.mark.parametrize(
    "word", ["example.org", "10", "127.0.0.1", "192.0.2", "mail.example.org", "IPv6:::1"]
)
def test_a_word_of_relay_domains_for_a_domain_or_network_stays(word: str) -> None:
    documents = documents_of({DOMAINS: f"{word}\n"})
    assert faults(documents) == []
    assert mended(documents) is documents


def test_with_the_pattern_of_debian_one_word_of_a_line_goes_and_comments_are_none() -> None:
    cf = CLOSED.replace("FR-o /etc/mail/relay-domains", "FR-o /etc/mail/relay-domains %[^\\#]")
    documents = documents_of({CF: cf, DOMAINS: "example.org com example.net # net\nnet # all\n"})
    assert [fault.line for fault in faults(documents)] == [1, 2]
    assert mended(documents).content[DOMAINS] == b"example.org example.net # net\n"


def test_names_that_are_taken_as_they_are_reach_nobody_else() -> None:
    documents = documents_of({CF: EXACT, ACCESS: "com\tRELAY\nexample.com\tRELAY\n", DOMAINS: "net\n"})
    assert faults(documents) == []
    assert [fault.line for fault in faults(documents_of({CF: EXACT, DOMAINS: "192\n"}))] == [1]


def test_a_word_of_the_cf_itself_is_named_with_its_line() -> None:
    documents = documents_of({CF: CLOSED + "C{R}example.net com\n"})
    [fault] = faults(documents)
    assert (fault.path, fault.line, fault.mendable) == (CF, CLOSED.count("\n") + 1, False)


def test_a_table_full_of_strangers_is_shown_in_part_and_not_mended() -> None:
    documents = documents_of({DOMAINS: "com\n" * 3000})
    found = faults(documents)
    assert len(found) == 1001
    assert found[-1].message.startswith("and more")
    with pytest.raises(CannotMendError, match="over 1000 entries"):
        mended(documents)


def test_a_table_is_edited_byte_for_byte() -> None:
    before = "\xff\r\nTo:com\tRELAY\r\n\fTo:net RELAY\nTo:org RELAY\x0bCONNECT:x\nTo:net\tRELAY"
    documents = documents_of({ACCESS: before})
    after = "\xff\r\n\fTo:net RELAY\nTo:org RELAY\x0bCONNECT:x\n"
    assert mended(documents).content[ACCESS] == after.encode()


def test_a_table_that_cannot_be_read_is_unknown() -> None:
    documents = documents_of({ACCESS: "com\tRELAY\n"})
    hidden = replace(documents, content={CF: b"V10\n"}, unreadable={ACCESS: "Permission denied"})
    with pytest.raises(UnknownError, match="Permission denied"):
        faults(hidden)
    assert judge(hidden, BY_ID["relay-entries"]).verdict is Verdict.UNKNOWN


def with_times(source: int, database: int) -> Documents:
    documents = documents_of({ACCESS: "", f"{ACCESS}.db": ""})
    for path, time in ((ACCESS, source), (f"{ACCESS}.db", database)):
        documents = documents.with_attributes(path, replace(documents.attributes[path], mtime_ns=time))
    return documents


@pytest.mark.parametrize(("source", "database", "found"), [(1, 2, 0), (2, 2, 0), (3, 2, 1)])
def test_a_database_that_is_older_than_its_source_is_stale(source: int, database: int, found: int) -> None:
    assert len(faults(with_times(source, database), "relay-map-stale")) == found


def test_a_database_that_answers_otherwise_is_stale_once() -> None:
    stale = MappingProxyType({f"{ACCESS}.db": "it answers otherwise"})
    [fault] = faults(replace(with_times(3, 2), stale_maps=stale), "relay-map-stale")
    assert (fault.path, fault.message) == (f"{ACCESS}.db", "it answers otherwise")
    assert f"makemap hash {ACCESS} < {ACCESS}" in fault.remedy


def test_a_host_without_a_table_has_no_stale_one() -> None:
    assert judge(documents_of({}), BY_ID["relay-map-stale"]).verdict is Verdict.NOT_APPLICABLE
