# SPDX-License-Identifier: Apache-2.0
"""Reading the documents of a host for the rules: every file and attribute that they may ask for.

Nothing is run, nothing is changed; links are resolved inside the host's root. What cannot be read is
noted with the reason, so that a rule says "unknown" and not "pass".
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import MappingProxyType

from hardend import classes
from hardend.config import Settings
from hardend.errors import FileError, FormatError
from hardend.formats.aliases import Aliases, include_targets
from hardend.formats.cf import Cf
from hardend.formats.recipients import Kind, Target
from hardend.kernel.tree import Tree
from hardend.layout import Layout
from hardend.model import FileType, Host
from hardend.observe import file_type, flags_of
from hardend.rules import exposure_log
from hardend.rules.documents import Attributes, Documents
from hardend.rules.exposure_source import unmade_by_sight

_SETTINGS_FILES = ("/etc/mail/sendmail.conf", "/etc/sysconfig/sendmail", "/etc/conf.d/sendmail")
# Options of sendmail.cf that name a file whose owner and mode matter.
_NAMED_FILES = (
    "CACertFile", "CACertPath", "ClientCertFile", "ClientKeyFile", "ServerCertFile", "ServerKeyFile",
    "CRLFile", "CRLPath", "DHParameters", "PidFile", "StatusFile", "HostStatusDirectory", "ErrorHeader",
    "UserDatabaseSpec", "ControlSocketName", "ServiceSwitchFile", "HostsFile",
)  # fmt: skip
# What Debian's update_smrsh links where it is installed.
_DELIVERY_PROGRAMS = ("/usr/bin/procmail", "/usr/bin/maildrop", "/usr/bin/deliver")
_ROOT_FORWARD = "/root/.forward"
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
_INCLUDE_DEPTH = 4
_MOST_NAMED = 20_000  # different programs and files of aliases; all lists of a host name the same few
_MOST_NAMES = 4096  # in the smrsh directory; more is not a directory of programs


def survey(host: Host, layout: Layout, settings: Settings, also: Iterable[str] = ()) -> Documents:
    """Return the documents of a host, and the attributes of what is ``also`` asked for.

    Raises FileError for links that form a loop, or no right to list.
    """
    reading = _Reading(Tree(host), host)
    configuration = (layout.cf, layout.submit_cf, layout.mc, layout.submit_mc)
    lists = (*layout.class_files, *(spec.source for spec in layout.maps), *layout.text_maps)
    for path in (*configuration, *lists, layout.helpfile, *_SETTINGS_FILES):
        reading.read(path)
    for path in dict.fromkeys(spec.source for spec in layout.aliases):
        reading.read_aliases(path, layout.smrsh_dir)
    databases = [spec.database for spec in (*layout.aliases, *layout.maps)]
    binaries = (layout.sendmail, layout.smrsh, layout.makemap, layout.newaliases)
    queues = (*layout.queues, layout.client_queue)
    pid_files = (layout.pid_file, layout.client_pid_file)
    for path in (*databases, *binaries, *queues, *layout.links, *pid_files, _ROOT_FORWARD):
        reading.look(path)
    for path in filter(None, (layout.cf, layout.submit_cf)):
        for named in _named_files(reading, path):
            reading.look(named)
    reading.list_programs(layout.smrsh_dir)
    for path in exposure_log.log_files(reading.syslog()):
        reading.look(path)
    for path in (*settings.policy.smrsh_programs, *_DELIVERY_PROGRAMS, *also):
        reading.look(path)
    pairs = ((layout.cf, layout.mc), (layout.submit_cf, layout.submit_mc))
    sources = {cf: mc for cf, mc in pairs if mc in reading.content}
    return Documents(
        layout=layout,
        content=MappingProxyType(reading.content),
        attributes=MappingProxyType(reading.attributes),
        names=MappingProxyType(reading.names),
        unreadable=MappingProxyType(reading.unreadable),
        sources=MappingProxyType(sources),
        users=MappingProxyType(reading.numbers("/etc/passwd")),
        groups=MappingProxyType(reading.numbers("/etc/group")),
        stale_maps=MappingProxyType(dict(_stale_maps(layout, reading.attributes))),
        unmade=MappingProxyType(unmade_by_sight(reading.content, reading.attributes, sources)),
        policy=settings.policy,
        lockable=tuple(
            item.path for item in classes.protected(host, layout, settings) if item.immutable
        ),
    )


@dataclass(slots=True)
class _Reading:
    """What was read so far."""

    tree: Tree
    host: Host
    content: dict[str, bytes] = field(default_factory=dict)
    attributes: dict[str, Attributes] = field(default_factory=dict)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    _includes: set[str] = field(default_factory=set)
    _named: set[str] = field(default_factory=set)

    def look(self, path: str) -> str:
        """Note what lstat says of a path, of everything above it and of every link on the way.

        Returns where it leads to, "" for none.
        """
        if not path.startswith("/"):
            return ""
        try:
            place = self.tree.place(path)
        except FileError as error:
            self.unreadable[path] = str(error)
            return ""
        for known in (*place.links, place.path):
            while known not in self.attributes:
                self._look_at(known)
                if known == "/":
                    break
                known = os.path.dirname(known)  # noqa: PLW2901 - upwards
        return place.path

    def _look_at(self, path: str) -> None:
        where = self.host.at(path)
        try:
            found = os.lstat(where)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
                self.unreadable[path] = error.strerror or str(error)
            return
        except ValueError:  # a NUL in a name
            return
        kind = file_type(found.st_mode)
        self.attributes[path] = Attributes(
            kind=kind,
            uid=found.st_uid,
            gid=found.st_gid,
            mode=stat.S_IMODE(found.st_mode),
            target=os.readlink(where) if kind is FileType.SYMLINK else "",
            flags=_flags(where) if kind is FileType.FILE else None,
            acl=_has_acl(where),
            mtime_ns=found.st_mtime_ns,
        )

    def read(self, path: str) -> bytes:
        """Take the bytes of a file in; none where it is missing or cannot be read."""
        if not path or path in self.content:
            return self.content.get(path, b"")
        self.look(path)
        if not self.tree.exists(path):
            return b""
        try:
            self.content[path] = self.tree.read(path)
        except FileError as error:
            cause = error.__cause__
            why = cause.strerror if isinstance(cause, OSError) else str(error).partition(": ")[2]
            self.unreadable[path] = why or str(error)
        return self.content.get(path, b"")

    def read_aliases(self, path: str, smrsh_dir: str) -> None:
        """Take an alias file in, the lists that it includes, and what is known of what both name."""
        try:
            document = Aliases(self.read(path), path)
        except FormatError as error:
            self._give_up(path, str(error))
            return
        targets = (target for entry in document.entries for target in entry.targets)
        self._follow(path, targets, smrsh_dir, 0)

    def _look_once(self, path: str) -> None:
        if path not in self._named:
            self._named.add(path)
            self.look(path)

    def _give_up(self, path: str, why: str) -> None:
        """Treat a file that was read as one that was not: a part of it would be judged for the whole."""
        self.content.pop(path, None)
        self.unreadable[path] = why

    def _follow(self, source: str, targets: Iterable[Target], smrsh_dir: str, depth: int) -> None:
        most = _MOST_NAMED if depth else 2 * _MOST_NAMED  # a list alone does not hide the alias file
        for target in targets:
            if target.kind in {Kind.FILE, Kind.PROGRAM} and len(self._named) > most:
                self._give_up(source, f"over {_MOST_NAMED} programs and files: too many to be judged")
                return
            if target.kind is Kind.FILE:
                self._look_once(target.value)
            elif target.kind is Kind.PROGRAM:
                for program in target.programs:
                    self._look_once(program)
                    self._look_once(os.path.join(smrsh_dir, os.path.basename(program)) if smrsh_dir else "")
            elif target.kind is Kind.INCLUDE and depth < _INCLUDE_DEPTH:
                path = target.include_path
                if path in self._includes or not path.startswith("/"):
                    continue
                self._includes.add(path)
                data = self.read(path)
                self._follow(path, (inner for _, inner in include_targets(data)), smrsh_dir, depth + 1)

    def list_programs(self, directory: str) -> None:
        """Take in what is in smrsh's directory and where its links lead."""
        if not directory:
            return
        self.look(directory)
        if not stat.S_ISDIR(self.tree.mode(directory)):
            return
        try:
            names = self.tree.names(directory)
        except FileError as error:
            self.unreadable[directory] = str(error).partition(": ")[2]
            return
        self.names[directory] = tuple(names)
        for name in names[:_MOST_NAMES]:
            self.look(os.path.join(directory, name))

    def syslog(self) -> dict[str, bytes]:
        """Take in what a syslog daemon is configured with, and return it."""
        directory = exposure_log.DIRECTORY
        names = self.tree.names(directory) if stat.S_ISDIR(self.tree.mode(directory)) else []
        paths = (*exposure_log.CONFIGURATIONS, *(f"{directory}/{name}" for name in names[:_MOST_NAMES]))
        found = {path: self.read(path) for path in paths if exposure_log.is_configuration(path)}
        return {path: data for path, data in found.items() if path in self.content}

    def numbers(self, path: str) -> dict[str, int]:
        """Return name -> id of /etc/passwd or /etc/group (passwd(5)); lines that are none are passed over."""
        found: dict[str, int] = {}
        for fields in self.tree.records(path):
            if len(fields) > 2 and fields[2].isascii() and fields[2].isdigit():  # noqa: PLR2004
                found.setdefault(fields[0], int(fields[2]))
        return found


def _named_files(reading: _Reading, path: str) -> Iterator[str]:
    document = Cf(reading.content.get(path, b""))
    for name in _NAMED_FILES:
        for value in document.options(name):
            if value.text.startswith("/") and "$" not in value.text:
                yield value.text


def _stale_maps(layout: Layout, attributes: dict[str, Attributes]) -> Iterator[tuple[str, str]]:
    """Yield the databases that are missing or older than their source, with why they count as stale."""
    for spec in (*layout.aliases, *layout.maps):
        source, database = attributes.get(spec.source), attributes.get(spec.database)
        if source is None:
            continue
        if database is None:
            yield spec.database, f"it is missing: what {spec.source} says is not in force"
        elif database.mtime_ns < source.mtime_ns:
            yield spec.database, f"it is older than {spec.source}: what was changed there is not in force"


def _flags(where: str) -> str | None:
    """Return the inode flags of a regular file, None where they cannot be known."""
    try:
        descriptor = os.open(where, _OPEN)
    except OSError:
        return None
    try:
        return flags_of(descriptor) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _has_acl(where: str) -> bool:
    try:
        return any(name in _ACLS for name in os.listxattr(where, follow_symlinks=False))
    except OSError:
        return False
