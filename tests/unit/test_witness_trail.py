# SPDX-License-Identifier: Apache-2.0
"""Who it was when several were there: pure, by the order in which the kernel told of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.witness_process import Process
from hardend.witness_trail import Trails, Verdict

PATH, OTHER = "/etc/mail/access", "/etc/mail/mailertable"
GUARD = 300
S = 1_000_000_000
CONTENT, NAME, ATTRIBUTES = (frozenset({word}) for word in ("content", "name", "attributes"))


def named(verdict: Verdict | None) -> list[int]:
    assert verdict is not None
    return [one.process.pid for one in verdict.suspects]


def restore(trails: Trails, now_ns: int, identifier: str = "id", path: str = PATH) -> Verdict | None:
    trails.replaced(path, GUARD, now_ns)
    return trails.taken(identifier, GUARD, now_ns + 1)


def test_the_one_who_changed_it_is_named_for_a_fact() -> None:
    trails = Trails()
    trails.changed(PATH, Process(7, exe="/bin/sh"), S, CONTENT)
    trails.changed(OTHER, Process(8), S, CONTENT)
    verdict = restore(trails, S + 100)
    assert verdict is not None
    assert (verdict.path, verdict.id, verdict.is_sure, named(verdict)) == (PATH, "id", True, [7])


def test_two_are_both_named() -> None:
    trails = Trails()
    for pid in (7, 8, 7):
        trails.changed(PATH, Process(pid), S, CONTENT)
    assert named(restore(trails, S)) == [8, 7]


def test_what_was_restored_before_is_not_told_again() -> None:
    trails = Trails()
    trails.changed(PATH, Process(7), S, CONTENT)
    restore(trails, S)
    assert named(restore(trails, S + 10)) == []
    trails.changed(PATH, Process(8), S + 20, CONTENT)
    assert named(restore(trails, S + 30)) == [8]


def test_who_writes_between_the_exchange_and_the_setting_aside_belongs_to_the_next() -> None:
    trails = Trails()
    trails.changed(PATH, Process(7), S, CONTENT)
    trails.replaced(PATH, GUARD, S)
    trails.changed(PATH, Process(8), S, CONTENT)
    assert named(trails.taken("first", GUARD, S)) == [7]
    assert named(restore(trails, S + 1)) == [8]


def test_one_restore_may_take_two_renames() -> None:
    trails = Trails()
    trails.changed(PATH, Process(7), S, CONTENT)
    trails.replaced(PATH, GUARD, S)
    assert named(restore(trails, S + 1000)) == [7]


def test_long_ago_is_no_fact_and_an_hour_ago_is_nothing() -> None:
    for age_s, sure, pids in ((1, True, [7]), (60, False, [7]), (3700, False, [])):
        trails = Trails()
        trails.changed(PATH, Process(7), S, CONTENT)
        verdict = restore(trails, S + age_s * S)
        assert verdict is not None
        assert (verdict.is_sure, named(verdict)) == (sure, pids)


def test_who_came_last_counts_and_not_who_changed_it_long_before() -> None:
    trails = Trails()
    trails.changed(PATH, Process(7), S, CONTENT)
    trails.changed(PATH, Process(8), 100 * S, CONTENT)
    assert named(restore(trails, 100 * S)) == [8]


def test_where_events_were_lost_nothing_is_sure() -> None:
    trails = Trails()
    trails.changed(PATH, Process(7), S, CONTENT)
    trails.lost(S)
    verdict = restore(trails, S)
    assert verdict is not None
    assert not verdict.is_sure
    trails.changed(PATH, Process(7), 10 * S, CONTENT)
    again = restore(trails, 10 * S)
    assert again is not None
    assert again.is_sure


def test_what_was_approved_forgets_who_changed_it() -> None:
    trails = Trails()
    trails.changed(PATH, Process(7), S, CONTENT)
    trails.clear()
    assert named(restore(trails, S)) == []


def test_an_administrators_own_revert_does_not_name_him() -> None:
    trails = Trails()
    trails.changed(PATH, Process(7), S, CONTENT)
    trails.changed(PATH, Process(50), S, NAME)  # hardend lock --revert, run from a session
    assert named(trails.taken("id", 50, S)) == [7]


def test_what_nobody_was_seen_to_rename_is_not_told() -> None:
    assert Trails().taken("id", GUARD, S) is None


def test_attributes_that_were_put_right_in_place_are_told_once_and_only_of_lately() -> None:
    trails = Trails()
    assert trails.amended(PATH, S) is None
    trails.changed(PATH, Process(7), S, ATTRIBUTES)
    assert named(trails.amended(PATH, S)) == [7]
    assert trails.amended(PATH, S) is None
    trails.changed(PATH, Process(7), S, ATTRIBUTES)
    assert trails.amended(PATH, 60 * S) is None


def test_what_one_process_did_is_gathered() -> None:
    trails = Trails()
    for did in (CONTENT, ATTRIBUTES):
        trails.changed(PATH, Process(7), S, did)
    verdict = restore(trails, S)
    assert verdict is not None
    assert verdict.suspects[0].did == CONTENT | ATTRIBUTES


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["changed", "replaced", "amended", "taken", "lost"]),
        st.sampled_from([PATH, OTHER]),
        st.integers(1, 40),
        st.integers(0, 10 * S),
    ),
    max_size=60,
)


@given(ACTS)
def test_nobody_is_named_who_did_not_touch_it_and_a_fact_is_of_lately(
    acts: list[tuple[str, str, int, int]],
) -> None:
    trails = Trails()
    now = 0
    touched: dict[str, dict[int, int]] = {PATH: {}, OTHER: {}}
    for act, path, pid, later in acts:
        now += later
        verdict = None
        if act == "changed":
            trails.changed(path, Process(pid), now, CONTENT)
            touched[path][pid] = now
        elif act == "replaced":
            trails.replaced(path, GUARD, now)
        elif act == "amended":
            verdict = trails.amended(path, now)
        elif act == "taken":
            verdict = trails.taken("id", GUARD, now)
        else:
            trails.lost(now)
        if verdict is not None:
            assert set(named(verdict)) <= touched[verdict.path].keys()
            ages = [now - touched[verdict.path][one] for one in named(verdict)]
            assert not verdict.is_sure or max(ages) <= 5 * S


@pytest.mark.parametrize("count", [1, 8, 9, 16, 17, 2000])
def test_what_is_remembered_is_bounded(count: int) -> None:
    trails = Trails()
    for number in range(count):
        trails.changed(f"/etc/mail/smrsh/{number}", Process(number), S, NAME)
        trails.changed(PATH, Process(number), S, CONTENT)
    assert len(trails._trails) <= 256
    verdict = restore(trails, S)
    assert verdict is not None
    assert len(verdict.suspects) <= 8
    assert verdict.is_sure is (count <= 8)
