# SPDX-License-Identifier: Apache-2.0
"""Every kind of event on a booted host: made for real, explained, measured, told to people, and over."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hardend.alert_incidents import _LASTING, GUARD, KILLED
from hardend.journal import KINDS, Event
from tests.host.conftest import SCRIPTS
from tests.host.test_alerts import GOT, UNIT, is_about, wait_for
from tests.host.test_guard import wait_clean
from tests.unit.test_metrics import parsed, seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.host.machine import Machine

CATALOG = Path(__file__).resolve().parents[2] / "systemd/catalog/hardend.catalog"
MAIL, SMRSH, QUEUE = "/etc/mail", "/etc/mail/smrsh", "/var/spool/mqueue"
CF, ACCESS, ALIASES, NOTES = f"{MAIL}/sendmail.cf", f"{MAIL}/access", "/etc/aliases", f"{MAIL}/notes"
PROM = "/var/lib/prometheus/node-exporter/hardend.prom"
CONFIG = f"""
[guard]
contested_count = 3
contested_within = "3s"

[rebuild]
reload_interval = "1s"

[paths.classes]
"{ALIASES}" = "checked"

[alerts]
command = ["/usr/local/sbin/page"]
min_priority = "info"
burst = 1000
"""
# A pager that can be out of order, and a queue on a file system that can be made read-only.
SETUP = f"""
set -e
mkdir -p {GOT} {Path(PROM).parent} /etc/systemd/system/{UNIT}.d
printf '[Service]\\nReadWritePaths={GOT}\\n' > /etc/systemd/system/{UNIT}.d/test.conf
printf '#!/bin/sh\\n[ ! -e {GOT}/down ] && cat >> {GOT}/got\\n' > /usr/local/sbin/page
chmod 755 /usr/local/sbin/page
mode=$(stat -c %a {QUEUE}) owner=$(stat -c %u:%g {QUEUE})
mount -t tmpfs tmpfs {QUEUE}
chown $owner {QUEUE}
chmod $mode {QUEUE}
systemctl daemon-reload
systemctl enable --now {UNIT}
"""


@dataclass
class Stage:
    """The host and, of each kind that was made on it, the event."""

    machine: Machine
    made: dict[Event, dict[str, Any]] = field(default_factory=dict)

    def make(self, act: Callable[[Machine], object] | str, *kinds: Event) -> None:
        """Do something, a function or a command, and wait until it was told as these kinds of events."""
        start = time.monotonic()
        before = {kind: len(self.told(kind)) for kind in kinds}
        if isinstance(act, str):
            self.machine.run(act)
        else:
            act(self.machine)
        for kind in kinds:
            while len(found := self.told(kind)) == before[kind]:
                assert time.monotonic() < start + 60, f"{kind} was not told"
                time.sleep(0.2)
            self.made[kind] = found[-1]
        print(f"{time.monotonic() - start:5.1f} s: {', '.join(kinds)}")

    def told(self, kind: Event) -> list[dict[str, Any]]:
        """Return the events of a kind, whichever of our processes told them, oldest first."""
        self.machine.run(["journalctl", "--sync"])
        shown = f"journalctl -q -o json --all _UID=0 MESSAGE_ID={KINDS[kind].message_id}"
        return [json.loads(line) for line in self.machine.run(shown).stdout.splitlines()]

    def moments(self) -> dict[str, float]:
        """Let the unit write the metrics; when each kind was last, by them."""
        self.machine.run("systemctl start hardend-metrics.service")
        return seen(self.metrics())

    def undelivered(self) -> float:
        """Let the unit write the metrics; how many alerts wait, by them."""
        self.machine.run("systemctl start hardend-metrics.service")
        return self.metrics()["hardend_alerts_undelivered"]

    @staticmethod
    def until(what: Callable[[], bool]) -> None:
        """Wait until something holds."""
        end = time.monotonic() + 60
        while not what():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.5)

    def metrics(self) -> dict[str, float]:
        """Return the metrics that were written last."""
        return parsed(self.machine.run(f"cat {PROM}").stdout)


# What makes them ----------------------------------------------------------------------------------


def fight(machine: Machine) -> None:
    """Change a mode again as soon as it is put back."""
    machine.run(
        f"mode=$(stat -c %a {MAIL}); for i in 1 2 3; do chmod 777 {MAIL};"
        f" until [ $(stat -c %a {MAIL}) = $mode ]; do sleep 0.05; done; done"
    )


def without_guard(machine: Machine, act: str) -> None:
    """Do something while the guard does not run, as when it is late."""
    pid = machine.run("systemctl show -P MainPID hardend").stdout.strip()
    machine.run(f"kill -STOP {pid}; {act}; kill -CONT {pid}")


def flood(machine: Machine) -> None:
    """Make more file events than the kernel's queue holds."""
    limit = machine.run("cat /proc/sys/fs/inotify/max_queued_events").stdout.strip()
    without_guard(machine, f"python3 /root/attack.py overflow {MAIL} {limit}")


def break_the_queue(machine: Machine) -> None:
    """Change a directory on a disk that takes nothing afterwards."""
    without_guard(machine, f"chmod 777 {QUEUE}; mount -o remount,ro {QUEUE}")


def invade(machine: Machine) -> None:
    """Let a whole domain relay, and stay for a moment: who is gone may not be named."""
    without_guard(machine, f"chattr -i {ACCESS}; printf 'com\\tRELAY\\n' >> {ACCESS}; sleep 1")


def force(machine: Machine) -> None:
    """Approve what breaks a rule that was met."""
    machine.run(
        f"(cat {ACCESS}; printf 'Srv_Features:192.0.2.9\\tx b\\n') > /root/access;"
        f" hardend approve {ACCESS} --from /root/access --force --reason features"
    )


def upgrade_the_database(machine: Machine) -> None:
    """Put another build of the library in place that maps are made with."""
    machine.run(
        "library=$(readlink -f $(ldd $(readlink -f $(command -v makemap)) | awk '/libdb/ {print $3}'));"
        " cp -p $library $library.new; printf '\\0' >> $library.new; mv $library.new $library;"
        " hardend rebuild",
        check=False,
    )


def another_service(machine: Machine) -> None:
    """Have Sendmail run with what its files do not say, and approve a change that it must load."""
    machine.run(
        "systemctl stop sendmail; /usr/sbin/sendmail -L sm-mta -bd -q10m -O SmtpGreetingMessage=here;"
        " until read -r greeting < /dev/tcp/127.0.0.1/25; do sleep 0.1; done 2> /dev/null;"
        f" (cat {CF}; echo '# reload') > /root/cf; hardend approve {CF} --from /root/cf --reason reload"
    )


@pytest.fixture(scope="module")
def stage(machine: Machine) -> Stage:
    """The host on which everything happened."""
    for name in SCRIPTS:
        machine.put(Path(__file__).with_name(name), f"/root/{name}")
    machine.path("/etc/hardend/conf.d/every.toml").write_text(CONFIG)
    machine.run(SETUP)
    stage = Stage(machine)
    greeting = "--rule greeting-version --rule greeting-help"  # for a promise that Sendmail can break
    stage.make(f"hardend harden --yes {greeting} --reason first", Event.BASELINE_APPROVED)
    stage.make("systemctl enable --now hardend", Event.GUARD_STARTED)
    stage.make(f"chmod 777 {SMRSH}", Event.PATH_RESTORED, Event.RULES_BROKEN)
    stage.make(f"touch {NOTES}", Event.DRIFT_FOUND)
    stage.make(break_the_queue, Event.RESTORE_FAILED)
    stage.make(fight, Event.PATH_CONTESTED)
    stage.make(f"chattr -i {CF}", Event.LOCK_REMOVED)
    machine.run("systemctl start hardend-witness")
    stage.make(invade, Event.RULES_BROKEN, Event.MAP_VERIFIED, Event.DRIFT_ATTRIBUTED)
    machine.run(f"rm {NOTES}; mount -o remount,rw {QUEUE}")
    assert wait_clean(machine) == ""
    stage.make("hardend off --for 1h --reason tests", Event.ENFORCEMENT_PAUSED)
    stage.make("hardend on", Event.ENFORCEMENT_RESUMED)
    stage.make(flood, Event.OVERFLOW)
    stage.make(f"hardend unlock {ACCESS} --for 1h --reason mine", Event.WINDOW_OPENED)
    stage.make("hardend lock --revert", Event.WINDOW_CLOSED)
    stage.make(f"hardend unlock {ACCESS} --for 3s --reason forgotten", Event.WINDOW_EXPIRED)
    stage.make(force, Event.BASELINE_FORCED)
    stage.make(f"echo 'decode: \"|/usr/bin/uudecode\"' >> {ALIASES}", Event.BASELINE_REJECTED)
    stage.make(upgrade_the_database, Event.MAP_REBUILT)
    stage.make(another_service, Event.MTA_RESTARTED, Event.OUTCOME_FAILED)
    stage.make("echo '# mine' >> /etc/hardend/hardend.toml; systemctl restart hardend", Event.SELF_CHANGED)
    machine.run("systemctl kill --signal=KILL --kill-who=main hardend")
    wait_for(machine, is_about(KILLED, "began"))
    stage.make("systemctl stop hardend", Event.GUARD_STOPPED)
    return stage


# What is to be seen of each -----------------------------------------------------------------------


def test_every_kind_was_made(stage: Stage) -> None:
    assert set(stage.made) == set(Event)


def test_each_has_its_name_and_its_priority(stage: Stage) -> None:
    for kind, entry in stage.made.items():
        assert entry["HARDEND_EVENT"] == kind
        assert entry["PRIORITY"] == str(KINDS[kind].priority)
        assert entry["SYSLOG_FACILITY"] == "2"


def test_each_is_explained(stage: Stage) -> None:
    texts = dict(re.findall(r"^-- (\S+)\n(.*?)(?=^-- |\Z)", CATALOG.read_text(), re.MULTILINE | re.DOTALL))
    for kind, entry in stage.made.items():
        of = f"-q -x --no-pager --cursor '{entry['__CURSOR']}' -n 1"
        shown = [line[3:] for line in stage.machine.run(f"journalctl {of}").stdout.splitlines()]
        told = texts[KINDS[kind].message_id]
        # A field that the event lacks would be shown by its name, between no signs.
        for name in set(re.findall("@(.*?)@", told)):
            assert name in entry, f"{kind} has no {name}"
            told = told.replace(f"@{name}@", entry[name])
        assert shown[1:] == told.rstrip("\n").splitlines()
        print("\n".join(shown[1:2]))


def test_a_lock_and_a_directory_that_were_put_right_in_place_name_their_rules(stage: Stage) -> None:
    unlocked = {event["HARDEND_RULE"] for event in stage.told(Event.LOCK_REMOVED)}
    assert unlocked == {"immutable-files"}
    broken = {event["HARDEND_PATH"]: event for event in stage.told(Event.RULES_BROKEN)}
    assert broken[SMRSH]["HARDEND_RULE"].split()[0] == "smrsh-ownership"
    identifier = broken[SMRSH]["HARDEND_QUARANTINE_ID"]
    shown = stage.machine.run(["hardend", "quarantine", "show", identifier]).stdout
    assert "put right where it stands" in shown and "2777" in shown


def test_each_is_in_the_metrics(stage: Stage) -> None:
    moments = stage.moments()
    assert set(moments) == set(Event)
    for kind in Event:
        last = stage.told(kind)[-1]
        waited = last.get("HARDEND_TIME_NS")  # for journald
        moment_us = int(waited) / 1000 if waited else int(last["_SOURCE_REALTIME_TIMESTAMP"])
        assert moments[kind] == pytest.approx(moment_us / 1e6, abs=1e-5)
    assert stage.metrics()["hardend_up"] == 0  # no guard runs, and the journal is there all the same


def began(kind: Event) -> Callable[[dict[str, Any]], bool]:
    """Return what fits the alert that an event of a kind began, by the name of what it is told as."""
    word = _LASTING[kind][0] if kind in _LASTING else kind.value
    return lambda each: (each["kind"], each["phase"]) == (word, "began") and each["event"]["event"] == kind


def test_of_each_people_were_told(stage: Stage) -> None:
    for kind in Event:
        wait_for(stage.machine, began(kind))


def test_what_lasted_is_told_to_be_over_and_nothing_is_left_open(stage: Stage) -> None:
    machine = stage.machine
    wait_for(machine, is_about(GUARD, "began"))
    machine.run("systemctl start hardend")
    wait_for(machine, is_about(GUARD, "over"))
    for kind, (word, _) in _LASTING.items():
        told = wait_for(machine, began(kind))
        over = wait_for(machine, is_about(word, "over", told["path"]))
        assert over["incident"] == told["incident"]
    # The rest is over as it happens, and forgotten when it was not told again for a while.
    once = {kind.value for kind in Event if len(stage.told(kind)) == 1}
    going_on = {each["kind"] for each in machine.json("hardend alert list --json")["incidents"]}
    assert len(once) > 5 and not going_on & {*once, GUARD}


def test_alerts_that_reach_nobody_are_in_the_metrics_until_they_do(stage: Stage) -> None:
    machine = stage.machine
    assert stage.undelivered() == 0
    machine.run(f"touch {GOT}/down; rm -f {GOT}/got; chmod 777 {SMRSH}")
    stage.until(lambda: stage.undelivered() > 0)
    since = stage.metrics()["hardend_alerts_oldest_timestamp_seconds"]
    assert 0 <= float(machine.run("date +%s.%N").stdout) - since < 60
    # A changed configuration is a reason to try again at once.
    machine.run(f"rm {GOT}/down; echo '# mended' >> /etc/hardend/conf.d/every.toml")
    stage.until(lambda: stage.undelivered() == 0)
    assert "hardend_alerts_oldest_timestamp_seconds" not in stage.metrics()
    assert wait_for(machine, is_about("drift", "began", SMRSH))
