# SPDX-License-Identifier: Apache-2.0
"""Whom ``hardend events --who`` means."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis.strategies import text

from hardend.cli import events as verb
from hardend.events import Query, Record, to_record

BY_ALICE: dict[str, str | int] = {
    "who_exe": "/usr/bin/vim.basic",
    "who_pid": 77,
    "who_uid": 0,
    "who_loginuid": 1000,
}
BY_CRON: dict[str, str | int] = {"who_exe": "/usr/bin/python3", "who_uid": 1, "who_unit": "cron.service"}


@pytest.mark.parametrize(
    ("who", "fields"),
    [
        ("/usr/bin/vim.basic", BY_ALICE),
        ("vim.basic", BY_ALICE),
        ("0", BY_ALICE),
        ("1000", BY_ALICE),  # root by sudo is still the one who logged in
        ("cron", BY_CRON),
        ("cron.service", BY_CRON),
    ],
)
def test_who_is_a_user_a_program_or_a_unit(who: str, fields: dict[str, str | int]) -> None:
    told = [Record(0, "drift-found", "", 4, "/a", fields=one) for one in (BY_ALICE, BY_CRON, {})]
    assert [one.fields for one in told if Query(who=who).admits(one)] == [fields]


@pytest.mark.parametrize("who", ["77", "vim", "bin", "cron.servic", "/"])
def test_who_is_neither_a_process_number_nor_a_part_of_a_name(who: str) -> None:
    told = [Record(0, "drift-found", "", 4, "/a", fields=one) for one in (BY_ALICE, BY_CRON, {})]
    assert not [one for one in told if Query(who=who).admits(one)]


@given(text())
def test_any_text_but_none_is_a_writer(who: str) -> None:
    if who:
        assert verb._writer(who)
        Query(who=verb._writer(who)).admits(to_record({"HARDEND_WHO_EXE": who}))
    else:
        with pytest.raises(argparse.ArgumentTypeError):
            verb._writer(who)
