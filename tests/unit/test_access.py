# SPDX-License-Identifier: Apache-2.0
"""What an entry of access says: for RELAY, what check_rcpt of sendmail -bt did with the entry."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.formats.access import AccessEntry, Action, Subject, access_entry, is_broader_than_network


@pytest.mark.parametrize(
    "value", ["RELAY", "relay", "Relay ", "RELAY (note)", "(x)RELAY", "RELAY\\", "RELAY\r"]
)
def test_relay_is_relay_in_every_form_that_sendmail_takes(value: str) -> None:
    assert access_entry("198.51.100.8", value).relays


@pytest.mark.parametrize(
    "value",
    ["RELAY # note", '"RELAY"', "RELAY:x", "RELAY;", "<RELAY>", "RELAY,", "REL(x)AY", "$RELAY", "", "OK"],
)
def test_what_sendmail_does_not_take_for_relay_is_none(value: str) -> None:
    assert not access_entry("198.51.100.8", value).relays


@pytest.mark.parametrize(
    ("value", "action", "argument"),
    [
        ("OK", Action.OK, ""),
        ("reject", Action.REJECT, ""),
        ("DISCARD", Action.DISCARD, ""),
        ("SKIP", Action.SKIP, ""),
        ("FRIEND", Action.FRIEND, ""),
        ("HATER", Action.HATER, ""),
        ("QUARANTINE:look at it", Action.QUARANTINE, "look at it"),
        ("ERROR:5.7.1:550 no", Action.ERROR, "5.7.1:550 no"),
        ("error:550 no", Action.ERROR, "550 no"),
        ("550 go away", Action.ERROR, "550 go away"),
        ("5501 go away", Action.OTHER, "5501 go away"),
        ("REJECTED", Action.OTHER, "REJECTED"),
        ("error", Action.OTHER, "error"),
        ("setting", Action.OTHER, "setting"),
    ],
)
def test_actions_are_told_apart(value: str, action: Action, argument: str) -> None:
    entry = access_entry("a.example", value)
    assert (entry.action, entry.argument) == (action, argument)


@pytest.mark.parametrize(
    ("subject", "kind", "network"),
    [
        ("198.51.100.7", Subject.ADDRESS, "198.51.100.7/32"),
        ("10", Subject.NETWORK, "10.0.0.0/8"),
        ("192.168.3", Subject.NETWORK, "192.168.3.0/24"),
        ("IPv6:2001:db8", Subject.NETWORK, "2001:db8::/32"),
        ("IPv6:2001:db8:0:0:0:0:0:5", Subject.ADDRESS, "2001:db8::5/128"),
        ("ipv6:2001:db8::5", Subject.ADDRESS, "2001:db8::5/128"),
        ("IPv6:::1", Subject.ADDRESS, "::1/128"),
        # check_rcpt finds none of these for an address or a name that can be.
        ("203.0.113.", Subject.OTHER, ""),
        ("198.18.0.0/15", Subject.OTHER, ""),
        ("256.1", Subject.OTHER, ""),
        ("IPv6:2001:0db8", Subject.OTHER, ""),
        (".a.example", Subject.OTHER, ""),
        ("example.", Subject.OTHER, ""),
        ("@a.example", Subject.OTHER, ""),
        ("example", Subject.TLD, ""),
        ("a.example", Subject.DOMAIN, ""),
        ("1.2.3.4.5", Subject.DOMAIN, ""),  # no address, so a name
        ("localhost", Subject.HOST, ""),
        ("LOCALHOST.localdomain", Subject.HOST, ""),
        ("[10.0.0.1]", Subject.HOST, ""),
        ("user@", Subject.USER, ""),
        ("user@a.example", Subject.MAILBOX, ""),
        ("user@a b", Subject.OTHER, ""),
        ("", Subject.DEFAULT, ""),
    ],
)
def test_subjects_are_told_apart(subject: str, kind: Subject, network: str) -> None:
    entry = access_entry(f"Connect:{subject}", "RELAY")
    assert (entry.tag, entry.subject, entry.kind) == ("Connect", subject, kind)
    assert entry.network == (ipaddress.ip_network(network) if network else None)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("connect:10", "RELAY", ("Connect", "10", Action.RELAY)),
        ("TO:a.example", "OK", ("To", "a.example", Action.OK)),
        ("srv_features:192.0.2.7", "x b S", ("Srv_Features", "192.0.2.7", Action.SETTING)),
        ("Try_TLS:a.example", "NO", ("Try_TLS", "a.example", Action.SETTING)),
        ("ClientRate:", "10", ("ClientRate", "", Action.SETTING)),
        ("GreetPause:localhost", "0", ("GreetPause", "localhost", Action.SETTING)),
        ("ipv6:2001:db8", "RELAY", ("", "ipv6:2001:db8", Action.RELAY)),
        ("nosuch:10", "RELAY", ("", "nosuch:10", Action.RELAY)),
        ("a.example", "REJECT", ("", "a.example", Action.REJECT)),
    ],
)
def test_tags_are_known_in_any_case(key: str, value: str, expected: tuple[str, str, Action]) -> None:
    entry = access_entry(key, value)
    assert (entry.tag, entry.subject, entry.action) == expected


@pytest.mark.parametrize(
    ("key", "value", "broad"),
    [
        ("example", "RELAY", True),
        ("To:com", "relay", True),
        ("Connect:11", "RELAY", True),
        ("IPv6:2001", "RELAY", True),
        ("Connect:10", "RELAY", False),
        ("127", "RELAY", False),
        ("IPv6:fd00", "RELAY", False),
        ("Connect:192.168", "RELAY", False),
        ("Connect:172", "RELAY", True),  # 172.16.0.0/12 is private, not all of it
        ("Connect:192.0", "RELAY", False),
        ("IPv6:2001:db8", "RELAY", False),
        ("a.example", "RELAY", False),
        ("localhost", "RELAY", False),
        ("Connect:11", "OK", False),
        ("com", "REJECT", False),
        ("Spam:com", "RELAY", False),
        ("Srv_Features:com", "RELAY", False),
        ("11.0.0.0/8", "RELAY", False),  # never looked up
        ("", "RELAY", False),
    ],
)
def test_a_tld_or_a_foreign_first_octet_is_broader_than_a_network(key: str, value: str, broad: bool) -> None:
    assert is_broader_than_network(access_entry(key, value)) is broad


@given(
    st.one_of(st.text(), st.from_regex(r"\A(Connect:|IPv6:|To:)?[0-9a-f:.\[\]@]*\Z")),
    st.one_of(st.text(), st.sampled_from(["RELAY", "error:", '"']).flatmap(lambda text: st.just(text + "("))),
)
def test_any_entry_is_classified(key: str, value: str) -> None:
    entry = access_entry(key, value)
    assert isinstance(entry, AccessEntry)
    assert key.endswith(entry.subject)
    assert (entry.network is not None) == (entry.kind in {Subject.ADDRESS, Subject.NETWORK})
    assert entry.relays or not is_broader_than_network(entry)
