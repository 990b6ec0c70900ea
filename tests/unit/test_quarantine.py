# SPDX-License-Identifier: Apache-2.0
"""What the quarantine gives up, and in which order."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardend.errors import FileError
from hardend.model import Host
from hardend.quarantine import Limits, Quarantine, read_record, time_of

KIB = 1 << 10
DAY_S = 86400.0


class Shelf:
    """A quarantine to fill: ``put`` adds one object of a path."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.quarantine = Quarantine(Host(str(root)))
        self.serial = 0

    def put(self, path: str, content: bytes, *, incident: str = "", age_s: float = 0.0) -> str:
        self.serial += 1
        moment = datetime.fromtimestamp(time.time() - age_s, UTC)
        identifier = f"{moment:%Y%m%dT%H%M%S.%f}-{self.serial:04d}"
        source = self.root / "source"
        source.write_bytes(content)
        with source.open("rb") as file:
            stored = self.quarantine.store(file.fileno(), 1 << 20)
        self.quarantine.write_record(
            {
                "id": identifier,
                "path": path,
                "incident": incident or identifier,
                "digest": stored.digest,
            }
        )
        return identifier

    def evict(self, max_bytes: int = 1 << 30, max_age_s: float = 90 * DAY_S) -> int:
        return self.quarantine.evict(Limits(max_bytes, max_age_s), time.time())

    def ids(self) -> set[str]:
        records = self.root / "var/lib/hardend/quarantine/records"
        return {where.stem for where in records.iterdir()}

    def objects(self) -> int:
        return len(list((self.root / "var/lib/hardend/quarantine/objects").iterdir()))


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    with made.quarantine:
        yield made


def noise() -> bytes:
    """Return 16 KiB that no other object has."""
    return os.urandom(16 * KIB)


def test_nothing_goes_below_the_limits(shelf: Shelf) -> None:
    ids = {shelf.put("/a", noise()) for _ in range(3)}
    assert shelf.evict() == 0
    assert shelf.ids() == ids


def test_the_old_goes_first_or_not(shelf: Shelf) -> None:
    shelf.put("/a", noise(), age_s=91 * DAY_S)
    young = shelf.put("/a", noise(), age_s=89 * DAY_S)
    assert shelf.evict() == 1
    assert shelf.ids() == {young}
    assert shelf.objects() == 1


def test_an_old_record_does_not_take_content_that_a_young_one_names(shelf: Shelf) -> None:
    shelf.put("/a", b"same", age_s=91 * DAY_S)
    shelf.put("/b", b"same")
    assert shelf.evict() == 1
    assert shelf.objects() == 1


def test_over_the_size_the_oldest_that_is_no_first_goes(shelf: Shelf) -> None:
    first = shelf.put("/a", noise(), age_s=10)
    later = [shelf.put("/a", noise(), incident=first, age_s=9 - n) for n in range(4)]
    assert shelf.evict(max_bytes=shelf.quarantine.size() - 30 * KIB) == 2
    assert shelf.ids() == {first, *later[2:]}


def test_a_fight_over_one_path_evicts_nothing_of_another(shelf: Shelf) -> None:
    quiet = shelf.put("/quiet", noise(), age_s=1000)
    calm = shelf.put("/quiet", noise(), incident=quiet, age_s=999)
    first = shelf.put("/loud", noise(), age_s=100)
    for number in range(20):
        shelf.put("/loud", noise(), incident=first, age_s=90 - number)
    shelf.evict(max_bytes=100 * KIB)
    assert {quiet, calm, first} <= shelf.ids()
    assert shelf.quarantine.size() <= 100 * KIB


def test_a_fight_with_one_content_is_counted_by_its_records(shelf: Shelf) -> None:
    first = shelf.put("/a", b"same", age_s=100)
    for number in range(30):
        shelf.put("/a", b"same", incident=first, age_s=90 - number)
    shelf.evict(max_bytes=40 * KIB)
    assert first in shelf.ids()
    assert shelf.quarantine.size() <= 40 * KIB
    assert shelf.objects() == 1


def test_firsts_go_when_they_alone_are_too_many(shelf: Shelf) -> None:
    firsts = [shelf.put("/a", noise(), age_s=100 - number) for number in range(5)]
    later = shelf.put("/a", noise(), incident=firsts[0], age_s=200)
    shelf.evict(max_bytes=50 * KIB)
    assert later not in shelf.ids()
    assert shelf.ids() == set(firsts[3:])
    assert shelf.quarantine.size() <= 50 * KIB


def test_objects_that_no_record_names_go_before_any_record(shelf: Shelf) -> None:
    kept = shelf.put("/a", noise())
    orphan = shelf.root / "orphan"
    orphan.write_bytes(noise())
    with orphan.open("rb") as file:
        shelf.quarantine.store(file.fileno(), 1 << 20)
    assert shelf.objects() == 2
    assert shelf.evict(max_bytes=shelf.quarantine.size() - KIB) == 0
    assert shelf.ids() == {kept}
    assert shelf.objects() == 1


def test_files_of_a_directory_are_references_too(shelf: Shelf) -> None:
    inner = shelf.put("/a", b"inner", age_s=91 * DAY_S)
    digest = str((shelf.quarantine.read_record(inner) or {})["digest"])
    shelf.quarantine.write_record({"id": "x", "entries": [{"digest": digest}, {}, None]})
    assert shelf.evict() == 1
    assert shelf.objects() == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"digest": "../../etc/passwd"}'])
def test_a_damaged_record_stops_nothing_and_can_be_evicted(shelf: Shelf, text: str) -> None:
    shelf.put("/a", noise())
    damaged = shelf.root / "var/lib/hardend/quarantine/records/damaged.json"
    damaged.write_text(text)
    shelf.evict(max_bytes=0)
    assert shelf.ids() == set()
    assert shelf.objects() == 0


def test_what_a_crash_left_unfinished_is_swept_at_the_next_opening(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    with Quarantine(host):
        pass
    for name in ("objects", "records"):
        (Path(host.quarantine_dir) / name / ".new").write_bytes(b"half")
    with Quarantine(host) as quarantine:
        assert quarantine.size() == 0


def test_an_object_of_the_wrong_size_is_written_anew(shelf: Shelf) -> None:
    identifier = shelf.put("/a", b"content")
    digest = str((shelf.quarantine.read_record(identifier) or {})["digest"])
    where = shelf.root / "var/lib/hardend/quarantine/objects" / digest
    where.write_bytes(b"")
    shelf.put("/a", b"content")
    assert where.read_bytes() == b"content"


def test_a_quarantine_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "var/lib/hardend").mkdir(parents=True)
    (tmp_path / "var/lib/hardend/quarantine").touch()
    with pytest.raises(FileError, match="quarantine"):
        Quarantine(Host(str(tmp_path)))


def test_a_closed_quarantine_leaves_no_descriptor(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with Quarantine(Host(str(tmp_path))):
        pass
    (tmp_path / "var/lib/hardend/quarantine/records").rmdir()
    (tmp_path / "var/lib/hardend/quarantine/records").touch()
    with pytest.raises(FileError):
        Quarantine(Host(str(tmp_path)))
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_record_is_read_from_a_plain_file_only(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("{}")
    (tmp_path / "link.json").symlink_to("target")
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        for name in ("link.json", "fifo.json", "deep.json", "missing.json"):
            assert read_record(directory, name) is None
        assert read_record(directory, "target") == {}
    finally:
        os.close(directory)


def test_an_id_tells_its_time() -> None:
    moment = datetime(2026, 11, 24, 6, 15, 1, 123456, UTC)
    assert time_of("20261124T061501.123456-0001") == moment.timestamp()


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_other_name_has_no_time_or_a_finite_one(text: str) -> None:
    assert time_of(text) >= -(10**12)
