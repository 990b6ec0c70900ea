# SPDX-License-Identifier: Apache-2.0
"""The test host: a real Debian 12 mail host, booted with systemd in a container.

``python3 -m tests.host.machine`` boots one with hardend installed and gives a shell in it
(``--bare``: without hardend). A machine is a copy of an image of ``tests.host.image``; when its
``with`` block ends, however it ends, nothing of it runs, is mounted or lies on the disk. What a
killed test run left is removed when the next machine starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.host import image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

BOOT_S = 90.0
STOP_S = 60.0
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COPY = "hardend-test-"
_LEFT_BY_NSPAWN = ("propagate", "unix-export")


class MachineError(Exception):
    """The test host could not be booted or used; what the command printed is in the text."""


class Machine:
    """One test host; boots when entered, and is gone when left, whatever happened.

    ``install=False`` gives the mail host without hardend, of Debian ``suite``. ``prepare`` is run in it
    before it boots, when it still has a network. ``options`` go to systemd-nspawn(1).
    """

    def __init__(
        self,
        *,
        install: bool = True,
        options: Sequence[str] = (),
        suite: str = image.SUITE,
        prepare: str = "",
    ) -> None:
        self._install = install
        self._suite = suite
        self._prepare = prepare
        self._options = tuple(options)
        self.name = f"{_COPY}{os.getpid()}-{time.monotonic_ns() & 0xFFFFFF:x}"
        self.tree = image.cache_dir() / self.name
        self._owner = -1
        self._container: subprocess.Popen[bytes] | None = None
        self.leader = 0

    def __enter__(self) -> Self:
        sweep()
        try:
            # Held as long as we live: that is how sweep() tells a copy in use from one left over.
            with image.locked(_owners()):
                self._owner = os.open(_lock_of(self.tree), os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.flock(self._owner, fcntl.LOCK_EX)
            image.lay(self.tree, install=self._install, suite=self._suite)
            if self._install:
                image.put_source(self.tree)
            if self._prepare:
                image.inside(self.tree, self._prepare)
            self.boot()
            if self._install:
                self.run("cd /root/hardend && ./run install", timeout=300)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def path(self, inside: str) -> Path:
        """Return where a path of the host is, seen from outside."""
        return self.tree / inside.lstrip("/")

    def boot(self) -> None:
        """Start the container and wait until systemd says that the host is up."""
        self._container = subprocess.Popen(
            [
                # Ends with us, even when we are killed outright; the init is left to sweep().
                *("setpriv", "--pdeathsig", "KILL", "systemd-nspawn", "-q", "-D", str(self.tree)),
                *("--boot", "--register=no", "--keep-unit", "--link-journal=no"),
                *("--private-network", "--hostname=mail.example.com", f"--machine={self.name}"),
                # Without it fanotify and open_by_handle_at are refused, which they are not on a
                # real host.
                "--system-call-filter=fanotify_init fanotify_mark open_by_handle_at",
                *self._options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + BOOT_S
        while time.monotonic() < deadline:
            if self._container.poll() is not None:
                raise MachineError(f"systemd-nspawn ended with {self._container.returncode}")
            self.leader = _child_of(self._container.pid)
            if self.leader:
                done = self.run(["systemctl", "is-system-running"], check=False, timeout=20)
                if done.stdout.strip() in {"running", "degraded"}:
                    return
            time.sleep(0.2)
        raise MachineError(f"{self.name} was not up after {BOOT_S} s")

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        input_text: str = "",
        timeout: float = 120,
        user: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the host; a string goes to bash. Undecodable bytes are surrogates.

        Raises MachineError when it fails and ``check`` is set, subprocess.TimeoutExpired when it
        takes longer than ``timeout`` seconds; it does not outlive that.
        """
        argv = ["bash", "-c", command] if isinstance(command, str) else list(command)
        if user:
            argv = ["runuser", "-u", user, "--", *argv]
        done = subprocess.run(
            [
                *("nsenter", "--target", str(self.leader), "--all"),
                *("setpriv", "--pdeathsig", "KILL"),
                *("env", "-i", "-C", "/root", "HOME=/root", "TERM=dumb", "LANG=C.UTF-8", PATH, *argv),
            ],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            input=input_text,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise MachineError(
                f"{command!r} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done

    def json(self, command: str | Sequence[str]) -> Any:
        """Run a command and return what it prints as JSON, whatever its exit status."""
        done = self.run(command, check=False)
        try:
            return json.loads(done.stdout)
        except ValueError as error:
            raise MachineError(
                f"{command!r} printed no JSON:\n{done.stdout}{done.stderr}"
            ) from error

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """Return hardend's journal entries that match, oldest first, as journalctl -o json."""
        self.run(["journalctl", "--sync"])
        done = self.run(
            ["journalctl", "-q", "-o", "json", "--all", "SYSLOG_IDENTIFIER=hardend", *matches]
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    def put(self, local: Path, inside: str) -> None:
        """Copy a file into the host."""
        shutil.copy2(local, self.path(inside))

    def reboot(self) -> None:
        """Stop in an orderly way and boot again; the host gets a new boot id."""
        self.power_off()
        self.boot()

    def power_off(self) -> None:
        """Stop in an orderly way, or by force where that takes longer than a minute."""
        if self._container is None:
            return
        with contextlib.suppress(MachineError, subprocess.TimeoutExpired):
            self.run(["systemctl", "poweroff"], check=False, timeout=20)
            self._container.wait(timeout=STOP_S)
        self._kill()

    def _kill(self) -> None:
        container = self._container
        if container is not None:
            # The init first: systemd-nspawn then tidies up after itself.
            if self.leader and container.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.leader, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    container.wait(timeout=10)
            if container.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(container.pid, signal.SIGKILL)
            container.wait()
        self._container = None
        self.leader = 0

    def _end(self) -> None:
        try:
            self._kill()
            if self._owner >= 0:
                _remove_copy(self.tree)
        finally:
            if self._owner >= 0:
                os.close(self._owner)
                self._owner = -1


def sweep() -> None:
    """End and remove the machines whose owner is gone: test runs that were killed outright."""
    with image.locked(_owners()):
        for lock in image.cache_dir().glob(f"{_COPY}*.lock"):
            with contextlib.suppress(FileNotFoundError, BlockingIOError), lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                tree = lock.with_suffix("")
                while running := _running_on(tree):
                    for pid in running:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    time.sleep(0.05)
                _remove_copy(tree)


def _owners() -> Path:
    return image.cache_dir() / "owners.lock"


def _remove_copy(tree: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        of = tree.stat()
        Path(f"/run/systemd/nspawn/locks/inode-{of.st_dev}:{of.st_ino}").unlink(missing_ok=True)
    image.remove(tree)
    for kind in _LEFT_BY_NSPAWN:
        with contextlib.suppress(OSError):
            Path("/run/systemd/nspawn", kind, tree.name).rmdir()
    _lock_of(tree).unlink(missing_ok=True)


def _lock_of(tree: Path) -> Path:
    return tree.with_name(f"{tree.name}.lock")


def _running_on(tree: Path) -> list[int]:
    """Return the processes whose root is a tree: what outlives a systemd-nspawn that was killed."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        wanted = tree.stat()
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                # Through the link of procfs, into the container's own mounts.
                if os.path.samestat((entry / "root/.").stat(), wanted):
                    found.append(int(entry.name))
    return found


def _child_of(pid: int) -> int:
    """Return the init of a container: what systemd-nspawn has as its child once it has set up."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        for child in children:
            if Path(f"/proc/{child}/comm").read_text(encoding="utf-8").strip() == "systemd":
                return int(child)
    return 0


if __name__ == "__main__":
    with Machine(install="--bare" not in sys.argv) as machine:
        sys.stdout.write(f"tree {machine.tree}, leader {machine.leader}; exit ends it\n")
        sys.stdout.flush()
        subprocess.run(["nsenter", "-t", str(machine.leader), "-a", "bash", "-l"], check=False)
