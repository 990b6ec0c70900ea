# SPDX-License-Identifier: Apache-2.0
"""What a trusted unit wrote ([[trusted_units]]): put back like every drift, then approved if it passes.

The guard holds the path in any case; the content is taken from the quarantine, from an object that the
witness saw the unit write. A candidate is nobody. What does not pass stays where it is, and is told.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from hardend import kept_approval
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.checked import released
from hardend.errors import CommandError, FormatError, HardendError, RefusedError, StoreError
from hardend.maps import NoProgramError
from hardend.model import Class, Drift, FileType, Host, printable
from hardend.offer import Means
from hardend.quarantine import Quarantine
from hardend.quarantine_reader import TRUNCATED, WHOLE, Kept, Shelf
from hardend.settings import Settings, TrustedUnit

# What is older was written before somebody looked: after a pause, say, or before the unit was trusted.
_RECENT_S = 900.0
_PATIENCE_S = 10.0  # for a hardend-collect that is at work
_LOOKED_BACK = 50  # generations
# What comes with new content; owner, mode and the rest stay as approved. Not flags: no event tells who
# took a lock off.
_WITH_CONTENT = frozenset(
    {Drift.CONTENT, Drift.STALE, Drift.OWNER, Drift.GROUP, Drift.MODE, Drift.ACL, Drift.XATTR}
)
_MACHINES = frozenset({"checked", "rebuild"})  # authors of generations that nobody decided on


@dataclass(frozen=True, slots=True)
class Choice:
    """An object that is to be judged, and the unit that wrote it."""

    kept: Kept
    unit: TrustedUnit


def writer(who: object, path: str, settings: Settings) -> TrustedUnit | None:
    """Return the trusted unit that a record's ``who`` names for a fact; None for a candidate."""
    name = who.get("unit") if isinstance(who, dict) else None
    return next((one for one in settings.trusted_units if one.unit == name and one.covers(path)), None)


def chosen(
    records: Iterable[Kept],
    settings: Settings,
    generation: Generation,
    *,
    now: float,
    since: int = 0,
    away: Collection[str] = (),
) -> list[Choice]:
    """Return of each path the newest object that a trusted unit wrote, if it was not settled; oldest first.

    It counts when it was written over the generation in force, or over one from ``since`` on. ``now`` is
    realtime seconds; the paths ``away`` lie in a maintenance window.
    """
    first = since or generation.number
    newest: dict[str, Choice] = {}
    for kept in sorted(records, key=lambda one: (one.time, one.id)):
        unit = writer(kept.who, kept.path, settings)
        entry = generation.entries.get(kept.path)
        if unit is None or entry is None or not entry.holds_content or kept.path in away:
            continue
        is_timely = first <= kept.generation <= generation.number and 0 <= now - kept.time <= _RECENT_S
        if is_timely and _is_content(kept):
            newest[kept.path] = Choice(kept, unit)
    # The older ones of a path are never tried: they are what the unit itself wrote over.
    found = [one for one in newest.values() if not one.kept.record.get("trusted")]
    return sorted(found, key=lambda one: (one.kept.time, one.kept.id))


def _is_content(kept: Kept) -> bool:
    """Return whether this is new content of a file; a part of it is refused later, with a word."""
    return (
        not kept.waits
        and kept.kind == FileType.FILE
        and kept.cls != Class.ATTRIBUTES
        and kept.stored in {WHOLE, TRUNCATED}
        and Drift.CONTENT in kept.drift
        and _WITH_CONTENT.issuperset(kept.drift)
    )


def first_generation(store: Store, generation: Generation, settings: Settings) -> int:
    """Return the oldest generation after which only hardend itself made others.

    A unit writes several files in a row: what it wrote while the first was approved is not outdated by
    that. What an administrator decided meanwhile counts more than what was written before.
    """
    authors = _MACHINES | {one.unit for one in settings.trusted_units}
    for _ in range(_LOOKED_BACK):
        if generation.author not in authors:
            break
        try:
            generation = store.generation(generation.number - 1)
        except StoreError:  # pruned, or damaged: not known who decided
            break
    return generation.number


def wrote(quarantine: Quarantine, identifiers: Iterable[str], settings: Settings) -> bool:
    """Return whether a trusted unit wrote one of these objects; False at once where none is trusted."""
    if not settings.trusted_units:
        return False
    records = (quarantine.read_record(identifier) or {} for identifier in identifiers)
    return any(writer(one.get("who"), str(one.get("path")), settings) for one in records)


@dataclass(slots=True)
class Lately:
    """What trusted units wrote lately: there is something new to judge when ``ids`` changes."""

    host: Host
    settings: Settings
    _stamp_ns: int = 0
    _ids: tuple[str, ...] = ()

    def ids(self) -> tuple[str, ...]:
        """Return the ids; the records are read only when one was written since. Raises nothing."""
        if not self.settings.trusted_units:
            return ()
        try:
            stamp_ns = os.stat(os.path.join(self.host.quarantine_dir, "records")).st_mtime_ns
            if stamp_ns != self._stamp_ns:
                with Shelf(self.host) as shelf:
                    recent = _recent(shelf, self.settings, time.time())
                self._ids, self._stamp_ns = tuple(kept.id for kept in recent), stamp_ns
        except (HardendError, OSError):
            return ()
        return self._ids


def _recent(shelf: Shelf, settings: Settings, now: float) -> list[Kept]:
    return [kept for kept in shelf.all(now - _RECENT_S) if writer(kept.who, kept.path, settings)]


@dataclass(slots=True)
class TrustedPass:
    """One look at what trusted units wrote; ``before_apply`` is as in ``commit_and_apply``."""

    means: Means
    before_apply: Callable[[Generation], None] = lambda _: None
    problems: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Approve what passes, tell what does not, and never look at it again; raises nothing."""
        if not self.means.settings.trusted_units or not self.means.may_change:
            return
        verdicts: dict[str, str] = {}
        try:
            with Shelf(self.means.host) as shelf:
                for choice in self._choose(shelf):
                    verdict = self._judge(shelf, choice)
                    if verdict:
                        verdicts[choice.kept.id] = verdict
        except (HardendError, OSError) as error:
            self.problems.append(f"what trusted units wrote is not judged: {error}")
        if verdicts:
            self._settle(verdicts)

    def _choose(self, shelf: Shelf) -> list[Choice]:
        means, now = self.means, time.time()
        records = _recent(shelf, means.settings, now)
        if not records:
            return []
        generation = means.store.current()
        return chosen(
            *(records, means.settings, generation),
            now=now,
            since=first_generation(means.store, generation, means.settings),
            away=released(means, {kept.path for kept in records}),
        )

    def _judge(self, shelf: Shelf, choice: Choice) -> str:
        """Return what to write into the record; "" when nothing can be said now, and the next run tries."""
        kept, unit = choice.kept, choice.unit
        text = f"{printable(kept.path)} as {unit.unit} wrote it is not taken in: "
        try:
            made = kept_approval.approve(
                *(shelf, kept, self.means.settings),
                reason=f"written by {unit.unit}, which is trusted: {printable(unit.reason)}",
                author=unit.unit,
                unattended=True,
                before_apply=self.before_apply,
            )
        except (NoProgramError, kept_approval.UnjudgedError) as error:
            return self._unjudged(kept, f"{text}{error}")
        except (RefusedError, FormatError, CommandError) as error:
            self.problems.append(f"{text}{error} (quarantine {kept.id})")
            self.means.tell_refused(kept.path, self.problems[-1])
            return f"refused: {error}"
        except (HardendError, OSError) as error:
            return self._unjudged(kept, f"{text}{error}")
        if made is None:
            return "approved already"
        self.problems += [f"{path}: {why}" for path, why in made.outcome.failed.items()]
        self.problems += [made.outcome.withheld] if made.outcome.withheld else []
        return f"approved in generation {made.generation.number}"

    def _unjudged(self, kept: Kept, text: str) -> str:
        self.problems.append(text)
        self.means.tell_once(f"trusted {kept.path}", text, PATH=kept.path)
        return ""

    def _settle(self, verdicts: dict[str, str]) -> None:
        """Write the verdicts into the records as they are by now: rules may have been added to them."""
        try:
            with Quarantine(self.means.host, patience_s=_PATIENCE_S) as quarantine:
                for identifier, verdict in verdicts.items():
                    record = quarantine.read_record(identifier)
                    if record is not None:  # else evicted meanwhile
                        quarantine.write_record({**record, "trusted": verdict})
        except (HardendError, OSError) as error:
            self.problems.append(f"not noted in the quarantine: {error}")
