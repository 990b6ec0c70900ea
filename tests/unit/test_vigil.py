# SPDX-License-Identifier: Apache-2.0
"""The store behind a running guard: everything that is done to it is noticed, and what is mended too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hardend.baseline import manifest
from hardend.baseline.signature import sign
from hardend.baseline.store import Store
from hardend.baseline.vigil import Vigil
from hardend.model import Host
from tests.unit.generations import CONTENT, commit
from tests.unit.generations import generation as make
from tests.unit.signers import ops as ops  # noqa: PLC0414 - a fixture

INTERVAL_S = 300.0


@pytest.fixture
def store(tmp_path: Path, ops: Path) -> Store:
    made = Store(Host(str(tmp_path)))
    commit(made, 1)
    commit(made, 2)
    made.attach_signature(2, sign(made.raw_manifest(2), str(ops)))
    return made


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return Path(Host(str(tmp_path)).store_dir)


@pytest.fixture
def vigil(store: Store) -> Vigil:
    """One that accepted generation 2 and found nothing."""
    made = Vigil(store)
    made.accept(store.current())
    assert look(made) == ()
    assert not made.changed()
    return made


def look(vigil: Vigil) -> tuple[str, ...]:
    """Let it come to the end of a pass; what it found."""
    while vigil.step(INTERVAL_S) != INTERVAL_S:
        pass
    return vigil.faults


def _flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def _link(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}.elsewhere"))
    path.symlink_to(f"{path.name}.elsewhere")


def _rewritten(files: Path) -> None:
    """Another generation 2 that is whole in itself."""
    store = Store(Host(str(files.parents[3])))
    data = manifest.render(replace(store.generation(2), reason="mine"))
    (files / "generations/2/manifest.json").write_bytes(data)
    (files / "generations/2/digest").write_text(manifest.digest(data))
    (files / "current").write_text(f'{{"number": 2, "manifest": "{manifest.digest(data)}"}}')


def _back(files: Path) -> None:
    digest = (files / "generations/1/digest").read_text().strip()
    (files / "current").write_text(f'{{"number": 1, "manifest": "{digest}"}}')
    shutil.rmtree(files / "generations/2")


OBJECT = f"objects/{Store.digest_of(CONTENT[2])}"
TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an object changed": (lambda f: _flip(f / OBJECT), "stored content of /etc/cf is damaged"),
    "an object gone": (lambda f: (f / OBJECT).unlink(), "/etc/cf"),
    "an object a link": (lambda f: _link(f / OBJECT), "/etc/cf"),
    "the manifest changed": (lambda f: _flip(f / "generations/2/manifest.json"), "digest is wrong"),
    "the manifest gone": (lambda f: (f / "generations/2/manifest.json").unlink(), "missing"),
    "the generation rewritten": (_rewritten, "it was rewritten"),
    "the generation a link": (lambda f: _link(f / "generations/2"), "generations/2"),
    "the generations gone": (lambda f: shutil.rmtree(f / "generations"), "missing"),
    "the objects a link": (lambda f: _link(f / "objects"), "/etc/cf"),
    "the signature changed": (lambda f: _flip(f / "generations/2/manifest.json.sig"), "the signature"),
    "the signature gone": (lambda f: (f / "generations/2/manifest.json.sig").unlink(), "the signature"),
    "the number set back": (_back, "the store went back to generation 1; 2 is enforced"),
    "current damaged": (lambda f: (f / "current").write_bytes(b""), "current: damaged"),
    "everything gone": (shutil.rmtree, "missing"),
}


@pytest.mark.parametrize("tampered", TAMPERED)
def test_what_is_done_to_the_store_is_seen_at_the_next_sweep(
    vigil: Vigil, files: Path, tampered: str
) -> None:
    act, said = TAMPERED[tampered]
    act(files)
    assert vigil.changed()
    assert any(said in fault for fault in look(vigil)), vigil.faults
    assert not vigil.changed()  # seen: the next sweeps have nothing to do


def test_what_is_mended_is_no_fault_any_more(vigil: Vigil, store: Store, files: Path) -> None:
    _flip(files / OBJECT)
    assert vigil.changed()
    assert look(vigil)
    store.add_object(CONTENT[2])
    assert vigil.changed()
    assert look(vigil) == ()


class Told:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.faults = ["of something else"]
        self.changed = False
        self.told: list[str] = []

    def store_fault(self, text: str) -> None:
        self.faults.append(text)
        self.told.append(text)


def test_a_fault_is_told_once_and_taken_back_when_it_is_mended(
    vigil: Vigil, store: Store, files: Path
) -> None:
    told = Told()

    def tend() -> list[str]:
        while vigil.tend(told, INTERVAL_S) != INTERVAL_S:
            pass
        return told.faults

    assert tend() == ["of something else"]
    assert told.told == []
    _flip(files / OBJECT)
    assert len(tend()) == len(tend()) == 2
    assert told.changed
    store.add_object(CONTENT[2])
    assert tend() == ["of something else"]
    assert len(told.told) == 1


def test_content_that_changes_without_a_trace_is_found_once_an_interval(vigil: Vigil, files: Path) -> None:
    found = os.stat(files / OBJECT)
    _flip(files / OBJECT)
    os.utime(files / OBJECT, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert "damaged" in look(vigil)[0]  # without having been asked whether it changed


def test_the_next_commit_is_no_fault(vigil: Vigil, store: Store) -> None:
    commit(store, 3)
    assert look(vigil) == ()
    vigil.accept(store.current())
    assert look(vigil) == ()


def test_a_signature_that_comes_later_is_no_fault(store: Store, ops: Path) -> None:
    commit(store, 3)
    vigil = Vigil(store)
    vigil.accept(store.current())
    store.attach_signature(3, sign(store.raw_manifest(3), str(ops)))
    assert vigil.changed()
    assert look(vigil) == ()


def test_a_store_that_is_touched_all_the_time_is_still_looked_at(
    vigil: Vigil, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hardend.baseline.vigil.SLICE_S", 0.0)  # every step is a slice
    _flip(files / OBJECT)
    for _ in range(20):
        (files / "current").touch()
        vigil.changed()
        vigil.step(INTERVAL_S)
    assert "damaged" in vigil.faults[0]


def test_a_large_object_is_looked_at_in_slices(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardend.baseline.vigil.SLICE_S", 0.0)
    generation = make(store, 3)
    data = bytes(3 << 20)
    entry = replace(generation.entries["/etc/cf"], digest=store.add_object(data), size=len(data))
    with store.locked():
        store.add_generation(replace(generation, entries={**generation.entries, "/etc/cf": entry}))
    vigil = Vigil(store)
    vigil.accept(store.current())
    slices = 1
    while vigil.step(INTERVAL_S) != INTERVAL_S:
        slices += 1
    assert slices > 12
    assert vigil.faults == ()


def test_a_guard_without_a_baseline_has_nothing_to_watch(tmp_path: Path) -> None:
    vigil = Vigil(Store(Host(str(tmp_path))))
    assert not vigil.changed()
    assert vigil.step(INTERVAL_S) == INTERVAL_S
    assert vigil.faults == ()
