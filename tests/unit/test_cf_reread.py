# SPDX-License-Identifier: Apache-2.0
"""The options of a sendmail.cf as Sendmail prints them, against what our parser reads."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.formats.cf import Cf
from hardend.formats.cf_reread import differences
from tests.unit import programs
from tests.unit.cf_corpus import plain_m4, shipped, text_of
from tests.unit.test_cf import DOCUMENTS, SEEN

if TYPE_CHECKING:
    from pathlib import Path

CF = Cf(b"V10/Berkeley\nOL9\nO PrivacyOptions=goaway,\n noetrn\nO Timeout.ident=5s\n")
SAID = b"""\
setoption LogLevel (L)=9
a.cf: line 4: readcf: something to say
setoption PrivacyOptions (p)=goaway,\\n noetrn
setoption Timeout (r).ident=5s
setoption HoldExpensive (c)=F
ADDRESS TEST MODE (ruleset 3 NOT automatically invoked)
"""


def test_the_same_options_in_the_same_order_are_no_difference() -> None:
    assert differences(CF, SAID) == []


def test_what_sendmail_sets_of_its_own_comes_after_the_file_and_counts_for_nothing() -> None:
    assert differences(Cf(b"OL9\n"), SAID) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        (b"=9", b"=14", "line 2: LogLevel: Sendmail reads '14'"),
        (b"LogLevel (L)", b"MeToo (m)", "line 2: LogLevel: Sendmail reads MeToo there"),
        (b"goaway,\\n noetrn", b"goaway", "line 3: PrivacyOptions: Sendmail reads 'goaway'"),
        (b".ident=", b".command=", "line 5: Timeout.ident: Sendmail reads Timeout.command there"),
        (b"setoption LogLevel (L)=9\n", b"", "line 2: LogLevel: Sendmail reads PrivacyOptions there"),
    ],
)
def test_another_reading_is_told_with_its_line(ours: bytes, theirs: bytes, told: str) -> None:
    assert ours in SAID
    assert differences(CF, SAID.replace(ours, theirs)) == [told]


def test_an_option_that_sendmail_does_not_read_is_told() -> None:
    said = SAID.partition(b"setoption Timeout")[0]
    assert differences(CF, said) == ["line 5: Timeout.ident: Sendmail reads nothing there"]


def test_an_option_that_it_was_built_without_is_passed_over_where_it_says_so() -> None:
    known = b"setoption LogLevel (L)=9"
    said = SAID.replace(known, b"a.cf: line 2: readcf: unknown option name LogLevel")
    assert differences(CF, said) == []


def test_nothing_said_is_nothing_to_compare() -> None:
    assert differences(CF, b"ADDRESS TEST MODE\n> ") == []


@given(DOCUMENTS, st.binary() | st.lists(st.sampled_from(SAID.splitlines(keepends=True))).map(b"".join))
def test_whatever_is_said_of_whatever_file_is_compared(data: bytes, said: bytes) -> None:
    assert len(differences(Cf(data), said)) <= 4


def reread(path: Path) -> bytes:
    """Have the real Sendmail say how it reads a file, as a host with a domain and without a network."""
    sendmail = programs.directory() / "sendmail"
    script = f"hostname mail.example.com; exec {sendmail} -C {path} -bt -d37.1"
    command = ["unshare", "--uts", "--net", "sh", "-c", script]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).stdout


@pytest.mark.root
def test_sendmail_and_our_parser_read_the_same_of_every_file_that_is_shipped(tmp_path: Path) -> None:
    files = {name: plain_m4(text_of(name))[0] for name in sorted(shipped())} | {"seen": SEEN}
    compared = 0
    for name, data in files.items():
        (tmp_path / "a.cf").write_bytes(data)
        said = reread(tmp_path / "a.cf")
        assert differences(Cf(data), said) == [], name
        compared += said.count(b"setoption ")
    print(f"{compared} options of {len(files)} files read alike")
    assert compared > 20 * len(files)
