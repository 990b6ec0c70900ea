# SPDX-License-Identifier: Apache-2.0
"""The guard under attack: locks taken off, floods, overflows, kills at every step, a stopped journald."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.host.test_guard import ACCESS, CF, deliver, state, wait_clean
from tests.host.test_maps import restarts

if TYPE_CHECKING:
    from tests.host.machine import Machine

# The system calls of a restore, in the order in which they come: check, exchange, lock, verify, watch,
# set aside, record, stage the next.
STEPS = (
    *(("newfstatat", n) for n in (1, 2, 3, 5, 8)),
    *(("renameat2", n) for n in (1, 2)),
    *(("ioctl", n) for n in (1, 2, 3)),
    *(("pread64", n) for n in (1, 2)),
    *(("inotify_rm_watch", n) for n in (1, 2)),
    *(("openat", n) for n in (1, 2, 3)),
    *(("write", n) for n in (1, 2)),
    *(("renameat", n) for n in (1, 2)),
    ("fchown", 1),
    ("fchmod", 1),
    ("fsetxattr", 1),
    ("utimensat", 1),
    ("fsync", 1),
    ("inotify_add_watch", 1),
    ("sendto", 1),
)


def pid_of(machine: Machine) -> int:
    return int(machine.run("systemctl show -P MainPID hardend").stdout)


def attack(machine: Machine, *words: object) -> Any:
    return machine.json(["python3", "/root/attack.py", *map(str, words)])


@pytest.mark.parametrize("load", ["idle", "two hogs"])
def test_an_append_after_chattr_is_refused_or_put_back(guarded: Machine, load: str) -> None:
    hogs = "for i in 1 2; do (timeout 60 sh -c 'while :; do :; done' >/dev/null 2>&1 &); done"
    if load != "idle":
        guarded.run(hogs)
    result = attack(guarded, "shell", 200)
    guarded.run("pkill -f 'while :'", check=False)
    scheduling = state(guarded)["scheduling"]
    print(f"{load}: {result['refused']} of 200 refused, scheduling {scheduling}")
    assert wait_clean(guarded) == ""
    # 99 % and more on a quiet machine under RR (README); on a shared one other guests take their part.
    if scheduling == "rr":
        assert result["refused"] >= 170


def test_the_queues_churn_costs_no_event_and_no_drift_is_missed(guarded: Machine) -> None:
    before = state(guarded)
    result = attack(guarded, "churn", 10_000, 100)
    assert result["drifts"] == 100
    assert wait_clean(guarded) == ""
    after = state(guarded)
    assert after["overflows"]["config"] == before["overflows"]["config"]
    assert after["events"]["queues"] == before["events"]["queues"]
    print(f"restores {before['restores']} -> {after['restores']}, events {after['events']}")


@pytest.mark.parametrize(
    ("channel", "path"),
    [("config", "/etc/mail"), ("hints", CF), ("queues", "/var/spool")],
)
def test_an_overflow_leads_to_a_pass_and_a_clean_host(
    guarded: Machine, channel: str, path: str
) -> None:
    before = state(guarded)
    limit = int(guarded.run("cat /proc/sys/fs/inotify/max_queued_events").stdout)
    pid = pid_of(guarded)
    guarded.run(f"kill -STOP {pid}")
    attack(guarded, "overflow", path, limit)
    guarded.run(f"chattr -i {CF}; echo evil >> {CF}; kill -CONT {pid}")
    assert wait_clean(guarded) == ""
    after = state(guarded)
    assert after["overflows"][channel] > before["overflows"][channel]
    assert after["passes"] > before["passes"]
    assert pid_of(guarded) == pid


def test_a_flood_of_opens_by_anybody_leaves_the_guard_at_rest(guarded: Machine) -> None:
    pid = pid_of(guarded)

    def ticks() -> int:
        fields = guarded.run(f"cat /proc/{pid}/stat").stdout.split()
        return int(fields[13]) + int(fields[14])

    guarded.run(
        f"(setpriv --reuid 65534 --clear-groups python3 - <<'END' >/dev/null 2>&1 &\n"
        f"import os, time\nend = time.monotonic() + 12\n"
        f"while time.monotonic() < end: os.close(os.open('{CF}', os.O_RDONLY))\nEND\n)"
    )
    time.sleep(1)
    start, began = ticks(), time.monotonic()
    for _ in range(20):
        guarded.run(f"chattr -i {CF}; mv -f $(mktemp /etc/evil-XXXX) {CF}", check=False)
        time.sleep(0.2)
    share = (ticks() - start) / (time.monotonic() - began)
    print(f"guard CPU during the flood: {share:.1f} %, restores {state(guarded)['restore_us']}")
    assert wait_clean(guarded) == ""
    assert share < 40


def kept_whole(machine: Machine) -> None:
    """Nothing of ours lies around, and everything in the quarantine is whole."""
    for _ in range(60):
        if not machine.run("ls /etc/hardend/taken").stdout.strip():
            break
        machine.run("systemctl start hardend-collect", check=False)
        time.sleep(0.5)
    assert machine.run("ls /etc/hardend/taken").stdout.strip() == ""
    assert machine.run("ls -a /etc/mail /etc/mail/smrsh | grep hardend", check=False).stdout == ""
    quarantine = machine.path("/var/lib/hardend/quarantine")
    for path in (quarantine / "records").iterdir():
        json.loads(path.read_text())
    for path in (quarantine / "objects").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_a_kill_at_each_step_of_a_restore_ends_at_the_baseline(guarded: Machine) -> None:
    reloads = restarts(guarded)
    killed = 0
    for call, when in STEPS:
        pid = pid_of(guarded)
        tracer = subprocess.Popen(
            [
                *("nsenter", "--target", str(guarded.leader), "--all", "strace", "-o", "/dev/null"),
                *("-p", str(pid), "-e", f"trace={call}", "-e"),
                f"inject={call}:signal=SIGKILL:when={when}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.3)
        guarded.run("echo evil > /etc/evil")
        attack(guarded, "replace", "/etc/evil", CF)
        for _ in range(20):
            if pid_of(guarded) != pid:
                break
            time.sleep(0.1)
        killed += pid_of(guarded) != pid
        tracer.terminate()
        tracer.wait()
        assert wait_clean(guarded) == "", (call, when)
    print(f"{killed} kills in {len(STEPS)} injections")
    assert killed >= len(STEPS) // 2
    kept_whole(guarded)
    assert restarts(guarded) == reloads


def test_kills_at_random_moments_of_two_hundred_drifts_end_at_the_baseline(guarded: Machine) -> None:
    reloads = restarts(guarded)
    guarded.run(
        "(for i in $(seq 12); do sleep 0.$((RANDOM % 9)); pkill -KILL -f 'hardend guard'; done"
        " >/dev/null 2>&1 &)"
    )
    # A dead guard has no descriptor of a directory that is moved away: it makes a new one, without
    # what was in it by attributes only (README, limits).
    result = guarded.json("python3 /root/drifts.py mixed 200 3 mail-moved")
    print(result)
    time.sleep(6)
    assert wait_clean(guarded) == ""
    kept_whole(guarded)
    assert restarts(guarded) == reloads
    assert deliver(guarded, "after-kills")


def test_a_stopped_journald_holds_nothing_up(guarded: Machine) -> None:
    journald = int(guarded.run("systemctl show -P MainPID systemd-journald").stdout)
    guarded.run(f"kill -STOP {journald}")
    try:
        took = []
        for _ in range(40):
            result = guarded.json("python3 /root/drifts.py mixed 5 11")
            took.append(result["back_s"])
    finally:
        guarded.run(f"kill -CONT {journald}")
    print(f"slowest of 40: {max(took) * 1000:.1f} ms")
    assert min(took) >= 0
    assert max(took) < 5
    assert wait_clean(guarded) == ""


def test_huge_impostors_do_not_hold_a_restore_up(guarded: Machine) -> None:
    guarded.run("mkdir -p /etc/big && cd /etc/big && seq 50000 | xargs touch; truncate -s 15T /etc/sparse")
    assert attack(guarded, "replace", "/etc/sparse", CF)["done"]
    assert wait_clean(guarded, 3) == ""
    assert attack(guarded, "replace", "/etc/big", ACCESS)["done"]
    assert wait_clean(guarded, 3) == ""
    print(state(guarded)["restore_us"])
