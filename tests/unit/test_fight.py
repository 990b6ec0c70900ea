# SPDX-License-Identifier: Apache-2.0
"""After a fight: what follows from content that was put back in it is proven once it is over."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

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
