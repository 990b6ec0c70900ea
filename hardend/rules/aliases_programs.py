# SPDX-License-Identifier: Apache-2.0
"""Section 2 of the guide: the programs, files and lists that aliases lead to."""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Iterator

from hardend.formats.aliases import Kind
from hardend.model import printable
from hardend.rules.deliveries import Delivery, deliveries, judged, place_of, without
from hardend.rules.documents import Documents, Policy
from hardend.rules.programs import allowed_names, commands_of, is_listed, refused_characters
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity
from hardend.rules.trust import Opening, above, is_in_a_home, opening, owners_for, trusted, way_to

# Mailing-list managers deliver through a program of theirs: part of its path, and their name.
_LIST_MANAGERS = (
    ("mailman", "Mailman"),
    ("sympa", "Sympa"),
    ("majordomo", "Majordomo"),
    ("ecartis", "Ecartis"),
    ("smartlist", "SmartList"),
    ("listserv", "LISTSERV"),
    ("mlmmj", "mlmmj"),
)
_NULL = "/dev/null"

# Programs -----------------------------------------------------------------------------------------------


def _judge_programs(documents: Documents) -> Iterator[Fault]:
    return judged(documents, _program_faults(documents))


def _program_faults(documents: Documents) -> Iterator[Fault]:
    allowed = allowed_names(documents)
    for delivery in deliveries(documents, Kind.PROGRAM):
        why = _stopped(documents, delivery, allowed)
        if why:
            command = printable(delivery.target.command)
            yield Fault(
                delivery.path,
                delivery.line,
                f"{printable(delivery.alias)} runs {command!r}: {why}",
                _remedy(delivery, "or put its program on smrsh_programs in the configuration"),
                mendable=not delivery.included,
            )


def _mend_programs(documents: Documents) -> Documents:
    allowed = allowed_names(documents)
    return without(documents, lambda found: bool(_stopped(documents, found, allowed)))


def _stopped(documents: Documents, delivery: Delivery, allowed: frozenset[str]) -> str:
    """Return why smrsh would not run a command or must not; "" if it may run."""
    if delivery.target.kind is not Kind.PROGRAM:
        return ""
    command = delivery.target.command
    for word in commands_of(command):
        if os.path.basename(word) in allowed or is_listed(documents, word):
            continue
        return f"{printable(word)} is not in the smrsh directory{_owner(command)}"
    characters = refused_characters(command)
    return f"smrsh would stop it for the characters {characters}" if characters else ""


def _owner(command: str) -> str:
    """Name the list manager that smrsh would stop, "" where it is none that is known."""
    name = next((name for part, name in _LIST_MANAGERS if part in command.lower()), "")
    return f"; smrsh would stop {name}" if name else ""


# Files --------------------------------------------------------------------------------------------------


def _judge_files(documents: Documents) -> Iterator[Fault]:
    return judged(documents, _file_faults(documents))


def _file_faults(documents: Documents) -> Iterator[Fault]:
    for delivery in deliveries(documents, Kind.FILE):
        if _is_strange_file(documents, delivery):
            yield Fault(
                delivery.path,
                delivery.line,
                f"{printable(delivery.alias)} appends mail to {printable(delivery.target.value)}: "
                "who sends mail writes to that file",
                _remedy(delivery, "or put the file on alias_files in the configuration"),
                mendable=not delivery.included,
            )


def _mend_files(documents: Documents) -> Documents:
    return without(documents, lambda found: _is_strange_file(documents, found))


def _is_strange_file(documents: Documents, delivery: Delivery) -> bool:
    path = delivery.target.value
    return delivery.target.kind is Kind.FILE and path != _NULL and path not in documents.policy.alias_files


def _remedy(delivery: Delivery, other: str) -> str:
    if delivery.included:
        return f"remove the line from {printable(delivery.path)}, {other}"
    return f"remove it from the entry and run newaliases, {other}"


# Lists --------------------------------------------------------------------------------------------------


def _judge_includes(documents: Documents) -> Iterator[Fault]:
    return judged(documents, _include_faults(documents))


def _include_faults(documents: Documents) -> Iterator[Fault]:
    for delivery in deliveries(documents, Kind.INCLUDE):
        path = place_of(documents, delivery)
        shown = printable(path)
        if path in documents.unreadable:
            continue
        name = printable(delivery.alias)
        if not documents.is_there(path):
            message = f"{name} includes {shown}, which does not exist: its mail waits"
            yield Fault(
                delivery.path, delivery.line, message, "correct the path", advice=True, mendable=False
            )
        for message, remedy, is_advice in _include_openings(documents, path):
            yield Fault(
                delivery.path,
                delivery.line,
                f"{name} includes {shown}: {message}",
                remedy,
                advice=is_advice,
                mendable=False,
            )


def _include_openings(documents: Documents, path: str) -> Iterator[tuple[str, str, bool]]:
    if is_in_a_home(path):
        yield "it lies in a home, and its owner adds programs and files to it", "move it to /etc/mail", False
        return
    for place in (path, *above(path)):
        found = opening(documents, place, trusted(documents))
        if found is None:
            continue
        which = "" if place == path else f"{printable(place)} above it: "
        # An owner of its own is how lists work; writing by others never is.
        is_advice = found.closed.mode == found.known.mode
        yield f"{which}{found.what}", found.remedy, is_advice


# Owners of programs -------------------------------------------------------------------------------------


def _judge_owners(documents: Documents) -> Iterator[Fault]:
    return judged(documents, _owner_faults(documents))


def _owner_faults(documents: Documents) -> Iterator[Fault]:
    told: set[str] = set()
    for delivery in deliveries(documents, Kind.PROGRAM):
        for word in _paths_of(delivery):
            way = way_to(documents, word)
            if not documents.is_there(way[-1]) and way[-1] not in documents.unreadable:
                message = f"{printable(delivery.alias)} runs {printable(word)}, which does not exist"
                yield Fault(
                    delivery.path, delivery.line, message, "correct its path", advice=True, mendable=False
                )
            for found in _openings(documents, way):
                if found.path not in told:
                    told.add(found.path)
                    yield Fault(
                        found.path,
                        0,
                        f"{printable(delivery.alias)} runs {printable(word)}; {found.what}",
                        found.remedy,
                        advice=found.is_by_design,
                        mendable=found.is_ours,
                    )


def _mend_owners(documents: Documents) -> Documents:
    before = documents
    for delivery in deliveries(before, Kind.PROGRAM):
        for word in _paths_of(delivery):
            for found in _openings(documents, way_to(documents, word)):
                if found.is_ours:
                    documents = documents.with_attributes(found.path, found.closed)
    return documents


def _paths_of(delivery: Delivery) -> Iterable[str]:
    return (word for word in commands_of(delivery.target.command) if word.startswith("/"))


def _openings(documents: Documents, way: tuple[str, ...]) -> Iterator[Opening]:
    for path in dict.fromkeys(place for hop in way for place in (hop, *above(hop))):
        found = opening(documents, path, owners_for(documents, path))
        if found is not None:
            yield found


_FILE = "/etc/aliases"
_WRAPPER = '"|/usr/lib/mailman/mail/mailman post staff"'
_LINKED = {"/etc/mail/smrsh/vacation": "-> /usr/bin/vacation"}

RULES = (
    Rule(
        id="aliases-programs",
        title="Aliases run only programs of the smrsh directory",
        section=Section.ALIASES,
        severity=Severity.HIGH,
        fix=Fix.ASK,
        rationale=(
            "Everybody who can send mail starts a program that an alias names. smrsh takes the last part of "
            "its path and looks it up in its directory; what is not there stops with 'Service unavailable'. "
            "List managers such as Mailman, Sympa and Majordomo work like this: put their program on "
            "smrsh_programs before smrsh is switched on, and it is linked and stays. The programs in include "
            "files take effect too; they are named, and left to those who write the list."
        ),
        judge=_judge_programs,
        mend=_mend_programs,
        references=("guide 2", "smrsh(8)", "Tiger ali005w", "aliases(5)"),
        examples=(
            Example(
                "a shell; its continuation line goes too",
                {_FILE: 'root: admin\nrun:\n\t"|/bin/sh"\nbin: root\n', **_LINKED},
                {_FILE: "root: admin\nbin: root\n"},
            ),
            Example(
                "one of two recipients",
                {_FILE: 'support: alice, "|/usr/local/bin/ticket --new"\n', **_LINKED},
                {_FILE: "support: alice\n"},
            ),
            Example(
                "an allowed program, and another one behind it",
                {_FILE: 'away: "|/usr/bin/vacation alice; /bin/sh"\n', **_LINKED},
                {_FILE: ""},
            ),
            Example(
                "Mailman's wrapper, which the configuration does not list",
                {_FILE: f"staff: {_WRAPPER}\n", **_LINKED},
                {_FILE: ""},
            ),
            Example(
                "Mailman's wrapper, which the configuration lists",
                {_FILE: f"staff: {_WRAPPER}\n", **_LINKED},
                policy=Policy(smrsh_programs=("mailman",)),
            ),
            Example(
                "a program by a path of its own: smrsh takes the one in its directory",
                {_FILE: 'away: "|/opt/bin/vacation alice"\n', **_LINKED},
            ),
            Example(
                "a comment over two lines is no entry",
                {_FILE: '# run: \\\n"|/bin/sh"\nroot: admin\n', **_LINKED},
            ),
        ),
    ),
    Rule(
        id="aliases-files",
        title="Aliases append to no file but /dev/null",
        section=Section.ALIASES,
        severity=Severity.HIGH,
        fix=Fix.ASK,
        rationale=(
            "Mail to such an alias is appended to the file: whoever sends it writes there, as DefaultUser, "
            "until the disk is full. Files that are meant to be written go on alias_files."
        ),
        judge=_judge_files,
        mend=_mend_files,
        references=("guide 2", "aliases(5)", "AusCERT UNIX checklist"),
        examples=(
            Example(
                "an archive that nobody has listed",
                {_FILE: "archive: alice, /var/log/archive\n"},
                {_FILE: "archive: alice\n"},
            ),
            Example("mail that is thrown away", {_FILE: 'noreply: /dev/null\nnobody: "/dev/null"\n'}),
            Example(
                "an archive that the configuration lists",
                {_FILE: "archive: /var/log/archive\n"},
                policy=Policy(alias_files=("/var/log/archive",)),
            ),
        ),
    ),
    Rule(
        id="aliases-includes",
        title="Only their owners write the lists that aliases include, and not in homes",
        section=Section.ALIASES,
        severity=Severity.HIGH,
        fix=Fix.NEVER,
        rationale=(
            "A line of an include file may be a program or a file, and it takes effect: who can write to it, "
            "or replace it through a directory above, has what an alias has. An owner other than root is how "
            "lists work and only named. Nothing is changed here: whoever writes the list would be hit."
        ),
        judge=_judge_includes,
        references=("guide 2", "Tiger ali006i", "Tiger ali007", "Tiger ali008", "op guide 4.11"),
        examples=(
            Example(
                "everybody can write the list",
                {_FILE: "staff: :include:/etc/mail/staff\n", "/etc/mail/staff": "alice\n"},
                {_FILE: "staff: :include:/etc/mail/staff\n"},
                modes={"/etc/mail/staff": "root:root 0666"},
            ),
            Example(
                "a list in a home",
                {_FILE: "staff: :include:/home/alice/staff\n", "/home/alice/staff": "bob\n"},
                {_FILE: "staff: alice\n"},
            ),
            Example(
                "a list of its own account",
                {_FILE: "staff: :include:/etc/mail/staff\n", "/etc/mail/staff": "alice\n"},
                modes={"/etc/mail/staff": "mail:mail 0644"},
            ),
        ),
    ),
    Rule(
        id="aliases-program-owners",
        title="Only root changes the programs that aliases run",
        section=Section.ALIASES,
        severity=Severity.HIGH,
        fix=Fix.ASK,
        rationale=(
            "Who can change a program that an alias runs, or a directory above it, runs what he likes when "
            "mail comes. A set-id program of a list manager keeps its owner: given to root it would run as "
            "root. Directories and what lies in homes are named, not changed. What an ACL lets others write "
            "shows in the group's part of the mode, its mask, and goes with it."
        ),
        judge=_judge_owners,
        mend=_mend_owners,
        references=(
            "guide 2",
            "STIG GEN004400",
            "STIG GEN004410",
            "STIG GEN004420",
            "STIG GEN004430",
            "Tiger ali003",
            "Tiger ali004",
        ),
        examples=(
            Example(
                "a user's program, which its group can write",
                {_FILE: 'ticket: "|/opt/ticket --new"\n', "/opt/ticket": "(the program)"},
                modes={"/opt/ticket": "alice:alice 0775 -> root:alice 0755"},
            ),
            Example(
                "a set-group-id program of root's",
                {_FILE: f"staff: {_WRAPPER}\n", "/usr/lib/mailman/mail/mailman": "(the program)"},
                modes={"/usr/lib/mailman/mail/mailman": "root:mail 2755"},
            ),
        ),
    ),
)
