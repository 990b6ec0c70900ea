# SPDX-License-Identifier: Apache-2.0
"""The one way to change anything (design 6.1): propose, build aside, commit, apply.

The generation is on disk before any live file changes, so a crash rolls forward.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hardend import __version__, control, pause, state
from hardend.baseline import trust
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.enforcer import Enforcer
from hardend.errors import RefusedError, StoreError
from hardend.inspection import require_same_layout
from hardend.journal import Event, Journal
from hardend.model import Drift, Entry, Host, Mode, Role, State
from hardend.propose import Proposal
from hardend.table import ANYTHING, Held


@dataclass(slots=True)
class Outcome:
    """What applying a generation did on the host.

    ``withheld`` says why the newest generation is not the one that is enforced, "" where it is.
    """

    by_guard: bool
    withheld: str = ""
    restored: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    paused: bool = False


def commit(
    host: Host,
    proposal: Proposal,
    *,
    reason: str,
    author: str = "",
) -> Generation:
    """Write the proposal as the next generation and make it current; nothing live changes here.

    Raises StoreError, or RefusedError for a caller that is not root, or where the generation that the
    proposal was made from is not in force any more.
    """
    require_root()
    store = Store(host)
    with store.locked():
        number, parent = store.next()
        if proposal.follows:
            _require_unchanged(store, proposal.follows)
        generation = Generation(
            number=number,
            parent=parent,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            author=author or caller(),
            reason=reason,
            layout=proposal.layout,
            hardend=__version__,
            sendmail=proposal.sendmail,
            entries=proposal.entries,
        )
        store.add_generation(generation)
    return generation


def _require_unchanged(store: Store, number: int) -> None:
    """Raise RefusedError where another generation than this one is in force; a damaged store is none."""
    with contextlib.suppress(StoreError):
        if (now := store.current().number) != number:
            raise RefusedError(
                f"generation {now} was approved meanwhile: what was worked out from {number} would undo it",
                hint="the same command again",
            )


def apply(host: Host, settings: Settings, *, fresh: bool = True) -> Outcome:
    """Bring the host to the generation in force: the guard does, or this process where none runs.

    ``fresh`` says that the generation was just committed: what it changed is put in, not put back, and
    is no drift. Raises RefusedError when the guard refuses the generation.
    """
    if state.guard_is_alive(host):
        reply = control.ask(host, {"verb": "load"}, timeout_s=120.0)
        if not reply.get("ok"):
            raise RefusedError(f"the guard refused the generation: {reply.get('error')}")
        failed = reply.get("failed")
        return Outcome(
            by_guard=True,
            withheld=str(reply.get("withheld", "")),
            failed={str(k): str(v) for k, v in failed.items()} if isinstance(failed, dict) else {},
        )
    outcome = Outcome(by_guard=False, paused=pause.read(host) is not None)
    if not outcome.paused and settings.mode is Mode.ENFORCE:
        one_pass(host, settings, outcome, fresh=fresh)
    return outcome


def one_pass(host: Host, settings: Settings, outcome: Outcome, *, fresh: bool = True) -> None:
    """Do what the guard would do at its start, once; ``fresh`` as for ``apply``."""
    enforcer = Enforcer(host, settings, Store(host), _Collecting(outcome), _NoWatch())
    try:
        found = trust.in_force(host, Store(host), settings)
        generation, outcome.withheld = found.generation, "; ".join(found.faults)
        require_same_layout(host, generation)
        enforcer.load(generation, strict=True)
        before = _entries_before(host, generation) if fresh else generation.entries
        for path, entry in before.items():
            held = enforcer.table.by_path.get(path)
            if held is not None and held.entry == entry:
                held.fresh = False  # approved before: what differs from it is a drift, and is told
            elif held is not None:
                held.replaces = entry.digest
                # Its source is new: the map that was built of it goes in with it.
                held.fresh = held.fresh or held.entry.role is Role.MAP
        for held in enforcer.table if fresh and not before else ():  # of a first generation as well
            held.fresh = held.fresh or held.entry.role is Role.MAP
            held.replaces = ANYTHING
        enforcer.full_pass(thorough=True)
        for held in enforcer.table:
            if held.state is State.FAILED:
                outcome.failed[held.entry.path] = held.reason
    finally:
        enforcer.close()


def _entries_before(host: Host, generation: Generation) -> Mapping[str, Entry]:
    with contextlib.suppress(StoreError):
        return Store(host).generation(generation.number - 1).entries
    return {}


def commit_and_apply(
    host: Host,
    settings: Settings,
    proposal: Proposal,
    *,
    reason: str,
    author: str = "",
    before_apply: Callable[[Generation], None] = lambda _: None,
) -> tuple[Generation, Outcome]:
    """Commit and apply; when the host cannot be brought there, a new generation has the old content.

    ``before_apply`` is called when the generation is written and nothing live is changed yet, with the
    one that was in force (the new one, when it is the first). Raises RefusedError with the reason.
    """
    store = Store(host)
    before = None
    with contextlib.suppress(StoreError):  # none yet, or damaged: approving anew is the way out
        before = store.current()
    generation = commit(host, proposal, reason=reason, author=author)
    before_apply(before or generation)
    try:
        outcome = apply(host, settings)
    except (RefusedError, StoreError) as error:
        if before is not None:
            back = Proposal.of(before)
            commit(host, back, reason=f"generation {generation.number} refused: {error}")
            apply(host, settings)
        raise
    return generation, outcome


def require_root() -> None:
    """Raise RefusedError unless root asks."""
    if os.geteuid() != 0:
        raise RefusedError("only root may do this", hint="run it with sudo")


def caller() -> str:
    """Return who asks: the login behind sudo(8) or su(1), else the user (proc_pid_loginuid(5))."""
    try:
        with open("/proc/self/loginuid", encoding="ascii") as file:
            uid = int(file.read())
    except (OSError, ValueError):
        uid = 0xFFFFFFFF
    if uid == 0xFFFFFFFF:  # noqa: PLR2004 - the kernel's word for "no login"
        uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class _NoWatch:
    """A pass without a loop watches nothing."""

    def arm(self, held: Held, descriptor: int) -> None:
        """Do nothing."""

    def settle(self, held: Held) -> None:
        """Do nothing."""

    def forget(self, held: Held) -> None:
        """Do nothing."""


class _Collecting:
    """Collects what a pass did for the command line."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def drifted(self, held: Held, drift: frozenset[Drift]) -> None:
        """Count as not put back."""
        self._outcome.failed[held.entry.path] = " ".join(sorted(drift))

    def restored(self, held: Held, drift: frozenset[Drift], taken: str, latency_us: int) -> None:
        """Count as put back."""
        del drift, taken, latency_us
        self._outcome.restored.append(held.entry.path)

    def contested(self, held: Held, drift: frozenset[Drift]) -> None:
        """Count as put back."""
        del drift
        self._outcome.restored.append(held.entry.path)

    def failed(self, held: Held, drift: frozenset[Drift]) -> None:
        """Count as not put back."""
        del drift
        self._outcome.failed[held.entry.path] = held.reason

    def unexpected(self, held: Held, name: bytes, taken: str) -> None:
        """Say what was set aside."""
        if taken:
            self._outcome.restored.append(os.path.join(held.entry.path, os.fsdecode(name)))


def announce(host: Host, generation: Generation, worse: Sequence[str] = ()) -> None:
    """Tell the journal of a new generation, and of what ``--force`` went past with it."""
    journal = Journal(host)
    if worse:
        journal.event(
            Event.BASELINE_FORCED,
            f"generation {generation.number} was forced by {generation.author} past {len(worse)} findings: "
            f"{'; '.join(worse)}",
            GENERATION=generation.number,
            RULE=" ".join(sorted({text.split(": ")[1] for text in worse if ": " in text})),
        )
    journal.event(
        Event.BASELINE_APPROVED,
        f"generation {generation.number} approved by {generation.author}: {generation.reason}",
        GENERATION=generation.number,
    )
    journal.close()
