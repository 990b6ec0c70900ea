# SPDX-License-Identifier: Apache-2.0
"""A small mail host tree with two maps, built by Sendmail's real programs and approved."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from hardend import commit, maps, rebuild
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.kernel import flags
from hardend.model import Entry, Host, MapSpec
from hardend.propose import Proposal, Proposer
from hardend.rebuild import Report
from tests.unit import programs

ACCESS = b"a.example\tREJECT\n"
USERS = b"info@a.example\talice\n"
CF = (
    programs.CF
    + b"Kaccess hash -T<TMPF> /etc/mail/access\nKvirtuser hash /etc/mail/virtusertable\n"
    + b"O QueueDirectory=/var/spool/mqueue\n"
)


@dataclass
class MailHost:
    """A tree with two maps, approved."""

    root: Path
    settings: Settings = field(default_factory=Settings)

    @property
    def host(self) -> Host:
        return Host(str(self.root))

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def write(self, path: str, content: bytes) -> None:
        place = self.at(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)

    def make_map(self, path: str, source: bytes) -> None:
        """Build a map as an administrator would, in place."""
        spec = MapSpec("makemap", "hash", path, f"{path}.db")
        with maps.workdir() as directory:
            built = maps.build(spec, source, directory, programs.tools(os.devnull))
            self.write(f"{path}.db", Path(built.path).read_bytes())

    def approve(self) -> Generation:
        proposal = Proposer(self.host, self.settings).whole_host()
        return commit.commit(self.host, proposal, reason="test")

    def commit(self, **entries: Entry) -> Generation:
        """Commit the current generation with these entries in place of theirs."""
        current = Store(self.host).current()
        changed = {entry.path: entry for entry in entries.values()}
        proposal = Proposal({**current.entries, **changed}, current.layout, current.sendmail)
        return commit.commit(self.host, proposal, reason="test")

    def run(self, **settings: object) -> Report:
        changed = replace(self.settings, **settings)  # type: ignore[arg-type] # any of its fields
        return rebuild.run(self.host, changed)

    def current(self) -> Generation:
        return Store(self.host).current()

    def entry(self, path: str) -> Entry:
        return self.current().entries[path]

    def answers(self, path: str) -> str:
        entry = self.entry(path)
        assert entry.spec is not None
        with maps.workdir() as directory:
            content = self.at(path).read_bytes()
            return maps.answers_of(content, entry.spec, directory, programs.tools(os.devnull))

    def remove(self) -> None:
        for directory, _, files in os.walk(self.root):
            for name in files:
                path = os.path.join(directory, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    descriptor = os.open(path, os.O_RDONLY)
                    flags.hold_flags(descriptor, "")
                    os.close(descriptor)
        shutil.rmtree(self.root)


@pytest.fixture
def mail(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailHost]:
    monkeypatch.setenv(maps.PROGRAMS, str(programs.directory()))
    made = MailHost(Path(tempfile.mkdtemp(prefix="hardend-rebuild-", dir="/var/tmp")))
    made.write("/etc/mail/sendmail.cf", CF)
    made.write("/etc/mail/access", ACCESS)
    made.write("/etc/mail/virtusertable", USERS)
    made.at("/var/spool/mqueue").mkdir(parents=True)
    for program in ("/bin/true", "/bin/sh"):
        made.write(program, b"#!/bin/sh\n")
        made.at(program).chmod(0o755)
    made.make_map("/etc/mail/access", ACCESS)
    made.make_map("/etc/mail/virtusertable", USERS)
    made.approve()
    yield made
    made.remove()
