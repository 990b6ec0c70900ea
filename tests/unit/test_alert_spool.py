# SPDX-License-Identifier: Apache-2.0
"""The spool of alerts: whole files, bounded, and what is lost is counted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.alert_spool import DIRECTORY, Spool
from hardend.model import Host


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(Host(str(tmp_path)), limit=10)
    made.open()
    return made


def directory(tmp_path: Path) -> Path:
    return Path(f"{tmp_path}{DIRECTORY}")


def test_an_alert_is_there_for_the_next_process_with_what_went_wrong(spool: Spool, tmp_path: Path) -> None:
    name = spool.put("one", 4, 7, {"subject": "x"})
    waiting = spool.read(name)
    assert waiting is not None
    spool.tried(waiting, "no route")
    again = Spool(Host(str(tmp_path))).read(name)
    assert again is not None
    assert (again.document, again.attempts, again.error) == ({"subject": "x"}, 1, "no route")
    assert directory(tmp_path).stat().st_mode & 0o777 == 0o700
    assert (directory(tmp_path) / name).stat().st_mode & 0o777 == 0o600


def test_the_same_alert_twice_is_one(spool: Spool) -> None:
    assert spool.put("one", 4, 7, {}) == spool.put("one", 4, 8, {})
    assert len(spool.names()) == 1


def test_the_worst_comes_first_then_the_oldest(spool: Spool) -> None:
    made = [spool.put("a", 4, 2, {}), spool.put("b", 2, 9, {}), spool.put("c", 4, 1, {})]
    assert spool.names() == [made[1], made[2], made[0]]


def test_a_full_spool_drops_the_least_important_and_counts(spool: Spool) -> None:
    for number in range(15):
        spool.put(f"w{number}", 4, number, {})
    assert [name.rpartition("-")[2] for name in spool.names()] == [f"w{n}.json" for n in range(10)]
    assert spool.dropped == 5
    spool.put("crit", 2, 99, {})
    assert spool.names()[0].endswith("-crit.json")
    assert len(spool.names()) == 10
    assert spool.dropped == 6
    spool.told_of_dropped()
    assert spool.dropped == 0


def test_a_damaged_file_is_dropped_and_counted(spool: Spool, tmp_path: Path) -> None:
    name = spool.put("one", 4, 7, {})
    (directory(tmp_path) / name).write_bytes(b"\xff[")
    assert spool.read(name) is None
    assert spool.names() == []
    assert spool.dropped == 1


def test_what_a_crash_left_half_written_goes(spool: Spool, tmp_path: Path) -> None:
    (directory(tmp_path) / ".new-4-x.json").write_text("{")
    spool.open()
    assert list(directory(tmp_path).iterdir()) == []


@pytest.mark.root
def test_on_a_full_disk_alerts_are_kept_in_memory(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=True)
    try:
        spool = Spool(Host(str(tmp_path)))
        spool.open()
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "filler").write_bytes(b"x" * (1 << 20))
        name = spool.put("one", 4, 7, {"subject": "x"})
        assert spool.names() == [name]
        assert not (directory(tmp_path) / name).exists()
        (tmp_path / "filler").unlink()
        waiting = spool.read(name)
        assert waiting is not None
        spool.tried(waiting, "later")
        assert (directory(tmp_path) / name).exists()
        spool.remove(name)
        assert spool.names() == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_one_process_delivers(spool: Spool, tmp_path: Path) -> None:
    other = Spool(Host(str(tmp_path)))
    assert spool.lock()
    assert not other.lock()
    spool.close()
    assert other.lock()
    other.close()


@given(data=st.binary(max_size=200))
def test_any_bytes_in_the_directory_are_an_alert_or_dropped(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("spool")
    spool = Spool(Host(str(root)))
    spool.open()
    name = f"4-{1:020d}-x.json"
    (directory(root) / name).write_bytes(data)
    (directory(root) / "state.json").write_bytes(data)
    (directory(root) / "dropped.json").write_bytes(data)
    found = spool.read(name)
    assert found is None or isinstance(found.document, dict)
    assert isinstance(spool.state(), dict)
    assert isinstance(spool.dropped, int)
    os.unlink(directory(root) / "state.json")
