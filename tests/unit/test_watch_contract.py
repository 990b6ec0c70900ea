# SPDX-License-Identifier: Apache-2.0
"""Every member of watchdog that hardend/watch.py uses, public or not: a new release must keep them."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import os
import select
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from watchdog.observers import inotify_c
from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

import hardend.watch

# inotify(7): the values are the kernel's.
CONSTANTS = {
    "IN_MODIFY": 0x2,
    "IN_ATTRIB": 0x4,
    "IN_CLOSE_WRITE": 0x8,
    "IN_CLOSE_NOWRITE": 0x10,
    "IN_OPEN": 0x20,
    "IN_MOVED_FROM": 0x40,
    "IN_MOVED_TO": 0x80,
    "IN_CREATE": 0x100,
    "IN_DELETE": 0x200,
    "IN_DELETE_SELF": 0x400,
    "IN_MOVE_SELF": 0x800,
    "IN_UNMOUNT": 0x2000,
    "IN_Q_OVERFLOW": 0x4000,
    "IN_IGNORED": 0x8000,
    "IN_ONLYDIR": 0x01000000,
}
ID = CallbackId(1)


class Callback:
    def on_event(self, event: InotifyEvent) -> None:
        raise AssertionError(event)

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Told of at close."""

    def on_queue_overflow(self) -> None:
        raise AssertionError


@pytest.fixture
def inotify() -> Iterator[InotifyFD]:
    made = InotifyFD()
    yield made
    made._is_reading = False
    made.close()


def test_the_release_is_one_that_was_read() -> None:
    major, minor = map(int, importlib.metadata.version("watchdog").split(".")[:2])
    assert (major, minor) >= (7, 1)
    assert major == 7


def _used() -> set[str]:
    """Return the names that watch.py takes from an InotifyFD, its class or the constants."""
    tree = ast.parse(Path(hardend.watch.__file__).read_text("utf-8"))
    of = {"inotify", "InotifyFD", "_C", "InotifyConstants"}
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (
            (isinstance(node.value, ast.Name) and node.value.id in of)
            or (isinstance(node.value, ast.Attribute) and node.value.attr == "inotify")
        )
    }


def test_every_member_that_is_used_is_pinned_here() -> None:
    private = {"_inotify_fd", "_parse_event_buffer", "_is_reading"}
    assert _used() == private | {"add_callback", "remove_callbacks", "close"} | set(CONSTANTS)


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_are_those_of_the_kernel(name: str) -> None:
    assert getattr(InotifyConstants, name) == CONSTANTS[name]


def test_signatures_are_as_they_are_called() -> None:
    added = inspect.signature(InotifyFD.add_callback).parameters
    assert list(added) == ["self", "path", "mask", "callback", "id_"]
    removed = inspect.signature(InotifyFD.remove_callbacks).parameters
    assert list(removed) == ["self", "callbacks"]
    assert list(inspect.signature(InotifyFD.__init__).parameters) == ["self"]
    assert isinstance(inspect.getattr_static(InotifyFD, "_parse_event_buffer"), staticmethod)
    for kind in (Mask, WatchDescriptor, CallbackId):
        assert kind(1) == 1


def test_a_new_instance_has_a_descriptor_and_no_thread(inotify: InotifyFD) -> None:
    before = threading.active_count()
    assert os.readlink(f"/proc/self/fd/{inotify._inotify_fd}") == "anon_inode:inotify"
    assert not inotify.is_alive()
    assert inotify._is_reading is True  # so that close() leaves it to a thread: watch.py says otherwise
    assert threading.active_count() == before


def test_each_instance_has_a_descriptor_of_its_own(inotify: InotifyFD) -> None:
    other = InotifyFD()
    assert other._inotify_fd != inotify._inotify_fd
    other._is_reading = False
    other.close()


def test_a_watch_is_the_number_that_its_records_carry(inotify: InotifyFD, tmp_path: Path) -> None:
    watch = inotify.add_callback(os.fsencode(tmp_path), InotifyConstants.IN_CREATE, Callback(), ID)
    (tmp_path / "a\n\udcff").touch()
    data = os.read(inotify._inotify_fd, 4096)
    assert list(InotifyFD._parse_event_buffer(data)) == [(watch, CONSTANTS["IN_CREATE"], 0, b"a\n\xff")]


def test_a_path_through_a_descriptor_can_be_watched(inotify: InotifyFD, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    path = f"/proc/self/fd/{descriptor}".encode()
    watch = inotify.add_callback(path, InotifyConstants.IN_MODIFY, Callback(), ID)
    os.close(descriptor)
    (tmp_path / "file").write_bytes(b"y")
    records = list(InotifyFD._parse_event_buffer(os.read(inotify._inotify_fd, 4096)))
    assert {(wd, mask) for wd, mask, _, _ in records} == {(watch, CONSTANTS["IN_MODIFY"])}


def test_a_watch_that_cannot_be_is_an_oserror(inotify: InotifyFD, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        inotify.add_callback(os.fsencode(tmp_path / "none"), InotifyConstants.IN_MODIFY, Callback(), ID)


def test_a_removed_watch_says_no_more_and_can_be_removed_twice(inotify: InotifyFD, tmp_path: Path) -> None:
    watch = inotify.add_callback(os.fsencode(tmp_path), InotifyConstants.IN_CREATE, Callback(), ID)
    for _ in range(2):
        inotify.remove_callbacks([(watch, ID)])
    (tmp_path / "file").touch()
    records = list(InotifyFD._parse_event_buffer(os.read(inotify._inotify_fd, 4096)))
    assert records == [(watch, CONSTANTS["IN_IGNORED"], 0, b"")]


def test_a_watch_whose_inode_is_gone_can_still_be_removed(inotify: InotifyFD, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    watch = inotify.add_callback(os.fsencode(tmp_path / "file"), InotifyConstants.IN_MODIFY, Callback(), ID)
    (tmp_path / "file").unlink()
    inotify.remove_callbacks([(watch, ID)])
    assert inotify._watch_for_wd == {}


def test_records_are_parsed_as_the_kernel_packs_them() -> None:
    name = b"name\0\0\0\0\0\0\0\0\0\0\0\0"
    data = struct.pack("iIII", 3, 0x100, 7, len(name)) + name + struct.pack("iIII", -1, 0x4000, 0, 0)
    assert list(InotifyFD._parse_event_buffer(data)) == [(3, 0x100, 7, b"name"), (-1, 0x4000, 0, b"")]
    assert list(InotifyFD._parse_event_buffer(b"")) == []
    assert list(InotifyFD._parse_event_buffer(data[:10])) == []


def test_closing_without_a_thread_closes_every_descriptor() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    made = InotifyFD()
    made._is_reading = False
    made.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_the_descriptor_can_wait_in_an_epoll(inotify: InotifyFD, tmp_path: Path) -> None:
    os.set_blocking(inotify._inotify_fd, False)
    inotify.add_callback(os.fsencode(tmp_path), InotifyConstants.IN_CREATE, Callback(), ID)
    with select.epoll() as epoll:
        epoll.register(inotify._inotify_fd, select.EPOLLIN)
        assert epoll.poll(0) == []
        (tmp_path / "file").touch()
        assert epoll.poll(0) == [(inotify._inotify_fd, select.EPOLLIN)]


def test_the_module_is_where_it_is_imported_from() -> None:
    for name in ("CallbackId", "InotifyConstants", "InotifyEvent", "InotifyFD", "Mask", "WatchDescriptor"):
        assert hasattr(inotify_c, name)
