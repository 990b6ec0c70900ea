# SPDX-License-Identifier: Apache-2.0
"""The emergency pause and the clock it ends by."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardend import boot, pause
from hardend.model import Host


@dataclass
class Clock:
    now: float = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(boot, "clock", lambda: made.now)
    return made


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(str(tmp_path))


def _file(host: Host) -> Path:
    return Path(host.state_dir) / "off.json"


def test_a_pause_is_in_force_until_its_time_is_over(host: Host, clock: Clock) -> None:
    assert pause.read(host) is None
    started = pause.start(host, seconds=60, reason="upgrade\n\udcff", by="root")
    assert pause.read(host) == started
    assert started.remaining_s == 60
    clock.now += 59.9
    assert pause.read(host) == started
    clock.now += 0.1
    assert pause.read(host) is None
    assert started.remaining_s == 0


def test_a_pause_ends_when_it_is_ended_and_that_can_be_said_twice(host: Host, clock: Clock) -> None:
    pause.start(host, seconds=60, reason="x", by="root")
    pause.end(host)
    pause.end(host)
    assert pause.read(host) is None
    assert clock.now == 1000.0


def test_a_reboot_ends_a_pause(host: Host, clock: Clock) -> None:
    pause.start(host, seconds=86400, reason="x", by="root")
    (Path(host.run_dir) / "boot").unlink()  # /run is empty after a boot
    clock.now = 5.0
    assert pause.read(host) is None


def test_a_second_pause_replaces_the_first(host: Host, clock: Clock) -> None:
    pause.start(host, seconds=60, reason="first", by="root")
    second = pause.start(host, seconds=10, reason="second", by="root")
    assert pause.read(host) == second
    assert clock.now == 1000.0


@pytest.mark.usefixtures("clock")
def test_a_pause_that_could_not_be_written_leaves_the_one_before(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pause.start(host, seconds=60, reason="first", by="root")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("hardend.pause.os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            pause.start(host, seconds=600, reason="second", by="root")
    assert pause.read(host) == first


@pytest.mark.usefixtures("clock")
def test_the_end_is_shown_in_utc(host: Host) -> None:
    assert pause.start(host, seconds=60, reason="x", by="root").until_text().endswith("+00:00")


DAMAGED = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\xff",
    b"[" * 100_000,
    b'{"until": "soon", "boot": "", "reason": "", "by": ""}',
    b'{"until": null, "boot": "", "reason": "", "by": ""}',
    b'{"until": NaN, "boot": "BOOT", "reason": "", "by": ""}',
    b'{"until": Infinity, "boot": "BOOT", "reason": "", "by": ""}',
    b'{"until": 1e300, "boot": "BOOT", "reason": "", "by": ""}',
    b'{"until": 1' + b"0" * 400 + b', "boot": "BOOT", "reason": "", "by": ""}',
    b'{"until": 2000, "boot": "another", "reason": "", "by": ""}',
    b'{"until": 2000, "boot": "BOOT", "by": ""}',
]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("data", DAMAGED, ids=lambda data: repr(data[:30]))
def test_a_damaged_file_is_no_pause(host: Host, data: bytes) -> None:
    identity = boot.identity(host)
    _file(host).parent.mkdir(parents=True)
    _file(host).write_bytes(data.replace(b"BOOT", identity.encode()))
    assert pause.read(host) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=60) | st.dictionaries(
    st.sampled_from(["until", "boot", "reason", "by"]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
).map(lambda document: json.dumps(document).encode()))
def test_any_bytes_are_a_pause_with_an_end_or_none(host: Host, data: bytes) -> None:
    _file(host).parent.mkdir(parents=True, exist_ok=True)
    _file(host).write_bytes(data)
    found = pause.read(host)
    assert found is None or found.until_text()


@pytest.mark.usefixtures("clock")
def test_what_is_no_file_is_no_pause(host: Host) -> None:
    _file(host).mkdir(parents=True)
    assert pause.read(host) is None


# Which boot this is -----------------------------------------------------------------------------------


def test_a_boot_keeps_its_name_and_the_next_has_another(host: Host) -> None:
    first = boot.identity(host)
    assert len(first) == 36
    assert boot.identity(host) == first
    assert os.listdir(host.run_dir) == ["boot"]
    (Path(host.run_dir) / "boot").unlink()
    assert boot.identity(host) != first


def test_two_that_ask_at_once_get_one_name(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def late(source: str, target: str) -> None:
        Path(target).write_text("the other's\n")
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("hardend.boot.os.link", late)
        assert boot.identity(host) == "the other's"
    assert os.listdir(host.run_dir) == ["boot"]


def test_the_boot_clock_goes_on() -> None:
    first = boot.clock()
    assert boot.clock() >= first > 0
