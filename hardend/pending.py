# SPDX-License-Identifier: Apache-2.0
"""What the enforcer counts, and what it leaves for a quieter moment."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hardend.table import Held


@dataclass(slots=True)
class Counters:
    """What state.json publishes as numbers."""

    passes: int = 0
    restores: int = 0
    looks: int = 0


@dataclass(slots=True)
class Pending:
    """Work that the loop does when nothing drifts."""

    stage: deque[Held] = field(default_factory=deque)
    rebuild: bool = False
    collect: bool = False
