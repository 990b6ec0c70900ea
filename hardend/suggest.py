# SPDX-License-Identifier: Apache-2.0
"""What a host needs in its configuration so that others who write into held files go on working, and why.

From whom is known to write (cron jobs, units, hooks, list managers, panels) and from what changed, as the
journal has it. A change of which no writer is known may be an intruder's: it is shown, never recommended.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from hardend import blocks, classes
from hardend.config import Settings
from hardend.errors import HardendError
from hardend.events import Query, records
from hardend.formats.aliases import Aliases, Kind
from hardend.formats.cf import Cf
from hardend.journal import Event
from hardend.kernel.tree import Tree
from hardend.layout import Layout
from hardend.model import Class, Drift, Host, Role, printable
from hardend.settings import Block
from hardend.suggest_sources import files, text, values, writers

_DRIFTS = frozenset(
    {Event.DRIFT_FOUND.value, Event.PATH_RESTORED.value, Event.PATH_CONTESTED.value}
)
_LIST_PROGRAMS = re.compile(r"mailman|sympa|majordomo|mlmmj|listserv|ecartis|schleuder", re.IGNORECASE)
_SYMPA = ("/etc/sympa/sympa.conf", "/etc/sympa/sympa/sympa.conf", "/etc/sympa.conf")
_WEBMIN = "/etc/webmin/sendmail/config"
_WEBMIN_KEYS = frozenset(
    {"alias_file", "access_file", "virtusers_file", "mailers_file", "generics_file", "domains_file"}
)
_PANELS = {
    "/usr/local/psa": "Plesk", "/usr/local/cpanel": "cPanel", "/usr/local/directadmin": "DirectAdmin",
    "/usr/local/ispconfig": "ISPConfig",
}  # fmt: skip
_RENEWERS = {
    "/etc/letsencrypt/renewal/": "certbot", "/root/.acme.sh/": "acme.sh", "/etc/dehydrated/": "dehydrated",
    "/etc/lego/": "lego",
}  # fmt: skip
_CERTIFICATES = ("ServerCertFile", "ServerKeyFile", "ClientCertFile", "ClientKeyFile", "CACertFile")


@dataclass(slots=True)
class Suggestion:
    """A class for a path, or a block of it, and why; not ``known`` when nobody knows who writes there."""

    path: str
    cls: Class
    why: list[str]
    known: bool = True
    block: Block | None = None


@dataclass(slots=True)
class Suggestions:
    """What to add to the configuration, and what else is worth knowing; each reason is one line."""

    items: list[Suggestion] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def suggest(host: Host, layout: Layout, settings: Settings, *, since: float) -> Suggestions:
    """Return what is to be added to the configuration. Runs nothing; reads what the caller may.

    ``since`` is how far back the journal is read (seconds, realtime). Raises FileError when a held
    directory cannot be listed.
    """
    return _Search(host, layout, settings).run(since)


class _Search:
    """One search; what is suggested twice has both reasons."""

    def __init__(self, host: Host, layout: Layout, settings: Settings) -> None:
        self._host = host
        self._tree = Tree(host)
        self._layout = layout
        self._settings = settings
        self._held = {item.path: item for item in classes.protected(host, layout, settings)}
        self._found: dict[tuple[str, str], Suggestion] = {}
        self._notes: dict[str, None] = {}

    def run(self, since: float) -> Suggestions:
        """Look everywhere."""
        self._list_managers()
        self._panels()
        self._renewals()
        for writer in writers(self._tree, self._names()):
            why = f"{writer.kind} {writer.where}"
            if writer.path:
                self._propose(self._real(writer.path), f"{why} writes it", known=writer.used)
            else:
                self._note(f"{why} builds sendmail.cf: start it as hardend run --reason TEXT -- COMMAND")
        self._changes(since)
        items = list(self._found.values())
        shared = {item.path for item in items if item.block is not None}
        items = [item for item in items if item.block is not None or item.path not in shared]
        items.sort(key=lambda item: (item.block is not None, item.path))
        return Suggestions(items, list(self._notes))

    def _names(self) -> set[str]:
        """Return every name of a held file, that of the link to it too."""
        return {path for path, item in self._held.items() if item.role in {Role.SOURCE, Role.MAP, Role.LINK}}

    def _real(self, path: str) -> str:
        """Return the file that a name leads to, and of a map what it is built from."""
        item = self._held.get(path)
        if item is not None and item.role is Role.LINK:
            path = self._tree.real(path)
            item = self._held.get(path)
        return item.spec.source if item is not None and item.spec is not None else path

    def _note(self, sentence: str) -> None:
        self._notes[sentence] = None

    def _propose(self, path: str, why: str, *, known: bool = True) -> None:
        """Suggest that somebody may write a path, unless he may already."""
        item = self._held.get(path)
        if item is None or item.cls is not Class.LOCKED or item.role is not Role.SOURCE:
            return
        name = printable(path)
        if path in self._configurations():
            how = "hardend run, for a unit as in /usr/share/hardend/trusted-unit.conf"
            self._note(f"{name}: {why}; Sendmail's own configuration is to change in a window only ({how})")
            return
        is_secret = path in self._certificates()
        self._add(Suggestion(path, Class.ATTRIBUTES if is_secret else Class.CHECKED, [why], known))

    def _add(self, item: Suggestion) -> None:
        block = item.block
        key = (item.path, f"{block.begin}\n{block.pattern}" if block is not None else "")
        before = self._found.get(key)
        if before is None:
            self._found[key] = item
        else:
            before.known |= item.known
            before.why += [why for why in item.why if why not in before.why]

    def _configurations(self) -> set[str]:
        layout = self._layout
        return {path for path in (layout.cf, layout.mc, layout.submit_cf, layout.submit_mc) if path} | {
            path for path in self._held if path.endswith(".mc")
        }

    # Who is known to write ------------------------------------------------------------------------

    def _list_managers(self) -> None:
        """Look for lists among the aliases, and for where Sympa keeps its own."""
        for path in dict.fromkeys(spec.source for spec in self._layout.aliases):
            item = self._held.get(path)
            if item is not None and item.cls is Class.LOCKED:
                self._lists_in(path)
        for place in _SYMPA:
            named = dict(values(text(self._tree, place))).get("sendmail_aliases", "")
            if named:
                self._propose(self._real(named), f"Sympa writes its lists into it ({place})")
        if text(self._tree, "/etc/majordomo.cf"):
            self._note("Majordomo: its lists are files that aliases include, and are not held")

    def _lists_in(self, path: str) -> None:
        content = self._tree.contents(path)
        lines = content.splitlines(keepends=True)
        found: Counter[str] = Counter()
        for entry in Aliases(content, path).entries:
            for target in entry.targets:
                if target.kind is Kind.PROGRAM and _LIST_PROGRAMS.search(target.command):
                    line = lines[entry.line - 1].decode("utf-8", "surrogateescape")
                    found[_pattern(line, target.command.split()[0])] += 1
        for pattern, count in sorted(found.items()):
            block = Block(path, "the list manager's lines", pattern=pattern)
            if pattern and blocks.outside(content, [block]) != content:
                program = pattern.partition("|")[2].split()[0]
                why = f"{count} aliases run {printable(program)}: a list manager adds and removes such lines"
                self._add(Suggestion(path, Class.CHECKED, [why], block=block))

    def _panels(self) -> None:
        for name, value in values(text(self._tree, _WEBMIN)):
            if name in _WEBMIN_KEYS:
                for path in value.split():
                    self._propose(self._real(path), f"Webmin edits it ({_WEBMIN}: {name})")
            elif name in {"sendmail_cf", "sendmail_mc"} and self._real(value) in self._held:
                self._note(f"Webmin edits {printable(value)}: do that in a window (hardend unlock)")
        for place, name in _PANELS.items():
            if self._tree.exists(place):
                self._note(f"{name} is here ({place}): observe for a week what it writes, then ask again")

    def _renewals(self) -> None:
        for place, name in _RENEWERS.items():
            if any(True for _ in files(self._tree, place)):
                for path in self._certificates():
                    self._propose(path, f"{name} renews certificates ({place}), and sendmail.cf names it")

    def _certificates(self) -> list[str]:
        found = []
        for cf in filter(None, (self._layout.cf, self._layout.submit_cf)):
            document = Cf(self._tree.contents(cf))
            for name in _CERTIFICATES:
                found += [value.text for value in document.options(name) if value.text.startswith("/")]
        return [self._real(path) for path in dict.fromkeys(found)]

    # What changed ---------------------------------------------------------------------------------

    def _changes(self, since: float) -> None:
        """Look at what drifted; of a path whose writer is known already this is one more reason."""
        changed: Counter[str] = Counter()
        appeared: Counter[str] = Counter()
        try:
            for record in records(self._host, Query(kinds=_DRIFTS, since=since)):
                if record.fields.get("window_id"):
                    continue
                if Drift.UNEXPECTED.value in record.drift:
                    appeared[record.path] += 1
                elif {Drift.CONTENT.value, Drift.MISSING.value} & set(record.drift):
                    changed[self._real(record.path)] += 1
        except HardendError as error:
            self._note(f"what changed so far is not known: {error}")
        known = {item.path for item in self._found.values() if item.known}
        for path, count in sorted(changed.items()):
            self._propose(path, f"its content changed {_times(count)}", known=path in known)
        for path, count in sorted(appeared.items()):
            if count > 1 and classes.class_of(path, self._layout, self._settings) is not Class.IGNORED:
                why = f"a file of that name appeared {_times(count)}"
                self._add(Suggestion(path, Class.IGNORED, [why], known=False))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _pattern(line: str, program: str) -> str:
    """Return the glob for alias lines that run a program as this line does, "" where there is none."""
    escaped = re.sub(r"([*?[])", r"[\1]", program)
    plain = line.rstrip("\r\n")
    for pattern in (f'*: "|{escaped} *"', f"*: |{escaped} *", f'*:*"|{escaped} *"', f"*:*|{escaped} *"):
        if fnmatchcase(plain, pattern):
            return pattern
    return ""
