# SPDX-License-Identifier: Apache-2.0
"""One look at all derived maps: what they answer, who built them, what checked sources became."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from hardend import commit, maps
from hardend.baseline.manifest import Generation
from hardend.checked import CheckedFiles, built_entry, released
from hardend.errors import CommandError, HardendError
from hardend.journal import Event
from hardend.maps import Copy, NoProgramError
from hardend.model import Entry, Role, printable
from hardend.mta_memory import Memory
from hardend.offer import Means, Offer
from hardend.propose import Proposal

_ATTEMPTS = 5
_UNREADABLE = "unreadable"  # what a map answers that no library can read
_REFUSED = "refused"  # the word on a checked file that may not stay: no file of sources has answers


class MapPass:
    """The maps of a generation; ``outcomes`` says of each what was found."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._library = maps.library(means.tools)
        self.outcomes: dict[str, str] = {}
        self.problems: list[str] = []

    def run(
        self, generation: Generation, offer: Offer, published: Mapping[str, object]
    ) -> Generation:
        """Check everything once; return the generation in force afterwards.

        Checked sources come first: their maps follow, and must not be put back to what they were.
        """
        generation = self._take_checked(generation, offer)
        away = released(self._means, generation.entries)
        suspects = _suspects(generation, published, self._means.memory) - away
        generation = self._rebuild(generation, suspects)
        for entry in _maps(generation):
            if entry.path not in away:
                self._check(entry, offer, suspect=entry.path in suspects)
        return generation

    # What the live maps answer --------------------------------------------------------------------

    def _check(self, entry: Entry, offer: Offer, *, suspect: bool) -> None:
        """Ask a copy of the live map and offer the answer; if it changes meanwhile, ask again."""
        began_ns = time.time_ns()
        try:
            for _ in range(_ATTEMPTS):
                copy = maps.copy_live(self._means.host, entry.path)
                if copy is None:
                    self._note(entry, "missing")
                    return
                answers = self._answers(entry, copy)
                if offer.tell(entry, copy, answers):
                    self._judge(entry, answers, began_ns if suspect else 0)
                    return
                time.sleep(0.1)
            self._note(entry, "changes all the time: the guard did not take the answer")
        except NoProgramError as error:
            self._note(entry, str(error))
        except HardendError as error:
            self._note(entry, f"not checked: {error}")

    def _answers(self, entry: Entry, copy: Copy) -> str:
        """Return what a copy answers; the stored object's bytes need no program to say it."""
        if copy.digest == entry.digest or entry.spec is None:
            return entry.answers
        with maps.workdir() as directory:
            try:
                return maps.answers_of(copy.content, entry.spec, directory, self._means.tools)
            except NoProgramError:
                raise
            except CommandError:
                return _UNREADABLE

    def _judge(self, entry: Entry, answers: str, proven_ns: int) -> None:
        if answers != entry.answers:
            word = "no readable map" if answers == _UNREADABLE else "answering otherwise"
            now = maps.copy_live(self._means.host, entry.path)
            if now is not None and now.digest == entry.digest:
                self.outcomes[entry.path] = f"put back: it was {word}"
            else:
                self._note(entry, word)
            return
        self.outcomes[entry.path] = "answers as approved"
        if proven_ns and self._means.may_change:
            self._means.memory.verified_ns[entry.path] = proven_ns
            self._means.journal.event(
                Event.MAP_VERIFIED,
                f"{printable(entry.path)} answers as approved",
                PATH=entry.path,
            )

    # Building anew --------------------------------------------------------------------------------

    def _rebuild(self, generation: Generation, suspects: Iterable[str]) -> Generation:
        """Build maps from their approved source: those in doubt, and those of another library.

        What comes out otherwise than approved is the next generation. Each is tried once for what it
        is built with: a refused generation is not made again at every run.
        """
        told = self._means.memory.told
        changed = {}
        for entry in _maps(generation):
            source = generation.entries.get(entry.spec.source) if entry.spec else None
            foreign = bool(self._library) and entry.builder != self._library
            if source is None or not source.digest or not (foreign or entry.path in suspects):
                continue
            attempt = f"{self._library} {source.digest} {entry.answers}"
            try:
                built = built_entry(
                    self._means, entry, self._means.store.object(source.digest), self._library
                )
            except HardendError as error:
                self._failed(entry.path, f"{printable(entry.path)} does not build: {error}")
                continue
            wanted = foreign or built.answers != entry.answers
            if wanted and told.get(f"rebuilt {entry.path}") != attempt:
                told[f"rebuilt {entry.path}"] = attempt
                changed[entry.path] = built
        if not changed or not self._means.may_change:
            return generation
        made = self._commit(generation, changed, "rebuild", "maps built anew: " + _names(changed))
        for path in changed if made is not generation else ():
            self._means.journal.event(
                Event.MAP_REBUILT,
                f"{printable(path)} was built anew from its approved source",
                PATH=path,
                GENERATION=made.number,
            )
        return made

    # Sources of class checked ---------------------------------------------------------------------

    def _take_checked(self, generation: Generation, offer: Offer) -> Generation:
        """Take in new content of checked files that may stay, maps with it; have the rest put back."""
        if not self._means.may_change:
            return generation
        found = CheckedFiles(self._means, generation, self._library).look()
        for path, why in found.unjudged.items():
            self._failed(path, f"{printable(path)} is not taken in: {why}")
        for path, (copy, why) in found.refused.items():
            self._refuse(generation.entries[path], copy, why, offer)
        if not found.taken:
            return generation
        return self._commit(
            generation, found.taken, "checked", "checked content changed: " + _names(found.taken)
        )

    def _refuse(self, entry: Entry, copy: Copy, why: str, offer: Offer) -> None:
        """Have the approved content put back; a file that is another one by now is judged anew."""
        text = f"{printable(entry.path)} is not taken in: {why}"
        if offer.tell(entry, copy, _REFUSED):
            self.problems.append(text)
            self._means.tell_refused(entry.path, text)

    # Outcomes -------------------------------------------------------------------------------------

    def _commit(
        self, generation: Generation, changed: Mapping[str, Entry], author: str, reason: str
    ) -> Generation:
        """Make the next generation and bring the host to it; a refusal leaves things as they are."""
        proposal = Proposal.after(generation)
        proposal.entries.update(changed)
        try:
            if (now := self._means.store.current()).number != generation.number:
                return now  # approved meanwhile by somebody else: what is left to do is done by the next run
            made, outcome = commit.commit_and_apply(
                self._means.host, self._means.settings, proposal, reason=reason, author=author
            )
        except HardendError as error:
            self.problems.append(f"{reason}: {error}")
            return self._means.store.current()
        commit.announce(self._means.host, made)
        self.problems += [f"{path}: {why}" for path, why in outcome.failed.items()]
        return made

    def _note(self, entry: Entry, what: str) -> None:
        self.outcomes[entry.path] = what
        self.problems.append(f"{printable(entry.path)}: {what}")

    def _failed(self, path: str, text: str) -> None:
        self.problems.append(text)
        self._means.tell_once(path, text, PATH=path)


def _maps(generation: Generation) -> list[Entry]:
    """Return the maps that are held by their answers."""
    return [
        entry
        for entry in generation.entries.values()
        if entry.role is Role.MAP and entry.spec is not None and entry.answers and not entry.opaque
    ]


def _suspects(
    generation: Generation, published: Mapping[str, object], memory: Memory
) -> set[str]:
    """Return the maps to be proven: the guard doubts them, or they or their source were put back."""
    drifts, doubted = published.get("last_drift"), published.get("paths")
    suspects = set()
    for entry in _maps(generation):
        source = entry.spec.source if entry.spec else ""
        since_ns = memory.verified_ns.get(entry.path, 0)
        if isinstance(doubted, dict) and entry.path in doubted:
            suspects.add(entry.path)
        for path in (entry.path, source):
            item = drifts.get(path) if isinstance(drifts, dict) else None
            until_ns = item.get("until_ns") if isinstance(item, dict) else None
            if isinstance(until_ns, int) and until_ns > since_ns:
                suspects.add(entry.path)
    return suspects


def _names(changed: Iterable[str]) -> str:
    return ", ".join(map(printable, changed))
