# SPDX-License-Identifier: Apache-2.0
"""Pairs of a .cf with a FEATURE about relaying and the same without it.

They are those of the directory that HARDEND_CF_TREE names (``plain.cf`` and ``FEATURE.cf``, or
``plain+REST.cf`` and ``FEATURE+REST.cf`` where REST stands for what both have besides, made with m4),
and otherwise the lines that tell them apart.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hardend.rules import relay_texts as texts

TREE = os.environ.get("HARDEND_CF_TREE", "")

# FEATUREs that without_feature() takes out of a .cf.
MENDABLE = {
    "relay_local_from", "relay_mail_from", "relay_based_on_MX", "relay_entire_domain", "loose_relay_check",
    "accept_unresolvable_domains",
}  # fmt: skip
# What the name of a file stands for, where it is not the name of one FEATURE.
NAMES = {
    "relay_mail_from_domain": {"relay_mail_from", "relay_mail_from domain"},
    "blacklist_recipients": {"blocklist_recipients"},
    "dnsbl_dead": {"dnsbl"},
    "enhdnsbl_dead": {"enhdnsbl"},
}
FEATURES = {
    *MENDABLE, *NAMES, "promiscuous_relay", "relay_hosts_only", "access_db", "blocklist_recipients", "dnsbl",
    "enhdnsbl", "rbl", "accept_unqualified_senders", "use_cw_file", "use_ct_file", "delay_checks",
}  # fmt: skip
NEEDS_ACCESS = {
    "relay_mail_from", "relay_mail_from_domain", "blocklist_recipients", "blacklist_recipients"
}  # fmt: skip

_FROM = (
    "# check whether FROM is allowed to use system as relay\n"
    "R$*\t\t\t$: <?> $>CanonAddr $&f\n"
    "R<?> $+ < @ $+ . >\t<?> $1 < @ $2 >\t\tremove trailing dot\n"
)
_BY_TABLE = "R<?> $+ < @ $+ >\t$: <@> $>SearchList <! From> $| <F:$1@$2> %s <>\n"
_TABLE_SAYS = (
    "R<@> <RELAY>\t\t$@ RELAY\t\tRELAY FROM sender ok\n"
    'R<@> <<TMPF>>\t\t$#TEMP $@ 4.3.0 $: "451 Temporary system failure. Please try again later."\n'
)
_LOCAL = "# check whether local FROM is ok\nR<?> $+ < @ $=w >\t$@ RELAY\t\tFROM local\n"
_MX_FAILS = '$#TEMP $@ 4.4.0 $: "450 Can not check MX records for recipient host " $1\n'
_MX_PARSED = (
    "R<NO> $* < @ $+ >\t\t$: <MX> < : $(mxserved $2 $) : > < $1 < @$2 > >\n"
    f"R<MX> < : $* <TEMP> : > $*\t{_MX_FAILS}"
    "R<MX> < $* : $=w. : $* > < $+ >\t$: <RELAY> $4\n"
    "R<MX> < : $* : > < $+ >\t\t$: <NO> $2\n"
)
_MX = (
    "# allow relaying for hosts which we MX serve\n"
    "R$+ < @ $+ >\t\t$: < : $(mxserved $2 $) : > $1 < @ $2 >\n"
    f"R< : $* <TEMP> : > $*\t{_MX_FAILS}"
    "R<$* : $=w . : $*> $*\t$@ RELAY\n"
    "R< : $* : > $*\t\t$: $2\n"
)
_RESOLVED = (
    "R<?> $* < @ $+ >\t$: <? $(resolve $2 $: $2 <PERM> $) > $1 < @ $2 >\n"
    "R<? $* <$->> $* < @ $+ >\n\t\t\t$: <$2> $3 < @ $4 >\n"
)
_RESOLVE = "# Resolve map (to check if a host exists in check_mail)\nKresolve host -a<OKR> -T<TEMP>\n"
_UNQUALIFIED = 'R<? $+> $*\t\t$#error $@ 5.5.4 $: "553 Domain name required for sender address " $&f\n'
_OLD_RBL = (
    "R$*\t\t\t$: $&{client_addr}\n"
    "R$-.$-.$-.$-\t\t$: $(host $4.$3.$2.$1.rbl.maps.vix.com. $: OK $)\n"
    'ROK\t\t\t$@ OK\nR$+\t\t\t$#error $@ 5.7.1 $: "Mail from " $&{client_addr} " refused"\n'
)
_PLAIN = texts.CLOSED.replace(texts.MAPS, texts.MAPS.replace("Kresolve host -a<OKR> -T<TEMP>\n", _RESOLVE))
_LAST = texts.RCPT_RULES

# What to put in place of what.
_EDITS: dict[str, tuple[tuple[str, str], ...]] = {
    "promiscuous_relay": (
        (texts.RELAY_OK_CALLED + texts.DENIAL, ""),
        (texts.RCPT_RULES + texts.RELAY_OK + texts.RELAY_END, ""),
    ),
    "relay_local_from": ((texts.RELAY_END, _FROM + _LOCAL + texts.RELAY_END),),
    "relay_mail_from": ((texts.RELAY_END, _FROM + _BY_TABLE % "" + _TABLE_SAYS + texts.RELAY_END),),
    "relay_mail_from_domain": (
        (texts.RELAY_END, _FROM + _BY_TABLE % "<D:$2>" + _TABLE_SAYS + texts.RELAY_END),
    ),
    "relay_based_on_MX": (
        (texts.PARSE, texts.PARSE + _MX_PARSED),
        (_LAST, _LAST + _MX),
        (texts.MAPS.partition("\n")[2], texts.MAPS.partition("\n")[2] + "Kmxserved bestmx -z: -T<TEMP>\n"),
    ),
    "relay_entire_domain": (
        ("R$+ < @ $=w >\t\t$@", "R$+ < @ $* $=m >\t$@ RELAY\nR$+ < @ $=w >\t\t$@"),
        ("R<?> $=w\t\t$@", "R<?> $* $=m\t\t$@ RELAY\nR<?> $=w\t\t$@"),
    ),
    "relay_hosts_only": (("R$+ < @ $* $=R >\t", "R$+ < @ $=R >\t\t"),),
    "loose_relay_check": (
        (
            texts.RCPT_OK.partition("\n")[2],
            "R$*\t\t\t$: $>CanonAddr $1\nR$* < @ $* . >\t\t$1 < @ $2 >\t\t\tstrip trailing dots\n",
        ),
    ),
    "access_db": ((texts.HEAD, texts.HEAD + texts.ACCESS),),
    "blocklist_recipients": ((texts.RCPT_OK, texts.RCPT_OK + texts.BLOCKLISTING),),
    "dnsbl": ((texts.RELAY_CHECKED, texts.RELAY_CHECKED + texts.asked("bl.example")),),
    "enhdnsbl": (
        (texts.RELAY_CHECKED, texts.RELAY_CHECKED + texts.asked("bl.example").replace("dnsbl ", "ednsbl ")),
    ),
    "rbl": ((texts.RELAY_CHECKED, texts.RELAY_CHECKED + _OLD_RBL),),
    "accept_unqualified_senders": ((_UNQUALIFIED, ""),),
    "accept_unresolvable_domains": (
        (_RESOLVED, "R<?> $* < @ $+ >\t$: <OKR> $1 < @ $2 >\t\t... unresolvable OK\n"),
        (_RESOLVE, ""),
    ),
    "use_cw_file": ((texts.HEAD, texts.HEAD + "Fw/etc/mail/local-host-names %[^\\#]\n"),),
    "use_ct_file": ((texts.HEAD, texts.HEAD + "Ft/etc/mail/trusted-users\n"),),
}
_DELAYED = (("Scheck_rcpt\n", "Scheckrcpt\n"), ("Scheck_relay\n", "Scheckrelay\n"))
_DELAYING = "Scheck_rcpt\nR$+\t\t\t$: $1 $| $>checkrcpt $1\nR$* $| $#$*\t\t$#$2\n"


@dataclass(frozen=True, slots=True)
class Pair:
    """A .cf with a FEATURE and the same without it; ``rest`` is what both have besides."""

    feature: str
    rest: str
    present: bytes
    absent: bytes

    @property
    def names(self) -> set[str]:
        """What features() is to tell of it more than of the other."""
        return NAMES.get(self.feature, {self.feature})


@cache
def pairs() -> tuple[Pair, ...]:
    """Return all pairs; those of the directory in HARDEND_CF_TREE where it is set."""
    return tuple(_of_tree(Path(TREE)) if TREE else _of_lines())


def _of_tree(tree: Path) -> list[Pair]:
    found = []
    for path in sorted(tree.glob("*.cf")):
        feature, plus, rest = path.stem.partition("+")
        absent = tree / f"plain{plus}{rest}.cf"
        usable = "access" in rest or feature not in NEEDS_ACCESS
        if feature in FEATURES and usable and absent.exists():
            found.append(Pair(feature, rest, path.read_bytes(), absent.read_bytes()))
    return found


def _of_lines() -> list[Pair]:
    found = []
    for rest in ("access", "access-delay", "access-delay-auth"):
        plain = _with_rest(_edited(_PLAIN, _EDITS["access_db"]), rest)
        for feature, edits in _EDITS.items():
            before = _with_rest(_PLAIN, rest) if feature == "access_db" else plain
            present = _edited(before, _with_auth(edits) if "auth" in rest else edits)
            found.append(Pair(feature, rest, present.encode(), before.encode()))
    plain = _PLAIN
    delayed = _with_rest(plain, "delay")
    return [*found, Pair("delay_checks", "", delayed.encode(), plain.encode())]


def _with_rest(text: str, rest: str) -> str:
    if "delay" in rest:
        text = _edited(text, _DELAYED) + _DELAYING
    if "auth" in rest:
        text = _authenticated(text).replace(texts.HEAD, texts.HEAD + "C{TrustAuthMech}PLAIN\n")
    return text


def _with_auth(edits: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((_authenticated(old), _authenticated(new)) for old, new in edits)


def _authenticated(text: str) -> str:
    return text.replace("Relaying denied", "Relaying denied. Proper authentication required.")


def _edited(text: str, edits: tuple[tuple[str, str], ...]) -> str:
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text
