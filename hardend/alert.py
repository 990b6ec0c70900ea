# SPDX-License-Identifier: Apache-2.0
"""The alert service: events and the guard's state become incidents, these alerts, these reach people.

A process of its own, so that nothing that is slow or fails touches the guard. What it has read of the
journal is noted only when the alerts that came of it are in the spool.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from hardend import alert_delivery
from hardend.alert_incidents import Alert, Incidents, Phase, make, sight_of
from hardend.alert_spool import TEST, Spool, Waiting
from hardend.config import fragments, load
from hardend.errors import ConfigError, HardendError, RefusedError
from hardend.events import Follower
from hardend.journal import notify
from hardend.model import Host, printable
from hardend.settings import Priority, Settings
from hardend.status_view import Outlook

BATCH = 500  # events of one turn
BACK_OFF_S = 5.0  # after a failure, twice that after the next, ...
BACK_OFF_MAX_S = 900.0


class Sender:
    """Delivers what waits in the spool, one at a time; after failures less and less often."""

    def __init__(self, host: Host, spool: Spool) -> None:
        self._host = host
        self._spool = spool
        self._failures = 0
        self._not_before = 0.0

    def send_one(self, settings: Settings, now: float) -> bool:
        """Try to deliver one alert if it is time (monotonic seconds); whether one was delivered."""
        waiting = self._next(now)
        if waiting is None:
            return False
        try:
            alert_delivery.deliver(self._host, settings, waiting.document)
        except HardendError as error:
            self._failures += 1
            self._not_before = now + min(BACK_OFF_S * 2 ** min(self._failures - 1, 20), BACK_OFF_MAX_S)
            self._spool.tried(waiting, str(error))
            if self._failures == 1:
                say(f"an alert could not be delivered: {error}", error.hint)
            return False
        if waiting.name.startswith(TEST):
            self._spool.tried(waiting, "")  # for the one who waits for it, and takes it away
        else:
            self._spool.remove(waiting.name)
        if self._failures:
            say("alerts are delivered again")
        self._failures, self._not_before = 0, 0.0
        return True

    def retry_now(self) -> None:
        """Forget the failures: something was changed."""
        self._not_before = 0.0

    def _next(self, now: float) -> Waiting | None:
        """Return what is to be tried: a test at once; else what was tried least, the worst, the oldest."""
        too_early = now < self._not_before
        best: Waiting | None = None
        for name in self._spool.names():
            waiting = self._spool.read(name) if not too_early or name.startswith(TEST) else None
            if waiting and not waiting.attempts:
                return waiting
            is_test = name.startswith(TEST)  # which is tried once
            if waiting and not is_test and (best is None or waiting.attempts < best.attempts):
                best = waiting
        return best


class AlertService:
    """Turns that each read, judge, keep and deliver; ``run`` does it for ever.

    Raises RefusedError when another service runs, and what ``load`` and ``Follower`` raise.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._settings = load(host)
        self._seen_config = self._config_now()
        self._spool = Spool(host)
        self._spool.open()
        if not self._spool.lock():
            raise RefusedError("another alert service runs", hint="systemctl status hardend-alert.service")
        state = self._spool.state()
        self._since = _number(state.get("since")) or time.time()
        self._incidents = self._remembered(state)
        self._outlook = Outlook(host)
        self._follower = Follower(host, str(state.get("cursor") or ""), self._since)
        self._sender = Sender(host, self._spool)
        self._saved: dict[str, Any] = {}
        if not alert_delivery.is_configured(self._settings):
            say("nobody is told: neither alerts.command nor alerts.relay is set in hardend.toml")

    def run(self) -> None:
        """Go on until the process ends; tell the service manager that alerts are sent from now on."""
        notify("READY=1")
        while True:
            if not self.turn():
                self._follower.wait()

    def turn(self) -> bool:
        """Do what there is to do; whether there may be more to do at once."""
        self._reload()
        records = self._follower.read(BATCH)
        now = time.time()
        for record in records:
            self._incidents.saw(record, now)
        more = len(records) == BATCH
        if not more:  # else the state is of a later time than the events
            self._incidents.advance(now, sight_of(self._outlook.look()))
        self._keep(self._incidents.take(), now)
        if not alert_delivery.is_configured(self._settings):
            return more
        return self._sender.send_one(self._settings, time.monotonic()) or more

    def close(self) -> None:
        """Let another service begin."""
        self._follower.close()
        self._spool.close()

    def _keep(self, alerts: list[Alert], now: float) -> None:
        """Bring alerts into the spool, and only then note how far the journal was read."""
        if alert_delivery.is_configured(self._settings):
            for alert in alerts:
                self._spool.put(alert.id, alert.priority.number, int(now * 1e9), alert.document)
            dropped = self._spool.dropped
            if dropped and len(self._spool.names()) < 2:  # noqa: PLR2004 - it is delivered again
                self._tell_dropped(dropped, now)
        state = {"cursor": self._follower.cursor, "since": self._since, **self._incidents.document()}
        if state == self._saved:
            return
        try:
            self._spool.save(state)
        except OSError as error:
            say(f"{self._spool.directory}: {error.strerror}: what was told may be told again")
        self._saved = state

    def _tell_dropped(self, dropped: int, now: float) -> None:
        subject = f"{dropped} alerts were dropped, because too many could not be delivered"
        name = os.uname().nodename
        identifier = f"dropped-{int(now)}"
        alert = make(name, identifier, Phase.SUMMARY, Priority.ERR, now, subject=subject, count=dropped)
        self._spool.put(alert.id, alert.priority.number, int(now * 1e9), alert.document)
        self._spool.told_of_dropped()

    def _remembered(self, state: dict[str, Any]) -> Incidents:
        incidents = Incidents(os.uname().nodename, self._settings)
        if state:
            try:
                incidents.restore(state)
            except (ValueError, TypeError, KeyError):
                say("what was known of incidents is damaged: they are told anew")
                return Incidents(os.uname().nodename, self._settings)
        return incidents

    def _reload(self) -> None:
        """Load the configuration again when it changed; one with faults is not taken."""
        seen = self._config_now()
        if seen == self._seen_config:
            return
        self._seen_config = seen
        try:
            self._settings = self._incidents.settings = load(self._host)
        except ConfigError as error:
            say(f"the configuration is not taken: {error.faults[0]}", error.hint)
            return
        self._sender.retry_now()

    def _config_now(self) -> list[tuple[str, int, int]]:
        try:
            found = [(where, os.stat(where)) for where in fragments(self._host)]
        except (OSError, ConfigError):
            return []
        return [(where, of.st_mtime_ns, of.st_size) for where, of in found]


def test(host: Host, wait_s: float) -> tuple[bool, str]:
    """Send a test alert the way that every alert goes; returns whether it arrived, and what happened.

    By the service where it runs, so that its sandbox is tried too; else from here.
    """
    settings = load(host)
    if not alert_delivery.is_configured(settings):
        raise alert_delivery.DeliveryError(
            "no way to deliver alerts is configured", hint="alerts.command or alerts.relay in hardend.toml"
        )
    now = time.time()
    subject = "a test: alerts of hardend arrive here"
    identifier = f"test-{os.getpid()}-{int(now)}"
    alert = make(
        os.uname().nodename, identifier, Phase.TEST, Priority.INFO, now, subject=subject, kind="test"
    )
    spool = Spool(host)
    spool.open()
    is_ours = spool.lock()
    try:
        name = spool.put_test(alert.id, int(now * 1e9), alert.document)
        if is_ours:
            said = _deliver_here(host, settings, spool, name)
            return said[0], f"{said[1]} (from here: hardend-alert.service does not run)"
        return _await(spool, name, wait_s)
    finally:
        spool.close()


def _deliver_here(host: Host, settings: Settings, spool: Spool, name: str) -> tuple[bool, str]:
    waiting = spool.read(name)
    if waiting is None:
        return False, "the spool is full of other alerts: see hardend alert list"
    try:
        how = alert_delivery.deliver(host, settings, waiting.document)
    except HardendError as error:
        return False, f"{error}{'; ' if error.hint else ''}{error.hint}"
    finally:
        spool.remove(name)  # a test is not tried again
    return True, how


def _await(spool: Spool, name: str, wait_s: float) -> tuple[bool, str]:
    """Wait for the service to deliver it."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        waiting = spool.read(name)
        if waiting is None:
            return False, "the spool is full of other alerts: see hardend alert list"
        if waiting.attempts:
            spool.remove(name)
            said = waiting.error or "delivered it"
            return not waiting.error, f"hardend-alert.service{': ' if waiting.error else ' '}{said}"
        time.sleep(0.1)
    spool.remove(name)
    return False, f"hardend-alert.service did not take it within {wait_s:g} s"


def say(text: str, hint: str = "") -> None:
    """Say something to whom reads the service's log."""
    print(f"hardend: {printable(text)}", file=sys.stderr)
    if hint:
        print(f"hardend: hint: {hint}", file=sys.stderr)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
