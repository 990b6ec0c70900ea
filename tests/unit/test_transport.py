# SPDX-License-Identifier: Apache-2.0
"""Generations as tar and plain files: the same bytes out, and nothing in that is not what was signed."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hardend.baseline import manifest, transport
from hardend.baseline.signature import SignatureError
from hardend.baseline.store import Store
from hardend.errors import FileError, HardendError, StoreError
from hardend.model import Class, Entry, Host
from tests.unit.exports import OBJECT, receive, sign_it, tar_of
from tests.unit.exports import directory as directory  # noqa: PLC0414 - a fixture
from tests.unit.exports import host as host  # noqa: PLC0414 - a fixture
from tests.unit.exports import put as put  # noqa: PLC0414 - a fixture
from tests.unit.generations import CONTENT, commit
from tests.unit.generations import generation as make
from tests.unit.signers import line, trust
from tests.unit.signers import ops as ops  # noqa: PLC0414 - a fixture

# Out ----------------------------------------------------------------------------------------------


def test_the_same_generation_gives_the_same_bytes(host: Host, tmp_path: Path) -> None:
    other = Host(str(tmp_path / "other"))
    shutil.copytree(host.root, other.root)
    for path in Path(other.root).rglob("*"):
        os.utime(path, (1, 1))
    assert tar_of(host) == tar_of(host) == tar_of(other)
    commit(Store(host), 2)
    assert tar_of(host, 1) == tar_of(other)


def test_tar_itself_reads_it_sorted_and_without_a_trace_of_the_host(host: Host) -> None:
    with tarfile.open(fileobj=io.BytesIO(tar_of(host))) as tar:
        members = tar.getmembers()
        assert [item.name for item in members] == ["manifest.json", "manifest.json.sig", OBJECT]
        seen = {(item.mtime, item.uid, item.gid, item.uname, item.gname, item.mode) for item in members}
        assert seen == {(0, 0, 0, "", "", 0o600)}
        content = tar.extractfile(OBJECT)
        assert content is not None
        assert content.read() == CONTENT[1]


def test_plain_files_are_root_s_alone_and_the_same_as_in_the_tar(host: Host, directory: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(tar_of(host))) as tar:
        for item in tar.getmembers():
            content = tar.extractfile(item)
            assert content is not None
            assert (directory / item.name).read_bytes() == content.read()
    for path in (directory, *directory.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_an_export_takes_the_place_of_the_one_before(host: Host, directory: Path, ops: Path) -> None:
    store = Store(host)
    commit(store, 2)
    transport.write_directory(store, 2, str(directory))
    names = sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
    assert names == ["manifest.json", "objects", f"objects/{Store.digest_of(CONTENT[2])}"]
    sign_it(store, 2, ops)
    transport.write_directory(store, 2, str(directory))
    assert receive(host, directory) == {"/etc/cf": CONTENT[2]}


def test_a_directory_with_anything_else_is_left_alone(host: Host, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter").write_bytes(b"dear")
    with pytest.raises(FileError, match="letter is no part"):
        transport.write_directory(Store(host), 1, str(tmp_path / "home"))
    assert (tmp_path / "home/letter").read_bytes() == b"dear"
    assert not (tmp_path / "home/manifest.json").exists()


def test_a_damaged_object_is_not_exported(host: Host, tmp_path: Path) -> None:
    (Path(host.store_dir) / OBJECT).write_bytes(b"x")
    with pytest.raises(StoreError, match="damaged"):
        tar_of(host)
    with pytest.raises(StoreError, match="damaged"):
        transport.write_directory(Store(host), 1, str(tmp_path / "out"))
    assert not (tmp_path / "out/manifest.json").exists()


# In -----------------------------------------------------------------------------------------------


def test_what_was_exported_is_received(host: Host, directory: Path, put: Callable[[bytes], Path]) -> None:
    assert receive(host, directory) == {"/etc/cf": CONTENT[1]}
    assert receive(host, put(tar_of(host))) == {"/etc/cf": CONTENT[1]}
    (directory.parent / "link").symlink_to(directory)
    assert receive(host, directory.parent / "link") == {"/etc/cf": CONTENT[1]}


@pytest.mark.parametrize("options", [["--format=ustar"], ["--format=gnu"], []])
def test_a_plain_tar_of_the_directory_is_received_too(
    host: Host, directory: Path, options: list[str]
) -> None:
    made = directory.parent / "packed.tar"
    subprocess.run(["tar", "-c", *options, "-f", made, "-C", directory, "."], check=True, timeout=60)
    assert receive(host, made) == {"/etc/cf": CONTENT[1]}


def test_a_tar_of_the_seventh_edition_is_none(host: Host, directory: Path) -> None:
    made = directory.parent / "packed.tar"
    subprocess.run(["tar", "-c", "--format=v7", "-f", made, "-C", directory, "."], check=True, timeout=60)
    with pytest.raises(FileError, match="not a tar"):
        receive(host, made)


def test_what_is_not_signed_is_refused(host: Host, directory: Path) -> None:
    (directory / "manifest.json.sig").unlink()
    with pytest.raises(SignatureError, match="not signed") as caught:
        receive(host, directory)
    assert "-n baseline@hardend" in caught.value.hint


def test_the_signature_is_checked_before_the_manifest_is_read(host: Host, directory: Path) -> None:
    (directory / "manifest.json").write_bytes(b"[" * 100_000)
    with pytest.raises(SignatureError, match="incorrect signature"):
        receive(host, directory)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _sparse(path: Path) -> None:
    os.truncate(path, 1 << 42)


def _linked(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def _objects_elsewhere(directory: Path) -> None:
    (directory / "objects").rename(directory.parent / "elsewhere")
    (directory / "objects").symlink_to("../elsewhere")


def _shadow(directory: Path) -> None:
    (directory / OBJECT).unlink()
    (directory / OBJECT).symlink_to("/etc/shadow")


def _directory_for_signature(directory: Path) -> None:
    (directory / "manifest.json.sig").unlink()
    (directory / "manifest.json.sig").mkdir()


HOSTILE_DIRECTORIES: dict[str, Callable[[Path], object]] = {
    "a stranger": lambda d: (d / "README").touch(),
    "a hidden stranger": lambda d: (d / ".git").mkdir(),
    "a stranger among the objects": lambda d: (d / "objects/x").touch(),
    "a directory among the objects": lambda d: (d / "objects" / ("0" * 64)).mkdir(),
    "an object that is not named": lambda d: (d / "objects" / ("0" * 64)).touch(),
    "a name with an escape": lambda d: (d / "\x1b[2J").touch(),
    "no manifest": lambda d: (d / "manifest.json").unlink(),
    "no objects": lambda d: shutil.rmtree(d / "objects"),
    "a missing object": lambda d: (d / OBJECT).unlink(),
    "a fifo for a manifest": lambda d: _fifo(d / "manifest.json"),
    "a fifo for an object": lambda d: _fifo(d / OBJECT),
    "a link for an object": lambda d: _linked(d / OBJECT),
    "a link to root's files": _shadow,
    "a link for objects": _objects_elsewhere,
    "a link for the signature": lambda d: _linked(d / "manifest.json.sig"),
    "a directory for the signature": _directory_for_signature,
    "4 TB of manifest": lambda d: _sparse(d / "manifest.json"),
    "4 TB of signature": lambda d: _sparse(d / "manifest.json.sig"),
    "4 TB of object": lambda d: _sparse(d / OBJECT),
    "another object": lambda d: (d / OBJECT).write_bytes(CONTENT[1][::-1]),
    "a longer object": lambda d: (d / OBJECT).write_bytes(CONTENT[1] + b"\n"),
}


@pytest.mark.parametrize("hostile", HOSTILE_DIRECTORIES)
def test_a_hostile_directory_is_refused(host: Host, directory: Path, hostile: str) -> None:
    HOSTILE_DIRECTORIES[hostile](directory)
    with pytest.raises((FileError, StoreError)) as caught:
        receive(host, directory)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["/dev/zero", "/nonexistent", "/proc/self/mem", "a\0b", ""])
def test_what_is_neither_file_nor_directory_is_refused(host: Host, name: str) -> None:
    with pytest.raises(FileError):
        receive(host, name)


def test_a_signed_generation_that_no_approval_makes_is_refused(
    host: Host, ops: Path, tmp_path: Path
) -> None:
    store = Store(host)
    generation = make(store, 2)
    secret = replace(generation.entries["/etc/cf"], cls=Class.ATTRIBUTES)
    with store.locked():
        store.add_generation(replace(generation, entries={**generation.entries, "/etc/cf": secret}))
    sign_it(store, 2, ops)
    transport.write_directory(store, 2, str(tmp_path / "secret"))
    with pytest.raises(StoreError, match="held by attributes, and content is given"):
        receive(host, tmp_path / "secret")


def test_an_object_of_another_size_than_signed_is_refused(host: Host, ops: Path, tmp_path: Path) -> None:
    store = Store(host)
    generation = make(store, 2)
    entry: Entry = replace(generation.entries["/etc/cf"], size=5)
    with store.locked():
        store.add_generation(replace(generation, entries={**generation.entries, "/etc/cf": entry}))
    sign_it(store, 2, ops)
    transport.write_directory(store, 2, str(tmp_path / "sized"))
    with pytest.raises(StoreError, match="another size than signed"):
        receive(host, tmp_path / "sized")


# Any bytes ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, ops: Path) -> tuple[Host, bytes]:
    """A host and its signed export, for all examples."""
    made = Host(str(tmp_path_factory.mktemp("signed")))
    trust(made, line(ops))
    commit(Store(made), 1)
    sign_it(Store(made), 1, ops)
    return made, tar_of(made)


def refusal(host: Host, path: str) -> str:
    """Return why an export is refused; "" for one that verifies, which is asserted to be the signed one."""
    said = ""
    try:
        with transport.received(host, path) as received:
            entries = [entry for entry in received.generation.entries.values() if entry.digest]
            contents = [received.object(entry) for entry in entries]
    except HardendError as error:
        said = str(error)
    assert said.isprintable()
    if not said:
        assert contents == [CONTENT[1]]
        assert manifest.digest(received.signed.manifest) == Store(host).manifest_digest(1)
    return said


EDITS = st.lists(st.tuples(st.integers(0, 1 << 14), st.binary(max_size=24)), max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=2000), edits=EDITS, cut=st.integers(0, 1 << 14), checksum=st.booleans())
@example(junk=b"", edits=[], cut=1 << 14, checksum=False)
def test_any_bytes_as_a_tar_are_refused_or_verify(
    signed: tuple[Host, bytes], junk: bytes, edits: list[tuple[int, bytes]], cut: int, checksum: bool
) -> None:
    host, whole = signed
    data = bytearray(whole if edits or not junk else junk)
    for place, value in edits:
        at = place % max(1, len(data))
        data[at : at + len(value)] = value
    if checksum:  # what a hostile carrier would see to
        for at in range(0, len(data) - 511, 512):
            if data[at + 257 : at + 262] == b"ustar":
                plain = data[at : at + 148] + b" " * 8 + data[at + 156 : at + 512]
                data[at + 148 : at + 156] = b"%06o\0 " % sum(plain)
    with tempfile.NamedTemporaryFile() as file:
        file.write(data[:cut])
        file.flush()
        said = refusal(host, file.name)
    assert not said or data[:cut] != whole


NAMES = st.one_of(
    st.sampled_from(["manifest.json", "manifest.json.sig", OBJECT, "objects", "objects/" + "0" * 64]),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(NAMES, st.one_of(st.none(), st.binary(max_size=300)), max_size=4))
@example(files={})
def test_any_directory_is_refused_or_verifies(
    signed: tuple[Host, bytes], files: dict[str, bytes | None]
) -> None:
    """The signed export, with these files in it or instead of its own; None takes one away."""
    host, whole = signed
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
            tar.extractall(directory, filter="data")
        for name, content in files.items():
            place = Path(directory, name)
            if content is not None:
                if not place.is_dir() and name not in {".", ".."}:
                    place.write_bytes(content)
            elif place.is_file():
                place.unlink()
        said = refusal(host, directory)
    assert not said or files
