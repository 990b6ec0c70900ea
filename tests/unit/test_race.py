# SPDX-License-Identifier: Apache-2.0
"""The symlink-swap race: whoever owns the parent directory leads no restore astray.

An attacker without privileges swaps a directory, or a file, with a symbolic link to a victim's in a
loop, on the other core, while ten thousand restores happen.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.capture import Reader, entry_of
from hardend.config import Settings
from hardend.enforcer import Enforcer
from hardend.kernel.exchange import exchange
from hardend.model import Class, Drift, Host, Protected, Role
from tests.unit.conftest import Recorder

pytestmark = pytest.mark.root
NOBODY = 65534
RESTORES = 10_000
GOOD = b"approved content\n"
SECRET = b"root:*:19000::::::\n"
FAST = "/dev/shm"


_SEEN = ("st_ino", "st_mode", "st_uid", "st_ctime_ns", "st_mtime_ns", "st_nlink")


class Scene:
    """/home is the attacker's; /home/mail/access is protected, victim/ must never be touched."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.root = top / "tree"
        self.mail = self.root / "home/mail"
        self.victim = top / "victim"
        self.mail.mkdir(parents=True)
        self.victim.mkdir()
        self.file.write_bytes(GOOD)
        (self.victim / "access").write_bytes(SECRET)
        (self.victim / "access").chmod(0o600)
        self.victim.chmod(0o711)
        for path in (top, self.root):
            path.chmod(0o755)
        os.chown(self.root / "home", NOBODY, NOBODY)
        self.host = Host(str(self.root))
        self.recorder = Recorder()

    @property
    def file(self) -> Path:
        return self.mail / "access"

    def guard(self, *, immutable: bool) -> Enforcer:
        """Approve what is there and hold it."""
        store = Store(self.host)
        reader = Reader(self.host)
        entries = {}
        for protected in (
            Protected("/", Role.ANCESTOR, Class.LOCKED),
            Protected("/home", Role.ANCESTOR, Class.LOCKED),
            Protected("/home/mail", Role.DIRECTORY, Class.LOCKED),
            Protected("/home/mail/access", Role.SOURCE, Class.LOCKED, immutable=immutable),
        ):
            live = reader.read(protected.path, content=protected.role is Role.SOURCE)
            assert live is not None
            entries[protected.path] = entry_of(protected, live, store)
        reader.close()
        generation = Generation(1, "", "now", "test", "first", "debian", "0", "8", entries)
        with store.locked():
            store.add_generation(generation)
        enforcer = Enforcer(self.host, Settings(), store, self.recorder, self.recorder)
        enforcer.load(generation, strict=True)
        enforcer.full_pass(thorough=True)
        return enforcer

    def fingerprint(self) -> list[tuple[object, ...]]:
        """Return all that a hit on the victim would change."""
        found = []
        for path in (self.victim, self.victim / "access"):
            seen = path.lstat()
            found.append(tuple(getattr(seen, name) for name in _SEEN))
        return [*found, tuple(os.listdir(self.victim)), ((self.victim / "access").read_bytes(),)]


@pytest.fixture
def scene() -> Iterator[Scene]:
    """On memory where there is some: ten thousand synced copies would wait for a disk."""
    with tempfile.TemporaryDirectory(
        prefix="hardend-race-", dir=FAST if os.path.isdir(FAST) else "/var/tmp"
    ) as top:
        made = Scene(Path(top))
        yield made
        for path in made.root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                _unlock(path)


def _unlock(path: Path) -> None:
    from hardend.kernel import flags

    descriptor = os.open(path, os.O_RDONLY)
    with contextlib.suppress(OSError):
        flags.hold_flags(descriptor, "")
    os.close(descriptor)


@contextlib.contextmanager
def _attacker(act: Callable[[], None]) -> Iterator[None]:
    """Do ``act`` over and over in a child without privileges."""
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            while os.getppid() != 1:
                with contextlib.suppress(OSError):
                    act()
        finally:
            os._exit(1)
    try:
        yield
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the attacker must not have given up"
    finally:
        os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def _swapper(directory: Path, name: str, victim: Path) -> Callable[[], None]:
    """Return what swaps ``name`` in ``directory`` with a link to the victim, and back."""
    link = directory / "link"

    def swap() -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not link.is_symlink():
                with contextlib.suppress(OSError):  # the directory itself is there: swap it back
                    link.unlink(missing_ok=True)
                    link.symlink_to(victim)
            exchange(descriptor, b"link", descriptor, os.fsencode(name))
        finally:
            os.close(descriptor)

    return swap


def _restore_ten_thousand(scene: Scene, enforcer: Enforcer) -> int:
    """Look until ten thousand restores happened; return how many looks found a swapped path.

    Every second look finds a drift of our own, so that the attacker need not have a core for itself.
    """
    held = enforcer.table.by_path["/home/mail/access"]
    above = enforcer.table.by_path["/home/mail"]
    give_up = time.monotonic() + 100
    descriptors = len(os.listdir("/proc/self/fd"))
    swapped = looks = 0
    while enforcer.counters.restores < RESTORES and time.monotonic() < give_up:
        looks += 1
        if looks % 2:
            with contextlib.suppress(OSError):  # through the pinned directory, wherever it is just now
                os.unlink(held.name, dir_fd=above.descriptor)
        for one in (above, held):
            one.next_exchange = 0.0
            before = enforcer.counters.restores
            enforcer.look(one, thorough=True)
            if one.drift & {Drift.TYPE} and enforcer.counters.restores > before:
                swapped += 1
        if enforcer.counters.restores % 500 == 0:
            _empty(Path(scene.host.taken_dir))
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2, "nothing leaks"
    return swapped


def _empty(taken: Path) -> None:
    """Take away what was set aside, as the collector does; a directory there is the attacker's too."""
    for path in taken.iterdir():
        if path.is_dir() and not path.is_symlink():
            continue
        path.unlink()


def test_a_parent_that_is_swapped_with_a_link_leads_nowhere(scene: Scene) -> None:
    enforcer = scene.guard(immutable=False)
    before = scene.fingerprint()
    with _attacker(_swapper(scene.root / "home", "mail", scene.victim)):
        swapped = _restore_ten_thousand(scene, enforcer)
    assert enforcer.counters.restores >= RESTORES
    assert swapped > 100, "the race was run"
    assert scene.fingerprint() == before
    enforcer.full_pass(thorough=True)
    assert scene.file.read_bytes() == GOOD
    assert not scene.mail.is_symlink()
    enforcer.close()


def test_a_file_that_is_swapped_with_a_link_leads_nowhere(scene: Scene) -> None:
    os.chown(scene.mail, NOBODY, NOBODY)
    enforcer = scene.guard(immutable=False)
    before = scene.fingerprint()
    with _attacker(_swapper(scene.mail, "access", scene.victim / "access")):
        swapped = _restore_ten_thousand(scene, enforcer)
    assert enforcer.counters.restores >= RESTORES
    assert swapped > 100, "the race was run"
    assert scene.fingerprint() == before
    enforcer.full_pass(thorough=True)
    assert scene.file.read_bytes() == GOOD
    assert not scene.file.is_symlink()
    enforcer.close()
