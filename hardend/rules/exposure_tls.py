# SPDX-License-Identifier: Apache-2.0
"""What the guide lacks of TLS: old versions, weak ciphers, and who can read the private key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from hardend.formats.cf import Cf
from hardend.model import FileType, printable
from hardend.rules.documents import Documents, NotApplicableError, UnknownError
from hardend.rules.exposure import configurations, demand_change, dont_blame, remedy_at
from hardend.rules.exposure_files import is_in_mail_directory
from hardend.rules.options import Option, defined, set_option
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity
from hardend.rules.trust import way_to

_CIPHERS = Option("CipherList", "confCIPHER_LIST")
_SIDES = (
    Option("ServerSSLOptions", "confSERVER_SSL_OPTIONS"),
    Option("ClientSSLOptions", "confCLIENT_SSL_OPTIONS"),
)
_CERTIFICATES = ("ServerCertFile", "ServerKeyFile", "ClientCertFile", "ClientKeyFile")
_KEYS = ("ServerKeyFile", "ClientKeyFile")
_OLD_VERSIONS = ("SSL_OP_NO_SSLv2", "SSL_OP_NO_SSLv3", "SSL_OP_NO_TLSv1", "SSL_OP_NO_TLSv1_1")
# What sendmail sets itself on the client's side (op guide, ClientSSLOptions).
_SET_BY_DEFAULT = {"ClientSSLOptions": frozenset({"ssl_op_no_sslv2"})}
_WEAK_CIPHER = re.compile(
    r"(?:\A|[+-])(?:[ae]?NULL|ADH|AECDH|COMPLEMENTOFALL|EXP(?:ORT\d*)?|LOW|3?DES|RC[24]|MD5|SSLV2)(?=[+-]|\Z)"
    r"|\A@SECLEVEL=[01]\Z",
    re.IGNORECASE,
)
_PLAIN_LIST = re.compile(r"[\w+!:@=., \t\n-]*")
_STRONG_CIPHERS = "HIGH:!aNULL:!eNULL"


def _judge_tls(documents: Documents) -> Iterator[Fault]:
    _demand_certificates(documents)
    path, cf = documents.layout.cf, documents.cf()
    for side in _SIDES:
        lacking = _allowed_versions(cf, side)
        if lacking:
            values = cf.options(side.name)
            what = f"{side.name} lacks {', '.join(lacking)}: versions that are broken can be agreed on"
            remedy = remedy_at(documents, path, side, f"add {','.join(lacking)} with")
            yield Fault(path, values[-1].line if values else 0, what, remedy)
    value = cf.option(_CIPHERS.name)
    weak = _weak_ciphers(value.text) if value else []
    if value and weak:
        what = f"CipherList allows {printable(', '.join(weak))}, which can be read or forged on the way"
        yield Fault(path, value.line, what, remedy_at(documents, path, _CIPHERS, "remove them from"))
    for key in _keys(documents):
        known = documents.attributes[key]
        if known.mode != (wanted := _closed(documents, known.mode)):
            who = "everybody" if known.mode & 0o007 else "its group"
            what = f"mode {known.mode:04o}: {who} can use the key of this host"
            is_ours = is_in_mail_directory(documents, key)
            remedy = f"chmod {wanted:04o} {printable(key)}"
            remedy += "" if is_ours else ", or a copy for Sendmail where others need it so"
            yield Fault(key, 0, what, remedy, mendable=is_ours)


def _mend_tls(documents: Documents) -> Documents:
    _demand_certificates(documents)
    for side in _SIDES:
        if _allowed_versions(documents.cf(), side):
            documents = _with_list(documents, side, _without_old_versions)
    value = documents.cf().option(_CIPHERS.name)
    if value and _weak_ciphers(value.text):
        documents = _with_list(documents, _CIPHERS, _without_weak_ciphers)
    for key in filter(lambda path: is_in_mail_directory(documents, path), list(_keys(documents))):
        known = documents.attributes[key]
        documents = documents.with_attributes(key, replace(known, mode=_closed(documents, known.mode)))
    return documents


def _demand_certificates(documents: Documents) -> None:
    values = [documents.cf().option(name) for name in _CERTIFICATES]
    if not any(value and value.text for value in values):
        raise NotApplicableError("no certificate is configured: this host speaks no TLS to its clients")


def _allowed_versions(cf: Cf, side: Option) -> list[str]:
    """Return the flags that forbid an old version and are not in force; a later -FLAG clears one."""
    flags = set(_SET_BY_DEFAULT.get(side.name, frozenset()))
    for value in cf.options(side.name):
        for word in _words(value.text):
            name = word.lstrip("+-").lower()
            flags = flags - {name} if word.startswith("-") else flags | {name}
    return [flag for flag in _OLD_VERSIONS if flag.lower() not in flags]


def _with_list(documents: Documents, option: Option, mended: Callable[[str], str]) -> Documents:
    """Return the documents with the list of an option mended; of a .mc, its own text comes first."""
    cf = documents.layout.cf
    values = documents.cf().options(option.name)
    text = defined(documents, cf, option)
    if text is None or not _PLAIN_LIST.fullmatch(text):
        # A define replaces what the includes of the .mc say; a line of a .cf stands behind the others.
        accumulates = option in _SIDES and documents.mc_of(cf) is not None
        text = " ".join(value.text for value in (values if accumulates else values[-1:]))
    return demand_change(documents, set_option(documents, cf, option, mended(text)), cf, option)


def _without_old_versions(text: str) -> str:
    ours = {flag.lower() for flag in _OLD_VERSIONS}
    kept = [word for word in _words(text) if word.lstrip("+-").lower() not in ours]
    return ",".join([*kept, *_OLD_VERSIONS])


def _without_weak_ciphers(text: str) -> str:
    weak = set(_weak_ciphers(text))
    kept = [word for word in _words(text, ":") if word not in weak]
    return ":".join(kept) if any(word[0] not in "!-+@" for word in kept) else _STRONG_CIPHERS


def _weak_ciphers(text: str) -> list[str]:
    words = _words(text, ":")
    killed = {word[1:].lower() for word in words if word.startswith("!")}
    named = [word for word in words if word[0] not in "!-+" and word.lower() not in killed]
    return [word for word in named if _WEAK_CIPHER.search(word)]


def _words(text: str, more: str = "") -> list[str]:
    return [word for word in re.split(rf"[\s,{more}]+", text) if word]


def _keys(documents: Documents) -> Iterator[str]:
    """Yield the files of private keys, where links lead to. Raises UnknownError."""
    found: dict[str, None] = {}
    for path in configurations(documents):
        cf = documents.cf(path)
        for value in filter(None, map(cf.option, _KEYS)):
            found.update(dict.fromkeys(way_to(documents, key)[-1] for key in _words(value.text)))
    for key in found:
        if key in documents.unreadable and key not in documents.attributes:
            raise UnknownError(key, documents.unreadable[key])
        known = documents.attributes.get(key)
        if known is not None and known.kind is FileType.FILE:
            yield key


def _closed(documents: Documents, mode: int) -> int:
    """Return the mode of a key without what is too much; its group may read where a .cf says so."""
    flags = (dont_blame(documents.cf(path)) for path in configurations(documents))
    return mode & ~(0o037 if any("groupreadablekeyfile" in flag for flag in flags) else 0o077)


_TLS = "V10/Berkeley\nO ServerCertFile=/etc/mail/tls/host.crt\nO ServerKeyFile=/etc/mail/tls/host.key\n"
_VERSIONS = ",".join(_OLD_VERSIONS)

RULES = (
    Rule(
        id="exposure-tls",
        title="TLS has no broken versions and ciphers, and its key is Sendmail's alone",
        section=Section.EXPOSURE,
        severity=Severity.MEDIUM,
        fix=Fix.ASK,
        rationale=(
            "SSLv3, TLS 1.0 and 1.1 are broken and withdrawn (RFC 8996); what Sendmail allows is up to "
            "OpenSSL unless ServerSSLOptions and ClientSSLOptions say it. The flags add to what is compiled "
            "in. Some old servers speak nothing newer: mail to them goes in clear or waits "
            "(TLSFallbacktoClear), and old clients go on in clear. A key that others can read is everybody's "
            "key; the group may read it where GroupReadableKeyFile says so, as Debian's submission program "
            "needs. A key outside the mail directory is left: other daemons may read it through its group."
        ),
        judge=_judge_tls,
        mend=_mend_tls,
        references=("RFC 8996", "op guide 5.6", "cf/README, STARTTLS"),
        examples=(
            Example(
                "a certificate, and nothing said of versions",
                {"/etc/mail/sendmail.cf": _TLS},
                {
                    "/etc/mail/sendmail.cf": (
                        f"{_TLS}O ServerSSLOptions={_VERSIONS}\nO ClientSSLOptions={_VERSIONS}\n"
                    )
                },
            ),
            Example(
                "weak ciphers, and a key that everybody can read",
                {
                    "/etc/mail/sendmail.cf": (
                        f"{_TLS}O CipherList=HIGH:RC4:!aNULL:DES-CBC3-SHA\n"
                        f"O ServerSSLOptions={_VERSIONS}\nO ClientSSLOptions={_VERSIONS}\n"
                    ),
                    "/etc/mail/tls/host.key": "",
                },
                {
                    "/etc/mail/sendmail.cf": (
                        f"{_TLS}O CipherList=HIGH:!aNULL\n"
                        f"O ServerSSLOptions={_VERSIONS}\nO ClientSSLOptions={_VERSIONS}\n"
                    )
                },
                modes={"/etc/mail/tls/host.key": "root:smmsp 0644 -> root:smmsp 0600"},
            ),
            Example(
                "several lines add up, a killed cipher is none; the group reads as Debian's does",
                {
                    "/etc/mail/sendmail.cf": (
                        f"{_TLS}O DontBlameSendmail=GroupReadableKeyFile\nO CipherList=HIGH:!RC4:RC4\n"
                        "O ServerSSLOptions=ssl_op_no_sslv2 SSL_OP_NO_SSLv3\n"
                        "O ServerSSLOptions=SSL_OP_NO_TLSv1,+SSL_OP_NO_TLSv1_1\n"
                        "O ClientSSLOptions=SSL_OP_NO_SSLv3,SSL_OP_NO_TLSv1,SSL_OP_NO_TLSv1_1\n"
                    ),
                    "/etc/mail/tls/host.key": "",
                },
                modes={"/etc/mail/tls/host.key": "root:smmsp 0640"},
            ),
        ),
    ),
)
