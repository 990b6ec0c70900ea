# SPDX-License-Identifier: Apache-2.0
"""What a proposal would make worse: the ratchet, put to a host (design section 6)."""

from __future__ import annotations

from hardend import layout, ratchet, survey
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.errors import HardendError, RefusedError, StoreError
from hardend.model import Host, printable
from hardend.propose import Proposal
from hardend.settings import Settings

UNKNOWN = "whether a rule gets worse is not known"
_SHOWN = 5


def worsened(host: Host, settings: Settings, current: Generation, proposal: Proposal) -> list[str]:
    """Return the findings that the generation in force does not have, one sentence each, safe to show.

    Waived rules do not count. Where the host's files, or the generation in force, cannot be read for the
    rules there are none: that is a warning of the proposal.
    """
    try:
        documents = survey.survey(host, layout.find(host), settings)
    except HardendError as error:
        proposal.warnings.append(f"{UNKNOWN}: {error}")
        return []
    try:
        waived = ratchet.waived_today(settings)
        faults = ratchet.new_faults(documents, current.entries, proposal.entries, Store(host), waived)
    except StoreError as error:  # what is damaged is no measure, and approving anew is the way out
        proposal.warnings.append(f"{UNKNOWN}: {error}")
        return []
    return [printable(text) for text in faults]


def require_no_worse(
    host: Host, settings: Settings, current: Generation, proposal: Proposal, *, force: bool
) -> list[str]:
    """Return what is worse where ``force`` goes past it; raises RefusedError where it does not."""
    found = worsened(host, settings, current, proposal)
    if found and not force:
        shown = "; ".join(found[:_SHOWN])
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise RefusedError(
            f"not approved, it breaks what is met now: {shown}{more}",
            hint="waive the rule in hardend.toml, or --force goes past it",
        )
    return found
