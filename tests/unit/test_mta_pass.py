# SPDX-License-Identifier: Apache-2.0
"""What a run of hardend-rebuild does about the MTA; the processes are stand-ins."""

from __future__ import annotations

import io
import os
import time
from dataclasses import dataclass, field, replace

import pytest

from hardend import mta, mta_memory, probe
from hardend.baseline.store import Store
from hardend.config import Restart
from hardend.errors import CommandError
from hardend.journal import Journal
from hardend.layout import Layout, find
from hardend.model import Host, Mode
from hardend.mta import DRIFTED, Kind, Loaded, Process
from hardend.mta_memory import Memory
from hardend.mta_pass import MtaPass
from hardend.offer import Means
from tests.unit import programs
from tests.unit.mailhost import CF, MailHost
from tests.unit.mailhost import mail as mail  # noqa: PLC0414 - a fixture
from tests.unit.programs import qualified_name as qualified_name  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("qualified_name")]

S = 1_000_000_000
DAEMON = Process(Kind.DAEMON, "boot", 85, 4711, time.time_ns() - 100 * S)


@dataclass
class Mta:
    """Stands in for the processes: what is signalled is recorded."""

    running: Process | None = DAEMON
    signals: list[str] = field(default_factory=list)
    broken: bool = False
    greets: bool = True

    def find(self, kind: Kind, host: Host, layout: Layout) -> Process | None:
        del host, layout
        return self.running if kind is Kind.DAEMON else None

    def reload(self, process: Process, *_: object) -> Process:
        return self._act("hup", process)

    def restart(self, process: Process, *_: object) -> Process:
        return self._act("restart", process)

    def greeting(self, *_: object) -> probe.Greeting:
        return probe.Greeting("220 here" if self.greets else "", "" if self.greets else "refused")

    def _act(self, what: str, process: Process) -> Process:
        self.signals.append(what)
        if self.broken:
            raise CommandError("the MTA did not come back")
        self.running = replace(process, pid=process.pid + 1)
        return self.running


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Mta:
    made = Mta()
    for name in ("find", "reload", "restart"):
        monkeypatch.setattr(mta, name, getattr(made, name))
    monkeypatch.setattr(probe, "greeting", made.greeting)
    return made


@dataclass
class Passes:
    """Runs the MTA's part, one memory and one journal for all runs."""

    mail: MailHost
    journal: io.StringIO = field(default_factory=io.StringIO)
    memory: Memory = field(default_factory=Memory)

    def run(self, **changes: object) -> tuple[MtaPass, float]:
        settings = replace(self.mail.settings, **changes)  # type: ignore[arg-type]
        means = Means(
            host=self.mail.host,
            settings=settings,
            layout=find(self.mail.host),
            tools=programs.tools(self.mail.at("/etc/mail/sendmail.cf"), str(self.mail.root)),
            store=Store(self.mail.host),
            journal=Journal(self.mail.host, stream=self.journal),
            memory=self.memory,
            may_change=settings.mode is Mode.ENFORCE,
        )
        made = MtaPass(means)
        return made, made.run(self.mail.current(), {})

    def loaded(self, digest: str) -> None:
        """Let the running daemon have loaded a sendmail.cf of this digest."""
        self.memory.loaded[Kind.DAEMON] = Loaded(
            DAEMON.identity, DAEMON.start_ns, DAEMON.start_ns, {"/etc/mail/sendmail.cf": digest}, ()
        )


@pytest.fixture
def passes(mail: MailHost, stand_in: Mta) -> Passes:
    del stand_in
    return Passes(mail)


def test_an_mta_that_loaded_a_drift_is_reloaded_once(passes: Passes, stand_in: Mta) -> None:
    passes.loaded(DRIFTED)
    first, _ = passes.run()
    assert stand_in.signals == ["hup"]
    assert first.problems == []
    assert "mta-restarted" in passes.journal.getvalue()
    second, wait_s = passes.run()
    assert stand_in.signals == ["hup"]
    assert second.outcomes["daemon"] == "none: it has loaded the baseline"
    assert wait_s == 0


def test_a_reload_within_the_interval_waits(passes: Passes, stand_in: Mta) -> None:
    passes.loaded(DRIFTED)
    passes.memory.acted_ns[Kind.DAEMON] = time.time_ns() - 10 * S
    _, wait_s = passes.run()
    assert stand_in.signals == []
    assert 45 < wait_s <= 50


def test_an_unknown_mta_is_told_and_left_alone(passes: Passes, stand_in: Mta) -> None:
    made, _ = passes.run()
    assert made.outcomes["daemon"].startswith("unknown: ")
    assert made.problems == []
    assert stand_in.signals == []


def test_a_stopped_mta_is_not_started(passes: Passes, stand_in: Mta) -> None:
    passes.loaded(DRIFTED)
    stand_in.running = None
    passes.run(restart=Restart.ALWAYS)
    assert stand_in.signals == []


def test_observing_signals_nothing(passes: Passes, stand_in: Mta) -> None:
    passes.loaded(DRIFTED)
    made, _ = passes.run(mode=Mode.OBSERVE)
    assert stand_in.signals == []
    assert "only observes" in made.problems[0]
    assert passes.journal.getvalue() == ""


def test_a_file_that_is_drifted_now_is_not_loaded(passes: Passes, stand_in: Mta) -> None:
    passes.loaded(DRIFTED)
    passes.mail.write("/etc/mail/sendmail.cf", CF + b"# drift\n")
    made, _ = passes.run()
    assert stand_in.signals == []
    assert "is not at the baseline now" in made.problems[0]


def test_the_gate_keeps_a_missing_mailer_out_and_says_so_once(
    passes: Passes, stand_in: Mta
) -> None:
    """In a tree nothing of the real machine counts: /bin/true is missing there."""
    passes.mail.at("/bin/true").unlink()
    passes.loaded(DRIFTED)
    for _ in range(2):
        made, _ = passes.run()
        assert "mailer local: /bin/true: No such file" in made.problems[0]
    assert stand_in.signals == []
    assert passes.journal.getvalue().count("outcome-failed") == 1


@pytest.mark.parametrize("fault", ["broken", "silent"])
def test_a_reload_that_fails_is_told_and_not_repeated_at_once(
    passes: Passes, stand_in: Mta, fault: str
) -> None:
    stand_in.broken, stand_in.greets = fault == "broken", False
    passes.loaded(DRIFTED)
    made, _ = passes.run()
    assert len(made.problems) == 1
    assert "outcome-failed" in passes.journal.getvalue()
    assert "mta-restarted" not in passes.journal.getvalue()
    passes.run()
    assert stand_in.signals == ["hup"]


def test_new_options_of_the_sockets_restart_unless_make_would_rebuild(
    passes: Passes, stand_in: Mta
) -> None:
    passes.memory.loaded[Kind.DAEMON] = Loaded(
        DAEMON.identity,
        DAEMON.start_ns,
        DAEMON.start_ns,
        {"/etc/mail/sendmail.cf": "older"},
        ("DaemonPortOptions=Port=2525",),
    )
    os.utime(passes.mail.at("/etc/mail/access.db"), ns=(1, 1))
    made, _ = passes.run()
    assert stand_in.signals == []
    assert "the start would rebuild: /etc/mail/access.db is older" in made.problems[0]
    os.utime(passes.mail.at("/etc/mail/access.db"))
    passes.run()
    assert stand_in.signals == ["restart"]


def test_what_was_loaded_is_on_disk_after_a_run(mail: MailHost, stand_in: Mta) -> None:
    mail.run()
    assert mta_memory.read(mail.host).loaded[Kind.DAEMON].identity == DAEMON.identity
    assert stand_in.signals == []
