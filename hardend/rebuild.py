# SPDX-License-Identifier: Apache-2.0
"""hardend-rebuild: what derived maps answer, and what the running MTA has loaded; off the hot path.

One run at a time. What has to wait (a second reload within the interval) is waited for here, and
what the guard put back meanwhile is looked at: a start of the unit while it runs would be lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from hardend import layout, maps, mta_memory, pause, state
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.errors import HardendError, RefusedError
from hardend.journal import Journal
from hardend.map_pass import MapPass
from hardend.model import Host, Mode, State
from hardend.mta_pass import MtaPass
from hardend.offer import Means, offer_for
from hardend.trusted import Lately, TrustedPass

# Well under TimeoutStartSec of hardend-rebuild.service; a longer reload_interval is not waited for.
_LONGEST_S = 480.0
_PUT_BACK = frozenset({State.RESTORED.value, State.CONTESTED.value})
_SETTLE_S = 0.3  # the guard publishes four times a second


@dataclass(slots=True)
class Report:
    """What a run found and did: by map, by MTA process; problems are one sentence each.

    ``broken`` are the promises of the files that the MTA did not keep after it was told to load them.
    """

    maps: dict[str, str] = field(default_factory=dict)
    mta: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Return what ``hardend rebuild --json`` prints."""
        return {"maps": self.maps, "mta": self.mta, "problems": self.problems, "broken": self.broken}


def run(
    host: Host,
    settings: Settings,
    *,
    say: Callable[[str], None] = lambda _: None,
    asked: bool = False,
) -> Report:
    """Check every map and the MTA once, and again for what comes meanwhile.

    ``say`` is told why it takes longer. ``asked`` by an administrator who changed the configuration:
    an MTA is reloaded also where it is not known what it has loaded. Raises StoreError without an
    intact baseline, RefusedError when another run does not end.
    """
    with alone(host, settings):
        journal = Journal(host, identifier="hardend-rebuild")
        try:
            return _rounds(host, settings, journal, say, asked=asked)
        finally:
            journal.close()


def _rounds(
    host: Host, settings: Settings, journal: Journal, say: Callable[[str], None], *, asked: bool
) -> Report:
    longest_s = settings.reload_interval_s + 2.0 * settings.command_timeout_s
    deadline = time.monotonic() + min(longest_s, _LONGEST_S)
    lately = Lately(host, settings)
    while True:
        published = published_state(host)
        seen = _work(published, lately)
        report, wait_s = _one_round(host, settings, journal, published, asked=asked)
        asked = False  # once
        left_s = deadline - time.monotonic()
        if 0 < wait_s < left_s:
            say(f"waiting {wait_s:.0f} s: at most one reload in {settings.reload_interval_s} s")
            _wait(host, wait_s, seen, lately)
            continue
        if wait_s:
            report.problems.append(f"a reload of the MTA is due in {wait_s:.0f} s: run it then")
        _wait(host, _SETTLE_S, seen, lately)
        if left_s <= 0 or _work(published_state(host), lately) == seen:
            return report


def _one_round(
    host: Host, settings: Settings, journal: Journal, published: dict[str, object], *, asked: bool
) -> tuple[Report, float]:
    """Return the report, and how long the MTA has to wait for its reload."""
    report = Report()
    means = _means(host, settings, journal)
    offer = offer_for(means)
    try:
        by_trusted = TrustedPass(means, partial(_note, means, published))
        by_trusted.run()  # first: maps follow their sources
        map_pass = MapPass(means)
        generation = map_pass.run(means.store.current(), offer, published)
        mta_pass = MtaPass(means, asked=asked)
        wait_s = mta_pass.run(generation, drifts_of(published))
    finally:
        offer.close()
        if means.may_change:
            mta_memory.write(host, means.memory)
    report.maps, report.mta = map_pass.outcomes, mta_pass.outcomes
    report.problems = by_trusted.problems + map_pass.problems + mta_pass.problems
    report.broken = mta_pass.broken
    return report, wait_s


def _means(host: Host, settings: Settings, journal: Journal) -> Means:
    where = layout.find(host)
    return Means(
        host=host,
        settings=settings,
        layout=where,
        tools=maps.tools_for(host, where, settings),
        store=Store(host),
        journal=journal,
        memory=mta_memory.read(host),
        may_change=settings.mode is Mode.ENFORCE and pause.read(host) is None,
    )


def _note(means: Means, published: dict[str, object], generation: Generation) -> None:
    """Remember in this run what the MTA has loaded, as ``note_mta`` does for others."""
    with contextlib.suppress(HardendError, OSError):
        if not means.host.is_tree:
            MtaPass(means).note(generation, drifts_of(published))


def note_mta(host: Host, settings: Settings, generation: Generation) -> None:
    """Remember what the MTA has loaded, as far as it is known, before a generation is applied.

    Locking a file changes its ctime: afterwards nothing tells that it is as old as it was. A host
    where it cannot be written down is told the same by the next run, as unknown.
    """
    if host.is_tree:
        return
    journal = Journal(host, identifier="hardend-rebuild")
    try:
        means = _means(host, settings, journal)
        MtaPass(means).note(generation, drifts_of(published_state(host)))
        mta_memory.write(host, means.memory)
    except (HardendError, OSError):
        return
    finally:
        journal.close()


def published_state(host: Host) -> dict[str, object]:
    """Return what the guard published last, {} where that cannot be read."""
    try:
        return state.read(host) or {}
    except HardendError:
        return {}


def drifts_of(published: dict[str, object]) -> dict[str, tuple[int, int]]:
    """Return since when and until when (realtime ns) each path last was not the baseline's."""
    drifts = published.get("last_drift")
    found = {}
    for path, item in drifts.items() if isinstance(drifts, dict) else ():
        with contextlib.suppress(KeyError, TypeError, ValueError):
            found[str(path)] = (int(item["since_ns"]), int(item["until_ns"]))
    return found


def _work(published: dict[str, object], lately: Lately) -> tuple[object, ...]:
    """Return what changes when there is something new to look at: restores, maps in doubt, trusted work."""
    paths = published.get("paths")
    doubted = sorted(
        str(path)
        for path, item in (paths.items() if isinstance(paths, dict) else ())
        if isinstance(item, dict) and item.get("state") not in _PUT_BACK
    )
    return published.get("generation"), drifts_of(published), doubted, lately.ids()


def _wait(host: Host, wait_s: float, seen: tuple[object, ...], lately: Lately) -> None:
    """Wait, but not on when the guard has new work."""
    end = time.monotonic() + wait_s
    while (left_s := end - time.monotonic()) > 0:
        time.sleep(min(left_s, 0.5))
        if _work(published_state(host), lately) != seen:
            return


@contextlib.contextmanager
def alone(host: Host, settings: Settings) -> Iterator[None]:
    """Keep other runs away. Raises RefusedError when one does not end."""
    os.makedirs(host.run_dir, 0o755, exist_ok=True)
    descriptor = os.open(
        os.path.join(host.run_dir, "rebuild.lock"),
        os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
        0o600,
    )
    try:
        end = time.monotonic() + settings.reload_interval_s + 3 * settings.command_timeout_s
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > end:
                raise RefusedError(
                    "another hardend rebuild does not end", hint="systemctl status hardend-rebuild"
                )
            time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)
