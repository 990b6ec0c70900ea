# SPDX-License-Identifier: Apache-2.0
"""Debian 13's varlinkctl, from its package and what it needs, unpacked into the cache.

Nothing of it is installed and no Debian 13 is booted: its own dynamic loader runs it on this kernel,
here and in the test host.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.unit.programs import CACHE

SUITE = "trixie"
_TREE = CACHE.parent / f"varlinkctl-{SUITE}"


@cache
def tree() -> Path:
    """Return the directory that holds the package's tree; fails, or skips, where it cannot be had."""
    try:
        _TREE.parent.mkdir(parents=True, exist_ok=True)
        with (CACHE.parent / "varlinkctl.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _TREE.exists():
                _fetch(_TREE)
    except (OSError, StopIteration, subprocess.SubprocessError) as error:
        reason = f"Debian 13's varlinkctl cannot be had: {error}"
        if os.environ.get("HARDEND_REQUIRE"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return _TREE


def command(where: Path | str) -> list[str]:
    """Return the words that run varlinkctl from a tree at ``where``."""
    usr = f"{where}/usr"
    (libraries,) = (path.name for path in (tree() / "usr/lib").glob("*-linux-gnu*"))
    loader = next(path.name for path in (tree() / "usr/lib" / libraries).glob("ld-linux*"))
    path = f"{usr}/lib/{libraries}"
    return [f"{path}/{loader}", "--library-path", f"{path}:{path}/systemd", f"{usr}/bin/varlinkctl"]


def _fetch(target: Path) -> None:
    """Let apt find what the package needs, as on a host where nothing is installed, and unpack it."""
    aside = target.with_name(f"{target.name}.{os.getpid()}")
    for directory in ("state/lists/partial", "cache/archives/partial"):
        (aside / directory).mkdir(parents=True)
    (aside / "status").touch()
    (aside / "sources.list").write_text(f"deb {_mirror()} {SUITE} main\n")
    options = {
        "Dir::State": aside / "state",
        "Dir::State::status": aside / "status",
        "Dir::Cache": aside / "cache",
        "Dir::Etc::SourceList": aside / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(word for each in options.items() for word in ("-o", "{}={}".format(*each)))]
    try:
        _run([*apt, "update"])
        _run([*apt, "-y", "--no-install-recommends", "--download-only", "install", "systemd"])
        for package in sorted((aside / "cache/archives").glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(aside / "tree")])
        (aside / "tree").rename(target)
    finally:
        _run(["rm", "-rf", "--", str(aside)])


def _mirror() -> str:
    """Return where this machine gets Debian from."""
    asked = ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"]
    lines = (line.split() for line in _run(asked).splitlines())
    return next(site for site, release in lines if release in {"bookworm", "trixie"})


def _run(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout
