# SPDX-License-Identifier: Apache-2.0
"""Who the enforcer works with: whoever is told, and whoever watches inodes; the guard, a pass, a test."""

from __future__ import annotations

from typing import Protocol

from hardend.model import Drift
from hardend.table import Held


class Reporter(Protocol):
    """Who is told; called after the path is safe."""

    def drifted(self, held: Held, drift: frozenset[Drift]) -> None:
        """A drift that is reported and not put back."""

    def restored(self, held: Held, drift: frozenset[Drift], taken: str, latency_us: int) -> None:
        """A path is at its baseline again; ``taken`` is the id of what was replaced, or ""."""

    def contested(self, held: Held, drift: frozenset[Drift]) -> None:
        """A path keeps drifting; told once, and again with back-off."""

    def failed(self, held: Held, drift: frozenset[Drift]) -> None:
        """A path could not be put back; ``held.reason`` says why."""

    def unexpected(self, held: Held, name: bytes, taken: str) -> None:
        """Something appeared in a protected directory."""


class Watcher(Protocol):
    """Who watches the inodes."""

    def arm(self, held: Held, descriptor: int) -> None:
        """Watch another inode of the entry, before it is exchanged in."""

    def settle(self, held: Held) -> None:
        """Watch the live inode of the entry, and no older one."""

    def forget(self, held: Held) -> None:
        """Watch nothing of the entry."""
