# SPDX-License-Identifier: Apache-2.0
"""Keys of administrators, made by the real ssh-keygen, and the file that says who may sign."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from hardend.baseline.signature import NAMESPACE, SIGNERS
from hardend.model import Host

OPS = "ops@example.com"
HINT = "needs ssh-keygen (openssh-client)"


def need_keygen() -> None:
    """Skip where there is no ssh-keygen, or fail where everything must run."""
    if shutil.which("ssh-keygen") is None:
        if os.environ.get("HARDEND_REQUIRE"):
            pytest.fail(HINT, pytrace=False)
        pytest.skip(HINT)


def key(directory: Path, name: str = "ops", passphrase: str = "", kind: str = "ed25519") -> Path:
    """Return a new private key; the public one lies beside it."""
    need_keygen()
    directory.mkdir(parents=True, exist_ok=True)
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", name, "-f", str(directory / name)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return directory / name


@cache
def _shared(directory: Path, name: str) -> Path:
    return key(directory, name)


@pytest.fixture(scope="session")
def ops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key that the tests trust."""
    return _shared(tmp_path_factory.getbasetemp() / "keys", "ops")


@pytest.fixture(scope="session")
def mallory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key that nobody trusts."""
    return _shared(tmp_path_factory.getbasetemp() / "keys", "mallory")


def line(key_file: Path, principal: str = OPS, options: str = f'namespaces="{NAMESPACE}"') -> str:
    """Return the line of allowed_signers that lets a key sign."""
    public = key_file.with_suffix(".pub").read_text()
    return " ".join(filter(None, (principal, options, public)))


def trust(host: Host, *lines: str) -> Path:
    """Write allowed_signers of a host."""
    path = Path(host.at(SIGNERS))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
    path.chmod(0o644)
    return path
