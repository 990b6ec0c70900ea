# SPDX-License-Identifier: Apache-2.0
"""A commit that dies at any step leaves the old generation in force, or the new one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hardend.baseline.manifest import Generation
from hardend.baseline.signature import Signed
from hardend.baseline.store import Store
from hardend.model import Host
from tests.unit.generations import commit
from tests.unit.generations import generation as make


class DiedError(Exception):
    """The process is gone: nothing of ours catches this."""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(str(tmp_path))


# What a commit calls of the system; it may die before and after each.
_STEPS = ("rename", "fsync", "open", "makedirs")


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Return what makes the process die before its n-th step from now; with 0 never."""
    state = {"left": 0}

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def step(*args: object, **keywords: object) -> object:
            if state["left"] == 1:
                raise DiedError
            state["left"] -= state["left"] > 0
            return real(*args, **keywords)

        monkeypatch.setattr(f"hardend.baseline.store.os.{name}", step)

    for name in _STEPS:
        wrap(name)
    yield lambda steps: state.update(left=steps)
    state["left"] = 0


def _die_at(store: Store, generation: Generation, step: int, dying: Callable[[int], None]) -> bool:
    """Run a commit that dies before its ``step``-th step; False when it had no such step."""
    dying(step)
    try:
        store.add_generation(generation)
    except DiedError:
        return True
    finally:
        dying(0)
    return False


def test_a_commit_that_dies_anywhere_leaves_the_old_or_the_new(
    host: Host, dying: Callable[[int], None]
) -> None:
    outcomes = set()
    step = 0
    died = True
    while died:
        step += 1
        shutil.rmtree(host.store_dir, ignore_errors=True)
        store = Store(host)
        commit(store, 1)
        died = _die_at(store, make(store, 2), step, dying)
        fresh = Store(host)
        outcomes.add(fresh.current().number)
        assert fresh.verify() == []
        number, _ = fresh.next()
        commit(fresh, number)  # and the next commit works as if nothing had been
        assert fresh.current().number == number
        assert fresh.verify() == []
    assert outcomes == {1, 2}
    assert step > 10


def test_a_first_commit_that_dies_anywhere_can_be_made_again(
    host: Host, dying: Callable[[int], None]
) -> None:
    step = 0
    died = True
    while died:
        step += 1
        shutil.rmtree(host.store_dir, ignore_errors=True)
        store = Store(host)
        with store.locked():
            died = _die_at(store, make(store, 1), step, dying)
        fresh = Store(host)
        number, _ = fresh.next()
        commit(fresh, number)
        assert fresh.current().reason == f"reason {number}"
        assert fresh.verify() == []
    assert step > 10


def test_a_signature_that_is_being_attached_is_there_or_not(
    host: Host, dying: Callable[[int], None]
) -> None:
    outcomes = set()
    step = 0
    died = True
    while died:
        step += 1
        shutil.rmtree(host.store_dir, ignore_errors=True)
        store = Store(host)
        commit(store, 1)
        origin = Signed(b"manifest", b"signature")
        dying(step)
        died = False
        try:
            store.attach_signature(1, b"signature")
            store.attach_origin(1, origin)
        except DiedError:
            died = True
        finally:
            dying(0)
        fresh = Store(host)
        assert fresh.current().number == 1
        assert fresh.verify() == []
        assert fresh.signature(1) in {None, Signed(fresh.raw_manifest(1), b"signature")}
        assert fresh.origin(1) in {None, origin}
        outcomes.add((fresh.signature(1) is not None, fresh.origin(1) is not None))
        fresh.attach_origin(1, origin)  # and once more works as if nothing had been
        assert fresh.origin(1) == origin
    assert outcomes == {(False, False), (True, False), (True, True)}
    assert step > 6


def test_a_commit_that_died_at_its_end_is_in_force_and_is_finished_by_the_next(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(host)
    commit(store, 1)
    generation = make(store, 2)
    with monkeypatch.context() as patched:
        patched.setattr(Store, "_finish", lambda _: None)
        store.add_generation(generation)
    top = Path(host.store_dir) / "generations"
    assert sorted(path.name for path in top.iterdir()) == ["1", "2.new"]
    fresh = Store(host)
    assert fresh.current() == generation
    fresh.attach_signature(2, b"signature")
    assert fresh.verify() == []
    with fresh.locked():
        assert sorted(path.name for path in top.iterdir()) == ["1", "2"]
    assert fresh.current() == generation
    assert fresh.has_signature(2)
    commit(fresh, 3)
    assert sorted(path.name for path in top.iterdir()) == ["1", "2", "3"]


def test_a_write_that_fails_leaves_the_generation_in_force(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(host)
    for number in (1, 2):
        commit(store, number)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    generation = make(store, 3)
    with monkeypatch.context() as patched:
        patched.setattr("hardend.baseline.store.os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            store.add_generation(generation)
    assert store.current().number == 2
    assert store.verify() == []
    commit(store, 3)
    assert store.current().number == 3


def test_what_a_generation_needs_is_on_the_disk_before_current_names_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(host)
    top = Path(host.store_dir)
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        steps.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).relative_to(top)}")

    def renamed(source: str, target: str) -> None:
        rename(source, target)
        steps.append(f"rename {Path(target).relative_to(top)}")

    monkeypatch.setattr("hardend.baseline.store.os.fsync", synced)
    monkeypatch.setattr("hardend.baseline.store.os.rename", renamed)
    commit(store, 1)
    digest = store.current().entries["/etc/cf"].digest
    assert steps == [
        *(f"sync objects/{digest}.new", f"rename objects/{digest}", "sync objects"),
        "sync generations/1.new/manifest.json.new",
        *("rename generations/1.new/manifest.json", "sync generations/1.new"),
        "sync generations/1.new/digest.new",
        *("rename generations/1.new/digest", "sync generations/1.new"),
        "sync generations",
        *("sync current.new", "rename current", "sync ."),
        *("rename generations/1", "sync generations"),
    ]
