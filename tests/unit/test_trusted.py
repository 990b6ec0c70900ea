# SPDX-License-Identifier: Apache-2.0
"""[[trusted_units]]: what is taken as one, and which of the objects that were set aside are chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from hardend import trusted
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.config import load
from hardend.errors import ConfigError
from hardend.model import Class, Entry, FileType, Role
from hardend.quarantine_reader import Kept
from hardend.settings import Settings, TrustedUnit
from tests.unit.conftest import Tree
from tests.unit.test_config import host_of

if TYPE_CHECKING:
    from pathlib import Path

PATH = "/etc/mail/access"
OTHER = "/etc/mail/relay-domains"
PUPPET = TrustedUnit("puppet.service", "the manifests")
BY_PUPPET: dict[str, Any] = {"pid": 7, "exe": "/usr/bin/ruby", "unit": "puppet.service"}
BY_CRON = {**BY_PUPPET, "unit": "cron.service"}
NOW = 1_000_000.0

# hardend.toml ---------------------------------------------------------------------------------------

UNIT = '[[trusted_units]]\nunit = "puppet.service"\nreason = "x"\n'


def test_trusted_units_of_all_files_count(tmp_path: Path) -> None:
    text = f'{UNIT}paths = ["{PATH}", "{OTHER}", "{PATH}"]\n'
    host = host_of(tmp_path, text.encode(), more=UNIT.replace("puppet", "ansible@a-b").encode())
    assert load(host).trusted_units == (
        TrustedUnit("puppet.service", "x", (PATH, OTHER)),
        TrustedUnit("ansible@a-b.service", "x"),
    )


def test_without_paths_it_is_trusted_with_all_of_them() -> None:
    assert TrustedUnit("a.service", "x").covers(PATH)
    assert TrustedUnit("a.service", "x", (PATH,)).covers(PATH)
    assert not TrustedUnit("a.service", "x", (OTHER,)).covers(PATH)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('trusted_units = ["puppet.service"]', "must be an array of tables, written [[trusted_units]]"),
        ('[[trusted_units]]\nunit = "a.service"', "the 1. one: reason: must be there"),
        ('[[trusted_units]]\nreason = "x"', "the 1. one: unit: must be there"),
        (UNIT + 'path = ["/x"]', "did you mean paths?"),
        *(
            (UNIT.replace("puppet.service", unit), "must be the full name of one")
            for unit in (
                "puppet", "*.service", "puppet*.service", "puppet@.service", ".service", "a b.service",
                "puppet.service\\n", "puppet.timer", "/puppet.service", "a" * 250 + ".service",
            )
        ),
        *(
            (UNIT.replace("puppet", unit), "must not be one of hardend's own")
            for unit in ("hardend", "hardend-rebuild", "hardend-umount@etc-mail")
        ),
        *(
            (f"{UNIT}paths = {paths}", "must be absolute paths of files, at least one")
            for paths in ('"/etc/x"', "[]", '["x"]', '["/etc/mail/*"]', '["/etc/../x"]', "[7]")
        ),
    ],
)  # fmt: skip
def test_a_trusted_unit_that_is_none_is_a_fault(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(host_of(tmp_path, text.encode()))
    assert fault in str(caught.value)


def test_all_faults_of_all_units_are_told_at_once(tmp_path: Path) -> None:
    text = UNIT.replace("puppet.service", "*") + "paths = 1\n" + UNIT.replace("puppet", "hardend")
    with pytest.raises(ConfigError) as caught:
        load(host_of(tmp_path, text.encode()))
    assert [fault.partition("trusted_units, ")[2][:15] for fault in caught.value.faults] == [
        "the 1. one: uni", "the 1. one: pat", "the 2. one: uni",
    ]  # fmt: skip


# What is chosen -------------------------------------------------------------------------------------


def entry(path: str, role: Role = Role.SOURCE, cls: Class = Class.LOCKED) -> Entry:
    return Entry(path, role, cls, FileType.FILE, 0, 0, 0o644, "", digest="a" * 64)


ENTRIES = (
    entry(PATH),
    entry(OTHER),
    entry("/etc/mail/authinfo", cls=Class.ATTRIBUTES),
    entry("/etc/mail/access.db", Role.MAP),
)
CURRENT = Generation(
    *(3, "", "", "alice", "", "", "", ""), entries={item.path: item for item in ENTRIES}
)


def kept(identifier: str = "1", *, age_s: float = 5.0, **changes: Any) -> Kept:
    made = Kept(
        id=identifier,
        path=PATH,
        drift=("content", "stale"),
        time=NOW - age_s,
        kind="file",
        size=5,
        cls="locked",
        generation=3,
        incident=identifier,
        who=BY_PUPPET,
        digest="b" * 64,
        stored="whole",
        waits=False,
        record={},
    )
    return replace(made, **changes)


def ids(*records: Kept, units: tuple[TrustedUnit, ...] = (PUPPET,), **more: Any) -> list[str]:
    settings = Settings(trusted_units=units)
    return [one.kept.id for one in trusted.chosen(records, settings, CURRENT, now=NOW, **more)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"drift": ("content", "owner", "group", "mode", "acl", "xattr", "stale")},
        {"who": {**BY_PUPPET, "candidates": [BY_PUPPET, {**BY_PUPPET, "pid": 8}]}},  # both are of the unit
        {"age_s": 899.0},
        {"stored": "truncated"},  # is refused, with a word
        {"cls": "checked"},
    ],
)
def test_new_content_by_a_trusted_unit_is_chosen(changes: dict[str, Any]) -> None:
    assert ids(kept(**changes)) == ["1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"who": {}},
        {"who": {"exe": "/usr/bin/ruby", "candidates": [BY_PUPPET]}},
        {"who": {"exe": "/usr/bin/ruby", "candidates": [BY_PUPPET, BY_CRON]}},
        {"who": BY_CRON},
        {"who": {"unit": "puppet"}},
        {"who": {"unit": ["puppet.service"]}},
        {"path": "/etc/mail/other"},
        {"path": "/etc/mail/authinfo", "cls": "attributes", "stored": "attributes", "digest": ""},
        {"path": "/etc/mail/authinfo"},
        {"path": "/etc/mail/access.db"},
        {"cls": "attributes"},
        {"stored": "attributes"},
        {"waits": True},
        {"kind": "symlink"},
        {"kind": "directory"},
        {"drift": ("mode",)},
        {"drift": ("stale",)},
        {"drift": ("content", "flags")},
        {"drift": ("content", "mount")},
        {"drift": ()},
        {"generation": 2},
        {"generation": 4},
        {"age_s": 901.0},
        {"age_s": -60.0},
        {"record": {"trusted": "refused: x"}},
        {"record": {"trusted": "approved in generation 3"}},
    ],
)
def test_anything_else_is_not(changes: dict[str, Any]) -> None:
    assert ids(kept()) == ["1"]
    assert ids(kept(**changes)) == []


def test_a_unit_is_trusted_with_its_paths_only() -> None:
    of_one = replace(PUPPET, paths=(OTHER,))
    assert ids(kept(), kept("2", path=OTHER), units=(of_one,)) == ["2"]
    assert ids(kept(), kept("2", path=OTHER), units=(of_one, PUPPET)) == ["1", "2"]
    assert ids(kept(), units=()) == []


def test_of_a_path_the_newest_is_chosen_and_of_paths_the_oldest_first() -> None:
    written = [kept("3", age_s=1), kept("1", age_s=9), kept("2", age_s=5, path=OTHER)]
    assert ids(*written) == ["2", "3"]


def test_an_older_one_is_not_tried_when_the_newest_was_refused() -> None:
    settled = kept("2", age_s=1, record={"trusted": "refused: x"})
    assert ids(kept("1", age_s=9), settled) == []


def test_what_somebody_else_wrote_afterwards_changes_nothing() -> None:
    assert ids(kept("1", age_s=9), kept("2", age_s=1, who=BY_CRON)) == ["1"]


def test_what_lies_in_a_window_is_left_to_its_end() -> None:
    assert ids(kept(), kept("2", path=OTHER), away={PATH}) == ["2"]


def test_what_was_written_over_a_generation_since_the_last_decision_counts() -> None:
    assert ids(kept(generation=2), since=2) == ["1"]
    assert ids(kept(generation=1), since=2) == []


@pytest.mark.parametrize(
    ("authors", "number"),
    [
        (("alice", "alice"), 2),
        (("alice", "puppet.service"), 1),
        (("alice", "rebuild", "checked", "puppet.service"), 1),
        (("puppet.service", "bob", "puppet.service"), 2),
        (("alice", "cron.service"), 2),
        (("puppet.service", "puppet.service"), 1),  # nothing is known of what was before
    ],
)
def test_a_decision_of_an_administrator_makes_older_writing_outdated(
    tmp_path: Path, authors: tuple[str, ...], number: int
) -> None:
    tree = Tree(tmp_path)
    store = Store(tree.host)
    for author in authors:
        with store.locked():
            of, parent = store.next()
            store.add_generation(Generation(of, parent, "", author, "", "", "", "", entries={}))
    settings = Settings(trusted_units=(PUPPET,))
    assert trusted.first_generation(store, store.current(), settings) == number
