# SPDX-License-Identifier: Apache-2.0
"""What the parser says of a .mc is what m4 itself says: the calls that it traces, the values at its end.

cf.m4 stands in as a handful of macros that do what its own do to the rest of the line.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hardend.errors import FormatError
from hardend.formats.m4_edit import bare
from hardend.formats.m4_names import BUILTINS, CF_MACROS
from hardend.formats.mc import Mc

pytestmark = pytest.mark.m4

NAMES = ("FEATURE", "MAILER", "OSTYPE", "DOMAIN", "define", "undefine", "pushdef", "popdef", "LOCAL_CONFIG")
DEFINED = ("confA", "confB")
PRELUDE = "changecom()" + "".join(f"define(`{name}')" for name in NAMES[:4]) + "undefine(`format')"
PRELUDE += "define(`LOCAL_CONFIG', `divert(6)')define(`RELAY_DOMAIN', `$1`'dnl`'')"
SAY = "".join(f"errprint(`@@{name}=['defn(`{name}')`]@@')" for name in DEFINED)
# Once a function-scoped fixture serves all examples of a test, they share its directory; that is wanted.
WITH_M4 = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# Statements with everything that a text may put around a call, made so that no quote is cut in two.
SPACE = st.sampled_from(["", " ", "\n", "\t", "\r\n", "dnl c\n", " dnl `\n", "\n\t dnl FEATURE(`gone')\n"])
WORD = st.sampled_from(["x", "y", "a,b", "(a, b)", "", "it is", "dnlx", "#", "\u00e9", "1"])
PLAIN = WORD.map(lambda word: f"`{word}'") | WORD.map(lambda word: f"``{word}''")
MIXED = st.sampled_from(["x", "x y", "(a, b)", "`x'`y'", "x`'y", "_z"])
ARGUMENT = st.tuples(SPACE, PLAIN | MIXED, SPACE).map("".join)
NAME = st.sampled_from(["`confA'", "`confB'"])


def statements(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    more = st.lists(ARGUMENT, max_size=3).map(lambda parts: ",".join(["", *parts]))
    feature = st.tuples(st.sampled_from(["FEATURE", "MAILER", "OSTYPE"]), ARGUMENT, more)
    define = st.tuples(st.sampled_from(["define", "pushdef"]), NAME, ARGUMENT)
    quoted = inner.map(lambda text: f"`{text}'")
    return st.one_of(
        feature.map(lambda parts: f"{parts[0]}({parts[1]}{parts[2]})"),
        define.map(lambda parts: f"{parts[0]}({parts[1]},{parts[2]})"),
        st.sampled_from(["undefine", "popdef"]).flatmap(lambda name: NAME.map(lambda it: f"{name}({it})")),
        st.tuples(st.sampled_from(["`confA'", "`no'"]), quoted, quoted).map(",".join).map("ifdef({})".format),
        st.tuples(quoted, quoted).map(lambda p: f"ifelse(`a', `a', {p[0]},{p[1]})"),
        inner.map(lambda text: f"unknown({text})"),
        inner.map(lambda text: f"dnl({text})\n"),
        ARGUMENT.map(lambda argument: f"RELAY_DOMAIN({argument})"),
        quoted,
        st.sampled_from(["LOCAL_CONFIG\n", "FEATURE", "# ", "it's ", "divert(-1)", "\n", "1", "define "]),
    )


def joined(parts: list[tuple[str, str]]) -> str:
    return "".join(map("".join, parts))


SEPARATOR = st.sampled_from(["\n", "dnl\n", "", " ", "dnl c `\n", "\r\n", "# "])
TEXT = st.recursive(
    st.just(""),
    lambda inner: st.lists(st.tuples(statements(inner), SEPARATOR), max_size=4).map(joined),
    max_leaves=8,
)
# The same in pieces that need not fit: open quotes, parentheses that are none.
SOUP = st.lists(
    st.sampled_from(
        [
            *("FEATURE", "FEATURE(", "(", ")", "`", "'", ",", "dnl", "\n", " ", "x", "define(`confA',", "#"),
            *("undefine(`confA')", "`x'", "RELAY_DOMAIN(`a')", "LOCAL_CONFIG", "1", "\r\n", "divert(1)"),
            *("dnl(", "MAILER("),
        ]
    ),
    max_size=30,
).map("".join)


class Seen(NamedTuple):
    """What m4 did: the calls of NAMES in the text, in order; the values of DEFINED; was it content."""

    calls: list[str]
    values: dict[str, str]
    content: bool


@pytest.fixture
def m4(tmp_path: Path) -> Callable[[bytes], Seen]:
    (tmp_path / "prelude").write_text(PRELUDE)
    (tmp_path / "say").write_text(SAY)

    def run(data: bytes) -> Seen:
        (tmp_path / "text").write_bytes(data)
        argv = ["m4", "-daf", *(f"-t{name}" for name in NAMES), "prelude", "text", "say"]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, timeout=5, check=False)
        said = done.stderr.decode("utf-8", "surrogateescape")
        calls = re.findall(r"^m4trace:text: -\d+- ((?:.*\n(?!m4trace:|m4:|@@))*.*)", said, re.MULTILINE)
        values = re.findall(r"@@(\w+)=\[(.*?)\]@@", said, re.DOTALL)
        return Seen(calls, dict(values), done.returncode == 0)

    return run


def calls_of(mc: Mc, *, sure: bool) -> list[str]:
    return [
        call.name + (f"({', '.join(call.arguments)})" if call.parts else "")
        for call in mc.calls()
        if call.name in NAMES and (call.depth == 0 or not sure)
    ]


def is_within(part: list[str], whole: list[str]) -> bool:
    """Return whether a list is another with some left out."""
    rest = iter(whole)
    return all(item in rest for item in part)


@WITH_M4
@given(TEXT)
@example("FEATURE(`x'dnl `\n)dnl\n1FEATURE(x)# FEATURE( y )")
@example("ifdef(`confA', `FEATURE(`x')dnl', `dnl')FEATURE(`y')\n")
def test_what_is_called_is_what_m4_calls(m4: Callable[[bytes], Seen], text: str) -> None:
    data = text.encode()
    mc = Mc(data)
    seen = m4(data)
    assert seen.content == (mc.fault is None)
    assert is_within(calls_of(mc, sure=True), seen.calls)
    # Of a word in quoted text without a parenthesis nothing is said.
    assert {call for call in seen.calls if "(" in call} <= set(calls_of(mc, sure=False))


@WITH_M4
@given(SOUP)
def test_junk_is_read_as_far_as_m4_reads_it(m4: Callable[[bytes], Seen], text: str) -> None:
    data = text.encode()
    mc = Mc(data)
    seen = m4(data)
    assert seen.content == (mc.fault is None)
    # By name: an argument with a call in it is given as it is written.
    assert [call.partition("(")[0] for call in calls_of(mc, sure=True)] == [
        call.partition("(")[0] for call in seen.calls
    ]


@WITH_M4
@given(st.lists(st.tuples(statements(st.just("")), SEPARATOR), max_size=6).map(joined))
def test_the_value_of_a_define_is_what_m4_has_in_the_end(m4: Callable[[bytes], Seen], text: str) -> None:
    data = text.encode()
    mc = Mc(data)
    seen = m4(data)
    for name in DEFINED if seen.content else ():
        known = mc.define(name)
        assert (known.text if known else "") == bare(seen.values[name])


@WITH_M4
@given(TEXT, st.sampled_from(["goaway,noetrn", "$j Server; NO UCE AT THIS MAILER", "dnl x", "a (b", ""]))
def test_what_an_edit_says_is_what_m4_has_in_the_end(
    m4: Callable[[bytes], Seen], text: str, value: str
) -> None:
    mc = Mc(text.encode())
    try:
        edited = mc.set_define("confA", value)
        removed = mc.remove_feature("x")
    except FormatError:
        return
    seen = m4(edited.render())
    assert seen.content
    assert bare(seen.values["confA"]) == value
    seen = m4(removed.render())
    sure = [call for call in calls_of(mc, sure=True) if not re.match(r"FEATURE\(`*x'*[,)]", call)]
    assert seen.content
    assert is_within(sure, seen.calls)


def test_m4_has_the_builtins_that_the_parser_knows() -> None:
    said = subprocess.run(["m4"], input=b"dumpdef", capture_output=True, timeout=20, check=True).stderr
    known = {name for name, _ in re.findall(rb"^(\w+):\t(.*)$", said, re.MULTILINE)}
    assert known == set(BUILTINS)
    for name, macro in BUILTINS.items():
        text = b"[" + name + b"]"
        out = subprocess.run(["m4"], input=text, capture_output=True, timeout=20, check=True).stdout
        assert macro is not None
        assert (out == text) == macro.blind, name


def test_no_word_is_both_of_m4_and_of_sendmail() -> None:
    assert set(BUILTINS) & set(CF_MACROS) == {b"format"}
