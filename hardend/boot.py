# SPDX-License-Identifier: Apache-2.0
"""Which boot this is, and the clock that nobody can set.

Not /proc/sys/kernel/random/boot_id: a container has one of its own, and a sandboxed unit in it sees
the other. /run is empty after every boot, so a name that was put there is this boot's.
"""

from __future__ import annotations

import os
import time
import uuid

from hardend.model import Host


def clock() -> float:
    """Return seconds since boot, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def identity(host: Host) -> str:
    """Return the name of this boot, making one where there is none yet (root). Raises OSError."""
    path = os.path.join(host.run_dir, "boot")
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        pass
    os.makedirs(host.run_dir, 0o755, exist_ok=True)
    aside = f"{path}.{os.getpid()}"
    with open(aside, "w", encoding="ascii") as file:
        file.write(f"{uuid.uuid4()}\n")
    try:
        os.link(aside, path)  # fails where another process was first
    except FileExistsError:
        pass
    finally:
        os.unlink(aside)
    return identity(host)
