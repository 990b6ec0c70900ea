# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells of changes: its records parsed, whatever they hold, and real ones."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.errors import RefusedError
from hardend.kernel import fanotify, pidfd
from hardend.kernel.fanotify import Event, parse

META = struct.Struct("=IBBHQii")
HANDLES = st.tuples(st.integers(0, 2**64 - 1), st.integers(-(2**31), 2**31 - 1), st.binary(max_size=128))
NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name)


def record(mask: int, pid: int, *info: bytes, version: int = 3) -> bytes:
    """Return a record as linux/fanotify.h has it."""
    body = b"".join(info)
    return META.pack(META.size + len(body), version, 0, META.size, mask, -1, pid) + body


def about(kind: int, handle: fanotify.Handle, name: bytes | None = None) -> bytes:
    """Return an information record of an object; the kernel fills it up to a multiple of four."""
    fsid, type_, data = handle
    body = struct.pack("=QIi", fsid, len(data), type_) + data + (b"" if name is None else name + b"\0")
    body += bytes(-len(body) % 4)
    return struct.pack("=BBH", kind, 0, 4 + len(body)) + body


def process(descriptor: int) -> bytes:
    return struct.pack("=BBHi", 4, 0, 8, descriptor)


@given(st.binary(max_size=400))
def test_whatever_is_read_is_no_error_and_no_more_events_than_fit(data: bytes) -> None:
    assert len(parse(data)) <= len(data) // META.size


@given(st.binary(max_size=200), st.integers(0, 2**64 - 1), st.integers(-1, 2**31 - 1))
def test_whatever_follows_the_head_of_an_event_leaves_its_process(info: bytes, mask: int, pid: int) -> None:
    (event,) = parse(record(mask, pid, info))
    assert (event.mask, event.pid) == (mask, pid)


@given(HANDLES, HANDLES, NAMES, st.integers(-2, 2**31 - 1))
def test_an_event_tells_directory_name_object_and_process(
    directory: fanotify.Handle, file: fanotify.Handle, name: bytes, descriptor: int
) -> None:
    info = [process(descriptor), about(2, directory, name), about(1, file)]
    expected = Event(fanotify.MODIFY, 7, descriptor, directory, name, file)
    assert parse(record(fanotify.MODIFY, 7, *info) * 2) == [expected, expected]
    assert parse(record(fanotify.MODIFY, 7, *reversed(info))) == [expected]


@given(HANDLES, NAMES, st.data())
def test_a_record_that_is_cut_short_ends_the_reading(
    directory: fanotify.Handle, name: bytes, data: st.DataObject
) -> None:
    whole = record(fanotify.CREATE, 7, about(2, directory, name))
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert len(parse(whole + whole[:cut])) == 1


def test_a_version_that_is_not_known_is_not_read() -> None:
    assert parse(record(fanotify.CREATE, 7, version=4)) == []


@pytest.mark.root
def test_the_kernel_tells_of_a_real_writer_by_name_and_by_object(tmp_path: Path) -> None:
    (tmp_path / "access").write_bytes(b"x")
    try:
        group = fanotify.Group()
    except RefusedError as error:
        pytest.skip(str(error))
    directory = os.open(tmp_path, os.O_PATH)
    file = os.open(tmp_path / "access", os.O_PATH)
    group.mark(directory, fanotify.CHANGES | fanotify.OPEN | fanotify.ON_CHILD)
    script = f"open({str(tmp_path / 'access')!r}, 'ab').write(b'y'); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as child:
        events: list[Event] = []
        while not any(event.mask & fanotify.CLOSE_WRITE for event in events):
            events += group.read()
        wrote = next(event for event in events if event.mask & fanotify.MODIFY)
        assert wrote.pid == child.pid
        assert wrote.name == b"access"
        assert wrote.directory == fanotify.handle_of(directory)
        assert wrote.file == fanotify.handle_of(file)
        info = pidfd.info_of(wrote.pidfd)
        assert info.uid in {0, None}  # None before Linux 6.13
        child.communicate(b"\n")
    group.forget()
    (tmp_path / "access").write_bytes(b"z")
    assert group.read() == []
    group.close()
    for descriptor in (directory, file, *(event.pidfd for event in events if event.pidfd >= 0)):
        os.close(descriptor)


def test_nothing_is_known_of_what_is_no_process(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    assert pidfd.info_of(descriptor) == pidfd.Info()
    os.close(descriptor)
    assert pidfd.info_of(descriptor) == pidfd.Info()
