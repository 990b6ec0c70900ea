# SPDX-License-Identifier: Apache-2.0
"""Section 2 of the guide: who can change the alias files and the databases that are built from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hardend.model import FileType, printable
from hardend.rules.documents import Attributes, Documents, NotApplicableError, UnknownError
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity
from hardend.rules.trust import ROOT, owner_of, trusted

_ALLOWED_BITS = 0o644
_GROUP_READS = 0o040
_OTHERS_READ = 0o004
_GROUPS = ("root", "wheel", "sys", "bin", "system", "smmsp")
# Other alias files are often those of a list manager, which rewrites them.
_OWN_FILES = frozenset({"/etc/aliases", "/etc/mail/aliases"})


def _judge_attributes(documents: Documents) -> Iterator[Fault]:
    for path, source, owners in _held(documents):
        known = documents.attributes[path]
        wanted = _wanted(documents, known, owners)
        mended = _mended_attributes(source, known, wanted)
        if known.uid != wanted.uid:
            owner = owner_of(documents, known)
            message = f"it belongs to {owner}, who decides what every alias runs"
            remedy = f"chown root {printable(path)}"
            if mended.uid != wanted.uid:
                remedy = f"{remedy}, or waive it if {owner} is a list manager that writes it"
            yield Fault(path, 0, message, remedy, mendable=mended.uid == wanted.uid)
        if known.mode != wanted.mode:
            message = f"mode {known.mode:04o} is more than 0644: {_who(known)}"
            yield Fault(path, 0, message, f"chmod {wanted.mode:04o} {printable(path)}")
        if known.gid != wanted.gid:
            closed = mended.gid != wanted.gid
            yield Fault(
                path,
                0,
                f"its group is {_group_of(documents, known)}, not that of Sendmail or root",
                f"chgrp root {printable(path)}",
                advice=closed,
                mendable=not closed,
            )
        if known.acl:
            yield Fault(
                path,
                0,
                "it has an ACL, which may let others write",
                f"setfacl --remove-all {printable(path)}",
            )


def _mend_attributes(documents: Documents) -> Documents:
    for path, source, owners in list(_held(documents)):
        known = documents.attributes[path]
        wanted = _wanted(documents, known, owners)
        documents = documents.with_attributes(path, _mended_attributes(source, known, wanted))
    return documents


def _wanted(documents: Documents, known: Attributes, owners: frozenset[int]) -> Attributes:
    """Return what it should be: an owner of ``owners``, Sendmail's or root's group, 0644 or less, no ACL."""
    names = {*_GROUPS, documents.layout.trusted_user}
    groups = {gid for name, gid in documents.groups.items() if name in names}
    return replace(
        known,
        uid=known.uid if known.uid in owners else 0,
        gid=known.gid if known.gid in groups | {0} else 0,
        mode=known.mode & _ALLOWED_BITS,
        acl=False,
    )


def _mended_attributes(source: str, known: Attributes, wanted: Attributes) -> Attributes:
    """Return what of it is done here.

    A list manager stays the owner of its own file, and a group that alone may read goes on reading.
    """
    uid = wanted.uid if source in _OWN_FILES else known.uid
    only_the_group_reads = known.mode & _GROUP_READS and not known.mode & _OTHERS_READ
    return replace(wanted, uid=uid, gid=known.gid if only_the_group_reads else wanted.gid)


def _who(known: Attributes) -> str:
    if known.mode & 0o002:
        return "everybody can write aliases"
    return "its group can write aliases" if known.mode & 0o020 else "it is no program"


def _group_of(documents: Documents, known: Attributes) -> str:
    return next((name for name, gid in documents.groups.items() if gid == known.gid), f"gid {known.gid}")


def _held(documents: Documents) -> Iterator[tuple[str, str, frozenset[int]]]:
    """Yield every alias file and database, with its source and who may own it."""
    if not documents.layout.aliases:
        raise NotApplicableError("this host has no alias file")
    for spec in documents.layout.aliases:
        other = (f"{spec.database.removesuffix('.pag')}.dir",) if spec.map_class == "dbm" else ()
        for path in (spec.source, spec.database, *other):
            known = documents.attributes.get(path)
            if known is None and path in documents.unreadable:
                raise UnknownError(path, documents.unreadable[path])
            if known is not None and known.kind is FileType.FILE:
                yield path, spec.source, ROOT if path == spec.source else trusted(documents)


_FILE = "/etc/aliases"
_DATABASE = "/etc/mail/aliases.db"

RULE = Rule(
    id="aliases-attributes",
    title="Only root and Sendmail change the alias files and their databases",
    section=Section.ALIASES,
    severity=Severity.MEDIUM,
    fix=Fix.AUTO,
    rationale=(
        "Who can write aliases or aliases.db runs programs by mail; sendmail reads a database that "
        "everybody can write without a word. The STIG wants root as the owner of both, but newaliases "
        "gives the database to TrustedUser at every run (Debian: smmta), so that one is right too. "
        "An alias file of a list manager's own keeps its owner, and the finding is yours to waive."
    ),
    judge=_judge_attributes,
    mend=_mend_attributes,
    references=("guide 2", "STIG GEN004360", "STIG GEN004370", "STIG GEN004380", "STIG GEN004390"),
    examples=(
        Example(
            "a user's alias file, and a database that everybody can write",
            {_FILE: "root: admin\n", _DATABASE: "(the database)"},
            modes={
                _FILE: "alice:root 0664 -> root:root 0644",
                _DATABASE: "smmta:smmsp 0666 -> smmta:smmsp 0644",
            },
        ),
        Example(
            "Debian's database belongs to TrustedUser",
            {_FILE: "root: admin\n", _DATABASE: "(the database)"},
            modes={_DATABASE: "smmta:smmsp 0640"},
        ),
    ),
)
