# SPDX-License-Identifier: Apache-2.0
"""Package upgrades on a hardened mail host under a running guard: apt, dpkg, and packages of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.host import image
from tests.host.test_guard import deliver
from tests.host.test_windows import is_locked, number, wait, wait_clean, windows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.machine import Machine

pytestmark = pytest.mark.host
PACKAGES = "sendmail-bin sendmail-base sendmail"
ENVIRONMENT = "DEBIAN_FRONTEND=noninteractive"
REINSTALL = f"{ENVIRONMENT} apt-get -q -y {{}} install --reinstall {PACKAGES} < /dev/null"
HOOKS = ("/etc/dpkg/dpkg.cfg.d/hardend", "/etc/apt/apt.conf.d/90hardend")
FAULTS = ("operation not permitted", "dpkg: error", "e: ", "cannot move", "hardend: hint")


@pytest.fixture(scope="module")
def hardened(machine: Machine) -> Machine:
    """A host that meets every rule, its guard, and the packages in apt's cache."""
    for package in image.packages().iterdir():
        machine.put(package, f"/var/cache/apt/archives/{package.name}")
    machine.run("hardend harden --yes --include all --reason first")
    machine.run("systemctl enable --now hardend")
    return machine


@pytest.fixture(autouse=True)
def as_hardened_as_before(hardened: Machine) -> Iterator[None]:
    """Whatever a test did, the host is clean, closed, and meets every rule afterwards."""
    yield
    hardened.run("systemctl start hardend")
    assert wait_clean(hardened) == ""
    assert windows(hardened) == []
    assert is_locked(hardened) and is_locked(hardened, "/etc/aliases")
    audit = hardened.run("hardend audit", check=False)
    assert audit.returncode == 0, audit.stdout


def build(machine: Machine, name: str, postinst: str, version: str = "1.0") -> str:
    """Build a package with a postinst in the host; return its file."""
    control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: a <a@b>\nDescription: x\n"
    at = f"/root/{name}"
    machine.run(f"rm -rf {at}; mkdir -p {at}/DEBIAN")
    machine.run(f"cat > {at}/DEBIAN/control", input_text=control)
    machine.run(f"cat > {at}/DEBIAN/postinst", input_text=f"#!/bin/sh\nset -e\n{postinst}\n")
    machine.run(f"chmod 755 {at}/DEBIAN/postinst; dpkg-deb --root-owner-group -b {at} {at}.deb")
    return f"{at}.deb"


def no_fault(said: str) -> bool:
    return not [line for line in said.lower().splitlines() if line.startswith(FAULTS) or FAULTS[0] in line]


def reasons(machine: Machine) -> str:
    return machine.run("hardend baseline log").stdout


def require_installed(machine: Machine) -> None:
    state = machine.run(f"dpkg-query -W -f '${{Status}}\\n' {PACKAGES}").stdout.splitlines()
    assert state == ["install ok installed"] * 3
    assert machine.run("dpkg --audit").stdout == ""


def test_sendmail_is_reinstalled_by_apt_under_a_running_guard(hardened: Machine) -> None:
    before = number(hardened)
    done = hardened.run(REINSTALL.format(""), timeout=300)
    print(done.stdout[-900:], done.stderr)
    assert no_fault(done.stdout + done.stderr)
    assert number(hardened) == before + 1
    assert "apt: sendmail-bin 8." in reasons(hardened) and "sendmail-base 8." in reasons(hardened)
    require_installed(hardened)
    assert hardened.run("ls /etc/mail/*.new /etc/mail/smrsh/procmail", check=False).stdout == ""
    assert wait_clean(hardened) == ""
    assert deliver(hardened, "after-apt")


def test_sendmail_is_reinstalled_by_dpkg_which_knows_no_hooks_of_apt(hardened: Machine) -> None:
    before = number(hardened)
    archives = "/var/cache/apt/archives/sendmail*.deb"
    done = hardened.run(f"{ENVIRONMENT} dpkg -i {archives} < /dev/null", timeout=300)
    assert no_fault(done.stdout + done.stderr)
    assert number(hardened) == before + 1
    assert "dpkg: sendmail" in reasons(hardened)
    require_installed(hardened)
    assert deliver(hardened, "after-dpkg")


def test_the_guard_may_stop_in_the_middle(hardened: Machine) -> None:
    before = number(hardened)
    stop = "-o DPkg::Pre-Install-Pkgs::='systemctl stop hardend; cat > /dev/null'"
    done = hardened.run(REINSTALL.format(stop), timeout=300)
    assert no_fault(done.stdout + done.stderr)
    assert is_locked(hardened)
    hardened.run("systemctl start hardend")
    assert wait_clean(hardened) == ""
    assert number(hardened) == before + 1
    require_installed(hardened)
    assert deliver(hardened, "after-stop")


def test_a_package_of_others_may_append_to_aliases(hardened: Machine) -> None:
    before = number(hardened)
    script = "echo 'newsletter: root' >> /etc/aliases; newaliases"
    hardened.run(f"dpkg -i {build(hardened, 'newsletter', script)}")
    assert number(hardened) == before + 1
    assert "dpkg: newsletter 1.0" in reasons(hardened)
    assert hardened.run("sendmail -bv newsletter").stdout.startswith("root")
    assert hardened.run("dpkg-query -W -f '${Status}' newsletter").stdout == "install ok installed"


def test_what_a_package_makes_worse_is_mended_or_put_back(hardened: Machine) -> None:
    script = (
        "sed -i 's/^O PrivacyOptions=.*/O PrivacyOptions=public/' /etc/mail/sendmail.cf\n"
        "echo 'decode: \"|/usr/bin/uudecode\"' >> /etc/aliases\n"
        "ln -s /bin/sh /etc/mail/smrsh/sh\n"
    )
    done = hardened.run(f"dpkg -i {build(hardened, 'worse', script)}")
    print(done.stderr)
    assert "privacy" in done.stderr and "decode" in done.stderr and "smrsh/sh" in done.stderr
    assert wait_clean(hardened) == ""
    assert hardened.run("test -e /etc/mail/smrsh/sh", check=False).returncode == 1


def test_a_package_that_touches_nothing_opens_no_window(hardened: Machine) -> None:
    before = number(hardened)
    opened = len(hardened.journal("HARDEND_EVENT=window-opened"))
    hardened.run(f"dpkg -i {build(hardened, 'harmless', 'echo /etc/mailname')}")
    assert number(hardened) == before
    assert len(hardened.journal("HARDEND_EVENT=window-opened")) == opened


def test_a_dpkg_that_dies_leaves_a_window_that_closes_itself(hardened: Machine) -> None:
    script = "echo 'orphan: root' >> /etc/aliases; test -e /root/alive || kill -KILL $PPID; sleep 1"
    done = hardened.run(f"dpkg -i {build(hardened, 'dying', script)}", check=False)
    assert done.returncode != 0
    assert wait_clean(hardened) == ""
    assert "orphan: root" in hardened.run("cat /etc/aliases").stdout
    hardened.run("touch /root/alive; dpkg --configure -a")
    assert hardened.run("dpkg --audit").stdout == ""
    assert "dpkg: dying 1.0" in reasons(hardened)


def test_a_hardend_that_does_not_work_stops_no_package(hardened: Machine) -> None:
    package = build(hardened, "other", "exit 0 # /etc/aliases")
    hardened.run("echo nonsense > /etc/hardend/conf.d/broken.toml")
    done = hardened.run(f"dpkg -i {package}; rm /etc/hardend/conf.d/broken.toml")
    assert "broken.toml" in done.stderr
    hardened.run("mv /usr/sbin/hardend /usr/sbin/hardend.off")
    done = hardened.run(f"dpkg -i {package}; mv /usr/sbin/hardend.off /usr/sbin/hardend")
    assert "hardend" not in done.stderr
    hardened.run("dpkg -P other")


def test_sendmailconfig_runs_on_a_hardened_host(hardened: Machine) -> None:
    done = hardened.run("hardend run --reason conf -- sendmailconfig < /dev/null", timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert hardened.run("ls /etc/mail/*.new", check=False).stdout == ""


def test_a_command_that_weakens_a_rule_keeps_the_rest_of_its_work(hardened: Machine) -> None:
    script = "echo 'joe: root' >> /etc/aliases; echo 'decode: \"|/bin/uudecode\"' >> /etc/aliases"
    done = hardened.run(["hardend", "run", "--reason", "joe", "--", "sh", "-c", script])
    assert "decode" in done.stdout and "applied again" in done.stdout
    assert hardened.run("sendmail -bv joe").stdout.startswith("root")


def test_the_same_reinstall_fails_without_the_hooks(hardened: Machine) -> None:
    hardened.run("; ".join(f"mv {path} /root/{number}" for number, path in enumerate(HOOKS)))
    done = hardened.run(REINSTALL.format(""), timeout=300, check=False)
    hardened.run("; ".join(f"mv /root/{number} {path}" for number, path in enumerate(HOOKS)))
    assert not no_fault(done.stdout + done.stderr)
    assert wait(hardened, f"{ENVIRONMENT} dpkg --configure -a < /dev/null") == ""
    hardened.run(REINSTALL.format(""), timeout=300)
    require_installed(hardened)
