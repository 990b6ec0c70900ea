# SPDX-License-Identifier: Apache-2.0
"""The metrics: well formed whatever the guard says, true whatever became of it; and their alerts."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardend.alert_spool import DIRECTORY, Spool
from hardend.errors import FileError
from hardend.journal import KINDS, Event, Journal
from hardend.metrics import Metric, render, write
from hardend.model import Host
from hardend.status_view import STALE_AFTER_S
from tests.unit import programs
from tests.unit.test_events import journald as journald  # noqa: PLC0414 - a fixture
from tests.unit.test_events import read, wait_for
from tests.unit.test_status_view import DOCUMENT, Station
from tests.unit.test_varlink import VALUES

SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "etc/prometheus/hardend.rules.yml"
RULE_TESTS = sorted((ROOT / "tests/prometheus").glob("*.test.yml"))
_LINE = re.compile(
    r"(?P<name>hardend_[a-z0-9_]+)"
    r'(?:\{(?P<labels>[a-z]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z]+="(?:[^"\\\n]|\\["\\n])*")*)\})?'
    r" (?P<value>-?[0-9.]+(?:e[+-]?[0-9]+)?|NaN|[+-]Inf)"
)
Samples = dict[str, float]


def parsed(text: str) -> Samples:
    """Return each sample by name and labels; an AssertionError where the format is broken."""
    samples: Samples = {}
    declared: dict[str, str] = {}
    current = ""
    assert text.endswith("\n")
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# HELP "):
            current = line.split(" ", 3)[2]
            assert current not in declared, "families are in one piece"
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == current
            assert kind == ("counter" if name.endswith("_total") else "gauge")
            declared[name] = kind
        else:
            match = _LINE.fullmatch(line)
            assert match, line
            assert match["name"] == current and current in declared
            key = line.rpartition(" ")[0]
            assert key not in samples, "no sample twice"
            samples[key] = float(match["value"])
    return samples


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path)
    yield made
    made.lock.release()


@pytest.fixture
def guarded(station: Station) -> Station:
    assert station.lock.acquire()
    station.publish()
    return station


@pytest.fixture
def told(guarded: Station, journald: tuple[Host, int]) -> Station:
    """The host with a journal in which each kind of event is once, and an alert that waits."""
    journal = Journal(journald[0])
    for kind in Event:
        journal.event(kind, "it happened", path=guarded.host.root)

    def are_there() -> bool:
        journal.flush()  # journald's socket takes ten at a time
        return {record.event for record in read(journald[0], path=guarded.host.root)} == set(Event)

    wait_for(are_there)
    journal.close()
    shutil.copytree(journald[0].at("/run/log/journal"), guarded.host.at("/run/log/journal"))
    spool = Spool(guarded.host)
    spool.open()
    spool.put("a", 4, 1_795_500_002_500_000_000, {})
    return guarded


def test_a_guard_that_runs_tells_all(guarded: Station) -> None:
    samples = parsed(render(guarded.host))
    assert samples["hardend_up"] == 1
    assert samples['hardend_guard{guard="running"}'] == 1
    assert samples['hardend_guard{guard="dead"}'] == 0
    assert samples['hardend_state{state="contested"}'] == 1
    assert samples['hardend_state{state="clean"}'] == 0
    assert samples['hardend_mode{mode="enforce"}'] == 1
    assert samples['hardend_mode{mode="observe"}'] == 0
    assert samples["hardend_restores_total"] == 12
    assert samples["hardend_generation"] == 3
    assert samples['hardend_events_total{channel="hints"}'] == 2
    assert samples["hardend_faults"] == 1
    assert samples["hardend_enforcement_off"] == 1
    assert samples["hardend_off_until_timestamp_seconds"] == 1795503600
    assert samples["hardend_approved_timestamp_seconds"] == 1795500901
    assert samples["hardend_guard_start_timestamp_seconds"] == 1795500000.25
    assert samples["hardend_restore_p99_seconds"] == pytest.approx(90e-6)
    assert {key: value for key, value in samples.items() if key.startswith("hardend_paths{")} == {
        'hardend_paths{state="failed"}': 1,
        'hardend_paths{state="contested"}': 1,
        'hardend_paths{state="drifted"}': 0,
        'hardend_paths{state="restored"}': 1,
    }


def test_names_of_paths_are_shown_and_quoted(guarded: Station) -> None:
    held = {"state": "failed", "since": 5.5, "drift": ["mode"], "reason": ""}
    guarded.publish(paths={'/a"b\\c\n\udcff': held, "/é": held})
    samples = parsed(render(guarded.host))
    shown = '/a\\"b\\\\x5cc\\\\x0a\\\\xff'
    assert samples[f'hardend_path_since_timestamp_seconds{{path="{shown}",state="failed"}}'] == 5.5
    assert samples['hardend_path_since_timestamp_seconds{path="/é",state="failed"}'] == 5.5


def test_a_thousand_paths_are_twenty_series(guarded: Station) -> None:
    paths = {f"/{number:04}": {"state": "drifted", "since": 1.0} for number in range(1000)}
    paths["/z"] = {"state": "failed", "since": 1.0}
    guarded.publish(paths=paths)
    samples = parsed(render(guarded.host))
    named = [key for key in samples if key.startswith("hardend_path_since")]
    assert len(named) == 20
    assert 'hardend_path_since_timestamp_seconds{path="/z",state="failed"}' in named
    assert samples['hardend_paths{state="drifted"}'] == 1000


def unproven(station: Station, guard: str) -> Samples:
    """Return the samples, after a check that they claim nothing that only a guard can know."""
    samples = parsed(render(station.host))
    assert samples["hardend_up"] == 0
    assert samples[f'hardend_guard{{guard="{guard}"}}'] == 1
    names = {key.partition("{")[0] for key in samples}
    assert names <= {
        *("hardend_up", "hardend_guard", "hardend_build_info", "hardend_metrics_timestamp_seconds"),
        "hardend_published_timestamp_seconds",
    }
    return samples


def test_a_guard_that_is_not_there_claims_nothing(station: Station) -> None:
    assert "hardend_published_timestamp_seconds" not in unproven(station, "never_started")
    assert station.lock.acquire()
    station.publish()
    station.publish(heartbeat=Station.ago(STALE_AFTER_S + 0.1))
    published = unproven(station, "hung")["hardend_published_timestamp_seconds"]
    assert published == os.stat(station.host.state_file).st_mtime_ns / 1e9
    station.publish(pid=1)
    unproven(station, "starting")
    station.lock.release()
    unproven(station, "dead")


# What is known without a guard ---------------------------------------------------------------------


def seen(samples: Samples) -> dict[str, float]:
    """Return the events by kind."""
    found = (re.fullmatch(r'hardend_event_timestamp_seconds\{kind="(.*)"\}', key) for key in samples)
    return {match[1]: samples[match[0]] for match in found if match}


@pytest.mark.root
def test_every_kind_of_event_has_the_moment_of_the_last(told: Station, journald: tuple[Host, int]) -> None:
    before = time.time()
    journal = Journal(journald[0])
    journal.event(Event.OVERFLOW, "again", path="/again")
    journal.close()
    wait_for(lambda: read(journald[0], path="/again"))
    shutil.rmtree(told.host.at("/run/log/journal"))
    shutil.copytree(journald[0].at("/run/log/journal"), told.host.at("/run/log/journal"))
    told.lock.release()  # no guard runs: the journal is as good a witness as before
    moments = seen(parsed(render(told.host)))
    assert set(moments) == set(Event)
    last = max(read(journald[0]), key=lambda record: record.time_ns)
    assert moments[Event.OVERFLOW] == last.time_ns / 1e9
    assert {kind for kind, moment in moments.items() if moment >= before} == {Event.OVERFLOW}


@pytest.mark.root
def test_what_somebody_else_sends_is_no_event_of_ours(told: Station, journald: tuple[Host, int]) -> None:
    host, pid = journald
    before = seen(parsed(render(told.host)))
    forged = f"MESSAGE_ID={KINDS[Event.OVERFLOW].message_id}\nMESSAGE=forged\nFORGED=1\n"
    inside = ("nsenter", "--target", str(pid), "--mount", "setpriv", "--reuid", "65534", "--clear-groups")
    subprocess.run([*inside, "logger", "--journald"], input=forged, text=True, check=True, timeout=30)
    where = host.at("/run/log/journal")
    shown = ["journalctl", "-q", "-D", where, "FORGED=1"]
    wait_for(lambda: subprocess.run(shown, capture_output=True, check=True).stdout)
    shutil.rmtree(told.host.at("/run/log/journal"))
    shutil.copytree(where, told.host.at("/run/log/journal"))
    assert seen(parsed(render(told.host))) == before


def test_a_host_without_a_journal_says_nothing_of_events(guarded: Station) -> None:
    assert seen(parsed(render(guarded.host))) == {}


@pytest.mark.root
def test_a_journal_that_is_garbage_spoils_nothing_else(guarded: Station, tmp_path: Path) -> None:
    directory = tmp_path / "run/log/journal/0123456789abcdef0123456789abcdef"
    directory.mkdir(parents=True)
    (directory / "system.journal").write_bytes(os.urandom(1 << 16))
    assert parsed(render(guarded.host))["hardend_up"] == 1


def test_alerts_that_wait_are_counted_with_the_oldest_and_without_tests(guarded: Station) -> None:
    assert "hardend_alerts" not in render(guarded.host)  # nothing was ever to be delivered
    spool = Spool(guarded.host)
    spool.open()
    samples = parsed(render(guarded.host))
    assert samples["hardend_alerts_undelivered"] == 0
    assert "hardend_alerts_oldest_timestamp_seconds" not in samples
    name = spool.put("a", 4, 1_795_500_002_500_000_000, {})
    spool.put("b", 2, 1_795_500_003_000_000_000, {})
    spool.put_test("test", 1_000_000_000, {})
    (Path(guarded.host.at(DIRECTORY)) / "state.json").write_text("{}")
    guarded.lock.release()
    samples = parsed(render(guarded.host))
    assert samples["hardend_up"] == 0
    assert samples["hardend_alerts_undelivered"] == 2
    assert samples["hardend_alerts_oldest_timestamp_seconds"] == 1795500002.5
    spool.remove(name)
    assert parsed(render(guarded.host))["hardend_alerts_oldest_timestamp_seconds"] == 1795500003


def test_the_time_of_writing_is_told(guarded: Station) -> None:
    before = time.time()
    written = parsed(render(guarded.host))["hardend_metrics_timestamp_seconds"]
    assert before <= written <= time.time()


@settings(deadline=None, suppress_health_check=SLOW)
@given(
    st.dictionaries(
        st.sampled_from([key for key in DOCUMENT if key not in {"schema", "pid"}]),
        VALUES | st.floats() | st.just(10**400),
    )
)
def test_whatever_is_published_the_format_holds(guarded: Station, changes: dict[str, Any]) -> None:
    guarded.publish(**changes)
    assert parsed(render(guarded.host))["hardend_up"] == 1


def test_what_the_guard_does_not_say_has_no_sample_and_no_header(guarded: Station) -> None:
    guarded.publish(approved=None, off=None, own_files=None, restore_us={"count": 0}, events={})
    text = render(guarded.host)
    samples = parsed(text)
    assert samples["hardend_enforcement_off"] == 0
    for name in ("approved_", "off_until", "own_files", "restore_p99", "events_total"):
        assert f"hardend_{name}" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (True, "1"),
        (0.5, "0.5"),
        (-3.0, "-3"),
        (9e-05, "9e-05"),
        (1e300, "1e+300"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_a_number_is_written_as_prometheus_reads_it(value: float, text: str) -> None:
    assert list(Metric("hardend_x", "X.", (({}, value),)).lines())[2] == f"hardend_x {text}"


# The file -----------------------------------------------------------------------------------------


def test_the_file_is_for_everybody_to_read_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write(str(tmp_path / "hardend.prom"), "a\n")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "hardend.prom").stat().st_mode) == 0o644


def test_a_reader_sees_one_file_or_the_other_and_no_other_name(tmp_path: Path) -> None:
    target = tmp_path / "hardend.prom"
    texts = {"a" * 100_000, "b" * 200_000}
    target.write_text("a" * 100_000)
    stop = threading.Event()
    seen: set[str] = set()

    def read() -> None:
        while not stop.is_set():
            for path in tmp_path.glob("*.prom"):
                seen.add(f"{path.name} {path.read_text()}")

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(200):
        for text in texts:
            write(str(target), text)
    stop.set()
    reader.join()
    assert seen <= {f"hardend.prom {text}" for text in texts}
    assert os.listdir(tmp_path) == ["hardend.prom"]


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken.prom").mkdir()
    for where in (tmp_path / "taken.prom", tmp_path / "no\nwhere" / "x.prom"):
        with pytest.raises(FileError, match=r"prom: (Is a|No such)"):
            write(str(where), "a\n")
    assert os.listdir(tmp_path) == ["taken.prom"]


def test_the_file_does_not_follow_a_link_to_another(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "hardend.prom").symlink_to("precious")
    write(str(tmp_path / "hardend.prom"), "a\n")
    assert (tmp_path / "precious").read_text() == "kept"
    assert not (tmp_path / "hardend.prom").is_symlink()


def test_the_command_prints_or_writes(guarded: Station, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hardend", "metrics", "--root", guarded.host.root]
    target = tmp_path / "hardend.prom"
    for extra, where in (((), None), (("--output", str(target)), target)):
        done = subprocess.run([*command, *extra], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        text = where.read_text() if where else done.stdout
        assert "hardend_up" in parsed(text)
        assert (done.stdout == "") is bool(where)


# The alerts ---------------------------------------------------------------------------------------


@pytest.mark.root
def test_every_alert_rests_on_metrics_that_are_written_and_is_tested(told: Station) -> None:
    rules, tests = RULES.read_text(), "".join(path.read_text() for path in RULE_TESTS)
    written = {key.partition("{")[0] for key in parsed(render(told.host))}
    used = set()
    for expression in re.findall(r"expr: (.*)", rules):
        used |= set(re.findall(r"hardend_[a-z_]+", expression))
    assert used and used <= written
    kinds = re.findall(r'hardend_event_timestamp_seconds\{kind="([^"]*)"\}', rules)
    assert set(kinds) <= set(Event) and len(kinds) == rules.count("hardend_event_timestamp_seconds")
    alerts = re.findall(r"- alert: (\w+)", rules)
    assert len(alerts) == len(set(alerts)) == rules.count("severity:") == rules.count("description:")
    for alert in alerts:
        assert re.search(rf"\b{alert}\b", tests), f"{alert} is not tested"


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command: list[str] = [str(programs.promtool()), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("words", [("check", "rules", RULES), ("test", "rules", *RULE_TESTS)])
def test_promtool_accepts_the_alerts_and_they_fire_when_they_should(words: tuple[str | Path, ...]) -> None:
    done = promtool(*words)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.root
def test_promtool_finds_nothing_wrong_with_the_metrics(told: Station, tmp_path: Path) -> None:
    write(str(tmp_path / "hardend.prom"), render(told.host))
    with open(tmp_path / "hardend.prom", "rb") as file:
        done = subprocess.run(
            [programs.promtool(), "check", "metrics"], stdin=file, capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
