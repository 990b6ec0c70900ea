# SPDX-License-Identifier: Apache-2.0
"""``hardend harden`` on hosts that Debian does not have, as far as a tree without running programs can."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardend import maps
from hardend.cli.main import main
from hardend.errors import Exit
from tests.unit import programs
from tests.unit.programs import qualified_name as qualified_name  # noqa: PLC0414 - a fixture
from tests.unit.test_corpus_layouts import classic, redhat

pytestmark = [pytest.mark.root, pytest.mark.m4, pytest.mark.unshare]
pytestmark += [pytest.mark.usefixtures("qualified_name")]
NAMES = ("redhat", "classic", "classic without a .mc")
# What the gate wants to be there of the programs that a .cf names; of a tree nothing runs.
PROGRAMS = ("usr/sbin/smrsh", "usr/sbin/sendmail", "usr/bin/procmail")


@pytest.fixture
def root() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="hardend-layout-", dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    main(["release", "--root", str(made)])
    shutil.rmtree(made)


def harden(root: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    status = main(["harden", "--root", str(root), "--yes", *words])
    said = capsys.readouterr()
    assert status == Exit.OK, said.err
    return said.out


def makemap(root: Path, *words: str, source: Path | None = None) -> str:
    """Run makemap for the access table, without a configuration."""
    table, program = str(root / "etc/mail/access"), str(programs.directory() / "makemap")
    command = [program, "-C", "/dev/null", *words, "hash", table]
    with (source or Path("/dev/null")).open("rb") as given:
        return subprocess.run(command, stdin=given, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", NAMES)
def test_everything_included_makes_the_audit_pass_and_a_second_time_there_is_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv(maps.PROGRAMS, str(programs.directory()))
    redhat(root) if name == "redhat" else classic(root, with_mc="without" not in name)
    for program in PROGRAMS:
        (root / program).parent.mkdir(parents=True, exist_ok=True)
        (root / program).touch(0o755)
    access = root / "etc/mail/access"
    makemap(root, source=access)
    relays = makemap(root, "-u")
    harden(root, capsys, "--include", "all", "--reason", "first")
    status = main(["audit", "--root", str(root)])
    audited = capsys.readouterr().out
    # Without its .mc one FEATURE cannot be had, and that is said with what to do.
    told = "has no .mc: build a new one from a .mc with" in " ".join(audited.split())
    assert (status, told) == ((Exit.DRIFT, True) if "without" in name else (Exit.OK, False)), audited
    assert audited.count("\n  fail ") == (1 if "without" in name else 0)
    assert harden(root, capsys, "--include", "all").strip().endswith("nothing to do")
    assert main(["check", "--root", str(root)]) == Exit.OK, capsys.readouterr().out
    assert "com\tRELAY" not in makemap(root, "-u")
    assert ("com\tRELAY" in relays) == (name != "redhat")
    aliases = (root / "etc/aliases").read_text()
    assert "decode" not in aliases and "operator:\troot" in aliases


@pytest.mark.parametrize("name", ["redhat", "classic"])
def test_what_hits_nobody_needs_no_question_and_the_rest_is_listed(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv(maps.PROGRAMS, str(programs.directory()))
    redhat(root) if name == "redhat" else classic(root, with_mc=True)
    for program in PROGRAMS:
        (root / program).parent.mkdir(parents=True, exist_ok=True)
        (root / program).touch(0o755)
    shown = harden(root, capsys, "--reason", "auto")
    assert "--include smrsh-programs" in shown and "--include exposure-limits" in shown
    aliases = (root / "etc/aliases").read_text()
    assert "decode" not in aliases and "listserver" in aliases
    assert (root / "etc/smrsh" / ("procmail" if name == "redhat" else "sh")).is_symlink()
    main(["audit", "--root", str(root)])
    heads = [line for line in capsys.readouterr().out.splitlines() if line.endswith("rules pass")]
    for section in ("privacy", "greeting", "viewing", "running", "immutable"):
        [line] = [line for line in heads if section in line.partition(":")[0]]
        passed, _, every, *_ = line.rpartition(": ")[2].split()
        assert passed == every, line
