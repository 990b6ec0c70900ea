# SPDX-License-Identifier: Apache-2.0
"""Where this host keeps its Sendmail: found from sendmail.cf, submit.cf and the binaries.

Nothing is run and nothing is configured; links are followed inside the root only. Every value says
where it was found. The known places are those of the distributions' packages.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from hardend.errors import FileError
from hardend.formats.cf import AliasSpec, Cf, MapLine, Value
from hardend.kernel.distribution import family
from hardend.kernel.tree import Tree as Tree  # noqa: PLC0414 - part of what this module offers
from hardend.model import Host, MapSpec

CF_PLACES = ("/etc/mail/sendmail.cf", "/etc/sendmail.cf", "/usr/lib/sendmail.cf")
_SUBMIT_PLACES = ("/etc/mail/submit.cf", "/etc/submit.cf")
_MC_NAMES = ("sendmail.mc", "linux.mc")  # the second is SUSE's
_SUBMIT_MC_NAMES = ("submit.mc", "linux.submit.mc", "freebsd.submit.mc")

# The first two are Sendmail's own names; behind the others may be another MTA's.
_SENDMAIL = ("/usr/libexec/sendmail/sendmail", "/usr/sbin/sendmail.sendmail")
_SENDMAIL_OR_OTHER = ("/usr/sbin/sendmail", "/usr/lib/sendmail")
_MAKEMAP = ("/usr/libexec/sendmail/makemap", "/usr/sbin/makemap", "/usr/bin/makemap")
_NEWALIASES = ("/usr/sbin/newaliases", "/usr/bin/newaliases")
_SMRSH = (
    "/usr/libexec/sendmail/smrsh", "/usr/lib/sm.bin/smrsh", "/usr/sbin/smrsh",
    "/usr/lib/sendmail.d/bin/smrsh", "/usr/libexec/smrsh",
)  # fmt: skip
_SMRSH_DIRS = (
    "/etc/mail/smrsh", "/etc/smrsh", "/usr/lib/sendmail.d/bin", "/var/lib/smrsh",
    "/usr/libexec/sm.bin", "/usr/adm/sm.bin", "/var/adm/sm.bin",
)  # fmt: skip
_UNIT_DIRS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_CLIENT_UNITS = ("sm-client.service", "sendmail-client.service")
_PID_FILE = "/var/run/sendmail.pid"  # compiled in, where PidFile is not set

# smrsh's compiled-in directory among its strings (smrsh.c CMDDIR, as the packages set it).
_SMRSH_STRING = re.compile(rb"/[!-~]*(?:smrsh|sm\.bin|sendmail\.d/bin)(?=\0)")

# Classes of maps and aliases that are built from a file, and what their database is called.
_SUFFIXES = {"hash": ".db", "btree": ".db", "dbm": ".pag"}

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Fact:
    """One finding and where it comes from: file and line, or the file that was seen."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The Sendmail of a host. Paths have no links above them; "" where the host has none.

    ``aliases`` are built by newaliases, in look-up order; ``maps`` by makemap. ``class_files`` are
    those of F lines; ``host_names`` and ``relay_domains`` are those of the classes w and R.
    ``access`` is the source of the map of that name; ``text_maps`` are looked up as they stand.
    ``links`` are the symbolic links over which the configuration names its files.
    """

    profile: str
    mail_dir: str
    cf: str
    mc: str = ""
    submit_cf: str = ""
    submit_mc: str = ""
    aliases: tuple[MapSpec, ...] = ()
    maps: tuple[MapSpec, ...] = ()
    class_files: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    client_queue: str = ""
    smrsh: str = ""
    smrsh_dir: str = ""
    sendmail: str = ""
    makemap: str = ""
    newaliases: str = ""
    helpfile: str = ""
    trusted_user: str = ""
    pid_file: str = ""
    client_pid_file: str = ""
    client_unit: str = ""
    host_names: tuple[str, ...] = ()
    relay_domains: tuple[str, ...] = ()
    access: str = ""
    text_maps: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = field(default=(), hash=False)


def find(host: Host) -> Layout:
    """Return the layout of a host. Raises FileError when sendmail.cf is missing or unreadable."""
    search = _Search(Tree(host))
    sendmail = search.sendmail()
    cf = search.configuration("sendmail.cf", _preferred(search, sendmail))
    if cf is None:
        raise FileError(
            f"no sendmail.cf in {host.root}: looked for {', '.join(CF_PLACES)}",
            hint="hardend works on hosts with Sendmail installed and configured",
        )
    submit = search.configuration("submit.cf", _SUBMIT_PLACES)
    layout = _of_configuration(search, cf, submit)
    smrsh = search.first("smrsh", (*_prog_smrsh(search, cf), *_SMRSH), "Mprog P= or a known place")
    return replace(
        layout,
        smrsh=smrsh,
        smrsh_dir=search.smrsh_directory(smrsh),
        sendmail=sendmail,
        makemap=search.first("makemap", _MAKEMAP),
        newaliases=search.program("newaliases", _NEWALIASES),
        client_unit=search.client_unit(),
        links=tuple(search.links),
        facts=tuple(search.facts),
    )


def _of_configuration(search: _Search, cf: _File, submit: _File | None) -> Layout:
    """Return what the configuration files themselves say."""
    both = (cf, submit) if submit else (cf,)
    profile = search.profile(cf)
    client_queues = search.queues("client queue", submit) if submit else ()
    return Layout(
        profile=profile,
        mail_dir=search.there("mail directory", ("/etc/mail",)) or _directory_of(cf.path),
        cf=cf.path,
        mc=search.mc("sendmail.mc", cf, (*_MC_NAMES, *_freebsd_mc(search, profile))),
        submit_cf=submit.path if submit else "",
        submit_mc=search.mc("submit.mc", submit, _SUBMIT_MC_NAMES) if submit else "",
        aliases=search.aliases(cf),
        maps=_unique(spec for file in both for spec in search.maps(file)),
        class_files=_unique(path for file in both for path in search.class_files(file)),
        queues=search.queues("queue", cf),
        client_queue=client_queues[0] if client_queues else "",
        helpfile=search.file_option("HelpFile", cf),
        trusted_user=search.option("TrustedUser", cf),
        pid_file=search.pid_file(cf) or search.note("PidFile", _PID_FILE, "sendmail's default"),
        client_pid_file=search.pid_file(submit) if submit else "",
        host_names=search.class_files(cf, "w"),
        relay_domains=search.class_files(cf, "R"),
        access=search.map_source(cf, "access"),
        text_maps=_unique(path for file in both for path in search.text_maps(file)),
    )


@dataclass(frozen=True, slots=True)
class _File:
    """A configuration file that was read."""

    path: str
    cf: Cf

    def at(self, line: int) -> str:
        return f"{self.path}:{line}"


class _Search:
    """Looks things up in a tree and keeps what was found, from where, and over which links."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.facts: dict[Fact, None] = {}
        self.links: dict[str, None] = {}

    def note(self, name: str, value: str, origin: str) -> str:
        if value:
            self.facts[Fact(name, value, origin)] = None
        return value

    def place(self, path: str) -> str:
        """Return where a path of the configuration leads to; the links on the way are held too."""
        place = self.tree.place(path)
        self.links.update(dict.fromkeys(place.links))
        return place.path

    def there(self, name: str, places: Iterable[str], origin: str = "a known place") -> str:
        """Return the first place of the configuration at which something is."""
        found = self._first(places)
        return self.note(name, self.place(found), origin) if found else ""

    def first(self, name: str, places: Iterable[str], origin: str = "a known place") -> str:
        """Return the first program that is there; links on the way are the packages' business."""
        return self.note(name, self.tree.first(places), origin)

    def program(self, name: str, places: Iterable[str]) -> str:
        """Return the first program that is there, by this name: the name tells it what to do."""
        return self.note(name, self._first(places), "a known place")

    def _first(self, places: Iterable[str]) -> str:
        return next((place for place in places if self.tree.exists(place)), "")

    def configuration(self, name: str, places: Iterable[str]) -> _File | None:
        path = self.there(name, places)
        return _File(path, Cf(self.tree.read(path))) if path else None

    def mc(self, name: str, cf: _File, names: Iterable[str]) -> str:
        directories = dict.fromkeys((os.path.dirname(cf.path), "/etc/mail"))
        places = [f"{directory}/{file}" for directory in directories for file in names]
        return self.there(name, places, f"beside {cf.path} or in /etc/mail")

    def sendmail(self) -> str:
        """Return the real binary; another MTA's sendmail knows no sendmail.cf."""
        places = [place for place in _SENDMAIL if self.tree.exists(place)]
        places += [
            place for place in _SENDMAIL_OR_OTHER if b"sendmail.cf\0" in self.tree.contents(place)
        ]
        return self.first("sendmail", places)

    def profile(self, cf: _File) -> str:
        """Name the packaging; /etc/sendmail.cf is the guide's classic, or SUSE's."""
        name, origin = family(self.tree)
        if cf.path == "/etc/sendmail.cf" and name != "suse":
            name, origin = "classic", cf.path
        return self.note("profile", name, origin)

    def option(self, name: str, file: _File) -> str:
        value = file.cf.option(name)
        return self.note(name, value.text, file.at(value.line)) if value else ""

    def file_option(self, name: str, file: _File) -> str:
        """Return the file that an option names; what does not begin with ``/`` is none."""
        value = file.cf.option(name)
        if value is None or not value.text.startswith("/"):
            return ""
        return self.note(name, self.place(value.text), file.at(value.line))

    def pid_file(self, file: _File) -> str:
        """Return where the daemon writes its pid; a link on the way (/var/run) is not ours."""
        value = file.cf.option("PidFile")
        return (
            self.note("PidFile", self.tree.real(value.text), file.at(value.line)) if value else ""
        )

    def aliases(self, file: _File) -> tuple[MapSpec, ...]:
        specs = []
        for item in file.cf.alias_files():
            map_class = self._class(item)
            if not map_class or not item.path.startswith("/"):
                spec = f"{item.map_class}:{item.path}"
                self.note("alias map, not held", spec, file.at(item.line))
                continue
            source = self.place(item.path)
            database = self._database(item.path, map_class)
            specs.append(MapSpec("newaliases", map_class, source, database))
            self.note("alias file", source, file.at(item.line))
            self.note("alias database", f"{map_class}:{database}", file.at(item.line))
        return _unique(specs)

    def _class(self, item: AliasSpec | MapLine) -> str:
        """Return the class of a database that is built, or ""; ``implicit`` is what is there."""
        if item.map_class == "implicit":
            there = self._first((f"{item.path}.db", f"{item.path}.pag"))
            return "dbm" if there.endswith(".pag") else "hash"
        return item.map_class if item.map_class in _SUFFIXES else ""

    def maps(self, file: _File) -> Iterator[MapSpec]:
        for item in file.cf.maps():
            map_class = self._class(item)
            if not map_class or not item.path.startswith("/"):
                continue
            source = self.place(_without_suffix(item.path, map_class))
            database = self._database(item.path, map_class)
            self.note(f"map {item.name}", f"{map_class}:{database}", file.at(item.line))
            yield MapSpec("makemap", map_class, source, database, _makemap_flags(item))

    def _database(self, path: str, map_class: str) -> str:
        """Return the database as the configuration names it: beside the link, not its target."""
        return self.place(_without_suffix(path, map_class) + _SUFFIXES[map_class])

    def map_source(self, file: _File, name: str) -> str:
        named = [item for item in file.cf.maps() if item.name == name]
        if not named or not named[-1].path.startswith("/"):
            return ""
        return self.place(_without_suffix(named[-1].path, self._class(named[-1])))

    def text_maps(self, file: _File) -> Iterator[str]:
        for item in file.cf.maps():
            if item.map_class == "text" and item.path.startswith("/"):
                path = self.place(item.path)
                yield self.note(f"text map {item.name}", path, file.at(item.line))

    def class_files(self, file: _File, name: str = "") -> tuple[str, ...]:
        """Return the files of F lines, or only those that fill one class."""
        files = []
        for item in file.cf.class_files():
            if item.path.startswith("/") and not item.program and name in {"", item.name}:
                path = self.place(item.path)
                files.append(self.note(f"class {item.name}", path, file.at(item.line)))
        return _unique(files)

    def queues(self, name: str, file: _File) -> tuple[str, ...]:
        """Return the queue directories: of QueueDirectory and of the queue groups (Q lines)."""
        value = file.cf.option("QueueDirectory")
        if value is None:
            return ()
        base = value.text.rpartition("/")[0] if value.text.endswith("*") else value.text
        groups = [
            Value(os.path.join(base, group.path), group.line)
            for group in file.cf.queue_groups()
            if group.path
        ]
        return _unique(
            self.note(name, self.place(path), file.at(item.line))
            for item in (value, *groups)
            if item.text.startswith("/")
            for path in self.tree.expand_queue(item.text)
        )

    def smrsh_directory(self, smrsh: str) -> str:
        """Return the directory that smrsh was compiled to use; its strings say, it is not run."""
        texts = [os.fsdecode(text) for text in _SMRSH_STRING.findall(self.tree.contents(smrsh))]
        inside = [text for text in texts if text not in {smrsh, *_SMRSH}]
        best = next((text for text in inside if stat.S_ISDIR(self.tree.mode(text))), "")
        if best or inside:
            return self.note(
                "smrsh directory", self.place(best or inside[0]), f"strings of {smrsh}"
            )
        return self.there("smrsh directory", _SMRSH_DIRS)

    def client_unit(self) -> str:
        for unit in _CLIENT_UNITS:
            for directory in _UNIT_DIRS:
                if self.tree.exists(f"{directory}/{unit}"):
                    return self.note("client unit", unit, f"{directory}/{unit}")
        return ""


def _preferred(search: _Search, sendmail: str) -> tuple[str, ...]:
    """Order the places of sendmail.cf: the one that the binary was compiled with comes first."""
    data = search.tree.contents(sendmail)
    return tuple(sorted(CF_PLACES, key=lambda place: b"\0%s\0" % place.encode() not in data))


def _directory_of(cf_path: str) -> str:
    """Return the directory of a .cf where it is Sendmail's own; /etc is nobody's mail directory."""
    directory = os.path.dirname(cf_path)
    return "" if directory in {"/etc", "/usr/lib"} else directory


def _prog_smrsh(search: _Search, file: _File) -> tuple[str, ...]:
    mailer = file.cf.mailer("prog")
    if mailer is None or os.path.basename(mailer.path) != "smrsh":
        return ()
    search.note("Mprog", mailer.path, file.at(mailer.line))
    return (mailer.path,)


def _freebsd_mc(search: _Search, profile: str) -> tuple[str, ...]:
    """Return FreeBSD's names: HOST.mc where the administrator made one, then the shipped one."""
    if profile != "freebsd" or not stat.S_ISDIR(search.tree.mode("/etc/mail")):
        return ()
    names = [name for name in search.tree.names("/etc/mail") if name.endswith(".mc")]
    return (*(name for name in names if not name.endswith("submit.mc")), "freebsd.mc")


def _without_suffix(path: str, map_class: str) -> str:
    return path.removesuffix(_SUFFIXES.get(map_class, ".db"))


def _makemap_flags(item: MapLine) -> tuple[str, ...]:
    """Return what makemap(8) must know of a K line: -f keeps the case of keys, -N stores a NUL.

    All other flags there (-o, -T, -a, -k, ...) are about looking up; makemap's -o appends.
    """
    return tuple(f"-{letter}" for letter in "fN" if item.has(letter))


def _unique(items: Iterable[_Item]) -> tuple[_Item, ...]:
    return tuple(dict.fromkeys(items))
