# SPDX-License-Identifier: Apache-2.0
"""What the guide lacks of SMTP itself: who may submit mail, and what smuggles a second message in."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hardend.formats.cf import Value
from hardend.formats.table import Table, rows_with
from hardend.model import printable
from hardend.rules import srv_features
from hardend.rules.documents import Documents
from hardend.rules.exposure import demand_change, remedy_at
from hardend.rules.options import Option, set_option
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity

_REJECT_NUL = Option("RejectNUL", "confREJECT_NUL")

# Upper case switches a check off for the client that the entry names (release notes of 8.18.1).
_SMUGGLING = {
    "F": "F (commands before the answer to HELO or DATA)",
    "O": "O (messages that end without CRLF . CRLF)",
    "G": "G (bare LF)",
    "U": "U (bare CR)",
}

_SUBMISSION_PORTS = frozenset({"587", "465", "submission", "submissions", "smtps", "urd"})
_LOOPBACK = re.compile(r"(?:ipv6:)?\[?(?:127\.|::1\b|localhost\b|ip6-localhost\b)", re.IGNORECASE)


# Listeners ------------------------------------------------------------------------------------------


def _judge_listeners(documents: Documents) -> Iterator[Fault]:
    cf = documents.layout.cf
    for value in documents.cf().options("DaemonPortOptions") or [Value("Name=MTA", 0)]:
        fields = _fields(value.text)
        address = fields.get("A", "")
        if fields.get("F", "").lower() in {"local", "unix"} or _LOOPBACK.match(address):
            continue
        family = "IPv6" if fields.get("F", "").lower() == "inet6" else "IPv4"
        port = printable(fields.get("P", "smtp"))
        where = f"port {port} of {printable(address) or f'every {family} address'}"
        if port in _SUBMISSION_PORTS and "a" not in fields.get("M", ""):
            what = f"takes mail for submission on {where} from everybody, without asking who they are"
            remedy = "M=Ea or Addr=127.0.0.1 in its DAEMON_OPTIONS, or FEATURE(`no_default_msa')"
            yield Fault(cf, value.line, what, remedy, mendable=False)
        else:
            remedy = "where this host takes no mail from others: Addr=127.0.0.1 in its DAEMON_OPTIONS"
            yield Fault(cf, value.line, f"listens on {where}", remedy, advice=True, mendable=False)


def _fields(text: str) -> dict[str, str]:
    """Return the fields of DaemonPortOptions by the first letter, which is all that sendmail reads."""
    pairs = (part.partition("=") for part in text.split(","))
    fields = {name.strip()[:1]: value.strip() for name, _, value in pairs}
    # Case tells some apart (d, D; r, R), but not these.
    return {name.upper() if name in "afmp" else name: value for name, value in fields.items()}


# Smuggling ------------------------------------------------------------------------------------------


def _judge_smuggling(documents: Documents) -> Iterator[Fault]:
    cf = documents.layout.cf
    value = documents.cf().option(_REJECT_NUL.name)
    if value is not None and not _is_true(value.text):
        what = "RejectNUL is off: a NUL behind a line end smuggles a second message through"
        yield Fault(cf, value.line, what, remedy_at(documents, cf, _REJECT_NUL, "set true with"))
    for line, answer in srv_features.of_rules(documents.cf()):
        if words := _off(answer):
            what = f"the rules for srv_features switch off {_named(words)} for whom they answer so"
            yield Fault(cf, line, what, "remove it from LOCAL_SRV_FEATURES in the .mc", mendable=False)
    path = documents.layout.access
    for entry in rows_with(srv_features.access_table(documents), srv_features.ENTRY):
        words = _switched_off(entry.key, entry.value)
        if words:
            what = f"{printable(entry.key)} switches off {_named(words)} for these clients"
            remedy = f"remove {printable(' and '.join(words))} from the entry, or use g2 and u2"
            yield Fault(path, entry.line, what, remedy)


def _mend_smuggling(documents: Documents) -> Documents:
    cf = documents.layout.cf
    value = documents.cf().option(_REJECT_NUL.name)
    if value is not None and not _is_true(value.text):
        changed = set_option(documents, cf, _REJECT_NUL, "true")
        documents = demand_change(documents, changed, cf, _REJECT_NUL)
    path, data = documents.layout.access, srv_features.access_table(documents)
    values = {}
    for entry in rows_with(data, srv_features.ENTRY):
        if words := _switched_off(entry.key, entry.value):
            values[entry.line] = " ".join(word for word in entry.value.split() if word not in words)
    if not values:
        return documents
    return documents.with_content(path, Table(data, path).with_values(values).render())


def _is_true(text: str) -> bool:
    """Return what atobool() makes of a value: nothing at all is true."""
    return text[:1] in {"", "t", "T", "y", "Y"}


def _switched_off(key: str, value: str) -> list[str]:
    return _off(srv_features.of_entry(key, value))


def _off(words: list[str]) -> list[str]:
    return [word for word in words if word[0] in _SMUGGLING]


def _named(words: list[str]) -> str:
    return " and ".join(_SMUGGLING[word[0]] for word in words)


RULES = (
    Rule(
        id="exposure-listeners",
        title="Who submits mail from elsewhere must say who they are",
        section=Section.EXPOSURE,
        severity=Severity.LOW,
        fix=Fix.NEVER,
        rationale=(
            "Every address that listens is advice, for you to compare with what this host is for. What fails "
            "is a submission port (587, 465) that is open to others and asks nobody to authenticate: "
            "Sendmail opens 587 by default, and Debian on the loopback only. STIG GEN004710 wants the "
            "loopback alone or looks for promiscuous_relay in the .mc, which the relaying rules find better. "
            "Never mended here: a wrong listener cuts a host off its mail."
        ),
        judge=_judge_listeners,
        references=("STIG GEN004710", "CIS, loopback-only MTA", "op guide 5.6", "RFC 6409 4.3"),
        examples=(
            Example(
                "what cf.m4 writes without FEATURE(`no_default_msa')",
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nO DaemonPortOptions=Port=587, Name=MSA, M=E\n"},
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nO DaemonPortOptions=Port=587, Name=MSA, M=Ea\n"},
            ),
            Example(
                "on the loopback, as Debian has it; the short form",
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nOOFamily=inet,  Port=587, M=E, Addr=127.0.0.1\n"},
            ),
            Example(
                "a relay is there to listen",
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nO DaemonPortOptions=Name=MTA, Port=25\n"},
            ),
        ),
    ),
    Rule(
        id="exposure-smuggling",
        title="Protection against SMTP smuggling is on for every client",
        section=Section.EXPOSURE,
        severity=Severity.MEDIUM,
        fix=Fix.ASK,
        rationale=(
            "A server that takes another end of a message than CRLF . CRLF lets a stranger put a second "
            "message, with any sender, into the first (CVE-2023-51765). Sendmail 8.18 and Debian's 8.17 "
            "refuse it; F, O, G and U in srv_features switch that off for a client, and RejectNUL=false "
            "leaves a variant of it in Debian's. g2 and u2 replace the bare characters and are no finding. A "
            "file without RejectNUL passes: only some builds know the option. Clients with broken line ends "
            "are refused afterwards."
        ),
        judge=_judge_smuggling,
        mend=_mend_smuggling,
        references=("CVE-2023-51765", "sendmail 8.18.1 release notes", "Debian NEWS 8.17.1.9-2+deb12u1"),
        examples=(
            Example(
                "a client that may send bare LF, and messages that end anyhow",
                {"/etc/mail/access": "Srv_Features:192.0.2.7\tG O S\n192.0.2.8\tREJECT\n"},
                {"/etc/mail/access": "Srv_Features:192.0.2.7\tS\n192.0.2.8\tREJECT\n"},
            ),
            Example(
                "NULs are let through",
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nO RejectNUL=false\n"},
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nO RejectNUL=true\n"},
            ),
            Example(
                "lower case switches on, g2 and u2 replace; O is no feature of another tag",
                {"/etc/mail/access": "Srv_Features:192.0.2.7\tg2 u2 o f\nTLS_Srv:192.0.2.7\tO\n"},
            ),
        ),
    ),
)
