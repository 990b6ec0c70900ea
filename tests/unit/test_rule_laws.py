# SPDX-License-Identifier: Apache-2.0
"""The laws of the rules, on every example of every rule: fixed, once, and nothing else touched."""

from __future__ import annotations

import contextlib

import pytest

from hardend.rules.catalogue import CATALOGUE, judge, mend_all
from hardend.rules.documents import CannotMendError, Documents, NotApplicableError, UnknownError
from hardend.rules.rule import Example, Fault, Fix, Rule, Verdict
from tests.unit.rulehost import of_example, with_mode

EXAMPLES = [(rule, example) for rule in CATALOGUE for example in rule.examples]
BROKEN = [(rule, example) for rule, example in EXAMPLES if not example.is_near_miss]
MENDABLE = [(rule, example) for rule, example in BROKEN if rule.mend is not None]
NEAR_MISSES = [(rule, example) for rule, example in EXAMPLES if example.is_near_miss]


def name_of(value: object) -> str:
    if isinstance(value, Rule):
        return value.id
    return value.title.replace(" ", "-") if isinstance(value, Example) else ""


def mendable(rule: Rule, documents: Documents) -> list[Fault]:
    """Return what the rule still finds; of a .cf that is not made yet from its .mc nothing is known."""
    return [
        fault
        for fault in rule.judge(documents)
        if fault.mendable and not fault.advice and fault.path not in documents.stale
    ]


def mended(rule: Rule, documents: Documents) -> Documents:
    assert rule.mend is not None
    return rule.mend(documents)


@pytest.mark.parametrize(("rule", "example"), BROKEN, ids=name_of)
def test_what_an_example_shows_is_found(rule: Rule, example: Example) -> None:
    found = [fault for fault in rule.judge(of_example(example)) if not fault.advice]
    assert found
    assert all(fault.path and fault.message for fault in found)
    assert not any(fault.message.endswith(".") for fault in found)


@pytest.mark.parametrize(("rule", "example"), MENDABLE, ids=name_of)
def test_the_fix_makes_exactly_what_the_example_says(rule: Rule, example: Example) -> None:
    before = of_example(example)
    after = mended(rule, before)
    expected = dict(before.content)
    attributes = dict(before.attributes)
    for path, text in example.after.items():
        if text is None:
            expected.pop(path, None)
            attributes.pop(path)
        elif text.startswith("-> "):
            assert after.attributes[path].target == text[3:]
            attributes[path] = after.attributes[path]
        else:
            expected[path] = text.encode("utf-8", "surrogateescape")
            attributes.setdefault(path, after.attributes[path])
    for path, mode in example.modes.items():
        _, arrow, new = mode.partition(" -> ")
        if arrow:
            attributes[path] = with_mode(attributes[path], new)
    assert dict(after.content) == expected
    assert dict(after.attributes) == attributes


@pytest.mark.parametrize(("rule", "example"), MENDABLE, ids=name_of)
def test_nothing_mendable_is_left_after_the_fix(rule: Rule, example: Example) -> None:
    assert mendable(rule, mended(rule, of_example(example))) == []


@pytest.mark.parametrize(("rule", "example"), MENDABLE, ids=name_of)
def test_fixing_twice_is_fixing_once(rule: Rule, example: Example) -> None:
    once = mended(rule, of_example(example))
    assert mended(rule, once) == once


@pytest.mark.parametrize(("rule", "example"), NEAR_MISSES, ids=name_of)
def test_a_near_miss_is_neither_found_nor_touched(rule: Rule, example: Example) -> None:
    before = of_example(example)
    assert judge(before, rule).failures == ()
    if rule.mend is not None:
        assert mended(rule, before) is before


@pytest.mark.parametrize(("rule", "example"), EXAMPLES, ids=name_of)
def test_the_catalogue_twice_is_the_catalogue_once(rule: Rule, example: Example) -> None:
    once = mend_all(of_example(example), CATALOGUE).documents
    assert mend_all(once, CATALOGUE).documents == once, rule.id


@pytest.mark.parametrize("rule", CATALOGUE, ids=name_of)
def test_every_rule_says_what_it_is_and_shows_it(rule: Rule) -> None:
    assert rule.title
    assert not rule.title.endswith(".")
    assert rule.rationale.endswith(".")
    assert rule.references
    assert (rule.mend is None) == (rule.fix is Fix.NEVER)
    assert any(not example.is_near_miss for example in rule.examples), "no example of a fault"
    assert any(example.is_near_miss for example in rule.examples), "no near miss"


def test_the_ids_are_unique_and_say_subject_and_thing() -> None:
    ids = [rule.id for rule in CATALOGUE]
    assert len(set(ids)) == len(ids)
    assert all("-" in rule_id and rule_id == rule_id.lower() for rule_id in ids)


@pytest.mark.parametrize(("rule", "example"), EXAMPLES, ids=name_of)
def test_every_rule_has_a_verdict_on_every_host(rule: Rule, example: Example) -> None:
    documents = of_example(example)
    for other in CATALOGUE:
        assert judge(documents, other).verdict in set(Verdict)
        if other.mend is not None:
            with contextlib.suppress(CannotMendError, NotApplicableError, UnknownError):
                other.mend(documents)
    assert rule in CATALOGUE
