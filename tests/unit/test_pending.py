# SPDX-License-Identifier: Apache-2.0
"""What the enforcer leaves for later: asking the rebuild unit, and who is to be told."""

from __future__ import annotations

import pytest

from hardend import pending
from hardend.model import Class, Entry, FileType, MapSpec, Role
from hardend.pending import Pending
from hardend.reconcile import History
from hardend.table import Held


def held(path: str = "/etc/mail/access", spec: MapSpec | None = None) -> Held:
    role = Role.MAP if spec is not None else Role.SOURCE
    entry = Entry(path, role, Class.CHECKED, FileType.FILE, 0, 0, 0o644, spec=spec)
    return Held(entry, None, path.encode(), History(10, 60))


def test_new_content_is_in_doubt_and_asked_for_once_in_a_while() -> None:
    work, access = Pending(), held()
    assert not work.judge(access)
    assert work.rebuild and access.unverified
    work.rebuild = False
    assert not work.judge(access)
    assert not work.rebuild


def test_content_that_nobody_judges_counts_as_drift_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    work, access = Pending(), held()
    assert not work.judge(access)
    monkeypatch.setattr(pending, "_JUDGE_S", -1.0)
    assert work.judge(access)


def test_content_that_was_refused_is_not_asked_for_again() -> None:
    work, access = Pending(), held()
    access.bad_answers = True
    assert not work.judge(access)
    assert not work.rebuild


def test_who_wrote_a_map_is_told_of_what_it_is_built_from() -> None:
    work = Pending()
    spec = MapSpec("makemap", "hash", "/etc/mail/access", "/etc/mail/access.db")
    work.note_writer(held("/etc/mail/access.db", spec))
    work.note_writer(held())
    assert work.tell
    assert work.put_back == {"/etc/mail/access"}
