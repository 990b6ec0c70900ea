# SPDX-License-Identifier: Apache-2.0
"""Running a program under a time limit: clean environment, own process group, bounded output."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from hardend.errors import CommandError

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"}
_LAST_WORDS = 2000


@dataclass(frozen=True, slots=True)
class Ran:
    """What a program did: its exit status and what it said, standard error among it unless apart.

    Of what is apart only the end is kept.
    """

    status: int
    output: bytes
    errors: bytes = b""

    @property
    def last_words(self) -> str:
        """The end of what it complained of, or of the output, for a message."""
        said = self.errors or self.output
        return said[-_LAST_WORDS:].decode("utf-8", "backslashreplace").strip()


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    stdin: bytes = b"",
    directory: str = "/",
    limit: int = 512 << 20,
    errors_apart: bool = False,
) -> Ran:
    """Run a program to its end. Raises CommandError when it cannot start, or is not done in time.

    Output goes to files without a name, and no file that the program writes may be longer than
    ``limit`` bytes: one that prints without end fills neither memory nor disk, and is an error.
    """
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        given.write(stdin)
        given.seek(0)
        try:
            child = subprocess.Popen(
                argv,
                stdin=given,
                stdout=output,
                stderr=errors if errors_apart else subprocess.STDOUT,
                cwd=directory,
                env=_ENVIRONMENT,
                start_new_session=True,
                # Set before exec: prlimit(2) of a running setgid program is refused in containers.
                preexec_fn=partial(  # noqa: PLW1509 - no threads anywhere in hardend
                    resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)
                ),
            )
        except OSError as error:
            raise CommandError(f"{argv[0]}: cannot be run: {error.strerror}") from error
        try:
            status = child.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            _end(child)
            raise CommandError(f"{' '.join(argv)}: not done after {timeout_s:g} s") from error
        except BaseException:
            _end(child)
            raise
        if status == -signal.SIGXFSZ or os.fstat(output.fileno()).st_size >= limit:
            raise CommandError(f"{' '.join(argv)}: wrote more than {limit} bytes")
        output.seek(0)
        errors.seek(max(0, os.fstat(errors.fileno()).st_size - _LAST_WORDS))
        return Ran(status, output.read(), errors.read(_LAST_WORDS))


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
