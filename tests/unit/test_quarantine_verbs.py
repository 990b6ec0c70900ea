# SPDX-License-Identifier: Apache-2.0
"""hardend quarantine: list, show, diff, restore, approve and purge, on a tree without a guard."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from pathlib import Path

import pytest

from hardend.cli.main import main
from hardend.errors import Exit
from hardend.quarantine import Quarantine
from tests.unit.command import ACCESS_PATH
from tests.unit.command import approved as approved  # noqa: PLC0414 - a fixture
from tests.unit.command import run as run  # noqa: PLC0414 - a fixture
from tests.unit.conftest import ACCESS, Tree
from tests.unit.kept import DAY_S, EVIL, Call, Shelf, ids
from tests.unit.kept import call as call  # noqa: PLC0414 - a fixture
from tests.unit.kept import shelf as shelf  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.root


def test_the_list_has_the_newest_last_and_says_what_waits(shelf: Shelf, call: Call) -> None:
    young = shelf.put(age_s=60.0)
    old = shelf.put(age_s=3 * DAY_S)
    waiting = shelf.put(age_s=5.0, incident=young, wait=True)
    code, out, err = call("list")
    assert (code, err) == (Exit.OK, "")
    head, *lines = out.splitlines()
    assert head.split() == ["AGE", "PATH", "DRIFT", "KIND", "SIZE", "WHO", "ID", "INCIDENT", "BROKE"]
    assert [line.split("  ")[0] for line in lines] == ["3d", "60s", "5s"]
    assert [identifier in line for identifier, line in zip([old, young, waiting], lines, strict=True)]
    assert lines[0].endswith("first")
    assert lines[2].endswith(f"{young}, waits to be collected")
    assert "/bin/ed\\x1b[2J, pid 7" in lines[0]
    assert ids(call) == [old, young, waiting]


def test_the_list_is_filtered_by_path_age_and_kind(shelf: Shelf, call: Call) -> None:
    old = shelf.put(age_s=3 * DAY_S)
    near = shelf.put(path="/etc/mailer")
    link = shelf.put(None, kind="symlink", path="/etc/mail/smrsh/sh")
    assert ids(call, "--path", "/etc/mail/") == [old, link]
    assert ids(call, "--path", ACCESS_PATH) == [old]
    assert ids(call, "--since", "1d") == [near, link]
    assert ids(call, "--since", "2001-01-01 00:00") == [old, near, link]
    assert ids(call, "--kind", "symlink") == [link]
    code, out, err = call("list", "--path", "/etc/mail/acc")
    assert (code, out) == (Exit.DRIFT, "")
    assert "nothing is kept that fits" in err
    assert call("list", "--since", "soon")[0] == Exit.USAGE


def test_names_that_would_drive_a_terminal_are_escaped(shelf: Shelf, call: Call) -> None:
    name = os.fsdecode(b"/etc/mail/\x1b[2J\n\xff")
    identifier = shelf.put(path=name, kind="\x1b[2J", drift=["\x1b"], incident="\x1b")
    for arguments in (("list",), ("show", identifier), ("diff", identifier)):
        code, out, _ = call(*arguments)
        assert code in {Exit.OK, Exit.REFUSED}
        assert "".join(out.split("\n")).isprintable()


def test_without_a_quarantine_nothing_is_found(call: Call) -> None:
    assert call("list")[0] == Exit.DRIFT
    assert call("show", "2026")[0] == Exit.DRIFT
    assert call("purge", "--older", "1d", "--yes")[0] == Exit.DRIFT


def test_an_id_may_be_cut_short_as_long_as_it_is_the_only_one(shelf: Shelf, call: Call) -> None:
    first, second = shelf.put(age_s=10), shelf.put(age_s=10)
    assert call("show", second)[1].startswith(second)
    assert call("show", "0002")[1].startswith(second)
    assert call("show", first[9:])[1].startswith(first)
    code, out, err = call("show", first[:6])
    assert (code, out) == (Exit.USAGE, "")
    assert f"2 ids fit\nhardend: hint: one of {first}, {second}" in err
    assert call("show", "9999")[0] == Exit.DRIFT
    assert call("show", "")[0] == Exit.DRIFT


def test_show_tells_what_is_known(shelf: Shelf, call: Call) -> None:
    identifier = shelf.put(mode=0o4755, flags="i")
    out = call("show", identifier)[1]
    shown = dict(line.split(None, 1) for line in out.splitlines()[1:])
    assert shown["path"] == ACCESS_PATH
    assert shown["mode"] == "4755"
    assert shown["incident"] == "began with it"
    assert shown["who"] == "/bin/ed\\x1b[2J, pid 7"
    assert shown["content"] == f"kept whole: {hashlib.sha256(EVIL).hexdigest()}"
    document = json.loads(call("show", identifier, "--json")[1])
    assert document["record"]["mode"] == 0o4755
    waiting = shelf.put(wait=True)
    assert "to be collected" in call("show", waiting)[1]


def test_a_directory_is_listed_and_its_files_can_be_had(shelf: Shelf, call: Call, tmp_path: Path) -> None:
    identifier = shelf.put(None, kind="directory", wait=True)
    (shelf.taken / identifier).mkdir()
    (shelf.taken / identifier / "run\x1b").write_bytes(b"#!/bin/sh\n")
    for number in range(60):
        (shelf.taken / identifier / f"{number}").symlink_to("x")
    shelf.collect()
    out = call("show", identifier)[1]
    assert "-> x" in out
    assert "... and 11 more" in out
    assert "\x1b" not in out
    code, _, err = call("restore", identifier, "--to", str(tmp_path / "new"))
    assert code == Exit.REFUSED
    assert "is a directory" in err
    assert call("restore", identifier, "--to", str(tmp_path / "new"), "--inside", "run\x1b")[0] == Exit.OK
    assert (tmp_path / "new").read_bytes() == b"#!/bin/sh\n"
    assert call("restore", identifier, "--to", str(tmp_path / "x"), "--inside", "0")[0] == Exit.REFUSED
    assert call("restore", identifier, "--to", str(tmp_path / "x"), "--inside", "no")[0] == Exit.DRIFT


class Terminal(io.TextIOWrapper):
    """A standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("content", "is_shown"),
    [
        (EVIL, True),
        ("ümlaut\tand\nlines".encode(), True),
        (b"", True),
        (b"nul\0", False),
        (b"escape\x1b]0;title\x07", False),
        (b"\xff", False),
        ("right\u202eto left".encode(), False),
        (b"carriage\rreturn", False),
    ],
)
def test_bytes_go_out_as_they_are_but_nothing_that_drives_a_terminal(
    shelf: Shelf, tree: Tree, monkeypatch: pytest.MonkeyPatch, content: bytes, is_shown: bool
) -> None:
    identifier = shelf.put(content)
    for kind, shown in ((Terminal, is_shown), (io.TextIOWrapper, True)):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", kind(written))
        code = main(["quarantine", "show", identifier, "--content", "--root", str(tree.root)])
        assert (code, written.getvalue()) == ((Exit.OK, content) if shown else (Exit.REFUSED, b""))


@pytest.mark.usefixtures("approved")
def test_diff_shows_content_and_attributes_with_secrets_masked(shelf: Shelf, call: Call) -> None:
    identifier = shelf.put(ACCESS + b"password=hunter2\n", mode=0o666, uid=7, flags="a")
    code, out, _ = call("diff", identifier)
    assert code == Exit.OK
    assert f"{ACCESS_PATH}: mode 0644 -> 0666\n" in out
    assert f"{ACCESS_PATH}: owner 0 -> 7\n" in out
    assert "+password=...\n" in out
    assert "hunter2" not in out
    document = json.loads(call("diff", identifier, "--json")[1])
    assert document["generation"] == 1
    assert {"name": "mode", "approved": "0644", "kept": "0666"} in document["attributes"]
    assert "hunter2" not in json.dumps(document)


@pytest.mark.usefixtures("approved")
def test_diff_says_what_it_cannot_compare(shelf: Shelf, call: Call) -> None:
    assert "does not hold /etc/x" in call("diff", shelf.put(path="/etc/x"))[1]
    assert "+Connect:192.0.2.1" in call("diff", shelf.put(path="/etc/x"))[1]
    long = shelf.put(b"Connect:1\tREJECT\n" * 100_000)
    out = call("diff", long)[1]
    assert "only the first 1048576 of 1700000 bytes were kept" in out
    assert "too long" in out
    secret = shelf.put(b"secret", path="/etc/mail/authinfo", cls="attributes", mode=0o644)
    out = call("diff", secret)[1]
    assert "/etc/mail/authinfo: mode 0600 -> 0644" in out
    assert "nothing of its content was kept" in out
    link = shelf.put(None, path="/etc/mail/link", kind="symlink", target="/etc/shadow")
    assert "/etc/mail/link: target ../aliases -> /etc/shadow\n" in call("diff", link)[1]


def test_diff_of_what_is_as_approved(approved: Tree, shelf: Shelf, call: Call) -> None:
    mtime_ns = approved.at(ACCESS_PATH).stat().st_mtime_ns
    identifier = shelf.put(ACCESS, mtime_ns=mtime_ns, flags="i")
    record = shelf.record(identifier)
    (shelf.records / f"{identifier}.json").write_text(json.dumps({**record, "flags": "i", "xattrs": []}))
    assert call("diff", identifier)[1] == "no difference from generation 1\n"


def test_diff_without_a_baseline_is_refused(shelf: Shelf, call: Call) -> None:
    assert call("diff", shelf.put())[0] == Exit.REFUSED


def test_what_waits_has_no_content_yet(shelf: Shelf, call: Call, tmp_path: Path) -> None:
    waiting = shelf.put(wait=True)
    for arguments in (
        ("restore", waiting, "--to", str(tmp_path / "x")),
        ("purge", "--id", waiting, "--yes"),
        ("show", waiting, "--content"),
        ("approve", waiting, "--reason", "x"),
    ):
        code, _, err = call(*arguments)
        assert code == Exit.REFUSED
        assert "hardend collect" in err


def test_purge_spares_the_first_of_each_incident(shelf: Shelf, call: Call) -> None:
    first = shelf.put(b"first", age_s=40 * DAY_S)
    shelf.put(b"second", age_s=39 * DAY_S, incident=first)
    young = shelf.put(b"young", age_s=1 * DAY_S, incident=first)
    code, out, err = call("purge", "--older", "30d", "--yes")
    assert code == Exit.OK
    assert out == "1 objects removed, 8 KiB freed\n"
    assert "1 first objects of incidents stay" in err
    assert ids(call) == [first, young]
    assert call("purge", "--older", "30d", "--yes")[0] == Exit.DRIFT
    assert call("purge", "--older", "30d", "--all", "--yes", "--json")[0] == Exit.OK
    assert ids(call) == [young]
    assert len(list(shelf.objects.iterdir())) == 1


def test_purge_by_id_takes_a_first_and_leaves_content_that_others_name(shelf: Shelf, call: Call) -> None:
    first = shelf.put(EVIL, age_s=40)
    second = shelf.put(EVIL, age_s=39, incident=first)
    code, out, _ = call("purge", "--id", first, "--yes", "--json")
    assert code == Exit.OK
    assert json.loads(out)["removed"] == [first]
    assert ids(call) == [second]
    assert shelf.object_of(second).read_bytes() == EVIL
    assert call("purge", "--id", second[-4:], "--yes")[0] == Exit.OK
    assert list(shelf.objects.iterdir()) == []


def test_purge_by_path(shelf: Shelf, call: Call) -> None:
    first = shelf.put(age_s=9)
    shelf.put(age_s=8, incident=first)
    other = shelf.put(path="/etc/mail/accessory", incident=first, age_s=1)
    assert call("purge", "--path", ACCESS_PATH, "--yes")[0] == Exit.OK
    assert ids(call) == [first, other]


def test_purge_asks_and_an_unknown_id_removes_nothing(
    shelf: Shelf, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    identifier = shelf.put()
    assert call("purge", "--id", identifier)[0] == Exit.REFUSED  # nobody is there to be asked
    assert call("purge", "--id", identifier, "9999", "--yes")[0] == Exit.DRIFT
    for arguments in ((), ("--yes",), ("--all",), ("--id", identifier, "--older", "1d")):
        assert call("purge", *arguments)[0] == Exit.USAGE
    answers = iter(["n", "", "y"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _question: next(answers))
    assert [call("purge", "--id", identifier)[0] for _ in range(3)] == [Exit.REFUSED, Exit.REFUSED, Exit.OK]
    assert ids(call) == []


def test_purge_is_refused_while_a_collector_is_at_work(
    shelf: Shelf, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hardend.cli.quarantine_acts._PATIENCE_S", 0.1)
    identifier = shelf.put()
    with Quarantine(shelf.host):
        assert call("purge", "--id", identifier, "--yes")[0] == Exit.REFUSED
    assert ids(call) == [identifier]
