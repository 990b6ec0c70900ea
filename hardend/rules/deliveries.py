# SPDX-License-Identifier: Apache-2.0
"""Every recipient that aliases lead to: those of the alias files, and of the files that they include.

The lines of an include file may hold programs, files and further includes, and they take effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hardend.formats.aliases import Alias, Aliases, Kind, Target, include_targets
from hardend.model import FileType
from hardend.rules.documents import Documents, NotApplicableError, UnknownError
from hardend.rules.programs import commands_of
from hardend.rules.rule import Fault
from hardend.rules.trust import way_to


@dataclass(frozen=True, slots=True)
class Delivery:
    """A recipient where it stands; ``alias`` is the key of its entry, or of the one that includes it.

    Include files belong to those who write the list: what stands there (``included``) is not mended.
    """

    path: str
    line: int
    alias: str
    target: Target
    included: bool = False


def deliveries(documents: Documents, *kinds: Kind) -> Iterator[Delivery]:
    """Yield the recipients of some kinds. Raises NotApplicableError without an alias file, UnknownError."""
    for delivery in _all(documents):
        if delivery.target.kind in kinds:
            yield delivery


def judged(documents: Documents, faults: Iterable[Fault]) -> Iterator[Fault]:
    """Yield faults, and raise UnknownError behind them when none fails and an include was not readable."""
    fails = False
    for fault in faults:
        fails |= not fault.advice
        yield fault
    for delivery in () if fails else deliveries(documents, Kind.INCLUDE):
        path = place_of(documents, delivery)
        if path in documents.unreadable:
            raise UnknownError(path, documents.unreadable[path])


def without(documents: Documents, unwanted: Callable[[Delivery], bool]) -> Documents:
    """Return the documents without the recipients of alias files that are ``unwanted``.

    An entry that keeps none goes, with its continuation lines. Raises FormatError where a removal
    would change another entry.
    """
    for path, aliases in documents.alias_files():
        gone = {entry.line: _unwanted(path, entry, unwanted) for entry in aliases.entries}
        entries = [entry for entry in aliases.entries if len(gone[entry.line]) == len(entry.targets) > 0]
        edited = aliases.remove(*(entry.line for entry in entries)) if entries else aliases
        parts = {entry.line: texts for entry in edited.entries if (texts := _unwanted(path, entry, unwanted))}
        data = b"".join(
            _without_targets(path, line.raw, parts[line.number]) if line.number in parts else line.raw
            for line in edited.lines
        )
        documents = documents.with_content(path, data)
    return documents


def _unwanted(path: str, entry: Alias, unwanted: Callable[[Delivery], bool]) -> list[str]:
    found = (target for target in entry.targets if unwanted(Delivery(path, entry.line, entry.key, target)))
    return [target.text for target in found]


def _without_targets(path: str, raw: bytes, texts: list[str]) -> bytes:
    """Return one entry without some of its targets; read alone, so that many cost no more than one pass."""
    entry = Aliases(raw, path)
    for text in dict.fromkeys(texts):
        entry = entry.remove_target(1, text)
    return entry.render()


def place_of(documents: Documents, delivery: Delivery) -> str:
    """Return the file that an include, a file or a program's path comes down to."""
    return way_to(documents, delivery.target.value.strip())[-1]


def absolute_programs(documents: Documents) -> frozenset[str]:
    """Return the paths of programs that aliases name by their path; none without alias files."""
    try:
        found = [delivery.target.command for delivery in deliveries(documents, Kind.PROGRAM)]
    except NotApplicableError:
        return frozenset()
    return frozenset(word for text in found for word in commands_of(text) if word.startswith("/"))


def _all(documents: Documents) -> Iterator[Delivery]:
    waiting: list[Delivery] = []
    files = list(documents.alias_files())
    if not files:
        raise NotApplicableError("this host has no alias file")
    for path, aliases in files:
        for entry in aliases.entries:
            for target in entry.targets:
                delivery = Delivery(path, entry.line, entry.key, target)
                waiting += [delivery] if target.kind is Kind.INCLUDE else []
                yield delivery
    seen: set[str] = set()
    while waiting:
        include = waiting.pop()
        path = place_of(documents, include)
        known = documents.attributes.get(path)
        if path in seen or path not in documents.content or (known and known.kind is not FileType.FILE):
            continue
        seen.add(path)
        for line, target in include_targets(documents.content[path]):
            delivery = Delivery(path, line, include.alias, target, included=True)
            waiting += [delivery] if target.kind is Kind.INCLUDE else []
            yield delivery
