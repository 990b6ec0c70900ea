# SPDX-License-Identifier: Apache-2.0
"""Mounts over protected paths: inotify cannot see them, poll(2) on mountinfo can."""

from __future__ import annotations

import os
from collections import Counter

from hardend.kernel import mounts
from hardend.model import Host
from hardend.table import SANDBOX_MOUNTS


class MountWatch:
    """Knows which mounts were there when the guard started, and which came over a path since."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.descriptor = mounts.open_mountinfo()
        self._at_start = self._count()

    def changed(self, paths: set[str], expected: set[str]) -> list[str]:
        """Return the protected paths that a mount covers, those approved as mount points aside.

        A path of the sandbox's own (/etc, /var/spool) counts from one mount more than at the start.
        """
        now = self._count()
        covered = []
        for path in now.keys() & paths:
            allowed = 1 if path in expected else 0
            if path in SANDBOX_MOUNTS:
                allowed = max(allowed, self._at_start[path])
            if now[path] > allowed:
                covered.append(path)
        return sorted(covered)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)

    def _count(self) -> Counter[str]:
        root = self._host.root.rstrip("/")
        counts: Counter[str] = Counter()
        for _, point in mounts.mount_points(self.descriptor):
            if not root:
                counts[point] += 1
            elif point.startswith(root + "/"):
                counts[point[len(root) :]] += 1
        return counts
