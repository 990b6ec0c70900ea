# SPDX-License-Identifier: Apache-2.0
"""Derived maps: built to the side from their source, and compared by what they answer.

newaliases and makemap write other bytes at every run of the same input. The exit status of newaliases
says nothing (0 with nothing built, 70 with the map built): the outcome is read from its count line
and from the map itself. Owner, group and mode are set by whoever installs a map.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from hardend.command import run
from hardend.config import Settings
from hardend.errors import CommandError, FileError, FormatError
from hardend.formats.aliases import LONGEST_LINE, logical_lines
from hardend.formats.cf import Cf
from hardend.kernel import paths
from hardend.layout import Layout, Tree
from hardend.model import Host, MapSpec, printable

LARGEST_MAP = 512 << 20
# For a tree: a directory with ``sendmail`` and ``makemap`` of the machine, where none is installed.
PROGRAMS = "HARDEND_PROGRAMS"

_COUNT = re.compile(rb": (\d+) aliases, longest \d+ bytes, \d+ bytes total")
_COMPLAINT = re.compile(rb"^\S+: line (\d+): (.*)$", re.MULTILINE)
# Options that do not matter to a build on the side, but could make it fail or go elsewhere.
_LEFT_OUT_USERS = frozenset({"defaultuser", "runasuser", "trusteduser"})
_LEFT_OUT = _LEFT_OUT_USERS | {"aliasfile", "loglevel", "pidfile", "queuedirectory"}
_LIBRARY = re.compile(rb"\0(libdb-?[0-9][0-9.]*\.so[0-9.]*)\0")
_LIBRARY_DIRS = ("/usr/lib", "/lib", "/usr/lib64", "/lib64", "/usr/local/lib")
# Bytes that makemap -t takes; a text map has none of them, so the first one nearly always serves.
_SEPARATORS = bytes(range(1, 9)) + bytes(range(0x0B, 0x20)) + bytes(range(0x7F, 0x100))
# Not /usr/sbin/sendmail: on a host with another MTA that is not Sendmail.
_SENDMAIL = ("/usr/libexec/sendmail/sendmail", "/usr/sbin/sendmail.sendmail")
_MAKEMAP = ("/usr/libexec/sendmail/makemap", "/usr/sbin/makemap")
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_ATTEMPTS = 5
# makemap wants a sendmail.cf only to learn to whom a map is to belong.
_NO_CF = ("-C", os.devnull)
_TREE_MAY_LIE_ANYWHERE = b"O DontBlameSendmail=ClassFileInUnsafeDirPath,TrustStickyBit\n"
_WORK_DIRS = ("/var/lib/hardend", "/run")
_WORK_PREFIX = "hardend-map-"
_LEFTOVER_S = 3600.0


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs of this machine that build and read maps, "" where it has none.

    ``cf`` is the sendmail.cf that newaliases reads, found beneath ``root``.
    """

    sendmail: str
    makemap: str
    cf: str
    timeout_s: float
    root: str = "/"


@dataclass(frozen=True, slots=True)
class Built:
    """A map that was built to the side, what it answers, and what its builder complained of."""

    path: str
    answers: str
    entries: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Copy:
    """A live map's bytes and the identity of the inode they are from."""

    content: bytes
    ino: int
    ctime_ns: int
    mtime_ns: int

    @property
    def digest(self) -> str:
        """The SHA-256 of the bytes."""
        return hashlib.sha256(self.content).hexdigest()


class NoProgramError(CommandError):
    """This machine has no makemap or sendmail: nothing can be said about a map."""


def tools_for(host: Host, layout: Layout, settings: Settings) -> Tools:
    """Return the programs; those of this machine also for a tree: nothing of a tree is ever run."""
    timeout_s = settings.command_timeout_s
    if not host.is_tree:
        return Tools(layout.sendmail, layout.makemap, layout.cf, timeout_s)
    given = os.environ.get(PROGRAMS, "")
    here = Tree(Host())
    found = [f"{given}/sendmail", f"{given}/makemap"] if given.startswith("/") else ["", ""]
    sendmail = found[0] or here.first(_SENDMAIL)
    makemap = found[1] or here.first(_MAKEMAP)
    return Tools(sendmail, makemap, host.at(layout.cf), timeout_s, host.root)


def library(tools: Tools) -> str:
    """Return what identifies the builder: another sendmail or database library builds other files.

    The digest of the programs and of the Berkeley DB that makemap names; "" without makemap.
    """
    sha = hashlib.sha256()
    programs = [program for program in (tools.makemap, tools.sendmail) if program]
    if not tools.makemap:
        return ""
    try:
        for program in (*programs, *_databases(tools.makemap)):
            with open(program, "rb") as file:
                sha.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error
    return f"makemap {sha.hexdigest()[:16]}"


def _databases(makemap: str) -> Iterator[str]:
    """Yield the files of the database libraries that an ELF program names, in order."""
    with open(makemap, "rb") as file:
        names = {os.fsdecode(name) for name in _LIBRARY.findall(file.read(LARGEST_MAP))}
    for directory in _LIBRARY_DIRS:
        places = [directory]
        with contextlib.suppress(OSError):
            places += sorted(
                entry.path for entry in os.scandir(directory) if entry.name.endswith("-linux-gnu")
            )
        for place in places:
            for name in sorted(names):
                if os.path.isfile(os.path.join(place, name)):
                    yield os.path.join(place, name)


@contextlib.contextmanager
def workdir() -> Iterator[str]:
    """Make a private directory that is gone afterwards.

    Not below /tmp where that can be helped: Sendmail refuses to build a map whose path leads through
    a directory that the world can write, unless DontBlameSendmail trusts sticky bits.
    """
    parent = next((place for place in _WORK_DIRS if os.access(place, os.W_OK)), None)
    if parent is not None:
        _remove_leftovers(parent)
    directory = tempfile.mkdtemp(prefix=_WORK_PREFIX, dir=parent)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _remove_leftovers(parent: str) -> None:
    """Remove what a run that was killed left behind."""
    for entry in os.scandir(parent):
        if entry.name.startswith(_WORK_PREFIX):
            with contextlib.suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > _LEFTOVER_S:
                    shutil.rmtree(entry.path)


def copy_live(host: Host, path: str, largest: int = LARGEST_MAP) -> Copy | None:
    """Return the bytes of a live file and its identity, the same before and after; None if missing.

    Only a regular file is ever opened, no link is followed. Raises FileError for anything else, a
    file over ``largest`` bytes, one that is leased, and one that changes all the time.
    """
    root = os.open(host.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            copy = _copy_once(root, path, largest)
            if copy is not None:
                return copy
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FileError(f"{printable(path)}: cannot be read: {error.strerror}") from error
    finally:
        os.close(root)
    raise FileError(f"{printable(path)}: changes while it is read")


def _copy_once(root: int, path: str, largest: int) -> Copy | None:
    pinned = paths.open_beneath(root, path.lstrip("/"), os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(pinned).st_mode):
            raise FileError(f"{printable(path)}: not a regular file")
        # The very inode whose type was seen, so that no FIFO or device is opened in its place.
        descriptor = os.open(f"/proc/self/fd/{pinned}", _READ)
    finally:
        os.close(pinned)
    with os.fdopen(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if before.st_size > largest:
            raise FileError(f"{printable(path)}: over {largest >> 20} MiB")
        content = file.read(largest + 1)
        after = os.fstat(descriptor)
    same = (before.st_ctime_ns, before.st_size) == (after.st_ctime_ns, after.st_size)
    if not same or len(content) != after.st_size:
        return None
    return Copy(content, after.st_ino, after.st_ctime_ns, after.st_mtime_ns)


def answers_of(database: bytes, spec: MapSpec, directory: str, tools: Tools) -> str:
    """Return the SHA-256 of what a database answers: its records, sorted. Works on a copy.

    The entry ``@`` that newaliases adds stays in: without it Sendmail waits for a rebuild that never
    comes, so a map that lost it does not answer the same. Raises CommandError when it cannot be
    read as a map of its class, NoProgramError without makemap.
    """
    return _answers(_aside(directory, "copy.db", database), spec, tools)[0]


def _answers(path: str, spec: MapSpec, tools: Tools) -> tuple[str, int]:
    """Return digest and number of records.

    A key or value may hold a newline and so look like two records. The map is dumped a second time
    with a separator that occurs in none of them: then every line must hold it.
    """
    plain = _dump(path, spec, tools, b"\t")
    used = set(plain)
    separator = next((byte for byte in _SEPARATORS if byte not in used), None)
    if separator is None:
        raise CommandError(f"{spec.database}: its records hold every separator there is")
    mark = bytes([separator])
    lines = sorted(_dump(path, spec, tools, mark).split(b"\n")[:-1])
    if any(line.count(mark) != 1 for line in lines):
        raise CommandError(f"{spec.database}: a record of it holds a line end")
    canonical = b"\n".join(line.replace(mark, b"\0") for line in lines)
    return hashlib.sha256(canonical).hexdigest(), len(lines)


def _dump(path: str, spec: MapSpec, tools: Tools, separator: bytes) -> bytes:
    _require(tools.makemap, "makemap")
    argv = [tools.makemap, *_NO_CF, "-t", os.fsdecode(separator), "-u", spec.map_class, path]
    # Apart: warnings of directories above it are no records.
    done = run(argv, timeout_s=tools.timeout_s, errors_apart=True)
    if done.status:
        raise CommandError(f"{spec.database}: makemap cannot read it: {done.last_words}")
    return done.output


def build(spec: MapSpec, source: bytes, directory: str, tools: Tools) -> Built:
    """Build the map of a source in ``directory`` and read it back.

    Raises FormatError for a source that the builder must not see, CommandError when it did not
    build.
    """
    if spec.builder == "newaliases":
        path, count, warnings = _build_aliases(spec, source, directory, tools)
    else:
        path, count, warnings = _build_map(spec, source, directory, tools)
    answers, entries = _answers(path, spec, tools)
    # newaliases adds its "@", and counts a name twice that stands twice.
    if spec.builder == "newaliases" and not 0 < entries <= count + 1:
        raise CommandError(f"{spec.source}: newaliases said {count}, its map holds {entries}")
    return Built(path, answers, entries, warnings)


def _build_map(
    spec: MapSpec, source: bytes, directory: str, tools: Tools
) -> tuple[str, int, tuple[str, ...]]:
    _require(tools.makemap, "makemap")
    base = os.path.join(directory, "map")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{base}.db")
    argv = [tools.makemap, *_NO_CF, *spec.flags, spec.map_class, base]
    done = run(argv, timeout_s=tools.timeout_s, stdin=source, directory=directory)
    if done.status or not os.path.exists(f"{base}.db"):
        said = done.last_words.replace(base, spec.source)
        raise CommandError(f"{spec.source}: makemap: {said or 'built nothing'}")
    return f"{base}.db", 0, ()


def _build_aliases(
    spec: MapSpec, source: bytes, directory: str, tools: Tools
) -> tuple[str, int, tuple[str, ...]]:
    _require(tools.sendmail, "sendmail")
    check_line_lengths(spec.source, source)
    base = _aside(directory, "aliases", source)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{base}.db")
    cf, left_out = _cf_for_building(directory, tools)
    argv = [tools.sendmail, "-C", cf, "-bi", f"-oA{spec.map_class}:{base}"]
    done = run(argv, timeout_s=tools.timeout_s, directory=directory)
    count = _COUNT.search(done.output)
    if count is None or not os.path.exists(f"{base}.db"):
        said = done.last_words.replace(base, spec.source).replace(cf, tools.cf)
        raise CommandError(f"{spec.source}: newaliases built nothing: {said}")
    warnings = [
        f"{spec.source}:{int(match[1])}: {match[2].decode('utf-8', 'backslashreplace')}"
        for match in _COMPLAINT.finditer(done.output)
    ]
    warnings += [f"{tools.cf}: not run while building: {line}" for line in left_out]
    return f"{base}.db", int(count[1]), tuple(warnings)


def _aside(directory: str, name: str, content: bytes) -> str:
    """Write a file in the work directory and return its path."""
    path = os.path.join(directory, name)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    return path


def _cf_for_building(directory: str, tools: Tools) -> tuple[str, list[str]]:
    """Write the sendmail.cf that newaliases reads, and return its path and the programs left out.

    A configuration is a program, and newaliases runs as root: lines that run one are left out. So
    are users and directories that another machine may not have.
    """
    content = Tree(Host(tools.root)).read(tools.cf.removeprefix(tools.root.rstrip("/")))
    document = Cf(content)
    programs = _program_numbers(document)
    queue = os.path.join(directory, "queue")
    os.makedirs(queue, 0o700, exist_ok=True)
    # A tree may lie anywhere, below a directory that the world can write too.
    lines = [] if tools.root == "/" else [_TREE_MAY_LIE_ANYWHERE]
    for line in document.lines:
        text = line.text
        name = text[1:].strip().partition(b"=")[0].strip().decode("ascii", "replace").lower()
        if line.number in programs or (text[:1] == b"O" and name in _LEFT_OUT):
            continue
        if text[:2] in {b"OA", b"OL", b"OQ"}:
            continue
        lines.append(_at_root(line.raw, tools.root) if text[:1] == b"F" else line.raw)
    # No line in mail.log for a map that nobody uses.
    lines.append(b"\nO LogLevel=0\nO QueueDirectory=%s\n" % os.fsencode(queue))
    path = _aside(directory, "sendmail.cf", b"".join(lines))
    return path, list(program_lines(document))


def _at_root(raw: bytes, root: str) -> bytes:
    """Return a class file line that names the file of the tree, where the host is one."""
    if root == "/":
        return raw
    return re.sub(rb"\A(F(?:\{[^}]*\}|.)(?:-o[ \t]*)?)(/)", rb"\g<1>%s/" % os.fsencode(root), raw)


def program_lines(document: Cf) -> tuple[str, ...]:
    """Return the lines that make Sendmail run a program when it reads them or looks something up."""
    numbers = _program_numbers(document)
    return tuple(
        line.text.decode("utf-8", "surrogateescape")
        for line in document.lines
        if line.number in numbers
    )


def _program_numbers(document: Cf) -> set[int]:
    numbers = {item.line for item in document.class_files() if item.program}
    return numbers | {line.line for line in document.maps() if line.map_class == "program"}


def check_line_lengths(path: str, source: bytes) -> None:
    """Refuse an alias file with a logical line that newaliases may never finish."""
    for line in logical_lines(source):
        if line.length >= LONGEST_LINE:
            raise FormatError(path, line.number, line.fault)


def _require(program: str, name: str) -> None:
    if not program:
        raise NoProgramError(f"there is no {name} on this machine to build or read maps with")
