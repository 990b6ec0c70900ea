# SPDX-License-Identifier: Apache-2.0
"""The administrator's editor, and the signals that must not cost what is typed in it."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Self

from hardend.errors import RefusedError
from hardend.model import printable

_FALLBACKS = ("editor", "vi", "nano")
_CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAVES_S = 5.0  # an editor that is told to end writes its rescue file first


class Interrupted(Exception):  # noqa: N818 - no error: somebody asked for the end
    """A signal asked hardend to end; what was typed stays where it is."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def command(environment: Mapping[str, str]) -> list[str]:
    """Return the editor: $VISUAL, else $EDITOR, else what the system has. Raises RefusedError for none."""
    named = [name for name in ("VISUAL", "EDITOR") if environment.get(name, "").strip()]
    for name in named[:1]:
        try:
            argv = shlex.split(environment[name])
        except ValueError as error:
            raise RefusedError(f"${name} is no command: {error}", hint="mind its quotes") from error
        if not argv or shutil.which(argv[0]) is None:
            raise RefusedError(f"${name}: {printable(environment[name])}: not found", hint="name another")
        return argv
    found = next((name for name in _FALLBACKS if shutil.which(name)), "")
    if not found:
        raise RefusedError(f"no editor: {', '.join(_FALLBACKS)} are not there", hint="set $EDITOR to one")
    return [found]


class Signals:
    """While it is entered, SIGINT, SIGTERM and SIGHUP raise Interrupted, and nothing dies of them."""

    def __init__(self) -> None:
        self._passed_over: frozenset[int] = frozenset()
        self._held = False
        self._waiting = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in _CAUGHT:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1) means it
                self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as signal() gave it

    def _came(self, number: int, _frame: FrameType | None) -> None:
        if number in self._passed_over:
            return
        if self._held:
            self._waiting = number
            return
        raise Interrupted(number)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let a commit come to its end; Interrupted is raised behind it."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._waiting:
            raise Interrupted(self._waiting)

    def edit(self, argv: list[str], path: str) -> int:
        """Run the editor on a file; return its exit status, negative where a signal ended it.

        ^C is the editor's. What else asks for the end is passed on to it, so that it can save.
        Raises Interrupted afterwards, RefusedError where it cannot be run.
        """
        self._passed_over = frozenset({signal.SIGINT})
        try:
            with subprocess.Popen([*argv, path]) as child:
                try:
                    return child.wait()
                except Interrupted as asked:
                    self._passed_over = frozenset(_CAUGHT)
                    child.send_signal(asked.number)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(_SAVES_S)
                    if child.poll() is None:
                        child.returncode = 0  # it lives on with the draft: it is not waited for
                    raise
        except OSError as error:
            raise RefusedError(f"{printable(argv[0])}: {error.strerror}", hint="set $EDITOR") from error
        finally:
            self._passed_over = frozenset()
