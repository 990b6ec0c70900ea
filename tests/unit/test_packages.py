# SPDX-License-Identifier: Apache-2.0
"""What dpkg and apt are about to do, read from their words, and which packages concern us."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend import package_window, packages, window, window_files
from hardend.cli.main import main
from hardend.errors import Exit
from hardend.model import Host
from hardend.packages import Package, Transaction

HELD = ("/etc/mail/access", "/var/spool/mqueue", "/srv/lists/aliases")
WORDS = st.sampled_from(
    ["-i", "--unpack", "--status-fd", "7", "--root=/x", "--", "-a", "--configure", "a.deb", "./b.deb", "x"]
)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-i", "a.deb"], Transaction(files=["/d/a.deb"])),
        (["--status-fd", "23", "--no-triggers", "--unpack", "/x/a.deb"], Transaction(files=["/x/a.deb"])),
        (["--status-fd", "9", "--configure", "--pending"], Transaction(pending=True)),
        (["--configure", "-a"], Transaction(pending=True)),
        (["--force-depends", "--remove", "sendmail:amd64"], Transaction(names=["sendmail:amd64"])),
        (["-P", "--", "rmail"], Transaction(names=["rmail"])),
        (["--root=/mnt", "-i", "a.deb"], Transaction(files=["/d/a.deb"], elsewhere=True)),
        (["--admindir", "/mnt/lib", "-r", "x"], Transaction(names=["x"], elsewhere=True)),
        (["--root=/", "-r", "x"], Transaction(names=["x"])),
        (["--command-fd=3"], Transaction(unknown=True)),
    ],
)
def test_a_command_line_of_dpkg_tells_what_it_is_about(words: list[str], expected: Transaction) -> None:
    assert packages.of_dpkg(["dpkg", *words], "/d") == expected


def test_a_directory_stands_for_the_packages_in_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.deb", "sub/a.deb", "readme"):
        (tmp_path / name).write_bytes(b"")
    found = packages.of_dpkg(["dpkg", "--recursive", "--unpack", str(tmp_path)], "/")
    assert found.files == [str(tmp_path / "b.deb"), str(tmp_path / "sub/a.deb")]


@given(st.lists(WORDS | st.text(max_size=8)))
def test_no_command_line_is_too_strange(words: list[str]) -> None:
    found = packages.of_dpkg(["dpkg", *(word.replace("\0", "") for word in words)], "/nowhere")
    assert all(path.startswith("/") for path in found.files)


VERSION_3 = """VERSION 3
APT::Architecture=amd64
Dir=/

sendmail-bin 8.17-1 amd64 none < 8.17-2 amd64 none /var/cache/a b.deb
rmail 8.17-1 amd64 none > - - none **REMOVE**
sendmail-bin 8.17-1 amd64 none < 8.17-2 amd64 none **CONFIGURE**
"""


def test_apt_says_files_and_names() -> None:
    found = packages.of_apt(VERSION_3)
    assert found == Transaction(files=["/var/cache/a b.deb"], names=["rmail", "sendmail-bin"])
    assert packages.of_apt("/a.deb\n/b.deb\n") == Transaction(files=["/a.deb", "/b.deb"])
    assert packages.of_apt("VERSION 2\nDir=/\n\nx 1 < 2 /x.deb\n").files == ["/x.deb"]
    assert packages.of_apt(VERSION_3.replace("Dir=/", "DPkg::Chroot-Directory=/mnt")).elsewhere


@given(st.text() | st.text().map(lambda text: VERSION_3 + text))
def test_nothing_that_apt_says_is_too_strange(text: str) -> None:
    assert all(path.startswith("/") for path in packages.of_apt(text).files)


def deb(directory: Path, name: str, postinst: str, version: str = "1:2.0-1+b1") -> str:
    root = directory / "tree"
    (root / "DEBIAN").mkdir(parents=True, exist_ok=True)
    control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: a <a@b>\nDescription: x\n"
    (root / "DEBIAN/control").write_text(control, "utf-8")
    script = root / "DEBIAN/postinst"
    script.write_text(f"#!/bin/sh\n{postinst}\n", "utf-8")
    script.chmod(0o755)
    path = directory / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", root, path], check=True, capture_output=True)
    return str(path)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo x >> /etc/aliases", "its postinst names etc/aliases"),
        ("newaliases || true", "its postinst names newaliases"),
        ("rm -f $D/etc/mail/x", "its postinst names etc/mail"),
        ("chmod 700 /var/spool/mqueue", "its postinst names /var/spool/mqueue"),
        ("echo /srv/lists/aliases", "its postinst names /srv/lists/aliases"),
        ("cat /etc/mailname /etc/mail.rc /etc/aliases.d /var/spool/mqueue-x", ""),
    ],
)
def test_a_package_concerns_us_by_what_its_scripts_name(tmp_path: Path, script: str, why: str) -> None:
    found = packages.concerned(Transaction(files=[deb(tmp_path, "other", script)]), HELD)
    assert found == ([Package("other", "1:2.0-1+b1", why)] if why else [])


def test_sendmails_packages_and_what_cannot_be_read_concern_us_always(tmp_path: Path) -> None:
    broken = tmp_path / "broken\n.deb"
    broken.write_bytes(b"!<arch>\nnothing")
    files = [deb(tmp_path, "sendmail-cf", "true"), str(broken), str(tmp_path / "missing.deb")]
    found = packages.concerned(Transaction(files=files, unknown=True), HELD)
    assert [item.name for item in found] == ["sendmail-cf", "broken\\x0a.deb", "missing.deb", "?"]
    assert "cannot be read" in found[1].why


def test_what_is_installed_here_is_read_from_dpkg() -> None:
    here = packages.concerned(Transaction(names=["dpkg:amd64", "no-such-package", "../x"]), ["/var/lib/dpkg"])
    asked = ["dpkg-query", "-W", "-f", "${Version}", "dpkg"]
    version = subprocess.run(asked, check=True, capture_output=True)
    assert [(item.name, item.version) for item in here] == [("dpkg", version.stdout.decode())]


@given(st.binary(max_size=600))
def test_no_control_archive_is_too_strange(data: bytes) -> None:
    try:
        members = dict(packages.control_members(data))
    except (tarfile.TarError, ValueError, EOFError):
        return
    assert members == {} or data


def test_links_in_a_control_archive_are_not_followed() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        link = tarfile.TarInfo("./postinst")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert dict(packages.control_members(file.getvalue())) == {}


def test_a_log_names_the_packages_and_counts_the_rest() -> None:
    many = [Package(f"p{count}", "1") for count in range(8)]
    assert package_window.reason("apt", many[:2]) == "apt: p0 1, p1 1"
    assert package_window.reason("dpkg", many).endswith("p5 1 and 2 more")


def test_the_processes_above_are_known_the_nearest_first() -> None:
    found = package_window.ancestors()
    assert found[0][0] == os.getppid()
    assert found[-1][0] == 1 or found[-1][0] > 0


def test_a_window_of_a_process_that_ended_is_an_orphan(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    made = window.make(
        host, paths=("/a",), trees=(), seconds=60, reason="x", by="root", uid=0, command="dpkg"
    )
    with subprocess.Popen(["sleep", "60"]) as child:
        window_files.hold_for(host, made.id, child.pid)
        assert window_files.holder(host, made.id) == child.pid
        assert not window_files.is_orphan(host, made)
        child.kill()
    assert window_files.is_orphan(host, made)


@pytest.mark.parametrize("moment", ["pre", "post", "apt", "end"])
def test_a_hook_on_a_host_without_a_baseline_says_nothing_and_succeeds(
    tmp_path: Path, moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["package-hook", moment, "--root", str(tmp_path)]) == Exit.OK
    assert capsys.readouterr() == ("", "")


def test_the_shipped_hooks_cannot_fail() -> None:
    for line in Path("etc/dpkg/hardend").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(r"(pre|post)-invoke=.*\|\| true", line)
            command = line.partition("=")[2].replace("/usr/sbin/hardend", "/nonexistent")
            done = subprocess.run(["sh", "-c", command], check=False, capture_output=True)
            assert (done.returncode, done.stderr) == (0, b"")


def test_what_apt_writes_is_read_to_its_end_where_nothing_was_approved(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hardend", "package-hook", "--root", str(tmp_path), "apt"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as hook:
        assert hook.stdin is not None and hook.stderr is not None
        for _ in range(64):
            hook.stdin.write(b"VERSION 3\n" * 4096)  # an unread pipe takes 64 KiB, then it breaks
        hook.stdin.close()
        assert hook.wait(60) == 0
        assert hook.stderr.read() == b""
