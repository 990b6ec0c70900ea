# SPDX-License-Identifier: Apache-2.0
"""A small mail host tree with an enforcer on it; real files, real flags, no daemon."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.capture import Reader, entry_of
from hardend.config import Settings
from hardend.enforcer import Enforcer
from hardend.kernel import flags
from hardend.model import Class, Drift, Entry, Host, Protected, Role
from hardend.table import Held

CF = b"# sendmail.cf\nO PrivacyOptions=goaway\n"
ACCESS = b"Connect:127.0.0.1\tRELAY\n"


@dataclass
class Recorder:
    """A reporter and a watcher that remember."""

    restored_paths: list[tuple[str, frozenset[Drift]]] = field(default_factory=list)
    drifted_paths: list[tuple[str, frozenset[Drift]]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    contested_paths: list[str] = field(default_factory=list)
    strangers: list[tuple[str, str]] = field(default_factory=list)

    def drifted(self, held: Held, drift: frozenset[Drift]) -> None:
        self.drifted_paths.append((held.entry.path, drift))

    def restored(self, held: Held, drift: frozenset[Drift], taken: str, latency_us: int) -> None:
        assert latency_us >= 0
        assert isinstance(taken, str)
        self.restored_paths.append((held.entry.path, drift))

    def contested(self, held: Held, drift: frozenset[Drift]) -> None:
        assert drift
        self.contested_paths.append(held.entry.path)

    def failed(self, held: Held, drift: frozenset[Drift]) -> None:
        assert isinstance(drift, frozenset)
        self.failures[held.entry.path] = held.reason

    def unexpected(self, held: Held, name: bytes, taken: str) -> None:
        self.strangers.append((os.path.join(held.entry.path, os.fsdecode(name)), taken))

    def arm(self, held: Held, descriptor: int) -> None:
        assert descriptor >= 0
        assert held.entry.path

    def settle(self, held: Held) -> None:
        assert held.entry.path

    def forget(self, held: Held) -> None:
        assert held.entry.path


PROTECTED = (
    Protected("/", Role.ANCESTOR, Class.LOCKED),
    Protected("/etc", Role.ANCESTOR, Class.LOCKED),
    Protected("/etc/mail", Role.DIRECTORY, Class.LOCKED),
    Protected("/etc/mail/access", Role.SOURCE, Class.LOCKED, immutable=True),
    Protected("/etc/mail/authinfo", Role.SOURCE, Class.ATTRIBUTES),
    Protected("/etc/mail/link", Role.LINK, Class.LOCKED),
    Protected("/etc/mail/sendmail.cf", Role.SOURCE, Class.LOCKED, immutable=True),
    Protected("/etc/mail/smrsh", Role.CLOSED, Class.LOCKED),
    Protected("/etc/mail/smrsh/mail", Role.LINK, Class.LOCKED),
    Protected("/var", Role.ANCESTOR, Class.LOCKED),
    Protected("/var/spool", Role.ANCESTOR, Class.LOCKED),
    Protected("/var/spool/mqueue", Role.QUEUE, Class.LOCKED),
)


@dataclass
class Tree:
    """The tree, its baseline and what is on it."""

    root: Path
    settings: Settings = field(default_factory=Settings)
    recorder: Recorder = field(default_factory=Recorder)
    enforcer: Enforcer | None = None

    @property
    def host(self) -> Host:
        return Host(str(self.root))

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def make(self) -> None:
        for directory in ("etc/mail/smrsh", "var/spool/mqueue"):
            self.at(directory).mkdir(parents=True)
        self.at("/etc/mail/sendmail.cf").write_bytes(CF)
        self.at("/etc/mail/access").write_bytes(ACCESS)
        self.at("/etc/mail/authinfo").write_bytes(b"secret")
        self.at("/etc/mail/authinfo").chmod(0o600)
        self.at("/etc/mail/link").symlink_to("../aliases")
        self.at("/etc/mail/smrsh/mail").symlink_to("/bin/mail")
        self.at("/var/spool/mqueue").chmod(0o700)

    def generation(self, number: int = 1) -> Generation:
        store = Store(self.host)
        reader = Reader(self.host)
        entries: dict[str, Entry] = {}
        for protected in PROTECTED:
            content = protected.role is Role.SOURCE and protected.cls is Class.LOCKED
            live = reader.read(protected.path, content=content)
            assert live is not None
            entries[protected.path] = entry_of(protected, live, store)
        reader.close()
        return Generation(
            number=number,
            parent="",
            time="2026-11-24T00:00:00+00:00",
            author="test",
            reason="first",
            layout="debian",
            hardend="0",
            sendmail="8.17",
            entries=entries,
        )

    def guard(self) -> Enforcer:
        """Approve the tree as it is and put an enforcer on it, spares staged."""
        store = Store(self.host)
        generation = self.generation()
        with store.locked():
            store.add_generation(generation)
        return self.start(generation)

    def start(self, generation: Generation) -> Enforcer:
        recorder = self.recorder
        enforcer = Enforcer(self.host, self.settings, Store(self.host), recorder, recorder)
        enforcer.load(generation, strict=True)
        enforcer.full_pass(thorough=True)
        self.stage(enforcer)
        self.enforcer = enforcer
        recorder.restored_paths.clear()
        return enforcer

    @staticmethod
    def stage(enforcer: Enforcer) -> None:
        while enforcer.pending.stage:
            enforcer.stage_next()

    def drifts(self) -> dict[str, frozenset[Drift]]:
        """Compare everything with the baseline by fresh eyes."""
        from hardend.capture import drift_of

        reader = Reader(self.host)
        generation = Store(self.host).current()
        found = {path: drift_of(entry, reader) for path, entry in generation.entries.items()}
        reader.close()
        return {path: drift for path, drift in found.items() if drift}

    def unlock(self, path: str) -> None:
        descriptor = os.open(self.at(path), os.O_RDONLY)
        flags.hold_flags(descriptor, "")
        os.close(descriptor)

    def taken(self) -> list[str]:
        return sorted(name for name in os.listdir(self.host.taken_dir) if not name.endswith("json"))

    def remove(self) -> None:
        if self.enforcer is not None:
            self.enforcer.close()
        for directory, _, files in os.walk(self.root):
            for name in [".", *files]:
                path = os.path.join(directory, name)
                if not os.path.islink(path) and (os.path.isfile(path) or os.path.isdir(path)):
                    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                    flags.hold_flags(descriptor, "")
                    os.close(descriptor)
        shutil.rmtree(self.root)


@pytest.fixture
def tree() -> Iterator[Tree]:
    """A tree that is made, not yet approved; everything of it is gone afterwards."""
    made = Tree(Path(tempfile.mkdtemp(prefix="hardend-tree-", dir="/var/tmp")))
    made.make()
    yield made
    made.remove()


@pytest.fixture
def guarded(tree: Tree) -> Tree:
    """A tree under an enforcer."""
    tree.guard()
    return tree
