# SPDX-License-Identifier: Apache-2.0
"""FEATUREs about relaying on a host: found in the .cf or called in its .mc, and taken out where they stand.

Without a .mc the .cf itself is changed, but only where its lines are m4's own (relay_mend).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from hardend.formats.cf import Cf
from hardend.formats.mc import Named
from hardend.rules.documents import CannotMendError, Documents, NotApplicableError
from hardend.rules.relay_features import Acceptance, features, has_rulesets
from hardend.rules.relay_mend import without_feature, without_lines
from hardend.rules.rule import Fault

_NOT_CALLED = (
    "{mc} does not call it: look for it in the DOMAIN, OSTYPE and include files of {mc}, or build {cf} "
    "from {mc} again if it was edited by hand"
)
_NOT_M4 = (
    "{cf} has no .mc, and its lines are not what m4 writes: build a new one from a .mc without it, and "
    "compare the two"
)
_NOT_INSERTED = (
    "{cf} has no .mc, and the rules that it lacks depend on every other FEATURE: write a .mc for this host "
    "without {name}, build a new one, and compare the two"
)
_PHYSICAL = re.compile(rb"[^\n]*\n|[^\n]+")
# These take rules away: nothing is there that could be removed.
_LACKING = frozenset({"promiscuous_relay", "accept_unqualified_senders"})


def relaying_cf(documents: Documents) -> Cf:
    """Return sendmail.cf. Raises NotApplicableError for one without any ruleset: it takes no mail."""
    cf = documents.cf()
    if not has_rulesets(cf):
        raise NotApplicableError(f"{documents.layout.cf} has no rulesets")
    return cf


def called(documents: Documents, feature: str) -> Named | None:
    """Return the call of a FEATURE in the .mc, if it is certain that m4 makes it."""
    source = documents.mc_of(documents.layout.cf)
    call = source[1].feature(feature) if source else None
    return call if call is not None and not call.depth else None


def feature_faults(documents: Documents, wanted: Mapping[str, str]) -> Iterator[Fault]:
    """Yield a fault for each FEATURE that the .cf has, or that the next build will give it.

    ``wanted`` says what each does.
    """
    cf = documents.layout.cf
    known = features(relaying_cf(documents))
    mc = documents.sources.get(cf, "")
    for name, what in wanted.items():
        call = called(documents, name)
        if name in known:
            mendable = _can_take_out(documents, name)
            yield Fault(cf, known[name], f"{name}: {what}", _remedy(documents, name), mendable=mendable)
        elif call is not None:
            found = f"FEATURE(`{name}') is called, and the next build of {cf} has it: {what}"
            yield Fault(mc, call.line, found, f"remove FEATURE(`{name}') from {mc}:{call.line}")


def without_features(documents: Documents, wanted: Iterable[str]) -> Documents:
    """Return the documents without these FEATUREs; the same documents where there are none.

    Raises CannotMendError when there are some and none can be taken out.
    """
    cf = documents.layout.cf
    known = features(relaying_cf(documents))
    refused: list[str] = []
    before = documents
    for name in wanted:
        source = documents.mc_of(cf)
        if source is not None and called(documents, name) is not None:
            documents = documents.with_content(source[0], source[1].remove_feature(name).render())
        elif name not in known or (source is not None and cf in documents.stale):
            continue
        elif source is None and (changed := without_feature(documents.cf(), name)) is not None:
            documents = documents.with_content(cf, changed.render())
            known = features(changed)
        else:
            refused.append(f"{name}: {_remedy(documents, name)}")
    if refused and documents is before:
        raise CannotMendError("; ".join(refused))
    return documents


def acceptance_fault(documents: Documents, acceptance: Acceptance, what: str) -> Fault:
    """Return the fault of a rule that accepts everything; advice where it is not sure that it does."""
    cf, line = documents.layout.cf, acceptance.line
    if not acceptance.sure:
        return Fault(
            cf,
            line,
            f"a rule of {acceptance.ruleset} accepts what the rules above it leave over",
            "check with hardend verify whom it lets in",
            advice=True,
            mendable=False,
        )
    changed = _without_acceptance(documents, acceptance)
    return Fault(
        cf,
        line,
        f"a rule of {acceptance.ruleset} accepts {what}",
        f"remove the rule, and name whom it was for in {documents.layout.access or 'relay-domains'}",
        mendable=changed is not None,
    )


def without_acceptances(documents: Documents, found: Iterable[Acceptance]) -> Documents:
    """Return the documents without the rules that accept everything, also those behind others.

    Raises CannotMendError when there are some and none can be taken out.
    """
    before, refused = documents, 0
    # From the end: what is removed moves the lines behind it.
    for acceptance in sorted(found, key=lambda item: -item.line):
        changed = _without_acceptance(documents, acceptance) if acceptance.sure else documents
        refused = refused if changed else acceptance.line
        documents = changed or documents
    if refused and documents is before:
        where = f"the rule at {documents.layout.cf}:{refused}"
        raise CannotMendError(f"{where} is not in the .mc word for word: remove it where it comes from")
    return documents


def without_both(
    documents: Documents, wanted: Iterable[str], found: Callable[[Cf], list[Acceptance]]
) -> Documents:
    """Return the documents without FEATUREs and without rules that accept everything.

    Raises CannotMendError only where there is something and nothing at all can be done.
    """
    relaying_cf(documents)
    refused: list[str] = []
    before = documents
    steps: tuple[Callable[[Documents], Documents], ...] = (
        lambda given: without_acceptances(given, found(given.cf())),
        lambda given: without_features(given, wanted),
    )
    for step in steps:
        try:
            documents = step(documents)
        except CannotMendError as error:
            refused.append(str(error))
    if refused and documents is before:
        raise CannotMendError("; ".join(refused))
    return documents


def _without_acceptance(documents: Documents, acceptance: Acceptance) -> Documents | None:
    """Return the documents without a rule that accepts everything; None where it cannot be found.

    In a .mc it must stand word for word as in the .cf, and as often. A .mc that was changed and not
    built yet is taken to be free of it when it is not there any more.
    """
    path = documents.layout.cf
    cf = documents.cf()
    source = documents.mc_of(path)
    if source is None:
        return documents.with_content(path, without_lines(cf, acceptance.lines).render())
    lines = set(acceptance.lines)
    wanted = Counter(line.raw.rstrip() for line in cf.lines if line.number in lines)
    document = _PHYSICAL.findall(source[1].render())
    found = Counter(line.rstrip() for line in document if line.rstrip() in wanted)
    if found == wanted:
        kept = b"".join(line for line in document if line.rstrip() not in wanted)
        return documents.with_content(source[0], kept)
    return documents if not found and path in documents.stale else None


def _can_take_out(documents: Documents, name: str) -> bool:
    if documents.mc_of(documents.layout.cf) is not None:
        return called(documents, name) is not None
    return without_feature(documents.cf(), name) is not None


def _remedy(documents: Documents, name: str) -> str:
    cf = documents.layout.cf
    mc = documents.sources.get(cf, "")
    call = called(documents, name)
    if call is not None:
        return f"remove FEATURE(`{name}') from {mc}:{call.line}"
    if mc:
        return _NOT_CALLED.format(mc=mc, cf=cf)
    if without_feature(documents.cf(), name) is not None:
        return f"remove its rules from {cf}"
    return (_NOT_INSERTED if name in _LACKING else _NOT_M4).format(cf=cf, name=name)
