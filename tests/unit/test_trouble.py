# SPDX-License-Identifier: Apache-2.0
"""A disk that is full, or read-only: what can be put back is, the rest is failed, and recovers."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hardend.model import Drift, State
from tests.unit.conftest import CF, Tree
from tests.unit.mounting import mount_image, remount
from tests.unit.scenes import ACCESS_PATH, CF_PATH, descriptors, guard_of, rewrite
from tests.unit.scenes import no_waiting as no_waiting  # noqa: PLC0414 - a fixture
from tests.unit.scenes import top as top  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.root


@pytest.fixture
def small(top: Path) -> Iterator[Tree]:
    """A guarded tree on a file system of 8 MiB."""
    mount_image(top / "small", top / "image", 8)
    made = Tree(top / "small")
    made.make()
    made.guard()
    yield made
    assert made.enforcer is not None
    made.enforcer.close()


# A full disk ----------------------------------------------------------------------------------------


def _fill(tree: Tree) -> Path:
    filler = tree.root / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1 << 10, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    with pytest.raises(OSError, match="No space") as caught:
        (tree.root / "one more").write_bytes(b"x")
    assert caught.value.errno == errno.ENOSPC
    return filler


def test_on_a_full_disk_what_has_a_spare_is_put_back(small: Tree) -> None:
    enforcer, _ = guard_of(small)
    _fill(small)
    for path in (CF_PATH, ACCESS_PATH):
        rewrite(small, path)
    small.at("/etc/mail").chmod(0o777)
    small.at("/var/spool/mqueue").chmod(0o777)
    small.at("/etc/mail/smrsh/mail").unlink()
    enforcer.full_pass(thorough=False)
    assert small.drifts() == {}
    assert small.recorder.failures == {}
    assert small.at(CF_PATH).read_bytes() == CF


def test_on_a_full_disk_the_rest_is_failed_with_the_reason_and_recovers(small: Tree) -> None:
    enforcer, held = guard_of(small)
    filler = _fill(small)
    before = descriptors()
    for _ in range(3):
        rewrite(small)
        enforcer.look(held)
        small.stage(enforcer)
    assert held.state is State.FAILED
    assert "the disk is full" in small.recorder.failures[CF_PATH]
    assert enforcer.table.by_path[ACCESS_PATH].state is State.CLEAN
    assert descriptors() <= before + 1, "a restore that fails leaves nothing open"
    assert not [name for name in os.listdir(small.host.spare_dir) if name.endswith(".new")]
    filler.unlink()
    enforcer.sweep()
    assert small.drifts() == {}
    assert held.state in {State.RESTORED, State.CONTESTED}


def test_on_a_full_disk_what_was_replaced_is_kept(small: Tree) -> None:
    enforcer, held = guard_of(small)
    _fill(small)
    rewrite(small)
    enforcer.look(held)
    (name,) = small.taken()
    assert (Path(small.host.taken_dir) / name).read_bytes().startswith(b"EVIL")


def test_a_failure_is_told_once_while_it_lasts(small: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    enforcer, held = guard_of(small)
    _fill(small)
    told = []
    monkeypatch.setattr(small.recorder, "failed", lambda one, _drift: told.append(one.reason))
    for _ in range(4):
        rewrite(small)
        enforcer.look(held)
    assert len(told) == 1


# A read-only file system ----------------------------------------------------------------------------


def test_a_read_only_file_system_is_failed_with_the_reason_and_recovers(small: Tree) -> None:
    enforcer, held = guard_of(small)
    rewrite(small)
    small.at("/etc/mail").chmod(0o777)
    remount(small.root, "ro")
    for _ in range(3):
        enforcer.full_pass(thorough=True)
    assert held.state is State.FAILED
    assert small.recorder.failures[CF_PATH] == "the file system is read-only"
    assert small.recorder.failures["/etc/mail"] == "the file system is read-only"
    assert ACCESS_PATH not in small.recorder.failures
    remount(small.root, "rw")
    enforcer.sweep()
    assert small.drifts() == {}
    assert small.at(CF_PATH).read_bytes() == CF


@pytest.mark.parametrize("way", ["look", "sweep", "thorough pass", "hint"])
def test_a_lock_that_is_off_on_a_read_only_file_system_is_survived(small: Tree, way: str) -> None:
    enforcer, held = guard_of(small)
    small.unlock(CF_PATH)
    remount(small.root, "ro")
    ways: dict[str, Callable[[], object]] = {
        "look": lambda: enforcer.look(held),
        "sweep": enforcer.sweep,
        "thorough pass": lambda: enforcer.full_pass(thorough=True),
        "hint": lambda: enforcer.look_at_lock(held),
    }
    ways[way]()
    assert held.state is State.FAILED
    assert held.drift == {Drift.FLAGS}
    assert held.reason == "the file system is read-only"
    remount(small.root, "rw")
    enforcer.sweep()
    assert small.drifts() == {}


def test_a_directory_that_moved_before_it_became_read_only_comes_home_later(small: Tree) -> None:
    enforcer, _ = guard_of(small)
    small.at("/etc/mail").rename(small.at("/etc/away"))
    remount(small.root, "ro")
    enforcer.full_pass(thorough=False)
    assert "read-only" in small.recorder.failures["/etc/mail"]
    remount(small.root, "rw")
    enforcer.sweep()
    assert small.drifts() == {}
