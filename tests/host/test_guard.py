# SPDX-License-Identifier: Apache-2.0
"""The whole on a real mail host: what drifts is put back, kept and told, and mail flows."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.host.machine import Machine

CF = "/etc/mail/sendmail.cf"
ACCESS = "/etc/mail/access"
# The drift that each kind must be told as, and whether something was replaced and must be kept.
TOLD = {
    "rewrite": ("content", True),
    "rename-over": ("content", True),
    "truncate": ("content", True),
    "delete": ("missing", False),
    "symlink": ("type", True),
    "directory": ("type", True),
    "fifo": ("type", True),
    "chmod": ("mode", True),
    "chown": ("owner", True),
    "chgrp": ("group", True),
    "touch": ("stale", True),
    "chattr": ("flags", False),
    "append": ("flags", False),
    "setfacl": ("acl", True),
    "setfattr": ("xattr", True),
    "forbidden-link": ("unexpected", True),
    "retargeted-link": ("target", True),
    "removed-link": ("missing", False),
    "queue-mode": ("mode", False),
    "mail-mode": ("mode", False),
    "mail-moved": ("type", True),
    "old-descriptor": ("content", True),
    "hard-link": ("content", True),
    "bind-mount": ("mount", False),
}


def state(machine: Machine) -> dict[str, Any]:
    """Return what the guard published last, after its next publication."""
    time.sleep(1.2)
    document: dict[str, Any] = machine.json("cat /run/hardend/state.json")
    return document


def deliver(machine: Machine, word: str) -> bool:
    """Send a message to a local user over the MTA and wait until it is in the mailbox.

    A submission that comes while the configuration is away, which is for a moment, is told so and sent again,
    as by any mail program; what the MTA put off is in its queue, and the next run of it comes earlier here.
    """
    letter = f"Subject: {word}\n\nbody\n"
    for _ in range(10):
        if machine.run("/usr/sbin/sendmail -i alice", input_text=letter, check=False).returncode == 0:
            break
        print(f"{word}: not taken, and said so")
        time.sleep(0.2)
    for turn in range(60):
        if machine.run(f"grep -q {word} /var/mail/alice", check=False).returncode == 0:
            return True
        if turn % 20 == 19:
            print(f"{word}: put off: {machine.run('mailq; mailq -Ac', check=False).stdout}")
            machine.run("sendmail -Ac -q; sendmail -q", check=False)
        time.sleep(0.5)
    return False


def wait_clean(machine: Machine, seconds: float = 15) -> str:
    """Return what ``hardend check`` says last; "" when it says clean."""
    said = ""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done = machine.run("hardend check", check=False)
        if done.returncode == 0:
            return ""
        said = done.stdout + done.stderr
        time.sleep(0.2)
    return said


@pytest.fixture(scope="module", autouse=True)
def alice(machine: Machine) -> None:
    """A local user who gets mail."""
    machine.run("id alice || useradd -m alice; touch /var/mail/alice; chown alice /var/mail/alice")


def test_approval_locks_the_guides_list_and_leaves_the_host_clean(guarded: Machine) -> None:
    flags = guarded.run(
        "lsattr -d /etc/mail/sendmail.cf /etc/mail/submit.cf /etc/mail/sendmail.mc /etc/mail/access"
        " /etc/mail/submit.mc /etc/mail/local-host-names /etc/aliases"
    ).stdout
    assert all("i" in line.split()[0] for line in flags.splitlines())
    assert "i" not in guarded.run("lsattr -d /etc/mail/aliases.db").stdout.split()[0]
    assert wait_clean(guarded) == ""
    assert guarded.run("hardend status", check=False).returncode == 0


def test_every_kind_of_drift_is_put_back_told_and_kept(guarded: Machine) -> None:
    out = guarded.run("python3 /root/drifts.py each", timeout=400, check=False).stdout
    results = {item["kind"]: item for item in map(json.loads, out.splitlines())}
    for kind, item in results.items():
        print(f"{kind:16} back after {item['back_s'] * 1000:7.1f} ms")
    assert {kind for kind, item in results.items() if item["back_s"] < 0} == set()
    assert set(results) >= set(TOLD)
    assert wait_clean(guarded) == ""
    events = guarded.journal()
    told = {
        word
        for event in events
        for word in str(event.get("HARDEND_DRIFT", "")).split()
        if event.get("HARDEND_EVENT")
        in {"path-restored", "lock-removed", "drift-found", "path-contested", "restore-failed"}
    }
    assert told >= {drift for drift, _ in TOLD.values()}


def test_what_was_replaced_is_in_the_quarantine(guarded: Machine) -> None:
    for _ in range(60):
        if not guarded.run("ls /etc/hardend/taken").stdout.strip():
            break
        time.sleep(0.5)
    assert guarded.run("ls /etc/hardend/taken").stdout.strip() == ""
    records = [
        json.loads(path.read_text())
        for path in guarded.path("/var/lib/hardend/quarantine/records").glob("*.json")
    ]
    kept = {word for record in records for word in record["drift"]}
    assert kept >= {drift for drift, replaced in TOLD.values() if replaced}
    for record in records:
        if record.get("digest"):
            assert guarded.path(f"/var/lib/hardend/quarantine/objects/{record['digest']}").exists()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_mixed_drifts_end_at_the_baseline(guarded: Machine, seed: int) -> None:
    done = guarded.run(f"python3 /root/drifts.py mixed 1000 {seed}", timeout=400, check=False)
    result = json.loads(done.stdout)
    print(f"1000 drifts, back {result['back_s'] * 1000:.1f} ms after the last; {result['kinds']}")
    assert result["wrong"] == []
    assert wait_clean(guarded) == ""
    assert guarded.run("systemctl show -P NRestarts hardend").stdout.strip() == "0"


def test_mail_is_delivered_all_the_while(guarded: Machine) -> None:
    guarded.run("(python3 /root/drifts.py mixed 300 7 >/dev/null 2>&1 &)")
    assert deliver(guarded, "during-drifts")
    # To its end: what it moves away once the next test has stopped the guard would stay away.
    guarded.run("while pgrep -f [d]rifts.py >/dev/null; do sleep 0.2; done")
    assert wait_clean(guarded) == ""


def test_drift_while_the_guard_was_stopped_is_put_back_at_its_start(guarded: Machine) -> None:
    guarded.run("systemctl stop hardend")
    assert "i" in guarded.run(f"lsattr -d {CF}").stdout.split()[0]
    guarded.run(f"chattr -i {CF}; echo '# evil' >> {CF}; rm -f /etc/mail/helpfile; chmod 777 /etc/mail")
    assert guarded.run("hardend check", check=False).returncode == 1
    guarded.run("systemctl start hardend")
    assert wait_clean(guarded, 2) == ""
    assert deliver(guarded, "after-start")


def test_stopping_the_unit_says_how_to_release_the_files(guarded: Machine) -> None:
    guarded.run("systemctl stop hardend")
    words = guarded.run("journalctl -u hardend -n 20 -o cat").stdout
    assert "files stay locked" in words
    assert "hardend off --for" in words
    guarded.run("systemctl start hardend")


def test_a_second_guard_is_refused(guarded: Machine) -> None:
    done = guarded.run("hardend guard", check=False, timeout=20)
    assert done.returncode == 4
    assert "another guard" in done.stderr


def test_off_releases_everything_and_ends_by_itself(guarded: Machine) -> None:
    said = guarded.run("hardend off --for 6s --reason 'upgrade by hand'").stdout
    assert "locks released" in said
    guarded.run(f"echo '# by hand' >> {CF}")
    assert guarded.run("hardend status", check=False).returncode == 1
    assert "off" in guarded.run("hardend status", check=False).stdout
    time.sleep(1)
    assert "by hand" in guarded.run(f"tail -1 {CF}").stdout
    assert wait_clean(guarded, 20) == ""
    assert "i" in guarded.run(f"lsattr -d {CF}").stdout.split()[0]
    kinds = [event.get("HARDEND_EVENT") for event in guarded.journal()]
    assert "enforcement-paused" in kinds
    assert "enforcement-resumed" in kinds


def test_off_works_with_the_guard_dead_and_ends_by_itself(guarded: Machine) -> None:
    guarded.run("systemctl stop hardend")
    guarded.run("hardend off --for 4s --reason 'guard dead'")
    guarded.run(f"echo '# by hand' >> {CF}")
    for _ in range(40):
        if guarded.run("hardend check", check=False).returncode == 0:
            break
        time.sleep(0.5)
    assert wait_clean(guarded, 1) == ""
    guarded.run("systemctl start hardend")


def test_new_content_comes_in_by_approval_and_rollback_takes_it_out(guarded: Machine) -> None:
    guarded.run("(cat /etc/mail/access; printf 'Connect:192.0.2.1\\tREJECT\\n') > /root/access.new")
    guarded.run("hardend approve /etc/mail/access --from /root/access.new --reason 'block one'")
    assert "192.0.2.1" in guarded.run("tail -1 /etc/mail/access").stdout
    assert "192.0.2.1" in guarded.run("makemap -u hash /etc/mail/access.db | grep 192.0.2.1").stdout
    assert wait_clean(guarded) == ""
    diff = guarded.run("hardend baseline diff").stdout
    assert "+Connect:192.0.2.1" in diff
    guarded.run("hardend baseline rollback 1 --reason 'not needed'")
    assert "192.0.2.1" not in guarded.run("cat /etc/mail/access").stdout
    assert guarded.run("makemap -u hash /etc/mail/access.db | grep -c 192.0.2.1", check=False).stdout == "0\n"
    assert wait_clean(guarded) == ""
    assert guarded.run("hardend baseline verify").returncode == 0
    log = guarded.run("hardend baseline log").stdout
    assert "block one" in log
    assert "rollback to 1" in log


def test_a_file_that_appears_in_the_mail_directory_is_reported_and_left(guarded: Machine) -> None:
    guarded.run("touch /etc/mail/surprise")
    time.sleep(0.5)
    assert guarded.run("ls /etc/mail/surprise").returncode == 0
    events = guarded.journal("HARDEND_PATH=/etc/mail/surprise")
    assert [event["HARDEND_DRIFT"] for event in events] == ["unexpected"]
    assert guarded.run("hardend check", check=False).returncode == 1
    guarded.run("rm /etc/mail/surprise")
    assert wait_clean(guarded) == ""


def test_observe_mode_reports_and_changes_nothing(guarded: Machine) -> None:
    guarded.run("printf '[guard]\\nmode = \"observe\"\\n' > /etc/hardend/conf.d/o.toml")
    guarded.run("systemctl stop hardend; hardend release; systemctl start hardend; sleep 1")
    assert guarded.run("hardend status", check=False).returncode == 0  # unlocked is no drift here
    guarded.run(f"chattr -i {CF}; echo '# watched' >> {CF}; ln -s /bin/sh /etc/mail/smrsh/sh")
    time.sleep(1)
    assert "# watched" in guarded.run(f"tail -1 {CF}").stdout
    assert guarded.run("test -L /etc/mail/smrsh/sh").returncode == 0
    events = [event.get("HARDEND_EVENT") for event in guarded.journal(f"HARDEND_PATH={CF}")]
    assert events[-1] == "drift-found"
    guarded.run("rm /etc/hardend/conf.d/o.toml; systemctl restart hardend")
    assert wait_clean(guarded) == ""


def test_one_python_thread_and_a_small_footprint(guarded: Machine) -> None:
    guarded.run("systemctl restart hardend; sleep 3")
    pid = guarded.run("systemctl show -P MainPID hardend").stdout.strip()
    before = guarded.run(f"cat /proc/{pid}/stat").stdout.split()
    time.sleep(20)
    after = guarded.run(f"cat /proc/{pid}/stat").stdout.split()
    ticks = sum(int(after[i]) - int(before[i]) for i in (13, 14))
    status = guarded.run(f"grep -E 'VmRSS|Threads' /proc/{pid}/status").stdout
    print(f"idle: {ticks / 100 / 20 * 100:.2f} % CPU over 20 s; {status.split()}")
    assert "Threads:\t1" in status
    security = guarded.run("systemd-analyze security hardend.service --no-pager").stdout
    score = float(security.split("hardend.service:")[-1].split()[0])
    print(f"systemd-analyze security: {score}")
    assert score <= 2.0


def test_without_a_baseline_the_guard_protects_nothing_and_says_so(guarded: Machine) -> None:
    guarded.run("systemctl stop hardend; hardend release; mv /var/lib/hardend/baseline /root/baseline")
    guarded.run(f"echo '# free' >> {CF}")
    guarded.run("systemctl start hardend")
    time.sleep(0.5)
    assert "# free" in guarded.run(f"tail -1 {CF}").stdout
    assert "no baseline" in guarded.run("systemctl show -P StatusText hardend").stdout
    assert guarded.run("hardend status", check=False).returncode == 1
    assert deliver(guarded, "unprotected")
    guarded.run("systemctl stop hardend; mv /root/baseline /var/lib/hardend/baseline")
    guarded.run("systemctl start hardend")
    assert wait_clean(guarded) == ""
