# SPDX-License-Identifier: Apache-2.0
"""A quarantine on a tree, and its verbs to run, for the tests of both."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hardend.cli.main import main
from hardend.collect import collect
from hardend.model import Host
from hardend.quarantine import Limits
from tests.unit.command import ACCESS_PATH
from tests.unit.conftest import Tree

EVIL = b"Connect:192.0.2.1\tRELAY\nConnect:127.0.0.1\tRELAY\n"
DAY_S = 86400.0
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tree: Tree, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a verb of the quarantine on the tree; returns exit code, output and errors."""

    def verb(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(["quarantine", arguments[0], "--root", str(tree.root), *arguments[1:]])
        except SystemExit as error:  # argparse
            code = int(str(error.code))
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return verb


class Shelf:
    """What a guard of the tree set aside, put there by hand."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.taken = Path(self.host.taken_dir)
        self.taken.mkdir(parents=True, exist_ok=True)
        self.records = Path(self.host.quarantine_dir) / "records"
        self.objects = Path(self.host.quarantine_dir) / "objects"
        self.serial = 0

    def put(
        self, content: bytes | None = EVIL, *, age_s: float = 10.0, wait: bool = False, **fields: Any
    ) -> str:
        """Set an object aside, and collect it unless it is to wait; return its id."""
        self.serial += 1
        moment = datetime.fromtimestamp(time.time() - age_s, UTC)
        identifier = f"{moment:%Y%m%dT%H%M%S.%f}-{self.serial:04d}"
        record = {
            "id": identifier,
            "path": ACCESS_PATH,
            "cls": "locked",
            "drift": ["content"],
            "generation": 1,
            "time": moment.isoformat(timespec="microseconds"),
            "time_ns": int(moment.timestamp() * 1e9),
            "incident": identifier,
            "kind": "file",
            "uid": 0,
            "gid": 0,
            "mode": 0o644,
            "size": len(content or b""),
            "mtime_ns": 0,
            "who": {"pid": 7, "exe": "/bin/ed\x1b[2J"},
            **fields,
        }
        (self.taken / f"{identifier}.json").write_text(json.dumps(record))
        if content is not None:
            (self.taken / identifier).write_bytes(content)
        if not wait:
            self.collect()
        return identifier

    def collect(self) -> None:
        assert collect(self.host, Limits(object_bytes=1 << 20), patience_s=0.0).failed == []

    def record(self, identifier: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.records / f"{identifier}.json").read_text())
        return document

    def object_of(self, identifier: str) -> Path:
        return self.objects / str(self.record(identifier)["digest"])


@pytest.fixture
def shelf(tree: Tree) -> Shelf:
    return Shelf(tree.host)


def ids(call: Call, *arguments: str) -> list[str]:
    return [item["id"] for item in json.loads(call("list", "--json", *arguments)[1])["objects"]]
