# SPDX-License-Identifier: Apache-2.0
"""hardend approve of a source that was edited in place, on a tree with maps of Sendmail's programs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardend.cli.main import main
from hardend.errors import Exit
from tests.unit.mailhost import ACCESS, MailHost
from tests.unit.mailhost import mail as mail  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.root

SOURCE = "/etc/mail/access"
MAP = "/etc/mail/access.db"
EDITED = ACCESS + b"b.example\tREJECT\n"


@pytest.fixture
def edited(mail: MailHost) -> Iterator[MailHost]:
    """A host whose access was edited in place, its map was not built."""
    mail.write("/etc/debian_version", b"12\n")
    mail.write(SOURCE, EDITED)
    yield mail
    main(["release", "--root", str(mail.root)])


def approve(mail: MailHost, *paths: str) -> int:
    return main(["approve", "--root", str(mail.root), *paths, "--reason", "by hand"])


def test_a_source_that_was_edited_in_place_takes_its_map_with_it(edited: MailHost) -> None:
    before = edited.entry(MAP)
    assert approve(edited, SOURCE) == Exit.OK
    assert edited.at(SOURCE).read_bytes() == EDITED
    entry = edited.entry(MAP)
    assert entry.answers != before.answers
    assert edited.answers(MAP) == entry.answers, "the live map is the new one"
    assert entry.mtime_ns >= edited.entry(SOURCE).mtime_ns, "for make(1)"
    assert entry.sources == ((SOURCE, edited.entry(SOURCE).digest),)


def test_content_that_is_given_takes_its_map_with_it(edited: MailHost, tmp_path: Path) -> None:
    edited.write(SOURCE, ACCESS)
    os.utime(edited.at(SOURCE), ns=(0, edited.entry(SOURCE).mtime_ns))
    (tmp_path / "given").write_bytes(EDITED)
    assert approve(edited, SOURCE, "--from", str(tmp_path / "given")) == Exit.OK
    entry = edited.entry(MAP)
    assert edited.answers(MAP) == entry.answers
    assert entry.sources == ((SOURCE, edited.entry(SOURCE).digest),)


def test_new_content_with_an_old_time_stamp_takes_its_map_with_it(edited: MailHost) -> None:
    os.utime(edited.at(SOURCE), (1, 1))
    assert approve(edited, SOURCE) == Exit.OK
    assert edited.answers(MAP) == edited.entry(MAP).answers
    assert edited.run().maps[MAP] == "answers as approved"


def test_a_map_that_is_named_is_taken_in_as_it_is(edited: MailHost) -> None:
    edited.make_map(SOURCE, EDITED)
    live = edited.at(MAP).read_bytes()
    assert approve(edited, MAP, SOURCE) == Exit.OK
    assert edited.at(MAP).read_bytes() == live


def test_another_mode_leaves_the_map_alone(edited: MailHost) -> None:
    edited.write(SOURCE, ACCESS)
    os.utime(edited.at(SOURCE), ns=(0, edited.entry(SOURCE).mtime_ns))
    edited.at(SOURCE).chmod(0o600)
    before = edited.entry(MAP)
    assert approve(edited, SOURCE) == Exit.OK
    assert (edited.entry(SOURCE).mode, edited.entry(MAP)) == (0o600, before)


def test_a_source_that_does_not_build_changes_nothing(
    edited: MailHost, capsys: pytest.CaptureFixture[str]
) -> None:
    edited.write(SOURCE, b"key-without-value\n")
    before = edited.current()
    assert approve(edited, SOURCE) != Exit.OK
    assert capsys.readouterr().err.startswith("hardend: ")
    assert edited.current() == before
    assert Path(edited.at(SOURCE)).read_bytes() == b"key-without-value\n"
