# SPDX-License-Identifier: Apache-2.0
"""Pruning generations: what goes, what never goes, and that the chain stays provable."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hardend.baseline import retention
from hardend.baseline.manifest import Generation
from hardend.baseline.retention import Note, Pruned, Range
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.errors import RefusedError, StoreError
from hardend.model import Class, Entry, FileType, Host, Role
from hardend.state import GuardLock, publish
from tests.unit.taken import in_child

AGED = -1.0  # a grace that is over already
ALWAYS = b"in every generation"


def make(store: Store, number: int, parent: str | None = None) -> Generation:
    """Return a generation with content of its own, and content that all have."""
    entries = {
        path: Entry(path, Role.ANCESTOR, Class.LOCKED, FileType.DIRECTORY, 0, 0, 0o755)
        for path in ("/", "/etc")
    }
    for path, content in (("/etc/own", b"own %d" % number), ("/etc/always", ALWAYS)):
        entries[path] = Entry(
            path, Role.SOURCE, Class.LOCKED, FileType.FILE, 0, 0, 0o644,
            size=len(content), digest=store.add_object(content),
        )  # fmt: skip
    parent = store.next()[1] if parent is None else parent
    return Generation(number, parent, "now", "root", f"reason {number}", "debian", "0", "8", entries)


def grow(store: Store, count: int) -> None:
    for _ in range(count):
        with store.locked():
            store.add_generation(make(store, store.next()[0]))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(str(tmp_path))
    grow(Store(made), 6)
    return made


@pytest.fixture
def store(host: Host) -> Store:
    return Store(host)


@pytest.fixture
def files(host: Host) -> Path:
    return Path(host.store_dir)


def prune(host: Host, keep: int, *, grace_s: float = AGED, settings: Settings | None = None) -> Pruned:
    return retention.prune(host, settings or Settings(), keep, by="root", grace_s=grace_s)


def objects(files: Path) -> set[str]:
    return {path.name for path in (files / "objects").iterdir()}


def test_old_generations_go_with_what_only_they_needed(host: Host, store: Store, files: Path) -> None:
    done = prune(host, 2)
    assert (done.generations, done.kept, done.objects) == ([1, 2, 3, 4], [5, 6], 4)
    assert done.freed_bytes > 0
    assert done.notes == []
    assert store.numbers() == [5, 6]
    assert objects(files) == {Store.digest_of(data) for data in (b"own 5", b"own 6", ALWAYS)}


@pytest.mark.parametrize("keep", [1, 2, 5, 6, 7, 999_999_999])
def test_the_store_verifies_after_any_pruning_and_after_the_commits_that_follow(
    host: Host, store: Store, keep: int
) -> None:
    prune(host, keep)
    assert retention.verify(host) == []
    assert store.current().number == 6
    grow(store, 2)
    assert retention.verify(host) == []
    prune(host, 1)
    assert retention.verify(host) == []
    assert store.numbers() == [8]
    assert retention.read_note(host).ranges == (Range(1, 7, store.current().parent),)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=5))
@hypothesis_settings(max_examples=25, deadline=None)
def test_any_sequence_of_commits_and_prunings_keeps_the_newest_and_verifies(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]
) -> None:
    host = Host(str(tmp_path_factory.mktemp("store")))
    store = Store(host)
    grow(store, 1)
    for commits, keep in steps:
        grow(store, commits)
        before = store.numbers()
        prune(host, keep)
        assert store.numbers() == before[-keep:]
        assert retention.verify(host) == []
        for number in store.numbers():
            for entry in store.generation(number).entries.values():
                assert not entry.digest or store.object(entry.digest)


def test_pruning_twice_does_nothing_more(host: Host, files: Path) -> None:
    prune(host, 2)
    note = (files / "pruned").read_bytes()
    assert prune(host, 2) == Pruned([], 0, 0, [5, 6], [])
    assert (files / "pruned").read_bytes() == note


def test_keeping_more_than_there_is_after_a_pruning_is_no_fault(host: Host) -> None:
    prune(host, 2)
    assert prune(host, 5).kept == [5, 6]


def test_none_is_refused(host: Host, store: Store) -> None:
    with pytest.raises(RefusedError, match="at least one"):
        prune(host, 0)
    assert len(store.numbers()) == 6


def test_without_a_baseline_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        prune(Host(str(tmp_path)), 1)
    assert not (tmp_path / "var/lib/hardend/baseline/lock").exists()


def test_what_a_running_guard_holds_stays_with_its_objects(host: Host, store: Store) -> None:
    lock = GuardLock(host)
    assert lock.acquire()
    try:
        publish(host, {"generation": 2})
        assert prune(host, 1).kept == [2, 6]
        assert store.object(store.generation(2).entries["/etc/own"].digest) == b"own 2"
        assert retention.verify(host) == []
        assert [item.first for item in retention.read_note(host).ranges] == [1, 3]
    finally:
        lock.release()
    assert prune(host, 1).kept == [6]
    assert retention.verify(host) == []


def sign(files: Path, *numbers: int) -> None:
    for number in numbers:
        (files / f"generations/{number}/manifest.json.sig").write_bytes(b"signature")


def test_the_newest_signed_one_stays(host: Host, files: Path) -> None:
    sign(files, 1, 2, 3)
    assert prune(host, 1).kept == [3, 6]
    assert retention.verify(host) == []


def test_all_signed_ones_stay_where_signatures_are_required(host: Host, files: Path) -> None:
    sign(files, 1, 3)
    assert prune(host, 1, settings=Settings(require_signature=True)).kept == [1, 3, 6]
    assert retention.verify(host) == []


def test_an_object_that_no_generation_names_yet_is_spared_for_a_while(host: Host, store: Store) -> None:
    early = store.add_object(b"of a proposal")
    assert prune(host, 6, grace_s=3600.0).objects == 0
    assert store.object(early) == b"of a proposal"
    assert prune(host, 6).objects == 1


def test_objects_of_what_is_pruned_go_whatever_their_age(host: Host) -> None:
    assert prune(host, 1, grace_s=3600.0).objects == 5


def test_an_object_that_a_quarantine_record_names_stays(host: Host, store: Store) -> None:
    digest = store.generation(1).entries["/etc/own"].digest
    records = Path(host.quarantine_dir) / "records"
    records.mkdir(parents=True)
    (records / "x.json").write_text(json.dumps({"id": "x", "digest": digest}))
    (records / "damaged.json").write_text("{")
    prune(host, 1)
    assert store.object(digest) == b"own 1"


def test_foreign_names_among_the_objects_are_left(host: Host, files: Path) -> None:
    (files / "objects/README").write_text("mine")
    (files / "objects" / ("0" * 64)).symlink_to("README")
    (files / "objects" / ("1" * 64 + ".new")).write_bytes(b"half")
    prune(host, 1)
    assert {"README", "0" * 64} <= objects(files)
    assert "1" * 64 + ".new" not in objects(files)


def rewrite(files: Path, **fields: object) -> None:
    document = json.loads((files / "pruned").read_bytes())
    (files / "pruned").write_text(json.dumps({**document, **fields}))


def become(path: Path, make_it: Callable[[Path], object]) -> None:
    """Put something else in the place of a file."""
    path.rename(path.with_name("aside"))
    make_it(path)


NOTES: dict[str, Callable[[Path], object]] = {
    "gone": lambda files: (files / "pruned").unlink(),
    "half": lambda files: os.truncate(files / "pruned", 20),
    "a directory": lambda files: become(files / "pruned", Path.mkdir),
    "a link": lambda files: become(files / "pruned", lambda path: path.symlink_to("aside")),
    "a list": lambda files: (files / "pruned").write_text("[]"),
    "nested without end": lambda files: (files / "pruned").write_text("[" * 100_000),
    "of a later schema": lambda files: rewrite(files, schema=2),
    "with text for a number": lambda files: rewrite(files, ranges=[["1", 4, ""]]),
    "with a yes": lambda files: rewrite(files, ranges=[[True, 4, ""]]),
    "backwards": lambda files: rewrite(files, ranges=[[4, 1, ""]]),
    "overlapping": lambda files: rewrite(files, ranges=[[1, 3, ""], [3, 4, ""]]),
    "with a short range": lambda files: rewrite(files, ranges=[[1, 4]]),
    "with a digest that is none": lambda files: rewrite(files, ranges=[[1, 4, "x"]]),
    "without who": lambda files: rewrite(files, by=None),
    "with another digest": lambda files: rewrite(files, ranges=[[1, 4, "0" * 64]]),
    "of the current generation": lambda files: rewrite(files, ranges=[[1, 6, "0" * 64]]),
    "with too little": lambda files: rewrite(files, ranges=[[1, 3, "0" * 64]]),
}


@pytest.mark.parametrize("damage", NOTES)
def test_a_note_that_is_not_the_one_that_was_written_is_a_fault(
    host: Host, files: Path, damage: str
) -> None:
    prune(host, 2)
    NOTES[damage](files)
    assert retention.verify(host) != []


def test_a_damaged_note_is_written_anew_by_the_next_pruning(host: Host, files: Path) -> None:
    prune(host, 2)
    os.truncate(files / "pruned", 20)
    done = prune(host, 2)
    assert done.notes[0] == f"{files}/pruned: damaged"
    assert [note for note in done.notes if "4 generations were missing" in note]
    assert retention.verify(host) == []


def test_a_generation_that_is_removed_without_a_note_is_missed(host: Host, files: Path) -> None:
    prune(host, 3)
    shutil.rmtree(files / "generations/5")
    assert any("generations/5/manifest.json: missing" in fault for fault in retention.verify(host))
    with pytest.raises(StoreError, match="generations/5"):
        prune(host, 3)
    prune(host, 1)
    assert retention.verify(host) == []


def test_a_made_up_note_does_not_fit_what_comes_after(host: Host, files: Path) -> None:
    shutil.rmtree(files / "generations/3")
    assert retention.verify(host) != []
    note = {"schema": 1, "ranges": [[3, 3, "0" * 64]], "time": "", "by": ""}
    (files / "pruned").write_text(json.dumps(note))
    assert retention.verify(host) == ["generation 4: its parent is not what was pruned before it"]


def test_a_current_that_names_what_was_pruned_is_a_fault(host: Host, files: Path) -> None:
    prune(host, 2)
    document = json.loads((files / "current").read_bytes())
    (files / "current").write_text(json.dumps({**document, "number": 2}))
    assert any("generations/2" in fault for fault in retention.verify(host))


def test_what_is_damaged_and_to_stay_stops_it_and_what_goes_does_not(
    host: Host, store: Store, files: Path
) -> None:
    (files / "generations/5/manifest.json").write_bytes(b"{}")
    with pytest.raises(StoreError, match="generations/5"):
        prune(host, 2)
    assert store.numbers() == [1, 2, 3, 4, 5, 6]
    assert len(objects(files)) == 7
    done = prune(host, 1)
    assert done.generations == [1, 2, 3, 4, 5]
    assert any("was damaged" in note for note in done.notes)
    assert retention.verify(host) == []


def test_a_broken_chain_is_not_pruned_out_of_sight(host: Host, store: Store) -> None:
    with store.locked():
        store.add_generation(make(store, 7, parent="0" * 64))
    with pytest.raises(RefusedError, match="generation 7: its parent"):
        prune(host, 1)
    assert len(store.numbers()) == 7


CALLS = ("rename", "unlink", "open", "rmdir", "fsync")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("number", [1, 2, 3, 5, 8])
def test_a_crash_at_any_step_leaves_a_store_that_verifies_and_is_finished_by_the_next(
    host: Host, store: Store, call: str, number: int
) -> None:
    def killed() -> None:
        real, left = getattr(os, call), [number]

        def counted(*args: object, **options: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return real(*args, **options)

        setattr(os, call, counted)
        prune(host, 2)

    assert in_child(killed) in {0, 9}
    assert retention.verify(host) == []
    assert store.current().number == 6
    prune(host, 2)
    assert store.numbers() == [5, 6]
    assert retention.verify(host) == []
    assert len(objects(Path(host.store_dir))) == 3
    assert not [name for name in os.listdir(f"{host.store_dir}/generations") if not name.isdigit()]


@pytest.mark.root
def test_a_lock_that_nothing_speaks_of_any_more_is_told(host: Host, store: Store, tmp_path: Path) -> None:
    from tests.unit.taken import lock, unlock

    own = tmp_path / "etc/left"
    own.parent.mkdir()
    own.write_bytes(b"left")
    generation = make(store, 7)
    left = Entry("/etc/left", Role.SOURCE, Class.LOCKED, FileType.FILE, 0, 0, 0o644, "i")
    with store.locked():
        store.add_generation(replace(generation, entries={**generation.entries, "/etc/left": left}))
    grow(store, 1)
    lock(own)
    try:
        assert [note for note in prune(host, 1).notes if note.startswith("/etc/left is still locked")]
    finally:
        unlock(own)


def test_an_empty_note_holds_nothing() -> None:
    assert not Note().holds(1)
    assert Note((Range(2, 3, ""),)).holds(3)
    assert not Note((Range(2, 3, ""),)).holds(4)
