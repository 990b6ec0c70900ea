# SPDX-License-Identifier: Apache-2.0
"""The Sendmail that the demo shows: Debian's packages, fetched and unpacked, never installed."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

from hardend.command import run
from hardend.errors import CommandError, RefusedError

HOST_NAME = "mail.example.com"
PACKAGES = ("sendmail-base", "sendmail-cf", "sendmail-bin")
_PROGRAMS = {
    "sendmail": "usr/libexec/sendmail/sendmail",
    "makemap": "usr/libexec/sendmail/makemap",
    "m4": "usr/bin/m4",
}
_TIMEOUT_S = 300.0
_MISSING_LIBRARY = re.compile(r"^Inst (lib[a-z0-9.+-]+) ", re.MULTILINE)
_HINT = "the demo fetches Debian's Sendmail packages: apt-get update must work here"


@dataclass(frozen=True, slots=True)
class Packages:
    """What was unpacked: ``root`` holds the files, ``programs`` can be run, of that ``version``."""

    root: str
    programs: str
    version: str


def fetch(directory: str, parent: str) -> Packages:
    """Fetch and unpack the packages, with the libraries that this machine lacks, into ``directory``.

    Nothing is installed. Raises RefusedError on another system than Debian, CommandError when the
    packages cannot be had.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RefusedError("the demo needs Debian: apt-get and dpkg-deb are not here")
    root = os.path.join(directory, "packages")
    os.mkdir(root, 0o755)
    # A directory of its own: apt fetches as the user _apt, who cannot enter the other.
    with tempfile.TemporaryDirectory(prefix="hardend-demo-fetch-", dir=parent) as downloads:
        with contextlib.suppress(LookupError):
            shutil.chown(downloads, "_apt")
        _download(downloads)
        files = sorted(name for name in os.listdir(downloads) if name.endswith(".deb"))
        for name in files:
            done = run(["dpkg-deb", "-x", os.path.join(downloads, name), root], timeout_s=_TIMEOUT_S)
            if done.status:
                raise CommandError(f"dpkg-deb: {name}: {done.last_words}")
    version = next(name.split("_")[1] for name in files if name.startswith("sendmail-base_"))
    return Packages(root, _programs(directory, root), version.replace("%3a", ":"))


def _download(directory: str) -> None:
    """Download; a fresh machine has no lists of packages yet, and gets them here."""
    try:
        _apt("download", *_wanted(), directory=directory)
    except CommandError:
        _apt("update", directory=directory)
        _apt("download", *_wanted(), directory=directory)


def _wanted() -> list[str]:
    """Return the packages, m4 where it is missing, and the libraries that these need here."""
    packages = [*PACKAGES, *([] if shutil.which("m4") else ["m4"])]
    try:
        plan = _apt("--simulate", "--no-install-recommends", "install", *packages)
    except CommandError:
        return packages  # a machine whose packages conflict with these may still have the libraries
    return [*packages, *_MISSING_LIBRARY.findall(plan)]


def _apt(*arguments: str, directory: str = "/") -> str:
    """Run apt-get, with the proxies of the environment, and return what it said."""
    try:
        done = subprocess.run(
            ["apt-get", "-q", *arguments],
            cwd=directory,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"apt-get {arguments[0]}: no answer", hint=_HINT) from error
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise CommandError(f"apt-get {arguments[0]}: {'; '.join(complaints[:2])}", hint=_HINT)
    return done.stdout


def _programs(directory: str, root: str) -> str:
    """Make a directory of the programs; they find the libraries that were unpacked.

    Copies: the loader ignores LD_LIBRARY_PATH for the setgid original.
    """
    programs = os.path.join(directory, "programs")
    os.makedirs(os.path.join(programs, "real"))
    libraries = {place for place, _, names in os.walk(root) if any(".so." in name for name in names)}
    for name, path in _PROGRAMS.items():
        if os.path.exists(os.path.join(root, path)):
            real = os.path.join(programs, "real", name)
            shutil.copyfile(os.path.join(root, path), real)
            os.chmod(real, 0o700)
            wrapper = os.path.join(programs, name)
            with open(wrapper, "w", encoding="utf-8") as file:
                file.write(_wrapper(name, real, sorted(libraries)))
            os.chmod(wrapper, 0o700)
    return programs


def _wrapper(name: str, real: str, libraries: list[str]) -> str:
    """Return the script that runs a program.

    sendmail waits for a minute before it does anything where the machine's name has no dot; a UTS
    namespace (uts_namespaces(7)) gives it the demo host's.
    """
    lines = ["#!/bin/sh", f"real={shlex.quote(real)}"]
    if libraries:
        lines += [f"LD_LIBRARY_PATH={shlex.quote(':'.join(libraries))}", "export LD_LIBRARY_PATH"]
    if name == "sendmail":
        lines += [
            "if unshare --uts true 2>/dev/null; then",
            f"    exec unshare --uts sh -c 'hostname {HOST_NAME}; exec \"$0\" \"$@\"' \"$real\" \"$@\"",
            "fi",
        ]
    return "\n".join([*lines, 'exec "$real" "$@"', ""])
