# SPDX-License-Identifier: Apache-2.0
"""What a proposal would make worse: told, refused, or, where there is no measure, said not to be known."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardend import layout, ratchet, survey, worsening
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.errors import RefusedError, StoreError
from hardend.propose import Proposal
from tests.unit.command import CF_PATH, Run
from tests.unit.command import approved as approved  # noqa: PLC0414 - a fixture
from tests.unit.command import run as run  # noqa: PLC0414 - a fixture
from tests.unit.conftest import Tree

pytestmark = pytest.mark.root


def changed(tree: Tree, content: bytes) -> tuple[Generation, Proposal]:
    """Return the generation in force, and a proposal that has another sendmail.cf."""
    store = Store(tree.host)
    current = store.current()
    entry = current.entries[CF_PATH]
    proposal = Proposal.of(current)
    digest = store.add_object(content)
    proposal.entries[CF_PATH] = type(entry)(
        entry.path, entry.role, entry.cls, entry.kind, 0, 0, entry.mode, entry.flags, digest=digest
    )
    return current, proposal


def damage(tree: Tree, digest: str) -> None:
    (Path(tree.host.store_dir) / "objects" / digest).write_bytes(b"damaged")


def test_what_gets_worse_is_refused_or_told(approved: Tree) -> None:
    current, proposal = changed(approved, b"# sendmail.cf\nO PrivacyOptions=authwarnings\n")
    with pytest.raises(RefusedError, match="privacy-flags"):
        worsening.require_no_worse(approved.host, Settings(), current, proposal, force=False)
    assert worsening.require_no_worse(approved.host, Settings(), current, proposal, force=True)
    assert proposal.warnings == []


def test_a_generation_in_force_that_cannot_be_read_is_a_warning(approved: Tree) -> None:
    current, proposal = changed(approved, b"# sendmail.cf\nO PrivacyOptions=authwarnings\n")
    damage(approved, current.entries[CF_PATH].digest)
    assert worsening.worsened(approved.host, Settings(), current, proposal) == []
    (warning,) = proposal.warnings
    assert warning.startswith("whether a rule gets worse is not known: ")
    assert current.entries[CF_PATH].digest in warning


def test_the_ratchet_has_no_answer_without_a_measure(approved: Tree) -> None:
    current, proposal = changed(approved, b"# sendmail.cf\nO PrivacyOptions=authwarnings\n")
    documents = survey.survey(approved.host, layout.find(approved.host), Settings())
    store = Store(approved.host)
    assert ratchet.new_faults(documents, current.entries, proposal.entries, store)
    damage(approved, current.entries[CF_PATH].digest)
    with pytest.raises(StoreError):
        ratchet.new_faults(documents, current.entries, proposal.entries, store)


def test_the_approval_says_that_it_has_no_measure(approved: Tree, run: Run) -> None:
    damage(approved, Store(approved.host).current().entries[CF_PATH].digest)
    approved.unlock(CF_PATH)
    approved.at(CF_PATH).write_bytes(b"# sendmail.cf\nO PrivacyOptions=authwarnings\n")
    err = run("approve", "--reason", "anew")[2]
    assert "hardend: warning: whether a rule gets worse is not known: " in err
