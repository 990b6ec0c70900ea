# SPDX-License-Identifier: Apache-2.0
"""The one way to change anything: committed first, applied by the guard or by us, taken back when refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hardend import commit, control, pause, state
from hardend.baseline.store import Store
from hardend.capture import Reader
from hardend.commit import Outcome
from hardend.config import Settings
from hardend.errors import FileError, RefusedError, StoreError, UnreachableError
from hardend.inspection import inspect
from hardend.kernel import flags
from hardend.model import Drift, Entry, Host, Mode
from hardend.propose import Proposal, Proposer
from tests.unit.conftest import ACCESS, CF, Tree

pytestmark = pytest.mark.root
CF_PATH = "/etc/mail/sendmail.cf"
ACCESS_PATH = "/etc/mail/access"


@pytest.fixture
def host_tree(tree: Tree) -> Tree:
    """A tree that is of a known layout, with a first generation committed and applied."""
    tree.at("/etc/debian_version").write_text("12\n")
    commit.commit_and_apply(tree.host, Settings(), _whole(tree), reason="first")
    return tree


def _whole(tree: Tree) -> Proposal:
    return Proposer(tree.host, Settings()).whole_host()


def _changed(tree: Tree, content: bytes) -> Proposal:
    """Return the entries in force with new content for sendmail.cf."""
    store = Store(tree.host)
    current = store.current()
    entries = dict(current.entries)
    entries[CF_PATH] = replace(
        entries[CF_PATH],
        digest=store.add_object(content),
        size=len(content),
        mtime_ns=entries[CF_PATH].mtime_ns + 1,
    )
    return Proposal(entries, current.layout, current.sendmail)


def _drifts(tree: Tree) -> dict[str, frozenset[Drift]]:
    return inspect(tree.host, Store(tree.host).current(), Settings(), None)


def _objects(tree: Tree) -> Path:
    return Path(tree.host.store_dir) / "objects"


def _spares(tree: Tree) -> list[str]:
    return os.listdir(tree.host.spare_dir)


def test_a_commit_alone_changes_nothing_live(host_tree: Tree) -> None:
    before = host_tree.at(CF_PATH).stat().st_ctime_ns
    generation = commit.commit(host_tree.host, _changed(host_tree, b"new\n"), reason="second")
    assert (generation.number, generation.author) == (2, commit.caller())
    assert generation.parent == Store(host_tree.host).manifest_digest(1)
    assert host_tree.at(CF_PATH).stat().st_ctime_ns == before
    assert Store(host_tree.host).current() == generation


def test_a_commit_whose_applying_died_rolls_forward(host_tree: Tree) -> None:
    commit.commit(host_tree.host, _changed(host_tree, b"new\n"), reason="second")
    outcome = commit.apply(host_tree.host, Settings())
    assert outcome.failed == {}
    assert host_tree.at(CF_PATH).read_bytes() == b"new\n"
    assert _drifts(host_tree) == {}


def test_without_a_guard_one_pass_brings_the_host_there_and_leaves_no_copy(host_tree: Tree) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    generation, outcome = commit.commit_and_apply(
        host_tree.host, Settings(), _changed(host_tree, b"new\n"), reason="second"
    )
    assert generation.number == 2
    assert not outcome.by_guard and outcome.failed == {}
    assert host_tree.at(CF_PATH).read_bytes() == b"new\n"
    assert _drifts(host_tree) == {}
    assert _spares(host_tree) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_what_else_had_drifted_is_put_back_and_named(host_tree: Tree) -> None:
    host_tree.unlock(ACCESS_PATH)
    host_tree.at(ACCESS_PATH).write_bytes(b"EVIL")
    host_tree.at("/etc/mail/smrsh/sh").symlink_to("/bin/sh")
    _, outcome = commit.commit_and_apply(
        host_tree.host, Settings(), _changed(host_tree, b"new\n"), reason="second"
    )
    assert {ACCESS_PATH, "/etc/mail/smrsh/sh"} <= set(outcome.restored)
    assert host_tree.at(ACCESS_PATH).read_bytes() == ACCESS
    assert _drifts(host_tree) == {}


def test_in_observe_mode_an_approval_changes_nothing_live(host_tree: Tree) -> None:
    settings = Settings(mode=Mode.OBSERVE)
    generation, outcome = commit.commit_and_apply(
        host_tree.host, settings, _changed(host_tree, b"new\n"), reason="second"
    )
    assert outcome == Outcome(by_guard=False)
    assert Store(host_tree.host).current() == generation
    assert host_tree.at(CF_PATH).read_bytes() == CF


def test_while_it_is_off_nothing_is_touched(host_tree: Tree) -> None:
    pause.start(host_tree.host, seconds=60, reason="repair", by="root")
    _, outcome = commit.commit_and_apply(
        host_tree.host, Settings(), _changed(host_tree, b"new\n"), reason="second"
    )
    assert outcome.paused
    assert host_tree.at(CF_PATH).read_bytes() == CF
    pause.end(host_tree.host)


def test_a_generation_with_a_damaged_object_is_taken_back(host_tree: Tree) -> None:
    proposal = _changed(host_tree, b"new\n")
    (_objects(host_tree) / proposal.entries[CF_PATH].digest).write_bytes(b"damaged")
    with pytest.raises(StoreError, match="damaged"):
        commit.commit_and_apply(host_tree.host, Settings(), proposal, reason="second")
    current = Store(host_tree.host).current()
    assert current.number == 3
    assert current.entries == Store(host_tree.host).generation(1).entries
    assert current.reason.startswith("generation 2 refused: ")
    assert host_tree.at(CF_PATH).read_bytes() == CF
    assert _drifts(host_tree) == {}


def test_a_first_generation_that_is_refused_has_nothing_to_go_back_to(tree: Tree) -> None:
    tree.at("/etc/debian_version").write_text("12\n")
    proposal = _whole(tree)
    (_objects(tree) / proposal.entries[CF_PATH].digest).write_bytes(b"damaged")
    with pytest.raises(StoreError, match="damaged"):
        commit.commit_and_apply(tree.host, Settings(), proposal, reason="first")
    assert Store(tree.host).numbers() == [1]
    assert tree.at(CF_PATH).read_bytes() == CF


def test_a_first_approval_after_one_that_died_works(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.at("/etc/debian_version").write_text("12\n")

    real = Store._write

    def write(store: Store, where: str, data: bytes) -> None:
        if where.endswith("current"):
            raise KeyboardInterrupt
        real(store, where, data)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "_write", write)
        with pytest.raises(KeyboardInterrupt):
            commit.commit_and_apply(tree.host, Settings(), _whole(tree), reason="first")
    generation, _ = commit.commit_and_apply(tree.host, Settings(), _whole(tree), reason="again")
    assert Store(tree.host).current() == generation
    assert _drifts(tree) == {}


def test_a_damaged_store_does_not_keep_the_administrator_from_approving(host_tree: Tree) -> None:
    (Path(host_tree.host.store_dir) / "current").write_bytes(b"damaged")
    generation, outcome = commit.commit_and_apply(
        host_tree.host, Settings(), _whole(host_tree), reason="anew"
    )
    assert generation.number == 2
    assert outcome.failed == {}
    assert _drifts(host_tree) == {}


def test_what_cannot_be_put_back_is_named_with_its_reason(
    host_tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit.commit(host_tree.host, _changed(host_tree, b"new\n"), reason="second")

    def full(_syncer: object, _descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("hardend.spares.Syncer.sync", full)
        outcome = commit.apply(host_tree.host, Settings())
    assert outcome.failed == {CF_PATH: "staging a copy: the disk is full"}
    assert host_tree.at(CF_PATH).read_bytes() == CF
    assert commit.apply(host_tree.host, Settings()).failed == {}
    assert host_tree.at(CF_PATH).read_bytes() == b"new\n"


# A guard that runs -----------------------------------------------------------------------------------


@pytest.fixture
def guard(host_tree: Tree, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """A lock that is held, and a reply that a test may change; what was asked is in it too."""
    lock = state.GuardLock(host_tree.host)
    assert lock.acquire()
    said: dict[str, object] = {"reply": {"ok": True, "failed": {}}, "asked": []}

    def ask(host: Host, request: dict[str, object], timeout_s: float = 30.0) -> object:
        assert (host, timeout_s > 60) == (host_tree.host, True), "a load may take its time"
        asked = said["asked"]
        assert isinstance(asked, list)
        asked.append(request)
        reply = said["reply"]
        if isinstance(reply, Exception):
            raise reply
        return reply.pop(0) if isinstance(reply, list) else reply

    monkeypatch.setattr(control, "ask", ask)
    yield said
    lock.release()


def test_a_guard_that_runs_does_it(host_tree: Tree, guard: dict[str, object]) -> None:
    guard["reply"] = {"ok": True, "failed": {"/etc/mail/x": "the disk is full"}}
    _, outcome = commit.commit_and_apply(
        host_tree.host, Settings(), _changed(host_tree, b"new\n"), reason="second"
    )
    assert outcome == Outcome(by_guard=True, failed={"/etc/mail/x": "the disk is full"})
    assert guard["asked"] == [{"verb": "load"}]
    assert host_tree.at(CF_PATH).read_bytes() == CF, "we changed nothing ourselves"


def test_a_guard_that_refuses_gets_the_old_content_as_a_new_generation(
    host_tree: Tree, guard: dict[str, object]
) -> None:
    guard["reply"] = [{"ok": False, "error": "cannot be staged"}, {"ok": True}]
    with pytest.raises(RefusedError, match="cannot be staged"):
        commit.commit_and_apply(host_tree.host, Settings(), _changed(host_tree, b"new\n"), reason="second")
    current = Store(host_tree.host).current()
    assert (current.number, current.entries) == (3, Store(host_tree.host).generation(1).entries)
    assert guard["asked"] == [{"verb": "load"}] * 2


def test_a_guard_that_does_not_answer_leaves_the_generation_to_its_next_start(
    host_tree: Tree, guard: dict[str, object]
) -> None:
    guard["reply"] = UnreachableError("no answer")
    with pytest.raises(UnreachableError):
        commit.commit_and_apply(host_tree.host, Settings(), _changed(host_tree, b"new\n"), reason="second")
    assert Store(host_tree.host).current().number == 2


# Who may, and who asked ------------------------------------------------------------------------------


def test_only_root_commits(host_tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("os.geteuid", lambda: 1000)
        with pytest.raises(RefusedError, match="only root"):
            commit.commit(host_tree.host, _changed(host_tree, b"new\n"), reason="second")
    assert Store(host_tree.host).numbers() == [1]


@pytest.mark.parametrize(
    ("login", "name"),
    [("0", "root"), ("4294967295", "root"), ("3999999999", "3999999999"), ("", "root")],
)
def test_the_author_is_the_login_behind_sudo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login: str, name: str
) -> None:
    (tmp_path / "loginuid").write_text(login)
    real = open

    def opened(path: str, *arguments: object, **keywords: object) -> object:
        return real(tmp_path / "loginuid" if path == "/proc/self/loginuid" else path, *arguments, **keywords)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", opened)
    assert commit.caller() == name


# What an approval takes in ---------------------------------------------------------------------------


def test_a_locked_path_is_approved_locked_and_a_link_is_not_followed(host_tree: Tree) -> None:
    entries = Store(host_tree.host).current().entries
    assert entries[CF_PATH].flags == "i"
    assert entries["/etc/mail/link"].target == "../aliases"
    assert entries["/etc/mail/authinfo"].digest == ""
    descriptor = os.open(host_tree.at(CF_PATH), os.O_RDONLY)
    assert flags.to_letters(flags.get_flags(descriptor)) == "i"
    os.close(descriptor)


def test_what_is_no_file_any_more_leaves_the_baseline_and_that_is_said(host_tree: Tree) -> None:
    host_tree.unlock(ACCESS_PATH)
    host_tree.at(ACCESS_PATH).unlink()
    os.mkfifo(host_tree.at(ACCESS_PATH))
    proposal = _whole(host_tree)
    assert ACCESS_PATH not in proposal.entries
    assert any(warning.startswith(f"{ACCESS_PATH} leaves the baseline") for warning in proposal.warnings)


def test_a_path_that_went_away_leaves_with_all_that_it_held(host_tree: Tree) -> None:
    proposer = Proposer(host_tree.host, Settings())
    (host_tree.at("/etc/mail/smrsh/mail")).unlink()
    host_tree.at("/etc/mail/smrsh").rmdir()
    proposal = proposer.some_paths(Store(host_tree.host).current(), {"/etc/mail/smrsh": ""})
    assert not [path for path in proposal.entries if path.startswith("/etc/mail/smrsh")]
    assert "/etc/mail" in proposal.entries


def test_names_of_any_bytes_are_approved_and_checked(host_tree: Tree) -> None:
    name = "/etc/mail/smrsh/a\n\x1b\udcff"
    os.symlink("/bin/true\udcfe\n", host_tree.at(name))
    commit.commit_and_apply(host_tree.host, Settings(), _whole(host_tree), reason="a strange program")
    entry: Entry = Store(host_tree.host).current().entries[name]
    assert entry.target == "/bin/true\udcfe\n"
    assert _drifts(host_tree) == {}
    host_tree.at(name).unlink()
    commit.apply(host_tree.host, Settings())
    assert os.readlink(host_tree.at(name)) == "/bin/true\udcfe\n"


def test_a_path_behind_a_link_is_not_read(host_tree: Tree) -> None:
    host_tree.at("/etc/mail").rename(host_tree.at("/etc/elsewhere"))
    host_tree.at("/etc/mail").symlink_to("elsewhere")
    reader = Reader(host_tree.host)
    with pytest.raises(FileError, match="cannot be read"):
        reader.read(CF_PATH, content=True)
    reader.close()
    host_tree.at("/etc/mail").unlink()
    host_tree.at("/etc/elsewhere").rename(host_tree.at("/etc/mail"))


def test_a_proposal_does_not_undo_what_was_approved_meanwhile(host_tree: Tree) -> None:
    early = Proposal.after(Store(host_tree.host).current())
    commit.commit_and_apply(host_tree.host, Settings(), _changed(host_tree, b"new\n"), reason="second")
    with pytest.raises(RefusedError, match="generation 2 was approved meanwhile"):
        commit.commit_and_apply(host_tree.host, Settings(), early, reason="third")
    assert Store(host_tree.host).current().reason == "second"
    assert host_tree.at(CF_PATH).read_bytes() == b"new\n"
