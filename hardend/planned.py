# SPDX-License-Identifier: Apache-2.0
"""A plan in a proposal: the entries of the generation that carries it out."""

from __future__ import annotations

from dataclasses import replace

from hardend import classes
from hardend.config import Settings
from hardend.model import Class, Entry, FileType, Host, Protected, Role, printable
from hardend.plan import Plan
from hardend.propose import Proposal, Proposer


def put(host: Host, settings: Settings, plan: Plan, proposal: Proposal, proposer: Proposer) -> list[str]:
    """Put a plan into a proposal, as far as it is about what hardend holds or would hold.

    Returns the commands for the rest, which is left for the administrator. Raises HardendError for
    content that does not build or pass the gate.
    """
    gone = [path for path in plan.removed if proposal.entries.pop(path, None) is None]
    by_hand = [f"rm {printable(path)}" for path in gone]
    known = {item.path: item for item in classes.protected(host, proposer.layout, settings)}
    for path, data in plan.contents.items():
        cls = classes.class_of(path, proposer.layout, settings)
        protected = known.get(path) or Protected(path, Role.SOURCE, cls)
        is_new = path not in plan.before.attributes
        if protected.cls is Class.IGNORED or not (is_new or path in known):
            by_hand.append(f"edit {printable(path)} as the diff says")
            continue
        proposer.put_content(proposal, protected, data, create=is_new)
    for path, target in plan.links.items():
        proposal.entries[path] = Entry(
            path, Role.LINK, Class.LOCKED, FileType.SYMLINK, 0, 0, 0o777, target=target
        )
    for path, new in plan.attributes.items():
        entry = proposal.entries.get(path)
        if entry is None:
            by_hand += plan.commands_for(path)
        else:
            proposal.entries[path] = replace(entry, uid=new.uid, gid=new.gid, mode=new.mode)
    return by_hand
