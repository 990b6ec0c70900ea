# SPDX-License-Identifier: Apache-2.0
"""A booted mail host for each module of tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPTS = ("drifts.py", "attack.py")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A mail host after ``./run install``; nothing is approved or started."""
    with Machine() as booted:
        yield booted


@pytest.fixture(scope="module")
def guarded(machine: Machine) -> Machine:
    """The host after the README's three commands, with the scripts that drift it."""
    for name in SCRIPTS:
        machine.put(Path(__file__).with_name(name), f"/root/{name}")
    # Many drifts of one path in a row are what these tests are about, not a fight.
    machine.run("printf '[guard]\\ncontested_count = 10000\\n' > /etc/hardend/conf.d/tests.toml")
    machine.run("hardend approve --reason first")
    machine.run("systemctl enable --now hardend")
    return machine
