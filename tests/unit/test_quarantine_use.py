# SPDX-License-Identifier: Apache-2.0
"""hardend quarantine restore and approve: where bytes may go, and what may become content."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hardend.baseline.store import Store
from hardend.errors import Exit
from tests.unit.command import ACCESS_PATH, CF_PATH, Run
from tests.unit.command import approved as approved  # noqa: PLC0414 - a fixture
from tests.unit.command import run as run  # noqa: PLC0414 - a fixture
from tests.unit.conftest import CF, Tree
from tests.unit.kept import EVIL, Call, Shelf
from tests.unit.kept import call as call  # noqa: PLC0414 - a fixture
from tests.unit.kept import shelf as shelf  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.root


def test_restore_writes_a_new_file_that_is_roots_alone(shelf: Shelf, call: Call, tmp_path: Path) -> None:
    identifier = shelf.put()
    target = tmp_path / "kept"
    code, out, _ = call("restore", identifier, "--to", str(target))
    assert (code, target.read_bytes()) == (Exit.OK, EVIL)
    assert target.stat().st_mode & 0o7777 == 0o600
    assert out == f"{target}: {len(EVIL)} bytes of {identifier}, mode 0600\n"
    code, _, err = call("restore", identifier, "--to", str(target))
    assert code == Exit.REFUSED
    assert "exists" in err
    dangling = tmp_path / "dangling"
    dangling.symlink_to("nowhere")
    assert call("restore", identifier, "--to", str(dangling))[0] == Exit.REFUSED
    assert not (tmp_path / "nowhere").exists()
    assert call("restore", identifier, "--to", str(tmp_path / "no/where"))[0] == Exit.USAGE


@pytest.fixture
def held(tree: Tree) -> Tree:
    """A tree with a baseline that holds directories of every role; nothing is locked."""
    store = Store(tree.host)
    with store.locked():
        store.add_generation(tree.generation())
    tree.at("/etc/mail/sub").mkdir()
    tree.at("/link").symlink_to("etc/mail/sub")
    return tree


@pytest.mark.parametrize(
    "place",
    [
        "etc/mail/new", "etc/mail/smrsh/new", "var/spool/mqueue/new", "etc/mail/sub/new", "link/new",
        "link/../new", "etc/hardend/new", "etc/hardend/taken/new", "var/lib/hardend/new",
    ],
)  # fmt: skip
def test_restore_writes_nothing_into_what_is_guarded(
    held: Tree, shelf: Shelf, call: Call, place: str
) -> None:
    target = f"{held.root}/{place}"
    code, out, err = call("restore", shelf.put(), "--to", target)
    assert (code, out) == (Exit.REFUSED, "")
    assert "hardend quarantine approve" in err
    assert not os.path.lexists(target)


def test_restore_does_not_put_a_missing_path_back_by_hand(held: Tree, shelf: Shelf, call: Call) -> None:
    held.at("/var/spool/mqueue").rmdir()
    code, _, err = call("restore", shelf.put(), "--to", f"{held.root}/var/spool/mqueue")
    assert code == Exit.REFUSED
    assert "mqueue: a path that hardend guards" in err
    assert call("restore", shelf.put(), "--to", f"{held.root}/var/spool/other")[0] == Exit.OK


def test_restore_knows_what_is_guarded_by_a_damaged_store_too(
    held: Tree, shelf: Shelf, call: Call
) -> None:
    (Path(held.host.store_dir) / "current").write_bytes(b"damaged")
    assert call("restore", shelf.put(), "--to", f"{held.root}/etc/mail/new")[0] == Exit.REFUSED


def test_a_name_without_a_directory_is_one_of_the_working_directory(
    shelf: Shelf, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    identifier = shelf.put()
    assert call("restore", identifier, "--to", "kept")[0] == Exit.OK
    assert (tmp_path / "kept").read_bytes() == EVIL
    for name in ("", ".", "..", "sub/"):
        assert call("restore", identifier, "--to", name)[0] == Exit.REFUSED


def test_what_was_cut_short_is_restored_with_a_word(shelf: Shelf, call: Call, tmp_path: Path) -> None:
    identifier = shelf.put(b"x" * (2 << 20))
    code, _, err = call("restore", identifier, "--to", str(tmp_path / "half"))
    assert code == Exit.OK
    assert (tmp_path / "half").stat().st_size == 1 << 20
    assert "only the beginning of 2097152 bytes" in err


def test_a_damaged_object_is_named_and_leaves_no_file(shelf: Shelf, call: Call, tmp_path: Path) -> None:
    identifier = shelf.put()
    damages = (lambda path: path.write_bytes(b"x"), Path.unlink, Path.mkdir, lambda path: path.rmdir())
    for damage in damages:
        damage(shelf.object_of(identifier))
        code, _, err = call("restore", identifier, "--to", str(tmp_path / "new"))
        assert code == Exit.REFUSED
        assert str(shelf.object_of(identifier)) in err
        assert call("show", identifier, "--content")[:2] == (Exit.REFUSED, "")
        assert call("show", identifier)[0] == Exit.OK
    assert not (tmp_path / "new").exists()


def test_approve_makes_it_the_content_of_the_next_generation(
    approved: Tree, shelf: Shelf, call: Call, run: Run
) -> None:
    identifier = shelf.put(b"Connect:192.0.2.1\tREJECT\n", mode=0o666)
    code, out, err = call("approve", identifier, "--reason", "it was right", "--json")
    assert code == Exit.OK, err
    assert json.loads(out)["generation"] == 2
    assert approved.at(ACCESS_PATH).read_bytes() == b"Connect:192.0.2.1\tREJECT\n"
    assert approved.at(ACCESS_PATH).stat().st_mode & 0o777 == 0o644
    assert Store(approved.host).current().reason == f"it was right (quarantine {identifier})"
    assert run("check")[0] == Exit.OK
    code, out, _ = call("approve", identifier, "--reason", "again")
    assert code == Exit.OK
    assert "has this content already" in out
    assert Store(approved.host).current().number == 2


WEAKER = CF.replace(b"goaway", b"authwarnings")


def test_what_breaks_a_rule_that_is_met_needs_force(approved: Tree, shelf: Shelf, call: Call) -> None:
    identifier = shelf.put(WEAKER, path=CF_PATH)
    code, _, err = call("approve", identifier, "--reason", "why not")
    assert code == Exit.REFUSED
    assert "privacy-" in err
    assert Store(approved.host).current().number == 1
    assert approved.at(CF_PATH).read_bytes() == CF
    code, out, err = call("approve", identifier, "--reason", "I must", "--force", "--json")
    assert code == Exit.OK, err
    assert json.loads(out)["forced"]
    assert "forced past" in Store(approved.host).current().reason
    assert approved.at(CF_PATH).read_bytes() == WEAKER


def test_a_configuration_that_does_not_pass_the_gate_is_refused_with_force_too(
    approved: Tree, shelf: Shelf, call: Call
) -> None:
    identifier = shelf.put(b"F{x}|/bin/sh\n" + CF, path=CF_PATH)
    code, _, err = call("approve", identifier, "--reason", "x", "--force")
    assert code == Exit.REFUSED, err
    assert Store(approved.host).current().number == 1


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"content": b"x" * (2 << 20)}, "only its beginning was kept"),
        ({"path": ""}, "its path is not known"),
        ({"content": None, "kind": "symlink"}, "is a symlink, not a file"),
        ({"path": "/etc/mail/authinfo"}, "its content is not held"),
        ({"path": "/etc/passwd"}, "not a path that hardend protects"),
    ],
)
def test_what_cannot_be_content_is_refused(
    approved: Tree, shelf: Shelf, call: Call, fields: dict[str, Any], why: str
) -> None:
    code, _, err = call("approve", shelf.put(**fields), "--reason", "x")
    assert code in {Exit.REFUSED, Exit.USAGE}
    assert why in err
    assert Store(approved.host).current().number == 1


def test_approve_wants_a_reason(shelf: Shelf, call: Call) -> None:
    assert call("approve", shelf.put(), "--reason", " ")[0] == Exit.USAGE
