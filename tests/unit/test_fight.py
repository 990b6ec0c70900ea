# SPDX-License-Identifier: Apache-2.0
"""A fight: what is gone while it is put back, and what is proven once it is over."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from hardend.aside import Aside

if TYPE_CHECKING:
    from hardend.enforcer import Enforcer
    from tests.unit.conftest import Tree

pytestmark = pytest.mark.root
CF = "/etc/mail/sendmail.cf"


def asked(enforcer: Enforcer) -> bool:
    """Return whether a rebuild was asked for, and forget it."""
    was, enforcer.pending.rebuild = enforcer.pending.rebuild, False
    return was


def test_content_that_was_put_back_in_a_fight_over_a_lock_is_proven_when_it_is_over(tree: Tree) -> None:
    tree.settings = replace(tree.settings, contested_count=3, contested_within_s=1)
    enforcer = tree.guard()
    for _ in range(5):
        tree.unlock(CF)
        enforcer.look(enforcer.table.by_path[CF])
    assert tree.recorder.contested_paths == [CF]
    asked(enforcer)
    tree.unlock(CF)
    tree.at(CF).write_bytes(b"evil")
    enforcer.look(enforcer.table.by_path[CF])
    assert tree.drifts() == {}
    assert not asked(enforcer)  # the fight goes on: not each time
    time.sleep(1.1)
    enforcer.full_pass(thorough=False)
    assert asked(enforcer)
    enforcer.full_pass(thorough=True)
    assert not asked(enforcer)


def test_a_directory_that_is_home_is_not_taken_for_the_impostor_that_went(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforcer = tree.guard()
    mail, away = tree.at("/etc/mail"), tree.at("/etc/away")
    inode = mail.stat().st_ino
    mail.rename(away)
    mail.mkdir()
    take = Aside.take

    def take_too_late(self: Aside, *words: Any, **more: Any) -> Any:
        if away.exists():
            away.rmdir()  # the impostor, exchanged out by now
        return take(self, *words, **more)

    monkeypatch.setattr(Aside, "take", take_too_late)
    enforcer.full_pass(thorough=False)
    assert mail.stat().st_ino == inode
    assert tree.drifts() == {}
    assert tree.taken() == []
