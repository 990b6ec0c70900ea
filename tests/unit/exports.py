# SPDX-License-Identifier: Apache-2.0
"""A host with a signed generation, its export, and what is received of one."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from hardend.baseline import transport
from hardend.baseline.signature import sign
from hardend.baseline.store import Store
from hardend.model import Host
from tests.unit.generations import CONTENT, commit
from tests.unit.signers import OPS, line, trust

OBJECT = f"objects/{Store.digest_of(CONTENT[1])}"


@pytest.fixture
def host(tmp_path: Path, ops: Path) -> Host:
    """A host with a signed generation, whose signer it trusts."""
    made = Host(str(tmp_path / "host"))
    trust(made, line(ops))
    store = Store(made)
    commit(store, 1)
    sign_it(store, 1, ops)
    return made


def sign_it(store: Store, number: int, key: Path) -> None:
    with store.locked():
        store.attach_signature(number, sign(store.raw_manifest(number), str(key)))


def tar_of(host: Host, number: int = 1) -> bytes:
    file = io.BytesIO()
    transport.write_tar(Store(host), number, file)
    return file.getvalue()


def receive(host: Host, path: Path | str) -> dict[str, bytes]:
    """Return the contents of everything that was received and verified."""
    with transport.received(host, str(path)) as received:
        assert received.signer.principal == OPS
        entries = received.generation.entries
        return {path: received.object(entry) for path, entry in entries.items() if entry.digest}


@pytest.fixture
def directory(host: Host, tmp_path: Path) -> Path:
    transport.write_directory(Store(host), 1, str(tmp_path / "out"))
    return tmp_path / "out"


@pytest.fixture
def put(tmp_path: Path) -> Callable[[bytes], Path]:
    """Return what writes bytes into a file."""

    def write(data: bytes) -> Path:
        (tmp_path / "in.tar").write_bytes(data)
        return tmp_path / "in.tar"

    return write
