# SPDX-License-Identifier: Apache-2.0
"""The emergency pause (hardend off): on disk, with an end that a wrong clock cannot move.

The boot clock counts, and a reboot ends the pause.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from hardend import boot
from hardend.model import Host


@dataclass(frozen=True, slots=True)
class Pause:
    """Enforcement is off until the boot clock reads ``until`` (seconds)."""

    until: float
    boot: str
    reason: str
    by: str

    @property
    def remaining_s(self) -> float:
        """Seconds left; 0 when it is over."""
        return max(0.0, self.until - boot.clock())

    def until_text(self) -> str:
        """Return the end as ISO 8601 UTC."""
        end = datetime.fromtimestamp(time.time() + self.remaining_s, UTC)
        return end.isoformat(timespec="seconds")


def _path(host: Host) -> str:
    return os.path.join(host.state_dir, "off.json")


def start(host: Host, *, seconds: float, reason: str, by: str) -> Pause:
    """Write a pause to disk and return it. Raises OSError."""
    pause = Pause(boot.clock() + seconds, boot.identity(host), reason, by)
    os.makedirs(host.state_dir, 0o700, exist_ok=True)
    aside = _path(host) + ".new"
    with open(aside, "w", encoding="utf-8") as file:
        json.dump(
            {"until": pause.until, "boot": pause.boot, "reason": reason, "by": by}, file
        )
        file.flush()
        os.fsync(file.fileno())
    os.rename(aside, _path(host))
    return pause


def read(host: Host) -> Pause | None:
    """Return the pause in force, or None; a damaged file is no pause."""
    try:
        with open(_path(host), encoding="utf-8") as file:
            document = json.load(file)
        pause = Pause(
            float(document["until"]),
            str(document["boot"]),
            str(document["reason"]),
            str(document["by"]),
        )
        pause.until_text()
    except (OSError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return None
    return pause if pause.remaining_s > 0 and pause.boot == boot.identity(host) else None


def end(host: Host) -> None:
    """Remove the pause, in force or not."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(host))
