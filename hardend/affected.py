# SPDX-License-Identifier: Apache-2.0
"""Who would be hit by a fix: the programs that aliases, .forward files and the mail log show mail running.

An administrator is asked about these before smrsh is switched on or a program is taken out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from hardend.errors import HardendError
from hardend.formats.aliases import Kind, include_targets
from hardend.kernel.tree import Tree
from hardend.model import Host, printable
from hardend.rules.deliveries import deliveries, place_of
from hardend.rules.documents import Documents, NotApplicableError, UnknownError
from hardend.rules.programs import allowed_names, commands_of, refused_characters

# Rules whose fix stops programs that mail runs.
STOP_PROGRAMS = frozenset({"smrsh-mailer", "smrsh-programs", "aliases-programs"})
_LOGS = ("/var/log/mail.log", "/var/log/maillog", "/var/log/mail")
_MOST_HOMES = 10_000
# to="|/usr/bin/x", ..., mailer=prog (syslog.c, logdelivery()); a quoted address may hold commas.
_DELIVERED = re.compile(rb'\bto=("(?:\\.|[^"\\\n])*"|[^,\n]*),[^\n]*\bmailer=prog\b')


@dataclass(frozen=True, slots=True)
class Use:
    """A command that mail runs: where that is said, and why it would stop, "" if it would not."""

    where: str
    command: str
    why: str = ""


def uses(host: Host, documents: Documents) -> list[Use]:
    """Return every command that mail of this host is known to run; what cannot be read is passed over."""
    after = _Allowed(documents)
    found = [*_of_aliases(documents), *_of_forwards(host, documents), *_of_log(host)]
    return [Use(use.where, use.command, after.objection(use.command)) for use in found]


@dataclass(slots=True)
class _Allowed:
    documents: Documents

    def objection(self, command: str) -> str:
        """Return why smrsh, with the directory as the documents have it, would not run a command."""
        if characters := refused_characters(command):
            return f"smrsh refuses {characters}"
        allowed = allowed_names(self.documents)
        missing = [name for name in commands_of(command) if name.rpartition("/")[2] not in allowed]
        where = self.documents.layout.smrsh_dir or "the directory of smrsh"
        return f"{', '.join(missing)}: not in {where}" if missing else ""


def _of_aliases(documents: Documents) -> Iterator[Use]:
    try:
        for delivery in deliveries(documents, Kind.PROGRAM):
            place = f"{place_of(documents, delivery)}:{delivery.line}" if delivery.included else ""
            where = place or f"{delivery.path}:{delivery.line}"
            yield Use(f"{printable(where)} ({printable(delivery.alias)})", delivery.target.command)
    except (NotApplicableError, UnknownError):
        return


def _of_forwards(host: Host, documents: Documents) -> Iterator[Use]:
    tree = Tree(host)
    for home in list(_homes(tree))[:_MOST_HOMES]:
        path = f"{home.rstrip('/')}/.forward"
        try:
            data = tree.contents(path)
        except HardendError:
            continue
        for line, target in include_targets(data):
            if target.kind is Kind.PROGRAM:
                yield Use(f"{printable(path)}:{line}", target.command)
    del documents


def _homes(tree: Tree) -> Iterator[str]:
    seen = set()
    for line in tree.contents("/etc/passwd").decode("utf-8", "surrogateescape").split("\n"):
        fields = line.split(":")
        if len(fields) > 5 and fields[5].startswith("/") and fields[5] not in seen:  # noqa: PLR2004
            seen.add(fields[5])
            yield fields[5]


def _of_log(host: Host) -> Iterator[Use]:
    tree = Tree(host)
    for path in _LOGS:
        data = tree.contents(path)
        counted = Counter(found[1].strip(b'"') for found in _DELIVERED.finditer(data))
        for recipient, times in counted.most_common():
            command = recipient.decode("utf-8", "surrogateescape").lstrip("|")
            yield Use(f"{path}, {times} times", command)
