# SPDX-License-Identifier: Apache-2.0
"""The ratchet: a generation may not break a rule that its parent met (design section 6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType

from hardend.baseline.store import Store
from hardend.model import Entry, Role
from hardend.rules.catalogue import CATALOGUE, judge
from hardend.rules.documents import Attributes, Documents
from hardend.rules.rule import Fault, Rule
from hardend.settings import Settings


def overlay(documents: Documents, entries: Mapping[str, Entry], store: Store) -> Documents:
    """Return the host as a generation would have it: its entries over what was read of the rest.

    What a directory holds is what its entries are, where the generation holds that directory closed.
    """
    content, attributes = dict(documents.content), dict(documents.attributes)
    names = dict(documents.names)
    for path, entry in entries.items():
        attributes[path] = Attributes(
            entry.kind,
            entry.uid,
            entry.gid,
            entry.mode,
            target=entry.target,
            flags=entry.flags,
            acl=any(name.startswith("system.posix_acl") for name, _ in entry.xattrs),
            mtime_ns=entry.mtime_ns,
        )
        if entry.digest and entry.role is Role.SOURCE:
            content[path] = store.object(entry.digest)
        if entry.role is Role.CLOSED:
            inside = [name.rpartition("/")[2] for name in entries if name.rpartition("/")[0] == path]
            names[path] = tuple(sorted(inside))
    return replace(
        documents,
        content=MappingProxyType(content),
        attributes=MappingProxyType(attributes),
        names=MappingProxyType(names),
        stale=frozenset(),
        stale_maps=MappingProxyType({}),
        unmade=MappingProxyType({}),
    )


def waived_today(settings: Settings) -> frozenset[str]:
    """Return the ids of the rules that the administrator waives and whose waiver has not ended."""
    today = datetime.now(UTC).date()
    return frozenset(waiver.rule for waiver in settings.waivers if waiver.holds(today))


def worse(
    before: Documents, after: Documents, waived: Iterable[str] = (), rules: Iterable[Rule] = CATALOGUE
) -> list[tuple[Rule, Fault]]:
    """Return the faults of ``after`` that ``before`` does not have, rule by rule.

    Lines move; a fault is the same when rule, path and message are.
    """
    passed = set(waived)
    found = []
    for rule in rules:
        if rule.id in passed:
            continue
        known = {(fault.path, fault.message) for fault in judge(before, rule).failures}
        new = [fault for fault in judge(after, rule).failures if (fault.path, fault.message) not in known]
        found += [(rule, fault) for fault in new]
    return found


def new_faults(
    documents: Documents,
    parent: Mapping[str, Entry],
    entries: Mapping[str, Entry],
    store: Store,
    waived: Iterable[str] = (),
) -> list[str]:
    """Return why a generation with ``entries`` would be worse than its parent, one sentence each.

    Raises StoreError where the content of one of the two cannot be read.
    """
    before, after = overlay(documents, parent, store), overlay(documents, entries, store)
    return [
        f"{fault.place}: {rule.id}: {fault.message}"
        for rule, fault in worse(before, after, waived)
    ]
