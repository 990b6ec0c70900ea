# SPDX-License-Identifier: Apache-2.0
"""Building a .cf from a .mc: with m4 as it is, and macros small enough to read."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend import maps, mcbuild
from hardend.errors import CommandError, FormatError, HardendError
from hardend.mcbuild import build_cf, difference, new_programs, same_configuration
from hardend.model import Host

if TYPE_CHECKING:
    from collections.abc import Iterator

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
pytestmark = [pytest.mark.root, pytest.mark.m4, pytest.mark.unshare]


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


LINES = st.lists(st.sampled_from([
    b"V10/Berkeley\n", b"##### in /\n", b"##### built by a@b on c\n", b"### /x.mc ###\n", b"# x\n", b"# y",
    b"\tO A\n", b"\0", b"\r", b"\xff\n",
]), max_size=8).map(b"".join)  # fmt: skip


@given(LINES, LINES)
def test_there_is_a_difference_exactly_where_it_is_not_the_same(one: bytes, other: bytes) -> None:
    assert same_configuration(one, one)
    assert same_configuration(one, other) == same_configuration(other, one)
    assert (difference(one, other) == "") == same_configuration(one, other)


def test_debians_copy_of_the_mc_is_appended_and_does_not_count(host: Host) -> None:
    Path(host.at("/etc/debian_version")).touch()
    text = "FEATURE(`good')dnl\n\n\tlast"
    built = build(host, text)
    body, heading, copy = built.partition(b"### /etc/mail/sendmail.mc ###\n")
    assert heading and copy == b"# FEATURE(`good')dnl\n# \n# \tlast"
    assert same_configuration(body, built)
    assert not same_configuration(body, built + b"\nO A=1\n")
    assert not same_configuration(body, body + b"O A=1\n" + heading + copy)


@pytest.mark.parametrize(
    ("directory", "head"),
    [
        ("/usr/share/sendmail-cf", "include(`/usr/share/sendmail-cf/m4/cf.m4')dnl\n"),  # Red Hat
        ("/usr/share/sendmail-cf", "include(`../m4/cf.m4')dnl\n"),  # from where cf/README has it built
        ("/usr/share/sendmail", ""),  # SUSE; classic: m4 ../m4/cf.m4 FILE
        ("/usr/share/sendmail/cf", "dnl include(`/nowhere/m4/cf.m4')\n"),  # FreeBSD
        ("/srv/cf", "include(`/srv/cf/m4/cf.m4')dnl\n"),
    ],
)
def test_the_macros_of_every_layout_are_found(host: Host, directory: str, head: str) -> None:
    if directory != "/usr/share/sendmail/cf":
        os.makedirs(os.path.dirname(host.at(directory)), exist_ok=True)
        shutil.copytree(host.at("/usr/share/sendmail/cf"), host.at("/moved"))
        shutil.rmtree(host.at("/usr/share/sendmail/cf"))
        if directory == "/usr/share/sendmail":
            shutil.rmtree(host.at(directory))
        shutil.move(host.at("/moved"), host.at(directory))
        os.makedirs(host.at(f"{directory}/cf"))
    macros = f"define(`_CF_DIR_', `{directory}/')dnl\n"
    assert b"O Good=true\n" in build(host, macros + head + "FEATURE(`good')dnl\n")


def test_a_cf_m4_that_is_not_there_is_named_with_its_line(host: Host) -> None:
    with pytest.raises(FormatError, match=r"sendmail\.mc:2: includes /opt/m4/cf\.m4, which is not there;"):
        build(host, "dnl\ninclude(`/opt/m4/cf.m4')\n")


def test_without_m4_it_says_what_to_install(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcbuild, "_M4", "/usr/bin/no-m4-here")
    with pytest.raises(CommandError, match="no-m4-here") as caught:
        build(host, "FEATURE(`good')dnl\n")
    assert caught.value.hint == "install m4"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dnl\ninclude(`nothing.m4')\n", r"/etc/mail/sendmail\.mc:2: cannot open `nothing\.m4'"),
        ("a\ndefine(`x', `open", r"/etc/mail/sendmail\.mc:2: ERROR: end of file in string"),
        ("errprint(`*** WARNING: w*** ERROR: hidden')", r"sendmail\.mc:0: \*\*\* ERROR: hidden"),
        ("errprint(`WARNING: wm4:stdin:3: an error')", r"sendmail\.mc:3: an error"),
        ("errprint(`*** ERROR: one\n\ttwo\n*** MAILER(x) y\n')", r"ERROR: one two; \*\*\* MAILER\(x\) y$"),
        ("errprint(`e1\ne2\ne3\ne4\ne5\ne6\ne7')", r"e1; e2; e3; e4; e5; and 2 more$"),
        ("errprint(`*** ERROR: \33[31m\n')", r"ERROR: \\x1b\[31m"),
        ("dnl\nMAILER(`smtp')\nerrprint(`*** MAILER(`smtp') must')", r"sendmail\.mc:2: "),
        ("MAILER(`smtp')\nFEATURE(`good')\nerrprint(`*** ERROR: FEATURE() should be')", r"\.mc:2: "),
        ("m4exit(`3')", "exit status 3"),
    ],
)
def test_what_m4_says_refuses_with_the_place(host: Host, text: str, said: str) -> None:
    with pytest.raises(HardendError, match=said):
        build(host, text)


def test_an_output_that_is_no_configuration_is_an_error(host: Host) -> None:
    Path(host.at("/usr/share/sendmail/cf/m4/cf.m4")).write_text("divert(-1)m4wrap(`divert(0)V10')")
    assert build(host, "dnl\n") == b"V10"
    with pytest.raises(FormatError, match="m4 made no configuration of it"):
        build(host, "m4exit\n")


@pytest.mark.parametrize(
    "warning",
    [
        "*** WARNING: FEATURE(`promiscuous_relay') configures your system as open\n\trelay.\n",
        "WARNING: Using default map definition(s)\nwithout setting confLDAP_DEFAULT_SPEC option.\n",
        "*** confREAD_TIMEOUT is obsolete.\n    Use individual confTO_<timeout> parameters instead.\n",
        "NOTE: OSTYPE(bsdi1.0) is deprecated.  Use OSTYPE(bsdi) instead.",
    ],
)
def test_what_cf_m4_warns_of_is_one_line_and_no_error(host: Host, warning: str) -> None:
    tools = maps.Tools(sendmail="", makemap="", cf="", root=host.root, timeout_s=20.0)
    text = f"errprint(`{warning}')dnl\nsubstr()dnl\n"
    warnings = build_cf(MC, text.encode(), host, tools).warnings
    assert warnings[0] == " ".join(warning.split())
    assert len(warnings) == 2 and "arning: too few arguments" in warnings[1]


# On this machine itself, where programs may run: the macros lie beside the .mc.


@pytest.fixture
def live() -> Iterator[Path]:
    """A directory that everybody may enter, with a .mc's files and macros that run a program."""
    directory = Path(tempfile.mkdtemp(prefix="hardend-mc-", dir="/var/tmp"))
    directory.chmod(0o777)
    (directory / "cf/m4").mkdir(parents=True)
    (directory / "cf/sh").mkdir()
    (directory / "cf/m4/cf.m4").write_text(
        CF_M4.replace("##### built by m4@host on today", "syscmd(`sh '_CF_DIR_`sh/makeinfo.sh')dnl")
    )
    (directory / "cf/sh/makeinfo.sh").write_text(
        "echo '#####' built by `whoami`@`hostname` on `date`; echo '#####' in `pwd`\n"
    )
    yield directory
    shutil.rmtree(directory)


def build_live(live: Path, text: str, timeout_s: float = 20.0) -> bytes:
    head = f"define(`_CF_DIR_', `{live}/cf/')include(`{live}/cf/m4/cf.m4')divert(0)dnl\n"
    tools = maps.Tools(sendmail="", makemap="", cf="", timeout_s=timeout_s)
    return build_cf(f"{live}/sendmail.mc", (head + text).encode(), Host(), tools).cf


def test_on_this_machine_programs_of_the_macros_run_confined(live: Path) -> None:
    built = build_live(live, "O A=1\n")
    assert f"##### built by hardend-check@{socket.gethostname()} on ".encode() in built
    assert f"##### in {live}\n".encode() in built
    assert same_configuration(built, b"V10/Berkeley\nO A=1\n")


@pytest.mark.parametrize(
    ("hostile", "outcome"),
    [
        ("syscmd(`touch EVIL')", "Read-only file system|No such file"),
        ("syscmd(`chmod 777 /usr/bin/m4')", "Read-only file system"),
        ("esyscmd(`cat /etc/shadow')", "No such file"),
        ("syscmd(`cat /proc/1/environ /root/.ssh/*')", "No such file"),
        ("debugfile(`EVIL')", "cannot set debug file"),
        ("undivert(`/etc/shadow')", r"sendmail\.mc:2: includes /etc/shadow: not everybody may read it"),
        ("sinclude(`/etc/shadow')", r"sendmail\.mc:2: includes /etc/shadow: not everybody may read it"),
        ("include(`/dev/zero')", r"sendmail\.mc:2: includes /dev/zero: not a regular file"),
        ("syscmd(`perl -e \"fork while 1\"')", "not done after 3 s"),
        ("define(`x', `x')x", "not done after 3 s"),
        ("define(`x', `x x')x", "memory exhausted|not done after 3 s"),
        ("define(`x', `errprint(`WARNING: 0123456789012345678901234567890\n')x')x", "wrote more than"),
        ("syscmd(`yes')", "wrote more than"),
        ("esyscmd(`yes')", "memory exhausted|exit status"),
    ],
)
def test_a_hostile_mc_on_this_machine_does_nothing(live: Path, hostile: str, outcome: str) -> None:
    evil = live / "evil"
    with pytest.raises(HardendError, match=outcome):
        build_live(live, hostile.replace("EVIL", str(evil)), timeout_s=3.0)
    assert not evil.exists()


def test_a_hostile_mc_reaches_nobody(live: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        dial = f"socket(S,2,1,6);connect(S,pack(q(SnC4x8),2,{port},127,0,0,1))"
        with pytest.raises(HardendError):
            build_live(live, f"syscmd(`perl -e \"{dial} or die\"')")
        with pytest.raises(BlockingIOError):
            server.accept()
        subprocess.run(["perl", "-e", f"{dial} or die"], check=True)  # outside it does
        server.accept()[0].close()


def test_an_include_that_only_its_group_may_read_is_shown_beside_the_mc(live: Path) -> None:
    (live / "m4").mkdir(mode=0o750)
    (live / "m4/provider.m4").write_text(f"O Provider\nsinclude(`{live}/inner.m4')dnl\n")
    (live / "m4/provider.m4").chmod(0o640)  # as Debian has it
    (live / "inner.m4").write_text("O Inner\n")
    (live / "inner.m4").chmod(0o600)
    (live / "link.m4").symlink_to("inner.m4")
    built = build_live(live, f"include(`{live}/m4/provider.m4')include(`link.m4')")
    assert built.count(b"O Inner\n") == 2 and b"O Provider\n" in built


@pytest.mark.parametrize("name", ["link.m4", "hard.m4", "m4/secret.m4", "secret", "fifo.m4"])
def test_an_include_that_leads_to_a_secret_is_not_shown(live: Path, name: str) -> None:
    """Whoever may write in the mail directory, as Debian's daemon may, can make links there."""
    elsewhere = Path(tempfile.mkdtemp(prefix="hardend-secret-", dir="/var/tmp"))  # 0700
    try:
        (elsewhere / "secret.m4").write_text("secret\n")
        (elsewhere / "secret.m4").chmod(0o600 if name == "hard.m4" else 0o644)
        (live / "link.m4").symlink_to(elsewhere / "secret.m4")
        os.link(elsewhere / "secret.m4", live / "hard.m4")
        (live / "m4").symlink_to(elsewhere)
        (live / "secret").write_text("secret\n")
        (live / "secret").chmod(0o600)
        os.mkfifo(live / "fifo.m4")
        with pytest.raises(FormatError, match=rf"sendmail\.mc:3: includes {live}/{name}: not "):
            build_live(live, f"dnl\ninclude(`{live}/{name}')")
    finally:
        shutil.rmtree(elsewhere)


def test_macros_that_lead_to_a_secret_are_not_shown(live: Path) -> None:
    (live / "cf/feature").mkdir()
    (live / "cf/feature/x.m4").symlink_to("/etc/shadow")
    with pytest.raises(FormatError, match="cannot open"):
        build_live(live, "FEATURE(`x')")
