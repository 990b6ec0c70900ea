# SPDX-License-Identifier: Apache-2.0
"""The judgement: what differs, what is done about it, and when a fight is told."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.model import Class, Drift, Entry, FileType, Mode, Role
from hardend.observe import Actual
from hardend.reconcile import Act, History, compare, decide

ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"
FILE = Entry(
    path="/etc/mail/sendmail.cf",
    role=Role.SOURCE,
    cls=Class.LOCKED,
    kind=FileType.FILE,
    uid=0,
    gid=25,
    mode=0o644,
    flags="i",
    mtime_ns=1000,
    size=4,
    digest="d" * 64,
    xattrs=(("user.a", "01"),),
)
LIVE = Actual(
    kind=FileType.FILE,
    uid=0,
    gid=25,
    mode=0o644,
    mtime_ns=1000,
    size=4,
    flags="i",
    xattrs=(("user.a", "01"),),
    digest="d" * 64,
)
SEEN = replace(LIVE, flags=None, xattrs=None, digest=None)  # what lstat alone tells
CHECKED = replace(FILE, cls=Class.CHECKED)
SECRET = replace(FILE, cls=Class.ATTRIBUTES, digest="", size=0)
MAP = replace(FILE, role=Role.MAP)
OPAQUE = replace(MAP, opaque=True, digest="", size=0)
LINK = Entry(
    "/etc/mail/aliases", Role.LINK, Class.LOCKED, FileType.SYMLINK, 0, 0, 0o777, target="../aliases"
)
LIVE_LINK = Actual(FileType.SYMLINK, 0, 0, 0o777, 0, 10, target="../aliases")
QUEUE = Entry("/var/spool/mqueue", Role.QUEUE, Class.LOCKED, FileType.DIRECTORY, 0, 0, 0o700)
LIVE_QUEUE = Actual(FileType.DIRECTORY, 0, 0, 0o700, 77, 4096, flags="", xattrs=())

COMPARED: dict[str, tuple[Entry, Actual | None, set[Drift]]] = {
    "as approved": (FILE, LIVE, set()),
    "as approved, by lstat": (FILE, SEEN, set()),
    "gone": (FILE, None, {Drift.MISSING}),
    "owner": (FILE, replace(LIVE, uid=8), {Drift.OWNER}),
    "group": (FILE, replace(LIVE, gid=8), {Drift.GROUP}),
    "mode": (FILE, replace(LIVE, mode=0o666), {Drift.MODE}),
    "setuid": (FILE, replace(LIVE, mode=0o4644), {Drift.MODE}),
    "unlocked": (FILE, replace(LIVE, flags=""), {Drift.FLAGS}),
    "append only too": (FILE, replace(LIVE, flags="ia"), {Drift.FLAGS}),
    "no inode flags here": (FILE, replace(LIVE, flags=None), set()),
    "content": (FILE, replace(LIVE, digest="e" * 64), {Drift.CONTENT}),
    "changed while it was read": (FILE, replace(LIVE, digest=""), {Drift.CONTENT}),
    "size, by lstat": (FILE, replace(SEEN, size=5), {Drift.CONTENT}),
    "size is not asked where bytes are": (FILE, replace(LIVE, size=5), set()),
    "time": (FILE, replace(LIVE, mtime_ns=1001), {Drift.STALE}),
    "attribute added": (FILE, replace(LIVE, xattrs=(("user.a", "01"), ("user.b", ""))), {Drift.XATTR}),
    "attribute removed": (FILE, replace(LIVE, xattrs=()), {Drift.XATTR}),
    "attribute changed": (FILE, replace(LIVE, xattrs=(("user.a", "02"),)), {Drift.XATTR}),
    "acl added": (FILE, replace(LIVE, xattrs=((ACL, "02"), ("user.a", "01"))), {Drift.ACL}),
    "acl for attribute": (FILE, replace(LIVE, xattrs=((ACL, "02"),)), {Drift.ACL, Drift.XATTR}),
    "a directory in its place": (FILE, LIVE_QUEUE, {Drift.TYPE}),
    "a link in its place": (FILE, LIVE_LINK, {Drift.TYPE}),
    "everything": (
        FILE,
        Actual(FileType.FILE, 1, 1, 0, 0, 9, "", (), "e" * 64),
        {Drift.OWNER, Drift.GROUP, Drift.MODE, Drift.FLAGS, Drift.XATTR, Drift.CONTENT, Drift.STALE},
    ),
    "checked: content": (CHECKED, replace(LIVE, digest="e" * 64), {Drift.CONTENT}),
    "checked: a new time comes with new content": (CHECKED, replace(LIVE, mtime_ns=7), set()),
    "secret: content may change": (SECRET, replace(LIVE, size=9, mtime_ns=7, digest="e" * 64), set()),
    "secret: mode may not": (SECRET, replace(LIVE, mode=0o666), {Drift.MODE}),
    "map: bytes are not what it answers": (MAP, replace(LIVE, size=9, mtime_ns=7, digest="e" * 64), set()),
    "map: owner": (MAP, replace(LIVE, uid=5), {Drift.OWNER}),
    "link": (LINK, LIVE_LINK, set()),
    "link: retargeted": (LINK, replace(LIVE_LINK, target="/bin/sh"), {Drift.TARGET}),
    "link: target not read": (LINK, replace(LIVE_LINK, target=None), set()),
    "link: its mode means nothing": (LINK, replace(LIVE_LINK, mode=0o755), set()),
    "link: owner": (LINK, replace(LIVE_LINK, uid=3), {Drift.OWNER}),
    "queue": (QUEUE, LIVE_QUEUE, set()),
    "queue: its churn is no drift": (QUEUE, replace(LIVE_QUEUE, mtime_ns=99, size=8192), set()),
    "queue: mode": (QUEUE, replace(LIVE_QUEUE, mode=0o777), {Drift.MODE}),
    "queue: default acl": (QUEUE, replace(LIVE_QUEUE, xattrs=((DEFAULT_ACL, "02"),)), {Drift.ACL}),
}


@pytest.mark.parametrize("what", COMPARED)
def test_every_difference_is_named(what: str) -> None:
    entry, actual, drift = COMPARED[what]
    assert compare(entry, actual) == drift


DECIDED: list[tuple[Entry, set[Drift], Act]] = [
    (FILE, {Drift.FLAGS}, Act.RELOCK),
    (FILE, {Drift.CONTENT}, Act.EXCHANGE),
    (FILE, {Drift.CONTENT, Drift.FLAGS}, Act.EXCHANGE),
    (FILE, {Drift.MODE}, Act.EXCHANGE),
    (FILE, {Drift.STALE}, Act.EXCHANGE),
    (FILE, {Drift.MISSING}, Act.EXCHANGE),
    (FILE, {Drift.TYPE}, Act.EXCHANGE),
    (CHECKED, {Drift.CONTENT}, Act.REBUILD),
    (CHECKED, {Drift.CONTENT, Drift.STALE}, Act.REBUILD),
    (CHECKED, {Drift.CONTENT, Drift.MODE}, Act.AMEND),
    (CHECKED, {Drift.CONTENT, Drift.FLAGS}, Act.AMEND),
    (CHECKED, {Drift.OWNER}, Act.AMEND),
    (CHECKED, {Drift.TYPE}, Act.EXCHANGE),
    (CHECKED, {Drift.MISSING}, Act.EXCHANGE),
    (SECRET, {Drift.MODE}, Act.AMEND),
    (SECRET, {Drift.FLAGS}, Act.RELOCK),
    (SECRET, {Drift.ACL, Drift.OWNER}, Act.AMEND),
    (SECRET, {Drift.MISSING}, Act.REPORT),
    (SECRET, {Drift.TYPE}, Act.REPORT),
    (MAP, {Drift.MODE}, Act.AMEND),
    (MAP, {Drift.CONTENT}, Act.EXCHANGE),
    (MAP, {Drift.MISSING}, Act.EXCHANGE),
    (MAP, {Drift.TYPE}, Act.EXCHANGE),
    (OPAQUE, {Drift.MODE}, Act.AMEND),
    (OPAQUE, {Drift.MISSING}, Act.REPORT),
    (LINK, {Drift.TARGET}, Act.EXCHANGE),
    (LINK, {Drift.MISSING}, Act.EXCHANGE),
    (LINK, {Drift.OWNER}, Act.EXCHANGE),
    (QUEUE, {Drift.MODE}, Act.AMEND),
    (QUEUE, {Drift.MISSING}, Act.AMEND),
    (QUEUE, {Drift.TYPE}, Act.AMEND),
    *(
        (replace(QUEUE, role=role), {Drift.OWNER}, Act.AMEND)
        for role in (Role.ANCESTOR, Role.DIRECTORY, Role.CLOSED)
    ),
]


@pytest.mark.parametrize(
    ("entry", "drift", "act"), DECIDED, ids=lambda item: getattr(item, "role", None) or str(item)
)
def test_every_drift_has_its_act(entry: Entry, drift: set[Drift], act: Act) -> None:
    assert decide(entry, frozenset(drift), Mode.ENFORCE) is act


@given(
    st.sampled_from([FILE, CHECKED, SECRET, MAP, OPAQUE, LINK, QUEUE]),
    st.frozensets(st.sampled_from(Drift), min_size=1),
)
def test_observing_only_reports_and_no_drift_is_overlooked(entry: Entry, drift: frozenset[Drift]) -> None:
    assert decide(entry, drift, Mode.OBSERVE) is Act.REPORT
    assert decide(entry, frozenset(), Mode.OBSERVE) is Act.NOTHING
    assert decide(entry, frozenset(), Mode.ENFORCE) is Act.NOTHING
    assert decide(entry, drift, Mode.ENFORCE) is not Act.NOTHING


@given(st.sampled_from([FILE, LINK]), st.frozensets(st.sampled_from(Drift), min_size=1))
def test_a_path_whose_content_is_held_is_never_only_amended(entry: Entry, drift: frozenset[Drift]) -> None:
    assert decide(entry, drift, Mode.ENFORCE) in {Act.RELOCK, Act.EXCHANGE, Act.REBUILD}


def test_a_fight_is_told_when_it_begins_and_again_with_growing_pauses() -> None:
    history = History(count=3, within_s=10)
    told = [now for now in range(1000, 1600) if history.note(float(now))]
    assert told == [1000, 1001, 1002, 1062, 1182, 1422]
    assert history.contested
    assert history.restores == 600


def test_the_pause_grows_to_an_hour_and_no_further() -> None:
    history = History(count=1, within_s=100)
    told = [now for now in range(1, 30_000, 50) if history.note(float(now))]
    pauses = [after - before for before, after in pairwise(told)]
    assert pauses == sorted(pauses)
    assert 3600 <= pauses[-1] < 3700


def test_drifts_that_are_far_apart_are_no_fight() -> None:
    history = History(count=3, within_s=10)
    assert all(history.note(float(now)) for now in range(100, 1000, 6))
    assert not history.contested


def _state(history: History) -> tuple[bool, str]:
    return history.contested, history.incident


def test_a_fight_is_over_when_the_path_was_left_alone_long_enough() -> None:
    history = History(count=2, within_s=10, incident="first")
    history.note(100.0)
    history.note(101.0)
    assert _state(history) == (True, "first")
    assert not history.settled(111.0)  # ten seconds to the dot
    assert _state(history) == (True, "first")
    assert history.settled(111.1)
    assert _state(history) == (False, "")
    assert history.restores == history.kept == 0
    assert not history.settled(200.0)  # and is told once
    assert history.note(201.0)  # a new one begins at its beginning
    assert _state(history) == (False, "")


def test_a_path_that_was_never_in_a_fight_does_not_settle() -> None:
    history = History(count=2, within_s=10)
    assert not history.settled(1e9)
    history.note(1.0)
    assert not history.settled(1e9)


@given(st.integers(1, 20), st.floats(0.1, 100), st.lists(st.floats(0, 50), max_size=60))
def test_a_history_remembers_no_more_than_its_span(count: int, span: float, gaps: list[float]) -> None:
    history = History(count, span)
    now = 1.0
    for gap in gaps:
        now += gap
        history.note(now)
        assert all(now - then <= span for then in history.times)
        assert history.contested >= (len(history.times) >= count)
