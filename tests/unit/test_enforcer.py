# SPDX-License-Identifier: Apache-2.0
"""The core on a real tree: every kind of drift, put back and kept."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hardend import directory
from hardend.kernel.exchange import exchange
from hardend.model import Drift, State

if TYPE_CHECKING:
    from tests.unit.conftest import Tree

pytestmark = pytest.mark.root
CF = "/etc/mail/sendmail.cf"


def _rewrite(path: Path) -> None:
    path.write_bytes(b"O PrivacyOptions=public\n")


def _rename_over(path: Path) -> None:
    other = path.with_name("other.new")
    other.write_bytes(b"evil")
    other.rename(path)


def _truncate(path: Path) -> None:
    os.truncate(path, 0)


def _symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/shadow")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "in").write_bytes(b"x")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _same_size(path: Path) -> None:
    before = path.stat()
    path.write_bytes(path.read_bytes().swapcase())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _append_only(path: Path) -> None:
    subprocess.run(["chattr", "+a", str(path)], check=True)


def _immutable_impostor(path: Path) -> None:
    _rename_over(path)
    subprocess.run(["chattr", "+i", str(path)], check=True)


DRIFTS: dict[str, tuple[Callable[[Path], object], Drift]] = {
    "rewrite in place": (_rewrite, Drift.CONTENT),
    "rename over": (_rename_over, Drift.CONTENT),
    "truncate": (_truncate, Drift.CONTENT),
    "same size and time stamp": (_same_size, Drift.CONTENT),
    "delete": (Path.unlink, Drift.MISSING),
    "symlink": (_symlink, Drift.TYPE),
    "directory": (_directory, Drift.TYPE),
    "fifo": (_fifo, Drift.TYPE),
    "chmod": (lambda path: path.chmod(0o666), Drift.MODE),
    "chown": (lambda path: os.chown(path, 1, -1), Drift.OWNER),
    "chgrp": (lambda path: os.chown(path, -1, 1), Drift.GROUP),
    "touch": (lambda path: os.utime(path, (1, 1)), Drift.STALE),
    "unlocked": (lambda _path: None, Drift.FLAGS),
    "append only": (_append_only, Drift.FLAGS),
    "immutable impostor": (_immutable_impostor, Drift.CONTENT),
    "setfacl": (
        lambda path: subprocess.run(["setfacl", "-m", "u:1:rw", str(path)], check=True),
        Drift.ACL,
    ),
    "setfattr": (lambda path: os.setxattr(path, "user.x", b"y"), Drift.XATTR),
}


@pytest.mark.parametrize("kind", DRIFTS)
def test_a_drift_is_put_back_and_told(guarded: Tree, kind: str) -> None:
    drift, expected = DRIFTS[kind]
    assert guarded.drifts() == {}
    guarded.unlock(CF)
    drift(guarded.at(CF))
    assert CF in guarded.drifts()
    enforcer = guarded.enforcer
    assert enforcer is not None
    enforcer.look(enforcer.table.by_path[CF])
    assert guarded.drifts() == {}
    told = dict(guarded.recorder.restored_paths)
    assert expected in told[CF]
    assert guarded.recorder.failures == {}


@pytest.mark.parametrize("kind", [kind for kind in DRIFTS if DRIFTS[kind][1] is Drift.CONTENT])
def test_what_was_replaced_is_kept(guarded: Tree, kind: str) -> None:
    guarded.unlock(CF)
    DRIFTS[kind][0](guarded.at(CF))
    bad = guarded.at(CF).read_bytes()
    enforcer = guarded.enforcer
    assert enforcer is not None
    enforcer.look(enforcer.table.by_path[CF])
    (name,) = guarded.taken()
    assert (Path(guarded.host.taken_dir) / name).read_bytes() == bad
    assert (Path(guarded.host.taken_dir) / f"{name}.json").exists()


def test_a_second_look_finds_everything_clean(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    guarded.unlock(CF)
    _rewrite(guarded.at(CF))
    for _ in range(3):
        enforcer.look(enforcer.table.by_path[CF])
        enforcer.full_pass(thorough=True)
    assert len(guarded.recorder.restored_paths) == 1
    assert enforcer.table.by_path[CF].state is State.RESTORED


def test_a_late_write_through_an_open_descriptor_goes_to_the_replaced_file(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    guarded.unlock(CF)
    with guarded.at(CF).open("r+b", buffering=0) as writer:
        writer.write(b"EVIL")
        enforcer.look(enforcer.table.by_path[CF])
        writer.write(b"LATER")
    assert guarded.drifts() == {}
    (name,) = guarded.taken()
    assert (Path(guarded.host.taken_dir) / name).read_bytes().startswith(b"EVILLATER")


def test_a_stranger_in_a_closed_directory_is_set_aside(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    shell = guarded.at("/etc/mail/smrsh/sh")
    shell.symlink_to("/bin/sh")
    enforcer.look_at_name(enforcer.table.by_path["/etc/mail/smrsh"], b"sh")
    assert not shell.is_symlink()
    assert guarded.recorder.strangers[0][0] == "/etc/mail/smrsh/sh"
    assert guarded.taken() == [guarded.recorder.strangers[0][1]]


def test_a_stranger_in_the_mail_directory_is_reported_once_and_left(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    new = guarded.at("/etc/mail/new")
    new.write_bytes(b"x")
    for _ in range(2):
        enforcer.look_at_name(enforcer.table.by_path["/etc/mail"], b"new")
    assert new.exists()
    assert guarded.recorder.strangers == [("/etc/mail/new", "")]


def test_a_retargeted_and_a_removed_link_are_put_back(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    link = guarded.at("/etc/mail/smrsh/mail")
    for target in ("/bin/sh", ""):
        link.unlink()
        if target:
            link.symlink_to(target)
        enforcer.full_pass(thorough=False)
        guarded.stage(enforcer)
        assert os.readlink(link) == "/bin/mail"
        assert guarded.drifts() == {}


def test_directories_keep_their_mode_and_owner(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    guarded.at("/var/spool/mqueue").chmod(0o777)
    guarded.at("/etc/mail").chmod(0o777)
    os.chown(guarded.at("/etc/mail/smrsh"), 1, 1)
    enforcer.full_pass(thorough=False)
    assert guarded.drifts() == {}


def _records(tree: Tree) -> list[dict[str, object]]:
    where = Path(tree.host.taken_dir)
    return [json.loads(path.read_bytes()) for path in sorted(where.glob("*.json"))]


def test_what_a_directory_was_like_is_kept_when_it_is_put_right_in_place(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    guarded.at("/var/spool/mqueue").chmod(0o777)
    enforcer.full_pass(thorough=False)
    (record,) = _records(guarded)
    kept = {name: record[name] for name in ("path", "drift", "kind", "mode", "mended")}
    assert kept == {
        "path": "/var/spool/mqueue",
        "drift": ["mode"],
        "kind": "directory",
        "mode": 0o777,
        "mended": True,
    }
    assert guarded.taken() == []
    assert enforcer.pending.collect


def test_of_a_fight_over_a_directory_the_beginning_is_kept(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    for _ in range(100):
        guarded.at("/var/spool/mqueue").chmod(0o777)
        enforcer.full_pass(thorough=False)
        assert guarded.drifts() == {}
    assert 1 < len(_records(guarded)) < 80


def test_a_lock_alone_leaves_no_record(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    guarded.unlock(CF)
    enforcer.full_pass(thorough=False)
    assert guarded.recorder.restored_paths == [(CF, frozenset({Drift.FLAGS}))]
    assert _records(guarded) == []


def test_a_directory_that_was_moved_away_comes_home_and_its_impostor_goes(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    mail = guarded.at("/etc/mail")
    inode = mail.stat().st_ino
    mail.rename(guarded.at("/etc/away"))
    mail.mkdir()
    (mail / "sendmail.cf").write_bytes(b"evil")
    enforcer.full_pass(thorough=False)
    assert mail.stat().st_ino == inode
    assert guarded.drifts() == {}
    assert not guarded.at("/etc/away").exists()
    (name,) = guarded.taken()
    assert (Path(guarded.host.taken_dir) / name / "sendmail.cf").read_bytes() == b"evil"


@pytest.mark.parametrize("further", ["an impostor comes", "it is moved on"])
def test_a_directory_that_is_still_being_moved_comes_home(
    guarded: Tree, monkeypatch: pytest.MonkeyPatch, further: str
) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    mail, away = guarded.at("/etc/mail"), guarded.at("/etc/away")
    inode = mail.stat().st_ino
    names = sorted(os.listdir(mail))
    mail.rename(away)
    late = iter([mail.mkdir if further == "an impostor comes" else lambda: away.rename(f"{away}2")])

    def exchange_too_late(*where: Any) -> None:
        try:
            exchange(*where)
        except FileNotFoundError:  # nothing stands at its place yet; it does as soon as that was seen
            next(late, lambda: None)()
            raise

    monkeypatch.setattr(directory, "exchange", exchange_too_late)
    enforcer.full_pass(thorough=False)
    assert mail.stat().st_ino == inode
    assert sorted(os.listdir(mail)) == names
    assert guarded.drifts() == {}
    assert not enforcer.table.by_path["/etc/mail"].reason


def test_a_directory_that_was_removed_is_made_again_with_what_it_held(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    for path in (CF, "/etc/mail/access"):
        guarded.unlock(path)
    subprocess.run(["rm", "-rf", str(guarded.at("/etc/mail"))], check=True)
    enforcer.full_pass(thorough=False)
    # The secret's content is not in the baseline: it is named as lost, and nothing else is.
    assert guarded.drifts() == {"/etc/mail/authinfo": frozenset({Drift.MISSING})}
    assert "/etc/mail/authinfo" in dict(guarded.recorder.drifted_paths)


def test_attributes_of_a_secret_are_held_and_its_content_may_change(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    secret = guarded.at("/etc/mail/authinfo")
    secret.write_bytes(b"renewed")
    secret.chmod(0o644)
    enforcer.full_pass(thorough=False)
    assert secret.read_bytes() == b"renewed"
    assert secret.stat().st_mode & 0o777 == 0o600


def test_an_attackers_bytes_under_the_spares_name_are_never_put_in_place(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    held = enforcer.table.by_path[CF]
    assert held.spare is not None
    spare = Path(guarded.host.spare_dir) / os.fsdecode(held.spare.name)
    spare.unlink()
    spare.write_bytes(b"evil")
    guarded.unlock(CF)
    _rewrite(guarded.at(CF))
    enforcer.look(held)
    assert guarded.drifts() == {}


def test_a_fight_is_told_once_and_still_answered(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    for _ in range(30):
        guarded.unlock(CF)
        _rewrite(guarded.at(CF))
        enforcer.look(enforcer.table.by_path[CF])
        assert guarded.drifts() == {}
    assert guarded.recorder.contested_paths == [CF]
    assert len(guarded.recorder.restored_paths) == guarded.settings.contested_count - 1


def test_a_damaged_object_fails_its_path_and_no_other(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None and enforcer.generation is not None
    entry = enforcer.generation.entries[CF]
    (Path(guarded.host.store_dir) / "objects" / entry.digest).write_bytes(b"damaged")
    held = enforcer.table.by_path[CF]
    assert held.spare is not None
    enforcer.spares.discard(held.spare)
    held.spare = None
    guarded.unlock(CF)
    _rewrite(guarded.at(CF))
    guarded.unlock("/etc/mail/access")
    enforcer.full_pass(thorough=False)
    assert set(guarded.drifts()) == {CF}
    assert "damaged" in guarded.recorder.failures[CF]
    assert guarded.at(CF).read_bytes() == b"O PrivacyOptions=public\n"


def test_every_lock_that_was_taken_off_is_told(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None
    held = enforcer.table.by_path[CF]
    for _ in range(3):
        guarded.unlock(CF)
        enforcer.look_at_lock(held)
        assert guarded.drifts() == {}
    assert guarded.recorder.restored_paths == [(CF, frozenset({Drift.FLAGS}))] * 3


def test_an_approval_is_no_drift(guarded: Tree) -> None:
    enforcer = guarded.enforcer
    assert enforcer is not None and enforcer.generation is not None
    from dataclasses import replace

    from hardend.baseline.store import Store

    store = Store(guarded.host)
    entries = dict(enforcer.generation.entries)
    new = b"# approved\n"
    entries[CF] = replace(entries[CF], digest=store.add_object(new), size=len(new))
    enforcer.load(replace(enforcer.generation, number=2, entries=entries), strict=True)
    enforcer.full_pass(thorough=True)
    assert guarded.at(CF).read_bytes() == new
    assert guarded.recorder.restored_paths == []
    assert enforcer.last_drift == {}


def test_append_only_under_the_lock_is_taken_off(guarded: Tree) -> None:
    """ext4 refuses to change another flag of a file that is and stays immutable."""
    assert guarded.enforcer is not None
    subprocess.run(["chattr", "-i", "+a", str(guarded.at(CF))], check=True)
    subprocess.run(["chattr", "+i", str(guarded.at(CF))], check=True)
    guarded.enforcer.full_pass(thorough=True)
    assert guarded.recorder.failures == {}
    assert guarded.drifts() == {}
