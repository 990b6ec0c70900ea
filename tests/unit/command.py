# SPDX-License-Identifier: Apache-2.0
"""Running the command on a tree, with a first generation approved or without."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from hardend.cli.main import main
from hardend.errors import Exit
from hardend.kernel import flags
from tests.unit.conftest import Tree

CF_PATH = "/etc/mail/sendmail.cf"
ACCESS_PATH = "/etc/mail/access"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tree: Tree, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a verb on the tree; returns exit code, output and errors."""
    tree.at("/etc/debian_version").write_text("12\n")

    def call(*arguments: str) -> tuple[int, str, str]:
        words = 2 if arguments[0] == "baseline" else 1
        code = main([*arguments[:words], "--root", str(tree.root), *arguments[words:]])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def approved(tree: Tree, run: Run) -> Iterator[Tree]:
    """A tree with a first generation, locked, and no guard."""
    code, _, err = run("approve", "--reason", "first")
    assert code == Exit.OK, err
    yield tree
    run("release")


def is_locked(tree: Tree, path: str) -> bool:
    descriptor = os.open(tree.at(path), os.O_RDONLY)
    try:
        return bool(flags.get_flags(descriptor) & flags.IMMUTABLE)
    finally:
        os.close(descriptor)
