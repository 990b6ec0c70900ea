# SPDX-License-Identifier: Apache-2.0
"""The options of what the guide lacks, beyond the examples: near misses, and what must not be mended."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.formats.cf import Cf
from hardend.rules.catalogue import BY_ID, judge
from hardend.rules.documents import CannotMendError, Documents
from hardend.rules.exposure import LIMITS, dont_blame, number
from hardend.rules.rule import Fault, Verdict
from tests.unit.rulehost import documents_of

CF = "/etc/mail/sendmail.cf"
MC = "/etc/mail/sendmail.mc"
ACCESS = "/etc/mail/access"
KEY = "/etc/mail/tls/host.key"
HEAD = "V10/Berkeley\n"
CERTIFICATE = f"{HEAD}O ServerCertFile=/etc/mail/tls/host.crt\nO ServerKeyFile={KEY}\n"
VERSIONS = "SSL_OP_NO_SSLv2,SSL_OP_NO_SSLv3,SSL_OP_NO_TLSv1,SSL_OP_NO_TLSv1_1"
NEW_ONLY = f"O ServerSSLOptions={VERSIONS}\nO ClientSSLOptions={VERSIONS}\n"
EXPOSURE = [rule for rule in BY_ID if rule.startswith("exposure-")]
WORDS = (
    b"O |DontBlameSendmail|ServerCertFile|ServerSSLOptions|CipherList|LogLevel|=|9|DaemonPortOptions"
    b"|RejectNUL|ForwardPath|RunAsUser|PidFile|/|:|,|\n|\t|Ssrv_features|R|$#| G|Srv_Features:|\xff|\0|-|!"
    b"|safe|L|\r\n"
).split(b"|")
JUNK = st.lists(st.sampled_from(WORDS), max_size=30).map(b"".join)


def failing(rule: str, documents: Documents) -> list[Fault]:
    return [fault for fault in BY_ID[rule].judge(documents) if not fault.advice]


def advice(rule: str, documents: Documents) -> list[Fault]:
    return [fault for fault in BY_ID[rule].judge(documents) if fault.advice]


def mended(rule: str, documents: Documents) -> Documents:
    mend = BY_ID[rule].mend
    assert mend is not None
    return mend(documents)


def text_of(documents: Documents, path: str = CF) -> str:
    return documents.content[path].decode("utf-8", "surrogateescape")


def with_cf(text: str, **files: str) -> Documents:
    return documents_of({CF: HEAD + text, **files})


@given(JUNK, JUNK)
def test_junk_gets_a_verdict_from_every_rule(cf: bytes, access: bytes) -> None:
    texts = {CF: cf, ACCESS: access}
    documents = documents_of({path: data.decode("utf-8", "surrogateescape") for path, data in texts.items()})
    for rule in EXPOSURE:
        assert judge(documents, BY_ID[rule]).verdict in set(Verdict)
        if BY_ID[rule].mend is not None and judge(documents, BY_ID[rule]).verdict is Verdict.FAIL:
            once = mended(rule, documents)
            assert mended(rule, once) == once
            assert not [fault for fault in failing(rule, once) if fault.mendable]


# DontBlameSendmail --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "flags"),
    [
        pytest.param("", [], id="not set"),
        pytest.param("O DontBlameSendmail=safe\n", [], id="the default"),
        pytest.param("O DontBlameSendmail=,A,b C\n", ["a", "b", "c"], id="any separator, one at the front"),
        pytest.param("O DontBlameSendmail=A\nO dontblamesendmail=B\n", ["a", "b"], id="lines add up"),
        pytest.param("O DontBlameSendmail=A,safe,B\n", ["b"], id="safe clears in the line"),
        pytest.param("O DontBlameSendmail=A\nO DontBlameSendmail=SAFE\n", [], id="safe clears over lines"),
        pytest.param("O DontBlameSendmail=A,\n\tB # c\n", ["a", "b"], id="continued, and a comment"),
        pytest.param("#O DontBlameSendmail=A\n", [], id="a comment"),
    ],
)
def test_the_flags_in_force_are_those_that_sendmail_reads(lines: str, flags: list[str]) -> None:
    assert list(dont_blame(Cf((HEAD + lines).encode()))) == flags


FLAGS = ("TrustStickyBit", "NonRootSafeAddr", "MapInUnsafeDirPath", "runwritableprogram", "safe", "OneMore")
DANGEROUS = {"mapinunsafedirpath", "runwritableprogram"}


@given(st.lists(st.lists(st.sampled_from(FLAGS), max_size=4), max_size=4))
def test_the_fix_takes_the_dangerous_flags_and_no_other(lines: list[list[str]]) -> None:
    text = "".join(f"O DontBlameSendmail={','.join(words)}\nOL9\n" for words in lines)
    before = with_cf(text)
    after = mended("exposure-dontblame", before)
    flags = dont_blame(before.cf())
    assert set(dont_blame(after.cf())) == set(flags) - DANGEROUS
    assert (after is before) == DANGEROUS.isdisjoint(flags)


def test_each_configuration_is_judged_for_itself() -> None:
    submit = "/etc/mail/submit.cf"
    documents = with_cf("", **{submit: f"{HEAD}O DontBlameSendmail=WorldWritableAliasFile\n"})
    assert [fault.path for fault in failing("exposure-dontblame", documents)] == [submit]
    assert text_of(mended("exposure-dontblame", documents), submit) == f"{HEAD}O DontBlameSendmail=safe\n"


def test_flags_of_debian_are_one_advice() -> None:
    found = advice("exposure-dontblame", with_cf("O DontBlameSendmail=TrustStickyBit,GroupReadableKeyFile\n"))
    assert [fault.message for fault in found] == [
        "DontBlameSendmail switches checks off: TrustStickyBit, GroupReadableKeyFile"
    ]


def test_a_define_with_macros_becomes_what_was_in_force() -> None:
    define = "define(`confDONT_BLAME_SENDMAIL', {})dnl\nMAILER(`local')dnl\n"
    files = {MC: define.format("defn(`confDONT_BLAME_SENDMAIL')`,RunWritableProgram'")}
    documents = with_cf("O DontBlameSendmail=,TrustStickyBit,RunWritableProgram\n", **files)
    after = mended("exposure-dontblame", documents)
    assert text_of(after, MC) == define.format("`TrustStickyBit'")
    assert mended("exposure-dontblame", after) is after


def test_a_line_for_the_cf_in_the_mc_is_named_and_not_hidden() -> None:
    mc = "LOCAL_CONFIG\nO DontBlameSendmail=RunWritableProgram\nMAILER(`local')dnl\n"
    documents = with_cf("O DontBlameSendmail=RunWritableProgram\n", **{MC: mc})
    with pytest.raises(CannotMendError, match=r"sendmail.mc:2 adds RunWritableProgram"):
        mended("exposure-dontblame", documents)


# Numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"), [("9", 9), (" 14x", 14), ("-1", -1), ("", 0), ("x9", 0), ("10/200", 10), ("0x9", 0)]
)
def test_a_value_is_the_number_that_atoi_reads(text: str, value: int) -> None:
    assert number(text) == value


@pytest.mark.parametrize("value", ["8", "-1", "x9", ""])
def test_a_log_level_below_nine_is_found(value: str) -> None:
    documents = with_cf(f"O LogLevel={value}\n")
    assert [fault.line for fault in failing("exposure-loglevel", documents)] == [2]
    assert text_of(mended("exposure-loglevel", documents)) == f"{HEAD}O LogLevel=9\n"


def test_the_last_log_level_counts() -> None:
    documents = with_cf("OL14\nO LogLevel=3\n")
    assert text_of(mended("exposure-loglevel", documents)) == f"{HEAD}OL14\nO LogLevel=9\n"


def test_every_limit_that_is_off_is_found_and_set() -> None:
    documents = with_cf("".join(f"O {limit.option.name}=0\n" for limit in LIMITS))
    assert [fault.line for fault in failing("exposure-limits", documents)] == [*range(2, 2 + len(LIMITS))]
    after = mended("exposure-limits", documents)
    assert text_of(after) == HEAD + "".join(f"O {limit.option.name}={limit.value}\n" for limit in LIMITS)
    assert failing("exposure-limits", after) == []


def test_limits_of_a_mc_that_is_not_built_yet_are_kept() -> None:
    mc = "define(`confMAX_MESSAGE_SIZE', `1000000')dnl\nMAILER(`local')dnl\n"
    after = mended("exposure-limits", with_cf("", **{MC: mc}))
    assert "define(`confMAX_MESSAGE_SIZE', `1000000')dnl\n" in text_of(after, MC)
    assert "define(`confMAX_RCPTS_PER_MESSAGE', `100')dnl\n" in text_of(after, MC)


def test_what_a_mc_sets_already_is_refused_with_the_reason() -> None:
    mc = "define(`confLOG_LEVEL', `9')dnl\nMAILER(`local')dnl\n"
    documents = with_cf("O LogLevel=3\n", **{MC: mc})
    with pytest.raises(CannotMendError, match=r"confLOG_LEVEL is right at .*sendmail.mc:1"):
        mended("exposure-loglevel", documents)
    stale = replace(documents, stale=frozenset({CF}))
    assert mended("exposure-loglevel", stale) is stale


# Listeners ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fails", "advised"),
    [
        pytest.param("Name=MTA, Port=smtp, Addr=127.0.0.1", [], [], id="the loopback"),
        pytest.param("Family=inet6, Addr=::1, Port=587", [], [], id="the loopback of IPv6"),
        pytest.param("Addr=IPv6:::1, Port=587", [], [], id="spelled as sendmail spells it"),
        pytest.param("Family=local, Name=milter, Addr=/run/s", [], [], id="a socket"),
        pytest.param("Name=MTA", [], ["listens on port smtp of every IPv4 address"], id="no port: smtp"),
        pytest.param("family=inet6", [], ["listens on port smtp of every IPv6 address"], id="lower case"),
        pytest.param("A=192.0.2.1,P=25", [], ["listens on port 25 of 192.0.2.1"], id="letters do"),
        pytest.param("Port=587, M=E a", [], ["listens on port 587 of every IPv4 address"], id="asks"),
        pytest.param("Port=465,M=s", ["465"], [], id="TLS, which tells nothing of who sends"),
        pytest.param("Addr=12.7.0.1, Port=submission", ["submission"], [], id="not the loopback"),
        pytest.param("Addr=1270.example.com, Port=587", ["587"], [], id="a name that begins like it"),
    ],
)
def test_what_listens_is_told_and_open_submission_fails(
    options: str, fails: list[str], advised: list[str]
) -> None:
    documents = with_cf(f"O DaemonPortOptions={options}\n")
    assert [fault.message.split()[6] for fault in failing("exposure-listeners", documents)] == fails
    assert [fault.message for fault in advice("exposure-listeners", documents)] == advised


def test_without_the_option_sendmail_listens_everywhere() -> None:
    assert [fault.line for fault in advice("exposure-listeners", with_cf(""))] == [0]


# Smuggling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("Srv_Features:\tF O G U\n", "", id="for everybody, nothing left"),
        pytest.param("srv_features:10\tG v\nx\tOK\n", "srv_features:10\tv\nx\tOK\n", id="any case"),
        pytest.param("a\tOK\nSrv_Features:1\tF\nSrv_Features:2\tO V\n", "a\tOK\nSrv_Features:2\tV\n", id="2"),
        pytest.param("Srv_Features:1\tf o g2 u2 V\n", None, id="what is on"),
        pytest.param("#Srv_Features:1\tF\n", None, id="a comment"),
        pytest.param("Clt_Features:1\tF\nFrom:o.example\tOK\n", None, id="other tags"),
    ],
)
def test_entries_that_switch_protection_off_lose_it(before: str, after: str | None) -> None:
    documents = with_cf("", **{ACCESS: before})
    changed = mended("exposure-smuggling", documents)
    assert bool(failing("exposure-smuggling", documents)) == (after is not None)
    assert text_of(changed, ACCESS) == (before if after is None else after)
    assert after is not None or changed is documents


@pytest.mark.parametrize(
    ("rules", "lines"),
    [
        ("Slocal_srv_features\nR$* $| 10.$*\t$# G O\nR$*\t$@ OK\n", [3]),
        ("SLocal_srv_features=9\nR$*\t\t$#U\tlocal\n", [3]),
        ("Ssrv_features\nR<$+>$*\t$# $1\nR<$*>\t$#temp\n", []),
        ("Slocal_clt_features\nR$*\t$# F\n", []),
        ("Slocal_srv_features\nR$*\t$: G\nR$*\n", []),
    ],
)
def test_rules_that_switch_protection_off_are_found_and_left(rules: str, lines: list[int]) -> None:
    documents = with_cf(rules)
    found = failing("exposure-smuggling", documents)
    assert [fault.line for fault in found] == lines
    assert not any(fault.mendable for fault in found)
    assert mended("exposure-smuggling", documents) is documents


@pytest.mark.parametrize(
    ("value", "fails"), [("false", True), ("0", True), ("No", True), ("T", False), ("y", False), ("", False)]
)
def test_reject_nul_is_read_as_atobool_reads_it(value: str, fails: bool) -> None:
    documents = with_cf(f"O RejectNUL={value}\n")
    assert bool(failing("exposure-smuggling", documents)) == fails


def test_an_access_table_that_is_missing_or_not_readable_is_no_pass() -> None:
    documents = with_cf("O RejectNUL=false\n")
    missing = replace(documents, layout=replace(documents.layout, access=ACCESS))
    assert judge(missing, BY_ID["exposure-smuggling"]).verdict is Verdict.FAIL
    closed = replace(missing, unreadable=MappingProxyType({ACCESS: "permission denied"}))
    assert judge(closed, BY_ID["exposure-smuggling"]).verdict is Verdict.UNKNOWN


# TLS ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", ["", "O ServerCertFile\nO CipherList=RC4\n"])
def test_without_a_certificate_nothing_is_said_of_tls(lines: str) -> None:
    assert judge(with_cf(lines), BY_ID["exposure-tls"]).verdict is Verdict.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("value", "after"),
    [
        ("", VERSIONS),
        ("SSL_OP_ALL", f"SSL_OP_ALL,{VERSIONS}"),
        (f"{VERSIONS} -SSL_OP_NO_TLSv1", VERSIONS),
        ("-SSL_OP_NO_SSLv3 0x400", f"0x400,{VERSIONS}"),
        (VERSIONS.replace(",", " ").lower(), None),
        (f"-SSL_OP_NO_TLSv1,{VERSIONS}", None),
    ],
)
def test_old_versions_are_forbidden_and_other_options_kept(value: str, after: str | None) -> None:
    client = f"O ClientSSLOptions={VERSIONS}\n"
    documents = documents_of({CF: f"{CERTIFICATE}O ServerSSLOptions={value}\n{client}"})
    changed = mended("exposure-tls", documents)
    kept = value if after is None else after
    assert text_of(changed) == f"{CERTIFICATE}O ServerSSLOptions={kept}\n{client}"
    assert (changed is documents) == (after is None)
    assert failing("exposure-tls", changed) == []


@pytest.mark.parametrize(
    ("value", "after"),
    [
        ("HIGH:MEDIUM:!aNULL", None),
        ("ALL:!LOW:-RC4:+3DES", None),
        ("ECDHE-RSA-AES128-GCM-SHA256:DEFAULT@SECLEVEL=2", None),
        ("RC4:!RC4:HIGH", None),
        ("HIGH:NULL-SHA256:aRSA+RC4", "HIGH"),
        ("DES-CBC3-SHA:EXP-RC4-MD5", "HIGH:!aNULL:!eNULL"),
        ("eNULL:!MD5", "HIGH:!aNULL:!eNULL"),
        ("HIGH,@SECLEVEL=0", "HIGH"),
    ],
)
def test_weak_ciphers_go_and_the_order_stays(value: str, after: str | None) -> None:
    documents = documents_of({CF: f"{CERTIFICATE}{NEW_ONLY}O CipherList={value}\n"})
    changed = mended("exposure-tls", documents)
    assert text_of(changed) == f"{CERTIFICATE}{NEW_ONLY}O CipherList={value if after is None else after}\n"
    assert (changed is documents) == (after is None)


@pytest.mark.parametrize(
    ("flags", "mode", "after"),
    [
        ("", "0600", "0600"), ("", "0400", "0400"), ("", "0640", "0600"), ("", "0644", "0600"),
        ("GroupReadableKeyFile", "0640", "0640"), ("GroupReadableKeyFile", "0664", "0640"),
    ],
)  # fmt: skip
def test_a_key_is_closed_where_its_link_leads(flags: str, mode: str, after: str) -> None:
    real = "/etc/mail/certs/key.pem"
    files = {CF: f"{CERTIFICATE}{NEW_ONLY}O DontBlameSendmail={flags}\n", KEY: f"-> {real}", real: ""}
    documents = documents_of(files, {real: f"root:root {mode}"})
    assert [fault.path for fault in failing("exposure-tls", documents)] == ([real] if mode != after else [])
    assert mended("exposure-tls", documents).attributes[real].mode == int(after, 8)


def test_a_key_that_could_not_be_looked_at_is_unknown() -> None:
    documents = documents_of({CF: f"{CERTIFICATE}{NEW_ONLY}"})
    closed = replace(documents, unreadable=MappingProxyType({KEY: "permission denied"}))
    assert judge(documents, BY_ID["exposure-tls"]).verdict is Verdict.PASS
    assert judge(closed, BY_ID["exposure-tls"]).verdict is Verdict.UNKNOWN


def test_a_key_that_other_daemons_may_share_is_found_and_left() -> None:
    shared = "/etc/ssl/private/host.key"
    files = {CF: f"{CERTIFICATE}{NEW_ONLY}", KEY: f"-> {shared}", shared: ""}
    documents = documents_of(files, {shared: "root:mail 0640"})
    assert [fault.mendable for fault in failing("exposure-tls", documents)] == [False]
    assert mended("exposure-tls", documents) is documents
