# SPDX-License-Identifier: Apache-2.0
"""What an entry of the access table says (cf/README, "ANTI-SPAM CONFIGURATION CONTROL"; proto.m4).

It classifies; rules judge. The forms of RELAY and of what it is for were tried with ``check_rcpt`` of
Sendmail 8.17; the other actions are those of cf/README.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum

from hardend.formats.recipients import scan

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_CHECKS = ("Connect", "From", "To", "Spam")
_SETTINGS = (
    "AuthInfo", "CERTIssuer", "CERTSubject", "ClientConn", "ClientRate", "Clt_Features", "D2", "D2HS",
    "GreetPause", "Srv_Features", "TLS_Clt", "TLS_Clt_features", "TLS_Rcpt", "TLS_Srv", "TLS_Srv_features",
    "Try_TLS",
)  # fmt: skip
_TAGS = {tag.lower(): tag for tag in (*_CHECKS, *_SETTINGS)}
_V4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){0,3}")
# Sendmail writes no leading zeros, and looks up no key that has them.
_V6 = re.compile(r"ipv6:((?!.*\b0[0-9a-f])[0-9a-f:]+)")
_NAME = re.compile(r"[\w-]+(?:\.[\w-]+)*", re.ASCII)
_CODE = re.compile(r"[245]\d\d(?: |\Z)")
_V4_OCTETS = 4
_V6_GROUPS = 8
# Names that have one label, or look like a domain, and are this host.
_THIS_HOST = frozenset({"localhost", "localhost.localdomain"})
_BROAD_V4 = 8
_BROAD_V6 = 16
# RFC 1918, RFC 4193, link-local, and this host itself.
_OWN = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "fc00::/7", "fe80::/10")
)


class Subject(StrEnum):
    """What an entry is about."""

    DEFAULT = "default"  # nothing behind the tag: everybody who has no entry
    ADDRESS = "address"  # one IP address
    NETWORK = "network"  # the first octets (10, 192.168.3), the first groups (IPv6:2001:db8)
    TLD = "tld"  # one label: every name under it
    DOMAIN = "domain"  # a name and every name under it; a host has no form of its own
    HOST = "host"  # this host by name, or [192.0.2.7]: a client without a name
    USER = "user"  # user@: at any domain
    MAILBOX = "mailbox"  # user@domain
    OTHER = "other"  # never looked up: 10.0.0.0/8, 10., .example.com


class Action(StrEnum):
    """What the entry says to do; RELAY and the like are known in any case."""

    RELAY = "relay"
    OK = "ok"
    REJECT = "reject"
    DISCARD = "discard"
    SKIP = "skip"
    QUARANTINE = "quarantine"
    ERROR = "error"  # ERROR:D.S.N:text, or a reply code and text
    FRIEND = "friend"  # of Spam: with delay_checks
    HATER = "hater"
    SETTING = "setting"  # what follows a tag such as Srv_Features: is no action
    OTHER = "other"  # no action that Sendmail knows: RELAY # note


_WORDS = {
    action.value: action
    for action in Action
    if action not in {Action.ERROR, Action.SETTING, Action.OTHER, Action.QUARANTINE}
}


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """One entry: ``tag`` as cf/README spells it ("" for none), subject and its kind, action, argument.

    ``network`` holds the addresses of an ADDRESS or a NETWORK; ``argument`` what stands behind
    ``ERROR:`` or ``QUARANTINE:``, the whole value for a SETTING and for an unknown action.
    """

    tag: str
    subject: str
    kind: Subject
    action: Action
    argument: str = ""
    network: Network | None = None

    @property
    def relays(self) -> bool:
        """Whether it lets mail through to other hosts: RELAY for clients, senders or recipients."""
        return self.action is Action.RELAY and self.tag in {"", "Connect", "From", "To"}


def access_entry(key: str, value: str) -> AccessEntry:
    """Return what an entry of the access table says, from its key and value. Never raises."""
    tag, subject = _tagged(key)
    kind, network = _kind(subject)
    if tag in _SETTINGS:
        return AccessEntry(tag, subject, kind, Action.SETTING, value.strip(), network)
    action, argument = _action(value.strip())
    return AccessEntry(tag, subject, kind, action, argument, network)


def is_broader_than_network(entry: AccessEntry) -> bool:
    """Return whether an entry relays for more than a site can have: a TLD, or a very short prefix.

    That is RELAY for one label; for one octet of IPv4, or one group of IPv6, that is not of a private
    network or this host itself.
    """
    if not entry.relays:
        return False
    if entry.network is None:
        return entry.kind is Subject.TLD
    broad = _BROAD_V4 if isinstance(entry.network, ipaddress.IPv4Network) else _BROAD_V6
    return entry.network.prefixlen <= broad and not _is_own(entry.network)


def _is_own(network: Network) -> bool:
    return any(
        network.network_address in own and network.prefixlen >= own.prefixlen for own in _OWN
    )


def _tagged(key: str) -> tuple[str, str]:
    before, colon, rest = key.partition(":")
    tag = _TAGS.get(before.lower(), "") if colon else ""
    return (tag, rest) if tag else ("", key)


def _kind(subject: str) -> tuple[Subject, Network | None]:
    network = _network(subject.lower())
    if network is not None:
        whole = network.prefixlen == network.max_prefixlen
        return (Subject.ADDRESS if whole else Subject.NETWORK), network
    user, at, domain = subject.rpartition("@")
    if at:
        named = Subject.MAILBOX if user and _NAME.fullmatch(domain) else Subject.OTHER
        return (Subject.USER if user and not domain else named), None
    bracketed = subject.startswith("[") and subject.endswith("]")
    if subject.lower() in _THIS_HOST or (bracketed and _network(subject[1:-1].lower()) is not None):
        return Subject.HOST, None
    if not subject:
        return Subject.DEFAULT, None
    if not _NAME.fullmatch(subject) or _V4.fullmatch(subject):
        return Subject.OTHER, None
    return (Subject.DOMAIN if "." in subject else Subject.TLD), None


def _network(text: str) -> Network | None:
    """Return the addresses that an address or a prefix of whole octets or groups stands for."""
    six = _V6.fullmatch(text)
    try:
        if _V4.fullmatch(text):
            octets = text.split(".")
            missing = ["0"] * (_V4_OCTETS - len(octets))
            return ipaddress.IPv4Network(f"{'.'.join(octets + missing)}/{8 * len(octets)}")
        if six and "::" in six[1]:
            return ipaddress.IPv6Network(six[1])
        if six:
            groups = six[1].split(":")
            rest = "" if len(groups) == _V6_GROUPS else "::"
            return ipaddress.IPv6Network(f"{six[1]}{rest}/{16 * len(groups)}")
    except ValueError:
        pass
    return None


def _action(value: str) -> tuple[Action, str]:
    # As a rule sees it: one token; comments in parentheses are gone, quotes are not.
    tokens = scan(value.encode("utf-8", "surrogateescape")).tokens
    if len(tokens) == 1:
        word = tokens[0].decode("utf-8", "surrogateescape").lower()
        if word in _WORDS:
            return _WORDS[word], ""
    before, colon, rest = value.partition(":")
    if colon and before.lower() in {"error", "quarantine"}:
        return Action(before.lower()), rest
    return (Action.ERROR if _CODE.match(value) else Action.OTHER), value
