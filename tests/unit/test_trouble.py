# SPDX-License-Identifier: Apache-2.0
"""A disk that is full or read-only, and a kernel or file system that lacks something."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.collect import collect
from hardend.enforcer import Enforcer
from hardend.kernel import flags
from hardend.model import Drift, FileType, Host, State
from hardend.quarantine import Limits
from hardend.table import Held
from tests.unit.conftest import ACCESS, CF, Tree
from tests.unit.mounting import mount_image, mount_memory, private_mounts, remount

pytestmark = pytest.mark.root
CF_PATH = "/etc/mail/sendmail.cf"
ACCESS_PATH = "/etc/mail/access"
SMRSH = "/etc/mail/smrsh"


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory on a disk, in a mount namespace of the test's own."""
    with tempfile.TemporaryDirectory(prefix="hardend-trouble-", dir="/var/tmp") as made, private_mounts():
        yield Path(made)
        subprocess.run(["umount", "-R", "-l", made], check=False, capture_output=True)


@pytest.fixture
def small(top: Path) -> Iterator[Tree]:
    """A guarded tree on a file system of 8 MiB."""
    mount_image(top / "small", top / "image", 8)
    made = Tree(top / "small")
    made.make()
    made.guard()
    yield made
    assert made.enforcer is not None
    made.enforcer.close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed restore is tried again at the next look, not a second later."""
    monkeypatch.setattr("hardend.enforcer._RETRY_S", 0.0)


def _guard(tree: Tree) -> tuple[Enforcer, Held]:
    assert tree.enforcer is not None
    return tree.enforcer, tree.enforcer.table.by_path[CF_PATH]


def _rewrite(tree: Tree, path: str = CF_PATH) -> None:
    """Change the bytes and not the size, as that works on a full disk too."""
    tree.unlock(path)
    with tree.at(path).open("r+b") as file:
        file.write(b"EVIL")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# A full disk ----------------------------------------------------------------------------------------


def _fill(tree: Tree) -> Path:
    filler = tree.root / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1 << 10, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    with pytest.raises(OSError, match="No space") as caught:
        (tree.root / "one more").write_bytes(b"x")
    assert caught.value.errno == errno.ENOSPC
    return filler


def test_on_a_full_disk_what_has_a_spare_is_put_back(small: Tree) -> None:
    enforcer, _ = _guard(small)
    _fill(small)
    for path in (CF_PATH, ACCESS_PATH):
        _rewrite(small, path)
    small.at("/etc/mail").chmod(0o777)
    small.at("/var/spool/mqueue").chmod(0o777)
    small.at("/etc/mail/smrsh/mail").unlink()
    enforcer.full_pass(thorough=False)
    assert small.drifts() == {}
    assert small.recorder.failures == {}
    assert small.at(CF_PATH).read_bytes() == CF


def test_on_a_full_disk_the_rest_is_failed_with_the_reason_and_recovers(small: Tree) -> None:
    enforcer, held = _guard(small)
    filler = _fill(small)
    before = _descriptors()
    for _ in range(3):
        _rewrite(small)
        enforcer.look(held)
        small.stage(enforcer)
    assert held.state is State.FAILED
    assert "the disk is full" in small.recorder.failures[CF_PATH]
    assert enforcer.table.by_path[ACCESS_PATH].state is State.CLEAN
    assert _descriptors() <= before + 1, "a restore that fails leaves nothing open"
    assert not [name for name in os.listdir(small.host.spare_dir) if name.endswith(".new")]
    filler.unlink()
    enforcer.sweep()
    assert small.drifts() == {}
    assert held.state in {State.RESTORED, State.CONTESTED}


def test_on_a_full_disk_what_was_replaced_is_kept(small: Tree) -> None:
    enforcer, held = _guard(small)
    _fill(small)
    _rewrite(small)
    enforcer.look(held)
    (name,) = small.taken()
    assert (Path(small.host.taken_dir) / name).read_bytes().startswith(b"EVIL")


def test_a_failure_is_told_once_while_it_lasts(small: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    enforcer, held = _guard(small)
    _fill(small)
    told = []
    monkeypatch.setattr(small.recorder, "failed", lambda one, _drift: told.append(one.reason))
    for _ in range(4):
        _rewrite(small)
        enforcer.look(held)
    assert len(told) == 1


# A read-only file system ----------------------------------------------------------------------------


def test_a_read_only_file_system_is_failed_with_the_reason_and_recovers(small: Tree) -> None:
    enforcer, held = _guard(small)
    _rewrite(small)
    small.at("/etc/mail").chmod(0o777)
    remount(small.root, "ro")
    for _ in range(3):
        enforcer.full_pass(thorough=True)
    assert held.state is State.FAILED
    assert small.recorder.failures[CF_PATH] == "the file system is read-only"
    assert small.recorder.failures["/etc/mail"] == "the file system is read-only"
    assert ACCESS_PATH not in small.recorder.failures
    remount(small.root, "rw")
    enforcer.sweep()
    assert small.drifts() == {}
    assert small.at(CF_PATH).read_bytes() == CF


@pytest.mark.parametrize("way", ["look", "sweep", "thorough pass", "hint"])
def test_a_lock_that_is_off_on_a_read_only_file_system_is_survived(small: Tree, way: str) -> None:
    enforcer, held = _guard(small)
    small.unlock(CF_PATH)
    remount(small.root, "ro")
    {
        "look": lambda: enforcer.look(held),
        "sweep": enforcer.sweep,
        "thorough pass": lambda: enforcer.full_pass(thorough=True),
        "hint": lambda: enforcer.look_at_lock(held),
    }[way]()
    assert held.state is State.FAILED
    assert held.drift == {Drift.FLAGS}
    assert held.reason == "the file system is read-only"
    remount(small.root, "rw")
    enforcer.sweep()
    assert small.drifts() == {}


def test_a_directory_that_moved_before_it_became_read_only_comes_home_later(small: Tree) -> None:
    enforcer, _ = _guard(small)
    small.at("/etc/mail").rename(small.at("/etc/away"))
    remount(small.root, "ro")
    enforcer.full_pass(thorough=False)
    assert "read-only" in small.recorder.failures["/etc/mail"]
    remount(small.root, "rw")
    enforcer.sweep()
    assert small.drifts() == {}


# What a kernel or a file system may lack --------------------------------------------------------------


def _refuse(number: int) -> object:
    def refuse(*_arguments: object, **_keywords: object) -> object:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", sorted(flags.UNSUPPORTED))
def test_without_inode_flags_content_is_still_put_back(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patched:
        for name in ("get_flags", "set_flags"):
            patched.setattr(f"hardend.kernel.flags.{name}", _refuse(number))
        enforcer = tree.guard()
        assert enforcer.table.by_path[CF_PATH].entry.flags == ""
        with tree.at(CF_PATH).open("r+b") as file:
            file.write(b"EVIL")
        tree.at(ACCESS_PATH).chmod(0o666)
        tree.at("/etc/mail/authinfo").chmod(0o666)
        tree.at("/etc/mail").chmod(0o777)
        enforcer.full_pass(thorough=False)
        assert tree.drifts() == {}
        assert tree.recorder.failures == {}


def test_a_baseline_with_locks_is_held_where_the_flags_went_away(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer, held = _guard(guarded)
    _rewrite(guarded)
    with monkeypatch.context() as patched:
        for name in ("get_flags", "set_flags"):
            patched.setattr(f"hardend.kernel.flags.{name}", _refuse(errno.ENOTTY))
        enforcer.look(held)
        assert guarded.drifts() == {}
    assert guarded.at(CF_PATH).read_bytes() == CF


def test_without_the_right_to_lock_the_path_is_failed_and_nothing_leaks(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer, held = _guard(guarded)
    with monkeypatch.context() as patched:
        _rewrite(guarded)
        patched.setattr("hardend.kernel.flags.set_flags", _refuse(errno.EPERM))
        enforcer.look(held)
        guarded.stage(enforcer)
        before = _descriptors()
        for _ in range(5):
            with guarded.at(CF_PATH).open("r+b") as file:
                file.write(b"EVIL")
            enforcer.look(held)
            guarded.stage(enforcer)
        assert _descriptors() <= before
        assert held.state is State.FAILED
        assert "its lock: an inode flag or a security policy forbids it" in held.reason
        assert guarded.at(CF_PATH).read_bytes() == CF, "the content is back all the same"
    enforcer.sweep()
    assert guarded.drifts() == {}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("kind", ["file", "locked file", "link", "fifo", "directory", "missing"])
def test_without_an_exchange_a_path_is_put_back_and_what_it_replaced_is_kept(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch, number: int, kind: str
) -> None:
    enforcer, held = _guard(guarded)
    monkeypatch.setattr("hardend.restore.exchange", _refuse(number))
    path = guarded.at(CF_PATH)
    _rewrite(guarded)
    if kind == "locked file":
        subprocess.run(["chattr", "+i", str(path)], check=True)
    elif kind != "file":
        path.unlink()
        make = {"link": lambda: path.symlink_to("x"), "fifo": lambda: os.mkfifo(path), "directory": path.mkdir}
        make.get(kind, lambda: None)()
    for _ in range(2):
        enforcer.look(held)
        guarded.stage(enforcer)
    assert guarded.drifts() == {}
    assert path.read_bytes() == CF
    if kind == "missing":
        assert guarded.taken() == []
        return
    (name,) = guarded.taken()
    told = json.loads((Path(guarded.host.taken_dir) / f"{name}.json").read_bytes())
    assert told["kind"] == {"locked file": "file", "link": "symlink"}.get(kind, kind)
    assert not [name for name in os.listdir(guarded.host.spare_dir) if name.endswith((".new", ".replaced"))]


def test_without_an_exchange_there_is_no_moment_without_a_file(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer, held = _guard(guarded)
    monkeypatch.setattr("hardend.restore.exchange", _refuse(errno.EINVAL))
    path = guarded.at(CF_PATH)
    seen = []

    def watched(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object, **keywords: object) -> object:
            try:
                return real(*arguments, **keywords)
            finally:
                seen.append(path.is_file())

        monkeypatch.setattr(f"hardend.restore.os.{name}", call)

    _rewrite(guarded)
    for name in ("link", "rename", "unlink"):
        watched(name)
    enforcer.look(held)
    assert len(seen) >= 3
    assert all(seen)


def test_without_an_exchange_a_refused_rename_leaves_the_next_attempt_free(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer, held = _guard(guarded)
    monkeypatch.setattr("hardend.restore.exchange", _refuse(errno.EINVAL))
    _rewrite(guarded)
    with monkeypatch.context() as patched:
        patched.setattr("hardend.restore.os.rename", _refuse(errno.EIO))
        enforcer.look(held)
    assert held.state is State.FAILED
    assert guarded.at(CF_PATH).read_bytes().startswith(b"EVIL"), "the live object is untouched"
    enforcer.look(held)
    assert guarded.drifts() == {}


@pytest.mark.parametrize("call", ["lstat", "fstat", "pread", "listxattr"])
def test_a_disk_that_fails_is_a_failed_path_and_not_the_end(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    enforcer, held = _guard(guarded)
    with monkeypatch.context() as patched:
        if call == "lstat":
            patched.setattr(Held, "lstat", _refuse(errno.EIO))
        else:
            patched.setattr(f"hardend.observe.os.{call}", _refuse(errno.EIO))
        for _ in range(2):
            enforcer.sweep()
            enforcer.full_pass(thorough=True)
        assert held.state is State.FAILED
        assert held.reason == os.strerror(errno.EIO).lower()
    enforcer.sweep()
    enforcer.full_pass(thorough=True)
    assert held.state is State.CLEAN
    assert guarded.drifts() == {}


# A target on another mount ----------------------------------------------------------------------------


@pytest.fixture
def apart(top: Path) -> Iterator[Tree]:
    """A guarded tree whose /etc/mail is a file system of its own, approved as such."""
    made = Tree(top / "tree")
    made.root.mkdir()
    made.at("/etc/mail").mkdir(parents=True)
    mount_image(made.at("/etc/mail"), top / "image", 8)
    made.at("/etc/mail/lost+found").rmdir()
    made.make = lambda: None  # type: ignore[method-assign] # made below, around the mount
    for directory in (SMRSH, "/var/spool/mqueue"):
        made.at(directory).mkdir(parents=True)
    made.at(CF_PATH).write_bytes(CF)
    made.at(ACCESS_PATH).write_bytes(ACCESS)
    made.at("/etc/mail/authinfo").write_bytes(b"secret")
    made.at("/etc/mail/link").symlink_to("../aliases")
    made.at("/etc/mail/smrsh/mail").symlink_to("/bin/mail")
    made.start(_approve_mount(made))
    yield made
    assert made.enforcer is not None
    made.enforcer.close()


def _approve_mount(tree: Tree) -> Generation:
    generation = tree.generation()
    entries = dict(generation.entries)
    entries["/etc/mail"] = replace(entries["/etc/mail"], mount=True)
    generation = replace(generation, entries=entries)
    store = Store(tree.host)
    with store.locked():
        store.add_generation(generation)
    return generation


def _names(tree: Tree, path: str) -> set[str]:
    return set(os.listdir(tree.at(path)))


def _at(tree: Tree) -> list[Path]:
    """Return where the records say the objects are."""
    taken = Path(tree.host.taken_dir)
    return [Path(json.loads(path.read_bytes())["at"]) for path in sorted(taken.glob("*.json"))]


def test_on_another_mount_a_file_is_put_back_from_beside(apart: Tree) -> None:
    enforcer, held = _guard(apart)
    before = _names(apart, "/etc/mail")
    for _ in range(3):
        _rewrite(apart)
        enforcer.look(held)
        apart.stage(enforcer)
        assert apart.drifts() == {}
    assert held.other_mount
    assert apart.recorder.failures == {}
    assert _names(apart, "/etc/mail") == before | {".hardend"}
    beside = apart.at("/etc/mail/.hardend")
    assert beside.stat().st_mode & 0o777 == 0o700
    places = _at(apart)
    assert len(places) == 3
    assert {path.name for path in places} == _names(apart, "/etc/mail/.hardend")
    assert all(path.parent == beside and path.read_bytes().startswith(b"EVIL") for path in places)
    assert apart.recorder.strangers == []


def test_on_another_mount_the_collector_finds_what_was_taken(apart: Tree) -> None:
    enforcer, held = _guard(apart)
    _rewrite(apart)
    enforcer.look(held)
    summary = collect(apart.host, Limits(256 << 20, 90 * 86400, 8 << 20))
    assert (summary.collected, summary.failed) == (1, [])
    assert _names(apart, "/etc/mail/.hardend") == set()
    objects = Path(apart.host.quarantine_dir) / "objects"
    assert [path.read_bytes()[:4] for path in objects.iterdir()] == [b"EVIL"]


def test_on_another_mount_a_link_and_a_missing_file_are_put_back(apart: Tree) -> None:
    enforcer, _ = _guard(apart)
    apart.at("/etc/mail/smrsh/mail").unlink()
    apart.unlock(CF_PATH)
    apart.at(CF_PATH).unlink()
    enforcer.full_pass(thorough=False)
    assert apart.drifts() == {}
    assert apart.taken() == []


def test_on_another_mount_a_stranger_leaves_the_closed_directory_for_good(apart: Tree) -> None:
    enforcer, _ = _guard(apart)
    smrsh = enforcer.table.by_path[SMRSH]
    apart.at("/etc/mail/smrsh/sh").symlink_to("/bin/sh")
    for _ in range(5):
        enforcer.look_inside(smrsh)
    assert _names(apart, SMRSH) == {"mail", ".hardend"}
    (place,) = _at(apart)
    assert place.parent == apart.at("/etc/mail/smrsh/.hardend")
    assert os.readlink(place) == "/bin/sh"
    assert len(apart.recorder.strangers) == 1


def test_on_another_mount_a_directory_s_impostor_leaves_no_name_behind(apart: Tree) -> None:
    enforcer, _ = _guard(apart)
    before = _names(apart, "/etc/mail")
    apart.at(SMRSH).rename(apart.at("/etc/mail/away"))
    apart.at(SMRSH).symlink_to("/bin")
    enforcer.full_pass(thorough=False)
    assert apart.drifts() == {}
    assert _names(apart, "/etc/mail") == before | {".hardend"}


@pytest.mark.parametrize("impostor", ["file", "link", "another's directory"])
def test_what_has_the_name_of_our_directory_is_in_nobody_s_way(apart: Tree, impostor: str) -> None:
    enforcer, held = _guard(apart)
    beside = apart.at("/etc/mail/.hardend")
    if impostor == "file":
        beside.write_bytes(b"x")
    elif impostor == "link":
        beside.symlink_to("/tmp")
    else:
        beside.mkdir()
        os.chown(beside, 65534, 65534)
    _rewrite(apart)
    enforcer.look(held)
    assert apart.drifts() == {}
    assert beside.is_dir() and not beside.is_symlink() and beside.stat().st_uid == 0


def test_a_program_under_the_name_of_our_directory_is_a_stranger_too(guarded: Tree) -> None:
    enforcer, _ = _guard(guarded)
    smrsh = enforcer.table.by_path[SMRSH]
    for make in (lambda path: path.symlink_to("/bin/sh"), lambda path: path.write_bytes(b"#!/bin/sh\n")):
        make(guarded.at("/etc/mail/smrsh/.hardend"))
        enforcer.look_at_name(smrsh, b".hardend")
        assert _names(guarded, SMRSH) == {"mail"}
    assert len(guarded.recorder.strangers) == 2
    guarded.at("/etc/mail/smrsh/.hardend").mkdir(0o700)
    enforcer.look_inside(smrsh)
    assert len(guarded.recorder.strangers) == 2, "our own directory is none"


def test_a_mount_that_nobody_approved_is_not_taken_for_the_directory(top: Path) -> None:
    tree = Tree(top / "tree")
    tree.root.mkdir()
    tree.make()
    enforcer = tree.guard()
    mount_memory(tree.at("/etc/mail"))
    tree.at(CF_PATH).write_bytes(b"EVIL")
    enforcer.full_pass(thorough=False)
    held = enforcer.table.by_path["/etc/mail"]
    assert held.state is State.FAILED
    assert tree.at(CF_PATH).read_bytes() == b"EVIL", "nothing is written into a foreign file system"
    subprocess.run(["umount", str(tree.at("/etc/mail"))], check=True)
    enforcer.sweep()
    assert tree.drifts() == {}
    tree.remove()


# Impostors that would hold up whoever opens or reads them -----------------------------------------------


@contextlib.contextmanager
def _leased(path: Path) -> Iterator[None]:
    """Hold a write lease on a file from another process: an open of it blocks, or fails."""
    script = (
        "import fcntl, os, signal, sys, time\n"
        "signal.signal(signal.SIGIO, signal.SIG_IGN)\n"
        "fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
        "print('leased', flush=True)\n"
        "time.sleep(100)\n"
    )
    with subprocess.Popen(["python3", "-c", script, str(path)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"leased\n"
            yield
        finally:
            holder.kill()


def _opens(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return what collects the names that are opened from now on."""
    opened: list[object] = []
    real = os.open

    def noted(path: object, *arguments: object, **keywords: object) -> object:
        opened.append(path)
        return real(path, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr("os.open", noted)
    return opened


def test_a_write_lease_holds_nothing_up(guarded: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    enforcer, held = _guard(guarded)
    new = guarded.at("/etc/mail/new")
    new.write_bytes(b"EVIL")
    with _leased(new):
        guarded.unlock(CF_PATH)
        new.rename(guarded.at(CF_PATH))
        opened = _opens(monkeypatch)
        enforcer.look(held)
        assert held.name not in opened, "an open would break the lease, and wait for it"
        assert guarded.at(CF_PATH).read_bytes() == CF
    assert guarded.drifts() == {}


def test_a_fifo_holds_nothing_up(guarded: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    enforcer, held = _guard(guarded)
    secret = enforcer.table.by_path["/etc/mail/authinfo"]
    for one in (held, secret):
        guarded.unlock(one.entry.path)
        guarded.at(one.entry.path).unlink()
        os.mkfifo(guarded.at(one.entry.path))
    opened = _opens(monkeypatch)
    for one in (held, secret):
        enforcer.look(one)
        assert one.name not in opened
    assert guarded.drifts() == {secret.entry.path: frozenset({Drift.TYPE})}
    assert secret.state is State.DRIFTED, "its content is not held: it is only told"


def test_a_sparse_impostor_of_sixteen_terabytes_is_not_read(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer, held = _guard(guarded)
    new = guarded.at("/etc/mail/new")
    new.touch()
    os.truncate(new, (16 << 40) - 4096)
    guarded.unlock(CF_PATH)
    new.rename(guarded.at(CF_PATH))
    size = held.entry.size
    read = []
    real = os.pread

    def noted(descriptor: int, length: int, offset: int) -> bytes:
        data = real(descriptor, length, offset)
        read.append(len(data))
        return data

    monkeypatch.setattr("os.pread", noted)
    enforcer.look(held)
    monkeypatch.undo()
    assert sum(read) <= 2 * size, "only our own copy is read"
    assert guarded.drifts() == {}
    (name,) = guarded.taken()
    assert (Path(guarded.host.taken_dir) / name).stat().st_size == (16 << 40) - 4096


def test_a_full_impostor_directory_is_not_walked(guarded: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    enforcer, held = _guard(guarded)
    guarded.unlock(CF_PATH)
    impostor = guarded.at(CF_PATH)
    impostor.unlink()
    impostor.mkdir()
    for number in range(2000):
        (impostor / f"{number}").touch()
    before = impostor.stat()
    walked: list[object] = []
    monkeypatch.setattr("os.scandir", lambda where: walked.append(where))
    monkeypatch.setattr("os.listdir", lambda where: walked.append(where))
    enforcer.look(held)
    monkeypatch.undo()
    assert walked == []
    assert guarded.drifts() == {}
    (name,) = guarded.taken()
    kept = Path(guarded.host.taken_dir) / name
    assert (kept.stat().st_ino, len(os.listdir(kept))) == (before.st_ino, 2000)


def test_a_flood_of_names_is_looked_at_up_to_a_limit(guarded: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    enforcer, _ = _guard(guarded)
    monkeypatch.setattr("hardend.strangers._MANY_NAMES", 50)
    for number in range(200):
        guarded.at(f"/etc/mail/smrsh/{number}").touch()
    smrsh = enforcer.table.by_path[SMRSH]
    for _ in range(6):
        enforcer.look_inside(smrsh)
    assert _names(guarded, SMRSH) == {"mail"}
    assert len(guarded.taken()) == 200


def test_another_type_of_everything_is_put_back(guarded: Tree) -> None:
    enforcer, held = _guard(guarded)
    made = {FileType.FIFO: os.mkfifo, FileType.DIRECTORY: os.mkdir, FileType.SYMLINK: lambda path: os.symlink("x", path)}
    for make in made.values():
        guarded.unlock(CF_PATH)
        guarded.at(CF_PATH).unlink()
        make(guarded.at(CF_PATH))
        enforcer.look(held)
        assert guarded.drifts() == {}
    assert len(guarded.taken()) == len(made)


def test_the_root_of_the_tree_may_be_a_mount_of_its_own(top: Path) -> None:
    mount_memory(top / "memory")
    tree = Tree(top / "memory")
    tree.make()
    enforcer = tree.guard()
    held = enforcer.table.by_path[CF_PATH]
    with contextlib.suppress(OSError):
        tree.unlock(CF_PATH)
    with tree.at(CF_PATH).open("r+b") as file:
        file.write(b"EVIL")
    enforcer.look(held)
    assert tree.drifts() == {}
    assert Host(str(tree.root)).is_tree
    enforcer.close()
