# SPDX-License-Identifier: Apache-2.0
"""hardend approve and hardend check on a tree without a guard."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hardend.baseline.store import Store
from hardend.errors import Exit
from hardend.quarantine_reader import Shelf
from tests.unit.command import ACCESS_PATH, CF_PATH, Run, is_locked
from tests.unit.command import approved as approved  # noqa: PLC0414 - a fixture
from tests.unit.command import run as run  # noqa: PLC0414 - a fixture
from tests.unit.conftest import ACCESS, CF, Tree

pytestmark = pytest.mark.root


def test_the_first_approval_makes_a_generation_and_locks(tree: Tree, run: Run) -> None:
    code, out, _ = run("approve", "--reason", "first")
    assert code == Exit.OK
    assert out.startswith("generation 1 approved: ")
    assert "2 locked" in out
    assert "systemctl enable --now hardend" in out
    assert is_locked(tree, CF_PATH) and is_locked(tree, ACCESS_PATH)
    assert not is_locked(tree, "/etc/mail/authinfo")
    generation = Store(tree.host).current()
    assert (generation.number, generation.reason, generation.parent) == (1, "first", "")
    assert run("check")[0] == Exit.OK
    run("release")


def test_the_secret_s_content_is_not_in_the_store(approved: Tree) -> None:
    assert Store(approved.host).current().entries["/etc/mail/authinfo"].digest == ""
    objects = Path(approved.host.store_dir) / "objects"
    assert b"secret" not in [path.read_bytes() for path in objects.iterdir()]


def test_check_names_every_drift_and_changes_nothing(approved: Tree, run: Run) -> None:
    approved.unlock(CF_PATH)
    approved.at(CF_PATH).write_bytes(b"EVIL")
    approved.at("/etc/mail/smrsh/sh").symlink_to("/bin/sh")
    approved.at("/etc/mail/smrsh/.hardend").symlink_to("/bin/sh")
    approved.at("/etc/mail/a\x1b[2J").touch()
    code, out, _ = run("check")
    assert code == Exit.DRIFT
    assert f"{CF_PATH}: content flags stale\n" in out
    assert "/etc/mail/smrsh/sh: unexpected\n" in out
    assert "/etc/mail/smrsh/.hardend: unexpected\n" in out
    assert "/etc/mail/a\\x1b[2J: unexpected\n" in out
    assert "\x1b" not in out
    assert approved.at(CF_PATH).read_bytes() == b"EVIL"
    code, out, _ = run("check", "--json")
    document = json.loads(out)
    assert code == Exit.DRIFT
    assert (document["clean"], document["generation"]) == (False, 1)
    assert document["paths"][CF_PATH] == ["content", "flags", "stale"]


def test_new_content_from_a_file_becomes_the_live_content(
    approved: Tree, run: Run, tmp_path: Path
) -> None:
    for name in ("cf", "access"):
        (tmp_path / name).write_text(f"new {name}\n")
    code, out, err = run(
        *("approve", CF_PATH, "--from", str(tmp_path / "cf")),
        *(ACCESS_PATH, "--from", str(tmp_path / "access")),
        *("--force", "--reason", "both"),
    )
    assert code == Exit.OK, err
    assert out.startswith("generation 2 approved")
    assert approved.at(CF_PATH).read_text() == "new cf\n"
    assert approved.at(ACCESS_PATH).read_text() == "new access\n"
    assert is_locked(approved, CF_PATH)
    assert run("check")[0] == Exit.OK
    assert Store(approved.host).verify() == []


def test_what_an_approval_replaces_is_kept_by_its_path_and_broke_no_rule(
    approved: Tree, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "cf").write_bytes(CF.replace(b"goaway\n", b"authwarnings\n"))
    (tmp_path / "old").write_bytes(CF)
    for source in ("cf", "old"):
        new = ("--from", str(tmp_path / source), "--force", "--reason", source)
        code, _, err = run("approve", CF_PATH, *new)
        assert code == Exit.OK, err
    code, _, err = run("collect")
    assert (code, "broke" in err) == (Exit.OK, False), err
    with Shelf(approved.host) as shelf:
        kept = shelf.all()
    known = [(item.path, item.drift, item.waits, item.rules) for item in kept]
    assert known == [(CF_PATH, (), False, ())] * 2


def test_a_path_alone_takes_in_its_live_state_and_puts_the_others_back(approved: Tree, run: Run) -> None:
    for path in (CF_PATH, ACCESS_PATH):
        approved.unlock(path)
        approved.at(path).write_bytes(b"edited\n")
    code, _, err = run("approve", CF_PATH, "--force", "--reason", "edited by hand")
    assert code == Exit.OK, err
    assert approved.at(CF_PATH).read_bytes() == b"edited\n"
    assert approved.at(ACCESS_PATH).read_bytes() == ACCESS
    assert run("check")[0] == Exit.OK


def test_what_breaks_a_rule_that_is_met_is_refused_and_changes_nothing(
    approved: Tree, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "cf").write_bytes(CF.replace(b"goaway\n", b"authwarnings\n"))
    weaker = ("approve", CF_PATH, "--from", str(tmp_path / "cf"), "--reason", "weaker")
    code, _, err = run(*weaker)
    assert code == Exit.REFUSED
    assert "/etc/mail/sendmail.cf:2: privacy-flags: PrivacyOptions lacks noexpn" in err
    assert "--force goes past it" in err
    assert Store(approved.host).current().number == 1
    assert approved.at(CF_PATH).read_bytes() == CF
    (approved.root / "etc/hardend").mkdir(exist_ok=True)
    (approved.root / "etc/hardend/hardend.toml").write_text(
        '[[waivers]]\nrule = "privacy-flags"\nreason = "a test host"\n'
    )
    assert run(*weaker)[0] == Exit.OK, "a waiver is the administrator's decision"


def test_what_is_forced_past_a_rule_is_told(approved: Tree, run: Run, tmp_path: Path) -> None:
    (tmp_path / "cf").write_bytes(CF.replace(b"goaway\n", b"authwarnings\n"))
    code, _, err = run(
        *("approve", CF_PATH, "--from", str(tmp_path / "cf"), "--force", "--reason", "weaker")
    )
    assert code == Exit.OK
    assert "warning: forced: /etc/mail/sendmail.cf:2: privacy-flags" in err
    assert "generation 2 was forced by" in err, "the journal's line, on a tree without journald"
    assert approved.at(CF_PATH).read_bytes() != CF
    code, _, err = run("baseline", "rollback", "1", "--reason", "back")
    assert code == Exit.OK, "what is better needs no force"
    code, _, err = run("baseline", "rollback", "2", "--reason", "again")
    assert code == Exit.REFUSED
    assert "privacy-flags" in err


def test_a_directory_that_is_gone_leaves_the_baseline_with_all_it_held(approved: Tree, run: Run) -> None:
    shutil.rmtree(approved.at("/etc/mail/smrsh"))
    code, _, err = run("approve", "/etc/mail/smrsh", "--reason", "no programs here")
    assert code == Exit.OK, err
    assert not [path for path in Store(approved.host).current().entries if "smrsh" in path]
    assert run("check")[0] == Exit.OK
    assert Store(approved.host).verify() == []


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "an empty reason": (("approve", "--reason", "  "), "--reason is empty"),
    "a path that is not ours": (
        ("approve", "/etc/passwd", "--reason", "x"),
        "not a path that hardend protects",
    ),
    "a file that is not there": (("approve", CF_PATH, "--from", "/none", "--reason", "x"), "No such file"),
    "content for a secret": (
        ("approve", "/etc/mail/authinfo", "--from", "/etc/passwd", "--reason", "x"),
        "its content is not held",
    ),
    "a rollback to nothing": (("baseline", "rollback", "7", "--reason", "x"), "there is no generation 7"),
    "a generation that is not there": (("baseline", "show", "7"), "there is no generation 7"),
    "a time that is too long": (("off", "--for", "99d", "--reason", "x"), "at most 24h"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_one_line_and_changes_nothing(approved: Tree, run: Run, what: str) -> None:
    arguments, sentence = REFUSED[what]
    code, out, err = run(*arguments)
    assert code in {Exit.REFUSED, Exit.USAGE}
    assert out == ""
    assert sentence in err
    assert all(line.startswith("hardend: ") for line in err.splitlines())
    assert Store(approved.host).numbers() == [1]
    assert run("check")[0] == Exit.OK
