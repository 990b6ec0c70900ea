# SPDX-License-Identifier: Apache-2.0
"""What the guide lacks of the queues: whose they are, and who can put another directory in their place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hardend.model import FileType
from hardend.rules.documents import Attributes, Documents, NotApplicableError
from hardend.rules.exposure_files import ROOTS, Change, change_faults, owners, with_changes
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity
from hardend.rules.trust import above, opening, owner_of, way_to

_STICKY = 0o1000
_OTHERS = 0o007
_OTHERS_WRITE = 0o002
_CLIENT = "smmsp"


def _queues(documents: Documents) -> tuple[str, ...]:
    """Return the queue directories of the daemon, where links lead to."""
    named = (path for path in documents.layout.queues if path != documents.layout.client_queue)
    return tuple(dict.fromkeys(way_to(documents, path)[-1] for path in named))


def _client_queue(documents: Documents) -> str:
    path = documents.layout.client_queue
    return way_to(documents, path)[-1] if path else ""


def _all(documents: Documents) -> tuple[str, ...]:
    found = tuple(filter(None, (*_queues(documents), _client_queue(documents))))
    if not found:
        raise NotApplicableError("no configuration names a queue directory")
    return found


def _changes(documents: Documents) -> Iterator[Change]:
    """Yield the owners of the daemon's queues, and what is open above all queues."""
    for path in _queues(documents):
        known = documents.attributes.get(path)
        if known is not None and known.uid not in owners(documents, documents.layout.cf):
            trusted = documents.users.get(documents.layout.trusted_user, 0)
            what = f"it belongs to {owner_of(documents, known)}, who reads and changes all mail in it"
            yield Change(path, known, replace(known, uid=trusted), what)
    for path in sorted({directory for queue in _all(documents) for directory in above(queue)}):
        found = opening(documents, path) if path in documents.attributes else None
        if found is not None and found.known.kind is FileType.DIRECTORY:
            what = f"{found.what}: who can write here puts another queue in the place of this one"
            is_ours = path in ROOTS and not found.known.mode & _STICKY
            yield Change(path, found.known, found.closed, what, is_ours)


def _judge(documents: Documents) -> Iterator[Fault]:
    yield from change_faults(documents, _changes(documents), _all(documents))
    path = _client_queue(documents)
    known = documents.attributes.get(path)
    if known is not None:
        yield from _of_client(documents, path, known)


def _of_client(documents: Documents, path: str, known: Attributes) -> Iterator[Fault]:
    """Yield what is wrong with the client queue; it is left: its program needs it as the package made it."""
    mine = {documents.users[_CLIENT]} if _CLIENT in documents.users else set()
    configuration = documents.layout.submit_cf or documents.layout.cf
    if known.uid not in owners(documents, configuration) | mine:
        what = f"it belongs to {owner_of(documents, known)}, who reads and changes what users submit"
        yield Fault(path, 0, what, f"chown {_CLIENT} {path}, or install the package again", mendable=False)
    if known.mode & _OTHERS:
        is_open = bool(known.mode & _OTHERS_WRITE)
        may = "everybody can put mail of anybody into it" if is_open else "everybody can look into it"
        remedy = f"chmod o-rwx {path}: its program has the group's right"
        yield Fault(path, 0, f"mode {known.mode:04o}: {may}", remedy, advice=not is_open, mendable=False)


def _mend(documents: Documents) -> Documents:
    return with_changes(documents, _changes(documents))


_QUEUE = "/var/spool/mqueue"
_CLIENT_QUEUE = "/var/spool/mqueue-client"

RULES = (
    Rule(
        id="exposure-queues",
        title="The queues are Sendmail's, and nobody else can replace them",
        section=Section.EXPOSURE,
        severity=Severity.HIGH,
        fix=Fix.AUTO,
        rationale=(
            "The queue holds the mail itself, and Sendmail sends what stands in it: who owns the directory, "
            "or can write in one above it, reads, changes and forges mail. The daemon's queue belongs to "
            "root, TrustedUser or RunAsUser. The client queue must stay as its package made it (smmsp, 0770, "
            "on Debian 2770): it is judged, and left. Directories above that others use too are named."
        ),
        judge=_judge,
        mend=_mend,
        references=("sendmail/SECURITY", "sendmail README, directory permissions", "Bat book table 4-1"),
        examples=(
            Example(
                "a user's queue, in a directory that everybody can write",
                {f"{_QUEUE}/": ""},
                modes={
                    _QUEUE: "alice:smmsp 2750 -> smmta:smmsp 2750",
                    "/var/spool": "root:root 0777 -> root:root 0755",
                },
            ),
            Example(
                "the group can write above it",
                {f"{_QUEUE}/": ""},
                modes={_QUEUE: "root:root 0700", "/var": "root:mail 0775 -> root:mail 0755"},
                profile="redhat",
            ),
            Example(
                "Debian's own",
                {f"{_QUEUE}/": "", f"{_CLIENT_QUEUE}/": ""},
                modes={_QUEUE: "smmta:smmsp 2750", _CLIENT_QUEUE: "smmsp:smmsp 2770"},
            ),
        ),
    ),
)
