# SPDX-License-Identifier: Apache-2.0
"""A run of hardend-rebuild over the maps of a tree."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace

import pytest

from hardend import maps, pause
from hardend.baseline.store import Store
from hardend.errors import RefusedError
from hardend.kernel import flags
from hardend.model import Class, Mode, Role
from tests.unit.mailhost import ACCESS, MailHost
from tests.unit.mailhost import mail as mail  # noqa: PLC0414 - a fixture
from tests.unit.programs import qualified_name as qualified_name  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("qualified_name")]


def test_the_premise_both_maps_are_held_by_their_answers(mail: MailHost) -> None:
    for path in ("/etc/mail/access.db", "/etc/mail/virtusertable.db"):
        assert mail.entry(path).role is Role.MAP
        assert not mail.entry(path).opaque
        assert mail.entry(path).answers
    assert mail.entry("/etc/mail/virtusertable").cls is Class.CHECKED
    assert mail.entry("/etc/mail/access").cls is Class.LOCKED


def test_a_right_map_is_left_alone(mail: MailHost) -> None:
    before = mail.at("/etc/mail/access.db").stat()
    report = mail.run()
    assert report.problems == []
    assert report.maps["/etc/mail/access.db"] == "answers as approved"
    assert mail.at("/etc/mail/access.db").stat().st_ino == before.st_ino
    assert mail.current().number == 1


def test_other_bytes_with_the_same_answers_are_left_alone(mail: MailHost) -> None:
    mail.make_map("/etc/mail/access", ACCESS)
    content = mail.at("/etc/mail/access.db").read_bytes()
    assert maps.copy_live(mail.host, "/etc/mail/access.db").digest != (  # type: ignore[union-attr]
        mail.entry("/etc/mail/access.db").digest
    )
    assert mail.run().problems == []
    assert mail.at("/etc/mail/access.db").read_bytes() == content


@pytest.mark.parametrize("wrong", ["other answers", "garbage", "empty"])
def test_a_map_that_answers_wrongly_is_replaced_by_the_stored_one(
    mail: MailHost, wrong: str
) -> None:
    if wrong == "other answers":
        mail.make_map("/etc/mail/access", b"evil.example\tRELAY\n")
    else:
        mail.write("/etc/mail/access.db", b"garbage" if wrong == "garbage" else b"")
    report = mail.run()
    assert report.problems == []
    assert report.maps["/etc/mail/access.db"].startswith("put back")
    assert mail.answers("/etc/mail/access.db") == mail.entry("/etc/mail/access.db").answers
    assert mail.current().number == 1


def test_observing_changes_nothing_and_says_what_differs(mail: MailHost) -> None:
    mail.write("/etc/mail/access.db", b"garbage")
    mail.write("/etc/mail/virtusertable", b"x@a.example\tbob\n")
    report = mail.run(mode=Mode.OBSERVE)
    assert report.problems == ["/etc/mail/access.db: no readable map"]
    assert mail.at("/etc/mail/access.db").read_bytes() == b"garbage"
    assert mail.current().number == 1


def test_while_enforcement_is_off_nothing_is_changed(mail: MailHost) -> None:
    pause.start(mail.host, seconds=60, reason="test", by="test")
    mail.write("/etc/mail/access.db", b"garbage")
    assert mail.run().problems
    assert mail.at("/etc/mail/access.db").read_bytes() == b"garbage"


def test_new_content_of_a_checked_source_is_taken_in_with_its_map(mail: MailHost) -> None:
    new = b"info@a.example\tbob\n"
    mail.write("/etc/mail/virtusertable", new)
    report = mail.run()
    assert report.problems == []
    generation = mail.current()
    assert (generation.number, generation.author) == (2, "checked")
    assert Store(mail.host).object(mail.entry("/etc/mail/virtusertable").digest) == new
    assert mail.at("/etc/mail/virtusertable").read_bytes() == new
    assert mail.answers("/etc/mail/virtusertable.db") == (
        mail.entry("/etc/mail/virtusertable.db").answers
    )
    assert mail.run().problems == []
    assert mail.current().number == 2


def test_a_map_that_the_administrator_made_of_it_is_not_put_back(mail: MailHost) -> None:
    new = b"info@a.example\tcarol\n"
    mail.write("/etc/mail/virtusertable", new)
    mail.make_map("/etc/mail/virtusertable", new)
    assert mail.run().problems == []
    assert mail.answers("/etc/mail/virtusertable.db") == (
        mail.entry("/etc/mail/virtusertable.db").answers
    )


def test_a_checked_source_that_does_not_build_is_not_taken_in(mail: MailHost) -> None:
    mail.write("/etc/mail/virtusertable", b"no-right-hand-side\n")
    report = mail.run()
    assert len(report.problems) == 1
    assert "/etc/mail/virtusertable is not taken in" in report.problems[0]
    assert "no RHS" in report.problems[0]
    assert mail.current().number == 1


def test_content_of_a_locked_source_is_never_taken_in(mail: MailHost) -> None:
    descriptor = os.open(mail.at("/etc/mail/access"), os.O_RDONLY)
    flags.hold_flags(descriptor, "")
    os.close(descriptor)
    mail.write("/etc/mail/access", b"evil.example\tRELAY\n")
    mail.make_map("/etc/mail/access", b"evil.example\tRELAY\n")
    mail.run()
    assert mail.answers("/etc/mail/access.db") == mail.entry("/etc/mail/access.db").answers
    assert mail.current().number == 1


def test_a_map_of_another_library_is_built_anew_once(mail: MailHost) -> None:
    before = mail.entry("/etc/mail/access.db")
    mail.commit(access=replace(before, builder="makemap of yesterday"))
    assert mail.run().problems == []
    after = mail.entry("/etc/mail/access.db")
    assert (mail.current().number, mail.current().author) == (3, "rebuild")
    assert after.builder != "makemap of yesterday"
    assert after.digest != before.digest
    assert after.answers == before.answers
    assert after.mtime_ns >= mail.entry("/etc/mail/access").mtime_ns
    mail.run()
    assert mail.current().number == 3


def test_an_opaque_map_is_not_asked(mail: MailHost) -> None:
    mail.commit(access=replace(mail.entry("/etc/mail/access.db"), opaque=True, answers=""))
    mail.write("/etc/mail/access.db", b"garbage")
    assert "/etc/mail/access.db" not in mail.run().maps
    assert mail.at("/etc/mail/access.db").read_bytes() == b"garbage"


def test_a_missing_map_is_a_problem_where_nobody_may_change(mail: MailHost) -> None:
    mail.at("/etc/mail/access.db").unlink()
    assert mail.run(mode=Mode.OBSERVE).problems == ["/etc/mail/access.db: missing"]


def test_a_machine_without_programs_says_so_and_exchanges_nothing(
    mail: MailHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = maps.Tools("", "", str(mail.at("/etc/mail/sendmail.cf")), 5, str(mail.root))
    monkeypatch.setattr(maps, "tools_for", lambda *_: none)
    mail.make_map("/etc/mail/access", ACCESS)
    content = mail.at("/etc/mail/access.db").read_bytes()
    assert any("there is no makemap" in problem for problem in mail.run().problems)
    assert mail.at("/etc/mail/access.db").read_bytes() == content


def test_a_second_run_waits_for_the_first_and_gives_up(mail: MailHost) -> None:
    os.makedirs(mail.host.run_dir, exist_ok=True)
    with open(os.path.join(mail.host.run_dir, "rebuild.lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RefusedError, match="does not end"):
            mail.run(reload_interval_s=0, command_timeout_s=0)
