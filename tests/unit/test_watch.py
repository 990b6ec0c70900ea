# SPDX-License-Identifier: Apache-2.0
"""Watching: what an event names, what an overflow says, and how many hints are listened to."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hardend.model import Class, Entry, FileType, Role
from hardend.reconcile import History
from hardend.table import Held, Spare
from hardend.watch import HINTS_PER_SPAN, SPAN_S, Batch, Channel, Watch

OVERFLOW = struct.pack("iIII", -1, 0x4000, 0, 0)


@dataclass
class Scene:
    """A watch on a directory with a file, a queue's parent with a queue, and a clock that we turn."""

    root: Path
    now: float = 100.0
    held: dict[str, Held] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.watch = Watch(lambda: self.now)

    def add(self, name: str, role: Role, *, flags: str = "") -> Held:
        path = self.root / name
        kind = FileType.FILE if role is Role.SOURCE else FileType.DIRECTORY
        entry = Entry(f"/{name}", role, Class.LOCKED, kind, 0, 0, 0o644, flags=flags)
        parent = self.held.get(os.path.dirname(name))
        held = Held(entry, parent, os.fsencode(path.name), History(10, 60))
        if parent is not None:
            parent.children[held.name] = held
        held.adopt(os.open(path, os.O_RDONLY))
        self.held[name] = held
        return held

    def batch(self, channel: Channel) -> Batch:
        try:
            return self.watch.read(channel)
        except BlockingIOError:
            return Batch()

    def drain(self) -> None:
        for channel in Channel:
            self.batch(channel)

    def pausing(self) -> bool:
        return bool(self.watch.quiet)

    def hints(self, held: Held) -> int:
        return len(self.watch._watches[held].get(Channel.HINTS, {}))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    before = set(os.listdir("/proc/self/fd"))
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail/cf").write_bytes(b"x")
    (tmp_path / "spool/mqueue").mkdir(parents=True)
    made = Scene(tmp_path)
    made.add("spool", Role.ANCESTOR)
    made.add("spool/mqueue", Role.QUEUE)
    made.add("mail", Role.DIRECTORY)
    made.add("mail/cf", Role.SOURCE, flags="i")
    for held in made.held.values():
        made.watch.settle(held)
    made.drain()
    yield made
    made.watch.close()
    for held in made.held.values():
        held.drop()
    assert set(os.listdir("/proc/self/fd")) == before


def test_there_is_no_thread_and_no_descriptor_for_children(scene: Scene) -> None:
    assert threading.active_count() == 1
    for instance in scene.watch.instances.values():
        assert not os.get_inheritable(instance.descriptor)
        assert not os.get_blocking(instance.descriptor)
        assert not instance.inotify.is_alive()


def test_nothing_waits_without_an_event(scene: Scene) -> None:
    for channel in Channel:
        with pytest.raises(BlockingIOError):
            scene.watch.read(channel)


@pytest.mark.parametrize("act", ["write", "chmod", "touch", "unlink", "link"])
def test_a_change_of_a_file_names_its_path(scene: Scene, act: str) -> None:
    path = scene.root / "mail/cf"
    acts: dict[str, Callable[[], object]] = {
        "write": lambda: path.write_bytes(b"y"),
        "chmod": lambda: path.chmod(0o666),
        "touch": lambda: os.utime(path, (1, 1)),
        "unlink": path.unlink,
        "link": lambda: os.link(path, scene.root / "second"),
    }
    acts[act]()
    assert scene.held["mail/cf"] in scene.batch(Channel.CONFIG).paths


def test_a_write_through_another_name_names_the_path(scene: Scene) -> None:
    os.link(scene.root / "mail/cf", scene.root / "elsewhere")
    scene.drain()
    (scene.root / "elsewhere").write_bytes(b"y")
    assert list(scene.batch(Channel.CONFIG).paths) == [scene.held["mail/cf"]]


def test_a_name_that_appears_is_told_with_its_bytes(scene: Scene) -> None:
    (scene.root / "mail" / "a\n\x1b\udcff").touch()
    (scene.root / "mail/cf").rename(scene.root / "gone")
    batch = scene.batch(Channel.CONFIG)
    mail = scene.held["mail"]
    assert {(mail, b"a\n\x1b\xff"), (mail, b"cf")} <= set(batch.names)


def test_a_directory_that_moves_names_itself(scene: Scene) -> None:
    (scene.root / "mail").rename(scene.root / "away")
    assert scene.held["mail"] in scene.batch(Channel.CONFIG).paths


def test_an_open_is_a_hint_and_no_event_of_the_configuration(scene: Scene) -> None:
    (scene.root / "mail/cf").read_bytes()
    assert list(scene.batch(Channel.HINTS).paths) == [scene.held["mail/cf"]]
    assert scene.watch.instances[Channel.CONFIG].events == 0


def test_a_file_that_is_not_locked_gives_no_hints(scene: Scene) -> None:
    (scene.root / "mail/free").write_bytes(b"x")
    free = scene.add("mail/free", Role.SOURCE)
    scene.watch.settle(free)
    scene.drain()
    (scene.root / "mail/free").read_bytes()
    assert scene.batch(Channel.HINTS) == Batch()
    (scene.root / "mail/free").write_bytes(b"y")
    assert free in scene.batch(Channel.CONFIG).paths


def test_the_churn_of_a_queue_costs_no_event_and_its_mode_does(scene: Scene) -> None:
    for number in range(100):
        (scene.root / f"spool/mqueue/qf{number}").write_bytes(b"x")
        (scene.root / f"spool/mqueue/qf{number}").unlink()
    assert scene.batch(Channel.QUEUES) == Batch()
    assert sum(instance.events for instance in scene.watch.instances.values()) == 0
    (scene.root / "spool/mqueue").chmod(0o777)
    assert list(scene.batch(Channel.QUEUES).names) == [(scene.held["spool"], b"mqueue")]


def test_our_own_reading_raises_no_event(scene: Scene) -> None:
    descriptor = scene.held["mail/cf"].descriptor
    os.pread(descriptor, 100, 0)
    os.fstat(descriptor)
    os.stat(scene.root / "mail/cf")
    for channel in Channel:
        assert scene.batch(channel) == Batch()


@pytest.fixture
def piped(scene: Scene) -> Iterator[int]:
    """Put a pipe in place of the kernel on the configuration descriptor."""
    instance = scene.watch.instances[Channel.CONFIG]
    real = instance.descriptor
    reader, writer = os.pipe()
    instance.descriptor = reader
    yield writer
    instance.descriptor = real
    os.close(reader)
    os.close(writer)


def test_an_overflow_is_told_and_what_came_with_it_is_not_lost(scene: Scene, piped: int) -> None:
    watches = scene.watch.instances[Channel.CONFIG].held.items()
    watch = next(number for number, held in watches if held is scene.held["mail/cf"])
    os.write(piped, struct.pack("iIII", watch, 2, 0, 0) + OVERFLOW)
    batch = scene.batch(Channel.CONFIG)
    assert batch.overflow
    assert list(batch.paths) == [scene.held["mail/cf"]]
    instance = scene.watch.instances[Channel.CONFIG]
    assert (instance.overflows, instance.events) == (1, 2)
    assert scene.watch.instances[Channel.HINTS].overflows == 0


def test_a_record_of_a_watch_that_is_no_more_is_passed_over(scene: Scene, piped: int) -> None:
    os.write(piped, struct.pack("iIII", 9999, 2, 0, 0) + struct.pack("iIII", 9999, 0x8000, 0, 0))
    assert scene.batch(Channel.CONFIG) == Batch()


def test_a_thousand_writes_are_one_path_to_look_at(scene: Scene) -> None:
    for number in range(1000):
        (scene.root / "mail/cf").write_bytes(bytes([number & 0xFF]))
    assert len(scene.batch(Channel.CONFIG).paths) == 1


# Which inodes -----------------------------------------------------------------------------------------


def _replace(scene: Scene, name: str) -> Held:
    """Put another inode in place, as a restore does, and settle on it."""
    held = scene.held[name]
    new = scene.root / "new"
    new.write_bytes(b"new")
    held.adopt(os.open(new, os.O_RDONLY))
    scene.watch.arm(held, held.descriptor)
    (scene.root / name).rename(scene.root / "taken")
    new.rename(scene.root / name)
    scene.watch.settle(held)
    return held


def test_settling_drops_the_watches_of_older_inodes(scene: Scene) -> None:
    before = scene.watch.count
    held = _replace(scene, "mail/cf")
    assert scene.watch.count == before
    scene.drain()
    (scene.root / "taken").write_bytes(b"late write")
    (scene.root / "taken").unlink()
    for channel in Channel:
        assert scene.batch(channel) == Batch(), "what was taken is nobody's any more"
    (scene.root / "mail/cf").write_bytes(b"y")
    assert held in scene.batch(Channel.CONFIG).paths


def test_a_waiting_spare_is_watched_too(scene: Scene) -> None:
    held = scene.held["mail/cf"]
    path = scene.root / "spare"
    path.write_bytes(b"spare")
    descriptor = os.open(path, os.O_RDONLY)
    held.spare = Spare(-1, b"spare", descriptor, os.fstat(descriptor).st_ino, 0)
    scene.watch.settle(held)
    scene.drain()
    path.write_bytes(b"poisoned")
    assert held in scene.batch(Channel.CONFIG).paths
    os.close(descriptor)
    held.spare = None


def test_settling_again_adds_nothing(scene: Scene) -> None:
    before = scene.watch.count
    for held in scene.held.values():
        scene.watch.settle(held)
        scene.watch.settle(held)
    assert scene.watch.count == before


def test_a_lost_watch_is_told_once_and_comes_back(scene: Scene) -> None:
    held = scene.held["mail/cf"]
    (scene.root / "mail/cf").unlink()
    held.drop()  # the last descriptor: the inode goes, and its watch with it
    assert list(scene.batch(Channel.CONFIG).lost) == [held]
    (scene.root / "mail/cf").write_bytes(b"again")
    held.adopt(os.open(scene.root / "mail/cf", os.O_RDONLY))
    scene.watch.settle(held)
    scene.drain()
    (scene.root / "mail/cf").write_bytes(b"y")
    assert held in scene.batch(Channel.CONFIG).paths


def test_what_comes_and_goes_leaves_nothing_behind(scene: Scene) -> None:
    held = scene.held["mail/cf"]
    for _ in range(50):
        (scene.root / "mail/cf").unlink()
        held.drop()
        scene.drain()
        (scene.root / "mail/cf").write_bytes(b"again")
        held.adopt(os.open(scene.root / "mail/cf", os.O_RDONLY))
        scene.watch.settle(held)
        scene.drain()
    for instance in scene.watch.instances.values():
        assert set(instance.inotify._watch_for_wd) == set(instance.held)
    assert scene.watch.count == 4  # two directories, the file's changes and its hints


def test_a_forgotten_path_is_watched_no_more(scene: Scene) -> None:
    held = scene.held["mail/cf"]
    scene.watch.forget(held)
    scene.watch.forget(held)
    scene.drain()
    (scene.root / "mail/cf").write_bytes(b"y")
    assert scene.batch(Channel.CONFIG).paths == {}
    assert scene.batch(Channel.HINTS) == Batch()


# Hints ------------------------------------------------------------------------------------------------


def _flood(scene: Scene, held: Held) -> int:
    """Count how many hints are listened to until they are off."""
    return next(count for count in range(1000) if not scene.watch.hinted(held))


def test_a_flood_of_opens_turns_the_path_s_hints_off_for_a_moment(scene: Scene) -> None:
    held = scene.held["mail/cf"]
    assert _flood(scene, held) == HINTS_PER_SPAN - 1
    assert scene.pausing()
    assert scene.hints(held) == 0
    scene.drain()
    (scene.root / "mail/cf").read_bytes()
    assert scene.batch(Channel.HINTS).paths == {}
    (scene.root / "mail/cf").write_bytes(b"y")
    assert held in scene.batch(Channel.CONFIG).paths, "its changes are still seen"
    assert scene.watch.listen_again() == []
    scene.now += SPAN_S
    assert scene.watch.listen_again() == [held]
    assert not scene.pausing()
    assert scene.hints(held) == 1
    scene.drain()
    (scene.root / "mail/cf").read_bytes()
    assert list(scene.batch(Channel.HINTS).paths) == [held]


def test_a_few_opens_are_all_listened_to(scene: Scene) -> None:
    held = scene.held["mail/cf"]
    for _ in range(10 * HINTS_PER_SPAN):
        assert scene.watch.hinted(held)
        scene.now += 2 * SPAN_S / HINTS_PER_SPAN
    assert not scene.watch.quiet


def test_the_flood_of_one_path_is_not_another_s(scene: Scene) -> None:
    (scene.root / "mail/other").write_bytes(b"x")
    other = scene.add("mail/other", Role.SOURCE, flags="i")
    scene.watch.settle(other)
    _flood(scene, scene.held["mail/cf"])
    assert scene.watch.hinted(other)
    assert scene.hints(other) == 1


def test_a_path_that_is_forgotten_during_its_pause_does_not_come_back(scene: Scene) -> None:
    held = scene.held["mail/cf"]
    _flood(scene, held)
    scene.watch.forget(held)
    scene.now += SPAN_S
    assert scene.watch.listen_again() == []
    assert not scene.watch.quiet


def test_a_second_flood_is_answered_as_the_first(scene: Scene) -> None:
    held = scene.held["mail/cf"]
    for _ in range(3):
        assert _flood(scene, held) == HINTS_PER_SPAN - 1
        scene.now += SPAN_S
        assert scene.watch.listen_again() == [held]
