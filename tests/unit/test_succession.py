# SPDX-License-Identifier: Apache-2.0
"""From one generation to the next: what is kept, what is let go, and that nothing leaks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.capture import Reader, entry_of
from hardend.enforcer import Enforcer
from hardend.errors import StoreError
from hardend.kernel import flags
from hardend.model import Class, Entry, Protected, Role, State
from hardend.succession import release_locks
from hardend.table import Held
from tests.unit.conftest import CF, Tree

pytestmark = pytest.mark.root
CF_PATH = "/etc/mail/sendmail.cf"
ACCESS_PATH = "/etc/mail/access"
Change = Callable[[dict[str, Entry]], object]


def _next(tree: Tree, change: Change) -> Generation:
    """Commit what ``change`` makes of the entries in force."""
    store = Store(tree.host)
    current = store.current()
    entries = dict(current.entries)
    change(entries)
    with store.locked():
        number, parent = store.next()
        generation = replace(current, number=number, parent=parent, entries=entries)
        store.add_generation(generation)
    return generation


def _load(tree: Tree, generation: Generation) -> Enforcer:
    enforcer = tree.enforcer
    assert enforcer is not None
    enforcer.load(generation, strict=True)
    tree.stage(enforcer)
    enforcer.full_pass(thorough=True)
    tree.stage(enforcer)
    return enforcer


def _held(tree: Tree, path: str = CF_PATH) -> Held:
    assert tree.enforcer is not None
    return tree.enforcer.table.by_path[path]


def _is_locked(tree: Tree, path: str) -> bool:
    descriptor = os.open(tree.at(path), os.O_RDONLY)
    try:
        return bool(flags.get_flags(descriptor) & flags.IMMUTABLE)
    finally:
        os.close(descriptor)


def _new_content(tree: Tree, content: bytes) -> Change:
    digest = Store(tree.host).add_object(content)

    def change(entries: dict[str, Entry]) -> None:
        entries[CF_PATH] = replace(
            entries[CF_PATH], digest=digest, size=len(content), mtime_ns=1_000_000_000_000_000_000
        )

    return change


def test_the_same_again_keeps_descriptor_spare_and_history(guarded: Tree) -> None:
    before = _held(guarded)
    descriptor, spare, history = before.descriptor, before.spare, before.history
    inode = guarded.at(CF_PATH).stat().st_ino
    _load(guarded, _next(guarded, lambda _entries: None))
    after = _held(guarded)
    assert after is not before
    assert (after.descriptor, after.spare, after.history) == (descriptor, spare, history)
    assert (before.descriptor, before.spare) == (-1, None)
    assert guarded.at(CF_PATH).stat().st_ino == inode
    assert guarded.recorder.restored_paths == []


def test_new_content_goes_in_without_being_called_a_drift(guarded: Tree) -> None:
    _load(guarded, _next(guarded, _new_content(guarded, b"new\n")))
    assert guarded.at(CF_PATH).read_bytes() == b"new\n"
    assert guarded.drifts() == {}
    assert guarded.recorder.restored_paths == []
    assert _held(guarded).state is State.CLEAN
    assert _is_locked(guarded, CF_PATH)


def test_a_spare_of_the_old_content_never_goes_in(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    old = _held(guarded).spare
    assert old is not None
    enforcer.load(_next(guarded, _new_content(guarded, b"new\n")), strict=True)
    assert not (Path(guarded.host.spare_dir) / os.fsdecode(old.name)).exists()
    enforcer.full_pass(thorough=True)
    assert guarded.at(CF_PATH).read_bytes() == b"new\n"


def test_a_path_that_is_protected_no_longer_is_unlocked_and_left(guarded: Tree) -> None:
    enforcer = _load(guarded, _next(guarded, lambda entries: entries.pop(CF_PATH)))
    assert not _is_locked(guarded, CF_PATH)
    assert _is_locked(guarded, ACCESS_PATH)
    guarded.at(CF_PATH).write_bytes(b"mine again\n")
    enforcer.full_pass(thorough=True)
    assert guarded.at(CF_PATH).read_bytes() == b"mine again\n"


def test_a_new_path_is_held_from_the_first_look(guarded: Tree) -> None:
    path = "/etc/mail/new"
    guarded.at(path).write_bytes(b"new")
    store, reader = Store(guarded.host), Reader(guarded.host)
    live = reader.read(path, content=True)
    reader.close()
    assert live is not None
    protected = Protected(path, Role.SOURCE, Class.LOCKED, immutable=True)
    enforcer = _load(
        guarded, _next(guarded, lambda entries: entries.update({path: entry_of(protected, live, store)}))
    )
    assert _is_locked(guarded, path)
    guarded.unlock(path)
    guarded.at(path).write_bytes(b"bad")
    enforcer.full_pass(thorough=False)
    assert guarded.at(path).read_bytes() == b"new"
    assert path in dict(guarded.recorder.restored_paths)


def test_a_lock_that_is_approved_away_comes_off(guarded: Tree) -> None:
    def unlocked(entries: dict[str, Entry]) -> None:
        entries[CF_PATH] = entries[CF_PATH].with_flags("")

    _load(guarded, _next(guarded, unlocked))
    assert not _is_locked(guarded, CF_PATH)
    assert guarded.drifts() == {}
    assert guarded.recorder.restored_paths == []


def test_a_generation_that_cannot_be_staged_is_refused_and_the_old_one_held(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    generation = _next(guarded, _new_content(guarded, b"new\n"))
    (Path(guarded.host.store_dir) / "objects" / generation.entries[CF_PATH].digest).write_bytes(b"damaged")
    table = enforcer.table
    with pytest.raises(StoreError, match="damaged"):
        enforcer.load(generation, strict=True)
    assert enforcer.table is table
    guarded.unlock(CF_PATH)
    guarded.at(CF_PATH).write_bytes(b"EVIL")
    enforcer.full_pass(thorough=True)
    assert guarded.at(CF_PATH).read_bytes() == CF


def test_a_damaged_object_at_the_start_fails_its_path_alone(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    generation = _next(guarded, _new_content(guarded, b"new\n"))
    (Path(guarded.host.store_dir) / "objects" / generation.entries[CF_PATH].digest).write_bytes(b"damaged")
    enforcer.load(generation, strict=False)
    enforcer.full_pass(thorough=True)
    assert _held(guarded).state is State.FAILED
    assert "damaged" in _held(guarded).reason
    assert guarded.at(CF_PATH).read_bytes() == CF
    assert _held(guarded, ACCESS_PATH).state is State.CLEAN


def test_a_hundred_generations_leave_no_descriptor_and_no_file_behind(guarded: Tree) -> None:
    _load(guarded, _next(guarded, lambda _entries: None))
    descriptors = len(os.listdir("/proc/self/fd"))
    spares = len(os.listdir(guarded.host.spare_dir))
    for number in range(100):
        change = _new_content(guarded, b"%d\n" % number) if number % 2 else (lambda _entries: None)
        _load(guarded, _next(guarded, change))
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert len(os.listdir(guarded.host.spare_dir)) == spares
    assert guarded.drifts() == {}


def test_nothing_is_reached_through_the_old_table(guarded: Tree) -> None:
    """Somebody may still hold one of its paths: its numbers are another file's by now."""
    enforcer = guarded.enforcer
    assert enforcer is not None
    old = list(enforcer.table)
    enforcer.load(_next(guarded, lambda entries: entries.pop("/etc/mail/authinfo")), strict=True)
    assert [held for held in old if held.descriptor >= 0 or held.spare is not None] == []
    for held in old:
        enforcer.look(held, thorough=True)
    enforcer.full_pass(thorough=True)
    assert guarded.drifts() == {}
    assert guarded.recorder.restored_paths == []


def test_a_staging_that_was_due_when_the_table_was_swapped_stages_nothing(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    guarded.unlock(CF_PATH)
    guarded.at(CF_PATH).write_bytes(b"EVIL")
    enforcer.look(_held(guarded))
    assert enforcer.pending.stage
    enforcer.load(_next(guarded, _new_content(guarded, b"new\n")), strict=True)
    guarded.stage(enforcer)
    assert _held(guarded).spare is not None
    assert len(os.listdir(guarded.host.spare_dir)) == sum(held.spare is not None for held in enforcer.table)
    enforcer.full_pass(thorough=True)
    assert guarded.at(CF_PATH).read_bytes() == b"new\n"


def test_a_drift_from_before_the_approval_is_put_back_after_it(guarded: Tree) -> None:
    guarded.unlock(ACCESS_PATH)
    guarded.at(ACCESS_PATH).write_bytes(b"EVIL")
    _load(guarded, _next(guarded, _new_content(guarded, b"new\n")))
    assert guarded.drifts() == {}
    assert ACCESS_PATH in dict(guarded.recorder.restored_paths)


def test_a_map_with_other_answers_is_no_longer_taken_for_the_approved_one(guarded: Tree) -> None:
    def answers(entries: dict[str, Entry]) -> None:
        entries[CF_PATH] = replace(entries[CF_PATH], answers="ab" * 32)

    enforcer = guarded.enforcer
    assert enforcer is not None
    enforcer.load(_next(guarded, answers), strict=True)
    assert _held(guarded).bad_answers
    assert not _held(guarded, ACCESS_PATH).bad_answers


def test_locks_are_released_once(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    assert release_locks(enforcer.table) == 2
    assert release_locks(enforcer.table) == 0
    assert not _is_locked(guarded, CF_PATH)
    assert not _is_locked(guarded, ACCESS_PATH)


def test_closing_leaves_the_locks_on_and_no_spare_behind(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    enforcer.close()
    guarded.enforcer = None
    assert _is_locked(guarded, CF_PATH)
    assert os.listdir(guarded.host.spare_dir) == []
