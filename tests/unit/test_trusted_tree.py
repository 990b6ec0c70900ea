# SPDX-License-Identifier: Apache-2.0
"""What a trusted unit wrote, on a tree: approved when it passes, told when not, and who has it judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hardend import control, pause, trusted, window, window_files
from hardend.baseline.store import Store
from hardend.cli.main import main
from hardend.errors import FileError, UnreachableError
from hardend.guard import Guard
from hardend.model import Mode
from hardend.quarantine import Quarantine
from hardend.settings import Settings
from tests.unit.conftest import Tree
from tests.unit.kept import Shelf
from tests.unit.mailhost import ACCESS, MailHost
from tests.unit.mailhost import mail as mail  # noqa: PLC0414 - a fixture
from tests.unit.programs import qualified_name as qualified_name  # noqa: PLC0414 - a fixture
from tests.unit.test_guard_start import guard as guard  # noqa: PLC0414 - a fixture
from tests.unit.test_trusted import BY_CRON, BY_PUPPET, PATH, PUPPET, UNIT

pytestmark = pytest.mark.root
HARMLESS = ACCESS + b"Connect:192.0.2.7\tREJECT\n"
EVIL = ACCESS + b"com\tRELAY\n"


class Writer:
    """The mail host, where Puppet is trusted, and what was set aside there."""

    def __init__(self, mail: MailHost) -> None:
        mail.settings = replace(mail.settings, trusted_units=(PUPPET,))
        self.mail = mail
        self.shelf = Shelf(mail.host)
        self.told: list[str] = []

    def wrote(self, content: bytes, who: dict[str, Any] | None = None, **fields: Any) -> str:
        more = {"generation": self.mail.current().number, "age_s": 1.0, **fields}
        return self.shelf.put(content, who=BY_PUPPET if who is None else who, **more)

    def verdict(self, identifier: str) -> object:
        return self.shelf.record(identifier).get("trusted")

    @property
    def stored(self) -> bytes:
        return Store(self.mail.host).object(self.mail.entry(PATH).digest)


@pytest.fixture
def writer(mail: MailHost, qualified_name: None, monkeypatch: pytest.MonkeyPatch) -> Writer:
    """Make the writer; what is refused is kept as it would be told."""
    del qualified_name
    made = Writer(mail)
    assert mail.run().problems == []
    monkeypatch.setattr(
        "hardend.journal.Journal.event",
        lambda _, kind, text, **fields: made.told.append(f"{kind.value} {fields.get('PATH')} {text}"),
    )
    return made


def test_what_puppet_wrote_is_the_next_generation_with_its_map(writer: Writer) -> None:
    mail, number = writer.mail, writer.mail.current().number
    identifier = writer.wrote(HARMLESS)
    assert mail.run().problems == []
    made = mail.current()
    assert (made.number, made.author) == (number + 1, "puppet.service")
    assert made.reason == (
        f"written by puppet.service, which is trusted: the manifests (quarantine {identifier})"
    )
    assert mail.at(PATH).read_bytes() == writer.stored == HARMLESS
    assert mail.answers(f"{PATH}.db") == mail.entry(f"{PATH}.db").answers
    assert writer.verdict(identifier) == f"approved in generation {number + 1}"
    assert any(text.startswith("baseline-approved") for text in writer.told)


def test_it_is_looked_at_once_and_not_again_after_a_rollback(writer: Writer) -> None:
    mail = writer.mail
    before = mail.entry(PATH)
    writer.wrote(HARMLESS)
    mail.run()
    mail.commit(access=before)
    number = mail.current().number
    assert mail.run().problems == []
    assert mail.current().number == number
    assert writer.stored == ACCESS


def test_what_breaks_a_rule_is_refused_told_once_and_stays_in_the_quarantine(writer: Writer) -> None:
    mail, number = writer.mail, writer.mail.current().number
    identifier = writer.wrote(EVIL)
    problems = mail.run().problems
    assert len(problems) == 1
    assert f"{PATH} as puppet.service wrote it is not taken in: " in problems[0]
    assert "relay-entries" in problems[0]
    assert mail.current().number == number
    assert mail.at(PATH).read_bytes() == writer.stored == ACCESS
    assert str(writer.verdict(identifier)).startswith("refused: not approved, it breaks")
    assert mail.run().problems == []
    assert writer.told == [f"baseline-rejected {PATH} {problems[0]}"]
    assert writer.shelf.object_of(identifier).read_bytes() == EVIL


@pytest.mark.parametrize("content", [b"no-right-hand-side\n", b"x" * (2 << 20)])
def test_what_does_not_build_or_was_cut_short_is_refused(writer: Writer, content: bytes) -> None:
    identifier = writer.wrote(content)
    assert len(writer.mail.run().problems) == 1
    assert str(writer.verdict(identifier)).startswith("refused: ")
    assert writer.stored == ACCESS
    assert writer.mail.run().problems == []


def test_what_was_still_written_to_is_refused(writer: Writer) -> None:
    identifier = writer.wrote(HARMLESS, unstable=True)
    assert "may not be all of it" in writer.mail.run().problems[0]
    assert "may not be all of it" in str(writer.verdict(identifier))
    assert writer.stored == ACCESS


def test_a_path_that_is_refused_does_not_stop_the_others(writer: Writer) -> None:
    users = "/etc/mail/virtusertable"
    writer.wrote(EVIL, age_s=2.0)
    good = writer.wrote(b"new@a.example\tbob\n", path=users)
    assert len(writer.mail.run().problems) == 1
    assert writer.mail.at(users).read_bytes() == b"new@a.example\tbob\n"
    assert str(writer.verdict(good)).startswith("approved in generation")


def test_two_files_that_were_written_over_the_same_generation_are_both_approved(writer: Writer) -> None:
    users, number = "/etc/mail/virtusertable", writer.mail.current().number
    writer.wrote(HARMLESS)
    writer.mail.run()
    writer.wrote(b"new@a.example\tbob\n", path=users, generation=number)  # collected a little later
    assert writer.mail.run().problems == []
    assert writer.mail.current().number == number + 2
    assert writer.mail.at(users).read_bytes() == b"new@a.example\tbob\n"


def test_what_others_wrote_stays_put_back(writer: Writer) -> None:
    number = writer.mail.current().number
    for who in (BY_CRON, {"candidates": [BY_PUPPET, BY_CRON]}, {}):
        identifier = writer.wrote(HARMLESS, who=who)
        assert writer.mail.run().problems == []
        assert writer.verdict(identifier) is None
    assert writer.mail.current().number == number


@pytest.mark.parametrize("held_by", ["observe", "pause", "window", "nobody trusted"])
def test_where_nothing_may_be_approved_it_is_not_settled_either(writer: Writer, held_by: str) -> None:
    mail, number = writer.mail, writer.mail.current().number
    identifier = writer.wrote(HARMLESS)
    changed: dict[str, Any] = {}
    if held_by == "observe":
        changed = {"mode": Mode.OBSERVE}
    elif held_by == "pause":
        pause.start(mail.host, seconds=60, reason="x", by="root")
    elif held_by == "window":
        item = window.make(mail.host, paths=(PATH,), trees=(), seconds=60, reason="x", by="root", uid=0)
        window_files.write(mail.host, item)
    else:
        changed = {"trusted_units": ()}
    mail.run(**changed)
    assert (mail.current().number, writer.verdict(identifier)) == (number, None)
    pause.end(mail.host)
    if held_by == "window":
        window_files.remove(mail.host, item.id)
    assert mail.run().problems == []
    assert (mail.current().number, writer.stored) == (number + 1, HARMLESS)


def test_what_cannot_be_judged_now_is_told_and_tried_again(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    identifier = writer.wrote(HARMLESS)
    with monkeypatch.context() as broken:
        broken.setattr("hardend.survey.survey", _cannot_survey)
        problems = writer.mail.run().problems
    assert any("whether a rule gets worse is not known: a disk" in problem for problem in problems)
    assert (writer.verdict(identifier), writer.stored) == (None, ACCESS)
    assert writer.mail.run().problems == []
    assert writer.stored == HARMLESS


def _cannot_survey(*_: object) -> None:
    raise FileError("a disk")


def test_a_verdict_that_cannot_be_written_is_a_problem_and_comes_to_the_same_again(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    identifier = writer.wrote(HARMLESS)
    with monkeypatch.context() as hasty, Quarantine(writer.mail.host):
        hasty.setattr(trusted, "_PATIENCE_S", 0.0)
        assert "another hardend collect" in writer.mail.run().problems[0]
    number = writer.mail.current().number
    assert (writer.stored, writer.verdict(identifier)) == (HARMLESS, None)
    assert writer.mail.run().problems == []
    assert (writer.mail.current().number, writer.verdict(identifier)) == (number, "approved already")


def test_a_damaged_object_is_refused_and_a_damaged_record_is_nobodys(writer: Writer) -> None:
    identifier = writer.wrote(HARMLESS)
    writer.shelf.object_of(identifier).write_bytes(EVIL)
    (writer.shelf.records / "20991231T000000.000000-0009.json").write_text("{")
    assert "damaged" in writer.mail.run().problems[0]
    assert writer.stored == ACCESS


def test_there_is_new_work_when_a_trusted_unit_wrote_again_and_only_then(writer: Writer) -> None:
    lately = trusted.Lately(writer.mail.host, writer.mail.settings)
    assert lately.ids() == ()
    one = writer.wrote(HARMLESS)
    assert lately.ids() == (one,)
    writer.mail.run()  # settled is not new
    writer.wrote(HARMLESS, who=BY_CRON)
    assert lately.ids() == (one,)
    other = writer.wrote(EVIL)
    assert lately.ids() == (one, other)
    assert trusted.Lately(writer.mail.host, Settings()).ids() == ()


# Who starts it --------------------------------------------------------------------------------------


@pytest.fixture
def told(tree: Tree) -> Shelf:
    Path(tree.host.config_dir).mkdir(parents=True, exist_ok=True)
    (Path(tree.host.config_dir) / "hardend.toml").write_text(UNIT)
    return Shelf(tree.host)


@pytest.mark.parametrize(
    ("who", "asked"),
    [(BY_PUPPET, 1), (BY_CRON, 0), ({"candidates": [BY_PUPPET]}, 0)],
)
def test_the_collector_asks_the_guard_for_a_trusted_unit_only(
    told: Shelf, monkeypatch: pytest.MonkeyPatch, who: dict[str, Any], asked: int
) -> None:
    requests: list[object] = []
    monkeypatch.setattr(control, "ask", lambda _, request, **__: requests.append(request))
    told.put(HARMLESS, who=who, wait=True)
    main(["collect", "--root", told.host.root, "--quiet"])
    assert requests == [{"verb": "rebuild"}] * asked


def test_without_a_guard_the_collector_has_nobody_to_ask(told: Shelf) -> None:
    with pytest.raises(UnreachableError):
        control.ask(told.host, {"verb": "ping"})
    told.put(HARMLESS, who=BY_PUPPET, wait=True)
    assert main(["collect", "--root", told.host.root, "--quiet"]) == 0


def test_the_guard_starts_the_rebuild_that_it_is_asked_for(guard: Guard) -> None:
    guard.enforcer.pending.rebuild = False
    assert guard.verbs.answer({"verb": "rebuild"}) == {"ok": True}
    assert guard.enforcer.pending.rebuild
