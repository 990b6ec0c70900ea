# SPDX-License-Identifier: Apache-2.0
"""``hardend run``: a maintenance window around one command."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys

from hardend import commit, config, window, window_files, window_open
from hardend.cli.messages import say
from hardend.cli.options import common_options
from hardend.cli.window import conclude, report, seconds
from hardend.errors import Exit, HardendError, UsageError
from hardend.model import Host, printable

# Passed on to the command; what the terminal sends to its foreground reaches the command by itself.
_PASSED = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
)
_FROM_KERNEL = 0x80  # SI_KERNEL (sigaction(2)): the terminal's ^C and ^\
_NOT_FOUND, _NOT_RUN = 127, 126  # as the shell says it


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "run",
        parents=[common_options()],
        help="run one command in a window; keep what it did if it is no worse",
        usage="hardend run [-h] [--root DIR] [--for 2h] [--path PATH]... --reason TEXT -- CMD [ARG]...",
        description="Run a command in a maintenance window of its own. When it succeeds, what it changed is "
        "kept as a new generation as far as no rule gets worse and Sendmail takes it; else it is put back. "
        "Rules that the host met and that have a fix are applied again first, and it is said what for.",
        epilog="Exit status: that of the command, 128 and the signal's number where one ended it; 4 where "
        "something that a successful command did was put back, or nothing was run.",
    )
    parser.add_argument(
        "--for", dest="time", type=seconds, metavar="2h", help="how long at most; else max_window"
    )
    parser.add_argument(
        "--path",
        action="append",
        default=[],
        dest="paths",
        metavar="PATH",
        help="let go only this, and not all that is locked; repeatable",
    )
    parser.add_argument("--reason", required=True, metavar="TEXT")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise UsageError("no command", hint="hardend run --reason TEXT -- CMD [ARG]...")
    if not args.reason.strip():
        raise UsageError("--reason is empty", hint="say why; it stands in the baseline's log")
    settings = config.load(host)
    identifier = window.new_id()
    runner = window_files.hold_runner(host, identifier)
    try:
        opened = window_open.open_window(
            host,
            settings,
            paths=[os.path.abspath(path) for path in args.paths],
            seconds=args.time or settings.max_window_s,
            reason=args.reason,
            command=printable(shlex.join(command)),
            identifier=identifier,
        )
    except HardendError:
        window_files.remove(host, identifier)
        raise
    try:
        code = _carried_out(command)
        item = window_files.read(host, opened.id)
        if item is None or item.is_over:
            say("the window ran out before the command ended: hardend events tells what was put back")
            return code or Exit.REFUSED
        ended = conclude(host, settings, item, keep=code == 0, why=f"the command failed ({code})")
    finally:
        os.close(runner)
    report(ended)
    return code or (Exit.REFUSED if ended.reverted or ended.failed else Exit.OK)


def _carried_out(command: list[str]) -> int:
    """Run a command with our input and output, pass signals on, and return its exit code as a shell does."""
    watched = _PASSED | {signal.SIGCHLD}
    sys.stdout.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        child = os.posix_spawnp(
            command[0],
            command,
            os.environ,
            setsigmask=before,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which this interpreter ignores
        )
        while True:
            told = signal.sigwaitinfo(watched)
            if told.si_signo != signal.SIGCHLD:
                if told.si_code != _FROM_KERNEL:
                    os.kill(child, told.si_signo)
                continue
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return 128 - code if code < 0 else code
    except OSError as error:
        say(f"{printable(command[0])}: {error.strerror}")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUN
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
