# SPDX-License-Identifier: Apache-2.0
"""What crashes, a full disk and a guard at work leave, and that nothing of it is lost."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hardend.collect import Summary
from hardend.errors import FileError, RefusedError
from hardend.quarantine import Quarantine
from hardend.state import GuardLock
from tests.unit.taken import ID, MIB, Scene, in_child, lock, open_scene

pytestmark = pytest.mark.root

SYSTEM_CALLS = (
    *("open", "write", "fsync", "rename", "unlink", "rmdir", "ftruncate"),
    *("makedirs", "fchmod", "fchown", "close", "lseek"),
)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with open_scene() as made:
        yield made


def test_an_object_without_record_gets_one(scene: Scene) -> None:
    (scene.taken / ID).write_bytes(b"evil")
    summary = scene.collect()
    record = scene.record()
    assert summary.recovered == 1
    assert record["recovered"] is True
    assert record["time"] == "2026-11-24T06:15:01.123456+00:00"
    assert record["incident"] == ID
    assert scene.content(record["digest"]) == b"evil"
    assert scene.is_swept()


def test_a_torn_record_counts_as_none_and_an_unfinished_one_is_used(scene: Scene) -> None:
    scene.put(b"evil")
    (scene.taken / f"{ID}.json").write_bytes(b"")
    second = "20261124T061501.123456-0002"
    scene.put(b"evil", second)
    (scene.taken / f"{second}.json").rename(scene.taken / f"{second}.json.new")
    assert scene.collect().recovered == 1
    assert scene.record()["recovered"] is True
    assert scene.record(second)["path"] == "/etc/mail/access"
    assert scene.is_swept()


def test_a_record_whose_object_is_gone_is_kept(scene: Scene) -> None:
    scene.tell()
    assert scene.collect().failed == []
    assert scene.record()["gone"] is True
    assert scene.is_swept()


def test_a_living_guard_is_given_time_to_write_the_record(scene: Scene) -> None:
    now = time.strftime("%Y%m%dT%H%M%S.000000-0001", time.gmtime())
    (scene.taken / now).write_bytes(b"evil")
    (scene.taken / ID).write_bytes(b"old")
    guard = GuardLock(scene.host)
    assert guard.acquire()
    summary = scene.collect()
    assert (summary.waiting, summary.recovered) == (1, 1)
    assert (scene.taken / now).exists()
    scene.tell(now)
    assert scene.collect().collected == 1
    assert "recovered" not in scene.record(now)
    guard.release()


def test_a_record_that_a_full_disk_had_no_room_for_is_not_waited_for_until_the_next_drift(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.strftime("%Y%m%dT%H%M%S.000000-0001", time.gmtime())
    (scene.taken / now).write_bytes(b"evil")
    guard = GuardLock(scene.host)
    assert guard.acquire()
    monkeypatch.setattr("hardend.collect._SETTLE_S", 2.0)
    monkeypatch.setattr("hardend.collect._POLL_S", 0.05)
    summary = scene.collect(patience_s=60)
    assert (summary.waiting, summary.recovered, summary.failed) == (0, 1, [])
    assert scene.is_swept()


def test_what_is_taken_while_it_runs_is_collected_too(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.put()
    later = "20261124T061501.123456-0002"
    real = Quarantine.evict

    def evict(quarantine: Quarantine, *arguments: Any) -> int:
        if not (scene.records / f"{later}.json").exists():
            scene.put(b"later", later)
        return real(quarantine, *arguments)

    monkeypatch.setattr(Quarantine, "evict", evict)
    assert scene.collect().collected == 2
    assert scene.is_swept()


def test_what_cannot_be_collected_is_tried_once_in_a_run(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.put()
    tried = []

    def refuse(_self: Quarantine, record: dict[str, Any]) -> None:
        tried.append(record["id"])
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Quarantine, "write_record", refuse)
    summary = scene.collect(patience_s=60)
    assert (tried, summary.failed) == ([ID], [(ID, "Input/output error")])
    assert (scene.taken / ID).exists()


def test_a_record_that_comes_late_completes_the_recovered_one(scene: Scene) -> None:
    (scene.taken / ID).write_bytes(b"evil")
    scene.collect()
    digest = scene.record()["digest"]
    scene.tell(path="/etc/mail/late")
    scene.collect()
    record = scene.record()
    assert (record["path"], record["recovered"], record["digest"]) == (
        "/etc/mail/late",
        False,
        digest,
    )
    assert scene.is_swept()


def test_names_that_are_no_objects_are_left(scene: Scene) -> None:
    (scene.taken / ".hidden").touch()
    (scene.taken / "a b").touch()
    assert scene.collect() == Summary(size_bytes=0)
    assert len(list(scene.taken.iterdir())) == 2


def furnish(scene: Scene) -> dict[str, bytes]:
    """Take one object of each kind; return the content that must survive, by id."""
    ids = [f"{ID[:-1]}{number}" for number in range(5)]
    scene.put(b"file", ids[0])
    scene.put(b"file", ids[1])
    top = scene.tell(ids[2], kind="directory")
    (top / "sub/deeper").mkdir(parents=True)
    (top / "sub/deeper/file").write_bytes(b"inside")
    lock(top / "sub/deeper/file")
    scene.tell(ids[3], kind="symlink").symlink_to("/target")
    (scene.taken / ids[4]).write_bytes(b"unrecorded")
    return dict(zip(ids, (b"file", b"file", b"inside", b"", b"unrecorded"), strict=True))


def check_kept(scene: Scene, expected: dict[str, bytes]) -> None:
    """Everything is either still taken or in a whole record, and no file is half-written."""
    for where in scene.objects.glob("[!.]*") if scene.objects.exists() else ():
        assert hashlib.sha256(where.read_bytes()).hexdigest() == where.name
    for identifier, content in expected.items():
        if not (scene.records / f"{identifier}.json").exists():
            where = scene.taken / identifier
            if where.is_dir():
                where = where / "sub/deeper/file"
            assert content == (b"" if where.is_symlink() else where.read_bytes())
            continue
        record = scene.record(identifier)
        digests = [record["digest"], *(e.get("digest") for e in record.get("entries", ()))]
        kept = [scene.content(digest) for digest in digests if digest]
        assert kept == ([content] if content else [])


def test_a_crash_at_any_system_call_loses_nothing(scene: Scene) -> None:
    def crash_at(number: int) -> None:
        calls = 0

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == number:
                    os._exit(9)
                return function(*args, **options)

            return call

        for name in SYSTEM_CALLS:
            setattr(os, name, counted(getattr(os, name)))
        scene.collect()

    root = scene.taken.parents[2]
    step, status = 0, 9
    while status == 9:
        step += 1
        expected = furnish(scene)
        status = in_child(partial(crash_at, step))
        assert status in {0, 9}
        check_kept(scene, expected)
        assert scene.collect().failed == []
        check_kept(scene, expected)
        assert len(list(scene.records.iterdir())) == len(expected)
        assert scene.is_swept()
        assert not [*scene.objects.glob(".*"), *scene.records.glob(".*")]
        shutil.rmtree(root / "var")
    print(f"crashed at {step - 1} system calls")
    assert step > 100


def test_a_full_disk_keeps_the_object_where_it_is(scene: Scene) -> None:
    quarantine = Path(scene.host.quarantine_dir)
    quarantine.mkdir(parents=True)
    small = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(quarantine)]
    subprocess.run(small, check=True)
    try:
        scene.put(os.urandom(MIB))
        scene.put(b"small", "20261124T061501.123456-0002")
        summary = scene.collect()
        assert summary.failed == [(ID, "No space left on device")]
        assert summary.collected == 1
        assert (scene.taken / ID).stat().st_size == MIB
        assert sorted(os.listdir(quarantine / "records")) == ["20261124T061501.123456-0002.json"]
        assert len(os.listdir(quarantine / "objects")) == 1
    finally:
        subprocess.run(["umount", str(quarantine)], check=True)
    assert scene.collect().collected == 1


def test_a_taken_directory_that_is_a_link_is_refused(scene: Scene) -> None:
    elsewhere = scene.taken.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ID).write_bytes(b"x")
    scene.taken.rmdir()
    scene.taken.symlink_to(elsewhere)
    with pytest.raises(FileError, match="taken"):
        scene.collect()
    assert (elsewhere / ID).exists()


def test_one_collector_at_a_time(scene: Scene) -> None:
    with Quarantine(scene.host), pytest.raises(RefusedError, match="another hardend collect"):
        scene.collect()
    scene.collect()


def test_nothing_taken_is_no_error(scene: Scene) -> None:
    scene.taken.rmdir()
    assert scene.collect() == Summary()
