# SPDX-License-Identifier: Apache-2.0
"""What the kernel does for us: inode flags, exchanges, strict walks, mounts; on real file systems."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.kernel import exchange, flags, mounts, paths
from tests.unit.mounting import mount_image, mount_memory, private_mounts


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory on the file system that /var is on."""
    with tempfile.TemporaryDirectory(prefix="hardend-kernel-", dir="/var/tmp") as made:
        yield Path(made)
        subprocess.run(["chattr", "-R", "-f", "-i", "-a", made], check=False)


@pytest.fixture
def opened(place: Path) -> Iterator[int]:
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def _letters(path: Path) -> str:
    """Return the flags of a file as lsattr(1) shows them."""
    shown = subprocess.run(["lsattr", "-d", str(path)], check=True, capture_output=True, text=True)
    return "".join(letter for letter in "ia" if letter in shown.stdout.split()[0])


def _with_flags(path: Path, letters: str) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return flags.hold_flags(descriptor, letters)
    finally:
        os.close(descriptor)


@pytest.mark.root
def test_flags_are_those_of_chattr(place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"x")
    for letters in ("i", "a", "ia", ""):
        assert _with_flags(path, letters)
        assert _letters(path) == letters
        descriptor = os.open(path, os.O_RDONLY)
        assert flags.to_letters(flags.get_flags(descriptor)) == letters
        os.close(descriptor)
        assert not _with_flags(path, letters), "nothing was left to do"


@pytest.mark.root
def test_other_flags_are_left_as_they_are(place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"x")
    subprocess.run(["chattr", "+dA", str(path)], check=True)
    _with_flags(path, "i")
    shown = subprocess.run(["lsattr", str(path)], check=True, capture_output=True, text=True).stdout
    assert {"d", "A", "i"} <= set(shown.split()[0])


@pytest.mark.root
def test_a_lock_holds_off_whoever_opens_for_writing(place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"x")
    _with_flags(path, "i")
    for act in (lambda: path.write_bytes(b"y"), path.unlink, lambda: path.chmod(0o777)):
        with pytest.raises(PermissionError):
            act()
    assert path.read_bytes() == b"x"


def test_what_has_no_flags_says_so_in_one_of_the_known_ways() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError, match=r".") as caught:
            flags.get_flags(reader)
        assert caught.value.errno in flags.UNSUPPORTED
    finally:
        os.close(reader)
        os.close(writer)


@given(st.integers(0, (1 << 32) - 1))
def test_letters_and_bits_are_the_same(bits: int) -> None:
    assert flags.from_letters(flags.to_letters(bits)) == bits & flags.HELD


def _kinds(place: Path, name: str) -> dict[str, Path]:
    made = {kind: place / f"{name}-{kind}" for kind in ("file", "directory", "link", "fifo")}
    made["file"].write_text(name)
    made["directory"].mkdir()
    (made["directory"] / "in").write_text(name)
    made["link"].symlink_to("nowhere")
    os.mkfifo(made["fifo"])
    return made


def test_any_two_kinds_are_exchanged(place: Path, opened: int) -> None:
    ones, others = _kinds(place, "one"), _kinds(place, "other")
    for one in ones.values():
        for other in others.values():
            before = one.lstat().st_ino, other.lstat().st_ino
            exchange.exchange(opened, os.fsencode(one.name), opened, os.fsencode(other.name))
            assert (other.lstat().st_ino, one.lstat().st_ino) == before


def test_an_exchange_with_nothing_changes_nothing(place: Path, opened: int) -> None:
    (place / "one").write_bytes(b"x")
    for names in ((b"one", b"none"), (b"none", b"one")):
        with pytest.raises(FileNotFoundError) as caught:
            exchange.exchange(opened, names[0], opened, names[1])
        assert caught.value.filename == os.fsdecode(names[0])
        assert caught.value.filename2 == os.fsdecode(names[1])
    assert os.listdir(place) == ["one"]


@pytest.mark.root
def test_an_exchange_with_what_is_locked_is_refused(place: Path, opened: int) -> None:
    for name in ("one", "other"):
        (place / name).write_text(name)
    _with_flags(place / "other", "i")
    for names in ((b"one", b"other"), (b"other", b"one")):
        with pytest.raises(PermissionError) as caught:
            exchange.exchange(opened, names[0], opened, names[1])
        assert caught.value.errno == errno.EPERM
    assert (place / "one").read_text() == "one"


def test_moving_in_never_replaces(place: Path, opened: int) -> None:
    for name in ("one", "other"):
        (place / name).write_text(name)
    with pytest.raises(FileExistsError):
        exchange.move_in(opened, b"one", opened, b"other")
    assert (place / "other").read_text() == "other"
    exchange.move_in(opened, b"one", opened, b"new")
    assert sorted(os.listdir(place)) == ["new", "other"]


@pytest.mark.root
def test_between_two_mounts_nothing_is_exchanged_or_moved(place: Path, opened: int) -> None:
    (place / "here").write_bytes(b"here")
    with private_mounts():
        mount_memory(place / "there")
        (place / "there/it").write_bytes(b"there")
        there = os.open(place / "there", os.O_RDONLY | os.O_DIRECTORY)
        try:
            for call in (exchange.exchange, exchange.move_in):
                with pytest.raises(OSError, match="cross-device") as caught:
                    call(opened, b"here", there, b"it" if call is exchange.exchange else b"new")
                assert caught.value.errno == errno.EXDEV
        finally:
            os.close(there)
    assert os.listdir(place / "there") == [], "the mount is gone with its namespace"


def test_names_that_are_no_text_are_exchanged(place: Path, opened: int) -> None:
    names = (b"a\n\x1b[2J", b"\xff\xfe")
    for name in names:
        (place / os.fsdecode(name)).write_bytes(name)
    exchange.exchange(opened, names[0], opened, names[1])
    assert (place / os.fsdecode(names[0])).read_bytes() == names[1]


READ = os.O_RDONLY | os.O_NONBLOCK


def test_a_strict_walk_goes_through_real_directories_only(place: Path, opened: int) -> None:
    (place / "a/b").mkdir(parents=True)
    (place / "a/b/file").write_bytes(b"x")
    (place / "to-a").symlink_to("a")
    (place / "a/b/to-file").symlink_to("file")
    descriptor = paths.open_beneath(opened, "a/b/file", READ)
    assert paths.path_of(descriptor) == str(place / "a/b/file")
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
    for path, numbers in (
        ("to-a/b/file", {errno.ELOOP}),
        ("a/b/to-file", {errno.ELOOP}),
        ("../" + place.name + "/a", {errno.EXDEV}),
        ("/etc/passwd", {errno.EXDEV}),
        ("a/../../etc", {errno.EXDEV}),
        ("a/b/file/x", {errno.ENOTDIR}),
        ("a/none", {errno.ENOENT}),
    ):
        with pytest.raises(OSError, match=r".") as caught:
            paths.open_beneath(opened, path, READ)
        assert caught.value.errno in numbers, path
        assert caught.value.filename == path


def test_a_link_of_proc_is_not_followed() -> None:
    proc = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError, match=r".") as caught:
            paths.open_beneath(proc, "root/etc", READ | os.O_DIRECTORY)
        assert caught.value.errno == errno.ELOOP
    finally:
        os.close(proc)


def test_a_directory_is_a_directory(place: Path, opened: int) -> None:
    (place / "file").write_bytes(b"x")
    (place / "real").mkdir()
    (place / "link").symlink_to("real")
    os.mkfifo(place / "fifo")
    os.close(paths.open_directory(opened, "real", may_cross=False))
    for name in ("file", "link", "fifo"):
        with pytest.raises(OSError, match=r"."):
            paths.open_directory(opened, name, may_cross=False)


def test_a_removed_file_is_known_as_removed(place: Path) -> None:
    path = place / "file"
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT)
    path.unlink()
    assert paths.path_of(descriptor).endswith(" (deleted)")
    os.close(descriptor)


@pytest.mark.root
def test_a_mount_point_is_entered_only_where_it_is_expected(place: Path) -> None:
    with private_mounts():
        mount_memory(place / "mounted")
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        with pytest.raises(OSError, match=r".") as caught:
            paths.open_directory(directory, "mounted", may_cross=False)
        assert caught.value.errno == errno.EXDEV
        os.close(paths.open_directory(directory, "mounted", may_cross=True))
        os.close(directory)


@pytest.mark.root
def test_a_small_file_system_of_its_own_has_flags_and_exchange(place: Path) -> None:
    with private_mounts():
        mount_image(place / "small", place / "image", 8)
        (place / "small/one").write_bytes(b"1")
        (place / "small/other").write_bytes(b"2")
        directory = os.open(place / "small", os.O_RDONLY | os.O_DIRECTORY)
        exchange.exchange(directory, b"one", directory, b"other")
        os.close(directory)
        assert (place / "small/one").read_bytes() == b"2"
        assert _with_flags(place / "small/one", "i")
        _with_flags(place / "small/one", "")


# What is mounted where ------------------------------------------------------------------------------


def _escaped(path: bytes) -> bytes:
    """Write a path as the kernel does in mountinfo (mangle_path() with the set of seq_path())."""
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes([byte]) for byte in path)


POINTS = st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name).map(b"/".__add__)


@given(st.lists(st.tuples(st.integers(0, 9999), POINTS, POINTS), max_size=5))
def test_mount_points_of_any_name_are_read(lines: list[tuple[int, bytes, bytes]]) -> None:
    text = b"".join(
        b"%d 1 8:1 %s %s rw,relatime shared:1 - ext4 /dev/%s rw\n"
        % (number, _escaped(root), _escaped(point), _escaped(root))
        for number, root, point in lines
    )
    assert mounts.parse_mountinfo(text) == [(number, os.fsdecode(point)) for number, _, point in lines]


@given(st.binary(max_size=200))
def test_anything_else_in_mountinfo_is_passed_over(text: bytes) -> None:
    for number, point in mounts.parse_mountinfo(text):
        assert number >= 0
        assert isinstance(point, str)


@pytest.mark.root
@pytest.mark.parametrize(
    "name", ["plain", "with space", "tab\there", "line\nfeed", "return\rhere", "back\\slash"]
)
def test_a_mount_is_seen_and_taken_away(place: Path, name: str) -> None:
    source = place / f"source {name}"
    source.mkdir()
    target = place / name
    target.mkdir()
    with private_mounts():
        descriptor = mounts.open_mountinfo()
        try:
            subprocess.run(["mount", "--bind", str(source), str(target)], check=True)
            assert str(target) in [point for _, point in mounts.mount_points(descriptor)]
            mounts.unmount(str(target))
            assert str(target) not in [point for _, point in mounts.mount_points(descriptor)]
            with pytest.raises(OSError, match="Invalid") as caught:
                mounts.unmount(str(target))
            assert caught.value.filename == str(target)
        finally:
            os.close(descriptor)


@pytest.mark.root
def test_a_link_to_a_mount_point_does_not_lead_to_its_unmounting(place: Path) -> None:
    with private_mounts():
        mount_memory(place / "mounted")
        (place / "link").symlink_to("mounted")
        with pytest.raises(OSError, match=r"."):
            mounts.unmount(str(place / "link"))
        assert (place / "mounted").is_mount()
