# SPDX-License-Identifier: Apache-2.0
"""What the MTA has loaded, and what is done about it: only what is known is acted on."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend import mta, mta_memory
from hardend.config import Restart
from hardend.layout import Layout
from hardend.model import Host, MapSpec
from hardend.mta import DRIFTED, UNKNOWN, Action, Kind, Loaded, Process, Seen, Situation
from hardend.mta_memory import Memory

CF = "/etc/mail/sendmail.cf"
NAMES = "/etc/mail/local-host-names"
S = 1_000_000_000
STARTED = 1000 * S
DAEMON = Process(Kind.DAEMON, "boot", 85, 4711, STARTED)
RIGHT = {CF: "right", NAMES: "names"}
OPTIONS = ("DaemonPortOptions=Name=MTA",)
LONG_AGO = {CF: Seen("right", 10 * S), NAMES: Seen("names", 10 * S)}
LOADED = Loaded(DAEMON.identity, STARTED, STARTED, RIGHT, OPTIONS)


def situation(**changes: object) -> Situation:
    usual = Situation(
        baseline=RIGHT,
        options=OPTIONS,
        live=LONG_AGO,
        restart=Restart.WHEN_NEEDED,
        interval_s=60,
        now_ns=2000 * S,
    )
    return replace(usual, **changes)  # type: ignore[arg-type] # any field of it


def judged(
    now: Situation, memory: Loaded | None = None, process: Process | None = DAEMON
) -> mta.Decision:
    loaded = mta.knowledge(process, memory, now) if process else None
    return mta.decide(process, loaded, now)


# What is known ------------------------------------------------------------------------------------


def test_files_that_did_not_change_since_it_started_were_loaded() -> None:
    loaded = mta.knowledge(DAEMON, None, situation())
    assert loaded.digests == RIGHT
    assert loaded.options == OPTIONS


def test_a_file_that_changed_since_is_unknown_though_it_is_right_now() -> None:
    live = {**LONG_AGO, CF: Seen("right", STARTED + 5 * S)}
    loaded = mta.knowledge(DAEMON, None, situation(live=live))
    assert loaded.digests == {CF: UNKNOWN, NAMES: "names"}
    assert loaded.options is None


def test_a_file_that_changed_while_it_may_have_been_read_is_unknown() -> None:
    live = {**LONG_AGO, CF: Seen("right", STARTED - S)}
    assert mta.knowledge(DAEMON, None, situation(live=live)).digests[CF] == UNKNOWN


def test_a_file_that_cannot_be_read_proves_nothing() -> None:
    assert mta.knowledge(DAEMON, None, situation(live={})).digests == {CF: UNKNOWN, NAMES: UNKNOWN}


@pytest.mark.parametrize(
    ("since", "until", "was_drifted"),
    [
        (STARTED - 100 * S, STARTED + 100 * S, True),
        (STARTED - 100 * S, STARTED - S, True),  # -bd reads before it forks
        (STARTED, STARTED + S, True),
        (STARTED - 100 * S, STARTED - 50 * S, False),
        (STARTED + 50 * S, STARTED + 60 * S, False),
    ],
)
def test_a_drift_while_it_read_its_files_was_loaded(
    since: int, until: int, was_drifted: bool
) -> None:
    loaded = mta.knowledge(DAEMON, None, situation(drifts={CF: (since, until)}))
    assert (loaded.digests[CF] == DRIFTED) is was_drifted
    assert loaded.digests[NAMES] == "names"


def test_a_memory_of_the_same_process_counts() -> None:
    memory = replace(LOADED, digests={CF: "older", NAMES: "names"})
    assert mta.knowledge(DAEMON, memory, situation(live={})).digests[CF] == "older"


@pytest.mark.parametrize("identity", [("boot", 85, 4712), ("boot", 86, 4711), ("next", 85, 4711)])
def test_a_memory_of_another_process_does_not_count(identity: tuple[str, int, int]) -> None:
    memory = replace(LOADED, identity=identity)
    assert mta.knowledge(DAEMON, memory, situation(live={})).digests[CF] == UNKNOWN


def test_a_change_that_was_approved_is_no_drift_that_it_loaded() -> None:
    """The exchange of an approval is an interval from the old file's ctime to now."""
    approved = situation(baseline={**RIGHT, CF: "new"}, drifts={CF: (10 * S, 1900 * S)})
    assert mta.knowledge(DAEMON, LOADED, approved).digests[CF] == "right"


def test_a_drift_during_the_reload_is_found_later() -> None:
    memory = replace(LOADED, from_ns=1500 * S, until_ns=1502 * S)
    late = situation(drifts={CF: (1501 * S, 1501 * S + 1)})
    assert mta.knowledge(DAEMON, memory, late).digests[CF] == DRIFTED


def test_the_drift_that_a_reload_answered_does_not_count_again() -> None:
    memory = replace(LOADED, from_ns=1500 * S, until_ns=1502 * S)
    before = situation(drifts={CF: (990 * S, 1499 * S)}, live={})
    assert mta.knowledge(DAEMON, memory, before).digests[CF] == "right"


# What is done -------------------------------------------------------------------------------------


def test_an_mta_with_the_baseline_is_left_alone() -> None:
    assert judged(situation()).action is Action.NONE


def test_an_mta_that_was_stopped_stays_stopped() -> None:
    for restart in Restart:
        assert judged(situation(restart=restart), LOADED, None).action is Action.NONE


def test_what_is_not_known_is_reported_and_not_acted_on() -> None:
    decision = judged(situation(live={}))
    assert decision.action is Action.REPORT_UNKNOWN
    assert CF in decision.reason


@pytest.mark.parametrize("path", [CF, NAMES])
def test_another_file_than_the_baselines_is_reloaded(path: str) -> None:
    memory = replace(LOADED, digests={**RIGHT, path: "older"})
    decision = judged(situation(), memory)
    assert decision.action is Action.HUP
    assert path in decision.reason


def test_a_drift_that_was_loaded_is_reloaded() -> None:
    assert judged(situation(drifts={CF: (STARTED - S, STARTED + S)})).action is Action.HUP


def test_a_drift_that_was_not_loaded_needs_no_reload() -> None:
    assert judged(situation(drifts={CF: (1500 * S, 1501 * S)}), LOADED).action is Action.NONE


def test_a_second_reload_waits_for_the_rest_of_the_interval() -> None:
    memory = replace(LOADED, digests={**RIGHT, CF: "older"})
    decision = judged(situation(acted_ns=1990 * S), memory)
    assert decision.action is Action.WAIT
    assert decision.wait_s == pytest.approx(50)
    assert judged(situation(acted_ns=1940 * S), memory).action is Action.HUP


def test_a_clock_that_was_set_back_does_not_hold_a_reload_off() -> None:
    memory = replace(LOADED, digests={**RIGHT, CF: "older"})
    assert judged(situation(acted_ns=9000 * S), memory).action is Action.HUP


def test_new_options_of_the_sockets_need_a_restart() -> None:
    new = situation(baseline={**RIGHT, CF: "new"}, options=("DaemonPortOptions=Port=2525",))
    assert judged(new, LOADED).action is Action.RESTART


def test_options_of_the_sockets_are_the_daemons_alone() -> None:
    runner = replace(DAEMON, kind=Kind.CLIENT)
    new = situation(baseline={**RIGHT, CF: "new"}, options=("DaemonPortOptions=Port=2525",))
    assert judged(new, LOADED, runner).action is Action.HUP


def test_a_drifted_configuration_is_reloaded_whatever_its_options_were() -> None:
    memory = replace(LOADED, digests={**RIGHT, CF: DRIFTED}, options=("other",))
    assert judged(situation(), memory).action is Action.HUP


def test_never_means_never_and_says_what_differs() -> None:
    memory = replace(LOADED, digests={**RIGHT, CF: "older"})
    decision = judged(situation(restart=Restart.NEVER), memory)
    assert decision.action is Action.NONE
    assert CF in decision.reason


def test_always_restarts_once_after_an_incident() -> None:
    incident = situation(restart=Restart.ALWAYS, drifts={"/etc/aliases": (1500 * S, 1501 * S)})
    assert judged(incident, LOADED).action is Action.RESTART
    assert judged(replace(incident, acted_ns=1900 * S), LOADED).action is Action.NONE
    assert judged(replace(incident, drifts={}), LOADED).action is Action.NONE


@given(
    digests=st.dictionaries(
        st.sampled_from([CF, NAMES]), st.sampled_from(["right", "names", DRIFTED, UNKNOWN, "x"])
    ),
    drifts=st.dictionaries(
        st.sampled_from([CF, NAMES]),
        st.tuples(st.integers(0, 3000), st.integers(0, 3000)).map(
            lambda pair: (min(pair) * S, max(pair) * S)
        ),
    ),
    acted=st.integers(0, 2000),
)
def test_an_action_always_has_a_known_difference_and_keeps_the_interval(
    digests: dict[str, str], drifts: dict[str, tuple[int, int]], acted: int
) -> None:
    memory = replace(LOADED, digests=digests)
    now = situation(drifts=drifts, acted_ns=acted * S)
    decision = judged(now, memory)
    if decision.action in {Action.HUP, Action.RESTART}:
        known = mta.knowledge(DAEMON, memory, now).digests
        assert any(known[path] not in {UNKNOWN, RIGHT[path]} for path in RIGHT)
        assert now.now_ns - now.acted_ns >= 60 * S


# Reading and remembering --------------------------------------------------------------------------


def test_the_options_of_the_sockets_are_read_from_the_configuration() -> None:
    cf = b"O DaemonPortOptions=Name=MTA\n#O DaemonPortOptions=x\nO ClientPortOptions=Addr=::\nO X=1\n"
    assert mta.daemon_options(cf) == ("DaemonPortOptions=Name=MTA", "ClientPortOptions=Addr=::")


def layout(tmp_path: Path, pid_file: Path) -> Layout:
    return Layout(
        profile="debian", mail_dir=str(tmp_path), cf=f"{tmp_path}/a.cf", pid_file=str(pid_file)
    )


@pytest.mark.parametrize("content", ["", "x\n", "0\n", "-1\n", "99999999\n", f"{os.getpid()}\n"])
def test_a_pid_file_that_names_no_sendmail_is_no_mta(tmp_path: Path, content: str) -> None:
    (tmp_path / "pid").write_text(content)
    assert mta.find(Kind.DAEMON, Host(), layout(tmp_path, tmp_path / "pid")) is None


def test_a_tree_runs_no_mta(tmp_path: Path) -> None:
    assert mta.find(Kind.DAEMON, Host(str(tmp_path)), layout(tmp_path, tmp_path / "pid")) is None


def test_what_is_remembered_comes_back(tmp_path: Path) -> None:
    memory = Memory(
        loaded={Kind.DAEMON: LOADED, Kind.CLIENT: replace(LOADED, options=None)},
        acted_ns={Kind.DAEMON: 5},
        told={"daemon reload": "why"},
        verified_ns={CF: 7},
    )
    mta_memory.write(Host(str(tmp_path)), memory)
    assert mta_memory.read(Host(str(tmp_path))) == memory


@pytest.mark.parametrize(
    "damaged", [b"", b"{", b"[]", b'{"schema": 2}', b'{"schema": 1}', b"[" * 100_000, b"\xff"]
)
def test_a_damaged_memory_is_none(tmp_path: Path, damaged: bytes) -> None:
    host = Host(str(tmp_path))
    os.makedirs(host.state_dir)
    Path(host.state_dir, "mta.json").write_bytes(damaged)
    assert mta_memory.read(host) == Memory()


def test_a_configuration_older_than_its_source_forbids_a_restart(tmp_path: Path) -> None:
    mail = tmp_path / "etc/mail"
    (mail / "m4").mkdir(parents=True)
    files = ("sendmail.cf", "sendmail.mc", "access", "access.db", "m4/dialup.m4")
    for name in files:
        (mail / name).touch()
        os.utime(mail / name, ns=(10, 10))
    (mail / "Makefile").write_text(
        "/etc/mail/sendmail.cf : /etc/mail/sendmail.mc \\\n /etc/mail/m4/dialup.m4\n\techo\n"
    )
    where = Layout(
        profile="debian",
        mail_dir="/etc/mail",
        cf=CF,
        mc="/etc/mail/sendmail.mc",
        maps=(MapSpec("makemap", "hash", "/etc/mail/access", "/etc/mail/access.db"),),
    )
    host = Host(str(tmp_path))
    assert mta.stale_builds(host, where) == []
    for name in ("sendmail.mc", "access", "m4/dialup.m4"):
        os.utime(mail / name, ns=(20, 20))
    assert mta.stale_builds(host, where) == [
        f"{CF} is older than /etc/mail/sendmail.mc",
        "/etc/mail/access.db is older than /etc/mail/access",
        f"{CF} is older than /etc/mail/m4/dialup.m4",
    ]
