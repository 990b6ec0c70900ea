# SPDX-License-Identifier: Apache-2.0
"""Two booted mail hosts get one signed baseline by Ansible; a forged one is refused by both."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host import image
from tests.host.machine import Machine
from tests.host.test_guard import deliver, wait_clean
from tests.unit.signers import key, line

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
PLAYBOOK = HERE.parents[1] / "etc/ansible/baseline.yml"
ACCESS, NAMES, CF = "/etc/mail/access", "/etc/mail/local-host-names", "/etc/mail/sendmail.cf"
PARTNER = "Connect:203.0.113.9"
SETTINGS = f'[baseline]\nrequire_signature = true\nown = ["{NAMES}"]\n'
# As the hosts of a fleet differ: chown(2) takes the setgid bits away, so modes are put back.
OTHER_GROUP = """
old=$(getent group smmsp | cut -d: -f3)
groupmod -g 4242 smmsp && usermod -g 4242 smmsp
find / -xdev -gid $old -printf '%m %p\\n' | while read mode path; do
    chgrp -h smmsp "$path"; [ -L "$path" ] || chmod $mode "$path"
done
echo two.example.com >> /etc/mail/local-host-names
"""


@dataclass
class Fleet:
    """The host where the baseline is approved, another one, and what the administrator has."""

    golden: Machine
    far: Machine
    desk: Path

    @property
    def parcel(self) -> Path:
        """The signed baseline."""
        return self.desk / "baseline.tar"

    def carry(self, machine: Machine, parcel: Path) -> str:
        """Copy a baseline to a host and import it; what hardend said."""
        machine.put(parcel, "/root/in.tar")
        done = machine.run("hardend baseline import /root/in.tar", check=False)
        return f"{done.returncode} {done.stdout}{done.stderr}"

    def play(self, parcel: Path) -> tuple[int, dict[str, str], str]:
        """Let Ansible carry a baseline to both; exit code, ``changed=`` of each host, output."""
        hosts = f"golden ansible_host={self.golden.leader}\nfar ansible_host={self.far.leader}\n"
        variables = (
            "ansible_connection=machine\nansible_become=false\nansible_python_interpreter=/usr/bin/python3\n"
        )
        (self.desk / "hosts").write_text(f"[mail]\n{hosts}[mail:vars]\n{variables}")
        done = subprocess.run(
            [*_ansible(), "-i", self.desk / "hosts", PLAYBOOK, "-e", f"baseline={parcel}"],
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": str(self.desk),
                "LC_ALL": "C.UTF-8",
                "ANSIBLE_CONNECTION_PLUGINS": str(HERE / "ansible/connection_plugins"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_PIPELINING": "1",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        recap = [row.split() for row in done.stdout.splitlines() if " changed=" in row]
        changed = {row[0]: next(word for word in row if word.startswith("changed=")) for row in recap}
        return done.returncode, changed, done.stdout + done.stderr


def _ansible() -> list[str | Path]:
    """Return ansible-playbook of a virtual environment in the cache, made from pip when it is not there."""
    venv = image.cache_dir() / "ansible"
    with image.locked(image.cache_dir() / "ansible.lock"):
        if not (venv / "ready").exists():
            shutil.rmtree(venv, ignore_errors=True)
            install = [str(venv / "bin/pip"), "-q", "install", "ansible-core>=2.16,<3"]
            for command in ([sys.executable, "-m", "venv", str(venv)], install):
                subprocess.run(command, check=True, capture_output=True, timeout=300)
            (venv / "ready").touch()
    return [venv / "bin/python", venv / "bin/ansible-playbook"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two hosts; the first has an approved, still unsigned baseline. Neither has ssh-keygen yet."""
    desk = tmp_path_factory.mktemp("desk")
    ops = key(desk, "ops")
    with ExitStack() as stack:
        made = Fleet(stack.enter_context(Machine()), stack.enter_context(Machine()), desk)
        for host in (made.golden, made.far):
            host.path("/etc/hardend/allowed_signers").write_text(line(ops))
            host.path("/etc/hardend/conf.d/fleet.toml").write_text(SETTINGS)
        made.golden.run(f"printf '{PARTNER}\\tREJECT\\n' >> {ACCESS}; make -C /etc/mail; sleep 1")
        made.far.run(OTHER_GROUP)
        yield made


def _sign(desk: Path, name: str, signer: str) -> None:
    """Sign a manifest as an administrator does, away from the hosts, by ssh-keygen alone."""
    command = f"ssh-keygen -q -Y sign -n baseline@hardend -f {desk}/{signer} {desk}/{name}/manifest.json"
    subprocess.run(command.split(), check=True, capture_output=True, timeout=60)
    subprocess.run(["tar", "-cf", desk / f"{name}.tar", "-C", desk / name, "."], check=True, timeout=60)


def _fetch(machine: Machine, number: str, to: Path) -> None:
    machine.run(f"rm -rf /root/out; hardend baseline export {number} --to /root/out/")
    shutil.copytree(machine.path("/root/out"), to)


def test_a_host_without_ssh_keygen_names_the_package(fleet: Fleet) -> None:
    done = fleet.golden.run("hardend approve --reason first", check=False)
    assert done.returncode != 0  # nothing is signed yet
    assert "no generation has a signature that verifies" in done.stderr
    _fetch(fleet.golden, "1", fleet.desk / "baseline")
    _sign(fleet.desk, "baseline", "ops")
    said = fleet.carry(fleet.far, fleet.parcel)
    assert said.startswith("2 hardend: ssh-keygen is missing")
    assert "apt-get install openssh-client" in said
    program = shutil.which("ssh-keygen")
    assert program is not None
    for host in (fleet.golden, fleet.far):
        host.put(Path(program), "/usr/bin/ssh-keygen")


def test_a_generation_that_was_signed_elsewhere_comes_into_force(fleet: Fleet) -> None:
    said = fleet.carry(fleet.golden, fleet.parcel)
    assert said.startswith("0 generation 1 is signed by ops@example.com, ED25519 SHA256:"), said
    fleet.golden.run("systemctl enable --now hardend")
    assert wait_clean(fleet.golden) == ""
    assert _faults(fleet.golden, "")
    assert fleet.golden.json("cat /run/hardend/state.json")["generation"] == 1
    assert fleet.golden.run("hardend baseline verify").returncode == 0


def test_ansible_brings_it_to_every_host_once(fleet: Fleet) -> None:
    fleet.far.run("systemctl enable --now hardend")
    code, changed, said = fleet.play(fleet.parcel)
    assert (code, changed) == (0, {"golden": "changed=1", "far": "changed=2"}), said  # copied, imported
    code, changed, said = fleet.play(fleet.parcel)
    assert (code, changed) == (0, {"golden": "changed=0", "far": "changed=0"}), said


def test_the_other_host_is_held_at_it_with_its_own_names_and_numbers(fleet: Fleet) -> None:
    far = fleet.far
    assert wait_clean(far) == ""
    assert PARTNER in far.run(f"cat {ACCESS}").stdout
    assert far.run(f"makemap -u hash /etc/mail/access.db | grep -c {PARTNER.lower()}").stdout == "1\n"
    assert "two.example.com" in far.run(f"cat {NAMES}").stdout
    assert "i" in far.run(f"lsattr {NAMES}").stdout.split()[0]
    assert far.run("stat -c %g /var/spool/mqueue-client").stdout == "4242\n"
    far.run(f"chattr -i {ACCESS}; printf 'Connect:x\\tRELAY\\n' > {ACCESS}", check=False)
    assert wait_clean(far) == ""
    assert PARTNER in far.run(f"cat {ACCESS}").stdout
    assert deliver(far, "fleetmail")


def test_a_forged_one_is_refused_by_both_and_nothing_changes(fleet: Fleet) -> None:
    key(fleet.desk, "mallory")
    shutil.copytree(fleet.desk / "baseline", fleet.desk / "forged")
    manifest = fleet.desk / "forged/manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"mode":416', b'"mode":438', 1))
    (fleet.desk / "forged/manifest.json.sig").unlink()
    _sign(fleet.desk, "forged", "mallory")
    code, changed, said = fleet.play(fleet.desk / "forged.tar")
    assert (code, changed) == (2, {"golden": "changed=1", "far": "changed=1"}), said  # copied, no more
    assert said.count("its signature is not of one who may sign") >= 2
    for host in (fleet.golden, fleet.far):
        assert wait_clean(host) == ""
        assert len(host.json("hardend baseline log --json")["generations"]) == 1


def test_what_root_approves_without_a_signature_is_not_enforced(fleet: Fleet) -> None:
    far = fleet.far
    far.run(f"(cat {ACCESS}; printf 'Connect:192.0.2.1\\tRELAY\\n') > /root/weak")
    done = far.run(f"hardend approve {ACCESS} --from /root/weak --reason weak --force", check=False)
    if done.returncode == 2:  # this hardend knows no --force
        done = far.run(f"hardend approve {ACCESS} --from /root/weak --reason weak", check=False)
    assert done.returncode == 1, done.stderr
    assert "generation 2 is not enforced: no signature reaches it" in done.stderr
    assert "192.0.2.1" not in far.run(f"cat {ACCESS}").stdout
    assert far.run("hardend check", check=False).returncode == 1
    assert "generation 2 is not enforced" in far.run("hardend status", check=False).stdout
    assert fleet.carry(far, fleet.parcel).startswith("0 generation 3 is generation 1 by ")
    assert wait_clean(far) == ""
    assert far.run("hardend check").returncode == 0


def test_a_store_that_is_tampered_with_is_told_and_the_guard_goes_on(fleet: Fleet) -> None:
    far = fleet.far
    entries = far.json("hardend baseline show --json")["entries"]
    digest = next(entry["digest"] for entry in entries if entry["path"] == CF)
    far.run(f"echo damaged > /var/lib/hardend/baseline/objects/{digest}")
    assert _faults(far, f"the stored content of {CF} is damaged")
    far.run(f"chattr -i {CF}; echo evil > {CF}", check=False)
    assert "evil" not in far.run(f"cat {CF}").stdout
    assert "nothing to do" in fleet.carry(far, fleet.parcel)  # which puts the content back
    assert _faults(far, "")
    far.run("rm /var/lib/hardend/baseline/generations/3/*.sig")
    assert _faults(far, "the signature of generation 3 is not the one that was loaded")
    far.run("systemctl restart hardend")  # the same was signed before: that signature reaches it
    assert _faults(far, "")
    assert far.json("cat /run/hardend/state.json")["generation"] == 3
    far.run("rm /var/lib/hardend/baseline/generations/*/*.sig; systemctl restart hardend")
    assert _faults(far, "no generation has a signature that verifies")
    assert far.run("hardend status", check=False).returncode == 1
    assert fleet.carry(far, fleet.parcel).startswith("0 generation 3 is this one")
    assert _faults(far, "")
    assert wait_clean(far) == ""


def _faults(machine: Machine, wanted: str) -> bool:
    """Wait until the guard tells of a fault, or with "" of none, for at most ten seconds."""
    for _ in range(50):
        found = " ".join(machine.json("cat /run/hardend/state.json")["faults"])
        if (wanted in found) if wanted else not found:
            return True
        time.sleep(0.2)
    return False
