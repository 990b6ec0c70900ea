# SPDX-License-Identifier: Apache-2.0
"""A configuration is a program: none of what a hostile one would run is run by any verb that is given it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hardend import maps
from hardend.cli.main import main
from hardend.errors import Exit
from tests.unit import programs
from tests.unit.cf_corpus import macros_in, plain_m4, text_of
from tests.unit.hardening import ALIASES, GROUP, PASSWD
from tests.unit.programs import qualified_name as qualified_name  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.root, pytest.mark.m4, pytest.mark.unshare]
CF, MC = "/etc/mail/sendmail.cf", "/etc/mail/sendmail.mc"


@dataclass
class Trap:
    """A tree with a hostile configuration, and a file that is there when anything of it ran."""

    root: Path
    canary: Path
    hostile_cf: Path
    hostile_mc: Path

    @property
    def has_sprung(self) -> bool:
        """Whether something ran, on this machine or as if the tree were one."""
        inside = self.root / str(self.canary).lstrip("/")
        return self.canary.exists() or inside.exists()


@pytest.fixture
def trap(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    monkeypatch.setenv(maps.PROGRAMS, str(programs.directory()))
    root = Path(tempfile.mkdtemp(prefix="hardend-hostile-", dir="/var/tmp"))
    outside = Path(tempfile.mkdtemp(prefix="hardend-canary-", dir="/var/tmp"))
    outside.chmod(0o777)
    canary = outside / "canary"
    spring = outside / "spring"  # without an argument: an F line takes none
    spring.write_text(f"#!/bin/sh\n: >{canary}\n")
    spring.chmod(0o755)
    touch = f"/usr/bin/touch {canary}"
    macros_in(root)
    cf = plain_m4(text_of("cf/generic-linux.mc"))[0].decode()
    hostile_cf = (
        f"{cf}O DefaultUser=root:root\nF{{x}}|{spring}\nF{{w}}-o |{spring}\nKp program {spring}\n"
        f"O TrustedUser=root\nMevil, P=/usr/bin/touch, F=lsD, A=touch {canary}\n"
    )
    hostile_mc = (
        f"syscmd(`{touch}')esyscmd(`{touch}')dnl\nOSTYPE(`linux')dnl\n"
        f"define(`x', `sys')indir(x`'cmd, `{touch}')dnl\n"
        f"builtin(`syscmd', `{touch}')indir(`esyscmd', `{touch}')dnl\nMAILER(`smtp')dnl\n"
        f"LOCAL_CONFIG\nF{{x}}|{spring}\n"
    )
    made = Trap(root, canary, root / "hostile.cf", root / "hostile.mc")
    texts = {
        "/etc/os-release": "ID=debian\n",
        "/etc/passwd": PASSWD,
        "/etc/group": GROUP,
        "/etc/mail/aliases": f'{ALIASES}evil: "|{touch}"\n',
        "/etc/mail/access": "",
        **dict.fromkeys((CF, "/etc/mail/submit.cf", "/hostile.cf"), hostile_cf),
        **dict.fromkeys((MC, "/etc/mail/submit.mc", "/hostile.mc"), hostile_mc),
        "/etc/mail/access.db": "",
        "/etc/mail/aliases.db": "",
    }
    for path, text in texts.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    (root / "var/spool/mqueue").mkdir(parents=True)
    yield made
    main(["release", "--root", str(root)])
    shutil.rmtree(root)
    shutil.rmtree(outside)


VERBS = {
    "audit": ("audit", "--all"),
    "audit as sarif": ("audit", "--sarif"),
    "one rule": ("audit", "--rule", "exposure-source"),
    "plan": ("harden", "--plan"),
    "plan, the .mc": ("harden", "--plan", "--truth", "mc"),
    "plan, the .cf": ("harden", "--plan", "--truth", "cf"),
    "harden": ("harden", "--yes", "--include", "all", "--truth", "cf"),
    "verify": ("verify",),
    "layout": ("layout",),
    "suggest": ("suggest",),
    "check": ("check",),
    "approve": ("approve", "--reason", "x"),
    "rebuild": ("rebuild",),
    "config": ("config", "check"),
}


@pytest.mark.parametrize("name", VERBS)
def test_of_a_tree_nothing_runs(trap: Trap, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    verb, *rest = VERBS[name]
    root = ["--root", str(trap.root)]
    where = [*rest, *root] if verb == "config" else [*root, *rest]
    try:
        status = main([verb, *where])
    except SystemExit as stopped:
        pytest.fail(f"{name}: usage: {stopped.code}: {capsys.readouterr().err}")
    shown = capsys.readouterr()
    print(name, status, shown.err[-300:])
    assert status in set(Exit)
    assert not trap.has_sprung


@pytest.mark.parametrize(("path", "kind"), [(CF, "cf"), (MC, "mc"), ("/etc/mail/submit.cf", "cf")])
def test_content_that_is_offered_runs_nothing(
    trap: Trap, path: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["approve", "--root", str(trap.root), "--reason", "first"]) == Exit.OK
    source = trap.hostile_cf if kind == "cf" else trap.hostile_mc
    source.write_bytes(source.read_bytes() + b"# more\n")
    offered = ["approve", path, "--from", str(source), "--reason", "more", "--root", str(trap.root)]
    status = main(offered)
    print(status, capsys.readouterr().err)
    assert not trap.has_sprung


@pytest.mark.parametrize(
    "offered",
    [
        ("edit", CF, "--truth", "cf"),
        ("edit", MC, "--truth", "mc"),
        ("edit", "/etc/mail/submit.cf", "--truth", "cf"),
        ("edit", "/etc/mail/aliases"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("qualified_name")
def test_an_edit_runs_nothing(
    trap: Trap, offered: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(trap.root)]
    assert main(["approve", *root, "--reason", "first"]) == Exit.OK
    script = trap.root / "editor"
    script.write_text('#!/bin/sh\nprintf "# more\\n" >> "$1"\n')
    script.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(script))
    verb, path, *rest = offered
    status = main([verb, *root, "--yes", "--reason", "more", *rest, path])
    shown = capsys.readouterr()
    print(status, shown.out, shown.err)
    assert "+# more" in shown.out, "it did not come to what is checked"
    assert not trap.has_sprung


@pytest.mark.usefixtures("qualified_name")
def test_the_trap_is_one(trap: Trap) -> None:
    """Sendmail's own check runs what the .cf names, and m4 what the .mc does: without hardend."""
    command = [str(programs.directory() / "sendmail"), "-C", str(trap.hostile_cf), "-bC"]
    done = subprocess.run(command, capture_output=True, timeout=90, check=False)
    assert trap.has_sprung, done.stdout
    os.unlink(trap.canary)
    plain_m4(trap.hostile_mc.read_bytes() + os.urandom(8).hex().encode())
    assert trap.has_sprung


def test_rules_are_explained_without_a_host(trap: Trap, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "smrsh-mailer"]) == Exit.OK
    assert "smrsh" in capsys.readouterr().out
    assert not trap.has_sprung
