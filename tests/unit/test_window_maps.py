# SPDX-License-Identifier: Apache-2.0
"""Maps and built files in a window: they go with their sources, whichever way the sources go."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from hardend.cli.main import main
from hardend.errors import Exit
from hardend.model import Drift
from tests.unit.mailhost import ACCESS, CF, MailHost, mail
from tests.unit.programs import qualified_name

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("qualified_name")]
__all__ = ["mail", "qualified_name"]  # fixtures
PATH = "/etc/mail/access"
MAP = "/etc/mail/access.db"
MORE = ACCESS + b"b.example\tREJECT\n"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(mail: MailHost, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a verb on the host, which is approved and has no guard."""
    mail.write("/etc/debian_version", b"12\n")

    def run(*words: str) -> tuple[int, str, str]:
        code = main([words[0], "--root", mail.host.root, *words[1:]])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    assert run("approve", "--reason", "first")[0] == Exit.OK
    code, _, err = run("unlock", "--reason", "why", "/etc/mail")
    assert code == Exit.OK, err
    return run


def drifts(call: Call) -> str:
    code, out, _ = call("check")
    return "" if code == Exit.OK else out


def test_a_source_that_is_kept_gets_its_map_though_nobody_built_it(mail: MailHost, call: Call) -> None:
    before = mail.answers(MAP)
    mail.write(PATH, MORE)
    code, out, err = call("lock", "--keep")
    assert code == Exit.OK, err
    assert f"{MAP}: built from its source" in out
    assert mail.answers(MAP) != before
    assert mail.answers(MAP) == mail.entry(MAP).answers
    assert mail.at(MAP).stat().st_mtime_ns >= mail.at(PATH).stat().st_mtime_ns
    assert drifts(call) == ""


def test_a_map_that_was_built_by_hand_is_taken_as_it_is(mail: MailHost, call: Call) -> None:
    mail.write(PATH, MORE)
    mail.make_map(PATH, MORE)
    inode = mail.at(MAP).stat().st_ino
    code, out, err = call("lock", "--keep")
    assert code == Exit.OK, err
    assert f"kept: {MAP}" in out and "built from its source" not in out
    assert mail.at(MAP).stat().st_ino == inode
    assert drifts(call) == ""


def test_a_source_that_is_put_back_takes_its_map_with_it(mail: MailHost, call: Call) -> None:
    before = mail.answers(MAP)
    mail.write(PATH, MORE)
    mail.make_map(PATH, MORE)
    code, out, err = call("lock", "--revert")
    assert code == Exit.OK, err
    assert f"put back: {PATH}\nput back: {MAP}\n" in out
    assert mail.at(PATH).read_bytes() == ACCESS
    assert mail.answers(MAP) == before
    assert drifts(call) == ""


def test_a_map_that_was_built_anew_and_answers_the_same_is_no_change(mail: MailHost, call: Call) -> None:
    number, before = mail.current().number, mail.at(MAP).read_bytes()
    mail.make_map(PATH, ACCESS)
    assert mail.at(MAP).read_bytes() != before
    code, out, _ = call("lock")
    assert (code, out) == (Exit.OK, "nothing had changed; the window is closed\n")
    assert mail.current().number == number
    assert mail.at(MAP).read_bytes() != before


def test_a_map_that_answers_otherwise_than_its_source_is_not_kept(mail: MailHost, call: Call) -> None:
    before = mail.answers(MAP)
    mail.make_map(PATH, b"a.example\tRELAY\n")  # an open relay, and nothing to see in the source
    code, _, err = call("lock", "--keep")
    assert code == Exit.REFUSED
    assert f"{MAP}: {MAP} does not answer as its source" in err
    assert call("lock", "--revert")[0] == Exit.OK
    assert mail.answers(MAP) == before


def test_a_source_that_does_not_build_is_not_kept(mail: MailHost, call: Call) -> None:
    mail.write(PATH, b"a.example\n")
    code, _, err = call("lock", "--keep")
    assert code == Exit.REFUSED
    assert PATH in err and "makemap" in err
    assert call("lock", "--revert")[0] == Exit.OK
    assert drifts(call) == ""


def test_a_source_that_is_gone_is_kept_out_with_its_map(mail: MailHost, call: Call) -> None:
    mail.at(PATH).unlink()
    mail.at(MAP).unlink()
    code, out, err = call("lock", "--keep")
    assert code == Exit.OK, err
    assert f"{PATH}: removed" in out
    assert PATH not in mail.current().entries and MAP not in mail.current().entries


def test_a_configuration_that_the_gate_refuses_is_not_kept_at_expiry(mail: MailHost, call: Call) -> None:
    mail.write("/etc/mail/sendmail.cf", CF + b"Kbad program /bin/evil\n")
    mail.write(PATH, MORE)
    code, _, err = call("lock", "--keep")
    assert code == Exit.REFUSED and "/bin/evil" in err
    assert call("lock", PATH, "--revert")[0] == Exit.REFUSED  # it is let go with its directory
    assert call("lock", "--revert")[0] == Exit.OK
    assert mail.at("/etc/mail/sendmail.cf").read_bytes() == CF


def test_a_mc_without_its_cf_is_not_kept_as_the_next_start_would_fail(mail: MailHost, call: Call) -> None:
    assert call("lock", "--revert")[0] == Exit.OK
    mc = "/etc/mail/sendmail.mc"
    mail.write(mc, b"divert(0)dnl\n")
    old = mail.at("/etc/mail/sendmail.cf").stat().st_mtime_ns - 10**9
    os.utime(mail.at(mc), ns=(old, old))
    assert call("approve", mc, "--reason", "mc")[0] == Exit.OK
    assert call("unlock", mc, "--reason", "why")[0] == Exit.OK
    mail.write(mc, b"divert(0)dnl\ndnl more\n")
    code, _, err = call("lock", "--keep")
    assert code == Exit.REFUSED
    assert f"{mc} is newer than /etc/mail/sendmail.cf" in err and "make -C /etc/mail" in err
    os.utime(mail.at("/etc/mail/sendmail.cf"))  # as make does, with what came out the same
    assert call("lock", "--keep")[0] == Exit.OK
    assert {Drift.STALE.value, mc} & set(drifts(call).split()) == set()
