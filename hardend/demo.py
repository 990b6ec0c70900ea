# SPDX-License-Identifier: Apache-2.0
"""The demo: a mail host in a directory, the real guard on it, ten drifts, and what became of each.

Everything is measured and judged from outside the guard. The time of a drift runs from just before
its system call until this process, which looks all the time, sees the path and its lock as approved.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hardend import commit, config, demo_host, demo_packages, layout, maps
from hardend.baseline.manifest import Generation
from hardend.config import Settings
from hardend.demo_drifts import TRIALS, Ground, Sight, Trial
from hardend.demo_guard import GuardProcess
from hardend.demo_kept import QUARANTINE, Kept, kept_of
from hardend.demo_scratch import Scratch
from hardend.errors import CommandError, Exit, HardendError
from hardend.inspection import inspect
from hardend.model import Host
from hardend.propose import Proposer

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SPIN_S = 0.2  # after that nobody speaks of microseconds
_POLL_S = 0.02
_COLLECT_S = 2.0
_COLUMNS = 100
_FEW = 3  # tries that are not worth a word

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """``parent`` is where the scratch directory is made; ``patience_s`` is how long a drift may last."""

    parent: str = "/var/tmp"  # noqa: S108 - beneath it a directory that only root can enter is made
    patience_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one drift; ``problem`` is "" when it was put back and its copy is there."""

    problem: str = ""
    micros: int = -1
    kept: Kept | None = None
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Stage:
    """The approved host and the guard on it."""

    ground: Ground
    settings: Settings
    generation: Generation
    guard: GuardProcess
    patience_s: float

    @property
    def host(self) -> Host:
        """The host of the demo."""
        return self.ground.host


def run(options: Options, say: Say) -> int:
    """Show it, line by line through ``say``, and return the exit code: OK, or DRIFT if any stayed.

    Whatever happens, Ctrl-C and SIGTERM too, the guard is ended, and the directory unmounted and
    removed. Raises HardendError when the demo cannot be set up, KeyboardInterrupt.
    """
    commit.require_root()
    try:
        with _cleanup() as stack:
            stage = _set_up(options, say, stack)
            code = _show(stage, say)
    except KeyboardInterrupt:
        say("\ninterrupted: the guard is stopped, the demo's host removed")
        raise
    say("The guard is stopped, the locks are off, the demo's host is removed.")
    return code


@contextlib.contextmanager
def _cleanup() -> Iterator[contextlib.ExitStack]:
    """Undo in reverse what is pushed on the stack; signals end the demo, but not its cleaning up."""
    stack = contextlib.ExitStack()
    before = {number: signal.signal(number, signal.default_int_handler) for number in _SIGNALS}
    try:
        try:
            yield stack
        finally:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            stack.close()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_up(options: Options, say: Say, stack: contextlib.ExitStack) -> Stage:
    stack.callback(os.umask, os.umask(0o022))
    scratch = Scratch(options.parent)
    stack.callback(scratch.close)
    say("hardend demo: fetching and unpacking Debian's Sendmail; nothing is installed")
    packages = demo_packages.fetch(scratch.path, options.parent)
    stack.callback(_restore_environment, maps.PROGRAMS, os.environ.get(maps.PROGRAMS))
    os.environ[maps.PROGRAMS] = packages.programs
    host = demo_host.build(scratch.path, packages)
    settings = config.load(host)
    no_maps = demo_host.build_maps(host, settings)
    proposal = Proposer(host, settings).whole_host()
    generation, outcome = commit.commit_and_apply(host, settings, proposal, reason="the demo")
    if outcome.failed:
        raise CommandError(f"the approved host cannot be brought about: {outcome.failed}")
    ground = Ground(host, os.path.join(scratch.path, "intruder"))
    temporary = os.path.join(scratch.path, "tmp")
    for directory in (ground.lair, temporary):
        os.mkdir(directory, 0o700)
    os.sync()  # else the disk is still busy with what was unpacked, and restores wait for it
    guard = GuardProcess(host, temporary)
    stack.callback(guard.stop)
    guard.wait_until_running(generation.number)
    guard.settle(options.patience_s)
    entries = generation.entries.values()
    locked = sum("i" in entry.flags for entry in entries)
    image = " (an ext4 image)" if scratch.image else ""
    say(f"host: Sendmail {packages.version} in {host.root}{image}")
    say(f"approved: {len(entries)} paths, {locked} of them locked; the guard runs, pid {guard.pid}")
    say(f"{len(TRIALS)} drifts follow; the copies are in {QUARANTINE}/ of that host's /var/lib/hardend,")
    say("or, until they are collected, in taken/ of its /etc/hardend")
    if no_maps:
        _note(say, f"the host has no databases, the packaged programs do not run here: {no_maps}")
    for warning in proposal.warnings:
        _note(say, warning)
    return Stage(ground, settings, generation, guard, options.patience_s)


def _note(say: Say, text: str) -> None:
    say(textwrap.fill(f"note: {text}", _COLUMNS, subsequent_indent="      ", break_on_hyphens=False))


def _restore_environment(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value


def _show(stage: Stage, say: Say) -> int:
    """Drift in every way and sum up."""
    results = []
    for number, trial in enumerate(TRIALS, 1):
        result = _try(stage, trial)
        results.append(result)
        tries = f", at the {result.tries}th try" if result.tries > _FEW else ""
        say(f"{number:2}. {trial.happening}{tries}")
        say(f"    {_told(trial, result)}")
        stage.guard.settle(stage.patience_s)
    tools = maps.tools_for(stage.host, layout.find(stage.host), stage.settings)
    left = _drifts(stage, tools)
    back = sum(not result.problem for result in results)
    total = len(stage.generation.entries)
    check = f"{len(left)} paths are not" if left else f"all {total} paths are"
    say(f"{back} of {len(results)} put back; {check} as approved now")
    if times := [result.micros for result in results if result.micros >= 0]:
        say("time: from just before the drifting call until this process saw path and lock as approved:")
        say(f"median {statistics.median(times):.0f} us, slowest {max(times)} us")
        say(_told_by_guard(stage.guard.published()))
    if back == len(results) and not left:
        return Exit.OK
    for path, words in left.items():
        say(f"drifted still: {path}: {words}")
    say(f"the guard's last words:\n{stage.guard.last_words()}")
    return Exit.DRIFT


def _try(stage: Stage, trial: Trial) -> Result:
    """Drift once and watch."""
    try:
        act = trial.ready(stage.ground)
        stage.guard.settle(stage.patience_s)
        sight = Sight(stage.host.at(trial.path))
        since_ns = time.time_ns()
        try:
            drifted = act()
            micros = _watch(sight, drifted.began_ns, stage.patience_s)
        finally:
            sight.close()
    except OSError as error:
        return Result(f"CANNOT BE TRIED: {error.strerror}: {error.filename}")
    if micros < 0:
        return Result(f"NOT PUT BACK after {stage.patience_s:g} s")
    if not _within(stage.patience_s, lambda: not _drifts(stage, None)):
        left = ", ".join(f"{path} ({words})" for path, words in _drifts(stage, None).items())
        return Result(f"NOT PUT BACK: {left}")
    if trial.is_copy is None:
        return Result("", micros, None, drifted.tries)
    _within(stage.patience_s, lambda: _copy(stage, trial, since_ns) is not None)
    # It goes on to the quarantine; say where it stays.
    _within(min(stage.patience_s, _COLLECT_S), lambda: _is_collected(_copy(stage, trial, since_ns)))
    kept = _copy(stage, trial, since_ns)
    problem = "" if kept else f"put back in {micros} us, but NO COPY is kept"
    return Result(problem, micros, kept, drifted.tries)


def _copy(stage: Stage, trial: Trial, since_ns: int) -> Kept | None:
    is_copy = trial.is_copy or (lambda _: False)
    return next((kept for kept in kept_of(stage.host, trial.path, since_ns) if is_copy(kept)), None)


def _is_collected(kept: Kept | None) -> bool:
    return kept is not None and kept.where.startswith(QUARANTINE)


def _watch(sight: Sight, began_ns: int, patience_s: float) -> int:
    """Return after how many microseconds a path is as before, -1 when patience is over."""
    while not sight.is_as_before():
        lasted_s = (time.monotonic_ns() - began_ns) / 1e9
        if lasted_s > patience_s:
            return -1
        if lasted_s < _SPIN_S:
            os.sched_yield()  # with one processor the guard needs it
        else:
            time.sleep(_POLL_S)
    return (time.monotonic_ns() - began_ns) // 1000


def _within(patience_s: float, is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + patience_s
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return True


def _drifts(stage: Stage, tools: maps.Tools | None) -> dict[str, str]:
    """Return what ``hardend check`` would: every path that is not as approved, with how."""
    try:
        found = inspect(stage.host, stage.generation, stage.settings, tools)
    except (HardendError, OSError) as error:
        return {"the host": str(error)}
    return {path: " ".join(sorted(drift)) for path, drift in found.items()}


def _told(trial: Trial, result: Result) -> str:
    if result.problem:
        return result.problem
    copy = f"copy: {result.kept.where}" if result.kept else trial.no_copy
    return f"put back in {result.micros} us: {trial.restored}; {copy}"


def _told_by_guard(published: dict[str, object]) -> str:
    """Return the guard's own figures; of fewer than a hundred the slowest is the 99th percentile."""
    times = published.get("restore_us")
    own = times if isinstance(times, dict) else {}
    is_rr = published.get("scheduling") == "rr"
    policy = "SCHED_RR" if is_rr else "SCHED_RR is refused here"
    return (
        f"the guard's own count, from waking up until the copy is set aside:\n"
        f"median {own.get('median', 0)} us, slowest {own.get('p99', 0)} us ({policy})"
    )
