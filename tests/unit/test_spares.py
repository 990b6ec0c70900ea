# SPDX-License-Identifier: Apache-2.0
"""Staging and setting aside: a spare is complete or not there, and what is evidence is kept."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hardend.aside import BESIDE, Aside, open_beside
from hardend.baseline.store import Store
from hardend.enforcer import Enforcer
from hardend.errors import FileError, StoreError
from hardend.kernel import flags
from hardend.model import Class, Drift, Entry, FileType, Host, Role
from hardend.observe import hash_descriptor, xattrs_of
from hardend.reconcile import History
from hardend.spares import Spares
from hardend.table import Held, Spare
from tests.unit.conftest import CF, Tree

pytestmark = pytest.mark.root
CONTENT = b"approved\n"
NOW = 1_700_000_000_123_456_000
CF_PATH = "/etc/mail/sendmail.cf"


@pytest.fixture
def host() -> Iterator[Host]:
    made = Tree(Path(tempfile.mkdtemp(prefix="hardend-spares-", dir="/var/tmp")))
    yield made.host
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", str(made.root)], check=False)
    made.remove()


@pytest.fixture
def spares(host: Host) -> Iterator[Spares]:
    descriptors = len(os.listdir("/proc/self/fd"))
    made = Spares(host, Store(host))
    yield made
    made.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors, "every spare and directory was closed"


def _entry(host: Host, **fields: object) -> Entry:
    entry = Entry(
        path="/etc/mail/a\n\udcff",
        role=Role.SOURCE,
        cls=Class.LOCKED,
        kind=FileType.FILE,
        uid=3,
        gid=4,
        mode=0o2640,
        flags="i",
        mtime_ns=NOW,
        size=len(CONTENT),
        digest=Store(host).add_object(CONTENT),
        xattrs=(("user.note", "00ff"),),
    )
    return replace(entry, **fields)  # type: ignore[arg-type]


def _held(entry: Entry) -> Held:
    return Held(entry, None, os.fsencode(os.path.basename(entry.path)), History(10, 60))


def _names(host: Host) -> set[str]:
    return set(os.listdir(host.spare_dir))


def test_a_spare_is_all_that_was_approved_but_the_lock(host: Host, spares: Spares) -> None:
    spare = spares.stage(_held(_entry(host)))
    found = os.fstat(spare.descriptor)
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (3, 4, 0o2640)
    assert found.st_mtime_ns == NOW
    assert xattrs_of(spare.descriptor) == (("user.note", "00ff"),)
    assert hash_descriptor(spare.descriptor) == Store.digest_of(CONTENT)
    assert flags.get_flags(spare.descriptor) & flags.HELD == 0, "it must be free to be exchanged"
    assert spare.is_intact()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(spare.descriptor, b"x")
    spares.discard(spare)
    assert _names(host) == set()


def test_a_link_s_spare_is_a_link(host: Host, spares: Spares) -> None:
    entry = _entry(host, kind=FileType.SYMLINK, role=Role.LINK, digest="", target="../a\n\udcff", xattrs=())
    spare = spares.stage(_held(entry))
    (name,) = _names(host)
    found = os.lstat(os.path.join(host.spare_dir, name))
    assert os.readlink(os.path.join(host.spare_dir, name)) == "../a\n\udcff"
    assert (found.st_uid, found.st_gid, found.st_mtime_ns) == (3, 4, NOW)
    assert found.st_ino == spare.inode
    spares.discard(spare)


def test_spares_have_names_of_their_own(host: Host, spares: Spares) -> None:
    held = _held(_entry(host))
    staged = [spares.stage(held) for _ in range(5)]
    assert len(_names(host)) == 5
    assert not [name for name in _names(host) if name.endswith(".new")]
    for spare in staged:
        spares.discard(spare)


def _fails(call: str, number: int = errno.ENOSPC) -> Callable[[pytest.MonkeyPatch], None]:
    def refuse(*_arguments: object, **_keywords: object) -> None:
        raise OSError(number, os.strerror(number))

    where = "hardend.spares.Syncer.sync" if call == "fsync" else f"hardend.spares.os.{call}"
    return lambda patched: patched.setattr(where, refuse)


@pytest.mark.parametrize("call", ["fchown", "fchmod", "setxattr", "utime", "fsync", "rename", "write"])
def test_a_staging_that_fails_anywhere_leaves_nothing(
    host: Host, spares: Spares, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    held = _held(_entry(host))
    with monkeypatch.context() as patched:
        _fails(call)(patched)
        with pytest.raises(OSError, match="No space"):
            spares.stage(held)
    assert _names(host) == set()


@pytest.mark.parametrize("call", ["symlink", "chown", "utime", "rename"])
def test_a_link_s_staging_that_fails_anywhere_leaves_nothing(
    host: Host, spares: Spares, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    held = _held(_entry(host, kind=FileType.SYMLINK, role=Role.LINK, digest="", target="x"))
    with monkeypatch.context() as patched:
        _fails(call)(patched)
        with pytest.raises(OSError, match="No space"):
            spares.stage(held)
    assert _names(host) == set()


def test_unverified_bytes_are_never_staged(host: Host, spares: Spares) -> None:
    entry = _entry(host)
    (Path(host.store_dir) / "objects" / entry.digest).write_bytes(b"EVIL")
    with pytest.raises(StoreError, match="damaged"):
        spares.stage(_held(entry))
    assert _names(host) == set()


def _replaced(path: Path) -> Path:
    path.unlink()
    return path


TAMPERED: dict[str, Callable[[Path], object]] = {
    "written to": lambda path: path.write_bytes(b"EVIL"),
    "chmod": lambda path: path.chmod(0o666),
    "touched": os.utime,
    "removed": Path.unlink,
    "replaced": lambda path: _replaced(path).write_bytes(CONTENT),
    "linked": lambda path: os.link(path, path.with_name("second")),
    "a link": lambda path: _replaced(path).symlink_to("/etc/shadow"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_spare_that_was_touched_is_known_and_is_not_removed_as_ours(
    host: Host, spares: Spares, how: str
) -> None:
    spare = spares.stage(_held(_entry(host)))
    path = Path(host.spare_dir) / os.fsdecode(spare.name)
    time.sleep(0.02)  # the clock of ctime is as coarse as a tick on older kernels
    TAMPERED[how](path)
    assert not spare.is_intact()
    before = _names(host)
    spares.discard(spare)
    assert _names(host) == before


def test_the_staging_directory_is_made_ours_whatever_was_done_to_it(host: Host) -> None:
    os.makedirs(host.spare_dir)
    os.chown(host.spare_dir, 65534, 65534)
    os.chmod(host.spare_dir, 0o777)
    subprocess.run(["chattr", "+i", host.spare_dir], check=True)
    made = Spares(host, Store(host))
    found = os.stat(host.spare_dir)
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, 0, 0o700)
    made.discard(made.stage(_held(_entry(host))))
    made.close()


@pytest.mark.parametrize("name", ["spare", "taken"])
def test_a_staging_directory_that_leads_elsewhere_is_refused(host: Host, name: str) -> None:
    os.makedirs(host.config_dir)
    os.makedirs(host.at("/elsewhere"))
    os.symlink(host.at("/elsewhere"), os.path.join(host.config_dir, name))
    with pytest.raises(FileError, match=name) as caught:
        _ = Spares(host, Store(host)) if name == "spare" else Aside(host)
    assert "root" in caught.value.hint
    assert os.listdir(host.at("/elsewhere")) == []


def test_after_a_crash_our_own_copies_go_and_everything_else_is_named(host: Host, spares: Spares) -> None:
    entry = _entry(host)
    os.close(spares.stage(_held(entry)).descriptor)
    directory = Path(host.spare_dir)
    (directory / "unfinished.new").write_bytes(b"half")
    (directory / "poisoned").write_bytes(b"EVIL")
    (directory / "link").symlink_to("/etc/shadow")
    os.mkfifo(directory / "fifo")
    (directory / "directory").mkdir()
    (directory / "sparse").touch()
    os.truncate(directory / "sparse", 8 << 40)
    strange = set(spares.leftovers({entry.digest}))
    assert strange == {b"poisoned", b"link", b"fifo", b"directory", b"sparse"}
    assert {os.fsencode(name) for name in _names(host)} == strange


def test_a_copy_of_what_is_no_longer_approved_is_named(host: Host, spares: Spares) -> None:
    os.close(spares.stage(_held(_entry(host))).descriptor)
    assert len(spares.leftovers(set())) == 1
    assert len(_names(host)) == 1


# Setting aside -----------------------------------------------------------------------------------------


@pytest.fixture
def aside(host: Host) -> Iterator[Aside]:
    made = Aside(host)
    yield made
    made.close()


@pytest.fixture
def etc(host: Host) -> Iterator[int]:
    os.makedirs(host.at("/etc"), exist_ok=True)
    descriptor = os.open(host.at("/etc"), os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def _record(host: Host, identifier: str) -> dict[str, object]:
    found = json.loads((Path(host.taken_dir) / f"{identifier}.json").read_bytes())
    assert isinstance(found, dict)
    return found


def test_what_is_taken_keeps_its_inode_and_has_its_story(host: Host, aside: Aside, etc: int) -> None:
    path = Path(host.at("/etc/bad"))
    path.write_bytes(b"EVIL")
    path.chmod(0o4755)
    os.chown(path, 5, 6)
    inode = path.stat().st_ino
    aside.generation = 7
    taken = aside.take(etc, b"bad", _entry(host), frozenset({Drift.MODE, Drift.CONTENT}), NOW)
    aside.write_record(taken, "")
    assert not path.exists()
    assert (Path(host.taken_dir) / taken.id).stat().st_ino == inode
    record = _record(host, taken.id)
    assert record["id"] == record["incident"] == taken.id == "20231114T221320.123456-0001"
    assert record["path"] == "/etc/mail/a\n\udcff"
    assert record["drift"] == ["content", "mode"]
    assert (record["generation"], record["kind"], record["size"]) == (7, "file", 4)
    assert (record["uid"], record["gid"]) == (5, 6)
    assert record["time"] == "2023-11-14T22:13:20.123456+00:00"
    assert "at" not in record


def test_ids_are_never_used_twice_and_sort_by_time(host: Host, aside: Aside, etc: int) -> None:
    ids = []
    for number in range(20):
        Path(host.at("/etc/bad")).write_bytes(b"x")
        ids.append(aside.take(etc, b"bad", _entry(host), frozenset(), NOW + number * 1000).id)
    assert ids == sorted(set(ids))
    assert aside.count == 20


def test_what_is_not_there_is_not_taken(host: Host, aside: Aside, etc: int) -> None:
    with pytest.raises(FileNotFoundError):
        aside.take(etc, b"none", _entry(host), frozenset(), NOW)
    assert os.listdir(host.taken_dir) == []


def test_a_record_that_cannot_be_written_leaves_the_object(
    host: Host, aside: Aside, etc: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(host.at("/etc/bad")).write_bytes(b"EVIL")
    taken = aside.take(etc, b"bad", _entry(host), frozenset(), NOW)

    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr("hardend.aside.os.write", full)
        aside.write_record(taken, "")
    assert os.listdir(host.taken_dir) == [taken.id]


def test_in_a_fight_plain_files_are_dropped_and_the_rest_is_kept(host: Host, aside: Aside, etc: int) -> None:
    top = Path(host.at("/etc"))
    (top / "file").write_bytes(b"x")
    (top / "link").symlink_to("x")
    (top / "directory").mkdir()
    os.mkfifo(top / "fifo")
    assert [aside.forget(etc, name) for name in (b"file", b"link", b"directory", b"fifo", b"none")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert sorted(set(os.listdir(top)) - {"hardend"}) == ["directory", "fifo"]


@pytest.mark.parametrize(
    "found", ["nothing", "ours", "file", "link to a directory", "of another", "open to all"]
)
def test_the_directory_beside_is_always_ours(host: Host, etc: int, found: str) -> None:
    path = Path(host.at("/etc")) / os.fsdecode(BESIDE)
    if found == "file":
        path.write_bytes(b"x")
    elif found == "link to a directory":
        path.symlink_to("/tmp")
    elif found != "nothing":
        path.mkdir(0o700)
        os.chown(path, *((65534, 65534) if found == "of another" else (0, 0)))
        path.chmod(0o777 if found == "open to all" else 0o700)
    descriptor = open_beside(etc)
    seen = os.fstat(descriptor)
    os.close(descriptor)
    assert (path.lstat().st_ino, seen.st_uid, seen.st_mode & 0o777) == (seen.st_ino, 0, 0o700)
    moved = [name for name in os.listdir(host.at("/etc")) if name.startswith("hardend-")]
    assert len(moved) == (found not in {"nothing", "ours"}), "what had its name is kept"


# In the enforcer ----------------------------------------------------------------------------------------


def _guard(tree: Tree) -> tuple[Enforcer, Held, Spare]:
    assert tree.enforcer is not None
    held = tree.enforcer.table.by_path[CF_PATH]
    assert held.spare is not None
    return tree.enforcer, held, held.spare


@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_spare_is_never_put_in_place(guarded: Tree, how: str) -> None:
    enforcer, held, spare = _guard(guarded)
    time.sleep(0.02)
    TAMPERED[how](Path(guarded.host.spare_dir) / os.fsdecode(spare.name))
    guarded.unlock(CF_PATH)
    guarded.at(CF_PATH).write_bytes(b"bad")
    enforcer.look(held)
    assert guarded.at(CF_PATH).read_bytes() == CF
    assert guarded.drifts() == {}


def test_a_spare_poisoned_between_the_check_and_the_exchange_does_not_stay(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer, held, spare = _guard(guarded)
    path = Path(guarded.host.spare_dir) / os.fsdecode(spare.name)
    real = Spare.is_intact

    def checked_then_poisoned(one: Spare) -> bool:
        intact = real(one)
        if one is spare:
            path.write_bytes(b"EVIL")
        return intact

    guarded.unlock(CF_PATH)
    guarded.at(CF_PATH).write_bytes(b"bad")
    with monkeypatch.context() as patched:
        patched.setattr(Spare, "is_intact", checked_then_poisoned)
        enforcer.look(held)
    assert guarded.at(CF_PATH).read_bytes() == CF
    assert guarded.drifts() == {}
    kept = {(Path(guarded.host.taken_dir) / name).read_bytes() for name in guarded.taken()}
    assert kept == {b"bad", b"EVIL"}


def test_a_large_entry_keeps_no_spare_and_is_put_back_from_its_object(tree: Tree) -> None:
    tree.settings = replace(tree.settings, spare_max_mib=0)
    enforcer = tree.guard()
    held = enforcer.table.by_path[CF_PATH]
    assert held.spare is None
    tree.unlock(CF_PATH)
    tree.at(CF_PATH).write_bytes(b"bad")
    enforcer.look(held)
    assert tree.at(CF_PATH).read_bytes() == CF
    assert tree.drifts() == {}
