# SPDX-License-Identifier: Apache-2.0
"""Selectors of syslog.conf(5): what they take, by the manual's own words and against a plain count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.formats.syslog import Selector, has_script, selectors

PRIORITIES = ("debug", "info", "notice", "warning", "err", "crit", "alert", "emerg")


def taken(text: str) -> list[str]:
    [line] = selectors(f"{text}\t/var/log/x\n")
    return [priority for priority in PRIORITIES if line.takes("mail", priority)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail.err", PRIORITIES[4:]),
        ("mail.error", PRIORITIES[4:]),
        ("*.*;mail.none", ()),
        ("mail.=info", ("info",)),
        ("mail.*;mail.!=info", tuple(name for name in PRIORITIES if name != "info")),
        ("mail.*;mail.!err", PRIORITIES[:4]),
        ("kern,mail.crit", PRIORITIES[5:]),
        ("*.info;mail.none;mail.crit", PRIORITIES[5:]),
        ("auth.*", ()),
        ("mail.nonsense", ()),
    ],
)
def test_a_selector_takes_what_the_manual_says(text: str, expected: tuple[str, ...]) -> None:
    assert taken(text) == list(expected)


@pytest.mark.parametrize(
    ("action", "file", "keeps"),
    [
        ("-/var/log/mail.log", "/var/log/mail.log", True),
        ("/var/log/mail.log;Template", "/var/log/mail.log", True),
        ('action(type="omfile" dynaFile="x" file="/var/log/m")', "/var/log/m", True),
        ("@loghost", "", True),
        ("~", "", False),
        ("stop", "", False),
    ],
)
def test_an_action_names_its_file(action: str, file: str, keeps: bool) -> None:
    selector = Selector("mail.*", action, 1)
    assert (selector.file, selector.keeps) == (file, keeps)


def test_lines_that_go_on_count_from_their_first_and_comments_are_none() -> None:
    text = '# mail.* /a\n$FileOwner root\nmodule(load="imuxsock")\nmail.*;\\\nauth.none\t/b\nmail.*\t/c\n'
    assert [(item.line, item.file) for item in selectors(text)] == [(4, "/b"), (6, "/c")]
    assert not has_script(text)
    assert has_script("if $programname == 'x' then stop\n")
    assert has_script(':msg, contains, "x" ~\n')


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    for item in selectors(text):
        assert item.line >= 1
        assert isinstance(item.takes("mail", "crit"), bool)
