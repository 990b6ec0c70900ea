# SPDX-License-Identifier: Apache-2.0
"""Texts of the examples of the relay rules: the lines of a .cf that tell the FEATUREs apart (proto.m4)."""

from __future__ import annotations

CF = "/etc/mail/sendmail.cf"
MC = "/etc/mail/sendmail.mc"

HEAD = "V10/Berkeley\n"
MAPS = "Kresolve host -a<OKR> -T<TEMP>\nC{ResOk}OKR\nFR-o /etc/mail/relay-domains\n"
ACCESS = "C{Accept}OK RELAY\nKaccess hash -T<TMPF> /etc/mail/access\n"
PARSE = (
    "SParseRecipient\n"
    "R$*\t\t\t\t$: <?> $>CanonAddr $1\n"
    "R<?> $* < @ $* . >\t\t<?> $1 < @ $2 >\t\t\tstrip trailing dots\n"
    "R<NO> $* < @ $* $=R >\t\t$: <RELAY> $1 < @ $2 $3 >\n"
)
CHECK_RELAY = (
    "SLocal_check_relay\n"
    "Scheck_relay\n"
    'R$*\t\t\t$: $1 $| $>"Local_check_relay" $1\n'
    "R$* $| $* $| $#$*\t$#$3\n"
    'R$* $| $* $| $*\t\t$@ $>"Basic_check_relay" $1 $| $2\n'
    "SBasic_check_relay\n"
)
RELAY_CHECKED = "R< $* > $*\t\t$: $2\n"
MAIL = (
    "SBasic_check_mail\n"
    "R<?> $* < @ $+ >\t$: <? $(resolve $2 $: $2 <PERM> $) > $1 < @ $2 >\n"
    "R<? $* <$->> $* < @ $+ >\n\t\t\t$: <$2> $3 < @ $4 >\n"
    'R<? $+> $*\t\t$#error $@ 5.5.4 $: "553 Domain name required for sender address " $&f\n'
)
DENIAL = 'R$*\t\t\t$#error $@ 5.7.1 $: "550 Relaying denied"\n'
CHECK_RCPT = (
    "SLocal_check_rcpt\n"
    "Scheck_rcpt\n"
    'R$*\t\t\t$: $1 $| $>"Local_check_rcpt" $1\n'
    "R$* $| $#$*\t\t$#$2\n"
    'R$* $| $*\t\t$@ $>"Basic_check_rcpt" $1\n'
    "SBasic_check_rcpt\n"
    'R$*\t\t\t$: $1 $| @ $>"Rcpt_ok" $1\n'
    "R$* $| @ $#$*\t\t$#$2\n"
)
RELAY_OK_CALLED = 'R$* $| @ $*\t\t$: O $| $>"Relay_ok" $1\nR$* $| RELAY\t\t$@ RELAY\n'
RCPT_OK = "SRcpt_ok\nR$*\t\t\t$: $>ParseRecipient $1\t\tstrip relayable hosts\n"
BLOCKLISTING = 'R<REJECT> $*\t\t$#error $@ 5.2.1 $: "550 Mailbox disabled for this recipient"\n'
RCPT_RULES = "R$+ < @ $=w >\t\t$@ RELAY\nR$+ < @ $* $=R >\t$@ RELAY\n"
RELAY_OK = "SRelay_ok\nR$*\t\t\t$: $&{client_addr}\nR$=R $*\t\t\t$@ RELAY\t\trelayable IP address\n"
RELAY_END = "R$*\t\t\t$: < $&{client_resolve} >\nR<?> $=w\t\t$@ RELAY\n"

# A .cf that relays for nobody, in parts that the examples change.
CLOSED_RCPT = CHECK_RCPT + RELAY_OK_CALLED + DENIAL + RCPT_OK + RCPT_RULES + RELAY_OK + RELAY_END
CLOSED = HEAD + MAPS + PARSE + CHECK_RELAY + RELAY_CHECKED + MAIL + CLOSED_RCPT
PROMISCUOUS = HEAD + MAPS + PARSE + CHECK_RELAY + RELAY_CHECKED + MAIL + CHECK_RCPT + RCPT_OK


def mc(*features: str) -> str:
    """Return a .mc that calls these FEATUREs."""
    lines = "".join(f"{feature}dnl\n" for feature in features)
    return f"OSTYPE(`linux')dnl\n{lines}MAILER(`smtp')dnl\n"


def asked(zone: str) -> str:
    """Return the rules of FEATURE(`dnsbl') for a list."""
    return (
        f"# DNS based IP address spam list {zone}\n"
        "R$*\t\t\t$: $&{client_addr}\n"
        f"R$-.$-.$-.$-\t\t$: <?> $(dnsbl $4.$3.$2.$1.{zone}. $: OK $)\n"
        "R<?>OK\t\t\t$: OKSOFAR\n"
        "R<?>$+<TMP>\t\t$: TMPOK\n"
        f'R<?>$+\t\t$#error $@ 5.7.1 $: "550 Rejected: " $&{{client_addr}} " listed at {zone}"\n'
    )
