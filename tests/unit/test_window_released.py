# SPDX-License-Identifier: Apache-2.0
"""What an enforcer does with paths that a window lets go: it notes, it never puts back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from hardend import window, window_files
from hardend.enforcer import Enforcer
from hardend.kernel import flags
from hardend.model import Class, Drift, State
from hardend.released import let_go, take_back
from hardend.window import Window
from tests.unit.command import is_locked
from tests.unit.conftest import ACCESS, CF, Tree

pytestmark = pytest.mark.root
CF_PATH = "/etc/mail/sendmail.cf"
ACCESS_PATH = "/etc/mail/access"
SMRSH = "/etc/mail/smrsh"


def opened(tree: Tree, *named: str) -> tuple[Enforcer, Window]:
    """Open a window as the guard does: written, marked, locks taken off."""
    enforcer = tree.enforcer
    assert enforcer is not None and enforcer.generation is not None
    paths, trees = window.expand(enforcer.generation.entries, named)
    made = window.make(tree.host, paths=paths, trees=trees, seconds=600, reason="why", by="alice", uid=0)
    window_files.write(tree.host, made)
    enforcer.released.windows[made.id] = made
    enforcer.released.tells = True
    enforcer.released.mark(enforcer.table)
    let_go(enforcer.table)
    enforcer.full_pass(thorough=True)
    return enforcer, made


def closed(enforcer: Enforcer, made: Window) -> None:
    """Close it as the guard does."""
    ended = [held for held in enforcer.table if held.window]
    del enforcer.released.windows[made.id]
    enforcer.released.mark(enforcer.table)
    take_back(ended)
    enforcer.full_pass(thorough=True)


def state_of(enforcer: Enforcer, path: str) -> tuple[State, frozenset[Drift]]:
    held = enforcer.table.by_path[path]
    return held.state, held.drift


def test_only_the_named_path_is_let_go(guarded: Tree) -> None:
    enforcer, _ = opened(guarded, ACCESS_PATH)
    assert not is_locked(guarded, ACCESS_PATH)
    assert is_locked(guarded, CF_PATH)
    guarded.unlock(CF_PATH)
    guarded.at(CF_PATH).write_bytes(b"evil")
    guarded.at(ACCESS_PATH).write_bytes(b"wanted")
    enforcer.full_pass(thorough=True)
    assert guarded.at(CF_PATH).read_bytes() == CF
    assert guarded.at(ACCESS_PATH).read_bytes() == b"wanted"
    assert [path for path, _ in guarded.recorder.restored_paths] == [CF_PATH]


def append(tree: Tree) -> None:
    with tree.at(ACCESS_PATH).open("ab") as file:
        file.write(b"more")


def rename_over(tree: Tree) -> None:
    aside = tree.at("/etc/mail/.access.swp")
    aside.write_bytes(b"other")
    aside.rename(tree.at(ACCESS_PATH))


def delete(tree: Tree) -> None:
    tree.at(ACCESS_PATH).unlink()


def chmod(tree: Tree) -> None:
    tree.at(ACCESS_PATH).chmod(0o600)


def chown(tree: Tree) -> None:
    os.chown(tree.at(ACCESS_PATH), 12, 13)


def symlink(tree: Tree) -> None:
    tree.at(ACCESS_PATH).unlink()
    tree.at(ACCESS_PATH).symlink_to("elsewhere")


def setfattr(tree: Tree) -> None:
    os.setxattr(tree.at(ACCESS_PATH), "user.note", b"1")


def lock_it_oneself(tree: Tree) -> None:
    descriptor = os.open(tree.at(ACCESS_PATH), os.O_RDONLY)
    flags.hold_flags(descriptor, "i")
    os.close(descriptor)


CHANGES = [
    (append, {Drift.CONTENT}),
    (rename_over, {Drift.CONTENT}),
    (delete, {Drift.MISSING}),
    (chmod, {Drift.MODE}),
    (chown, {Drift.OWNER, Drift.GROUP}),
    (symlink, {Drift.TYPE}),
    (setfattr, {Drift.XATTR}),
    (lock_it_oneself, set()),
]


@pytest.mark.parametrize(("change", "drift"), CHANGES, ids=lambda item: getattr(item, "__name__", ""))
def test_a_change_is_noted_told_once_and_left(guarded: Tree, change: object, drift: set[Drift]) -> None:
    enforcer, made = opened(guarded, ACCESS_PATH)
    assert callable(change)
    change(guarded)
    for _ in range(3):
        enforcer.full_pass(thorough=True)
        enforcer.sweep()
    wanted = State.DRIFTED if drift else State.CLEAN
    assert state_of(enforcer, ACCESS_PATH) == (wanted, frozenset(drift))
    assert guarded.recorder.restored_paths == []
    assert guarded.recorder.drifted_paths == ([(ACCESS_PATH, frozenset(drift))] if drift else [])
    noted = made.changes.get(ACCESS_PATH)
    assert (noted is None) if not drift else noted is not None and noted.drift == tuple(sorted(drift))
    assert guarded.taken() == []
    closed(enforcer, made)
    assert guarded.at(ACCESS_PATH).read_bytes() == ACCESS
    assert is_locked(guarded, ACCESS_PATH)
    assert guarded.drifts() == {}


def test_what_was_undone_by_hand_is_clean_again(guarded: Tree) -> None:
    enforcer, _ = opened(guarded, ACCESS_PATH)
    found = guarded.at(ACCESS_PATH).stat()
    append(guarded)
    enforcer.sweep()
    guarded.at(ACCESS_PATH).write_bytes(ACCESS)
    os.utime(guarded.at(ACCESS_PATH), ns=(found.st_atime_ns, found.st_mtime_ns))
    enforcer.sweep()
    assert state_of(enforcer, ACCESS_PATH) == (State.CLEAN, frozenset())


def test_what_did_not_change_is_locked_again_and_nobody_is_told(guarded: Tree) -> None:
    enforcer, made = opened(guarded)
    closed(enforcer, made)
    assert is_locked(guarded, ACCESS_PATH) and is_locked(guarded, CF_PATH)
    assert guarded.recorder.restored_paths == []
    assert guarded.recorder.drifted_paths == []
    assert guarded.drifts() == {}


def test_what_is_put_back_at_the_end_is_kept_aside(guarded: Tree) -> None:
    enforcer, made = opened(guarded, ACCESS_PATH)
    guarded.at(ACCESS_PATH).write_bytes(b"typed for an hour")
    enforcer.sweep()
    closed(enforcer, made)
    kept = [Path(guarded.host.taken_dir, name).read_bytes() for name in guarded.taken()]
    assert kept == [b"typed for an hour"]
    assert [path for path, _ in guarded.recorder.restored_paths] == [ACCESS_PATH]


def test_a_hint_does_not_put_the_lock_of_a_released_path_back(guarded: Tree) -> None:
    enforcer, _ = opened(guarded, ACCESS_PATH)
    held = enforcer.table.by_path[ACCESS_PATH]
    assert not enforcer.ask_for_lock(held)
    enforcer.look_at_lock(held)
    assert not is_locked(guarded, ACCESS_PATH)


def test_a_directory_that_is_let_go_takes_new_names_and_a_closed_one_too(guarded: Tree) -> None:
    enforcer, made = opened(guarded, SMRSH)
    guarded.at(f"{SMRSH}/sh").symlink_to("/bin/sh")
    enforcer.look_at_name(enforcer.table.by_path[SMRSH], b"sh")
    enforcer.full_pass(thorough=True)
    assert guarded.at(f"{SMRSH}/sh").is_symlink()
    assert guarded.recorder.strangers == [(f"{SMRSH}/sh", "")]
    assert made.changes[f"{SMRSH}/sh"].drift == ("unexpected",)
    closed(enforcer, made)
    assert not guarded.at(f"{SMRSH}/sh").is_symlink()
    assert guarded.recorder.strangers[1][1] != ""


def test_names_of_class_ignored_are_nobodys_business_in_a_window(guarded: Tree) -> None:
    enforcer, made = opened(guarded, "/etc/mail")
    enforcer.released.strangers.classify = lambda _path: Class.IGNORED
    guarded.at("/etc/mail/access.bak").write_bytes(b"x")
    enforcer.full_pass(thorough=True)
    assert guarded.recorder.strangers == []
    assert made.changes == {}


def test_a_directory_can_be_made_anew_in_a_window(guarded: Tree) -> None:
    enforcer, made = opened(guarded, SMRSH)
    shutil.rmtree(guarded.at(SMRSH))
    enforcer.full_pass(thorough=True)
    guarded.at(SMRSH).mkdir(mode=0o700)
    guarded.at(f"{SMRSH}/mail").symlink_to("/bin/other")
    enforcer.full_pass(thorough=True)
    enforcer.full_pass(thorough=True)
    assert state_of(enforcer, f"{SMRSH}/mail") == (State.DRIFTED, frozenset({Drift.TARGET}))
    closed(enforcer, made)
    assert os.readlink(guarded.at(f"{SMRSH}/mail")) == "/bin/mail"
    assert guarded.drifts() == {}


def test_a_new_table_and_a_new_enforcer_know_the_windows(guarded: Tree) -> None:
    enforcer, made = opened(guarded, ACCESS_PATH)
    append(guarded)
    enforcer.sweep()
    window_files.write(guarded.host, made)
    assert enforcer.generation is not None
    enforcer.load(enforcer.generation, strict=True)
    enforcer.full_pass(thorough=True)
    assert guarded.at(ACCESS_PATH).read_bytes() != ACCESS
    generation = enforcer.generation
    enforcer.close()
    again = guarded.start(generation)
    assert guarded.at(ACCESS_PATH).read_bytes() != ACCESS
    assert again.released.windows[made.id].changes[ACCESS_PATH].drift == ("content",)
    assert not is_locked(guarded, ACCESS_PATH)


def test_reading_the_windows_again_loses_nothing_that_was_noted(guarded: Tree) -> None:
    enforcer, made = opened(guarded, ACCESS_PATH)
    append(guarded)
    enforcer.sweep()
    enforcer.released.read()
    assert ACCESS_PATH in enforcer.released.windows[made.id].changes
