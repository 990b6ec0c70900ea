# SPDX-License-Identifier: Apache-2.0
"""Starting on a host whose configuration cannot even be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.host.test_guard import CF, wait_clean

if TYPE_CHECKING:
    from tests.host.machine import Machine


@pytest.mark.parametrize(
    "drift", [f"mkdir {CF}", f"mkfifo {CF}", f"ln -s /nowhere {CF}", f"head -c 99999 /dev/urandom > {CF}"]
)
def test_a_start_puts_back_a_configuration_that_cannot_be_read(guarded: Machine, drift: str) -> None:
    guarded.run("systemctl stop hardend")
    guarded.run(f"chattr -i {CF}; rm -f {CF}; {drift}")
    guarded.run("systemctl start hardend")
    assert wait_clean(guarded, 3) == ""
    assert guarded.run("hardend status", check=False).returncode == 0
