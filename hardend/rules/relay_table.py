# SPDX-License-Identifier: Apache-2.0
"""Section 8 of the guide: the access table is asked, and what Sendmail reads of it is what it says."""

from __future__ import annotations

from collections.abc import Iterator

from hardend.rules.documents import CannotMendError, Documents, NotApplicableError
from hardend.rules.relay_access import access_map
from hardend.rules.relay_changes import acceptance_fault, called, relaying_cf, without_acceptances
from hardend.rules.relay_features import features, local_acceptances
from hardend.rules.relay_texts import ACCESS, BLOCKLISTING, CF, CLOSED, HEAD, MC, RCPT_OK, mc
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity

_BLOCKING = "blocklist_recipients"
_OLD_NAME = "blacklist_recipients"


# The table itself ---------------------------------------------------------------------------------


def _judge_table(documents: Documents) -> Iterator[Fault]:
    path = documents.layout.cf
    known = features(relaying_cf(documents))
    for acceptance in local_acceptances(documents.cf(), "Local_check_relay"):
        what = "every client: neither access nor a blocklist is asked about it"
        yield acceptance_fault(documents, acceptance, what)
    if "access_db" not in known:
        remedy = (
            "write /etc/mail/access, build it with makemap hash, and only then call FEATURE(`access_db'): "
            "without its database Sendmail answers 451 to everybody"
        )
        what = "no access table: nobody can be rejected, or relayed for, by name or network"
        yield Fault(path, 0, what, remedy, mendable=False)
    elif _BLOCKING not in known:
        what = f"no {_BLOCKING}: REJECT of a recipient in access has no effect"
        yield Fault(path, known["access_db"], what, _remedy(documents), mendable=_can_add(documents))
    old = called(documents, _OLD_NAME)
    if old is not None:
        what = f"FEATURE(`{_OLD_NAME}') is an old name"
        remedy = f"call it {_BLOCKING}: m4 warns since 8.16.1"
        yield Fault(documents.sources[path], old.line, what, remedy, advice=True, mendable=False)


def _mend_table(documents: Documents) -> Documents:
    path = documents.layout.cf
    known = features(relaying_cf(documents))
    documents = without_acceptances(documents, local_acceptances(documents.cf(), "Local_check_relay"))
    if "access_db" not in known or _BLOCKING in known:
        return documents
    source = documents.mc_of(path)
    if source is not None and _can_add(documents):
        return documents.with_content(source[0], source[1].add_feature(_BLOCKING).render())
    if path in documents.stale:
        return documents
    raise CannotMendError(_remedy(documents))


def _can_add(documents: Documents) -> bool:
    has_mc = documents.mc_of(documents.layout.cf) is not None
    return has_mc and not any(called(documents, name) for name in (_BLOCKING, _OLD_NAME))


def _remedy(documents: Documents) -> str:
    path = documents.layout.cf
    mc_path = documents.sources.get(path, "")
    if not mc_path:
        return f"{path} has no .mc: build a new one from a .mc with FEATURE(`{_BLOCKING}')"
    call = called(documents, _BLOCKING) or called(documents, _OLD_NAME)
    if call is not None:
        return f"build {path} again; {mc_path}:{call.line} must stand behind FEATURE(`access_db')"
    return f"add FEATURE(`{_BLOCKING}') to {mc_path}, behind FEATURE(`access_db')"


# Its database -------------------------------------------------------------------------------------


def _judge_map(documents: Documents) -> Iterator[Fault]:
    spec = access_map(documents)
    if spec is None or not documents.is_there(spec.source):
        raise NotApplicableError("this host has no access table")
    why = documents.stale_maps.get(spec.database, "")
    source, database = documents.attributes.get(spec.source), documents.attributes.get(spec.database)
    if not why and database is None and spec.database not in documents.unreadable:
        why = "it is missing: Sendmail answers 451 to everybody"
    elif not why and source and database and database.mtime_ns < source.mtime_ns:
        why = f"it is older than {spec.source}: what was changed there is not in force"
    if why:
        name = spec.database.removesuffix(".pag").removesuffix(".db")
        remedy = f"hardend approve {spec.source}, or makemap {spec.map_class} {name} < {spec.source}"
        yield Fault(spec.database, 0, why, remedy, mendable=False)


_CLOSED_WITH_ACCESS = CLOSED.replace(HEAD, HEAD + ACCESS)
_BLOCKING_CF = _CLOSED_WITH_ACCESS.replace(RCPT_OK, RCPT_OK + BLOCKLISTING)

RULES = (
    Rule(
        id="relay-access-db",
        title="The access table is asked, about recipients too",
        section=Section.RELAYING,
        severity=Severity.LOW,
        fix=Fix.ASK,
        rationale=(
            "FEATURE(`access_db') is how a host, a network or a sender is rejected or relayed for by name, "
            "more precisely than relay-domains can. FEATURE(`blocklist_recipients') lets it reject mail to "
            "one of your own users as well; the guide knows it as blacklist_recipients, which has nothing "
            "to do with relaying. Neither does anything before the table says something. A rule of "
            "Local_check_relay that accepts every client makes the table, and every blocklist, pointless."
        ),
        judge=_judge_table,
        mend=_mend_table,
        references=("guide 8", "cf/README, access_db and blocklist_recipients"),
        examples=(
            Example(
                "Debian has the one and not the other",
                {CF: _CLOSED_WITH_ACCESS, MC: mc("FEATURE(`access_db', , `skip')")},
                {MC: mc("FEATURE(`access_db', , `skip')", "FEATURE(`blocklist_recipients')")},
            ),
            Example(
                "a rule by hand that accepts every client",
                {CF: _BLOCKING_CF + "SLocal_check_relay\nR$* $| $*\t$# OK\n"},
                {CF: _BLOCKING_CF + "SLocal_check_relay\n"},
            ),
            Example(
                "both, by the old name: advice",
                {CF: _BLOCKING_CF, MC: mc("FEATURE(`access_db')", "FEATURE(`blacklist_recipients')")},
            ),
        ),
    ),
    Rule(
        id="relay-map-stale",
        title="The database of access says what access says",
        section=Section.RELAYING,
        severity=Severity.MEDIUM,
        fix=Fix.NEVER,
        rationale=(
            "Sendmail reads access.db, never access: an entry that is not built yet rejects nobody, and one "
            "that was taken out still relays. Where the database is missing, Sendmail answers 451 to "
            "everybody. hardend builds it by itself when access is approved; nothing is to be edited."
        ),
        judge=_judge_map,
        references=("guide 8", "makemap(8)"),
        examples=(
            Example(
                "it was never built",
                {"/etc/mail/access": "Connect:192.0.2\tREJECT\n"},
                {"/etc/mail/access.db": ""},
            ),
            Example("it is there", {"/etc/mail/access": "", "/etc/mail/access.db": ""}),
        ),
    ),
)
