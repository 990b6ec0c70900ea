# SPDX-License-Identifier: Apache-2.0
"""A tree with hardend's own files in it, and what the journal was told of them."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from pathlib import Path

from hardend.journal import Journal
from hardend.model import Host
from hardend.own_files import OwnFiles, Program

INTERVAL_S = 300.0
MAIN = "/etc/hardend/hardend.toml"
UNIT = "/usr/lib/systemd/system/hardend.service"
PACKAGE = "/usr/lib/hardend/venv/lib/python3.11/site-packages/hardend"
FILES = {
    MAIN: "[guard]\n",
    "/etc/hardend/conf.d/site.toml": "",
    "/etc/hardend/allowed_signers": "a@example.com ssh-ed25519 AAAA\n",
    UNIT: "[Service]\n",
    "/etc/apt/apt.conf.d/90hardend": "x\n",
    "/usr/lib/tmpfiles.d/hardend.conf": "d /run/hardend\n",
    "/usr/sbin/hardend": "#!/bin/sh\n",
}
DROP_IN = "/etc/systemd/system/hardend.service.d"


@dataclass
class Station:
    """A tree with hardend's files in it, and what the journal was told."""

    root: Path
    program: Program | None = None
    said: io.StringIO = field(default_factory=io.StringIO)

    @property
    def host(self) -> Host:
        return Host(str(self.root))

    @property
    def memory(self) -> Path:
        return Path(self.host.state_dir) / "own-files.json"

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def put(self, path: str, text: str = "") -> None:
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).write_text(text, encoding="utf-8")

    def own(self) -> OwnFiles:
        """Return what a guard has before its start."""
        return OwnFiles(self.host, Journal(self.host, stream=self.said), self.program)

    def started(self) -> OwnFiles:
        """Return what a guard has after its start; nothing is due before the interval is over."""
        own = self.own()
        own.begin()
        assert own.step(INTERVAL_S) == INTERVAL_S
        return own

    def told(self) -> list[str]:
        """Return the lines that came since the last call, without their time stamps."""
        lines = self.said.getvalue().splitlines()
        self.said.seek(0)
        self.said.truncate()
        return [re.sub(r"^\S+ \S+: ", "", line) for line in lines]

    def drifts(self) -> dict[str, str]:
        """Return path and drift of each event that was told since the last call."""
        found = {}
        for line in self.told():
            match = re.search(r"^warning: self-changed: .* path=(\S+) drift=(.+)$", line)
            assert match is not None, line
            assert match[1] not in found, line
            found[match[1]] = match[2]
        return found


def whole_pass(own: OwnFiles) -> int:
    """Wait until everything was looked at once; the number of slices that it took."""
    slices = 1
    while own.step(INTERVAL_S) != INTERVAL_S:
        slices += 1
    return slices


def with_files(root: Path) -> Station:
    """Return a tree with one file of each kind."""
    made = Station(root)
    for path, text in FILES.items():
        made.put(path, text)
    return made
