# SPDX-License-Identifier: Apache-2.0
"""Everything that hardend raises on purpose, each with the exit code that the CLI gives it."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every verb (hardend(8))."""

    OK = 0
    DRIFT = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    CONFIG = 78  # of the guard alone: systemd must not start it again and again (sysexits.h EX_CONFIG)


class HardendError(Exception):
    """A failure with one sentence for the administrator and, where there is one, what to do.

    The CLI prints ``hardend: SENTENCE`` and ``hardend: hint: HINT`` and exits with ``exit_code``.
    """

    exit_code = Exit.USAGE

    def __init__(self, sentence: str, *, hint: str = "") -> None:
        super().__init__(sentence)
        self.hint = hint


class ConfigError(HardendError):
    """hardend.toml or a fragment of it is wrong; ``faults`` holds one line for each fault."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join(faults), hint="every key and its default: hardend.toml")
        self.faults = faults


class FormatError(HardendError):
    """A Sendmail file does not parse; the file is left alone."""

    def __init__(self, path: str, line: int, what: str) -> None:
        super().__init__(f"{path}:{line}: {what}")
        self.path = path
        self.line = line


class StoreError(HardendError):
    """The baseline store is damaged or does not hold what was asked for."""

    exit_code = Exit.REFUSED


class FileError(HardendError):
    """An operation on a file failed; the OSError is the cause."""


class UsageError(HardendError):
    """The command line lacks something that argparse does not see."""


class RefusedError(HardendError):
    """The caller may not, or a safety check said no."""

    exit_code = Exit.REFUSED


class UnreachableError(HardendError):
    """The guard does not answer on its control socket."""

    exit_code = Exit.UNREACHABLE


class CommandError(HardendError):
    """A program that hardend ran failed: argv, exit status and its last words are in the text."""


class ProtocolError(HardendError):
    """What a peer sent on a socket is not a request; becomes a reply, never a traceback."""
