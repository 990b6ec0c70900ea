# SPDX-License-Identifier: Apache-2.0
"""Work that is too slow or too privileged for the guard: started, never waited for.

As units where systemd runs this host, as children otherwise; one of each kind at a time, and a
request that comes meanwhile runs once more afterwards.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

from hardend.kernel.mounts import unmount
from hardend.model import Host

_GAP_S = 0.2
_GAPS_S = {"tell": 5.0}  # nobody reads faster
_SYSTEMCTL = "/usr/bin/systemctl"
_BOOTED = "/run/systemd/system"


class Jobs:
    """Starts hardend-collect and hardend-rebuild, and the helper that unmounts."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._units = not host.is_tree and os.path.isdir(_BOOTED)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._last: dict[str, float] = {}
        self.started = {"collect": 0, "rebuild": 0, "umount": 0}

    def start(self, verb: str) -> bool:
        """Start a job; False when one of its kind runs or was started a moment ago: ask again."""
        now = time.monotonic()
        if verb in self._running or now - self._last.get(verb, 0.0) < _GAPS_S.get(verb, _GAP_S):
            return False
        command = (
            [_SYSTEMCTL, "start", f"hardend-{verb}.service"]
            if self._units
            else [sys.executable, "-m", "hardend", verb, "--root", self._host.root, "--quiet"]
        )
        self._spawn(verb, command)
        return True

    def is_running(self, verb: str) -> bool:
        """Return whether a job that was started here has not ended yet."""
        return verb in self._running

    def unmount(self, path: str) -> None:
        """Have a mount over a protected path taken away; inside the sandbox only a helper can."""
        self.started["umount"] += 1
        if not self._units:
            with contextlib.suppress(OSError):
                unmount(self._host.at(path))
            return
        instance = escape_path(path)
        self._spawn(
            f"umount {path}",
            [_SYSTEMCTL, "start", "--no-block", f"hardend-umount@{instance}.service"],
        )

    def reap(self) -> None:
        """Collect children that ended."""
        for name, child in list(self._running.items()):
            if child.poll() is not None:
                del self._running[name]

    def _spawn(self, name: str, command: list[str]) -> None:
        self._last[name] = time.monotonic()
        if name in self.started:
            self.started[name] += 1
        with contextlib.suppress(OSError):
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
            )


def escape_path(path: str) -> str:
    """Return a path as systemd-escape --path writes it (systemd.unit(5), string escaping)."""
    plain = path.strip("/")
    if not plain:
        return "-"
    shown = []
    for index, byte in enumerate(os.fsencode(plain)):
        char = chr(byte)
        if char == "/":
            shown.append("-")
        elif (char.isalnum() and byte < 0x80) or char in ":_" or (char == "." and index):  # noqa: PLR2004
            shown.append(char)
        else:
            shown.append(f"\\x{byte:02x}")
    return "".join(shown)
