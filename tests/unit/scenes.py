# SPDX-License-Identifier: Apache-2.0
"""What the tests of trouble share: a disk of their own, a drift, and a system call that refuses."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardend.enforcer import Enforcer
from hardend.table import Held
from tests.unit.conftest import Tree
from tests.unit.mounting import private_mounts

CF_PATH = "/etc/mail/sendmail.cf"
ACCESS_PATH = "/etc/mail/access"
SMRSH = "/etc/mail/smrsh"


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory on a disk, in a mount namespace of the test's own."""
    with tempfile.TemporaryDirectory(prefix="hardend-trouble-", dir="/var/tmp") as made, private_mounts():
        yield Path(made)
        subprocess.run(["umount", "-R", "-l", made], check=False, capture_output=True)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed restore is tried again at the next look, not a second later."""
    monkeypatch.setattr("hardend.enforcer._RETRY_S", 0.0)


def guard_of(tree: Tree) -> tuple[Enforcer, Held]:
    assert tree.enforcer is not None
    return tree.enforcer, tree.enforcer.table.by_path[CF_PATH]


def rewrite(tree: Tree, path: str = CF_PATH) -> None:
    """Change the bytes and not the size, as that works on a full disk too."""
    tree.unlock(path)
    with tree.at(path).open("r+b") as file:
        file.write(b"EVIL")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def refuse(number: int) -> object:
    def refuse(*_arguments: object, **_keywords: object) -> object:
        raise OSError(number, os.strerror(number))

    return refuse


def names_in(tree: Tree, path: str) -> set[str]:
    return set(os.listdir(tree.at(path)))
