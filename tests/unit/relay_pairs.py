# SPDX-License-Identifier: Apache-2.0
"""Pairs of a .cf with a FEATURE about relaying and the same without it, made with Sendmail's own m4 files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tests.unit.cf_corpus import plain_m4

# FEATUREs that without_feature() takes out of a .cf.
MENDABLE = (
    "relay_local_from", "relay_mail_from", "relay_based_on_MX", "relay_entire_domain", "loose_relay_check",
    "accept_unresolvable_domains",
)  # fmt: skip
# What features() tells of a .cf where that is not the name of the FEATURE.
NAMES = {
    "relay_mail_from_domain": {"relay_mail_from", "relay_mail_from domain"},
    "blacklist_recipients": {"blocklist_recipients"},
}
# The rule that a FEATURE breaks (or, behind a dash, meets), where one judges it.
JUDGED = {
    "relay_local_from": "relay-from",
    "relay_mail_from": "relay-from",
    "relay_mail_from_domain": "relay-from",
    "relay_based_on_MX": "relay-mx",
    "relay_entire_domain": "relay-domain-wide",
    "loose_relay_check": "relay-loose",
    "promiscuous_relay": "relay-open",
    "accept_unresolvable_domains": "relay-senders",
    "accept_unqualified_senders": "relay-senders",
    "rbl": "relay-blocklists",
    "access_db": "-relay-access-db",
    "blocklist_recipients": "-relay-access-db",
    "blacklist_recipients": "-relay-access-db",
}
_CALLS = {
    "relay_mail_from_domain": "FEATURE(`relay_mail_from', `domain')",
    "dnsbl": "FEATURE(`dnsbl', `bl.example')",
    "enhdnsbl": "FEATURE(`enhdnsbl', `bl.example')",
}
FEATURES = (
    *MENDABLE, "relay_mail_from_domain", "promiscuous_relay", "relay_hosts_only", "access_db",
    "blocklist_recipients", "blacklist_recipients", "dnsbl", "enhdnsbl", "accept_unqualified_senders",
    "use_cw_file", "use_ct_file", "delay_checks",
)  # fmt: skip
_NEEDS_ACCESS = {
    "relay_mail_from", "relay_mail_from_domain", "blocklist_recipients", "blacklist_recipients",
}  # fmt: skip
# What both .cf of a pair have besides.
RESTS = {
    "": (),
    "access": ("access_db",),
    "access-delay-auth": ("access_db", "delay_checks"),
}
_AUTH = "TRUST_AUTH_MECH(`PLAIN LOGIN')dnl\n"
# FEATURE(`rbl') went in 8.12; a .cf of that time may still hold its lines.
_OLD_RBL = (
    "R$*\t\t\t$: $&{client_addr}\n"
    "R$-.$-.$-.$-\t\t$: $(host $4.$3.$2.$1.rbl.maps.vix.com. $: OK $)\n"
    'ROK\t\t\t$@ OK\nR$+\t\t\t$#error $@ 5.7.1 $: "Mail from " $&{client_addr} " refused"\n'
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A FEATURE, and what the .cf with it and the one without it have besides."""

    feature: str
    rest: str

    @property
    def names(self) -> set[str]:
        """What features() is to tell of the one more than of the other."""
        return NAMES.get(self.feature, {self.feature})

    @property
    def present(self) -> bytes:
        """The .cf with the FEATURE."""
        if self.feature == "rbl":
            return self.absent.replace(b"SBasic_check_relay\n", b"SBasic_check_relay\n" + _OLD_RBL.encode())
        return made((*RESTS[self.rest], self.feature), auth="auth" in self.rest)

    @property
    def absent(self) -> bytes:
        """The .cf without it."""
        return made(RESTS[self.rest], auth="auth" in self.rest)


@cache
def made(called: tuple[str, ...], *, auth: bool = False) -> bytes:
    """Return the .cf that m4 makes with these FEATUREs."""
    features = [_CALLS.get(name, "FEATURE(`" + name + "')") + "dnl\n" for name in called]
    text = ["OSTYPE(`linux')dnl\n", _AUTH if auth else "", *features, "MAILER(`smtp')dnl\n"]
    return plain_m4("".join(text).encode())[0]


def pairs() -> tuple[Pair, ...]:
    """Return all pairs. Nothing is made before it is asked for."""
    return tuple(
        Pair(feature, rest)
        for rest, both in RESTS.items()
        for feature in (*FEATURES, "rbl")
        if feature not in both and ("access_db" in both or feature not in _NEEDS_ACCESS)
    )
