# SPDX-License-Identifier: Apache-2.0
"""[rules], [[waivers]] and [[blocks]] of hardend.toml: what is taken, and what is a fault."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest

from hardend.config import load
from hardend.errors import ConfigError
from hardend.settings import Block, Policy, Waiver
from tests.unit.test_config import host_of

if TYPE_CHECKING:
    from pathlib import Path


def test_the_keys_of_the_rules_are_understood(tmp_path: Path) -> None:
    text = b"""
    [rules]
    smrsh_programs = ["procmail", "/usr/lib/mailman/mail/mailman"]
    alias_files = ["/var/mail/archive"]
    remove_redirects = ["games", "uucp"]
    notice_country = "DE"
    notice_region = "BY"
    received_version = false
    """
    assert load(host_of(tmp_path, text)).policy == Policy(
        smrsh_programs=("procmail", "/usr/lib/mailman/mail/mailman"),
        alias_files=("/var/mail/archive",),
        remove_redirects=("games", "uucp"),
        notice="NO UCE C=DE L=BY",
        hide_received_version=True,
    )


def test_the_notice_needs_one_of_its_two_keys(tmp_path: Path) -> None:
    assert load(host_of(tmp_path, b"")).policy.notice == ""
    assert load(host_of(tmp_path, b'[rules]\nnotice_country = "DE"\n')).policy.notice == "NO UCE C=DE"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('smrsh_programs = "procmail"', "a list of program names or absolute paths"),
        ('smrsh_programs = ["../procmail"]', "a list of program names or absolute paths"),
        ('smrsh_programs = ["a b"]', "a list of program names or absolute paths"),
        ('alias_files = ["relative"]', "a list of absolute paths"),
        ('remove_redirects = ["a:b"]', "a list of names of aliases"),
        ('notice_country = "DEU"', 'two letters, such as "DE"'),
        ('notice_region = "B\\nY"', "letters, digits, - and _"),
        ('received_version = "no"', "true or false"),
        ("smrsh_program = []", "did you mean smrsh_programs?"),
    ],
)
def test_what_does_not_fit_is_a_fault_that_says_what_does(tmp_path: Path, line: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(host_of(tmp_path, f"[rules]\n{line}\n".encode()))
    assert fault in str(caught.value)


def test_waivers_of_all_files_count(tmp_path: Path) -> None:
    host = host_of(tmp_path, b'[[waivers]]\nrule = "a-b"\nreason = "x"\nuntil = 2027-01-31\n')
    (tmp_path / "etc/hardend/conf.d").mkdir(exist_ok=True)
    (tmp_path / "etc/hardend/conf.d/more.toml").write_text('[[waivers]]\nrule = "c-d"\nreason = "y"\n')
    assert load(host).waivers == (Waiver("a-b", "x", date(2027, 1, 31)), Waiver("c-d", "y"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('waivers = "all"', "must be an array of tables"),
        ('[waivers]\nrule = "a-b"', "must be an array of tables"),
        ('[[waivers]]\nrule = "a-b"', "the 1. one: reason: must be there"),
        ('[[waivers]]\nrule = " "\nreason = "x"', "the 1. one: rule: must be there"),
        ('[[waivers]]\nrule = "a-b"\nreason = "x"\nuntil = "2027-01-31"', "must be a day"),
        ('[[waivers]]\nrule = "a-b"\nreason = "x"\nuntil = 2027-01-31T00:00:00Z', "must be a day"),
        ('[[waivers]]\nrule = "a-b"\nreason = "x"\nuntill = 2027-01-31', "did you mean until?"),
    ],
)
def test_a_waiver_that_is_none_is_a_fault(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(host_of(tmp_path, text.encode()))
    assert fault in str(caught.value)


BLOCK = '[[blocks]]\npath = "/etc/aliases"\nreason = "lists"\n'


def test_blocks_of_all_files_count(tmp_path: Path) -> None:
    host = host_of(tmp_path, (BLOCK + 'begin = "# begin"\nend = "# end"\n').encode())
    (tmp_path / "etc/hardend/conf.d").mkdir(exist_ok=True)
    more = BLOCK + 'pattern = \'*: "|/usr/lib/mailman/mail/mailman *"\'\n'
    (tmp_path / "etc/hardend/conf.d/more.toml").write_text(more)
    assert load(host).blocks == (
        Block("/etc/aliases", "lists", begin="# begin", end="# end"),
        Block("/etc/aliases", "lists", pattern='*: "|/usr/lib/mailman/mail/mailman *"'),
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("blocks = 1", "must be an array of tables, written [[blocks]]"),
        ('[[blocks]]\npath = "/etc/aliases"\npattern = "x*"', "the 1. one: reason: must be there"),
        ('[[blocks]]\npath = "aliases"\nreason = "x"\npattern = "x*"', "the absolute path of one file"),
        ('[[blocks]]\npath = "/etc/*"\nreason = "x"\npattern = "x*"', "the absolute path of one file"),
        (BLOCK, "must have begin and end, or pattern"),
        (BLOCK + 'begin = "# a"\nend = "# b"\npattern = "x*"', "must have begin and end, or pattern"),
        (BLOCK + 'begin = "# a"', "must both be a comment"),
        (BLOCK + 'begin = "root: x"\nend = "# b"', "must both be a comment"),
        (BLOCK + 'begin = "# a \\\\"\nend = "# b"', "must both be a comment"),
        (BLOCK + 'begin = "# a\\nb"\nend = "# b"', "must both be a comment"),
        (BLOCK + 'begin = 1\nend = "# b"', "must both be a comment"),
        (BLOCK + 'begin = "# a"\nend = "# a"', "must not be the same line"),
        (BLOCK + 'pattern = "*"', "must be a glob for some whole lines"),
        (BLOCK + 'pattern = " x*"', "must be a glob for some whole lines"),
        (BLOCK + "pattern = 7", "must be a glob for some whole lines"),
        (BLOCK + 'patern = "x*"', "did you mean pattern?"),
        (f'{BLOCK}pattern = "x*"\n[paths.classes]\n"/etc/aliases" = "locked"', "cannot be locked with"),
    ],
)
def test_a_block_that_is_none_is_a_fault(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(host_of(tmp_path, text.encode()))
    assert fault in str(caught.value)
