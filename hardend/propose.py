# SPDX-License-Identifier: Apache-2.0
"""Making a proposal: the entries of a generation to be, read from the host or given, maps built aside."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from hardend import classes, layout, maps
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.capture import Live, Reader, built_map, entry_of
from hardend.config import Settings
from hardend.errors import FileError, HardendError, RefusedError, StoreError
from hardend.gate import Candidate, gate
from hardend.model import Class, Entry, FileType, Host, Protected, Role, printable


@dataclass(slots=True)
class Proposal:
    """The entries of a generation to be, and what the administrator should know first.

    ``follows`` is the number of the generation that it was made from: another one in force by the time of
    the commit would be undone by it. 0 for one that stands for itself.
    """

    entries: dict[str, Entry]
    layout: str
    sendmail: str = ""
    warnings: list[str] = field(default_factory=list)
    follows: int = 0

    @classmethod
    def of(cls, generation: Generation) -> Self:
        """Return the proposal to have a generation's content (again), whatever is in force by then."""
        return cls(dict(generation.entries), generation.layout, generation.sendmail)

    @classmethod
    def after(cls, generation: Generation) -> Self:
        """Return the proposal to change something of the generation in force."""
        made = cls.of(generation)
        made.follows = generation.number
        return made


class Proposer:
    """Reads the host and makes proposals from it."""

    def __init__(self, host: Host, settings: Settings) -> None:
        self._host = host
        self._settings = settings
        self.store = Store(host)
        self.layout = layout.find(host)
        self._tools = maps.tools_for(host, self.layout, settings)
        self._reader = Reader(host)

    def whole_host(self) -> Proposal:
        """Return the live state of everything that the layout and the classes protect."""
        proposal = Proposal({}, self.layout.profile, maps.library(self._tools))
        for protected in classes.protected(self._host, self.layout, self._settings):
            live = self._reader.read(protected.path, content=_wants_content(protected))
            if live is not None:
                self._add(proposal, protected, live)
        with contextlib.suppress(StoreError):
            for path in sorted(self.store.current().entries.keys() - proposal.entries.keys()):
                proposal.warnings.append(
                    f"{printable(path)} leaves the baseline: it is gone, or no longer what it was"
                )
        self._finish(proposal)
        return proposal

    def some_paths(self, current: Generation, paths: Mapping[str, str]) -> Proposal:
        """Return ``current`` with the live state of the paths, or the content of the files named.

        ``paths`` maps each path to a file that holds its new content, or to "". A path that is gone
        leaves the baseline. Raises FileError for a path that hardend does not protect here.
        """
        proposal = Proposal(
            dict(current.entries),
            self.layout.profile,
            maps.library(self._tools),
            follows=current.number,
        )
        known = {
            item.path: item
            for item in classes.protected(self._host, self.layout, self._settings)
        }
        for path, source in paths.items():
            self._propose_path(proposal, known.get(path), path, source)
        self._add_ancestors(proposal, known)
        self._finish(proposal)
        return proposal

    def _propose_path(
        self, proposal: Proposal, protected: Protected | None, path: str, source: str
    ) -> None:
        if protected is None:
            known = proposal.entries.pop(path, None)
            for inside in [name for name in proposal.entries if name.startswith(path.rstrip("/") + "/")]:
                del proposal.entries[inside]
            if known is None:
                raise FileError(
                    f"{printable(path)}: not a path that hardend protects on this host",
                    hint="hardend layout lists them; protect in [paths] of hardend.toml adds one",
                )
            return
        if not source:
            live = self._reader.read(path, content=_wants_content(protected))
            if live is not None:
                self._add(proposal, protected, live)
            return
        self._replace_content(proposal, protected, source)

    def _replace_content(self, proposal: Proposal, protected: Protected, source: str) -> None:
        """Give a path the content of a file."""
        try:
            with open(source, "rb") as file:
                content = file.read()
        except OSError as error:
            raise FileError(f"{printable(source)}: {error.strerror}") from error
        self.put_content(proposal, protected, content)

    def put_content(
        self, proposal: Proposal, protected: Protected, content: bytes, *, create: bool = False
    ) -> None:
        """Give a path of a proposal new content, with the time stamp of now; its map follows.

        ``create`` makes a file that is not there: root's, 0644. Raises RefusedError where content is not
        held, or for a sendmail.cf that does not pass the gate.
        """
        path = protected.path
        if protected.role is not Role.SOURCE or protected.cls is Class.ATTRIBUTES:
            raise RefusedError(
                f"{printable(path)}: its content is not held ({protected.role.value}, "
                f"{protected.cls.value})"
            )
        live = self._reader.read(path, content=True)
        before = proposal.entries.get(path) or (
            entry_of(protected, live, None) if live is not None else None
        )
        if before is None and create:
            flags = "i" if protected.immutable else ""
            before = Entry(path, protected.role, protected.cls, FileType.FILE, 0, 0, 0o644, flags)
        if before is None:
            raise FileError(f"{printable(path)}: create it first, then approve it")
        if path in (self.layout.cf, self.layout.submit_cf):
            self._pass_gate(path, content, before)
        made = replace(
            before,
            digest=self.store.add_object(content),
            size=len(content),
            mtime_ns=time.time_ns(),
        )
        proposal.entries[path] = made
        for entry in list(proposal.entries.values()):
            if entry.spec is not None and entry.spec.source == path:
                self._build_map(proposal, entry, made, content)

    def _pass_gate(self, path: str, content: bytes, before: Entry) -> None:
        """Refuse a configuration that Sendmail would not accept, or whose parts are missing."""
        approved = self.store.object(before.digest) if before.digest else b""
        problems = gate(Candidate(path, content, approved), self._host, self.layout, self._tools)
        if problems:
            raise RefusedError(
                f"{printable(path)}: not approved: {'; '.join(problems)}",
                hint="nothing was changed; correct the file and approve it again",
            )

    def _build_map(
        self, proposal: Proposal, entry: Entry, source: Entry, content: bytes
    ) -> None:
        """Build the map of a new source to the side and put it into the same generation."""
        made, warnings = built_map(
            *(entry, content, self.store, self._tools),
            library=maps.library(self._tools),
            mtime_ns=source.mtime_ns,
        )
        proposal.entries[entry.path] = replace(made, sources=((source.path, source.digest),))
        proposal.warnings += warnings

    def _add(self, proposal: Proposal, protected: Protected, live: Live) -> None:
        if protected.role is not Role.LINK and live.actual.kind not in {
            FileType.FILE,
            FileType.DIRECTORY,
        }:
            proposal.warnings.append(
                f"{printable(protected.path)} is a {live.actual.kind.value}: not taken in"
            )
            return
        entry = entry_of(protected, live, self.store)
        if protected.immutable and live.actual.flags is None:
            proposal.warnings.append(
                f"{printable(entry.path)}: its file system has no inode flags; it cannot be locked"
            )
        if entry.role is Role.MAP:
            entry = self._judge_map(proposal, entry, live)
        entry = replace(entry, mount=os.path.ismount(self._host.at(entry.path)))
        proposal.entries[entry.path] = entry

    def _judge_map(self, proposal: Proposal, entry: Entry, live: Live) -> Entry:
        """Build a map's source to the side: only one that answers the same is held by its answers."""
        spec = entry.spec
        if spec is None:
            return replace(entry, opaque=True, digest="", size=0)
        try:
            source = self._reader.read(spec.source, content=True)
            if source is None:
                raise FileError(f"{printable(spec.source)}: missing")
            with maps.workdir() as directory:
                answers = maps.answers_of(live.content, spec, directory, self._tools)
                built = maps.build(spec, source.content, directory, self._tools)
        except HardendError as error:
            proposal.warnings.append(
                f"{printable(entry.path)} is held by its attributes only: {error}"
            )
            return replace(entry, opaque=True, digest="", size=0)
        if built.answers != answers:
            proposal.warnings.append(
                f"{printable(entry.path)} does not answer as its source "
                f"{printable(spec.source)} would: held by its attributes only "
                f"(rebuild it with newaliases or makemap, then approve again)"
            )
            return replace(entry, opaque=True, digest="", size=0)
        return replace(
            entry,
            answers=answers,
            builder=maps.library(self._tools),
            sources=((spec.source, source.actual.digest or ""),),
        )

    def _add_ancestors(self, proposal: Proposal, known: Mapping[str, Protected]) -> None:
        for path in list(proposal.entries):
            directory = os.path.dirname(path)
            while directory not in proposal.entries:
                live = self._reader.read(directory, content=False)
                if live is None:
                    break
                role = Protected(directory, Role.ANCESTOR, Class.LOCKED)
                self._add(proposal, known.get(directory, role), live)
                directory = os.path.dirname(directory)

    def _finish(self, proposal: Proposal) -> None:
        """Warn of a .cf older than its .mc: the distribution's start would rebuild it and fail."""
        if not any(entry.role is Role.SOURCE for entry in proposal.entries.values()):
            raise FileError(
                "nothing to protect was found", hint="hardend layout says where it looked"
            )
        pairs = (
            (self.layout.cf, self.layout.mc),
            (self.layout.submit_cf, self.layout.submit_mc),
        )
        for cf, mc in pairs:
            built, source = proposal.entries.get(cf), proposal.entries.get(mc)
            if built and source and built.mtime_ns < source.mtime_ns:
                proposal.warnings.append(
                    f"{printable(cf)} is older than {printable(mc)}: the next start of sendmail would "
                    f"rebuild it, and fail on the lock; run make -C {printable(os.path.dirname(mc))} "
                    f"and approve again"
                )


def _wants_content(protected: Protected) -> bool:
    return protected.role in {Role.SOURCE, Role.MAP} and protected.cls is not Class.ATTRIBUTES
