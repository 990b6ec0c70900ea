# SPDX-License-Identifier: Apache-2.0
"""The running MTA: what it has loaded, whether that is the baseline, and telling it to load again.

Nothing is assumed. A process that was not seen loading has loaded the baseline only when the files
prove it, is known to differ only when a drift or a memory says so, and is unknown otherwise.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from hardend import boot
from hardend.command import run
from hardend.config import Restart
from hardend.errors import CommandError
from hardend.formats.cf import Cf
from hardend.layout import Layout
from hardend.model import Host

# What a remembered digest may also be.
UNKNOWN = ""
DRIFTED = "drifted"  # loaded while the file was not the baseline's

# The daemon forks after it has read its configuration (-bd): its start time is that of the reading,
# or a little later. Start times are good to a clock tick.
_READ_BEFORE_NS = 2_000_000_000
_TICK_NS = 50_000_000
_TICKS = os.sysconf("SC_CLK_TCK")
_DAEMON_OPTIONS = ("DaemonPortOptions", "ClientPortOptions")
_SYSTEMCTL = "/usr/bin/systemctl"
_BOOTED = "/run/systemd/system"
UNIT = "sendmail.service"


class Kind(StrEnum):
    """The processes of an MTA that read a configuration once and keep it."""

    DAEMON = "daemon"  # listens; reads sendmail.cf
    QUEUE = "queue"  # Debian's split queue runner; reads sendmail.cf
    CLIENT = "client"  # runner of the client queue; reads submit.cf


class Action(StrEnum):
    """What is to be done about a process."""

    NONE = "none"
    WAIT = "wait"  # to be reloaded, but one was a moment ago
    HUP = "hup"
    RESTART = "restart"
    REPORT_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Process:
    """A running process; ``ticks`` (proc_pid_stat(5), 22) tells it from a later one of its pid."""

    kind: Kind
    boot_id: str
    pid: int
    ticks: int
    start_ns: int  # realtime

    @property
    def identity(self) -> tuple[str, int, int]:
        """What stays the same as long as it lives."""
        return self.boot_id, self.pid, self.ticks


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a process has loaded: digests by path (or UNKNOWN, DRIFTED), and when it read them."""

    identity: tuple[str, int, int]
    from_ns: int
    until_ns: int
    digests: Mapping[str, str]
    options: tuple[str, ...] | None  # daemon options of the sendmail.cf; None: not known


@dataclass(frozen=True, slots=True)
class Seen:
    """A live file: its digest and its ctime."""

    digest: str
    ctime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a decision rests on; ``baseline`` holds the files that this process reads."""

    baseline: Mapping[str, str]
    options: tuple[str, ...]
    live: Mapping[str, Seen]
    restart: Restart
    interval_s: int
    now_ns: int
    drifts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    acted_ns: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """An action and its reason; ``wait_s`` is how long an action has to wait."""

    action: Action
    reason: str
    wait_s: float = 0.0


def knowledge(process: Process, memory: Loaded | None, situation: Situation) -> Loaded:
    """Return what is known of what a process has loaded. Pure.

    In this order: a drift of the file while it read it; what was remembered of this very process; a
    file that is the baseline's and did not change since before it started.
    """
    mine = memory if memory is not None and memory.identity == process.identity else None
    from_ns = mine.from_ns if mine else process.start_ns - _READ_BEFORE_NS
    until_ns = mine.until_ns if mine else process.start_ns + _TICK_NS
    digests = {}
    for path, digest in situation.baseline.items():
        since, until = situation.drifts.get(path, (0, 0))
        remembered = mine.digests.get(path, UNKNOWN) if mine else UNKNOWN
        live = situation.live.get(path)
        # What was proven when it was remembered did not drift before the reading began.
        earliest = from_ns if remembered not in {UNKNOWN, DRIFTED} else 0
        if earliest <= since <= until_ns and from_ns <= until:
            digests[path] = DRIFTED
        elif remembered != UNKNOWN:
            digests[path] = remembered
        elif live is not None and live.ctime_ns < from_ns and live.digest == digest:
            digests[path] = digest
        else:
            digests[path] = UNKNOWN
    if mine:
        # A file that left the baseline may still come back; it was loaded all the same.
        digests = {**mine.digests, **digests}
    options = mine.options if mine else None
    if options is None and all(
        digests[path] == digest for path, digest in situation.baseline.items()
    ):
        options = situation.options
    return Loaded(process.identity, from_ns, until_ns, digests, options)


def decide(process: Process | None, loaded: Loaded | None, situation: Situation) -> Decision:
    """Return what to do about a process: only what is known to differ is acted on. Pure."""
    if process is None or loaded is None:
        return Decision(Action.NONE, "not running; what was stopped stays stopped")
    known = {path: loaded.digests.get(path, UNKNOWN) for path in situation.baseline}
    different = sorted(
        path for path, digest in known.items() if digest not in {UNKNOWN, situation.baseline[path]}
    )
    reason = f"it has loaded another {', '.join(different)}" if different else ""
    if situation.restart is Restart.NEVER:
        return Decision(Action.NONE, f'restart = "never"{reason and ", though " + reason}')
    action = Action.HUP
    if situation.restart is Restart.ALWAYS and _incident(situation, loaded):
        action = Action.RESTART
        reason = reason or 'restart = "always", and a path was put back'
    elif different and _options_changed(process, loaded, situation):
        action = Action.RESTART
        reason = "the options of its sockets changed"
    if reason:
        return _limited(Decision(action, reason), situation)
    unknown = sorted(path for path, digest in known.items() if digest == UNKNOWN)
    if unknown:
        return Decision(
            Action.REPORT_UNKNOWN,
            f"what it has loaded of {', '.join(unknown)} is not known: changed since it started",
        )
    return Decision(Action.NONE, "it has loaded the baseline")


def _incident(situation: Situation, loaded: Loaded) -> bool:
    """Return whether anything drifted since the last action, and since its files were read."""
    after = max(situation.acted_ns, loaded.until_ns)
    return any(until > after for _, until in situation.drifts.values())


def _options_changed(process: Process, loaded: Loaded, situation: Situation) -> bool:
    return (
        process.kind is Kind.DAEMON
        and loaded.options is not None
        and DRIFTED not in loaded.digests.values()
        and loaded.options != situation.options
    )


def _limited(decision: Decision, situation: Situation) -> Decision:
    since_s = (situation.now_ns - situation.acted_ns) / 1e9
    left_s = situation.interval_s - since_s
    # A clock that was set back must not hold it off for longer than the interval.
    if since_s < 0 or left_s <= 0:
        return decision
    return Decision(
        Action.WAIT,
        f"{decision.reason}; at most one reload in {situation.interval_s} s",
        min(left_s, situation.interval_s),
    )


def daemon_options(cf: bytes) -> tuple[str, ...]:
    """Return the options of the sockets, which only a full restart takes over safely."""
    document = Cf(cf)
    return tuple(
        f"{name}={value.text}" for name in _DAEMON_OPTIONS for value in document.options(name)
    )


def files_of(kind: Kind, layout: Layout) -> tuple[str, ...]:
    """Return the paths that a process of this kind reads when it starts."""
    if kind is Kind.CLIENT:
        return (layout.submit_cf,) if layout.submit_cf else ()
    return (layout.cf, *layout.class_files)


def find(kind: Kind, host: Host, layout: Layout) -> Process | None:
    """Return the running process of a kind, by its pid file; None for a tree, which runs nothing.

    A pid file may be stale, and that of the client runner is not root's: the process must be a
    sendmail that goes by the title it gives itself.
    """
    path = _pid_file(kind, layout)
    if host.is_tree or not path:
        return None
    try:
        with open(path, "rb") as file:
            pid = int(file.readline(20))
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            title = file.read(200)
        with open(f"/proc/{pid}/stat", "rb") as file:
            comm, _, rest = file.read().rpartition(b")")
    except (OSError, ValueError):
        return None
    if not title.startswith(b"sendmail: ") or b"(sendmail" not in comm:
        return None
    ticks = int(rest.split()[19])
    booted_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    start_ns = booted_ns + ticks * 1_000_000_000 // _TICKS
    return Process(kind, boot.identity(host), pid, ticks, start_ns)


def _pid_file(kind: Kind, layout: Layout) -> str:
    if kind is Kind.CLIENT:
        return layout.client_pid_file
    if kind is Kind.QUEUE and layout.pid_file:
        return os.path.join(os.path.dirname(layout.pid_file), "queue.pid")
    return layout.pid_file if kind is Kind.DAEMON else ""


def reload(process: Process, host: Host, layout: Layout, within_s: float = 15.0) -> Process:
    """Send SIGHUP and return the process that runs afterwards: -bd forks anew, others stay.

    Raises CommandError when it is gone, or did not come back.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError as error:
        raise CommandError(f"the MTA (pid {process.pid}) is gone: {error.strerror}") from error
    try:
        if _moved(process, host, layout):
            raise CommandError(f"the MTA (pid {process.pid}) is another process by now")
        signal.pidfd_send_signal(descriptor, signal.SIGHUP)
    except OSError as error:
        raise CommandError(f"SIGHUP to pid {process.pid}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return _settle(process, host, layout, within_s=within_s, stays_s=2.0)


def restart(process: Process, host: Host, layout: Layout, within_s: float = 150.0) -> Process:
    """Restart the daemon's unit and return the new process; what is stopped stays stopped.

    The job is queued and not waited for by systemctl: ordered before us, it would wait for us.
    Raises CommandError.
    """
    if host.is_tree or not os.path.isdir(_BOOTED):
        raise CommandError("systemd does not run this host: restart the MTA by hand")
    done = run([_SYSTEMCTL, "--no-block", "try-restart", UNIT], timeout_s=20)
    if done.status:
        raise CommandError(f"systemctl try-restart {UNIT}: {done.last_words}")
    return _settle(process, host, layout, within_s=within_s, stays_s=within_s)


def _moved(process: Process, host: Host, layout: Layout) -> bool:
    now = find(process.kind, host, layout)
    return now is None or now.identity != process.identity


def _settle(
    process: Process, host: Host, layout: Layout, *, within_s: float, stays_s: float
) -> Process:
    """Wait for the process that follows; one that is still there after ``stays_s`` has stayed."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < within_s:
        now = find(process.kind, host, layout)
        if now is not None and (now.identity != process.identity or passed >= stays_s):
            return now
        time.sleep(0.05)
    raise CommandError(f"the MTA did not come back within {within_s:g} s")


def stale_builds(host: Host, layout: Layout) -> list[str]:
    """Return what the distribution's start-time make would rebuild: then no restart is asked."""
    pairs: list[tuple[str, tuple[str, ...]]] = [
        (layout.cf, (layout.mc,)),
        (layout.submit_cf, (layout.submit_mc,)),
    ]
    pairs += [(spec.database, (spec.source,)) for spec in (*layout.maps, *layout.aliases)]
    pairs += _make_rules(host, layout, {built for built, _ in pairs if built})
    stale = []
    for built, sources in pairs:
        for source in sources:
            if not built or not source:
                continue
            with contextlib.suppress(OSError):
                if os.stat(host.at(built)).st_mtime_ns < os.stat(host.at(source)).st_mtime_ns:
                    stale.append(f"{built} is older than {source}")
    return list(dict.fromkeys(stale))


def _make_rules(
    host: Host, layout: Layout, targets: set[str]
) -> list[tuple[str, tuple[str, ...]]]:
    """Return the sources of the targets in Debian's Makefile: what the .mc includes is among them."""
    try:
        with open(host.at(os.path.join(layout.mail_dir, "Makefile")), encoding="utf-8") as file:
            lines = file.read(1 << 20).replace("\\\n", " ").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    rules = []
    for line in lines:
        target, colon, sources = line.partition(":")
        if colon and target.strip() in targets:
            rules.append((target.strip(), tuple(sources.split())))
    return rules

