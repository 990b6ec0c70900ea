# SPDX-License-Identifier: Apache-2.0
"""Hints: the lock is asked for before anything else, a little longer while they are rare, and in a flood."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hardend.model import Role
from hardend.watch import HINTS_PER_SPAN, SPAN_S, Channel
from tests.unit.test_watch import Scene
from tests.unit.test_watch import scene as scene  # noqa: PLC0414 - a fixture

if TYPE_CHECKING:
    from hardend.table import Held

pytestmark = pytest.mark.root


class Asker:
    """Counts how often it was asked for a lock, and says from the nth time on that it was off."""

    def __init__(self, off_at: int = 1 << 30) -> None:
        self.asked: list[Held] = []
        self.off_at = off_at

    def __call__(self, held: Held) -> bool:
        self.asked.append(held)
        return len(self.asked) >= self.off_at


def opened(scene: Scene, name: str = "mail/cf") -> Held:
    os.close(os.open(scene.root / name, os.O_RDONLY))
    return scene.held[name]


def test_a_lock_that_is_off_is_asked_for_once(scene: Scene) -> None:
    held = opened(scene)
    asker = Asker(off_at=1)
    batch = scene.watch.read_hints(asker)
    assert asker.asked == [held]
    assert list(batch.paths) == [held]


def test_a_lock_that_is_on_is_asked_for_a_little_longer(scene: Scene) -> None:
    opened(scene)
    asker = Asker()
    scene.watch.read_hints(asker)
    assert 2 < len(asker.asked) < 100


def test_a_lock_that_goes_off_meanwhile_ends_the_asking(scene: Scene) -> None:
    opened(scene)
    asker = Asker(off_at=5)
    scene.watch.read_hints(asker)
    assert len(asker.asked) == 5


def test_hints_that_come_all_the_time_are_asked_for_once_each(scene: Scene) -> None:
    for _ in range(100):
        scene.watch.hinted(scene.held["mail/cf"])
    opened(scene)
    asker = Asker()
    scene.watch.read_hints(asker)
    assert len(asker.asked) == 1
    scene.now += 2 * SPAN_S
    opened(scene)
    scene.watch.read_hints(asker)
    assert len(asker.asked) > 2, "they are rare again"


def test_each_path_is_asked_for(scene: Scene) -> None:
    (scene.root / "mail/other").write_bytes(b"x")
    other = scene.add("mail/other", Role.SOURCE, flags="i")
    scene.watch.settle(other)
    scene.drain()
    first = opened(scene)
    opened(scene, "mail/other")
    asker = Asker(off_at=1)
    assert list(scene.watch.read_hints(asker).paths) == [first, other]
    assert asker.asked == [first, other]


def test_a_path_whose_hints_are_off_is_named_for_whoever_looks(scene: Scene) -> None:
    held = scene.held["mail/cf"]
    assert list(scene.watch.quiet) == []
    for _ in range(HINTS_PER_SPAN):
        scene.watch.hinted(held)
    assert list(scene.watch.quiet) == [held]
    scene.now += SPAN_S
    scene.watch.listen_again()
    assert list(scene.watch.quiet) == []


def test_an_overflow_of_the_hints_is_told(scene: Scene) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text("ascii"))
    (scene.root / "mail/other").write_bytes(b"x")
    other = scene.add("mail/other", Role.SOURCE, flags="i")
    scene.watch.settle(other)
    scene.drain()
    for _ in range(limit // 2 + 2):
        opened(scene)
        opened(scene, "mail/other")
    overflows = 0
    while True:
        try:
            overflows += scene.watch.read_hints(Asker(off_at=1)).overflow
        except BlockingIOError:
            break
    assert overflows == 1
    assert scene.watch.instances[Channel.HINTS].overflows == 1


def test_hints_that_come_together_count_each(scene: Scene) -> None:
    for _ in range(3):
        opened(scene)
        opened(scene)
        scene.watch.read_hints(Asker(off_at=1))
    held = opened(scene)
    assert scene.watch.read_hints(Asker()).paths == {held: 2}, "open and close"
    assert not scene.watch.hinted(held, HINTS_PER_SPAN)
    assert list(scene.watch.quiet) == [held]
