# SPDX-License-Identifier: Apache-2.0
"""Files of class ``checked``: somebody else writes them, and what he wrote is judged before it stays.

New content stays when it builds, keeps to the blocks of the file, is taken by Sendmail and breaks no rule
that was met (the ratchet); then it is in the next generation, with its maps. The rest is put back.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from hardend import blocks, maps, ratchet, survey, window_files
from hardend.baseline.manifest import Generation
from hardend.capture import built_map
from hardend.errors import HardendError
from hardend.gate import Candidate, gate
from hardend.maps import Copy, NoProgramError
from hardend.model import Class, Entry, Role, printable
from hardend.offer import Means
from hardend.rules.documents import Documents

# A writer may be in the middle of it: his file is judged when it was left alone for so long ...
_REST_NS = 1_000_000_000
_LONGEST_S = 5.0  # ... or when he never leaves it alone.
_SHOWN = 3


@dataclass(slots=True)
class Found:
    """What became of new content: entries of the next generation, what goes back, what was not judged.

    ``refused`` has the copy that was judged and why it may not stay.
    """

    taken: dict[str, Entry] = field(default_factory=dict)
    refused: dict[str, tuple[Copy, str]] = field(default_factory=dict)
    unjudged: dict[str, str] = field(default_factory=dict)


def released(means: Means, paths: Iterable[str]) -> frozenset[str]:
    """Return the paths that a maintenance window lets go: they are judged when it ends."""
    windows = window_files.read_all(means.host)
    return frozenset(path for path in paths if any(window.holds(path) for window in windows))


class CheckedFiles:
    """One look at the checked files of a generation."""

    def __init__(self, means: Means, generation: Generation, library: str) -> None:
        self._means = means
        self._generation = generation
        self._library = library
        self._documents: Documents | None = None

    def look(self) -> Found:
        """Judge whatever differs from the generation; changes nothing."""
        found = Found()
        built: dict[str, dict[str, Entry]] = {}
        copies: dict[str, Copy] = {}
        deadline = time.monotonic() + _LONGEST_S
        for entry in self._files():
            try:
                live = self._at_rest(entry.path, deadline)
                if live is None or live.digest == entry.digest:
                    continue
                why = self._not_its_writers(entry, live)
                if not why:
                    built[entry.path], why = self._built_all(entry, live)
            except HardendError as error:
                found.unjudged[entry.path] = str(error)
                continue
            copies[entry.path] = live
            if why:
                found.refused[entry.path] = (live, why)
        good = {path: entries for path, entries in built.items() if path not in found.refused}
        self._choose(good, copies, found)
        return found

    def _files(self) -> list[Entry]:
        entries = self._generation.entries
        held = [
            entry
            for entry in entries.values()
            if entry.cls is Class.CHECKED and entry.holds_content and entry.role is Role.SOURCE
        ]
        away = released(self._means, (entry.path for entry in held))
        return [entry for entry in held if entry.path not in away]

    def _at_rest(self, path: str, deadline: float) -> Copy | None:
        """Return the live file when nobody is writing it, or as it is when that takes too long."""
        while True:
            live = maps.copy_live(self._means.host, path)
            if live is None:
                return None
            age_ns = time.time_ns() - live.ctime_ns
            known = self._generation.entries[path].digest == live.digest
            if known or not 0 <= age_ns < _REST_NS or time.monotonic() > deadline:
                return live
            time.sleep((_REST_NS - age_ns) / 1e9)

    def _not_its_writers(self, entry: Entry, live: Copy) -> str:
        """Return why a file with blocks is not its writers' alone any more."""
        given = blocks.of(entry.path, self._means.settings.blocks)
        if not given:
            return ""
        aliases = any(
            other.spec.builder == "newaliases"
            for other in self._generation.entries.values()
            if other.spec is not None and other.spec.source == entry.path
        )
        approved = self._means.store.object(entry.digest)
        return blocks.fault(entry.path, approved, live.content, given, aliases=aliases)

    # Building -------------------------------------------------------------------------------------

    def _built_all(self, entry: Entry, live: Copy) -> tuple[dict[str, Entry], str]:
        """Return the entries of new content and its maps, or why it does not build.

        Raises HardendError where the approved content would not build either.
        """
        made = {
            entry.path: replace(
                entry,
                digest=self._means.store.add_object(live.content),
                size=len(live.content),
                mtime_ns=live.mtime_ns,
            )
        }
        for other in self._generation.entries.values():
            spec = other.spec
            is_map = other.role is Role.MAP and other.answers and not other.opaque
            if not is_map or spec is None or spec.source != entry.path:
                continue
            try:
                built = built_entry(self._means, other, live.content, self._library)
            except NoProgramError:
                raise
            except HardendError as error:
                built_entry(self._means, other, self._means.store.object(entry.digest), self._library)
                return {}, str(error)
            made[other.path] = replace(built, sources=((entry.path, live.digest),))
        return made, ""

    # Judging --------------------------------------------------------------------------------------

    def _choose(
        self, built: Mapping[str, dict[str, Entry]], copies: Mapping[str, Copy], found: Found
    ) -> None:
        """Take all of it in, or what passes one by one."""
        together = {path: entry for entries in built.values() for path, entry in entries.items()}
        try:
            if len(built) > 1 and not self._faults(together, copies):
                found.taken = together
                return
            for path, entries in built.items():
                faults = self._faults({**found.taken, **entries}, copies)
                if faults:
                    more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
                    found.refused[path] = (copies[path], "; ".join(faults[:_SHOWN]) + more)
                else:
                    found.taken.update(entries)
        except HardendError as error:
            found.taken = {}
            for path in built.keys() - found.refused.keys():
                found.unjudged[path] = str(error)

    def _faults(self, changed: Mapping[str, Entry], copies: Mapping[str, Copy]) -> list[str]:
        """Return why the generation with these entries would be worse. Raises HardendError."""
        means, before = self._means, self._generation.entries
        after = {**before, **changed}
        documents = self._surveyed(copies)
        waived = ratchet.waived_today(means.settings)
        faults = ratchet.new_faults(documents, before, after, means.store, waived)
        for cf in (means.layout.cf, means.layout.submit_cf):
            if cf in changed:
                new, old = (means.store.object(entries[cf].digest) for entries in (after, before))
                faults += gate(Candidate(cf, new, old), means.host, means.layout, means.tools)
        return faults

    def _surveyed(self, copies: Mapping[str, Copy]) -> Documents:
        """Return the documents of the host with what new content names. Raises HardendError.

        What was written while the host was read names other files: it is looked at by the next run.
        """
        if self._documents is None:
            documents = survey.survey(self._means.host, self._means.layout, self._means.settings)
            for path, copy in copies.items():
                if documents.content.get(path, copy.content) != copy.content:
                    raise HardendError(f"{printable(path)} changes while it is judged")
            self._documents = documents
        return self._documents


def built_entry(means: Means, entry: Entry, source: bytes, library: str) -> Entry:
    """Return the entry of a map with the map built from these bytes, newer than its source for make(1).

    Raises HardendError where it does not build.
    """
    made, _ = built_map(
        *(entry, source, means.store, means.tools), library=library, mtime_ns=time.time_ns()
    )
    return made
