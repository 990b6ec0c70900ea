# SPDX-License-Identifier: Apache-2.0
"""A small approved mail host tree for the guard, and the same two files for the floor."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from hardend import state
from hardend.kernel import flags
from hardend.lookout import CHATTR
from hardend.model import Host

REPOSITORY = Path(__file__).resolve().parents[2]
DRIFTED = "relay-domains"  # held byte by byte, and by the configuration below without a lock
LOCKED = "access"

_CF = b"# sendmail.cf\nO QueueDirectory=/var/spool/mqueue\nO PrivacyOptions=goaway\n"
# The highest count in the shortest time: every restore is reported, as that of a single drift is.
SETTINGS = f"""\
[guard]
contested_count = 10000
contested_within = "1s"
[paths]
unlock = ["/etc/mail/{DRIFTED}"]
"""
_START_S = 30.0


class BenchError(Exception):
    """The bench cannot be run here; the text says why."""


def content() -> bytes:
    """Return what the drifted files hold: 4 KiB, as an administrator's lists are."""
    return b"".join(b"%04d.example.com relay of the bench, one line in sixty\n" % n for n in range(72))


def environment() -> dict[str, str]:
    """Return the environment for programs of hardend, whose jobs run from another directory."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


class MailTree:
    """A scratch directory with everything in it; a context manager that leaves nothing behind."""

    def __init__(self, where: str) -> None:
        try:
            self.scratch = Path(tempfile.mkdtemp(prefix="hardend-bench-", dir=where))
        except OSError as error:
            raise BenchError(f"{where}: {error.strerror}") from error
        self.scratch.chmod(0o755)  # nobody opens a file in it
        self.root = self.scratch / "root"
        self.mail = self.root / "etc/mail"
        self.queue = self.root / "var/spool/mqueue"
        self.chattr = self.root / CHATTR.lstrip("/")  # whose start is a warning to the guard
        self.floor_mail = self.scratch / "floor"
        self.floor_stage = self.scratch / "floor-stage"
        self.aside = self.scratch / "aside"

    @property
    def host(self) -> Host:
        return Host(str(self.root))

    def __enter__(self) -> Self:
        try:
            self._make()
            self.hardend("approve", "--reason", "bench")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._remove()

    def hardend(self, verb: str, *words: str) -> None:
        """Run one verb on the tree. Raises BenchError with what it said."""
        command = [sys.executable, "-m", "hardend", verb, "--root", str(self.root), *words]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"hardend {verb}: exit {done.returncode}: {done.stdout}{done.stderr}".strip())

    def wait_for_guard(self, pid: int) -> None:
        """Return when the guard has published that the tree is clean."""
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            found = state.read(self.host)
            if found is not None and found.get("pid") == pid and found.get("state") == "clean":
                return
            time.sleep(0.05)
        raise BenchError(f"the guard was not ready after {_START_S:.0f} s")

    def published(self) -> dict[str, object]:
        """Return what the guard says of itself."""
        return state.read(self.host) or {}

    def _make(self) -> None:
        for directory in (self.mail / "smrsh", self.queue, self.root / "etc/hardend", self.chattr.parent):
            directory.mkdir(parents=True)
        shutil.copy(CHATTR, self.chattr)
        for directory in (self.floor_mail, self.floor_stage, self.aside):
            directory.mkdir()
        (self.root / "etc/hardend/hardend.toml").write_text(SETTINGS)
        (self.mail / "sendmail.cf").write_bytes(_CF)
        (self.mail / "local-host-names").write_bytes(b"example.com\n")
        for directory in (self.mail, self.floor_mail):
            for name in (DRIFTED, LOCKED):
                (directory / name).write_bytes(content())
                (directory / name).chmod(0o644)
        probe = os.open(self.floor_mail / LOCKED, os.O_RDONLY)
        try:
            flags.hold_flags(probe, "i")
            flags.hold_flags(probe, "")
        except OSError as error:
            raise BenchError(f"{self.scratch}: no chattr +i here: {error.strerror} (--dir DIR)") from error
        finally:
            os.close(probe)

    def _remove(self) -> None:
        for directory, _, names in os.walk(self.scratch):
            for name in names:
                path = os.path.join(directory, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                    with contextlib.suppress(OSError):
                        flags.hold_flags(descriptor, "")
                    os.close(descriptor)
        shutil.rmtree(self.scratch)
