# SPDX-License-Identifier: Apache-2.0
"""Relaying: what a .cf allows is told from its rules alone, and mended where its lines are m4's own."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.formats.cf import Cf
from hardend.formats.cf_rulesets import rewrite_rule, rulesets
from hardend.rules.catalogue import BY_ID, CATALOGUE, judge
from hardend.rules.documents import CannotMendError, Documents
from hardend.rules.relay_blocklists import fate_of
from hardend.rules.relay_features import acceptances, blocklists, features, trusted_mechanisms
from hardend.rules.relay_mend import without_blocklist, without_feature
from hardend.rules.relay_texts import (
    CF,
    CLOSED,
    MC,
    PROMISCUOUS,
    RELAY_CHECKED,
    RELAY_END,
    asked,
    mc,
)
from hardend.rules.rule import Fault, Verdict
from tests.unit.relay_pairs import JUDGED, MENDABLE, Pair, pairs
from tests.unit.rulehost import documents_of

MENDABLE_PAIRS = [pair for pair in pairs() if pair.feature in MENDABLE]
JUDGED_PAIRS = [pair for pair in pairs() if pair.feature in JUDGED]
OPEN_PAIRS = [pair for pair in pairs() if pair.feature == "promiscuous_relay"]
RELAY_RULES = [rule for rule in CATALOGUE if rule.id.startswith("relay-")]


def name_of(pair: Pair) -> str:
    return f"{pair.feature}+{pair.rest}"


def failures(rule: str, documents: Documents) -> list[Fault]:
    return list(judge(documents, BY_ID[rule]).failures)


def mended(rule: str, documents: Documents) -> Documents:
    mend = BY_ID[rule].mend
    assert mend is not None
    return mend(documents)


def substance(data: bytes) -> list[bytes]:
    """Return the lines of a .cf but for comments of origin and empty ones."""
    return [line for line in data.splitlines() if line.strip() and not line.startswith(b"#####")]


# With and without -----------------------------------------------------------------------------------


def test_there_are_pairs_of_every_feature_that_a_rule_judges() -> None:
    told = {pair.feature for pair in pairs()}
    assert told >= {*MENDABLE, "promiscuous_relay", "relay_hosts_only", "blocklist_recipients"}
    assert told >= {"dnsbl", "enhdnsbl", "accept_unqualified_senders", "use_cw_file", "use_ct_file"}


@pytest.mark.m4
@pytest.mark.parametrize("pair", pairs(), ids=name_of)
def test_a_feature_is_told_from_the_rules_alone(pair: Pair) -> None:
    """The comments that m4 leaves are taken away: hand-edited files have none."""
    present = re.sub(rb"(?m)^#.*\n", b"", pair.present)
    absent = re.sub(rb"(?m)^#.*\n", b"", pair.absent)
    assert set(features(Cf(present))) - set(features(Cf(absent))) == pair.names
    assert set(features(Cf(absent))) - set(features(Cf(present))) == set()


@pytest.mark.m4
@pytest.mark.parametrize("pair", JUDGED_PAIRS, ids=name_of)
def test_the_rule_tells_a_cf_with_the_feature_from_one_without(pair: Pair) -> None:
    rule = JUDGED[pair.feature]
    messages = [
        {fault.message for fault in failures(rule.lstrip("-"), documents_of({CF: cf.decode()}))}
        for cf in (pair.present, pair.absent)
    ]
    broken, met = messages[::-1] if rule.startswith("-") else messages
    assert broken - met
    assert not met - broken or pair.feature == "access_db", "one fault goes, another comes into sight"


@pytest.mark.m4
@pytest.mark.parametrize("pair", pairs(), ids=name_of)
def test_m4_writes_no_rule_that_accepts_everything(pair: Pair) -> None:
    assert acceptances(Cf(pair.present)) == []


@pytest.mark.m4
@pytest.mark.parametrize("pair", MENDABLE_PAIRS, ids=name_of)
def test_what_is_left_is_what_m4_makes_without_the_feature(pair: Pair) -> None:
    changed = without_feature(Cf(pair.present), pair.feature)
    assert changed is not None
    assert substance(changed.render()) == substance(pair.absent)


@pytest.mark.m4
@pytest.mark.parametrize("pair", OPEN_PAIRS, ids=name_of)
def test_an_open_relay_without_a_mc_is_found_and_left_to_its_administrator(pair: Pair) -> None:
    documents = documents_of({CF: pair.present.decode("utf-8", "surrogateescape")})
    [fault] = failures("relay-open", documents)
    assert not fault.mendable
    assert "write a .mc" in fault.remedy
    with pytest.raises(CannotMendError, match=r"promiscuous_relay: .* has no \.mc"):
        mended("relay-open", documents)
    assert failures("relay-open", documents_of({CF: pair.absent.decode("utf-8", "surrogateescape")})) == []


# By hand: each was tried with sendmail -bt -----------------------------------------------------------


@pytest.mark.parametrize(
    "rules",
    [
        "R$*\t$# OK",
        "R$*\t$# RELAY",
        "R$+\t$#OK",
        "R$+@$+\t$#OK $1",
        "R<$+@$+>\t$#OK",
        "R$+.$+\t$#OK",
        "R$*\t$@ $# OK",
        "R$*\t$: $# OK",
        'R$* spam.example $*\t$#error $: "550 no"\nR$*\t$# OK\t\tall others',
    ],
)
@pytest.mark.parametrize("ruleset", ["SLocal_check_rcpt", "S Local_check_rcpt", "SLocal_Relay_Auth"])
def test_a_local_rule_that_accepts_everything_is_found_and_removed(ruleset: str, rules: str) -> None:
    documents = documents_of({CF: f"{CLOSED}{ruleset}\n{rules}\n"})
    [fault] = failures("relay-open", documents)
    assert fault.mendable
    assert fault.line == CLOSED.count("\n") + 1 + rules.count("\n") + 1
    after = mended("relay-open", documents)
    assert failures("relay-open", after) == []
    kept = "".join(f"{line}\n" for line in rules.splitlines()[:-1])
    assert after.content[CF].decode() == f"{CLOSED}{ruleset}\n{kept}"


@pytest.mark.parametrize(
    "text",
    [
        "SLocal_check_rcpt\nR$*\t$@ RELAY\n",  # decides nothing: the checks go on
        "SLocal_check_rcpt\nR$*\t$@ OK\n",
        'SLocal_check_rcpt\nR$*\t$# error $@ 5.7.1 $: "550 no"\n',
        "SLocal_check_rcpt\nR$*\t$#discard $: discard\n",
        "SLocal_check_rcpt\nR$-@$-\t$#OK\n",  # one token each: no domain with a dot
        "SLocal_check_rcpt\nR$* @ example.com\t$# OK\n",
        "SLocal_check_rcpt\nR$* $=w $*\t$# OK\n",
        "SLocal_check_rcpt\nR<>\t$# OK\n",
        "SLocal_check_rcpt\n#R$*\t$# OK\n",
        "Slocal_check_rcpt\nR$*\t$#OK\n",  # another ruleset: case counts
        "SLocal_check_relay\nR$*\t$# OK\n",  # skips access, but relays for nobody
        "SLocal_check_mail\nR$*\t$# OK\n",
        "SMine\nR$*\t$# OK\n",
    ],
)
def test_a_local_rule_that_only_looks_so_is_left_alone(text: str) -> None:
    documents = documents_of({CF: CLOSED + text})
    assert failures("relay-open", documents) == []
    assert mended("relay-open", documents) is documents


def test_what_a_rule_accepts_after_a_look_up_is_advice() -> None:
    rules = "R$*\t$: $(access Mine:$&{client_addr} $: NONE $)\nRNONE\t$@ NO\nR$*\t$# OK\n"
    found = list(BY_ID["relay-open"].judge(documents_of({CF: f"{CLOSED}SLocal_check_rcpt\n{rules}"})))
    assert [fault.advice for fault in found] == [True]
    assert "hardend verify" in found[0].remedy


@pytest.mark.parametrize(("rule", "ruleset"), [("relay-access-db", "relay"), ("relay-senders", "mail")])
def test_a_local_rule_that_ends_all_other_checks_is_found_where_it_matters(rule: str, ruleset: str) -> None:
    documents = documents_of({CF: f"{CLOSED}SLocal_check_{ruleset}\nR$*\t$# OK\n"})
    [fault] = [fault for fault in failures(rule, documents) if fault.mendable]
    assert f"Local_check_{ruleset} accepts every" in fault.message
    assert mended(rule, documents).content[CF].decode() == f"{CLOSED}SLocal_check_{ruleset}\n"


def test_a_rule_that_accepts_the_rest_after_others_accepted_some_is_no_advice() -> None:
    documents = documents_of({CF: CLOSED + "R$*\t$@ RELAY\t\tat the end of Relay_ok\n"})
    assert [fault.line for fault in failures("relay-open", documents)] == [CLOSED.count("\n") + 1]
    assert mended("relay-open", documents).content[CF].decode() == CLOSED


@pytest.mark.parametrize("edit", [("Relay_ok", "R$*\t$@ RELAY"), ("Basic_check_rcpt", "R$*\t$@ OK")])
def test_an_edit_of_the_rulesets_themselves_is_found(edit: tuple[str, str]) -> None:
    ruleset, rule = edit
    documents = documents_of({CF: CLOSED.replace(f"S{ruleset}\n", f"S{ruleset}\n{rule}\n")})
    assert [fault.line for fault in failures("relay-open", documents)] != []
    assert mended("relay-open", documents).content[CF].decode() == CLOSED


def test_a_cf_that_checks_no_recipient_is_an_open_relay() -> None:
    documents = documents_of({CF: "V10/Berkeley\nSparse=0\nR$*\t$#local $: $1\n"})
    assert [fault.line for fault in failures("relay-open", documents)] == [0]


def test_a_cf_without_any_rule_relays_nothing() -> None:
    for rule in ("relay-open", "relay-from", "relay-senders", "relay-blocklists"):
        assert judge(documents_of({}), BY_ID[rule]).verdict is Verdict.NOT_APPLICABLE


def test_a_sender_that_a_local_rule_believes_is_found() -> None:
    rules = "SLocal_check_rcpt\nR$*\t$: <?> $&f\nR<?> $* @ example.com\t$# OK\n"
    [fault] = failures("relay-from", documents_of({CF: CLOSED + rules}))
    assert not fault.mendable
    assert "its lines are not what m4 writes" in fault.remedy


def test_lines_that_were_edited_are_not_touched() -> None:
    edited = CLOSED.replace(
        RELAY_END,
        "R$*\t\t\t$: <?> $>CanonAddr $&f\nR<?> $+ < @ $+ . >\t<?> $1 < @ $2 >\n"
        "R<?> $+ < @ $=w >\t$@ RELAY\nR<?> $+\t$: $1\t\tours\n" + RELAY_END,
    )
    documents = documents_of({CF: edited})
    assert not failures("relay-from", documents)[0].mendable
    with pytest.raises(CannotMendError, match=r"relay_local_from: .*compare the two"):
        mended("relay-from", documents)


# In a .mc -------------------------------------------------------------------------------------------


def test_a_feature_that_the_mc_does_not_call_says_where_to_look() -> None:
    documents = documents_of({CF: PROMISCUOUS, MC: mc("DOMAIN(`ours')")})
    [fault] = failures("relay-open", documents)
    assert not fault.mendable
    assert "DOMAIN, OSTYPE and include files" in fault.remedy
    with pytest.raises(CannotMendError, match="does not call it"):
        mended("relay-open", documents)


def test_a_mc_that_was_mended_is_left_alone_until_it_is_built() -> None:
    documents = documents_of({CF: PROMISCUOUS, MC: mc("FEATURE(`promiscuous_relay')")})
    once = mended("relay-open", documents)
    assert once.stale == {CF}
    assert mended("relay-open", once) is once


def test_all_rules_that_accept_everything_go_at_once() -> None:
    many = "SLocal_check_rcpt\n" + "R$*\t$# OK\nR$+\t$#RELAY\n" * 3
    documents = documents_of({CF: CLOSED + many})
    assert len(failures("relay-open", documents)) == 1
    assert mended("relay-open", documents).content[CF].decode() == CLOSED + "SLocal_check_rcpt\n"
    built = documents_of({CF: CLOSED + many, MC: mc() + "LOCAL_RULESETS\n" + many})
    after = mended("relay-open", built)
    assert after.content[MC].decode() == mc() + "LOCAL_RULESETS\nSLocal_check_rcpt\n"
    assert mended("relay-open", after) is after


def test_a_rule_by_hand_that_the_mc_has_twice_is_not_removed() -> None:
    twice = "LOCAL_RULESETS\nSLocal_check_rcpt\nR$*\t$# OK\nSOther\nR$*\t$# OK\n"
    documents = documents_of({CF: f"{CLOSED}SLocal_check_rcpt\nR$*\t$# OK\n", MC: mc() + twice})
    assert not failures("relay-open", documents)[0].mendable
    with pytest.raises(CannotMendError, match="word for word"):
        mended("relay-open", documents)


def test_blocklist_recipients_before_access_db_has_no_effect_and_is_said_so() -> None:
    closed = CLOSED.replace("V10/Berkeley\n", "V10/Berkeley\nKaccess hash -T<TMPF> /etc/mail/access\n")
    calls = mc("FEATURE(`blocklist_recipients')", "FEATURE(`access_db')")
    documents = documents_of({CF: closed, MC: calls})
    [fault] = failures("relay-access-db", documents)
    assert not fault.mendable
    assert "must stand behind FEATURE(`access_db')" in fault.remedy
    with pytest.raises(CannotMendError, match="must stand behind"):
        mended("relay-access-db", documents)


# Blocklists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "is_dead"),
    [
        ("rbl.maps.vix.com", True),
        ("RELAYS.ORBS.org.", True),
        ("relays.ordb.org", True),
        ("dul.dnsbl.sorbs.net", True),
        ("bl.spamcannibal.org", True),
        ("dnsbl.njabl.org", True),
        ("zen.spamhaus.org", False),
        ("bl.spamcop.net", False),
        ("notordb.org", False),
        ("orbs.org.example", False),
        ("", False),
    ],
)
def test_dead_lists_are_known_with_all_under_them(zone: str, is_dead: bool) -> None:
    assert bool(fate_of(zone)) == is_dead


def test_a_list_is_taken_out_and_the_others_stay_whole() -> None:
    lists = [asked(zone) for zone in ("a.example", "b.example", "c.example")]
    whole = CLOSED.replace(RELAY_CHECKED, RELAY_CHECKED + "".join(lists))
    assert [item.zone for item in blocklists(Cf(whole.encode()))] == ["a.example", "b.example", "c.example"]
    for one in lists:
        zone = next(iter(blocklists(Cf((CLOSED + one).encode())))).zone
        changed = without_blocklist(Cf(whole.encode()), zone)
        assert changed is not None
        assert changed.render().decode() == whole.replace(one, "")


def test_a_list_whose_answer_other_rules_use_is_not_taken_out() -> None:
    used = asked("ordb.org") + "R<?> $*\t\t$: $(mine $1 $)\n"
    documents = documents_of({CF: CLOSED.replace(RELAY_CHECKED, RELAY_CHECKED + used)})
    assert not failures("relay-blocklists", documents)[0].mendable
    with pytest.raises(CannotMendError, match=r"ordb\.org with rules that m4 does not write"):
        mended("relay-blocklists", documents)


def test_a_call_that_shares_its_line_is_left_to_its_author() -> None:
    text = mc("FEATURE(`use_cw_file') FEATURE(`dnsbl', `dnsbl.njabl.org')")
    cf = CLOSED.replace(RELAY_CHECKED, RELAY_CHECKED + asked("njabl.org"))
    documents = documents_of({CF: cf, MC: text})
    assert not any(fault.mendable for fault in failures("relay-blocklists", documents))
    with pytest.raises(CannotMendError, match="not asked by a line of its own"):
        mended("relay-blocklists", documents)


# Reading --------------------------------------------------------------------------------------------


def test_rulesets_are_read_as_sendmail_reads_them() -> None:
    cf = Cf(
        b"R$1\t$2\nSone=98\nR$*\t$: a\tnote\nStwo # x\nR$-\n\t\t\t$@ b\n"
        b'S98\nR$+\t\t$#c $: "d  e"\nR no tab\nSOne\n'
    )
    known = rulesets(cf)
    assert {name: [(rule.left, rule.right) for rule in found.rules] for name, found in known.items()} == {
        "0": [("$1", "$2")],
        "one": [("$*", "$:a"), ("$+", '$#c$:"de"')],
        "98": [("$*", "$:a"), ("$+", '$#c$:"de"')],
        "two": [("$-", "$@b")],
        "One": [],
    }
    assert (known["one"].line, known["two"].line) == (2, 4)


def test_spelling_does_not_matter_but_names_do() -> None:
    assert rewrite_rule("R<?>$+<@$=w>\t$@RELAY") == rewrite_rule("R <?> $+ < @ $=w >\t\t$@ Relay\tnote")
    assert rewrite_rule("R$=w\t$@ OK") != rewrite_rule("R$=W\t$@ OK")
    assert rewrite_rule("O LogLevel=9") is None


def test_the_mechanisms_that_may_relay_are_known() -> None:
    cf = Cf(CLOSED.encode() + b"C{TrustAuthMech}PLAIN LOGIN\n")
    assert trusted_mechanisms(cf) == ["PLAIN", "LOGIN"]


LINES = [*CLOSED.splitlines(keepends=True), "R$*\t$# OK\n", "SLocal_check_rcpt=97\n"]
LINES += ["S97\n", "To:com RELAY\n"]


@given(st.lists(st.sampled_from(LINES) | st.text(max_size=20), max_size=40))
def test_the_rules_have_a_verdict_on_whatever_is_left_of_a_cf(parts: list[str]) -> None:
    text = "".join(parts)
    documents = documents_of({CF: text, "/etc/mail/access": text, "/etc/mail/relay-domains": text})
    for rule in RELAY_RULES:
        before = judge(documents, rule)
        assert before.verdict in set(Verdict)
        if rule.mend is None or before.verdict in {Verdict.UNKNOWN, Verdict.NOT_APPLICABLE}:
            continue
        try:
            after = rule.mend(documents)
        except CannotMendError:
            continue
        assert not [fault for fault in judge(after, rule).failures if fault.mendable]
