# SPDX-License-Identifier: Apache-2.0
"""Which generation is to be enforced: the current one, or with ``require_signature`` the last signed one.

A generation counts as signed when a signature of its own verifies, or when a signed one at or before it
reaches it (hardend.baseline.coverage): the one it was imported from, or its predecessor, of which only
what may change without an approval has changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from hardend.baseline import manifest, signature
from hardend.baseline.coverage import Entries, differences
from hardend.baseline.manifest import Generation
from hardend.baseline.signature import Signed, Signer
from hardend.baseline.store import Store
from hardend.errors import HardendError, StoreError
from hardend.model import Host
from hardend.settings import Settings

_SIGN = "hardend baseline sign N --key FILE, or hardend baseline import of a signed one"


@dataclass(frozen=True, slots=True)
class InForce:
    """The generation to enforce; ``faults`` says why it is not the newest, one sentence each.

    ``signer`` is whose signature reaches it, None where none is asked for.
    """

    generation: Generation
    signer: Signer | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Base:
    """What was signed, and by whom."""

    entries: Entries
    layout: str
    signer: Signer


def in_force(host: Host, store: Store, settings: Settings) -> InForce:
    """Return the generation that this host is to be held at.

    The current one; with require_signature the newest that a signature reaches; where the store is
    damaged, the newest that reads. Raises StoreError when there is none: never an empty baseline.
    """
    faults = []
    newest = 0
    try:
        current = store.current()
        newest = current.number
    except StoreError as error:
        faults.append(str(error))
    if not settings.require_signature:
        return InForce(current if newest else store.last_good(), None, tuple(faults))
    numbers = [number for number in reversed(store.numbers()) if number <= (newest or number)]
    if newest and newest not in numbers:
        numbers.insert(0, newest)  # of a commit that died at its end
    for number in numbers:
        if not store.has_signature(number):
            continue
        try:
            base = _base(host, store, number)
        except HardendError as error:
            faults.append(str(error))
            continue
        for candidate in numbers[: numbers.index(number) + 1]:
            why = _beyond(store, candidate, base, settings.baseline_own)
            if not why:
                generation = store.generation(candidate)
                return InForce(generation, base.signer, tuple(faults))
            if candidate in {numbers[0], number}:
                faults.append(f"generation {candidate} is not enforced: {why}")
    detail = f": {faults[0]}" if faults else ""
    raise StoreError(f"no generation has a signature that verifies{detail}", hint=_SIGN)


def signature_faults(host: Host, store: Store) -> list[str]:
    """Return every signature in the store that does not verify here; [] on a host without signers."""
    faults: list[str] = []
    for number in store.numbers() if signature.has_signers(host) else ():
        for signed, where, at in _signatures(store, number, faults):
            try:
                signature.verify(host, signed, where, at=at)
            except HardendError as error:
                faults.append(str(error))
    return faults


def newest_origin(store: Store) -> tuple[int, str]:
    """Return number and digest of the newest signed generation that came from another host; (0, "")."""
    newest = (0, "")
    for number in store.numbers():
        with contextlib.suppress(StoreError):
            origin = store.origin(number)
            if origin is not None:
                there = manifest.parse(origin.manifest, f"origin of generation {number}").number
                newest = max(newest, (there, manifest.digest(origin.manifest)))
    return newest


def _signatures(store: Store, number: int, faults: list[str]) -> Iterator[tuple[Signed, str, str]]:
    """Yield what is signed with a generation, its name, and the moment at which the key must be valid.

    That is when the generation was made: a key that runs out later does not leave the host unprotected.
    """
    try:
        at = store.generation(number).time
        own, origin = store.signature(number), store.origin(number)
    except StoreError as error:
        faults.append(str(error))
        return
    if own is not None:
        yield own, f"generation {number}", at
    if origin is not None:
        yield origin, f"generation {number}, the one it was imported from", at


def _base(host: Host, store: Store, number: int) -> _Base:
    """Return what the signature of a generation, or of its origin, covers. Raises HardendError."""
    faults: list[str] = []
    for signed, where, at in _signatures(store, number, faults):
        try:
            signer = signature.verify(host, signed, where, at=at)
            generation = manifest.parse(signed.manifest, where)
        except HardendError as error:
            faults.append(str(error))
            continue
        return _Base(generation.entries, generation.layout, signer)
    raise StoreError("; ".join(faults) or f"generation {number}: its signature is gone")


def _beyond(store: Store, number: int, base: _Base, own: tuple[str, ...]) -> str:
    """Return why a signature does not reach a generation, "" when it does."""
    try:
        generation = store.generation(number)
    except StoreError as error:
        return str(error)
    if generation.layout != base.layout:
        return f"its layout {generation.layout} is not the signed one"
    faults = differences(generation.entries, base.entries, own)
    if not faults:
        return ""
    more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
    return f"no signature reaches it: {faults[0]}{more}"
