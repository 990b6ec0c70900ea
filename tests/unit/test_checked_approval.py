# SPDX-License-Identifier: Apache-2.0
"""A checked file in a new generation: the approval's content goes in, its writers' is judged as ever."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardend import maps
from hardend.baseline.store import Store
from hardend.cli.main import main
from hardend.errors import Exit
from hardend.examine import put_in
from hardend.model import Class, Drift, Host
from hardend.reconcile import Act, History
from hardend.table import Held
from tests.unit import programs
from tests.unit.programs import qualified_name as qualified_name  # noqa: PLC0414 - a fixture
from tests.unit.test_corpus_layouts import redhat

pytestmark = [pytest.mark.root, pytest.mark.m4, pytest.mark.unshare]
pytestmark += [pytest.mark.usefixtures("qualified_name")]
ALIASES = "/etc/aliases"
CHECKED = f'[paths.classes]\n"{ALIASES}" = "checked"\n"/etc/mail/access" = "checked"\n'


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tree whose aliases and access somebody else writes too; nothing is approved."""
    monkeypatch.setenv(maps.PROGRAMS, str(programs.directory()))
    made = Path(tempfile.mkdtemp(prefix="hardend-checked-", dir="/var/tmp"))
    made.chmod(0o755)
    redhat(made)
    for program in ("usr/sbin/smrsh", "usr/sbin/sendmail", "usr/bin/procmail"):
        (made / program).parent.mkdir(parents=True, exist_ok=True)
        (made / program).touch(0o755)
    (made / "etc/hardend").mkdir()
    (made / "etc/hardend/hardend.toml").write_text(CHECKED)
    yield made
    main(["release", "--root", str(made)])
    shutil.rmtree(made)


@pytest.mark.parametrize("approved", [False, True], ids=["first generation", "a later one"])
def test_what_harden_changes_in_a_checked_file_is_in_force(
    root: Path, capsys: pytest.CaptureFixture[str], *, approved: bool
) -> None:
    if approved:
        assert main(["approve", "--root", str(root), "--reason", "as it is"]) == Exit.OK
    words = ["--yes", "--include", "all", "--reason", "hardened"]
    assert main(["harden", "--root", str(root), *words]) == Exit.OK, capsys.readouterr().err
    live = (root / ALIASES[1:]).read_bytes()
    assert b"uudecode" not in live
    store = Store(Host(str(root)))
    entry = store.current().entries[ALIASES]
    assert entry.cls is Class.CHECKED and store.object(entry.digest) == live
    assert main(["check", "--root", str(root)]) == Exit.OK, capsys.readouterr().out


@pytest.mark.parametrize(
    ("stands", "drift", "act"),
    [
        (b"old\n", {Drift.CONTENT}, Act.EXCHANGE),
        (b"old\n", {Drift.CONTENT, Drift.MODE}, Act.EXCHANGE),
        (b"somebody wrote since\n", {Drift.CONTENT}, Act.REBUILD),
        (b"old\n", {Drift.MODE}, Act.AMEND),
    ],
)
def test_what_its_writers_wrote_since_is_judged_and_not_replaced(
    root: Path, stands: bytes, drift: set[Drift], act: Act
) -> None:
    assert main(["approve", "--root", str(root), "--reason", "as it is"]) == Exit.OK
    path = root / ALIASES[1:]
    path.write_bytes(b"old\n")
    store = Store(Host(str(root)))
    held = Held(store.current().entries[ALIASES], None, b"aliases", History(5, 60.0), fresh=True)
    held.replaces = store.add_object(b"old\n")
    path.write_bytes(stands)
    usual = Act.AMEND if Drift.MODE in drift else Act.REBUILD
    with path.open("rb") as file:
        held.descriptor = file.fileno()
        assert put_in(held, frozenset(drift), usual) is act
        held.fresh = False
        assert put_in(held, frozenset(drift), usual) is usual
        held.descriptor = -1
