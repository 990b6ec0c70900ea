# SPDX-License-Identifier: Apache-2.0
"""Taken directories: listed in part, removed whole, mounts and victims left alone."""

from __future__ import annotations

import os
import subprocess
import tracemalloc
from collections.abc import Iterator

import pytest

from hardend.collect import ENTRIES_LISTED
from hardend.kernel import flags
from hardend.quarantine import Limits
from tests.unit.taken import ID, MIB, Scene, in_child, lock, open_scene, unmount_below

pytestmark = pytest.mark.root


@pytest.fixture
def scene() -> Iterator[Scene]:
    with open_scene() as made:
        yield made


def test_a_directory_keeps_a_listing_and_its_small_files(scene: Scene) -> None:
    top = scene.tell(kind="directory")
    (top / "sub/below").mkdir(parents=True)
    (top / "one\n\x1b").write_bytes(b"one")
    (top / "sub/two").write_bytes(b"two")
    (top / "sub/link").symlink_to("/etc/shadow")
    os.mkfifo(top / "fifo")
    scene.collect()
    record = scene.record()
    assert record["stored"] == "whole"
    entries = {entry["name"]: entry for entry in record["entries"]}
    assert set(entries) == {"one\n\x1b", "sub", "sub/two", "sub/link", "sub/below", "fifo"}
    assert scene.content(entries["one\n\x1b"]["digest"]) == b"one"
    assert scene.content(entries["sub/two"]["digest"]) == b"two"
    assert entries["sub/link"]["target"] == "/etc/shadow"
    assert entries["fifo"]["kind"] == "fifo"
    assert scene.is_swept()


def test_the_files_of_a_directory_share_the_limit_of_one_object(scene: Scene) -> None:
    top = scene.tell(kind="directory")
    top.mkdir()
    for number in range(5):
        (top / str(number)).write_bytes(bytes([number]) * 40_000)
    scene.collect(Limits(max_age_s=1e12, object_bytes=100_000))
    record = scene.record()
    assert record["stored"] == "truncated"
    assert len(record["entries"]) == 5
    assert len(list(scene.objects.iterdir())) == 2


def test_a_huge_directory_is_listed_in_part_and_removed_in_little_memory(scene: Scene) -> None:
    top = scene.tell(kind="directory")
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    for number in range(30_000):
        os.close(os.open(f"{number:050}", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)

    def collect_and_measure() -> None:
        tracemalloc.start()
        scene.collect()
        peak = tracemalloc.get_traced_memory()[1]
        print(f"30,000 entries: peak {peak / MIB:.1f} MiB", flush=True)
        assert peak < 4 * MIB

    assert in_child(collect_and_measure) == 0
    assert len(scene.record()["entries"]) == ENTRIES_LISTED
    assert scene.record()["stored"] == "truncated"
    assert scene.is_swept()


def test_a_tree_deeper_than_any_path_is_removed(scene: Scene) -> None:
    top = scene.tell(kind="directory")
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 200, dir_fd=descriptor)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    before = set(os.listdir("/proc/self/fd"))
    assert scene.collect().failed == []
    assert set(os.listdir("/proc/self/fd")) == before
    assert scene.record()["stored"] == "truncated"
    assert scene.is_swept()


def test_locks_inside_a_directory_do_not_keep_it(scene: Scene) -> None:
    top = scene.tell(kind="directory")
    (top / "locked/inner/full").mkdir(parents=True)
    (top / "locked/inner/full/file").write_bytes(b"x")
    (top / "append").mkdir()
    (top / "append/file").write_bytes(b"y")
    (top / ".1").write_bytes(b"a name that the removal itself would choose")
    for name in ("locked/inner/full/file", "locked/inner/full", "locked/inner", "locked", ""):
        lock(top / name)
    lock(top / "append", flags.APPEND)
    assert scene.collect().failed == []
    assert scene.is_swept()


def test_mounts_inside_a_directory_are_neither_read_nor_emptied(scene: Scene) -> None:
    victim = scene.taken.parent / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"victim")
    top = scene.tell(kind="directory")
    (top / "sub/point").mkdir(parents=True)
    (top / "sub/file").touch()
    (top / "beside").write_bytes(b"x")
    mounted = [top / "sub/point", top / "sub/file"]
    subprocess.run(["mount", "--bind", str(victim), str(mounted[0])], check=True)
    try:
        subprocess.run(["mount", "--bind", str(victim / "file"), str(mounted[1])], check=True)
        try:
            for _ in range(2):
                assert scene.collect().failed == [(ID, "Device or resource busy")]
                assert (victim / "file").read_bytes() == b"victim"
                assert not (top / "beside").exists()
            names = {entry["name"] for entry in scene.record()["entries"]}
            assert names == {"sub", "beside", "sub/point", "sub/file"}
            assert scene.record()["stored"] == "truncated"
        finally:
            unmount_below(top)
    finally:
        unmount_below(top)
    assert scene.collect().failed == []
    assert scene.is_swept()
    assert (victim / "file").read_bytes() == b"victim"


def test_an_owner_who_holds_a_directory_open_cannot_fill_it_for_ever(scene: Scene) -> None:
    top = scene.tell(kind="directory")
    top.mkdir(mode=0o777)
    os.chown(top, 65534, 65534)
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.chdir(top)
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        number = 0
        try:
            while True:
                number += 1
                os.close(os.open(f"x{number}", os.O_CREAT | os.O_WRONLY, 0o600))
                if number == 100:
                    os.write(go, b"x")
        except OSError:
            os._exit(0)
        finally:
            os._exit(1)
    os.read(ready, 1)
    try:
        assert scene.collect().failed == []
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.close(ready)
        os.close(go)
    assert status == 0
    assert scene.is_swept()


def test_a_collector_without_the_right_to_change_owners_still_removes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    top = scene.tell(kind="directory")
    (top / "sub").mkdir(parents=True)
    (top / "sub/file").touch()
    monkeypatch.setattr(os, "fchown", refuse)
    assert scene.collect().failed == []
    assert scene.is_swept()
