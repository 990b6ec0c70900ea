# SPDX-License-Identifier: Apache-2.0
"""A damaged quarantine: every fault is named and the rest is read; and who may do what."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardend.cli.main import main
from hardend.errors import Exit, HardendError, RefusedError
from hardend.model import Host, printable
from hardend.quarantine import Quarantine, load_record
from hardend.quarantine_reader import Kept, NothingFoundError
from hardend.quarantine_reader import Shelf as Reader
from tests.unit.conftest import Tree
from tests.unit.kept import Call, Shelf, ids
from tests.unit.kept import call as call  # noqa: PLC0414 - a fixture
from tests.unit.kept import shelf as shelf  # noqa: PLC0414 - a fixture
from tests.unit.taken import in_child

pytestmark = pytest.mark.root


def become(path: Path, make_it: Callable[[Path], object]) -> None:
    """Put something else in the place of a file."""
    path.unlink()
    make_it(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: os.truncate(path, 30),
    "a list": lambda path: path.write_text("[]"),
    "nested without end": lambda path: path.write_text("[" * 100_000),
    "no text": lambda path: path.write_bytes(b"\xff\xfe"),
    "a link": lambda path: become(path, lambda path: path.symlink_to("/etc/passwd")),
    "a FIFO": lambda path: become(path, os.mkfifo),
    "a directory": lambda path: become(path, Path.mkdir),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_named_and_the_rest_is_listed(
    shelf: Shelf, call: Call, damage: str
) -> None:
    damaged, whole = shelf.put(age_s=20), shelf.put()
    where = shelf.records / f"{damaged}.json"
    DAMAGES[damage](where)
    code, out, err = call("list", "--json")
    document = json.loads(out)
    assert code == Exit.OK
    assert [item["id"] for item in document["objects"]] == [whole]
    assert [fault.split(":")[0] for fault in document["faults"]] == [str(where)]
    assert str(where) in err
    code, _, err = call("show", damaged)
    assert code == Exit.DRIFT
    assert str(where) in err
    assert call("purge", "--older", "1s", "--all", "--yes")[0] == Exit.OK
    assert not shelf.records.joinpath(f"{whole}.json").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_of_what_waits_is_named_and_the_object_is_listed(
    shelf: Shelf, call: Call, damage: str
) -> None:
    waiting = shelf.put(wait=True)
    DAMAGES[damage](shelf.taken / f"{waiting}.json")
    code, out, err = call("list", "--json")
    assert code == Exit.OK
    (item,) = json.loads(out)["objects"]
    assert (item["id"], item["kind"], item["path"]) == (waiting, "file", "")
    assert str(shelf.taken / f"{waiting}.json") in err


def test_names_that_are_not_ours_are_faults(shelf: Shelf, call: Call) -> None:
    kept = shelf.put()
    for name in ("x", ".hidden.json", "a b.json", "\x1b.json", "\udcff.json"):
        (shelf.records / name).write_text("{}")
    (shelf.records / ".new").write_text("{")
    code, out, err = call("list", "--json")
    assert code == Exit.OK
    assert [item["id"] for item in json.loads(out)["objects"]] == [kept]
    assert len(err.splitlines()) == 5
    assert "".join(err.split("\n")).isprintable()


FIELDS = ("path", "drift", "kind", "size", "cls", "generation", "incident", "who", "digest", "stored")


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_the_wrong_type_is_a_fault_and_the_others_count(
    shelf: Shelf, call: Call, name: str
) -> None:
    identifier = shelf.put()
    where = shelf.records / f"{identifier}.json"
    where.write_text(json.dumps({**shelf.record(identifier), name: 1.5}))
    code, out, err = call("list")
    assert (code, len(out.splitlines())) == (Exit.OK, 2)
    assert f"{where}: damaged: '{name}' is not " in err
    assert call("show", identifier)[0] == Exit.OK
    assert ids(call) == [identifier]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = (
    *(*FIELDS, "mode", "uid", "gid", "mtime_ns", "flags"),
    *("xattrs", "entries", "target", "unstable", "gone"),
)


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=8))
@settings(max_examples=100, deadline=None)
def test_no_record_makes_a_verb_fail_in_a_way_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, record: dict[str, Any]
) -> None:
    host = Host(str(tmp_path_factory.mktemp("host")))
    with Quarantine(host) as quarantine:
        quarantine.write_record({**record, "id": "x"})
    assert main(["quarantine", "list", "--root", host.root]) == Exit.OK
    assert main(["quarantine", "show", "x", "--root", host.root]) == Exit.OK
    assert main(["quarantine", "show", "x", "--json", "--root", host.root]) == Exit.OK
    for verb in (("diff", "x"), ("approve", "x", "--reason", "x"), ("restore", "x", "--to", "/proc/x/y")):
        assert main(["quarantine", *verb, "--root", host.root]) in {Exit.USAGE, Exit.REFUSED, Exit.DRIFT}
    assert main(["quarantine", "purge", "--id", "x", "--yes", "--root", host.root]) == Exit.OK


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_any_text_for_an_id_finds_one_or_says_so(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    host = Host(str(tmp_path_factory.mktemp("host")))
    with Quarantine(host) as quarantine:
        for name in ("20261124T061501.123456-0001", "20261124T061501.123456-0002"):
            quarantine.write_record({"id": name})
    with Reader(host) as reader:
        said = text
        try:
            said = reader.find(text).id
        except HardendError as error:
            said = str(error)
        assert printable(text) in said


@pytest.mark.parametrize("name", ["records", "objects", ""])
def test_a_directory_that_is_none_is_named(shelf: Shelf, call: Call, name: str) -> None:
    shelf.put()
    waiting = shelf.put(wait=True)
    where = Path(shelf.host.quarantine_dir) / name
    where.rename(shelf.host.at("/moved"))
    where.symlink_to(shelf.host.at("/moved"))
    code, out, err = call("list", "--json")
    assert code == Exit.OK
    assert waiting in out
    # What is above the two is followed: the administrator may have moved the whole of it.
    assert (str(where) in err) is bool(name)


def test_what_is_collected_between_two_looks_is_seen_once(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    identifier = shelf.put(wait=True)
    real = os.listdir

    def listdir(where: Any) -> list[str]:
        names = real(where)
        if isinstance(where, int):
            monkeypatch.setattr(os, "listdir", real)
            shelf.collect()
        return names

    with Quarantine(shelf.host):
        pass
    with Reader(shelf.host) as reader:
        monkeypatch.setattr(os, "listdir", listdir)
        (kept,) = reader.all()
    assert (kept.id, kept.waits) == (identifier, False)


def test_only_root_may_look_or_change(tree: Tree, shelf: Shelf) -> None:
    identifier = shelf.put()
    tree.root.chmod(0o755)
    verbs = (
        ("list",),
        ("show", identifier),
        ("restore", identifier, "--to", "/tmp/hardend-never"),
        ("approve", identifier, "--reason", "x"),
        ("purge", "--id", identifier, "--yes"),
    )

    def refused() -> None:
        os.setgid(65534)
        os.setuid(65534)
        for verb in verbs:
            assert main(["quarantine", verb[0], "--root", str(tree.root), *verb[1:]]) == Exit.REFUSED
        assert main(["baseline", "prune", "--root", str(tree.root), "--keep", "1"]) == Exit.REFUSED

    before = sorted(path.name for path in Path(shelf.host.state_dir).rglob("*"))
    assert in_child(refused) == 0
    assert sorted(path.name for path in Path(shelf.host.state_dir).rglob("*")) == before


def test_ten_thousand_records_are_listed_without_a_wait(shelf: Shelf, call: Call) -> None:
    record = shelf.record(shelf.put())
    for number in range(10_000):
        name = f"20261124T061501.{number:06d}-0001"
        (shelf.records / f"{name}.json").write_text(json.dumps({**record, "id": name}))
    begin = time.process_time()
    assert len(call("list")[1].splitlines()) == 10_002
    print(f"10,000 records: {time.process_time() - begin:.2f} s for a list")


def test_a_record_is_an_object_or_says_why_not(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("[]")
    (tmp_path / "deep").write_text("[" * 100_000)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        for name, why in (("list", "not a JSON object"), ("deep", "nested too deep")):
            with pytest.raises(ValueError, match=why):
                load_record(directory, name)
        with pytest.raises(FileNotFoundError):
            load_record(directory, "missing")
    finally:
        os.close(directory)


def test_what_has_no_content_says_which() -> None:
    kept = Kept("x", "", (), 0.0, "fifo", 0, "", 0, "x", {}, "", "attributes", waits=False, record={})
    with pytest.raises(RefusedError, match="nothing of its content was kept"):
        kept.content_of()
    with pytest.raises(NothingFoundError):
        kept.content_of("inside")
