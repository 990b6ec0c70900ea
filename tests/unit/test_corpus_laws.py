# SPDX-License-Identifier: Apache-2.0
"""The laws of the rules on real configurations: each rule alone on .cf files that m4 makes of shipped .mc."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardend.formats.cf import Cf
from hardend.formats.cf_reread import differences
from hardend.rules.catalogue import CATALOGUE, judge, mend_all
from hardend.rules.documents import (
    CannotMendError,
    Documents,
    NotApplicableError,
    UnknownError,
)
from hardend.rules.greeting import GREETING
from hardend.rules.rule import Rule, Verdict
from tests.unit.cf_corpus import NAMES, plain_m4, text_of
from tests.unit.rulehost import CF, documents_of
from tests.unit.test_cf_reread import reread

pytestmark = pytest.mark.m4
MENDING = [rule for rule in CATALOGUE if rule.mend is not None]


def host_of(name: str, *, with_mc: bool) -> Documents:
    cf = plain_m4(text_of(name))[0].decode("utf-8", "surrogateescape")
    files = {CF: cf, "/etc/mail/access": "Connect:com\tRELAY\nSrv_Features:192.0.2.1\tx G\n"}
    files["/etc/aliases"] = 'decode: "|uudecode"\nlist: "|/opt/list"\n'
    if with_mc:
        files["/etc/mail/sendmail.mc"] = text_of(name).decode("utf-8", "surrogateescape")
    return documents_of(files)


def mended(rule: Rule, documents: Documents) -> Documents:
    assert rule.mend is not None
    try:
        return rule.mend(documents)
    except (CannotMendError, NotApplicableError, UnknownError):
        return documents


@pytest.mark.parametrize("with_mc", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_each_rule_is_idempotent_and_touches_only_what_it_finds(name: str, *, with_mc: bool) -> None:
    before = host_of(name, with_mc=with_mc)
    changes = 0
    for rule in MENDING:
        after = mended(rule, before)
        assert mended(rule, after) == after, rule.id
        found = judge(before, rule)
        if found.verdict is not Verdict.FAIL:
            assert after is before, f"{rule.id} changes what it passes"
            continue
        changed = {path for path, data in after.content.items() if before.content.get(path) != data}
        named = {fault.path for fault in found.faults}
        named |= {before.sources.get(path, "") for path in named}
        assert changed <= named | {before.layout.helpfile, "/etc/mail/helpfile"}, rule.id
        changes += len(changed)
    assert changes > 5


@pytest.mark.parametrize("name", NAMES)
def test_every_line_that_a_rule_does_not_own_stays_byte_for_byte(name: str) -> None:
    before = host_of(name, with_mc=False)
    for rule in MENDING:
        after = mended(rule, before)
        owned = {fault.line for fault in judge(before, rule).faults if fault.path == CF}
        old = [line.raw for line in before.cf(CF).lines]
        kept = [line.raw for line in before.cf(CF).lines if line.number not in owned]
        new = [line.raw for line in Cf(after.content[CF]).lines]
        if rule.section.value != "relaying":  # a FEATURE is more lines than the one that shows it
            assert in_order(kept, new), rule.id
        assert len(new) > 0.9 * len(old), rule.id


@pytest.mark.root
@pytest.mark.parametrize("name", NAMES)
def test_sendmail_reads_what_the_rules_accept_as_they_do(name: str, tmp_path: Path) -> None:
    """What each rule made of the options passes it: as Sendmail prints them, they are what it asked for."""
    after = mend_all(host_of(name, with_mc=False), CATALOGUE).documents
    path = tmp_path / "a.cf"
    path.write_bytes(after.content[CF])
    said = reread(path)
    assert said.count(b"setoption ") > 20
    assert differences(after.cf(CF), said) == []
    greeting = after.cf(CF).option(GREETING.name)
    assert greeting is not None and f"={greeting.text}\n".encode() in said


def in_order(few: list[bytes], many: list[bytes]) -> bool:
    """Return whether all of ``few`` stand in ``many``, in their order."""
    rest = iter(many)
    return all(any(line == other for other in rest) for line in few)


@pytest.mark.parametrize("with_mc", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_the_catalogue_twice_is_the_catalogue_once_on_it(name: str, *, with_mc: bool) -> None:
    once = mend_all(host_of(name, with_mc=with_mc), CATALOGUE).documents
    assert mend_all(once, CATALOGUE).documents == once
    back = mend_all(host_of(name, with_mc=with_mc), CATALOGUE[::-1]).documents
    twice = mend_all(back, CATALOGUE).documents
    for rule in MENDING if not with_mc else ():
        left = [fault for fault in judge(twice, rule).failures if fault.mendable]
        assert left == [], f"{rule.id}: the order of the rules matters"
