# SPDX-License-Identifier: Apache-2.0
"""The alert service over a real journal: delivered at least once, whenever it is killed."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hardend import alert
from hardend.alert_spool import DIRECTORY, LIMIT, Spool
from hardend.cli.main import main
from hardend.errors import HardendError, RefusedError
from hardend.journal import Event, Journal
from hardend.model import Host

ROOT = Path(__file__).resolve().parents[2]
# A journald with its own /run, /etc and /var/lib: a host that has events and nothing else.
START = """
set -e
mount -t tmpfs tmpfs /mnt
cp /etc/machine-id /etc/passwd /etc/group /mnt
mkdir /mnt/hardend
mount --bind /mnt /etc
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal /run/systemd/journald.conf.d
printf '[Journal]\\nStorage=volatile\\nAudit=no\\nReadKMsg=no\\nForwardToSyslog=no\\nRateLimitBurst=0\\n' \
    > /run/systemd/journald.conf.d/test.conf
exec /usr/lib/systemd/systemd-journald
"""
PR_SET_PDEATHSIG = 1
pytestmark = [pytest.mark.root, pytest.mark.unshare]


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def host() -> Iterator[Host]:
    libc = ctypes.CDLL(None)
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", START],
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            found = Host(f"/proc/{process.pid}/root")
            wait_for(lambda: os.path.exists(found.at("/run/systemd/journal/socket")))
            yield found
        finally:
            process.kill()


@pytest.fixture
def journal(host: Host) -> Iterator[Journal]:
    made = Journal(host)
    yield made
    made.close()


def command(tmp_path: Path, text: str) -> Path:
    """Return a program for alerts that does ``text`` with the alert in $alert."""
    program = tmp_path / "page"
    program.write_text(f"#!/bin/sh\nalert=$(cat)\n{text}\n")
    program.chmod(0o755)
    return program


def keeping(tmp_path: Path) -> Path:
    return command(tmp_path, f"printf '%s\\n' \"$alert\" >> {tmp_path}/got")


def configure(host: Host, program: Path | None, more: str = "") -> None:
    told = f'command = ["{program}"]\n' if program else ""
    Path(host.at("/etc/hardend/hardend.toml")).write_text(f"[alerts]\n{told}{more}", "utf-8")


def got(tmp_path: Path) -> list[dict[str, Any]]:
    where = tmp_path / "got"
    return [json.loads(line) for line in where.read_text().splitlines()] if where.exists() else []


def drift(journal: Journal, path: str = "/etc/mail/access", kind: Event = Event.PATH_RESTORED) -> None:
    journal.event(kind, f"{path} was put back", PATH=path, STATE="restored")


@contextmanager
def serving(host: Host) -> Iterator[subprocess.Popen[bytes]]:
    """Run the service as the unit does; it is killed with the block, if it is there still."""
    argv = [sys.executable, "-B", "-m", "hardend", "alert", "run", "--root", host.root]
    with subprocess.Popen(argv, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE) as process:
        try:
            wait_for(lambda: os.path.exists(host.at(f"{DIRECTORY}/state.json")) or process.poll())
            yield process
        finally:
            process.kill()


def turns(service: alert.AlertService, until: Callable[[], object]) -> None:
    """Let the service do its turns until something is true."""

    def turned() -> object:
        service.turn()
        return until()

    wait_for(turned)


def waiting(host: Host) -> list[str]:
    return Spool(host).names()


def test_a_drift_reaches_the_command(host: Host, journal: Journal, tmp_path: Path) -> None:
    configure(host, keeping(tmp_path))
    with serving(host):
        drift(journal)
        wait_for(lambda: got(tmp_path))
        wait_for(lambda: not waiting(host))
    [told] = got(tmp_path)
    assert (told["phase"], told["kind"], told["path"]) == ("began", "drift", "/etc/mail/access")
    assert told["event"]["event"] == "path-restored"


def test_what_is_killed_between_spool_and_delivery_is_delivered_by_the_next(
    host: Host, journal: Journal, tmp_path: Path
) -> None:
    configure(host, command(tmp_path, f"touch {tmp_path}/began; sleep 60"))
    with serving(host) as process:
        drift(journal)
        wait_for((tmp_path / "began").exists)
        process.kill()
        process.wait()
    assert len(waiting(host)) == 1
    drift(journal, "/etc/aliases")  # nobody is there
    configure(host, keeping(tmp_path))
    with serving(host):
        wait_for(lambda: len(got(tmp_path)) == 2)
        wait_for(lambda: not waiting(host))
    assert [told["path"] for told in got(tmp_path)] == ["/etc/mail/access", "/etc/aliases"]


def test_nothing_is_lost_however_often_it_is_killed(host: Host, journal: Journal, tmp_path: Path) -> None:
    configure(host, keeping(tmp_path), "burst = 1000\n")
    paths = [f"/etc/mail/{number}" for number in range(40)]
    with serving(host):
        pass
    for number, path in enumerate(paths):
        drift(journal, path)
        if number % 5 == 0:
            with serving(host) as process:
                time.sleep(0.3 + number / 100)
                process.kill()
    with serving(host):
        wait_for(lambda: {told["path"] for told in got(tmp_path)} == set(paths))
        wait_for(lambda: not waiting(host))
    once = {told["id"] for told in got(tmp_path)}
    assert len(once) == len(paths)  # what came twice says so by its id


def test_a_burst_of_a_thousand_drifts_gives_a_few_alerts(
    host: Host, journal: Journal, tmp_path: Path
) -> None:
    configure(host, keeping(tmp_path))
    with serving(host):
        for number in range(1000):
            drift(journal, f"/etc/mail/{number}")
            journal.flush()
        while journal._sender._waiting:  # type: ignore[union-attr]
            journal.flush()
        wait_for(lambda: Spool(host).state().get("held_count") == 995)
        wait_for(lambda: not waiting(host))
        assert len(got(tmp_path)) == 5


def test_what_cannot_be_delivered_waits_and_is_not_in_the_way(
    host: Host, journal: Journal, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(host, command(tmp_path, "echo no route >&2; exit 1"))
    service = alert.AlertService(host)
    try:
        for number in range(3):
            drift(journal, f"/etc/mail/{number}")
        turns(service, lambda: len(waiting(host)) == 3)
        found = [Spool(host).read(name) for name in waiting(host)]
        assert sum(each.attempts for each in found if each) == 1  # the first failure holds the others off
        assert "exit status 1: no route" in capfd.readouterr().err
        configure(host, keeping(tmp_path))  # taken without a restart, and tried at once
        turns(service, lambda: not waiting(host))
    finally:
        service.close()
    assert sorted(told["path"] for told in got(tmp_path)) == [f"/etc/mail/{n}" for n in range(3)]


def test_a_configuration_with_faults_is_not_taken(
    host: Host, journal: Journal, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(host, keeping(tmp_path))
    service = alert.AlertService(host)
    try:
        configure(host, None, 'burst = "many"\n')
        drift(journal)
        turns(service, lambda: got(tmp_path))
    finally:
        service.close()
    assert "alerts.burst" in capfd.readouterr().err


def test_one_service_at_a_time(host: Host) -> None:
    configure(host, None)
    service = alert.AlertService(host)
    with pytest.raises(RefusedError, match="another alert service runs"):
        alert.AlertService(host)
    service.close()


def test_what_was_before_the_first_start_is_not_told(host: Host, journal: Journal, tmp_path: Path) -> None:
    drift(journal)
    wait_for(lambda: not journal._sender._waiting)  # type: ignore[union-attr]
    configure(host, keeping(tmp_path))
    time.sleep(0.1)
    service = alert.AlertService(host)
    drift(journal, "/etc/aliases")
    turns(service, lambda: got(tmp_path))
    service.close()
    assert [told["path"] for told in got(tmp_path)] == ["/etc/aliases"]


def test_a_damaged_state_is_said_and_begun_anew(
    host: Host, journal: Journal, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(host, keeping(tmp_path))
    alert.AlertService(host).close()
    Path(host.at(f"{DIRECTORY}/state.json")).write_text('{"incidents": [{}], "cursor": "x"}')
    service = alert.AlertService(host)
    assert "damaged" in capfd.readouterr().err
    drift(journal)
    turns(service, lambda: got(tmp_path))
    service.close()


# hardend alert test -----------------------------------------------------------------------------------


def test_a_test_says_that_it_arrived(host: Host, tmp_path: Path) -> None:
    configure(host, keeping(tmp_path))
    assert alert.test(host, 30) == (
        True,
        f"{tmp_path}/page took it (from here: hardend-alert.service does not run)",
    )
    with serving(host):
        assert alert.test(host, 30) == (True, "hardend-alert.service delivered it")
    assert [told["phase"] for told in got(tmp_path)] == ["test", "test"]
    assert waiting(host) == []


def test_a_test_says_why_it_did_not_arrive(host: Host, journal: Journal, tmp_path: Path) -> None:
    configure(host, command(tmp_path, "echo no route >&2; exit 1"))
    assert alert.test(host, 30)[0] is False
    with serving(host):
        drift(journal)  # what waits for a later try is not in the way of a test
        wait_for(lambda: waiting(host))
        arrived, why = alert.test(host, 30)
    assert not arrived
    assert why == f"hardend-alert.service: {tmp_path}/page: exit status 1: no route"
    assert len(waiting(host)) == 1  # the test is not among it


def test_a_test_of_a_full_spool_says_so(host: Host, tmp_path: Path) -> None:
    configure(host, command(tmp_path, "exit 1"))
    spool = Spool(host)
    spool.open()
    for number in range(LIMIT):
        (Path(spool.directory) / f"4-{number:020d}-x{number}.json").write_text(
            '{"alert": {}, "attempts": 1, "error": "no route"}'
        )
    arrived, why = alert.test(host, 30)
    assert not arrived
    assert why.startswith("the spool is full of other alerts")
    with serving(host):
        assert alert.test(host, 30) == (False, why.partition(" (")[0])
    assert spool.dropped == 0
    assert len(waiting(host)) == LIMIT


def test_without_a_way_to_deliver_a_test_says_what_to_set(host: Host) -> None:
    configure(host, None)
    with pytest.raises(HardendError, match="no way to deliver") as caught:
        alert.test(host, 1)
    assert "alerts.command or alerts.relay" in caught.value.hint


# hardend alert list -----------------------------------------------------------------------------------


def test_the_list_shows_what_is_open_and_what_waits_and_why(
    host: Host, journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["alert", "list", "--root", host.root]) == 0
    assert capsys.readouterr().out == "no incident is open\nevery alert was delivered\n"
    configure(host, command(tmp_path, "echo no route >&2; exit 1"))
    service = alert.AlertService(host)
    drift(journal, "/etc/mail/\x1b[2J")
    turns(service, lambda: waiting(host))
    service.close()
    assert main(["alert", "list", "--root", host.root]) == 0
    said = capsys.readouterr().out
    assert "open incidents: 1" in said
    assert "alerts to be delivered: 1" in said
    assert "tries: 1" in said and "no route" in said
    assert "\x1b" not in said
    assert main(["alert", "list", "--json", "--root", host.root]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["kind"] for each in listed["incidents"]] == ["drift"]
    assert [each["attempts"] for each in listed["waiting"]] == [1]
    assert listed["dropped"] == 0


def test_a_test_that_fails_is_exit_status_1_and_one_without_a_way_is_2(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["alert", "test", "--root", host.root]) == 2
    assert "no way to deliver" in capsys.readouterr().err
    configure(host, command(tmp_path, "exit 1"))
    assert main(["alert", "test", "--root", host.root]) == 1
    assert capsys.readouterr().out.startswith("not delivered: ")
