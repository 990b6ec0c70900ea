# SPDX-License-Identifier: Apache-2.0
"""hardend off, on and release, with a guard and without."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from hardend import commit, control, pause, state
from hardend.errors import Exit
from tests.unit.command import CF_PATH, Run, is_locked
from tests.unit.command import approved as approved  # noqa: PLC0414 - a fixture
from tests.unit.command import run as run  # noqa: PLC0414 - a fixture
from tests.unit.conftest import CF, Tree

pytestmark = pytest.mark.root


def test_off_releases_every_lock_without_a_guard_and_on_puts_all_back(approved: Tree, run: Run) -> None:
    code, out, err = run("off", "--for", "2h", "--reason", "repair")
    assert code == Exit.OK
    assert "2 locks released (no guard is running)" in out
    assert "no systemd here" in err
    assert not is_locked(approved, CF_PATH)
    found = pause.read(approved.host)
    assert found is not None and 7190 < found.remaining_s <= 7200
    approved.at(CF_PATH).write_bytes(b"repaired\n")
    code, out, _ = run("on")
    assert (code, out) == (Exit.OK, "on: all is held again\n")
    assert approved.at(CF_PATH).read_bytes() == CF
    assert is_locked(approved, CF_PATH)
    assert pause.read(approved.host) is None


def test_an_approval_while_it_is_off_touches_nothing(approved: Tree, run: Run) -> None:
    run("off", "--for", "30m", "--reason", "repair")
    approved.at(CF_PATH).write_bytes(b"repaired\n")
    code, out, _ = run("approve", CF_PATH, "--force", "--reason", "repaired")
    assert code == Exit.OK
    assert "enforcement is off: nothing was touched" in out
    assert not is_locked(approved, CF_PATH)
    run("on")
    assert approved.at(CF_PATH).read_bytes() == b"repaired\n"
    assert is_locked(approved, CF_PATH)


def test_release_reads_what_it_can_of_a_damaged_store(approved: Tree, run: Run) -> None:
    run("approve", "--reason", "second")
    (Path(approved.host.store_dir) / "generations/2/manifest.json").write_bytes(b"damaged")
    (Path(approved.host.store_dir) / "current").unlink()
    code, out, err = run("release")
    assert (code, out) == (Exit.OK, "2 locks released\n")
    assert "generations/2/manifest.json: its digest is wrong" in err
    assert not is_locked(approved, CF_PATH)


def test_a_lock_is_not_looked_for_behind_a_link(approved: Tree, run: Run) -> None:
    other = approved.at("/other")
    other.write_bytes(b"x")
    subprocess.run(["chattr", "+i", str(other)], check=True)
    approved.unlock(CF_PATH)
    approved.at(CF_PATH).unlink()
    approved.at(CF_PATH).symlink_to(other)
    assert run("release")[1] == "1 locks released\n"
    assert is_locked(approved, "/other")
    approved.unlock("/other")


def test_release_is_refused_while_a_guard_would_lock_again(
    approved: Tree, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(state, "guard_is_alive", lambda _host: True)
        code, _, err = run("release")
    assert code == Exit.REFUSED
    assert "a guard is running" in err
    assert is_locked(approved, CF_PATH)


@pytest.mark.parametrize("verb", ["off", "on"])
def test_a_guard_that_does_not_answer_is_said_so(
    approved: Tree, run: Run, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    arguments = ("--for", "1h", "--reason", "x") if verb == "off" else ()
    with monkeypatch.context() as patched:
        patched.setattr(state, "guard_is_alive", lambda _host: True)
        code, _, err = run(verb, *arguments)
    assert code == Exit.UNREACHABLE
    assert "does not answer" in err
    assert approved.root.is_dir()


def test_a_running_guard_is_asked_and_what_it_says_is_shown(
    approved: Tree, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []
    replies: dict[str, control.Reply] = {
        "off": {"ok": True, "released": 2, "until": "later"},
        "on": {"ok": True, "failed": {CF_PATH: "the disk is full"}},
        "load": {"ok": True, "failed": {}},
    }

    def answer(_host: object, request: dict[str, object], timeout_s: float = 1.0) -> control.Reply:
        assert timeout_s > 0
        asked.append(request)
        return replies[str(request["verb"])]

    with monkeypatch.context() as patched:
        patched.setattr(state, "guard_is_alive", lambda _host: True)
        patched.setattr(control, "ask", answer)
        assert run("off", "--for", "1h", "--reason", "why")[1].startswith("off until later: 2 locks")
        code, out, err = run("on")
        assert (code, out) == (Exit.DRIFT, "on: 1 paths could not be put back\n")
        assert err == f"hardend: {CF_PATH}: the disk is full\n"
        assert run("approve", "--reason", "second")[0] == Exit.OK
        replies["off"] = {"ok": False, "error": "seconds must be less"}
        code, _, err = run("off", "--for", "1h", "--reason", "why")
        assert (code, "seconds must be less" in err) == (Exit.REFUSED, True)
    assert [request["verb"] for request in asked] == ["off", "on", "load", "off"]
    assert (asked[0]["seconds"], asked[0]["reason"], asked[0]["by"]) == (3600, "why", commit.caller())
    assert approved.root.is_dir()


def test_a_lock_that_cannot_be_released_is_told_and_is_no_success(
    approved: Tree, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, letters: str) -> bool:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(descriptor) + letters)

    assert approved.root.is_dir()
    monkeypatch.setattr("hardend.kernel.flags.hold_flags", refuse)  # as in a container without the right
    code, out, err = run("release")
    assert (code, out) == (Exit.REFUSED, "0 locks released\n")
    assert "/etc/mail/sendmail.cf: Operation not permitted" in err
