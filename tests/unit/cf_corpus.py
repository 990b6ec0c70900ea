# SPDX-License-Identifier: Apache-2.0
"""The .mc files of Debian's package sendmail-cf, and .cf files made of them with plain m4."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

from tests.unit import programs

# What the package ships: those of Sendmail itself, those of Debian.
NAMES = (
    *(f"cf/{name}.mc" for name in (
        "chez.cs", "clientproto", "cs-hpux10", "cs-hpux9", "cs-osf1", "cs-solaris2", "cs-sunos4.1",
        "cs-ultrix4", "cyrusproto", "generic-bsd4.4", "generic-hpux10", "generic-hpux9", "generic-linux",
        "generic-mpeix", "generic-nextstep3.3", "generic-osf1", "generic-solaris", "generic-sunos4.1",
        "generic-ultrix4", "huginn.cs", "knecht", "mail.cs", "mail.eecs", "mailspool.cs", "python.cs",
        "s2k-osf1", "s2k-ultrix4", "submit", "tcpproto", "ucbarpa", "ucbvax", "uucpproto", "vangogh.cs",
    )),
    "debian/sendmail.mc",
    "debian/submit.mc",
)  # fmt: skip
# What cf.m4 is told of the directory that it lies in; the package says where it is installed.
_INSTALLED = str(programs.MACROS)


def shipped() -> set[str]:
    """Return the names of the .mc files that are in the package."""
    top = programs.macros()
    return {str(path.relative_to(top)) for path in top.rglob("*.mc")}


def text_of(name: str) -> bytes:
    """Return the bytes of a .mc of the package."""
    return (programs.macros() / name).read_bytes()


@cache
def plain_m4(mc: bytes) -> tuple[bytes, str]:
    """Return what m4 alone makes of a .mc, from the directory that cf/README has it built in, and says."""
    top = programs.macros()
    text = mc.replace(f"`{_INSTALLED}/".encode(), f"`{top}/".encode())
    is_whole = b"m4/cf.m4'" in text
    first = [] if is_whole else [f"-D_CF_DIR_={top}/", f"{top}/m4/cf.m4"]
    done = subprocess.run(
        ["m4", *first, "-"], cwd=top / "cf", input=text, capture_output=True, timeout=60, check=False
    )
    return done.stdout, os.fsdecode(done.stderr)


def macros_in(root: Path, place: str = _INSTALLED) -> None:
    """Put Sendmail's m4 files into a tree."""
    where = root / place.lstrip("/")
    where.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-r", "--", programs.macros(), where], check=True, timeout=60)
