# SPDX-License-Identifier: Apache-2.0
"""Moving taken objects into the quarantine: every kind of object, and the verb."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hardend.kernel import flags
from hardend.quarantine import Limits, Quarantine
from tests.unit.taken import ID, MIB, Scene, lock, open_scene

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scene() -> Iterator[Scene]:
    with open_scene() as made:
        yield made


def test_a_file_is_kept_whole_with_its_story(scene: Scene) -> None:
    where = scene.put(b"evil\n")
    os.setxattr(where, "user.note", b"x")
    summary = scene.collect()
    record = scene.record()
    assert record["stored"] == "whole"
    assert record["digest"] == hashlib.sha256(b"evil\n").hexdigest()
    assert scene.content(record["digest"]) == b"evil\n"
    assert record["path"] == "/etc/mail/access"
    assert record["who"] == {"pid": 7}
    assert record["mode"] == 0o640
    assert record["xattrs"] == [["user.note", b"x".hex()]]
    assert record["flags"] == ""
    assert "unstable" not in record
    assert scene.is_swept()
    assert (summary.collected, summary.failed) == (1, [])
    assert summary.size_bytes > 0


def test_everything_is_for_root_only_whatever_the_umask(scene: Scene) -> None:
    scene.put()
    before = os.umask(0)
    try:
        scene.collect()
    finally:
        os.umask(before)
    for directory, _names, files in os.walk(scene.host.quarantine_dir):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
        for name in files:
            assert stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) == 0o600


def test_the_same_content_is_kept_once(scene: Scene) -> None:
    for number in range(5):
        scene.put(b"same", f"{ID[:-1]}{number}")
    assert scene.collect().collected == 5
    assert len(list(scene.objects.iterdir())) == 1
    assert len(list(scene.records.iterdir())) == 5


def test_an_empty_file_is_whole(scene: Scene) -> None:
    scene.put(b"")
    scene.collect()
    assert scene.record()["stored"] == "whole"
    assert scene.content(scene.record()["digest"]) == b""


def test_a_file_over_the_limit_is_cut(scene: Scene) -> None:
    scene.put(b"a" * 100_001)
    summary = scene.collect(Limits(max_age_s=1e12, object_bytes=100_000))
    assert scene.record()["stored"] == "truncated"
    assert scene.content(scene.record()["digest"]) == b"a" * 100_000
    assert summary.truncated == 1
    scene.put(b"a" * 100_000, "20261124T061501.123456-0002")
    scene.collect(Limits(max_age_s=1e12, object_bytes=100_000))
    assert scene.record("20261124T061501.123456-0002")["stored"] == "whole"


def test_a_sparse_file_of_16_tb_is_read_to_the_limit_only(scene: Scene) -> None:
    where = scene.put(b"head")
    os.truncate(where, 16 * 2**40 - 4096)
    begin = time.monotonic()
    scene.collect()
    print(f"16 TB sparse file: {(time.monotonic() - begin) * 1000:.0f} ms")
    record = scene.record()
    assert record["stored"] == "truncated"
    kept = os.stat(scene.objects / record["digest"])
    assert kept.st_size == 8 * MIB
    assert kept.st_blocks * 512 < MIB
    assert scene.is_swept()


def test_locked_and_append_only_files_are_taken_too(scene: Scene) -> None:
    lock(scene.put(b"one", "20261124T061501.123456-0001"))
    lock(scene.put(b"two", "20261124T061501.123456-0002"), flags.APPEND)
    summary = scene.collect()
    assert summary.failed == []
    assert scene.record("20261124T061501.123456-0001")["flags"] == "i"
    assert scene.record("20261124T061501.123456-0002")["flags"] == "a"
    assert scene.is_swept()


def test_a_symlink_keeps_its_target_and_is_not_followed(scene: Scene) -> None:
    victim = scene.taken.parent / "victim"
    victim.write_text("secret")
    scene.tell(kind="symlink").symlink_to(victim)
    scene.collect()
    record = scene.record()
    assert (record["stored"], record["digest"]) == ("attributes", "")
    assert record["target"] == str(victim)
    assert victim.read_text() == "secret"
    assert list(scene.objects.iterdir()) == []


def test_a_fifo_a_socket_and_a_device_keep_their_attributes(scene: Scene) -> None:
    ids = [f"{ID[:-1]}{number}" for number in range(3)]
    os.mkfifo(scene.tell(ids[0], kind="fifo"))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(scene.tell(ids[1], kind="socket")))
    os.mknod(scene.tell(ids[2], kind="device"), stat.S_IFBLK | 0o600, os.makedev(7, 99))
    assert scene.collect().failed == []
    assert all(scene.record(one)["stored"] == "attributes" for one in ids)
    assert scene.record(ids[2])["device"] == "7:99"
    assert scene.is_swept()


def test_the_record_says_what_is_there_when_the_object_was_swapped(scene: Scene) -> None:
    scene.tell(kind="file", mode=0o640).mkdir(mode=0o711)
    scene.collect()
    record = scene.record()
    assert (record["kind"], record["mode"]) == ("directory", 0o711)


def test_the_content_of_a_secret_is_never_kept(scene: Scene) -> None:
    scene.put(b"password", cls="attributes")
    inside = scene.tell("20261124T061501.123456-0002", cls="attributes", kind="directory")
    inside.mkdir()
    (inside / "key").write_bytes(b"password")
    scene.collect()
    assert scene.record()["stored"] == "attributes"
    record = scene.record("20261124T061501.123456-0002")
    assert record["stored"] == "attributes"
    assert [entry["name"] for entry in record["entries"]] == ["key"]
    assert list(scene.objects.iterdir()) == []
    assert scene.is_swept()


def test_a_file_that_is_written_to_meanwhile_is_noted(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    where = scene.put(b"one")
    store = Quarantine.store

    def store_while_written(self: Quarantine, source: int, limit: int) -> Any:
        kept = store(self, source, limit)
        with where.open("ab") as writer:
            writer.write(b"two")
        return kept

    monkeypatch.setattr(Quarantine, "store", store_while_written)
    assert scene.collect().unstable == 1
    assert scene.record()["unstable"] is True
    assert scene.content(scene.record()["digest"]) == b"one"


def test_a_write_lease_is_waited_for_and_never_for_ever(scene: Scene) -> None:
    scene.put(b"other", "20261124T061501.123456-0002")
    where = scene.put(b"leased")
    with where.open("rb+") as holder:
        before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # what breaks the lease sends one
        try:
            fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            summary = scene.collect()
            assert summary.collected == 1
            assert summary.failed == [(ID, "a process holds a write lease on it")]
            assert where.exists()
            fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        finally:
            signal.signal(signal.SIGIO, before)
    assert scene.collect(patience_s=5).collected == 1
    assert scene.content(scene.record()["digest"]) == b"leased"


def test_an_object_that_stayed_on_its_mount_is_fetched_there(scene: Scene) -> None:
    elsewhere = scene.taken.parent / "elsewhere"
    elsewhere.mkdir()
    scene.tell(at=str(elsewhere / f"taken-{ID}"))
    (elsewhere / f"taken-{ID}").write_bytes(b"evil")
    (elsewhere / "kept").touch()
    assert scene.collect().failed == []
    assert scene.content(scene.record()["digest"]) == b"evil"
    assert os.listdir(elsewhere) == ["kept"]


def test_a_record_cannot_point_at_somebody_elses_file(scene: Scene) -> None:
    elsewhere = scene.taken.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f"taken-{ID}").write_bytes(b"x")
    link = scene.taken.parent / "link"
    link.symlink_to(elsewhere)
    for at in (str(elsewhere / "other"), f"relative/taken-{ID}", str(link / f"taken-{ID}")):
        scene.tell(at=at)
        assert [one for one, _why in scene.collect().failed] == [ID]
        assert (elsewhere / f"taken-{ID}").exists()


VERB = """
import argparse, sys
from hardend.cli import collect
parser = argparse.ArgumentParser()
collect.register(parser.add_subparsers())
args = parser.parse_args(["collect", *sys.argv[1:]])
sys.exit(args.run(args))
"""


def run_verb(scene: Scene, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", VERB, "--root", scene.host.root, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_verb_prints_one_line_one_object_or_nothing(scene: Scene) -> None:
    scene.put()
    done = run_verb(scene)
    assert done.returncode == 0
    assert done.stderr.startswith("hardend: which rules a drift broke is not known: no sendmail.cf in ")
    assert done.stdout.startswith("1 collected; the quarantine holds 0.0 of 256 MiB\n")
    (scene.taken / ID).write_bytes(b"evil")
    done = run_verb(scene, "--json")
    assert json.loads(done.stdout) | {"size_bytes": 0} == {
        "schema": 1,
        "collected": 1,
        "recovered": 0,
        "truncated": 0,
        "unstable": 0,
        "evicted": 0,
        "waiting": 0,
        "size_bytes": 0,
        "failed": [],
    }
    assert run_verb(scene, "--quiet").stdout == ""


def test_the_verb_names_what_it_could_not_move(scene: Scene) -> None:
    scene.put(at="/etc/passwd")
    done = run_verb(scene, "--quiet")
    assert done.returncode == 1
    assert done.stderr.startswith(f"hardend: {ID}: not collected: ")
    assert len(done.stderr.splitlines()) == 1
