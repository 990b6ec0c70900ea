# SPDX-License-Identifier: Apache-2.0
"""Sections 3 and 4 of the guide beyond the examples: who gets EXPN back, and a version in any writing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.formats.cf import Cf
from hardend.rules.catalogue import BY_ID, judge
from hardend.rules.documents import Documents
from hardend.rules.rule import Fault, Verdict
from hardend.rules.version_text import names_version, without_version
from tests.unit.cf_corpus import plain_m4
from tests.unit.rulehost import documents_of

CF = "/etc/mail/sendmail.cf"
MC = "/etc/mail/sendmail.mc"
HELP = "/etc/mail/helpfile"
HEAD = "V10/Berkeley\nDZ8.17.1.9/Debian-2\nD{ver}$v/$Z\nDl[${ver}]\n"


def failing(rule: str, documents: Documents) -> list[Fault]:
    return list(judge(documents, BY_ID[rule]).failures)


def mended(rule: str, documents: Documents) -> Documents:
    mend = BY_ID[rule].mend
    assert mend is not None
    return mend(documents)


def greeting(text: str) -> Documents:
    return documents_of({CF: f"{HEAD}O SmtpGreetingMessage={text}\n"})


def greets(documents: Documents) -> str:
    value = documents.cf().greeting()
    return value.text if value else ""


# Versions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("$j Sendmail $v/$Z; $b", "$j Mail Server Ready; $b"),
        ("$j Sendmail 8.12.11/8.12.11; $b", "$j Mail Server Ready; $b"),
        ("$j Sendmail 8.17.1.9 ready at $b", "$j Mail Server Ready; $b"),
        ("$j ESMTP (Sendmail v8.9.3) ours", "$j ESMTP ours"),
        ("$j Sendmail version 8.13 ours; $b", "$j ours; $b"),
        ("$j ${ver} ours; $b", "$j ours; $b"),
        ("$j ours $l", "$j ours"),
        ("$j ours, 8.12.11", "$j ours,"),
        ("$j SENDMAIL 8.12.11 ours", "$j ours"),
    ],
)
def test_a_greeting_names_no_version_in_any_writing(text: str, after: str) -> None:
    documents = greeting(text)
    assert len(failing("greeting-version", documents)) == 1
    assert greets(mended("greeting-version", documents)) == after
    assert failing("greeting-version", greeting(after)) == []


@pytest.mark.parametrize(
    "text",
    [
        "$j Mail Server Ready; $b",
        "$j since 2008.12.24; $b",
        "mail8.12.example.com ready",
        "$j [10.8.17.1] ready",
        "$j v2.0 of the house rules",
        "$w.$m at your service",
    ],
)
def test_what_only_looks_like_a_version_stays(text: str) -> None:
    documents = greeting(text)
    assert failing("greeting-version", documents) == []
    assert mended("greeting-version", documents) is documents


PARTS = (
    *("$j", " ", ";", "$v", "${v}", "$Z", "/", "$l", "${ver}", "Sendmail", "8.12.11", "v8.9", "(", ")"),
    *("$b", "é"),
)


@given(st.lists(st.sampled_from(PARTS), max_size=12).map("".join))
def test_no_text_names_it_after_the_fix_and_a_second_fix_changes_nothing(text: str) -> None:
    cf = Cf(HEAD.encode())
    after = without_version(text, cf)
    assert not names_version(after, cf)
    assert without_version(after, cf) == after
    documents = mended("greeting-version", greeting(text))
    assert failing("greeting-version", documents) == []
    assert mended("greeting-version", documents) is documents


def test_a_greeting_of_the_mc_loses_its_figures_there() -> None:
    made = "define(`confSMTP_LOGIN_MSG', `$j Sendmail 8.12.11; $b')dnl\nMAILER(`smtp')dnl\n"
    files = {CF: f"{HEAD}O SmtpGreetingMessage=$j Sendmail 8.12.11; $b\n", MC: made}
    after = mended("greeting-version", documents_of(files))
    assert after.content[MC] == made.replace("Sendmail 8.12.11", "Mail Server Ready").encode()


@pytest.mark.parametrize(
    ("line", "goes"),
    [
        ("smtp\tThis is sendmail version $v", True),
        ("smtp\tThis is Sendmail version 8.12.11", True),
        ("smtp\tours, ${ver}", True),
        ("smtp\tTo report bugs see http://www.sendmail.org/", False),
        ("cpyr\t$$Id: helpfile,v 8.49 2013-11-22 20:51:55 ca Exp $$", False),
        ("#vers\t8.17.1", False),
    ],
)
def test_a_line_of_the_helpfile_goes_where_it_names_the_version(line: str, goes: bool) -> None:
    text = f"cpyr\tours\n{line}\nquit\tQUIT\n"
    documents = documents_of({CF: f"{HEAD}O HelpFile={HELP}\n", HELP: text})
    after = mended("greeting-help", documents)
    assert [fault.line for fault in failing("greeting-help", documents)] == ([2] if goes else [])
    assert after.content[HELP] == (text.replace(f"{line}\n", "") if goes else text).encode()
    assert goes or after is documents


# EXPN and VERB given back -------------------------------------------------------------------------------


def made(rules: str) -> str:
    text = f"OSTYPE(`linux')dnl\nFEATURE(`access_db')dnl\nMAILER(`smtp')dnl\nLOCAL_SRV_FEATURES\n{rules}"
    return plain_m4(text.encode())[0].decode()


@pytest.mark.m4
@pytest.mark.parametrize(
    ("rules", "names"),
    [
        ("R$* $| 192.0.2.7\t$# x b\n", "EXPN and VERB"),
        ("R$*\t$# S b\n", "VERB"),
        ("R$*\t$# X B v\n", ""),
        ("R$*\t$: x b\n", ""),
        ("", ""),
    ],
)
def test_a_rule_that_gives_them_back_is_found_and_left(rules: str, names: str) -> None:
    documents = documents_of({CF: made(rules)})
    found = failing("privacy-srv-features", documents)
    told = [fault.message.partition(" give ")[2].partition(" back")[0] for fault in found]
    assert told == ([names] if names else [])
    assert all(not fault.mendable and "LOCAL_SRV_FEATURES" in fault.remedy for fault in found)
    assert mended("privacy-srv-features", documents) is documents


def test_an_access_table_that_cannot_be_read_is_unknown_and_none_is_fine() -> None:
    assert judge(documents_of({}), BY_ID["privacy-srv-features"]).verdict is Verdict.PASS
    base = documents_of({"/etc/mail/access": ""})
    unreadable = {"/etc/mail/access": "Permission denied"}
    hidden = Documents(base.layout, {CF: b"V10/Berkeley\n"}, base.attributes, unreadable=unreadable)
    assert judge(hidden, BY_ID["privacy-srv-features"]).verdict is Verdict.UNKNOWN
