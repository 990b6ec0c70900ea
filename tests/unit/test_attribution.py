# SPDX-License-Identifier: Apache-2.0
"""What the witness hands on: read whatever it holds, written into records, told once, as sure as it was."""

from __future__ import annotations

import fcntl
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend import witness_log
from hardend.attribution import Attribution, announce
from hardend.collect import collect
from hardend.errors import RefusedError
from hardend.events import Query, to_record
from hardend.journal import Journal
from hardend.model import Host
from hardend.quarantine import Limits
from hardend.witness_log import Log, Told
from tests.unit.taken import ID, Scene, open_scene

SH: dict[str, Any] = {"pid": 7, "exe": "/bin/sh", "unit": "cron.service", "uid": 0, "loginuid": 1000}
CP: dict[str, Any] = {"pid": 8, "exe": "/bin/cp", "unit": "cron.service", "uid": 0}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
LINES = st.dictionaries(st.sampled_from(["id", "path", "sure", "suspects", "time_ns"]), JSON)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with open_scene() as made:
        Path(made.host.run_dir).mkdir(parents=True)
        yield made


def tell(host: Host, *suspects: dict[str, Any], sure: bool = True, **changes: Any) -> None:
    """Write what a witness saw; a process whose doing is not given changed the content."""
    known = [{"did": ["content"], **one} for one in suspects]
    log = Log(host)
    log.add({"id": ID, "path": "/etc/mail/access", "sure": sure, "suspects": known, **changes})
    log.close()


def attribute(scene: Scene, patience_s: float = 0.0) -> tuple[Attribution, str]:
    said = io.StringIO()
    attribution = Attribution(scene.host, Journal(scene.host, stream=said), patience_s)
    collect(scene.host, Limits(max_age_s=1e12), patience_s=0.0, judging=attribution.judge)
    return attribution, said.getvalue()


def test_who_it_was_stands_in_the_record_and_in_one_event(scene: Scene) -> None:
    scene.put(who={})
    tell(scene.host, SH)
    attribution, said = attribute(scene)
    assert scene.record()["who"] == SH
    assert attribution.named == 1
    (event,) = said.splitlines()
    assert "drift-attributed: /etc/mail/access was changed by /bin/sh (pid 7, uid 0, login uid 1000" in event
    for field in ("path=/etc/mail/access", f"quarantine_id={ID}", "who_pid=7", "who_loginuid=1000"):
        assert field in event


def test_of_two_only_what_both_have_is_a_fact(scene: Scene) -> None:
    scene.put(who={})
    tell(scene.host, SH, CP)
    _, said = attribute(scene)
    assert scene.record()["who"] == {"unit": "cron.service", "uid": 0, "candidates": [SH, CP]}
    assert "may have been changed by one of these: /bin/sh" in said
    assert "who_pid" not in said


def test_one_who_is_not_sure_is_a_candidate(scene: Scene) -> None:
    scene.put(who={})
    tell(scene.host, SH, sure=False)
    attribute(scene)
    assert scene.record()["who"] == {"candidates": [SH]}


@pytest.mark.parametrize(
    ("drift", "did", "who"),
    [
        (["content"], ["content"], SH),
        (["content", "flags"], ["name"], SH),
        (["mode"], ["attributes"], SH),
        (["content"], ["attributes"], {"candidates": [SH]}),  # a mapping may have been it
        (["content", "owner"], ["content"], {"candidates": [SH]}),
        (["flags"], ["content"], {"candidates": [SH]}),  # an ioctl, of which nothing is told
        (["content"], [], {"candidates": [SH]}),
    ],
)
def test_who_did_something_else_is_not_it_for_a_fact(
    scene: Scene, drift: list[str], did: list[str], who: dict[str, Any]
) -> None:
    scene.put(who={}, drift=drift)
    tell(scene.host, {**SH, "did": did})
    attribute(scene)
    assert scene.record()["who"] == who


def test_who_cannot_have_done_it_is_left_out_where_another_can(scene: Scene) -> None:
    scene.put(who={})
    tell(scene.host, {**SH, "did": ["attributes"]}, CP)
    attribute(scene)
    assert scene.record()["who"] == CP


@pytest.mark.parametrize("changes", [{"path": "/etc/mail/other"}, {"id": "other"}, {"suspects": []}])
def test_what_is_told_of_something_else_names_nobody(scene: Scene, changes: dict[str, Any]) -> None:
    scene.put(who={})
    tell(scene.host, SH, **changes)
    attribution, said = attribute(scene)
    assert scene.record()["who"] == {}
    assert (attribution.named, said) == (0, "")


def test_what_an_approval_replaced_is_nobodys_doing(scene: Scene) -> None:
    scene.put(who={}, drift=[])
    tell(scene.host, SH)
    attribute(scene)
    assert scene.record()["who"] == {}


def test_without_a_witness_nothing_is_waited_for(scene: Scene) -> None:
    scene.put(who={})
    begin = time.monotonic()
    attribute(scene, patience_s=60.0)
    assert time.monotonic() - begin < 30.0
    tell(scene.host)
    scene.put(who={}, identifier=f"{ID}x")
    attribute(scene, patience_s=60.0)  # it ran once, and does not now
    assert time.monotonic() - begin < 30.0


def test_a_witness_that_is_behind_is_waited_for(scene: Scene) -> None:
    scene.put(who={})
    log = Log(scene.host)
    child = os.fork()
    if child == 0:
        time.sleep(0.3)
        log.add({"id": ID, "path": "/etc/mail/access", "sure": True, "suspects": [{**CP, "did": ["name"]}]})
        os._exit(0)
    attribute(scene, patience_s=20.0)
    assert scene.record()["who"] == CP
    os.waitpid(child, 0)
    log.close()


def test_a_fight_is_one_event_in_a_run(scene: Scene) -> None:
    for number in range(5):
        identifier = f"{ID}{number}"
        scene.put(identifier=identifier, who={})
        tell(scene.host, {**SH, "pid": number}, id=identifier)
    attribution, said = attribute(scene)
    assert attribution.named == 5
    assert len(said.splitlines()) == 1


@given(LINES)
def test_whatever_a_line_holds_is_read_and_no_fact_without_its_process(line: dict[str, object]) -> None:
    told = witness_log.parse(line)
    if told is not None:
        who = told.of(["content"]).who()
        assert "candidates" in who or not who or told.is_sure
        json.dumps(who)


@given(
    st.binary(max_size=300)
    | st.lists(LINES, max_size=5).map(lambda lines: "\n".join(map(json.dumps, lines)).encode())
)
def test_whatever_the_file_holds_is_read(data: bytes) -> None:
    with open_scene() as scene:
        where = Path(scene.host.run_dir)
        where.mkdir(parents=True)
        for name in ("witness.log", "witness.log.1"):
            (where / name).write_bytes(data)
            (where / name).chmod(0o600)
        told = witness_log.read(scene.host)
        assert all(isinstance(one, Told) for one in told.values())


@pytest.mark.parametrize("kind", ["fifo", "link", "directory", "deep", "others", "long"])
def test_what_is_no_file_of_roots_is_not_read(scene: Scene, kind: str) -> None:
    scene.put(who={})
    tell(scene.host, SH)
    where = Path(scene.host.run_dir) / "witness.log"
    if kind == "others":
        where.chmod(0o622)
    elif kind == "deep":
        where.write_bytes(b'{"id":' * 100_000)
    elif kind == "long":
        where.write_bytes(b"\0" * (8 << 20))
    else:
        aside = where.rename(where.with_name("aside"))
        {"fifo": os.mkfifo, "directory": os.mkdir, "link": lambda at: at.symlink_to(aside)}[kind](where)
    assert witness_log.read(scene.host) == {}
    attribute(scene, patience_s=60.0)
    assert scene.record()["who"] == {}


def test_the_file_is_bounded_roots_and_of_one_witness(scene: Scene) -> None:
    log = Log(scene.host)
    with pytest.raises(RefusedError):
        Log(scene.host)
    assert witness_log.is_running(scene.host)
    for number in range(3000):
        log.add({"id": f"{number}", "path": "x" * 400, "suspects": [CP], "sure": True})
    files = sorted(Path(scene.host.run_dir).iterdir())
    assert [one.name for one in files] == ["witness.log", "witness.log.1"]
    assert all(one.stat().st_size <= 1 << 19 and one.stat().st_mode & 0o777 == 0o600 for one in files)
    assert {"2999", "2500"} <= witness_log.read(scene.host).keys()
    with pytest.raises(RefusedError):
        Log(scene.host)  # the new file is locked as the old one was
    log.close()
    assert not witness_log.is_running(scene.host)


def test_a_file_that_somebody_else_locks_is_no_running_witness_for_ever(scene: Scene) -> None:
    tell(scene.host)
    scene.put(who={}, identifier=f"{ID}x")
    descriptor = os.open(Path(scene.host.run_dir) / "witness.log", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    attribute(scene, patience_s=0.2)
    assert scene.record(f"{ID}x")["who"] == {}
    os.close(descriptor)


def fields_of(who: dict[str, Any]) -> dict[str, str]:
    """Return the fields that are sent of somebody, as the journal has them."""
    sent: dict[str, str] = {"HARDEND_EVENT": "drift-attributed"}

    class Sender:
        def event(self, _kind: object, message: str, /, **fields: object) -> None:
            sent["MESSAGE"] = message
            sent.update({f"HARDEND_{k}": str(v) for k, v in fields.items() if v is not None})

    announce(Sender(), "/etc/mail/access", who, ID)  # type: ignore[arg-type]
    return sent


@pytest.mark.parametrize("asked", ["sh", "/bin/cp", "cron", "1000"])
def test_events_find_one_of_several_by_any_name_of_his(asked: str) -> None:
    record = to_record(fields_of({"uid": 0, "candidates": [SH, CP]}))
    assert Query(who=asked).admits(record)
    assert not Query(who="vim").admits(record)
    assert record.as_json()["who"] == {"uid": 0, "candidates": [SH, CP]}


@given(st.text(max_size=100))
def test_candidates_that_are_none_are_no_error(text: str) -> None:
    record = to_record({"HARDEND_WHO_CANDIDATES": text})
    assert isinstance(record.as_json(), dict)
    assert not Query(who="nobody's").admits(record)


def test_a_name_commands_no_terminal_and_ends_no_line() -> None:
    sent = fields_of({**SH, "exe": "/tmp/\x1b[2J\nx", "comm": "\udcff"})
    assert "\x1b" not in sent["MESSAGE"]
    assert "\n" not in sent["MESSAGE"]
