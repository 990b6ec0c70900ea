# SPDX-License-Identifier: Apache-2.0
"""Making a signed generation of another host this host's next one: what is taken over, what is its own.

Taken over is what was signed, as it was signed. This host's own are the numbers of its accounts, the
databases of its maps, and the paths that [baseline] own names (hardend.baseline.coverage).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace

from hardend import classes, layout, maps
from hardend.baseline.coverage import correspondence, differences, is_own
from hardend.baseline.store import Store
from hardend.baseline.transport import Received
from hardend.config import Settings
from hardend.errors import RefusedError, StoreError
from hardend.gate import Candidate, gate
from hardend.layout import Layout
from hardend.model import Entry, FileType, Host, Role, printable
from hardend.propose import Proposal, Proposer

_SHOWN = 5  # faults that are named


class Arrival:
    """Adapts what was received to a host; ``proposal`` is the only verb, and changes nothing live."""

    def __init__(self, host: Host, settings: Settings, received: Received) -> None:
        self._host = host
        self._settings = settings
        self._received = received
        self._store = Store(host)
        self._layout: Layout = layout.find(host)
        self._tools = maps.tools_for(host, self._layout, settings)
        self._protected = {
            item.path: item for item in classes.protected(host, self._layout, settings)
        }
        self._warnings: list[str] = []

    def proposal(self) -> Proposal:
        """Return the entries of the generation to be; their content is in the store afterwards.

        Raises RefusedError when this host cannot be held at it: another layout, a path that hardend
        does not protect here, owners that do not correspond, a map that answers otherwise when it is
        built here, a sendmail.cf that does not pass the gate. Raises FileError or StoreError for content
        that is missing or damaged.
        """
        signed = self._received.generation
        if signed.layout != self._layout.profile:
            raise RefusedError(
                f"it is of a host with the {signed.layout} layout, and this one has {self._layout.profile}",
                hint="hardend layout shows what was found here",
            )
        theirs = {
            path: entry
            for path, entry in signed.entries.items()
            if not is_own(entry, self._settings.baseline_own)
        }
        self._refuse_if("it names what does not belong here", self._strange(theirs))
        current = self._current()
        entries = self._with_owners(theirs, current)
        for path, entry in entries.items():
            if entry.digest:
                entries[path] = self._with_content(entry)
        self._add_own(entries, current)
        self._pass_gate(entries, current)
        self._refuse_if(
            "it would not be what was signed",
            differences(entries, signed.entries, self._settings.baseline_own),
        )
        self._warn(entries, current)
        return Proposal(entries, signed.layout, maps.library(self._tools), self._warnings)

    def _current(self) -> Mapping[str, Entry]:
        """Return what this host is held at, or its live state where there is no baseline that reads."""
        for read in (self._store.current, self._store.last_good):
            with contextlib.suppress(StoreError):
                return read().entries
        return Proposer(self._host, self._settings).whole_host().entries

    @staticmethod
    def _refuse_if(what: str, faults: list[str]) -> None:
        if faults:
            more = f", and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
            raise RefusedError(f"{what}: {'; '.join(faults[:_SHOWN])}{more}", hint=_NOTHING)

    def _strange(self, theirs: Mapping[str, Entry]) -> list[str]:
        """Return the paths that hardend would not protect here; a signature is no reason to write them."""
        homes = {
            item.path
            for item in self._protected.values()
            if item.role in {Role.DIRECTORY, Role.CLOSED, Role.QUEUE}
        }
        above = {os.path.dirname(path) for path in theirs}
        return [
            f"{printable(path)} ([paths] protect in hardend.toml adds it)"
            for path, entry in theirs.items()
            if path not in self._protected
            and os.path.dirname(path) not in homes
            and not (entry.role is Role.ANCESTOR and path in above)
        ]

    # Owners ---------------------------------------------------------------------------------------

    def _with_owners(
        self, theirs: Mapping[str, Entry], current: Mapping[str, Entry]
    ) -> dict[str, Entry]:
        """Give every entry the numbers that its accounts have here, as the paths of both hosts show."""
        here_of = {}
        for kind in ("uid", "gid"):
            pairs = [
                (path, getattr(entry, kind), getattr(current[path], kind))
                for path, entry in sorted(theirs.items())
                if path in current and current[path].kind is entry.kind
            ]
            known = {there for _, there, _ in pairs}
            pairs += [
                (path, getattr(entry, kind), getattr(entry, kind))
                for path, entry in sorted(theirs.items())
                if getattr(entry, kind) not in known
            ]
            try:
                here_of[kind] = correspondence(pairs)
            except ValueError as error:
                raise RefusedError(
                    f"owners do not correspond ({kind}): {error}",
                    hint="chown it as on the host where the baseline was approved, approve, import again",
                ) from error
        if any(there != here for numbers in here_of.values() for there, here in numbers.items()):
            acls = [printable(path) for path, entry in theirs.items() if _has_acl(entry)]
            self._refuse_if("numbers of accounts differ, and there are ACLs with such numbers", acls)
        return {
            path: replace(
                entry,
                uid=here_of["uid"][entry.uid],
                gid=here_of["gid"][entry.gid],
                mount=os.path.ismount(self._host.at(path)),
            )
            for path, entry in theirs.items()
        }

    # Content --------------------------------------------------------------------------------------

    def _with_content(self, entry: Entry) -> Entry:
        """Put the content of an entry into the store; a database of another library is built anew."""
        data = self._received.object(entry)
        here = maps.library(self._tools)
        if entry.role is not Role.MAP or entry.spec is None or entry.opaque or entry.builder == here:
            self._store.add_object(data)
            return entry
        source = self._received.generation.entries.get(entry.spec.source)
        if not here or source is None or not source.digest:
            self._warnings.append(f"{printable(entry.path)} is taken over as it is: it cannot be built here")
            self._store.add_object(data)
            return entry
        content = self._received.object(source)
        with maps.workdir() as directory:
            built = maps.build(entry.spec, content, directory, self._tools)
            with open(built.path, "rb") as file:
                data = file.read()
        if built.answers != entry.answers:
            raise RefusedError(
                f"{printable(entry.path)}: built here, it does not answer as it was signed",
                hint="the alias options of the two sendmail.cf or the versions of Sendmail differ",
            )
        # The time stays as it was signed: newer than that of the source, for make(1).
        return replace(entry, digest=self._store.add_object(data), size=len(data), builder=here)

    def _add_own(self, entries: dict[str, Entry], current: Mapping[str, Entry]) -> None:
        """Keep this host's own paths, and the directories above them."""
        for path, entry in current.items():
            if not is_own(entry, self._settings.baseline_own):
                continue
            entries[path] = entry
            directory = os.path.dirname(path)
            while directory not in entries and directory in current:
                entries[directory] = replace(current[directory], role=Role.ANCESTOR)
                directory = os.path.dirname(directory)

    # Sendmail's word ------------------------------------------------------------------------------

    def _pass_gate(self, entries: Mapping[str, Entry], current: Mapping[str, Entry]) -> None:
        """Ask about a new configuration; what comes with it need not be there yet."""
        for path in filter(None, (self._layout.cf, self._layout.submit_cf)):
            entry, before = entries.get(path), current.get(path)
            if entry is None or not entry.digest or (before and before.digest == entry.digest):
                continue
            content = self._store.object(entry.digest)
            # Whoever signed it approved the programs that it runs.
            problems = gate(Candidate(path, content, content), self._host, self._layout, self._tools)
            coming = [name for name in entries if not os.path.lexists(self._host.at(name))]
            if coming and problems:
                waits = tuple(f": {printable(name)}: " for name in coming)
                problems = tuple(
                    problem
                    for problem in problems
                    if not problem.startswith("sendmail -bC") and not any(part in problem for part in waits)
                )
            self._refuse_if(f"{printable(path)} is not accepted here", list(problems))

    def _warn(self, entries: Mapping[str, Entry], current: Mapping[str, Entry]) -> None:
        for path, entry in sorted(entries.items()):
            held = entry.kind is FileType.FILE and not entry.digest
            if held and not os.path.lexists(self._host.at(path)):
                self._warnings.append(
                    f"{printable(path)} is held by its attributes only, and missing here: create it"
                )
        self._warnings += [
            f"{printable(path)} leaves the baseline: it is not in what was signed"
            for path in sorted(current.keys() - entries.keys())
        ]


_NOTHING = "nothing was changed"


def _has_acl(entry: Entry) -> bool:
    return any(name.startswith("system.posix_acl_") for name, _ in entry.xattrs)
