# SPDX-License-Identifier: Apache-2.0
"""What is held where: the classes of design 7.1, their defaults, and what hardend.toml changes.

In hardend.toml a path counts more than a glob, a later glob more than an earlier one, and what is said
of a directory holds for everything below of which nothing is said. ``*`` does not match a ``/``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from hardend.config import Settings
from hardend.kernel.tree import Tree
from hardend.layout import Layout
from hardend.model import Class, Host, MapSpec, Protected, Role

# Nobody's to hold: made by scripts, editors and package managers; databases of which no K line and
# no AliasFile speaks.
_IGNORED = (
    "*.new", "*.old", "*.errors", "*.bak", "*.orig", "*.prev", "*~", ".*.sw?", "#*#", ".#*",
    "*.dpkg-*", "*.ucf-*", "*.rpmnew", "*.rpmsave", "*.rpmorig",
    "*.st", "statistics", "*.pid", "*.db", "*.pag", "*.dir",
)  # fmt: skip
# Debian's sendmailconfig and boot scripts write these; others ship them, to be run as root.
_DEBIAN_WRITES = ("Makefile", "databases", "sendmail.conf", "m4/*.m4")
_OTHERS = ("spamassassin", "spamassassin/*", ".hardend", ".hardend/*")
_SECRET_DIRECTORIES = ("tls", "sasl", "certs", "ssl", "auth", "dkim")
_SECRETS = (
    "authinfo*", "*auth-info*", "client-info*", "sasldb*", "*.key", "*.pem", "*.p12", "*.private",
)  # fmt: skip
_CHECKED = ("virtusertable", "mailertable", "genericstable", "domaintable")
_LIST_MANAGERS = re.compile(r"mailman|sympa|majordomo|mlmmj|listserv|ecartis")
# Section 7 of the guide, where the configuration names no file for it; sendmail.cw is the old name.
_GUIDE = ("sendmail.cw", "local-host-names", "relay-domains", "access")
_CLASSIC = ("/etc/sendmail.cw", "/etc/sendmail.mc", "/etc/null.mc")
_QUEUE_PARTS = ("qf", "df", "xf")  # op guide 5.10: a queue may be split over these


def class_of(path: str, layout: Layout, settings: Settings) -> Class:
    """Return the class of a path, whatever is there now. Pure, and fast enough for the guard."""
    return _table(layout, settings).class_of(path)


def protected(host: Host, layout: Layout, settings: Settings) -> tuple[Protected, ...]:
    """Return every path that is to be held and is there, a directory before what it holds.

    Raises FileError when a directory cannot be listed.
    """
    planner = _Planner(Tree(host), layout, settings)
    planner.directory(layout.mail_dir, Role.DIRECTORY)
    planner.directory(layout.smrsh_dir, Role.CLOSED)
    for path in (*_named(layout), *layout.links, *planner.further()):
        planner.add(path)
    for queue in (*layout.queues, layout.client_queue):
        planner.queue(queue)
    planner.maps()
    planner.ancestors()
    found = planner.found
    return tuple(found[path] for path in sorted(found, key=lambda path: path.rstrip("/").split("/")))


def matches(path: str, pattern: str) -> bool:
    """Return whether a path is what hardend.toml names, exactly or as a glob."""
    parts, patterns = path.split("/"), pattern.split("/")
    return path == pattern or (len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns)))


def _named(layout: Layout) -> Iterator[str]:
    """Return the files that the configuration names; they may stand outside the mail directory."""
    yield from (layout.cf, layout.mc, layout.submit_cf, layout.submit_mc, layout.helpfile)
    yield from (spec.source for spec in (*layout.aliases, *layout.maps))
    yield from (*layout.class_files, *layout.text_maps)
    if os.path.dirname(layout.cf) == "/etc":
        yield from _CLASSIC


@dataclass(frozen=True, slots=True)
class _Table:
    """What class_of() needs, worked out once for a layout and settings."""

    layout: Layout
    settings: Settings
    databases: dict[str, MapSpec]
    named: frozenset[str]
    shared: frozenset[str]

    def class_of(self, path: str) -> Class:
        spec = self.databases.get(path)
        is_map = spec is not None and spec.source != path
        configured = self._configured(path, above=not is_map)
        if path in self.shared and configured in {None, Class.LOCKED}:
            return Class.CHECKED  # the guard does not read it: the rebuild unit compares around the blocks
        if configured is not None:
            return configured
        if spec is not None and is_map:
            return self.class_of(spec.source)
        if self.layout.smrsh_dir and _inside(path, self.layout.smrsh_dir):
            return Class.LOCKED  # smrsh runs whatever is there, *.bak too
        if path not in self.named and self._is_ignored(path):
            return Class.IGNORED
        return self._default(path)

    def _configured(self, path: str, *, above: bool) -> Class | None:
        """Return what hardend.toml says of a path, or else of the nearest directory ``above`` it."""
        while self.settings.classes and path not in {"", "/"}:
            exact = dict(self.settings.classes).get(path)
            if exact is not None:
                return exact
            for pattern, named in reversed(self.settings.classes):
                if matches(path, pattern):
                    return named
            path = os.path.dirname(path) if above else ""
        return None

    def _is_ignored(self, path: str) -> bool:
        name = os.path.basename(path)
        inside = self._inside(path)
        patterns = _OTHERS + (_DEBIAN_WRITES if self.layout.profile == "debian" else ())
        return any(fnmatchcase(name, pattern) for pattern in _IGNORED) or (
            inside != "" and any(fnmatchcase(inside, pattern) for pattern in patterns)
        )

    def _default(self, path: str) -> Class:
        name = os.path.basename(path)
        layout = self.layout
        is_secret = self._inside(path).partition("/")[0] in _SECRET_DIRECTORIES
        if is_secret or any(fnmatchcase(name, pattern) for pattern in _SECRETS):
            return Class.ATTRIBUTES
        if path == layout.access or path in (layout.cf, layout.submit_cf):
            return Class.LOCKED
        if path in {spec.source for spec in layout.aliases}:
            return Class.CHECKED if _LIST_MANAGERS.search(path) else Class.LOCKED
        is_map = path in {spec.source for spec in layout.maps} and name != "access"
        return Class.CHECKED if is_map or name in _CHECKED else Class.LOCKED

    def _inside(self, path: str) -> str:
        """Return the path from the mail directory on, or ``""`` for what is not in it."""
        base = self.layout.mail_dir
        return path[len(base) + 1 :] if base and path.startswith(f"{base}/") else ""

    def is_locked(self, path: str) -> bool:
        """Decide ``+i`` for a file of class locked: the guide's list, then the configuration."""
        if any(matches(path, pattern) for pattern in self.settings.unlock):
            return False
        if any(matches(path, pattern) for pattern in self.settings.lock):
            return True
        layout = self.layout
        directory, name = os.path.split(path)
        return (
            path in (layout.cf, layout.submit_cf, layout.mc, layout.submit_mc, layout.access)
            or path in (*layout.host_names, *layout.relay_domains)
            or path in {spec.source for spec in layout.aliases}
            or (directory in {"/etc", layout.mail_dir} and (name in _GUIDE or name.endswith(".mc")))
        )


@lru_cache(maxsize=4)
def _table(layout: Layout, settings: Settings) -> _Table:
    databases = {spec.database: spec for spec in (*layout.maps, *layout.aliases)}
    shared = frozenset(block.path for block in settings.blocks)
    return _Table(layout, settings, databases, frozenset(_named(layout)), shared)


def _inside(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")


class _Planner:
    """Adds paths to a plan, each by what it is on the host."""

    def __init__(self, tree: Tree, layout: Layout, settings: Settings) -> None:
        self.found: dict[str, Protected] = {}
        self._tree = tree
        self._layout = layout
        self._settings = settings
        self._table = _table(layout, settings)

    def directory(self, path: str, role: Role) -> None:
        """Add a directory and what is in it, by class; links are not followed."""
        if not path or not stat.S_ISDIR(self._tree.link_mode(path)) or self._is_ignored(path):
            return
        self.found[path] = Protected(path, role, Class.LOCKED)
        for name in self._tree.names(path):
            child = os.path.join(path, name)
            if not stat.S_ISDIR(self._tree.link_mode(child)):
                self.add(child)
            elif child not in {self._layout.smrsh_dir, *self._layout.queues}:
                self.directory(child, Role.DIRECTORY)

    def add(self, path: str) -> None:
        """Add a file or a link that is there; databases come by themselves."""
        if not path or path in self._table.databases or self._is_ignored(path):
            return
        mode = self._tree.link_mode(path)
        held = self._table.class_of(path)
        if stat.S_ISLNK(mode):
            self.found[path] = Protected(path, Role.LINK, held)
        elif stat.S_ISREG(mode):
            locked = held is Class.LOCKED and self._table.is_locked(path)
            self.found[path] = Protected(path, Role.SOURCE, held, immutable=locked)

    def further(self) -> Iterator[str]:
        """Return the files that [paths] protect names; directories among them are added here."""
        for pattern in self._settings.protect:
            for path in _expanded(self._tree, pattern):
                if stat.S_ISDIR(self._tree.link_mode(path)):
                    if path not in self.found:
                        self.directory(path, Role.DIRECTORY)
                else:
                    yield path

    def queue(self, path: str) -> None:
        """Add a queue directory: itself and the parts it is split into, never its content."""
        for directory in (path, *(f"{path}/{part}" for part in _QUEUE_PARTS)):
            is_queue = bool(path) and stat.S_ISDIR(self._tree.link_mode(directory))
            if is_queue and not self._is_ignored(directory):
                self.found[directory] = Protected(directory, Role.QUEUE, Class.LOCKED)

    def maps(self) -> None:
        """Add the databases whose source is there; a map's class is that of its source."""
        for path, spec in self._table.databases.items():
            held = self._table.class_of(path)
            is_known = stat.S_ISREG(self._tree.link_mode(spec.source))
            if held is not Class.IGNORED and is_known and stat.S_ISREG(self._tree.link_mode(path)):
                self.found[path] = Protected(path, Role.MAP, held, spec=spec)
                if spec.map_class == "dbm":  # ndbm(3) keeps two files; the other has no answers
                    self._attributes(path.removesuffix(".pag") + ".dir")

    def ancestors(self) -> None:
        """Add every directory above what was added."""
        for path in list(self.found):
            directory = path
            while directory != "/":
                directory = os.path.dirname(directory)
                ancestor = Protected(directory, Role.ANCESTOR, Class.LOCKED)
                self.found.setdefault(directory, ancestor)

    def _attributes(self, path: str) -> None:
        if stat.S_ISREG(self._tree.link_mode(path)):
            self.found[path] = Protected(path, Role.SOURCE, Class.ATTRIBUTES)

    def _is_ignored(self, path: str) -> bool:
        return self._table.class_of(path) is Class.IGNORED


def _expanded(tree: Tree, pattern: str) -> Iterable[str]:
    """Return what a path or a glob names on the host, the links above it resolved."""
    paths = ["/"]
    for part in pattern.strip("/").split("/"):
        paths = [
            os.path.join(path, name)
            for path in map(tree.real, paths)
            for name in ([part] if not re.search(r"[*?[]", part) else _names(tree, path))
            if name == part or fnmatchcase(name, part)
        ]
    return [path for path in paths if tree.link_mode(path)]


def _names(tree: Tree, path: str) -> list[str]:
    return tree.names(path) if stat.S_ISDIR(tree.mode(path)) else []
