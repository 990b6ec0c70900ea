# SPDX-License-Identifier: Apache-2.0
"""The lookout: chattr's start is a warning, and for a few milliseconds every lock is asked for."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hardend.kernel import flags as inode_flags
from hardend.lookout import Lookout
from hardend.watch import Channel, Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hardend.table import Held
    from tests.unit.conftest import Tree

pytestmark = pytest.mark.root
CF = "/etc/mail/sendmail.cf"


class Scene:
    """A held tree, a program to be warned of, and a lookout."""

    def __init__(self, tree: Tree, program: Path) -> None:
        self.tree = tree
        self.program = program
        assert tree.enforcer is not None
        self.enforcer = tree.enforcer
        self.watch = Watch()
        self.watch.heed(str(program))
        self.lookout = Lookout(self.watch, self.enforcer)

    def start(self) -> None:
        """Start the program, and read what the watch says of it."""
        subprocess.run([self.program, "/"], check=True, capture_output=True)
        self.read()

    def read(self) -> None:
        try:
            self.watch.read_hints(lambda _: True)
        except BlockingIOError:
            return
        self.lookout.begin()

    def end(self) -> None:
        """Glance until there is no need to any more."""
        while self.lookout.glance():
            pass


@pytest.fixture
def scene(guarded: Tree, tmp_path: Path) -> Iterator[Scene]:
    program = tmp_path / "chattr"
    shutil.copy("/bin/true", program)  # any program will do
    made = Scene(guarded, program)
    yield made
    made.watch.close()


def take_off(held: Held) -> None:
    """Take the lock off through the kept descriptor: no hint comes of it."""
    fcntl.ioctl(held.descriptor, 0x40086602, struct.pack("I4x", 0))


def test_without_a_warning_nothing_is_asked(scene: Scene) -> None:
    scene.lookout.begin()
    assert not scene.lookout.is_on
    assert not scene.lookout.glance()


def test_a_lock_that_goes_off_after_the_start_of_chattr_is_put_back_without_a_hint(scene: Scene) -> None:
    held = scene.enforcer.table.by_path[CF]
    scene.start()
    assert scene.lookout.is_on
    take_off(held)
    scene.lookout.glance()
    assert inode_flags.to_letters(inode_flags.get_flags(held.descriptor)) == "i"
    scene.end()
    assert [path for path, _ in scene.tree.recorder.restored_paths] == [CF]


def test_a_lock_that_is_exchanged_for_append_only_is_put_back_alone(scene: Scene) -> None:
    held = scene.enforcer.table.by_path[CF]
    scene.start()
    inode_flags.set_flags(held.descriptor, inode_flags.APPEND)
    scene.lookout.glance()
    scene.end()
    assert inode_flags.to_letters(inode_flags.get_flags(held.descriptor)) == "i"
    assert scene.tree.recorder.failures == {}


def test_it_ends_by_itself(scene: Scene) -> None:
    before = scene.enforcer.examiner.relocks
    scene.start()
    scene.end()
    assert not scene.lookout.is_on
    assert scene.enforcer.examiner.relocks == before


def test_what_is_let_go_is_not_locked(scene: Scene) -> None:
    held = scene.enforcer.table.by_path[CF]
    held.window = "0123456789ab"
    take_off(held)
    scene.start()
    scene.end()
    assert inode_flags.to_letters(inode_flags.get_flags(held.descriptor)) == ""
    held.window = ""


def test_a_program_that_is_started_all_the_time_is_not_listened_to_for_a_while(scene: Scene) -> None:
    for _ in range(20):
        scene.start()
        scene.end()
    os.close(os.open(scene.program, os.O_RDONLY))
    scene.read()
    assert not scene.lookout.is_on
    scene.watch.heed(str(scene.program))
    scene.start()
    assert scene.lookout.is_on, "the guard asks for the warning again every two seconds"


def test_a_program_that_an_upgrade_replaced_is_heeded_again(scene: Scene) -> None:
    other = scene.program.with_name("chattr.dpkg-new")
    shutil.copy(scene.program, other)
    other.rename(scene.program)
    scene.read()
    scene.watch.heed(str(scene.program))
    scene.start()
    assert scene.lookout.is_on
    assert scene.watch.instances[Channel.HINTS].overflows == 0


def test_a_host_without_chattr_is_no_fault_and_one_that_gets_it_is_heard(
    scene: Scene, tmp_path: Path
) -> None:
    scene.watch.close()
    scene.program, scene.watch = tmp_path / "later", Watch()
    scene.lookout = Lookout(scene.watch, scene.enforcer)
    scene.watch.heed(str(scene.program))
    scene.read()
    assert not scene.lookout.is_on
    shutil.copy("/bin/true", scene.program)
    scene.watch.heed(str(scene.program))
    scene.start()
    assert scene.lookout.is_on
