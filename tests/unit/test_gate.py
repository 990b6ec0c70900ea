# SPDX-License-Identifier: Apache-2.0
"""What may be loaded: our parser first, then every file that is named, then Sendmail itself."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from hardend.gate import Candidate, gate
from hardend.layout import Layout
from hardend.maps import Tools
from hardend.model import Host
from tests.unit import programs
from tests.unit.programs import qualified_name as qualified_name  # noqa: PLC0414 - a fixture

CF = "/etc/mail/sendmail.cf"
LAYOUT = Layout(profile="unknown", mail_dir="/etc/mail", cf=CF)
NONE = Tools("", "", "", 5)


def in_tree(tmp_path: Path, content: bytes, approved: bytes = b"") -> tuple[str, ...]:
    return gate(Candidate(CF, content, approved), Host(str(tmp_path)), LAYOUT, NONE)


def test_an_unapproved_program_class_is_refused_before_anything_else(tmp_path: Path) -> None:
    problems = in_tree(tmp_path, b"F{x}|/bin/evil\nMlocal, P=/nonexistent\n")
    assert problems == (f"{CF}: runs an unapproved program: F{{x}}|/bin/evil",)


def test_a_program_map_is_refused_too(tmp_path: Path) -> None:
    assert "Kx program /bin/evil" in in_tree(tmp_path, b"Kx program /bin/evil\n")[0]


def test_a_program_of_the_approved_file_may_stay(tmp_path: Path) -> None:
    assert in_tree(tmp_path, b"F{x}|/bin/ours\n", b"# older\nF{x}|/bin/ours\n") == ()


def test_another_command_for_an_approved_class_is_refused(tmp_path: Path) -> None:
    assert in_tree(tmp_path, b"F{x}|/bin/evil\n", b"F{x}|/bin/ours\n")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b"Mlocal, P=/usr/bin/mda, F=l, A=mda", "mailer local: /usr/bin/mda"),
        (b"Fw/etc/mail/names", "class w: /etc/mail/names"),
        (b"Kaccess hash -T<TMPF> /etc/mail/access", "map access: /etc/mail/access.db"),
        (b"Kv btree /etc/mail/v.db", "map v: /etc/mail/v.db"),
        (b"Kd dbm /etc/mail/d", "map d: /etc/mail/d.pag"),
        (b"O ServerCertFile=/etc/mail/tls/cert.pem", "ServerCertFile: /etc/mail/tls/cert.pem"),
    ],
)
def test_what_is_named_must_be_there(tmp_path: Path, line: bytes, named: str) -> None:
    problems = in_tree(tmp_path, b"# comment\n" + line + b"\n")
    assert problems == (f"{CF}:2: {named}: No such file or directory",)
    path = tmp_path / named.partition(": ")[2].lstrip("/")
    path.parent.mkdir(parents=True)
    path.touch(0o755)
    assert in_tree(tmp_path, line + b"\n") == ()


@pytest.mark.parametrize(
    "line",
    [
        b"Msmtp, P=[IPC], F=m, A=TCP $h",
        b"M*file*, P=[FILE], F=l, A=FILE $u",
        b"FR-o /etc/mail/relay-domains",
        b"Kaccess hash -o -T<TMPF> /etc/mail/access",
        b"Kdequote dequote",
        b"O ServerCertFile=$&{cert}",
        b"O DHParameters=2048",
        b"#O CACertFile=/nonexistent",
    ],
)
def test_what_needs_no_file_passes(tmp_path: Path, line: bytes) -> None:
    assert in_tree(tmp_path, line + b"\n") == ()


def test_a_mailer_that_nobody_may_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mda").touch(0o644)
    (tmp_path / "directory").mkdir()
    if os.geteuid() == 0:
        assert "no permission" in in_tree(tmp_path, b"Ml, P=/mda, A=mda\n")[0]
    assert "not a regular file" in in_tree(tmp_path, b"Ml, P=/directory, A=x\n")[0]


def test_links_of_a_tree_lead_to_files_of_the_tree(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/real").touch(0o755)
    (tmp_path / "mda").symlink_to("/bin/real")
    assert in_tree(tmp_path, b"Ml, P=/mda, A=mda\n") == ()


def on_host(content: bytes, trusted_user: str = "") -> tuple[str, ...]:
    layout = Layout(
        profile="unknown", mail_dir="/etc/mail", cf=CF, trusted_user=trusted_user
    )
    return gate(Candidate(CF, content, content), Host(), layout, programs.tools(CF))


def runnable(tmp_path: Path, trusted_user: bytes) -> bytes:
    queue = tmp_path / "queue"
    queue.mkdir(exist_ok=True)
    queue.chmod(0o755)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    return programs.CF + (
        b"O QueueDirectory=%s\nO TrustedUser=%s\n" % (os.fsencode(queue), trusted_user)
    )


@pytest.mark.root
@pytest.mark.usefixtures("qualified_name")
@pytest.mark.parametrize("trusted_user", ["", "daemon"])
def test_sendmail_accepts_what_is_right(tmp_path: Path, trusted_user: str) -> None:
    assert on_host(runnable(tmp_path, b"daemon"), trusted_user) == ()


@pytest.mark.root
@pytest.mark.usefixtures("qualified_name")
@pytest.mark.parametrize("trusted_user", ["", "daemon"])
def test_sendmail_refuses_an_unknown_option_and_the_file_is_named(
    tmp_path: Path, trusted_user: str
) -> None:
    (problem,) = on_host(runnable(tmp_path, b"daemon") + b"O NoSuchThing=1\n", trusted_user)
    assert "exit status 70" in problem
    assert f"{CF}: line " in problem
    assert "hardend-gate" not in problem


@pytest.mark.root
@pytest.mark.usefixtures("qualified_name")
def test_a_class_file_for_root_alone_is_no_reason_to_refuse(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_bytes(b"a.example\n")
    names.chmod(0o600)
    anywhere = b"O DontBlameSendmail=ClassFileInUnsafeDirPath,TrustStickyBit\n"
    content = anywhere + runnable(tmp_path, b"daemon") + b"Fw%s\n" % os.fsencode(names)
    assert on_host(content, "daemon") == ()


@pytest.mark.root
@pytest.mark.usefixtures("qualified_name")
def test_an_approved_program_runs_without_roots_privileges(tmp_path: Path) -> None:
    """Where there is a trusted user, what a configuration runs is run as that user."""
    trace = tmp_path / "trace"
    trace.touch()
    trace.chmod(0o666)
    script = tmp_path / "prog"
    script.write_text(f"#!/bin/sh\nid -u > {trace}\n")
    script.chmod(0o755)
    content = b"O DefaultUser=root:root\n" + runnable(tmp_path, b"daemon")
    on_host(content + b"F{x}|%s\n" % os.fsencode(script), "daemon")
    assert trace.read_text().strip() == str(pwd.getpwnam("daemon").pw_uid)


def test_without_sendmail_nothing_passes() -> None:
    assert gate(Candidate(CF, b""), Host(), LAYOUT, NONE) == (
        "there is no sendmail on this machine to check it with",
    )
