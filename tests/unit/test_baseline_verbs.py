# SPDX-License-Identifier: Apache-2.0
"""hardend baseline: log, show, diff, verify and rollback on a tree without a guard."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hardend.baseline.store import Store
from hardend.errors import Exit
from tests.unit.command import CF_PATH, Run
from tests.unit.command import approved as approved  # noqa: PLC0414 - a fixture
from tests.unit.command import run as run  # noqa: PLC0414 - a fixture
from tests.unit.conftest import CF, Tree

pytestmark = pytest.mark.root


@pytest.fixture
def second(approved: Tree, run: Run, tmp_path: Path) -> Tree:
    """Two generations: the second has another sendmail.cf."""
    (tmp_path / "cf").write_bytes(CF.replace(b"goaway\n", b"authwarnings"))
    proposed = ("approve", CF_PATH, "--from", str(tmp_path / "cf"))
    code, _, err = run(*proposed, "--force", "--reason", "second\n\x1b[2J")
    assert code == Exit.OK, err
    return approved


@pytest.mark.usefixtures("second")
def test_the_log_shows_the_newest_first_and_marks_what_is_in_force(run: Run) -> None:
    code, out, _ = run("baseline", "log")
    lines = out.splitlines()
    assert code == Exit.OK
    assert [line.split()[:2] for line in lines] == [["*", "2"], ["1", lines[1].split()[1]]]
    assert lines[0].endswith("second\\x0a\\x1b[2J")
    document = json.loads(run("baseline", "log", "--json")[1])
    assert [(row["number"], row["current"]) for row in document["generations"]] == [(2, True), (1, False)]


@pytest.mark.usefixtures("second")
def test_show_lists_the_entries_of_any_generation(run: Run) -> None:
    code, out, _ = run("baseline", "show", "1")
    assert code == Exit.OK
    assert out.startswith("generation 1, ")
    assert "/etc/mail/link -> ../aliases" in out
    document = json.loads(run("baseline", "show", "--json")[1])
    assert document["number"] == 2
    assert CF_PATH in [entry["path"] for entry in document["entries"]]


@pytest.mark.usefixtures("second")
def test_diff_shows_lines_and_a_missing_last_newline(run: Run) -> None:
    code, out, _ = run("baseline", "diff")
    assert code == Exit.OK
    assert "-O PrivacyOptions=goaway\n-\n+O PrivacyOptions=authwarnings\n" in out
    assert run("baseline", "diff", "1", "2")[1] == out
    assert "added: " in run("baseline", "diff", "0", "1")[1]


def test_diff_shows_what_hides_from_a_reader(approved: Tree, run: Run, tmp_path: Path) -> None:
    assert approved.root.is_dir()
    contents = (b"a\nb\n", b"a\rb\n", b"a\x0bb\n", "a\u2028b\n".encode(), b"a\xffb\n")
    for number, content in enumerate(contents):
        (tmp_path / "cf").write_bytes(content)
        proposed = ("approve", CF_PATH, "--from", str(tmp_path / "cf"))
        code, _, err = run(*proposed, "--force", "--reason", f"{number}")
        assert code == Exit.OK, err
        shown = run("baseline", "diff")[1]
        added = [line for line in shown.split("\n") if line.startswith("+") and line[:3] != "+++"]
        assert added, content
        assert all(line.isprintable() for line in shown.split("\n"))


def test_diff_shows_a_path_that_became_something_else(approved: Tree, run: Run) -> None:
    approved.at("/etc/mail/link").unlink()
    approved.at("/etc/mail/link").write_bytes(b"a file now\n")
    assert run("approve", "--reason", "a file")[0] == Exit.OK
    assert "/etc/mail/link: kind symlink -> file" in run("baseline", "diff")[1]


@pytest.mark.usefixtures("approved")
def test_the_same_again_is_no_difference(run: Run) -> None:
    run("approve", "--reason", "again")
    assert run("baseline", "diff")[1] == "no difference\n"
    code, out, err = run("baseline", "diff", "2")
    assert (code, out) == (Exit.REFUSED, "")
    assert "baseline diff OLD NEW" in err


def test_a_rollback_is_a_new_generation_with_the_old_content(second: Tree, run: Run) -> None:
    code, out, _ = run("baseline", "rollback", "1", "--reason", "it did not work")
    assert code == Exit.OK
    assert "generation 3 has the content of 1" in out
    assert second.at(CF_PATH).read_bytes() == CF
    assert Store(second.host).current().reason == "rollback to 1: it did not work"
    assert Store(second.host).verify() == []
    assert run("check")[0] == Exit.OK


@pytest.mark.parametrize("verb", [("rollback", "9", "--reason", "x"), ("show", "9"), ("diff", "1", "9")])
@pytest.mark.usefixtures("second")
def test_a_generation_that_never_was_is_no_damage(run: Run, verb: tuple[str, ...]) -> None:
    code, out, err = run("baseline", *verb)
    assert (code, out) == (Exit.REFUSED, "")
    assert "there is no generation 9" in err
    assert "hardend baseline log lists them" in err


def test_verify_names_every_damaged_part(second: Tree, run: Run) -> None:
    assert run("baseline", "verify")[0] == Exit.OK
    damaged = next((Path(second.host.store_dir) / "objects").iterdir())
    damaged.write_bytes(b"damaged")
    (Path(second.host.store_dir) / "generations/2/digest").write_bytes(b"x")
    code, out, _ = run("baseline", "verify")
    assert code == Exit.REFUSED
    assert "generations/2/manifest.json: its digest is wrong" in out


@pytest.mark.parametrize(
    "verb", [("check",), ("baseline", "log"), ("baseline", "show"), ("baseline", "verify")]
)
def test_without_a_baseline_the_way_to_the_first_is_said(run: Run, verb: tuple[str, ...]) -> None:
    code, out, err = run(*verb)
    assert (code, out) == (Exit.REFUSED, "")
    assert "hardend: hint: hardend approve --reason TEXT makes the first" in err


def test_a_damaged_store_is_mended_by_a_rollback(second: Tree, run: Run) -> None:
    (Path(second.host.store_dir) / "current").write_bytes(b"damaged")
    code, _, err = run("check")
    assert code == Exit.REFUSED
    assert "hardend baseline verify" in err
    code, _, err = run("baseline", "rollback", "1", "--reason", "the store was damaged")
    assert code == Exit.OK, err
    assert second.at(CF_PATH).read_bytes() == CF
    assert Store(second.host).current().number == 3
    assert run("check")[0] == Exit.OK


def test_a_damaged_object_refuses_the_rollback_that_needs_it_and_changes_nothing(
    second: Tree, run: Run
) -> None:
    live = second.at(CF_PATH).read_bytes()
    digest = Store(second.host).generation(1).entries[CF_PATH].digest
    (Path(second.host.store_dir) / "objects" / digest).write_bytes(b"damaged")
    code, _, err = run("baseline", "rollback", "1", "--reason", "x")
    assert code == Exit.REFUSED
    assert digest in err
    assert second.at(CF_PATH).read_bytes() == live
    assert Store(second.host).current().entries[CF_PATH].digest != digest
    assert run("check")[0] == Exit.OK


def test_diff_shows_the_beginning_of_digests_and_escapes_names(approved: Tree, run: Run) -> None:
    store = Store(approved.host)
    current = store.current()
    entries = dict(current.entries)
    link = entries["/etc/mail/link"]
    entries[link.path] = replace(link, target="to\x1b[2J")
    access = entries["/etc/mail/access"]
    entries[access.path] = replace(
        access, answers="a" * 64, builder="b" * 64, sources=(("/etc/mail/x\n", "c" * 64), ("/y", ""))
    )
    with store.locked():
        number, parent = store.next()
        store.add_generation(replace(current, number=number, parent=parent, entries=entries))
    code, out, _ = run("baseline", "diff")
    assert code == Exit.OK
    assert f"answers - -> {'a' * 12}\n" in out
    assert f"builder - -> {'b' * 12}\n" in out
    assert f"sources - -> /etc/mail/x\\x0a {'c' * 12}, /y -\n" in out
    assert "target ../aliases -> to\\x1b[2J\n" in out
