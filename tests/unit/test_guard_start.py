# SPDX-License-Identifier: Apache-2.0
"""What the guard takes up at its start: the generation in force, the last that reads, or nothing."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardend import commit
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.errors import RefusedError
from hardend.guard import Guard
from hardend.model import Drift, State
from hardend.propose import Proposer
from tests.unit.conftest import CF, Tree

pytestmark = pytest.mark.root
CF_PATH = "/etc/mail/sendmail.cf"


@pytest.fixture
def store_dir(tree: Tree) -> Path:
    """The store of a tree with two generations, nothing of it locked."""
    tree.at("/etc/debian_version").write_text("12\n")
    proposer = Proposer(tree.host, Settings())
    for reason in ("first", "second"):
        commit.commit(tree.host, proposer.whole_host(), reason=reason)
    return Path(tree.host.store_dir)


@pytest.fixture
def guard(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    """A guard that has not started; no journal and no service manager hears of it."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(Guard, "_ask_for_rr", lambda _guard: None)  # the tests stay as they are
    made = Guard(tree.host, Settings())
    yield made
    made._finish()
    made.mounts.close()
    made.epoll.close()
    made._wake.close()
    made._signal_end.close()
    made.lock.release()
    gc.unfreeze()


def _faults(guard: Guard) -> str:
    return "\n".join(guard.reporter.faults)


@pytest.mark.usefixtures("store_dir")
def test_the_generation_in_force_is_taken_up(guard: Guard) -> None:
    assert guard._load_at_start() == 2
    assert len(guard.enforcer.table) > 5
    assert _faults(guard) == ""


def test_without_a_baseline_nothing_is_protected_and_nothing_is_adopted(guard: Guard, tree: Tree) -> None:
    guard._start()
    assert guard.overall() == State.UNPROTECTED
    assert "hardend approve" in guard.status_line()
    assert len(guard.enforcer.table) == 0
    assert not Store(tree.host).has_baseline()


def test_a_damaged_current_is_a_fault_and_the_last_that_reads_is_held(guard: Guard, store_dir: Path) -> None:
    (store_dir / "current").write_bytes(b"damaged")
    assert guard._load_at_start() == 2
    assert "current: damaged" in _faults(guard)
    assert guard.overall() == State.FAILED


def test_a_damaged_generation_is_a_fault_and_the_one_before_is_held(guard: Guard, store_dir: Path) -> None:
    (store_dir / "generations/2/manifest.json").write_bytes(b"damaged")
    assert guard._load_at_start() == 1
    assert "generations/2/manifest.json" in _faults(guard)


def test_a_store_that_cannot_be_read_at_all_is_a_fault_and_never_an_empty_baseline(
    guard: Guard, store_dir: Path
) -> None:
    for number in (1, 2):
        (store_dir / f"generations/{number}/manifest.json").write_bytes(b"damaged")
    guard._start()
    assert guard.enforcer.generation is None
    assert guard.overall() == State.FAILED
    assert "no generation can be read" in _faults(guard)
    assert guard.status_line().startswith("failed: ")


def test_a_baseline_of_another_layout_is_a_fault_and_touches_nothing(
    guard: Guard, store_dir: Path, tree: Tree
) -> None:
    assert store_dir.is_dir()
    tree.at("/etc/debian_version").unlink()
    tree.at("/etc/gentoo-release").write_text("x\n")
    tree.at(CF_PATH).write_bytes(b"another host's\n")
    guard._start()
    assert "gentoo layout" in _faults(guard)
    assert tree.at(CF_PATH).read_bytes() == b"another host's\n"


def test_a_start_puts_back_what_drifted_while_nobody_looked(
    guard: Guard, store_dir: Path, tree: Tree
) -> None:
    assert store_dir.is_dir()
    tree.at(CF_PATH).write_bytes(b"EVIL")
    spare_dir = Path(tree.host.spare_dir)
    (spare_dir / "leftover").write_bytes(b"an attacker's")
    (spare_dir / "copy").write_bytes(CF)
    guard._start()
    assert tree.at(CF_PATH).read_bytes() == CF
    held = guard.enforcer.table.by_path[CF_PATH]
    assert {Drift.CONTENT} <= held.drift
    taken = {(Path(tree.host.taken_dir) / name).read_bytes() for name in tree.taken()}
    assert taken == {b"EVIL", b"an attacker's"}
    assert not (spare_dir / "copy").exists()
    assert not (spare_dir / "leftover").exists()


def test_a_second_guard_is_refused(guard: Guard, tree: Tree) -> None:
    assert guard.lock is not None
    with pytest.raises(RefusedError, match="another guard is running"):
        Guard(tree.host, Settings())


def test_a_store_that_vanished_is_said_so(guard: Guard, store_dir: Path) -> None:
    shutil.rmtree(store_dir / "generations")
    assert guard._load_at_start() == 0
    assert guard.overall() == State.FAILED
