# SPDX-License-Identifier: Apache-2.0
"""Whether a .cf is what its .mc makes, asked by somebody who may not read all that the .mc includes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hardend.model import Host
from hardend.origin import compared
from hardend.rules.catalogue import judge
from hardend.rules.rule import Verdict
from tests.unit.test_origin import RULE, TOOLS, beside
from tests.unit.test_origin import here as here  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.root, pytest.mark.m4]


def as_nobody(ask: Callable[[], int]) -> int:
    """Return the number that a question gives an ordinary user."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            status = ask()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    ("mode", "verdict"), [(0o600, Verdict.UNKNOWN), (0o644, Verdict.PASS)]
)
def test_an_include_that_may_not_be_read_is_unknown_and_no_fault_of_the_mc(
    here: Path, mode: int, verdict: Verdict
) -> None:
    include = here / "provider.m4"
    include.write_text("O B=2\n")
    documents = beside(here, f"include(`{include}')")
    include.chmod(mode)
    verdicts = list(Verdict)

    def asked() -> int:
        found = judge(compared(documents, Host(), TOOLS), RULE)
        return verdicts.index(found.verdict)

    assert verdicts[as_nobody(asked)] is verdict
    assert judge(compared(documents, Host(), TOOLS), RULE).verdict is Verdict.PASS


def test_what_is_known_to_differ_fails_whatever_else_is_not_known(here: Path) -> None:
    documents = replace(beside(here, "O A=1\n"), unbuilt={"/b.cf": "Permission denied"})
    assert judge(documents, RULE).verdict is Verdict.UNKNOWN
    assert judge(replace(documents, unmade={"/a.cf": "it is older"}), RULE).verdict is Verdict.FAIL
