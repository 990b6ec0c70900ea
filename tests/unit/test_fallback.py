# SPDX-License-Identifier: Apache-2.0
"""A kernel or a file system that lacks something, and a disk that fails."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hardend.aside import move_in
from hardend.kernel import flags
from hardend.model import State
from hardend.table import Held
from tests.unit.conftest import CF, Tree
from tests.unit.scenes import ACCESS_PATH, CF_PATH, SMRSH, descriptors, guard_of, names_in, refuse, rewrite
from tests.unit.scenes import no_waiting as no_waiting  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.root


@pytest.mark.parametrize("number", sorted(flags.UNSUPPORTED))
def test_without_inode_flags_content_is_still_put_back(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patched:
        for name in ("get_flags", "set_flags"):
            patched.setattr(f"hardend.kernel.flags.{name}", refuse(number))
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
    enforcer, held = guard_of(guarded)
    rewrite(guarded)
    with monkeypatch.context() as patched:
        for name in ("get_flags", "set_flags"):
            patched.setattr(f"hardend.kernel.flags.{name}", refuse(errno.ENOTTY))
        enforcer.look(held)
        assert guarded.drifts() == {}
    assert guarded.at(CF_PATH).read_bytes() == CF


def test_without_the_right_to_lock_the_path_is_failed_and_nothing_leaks(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer, held = guard_of(guarded)
    with monkeypatch.context() as patched:
        rewrite(guarded)
        patched.setattr("hardend.kernel.flags.set_flags", refuse(errno.EPERM))
        enforcer.look(held)
        guarded.stage(enforcer)
        before = descriptors()
        for _ in range(5):
            with guarded.at(CF_PATH).open("r+b") as file:
                file.write(b"EVIL")
            enforcer.look(held)
            guarded.stage(enforcer)
        assert descriptors() <= before
        assert held.state is State.FAILED
        assert "its lock: an inode flag or a security policy forbids it" in held.reason
        assert guarded.at(CF_PATH).read_bytes() == CF, "the content is back all the same"
    enforcer.sweep()
    assert guarded.drifts() == {}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("kind", ["file", "locked file", "link", "fifo", "directory", "missing"])
@pytest.mark.parametrize("lacks", [("restore.exchange",), ("restore.exchange", "kernel.exchange.move_in")])
def test_without_an_exchange_a_path_is_put_back_and_what_it_replaced_is_kept(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch, number: int, kind: str, lacks: tuple[str, ...]
) -> None:
    enforcer, held = guard_of(guarded)
    for call in lacks:
        monkeypatch.setattr(f"hardend.{call}", refuse(number))
    path = guarded.at(CF_PATH)
    rewrite(guarded)
    if kind == "locked file":
        subprocess.run(["chattr", "+i", str(path)], check=True)
    elif kind != "file":
        path.unlink()
        makes: dict[str, Callable[[], object]] = {
            "link": lambda: path.symlink_to("x"),
            "fifo": lambda: os.mkfifo(path),
            "directory": path.mkdir,
            "missing": lambda: None,
        }
        makes[kind]()
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


def test_without_flags_a_name_that_is_not_free_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hardend.kernel.exchange.move_in", refuse(errno.EINVAL))
    here = os.open(tmp_path, os.O_RDONLY)
    for name in ("file", "directory"):
        path = tmp_path / name
        path.mkdir() if name == "directory" else path.touch()
        for taken in (b"taken", b"empty"):
            with contextlib.suppress(FileExistsError):
                (tmp_path / "empty").mkdir()
            (tmp_path / "taken").touch()
            with pytest.raises(FileExistsError):
                move_in(here, name.encode(), here, taken)
        move_in(here, name.encode(), here, b"free")
        assert not path.exists()
        (tmp_path / "free").rename(path)
    os.close(here)


def test_without_an_exchange_a_directory_that_moved_comes_home(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer, _ = guard_of(guarded)
    monkeypatch.setattr("hardend.directory.exchange", refuse(errno.EINVAL))
    inode = guarded.at(SMRSH).stat().st_ino
    guarded.at(SMRSH).rename(guarded.at("/etc/mail/away"))
    guarded.at(SMRSH).mkdir()
    guarded.at(f"{SMRSH}/sh").symlink_to("/bin/sh")
    before = names_in(guarded, "/etc/mail") - {"away"}
    enforcer.full_pass(thorough=False)
    assert guarded.drifts() == {}
    assert guarded.at(SMRSH).stat().st_ino == inode
    assert names_in(guarded, "/etc/mail") == before
    (name,) = guarded.taken()
    assert os.listdir(Path(guarded.host.taken_dir) / name) == ["sh"]


def test_without_an_exchange_there_is_no_moment_without_a_file(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer, held = guard_of(guarded)
    monkeypatch.setattr("hardend.restore.exchange", refuse(errno.EINVAL))
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

    rewrite(guarded)
    for name in ("link", "rename", "unlink"):
        watched(name)
    enforcer.look(held)
    assert len(seen) >= 3
    assert all(seen)


def test_without_an_exchange_arefused_rename_leaves_the_next_attempt_free(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer, held = guard_of(guarded)
    monkeypatch.setattr("hardend.restore.exchange", refuse(errno.EINVAL))
    rewrite(guarded)
    with monkeypatch.context() as patched:
        patched.setattr("hardend.restore.os.rename", refuse(errno.EIO))
        enforcer.look(held)
    assert held.state is State.FAILED
    assert guarded.at(CF_PATH).read_bytes().startswith(b"EVIL"), "the live object is untouched"
    enforcer.look(held)
    assert guarded.drifts() == {}


@pytest.mark.parametrize("call", ["lstat", "fstat", "pread", "listxattr"])
def test_a_disk_that_fails_is_a_failed_path_and_not_the_end(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    enforcer, held = guard_of(guarded)
    with monkeypatch.context() as patched:
        if call == "lstat":
            patched.setattr(Held, "lstat", refuse(errno.EIO))
        else:
            patched.setattr(f"hardend.observe.os.{call}", refuse(errno.EIO))
        for _ in range(2):
            enforcer.sweep()
            enforcer.full_pass(thorough=True)
        assert (held.state, held.reason) == (State.FAILED, os.strerror(errno.EIO).lower())
    enforcer.sweep()
    enforcer.full_pass(thorough=True)
    assert (held.state, held.reason) == (State.CLEAN, "")
    assert guarded.drifts() == {}
