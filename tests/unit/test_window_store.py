# SPDX-License-Identifier: Apache-2.0
"""The end of a window whose baseline cannot be read: nothing is kept unjudged, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardend import boot, window, window_end, window_files
from hardend.baseline.store import Store
from hardend.errors import Exit
from hardend.journal import Event
from hardend.window_end import Ended
from tests.unit.command import ACCESS_PATH, CF_PATH, Run, approved, is_locked, run
from tests.unit.conftest import ACCESS, Tree
from tests.unit.test_window_guard import Station, started, station

pytestmark = pytest.mark.root
__all__ = ["approved", "run", "started", "station"]  # fixtures
WANTED = ACCESS + b"Connect:10\tREJECT\n"
MANIFEST = "manifest"


def damage(tree: Tree, what: str) -> None:
    """Damage the approved content of a path, or the manifest."""
    store = Path(tree.host.store_dir)
    if what == MANIFEST:
        (store / "generations/1/manifest.json").write_bytes(b"damaged")
    else:
        (store / "objects" / Store(tree.host).current().entries[what].digest).write_bytes(b"damaged")


def changed_in_a_window(tree: Tree, run: Run, what: str) -> None:
    code, _, err = run("unlock", ACCESS_PATH, "--for", "10m", "--reason", "why")
    assert code == Exit.OK, err
    tree.at(ACCESS_PATH).write_bytes(WANTED)
    damage(tree, what)


def run_out(tree: Tree) -> None:
    (made,) = window_files.read_all(tree.host)
    made.until = boot.clock()
    window_files.write(tree.host, made)


def assert_nothing_was_done(tree: Tree) -> None:
    assert Store(tree.host).numbers() == [1]
    assert tree.at(ACCESS_PATH).read_bytes() == WANTED
    assert len(window_files.read_all(tree.host)) == 1


@pytest.mark.parametrize("how", ["--keep", "--revert"])
@pytest.mark.parametrize("what", [ACCESS_PATH, CF_PATH, MANIFEST])
def test_lock_refuses_and_the_window_stays_open(approved: Tree, run: Run, what: str, how: str) -> None:
    changed_in_a_window(approved, run, what)
    code, _, err = run("lock", how)
    assert code == Exit.REFUSED
    assert "the baseline's store cannot be used (" in err and "the window stays open" in err
    assert "hint: hardend baseline verify names every damaged part; hardend approve takes" in err
    assert_nothing_was_done(approved)


@pytest.mark.parametrize("what", [ACCESS_PATH, CF_PATH, MANIFEST])
def test_without_a_guard_a_window_that_ran_out_is_told_and_left(approved: Tree, run: Run, what: str) -> None:
    changed_in_a_window(approved, run, what)
    run_out(approved)
    code, out, err = run("window")
    assert (code, out) == (Exit.DRIFT, "")
    event, said = err.splitlines()
    for line in (event, said):
        assert "it could not be ended: the baseline's store cannot be used (" in line
        assert "nothing was approved, nothing was put back, the window stays open" in line
    assert "warning: window-expired: window of " in event
    assert_nothing_was_done(approved)


def test_a_command_whose_changes_cannot_be_judged_leaves_them_and_says_so(approved: Tree, run: Run) -> None:
    damage(approved, CF_PATH)
    command = f"echo 'Connect:10\tREJECT' >> {approved.at(ACCESS_PATH)}"
    code, _, err = run("run", "--reason", "why", "--", "sh", "-c", command)
    assert code == Exit.REFUSED and "nothing was approved, nothing was put back" in err
    assert_nothing_was_done(approved)


def test_approving_anew_is_the_way_out(approved: Tree, run: Run) -> None:
    changed_in_a_window(approved, run, ACCESS_PATH)
    code, _, err = run("approve", "--reason", "anew")
    assert code == Exit.OK, err
    code, out, err = run("lock", "--keep")
    assert (code, out) == (Exit.OK, "nothing had changed; the window is closed\n"), err
    assert approved.at(ACCESS_PATH).read_bytes() == WANTED and is_locked(approved, ACCESS_PATH)


def test_the_event_tells_what_was_kept_put_back_and_left(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    made = window.make(tree.host, paths=(ACCESS_PATH,), trees=(), seconds=60, reason="why", by="alice", uid=0)
    ended = Ended(made, 2, kept=["/a"], reverted={"/b": "worse", "/c": "worse"}, failed={"/d": "damaged"})
    window_end.tell(tree.host, ended, Event.WINDOW_EXPIRED, "expired")
    assert (
        "window of alice expired: why; kept as generation 2: /a; put back: /b, /c (worse); "
        "not put back: /d (damaged) path=/a /b /c /d generation=2"
    ) in capsys.readouterr().err


# With a guard ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [ACCESS_PATH, CF_PATH, MANIFEST])
def test_a_guard_puts_back_what_nobody_can_judge_and_keeps_it_aside(station: Station, what: str) -> None:
    tree = station.tree
    while station.guard.enforcer.pending.stage:
        station.guard.enforcer.stage_next()
    station.open(ACCESS_PATH)
    tree.at(ACCESS_PATH).write_bytes(WANTED)
    station.guard.full_pass(thorough=True)
    damage(tree, what)
    run_out(tree)
    station.guard.enforcer.released.read()
    assert station.turns(60)
    assert Store(tree.host).numbers() == [1]
    assert tree.at(ACCESS_PATH).read_bytes() == ACCESS and is_locked(tree, ACCESS_PATH)
    aside = Path(tree.host.taken_dir)
    assert WANTED in [path.read_bytes() for path in aside.rglob("*") if path.is_file()]


def test_a_guard_without_a_copy_says_what_it_left(station: Station, started: list[str]) -> None:
    tree = station.tree
    station.open(ACCESS_PATH)
    tree.at(ACCESS_PATH).write_bytes(WANTED)
    station.guard.full_pass(thorough=True)
    assert station.guard.enforcer.table.by_path[ACCESS_PATH].spare is None
    damage(tree, ACCESS_PATH)
    run_out(tree)
    station.guard.enforcer.released.read()
    for _ in range(3):
        station.guard.windows.turn()
    assert started == ["window", "window"]
    (told,) = station.told(Event.WINDOW_EXPIRED)
    assert f"everything was put back but {ACCESS_PATH}: " in told and told.endswith(": damaged")
    assert tree.at(ACCESS_PATH).read_bytes() == WANTED
