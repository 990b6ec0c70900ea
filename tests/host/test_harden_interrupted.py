# SPDX-License-Identifier: Apache-2.0
"""``hardend harden`` that does not come to its end: killed, interrupted, on a full disk, or undone.

Whatever ends it leaves the old state or the new one whole, and the next run says what happened.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.host.test_disks import MAKE
from tests.host.test_harden import failing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.machine import Machine

HARDEN = "hardend harden --yes --rule queue-viewing --rule privacy-flags"
RULES = {"queue-viewing", "privacy-flags"}
HELP = "/etc/mail/helpfile"
# An MTA that runs and does not listen where its files say.
ELSEWHERE = "sendmail -L sm-mta -bd -q10m -O DaemonPortOptions=Port=2525,Addr=127.0.0.1"
CURRENT = "/var/lib/hardend/baseline/current"
# Ends a run by a signal, so many milliseconds after its generation was committed.
SHOOT = """\
import os, subprocess, sys, time
number, delay_ms, *command = sys.argv[1:]
run = subprocess.Popen(command)
while not os.path.exists("/var/lib/hardend/baseline/current") and run.poll() is None:
    pass
time.sleep(int(delay_ms) / 1000)
run.send_signal(int(number))
print(run.wait())
"""
# Fills a disk as soon as a generation was committed, until the run has ended.
FLOOD = """\
import os, subprocess, sys
filler, *command = sys.argv[1:]
run = subprocess.Popen(command)
while not os.path.exists("/var/lib/hardend/baseline/current") and run.poll() is None:
    pass
with open(filler, "wb", buffering=0) as file:
    while run.poll() is None:
        try:
            file.write(b"x" * 65536)
        except OSError:
            pass
print(run.returncode)
"""

pytestmark = pytest.mark.all  # two minutes: ./run test --all


@pytest.fixture(scope="module")
def loops(machine: Machine) -> Machine:
    machine.run("cp -a /etc/mail /root/mail; cp -a /etc/aliases /root/aliases")
    machine.run("mknod /dev/loop-control c 10 237; for i in 0 1 2 3; do mknod /dev/loop$i b 7 $i; done")
    for name, text in (("shoot", SHOOT), ("flood", FLOOD)):
        machine.path(f"/root/{name}.py").write_text(text)
    return machine


@pytest.fixture
def stock(loops: Machine) -> Iterator[Machine]:
    """The host as Debian leaves it, and afterwards again."""
    yield loops
    loops.run("umount -l /etc/mail", check=False)
    loops.run("hardend release; umount -l /var/lib/hardend", check=False)
    loops.run("rm -rf /var/lib/hardend /etc/hardend/taken; mkdir -m 0700 /var/lib/hardend")
    loops.run("cp -a /root/mail/. /etc/mail/; cp -a /root/aliases /etc/aliases")
    loops.run("systemctl reload sendmail", check=False)


def digests(machine: Machine) -> str:
    return str(machine.run("cd /etc/mail && sha256sum *.cf *.mc access ../aliases").stdout)


def is_whole(machine: Machine, old: str) -> None:
    """The host is at its baseline, and that is the old state or one that meets the rules."""
    if machine.run(f"test -e {CURRENT}", check=False).returncode:
        assert digests(machine) == old
        return
    checked = machine.run("hardend check", check=False)
    assert checked.returncode == 0, checked.stdout
    assert digests(machine) == old or not RULES & failing(machine)


@pytest.mark.parametrize(("number", "delay_ms"), [(2, 0), (2, 300), (9, 0), (9, 40)])
def test_what_is_ended_after_its_commit_is_said_and_finished_by_the_next_run(
    stock: Machine, number: int, delay_ms: int
) -> None:
    old = digests(stock)
    ended = stock.run(f"python3 /root/shoot.py {number} {delay_ms} {HARDEN}", check=False)
    if number != 9 and ended.stdout.splitlines()[-1:] != ["0"]:
        is_whole(stock, old)  # at once: these wait until what is put in place is there
    told = stock.run("hardend harden --plan", check=False).stderr
    assert "was interrupted after generation 1 was committed" in told
    after = stock.run(HARDEN, check=False)
    assert after.returncode == 0, after.stderr
    assert "was interrupted after generation 1 was committed; the host is there now" in after.stderr
    assert not RULES & failing(stock)
    is_whole(stock, old)
    assert stock.run("test -e /var/lib/hardend/harden.json", check=False).returncode == 1


@pytest.mark.parametrize(("number", "delay"), [("INT", 0.9), ("KILL", 1.2)])
def test_what_is_ended_at_any_time_leaves_the_old_or_the_new_state(
    stock: Machine, number: str, delay: float
) -> None:
    old = digests(stock)
    stock.run(f"timeout -s {number} {delay} {HARDEN}", check=False)
    after = stock.run(HARDEN, check=False)
    assert after.returncode == 0, after.stderr
    assert not RULES & failing(stock)
    is_whole(stock, old)


def small_disk(machine: Machine, where: str, size: int) -> None:
    """Put a directory on a file system of its own."""
    image = "/root/small.img"
    machine.run(
        f"rm -f {image}; {MAKE.format(size=size, image=image)} && mkdir -p /root/small"
        f" && mount -o loop {image} /root/small && rmdir /root/small/lost+found"
        f" && chmod --reference={where} /root/small && chown --reference={where} /root/small"
        f" && cp -a {where}/. /root/small/ && umount /root/small && mount -o loop {image} {where}"
    )


@pytest.mark.parametrize(("where", "size"), [("/var/lib/hardend", 3), ("/etc/mail", 5)])
def test_on_a_full_disk_nothing_is_changed_and_that_is_said(stock: Machine, where: str, size: int) -> None:
    old = digests(stock)
    small_disk(stock, where, size)
    stock.run(f"head -c {size}M /dev/zero > {where}/filler", check=False)
    refused = stock.run(HARDEN, check=False)
    assert refused.returncode == 4, refused.stderr
    assert "the disk is full" in refused.stderr or "No space left" in refused.stderr
    stock.run(f"rm {where}/filler")
    assert digests(stock) == old
    assert stock.run(f"test -e {CURRENT}", check=False).returncode == 1
    assert stock.run(HARDEN, check=False).returncode == 0
    is_whole(stock, old)
    assert not RULES & failing(stock)


@pytest.mark.parametrize(("where", "size"), [("/var/lib/hardend", 3), ("/etc/mail", 5)])
def test_a_disk_that_fills_up_on_the_way_leaves_one_whole(stock: Machine, where: str, size: int) -> None:
    old = digests(stock)
    small_disk(stock, where, size)
    ended = stock.run(f"python3 /root/flood.py {where}/filler {HARDEN}", check=False)
    print(where, ended.stdout.splitlines()[-1:], ended.stderr.splitlines()[-2:])
    stock.run(f"rm {where}/filler")
    is_whole(stock, old)
    assert stock.run(HARDEN, check=False).returncode == 0
    is_whole(stock, old)
    assert not RULES & failing(stock)


def test_a_file_that_a_plan_made_goes_to_the_quarantine_when_it_is_undone(stock: Machine) -> None:
    stock.run(f"rm {HELP}; hardend approve --reason first; systemctl stop sendmail; {ELSEWHERE}")
    done = stock.run("hardend harden --yes --rule greeting-help", check=False)
    assert done.returncode == 4, done.stdout
    assert "everything went back, as generation 3" in done.stdout
    assert stock.run(f"test -e {HELP}", check=False).returncode == 1
    assert stock.run("hardend check", check=False).returncode == 0
    stock.run("hardend collect")
    kept = json.loads(stock.run(f"hardend quarantine list --json --path {HELP}").stdout)["objects"]
    assert [item["drift"] for item in kept] == [["unexpected"]]
    stock.run("kill $(head -1 /run/sendmail/mta/sendmail.pid); systemctl start sendmail")
    assert "went back" not in stock.run("hardend harden --yes --rule greeting-help").stdout
    assert stock.run(f"test -f {HELP}", check=False).returncode == 0
