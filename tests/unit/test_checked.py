# SPDX-License-Identifier: Apache-2.0
"""Files of class checked: what somebody else may write into them, and what is put back."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from hardend import maps, window, window_files
from hardend.baseline.store import Store
from hardend.kernel import flags
from hardend.model import Class, MapSpec, Role
from hardend.settings import Block
from tests.unit import programs
from tests.unit.mailhost import ACCESS, USERS, MailHost
from tests.unit.mailhost import mail as mail  # noqa: PLC0414 - a fixture
from tests.unit.programs import qualified_name as qualified_name  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("qualified_name")]

ALIASES = "/etc/mail/aliases"
VIRTUAL = "/etc/mail/virtusertable"
TABLE = "/etc/mail/access"
BEFORE = b"postmaster: root\n# begin lists\nold: joe\n# end lists\nroot: admin\n"
BLOCK = Block(ALIASES, "lists", begin="# begin lists", end="# end lists")


@pytest.fixture
def shared(mail: MailHost) -> MailHost:
    """The host with an access table that others write and a block in its aliases, approved."""
    mail.settings = replace(mail.settings, classes=((TABLE, Class.CHECKED),), blocks=(BLOCK,))
    descriptor = os.open(mail.at(TABLE), os.O_RDONLY)
    flags.hold_flags(descriptor, "")
    os.close(descriptor)
    mail.write(ALIASES, BEFORE)
    build(mail, BEFORE)
    mail.approve()
    assert mail.run().problems == []
    return mail


def build(mail: MailHost, content: bytes) -> None:
    """Run newaliases to the side, as somebody who has no hardend, and install its map."""
    spec = MapSpec("newaliases", "hash", ALIASES, f"{ALIASES}.db")
    with maps.workdir() as directory:
        built = maps.build(spec, content, directory, programs.tools(str(mail.at("/etc/mail/sendmail.cf"))))
        with open(built.path, "rb") as file:
            mail.write(f"{ALIASES}.db", file.read())


def stored(mail: MailHost, path: str) -> bytes:
    return Store(mail.host).object(mail.entry(path).digest)


def refused(mail: MailHost, path: str, content: bytes) -> str:
    """Write content that may not stay; return why, when it was put back and nothing was taken in."""
    before, number = stored(mail, path), mail.current().number
    mail.write(path, content)
    problems = mail.run().problems
    assert mail.at(path).read_bytes() == before
    assert mail.current().number == number
    assert len(problems) == 1
    assert mail.run().problems == []
    return problems[0]


def test_the_premise_a_file_with_a_block_is_checked_and_not_locked(shared: MailHost) -> None:
    entry = shared.entry(ALIASES)
    assert (entry.role, entry.cls, entry.flags) == (Role.SOURCE, Class.CHECKED, "")
    assert shared.entry(f"{ALIASES}.db").answers


def test_an_entry_appended_to_access_is_taken_in_with_its_map(shared: MailHost) -> None:
    number = shared.current().number
    shared.write(TABLE, ACCESS + b"Connect:192.0.2.7\tREJECT\n")
    assert shared.run().problems == []
    assert (shared.current().number, shared.current().author) == (number + 1, "checked")
    assert stored(shared, TABLE).endswith(b"192.0.2.7\tREJECT\n")
    assert shared.answers(f"{TABLE}.db") == shared.entry(f"{TABLE}.db").answers


def test_an_entry_that_relays_for_a_whole_domain_is_put_back(shared: MailHost) -> None:
    evil = ACCESS + b"com\tRELAY\n"
    shared.make_map(TABLE, evil)
    why = refused(shared, TABLE, evil)
    assert f"{TABLE} is not taken in: {TABLE}:2: relay-entries: " in why
    assert shared.answers(f"{TABLE}.db") == shared.entry(f"{TABLE}.db").answers


def test_of_two_files_the_one_that_is_right_is_taken_in(shared: MailHost) -> None:
    shared.write(TABLE, ACCESS + b"com\tRELAY\n")
    shared.write(VIRTUAL, USERS + b"more@a.example\tbob\n")
    assert len(shared.run().problems) == 1
    assert shared.at(TABLE).read_bytes() == ACCESS
    assert stored(shared, VIRTUAL) == shared.at(VIRTUAL).read_bytes() == USERS + b"more@a.example\tbob\n"


def test_content_that_does_not_build_is_put_back(shared: MailHost) -> None:
    assert "no RHS" in refused(shared, VIRTUAL, b"no-right-hand-side\n")


def test_a_file_that_lies_in_a_window_is_left_alone(shared: MailHost) -> None:
    item = window.make(
        shared.host, paths=(VIRTUAL,), trees=(), seconds=60, reason="x", by="root", uid=0
    )
    window_files.write(shared.host, item)
    number = shared.current().number
    shared.write(VIRTUAL, b"no-right-hand-side\n")
    assert shared.run().problems == []
    assert shared.at(VIRTUAL).read_bytes() == b"no-right-hand-side\n"
    assert shared.current().number == number
    window_files.remove(shared.host, item.id)
    assert len(shared.run().problems) == 1


def test_other_attributes_with_the_new_content_are_put_right_and_the_content_stays(
    shared: MailHost,
) -> None:
    new = USERS + b"more@a.example\tbob\n"
    aside = shared.at("/etc/mail/virtusertable.new")
    aside.write_bytes(new)
    aside.chmod(0o666)
    aside.rename(shared.at(VIRTUAL))
    assert shared.run().problems == []
    assert shared.at(VIRTUAL).read_bytes() == stored(shared, VIRTUAL) == new
    assert shared.at(VIRTUAL).stat().st_mode & 0o777 == shared.entry(VIRTUAL).mode


# Blocks ---------------------------------------------------------------------------------------------


def changed(inside: bytes) -> bytes:
    return BEFORE.replace(b"old: joe\n", inside)


def test_what_changes_in_a_block_is_taken_in_with_its_map(shared: MailHost) -> None:
    new = changed(b"old: joe\nnews: alice, bob\n")
    shared.write(ALIASES, new)
    build(shared, new)
    assert shared.run().problems == []
    assert stored(shared, ALIASES) == shared.at(ALIASES).read_bytes() == new
    assert shared.answers(f"{ALIASES}.db") == shared.entry(f"{ALIASES}.db").answers


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (BEFORE.replace(b"admin", b"evil"), "changed outside of its block"),
        (BEFORE + b"decode: x\n", "changed outside of its block"),
        (changed(b"root: evil\n"), "a block names root again"),
        (changed(b'decode: "|/usr/bin/uudecode"\n'), "aliases-"),
        (changed(b"log: /etc/passwd\n"), "aliases-"),
        (b"", "changed outside of its block"),
    ],
)
def test_what_changes_around_a_block_or_breaks_a_rule_is_put_back(
    shared: MailHost, content: bytes, why: str
) -> None:
    assert why in refused(shared, ALIASES, content)


def test_content_is_not_put_back_where_nothing_can_be_judged(shared: MailHost) -> None:
    new = USERS + b"more@a.example\tbob\n"
    shared.write(VIRTUAL, new)
    problems = shared.run(command_timeout_s=0.001).problems
    assert any(f"{VIRTUAL} is not taken in" in problem for problem in problems)
    assert shared.at(VIRTUAL).read_bytes() == new
    assert shared.run().problems == []
    assert stored(shared, VIRTUAL) == new
