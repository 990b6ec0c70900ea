# SPDX-License-Identifier: Apache-2.0
"""Section 8 of the guide: mail is relayed for those whom the administrator named, and for nobody else.

The FEATUREs are told from the .cf alone (relay_features), and from the calls in the .mc.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from hardend.formats.table import WordList
from hardend.rules.documents import Documents
from hardend.rules.relay_changes import (
    acceptance_fault,
    feature_faults,
    relaying_cf,
    without_both,
    without_features,
)
from hardend.rules.relay_features import acceptances, features, local_acceptances
from hardend.rules.relay_texts import (
    CF,
    CLOSED,
    MC,
    PROMISCUOUS,
    RCPT_OK,
    RCPT_RULES,
    RELAY_END,
    mc,
)
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity

_OPEN = {
    "promiscuous_relay": (
        "no rule denies what nothing allows: everybody may send mail to everybody through this host"
    )
}
_FROM = {
    "relay_local_from": "whoever claims a sender of this host may relay, and a sender is only a claim",
    "relay_mail_from": "whoever claims a sender that access names may relay, and a sender is only a claim",
}
_FROM_DOMAIN = "whoever claims a sender of a domain that access names may relay, and a sender is only a claim"
_MX = {
    "relay_based_on_MX": "whoever points an MX record at this host has their mail relayed, unasked",
}
_LOOSE = {
    "loose_relay_check": "user%elsewhere@domain passes as mail to the domain, and goes elsewhere",
}
_WIDE = "relay_entire_domain"
# FEATURE(`require_rdns') puts these into class R.
_LOOPBACK = frozenset({"127.0.0.1", "ipv6:0:0:0:0:0:0:0:1", "ipv6:::1"})
_SENDERS = {
    "accept_unqualified_senders": "a sender without a domain is accepted: no bounce can reach it",
    "accept_unresolvable_domains": "a sender whose domain does not exist is accepted: no bounce can reach it",
}


def _judge(wanted: Mapping[str, str]) -> Callable[[Documents], Iterator[Fault]]:
    return lambda documents: feature_faults(documents, wanted)


def _mend(*wanted: str) -> Callable[[Documents], Documents]:
    return lambda documents: without_features(documents, wanted)


# Everybody ----------------------------------------------------------------------------------------


def _judge_open(documents: Documents) -> Iterator[Fault]:
    yield from feature_faults(documents, _OPEN)
    for acceptance in acceptances(relaying_cf(documents)):
        yield acceptance_fault(documents, acceptance, "every recipient, for every client: an open relay")


def _mend_open(documents: Documents) -> Documents:
    return without_both(documents, _OPEN, acceptances)


def _judge_from(documents: Documents) -> Iterator[Fault]:
    by_domain = "relay_mail_from domain" in features(relaying_cf(documents))
    return feature_faults(documents, _FROM | ({"relay_mail_from": _FROM_DOMAIN} if by_domain else {}))


# The own domain -----------------------------------------------------------------------------------


def _judge_wide(documents: Documents) -> Iterator[Fault]:
    named = _relay_words(documents)
    what = "every host of the domain of this one may relay, also those that nobody asked for"
    for fault in feature_faults(documents, {_WIDE: what}):
        advice = bool(named)
        yield Fault(fault.path, fault.line, fault.message, fault.remedy, advice, fault.mendable)


def _mend_wide(documents: Documents) -> Documents:
    return documents if _relay_words(documents) else without_features(documents, (_WIDE,))


def _relay_words(documents: Documents) -> list[str]:
    """Return the words of class R but for this host itself."""
    words = [word.text for word in relaying_cf(documents).class_words("R")]
    for path in documents.layout.relay_domains:
        if documents.is_there(path) or path in documents.unreadable:
            words += [word.text for word in WordList(documents.read(path), path).words]
    return [word for word in words if word.lower() not in _LOOPBACK]


# Senders ------------------------------------------------------------------------------------------


def _judge_senders(documents: Documents) -> Iterator[Fault]:
    for acceptance in local_acceptances(relaying_cf(documents), "Local_check_mail"):
        yield acceptance_fault(documents, acceptance, "every sender: nothing else is checked of it")
    yield from feature_faults(documents, _SENDERS)


def _mend_senders(documents: Documents) -> Documents:
    return without_both(documents, _SENDERS, lambda cf: local_acceptances(cf, "Local_check_mail"))


RULES = (
    Rule(
        id="relay-open",
        title="This host is no open relay",
        section=Section.RELAYING,
        severity=Severity.HIGH,
        fix=Fix.ASK,
        rationale=(
            "An open relay sends the mail of the whole world and is on every blocklist within hours. Since "
            "8.9 Sendmail relays for nobody by default; FEATURE(`promiscuous_relay') takes the denial away, "
            "and so does a rule of Local_check_rcpt that answers everything with $#. (A rule that answers "
            "with $@ RELAY decides nothing there: Sendmail goes on to its own checks.) The STIG greps the "
            ".mc for promiscuous_relay, and KISA the .cf for the denial: the first misses a .cf without a "
            ".mc and finds comments, the second passes a Local_check_rcpt that is never denied anything."
        ),
        judge=_judge_open,
        mend=_mend_open,
        references=("guide 8", "STIG GEN004710", "KISA U-31", "cf/README, ANTI-SPAM CONFIGURATION CONTROL"),
        examples=(
            Example(
                "upstream's own uucpproto.mc has it",
                {CF: PROMISCUOUS, MC: mc("FEATURE(`promiscuous_relay')", "FEATURE(`use_cw_file')")},
                {MC: mc("dnl FEATURE(`promiscuous_relay')", "FEATURE(`use_cw_file')")},
            ),
            Example(
                "a rule by hand that accepts everything",
                {CF: CLOSED + "SLocal_check_rcpt\nR$*\t$# OK\n"},
                {CF: CLOSED + "SLocal_check_rcpt\n"},
            ),
            Example(
                "the same in the .mc",
                {
                    CF: CLOSED + "SLocal_check_rcpt\nR$+ @ $+\t$@ $#RELAY\n",
                    MC: mc() + "LOCAL_RULESETS\nSLocal_check_rcpt\nR$+ @ $+\t$@ $#RELAY\n",
                },
                {MC: mc() + "LOCAL_RULESETS\nSLocal_check_rcpt\n"},
            ),
            Example(
                "not built yet: # is no comment in a .mc",
                {CF: CLOSED, MC: "# FEATURE(`promiscuous_relay')dnl\n" + mc()},
                {MC: "dnl # FEATURE(`promiscuous_relay')dnl\n" + mc()},
            ),
            Example("what m4 makes without any FEATURE", {CF: CLOSED}),
            Example(
                "another text of the denial, and rulesets that delay_checks renames",
                {
                    CF: CLOSED.replace('"550 Relaying denied"', '"550 Go away"').replace(
                        "Scheck_rcpt\n", "Scheckrcpt\n"
                    )
                    + "Scheck_rcpt\nR$+\t\t\t$: $1 $| $>checkrcpt $1\n"
                },
            ),
            Example(
                "an answer of a local rule that decides nothing, and one for a single domain",
                {CF: CLOSED + "SLocal_check_rcpt\nR$*\t$@ RELAY\nR$* @ example.com\t$# OK\n"},
            ),
            Example("a comment", {CF: CLOSED, MC: "dnl FEATURE(`promiscuous_relay')\n" + mc()}),
        ),
    ),
    Rule(
        id="relay-from",
        title="Nobody may relay because of the sender they claim",
        section=Section.RELAYING,
        severity=Severity.HIGH,
        fix=Fix.ASK,
        rationale=(
            "The sender of a message is whatever the client says. relay_local_from and relay_mail_from "
            "relay for everybody who knows one address of this host. Use SMTP AUTH, or name networks in "
            "access."
        ),
        judge=_judge_from,
        mend=_mend(*_FROM),
        references=("guide 8", "cf/README, relay_local_from, relay_mail_from"),
        examples=(
            Example(
                "relay_local_from, without a .mc",
                {
                    CF: CLOSED.replace(
                        RELAY_END,
                        "# check whether FROM is allowed to use system as relay\n"
                        "R$*\t\t\t$: <?> $>CanonAddr $&f\n"
                        "R<?> $+ < @ $+ . >\t<?> $1 < @ $2 >\t\tremove trailing dot\n"
                        "# check whether local FROM is ok\n"
                        "R<?> $+ < @ $=w >\t$@ RELAY\t\tFROM local\n" + RELAY_END,
                    )
                },
                {CF: CLOSED},
            ),
            Example(
                "the recipient is at this host, not the sender",
                {CF: CLOSED + "SLocal_check_rcpt\nR$+ @ $=w\t$# OK\n"},
            ),
        ),
    ),
    Rule(
        id="relay-mx",
        title="An MX record alone does not make this host relay",
        section=Section.RELAYING,
        severity=Severity.MEDIUM,
        fix=Fix.ASK,
        rationale=(
            "With relay_based_on_MX everybody can make this host relay for a domain of theirs: they only "
            "point its MX record here. The guide lists it as harmless; cf/README warns. Name the domains "
            "that you are a backup for in relay-domains, or in access as To:domain RELAY."
        ),
        judge=_judge(_MX),
        mend=_mend(*_MX),
        references=("guide 8", "cf/README, relay_based_on_MX"),
        examples=(
            Example(
                "the rules of Rcpt_ok, in a .cf with a .mc",
                {
                    CF: CLOSED.replace(
                        RCPT_RULES,
                        RCPT_RULES + "R$+ < @ $+ >\t\t$: < : $(mxserved $2 $) : > $1 < @ $2 >\n"
                        "R<$* : $=w . : $*> $*\t$@ RELAY\n",
                    ),
                    MC: mc("FEATURE(relay_based_on_MX)"),
                },
                {MC: mc("dnl FEATURE(relay_based_on_MX)")},
            ),
            Example(
                "a map of the same class for something else",
                {CF: CLOSED + "Kbestmx bestmx -z: -T<TEMP>\n"},
            ),
        ),
    ),
    Rule(
        id="relay-domain-wide",
        title="A whole domain relays only where somebody asked for it",
        section=Section.RELAYING,
        severity=Severity.MEDIUM,
        fix=Fix.ASK,
        rationale=(
            "relay_entire_domain lets every host of this host's own domain relay: class m, not 'all "
            "regions' as the guide has it. One desktop there that is taken over is enough. Where "
            "relay-domains names nobody, it is likely that nobody asked for it; elsewhere it is advice."
        ),
        judge=_judge_wide,
        mend=_mend_wide,
        references=("guide 8", "cf/README, relay_entire_domain"),
        examples=(
            Example(
                "relay-domains is not there",
                {
                    CF: CLOSED.replace(RCPT_RULES, "R$+ < @ $* $=m >\t$@ RELAY\n" + RCPT_RULES).replace(
                        "R<?> $=w\t", "R<?> $* $=m\t\t$@ RELAY\nR<?> $=w\t"
                    )
                },
                {CF: CLOSED},
            ),
            Example(
                "relay-domains names somebody: advice",
                {
                    CF: CLOSED.replace(RCPT_RULES, "R$+ < @ $* $=m >\t$@ RELAY\n" + RCPT_RULES),
                    "/etc/mail/relay-domains": "# backup for\nexample.org\n",
                },
            ),
        ),
    ),
    Rule(
        id="relay-loose",
        title="Addresses within addresses are checked",
        section=Section.RELAYING,
        severity=Severity.MEDIUM,
        fix=Fix.ASK,
        rationale=(
            "user%elsewhere@domain is mail to user@elsewhere by way of the domain. Sendmail looks into the "
            "user part before it relays to the domain; with loose_relay_check it does not, and everybody "
            "may send everywhere through a domain that this host relays for."
        ),
        judge=_judge(_LOOSE),
        mend=_mend(*_LOOSE),
        references=("guide 8", "cf/README, loose_relay_check"),
        examples=(
            Example(
                "without a .mc",
                {
                    CF: CLOSED.replace(
                        RCPT_OK,
                        "SRcpt_ok\nR$*\t\t\t$: $>CanonAddr $1\n"
                        "R$* < @ $* . >\t\t$1 < @ $2 >\t\t\tstrip trailing dots\n",
                    )
                },
                {CF: CLOSED},
            ),
            Example("what m4 makes without it", {CF: CLOSED}),
        ),
    ),
    Rule(
        id="relay-senders",
        title="Senders have a domain, and it exists",
        section=Section.RELAYING,
        severity=Severity.LOW,
        fix=Fix.ASK,
        rationale=(
            "Mail from a sender to whom nothing can be returned is spam or a mistake. "
            "accept_unresolvable_domains is Red Hat's default, for hosts that reach no name server: with it "
            "any invented domain will do. accept_unqualified_senders is for clients that know no domain; "
            "they are better served by the submission port, which completes addresses. A rule of "
            "Local_check_mail that accepts everything does the same as both."
        ),
        judge=_judge_senders,
        mend=_mend_senders,
        references=("guide 8", "cf/README, accept_unqualified_senders, accept_unresolvable_domains"),
        examples=(
            Example(
                "Red Hat's default",
                {
                    CF: CLOSED.replace(
                        "R<?> $* < @ $+ >\t$: <? $(resolve $2 $: $2 <PERM> $) > $1 < @ $2 >\n"
                        "R<? $* <$->> $* < @ $+ >\n\t\t\t$: <$2> $3 < @ $4 >\n",
                        "R<?> $* < @ $+ >\t$: <OKR> $1 < @ $2 >\t\t... unresolvable OK\n",
                    ),
                    MC: mc("FEATURE(`accept_unresolvable_domains')"),
                },
                {MC: mc("dnl FEATURE(`accept_unresolvable_domains')")},
                profile="redhat",
            ),
            Example("both are checked", {CF: CLOSED + "SLocal_check_mail\nR<>\t$# OK\n"}),
        ),
    ),
)
