# SPDX-License-Identifier: Apache-2.0
"""What is remembered of hardend's own files: damage to it is told, and ends nothing."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.own_tree import MAIN, Station, whole_pass, with_files


@pytest.fixture
def station(tmp_path: Path) -> Station:
    return with_files(tmp_path)


GARBAGE = {
    "nothing": b"",
    "text": b"garbage\n",
    "half": b'{"schema":1,"files":{"/etc/hardend/hardend.toml":["ab"',
    "bytes": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "list": b"[]",
    "number": b"1",
    "no files": b'{"schema":1}',
    "another schema": b'{"schema":2,"files":{}}',
    "files are a list": b'{"schema":1,"files":["x"]}',
    "a short row": b'{"schema":1,"files":{"/x":["",0,0,0]}}',
    "a row of text": b'{"schema":1,"files":{"/x":"abcde"}}',
    "a mode that is text": b'{"schema":1,"files":{"/x":["","0",0,0,""]}}',
    "a mode below zero": b'{"schema":1,"files":{"/x":["",-1,0,0,""]}}',
    "a mode beyond any": b'{"schema":1,"files":{"/x":["",99999999999999999999,0,0,""]}}',
    "null": b'{"schema":1,"files":{"/x":null}}',
}


def assert_nothing_is_remembered(station: Station) -> None:
    """Start with what is there as memory: one warning, and all is well afterwards."""
    station.started()
    [line] = station.told()
    assert line.startswith("warning: self-changed: ")
    assert "own-files.json cannot be read" in line
    station.at(MAIN).write_text("other")
    station.started()
    assert station.drifts() == {MAIN: "content"}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_nothing_remembered_and_one_warning(station: Station, data: bytes) -> None:
    station.memory.parent.mkdir(parents=True)
    station.memory.write_bytes(data)
    assert_nothing_is_remembered(station)
    assert list(json.loads(station.memory.read_bytes())["files"])


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_memory_that_is_no_file_is_replaced(station: Station, make: Callable[[Path], None]) -> None:
    station.memory.parent.mkdir(parents=True)
    make(station.memory)
    os.mkfifo(station.memory.with_suffix(".json.new"))
    assert_nothing_is_remembered(station)
    assert station.memory.is_file() and not station.memory.is_symlink()


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
).map(lambda files: json.dumps({"schema": 1, "files": files}).encode()))  # fmt: skip
def test_no_memory_ends_a_start(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        station = Station(Path(directory))
        station.put(MAIN)
        station.memory.parent.mkdir(parents=True)
        station.memory.write_bytes(data)
        station.started()
        station.told()
        station.started()
        assert station.told() == []


def test_a_memory_that_cannot_be_written_is_told_once_and_tried_again(station: Station) -> None:
    station.started()
    state_dir = Path(station.host.state_dir)
    station.memory.unlink()
    state_dir.rmdir()
    state_dir.write_text("no directory")
    own = station.started()
    assert [line.partition("own-files.json ")[2] for line in station.told()] == [
        "cannot be read (Not a directory): what changed while no guard ran is not known",
        "cannot be written (File exists): the next start tells changes again",
    ]
    whole_pass(own)
    whole_pass(own)
    assert station.told() == []
    state_dir.unlink()
    whole_pass(own)
    station.at(MAIN).write_text("other")
    station.started()
    assert station.drifts() == {MAIN: "content"}
