# SPDX-License-Identifier: Apache-2.0
"""Debian packages as far as they concern what hardend holds: who is installed or removed, and what for.

dpkg -S owns none of these files: maintainer scripts make and change them, so the scripts are read.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hardend.command import run
from hardend.errors import CommandError
from hardend.model import printable

_DPKG_DEB = "/usr/bin/dpkg-deb"
_DPKG_QUERY = "/usr/bin/dpkg-query"
_INFO = "/var/lib/dpkg/info"
_TIMEOUT_S = 20.0
_LARGEST = 16 << 20  # of a package's control files together; linux-image's have 1 MiB
_SENDMAIL = re.compile(r"sendmail(-[a-z0-9.+-]+)?")
_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_VERSION = re.compile(r"[A-Za-z0-9.+~:-]+")
_TOUCHES = rb"etc/mail(?![\w.-])|etc/aliases(?:\.db)?(?![\w.-])|newaliases"
_MEMBERS = ("preinst", "postinst", "prerm", "postrm", "config", "conffiles", "md5sums")
# Options of dpkg(1) whose value may stand in the next word.
_VALUED = frozenset(
    {"--admindir", "--root", "--instdir", "--status-fd", "--status-logger", "--log", "--ignore-depends"}
    | {"--pre-invoke", "--post-invoke", "--path-exclude", "--path-include", "--abort-after", "-D", "--debug"}
)
_ELSEWHERE = ("--admindir", "--root", "--instdir")


@dataclass(frozen=True, slots=True)
class Package:
    """A package of a transaction; ``why`` it concerns us, "" where it does not."""

    name: str
    version: str
    why: str = ""

    def __str__(self) -> str:
        """Return it as it stands in the baseline's log."""
        return f"{self.name} {self.version}".rstrip()


@dataclass(slots=True)
class Transaction:
    """What is to be done: package files, and names of what is or was installed.

    ``pending`` says that all which is unpacked and not configured is meant, ``unknown`` that it cannot
    be told, ``elsewhere`` that another system than this one is changed.
    """

    files: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    pending: bool = False
    unknown: bool = False
    elsewhere: bool = False


def of_dpkg(words: Sequence[str], directory: str) -> Transaction:
    """Return what a dpkg command line is about; relative paths begin in ``directory``."""
    found = Transaction()
    operands: list[str] = []
    rest = iter(words[1:])
    for word in rest:
        if word == "--":
            operands += rest
        elif not word.startswith("-") or word == "-":
            operands.append(word)
        else:
            option, equals, value = word.partition("=")
            if option in _VALUED and not equals:
                value = next(rest, "")
            found.elsewhere |= option in _ELSEWHERE and value not in {"/", "", "/var/lib/dpkg"}
            found.pending |= word in {"--pending", "-a"}
            found.unknown |= option == "--command-fd"
    for word in operands:
        path = os.path.join(directory, word)
        if os.path.isdir(path):
            inside = (os.path.join(at, name) for at, _, names in os.walk(path) for name in names)
            found.files += sorted(name for name in inside if name.endswith(".deb"))
        elif word.endswith(".deb") or "/" in word:
            found.files.append(path)
        else:
            found.names.append(word)
    return found


def of_apt(text: str) -> Transaction:
    """Return what apt says on the standard input of a hook, in version 2 or 3 of its protocol."""
    found = Transaction()
    head, _, body = text.partition("\n\n")
    if not head.startswith(("VERSION 2", "VERSION 3")):
        found.files = [line for line in text.splitlines() if line.startswith("/")]
        return found
    found.elsewhere = any(
        line.startswith(("DPkg::Chroot-Directory=/", "RootDir=/"))
        and line.partition("=")[2].rstrip("/") != ""
        for line in head.splitlines()
    )
    fields = 8 if head.startswith("VERSION 3") else 4
    for line in body.splitlines():
        words = line.split(" ", fields)
        if len(words) <= fields:
            continue
        if words[fields].startswith("/"):
            found.files.append(words[fields])
        else:
            found.names.append(words[0])
    return found


def concerned(transaction: Transaction, held: Iterable[str]) -> list[Package]:
    """Return the packages of a transaction that change what is held here, each once.

    A file that cannot be read is one of them: nobody knows what it does.
    """
    touches = _pattern(held)
    found: dict[str, Package] = {}
    for path in transaction.files:
        package = from_file(path, touches)
        found.setdefault(package.name, package)
    names = [name.partition(":")[0].rstrip("+-") or name for name in transaction.names]
    if transaction.pending:
        names += _unconfigured()
    for name in dict.fromkeys(names):
        if name not in found and _NAME.fullmatch(name):
            found[name] = _installed(name, touches)
    if transaction.unknown:
        found.setdefault("", Package("?", "", "dpkg is told elsewhere what to do"))
    return [package for package in found.values() if package.why]


def _pattern(held: Iterable[str]) -> re.Pattern[bytes]:
    others = [path for path in held if not path.startswith("/etc/mail/")]
    named = b"".join(b"|" + re.escape(os.fsencode(path)) + rb"(?![\w.-])" for path in others)
    return re.compile(_TOUCHES + named)


def from_file(path: str, touches: re.Pattern[bytes]) -> Package:
    """Return the package in a .deb; nothing of it is unpacked or run."""
    try:
        members = dict(control_members(_control_files(path)))
    except (CommandError, tarfile.TarError, OSError, EOFError, ValueError) as error:
        return Package(printable(os.path.basename(path)), "", f"it cannot be read: {printable(str(error))}")
    control = members.pop("control", b"").decode("utf-8", "replace")
    name, version = _field(control, "Package", _NAME), _field(control, "Version", _VERSION)
    return Package(name or printable(os.path.basename(path)), version, _why(name, members.items(), touches))


def _control_files(path: str) -> bytes:
    done = run([_DPKG_DEB, "--ctrl-tarfile", path], timeout_s=_TIMEOUT_S, limit=_LARGEST, errors_apart=True)
    if done.status:
        raise CommandError(done.last_words)
    return done.output


def control_members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a control archive; links are none. Raises TarError, EOFError or ValueError."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file is not None:
                yield member.name.removeprefix("./"), file.read()


def _field(control: str, name: str, allowed: re.Pattern[str]) -> str:
    match = re.search(rf"^{name}:[ \t]*(\S+)", control, re.MULTILINE | re.IGNORECASE)
    return match[1] if match and allowed.fullmatch(match[1]) else ""


def _why(name: str, members: Iterable[tuple[str, bytes]], touches: re.Pattern[bytes]) -> str:
    if _SENDMAIL.fullmatch(name):
        return "Sendmail's own"
    for member, data in members:
        if match := touches.search(data):
            return f"its {member} names {printable(os.fsdecode(match[0]))}"
    return ""


def _installed(name: str, touches: re.Pattern[bytes]) -> Package:
    done = _query(["-W", "-f", "${Version}\n", name])
    version = done.splitlines()[0] if done else ""
    return Package(name, version if _VERSION.fullmatch(version) else "", _why(name, _scripts(name), touches))


def _scripts(name: str) -> Iterator[tuple[str, bytes]]:
    try:
        present = set(os.listdir(_INFO))
    except OSError:
        return
    for path in sorted(present):
        stem, _, member = path.rpartition(".")
        if member in _MEMBERS and stem.partition(":")[0] == name:
            with contextlib.suppress(OSError), open(os.path.join(_INFO, path), "rb") as file:
                yield member, file.read(_LARGEST)


def _unconfigured() -> list[str]:
    """Return the packages that dpkg --configure --pending is about."""
    done = _query(["-W", "-f", "${db:Status-Status} ${Package}\n"])
    lines = (line.partition(" ") for line in done.splitlines())
    return [name for status, _, name in lines if status not in {"installed", "config-files", "not-installed"}]


def _query(words: list[str]) -> str:
    try:
        done = run([_DPKG_QUERY, *words], timeout_s=_TIMEOUT_S, limit=_LARGEST, errors_apart=True)
    except CommandError:
        return ""
    return done.output.decode("utf-8", "replace")
