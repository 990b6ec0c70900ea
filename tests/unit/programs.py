# SPDX-License-Identifier: Apache-2.0
"""Sendmail's own programs for tests on a machine without Sendmail: unpacked, never installed."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from hardend.maps import Tools

CACHE = Path(os.environ.get("HARDEND_TEST_CACHE", "/var/cache/hardend-test")) / "programs"
# What Debian 12's sendmail-bin and the libraries it needs are in; those that are installed are used.
PACKAGES = (
    "sendmail-bin",
    "libdb5.3",
    "libldap-2.5-0",
    "liblockfile1",
    "libnsl2",
    "libsasl2-2",
    "libssl3",
    "libtirpc3",
    "libwrap0",
)
INSTALLED = Path("/usr/libexec/sendmail")
MACROS = Path("/usr/share/sendmail/cf")
# The least that newaliases and -bC accept: every address is local.
CF = b"""V10/Berkeley
Cwlocalhost
O AliasFile=/etc/mail/aliases
Scanonify=3
R$*\t\t$: $1
Sparse=0
R$*\t\t$#local $: $1
Mlocal,\t\tP=/bin/true, F=lsDFMAw5:/|@qPn9, S=0, R=0,
\t\tT=DNS/RFC822/X-Unix, A=true
Mprog,\t\tP=/bin/sh, F=lsDFMoqeu9, S=0, R=0,
\t\tT=X-Unix/X-Unix/X-Unix, A=sh -c $u
"""
_NEW_UTS = 0x04000000  # CLONE_NEWUTS of unshare(2)


@pytest.fixture(scope="module")
def qualified_name() -> Iterator[None]:
    """Give the machine a name with a domain, for this process: Sendmail sleeps a minute without."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/uts", "rb") as before:
        assert libc.unshare(_NEW_UTS) == 0, os.strerror(ctypes.get_errno())
        socket.sethostname("mail.example.com")
        yield
        assert libc.setns(before.fileno(), _NEW_UTS) == 0, os.strerror(ctypes.get_errno())


@cache
def directory() -> Path:
    """Return a directory with ``sendmail`` and ``makemap``; fails, or skips, where there is no way."""
    if (INSTALLED / "makemap").exists():
        return INSTALLED
    try:
        return _unpacked()
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"Sendmail's programs cannot be had: {error}"
        if os.environ.get("HARDEND_REQUIRE"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def tools(cf: Path | str, root: str = "/", timeout_s: float = 30) -> Tools:
    """Return the programs with a sendmail.cf."""
    found = directory()
    return Tools(str(found / "sendmail"), str(found / "makemap"), str(cf), timeout_s, root)


@cache
def promtool() -> Path:
    """Return the program of Debian's package prometheus; fails, or skips, where there is no way."""
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE.parent / "programs.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (CACHE / "promtool").exists():
                _download("prometheus", to=CACHE / "prometheus")
                (CACHE / "prometheus/tree/usr/bin/promtool").rename(CACHE / "promtool")
                shutil.rmtree(CACHE / "prometheus")
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"promtool cannot be had: {error}"
        if os.environ.get("HARDEND_REQUIRE"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return CACHE / "promtool"


@cache
def macros() -> Path:
    """Return Sendmail's m4 files, of Debian's package sendmail-cf; fails, or skips, without a way."""
    if MACROS.is_dir():
        return MACROS
    tree = CACHE / "sendmail-cf"
    found = tree / "tree" / str(MACROS).lstrip("/")
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE.parent / "programs.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not found.is_dir():
                aside = CACHE / "sendmail-cf.new"
                shutil.rmtree(aside, ignore_errors=True)
                _download("sendmail-cf", to=aside)
                aside.rename(tree)
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"Sendmail's m4 files cannot be had: {error}"
        if os.environ.get("HARDEND_REQUIRE"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


def _download(*names: str, to: Path) -> None:
    """Unpack packages into ``to/tree``."""
    packages = to / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    # As the user who runs the tests: apt's own user need not reach the cache.
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *names]
    subprocess.run(command, cwd=packages, check=True, capture_output=True, timeout=300)
    for package in sorted(packages.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, to / "tree"], check=True, timeout=60)
        package.unlink()


def _unpacked() -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE.parent / "programs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        programs = CACHE / "bin"
        if not (programs / "sendmail").exists():
            _unpack(CACHE)
    return programs


def _unpack(where: Path) -> None:
    _download(*PACKAGES, to=where)
    tree = where / "tree"
    libraries = ":".join(
        sorted({str(path.parent) for path in tree.rglob("*.so.*") if "engines" not in str(path)})
    )
    programs = where / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("makemap", "sendmail"):  # sendmail last: it says that all is there
        program = tree / "usr/libexec/sendmail" / name
        program.chmod(0o755)
        script = programs / name
        aside = programs / f"{name}.new"
        aside.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {program} "$@"\n')
        aside.chmod(0o755)
        aside.rename(script)
