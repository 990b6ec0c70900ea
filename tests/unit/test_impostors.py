# SPDX-License-Identifier: Apache-2.0
"""Impostors that would hold up whoever opens, reads or walks them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hardend.model import Drift, State
from hardend.restore import unlock
from hardend.table import Held
from tests.unit.conftest import CF, Tree
from tests.unit.scenes import CF_PATH, SMRSH, guard_of, names_in
from tests.unit.scenes import top as top  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.root


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
    enforcer, held = guard_of(guarded)
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


def test_a_leased_impostor_is_not_judged_by_the_file_before_it(guarded: Tree) -> None:
    enforcer, _ = guard_of(guarded)
    path = guarded.at("/etc/mail/authinfo")
    secret = enforcer.table.by_path["/etc/mail/authinfo"]
    new = guarded.at("/etc/mail/new")
    new.write_bytes(b"EVIL")
    new.chmod(0o600)
    with _leased(new):
        new.rename(path)
        for _ in range(2):
            enforcer.sweep()
            assert (secret.state, secret.descriptor) == (State.FAILED, -1)
            assert "a write lease" in secret.reason
    enforcer.sweep()
    assert secret.state is State.CLEAN
    assert os.fstat(secret.descriptor).st_ino == path.stat().st_ino


def test_a_file_system_that_keeps_its_times_at_a_truncation_hides_nothing(top: Path) -> None:
    where = top / "ram"
    where.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", str(where)], check=True)
    tree = Tree(where)
    tree.make()
    enforcer = tree.guard()
    held = enforcer.table.by_path[CF_PATH]
    held.settled = True
    before = tree.at(CF_PATH).stat().st_ctime_ns
    os.truncate(tree.at(CF_PATH), 0)
    assert tree.at(CF_PATH).stat().st_ctime_ns == before
    enforcer.look(held)
    assert tree.drifts() == {}
    enforcer.close()


def test_a_fifo_holds_nothing_up(guarded: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    enforcer, held = guard_of(guarded)
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
    enforcer, held = guard_of(guarded)
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
    enforcer, held = guard_of(guarded)
    guarded.unlock(CF_PATH)
    impostor = guarded.at(CF_PATH)
    impostor.unlink()
    impostor.mkdir()
    for number in range(2000):
        (impostor / f"{number}").touch()
    before = impostor.stat()
    walked: list[object] = []
    monkeypatch.setattr("os.scandir", walked.append)
    monkeypatch.setattr("os.listdir", walked.append)
    enforcer.look(held)
    monkeypatch.undo()
    assert walked == []
    assert guarded.drifts() == {}
    (name,) = guarded.taken()
    kept = Path(guarded.host.taken_dir) / name
    assert (kept.stat().st_ino, len(os.listdir(kept))) == (before.st_ino, 2000)


def test_a_flood_of_names_is_looked_at_up_to_a_limit(guarded: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    enforcer, _ = guard_of(guarded)
    monkeypatch.setattr("hardend.strangers._MANY_NAMES", 50)
    for number in range(200):
        guarded.at(f"/etc/mail/smrsh/{number}").touch()
    smrsh = enforcer.table.by_path[SMRSH]
    for _ in range(6):
        enforcer.look_inside(smrsh)
    assert names_in(guarded, SMRSH) == {"mail"}
    assert len(guarded.taken()) == 200


def test_another_type_of_everything_is_put_back(guarded: Tree) -> None:
    enforcer, held = guard_of(guarded)
    kinds: list[Callable[[Path], object]] = [os.mkfifo, os.mkdir, lambda path: path.symlink_to("x")]
    for make in kinds:
        guarded.unlock(CF_PATH)
        guarded.at(CF_PATH).unlink()
        make(guarded.at(CF_PATH))
        enforcer.look(held)
        assert guarded.drifts() == {}
    assert len(guarded.taken()) == len(kinds)


def test_a_program_under_the_name_of_our_directory_is_a_stranger_too(guarded: Tree) -> None:
    enforcer, _ = guard_of(guarded)
    smrsh = enforcer.table.by_path[SMRSH]
    program = guarded.at("/etc/mail/smrsh/.hardend")
    makes: list[Callable[[], object]] = [
        lambda: program.symlink_to("/bin/sh"),
        lambda: program.write_bytes(b"#!/bin/sh\n"),
    ]
    for make in makes:
        make()
        enforcer.look_at_name(smrsh, b".hardend")
        assert names_in(guarded, SMRSH) == {"mail"}
    assert len(guarded.recorder.strangers) == 2
    guarded.at("/etc/mail/smrsh/.hardend").mkdir(0o700)
    enforcer.look_inside(smrsh)
    assert len(guarded.recorder.strangers) == 2, "our own directory is none"


def test_a_link_that_comes_after_the_look_does_not_unlock_what_it_leads_to(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, held = guard_of(guarded)
    victim = guarded.at("/victim")
    victim.write_bytes(b"x")
    subprocess.run(["chattr", "+i", str(victim)], check=True)
    seen = victim.lstat()
    guarded.unlock(CF_PATH)
    guarded.at(CF_PATH).unlink()
    guarded.at(CF_PATH).symlink_to(victim)
    with monkeypatch.context() as patched:
        patched.setattr(Held, "lstat", lambda _held: seen)
        unlock(held)
    with pytest.raises(PermissionError):
        victim.write_bytes(b"y")
