# SPDX-License-Identifier: Apache-2.0
"""Disks that are full, read-only or lack something, and impostors that hold up who opens or walks them."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.host.test_guard import ACCESS, CF, deliver, state, wait_clean

if TYPE_CHECKING:
    from tests.host.machine import Machine

SCRIPT = "cd /root/hardend && exec python3 -m tests.host.disks"
ENTRIES = 1_000_000
SPARSE = 15 << 40
ETC_IMAGE = "/root/etc.img"
MAIL_IMAGE = "/root/mail.img"
# What a mounted file system begins with that is none of the host's.
MAKE = "truncate -s {size}M {image} && mkfs.ext4 -q -m 0 -O ^has_journal {image}"


def disks(machine: Machine, *words: object) -> Any:
    """Run a verb of disks.py in the host."""
    done = machine.run(f"{SCRIPT} {' '.join(map(str, words))}", timeout=180)
    return json.loads(done.stdout)


def until(what: Callable[[], bool], seconds: float = 15) -> bool:
    """Wait until something holds; False when it does not for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.1)
    return what()


def path_state(machine: Machine, path: str) -> dict[str, Any]:
    """Return what ``hardend status`` says of a path; nothing when it is clean."""
    found = machine.json("hardend status --json")["paths"].get(path, {})
    assert isinstance(found, dict)
    return found


def failures(machine: Machine, path: str) -> list[str]:
    """Return the messages of the failed restores of a path, oldest first."""
    events = machine.journal(f"HARDEND_PATH={path}")
    return [event["MESSAGE"] for event in events if event.get("HARDEND_EVENT") == "restore-failed"]


def pid_of(machine: Machine) -> str:
    return machine.run("systemctl show -P MainPID hardend").stdout.strip()


def collected(machine: Machine, seconds: float = 60) -> bool:
    """Wait until nothing that was set aside is left to collect."""

    def is_empty() -> bool:
        return not machine.run("ls -A /etc/hardend/taken").stdout.strip()

    return until(is_empty, seconds)


def records(machine: Machine, path: str, kind: str) -> list[dict[str, Any]]:
    """Return the quarantine's records of one path and type of object, oldest first."""
    found = sorted(machine.path("/var/lib/hardend/quarantine/records").glob("*.json"))
    every = [json.loads(record.read_bytes()) for record in found]
    return [record for record in every if (record["path"], record["kind"]) == (path, kind)]


@pytest.fixture(scope="module", autouse=True)
def loops(guarded: Machine) -> None:
    """Loop devices and FUSE in the host: its devices are this machine's, only their names are missing."""
    guarded.run(
        "mknod /dev/loop-control c 10 237; for i in 0 1 2 3 4 5 6 7; do mknod /dev/loop$i b 7 $i; done;"
        " mknod /dev/fuse c 10 229"
    )


@contextlib.contextmanager
def stopped(machine: Machine) -> Iterator[None]:
    """Do something while no guard runs and nothing is locked."""
    machine.run("systemctl stop hardend && hardend release && systemctl stop hardend-collect")
    yield
    machine.run("systemctl start hardend")


# A full disk, a read-only disk --------------------------------------------------------------------


@pytest.fixture
def small(guarded: Machine) -> Iterator[Machine]:
    """The host with all of /etc on a file system of its own, as small as what is in it allows."""
    with stopped(guarded):
        guarded.run(
            f"{MAKE.format(size=12, image=ETC_IMAGE)} && mkdir -p /root/etc"
            f" && mount -o loop {ETC_IMAGE} /root/etc && cp -a /etc/. /root/etc/ && umount /root/etc"
            f" && mount -o loop {ETC_IMAGE} /etc && rmdir /etc/lost+found"
        )
    assert wait_clean(guarded) == ""
    yield guarded
    guarded.run("mount -o remount,rw /etc; rm -f /etc/filler", check=False)
    with stopped(guarded):
        guarded.run("umount -l /etc")
    assert wait_clean(guarded) == ""


def test_on_a_full_disk_what_can_be_put_back_is_and_the_rest_recovers(small: Machine) -> None:
    pid = pid_of(small)
    assert disks(small, "fill", "/etc/filler")["full"]
    result = disks(small, "all", "spaceless")
    print(f"full disk, back after: {result['back_s']}")
    assert result["lost"] == []

    assert collected(small), "what was replaced is on another disk"
    assert disks(small, "fill", "/etc/filler")["full"], "what that gave back is in use again"
    disks(small, "drift", "rewrite", CF)
    assert until(lambda: path_state(small, CF).get("state") == "failed")
    assert "the disk is full" in path_state(small, CF)["reason"]
    assert "the disk is full" in small.run("hardend status", check=False).stdout
    disks(small, "drift", "rewrite", "/etc/mail/submit.cf")
    assert until(lambda: path_state(small, "/etc/mail/submit.cf").get("state") == "restored")
    assert deliver(small, "on-a-full-disk")
    assert path_state(small, CF)["state"] == "failed", "still, and told once"
    assert len(failures(small, CF)) == 1
    assert "the disk is full" in failures(small, CF)[0]

    small.run("rm /etc/filler")
    assert wait_clean(small) == ""
    assert pid_of(small) == pid
    assert disks(small, "all", "spaceless")["lost"] == []


def test_a_read_only_disk_is_told_and_what_drifted_on_it_comes_back(small: Machine) -> None:
    pid = pid_of(small)
    told = len(failures(small, CF))
    small.run(f"kill -STOP {pid}")
    disks(small, "drift", "rewrite", CF)
    small.run(f"chmod g-s /etc/mail; mount -o remount,ro /etc; kill -CONT {pid}")
    for path in (CF, "/etc/mail"):
        assert until(lambda: path_state(small, path).get("state") == "failed"), path
        assert path_state(small, path)["reason"] == "the file system is read-only"
        assert "the file system is read-only" in failures(small, path)[-1]
    assert deliver(small, "on-a-read-only-disk")
    assert len(failures(small, CF)) == told + 1
    small.run("mount -o remount,rw /etc")
    assert wait_clean(small) == ""
    assert pid_of(small) == pid


def test_a_guard_that_dies_on_a_read_only_disk_is_back_when_it_can_write(small: Machine) -> None:
    pid = pid_of(small)
    small.run(f"kill -STOP {pid}")
    disks(small, "drift", "rewrite", CF)
    small.run(f"mount -o remount,ro /etc; kill -KILL {pid}")
    said = "/etc/hardend/spare: cannot stage copies: Read-only file system"
    assert until(lambda: said in small.run("journalctl -q -u hardend -o cat -n 20").stdout)
    small.run("mount -o remount,rw /etc")
    assert wait_clean(small) == ""
    assert until(lambda: pid_of(small) not in {"0", pid})


# Impostors that hold up who opens or walks them ---------------------------------------------------


@contextlib.contextmanager
def leased(machine: Machine, path: str) -> Iterator[None]:
    """Hold a write lease on a file: an open of it waits up to 45 s, or is refused."""
    machine.run(
        "systemd-run -q --unit=lease --working-directory=/root/hardend"
        f" python3 -m tests.host.disks lease {path}"
    )
    try:
        assert until(lambda: "LEASE  ACTIVE    WRITE" in machine.run("cat /proc/locks").stdout)
        yield
    finally:
        machine.run("systemctl stop lease", check=False)


def attack(machine: Machine, source: str, target: str) -> None:
    """Rename something over a locked path."""
    assert machine.json(["python3", "/root/attack.py", "replace", source, target])["done"]


def taken_in(machine: Machine, path: str) -> str:
    """Return what the journal says of how long the last restore of a path took."""
    events = machine.journal(f"HARDEND_PATH={path}", "HARDEND_EVENT=path-restored")
    return f"{path} {events[-1]['HARDEND_DRIFT']}: {events[-1]['HARDEND_LATENCY_US']} us"


def test_a_write_lease_and_a_fifo_hold_nothing_up(guarded: Machine) -> None:
    idle = disks(guarded, "times", 40)
    guarded.run("echo evil > /etc/evil")
    with leased(guarded, "/etc/evil"):
        attack(guarded, "/etc/evil", CF)
        assert wait_clean(guarded) == ""
        print(f"leased {taken_in(guarded, CF)}")
        disks(guarded, "drift", "fifo", ACCESS)
        guarded.run("mkfifo /etc/mail/smrsh/pipe")
        busy = disks(guarded, "times", 40)
        assert not busy["lost"]
        assert wait_clean(guarded) == ""
        assert guarded.run("ls /etc/mail/smrsh/pipe", check=False).returncode != 0
        assert deliver(guarded, "during-a-lease")
    print(f"fifo {taken_in(guarded, ACCESS)}; others idle {idle}, under lease {busy}")
    assert collected(guarded)
    assert records(guarded, ACCESS, "fifo")
    assert records(guarded, "/etc/mail/smrsh/pipe", "fifo")


def test_a_leased_map_is_not_taken_for_the_approved_one(guarded: Machine) -> None:
    database = "/etc/mail/access.db"
    answers = f"makemap -u hash {database} | sort"
    approved = guarded.run(answers).stdout
    guarded.run("cp -p /etc/mail/access.db /etc/evil.db; echo evil RELAY | makemap hash /etc/evil.db")
    with leased(guarded, "/etc/evil.db"):
        guarded.run(f"mv -f /etc/evil.db {database}")
        assert until(lambda: "path-restored" in str(guarded.journal(f"HARDEND_PATH={database}")))
        assert guarded.run(answers).stdout == approved
    assert wait_clean(guarded) == ""
    assert collected(guarded)


def test_a_lease_on_a_protected_file_does_not_hold_the_start_up(guarded: Machine) -> None:
    guarded.run(f"systemctl stop hardend; chattr -i {CF}; echo evil >> {CF}")
    with leased(guarded, CF):
        guarded.run("systemctl start hardend", timeout=30)
        assert not disks(guarded, "times", 5)["lost"]
        assert wait_clean(guarded) == ""
    assert collected(guarded)


@contextlib.contextmanager
def watched_collector(machine: Machine) -> Iterator[dict[str, int]]:
    """Yield what becomes the largest memory of the collector, in KiB, as its own process tells it."""
    machine.run(
        "cat > /root/watch.sh <<'END'\n"
        "while :; do pid=$(systemctl show -P MainPID hardend-collect)\n"
        "[ $pid = 0 ] || grep VmHWM /proc/$pid/status >> /root/peaks; sleep 0.1; done\nEND\n"
        "rm -f /root/peaks; systemd-run -q --unit=peaks sh /root/watch.sh"
    )
    peak: dict[str, int] = {}
    try:
        yield peak
    finally:
        machine.run("systemctl stop peaks", check=False)
    lines = machine.run("cat /root/peaks").stdout.splitlines()
    peak["kib"] = max(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_a_sparse_file_and_a_million_names_do_not_hold_a_restore_up(guarded: Machine) -> None:
    guarded.run(f"truncate -s {SPARSE} /etc/sparse")
    made = disks(guarded, "many", "/etc/many", ENTRIES)
    idle = disks(guarded, "times", 40)
    began = time.monotonic()
    with watched_collector(guarded) as peak:
        attack(guarded, "/etc/sparse", CF)
        attack(guarded, "/etc/many", ACCESS)
        assert wait_clean(guarded) == ""
        print(f"sparse {taken_in(guarded, CF)}; a million {taken_in(guarded, ACCESS)}")
        busy = disks(guarded, "times", 80)
        assert not busy["lost"]
        assert deliver(guarded, "during-a-million")
        assert collected(guarded, 150)
        took = time.monotonic() - began
    print(f"made {made}; idle {idle}; while collecting {busy}")
    print(f"collected in {took:.1f} s, at most {peak['kib'] / 1024:.1f} MiB")
    assert busy["max_us"] / 1e6 < took / 2, "no restore waited for the collector"
    assert peak["kib"] < 100 << 10
    (sparse,) = records(guarded, CF, "file")[-1:]
    assert (sparse["size"], sparse["stored"]) == (SPARSE, "truncated")
    (many,) = records(guarded, ACCESS, "directory")[-1:]
    assert (len(many["entries"]), many["stored"]) == (1000, "truncated")


# File systems that lack something -----------------------------------------------------------------

MOUNTS = {
    # Another mount than /etc/hardend's: nothing can be exchanged across it.
    "ext4": f"{MAKE.format(size=16, image=MAIL_IMAGE)} && mount -o loop {MAIL_IMAGE} /etc/mail"
    " && rmdir /etc/mail/lost+found",
    # Without inode flags and extended attributes.
    "ramfs": "mount -t ramfs ramfs /etc/mail",
    # Without an exchange, as some network file systems are, and without the others too.
    "plainfs": "mkdir -p /root/plain && systemd-run -q --unit=plainfs"
    " --working-directory=/root/hardend python3 -m tests.host.plainfs /root/plain /etc/mail"
    " && until mountpoint -q /etc/mail; do sleep 0.1; done",
}


@contextlib.contextmanager
def mounted(machine: Machine, kind: str) -> Iterator[str]:
    """Have /etc/mail on another file system, approved as such; yields what the approval said."""
    with stopped(machine):
        machine.run(
            "rm -rf /root/mail && cp -a /etc/mail /root/mail"
            f" && {MOUNTS[kind]} && cp -a /root/mail/. /etc/mail/"
        )
        said = machine.run(f"hardend approve --force --reason 'on {kind}'")
    try:
        yield said.stdout + said.stderr
    finally:
        with stopped(machine):
            machine.run("umount -l /etc/mail; systemctl stop plainfs", check=False)
            machine.run("hardend approve --reason 'as before'")


@pytest.mark.parametrize("kind", list(MOUNTS))
def test_a_mail_directory_on_another_file_system_is_held(guarded: Machine, kind: str) -> None:
    with mounted(guarded, kind) as said:
        assert ("cannot be locked" in said) == (kind != "ext4")
        assert wait_clean(guarded) == ""
        before = guarded.run("ls -A /etc/mail /etc/mail/smrsh").stdout
        restores = state(guarded)["restores"]
        kept = len(records(guarded, CF, "file"))
        result = disks(guarded, "all", "every")
        print(f"{kind}, back after: {result['back_s']}")
        assert result["lost"] == []
        assert wait_clean(guarded) == ""
        told = len(result["back_s"]) - 1  # the forbidden link is set aside, which is no restore
        assert state(guarded)["restores"] >= restores + told
        assert deliver(guarded, f"on-{kind}")
        assert collected(guarded)
        left = "find /etc/mail -name '*hardend*' -o -name '*.replaced'"
        assert until(lambda: guarded.run(left).stdout == ""), guarded.run(left).stdout
        assert guarded.run("ls -A /etc/mail /etc/mail/smrsh").stdout == before
        assert len(records(guarded, CF, "file")) >= kept + 3
        assert records(guarded, ACCESS, "fifo")
    assert wait_clean(guarded) == ""
