# SPDX-License-Identifier: Apache-2.0
"""Relaying: lists that are asked over DNS, and how far an entry reaches, in .cf files that m4 makes."""

from __future__ import annotations

import pytest

from hardend.rules.catalogue import BY_ID, judge
from hardend.rules.documents import Documents
from hardend.rules.relay_texts import CF
from hardend.rules.rule import Fault
from tests.unit.relay_pairs import RESTS, made
from tests.unit.rulehost import documents_of
from tests.unit.test_rules_relay import mended, substance

pytestmark = [pytest.mark.m4, pytest.mark.parametrize("rest", RESTS)]
DEAD = "rbl.maps.vix.com"


def failures(rule: str, documents: Documents) -> list[Fault]:
    return list(judge(documents, BY_ID[rule]).failures)


@pytest.mark.parametrize("feature", ["dnsbl", "enhdnsbl"])
def test_a_list_that_is_dead_is_told_from_one_that_lives(feature: str, rest: str) -> None:
    """FEATURE(`rbl') is gone from m4; what took its place asks a zone, and the zone decides."""
    living = made((*RESTS[rest], feature), auth="auth" in rest).decode()
    dead = living.replace("bl.example", DEAD)
    assert dead != living
    assert failures("relay-blocklists", documents_of({CF: living})) == []
    [fault] = failures("relay-blocklists", documents_of({CF: dead}))
    assert DEAD in fault.message
    assert DEAD in dead.split("\n")[fault.line - 1]
    after = mended("relay-blocklists", documents_of({CF: dead})).content[CF]
    left = substance(made(RESTS[rest], auth="auth" in rest))
    # Its map stays, unused: another rule may have it too.
    more = [line for line in substance(after) if line not in left]
    assert [line[:1] for line in more] == [b"#", b"K"]
    assert DEAD.encode() not in after
    assert [line for line in substance(after) if line not in more] == left


def test_relay_hosts_only_narrows_what_an_entry_reaches(rest: str) -> None:
    files = {"/etc/mail/relay-domains": "example.com\ncom\n"}
    wide = made(RESTS[rest], auth="auth" in rest).decode()
    narrow = made((*RESTS[rest], "relay_hosts_only"), auth="auth" in rest).decode()
    [fault] = failures("relay-entries", documents_of({CF: wide, **files}))
    assert (fault.path, fault.line) == ("/etc/mail/relay-domains", 2)
    assert failures("relay-entries", documents_of({CF: narrow, **files})) == []
