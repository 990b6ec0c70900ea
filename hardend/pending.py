# SPDX-License-Identifier: Apache-2.0
"""What the enforcer counts, and what it leaves for a quieter moment."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from hardend.model import State
from hardend.table import Held

_ASK_S = 5.0
_JUDGE_S = 60.0  # what the rebuild unit may take until checked content counts as drift


@dataclass(slots=True)
class Counters:
    """What state.json publishes as numbers."""

    passes: int = 0
    restores: int = 0
    looks: int = 0


@dataclass(slots=True)
class Pending:
    """Work that the loop does when nothing drifts.

    ``put_back`` are the paths that somebody wrote and that were put back; ``tell`` starts who tells him.
    """

    stage: deque[Held] = field(default_factory=deque)
    rebuild: bool = False
    collect: bool = False
    tell: bool = False
    put_back: set[str] = field(default_factory=set)

    def ask(self, held: Held) -> None:
        """Have the rebuild unit look at a path; not again at every sweep until it has answered."""
        if (now := time.monotonic()) >= held.ask_at:
            held.ask_at = now + _ASK_S
            self.rebuild = True

    def prove(self, held: Held) -> None:
        """Have the rebuild unit look at what follows from a path whose content was put back; once."""
        if held.history.unproven:
            held.history.unproven = False
            self.rebuild = True

    def prove_if_clean(self, held: Held) -> None:
        """The same for a path that somebody fought over, once that is over."""
        if held.state is State.CLEAN:
            self.prove(held)

    def judge(self, held: Held) -> bool:
        """Have new content of a checked file judged; True when that takes so long that it counts as drift.

        Not asked again when the word is there: it may not stay.
        """
        if held.bad_answers:
            return False
        now = time.monotonic()
        if not held.unverified:
            held.unverified, held.doubted = True, now
        self.ask(held)
        return now - held.doubted > _JUDGE_S

    def note_writer(self, held: Held) -> None:
        """Note that somebody is to be told: of a map, what it is built from."""
        self.put_back.add(held.entry.spec.source if held.entry.spec else held.entry.path)
        self.tell = True
