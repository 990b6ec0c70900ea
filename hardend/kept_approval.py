# SPDX-License-Identifier: Apache-2.0
"""A kept object's content as the next generation's of its path, checked as any other approval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hardend import commit, worsening
from hardend.baseline.manifest import Generation
from hardend.commit import Outcome
from hardend.errors import HardendError, RefusedError
from hardend.model import FileType, printable
from hardend.propose import Proposal, Proposer
from hardend.quarantine_reader import WHOLE, Kept, Shelf
from hardend.settings import Settings


@dataclass(frozen=True, slots=True)
class Approved:
    """What approving did; ``forced`` are the findings that it was forced past."""

    generation: Generation
    outcome: Outcome
    warnings: tuple[str, ...]
    forced: tuple[str, ...]


class UnjudgedError(HardendError):
    """Whether a rule gets worse cannot be told now: nothing is said about the content."""


def approve(
    shelf: Shelf,
    kept: Kept,
    settings: Settings,
    *,
    reason: str,
    author: str = "",
    force: bool = False,
    unattended: bool = False,
    before_apply: Callable[[Generation], None] = lambda _: None,
) -> Approved | None:
    """Make the kept content the next generation's of its path; None when it is that already.

    Owner, mode and flags stay as they are approved; a map of it is built anew. Raises RefusedError with
    the reason: not a whole file, a sendmail.cf that does not pass the gate, a broken rule that was not
    broken before (``force`` goes past that). ``unattended``, nobody reads a warning: what was still
    written to is refused, and UnjudgedError raised where the rules cannot be put to the host. What is
    refused changes nothing. ``before_apply`` is as in ``commit_and_apply``.
    """
    commit.require_root()
    digest = _approvable(kept)
    shelf.check(digest)
    proposer = Proposer(shelf.host, settings)
    current = proposer.store.current()
    held = current.entries.get(kept.path)
    if held is not None and held.digest == digest:
        return None
    proposal = proposer.some_paths(current, {kept.path: shelf.object_path(digest)})
    proposed = proposal.entries.get(kept.path)
    if proposed is None or proposed.digest != digest:
        raise RefusedError(f"{printable(kept.path)}: not a path whose content hardend holds on this host")
    worse = worsening.require_no_worse(shelf.host, settings, current, proposal, force=force)
    if kept.record.get("unstable"):
        proposal.warnings.append(
            f"{kept.id} was written to while it was copied: look at hardend baseline diff"
        )
    if unattended:
        _require_certainty(kept, proposal)
    forced = f"; forced past {len(worse)} findings" if worse else ""
    generation, outcome = commit.commit_and_apply(
        shelf.host,
        settings,
        proposal,
        reason=f"{reason} (quarantine {kept.id}{forced})",
        author=author,
        before_apply=before_apply,
    )
    commit.announce(shelf.host, generation, worse)
    return Approved(generation, outcome, tuple(proposal.warnings), tuple(worse))


def _require_certainty(kept: Kept, proposal: Proposal) -> None:
    if kept.record.get("unstable"):
        raise RefusedError(f"{kept.id}: was written to while it was copied, it may not be all of it")
    for warning in proposal.warnings:
        if warning.startswith(worsening.UNKNOWN):
            raise UnjudgedError(warning)


def _approvable(kept: Kept) -> str:
    """Return the digest of what can become a path's content. Raises RefusedError."""
    if not kept.path:
        raise RefusedError(
            f"{kept.id}: its path is not known, its record was lost in a crash",
            hint=f"hardend quarantine restore {kept.id} --to FILE, then hardend approve PATH --from FILE",
        )
    if kept.kind != FileType.FILE:
        raise RefusedError(f"{kept.id}: is a {printable(kept.kind) or 'damaged record'}, not a file")
    digest = kept.content_of()
    if kept.stored != WHOLE:
        raise RefusedError(
            f"{kept.id}: only its beginning was kept",
            hint="quarantine object_max_mib in hardend.toml says how much is; approve PATH --from FILE",
        )
    return digest
