# SPDX-License-Identifier: Apache-2.0
"""What changed in a window, and how much of it may stay: the rules are a ratchet, the gate is Sendmail's.

Reads the host and the store; nothing live is changed here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from hardend import classes, maps, ratchet, survey
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.capture import Live, Reader, built_map
from hardend.config import Settings
from hardend.errors import FileError, HardendError, RefusedError, StoreError
from hardend.gate import Candidate, gate
from hardend.model import Drift, Entry, Host, Role, printable
from hardend.propose import Proposal, Proposer
from hardend.reconcile import compare
from hardend.rules.documents import Documents
from hardend.window import Window

# Brings a proposal of what is kept to where rules that mend themselves are met; returns what it did.
Mend = Callable[[Proposal, Proposer], list[str]]
_UNUSABLE = "the baseline's store cannot be used"
_WAY_OUT = "hardend baseline verify names every damaged part; hardend approve takes the host in anew"


@dataclass(slots=True)
class Verdict:
    """What may stay (``kept``), as the entries of the next generation, and why the rest may not.

    ``built`` are maps that the generation has and the host has not: they were built to the side.
    ``dropped`` are paths among the kept that the rules took away again; ``notes`` say why. ``hint`` is what
    to do about a refusal that is none of the paths'.
    """

    kept: list[str] = field(default_factory=list)
    built: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    proposal: Proposal | None = None
    notes: list[str] = field(default_factory=list)
    hint: str = ""


def intact(store: Store, entries: Mapping[str, Entry] | None = None) -> Generation:
    """Return the generation in force, with what the entries (of it, or of the next one) hold readable.

    Raises RefusedError, for whoever ends a window and has done nothing yet.
    """
    try:
        current = store.current()
        for entry in (entries or {}).values():
            if entry.digest:
                store.object(entry.digest)
    except StoreError as error:
        raise RefusedError(
            f"{_UNUSABLE} ({error}): nothing was approved, nothing was put back, the window stays open",
            hint=_WAY_OUT,
        ) from error
    return current


class Review:
    """One look at what a window let go; ``changed`` names the paths, ``live`` has their entries.

    ``broken`` says why nothing can be judged, "" when it can: then all of it can only be put back.
    Raises RefusedError without an intact baseline.
    """

    def __init__(self, host: Host, settings: Settings, window: Window, paths: Iterable[str] = ()) -> None:
        self._host = host
        self._settings = settings
        self.window = window
        self.store = Store(host)
        self.current = intact(self.store)
        self.closing = tuple(paths) or window.paths
        self.live: Proposal | None = None
        self.broken = ""
        self._proposer: Proposer | None = None
        self._documents: Documents | None = None
        try:
            self._proposer = Proposer(host, settings)
        except HardendError as error:
            self.broken = str(error)
        self.changed = self._changed()
        if self._proposer is not None and self.changed and not self.broken:
            self._read_live(self._proposer)

    def _changed(self) -> list[str]:
        """Return what differs from the baseline, but for the lock that the window took off."""
        reader = Reader(self._host)
        try:
            held = [path for path in self.closing if path in self.current.entries]
            found = [path for path in held if self._is_changed(self.current.entries[path], reader)]
        finally:
            reader.close()
        return sorted({*found, *self._new_in_trees()})

    def _is_changed(self, entry: Entry, reader: Reader) -> bool:
        """Return whether a path differs; one that cannot be read, behind a link for a directory, does."""
        try:
            return self._differs(entry, reader)
        except FileError as error:
            self.broken = str(error)
            return True

    def _differs(self, entry: Entry, reader: Reader) -> bool:
        is_map = entry.role is Role.MAP and not entry.opaque
        live = reader.read(entry.path, content=entry.holds_content or is_map)
        drift = compare(entry, live.actual if live is not None else None) - {Drift.FLAGS}
        if live is None or drift or not is_map:
            return bool(drift)
        return live.actual.digest != entry.digest and self._answers(entry, live) != entry.answers

    def _answers(self, entry: Entry, live: Live) -> str:
        """Return what a map answers: newaliases and makemap write other bytes at every run."""
        if self._proposer is None or entry.spec is None:
            return ""
        tools = maps.tools_for(self._host, self._proposer.layout, self._settings)
        with maps.workdir() as directory, contextlib.suppress(HardendError):
            return maps.answers_of(live.content, entry.spec, directory, tools)
        return ""

    def _new_in_trees(self) -> list[str]:
        trees = [tree for tree in self.window.trees if tree in self.closing]
        if self._proposer is None or not trees:
            return []
        known = classes.protected(self._host, self._proposer.layout, self._settings)
        return [
            item.path
            for item in known
            if item.path not in self.current.entries
            and any(item.path.startswith(f"{tree}/") for tree in trees)
        ]

    def _read_live(self, proposer: Proposer) -> None:
        try:
            entries = self.current.entries
            maps_of = {
                entry.path
                for entry in entries.values()
                if entry.spec is not None and entry.spec.source in self.changed and entry.path in self.closing
            }
            read = dict.fromkeys(sorted({*self.changed, *maps_of}), "")
            self.live = proposer.some_paths(self.current, read)
        except HardendError as error:
            self.broken = str(error)

    def is_gone(self, path: str) -> bool:
        """Return whether nothing stands at a path any more."""
        return not os.path.lexists(self._host.at(path))

    # What may stay --------------------------------------------------------------------------------

    def judge(self, wanted: Iterable[str], mend: Mend = lambda _proposal, _proposer: []) -> Verdict:
        """Return how much of the wanted changes may stay: all of it, or what passes one by one.

        Sources go with their maps, a .mc with its .cf. ``mend`` has the rules that mend themselves
        applied before anything is judged. Nothing may stay where the store cannot be read.
        """
        chosen = [path for path in self.changed if path in set(wanted)]
        if not chosen or self.live is None or self._proposer is None:
            return Verdict(refused=dict.fromkeys(chosen, self.broken))
        try:
            return self._judge(chosen, mend)
        except StoreError as error:
            why = f"{_UNUSABLE} ({error}): nothing can be judged"
            return Verdict(refused=dict.fromkeys(chosen, why), hint=_WAY_OUT)

    def _judge(self, chosen: list[str], mend: Mend) -> Verdict:
        whole = self._try(chosen, mend)
        if isinstance(whole, Verdict):
            return whole
        kept: list[str] = []
        best = Verdict()
        refused: dict[str, str] = {}
        left = self._groups(chosen)
        progress = True
        while left and progress:
            progress = False
            for group in list(left):
                tried = self._try([*kept, *group], mend)
                if isinstance(tried, Verdict):
                    kept, best, progress = [*kept, *group], tried, True
                    left.remove(group)
                    refused = {path: why for path, why in refused.items() if path not in group}
                else:
                    refused |= dict.fromkeys(group, tried)
        best.refused = refused
        return best

    def _try(self, paths: list[str], mend: Mend) -> Verdict | str:
        """Return a verdict that keeps all of the paths, or why that may not be. Raises StoreError."""
        if self.live is None or self._proposer is None:
            return self.broken
        entries = dict(self.current.entries)
        for path in paths:
            after = self.live.entries.get(path)
            if after is None and self.is_gone(path):
                entries.pop(path, None)
            elif after is None or after == self.current.entries.get(path):
                return f"{printable(path)} is not what can be taken in: neither file, directory nor link"
            else:
                entries[path] = after
        proposal = Proposal(dict(entries), self.live.layout, self.live.sendmail)
        try:
            notes = mend(proposal, self._proposer)
            self._spare_stamps(proposal, entries)
            dropped = [path for path in paths if path not in proposal.entries and not self.is_gone(path)]
            built = self._follow(proposal, paths)
            why = "; ".join(self._faults(proposal))
        except StoreError:
            raise
        except HardendError as error:
            return str(error)
        kept = sorted(paths)
        return why or Verdict(kept, built, sorted(dropped), proposal=proposal, notes=notes)

    def _spare_stamps(self, proposal: Proposal, unmended: Mapping[str, Entry]) -> None:
        """Let what was mended back to what it was be the same entry: a new time stamp alone is no change."""
        for path, after in list(proposal.entries.items()):
            before = self.current.entries.get(path)
            if before is None or after == unmended.get(path):
                continue
            if replace(after, mtime_ns=before.mtime_ns) == before:
                proposal.entries[path] = before

    def _groups(self, paths: list[str]) -> list[list[str]]:
        """Return what can only stay together."""
        entries = {**self.current.entries, **(self.live.entries if self.live else {})}
        groups: dict[str, list[str]] = {}
        for path in paths:
            spec = entries[path].spec if path in entries else None
            head = spec.source if spec is not None and spec.source in paths else path
            mc = f"{path.removesuffix('.cf')}.mc"
            groups.setdefault(mc if path.endswith(".cf") and mc in paths else head, []).append(path)
        return list(groups.values())

    def _follow(self, proposal: Proposal, paths: list[str]) -> list[str]:
        """Have every map of a kept source answer as it: the live one where it does, else a new one.

        Returns the new ones. Raises HardendError for a source that does not build, or a map that answers
        otherwise than its source.
        """
        built = []
        for path, entry in list(proposal.entries.items()):
            spec = entry.spec
            if entry.role is not Role.MAP or spec is None or spec.source not in proposal.entries:
                continue
            before = self.current.entries.get(path)
            was_opaque = before is not None and before.opaque
            if (path not in paths and spec.source not in paths) or was_opaque:
                continue
            source = proposal.entries[spec.source]
            live = self.live.entries.get(path) if self.live is not None else None
            if live is not None and _is_of(live, source) and (path in paths or _held_alike(before, live)):
                proposal.entries[path] = live
                continue
            if spec.source not in paths:
                raise FileError(self._why_not(path, spec.source))
            if source.digest:
                proposal.entries[path] = self._built(entry, self.store.object(source.digest))
                built.append(path)
        return built

    def _why_not(self, path: str, source: str) -> str:
        warnings = self.live.warnings if self.live is not None else []
        said = [text for text in warnings if text.startswith(f"{printable(path)} ")]
        return said[0] if said else f"{printable(path)} does not answer as {printable(source)} says"

    def _built(self, entry: Entry, source: bytes) -> Entry:
        """Return a map's entry with the map built to the side, newer than its source for make(1)."""
        if entry.spec is None or self._proposer is None:
            return entry
        tools = maps.tools_for(self._host, self._proposer.layout, self._settings)
        before = self.current.entries.get(entry.path, entry)
        made, _ = built_map(
            *(replace(before, spec=entry.spec), source, self.store, tools),
            library=maps.library(tools),
            mtime_ns=time.time_ns(),
        )
        return replace(
            made, spec=before.spec, sources=((entry.spec.source, hashlib.sha256(source).hexdigest()),)
        )

    def _faults(self, proposal: Proposal) -> list[str]:
        """Return why a generation would be worse than the one in force, or could not be loaded."""
        if self._proposer is None:
            return [self.broken]
        where = self._proposer.layout
        if self._documents is None:
            self._documents = survey.survey(self._host, where, self._settings)
        entries, before = proposal.entries, self.current.entries
        waived = ratchet.waived_today(self._settings)
        found = ratchet.new_faults(self._documents, before, entries, self.store, waived)
        tools = maps.tools_for(self._host, where, self._settings)
        for cf, mc in ((where.cf, where.mc), (where.submit_cf, where.submit_mc)):
            new, old, source = entries.get(cf), before.get(cf), entries.get(mc)
            if old is not None and new is None:
                found.append(f"{printable(cf)} is missing")
            elif new is not None and new.digest and new != old:
                approved = self.store.object(old.digest) if old is not None and old.digest else b""
                candidate = Candidate(cf, self.store.object(new.digest), approved)
                found += gate(candidate, self._host, where, tools)
            is_new = (new, source) != (old, before.get(mc))
            if is_new and new is not None and source is not None and new.mtime_ns < source.mtime_ns:
                found.append(
                    f"{printable(mc)} is newer than {printable(cf)}, which was not built from it: the next "
                    f"start of sendmail would fail (make -C {printable(os.path.dirname(mc))})"
                )
        return found


def _is_of(live: Entry, source: Entry) -> bool:
    """Return whether a live map was found to answer as the source that is kept, and is newer."""
    fits = not live.opaque and dict(live.sources).get(source.path) == source.digest
    return fits and live.mtime_ns >= source.mtime_ns


def _held_alike(before: Entry | None, live: Entry) -> bool:
    """Return whether two maps differ in what they answer at most."""
    if before is None:
        return False
    return (before.uid, before.gid, before.mode, before.xattrs) == (
        live.uid,
        live.gid,
        live.mode,
        live.xattrs,
    )
