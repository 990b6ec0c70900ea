# SPDX-License-Identifier: Apache-2.0
"""Which rules a drift broke: what a restore replaced, put to the rules in place of what is approved.

The guard parses nothing; this is done afterwards, by hardend-collect, on what lies in the quarantine.
Nothing is run, and it is bounded: one survey, some tens of objects and some seconds of processor time in
a run, nothing over a mebibyte parsed. What the files say stays in the quarantine; the journal gets names.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from hardend import layout, ratchet, survey
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.errors import FormatError, HardendError
from hardend.formats.aliases import Aliases
from hardend.formats.recipients import Kind
from hardend.journal import Event, Journal
from hardend.model import Drift, FileType, Host, printable
from hardend.quarantine import Quarantine
from hardend.quarantine_reader import WHOLE, Kept, Shelf
from hardend.rules.documents import Attributes, Documents
from hardend.rules.rule import Fault, Rule

CONTENT_LIMIT = 1 << 20  # bytes; more is judged by its attributes
_MOST_OBJECTS = 40  # in a run
_CPU_S = 20.0
_MOST_NAMED = 200  # programs and files that an alias file names, looked at in the survey
_FAULTS_KEPT = 20
_FAULT_LENGTH = 300
_SHOWN = 5
_ACL = "system.posix_acl"

_Broken = list[tuple[Rule, Fault]]


@dataclass(slots=True)
class Judge:
    """Judges what was collected, writes the rules into the records and tells the journal.

    ``faults`` says why something could not be judged; that is no failure of the collecting.
    """

    host: Host
    settings: Settings
    journal: Journal
    faults: dict[str, None] = field(default_factory=dict)  # an ordered set
    _room: int = _MOST_OBJECTS
    _documents: Documents | None = None
    _approved: dict[int, Documents] = field(default_factory=dict)
    _known: dict[object, _Broken] = field(default_factory=dict)
    _began: float = field(default_factory=time.process_time)

    def judge(self, quarantine: Quarantine, identifiers: Iterable[str]) -> None:
        """Judge these objects, oldest first, until the bounds are reached; what fails is in ``faults``."""
        # What these lead to was not read for those before them.
        self._documents = None
        self._approved.clear()
        found: list[tuple[Kept, bytes | None]] = []
        with Shelf(self.host) as shelf:
            for identifier in sorted(identifiers)[: self._room]:
                self._room -= 1
                with self._telling():
                    kept = shelf.find(identifier)
                    if kept.path and kept.generation:
                        found.append((kept, _content(shelf, kept)))
        for kept, data in found:
            if time.process_time() - self._began > _CPU_S:
                return
            with self._telling():
                self._judge(quarantine, kept, data, found)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Note what fails for one object, the same once."""
        try:
            yield
        except (HardendError, OSError) as error:
            self.faults[f"which rules a drift broke is not known: {error}"] = None

    def _judge(
        self, quarantine: Quarantine, kept: Kept, data: bytes | None, found: list[tuple[Kept, bytes | None]]
    ) -> None:
        """Judge one object; what is already known of the like of it is told once."""
        key = (kept.path, kept.generation, kept.drift, _attributes(kept, None), kept.digest)
        is_new = key not in self._known
        if is_new:
            before = self._baseline(kept.generation, found)
            after = _as_it_was(before, kept, data)
            self._known[key] = ratchet.worse(before, after, ratchet.waived_today(self.settings))
        broken = self._known[key]
        rules = list(dict.fromkeys(rule.id for rule, _ in broken))
        record = quarantine.read_record(kept.id)
        if record is not None:
            quarantine.write_record({**record, "rules": rules, "faults": _told(broken)})
        if is_new and rules:
            more = f" and {len(rules) - _SHOWN} more rules" if len(rules) > _SHOWN else ""
            self.journal.event(
                Event.RULES_BROKEN,
                f"what stood at {printable(kept.path)} broke {', '.join(rules[:_SHOWN])}{more}",
                PATH=kept.path,
                RULE=rules,
                DRIFT=kept.drift,
                QUARANTINE_ID=kept.id,
                GENERATION=kept.generation,
            )

    def _baseline(self, number: int, found: list[tuple[Kept, bytes | None]]) -> Documents:
        """Return the host as a generation has it. Raises HardendError."""
        if self._documents is None:
            where = layout.find(self.host)
            sources = {spec.source for spec in where.aliases}
            named = [path for kept, data in found for path in _named(kept, data, sources)]
            self._documents = survey.survey(self.host, where, self.settings, also=named)
        if number not in self._approved:
            store = Store(self.host)
            entries = store.generation(number).entries
            self._approved[number] = ratchet.overlay(self._documents, entries, store)
        return self._approved[number]


def _content(shelf: Shelf, kept: Kept) -> bytes | None:
    """Return the bytes of a file that is kept whole and not too long, else None."""
    if kept.kind != FileType.FILE or kept.stored != WHOLE or not kept.digest:
        return None
    data = b""
    for block in shelf.blocks(kept.content_of()):
        data += block
        if len(data) > CONTENT_LIMIT:
            return None
    return data


def _named(kept: Kept, data: bytes | None, alias_files: Iterable[str]) -> list[str]:
    """Return the paths that an object leads to: a link's target, the programs and files of aliases."""
    if kept.kind == FileType.SYMLINK:
        leads_to = str(kept.record.get("target", ""))
        return [os.path.normpath(os.path.join(os.path.dirname(kept.path), leads_to))]
    if data is None or kept.path not in alias_files:
        return []
    try:
        document = Aliases(data, kept.path)
    except FormatError:
        return []
    targets = (target for entry in document.entries for target in entry.targets)
    paths: list[str] = []
    for target in targets:
        if target.kind is Kind.FILE:
            paths.append(target.value)
        elif target.kind is Kind.PROGRAM:
            paths += target.programs
        if len(paths) > _MOST_NAMED:
            break
    return paths


def _as_it_was(before: Documents, kept: Kept, data: bytes | None) -> Documents:
    """Return the host as approved, but with the object where it stood."""
    path = kept.path
    content, names = dict(before.content), dict(before.names)
    if kept.kind != FileType.FILE:
        content.pop(path, None)
    elif data is not None and path in content:
        content[path] = data
    directory, _, name = path.rpartition("/")
    if directory in names and name not in names[directory]:
        names[directory] = (*names[directory], name)
    attributes = _attributes(kept, before.attributes.get(path))
    return replace(
        before,
        content=MappingProxyType(content),
        names=MappingProxyType(names),
        attributes=MappingProxyType({**before.attributes, path: attributes}),
    )


def _attributes(kept: Kept, approved: Attributes | None) -> Attributes:
    """Return the attributes of an object; inode flags count where they drifted.

    The guard itself took them off what it could not move with them. A field that the record lacks is
    as it was approved, and root's where nothing was.
    """
    known = approved or Attributes(FileType.FILE, 0, 0, 0o644)
    record = kept.record
    kinds = {kind.value: kind for kind in FileType}

    def number(name: str, default: int) -> int:
        value = record.get(name)
        return value if isinstance(value, int) else default

    xattrs = record.get("xattrs")
    pairs = xattrs if isinstance(xattrs, list) else [[_ACL]] if Drift.ACL in kept.drift else []
    return Attributes(
        kind=kinds.get(kept.kind, known.kind),
        uid=number("uid", known.uid),
        gid=number("gid", known.gid),
        mode=number("mode", known.mode),
        target=str(record.get("target", "")),
        flags=str(record.get("flags", "")) if Drift.FLAGS in kept.drift else known.flags,
        acl=any(isinstance(pair, list) and pair and str(pair[0]).startswith(_ACL) for pair in pairs),
        mtime_ns=known.mtime_ns,
    )


def _told(broken: _Broken) -> list[str]:
    """Return what is kept of the faults in the record, one sentence each."""
    told = [printable(f"{fault.place}: {rule.id}: {fault.message}") for rule, fault in broken[:_FAULTS_KEPT]]
    return [text[:_FAULT_LENGTH] for text in told]
