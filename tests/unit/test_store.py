# SPDX-License-Identifier: Apache-2.0
"""The baseline store: what is damaged is named, and a commit that dies leaves the old or the new."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hardend.baseline import store as store_module
from hardend.baseline.signature import Signed
from hardend.baseline.store import Store
from hardend.errors import StoreError
from hardend.model import Host
from tests.unit.generations import CONTENT, commit
from tests.unit.generations import generation as make


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(str(tmp_path))


@pytest.fixture
def store(host: Host) -> Store:
    """A store with two generations."""
    made = Store(host)
    commit(made, 1)
    commit(made, 2)
    return made


@pytest.fixture
def files(store: Store, host: Host) -> Path:
    assert store.current().number == 2
    return Path(host.store_dir)


def test_an_empty_store_has_no_baseline_and_says_how_to_make_one(host: Host) -> None:
    store = Store(host)
    assert not store.has_baseline()
    assert store.numbers() == []
    with pytest.raises(StoreError, match="missing") as caught:
        store.current()
    assert "hardend approve" in caught.value.hint
    with pytest.raises(StoreError, match="no generation can be read"):
        store.last_good()


def test_what_was_added_is_in_force(store: Store) -> None:
    assert store.numbers() == [1, 2]
    assert store.current().reason == "reason 2"
    assert store.generation(1).reason == "reason 1"
    assert store.current().parent == store.manifest_digest(1)
    assert store.object(store.current().entries["/etc/cf"].digest) == CONTENT[2]
    assert store.verify() == []


def test_an_object_is_written_where_it_goes_and_not_twice(store: Store, tmp_path: Path) -> None:
    digest = store.add_object(CONTENT[1])
    before = (tmp_path / "var/lib/hardend/baseline/objects" / digest).stat().st_ino
    assert store.add_object(CONTENT[1]) == digest == Store.digest_of(CONTENT[1])
    assert (tmp_path / "var/lib/hardend/baseline/objects" / digest).stat().st_ino == before
    with (tmp_path / "copy").open("wb") as file:
        store.copy_object(digest, file.fileno())
    assert (tmp_path / "copy").read_bytes() == CONTENT[1]


def test_an_object_of_many_blocks_is_copied_whole(store: Store, tmp_path: Path) -> None:
    data = bytes(range(256)) * (store_module._BLOCK // 100)
    with (tmp_path / "copy").open("wb") as file:
        store.copy_object(store.add_object(data), file.fileno())
    assert (tmp_path / "copy").read_bytes() == data


def test_everything_in_the_store_is_root_s_alone(files: Path) -> None:
    for path in files.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "emptied": _empty,
    "changed": _flip,
    "a fifo": _fifo,
    "a directory": _directory,
    "a symbolic link": _link,
}


def _object_of(store: Store, number: int, files: Path) -> Path:
    return files / "objects" / store.generation(number).entries["/etc/cf"].digest


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_object_is_never_given_out_and_is_named(store: Store, files: Path, damage: str) -> None:
    path = _object_of(store, 2, files)
    DAMAGES[damage](path)
    with pytest.raises(StoreError, match=re.escape(str(path))) as caught:
        store.object(path.name)
    assert "verify" in caught.value.hint
    with (files / "copy").open("wb") as file, pytest.raises(StoreError):
        store.copy_object(path.name, file.fileno())
    faults = [fault for fault in store.verify() if "generation 2, /etc/cf" in fault]
    assert len(faults) == 1
    assert str(path) in faults[0]
    assert store.current().number == 2  # the manifest is whole; its paths are judged one by one


def test_a_damaged_object_is_mended_by_its_content(store: Store, files: Path) -> None:
    path = _object_of(store, 2, files)
    _flip(path)
    store.add_object(CONTENT[2])
    assert store.verify() == []


@pytest.mark.parametrize("name", ["manifest.json", "digest"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_generation_is_an_error_and_the_one_before_is_the_last_good(
    store: Store, files: Path, name: str, damage: str
) -> None:
    DAMAGES[damage](files / "generations/2" / name)
    with pytest.raises(StoreError, match="generations/2"):
        store.current()
    assert store.has_baseline()
    assert store.last_good().number == 1
    assert any("generations/2" in fault for fault in store.verify())


def _current(files: Path, **fields: object) -> None:
    document = json.loads((files / "current").read_bytes())
    (files / "current").write_text(json.dumps({**document, **fields}))


CURRENTS: dict[str, Callable[[Path], object]] = {
    **{damage: lambda files, act=act: act(files / "current") for damage, act in DAMAGES.items()},  # type: ignore[misc]
    "of another generation": lambda files: _current(files, number=1),
    "of no generation": lambda files: _current(files, number=9),
    "with a number that is none": lambda files: _current(files, number="2"),
    "with a yes": lambda files: _current(files, number=True),
    "with a path as number": lambda files: _current(files, number="../generations/2"),
    "with another digest": lambda files: _current(files, manifest="0" * 64),
    "with a digest that is none": lambda files: _current(files, manifest=None),
    "a list": lambda files: (files / "current").write_text("[]"),
    "nested without end": lambda files: (files / "current").write_text("[" * 4096),
    "too large": lambda files: (files / "current").write_text(" " * 5000),
}


def test_a_current_that_was_set_back_is_an_error_and_the_newest_stays_the_last_good(
    store: Store, files: Path
) -> None:
    _current(files, number=1, manifest=store.manifest_digest(1))
    with pytest.raises(StoreError, match="names generation 1, but 2 is there: it was changed back"):
        store.current()
    assert store.last_good().number == 2
    assert store.verify() != []
    assert store.next() == (3, store.manifest_digest(2))
    commit(store, 3)
    assert store.current().number == 3
    assert store.verify() == []


@pytest.mark.parametrize("name", ["objects", "generations", "generations/2", "."])
def test_a_directory_of_the_store_that_is_a_link_is_not_followed(
    store: Store, files: Path, name: str
) -> None:
    place = (files / name).resolve()
    elsewhere = files.parent / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    with pytest.raises(StoreError):
        store.object(Store.digest_of(CONTENT[2])) if name == "objects" else store.current()
    assert store.has_baseline()
    assert store.verify() != []


def test_what_others_can_write_or_what_is_no_file_is_named(store: Store, files: Path) -> None:
    (files / "current").chmod(0o664)
    (files / "objects").chmod(0o707)
    os.mkfifo(files / "generations/1/pipe")
    (files / "generations/1/link\x1b").symlink_to("/etc/shadow")
    said = store.verify()
    assert len(said) == 4
    for name in ("current: others", "objects: others", "pipe: neither", "link\\x1b: neither"):
        assert any(name in fault for fault in said), said


def test_a_signature_and_an_origin_lie_beside_the_manifest(store: Store, files: Path) -> None:
    assert not store.has_signature(2)
    assert store.signature(2) is store.origin(2) is None
    with store.locked():
        store.attach_signature(2, b"signature")
        store.attach_origin(1, Signed(b"manifest", b"its signature"))
    assert store.signature(2) == Signed(store.raw_manifest(2), b"signature")
    assert store.origin(1) == Signed(b"manifest", b"its signature")
    assert store.has_signature(1) and store.has_signature(2)
    assert {path.name for path in (files / "generations/1").iterdir()} == {
        *("manifest.json", "digest", "origin.json", "origin.json.sig")
    }
    assert store.verify() == []  # whose they are is another question
    commit(store, 3)
    assert not store.has_signature(3)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["origin.json", "origin.json.sig"])
def test_a_damaged_origin_is_an_error_or_gives_the_bytes_that_are_there(
    store: Store, files: Path, name: str, damage: str
) -> None:
    whole = Signed(b"manifest", b"its signature")
    store.attach_origin(2, whole)
    DAMAGES[damage](files / "generations/2" / name)
    with contextlib.suppress(StoreError):
        assert store.origin(2) != whole
    assert store.current().number == 2


@pytest.mark.parametrize("damage", sorted(CURRENTS))
def test_a_damaged_current_is_an_error_and_never_an_empty_baseline(
    store: Store, files: Path, damage: str
) -> None:
    CURRENTS[damage](files)
    with pytest.raises(StoreError):
        store.current()
    assert store.has_baseline()
    assert store.last_good().number == 2
    assert store.verify() != []


def test_current_without_any_generation_is_an_error_and_not_an_empty_baseline(
    store: Store, files: Path
) -> None:
    shutil.rmtree(files / "generations")
    assert store.has_baseline()
    with pytest.raises(StoreError):
        store.current()
    assert store.verify() != []


def test_a_manifest_of_another_number_is_refused(store: Store, files: Path) -> None:
    for name in ("manifest.json", "digest"):
        shutil.copy(files / "generations/1" / name, files / "generations/2" / name)
    with pytest.raises(StoreError, match="holds number 1"):
        store.generation(2)


def test_a_generation_that_was_removed_is_named(store: Store, files: Path) -> None:
    shutil.rmtree(files / "generations/1")
    assert store.current().number == 2
    assert any("generations/1/manifest.json: missing" in fault for fault in store.verify())


def test_a_broken_chain_is_named(store: Store) -> None:
    with store.locked():
        store.add_generation(make(store, 3, parent="0" * 64))
    assert store.verify() == ["generation 3: its parent is not generation 2"]


def test_a_first_generation_with_a_parent_is_named(host: Host) -> None:
    store = Store(host)
    with store.locked():
        store.add_generation(make(store, 1, parent="0" * 64))
    assert len(store.verify()) == 1


def test_names_that_are_no_numbers_are_no_generations(store: Store, files: Path) -> None:
    for name in ("3.new", "\u00b2", "0", "007", "-1", "x", "\udcff", "9" * 200):
        (files / "generations" / name).mkdir()
    assert store.numbers() == [1, 2]


@pytest.mark.parametrize("number", [1, 2, 4, 0, -1])
def test_numbers_only_go_up_by_one(store: Store, number: int) -> None:
    wrong = replace(make(store, 3), number=number)
    with store.locked(), pytest.raises(StoreError, match="does not follow 2"):
        store.add_generation(wrong)
    assert store.numbers() == [1, 2]


def test_a_generation_that_could_not_be_read_again_is_not_written(store: Store) -> None:
    generation = make(store, 3)
    entries = {path: entry for path, entry in generation.entries.items() if path != "/etc"}
    with store.locked(), pytest.raises(StoreError, match="without its directory"):
        store.add_generation(replace(generation, entries=entries))
    assert store.current().number == 2
    assert store.numbers() == [1, 2]


@pytest.mark.parametrize("damage", sorted(set(CURRENTS) - {"a directory"}))
def test_approving_anew_is_the_way_out_of_a_damaged_store(store: Store, files: Path, damage: str) -> None:
    CURRENTS[damage](files)
    number, parent = store.next()
    assert (number, parent) == (3, store.manifest_digest(2))
    commit(store, 3)
    assert store.current().reason == "reason 3"
    assert store.verify() == []


def test_a_new_generation_follows_a_damaged_one_and_its_fault_stays_named(
    store: Store, files: Path
) -> None:
    _flip(files / "generations/2/manifest.json")
    assert store.next() == (3, store.manifest_digest(1))
    commit(store, 3)
    assert store.current().number == 3
    assert len(store.verify()) == 1


def test_the_leftover_of_a_dead_commit_is_not_in_force(store: Store, files: Path) -> None:
    shutil.copytree(files / "generations/2", files / "generations/3.new")
    (files / "generations/3.new/manifest.json.sig").write_bytes(b"of another commit")
    assert store.current().number == 2
    assert store.verify() == []
    commit(store, 3)
    assert store.current().reason == "reason 3"
    assert not store.has_signature(3)


def test_one_commit_at_a_time(store: Store) -> None:
    order = []
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with store.locked():
            inside.set()
            leave.wait(10)
            order.append("first")

    def follow() -> None:
        with store.locked():
            order.append("second")

    threads = [threading.Thread(target=hold), threading.Thread(target=follow)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    assert order == []
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "second"]
