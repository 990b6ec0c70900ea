# SPDX-License-Identifier: Apache-2.0
"""Who would be hit by a fix: the programs that aliases, .forward files and the mail log show mail running.

An administrator is asked about these before smrsh is switched on or a program is taken out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hardend.errors import HardendError
from hardend.formats.aliases import Kind, include_targets
from hardend.kernel.tree import Tree
from hardend.model import Host, printable
from hardend.rules.catalogue import mend_all
from hardend.rules.deliveries import deliveries
from hardend.rules.documents import Documents, NotApplicableError, UnknownError
from hardend.rules.programs import allowed_names, commands_of, refused_characters
from hardend.rules.rule import Rule

# Rules whose fix stops programs that mail runs.
STOP_PROGRAMS = frozenset({"smrsh-mailer", "smrsh-programs", "aliases-programs"})
# The rule, of the auto ones, that links what the configuration lists.
_LINKS = "smrsh-listed"
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


def uses(host: Host, documents: Documents, rules: Iterable[Rule] = ()) -> list[Use]:
    """Return every command that mail of this host is known to run; what cannot be read is passed over.

    With ``rules`` whose fixes nobody is asked about, what they link is there.
    """
    tree = Tree(host)
    linking = [rule for rule in rules if rule.id == _LINKS]
    allowed = allowed_names(mend_all(documents, linking).documents)
    directory = documents.layout.smrsh_dir or "the directory of smrsh"
    found = [*_of_aliases(documents), *_of_forwards(tree), *_of_log(tree)]
    return [Use(use.where, use.command, _objection(use.command, allowed, directory)) for use in found]


def _objection(command: str, allowed: frozenset[str], directory: str) -> str:
    """Return why smrsh, with its directory as it may be, would not run a command."""
    if characters := refused_characters(command):
        return f"smrsh refuses {characters}"
    missing = [name for name in commands_of(command) if name.rpartition("/")[2] not in allowed]
    return f"{', '.join(missing)}: not in {directory}" if missing else ""


def _of_aliases(documents: Documents) -> Iterator[Use]:
    try:
        for delivery in deliveries(documents, Kind.PROGRAM):
            where = f"{printable(delivery.path)}:{delivery.line} ({printable(delivery.alias)})"
            yield Use(where, delivery.target.command)
    except (NotApplicableError, UnknownError):
        return


def _of_forwards(tree: Tree) -> Iterator[Use]:
    for home in list(_homes(tree))[:_MOST_HOMES]:
        path = f"{home.rstrip('/')}/.forward"
        try:
            data = tree.contents(path)
        except HardendError:
            continue
        for line, target in include_targets(data):
            if target.kind is Kind.PROGRAM:
                yield Use(f"{printable(path)}:{line}", target.command)


def _homes(tree: Tree) -> Iterator[str]:
    homes = (fields[5] for fields in tree.records("/etc/passwd") if len(fields) > 5)  # noqa: PLR2004
    return iter(dict.fromkeys(home for home in homes if home.startswith("/")))


def _of_log(tree: Tree) -> Iterator[Use]:
    for path in _LOGS:
        data = tree.contents(path)
        counted = Counter(found[1].strip(b'"') for found in _DELIVERED.finditer(data))
        for recipient, times in counted.most_common():
            command = recipient.decode("utf-8", "surrogateescape").lstrip("|")
            yield Use(f"{path}, {times} times", command)
