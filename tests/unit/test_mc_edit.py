# SPDX-License-Identifier: Apache-2.0
"""Edits of sendmail.mc: in place, local, made once; what they cannot make is refused."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from itertools import takewhile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hardend.errors import FormatError
from hardend.formats.mc import Mc
from tests.unit.mc_texts import DEBIAN_SUBMIT_MC, SUBMIT_MC, TEXTS
from tests.unit.test_mc import DOCUMENTS

EDITS: dict[str, Callable[[Mc], Mc]] = {
    "set": lambda mc: mc.set_define("confPRIVACY_FLAGS", "authwarnings,noexpn,novrfy"),
    "set a notice": lambda mc: mc.set_define("confSMTP_LOGIN_MSG", "$j Mail Server; NO UCE AT THIS SITE (c)"),
    "set after": lambda mc: mc.set_define("confLOG_LEVEL", "9", after="include"),
    "add": lambda mc: mc.add_feature("smrsh", "/usr/sbin/smrsh"),
    "remove": lambda mc: mc.remove_feature("promiscuous_relay"),
    "remove x": lambda mc: mc.remove_feature("x"),
    "remove define": lambda mc: mc.remove_define("confPRIVACY_FLAGS"),
    "move": lambda mc: mc.move_before_mailer("smrsh"),
}

STATEMENTS = st.sampled_from(
    [
        *(b"FEATURE(`x')", b"FEATURE(`x',\n `y')", b"FEATURE(`smrsh')", b"FEATURE(`promiscuous_relay')dnl c"),
        *(b"MAILER(`local')", b"MAILER_DEFINITIONS", b"FEATURE(`msp')", b"define(`confPRIVACY_FLAGS', `a')"),
        *(b"define(confPRIVACY_FLAGS,dnl c\n a\n)", b"undefine(`confPRIVACY_FLAGS')", b"LOCAL_CONFIG"),
        *(b"ifdef(`a', `define(`confPRIVACY_FLAGS', `b')')", b"OSTYPE(`linux')", b"Kx y"),
        *(b"include(`/m4/cf.m4')", b"include(`/etc/mail/more.m4')", b"RELAY_DOMAIN(`a')"),
        *(b"define(`confPRIVACY_FLAGS')", b"ifdef(`a', `dnl')", b"#"),
        *(b"`x'", b"pushdef(`confPRIVACY_FLAGS', `c')", b"popdef(`confPRIVACY_FLAGS')", b"dnl c"),
    ]
)
ENDS = st.sampled_from([b"dnl\n", b"\n", b"\r\n", b"dnl\r\n", b"", b" ", b"dnl c\n"])
FILES = st.lists(st.tuples(STATEMENTS, ENDS).map(b"".join), max_size=12).map(b"".join)


def edited(text: str, edit: Callable[[Mc], Mc]) -> str:
    return edit(Mc(text.encode())).render().decode()


def same(one: bytes, other: bytes) -> int:
    """Return how many bytes two texts begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def sure(mc: Mc) -> list[tuple[str, tuple[str, ...]]]:
    return [(call.name, call.arguments) for call in mc.calls() if not call.depth]


def is_of(edit: str, call: tuple[str, tuple[str, ...]]) -> bool:
    """Return whether a call is one that an edit may change."""
    features = {"add": "smrsh", "move": "smrsh", "remove": "promiscuous_relay", "remove x": "x"}
    if edit in features:
        return call[0] == "FEATURE" and call[1][:1] == (features[edit],)
    return call[0] in {"define", "pushdef", "confPRIVACY_FLAGS"}


@given(st.one_of(DOCUMENTS, FILES), st.sampled_from(sorted(EDITS)))
@example(b"OSTYPE(`linux')MAILER(`local')define(`confPRIVACY_FLAGS', `a')", "set")
@example(b"FEATURE(`x')FEATURE(`x')#FEATURE(`x')", "remove x")
def test_an_edit_made_twice_is_an_edit_made_once(data: bytes, name: str) -> None:
    try:
        once = EDITS[name](Mc(data))
    except FormatError:
        return
    assert once.fault is None
    assert EDITS[name](once).render() == once.render()


@given(FILES, st.sampled_from(sorted(EDITS)))
def test_an_edit_does_what_it_says_and_nothing_else(data: bytes, name: str) -> None:
    before = Mc(data)
    try:
        after = EDITS[name](before)
    except FormatError:
        return
    kept = [[call for call in sure(mc) if not is_of(name, call)] for mc in (before, after)]
    assert kept[0] == kept[1]
    if name == "set":
        value = after.define("confPRIVACY_FLAGS")
        assert value is not None and value.text == "authwarnings,noexpn,novrfy"
    elif name == "set a notice":
        value = after.define("confSMTP_LOGIN_MSG")
        assert value is not None and value.text == "$j Mail Server; NO UCE AT THIS SITE (c)"
    elif name == "add":
        feature = after.feature("smrsh")
        assert feature is not None and not feature.depth and not feature.late
    elif name == "move":
        assert not any(item.late for item in after.features() if item.name == "smrsh" and not item.depth)
    elif name.startswith("remove"):
        assert name == "remove define" or not any(is_of(name, call) for call in sure(after))
        assert name != "remove define" or after.define("confPRIVACY_FLAGS") is None


@given(FILES)
def test_a_define_that_is_set_changes_one_call_or_adds_one_line(data: bytes) -> None:
    after = EDITS["set"](Mc(data)).render()
    prefix = same(data, after)
    suffix = same(data[prefix:][::-1], after[prefix:][::-1])
    changed = range(prefix, len(data) - suffix)
    calls = [call for name in ("define", "pushdef") for call in Mc(data).calls(name)]
    assert not changed or any(call.start < changed[0] and changed[-1] < call.end for call in calls)


@given(FILES, st.sampled_from(["remove", "remove x", "remove define"]))
def test_what_is_removed_gets_a_dnl_and_loses_nothing(data: bytes, name: str) -> None:
    try:
        after = EDITS[name](Mc(data)).render()
    except FormatError:
        return
    assert re.sub(rb"dnl |[\r\n]", b"", after) == re.sub(rb"dnl |[\r\n]", b"", data)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_an_edit_of_a_real_file_changes_few_lines_and_keeps_their_ends(
    text: bytes, name: str, end: bytes
) -> None:
    before = text.replace(b"\n", end)
    after = EDITS[name](Mc(before)).render()
    assert after.count(b"\n") == after.count(end)
    old, new = (data.decode().splitlines(keepends=True) for data in (before, after))
    changed = [line for line in difflib.ndiff(old, new) if line[:1] in "+-"]
    assert len(changed) <= 4  # Debian's define stands on two lines


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("define(`a', `1')dnl\n", "define(`a', `9')dnl\n"),
        ("define(a,1)\n", "define(a,`9')\n"),
        ("define(`a', ``1'')\n", "define(`a', `9')\n"),
        ("define(`a',dnl\n`1,2')dnl c\n", "define(`a',dnl\n`9')dnl c\n"),
        ("define(`a',\n\t`1'dnl c\n)dnl\n", "define(`a',\n\t`9'dnl c\n)dnl\n"),
        ("define(`a', `1'\n)dnl\n", "define(`a', `9')dnl\n"),
        ("define(`a')dnl\n", "define(`a', `9')dnl\n"),
        ("define(`a',)dnl\n", "define(`a',`9')dnl\n"),
        ("define(`a', `9')define(`a', `1')\n", "define(`a', `9')define(`a', `9')\n"),
        ("define(`a', `1')dnl\ndnl define(`a', `2')\n", "define(`a', `9')dnl\ndnl define(`a', `2')\n"),
        ("MAILER(`b')\ndefine(`a', `1')\n", "MAILER(`b')\ndefine(`a', `9')\n"),
        ("pushdef(`a', `1')\n", "pushdef(`a', `9')\n"),
        ("define(`a', `x`'y')\n", "define(`a', `9')\n"),
        # a line of its own: before the mailers
        ("", "define(`a', `9')dnl\n"),
        ("OSTYPE(x)", "OSTYPE(x)\ndefine(`a', `9')dnl\n"),
        ("FEATURE(`b')dnl\nMAILER(`c')\n", "FEATURE(`b')dnl\ndefine(`a', `9')dnl\nMAILER(`c')\n"),
        ("MAILER_DEFINITIONS\nMAILER(`c')\n", "define(`a', `9')dnl\nMAILER_DEFINITIONS\nMAILER(`c')\n"),
        ("dnl MAILER(`b')\nMAILER(`c')\n", "dnl MAILER(`b')\ndefine(`a', `9')dnl\nMAILER(`c')\n"),
        ("FEATURE(`b',\n`c')MAILER(`d')\n", "define(`a', `9')dnl\nFEATURE(`b',\n`c')MAILER(`d')\n"),
        ("FEATURE(`b')\nLOCAL_CONFIG\nKx\n", "FEATURE(`b')\ndefine(`a', `9')dnl\nLOCAL_CONFIG\nKx\n"),
        # what stands behind overwrites it
        ("define(`a', `1')\nundefine(`a')dnl\n", "define(`a', `1')\nundefine(`a')dnl\ndefine(`a', `9')dnl\n"),
        ("define(`a', `9')\nOSTYPE(b)\n", "define(`a', `9')\nOSTYPE(b)\ndefine(`a', `9')dnl\n"),
        (
            "define(`a', `9')ifdef(`b', `define(`a', `1')')dnl\nx\n",
            "define(`a', `9')ifdef(`b', `define(`a', `1')')dnl\ndefine(`a', `9')dnl\nx\n",
        ),
        ("MAILER(b)undefine(`a')dnl\nx\n", "MAILER(b)undefine(`a')dnl\ndefine(`a', `9')dnl\nx\n"),
        ("MAILER(b)undefine(`a')", "MAILER(b)undefine(`a')\ndefine(`a', `9')dnl\n"),
    ],
)
def test_a_define_is_set_where_it_counts(before: str, after: str) -> None:
    assert edited(before, lambda mc: mc.set_define("a", "9")) == after


@pytest.mark.parametrize(
    "text",
    ["define(`a', `9')", "define(a,9)", "define(a, ``9'')", "define(`a',dnl\n`9')", "define(`a', `9', `x')"],
)
def test_a_define_that_says_it_already_stays(text: str) -> None:
    mc = Mc(text.encode())
    assert mc.set_define("a", "9") is mc


def test_in_submit_mc_a_define_goes_behind_the_feature_that_overwrites_it() -> None:
    for text, msp in ((SUBMIT_MC, b"`[127.0.0.1]')dnl\n"), (DEBIAN_SUBMIT_MC, b"`25')dnl\n")):
        first = text.replace(b"FEATURE(`msp'", b"define(`confPRIVACY_FLAGS', `goaway')dnl\nFEATURE(`msp'")
        for start in (text, first):
            after = Mc(start).set_define("confPRIVACY_FLAGS", "goaway,restrictmailq").render()
            line = b"define(`confPRIVACY_FLAGS', `goaway,restrictmailq')dnl\n"
            assert after == start.replace(msp, msp + line)
            assert Mc(after).set_define("confPRIVACY_FLAGS", "goaway").render() == after.replace(
                b"goaway,restrictmailq", b"goaway"
            )


def test_a_define_goes_behind_what_the_caller_names() -> None:
    text = "define(`a', `9')dnl\nFEATURE(`b')dnl\ninclude(`c')dnl\nMAILER(d)\n"
    line = "define(`a', `9')dnl\n"
    added = text.replace("MAILER", line + "MAILER")
    assert edited(text, lambda mc: mc.set_define("a", "9", after="b")) == added
    assert edited(text, lambda mc: mc.set_define("a", "9", after="include")) == added
    assert edited(text, lambda mc: mc.set_define("a", "9", after="x")) == text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("$j Mail Server; $b", "`$j Mail Server; $b'"),
        ("b,c", "`b,c'"),
        ("b\n\tc\td", "`b\n\tc\td'"),  # a continuation line of the .cf
        ("this a", "``this a''"),  # its own name would expand for ever
        ("", "`'"),
        ("${client_addr} $?x", "`${client_addr} $?x'"),
        ("h\u00e9\udcff", "`h\u00e9\udcff'"),
        ("this SITE", "``this SITE''"),  # a macro of cf.m4
        ("no dnl", "``no dnl''"),
        ("a)b(", "``a)b(''"),
        ("see confLOG_LEVEL", "``see confLOG_LEVEL''"),
        ("mine", "``mine''"),  # the text defines it
        ("define it", "`define it'"),  # no macro without a parenthesis
    ],
)
def test_a_value_is_quoted_so_that_m4_leaves_it_alone(value: str, written: str) -> None:
    text = b"define(`mine', `1')dnl\nOSTYPE(`linux')dnl\n"
    mc = Mc(text).set_define("a", value)
    assert mc.render() == text + f"define(`a', {written})dnl\n".encode("utf-8", "surrogateescape")
    known = mc.define("a")
    assert known is not None and known.text == value
    assert mc.set_define("a", value) is mc


REFUSED = ["a'b", "`a", "a\nb", "a\n", "a\r\n b", "a\0", "a\x1b", "$1", "$*", "$@", "a$#"]


@pytest.mark.parametrize("value", REFUSED)
def test_a_value_that_no_quotes_protect_is_refused(value: str) -> None:
    for edit in (Mc(b"").set_define, Mc(b"").add_feature):
        with pytest.raises(FormatError):
            edit("a", value)


@pytest.mark.parametrize("name", ["", "a b", "1a", "a'", "a\n", "a-b", "\u00e9"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        Mc(b"").set_define(name, "x")
    if name not in {"1a", "a-b"}:
        with pytest.raises(FormatError):
            Mc(b"").add_feature(name)


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("text", [b"x\nFEATURE(`a'", b"`a", b"changequote([, ])", b"\n\0"])
def test_a_file_that_is_not_understood_is_not_edited(name: str, text: bytes) -> None:
    with pytest.raises(FormatError, match=r"s\.mc:\d: .*; edit the file by hand"):
        EDITS[name](Mc(text, "s.mc"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "FEATURE(`x', `y')dnl\n"),
        ("FEATURE(a)dnl\nz\nMAILER(b)\n", "FEATURE(a)dnl\nFEATURE(`x', `y')dnl\nz\nMAILER(b)\n"),
        ("OSTYPE(a)dnl\n\nMAILER(b)\n", "OSTYPE(a)dnl\n\nFEATURE(`x', `y')dnl\nMAILER(b)\n"),
        ("FEATURE(a,\nb)MAILER(c)\n", "FEATURE(`x', `y')dnl\nFEATURE(a,\nb)MAILER(c)\n"),
        ("OSTYPE(a)\nFEATURE(`msp')\n", "OSTYPE(a)\nFEATURE(`x', `y')dnl\nFEATURE(`msp')\n"),
        ("OSTYPE(a)\nLOCAL_CONFIG\n", "OSTYPE(a)\nFEATURE(`x', `y')dnl\nLOCAL_CONFIG\n"),
        ("dnl FEATURE(`x')\n", "dnl FEATURE(`x')\nFEATURE(`x', `y')dnl\n"),
        ("ifdef(`a', `FEATURE(`x')')\n", "ifdef(`a', `FEATURE(`x')')\nFEATURE(`x', `y')dnl\n"),
        ("MAILER(a)\nFEATURE(x)\n", "FEATURE(x)dnl\nMAILER(a)\n"),
        ("FEATURE(`x')", "FEATURE(`x')"),
        ("# FEATURE(x, z)\nMAILER(a)\n", "# FEATURE(x, z)\nMAILER(a)\n"),
    ],
)
def test_a_feature_is_added_before_the_mailers_unless_it_is_active(before: str, after: str) -> None:
    assert edited(before, lambda mc: mc.add_feature("x", "y")) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("FEATURE(`x')dnl\n", "dnl FEATURE(`x')dnl\n"),
        ("# FEATURE(`x')dnl\n", "dnl # FEATURE(`x')dnl\n"),
        ("\tFEATURE(x)\n", "dnl \tFEATURE(x)\n"),
        ("FEATURE(``x'')", "dnl FEATURE(``x'')\n"),
        ("FEATURE(`x')dnl why\r\ny\r\n", "dnl FEATURE(`x')dnl why\r\ny\r\n"),
        ("FEATURE(`x',\n  `y',\n`z')dnl\nw\n", "dnl FEATURE(`x',\ndnl   `y',\ndnl `z')dnl\nw\n"),
        ("FEATURE(`x',\r\n`y')\r\n", "dnl FEATURE(`x',\r\ndnl `y')\r\n"),
        ("FEATURE(`x')\nFEATURE(y)\nFEATURE(x, z)\n", "dnl FEATURE(`x')\nFEATURE(y)\ndnl FEATURE(x, z)\n"),
        # others on the same line stay active
        ("FEATURE(`x')FEATURE(`y')dnl\n", "dnl FEATURE(`x')\nFEATURE(`y')dnl\n"),
        ("FEATURE(`y')FEATURE(`x')dnl c\n", "FEATURE(`y')dnl FEATURE(`x')dnl c\n"),
        ("FEATURE(y) FEATURE(`x',\n`z')MAILER(a)\n", "FEATURE(y) dnl FEATURE(`x',\ndnl `z')\nMAILER(a)\n"),
        ("FEATURE(`y',\n`z')FEATURE(`x')\n", "FEATURE(`y',\n`z')dnl FEATURE(`x')\n\n"),
        ("FEATURE(`x')FEATURE(`x')dnl\n", "dnl FEATURE(`x')dnl FEATURE(`x')dnl\n"),
        ("Kx y FEATURE(`x')\n", "Kx y dnl FEATURE(`x')\n\n"),
        # not ours
        ("dnl FEATURE(`x')\n", "dnl FEATURE(`x')\n"),
        ("FEATURE(`xy')FEATURE(`y', `x')\n", "FEATURE(`xy')FEATURE(`y', `x')\n"),
        ("ifdef(`a', `FEATURE(`x')')\n", "ifdef(`a', `FEATURE(`x')')\n"),
    ],
)
def test_a_removed_feature_stays_readable(before: str, after: str) -> None:
    assert edited(before, lambda mc: mc.remove_feature("x")) == after


def test_a_removed_define_stays_readable() -> None:
    text = "define(`a',dnl\n`1')dnl\ndefine(`a', 2)define(`b', `3')\npushdef(`a')\n"
    after = "dnl define(`a',dnl\ndnl `1')dnl\ndnl define(`a', 2)\ndefine(`b', `3')\ndnl pushdef(`a')\n"
    assert edited(text, lambda mc: mc.remove_define("a")) == after


def test_what_stands_in_the_arguments_of_another_is_left_to_the_administrator() -> None:
    mc = Mc(b"\ndefine(`a', FEATURE(`x'))\n")
    with pytest.raises(FormatError, match=":2:"):
        mc.remove_feature("x")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("A(b)\nMAILER(a)\nFEATURE(`x', `y')dnl c\nz\n", "A(b)\nFEATURE(`x', `y')dnl c\nMAILER(a)\nz\n"),
        ("MAILER(a)\nFEATURE(`x',\n`y')\nz", "FEATURE(`x',\n`y')dnl\nMAILER(a)\nz"),
        ("FEATURE(b)\n\nMAILER(a)\n# FEATURE(x)", "FEATURE(b)\nFEATURE(x)dnl\n\nMAILER(a)\n"),
        ("MAILER(a)FEATURE(x)MAILER(b)\n", "FEATURE(x)dnl\nMAILER(a)MAILER(b)\n"),
        ("FEATURE(x)\nMAILER(a)\nFEATURE(x)dnl\n", "FEATURE(x)\nMAILER(a)\n"),
        ("FEATURE(x)\nMAILER(a)\n", "FEATURE(x)\nMAILER(a)\n"),
        ("MAILER(a)\ndnl FEATURE(x)\n", "MAILER(a)\ndnl FEATURE(x)\n"),
    ],
)
def test_a_late_feature_is_moved_before_the_mailers(before: str, after: str) -> None:
    assert edited(before, lambda mc: mc.move_before_mailer("x")) == after
