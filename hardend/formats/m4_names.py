# SPDX-License-Identifier: Apache-2.0
"""The macros of GNU m4 1.4 and those of Sendmail 8.17's cf.m4, as far as they matter to a reader.

Where they come from: ``m4 -d`` and cf/m4/cfhead.m4, cf/feature/msp.m4, cf/feature/nullclient.m4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum


class Tail(Enum):
    """What a call does to the rest of its line."""

    STAYS = "stays"
    GOES = "goes"  # its text ends in a dnl
    PERHAPS = "perhaps"  # one of the texts that it may give has a dnl


@dataclass(frozen=True, slots=True)
class Macro:
    """What is known of a macro.

    ``blind``: without ``(`` it is a word like any other. ``read_from``: the first argument whose quoted
    text may be read again; those before it are names. ``own``: m4's or Sendmail's, not the text's.
    """

    tail: Tail = Tail.STAYS
    blind: bool = False
    read_from: int = 0
    own: bool = True


def _all(macro: Macro | None, names: str) -> Iterable[tuple[bytes, Macro | None]]:
    return ((name.encode(), macro) for name in names.split())


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEVER = 1_000_000  # no argument is read again
_BLIND_NAMES = Macro(blind=True, read_from=_NEVER)

BUILTINS: Mapping[bytes, Macro | None] = dict(
    [
        (b"dnl", Macro(Tail.GOES)),
        *_all(Macro(blind=True, read_from=1), "define pushdef ifdef"),
        *_all(Macro(blind=True), "ifelse m4wrap shift substr translit patsubst regexp format"),
        *_all(Macro(blind=True), "builtin indir eval incr decr"),
        *_all(_BLIND_NAMES, "undefine popdef defn include sinclude errprint syscmd esyscmd"),
        *_all(_BLIND_NAMES, "maketemp mkstemp index len"),
        *_all(Macro(read_from=_NEVER), "changecom changequote divert divnum dumpdef m4exit undivert"),
        *_all(Macro(read_from=_NEVER), "debugmode debugfile sysval traceon traceoff"),
        *_all(Macro(read_from=_NEVER), "__file__ __line__ __program__ __gnu__ __unix__"),
    ]
)

# What cf.m4 defines whatever was defined before.
CF_DEFAULTS = _names(
    "ALIAS_FILE DATABASE_MAP_TYPE confALIAS_WAIT confBLANK_SUB confCHECK_ALIASES confCON_EXPENSIVE"
    " confCR_FILE confCW_FILE confDELIVERY_MODE confFORWARD_PATH confFROM_LINE confLOG_LEVEL"
    " confMAILER_NAME confMCI_CACHE_SIZE confMCI_CACHE_TIMEOUT confMILTER_MACROS_CONNECT"
    " confMILTER_MACROS_ENVFROM confMILTER_MACROS_ENVRCPT confMILTER_MACROS_EOM confMILTER_MACROS_HELO"
    " confMIME_FORMAT_ERRORS confMIN_FREE_BLOCKS confOLD_STYLE_HEADERS confOPERATORS confPRIVACY_FLAGS"
    " confRECEIVED_HEADER confSAFE_QUEUE confSEVEN_BIT_INPUT confSMTP_LOGIN_MSG confTEMP_FILE_MODE"
    " confTIME_ZONE confTO_QUEUERETURN confTO_QUEUEWARN confUSE_ERRORS_TO"
)

# cf.m4 undefines "format". Those in the last lines end in a dnl: what stands behind them is lost.
CF_MACROS: Mapping[bytes, Macro | None] = dict(
    [
        (b"format", None),
        (b"VERSIONID", Macro(read_from=_NEVER)),
        *_all(Macro(read_from=_NEVER, own=False), " ".join(CF_DEFAULTS)),
        *_all(Macro(read_from=1), "FEATURE MAILER OSTYPE DOMAIN HACK SITECONFIG MODIFY_MAILER_FLAGS"),
        *_all(Macro(), "DAEMON_OPTIONS CLIENT_OPTIONS MAIL_FILTER INPUT_MAIL_FILTER QUEUE_GROUP"),
        *_all(Macro(), "MAILER_DEFINITIONS LOCAL_CONFIG LOCAL_RULE_0 LOCAL_RULE_1 LOCAL_RULE_2"),
        *_all(Macro(), "LOCAL_RULE_3 LOCAL_RULESETS LOCAL_UUCP LOCAL_DNSBL LOCAL_NET_CONFIG"),
        *_all(Macro(), "LOCAL_SRV_FEATURES LOCAL_CLT_FEATURES LOCAL_TRY_TLS LOCAL_TLS_RCPT"),
        *_all(Macro(), "LOCAL_TLS_CLIENT LOCAL_TLS_SERVER MASQUERADE_AS UUCPSMTP CONCAT DOL SITE"),
        *_all(Macro(), "PUSHDIVERT POPDIVERT lower strcasecmp"),
        *_all(Macro(Tail.GOES), "EXPOSED_USER EXPOSED_USER_FILE LOCAL_USER LOCAL_USER_FILE LOCAL_DOMAIN"),
        *_all(Macro(Tail.GOES), "MASQUERADE_DOMAIN MASQUERADE_DOMAIN_FILE MASQUERADE_EXCEPTION"),
        *_all(Macro(Tail.GOES), "MASQUERADE_EXCEPTION_FILE CANONIFY_DOMAIN CANONIFY_DOMAIN_FILE"),
        *_all(Macro(Tail.GOES), "GENERICS_DOMAIN GENERICS_DOMAIN_FILE LDAPROUTE_DOMAIN"),
        *_all(Macro(Tail.GOES), "LDAPROUTE_DOMAIN_FILE LDAPROUTE_EQUIVALENT LDAPROUTE_EQUIVALENT_FILE"),
        *_all(Macro(Tail.GOES), "VIRTUSER_DOMAIN VIRTUSER_DOMAIN_FILE RELAY_DOMAIN RELAY_DOMAIN_FILE"),
        *_all(Macro(Tail.GOES), "TRUST_AUTH_MECH"),
    ]
)

# What these features define or undefine whatever was defined before.
FEATURE_DEFINES: Mapping[str, frozenset[str]] = {
    "msp": _names(
        "ALIAS_FILE confDELIVERY_MODE confDONT_PROBE_INTERFACES confFORWARD_PATH confPRIVACY_FLAGS"
        " confQUEUE_FILE_MODE confUSE_MSP LOCAL_MAILER_ARGS LOCAL_MAILER_DSN_DIAGNOSTIC_CODE"
        " LOCAL_MAILER_FLAGS LOCAL_MAILER_PATH LOCAL_SHELL_ARGS LOCAL_SHELL_FLAGS LOCAL_SHELL_PATH"
        " QUEUE_DIR"
    ),
    "nullclient": _names("ALIAS_FILE MAIL_HUB SMART_HOST confFORWARD_PATH"),
}
# They call MAILER, so that a FEATURE behind them comes too late.
FEATURES_WITH_MAILERS = frozenset(FEATURE_DEFINES)
