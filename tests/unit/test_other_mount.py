# SPDX-License-Identifier: Apache-2.0
"""Targets on another mount than the staging directory, and mounts that nobody approved."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hardend.aside import leave_beside, open_beside
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.collect import collect
from hardend.model import Host, State
from hardend.quarantine import Limits
from tests.unit.conftest import ACCESS, CF, Tree
from tests.unit.mounting import mount_image, mount_memory
from tests.unit.scenes import ACCESS_PATH, CF_PATH, SMRSH, guard_of, names_in, rewrite
from tests.unit.scenes import no_waiting as no_waiting  # noqa: PLC0414 - a fixture
from tests.unit.scenes import top as top  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.root


@pytest.fixture
def apart(top: Path) -> Iterator[Tree]:
    """A guarded tree whose /etc/mail is a file system of its own, approved as such."""
    made = Tree(top / "tree")
    made.root.mkdir()
    made.at("/etc/mail").mkdir(parents=True)
    mount_image(made.at("/etc/mail"), top / "image", 8)
    made.at("/etc/mail/lost+found").rmdir()
    made.make = lambda: None  # type: ignore[method-assign] # made below, around the mount
    for directory in (SMRSH, "/var/spool/mqueue"):
        made.at(directory).mkdir(parents=True)
    made.at(CF_PATH).write_bytes(CF)
    made.at(ACCESS_PATH).write_bytes(ACCESS)
    made.at("/etc/mail/authinfo").write_bytes(b"secret")
    made.at("/etc/mail/link").symlink_to("../aliases")
    made.at("/etc/mail/smrsh/mail").symlink_to("/bin/mail")
    made.start(_approve_mount(made))
    yield made
    assert made.enforcer is not None
    made.enforcer.close()


def _approve_mount(tree: Tree) -> Generation:
    generation = tree.generation()
    entries = dict(generation.entries)
    entries["/etc/mail"] = replace(entries["/etc/mail"], mount=True)
    generation = replace(generation, entries=entries)
    store = Store(tree.host)
    with store.locked():
        store.add_generation(generation)
    return generation


def _at(tree: Tree) -> list[Path]:
    """Return where the records say the objects are."""
    taken = Path(tree.host.taken_dir)
    return [Path(json.loads(path.read_bytes())["at"]) for path in sorted(taken.glob("*.json"))]


def test_on_another_mount_a_file_is_put_back_from_beside(apart: Tree) -> None:
    enforcer, held = guard_of(apart)
    before = names_in(apart, "/etc/mail")
    for _ in range(3):
        rewrite(apart)
        enforcer.look(held)
        apart.stage(enforcer)
        assert apart.drifts() == {}
    assert held.other_mount
    assert apart.recorder.failures == {}
    assert names_in(apart, "/etc/mail") == before | {".hardend"}
    beside = apart.at("/etc/mail/.hardend")
    assert beside.stat().st_mode & 0o777 == 0o700
    places = _at(apart)
    assert len(places) == 3
    assert {path.name for path in places} == names_in(apart, "/etc/mail/.hardend")
    assert all(path.parent == beside and path.read_bytes().startswith(b"EVIL") for path in places)
    assert apart.recorder.strangers == []


def test_on_another_mount_the_collector_finds_what_was_taken(apart: Tree) -> None:
    enforcer, held = guard_of(apart)
    before = names_in(apart, "/etc/mail")
    rewrite(apart)
    enforcer.look(held)
    summary = collect(apart.host, Limits(256 << 20, 90 * 86400, 8 << 20))
    assert (summary.collected, summary.failed) == (1, [])
    assert names_in(apart, "/etc/mail") == before, "nothing of ours is left there"
    objects = Path(apart.host.quarantine_dir) / "objects"
    assert [path.read_bytes()[:4] for path in objects.iterdir()] == [b"EVIL"]


def test_on_another_mount_a_link_and_a_missing_file_are_put_back(apart: Tree) -> None:
    enforcer, _ = guard_of(apart)
    apart.at("/etc/mail/smrsh/mail").unlink()
    apart.unlock(CF_PATH)
    apart.at(CF_PATH).unlink()
    before = names_in(apart, "/etc/mail") | {"sendmail.cf"}
    enforcer.full_pass(thorough=False)
    assert apart.drifts() == {}
    assert apart.taken() == []
    assert names_in(apart, "/etc/mail") == before
    assert names_in(apart, SMRSH) == {"mail"}


def test_on_another_mount_a_stranger_leaves_the_closed_directory_for_good(apart: Tree) -> None:
    enforcer, _ = guard_of(apart)
    smrsh = enforcer.table.by_path[SMRSH]
    apart.at("/etc/mail/smrsh/sh").symlink_to("/bin/sh")
    for _ in range(5):
        enforcer.look_inside(smrsh)
    assert names_in(apart, SMRSH) == {"mail", ".hardend"}
    (place,) = _at(apart)
    assert place.parent == apart.at("/etc/mail/smrsh/.hardend")
    assert os.readlink(place) == "/bin/sh"
    assert len(apart.recorder.strangers) == 1


@pytest.mark.parametrize("who", ["spares", "aside"])
def test_our_directory_may_vanish_between_its_opening_and_its_use(
    apart: Tree, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """As it does when the collector finds it empty."""
    enforcer, held = guard_of(apart)
    vanished: list[int] = []

    def open_and_lose(parent: int) -> int:
        directory = open_beside(parent)
        if not vanished:
            vanished.append(directory)
            leave_beside(directory)
        return directory

    rewrite(apart)
    enforcer.look(held)  # its staging tells that this is another mount
    apart.at("/etc/mail/smrsh/sh").symlink_to("/bin/sh")
    rewrite(apart)
    monkeypatch.setattr(f"hardend.{who}.open_beside", open_and_lose)
    enforcer.look(held)
    enforcer.look_inside(enforcer.table.by_path[SMRSH])
    assert vanished
    assert apart.drifts() == {}
    assert apart.recorder.failures == {}
    assert names_in(apart, SMRSH) == {"mail", ".hardend"}


def test_on_another_mount_a_directory_s_impostor_leaves_no_name_behind(apart: Tree) -> None:
    enforcer, _ = guard_of(apart)
    before = names_in(apart, "/etc/mail")
    apart.at(SMRSH).rename(apart.at("/etc/mail/away"))
    apart.at(SMRSH).symlink_to("/bin")
    enforcer.full_pass(thorough=False)
    assert apart.drifts() == {}
    assert names_in(apart, "/etc/mail") == before | {".hardend"}


@pytest.mark.parametrize("impostor", ["file", "link", "another's directory"])
def test_what_has_the_name_of_our_directory_is_in_nobody_s_way(apart: Tree, impostor: str) -> None:
    enforcer, held = guard_of(apart)
    beside = apart.at("/etc/mail/.hardend")
    if impostor == "file":
        beside.write_bytes(b"x")
    elif impostor == "link":
        beside.symlink_to("/tmp")
    else:
        beside.mkdir()
        os.chown(beside, 65534, 65534)
    rewrite(apart)
    enforcer.look(held)
    assert apart.drifts() == {}
    assert beside.is_dir() and not beside.is_symlink() and beside.stat().st_uid == 0


def test_a_mount_that_nobody_approved_is_not_taken_for_the_directory(top: Path) -> None:
    tree = Tree(top / "tree")
    tree.root.mkdir()
    tree.make()
    enforcer = tree.guard()
    mount_memory(tree.at("/etc/mail"))
    tree.at(CF_PATH).write_bytes(b"EVIL")
    enforcer.full_pass(thorough=False)
    held = enforcer.table.by_path["/etc/mail"]
    assert held.state is State.FAILED
    assert tree.at(CF_PATH).read_bytes() == b"EVIL", "nothing is written into a foreign file system"
    subprocess.run(["umount", str(tree.at("/etc/mail"))], check=True)
    enforcer.sweep()
    assert tree.drifts() == {}
    tree.remove()


def test_the_root_of_the_tree_may_be_a_mount_of_its_own(top: Path) -> None:
    mount_memory(top / "memory")
    tree = Tree(top / "memory")
    tree.make()
    enforcer = tree.guard()
    held = enforcer.table.by_path[CF_PATH]
    with contextlib.suppress(OSError):
        tree.unlock(CF_PATH)
    with tree.at(CF_PATH).open("r+b") as file:
        file.write(b"EVIL")
    enforcer.look(held)
    assert tree.drifts() == {}
    assert Host(str(tree.root)).is_tree
    enforcer.close()
