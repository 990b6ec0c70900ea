# SPDX-License-Identifier: Apache-2.0
"""The state of a held path: which it is, since when, and when a restored one counts as clean again."""

from __future__ import annotations

import time

from hardend.model import State
from hardend.table import Held

# Nothing is wrong with these now.
QUIET = frozenset({State.CLEAN, State.RESTORED, State.CONTESTED})


def set_state(held: Held, state: State) -> None:
    """Note a state; a clean path has no drift, no reason, and may be exchanged at once."""
    if held.state is state:
        return
    held.state = state
    held.since = time.time()
    if state is State.CLEAN:
        held.reason = ""
        held.drift = frozenset()
        held.next_exchange = 0.0


def calm(held: Held) -> None:
    """Let a restored or contested path become clean when it has been quiet long enough."""
    now = time.monotonic()
    if held.state is State.CONTESTED:
        if held.history.settled(now):
            set_state(held, State.CLEAN)
    elif held.state is State.RESTORED and now - held.history.last > held.history.within_s:
        set_state(held, State.CLEAN)


def clean(held: Held) -> None:
    """Note that a path is as its entry says; a restored one stays so for a while."""
    if held.state in QUIET:
        calm(held)
    else:
        set_state(held, State.CLEAN)
