# SPDX-License-Identifier: Apache-2.0
"""sendmail.mc: lossless, and read as m4 and cf.m4 read it. Whole files are those that hosts have."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.formats.cf import Value
from hardend.formats.m4 import Call
from hardend.formats.mc import Mc, Named
from tests.unit.mc_texts import CLIENT_MC, DEBIAN_MC, DEBIAN_SUBMIT_MC, LOCAL_MC, REDHAT_MC, SUBMIT_MC, TEXTS

PIECES = st.sampled_from(
    [
        *(b"FEATURE", b"define", b"dnl", b"ifdef", b"MAILER", b"include", b"(`", b"')", b"(", b")", b"`"),
        *(b"'", b",", b"\n", b"\r\n", b" ", b"#", b"x", b"`x'", b"\xff", b"\0", b"RELAY_DOMAIN", b"undefine"),
        *(b"include(`/usr/share/sendmail/cf/m4/cf.m4')dnl\n", b"changequote", b"pushdef", b"m4exit", b"$1"),
    ]
)
DOCUMENTS = st.one_of(st.binary(), st.lists(PIECES, max_size=50).map(b"".join))


def calls_of(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return what is certainly called."""
    return [(call.name, call.arguments) for call in Mc(text.encode()).calls() if not call.depth]


def features_of(text: str) -> list[str]:
    return [feature.name for feature in Mc(text.encode()).features() if not feature.depth]


@given(DOCUMENTS)
def test_every_byte_comes_back(data: bytes) -> None:
    assert Mc(data).render() == data


@given(DOCUMENTS)
def test_any_bytes_can_be_asked_everything(data: bytes) -> None:
    mc = Mc(data)
    lines = range(1, data.count(b"\n") + 2)
    assert {item.line for item in (*mc.features(), *mc.mailers())} <= set(lines)
    assert {value.line for value in (*mc.includes(), *mc.programs())} <= set(lines)
    assert mc.fault is None or mc.fault.line in lines
    for call in mc.calls():
        assert data[call.start :].startswith(call.name.encode())
        assert call.start < call.end <= call.statement_end <= len(data)
        assert data.count(b"\n", 0, call.start) == call.line - 1
    assert isinstance(mc.ostype + mc.domain_name, str)
    assert mc.define("x") is None or mc.calls("define") or mc.calls("pushdef")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_real_file_comes_back_with_either_line_end_and_without_the_last(text: bytes, end: bytes) -> None:
    data = text.replace(b"\n", end)
    assert Mc(data).render() == data
    assert Mc(data[: -len(end)]).render() == data[: -len(end)]
    assert Mc(data).fault is None
    assert Mc(data).features() == Mc(text).features()


@pytest.mark.parametrize(
    "text",
    [
        "FEATURE(`x')dnl\n",
        "FEATURE(x)dnl\n",
        "FEATURE(``x'')dnl\n",
        "FEATURE( x)\n",
        "FEATURE(\n\t`x')dnl\n",
        "FEATURE(dnl\n`x')dnl\n",
        "FEATURE(`x'dnl c\n)dnl\n",
        "# FEATURE(`x')dnl\n",  # cf.m4 has called changecom()
        "#FEATURE(`x')dnl\n",
        "1FEATURE(`x')\n",  # a digit begins no name
        "divert(-1)\nFEATURE(`x')\n",  # its text is lost, the call is not
        "dnl(FEATURE(`x')) FEATURE(`gone')\n",  # dnl has arguments like any macro
        "`quoted' FEATURE(`x')",
        "it's FEATURE(`x')\n",
        "unknown(FEATURE(`x'))\n",
        "dnlFEATURE(`y')\nFEATURE(`x')\n",  # the name is dnlFEATURE
        "FEATURE(`x')dnl FEATURE(`gone')\n",
        "RELAY_DOMAIN(`a') FEATURE(`gone')\nFEATURE(`x')\n",  # its text ends in a dnl
        "dnl `\nFEATURE(`x')\n",
        "define(`a', FEATURE(`x'))\n",  # called while the arguments are collected
        "VERSIONID(`@(#)FEATURE(`y')')FEATURE(`x')\n",
        "undefine(`dnl')dnl FEATURE(`x')\n",
        "FEATURE(`x')",
    ],
)
def test_an_active_feature_is_found_in_every_form(text: str) -> None:
    assert features_of(text) == ["x"]


@pytest.mark.parametrize(
    "text",
    [
        "dnl FEATURE(`x')dnl\n",
        "# dnl FEATURE(`x')\n",
        "`FEATURE(`x')'\n",
        "XFEATURE(`x')\n",
        "_FEATURE(`x')\n",
        "feature(`x')\n",
        "FEATURE (`x')\n",  # called with no arguments; (`x') is text
        "FEATURE(`x ')\n",
        "FEATURE(`X')\n",
        "define(`a', `FEATURE(`x')')\n",
        "ifdef(`a', `FEATURE(`x')')\n",
        "unknown(`FEATURE(`x')')\n",
        "errprint(`FEATURE(`x')')\n",
        "undefine(`FEATURE')FEATURE(`x')\n",
        "# FEATURE(`x')\ninclude(`../m4/cf.m4')\n",  # before cf.m4 it is a comment, FEATURE a word
        "FEATURE(`x')\ninclude(`../m4/cf.m4')\n",
        "m4exit\nFEATURE(`x')\n",
        "FEATURE(`x'\n",
    ],
)
def test_what_only_looks_like_the_feature_is_none(text: str) -> None:
    assert "x" not in features_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "ifdef(`a', `FEATURE(`x')')\n",
        "ifelse(`a', `b', `c', `define(`d', `FEATURE(x)')')\n",
        "define(`mine', `FEATURE(`x')')mine\n",
        "ifdef(`a', `dnl', `')FEATURE(`x')\n",
        "define(`off', `dnl')\noff FEATURE(`x')\n",
        "m4wrap(`FEATURE(`x')')\n",
    ],
)
def test_a_feature_that_is_perhaps_active_is_told_apart(text: str) -> None:
    mc = Mc(text.encode())
    feature = mc.feature("x")
    assert feature is not None and feature.depth > 0
    assert Mc(text.encode() + b"FEATURE(`x', `y')\n").feature("x") == Named("x", ("y",), text.count("\n") + 1)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("FEATURE", ()),
        ("FEATURE()", ("",)),
        ("FEATURE(`access_db', , `skip')", ("access_db", "", "skip")),
        ("FEATURE(a,b)", ("a", "b")),
        ("FEATURE((a,b), c (d, e))", ("(a,b)", "c (d, e)")),
        ("FEATURE(`a'`b' c )", ("ab c ",)),
        ("FEATURE(`a``b''c')", ("a``b''c",)),
        ("FEATURE(dnl c\n  `x')", ("  x",)),  # m4 drops white space only before the first token
        ("FEATURE(`a,b',dnl\n`c')", ("a,b", "c")),
    ],
)
def test_arguments_are_what_the_macro_receives(text: str, arguments: tuple[str, ...]) -> None:
    assert calls_of(text) == [("FEATURE", arguments)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("define(`a', `1')dnl\n", Value("1", 1, "a")),
        ("define(a,1)\ndefine(`a', `2')dnl\n", Value("2", 2, "a")),
        ("define(`a', `b')define(a, `2')\n", Value("b", 1, "a")),  # the second defines b
        ("define(`a', ``1'')", Value("1", 1, "a")),
        ("define(`a',dnl\n`1,2')dnl\n", Value("1,2", 1, "a")),
        ("define(`a')", Value("", 1, "a")),
        ("define(`a', `1')\ndnl define(`a', `2')\n", Value("1", 1, "a")),
        ("define(`a', `1')ifdef(`b', `define(`a', `2')')\n", Value("1", 1, "a")),
        ("define(`a', `1')undefine(`a')", None),
        ("define(`a', `1')undefine(`b', `a')", None),
        ("define(`a', `1')pushdef(`a', `2')", Value("2", 1, "a")),
        ("define(`a', `1')pushdef(`a', `2')popdef(`a')", Value("1", 1, "a")),
        ("define(`A', `1')", None),
        ("define(`a ', `1')", None),
        ("define (`a', `1')", None),
    ],
)
def test_the_last_define_counts(text: str, value: Value | None) -> None:
    assert Mc(text.encode()).define("a") == value


def test_an_unquoted_name_that_cf_m4_defines_is_another() -> None:
    assert Mc(b"define(confPRIVACY_FLAGS, `goaway')").define("confPRIVACY_FLAGS") is None
    assert Mc(b"define(confMAX_HOP, `5')").define("confMAX_HOP") == Value("5", 1, "confMAX_HOP")


def test_what_msp_and_cf_m4_overwrite_does_not_count() -> None:
    privacy = b"define(`confPRIVACY_FLAGS', `goaway')dnl\n"
    mine = b"define(`confMAX_HOP', `5')dnl\n"
    msp = Mc(mine + privacy + b"FEATURE(`msp')dnl\n")
    assert msp.define("confPRIVACY_FLAGS") is None
    assert msp.define("confMAX_HOP") == Value("5", 1, "confMAX_HOP")
    included = Mc(mine + privacy + b"include(`/usr/share/sendmail-cf/m4/cf.m4')dnl\n")
    assert included.define("confPRIVACY_FLAGS") is None
    assert included.define("confMAX_HOP") == Value("5", 1, "confMAX_HOP")


def test_debians_file_is_read_as_m4_reads_it() -> None:
    mc = Mc(DEBIAN_MC)
    assert (mc.ostype, mc.domain_name) == ("debian", "debian-mta")
    assert [feature.name for feature in mc.features()] == [
        "no_default_msa", "use_cw_file", "access_db", "greet_pause", "delay_checks", "conncontrol"
    ]  # fmt: skip
    assert mc.feature("access_db") == Named("access_db", ("", "skip"), 29)
    value = mc.define("confPRIVACY_FLAGS")
    assert value is not None
    assert (value.text.split(",")[0], value.line) == ("needmailhelo", 20)
    assert [value.text for value in mc.includes()] == [
        "/usr/share/sendmail/cf/m4/cf.m4", "/etc/mail/m4/dialup.m4", "/etc/mail/m4/provider.m4"
    ]  # fmt: skip
    assert [mailer.name for mailer in mc.mailers()] == ["local", "smtp"]
    assert mc.define("confCON_EXPENSIVE") is None


def test_the_other_files_are_read_as_m4_reads_them() -> None:
    redhat = Mc(REDHAT_MC)
    assert redhat.feature("smrsh") == Named("smrsh", ("/usr/sbin/smrsh",), 22)
    assert redhat.feature("accept_unresolvable_domains") == Named("accept_unresolvable_domains", (), 28)
    assert redhat.define("confAUTH_OPTIONS") == Value("A", 19, "confAUTH_OPTIONS")
    assert redhat.feature("relay_based_on_MX") is None
    assert [mailer.name for mailer in redhat.mailers()] == ["smtp", "procmail"]
    assert Mc(SUBMIT_MC).feature("msp") == Named("msp", ("[127.0.0.1]",), 11)
    assert Mc(DEBIAN_SUBMIT_MC).feature("msp") == Named("msp", ("[127.0.0.1]", "25"), 12)
    assert Mc(CLIENT_MC).feature("nullclient") == Named("nullclient", ("mailhost.$m",), 5)
    late = Mc(LOCAL_MC).feature("smrsh")
    assert late is not None and late.late


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a\n`b\nc", 2, "quote"),
        ("a\nFEATURE(`b\n", 2, "quote"),
        ("a\n\nFEATURE(b\nc", 3, "FEATURE"),
        ("changequote([, ])\n", 1, "changequote"),
        ("changecom(`#')\n", 1, "changecom"),
        ("a\nindir(`FEATURE', `x')", 2, "indir"),
        ("builtin(`syscmd', `id')", 1, "builtin"),
        ("define(`d', defn(`dnl'))", 1, "defn"),
        ("define(`FEATURE', `')", 1, "anew"),
        ("ifdef(`x', `define(`dnl', `')')", 1, "anew"),
        ("a\nm4exit", 2, "m4exit"),
        ("a\nb\0c", 2, "NUL"),
        ("FEATURE(" * 60 + ")" * 60, 1, "nested"),
        ("FEATURE(x" + "(" * 60, 1, "not closed"),
        ("ifdef(`a', `" * 60 + "')" * 60, 1, "nested"),
    ],
)
def test_a_file_that_is_not_understood_says_from_where(text: str, line: int, what: str) -> None:
    fault = Mc(b"FEATURE(`x')dnl\n" + text.encode()).fault
    assert fault is not None
    assert fault.line == line + 1
    assert what in fault.what
    assert Mc(b"FEATURE(`x')dnl\n" + text.encode()).feature("x") == Named("x", (), 1)


def test_a_file_that_is_no_mc_by_its_size_is_not_read() -> None:
    mc = Mc(b"FEATURE(`x')\n" * 100_000)
    assert mc.fault is not None and "larger" in mc.fault.what
    assert mc.calls() == []


@pytest.mark.parametrize(
    "text",
    [
        *("a ' b\n", "don't\n", ")\n", "unknown(\n", "changequote\n", "changecom()\n", "define (\n"),
        *("a (b\n", "indir\n", "`a'`b'\n"),
        *("dnl ` (\n", "FEATURE(`(')\n", "defn(`mine')\n", "undefine(`format')\n"),
    ],
)
def test_what_m4_takes_is_no_fault(text: str) -> None:
    assert Mc(text.encode()).fault is None


def test_what_reaches_for_the_system_is_listed() -> None:
    mc = Mc(
        b"syscmd(`id')dnl\nifdef(`a', `esyscmd(`date')')\ndnl syscmd(`no')\nsyscmd\nmaketemp(`/tmp/x')\n"
        b"include(`/x')sinclude(/y)undivert(`/z')undivert(1)\nFEATURE(`../../../tmp/f')OSTYPE(`linux')\n"
    )
    assert [(value.name, value.text, value.line) for value in mc.programs()] == [
        ("syscmd", "id", 1), ("esyscmd", "date", 2), ("maketemp", "/tmp/x", 5)
    ]  # fmt: skip
    assert [(value.name, value.text) for value in mc.includes()] == [
        ("include", "/x"), ("sinclude", "/y"), ("undivert", "/z"), ("FEATURE", "../../../tmp/f")
    ]  # fmt: skip


def test_a_call_says_where_it_stands() -> None:
    data = b"x\nFEATURE(`a',\n `b') dnl c\nMAILER(`m')y\n"
    first, second = Mc(data).calls()
    assert data[first.start : first.end] == b"FEATURE(`a',\n `b')"
    assert (first.line, data[first.statement_end :]) == (2, b"MAILER(`m')y\n")
    assert isinstance(second, Call)
    assert (second.line, second.end, second.statement_end) == (4, len(data) - 2, len(data) - 2)


@pytest.mark.parametrize(
    "piece",
    [b"FEATURE(", b"`", b"`'", b"ifdef(`a',`", b"define(`a',`b')dnl\n", b"OSTYPE(x)\n", b"x ", b"(", b"\n"],
)
def test_reading_takes_time_in_proportion_to_the_size(piece: bytes) -> None:
    def seconds(size: int) -> float:
        start = time.process_time()
        mc = Mc(piece * (size // len(piece)))
        mc.features()
        mc.define("a")
        return time.process_time() - start

    seconds(10_000)
    assert seconds(1_000_000) < 40 * max(seconds(100_000), 0.01)
