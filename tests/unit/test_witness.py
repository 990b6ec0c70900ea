# SPDX-License-Identifier: Apache-2.0
"""The witness on a tree, with real writers and the real kernel; what the guard does is done by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hardend import witness_log
from hardend.baseline.store import Store
from hardend.errors import RefusedError
from hardend.kernel import fanotify
from hardend.witness import OWN_UNITS, Witness
from tests.unit.conftest import Tree

pytestmark = pytest.mark.root
ACCESS = "/etc/mail/access"
ID = "20261124T061501.123456-0001"
WRITE = "import sys; open(sys.argv[1], 'ab').write(b'evil'); print(flush=True); input()"


class Scene:
    """A witness of an approved tree, and what it said."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.said: list[str] = []
        Path(tree.host.taken_dir).mkdir(parents=True, exist_ok=True)
        store = Store(tree.host)
        with store.locked():
            store.add_generation(tree.generation())
        try:
            self.witness = Witness(tree.host, self.said.append)
        except RefusedError as error:
            pytest.skip(str(error))
        self.witness._look()

    def written_by_another(self, path: str, then: Callable[[], object] = lambda: None) -> int:
        """Have a process write, and be seen, that is there until this returns; return its number."""
        where = self.tree.at(path)
        with subprocess.Popen(
            [sys.executable, "-c", WRITE, where], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            self.witness.turn()
            then()
            child.communicate(b"\n")
        return child.pid

    def take(self, path: str, identifier: str = ID) -> None:
        """Set something aside as the guard does, from another process than the test's."""
        taken = Path(self.tree.host.taken_dir) / identifier
        script = "import os, sys; os.rename(sys.argv[1], sys.argv[2]); os.rename(sys.argv[2], sys.argv[3])"
        aside = self.tree.at("/etc/aside")
        subprocess.run([sys.executable, "-c", script, self.tree.at(path), aside, taken], check=True)
        self.witness.turn()

    def told(self) -> dict[str, witness_log.Told]:
        return witness_log.read(self.tree.host)


@pytest.fixture
def scene(tree: Tree) -> Iterator[Scene]:
    made = Scene(tree)
    yield made
    made.witness.close()


def test_who_wrote_what_was_set_aside_is_handed_on(scene: Scene) -> None:
    pid = scene.written_by_another(ACCESS)
    scene.take(ACCESS)
    told = scene.told()[ID]
    assert told.path == ACCESS
    who = told.of(["content"]).who()
    assert who["pid"] == pid
    assert who["exe"] == os.path.realpath(sys.executable)
    assert who["uid"] == 0


def test_what_is_not_held_is_nothing_to_the_witness(scene: Scene) -> None:
    scene.written_by_another("/etc/mail/notes")
    scene.written_by_another("/etc/elsewhere")
    scene.take("/etc/mail/notes")
    assert scene.told() == {}


def test_a_name_that_does_not_belong_in_a_closed_directory_is_seen(scene: Scene) -> None:
    pid = scene.written_by_another("/etc/mail/smrsh/evil")
    scene.take("/etc/mail/smrsh/evil")
    assert scene.told()[ID].of(["unexpected"]).who()["pid"] == pid


def test_a_writer_through_another_name_of_the_file_is_seen(scene: Scene) -> None:
    os.link(scene.tree.at(ACCESS), scene.tree.at("/var/alias"))
    pid = scene.written_by_another("/var/alias")
    scene.take(ACCESS)
    suspects = {one["pid"] for one in scene.told()[ID].of(["content"]).suspects}
    assert pid in suspects


def test_a_file_that_took_the_place_of_another_is_watched_by_its_other_names_too(scene: Scene) -> None:
    scene.tree.at("/var/new").write_bytes(b"new")
    os.link(scene.tree.at("/var/new"), scene.tree.at("/var/alias"))
    os.rename(scene.tree.at("/var/new"), scene.tree.at(ACCESS))
    scene.witness.turn()
    pid = scene.written_by_another("/var/alias")
    scene.take(ACCESS)
    assert pid in {one["pid"] for one in scene.told()[ID].suspects}


def test_a_directory_that_was_replaced_is_watched_anew(scene: Scene) -> None:
    os.rename(scene.tree.at("/etc/mail/smrsh"), scene.tree.at("/etc/mail/smrsh.old"))
    scene.tree.at("/etc/mail/smrsh").mkdir()
    scene.witness._look()
    pid = scene.written_by_another("/etc/mail/smrsh/evil")
    scene.take("/etc/mail/smrsh/evil")
    assert scene.told()[ID].suspects[-1]["pid"] == pid


def test_who_changed_what_was_approved_since_is_forgotten(scene: Scene) -> None:
    scene.written_by_another(ACCESS)
    store = Store(scene.tree.host)
    with store.locked():
        store.add_generation(scene.tree.generation(2))
    scene.witness._look()
    scene.take(ACCESS)
    assert scene.told()[ID].suspects == ()


def test_no_descriptor_of_a_process_is_left_open(scene: Scene) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        scene.written_by_another(ACCESS)
    assert len(os.listdir("/proc/self/fd")) == before


def test_lost_events_are_said_and_name_nobody_for_a_fact(scene: Scene) -> None:
    scene.written_by_another(ACCESS)
    scene.witness._take_in(fanotify.Event(fanotify.OVERFLOW, 0))
    scene.take(ACCESS)
    assert "candidates" in scene.told()[ID].of(["content"]).who()
    assert len(scene.said) == 1


def test_a_damaged_baseline_is_said_once_and_what_is_watched_stays_watched(scene: Scene) -> None:
    manifest = Path(scene.tree.host.store_dir) / "generations/1/manifest.json"
    manifest.write_text("{}")
    (manifest.parents[1] / "2").mkdir()
    for _ in range(3):
        scene.witness._look()
    assert len(scene.said) == 1
    pid = scene.written_by_another(ACCESS)
    scene.take(ACCESS)
    assert scene.told()[ID].suspects[0]["pid"] == pid


def test_a_second_witness_is_refused(scene: Scene) -> None:
    with pytest.raises(RefusedError, match="another witness"):
        Witness(scene.tree.host, print)


def test_where_fanotify_is_refused_the_verb_says_so_and_ends_with_4(tree: Tree) -> None:
    without = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]
    verb = [sys.executable, "-m", "hardend", "witness", "--root", str(tree.root)]
    done = subprocess.run([*without, *verb], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert done.stderr.startswith("hardend: fanotify is refused: Operation not permitted\n")
    assert len(done.stderr.splitlines()) == 2


def test_every_unit_of_ours_but_the_one_that_unmounts_is_known_as_ours() -> None:
    units = (Path(__file__).resolve().parents[2] / "systemd").glob("*.service")
    assert {unit.name for unit in units if "@" not in unit.name} == OWN_UNITS
