# SPDX-License-Identifier: Apache-2.0
"""Files of shell assignments come back byte by byte and mean what sh makes of them; nothing is run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.errors import FormatError
from hardend.formats.shell import Setting, ShellSettings

PIECES = st.one_of(
    st.sampled_from([b"A=", b"B=", b'A="v"\n', b"\n", b"\n", b"\r\n", b"\\\n", b"export ", b"$A", b"if x\n"]),
    st.sampled_from([bytes([char]) for char in b"\"'\\# \t;=x~`$\0\xe9&|()<>"]),
)
DOCUMENTS = st.one_of(st.binary(), st.lists(PIECES, max_size=30).map(b"".join))
VALUES = st.one_of(
    st.sampled_from(["", "Daemon", "-bd -q1h", 'a"b', "$x", "`id`", "\\", "#", "a'b", "\udce9"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0")),
)

DEBIAN = b"""# DAEMON_MODE="Daemon";  Keyword\tSMTP listener
DAEMON_MODE="Daemon";
DAEMON_PARMS="";
#
HANDS_OFF="No";
QUEUE_MODE="${DAEMON_MODE}"
QUEUE_INTERVAL="10m";  # how often
"""
REDHAT = b"""DAEMON=yes
QUEUE=1h
SENDMAIL_OPTS='-bd -q1h'
"""


def others(settings: ShellSettings, name: str) -> list[tuple[str, str, bool]]:
    return [(each.name, each.value, each.literal) for each in settings.settings if each.name != name]


@given(DOCUMENTS)
def test_every_byte_comes_back(data: bytes) -> None:
    assert ShellSettings(data).render() == data


@given(DOCUMENTS)
def test_lines_are_numbered_as_an_editor_does(data: bytes) -> None:
    lines = data.split(b"\n")
    settings = ShellSettings(data)
    for setting in settings.settings:
        assert setting.name.encode() + b"=" in lines[setting.line - 1]
    assert {line for line, _ in settings.faults()} <= set(range(1, len(lines) + 1))


@given(DOCUMENTS, st.sampled_from(["A", "NEW_1"]), VALUES)
def test_a_set_value_reads_back_and_changes_only_its_own_lines(data: bytes, name: str, value: str) -> None:
    settings = ShellSettings(data)
    try:
        edited = settings.set(name, value)
    except FormatError:
        assert "a statement without end" in settings.faults()[-1][1]
        return
    found = edited.get(name)
    assert found is not None
    assert (found.value, found.literal) == (value, True)
    assert others(edited, name) == others(settings, name)
    assert edited.set(name, value) is edited
    known = settings.get(name)
    before, after = data.split(b"\n"), edited.render().split(b"\n")
    if known is None:
        assert edited.render().startswith(data)
    else:
        rest = len(after) - known.line
        assert after[: known.line - 1] == before[: known.line - 1]
        assert after[known.line :] == before[len(before) - rest :]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # What `. FILE; printf %s "$A"` of dash gave.
        (b'A="x y"', "x y"),
        (b"A='x y'", "x y"),
        (b"A=x", "x"),
        (b"A=", ""),
        (b'A=""', ""),
        (b"A= # c", ""),
        (b"A=#c", "#c"),
        (b"A=x#c", "x#c"),
        (b"A=x #c", "x"),
        (b"A=x;", "x"),
        (b"A=x; #c", "x"),
        (b"  A=x", "x"),
        (b"\texport A=x", "x"),
        (b"A=\"a\"'b'c", "abc"),
        (b"A=a\\ b", "a b"),
        (b"A=\\ #", " #"),
        (b'A="a\\"b\\\\c\\d"', 'a"b\\c\\d'),
        (b"A='a\\b'", "a\\b"),
        (b"A='\"'", '"'),
        (b'A="a\nb"', "a\nb"),
        (b'A="a\\\nb"', "ab"),
        (b"A=a\\\nb", "ab"),
        (b"A==x", "=x"),
        (b"A=\\$x", "$x"),
        (b"A='$x'", "$x"),
        (b"A=x\nA=y", "y"),
        (b"#A=y\nA=x\n# A=z", "x"),
        (b"A=\xe9", "\udce9"),
    ],
)
def test_a_value_is_what_the_shell_has(text: bytes, value: str) -> None:
    for end in (b"", b"\n"):
        settings = ShellSettings(text + end)
        found = settings.get("A")
        assert found is not None
        assert (found.value, found.literal) == (value, True)
        assert settings.faults() == []


@pytest.mark.parametrize("text", [b"A=$x", b'A="${x}"', b"A=`id`", b'A="$(id)"', b"A=~/x", b"A='x'$y"])
def test_a_value_that_the_shell_makes_is_no_literal(text: bytes) -> None:
    found = ShellSettings(text + b"\n").get("A")
    assert found is not None
    assert not found.literal


@pytest.mark.parametrize(
    "text",
    [
        b"A=x y",  # runs y
        b"A =x",
        b"A=$(id -u)",
        b"A=x B=y",
        b"A=x && B=y",
        b"1A=x",
        b"A-B=x",
        b"env A=x",
        b"echo 'A=x\nA=y'",
        b'A="x',
        b"A=x \\",
        b"A=x \\\n",
        b"{ A=x; }",
    ],
)
def test_what_is_not_one_assignment_is_left_alone_and_named(text: bytes) -> None:
    settings = ShellSettings(b"# c\n" + text)
    assert settings.get("A") is None
    assert [line for line, _ in settings.faults()] == [2]


def test_files_of_distributions_are_understood() -> None:
    debian = ShellSettings(DEBIAN)
    assert debian.get("HANDS_OFF") == Setting("HANDS_OFF", "No", 5)
    assert debian.get("QUEUE_MODE") == Setting("QUEUE_MODE", "${DAEMON_MODE}", 6, literal=False)
    assert debian.get("DAEMON_PARMS") == Setting("DAEMON_PARMS", "", 3)
    assert debian.faults() == []
    redhat = ShellSettings(REDHAT)
    assert [(each.name, each.value) for each in redhat.settings] == [
        ("DAEMON", "yes"), ("QUEUE", "1h"), ("SENDMAIL_OPTS", "-bd -q1h")
    ]  # fmt: skip


def test_an_edit_keeps_what_stands_around_the_value() -> None:
    edited = ShellSettings(DEBIAN).set("QUEUE_INTERVAL", "5m").set("HANDS_OFF", "Yes").set("NEW", "x")
    assert edited.render() == (
        DEBIAN.replace(b'"10m"', b'"5m"').replace(b'"No"', b'"Yes"') + b'NEW="x"\n'
    )
    assert ShellSettings(REDHAT.replace(b"\n", b"\r\n")[:-2]).set("X", "y").render() == (
        REDHAT.replace(b"\n", b"\r\n") + b'X="y"\r\n'
    )


def test_a_carriage_return_is_named_as_the_shell_takes_it_in() -> None:
    settings = ShellSettings(b"A=x\r\n#c\r\nB=y #c\r\n\r\n")
    assert settings.faults() == [(1, "a carriage return: the shell takes it into the value")]
    assert settings.get("A") == Setting("A", "x", 1)


@pytest.mark.parametrize(
    ("name", "value"), [("A", "x\ny"), ("A", "x\0"), ("", "x"), ("1A", "x"), ("A B", "x"), ("A\n", "x")]
)
def test_what_is_no_setting_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="no setting"):
        ShellSettings(b"").set(name, value)


def test_nothing_is_put_behind_a_statement_without_end() -> None:
    with pytest.raises(FormatError, match=r"/etc/mail/sendmail\.conf:2: "):
        ShellSettings(b'A=x\nB="y\nC=z\n', "/etc/mail/sendmail.conf").set("D", "x")
    with pytest.raises(FormatError, match="without end"):
        ShellSettings(b"run x \\\n").set("D", "x")
