# SPDX-License-Identifier: Apache-2.0
"""A run of hardend-rebuild on a tree, with Sendmail's real programs; the MTA's part on stand-ins."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from hardend import commit, maps, mta, mta_memory, pause, probe, rebuild
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.config import Restart, Settings
from hardend.errors import CommandError, RefusedError
from hardend.journal import Journal
from hardend.kernel import flags
from hardend.layout import Layout, find
from hardend.model import Class, Entry, Host, Mode, Role
from hardend.mta import DRIFTED, Kind, Loaded, Process
from hardend.mta_memory import Memory
from hardend.mta_pass import MtaPass
from hardend.offer import Means
from hardend.propose import Proposal, Proposer
from hardend.rebuild import Report
from tests.unit import programs
from tests.unit.programs import qualified_name as qualified_name  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("qualified_name")]

ACCESS = b"a.example\tREJECT\n"
USERS = b"info@a.example\talice\n"
CF = (
    programs.CF
    + b"Kaccess hash -T<TMPF> /etc/mail/access\nKvirtuser hash /etc/mail/virtusertable\n"
    + b"O QueueDirectory=/var/spool/mqueue\n"
)


@dataclass
class MailHost:
    """A tree with two maps, approved."""

    root: Path
    settings: Settings = field(default_factory=Settings)

    @property
    def host(self) -> Host:
        return Host(str(self.root))

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def write(self, path: str, content: bytes) -> None:
        place = self.at(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)

    def make_map(self, path: str, source: bytes) -> None:
        """Build a map as an administrator would, in place."""
        spec = maps.MapSpec("makemap", "hash", path, f"{path}.db")
        with maps.workdir() as directory:
            built = maps.build(spec, source, directory, programs.tools(os.devnull))
            self.write(f"{path}.db", Path(built.path).read_bytes())

    def approve(self) -> Generation:
        proposal = Proposer(self.host, self.settings).whole_host()
        return commit.commit(self.host, proposal, reason="test")

    def commit(self, **entries: Entry) -> Generation:
        """Commit the current generation with these entries in place of theirs."""
        current = Store(self.host).current()
        changed = {entry.path: entry for entry in entries.values()}
        proposal = Proposal({**current.entries, **changed}, current.layout, current.sendmail)
        return commit.commit(self.host, proposal, reason="test")

    def run(self, **settings: object) -> Report:
        changed = replace(self.settings, **settings)  # type: ignore[arg-type] # any of its fields
        return rebuild.run(self.host, changed)

    def current(self) -> Generation:
        return Store(self.host).current()

    def entry(self, path: str) -> Entry:
        return self.current().entries[path]

    def answers(self, path: str) -> str:
        entry = self.entry(path)
        assert entry.spec is not None
        with maps.workdir() as directory:
            content = self.at(path).read_bytes()
            return maps.answers_of(content, entry.spec, directory, programs.tools(os.devnull))

    def remove(self) -> None:
        for directory, _, files in os.walk(self.root):
            for name in files:
                path = os.path.join(directory, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    descriptor = os.open(path, os.O_RDONLY)
                    flags.hold_flags(descriptor, "")
                    os.close(descriptor)
        shutil.rmtree(self.root)


@pytest.fixture
def mail(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailHost]:
    monkeypatch.setenv(maps.PROGRAMS, str(programs.directory()))
    made = MailHost(Path(tempfile.mkdtemp(prefix="hardend-rebuild-", dir="/var/tmp")))
    made.write("/etc/mail/sendmail.cf", CF)
    made.write("/etc/mail/access", ACCESS)
    made.write("/etc/mail/virtusertable", USERS)
    made.at("/var/spool/mqueue").mkdir(parents=True)
    made.make_map("/etc/mail/access", ACCESS)
    made.make_map("/etc/mail/virtusertable", USERS)
    made.approve()
    yield made
    made.remove()


def test_the_premise_both_maps_are_held_by_their_answers(mail: MailHost) -> None:
    for path in ("/etc/mail/access.db", "/etc/mail/virtusertable.db"):
        assert mail.entry(path).role is Role.MAP
        assert not mail.entry(path).opaque
        assert mail.entry(path).answers
    assert mail.entry("/etc/mail/virtusertable").cls is Class.CHECKED
    assert mail.entry("/etc/mail/access").cls is Class.LOCKED


def test_a_right_map_is_left_alone(mail: MailHost) -> None:
    before = mail.at("/etc/mail/access.db").stat()
    report = mail.run()
    assert report.problems == []
    assert report.maps["/etc/mail/access.db"] == "answers as approved"
    assert mail.at("/etc/mail/access.db").stat().st_ino == before.st_ino
    assert mail.current().number == 1


def test_other_bytes_with_the_same_answers_are_left_alone(mail: MailHost) -> None:
    mail.make_map("/etc/mail/access", ACCESS)
    content = mail.at("/etc/mail/access.db").read_bytes()
    assert maps.copy_live(mail.host, "/etc/mail/access.db").digest != (  # type: ignore[union-attr]
        mail.entry("/etc/mail/access.db").digest
    )
    assert mail.run().problems == []
    assert mail.at("/etc/mail/access.db").read_bytes() == content


@pytest.mark.parametrize("wrong", ["other answers", "garbage", "empty"])
def test_a_map_that_answers_wrongly_is_replaced_by_the_stored_one(
    mail: MailHost, wrong: str
) -> None:
    if wrong == "other answers":
        mail.make_map("/etc/mail/access", b"evil.example\tRELAY\n")
    else:
        mail.write("/etc/mail/access.db", b"garbage" if wrong == "garbage" else b"")
    report = mail.run()
    assert report.problems == []
    assert report.maps["/etc/mail/access.db"].startswith("put back")
    assert mail.answers("/etc/mail/access.db") == mail.entry("/etc/mail/access.db").answers
    assert mail.current().number == 1


def test_observing_changes_nothing_and_says_what_differs(mail: MailHost) -> None:
    mail.write("/etc/mail/access.db", b"garbage")
    mail.write("/etc/mail/virtusertable", b"x@a.example\tbob\n")
    report = mail.run(mode=Mode.OBSERVE)
    assert report.problems == ["/etc/mail/access.db: no readable map"]
    assert mail.at("/etc/mail/access.db").read_bytes() == b"garbage"
    assert mail.current().number == 1


def test_while_enforcement_is_off_nothing_is_changed(mail: MailHost) -> None:
    pause.start(mail.host, seconds=60, reason="test", by="test")
    mail.write("/etc/mail/access.db", b"garbage")
    assert mail.run().problems
    assert mail.at("/etc/mail/access.db").read_bytes() == b"garbage"


def test_new_content_of_a_checked_source_is_taken_in_with_its_map(mail: MailHost) -> None:
    new = b"info@a.example\tbob\n"
    mail.write("/etc/mail/virtusertable", new)
    report = mail.run()
    assert report.problems == []
    generation = mail.current()
    assert (generation.number, generation.author) == (2, "checked")
    assert Store(mail.host).object(mail.entry("/etc/mail/virtusertable").digest) == new
    assert mail.at("/etc/mail/virtusertable").read_bytes() == new
    assert mail.answers("/etc/mail/virtusertable.db") == (
        mail.entry("/etc/mail/virtusertable.db").answers
    )
    assert mail.run().problems == []
    assert mail.current().number == 2


def test_a_map_that_the_administrator_made_of_it_is_not_put_back(mail: MailHost) -> None:
    new = b"info@a.example\tcarol\n"
    mail.write("/etc/mail/virtusertable", new)
    mail.make_map("/etc/mail/virtusertable", new)
    assert mail.run().problems == []
    assert mail.answers("/etc/mail/virtusertable.db") == (
        mail.entry("/etc/mail/virtusertable.db").answers
    )


def test_a_checked_source_that_does_not_build_is_not_taken_in(mail: MailHost) -> None:
    mail.write("/etc/mail/virtusertable", b"no-right-hand-side\n")
    report = mail.run()
    assert len(report.problems) == 1
    assert "/etc/mail/virtusertable is not taken in" in report.problems[0]
    assert "no RHS" in report.problems[0]
    assert mail.current().number == 1


def test_content_of_a_locked_source_is_never_taken_in(mail: MailHost) -> None:
    descriptor = os.open(mail.at("/etc/mail/access"), os.O_RDONLY)
    flags.hold_flags(descriptor, "")
    os.close(descriptor)
    mail.write("/etc/mail/access", b"evil.example\tRELAY\n")
    mail.make_map("/etc/mail/access", b"evil.example\tRELAY\n")
    mail.run()
    assert mail.answers("/etc/mail/access.db") == mail.entry("/etc/mail/access.db").answers
    assert mail.current().number == 1


def test_a_map_of_another_library_is_built_anew_once(mail: MailHost) -> None:
    before = mail.entry("/etc/mail/access.db")
    mail.commit(access=replace(before, builder="makemap of yesterday"))
    assert mail.run().problems == []
    after = mail.entry("/etc/mail/access.db")
    assert (mail.current().number, mail.current().author) == (3, "rebuild")
    assert after.builder != "makemap of yesterday"
    assert after.digest != before.digest
    assert after.answers == before.answers
    assert after.mtime_ns >= mail.entry("/etc/mail/access").mtime_ns
    mail.run()
    assert mail.current().number == 3


def test_an_opaque_map_is_not_asked(mail: MailHost) -> None:
    mail.commit(access=replace(mail.entry("/etc/mail/access.db"), opaque=True, answers=""))
    mail.write("/etc/mail/access.db", b"garbage")
    assert "/etc/mail/access.db" not in mail.run().maps
    assert mail.at("/etc/mail/access.db").read_bytes() == b"garbage"


def test_a_missing_map_is_a_problem_where_nobody_may_change(mail: MailHost) -> None:
    mail.at("/etc/mail/access.db").unlink()
    assert mail.run(mode=Mode.OBSERVE).problems == ["/etc/mail/access.db: missing"]


def test_a_machine_without_programs_says_so_and_exchanges_nothing(
    mail: MailHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = maps.Tools("", "", str(mail.at("/etc/mail/sendmail.cf")), 5, str(mail.root))
    monkeypatch.setattr(maps, "tools_for", lambda *_: none)
    mail.make_map("/etc/mail/access", ACCESS)
    content = mail.at("/etc/mail/access.db").read_bytes()
    assert any("there is no makemap" in problem for problem in mail.run().problems)
    assert mail.at("/etc/mail/access.db").read_bytes() == content


def test_a_second_run_waits_for_the_first_and_gives_up(mail: MailHost) -> None:
    os.makedirs(mail.host.run_dir, exist_ok=True)
    with open(os.path.join(mail.host.run_dir, "rebuild.lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RefusedError, match="does not end"):
            mail.run(reload_interval_s=0, command_timeout_s=0)


# The MTA ------------------------------------------------------------------------------------------

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
    passes.mail.at("/bin/true").unlink(missing_ok=True)
    passes.loaded(DRIFTED)
    for _ in range(2):
        made, _ = passes.run()
        assert "mailer local: /bin/true: No such file" in made.problems[0]
    assert stand_in.signals == []
    assert passes.journal.getvalue().count("outcome-failed") == 1


@pytest.fixture(autouse=True)
def mailers(request: pytest.FixtureRequest) -> None:
    """Give the tree the programs that its configuration names."""
    if "mail" in request.fixturenames:
        tree: MailHost = request.getfixturevalue("mail")
        for path in ("/bin/true", "/bin/sh"):
            tree.write(path, b"#!/bin/sh\n")
            tree.at(path).chmod(0o755)


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
