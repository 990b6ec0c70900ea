# SPDX-License-Identifier: Apache-2.0
"""Building a .cf from a .mc: with m4 as it is, and macros small enough to read."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from hardend import maps
from hardend.errors import CommandError, FormatError, HardendError
from hardend.mcbuild import build_cf, difference, new_programs, same_configuration
from hardend.model import Host

if TYPE_CHECKING:
    from pathlib import Path

MC = "/etc/mail/sendmail.mc"
# What cf.m4 does, in a few lines: no comments, features from files, a version line.
CF_M4 = """divert(-1)changecom()
define(`FEATURE', `include(_CF_DIR_`'feature/$1.m4)')
define(`MAILER', `divert(0)M$1, P=[IPC]
divert(-1)')
define(`CONF', `divert(0)$1
divert(-1)')
divert(0)V10/Berkeley
##### built by m4@host on today
divert(-1)
"""
pytestmark = [
    pytest.mark.root,
    pytest.mark.m4,
]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    macros = tmp_path / "usr/share/sendmail/cf"
    (macros / "m4").mkdir(parents=True)
    (macros / "feature").mkdir()
    (macros / "m4/cf.m4").write_text(CF_M4)
    (macros / "feature/good.m4").write_text("CONF(`O Good=true')")
    (macros / "feature/bad.m4").write_text("errprint(`*** ERROR: bad is not good\n')")
    (macros / "feature/old.m4").write_text("errprint(`WARNING: old is old\n')")
    (tmp_path / "etc/mail").mkdir(parents=True)
    (tmp_path / "etc/shadow").write_text("root:secret\n")
    (tmp_path / "etc/shadow").chmod(0o600)
    return Host(str(tmp_path))


def build(host: Host, text: str, timeout_s: float = 20.0) -> bytes:
    tools = maps.Tools(sendmail="", makemap="", cf="", root=host.root, timeout_s=timeout_s)
    return build_cf(MC, text.encode(), host, tools).cf


def test_features_and_mailers_are_in_what_is_built(host: Host) -> None:
    built = build(host, "FEATURE(`good')dnl\nMAILER(`smtp')dnl\n")
    assert b"V10/Berkeley\n" in built
    assert b"O Good=true\n" in built
    assert b"Msmtp, P=[IPC]\n" in built


def test_an_error_of_a_macro_refuses_although_m4_exits_with_0(host: Host) -> None:
    with pytest.raises(FormatError, match=r"sendmail\.mc.*bad is not good"):
        build(host, "FEATURE(`bad')dnl\n")


def test_a_warning_is_passed_on(host: Host) -> None:
    tools = maps.Tools(sendmail="", makemap="", cf="", root=host.root, timeout_s=20.0)
    assert build_cf(MC, b"FEATURE(`old')dnl\n", host, tools).warnings == ("WARNING: old is old",)


def test_a_feature_that_does_not_exist_names_file_and_line(host: Host) -> None:
    with pytest.raises(FormatError, match=r"sendmail\.mc:2: "):
        build(host, "dnl\nFEATURE(`rbl')dnl\n")


@pytest.mark.parametrize(
    "hostile",
    [
        "syscmd(`touch /etc/evil')",
        "esyscmd(`cat /etc/shadow')",
        "include(`/etc/shadow')",
        "define(`x', `x')x",
        "define(`x', `x x')x",
        "undivert(`/etc/shadow')",
    ],
)
def test_a_hostile_mc_is_an_error_or_a_result_and_does_nothing(host: Host, hostile: str) -> None:
    began = time.monotonic()
    try:
        built = build(host, f"{hostile}\nFEATURE(`good')dnl\n", timeout_s=3.0)
    except HardendError as error:
        built = str(error).encode()
    print(f"{time.monotonic() - began:.1f} s")
    assert b"secret" not in built
    assert not os.path.exists(host.at("/etc/evil"))
    assert not os.path.exists("/etc/evil")


def test_without_sendmails_macros_it_says_where_it_looked(tmp_path: Path) -> None:
    (tmp_path / "etc/mail").mkdir(parents=True)
    with pytest.raises(CommandError, match=r"no cf\.m4 in .*/usr/share/sendmail/cf/m4"):
        build(Host(str(tmp_path)), "MAILER(`smtp')dnl\n")


def test_who_built_it_when_is_no_difference_and_a_hand_is_one() -> None:
    one = b"V10/Berkeley\n##### built by root@a on Mon\n##### in /etc/mail\nO A=1\n"
    other = b"V10/Berkeley\n##### built by hardend-check@b on Tue\n##### in /\nO A=1\n"
    assert same_configuration(one, other)
    assert difference(one, other) == ""
    by_hand = one + b"# by hand\n"
    assert not same_configuration(by_hand, other)
    assert "+# by hand" in difference(other, by_hand)


def test_programs_that_were_not_there_before_are_named() -> None:
    before = b"V10/Berkeley\nF{x}|/bin/known\n"
    assert new_programs(before, before) == ()
    assert new_programs(before, before + b"F{y}|/bin/new\nKp program /bin/map\n") == (
        "F{y}|/bin/new",
        "Kp program /bin/map",
    )
