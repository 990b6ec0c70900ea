# SPDX-License-Identifier: Apache-2.0
"""Section 2 of the guide: the alias file's lines, and the entries that must, should or must not be there."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator

from hardend.errors import FormatError
from hardend.formats.aliases import Alias, Aliases, Kind
from hardend.model import printable
from hardend.rules import aliases_attributes, aliases_programs
from hardend.rules.deliveries import Delivery, deliveries, judged, without
from hardend.rules.documents import Documents, NotApplicableError, Policy, UnknownError
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity

# Decoding -----------------------------------------------------------------------------------------------

_DECODERS = frozenset({"uudecode", "b64decode", "uuencode"})  # the guide names the last one for the first
_DECODE_NAMES = frozenset({"decode", "uudecode"})
_WORD_END = re.compile(r"[\s;|&()<>'\"`$=]+")


def _judge_decode(documents: Documents) -> Iterator[Fault]:
    return judged(documents, _decode_faults(documents))


def _decode_faults(documents: Documents) -> Iterator[Fault]:
    for delivery in deliveries(documents, Kind.PROGRAM, Kind.FILE):
        if _decodes(delivery):
            where = "the entry, and run newaliases" if not delivery.included else printable(delivery.path)
            yield Fault(
                delivery.path,
                delivery.line,
                f"{printable(delivery.alias)} hands mail to {printable(delivery.target.value)!r}: "
                "who sends mail writes files on this host",
                f"remove it from {where}",
                mendable=not delivery.included,
            )


def _mend_decode(documents: Documents) -> Documents:
    return without(documents, _decodes)


def _decodes(delivery: Delivery) -> bool:
    """Return whether a recipient decodes mail into files: a decoder, or anything active named decode."""
    target = delivery.target
    words = {os.path.basename(word) for word in _WORD_END.split(target.command)}
    is_active = target.kind in {Kind.PROGRAM, Kind.FILE} and target.value != "/dev/null"
    return not words.isdisjoint(_DECODERS) or (is_active and delivery.alias in _DECODE_NAMES)


# Redirects ----------------------------------------------------------------------------------------------

# What the guide marks "delete this row".
_REDIRECTS = frozenset(
    {"games", "ingres", "system", "toor", "uucp", "manager", "dumper", "operator", "decode"}
)


def _judge_redirects(documents: Documents) -> Iterator[Fault]:
    for path, entry in _redirects(documents):
        is_asked = entry.key in _asked_redirects(documents)
        to = printable(", ".join(target.text for target in entry.targets))
        if is_asked:
            message = f"{entry.key} redirects to {to}, and remove_redirects in the configuration names it"
            remedy = "remove the entry and run newaliases"
        else:
            message = f"{entry.key} redirects to {to}: the guide deletes it, which loses mail to that account"
            remedy = "leave it, or name it in remove_redirects in the configuration"
        yield Fault(path, entry.line, message, remedy, advice=not is_asked, mendable=is_asked)


def _mend_redirects(documents: Documents) -> Documents:
    asked = _asked_redirects(documents)
    lines: dict[str, list[int]] = {}
    for path, entry in _redirects(documents):
        if entry.key in asked:
            lines.setdefault(path, []).append(entry.line)
    for path, aliases in list(documents.alias_files()):
        if path in lines:
            documents = documents.with_content(path, aliases.remove(*lines[path]).render())
    return documents


def _asked_redirects(documents: Documents) -> frozenset[str]:
    return _REDIRECTS & {name.lower() for name in documents.policy.remove_redirects}


def _redirects(documents: Documents) -> Iterator[tuple[str, Alias]]:
    """Yield the guide's entries that only redirect: to addresses, not to programs, files and lists."""
    for path, aliases in _files(documents):
        for entry in aliases.entries:
            only = all(target.kind in {Kind.ADDRESS, Kind.LOCAL} for target in entry.targets)
            if entry.key in _REDIRECTS and entry.targets and only:
                yield path, entry


# Entries that must be there -----------------------------------------------------------------------------

# Name and recipient, as the guide has them (RFC 2142, RFC 5321 4.5.1).
_REQUIRED = (("MAILER-DAEMON", "postmaster"), ("postmaster", "root"))
_FILE_CLASSES = frozenset({"hash", "btree", "dbm", "implicit"})


def _judge_required(documents: Documents) -> Iterator[Fault]:
    path, lacking = _lacking(documents)
    elsewhere = _has_other_maps(documents)
    for name, to in lacking:
        message = f"there is no alias {name}: its mail waits in a mailbox that nobody reads, or bounces"
        if elsewhere:
            message += ", unless one of the other alias maps has it"
        remedy = f"add {name}: {to} and run newaliases"
        yield Fault(path, 0, message, remedy, advice=elsewhere, mendable=not elsewhere)


def _mend_required(documents: Documents) -> Documents:
    path, lacking = _lacking(documents)
    if not lacking or _has_other_maps(documents):
        return documents
    aliases = next(aliases for known, aliases in _files(documents) if known == path)
    for name, to in lacking:
        try:
            aliases = aliases.add(name, to)
        except ValueError as error:
            raise FormatError(path, 0, f"{name} cannot be added: {error}") from error
    return documents.with_content(path, aliases.render())


def _lacking(documents: Documents) -> tuple[str, list[tuple[str, str]]]:
    files = _files(documents)
    lacking = [pair for pair in _REQUIRED if not any(aliases.get(pair[0]) for _, aliases in files)]
    return files[0][0], lacking


def _has_other_maps(documents: Documents) -> bool:
    """Return whether aliases also come from where hardend does not look: NIS, LDAP, ..."""
    try:
        return any(spec.map_class not in _FILE_CLASSES for spec in documents.cf().alias_files())
    except (NotApplicableError, UnknownError):
        return True


# Lines that newaliases does not take --------------------------------------------------------------------


def _judge_lines(documents: Documents) -> Iterator[Fault]:
    for path, aliases in _files(documents):
        for line, what in aliases.faults():
            yield Fault(path, line, what, "correct it by hand and run newaliases", mendable=False)


def _files(documents: Documents) -> list[tuple[str, Aliases]]:
    files = list(documents.alias_files())
    if not files:
        raise NotApplicableError("this host has no alias file")
    return files


_FILE = "/etc/aliases"

RULES = (
    Rule(
        id="aliases-decode",
        title="No alias decodes mail into files",
        section=Section.ALIASES,
        severity=Severity.HIGH,
        fix=Fix.AUTO,
        rationale=(
            "uudecode writes the file that its input names: a decode alias lets every sender write files on "
            "this host. It is uudecode that does it, not uuencode as the guide has it. decode: root is a "
            "harmless trap and stays; a test by telnet (DECODE) says nothing, that is no command of SMTP. "
            "Continuation lines go with their entry: without its first line they would belong to the one "
            "before."
        ),
        judge=_judge_decode,
        mend=_mend_decode,
        references=("guide 2", "STIG GEN004640", "Tiger ali002f"),
        examples=(
            Example(
                "the classic entry, over two lines",
                {_FILE: 'root: admin\ndecode:\n\t"|/usr/bin/uudecode"\nbin: root\n'},
                {_FILE: "root: admin\nbin: root\n"},
            ),
            Example(
                "through a shell, under another name, beside a person",
                {_FILE: 'files: alice, "|/bin/sh -c uudecode"\n'},
                {_FILE: "files: alice\n"},
            ),
            Example("the trap of some distributions", {_FILE: "decode: root\nuudecode: root\n"}),
            Example("a comment", {_FILE: '# decode: "|/usr/bin/uudecode"\nroot: admin\n'}),
            Example("a program with a longer name", {_FILE: 'x: "|/opt/uudecoder-report"\n'}),
        ),
    ),
    *aliases_programs.RULES,
    Rule(
        id="aliases-redirects",
        title="Redirects of unused accounts stay, unless the configuration removes them",
        section=Section.ALIASES,
        severity=Severity.ADVICE,
        fix=Fix.ASK,
        rationale=(
            "The guide deletes the entries that send mail for games, system, toor, uucp and others to root. "
            "That closes nothing: the mail then bounces or goes to a mailbox that nobody reads, and FreeBSD "
            "ships toor, uucp and operator on purpose. Only programs, files and lists are a danger. "
            "remove_redirects in the configuration names those that shall go all the same."
        ),
        judge=_judge_redirects,
        mend=_mend_redirects,
        references=("guide 2", "aliases(5)"),
        examples=(
            Example(
                "one that the configuration removes, and one that stays",
                {_FILE: "games: root\ntoor: root\nnobody: root\n"},
                {_FILE: "toor: root\nnobody: root\n"},
                policy=Policy(remove_redirects=("games",)),
            ),
            Example("the guide's list is advice", {_FILE: "games: root\nmanager: root\ndecode: root\n"}),
        ),
    ),
    Rule(
        id="aliases-required",
        title="MAILER-DAEMON and postmaster have aliases",
        section=Section.ALIASES,
        severity=Severity.MEDIUM,
        fix=Fix.AUTO,
        rationale=(
            "The guide and RFC 5321 4.5.1 want them: answers to bounces and reports about abuse reach a "
            "person. Upper and lower case are the same. Give root a person too."
        ),
        judge=_judge_required,
        mend=_mend_required,
        references=("guide 2", "RHEL-08-030030", "RFC 5321 4.5.1", "RFC 2142"),
        examples=(
            Example(
                "neither is there",
                {_FILE: "root: admin\n"},
                {_FILE: "root: admin\nMAILER-DAEMON: postmaster\npostmaster: root\n"},
            ),
            Example("in other cases, one quoted", {_FILE: 'Postmaster: root\n"mailer-daemon": root\n'}),
        ),
    ),
    Rule(
        id="aliases-lines",
        title="newaliases takes every line of the alias file",
        section=Section.ALIASES,
        severity=Severity.MEDIUM,
        fix=Fix.NEVER,
        rationale=(
            "newaliases passes over what it does not understand, and its exit code does not always say so. A "
            "logical line of 8191 bytes or more makes it skip the line or never end, with an empty database "
            "behind it; of two entries with one name only the last counts."
        ),
        judge=_judge_lines,
        references=("guide 2", "newaliases(1)", "aliases(5)"),
        examples=(
            Example("no colon", {_FILE: "root: admin\nbin root\n"}, {_FILE: "root: admin\nbin: root\n"}),
            Example("two of one name", {_FILE: "bin: root\nBIN: alice\n"}, {_FILE: "bin: root\n"}),
            Example("blanks, comments and continuations", {_FILE: "# a\n\nroot:\tadmin,\n\talice\n"}),
        ),
    ),
    aliases_attributes.RULE,
)
