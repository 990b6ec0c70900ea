# SPDX-License-Identifier: Apache-2.0
"""The Debian package on a mail host: installed, taken into use, upgraded, removed and purged."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host.image import NEXT_SUITE, REPOSITORY, SUITE
from tests.host.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

# Into apt's cache: what the package needs comes from there, the hosts have no network.
FETCH = "apt-get -q -y --no-install-recommends --download-only install python3-systemd"
LISTING = r"""find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp \
    -o -path /root -o -path /var/log -o -path /var/cache -o -path /var/lib/apt -o -path /var/lib/dpkg \
    -o -path /var/lib/mail -o -path /var/spool -o -path /var/mail -o -path /var/tmp \
    -o -name __pycache__ \) -prune -o -printf '%p\n' | LC_ALL=C sort"""
LOCKED = "lsattr -R /etc 2>/dev/null | awk '$1 ~ /^[-a-zA-Z]*i[-a-zA-Z]*$/ { print $2 }'"


@pytest.fixture(scope="module")
def deb() -> Path:
    """The package of this checkout, which lintian has passed."""
    subprocess.run(["./run", "deb"], cwd=REPOSITORY, check=True, timeout=600)
    return next((REPOSITORY / "dist").glob("hardend_*_amd64.deb"))


@pytest.fixture(scope="module")
def newer(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same package as the next version, 9.9."""
    tree = tmp_path_factory.mktemp("newer") / "hardend"
    subprocess.run(["dpkg-deb", "-R", deb, tree], check=True)
    control = tree / "DEBIAN/control"
    lines = control.read_text("utf-8").splitlines(keepends=True)
    control.write_text("".join("Version: 9.9\n" if x.startswith("Version:") else x for x in lines), "utf-8")
    module = next(tree.glob("usr/lib/hardend/venv/lib/python3/site-packages/hardend/__init__.py"))
    module.write_text('"""The next version."""\n\n__version__ = "9.9"\n', "utf-8")
    target = tree.with_name("hardend_9.9_amd64.deb")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, target], check=True)
    return target


pytestmark = pytest.mark.all  # three minutes and a hundred packages: ./run test --all


@pytest.fixture(scope="module", params=[SUITE, pytest.param(NEXT_SUITE, marks=pytest.mark.all)])
def host(request: pytest.FixtureRequest, deb: Path, newer: Path) -> Iterator[Machine]:
    """A mail host that never saw hardend, without a network, with the packages in /root."""
    # Debian 13's sendmail is installed disabled.
    prepare = FETCH if request.param == SUITE else f"{FETCH}; systemctl enable sendmail"
    with Machine(install=False, suite=request.param, prepare=prepare) as machine:
        machine.put(deb, "/root/hardend_first_amd64.deb")
        machine.put(newer, "/root/hardend_newer_amd64.deb")
        machine.run("apt-get -q -y install python3-systemd")
        machine.run(f"{LISTING} > /root/before; cp -a /etc/mail /root/mail")
        yield machine


def listed() -> set[str]:
    """What etc/package-files says lies on a host beside the program."""
    found = set()
    for line in (REPOSITORY / "etc/package-files").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            sources, directory, _ = line.split()
            packed = ".gz" if directory.startswith("/usr/share/man/") else ""
            found |= {f"{directory}/{source.name}{packed}" for source in REPOSITORY.glob(sources)}
    return found


def pid(host: Machine) -> int:
    return int(host.run("systemctl show -P MainPID hardend").stdout)


def test_installing_starts_nothing_and_changes_nothing_of_sendmail(host: Machine) -> None:
    said = host.run("apt-get -q -y install ./hardend_first_amd64.deb", timeout=300).stdout
    for command in ("hardend audit", "hardend harden --plan", "systemctl enable --now hardend"):
        assert f"\n  {command} " in said
    assert host.run("diff -r --no-dereference /etc/mail /root/mail").stdout == ""
    assert host.run(LOCKED).stdout == ""
    assert host.run("systemctl is-active hardend hardend-status.socket hardend-metrics.timer", check=False
    ).stdout.split() == ["inactive"] * 3  # fmt: skip
    assert host.run("getent passwd hardend-check").stdout.endswith(":/usr/sbin/nologin\n")
    assert "not a fully installed" not in host.run("dpkg --audit").stdout
    assert host.run("dpkg --verify hardend").stdout == ""


def test_the_package_is_the_program_and_what_the_list_says(host: Machine) -> None:
    files = set(host.run("dpkg -L hardend | while read -r x; do test -d $x || echo $x; done").stdout.split())
    packaging = ("/usr/share/doc/hardend/", "/usr/share/lintian/", "/usr/share/python3/runtime.d/")
    program = ("/usr/lib/hardend/", *packaging)
    assert {path for path in files if not path.startswith(program)} == listed()


def test_the_printed_commands_make_the_host_hardened_guarded_and_clean(host: Machine) -> None:
    assert host.run("hardend audit", check=False).returncode == 1
    assert "+++ b/etc/mail/sendmail.mc" in host.run("hardend harden --plan").stdout
    host.run("hardend harden --yes --include all", timeout=300)
    host.run("systemctl enable --now hardend")
    assert host.run("hardend audit", check=False).returncode == 0
    assert host.run("hardend status", check=False).returncode == 0
    assert host.run("journalctl --no-pager -x HARDEND_EVENT=guard-started").stdout
    assert "/etc/mail/sendmail.cf" in host.run(LOCKED).stdout
    host.run("chattr -i /etc/mail/access; echo x >> /etc/mail/access", check=False)
    assert host.run("hardend check").returncode == 0


def test_the_service_reads_compiled_modules(host: Machine) -> None:
    site = "/usr/lib/hardend/venv/lib/python3/site-packages/hardend"
    assert "guard.cpython-3" in host.run(f"ls {site}/__pycache__").stdout


def test_an_upgrade_restarts_the_guard_and_keeps_the_locks(host: Machine) -> None:
    before, locked = pid(host), host.run(LOCKED).stdout
    host.run("printf '[guard]\\nmode = \"enforce\"\\n' > /etc/hardend/conf.d/site.toml")
    # Looks at the locks for as long as the upgrade takes: the first lock that is missing is an answer.
    host.path("/root/look").write_text(f"while :; do {LOCKED} | wc -l; done > /root/locks\n", "utf-8")
    host.run("systemd-run -q --unit=look sh /root/look")
    said = host.run("apt-get -q -y install ./hardend_newer_amd64.deb", timeout=300).stdout
    host.run("systemctl stop look")
    assert "Go on with" not in said
    assert set(host.run("head -n -1 /root/locks").stdout.split()) == {str(locked.count("\n"))}
    assert pid(host) not in {0, before}
    assert host.run("hardend --version").stdout == "hardend 9.9\n"
    assert host.run("hardend status", check=False).returncode == 0
    assert host.run(LOCKED).stdout == locked
    assert host.run("systemctl is-enabled hardend").stdout == "enabled\n"


def test_a_removal_releases_the_locks_and_says_so(host: Machine) -> None:
    count = host.run(LOCKED).stdout.count("\n")
    said = host.run("apt-get -q -y remove hardend", timeout=300).stdout
    assert f"{count} locks released" in said
    assert "no file is locked or guarded any more" in said
    assert host.run(LOCKED).stdout == ""
    assert host.run("test -e /var/lib/hardend/baseline -a -e /etc/hardend/hardend.toml").returncode == 0
    assert host.run("systemctl list-units --all --plain --no-legend 'hardend*'").stdout == ""


def test_a_purge_leaves_what_the_administrator_made(host: Machine) -> None:
    host.run("apt-get -q -y purge hardend", timeout=300)
    host.run(f"{LISTING} > /root/after")
    left = host.run("diff /root/before /root/after", check=False).stdout.splitlines()
    mine = {"> /etc/hardend", "> /etc/hardend/conf.d", "> /etc/hardend/conf.d/site.toml"}
    changed = {line for line in left if line[:1] in "<>"} - mine
    assert {line for line in changed if "/etc/mail/" not in line} == set()
    assert not listed() & {line[2:] for line in left}
    assert host.run(LOCKED.replace("/etc", "/etc /var /usr")).stdout == ""
    assert host.run("getent passwd hardend-check", check=False).stdout == ""
    assert host.run("systemctl is-active sendmail").stdout == "active\n"


def test_what_was_removed_can_be_installed_again(host: Machine) -> None:
    host.run("apt-get -q -y install ./hardend_first_amd64.deb", timeout=300)
    host.run("hardend approve --reason again && systemctl enable --now hardend")
    assert host.run("hardend status", check=False).returncode == 0
