# SPDX-License-Identifier: Apache-2.0
"""Which rules a drift broke: told from what lies in the quarantine, by the verb that collects it."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardend import breach
from hardend.breach import Judge
from hardend.cli.main import main
from hardend.collect import Summary, collect
from hardend.journal import Journal
from hardend.quarantine import Limits
from tests.unit.mailhost import MailHost
from tests.unit.mailhost import mail as mail  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.root
ACCESS = "/etc/mail/access"
CF = "/etc/mail/sendmail.cf"
OPEN = b"com\tRELAY\n"


class Scene:
    """An approved tree, its directory of taken objects, and what the judge said."""

    def __init__(self, host: MailHost) -> None:
        self.mail = host
        self.taken = Path(host.host.taken_dir)
        self.taken.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.count = 0
        self.generation = host.current().number
        self.said = io.StringIO()

    def tell(self, path: str, kind: str = "file", **changes: Any) -> Path:
        self.count += 1
        identifier = f"20261124T061501.{self.count:06d}-{self.count:04d}"
        known = {"uid": 0, "gid": 0, "mode": 0o644, "mtime_ns": 1, "size": 0, "who": {}, "time_ns": 1}
        story = {"id": identifier, "path": path, "cls": "locked", "drift": ["content"], "kind": kind}
        record = {**known, **story, "generation": self.generation, "incident": identifier, **changes}
        (self.taken / f"{identifier}.json").write_text(json.dumps(record))
        return self.taken / identifier

    def put(self, path: str, content: bytes, **changes: Any) -> str:
        where = self.tell(path, **changes)
        where.write_bytes(content)
        return where.name

    def link(self, path: str, target: str) -> str:
        where = self.tell(path, "symlink", drift=["unexpected"])
        where.symlink_to(target)
        return where.name

    def collect(self) -> tuple[Summary, Judge]:
        judge = Judge(self.mail.host, self.mail.settings, Journal(self.mail.host, stream=self.said))
        return collect(self.mail.host, Limits(max_age_s=1e12), patience_s=0.0, judging=judge.judge), judge

    def record(self, identifier: str) -> dict[str, Any]:
        where = Path(self.mail.host.quarantine_dir) / "records" / f"{identifier}.json"
        document = json.loads(where.read_text())
        assert isinstance(document, dict)
        return document

    def events(self) -> list[str]:
        return [line for line in self.said.getvalue().splitlines() if "rules-broken" in line]


@pytest.fixture
def scene(mail: MailHost) -> Scene:
    mail.at("/etc/mail/smrsh").mkdir()
    mail.write("/usr/lib/sm.bin/smrsh", b"/etc/mail/smrsh\0")
    mail.approve()
    return Scene(mail)


def test_a_drift_names_the_rules_that_it_broke(scene: Scene) -> None:
    identifier = scene.put(ACCESS, OPEN)
    scene.collect()
    record = scene.record(identifier)
    assert "relay-entries" in record["rules"]
    assert any(text.startswith(f"{ACCESS}:1: relay-entries: ") for text in record["faults"])
    (event,) = scene.events()
    assert f"what stood at {ACCESS} broke relay-entries" in event
    assert f"quarantine_id={identifier}" in event
    assert f"generation={scene.generation}" in event


def test_a_drift_that_breaks_nothing_says_so_and_tells_the_journal_nothing(scene: Scene) -> None:
    identifier = scene.put(ACCESS, b"b.example\tREJECT\n")
    scene.collect()
    assert scene.record(identifier)["rules"] == []
    assert scene.events() == []


def test_what_the_approved_state_breaks_already_is_not_the_drifts(scene: Scene) -> None:
    scene.mail.write(ACCESS, OPEN)
    scene.mail.make_map(ACCESS, OPEN)
    scene.generation = scene.mail.approve().number
    identifier = scene.put(ACCESS, b"# more\n" + OPEN)
    scene.collect()
    assert scene.record(identifier)["rules"] == []


def test_a_mode_that_lets_others_write_is_judged_without_the_content(scene: Scene) -> None:
    identifier = scene.put(ACCESS, b"x" * 100, mode=0o666, drift=["mode"], cls="attributes")
    scene.collect()
    record = scene.record(identifier)
    assert record["stored"] == "attributes"
    assert record["rules"] == ["exposure-files"]


def test_a_directory_that_was_put_right_in_place_is_judged_as_it_was(scene: Scene) -> None:
    told: dict[str, Any] = {"kind": "directory", "mended": True}
    opened = scene.tell("/etc/mail", **told, mode=0o777, drift=["mode"]).name
    closed = scene.tell("/etc/mail", **told, mode=0o700, drift=["mode"]).name
    listed = scene.tell("/etc/mail", **told, mode=0o775, drift=["acl", "mode"]).name
    scene.collect()
    assert scene.record(opened)["rules"] == ["smrsh-ownership", "exposure-files"]
    assert scene.record(closed)["rules"] == []
    assert scene.record(listed)["rules"] == ["smrsh-ownership", "exposure-files"]
    assert "gone" not in scene.record(opened)
    assert scene.record(opened)["stored"] == "attributes"


def test_a_lock_that_was_taken_off_is_named_only_where_that_was_the_drift(scene: Scene) -> None:
    same = scene.mail.at(ACCESS).read_bytes()
    without = scene.put(ACCESS, same)
    unlocked = scene.put(ACCESS, same, drift=["content", "flags"])
    scene.collect()
    assert scene.record(without)["rules"] == []
    assert scene.record(unlocked)["rules"] == ["immutable-files"]


def test_a_shell_linked_into_the_smrsh_directory_is_named(scene: Scene) -> None:
    identifier = scene.link("/etc/mail/smrsh/tool", "/bin/sh")
    scene.collect()
    assert "smrsh-programs" in scene.record(identifier)["rules"]


def test_an_allowed_name_that_leads_to_what_somebody_can_change_is_named(scene: Scene) -> None:
    scene.mail.write("/home/eve/bin/vacation", b"#!/bin/sh\n")
    os.chown(scene.mail.at("/home/eve/bin/vacation"), 1000, 1000)
    identifier = scene.link("/etc/mail/smrsh/vacation", "../../../home/eve/bin/vacation")
    scene.collect()
    assert scene.record(identifier)["rules"] == ["smrsh-ownership"]


def test_the_same_drift_again_and_again_is_one_event(scene: Scene) -> None:
    identifiers = [scene.put(ACCESS, OPEN) for _ in range(5)]
    scene.collect()
    assert all("relay-entries" in scene.record(one)["rules"] for one in identifiers)
    assert len(scene.events()) == 1


def test_a_run_judges_a_bounded_number_and_moves_all(scene: Scene) -> None:
    identifiers = [scene.put(ACCESS, b"%d.com\tRELAY\n" % number) for number in range(60)]
    summary, _ = scene.collect()
    assert summary.collected == 60
    judged = [one for one in identifiers if "rules" in scene.record(one)]
    assert judged == identifiers[:40]


def test_what_is_over_a_mebibyte_is_not_parsed(scene: Scene) -> None:
    padding = b"#" * breach.CONTENT_LIMIT
    identifier = scene.put(ACCESS, OPEN + padding)
    scene.collect()
    assert scene.record(identifier)["rules"] == []


def test_the_journal_gets_no_content(scene: Scene) -> None:
    scene.put("/etc/mail/aliases", b'secret-word: "|/bin/sh -c secret-word"\n')
    scene.put(ACCESS, b"secret-word\tRELAY\ncom\tRELAY\n")
    scene.collect()
    assert scene.events()
    assert "secret-word" not in scene.said.getvalue()


def test_a_generation_that_is_gone_is_said_and_everything_is_moved(scene: Scene) -> None:
    identifier = scene.put(ACCESS, OPEN, generation=77)
    summary, judge = scene.collect()
    assert (summary.collected, summary.failed) == (1, [])
    assert "which rules a drift broke is not known" in next(iter(judge.faults))
    assert "rules" not in scene.record(identifier)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), path=st.sampled_from([ACCESS, CF, "/etc/mail/aliases"]))
def test_hostile_bytes_are_judged_or_not_and_never_in_the_way(scene: Scene, data: bytes, path: str) -> None:
    identifier = scene.put(path, data)
    summary, judge = scene.collect()
    assert (summary.collected, summary.failed, judge.faults) == (1, [], {})
    assert "rules" in scene.record(identifier)


def test_list_and_show_name_the_rules(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    identifier = scene.put(ACCESS, OPEN)
    scene.collect()
    assert main(["quarantine", "list", "--root", str(scene.mail.root)]) == 0
    listed = capsys.readouterr().out
    assert listed.splitlines()[0].endswith("BROKE")
    assert "relay-entries" in listed.splitlines()[1]
    assert main(["quarantine", "show", identifier, "--root", str(scene.mail.root)]) == 0
    shown = capsys.readouterr().out
    assert "broke      relay-entries" in shown
    assert f"    {ACCESS}:1: relay-entries: " in shown
