# SPDX-License-Identifier: Apache-2.0
"""``hardend unlock``, ``lock``, ``window`` and ``run`` without a guard: the command does it all itself."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path

import pytest

from hardend import boot, terminal, window_files
from hardend.baseline.store import Store
from hardend.errors import Exit
from hardend.window import Window
from tests.unit.command import ACCESS_PATH, CF_PATH, Run, approved, is_locked, run
from tests.unit.conftest import ACCESS, CF, Tree

pytestmark = pytest.mark.root
__all__ = ["approved", "run"]  # fixtures
REPOSITORY = Path(__file__).resolve().parents[2]
WANTED = ACCESS + b"Connect:10\tREJECT\n"
CONFIG = "/etc/hardend/conf.d/windows.toml"


def windows(tree: Tree) -> list[Window]:
    return window_files.read_all(tree.host)


def change(tree: Tree, path: str = ACCESS_PATH, content: bytes = WANTED) -> None:
    tree.at(path).write_bytes(content)


def number(tree: Tree) -> int:
    return Store(tree.host).current().number


def opened(run: Run, *paths: str) -> None:
    code, _, err = run("unlock", "--for", "10m", "--reason", "why", *paths)
    assert code == Exit.OK, err


def run_out(tree: Tree) -> None:
    (made,) = windows(tree)
    made.until = boot.clock()
    window_files.write(tree.host, made)


# unlock ---------------------------------------------------------------------------------------------


def test_unlock_lets_go_what_is_named_and_says_until_when(approved: Tree, run: Run) -> None:
    code, out, err = run("unlock", ACCESS_PATH, "--for", "10m", "--reason", "why")
    assert code == Exit.OK
    assert out.startswith(f"  {ACCESS_PATH}\nopen until ")
    assert "1 paths, 1 locks released" in out
    assert "no guard is running" in err
    assert not is_locked(approved, ACCESS_PATH)
    assert is_locked(approved, CF_PATH)


def test_unlock_without_a_time_lasts_the_default(approved: Tree, run: Run) -> None:
    code, out, _ = run("unlock", "--reason", "why", "--json")
    (made,) = windows(approved)
    assert code == Exit.OK and json.loads(out)["id"] == made.id
    assert 1790 < made.remaining_s <= 1800
    assert not is_locked(approved, CF_PATH)


REFUSED = [
    (["unlock", "--for", "10m"], "--reason TEXT is missing"),
    (["unlock", "--reason", " "], "--reason TEXT is missing"),
    (["unlock", "--reason", "x", "--for", "9h"], "8h at most"),
    (["unlock", "--reason", "x", "/etc/passwd"], "/etc/passwd: not a path that hardend holds"),
    (["unlock", "--extend", "10m"], "no window is open"),
    (["lock", ACCESS_PATH], "in no window"),
    (["run", "--reason", " ", "--", "true"], "--reason is empty"),
    (["run", "--reason", "x"], "no command"),
    (["run", "--reason", "x", "--path", "/etc/passwd", "--", "true"], "not a path that hardend holds"),
]


@pytest.mark.parametrize(("words", "why"), REFUSED, ids=lambda item: " ".join(item) if item else "")
def test_what_cannot_be_is_refused_and_changes_nothing(
    approved: Tree, run: Run, words: list[str], why: str
) -> None:
    code, _, err = run(*words)
    assert code == (Exit.USAGE if why.startswith(("--reason", "no command")) else Exit.REFUSED) and why in err
    assert is_locked(approved, ACCESS_PATH)
    assert windows(approved) == []


@pytest.mark.parametrize(
    "words",
    [
        ["unlock", "--reason", "x"],
        ["unlock", "--extend", "1m"],
        ["lock", "--keep"],
        ["window"],
        ["run", "--reason", "x", "--", "true"],
    ],
    ids=lambda words: words[0],
)
def test_only_root_may(approved: Tree, run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    code, _, err = run(*words)
    assert code == Exit.REFUSED and "only root" in err
    assert windows(approved) == []
    assert is_locked(approved, ACCESS_PATH)


def test_a_second_window_for_a_path_is_refused_with_who_holds_it(approved: Tree, run: Run) -> None:
    opened(run, ACCESS_PATH)
    code, _, err = run("unlock", "--reason", "x")
    assert code == Exit.REFUSED and f"{ACCESS_PATH}: window open until" in err
    assert is_locked(approved, CF_PATH)


def test_extend_moves_the_end_up_to_the_longest(approved: Tree, run: Run) -> None:
    opened(run)
    assert run("unlock", "--extend", "30m")[0] == Exit.OK
    assert 2390 < windows(approved)[0].remaining_s <= 2400
    code, _, err = run("unlock", "--extend", "8h")
    assert code == Exit.REFUSED and "can be prolonged by 440m" in err


# lock -----------------------------------------------------------------------------------------------


def test_lock_shows_what_changed_and_keeps_it_as_a_generation(approved: Tree, run: Run) -> None:
    opened(run)
    change(approved)
    approved.at(CF_PATH).chmod(0o600)
    code, out, err = run("lock", "--keep")
    assert code == Exit.OK, err
    assert f"--- a{ACCESS_PATH}\n+++ b{ACCESS_PATH}\n" in out and "+Connect:10\tREJECT" in out
    assert f"{CF_PATH}: mode 0644 -> 0600" in out
    assert "generation 2 approved; the window is closed" in out
    assert Store(approved.host).current().reason == "why"
    assert approved.at(ACCESS_PATH).read_bytes() == WANTED
    assert is_locked(approved, ACCESS_PATH) and is_locked(approved, CF_PATH)
    assert approved.drifts() == {}
    assert windows(approved) == []


def test_lock_reverts_and_keeps_what_was_typed_aside(approved: Tree, run: Run) -> None:
    opened(run)
    change(approved)
    approved.at(CF_PATH).unlink()
    code, out, _ = run("lock", "--revert")
    assert code == Exit.OK
    assert f"put back: {ACCESS_PATH}\nput back: {CF_PATH}\nthe window is closed" in out
    assert number(approved) == 1
    assert approved.drifts() == {}
    kept = [Path(approved.host.taken_dir, name).read_bytes() for name in approved.taken()]
    assert kept == [WANTED]


def test_lock_of_a_window_without_changes_makes_no_generation(approved: Tree, run: Run) -> None:
    opened(run)
    code, out, _ = run("lock")
    assert (code, out) == (Exit.OK, "nothing had changed; the window is closed\n")
    assert number(approved) == 1
    assert is_locked(approved, ACCESS_PATH)
    assert run("lock")[:2] == (Exit.OK, "no window is open: everything is held\n")


def test_what_breaks_a_rule_is_not_kept_and_the_window_stays_open(approved: Tree, run: Run) -> None:
    opened(run)
    approved.at(CF_PATH).chmod(0o666)
    code, _, err = run("lock", "--keep")
    assert code == Exit.REFUSED
    assert f"{CF_PATH}: {CF_PATH}: exposure-files: everybody can write to it" in err
    assert "the window stays open" in err
    assert len(windows(approved)) == 1 and number(approved) == 1
    assert not is_locked(approved, ACCESS_PATH)


def test_a_waived_rule_keeps_nobody_from_it(approved: Tree, run: Run) -> None:
    waiver = '[[waivers]]\nrule = "exposure-files"\nreason = "a test"\n'
    approved.at("/etc/hardend/conf.d").mkdir()
    approved.at(CONFIG).write_text(waiver)
    opened(run)
    approved.at(CF_PATH).chmod(0o666)
    code, _, err = run("lock", "--keep")
    assert code == Exit.OK, err
    assert number(approved) == 2


def test_without_a_terminal_a_script_must_say_what_it_wants(
    approved: Tree, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("k\n"))
    opened(run)
    change(approved)
    code, out, err = run("lock")
    assert code == Exit.REFUSED and "+Connect:10" in out and "--keep keeps them" in err
    assert len(windows(approved)) == 1


class Typed(io.StringIO):
    """A terminal at which somebody types."""

    def isatty(self) -> bool:
        return True


ANSWERS = [
    ("k\nr\n", {ACCESS_PATH}),
    ("r\nx\n\nk\n", {CF_PATH}),
    ("a\n", {ACCESS_PATH, CF_PATH}),
    ("k\nq\n", None),
    ("k\n", None),  # he hung up
]


@pytest.mark.parametrize(("typed", "kept"), ANSWERS)
def test_somebody_at_a_terminal_is_asked_path_by_path(
    approved: Tree,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    kept: set[str] | None,
) -> None:
    monkeypatch.setattr(sys, "stdin", Typed(typed))
    opened(run)
    change(approved)
    change(approved, CF_PATH, CF + b"# more\n")
    code, out, _ = run("lock")
    assert code == (Exit.REFUSED if kept is None else Exit.OK)
    assert f"{ACCESS_PATH}: keep, revert, keep all, quit? [k/r/a/q] " in out
    if kept is None:
        assert len(windows(approved)) == 1 and number(approved) == 1
        return
    assert set(re.findall("kept: (.*)", out)) == kept
    assert (approved.at(ACCESS_PATH).read_bytes() == WANTED) is (ACCESS_PATH in kept)
    assert (approved.at(CF_PATH).read_bytes() != CF) is (CF_PATH in kept)
    assert approved.drifts() == {}


def test_part_of_a_window_can_be_locked(approved: Tree, run: Run) -> None:
    opened(run)
    change(approved)
    change(approved, CF_PATH, b"not yet done")
    code, out, err = run("lock", ACCESS_PATH, "--keep")
    assert code == Exit.OK, err
    assert CF_PATH not in out
    assert is_locked(approved, ACCESS_PATH)
    assert approved.at(CF_PATH).read_bytes() == b"not yet done"
    assert windows(approved)[0].paths == (CF_PATH,)


def test_of_several_windows_one_must_be_named(approved: Tree, run: Run) -> None:
    opened(run, ACCESS_PATH)
    opened(run, CF_PATH)
    code, _, err = run("lock", "--revert")
    assert code == Exit.REFUSED and "several windows are open" in err
    assert run("lock", CF_PATH, "--revert")[0] == Exit.OK
    assert [made.paths for made in windows(approved)] == [(ACCESS_PATH,)]


def test_new_files_of_a_released_directory_are_kept_or_taken_away(approved: Tree, run: Run) -> None:
    for word in ("--revert", "--keep"):
        opened(run, "/etc/mail")
        approved.at("/etc/mail/lists").mkdir()
        approved.at("/etc/mail/lists/one").write_bytes(b"x\n")
        approved.at("/etc/mail/access.bak").write_bytes(b"nobody's")
        code, out, err = run("lock", word)
        assert code == Exit.OK, err
        assert "/etc/mail/lists/one: new file" in out and "access.bak" not in out
        assert approved.at("/etc/mail/lists").exists() is (word == "--keep")
        assert approved.at("/etc/mail/access.bak").exists()
    assert "/etc/mail/lists/one" in Store(approved.host).current().entries
    assert len(approved.taken()) == 1


def test_a_program_that_appeared_in_the_smrsh_directory_goes(approved: Tree, run: Run) -> None:
    opened(run, "/etc/mail/smrsh")
    approved.at("/etc/mail/smrsh/sh").symlink_to("/bin/sh")
    assert run("lock", "--revert")[0] == Exit.OK
    assert os.listdir(approved.at("/etc/mail/smrsh")) == ["mail"]


def test_a_host_whose_configuration_is_gone_can_only_be_put_back(approved: Tree, run: Run) -> None:
    opened(run)
    approved.at(CF_PATH).unlink()
    code, _, err = run("lock", "--keep")
    assert code == Exit.REFUSED and "cannot be judged" in err
    assert run("lock", "--revert")[0] == Exit.OK
    assert approved.at(CF_PATH).read_bytes() == CF


def test_a_directory_that_became_a_link_can_only_be_put_back(approved: Tree, run: Run) -> None:
    opened(run, "/etc/mail/smrsh")
    approved.at("/etc/mail/smrsh").rename(approved.at("/etc/elsewhere"))
    approved.at("/etc/mail/smrsh").symlink_to("../elsewhere")
    code, _, err = run("lock", "--keep")
    assert code == Exit.REFUSED and "/etc/mail/smrsh/mail: cannot be read" in err
    code, _, err = run("lock", "--revert")
    assert code == Exit.OK, err
    assert os.listdir(approved.at("/etc/mail/smrsh")) == ["mail"]
    assert approved.drifts() == {}


def test_what_is_no_file_any_more_cannot_be_kept(approved: Tree, run: Run) -> None:
    opened(run)
    approved.at(ACCESS_PATH).unlink()
    os.mkfifo(approved.at(ACCESS_PATH))
    code, _, err = run("lock", "--keep")
    assert code == Exit.REFUSED and ACCESS_PATH in err
    assert run("lock", "--revert")[0] == Exit.OK
    assert approved.at(ACCESS_PATH).read_bytes() == ACCESS


# window: what the guard's job runs ------------------------------------------------------------------


def test_what_ran_out_is_kept_as_far_as_it_is_no_worse(
    approved: Tree, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(terminal, "tell", lambda _uid, text: told.append(text))
    opened(run)
    change(approved)
    approved.at(CF_PATH).chmod(0o666)
    run_out(approved)
    code, out, err = run("window")
    assert code == Exit.OK, err
    assert f"kept: {ACCESS_PATH}" in out and f"put back: {CF_PATH}: {CF_PATH}: exposure-files" in out
    assert Store(approved.host).current().reason == "window expired: why"
    assert approved.at(CF_PATH).stat().st_mode & 0o777 == 0o644
    assert approved.at(ACCESS_PATH).read_bytes() == WANTED
    assert is_locked(approved, ACCESS_PATH) and windows(approved) == []
    assert told == ["hardend: your window (why) ran out: 1 paths kept, 1 put back; hardend events tells why"]


def test_on_expiry_revert_keeps_nothing(approved: Tree, run: Run) -> None:
    approved.at("/etc/hardend/conf.d").mkdir()
    approved.at(CONFIG).write_text('[windows]\non_expiry = "revert"\n')
    opened(run)
    change(approved)
    run_out(approved)
    code, _, err = run("window", "--quiet")
    assert code == Exit.OK, err
    assert approved.at(ACCESS_PATH).read_bytes() == ACCESS
    assert number(approved) == 1


def test_window_lists_what_is_open_and_warns_once(
    approved: Tree, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(terminal, "tell", lambda _uid, text: told.append(text))
    assert run("window")[:2] == (Exit.OK, "no window is open\n")
    opened(run, ACCESS_PATH)
    (made,) = windows(approved)
    made.until, made.opened = boot.clock() + 110, boot.clock() - 3600
    window_files.write(approved.host, made)
    code, out, _ = run("window")
    assert code == Exit.OK and out.endswith(f"why: {ACCESS_PATH}\n")
    assert json.loads(run("window", "--json")[1])[0]["by"] == made.by
    assert [text[:32] for text in told] == ["hardend: your window ends in 2 m"] * 2  # for 10m and for 2m
    assert not is_locked(approved, ACCESS_PATH)
