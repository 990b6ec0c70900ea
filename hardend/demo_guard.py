# SPDX-License-Identifier: Apache-2.0
"""The guard of the demo: the real program on the demo's host, started, waited for and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable

from hardend import state
from hardend.errors import CommandError, HardendError
from hardend.model import Host

_POLL_S = 0.05
_QUIET_POLLS = 4
_START_S = 60.0
_END_S = 15.0
_JOBS_END_S = 30.0  # hardend-rebuild and hardend-collect end by themselves, in a second or two
_LOG_LINES = 5


class GuardProcess:
    """``hardend guard --root`` in a session of its own, so that Ctrl-C reaches the demo alone.

    ``temporary`` is where the guard and its jobs make their temporary files; ``log`` is what the
    guard would tell the journal.
    """

    def __init__(self, host: Host, temporary: str) -> None:
        self._host = host
        self.log = os.path.join(temporary, "guard.log")
        package = os.path.dirname(os.path.dirname(os.path.abspath(state.__file__)))
        search = [package, *filter(None, [os.environ.get("PYTHONPATH", "")])]
        environment = {**os.environ, "TMPDIR": temporary, "PYTHONPATH": os.pathsep.join(search)}
        environment.pop("NOTIFY_SOCKET", None)  # the guard must not speak for whoever runs the demo
        with open(self.log, "wb") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "hardend", "guard", "--root", host.root],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id, which is also that of its session and process group."""
        return self._child.pid

    def wait_until_running(self, generation: int) -> None:
        """Return when the guard holds a generation. Raises CommandError when it does not get there."""

        def holds() -> bool:
            published = self.published()
            return (
                state.guard_is_alive(self._host)
                and published.get("pid") == self.pid
                and published.get("generation") == generation
            )

        if not self._within(_START_S, holds):
            raise CommandError(f"the guard does not start: {self.last_words()}")

    def settle(self, patience_s: float) -> None:
        """Wait until it has staged its spares and its jobs have ended, or patience is over.

        Raises CommandError when the guard has ended.
        """
        seen: deque[int] = deque(maxlen=_QUIET_POLLS)

        def is_quiet() -> bool:
            if _members(self.pid) != [self.pid]:
                seen.clear()
                return False
            with contextlib.suppress(OSError):
                seen.append(len(os.listdir(self._host.spare_dir)))
            return len(seen) == _QUIET_POLLS and len(set(seen)) == 1

        self._within(patience_s, is_quiet)

    def published(self) -> dict[str, object]:
        """Return what the guard published last, {} before that."""
        try:
            return state.read(self._host) or {}
        except HardendError:
            return {}

    def last_words(self) -> str:
        """Return the last lines of its log."""
        try:
            with open(self.log, encoding="utf-8", errors="backslashreplace") as log:
                return "\n".join(line.rstrip() for line in deque(log, maxlen=_LOG_LINES))
        except OSError as error:
            return str(error.strerror)

    def stop(self) -> None:
        """End the guard and then whatever it started; what does not end in time is killed."""
        if self._child.poll() is None:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # it may have been stopped
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_END_S)
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        for number, patience_s in ((0, _JOBS_END_S), (signal.SIGINT, _END_S), (signal.SIGKILL, _END_S)):
            self._signal(number)
            end = time.monotonic() + patience_s
            while _members(self.pid) and time.monotonic() < end:
                time.sleep(_POLL_S)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _within(self, patience_s: float, is_so: Callable[[], bool]) -> bool:
        """Ask until it is so or patience is over. Raises CommandError when the guard has ended."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            if self._child.poll() is not None:
                raise CommandError(f"the guard has ended: {self.last_words()}")
            if is_so():
                return True
            time.sleep(_POLL_S)
        return False


def _members(group: int) -> list[int]:
    """Return the processes of a process group that have not ended (proc_pid_stat(5))."""
    members = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{name}/stat", "rb") as file:
                status, _, its_group = file.read().rpartition(b") ")[2].split()[:3]
            if int(its_group) == group and status not in {b"Z", b"X"}:
                members.append(int(name))
    return members
