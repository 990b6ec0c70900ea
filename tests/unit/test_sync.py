# SPDX-License-Identifier: Apache-2.0
"""Syncing in the background: real files, and a kernel that has no such thing."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from hardend.kernel.sync import Syncer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def syncer() -> Iterator[Syncer]:
    made = Syncer()
    yield made
    made.close()


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(opened, b"x" * 100_000)
    yield opened
    os.close(opened)


def wait_for_all(syncer: Syncer, descriptor: int) -> None:
    end = time.monotonic() + 30
    while syncer.under_way > 1:  # the one that asks
        assert time.monotonic() < end
        time.sleep(0.01)
        syncer.sync(descriptor)


def test_many_syncs_are_all_done_and_none_fails(syncer: Syncer, descriptor: int) -> None:
    for _ in range(1000):
        syncer.sync(descriptor)
    wait_for_all(syncer, descriptor)
    assert syncer.failures == 0


def test_a_descriptor_may_be_closed_while_its_sync_is_under_way(syncer: Syncer, tmp_path: Path) -> None:
    for number in range(200):
        opened = os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT)
        os.write(opened, b"x" * 4096)
        syncer.sync(opened)
        os.close(opened)
    assert syncer.failures == 0


def test_a_descriptor_for_reading_is_enough(syncer: Syncer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    opened = os.open(tmp_path / "file", os.O_RDONLY)
    syncer.sync(opened)
    wait_for_all(syncer, opened)
    os.close(opened)
    assert syncer.failures == 0


def test_what_is_no_file_is_refused_at_once(syncer: Syncer) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        syncer.sync(987_654)
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError, match="Invalid argument"):
            syncer.sync(reader)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_kernel_without_it_syncs_at_once(monkeypatch: pytest.MonkeyPatch, descriptor: int) -> None:
    synced: list[int] = []
    monkeypatch.setattr("hardend.kernel.sync.platform.machine", lambda: "an unknown machine")
    syncer = Syncer()
    assert not syncer.in_background
    monkeypatch.setattr("hardend.kernel.sync.os.fsync", synced.append)
    syncer.sync(descriptor)
    assert synced == [descriptor]
    assert syncer.under_way == 0
    syncer.close()


def test_closing_waits_and_closing_twice_is_harmless(syncer: Syncer, descriptor: int) -> None:
    syncer.sync(descriptor)
    syncer.close()
    assert not syncer.in_background
    syncer.close()
