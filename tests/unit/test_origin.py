# SPDX-License-Identifier: Apache-2.0
"""Whether a .cf is what its .mc makes: by sight on any host, by building it to the side on this one."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.formats.cf_origin import as_comment, lasting, shows_another
from hardend.maps import Tools
from hardend.mcbuild import build_cf
from hardend.model import FileType, Host
from hardend.origin import compared
from hardend.rules.catalogue import BY_ID, judge
from hardend.rules.documents import Attributes, Documents
from hardend.rules.exposure_source import unmade_by_sight
from hardend.rules.rule import Verdict
from tests.unit.rulehost import documents_of

if TYPE_CHECKING:
    from collections.abc import Iterator

CF, MC = "/etc/mail/sendmail.cf", "/etc/mail/sendmail.mc"
RULE = BY_ID["exposure-source"]
TOOLS = Tools(sendmail="", makemap="", cf="", timeout_s=20.0)


def dated(cf_ns: int, mc_ns: int) -> dict[str, Attributes]:
    times = {CF: cf_ns, MC: mc_ns}
    return {path: Attributes(FileType.FILE, 0, 0, 0o644, mtime_ns=ns) for path, ns in times.items()}


@pytest.mark.parametrize(("cf_ns", "is_older"), [(1, True), (2, False), (3, False)])
def test_a_cf_is_unmade_when_it_is_older_than_its_mc(cf_ns: int, *, is_older: bool) -> None:
    found = unmade_by_sight({CF: b"V10\n", MC: b"dnl\n"}, dated(cf_ns, 2), {CF: MC})
    assert list(found) == ([CF] if is_older else [])
    documents = replace(documents_of({MC: "dnl\n"}), unmade=found)
    assert judge(documents, RULE).verdict is (Verdict.FAIL if is_older else Verdict.PASS)


def test_a_host_without_a_mc_has_nothing_to_compare() -> None:
    assert judge(documents_of({}), RULE).verdict is Verdict.NOT_APPLICABLE


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=40))
def test_the_copy_that_debian_appends_shows_exactly_its_own_mc(mc: bytes, other: bytes, cf: bytes) -> None:
    made = cf + b"\n" + as_comment(MC, mc)
    assert not shows_another(made, MC, mc)
    if mc.rstrip() != other.rstrip() and b"###" not in mc + other:
        assert shows_another(made, MC, other)
    assert not shows_another(cf.replace(b"###", b""), MC, mc)


def test_the_copy_is_no_part_of_what_is_compared() -> None:
    assert lasting(b"V10\nO A\n" + as_comment(MC, b"dnl\n\nx")) == b"V10\nO A\n"


@pytest.fixture
def here() -> Iterator[Path]:
    """A directory of this machine with a .mc, and macros small enough to read."""
    directory = Path(tempfile.mkdtemp(prefix="hardend-origin-", dir="/var/tmp"))
    directory.chmod(0o755)
    (directory / "cf/m4").mkdir(parents=True)
    (directory / "cf/m4/cf.m4").write_text("divert(-1)changecom()\ndivert(0)V10/Berkeley\n")
    yield directory
    shutil.rmtree(directory)


def beside(directory: Path, text: str, cf: bytes | None = None) -> Documents:
    """Return the documents of a .mc in a directory, and of the .cf that it makes."""
    mc = f"{directory}/sendmail.mc"
    content = f"include(`{directory}/cf/m4/cf.m4')dnl\n{text}".encode()
    made = cf if cf is not None else build_cf(mc, content, Host(), TOOLS).cf
    path = f"{directory}/sendmail.cf"
    return replace(documents_of({}), content={path: made, mc: content}, sources={path: mc})


@pytest.mark.root
@pytest.mark.m4
def test_what_its_mc_makes_is_told_from_what_a_hand_made(here: Path) -> None:
    documents = beside(here, "O A=1\n")
    assert not compared(documents, Host(), TOOLS).unmade
    edited = beside(here, "O A=1\n", b"V10/Berkeley\nO A=2\n")
    unmade = compared(edited, Host(), TOOLS).unmade
    [why] = unmade.values()
    assert why == f"it is not what {here}/sendmail.mc makes: one of them was edited by hand"
    assert judge(replace(documents_of({MC: ""}), unmade=unmade), RULE).verdict is Verdict.FAIL


@pytest.mark.root
@pytest.mark.m4
def test_a_mc_that_does_not_build_is_said_with_its_line(here: Path) -> None:
    documents = beside(here, "FEATURE(\ninclude(`nowhere')", b"V10/Berkeley\n")
    [why] = compared(documents, Host(), TOOLS).unmade.values()
    assert why.startswith(f"its .mc makes none: {here}/sendmail.mc:")


@pytest.mark.root
@pytest.mark.m4
def test_without_macros_nothing_more_is_known_and_of_a_tree_nothing_is_built(here: Path) -> None:
    documents = beside(here, "O A=1\n", b"V10/Berkeley\n")
    shutil.rmtree(here / "cf")
    assert not compared(documents_of({MC: "O A=1\n"}), Host(), replace(TOOLS, timeout_s=0.001)).unmade
    assert compared(documents, Host(str(here)), TOOLS) is documents
