# SPDX-License-Identifier: Apache-2.0
"""Sources of makemap and word lists come back byte by byte, and mean what makemap and sendmail say."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.errors import FormatError
from hardend.formats.table import Row, Table, Word, WordList

PIECES = st.one_of(
    st.sampled_from([b"a", b"B", b"\n", b"\n", b"\r\n", b"k1\tv\n", b"x y z\n", b"Connect:10", b"RELAY"]),
    st.sampled_from([b" ", b"\t", b"#", b"\0", b"\xe9", b":", b'"', b"\\", b"\v", b"a" * 1022, b"b" * 2046]),
)
DOCUMENTS = st.one_of(st.binary(), st.lists(PIECES, max_size=30).map(b"".join))
FLAGS = st.sampled_from([(), ("-f",), ("-e",), ("-r",), ("-d",)])
PATTERNS = st.sampled_from(["%s", "%[^#]", "%[^#:]", "%*s %s", "%3s", "%[a-z]", "%[]a]", "%d", "%", "foo %s"])

ACCESS = b"""# Relay for us
Connect:localhost\t\tRELAY
Connect:10.1\t\t\tRELAY
spam.example   550 We do not want this

FROM:user@a.example\tDISCARD"""


def physical(data: bytes) -> list[bytes]:
    return re.findall(rb"[^\n]*\n|[^\n]+", data)


def pairs(table: Table) -> list[tuple[str, str]]:
    return [(row.key, row.value) for row in table.entries]


@given(DOCUMENTS, FLAGS, PATTERNS)
def test_every_byte_comes_back(data: bytes, flags: tuple[str, ...], pattern: str) -> None:
    assert Table(data, flags=flags).render() == data
    assert WordList(data, pattern=pattern).render() == data


@given(DOCUMENTS, FLAGS)
def test_any_bytes_can_be_asked_everything(data: bytes, flags: tuple[str, ...]) -> None:
    table = Table(data, flags=flags)
    lines = set(range(1, len(physical(data)) + 1))
    assert {row.line for row in table.entries} <= lines
    assert {line for line, _ in table.faults()} <= lines
    assert all(table.get(row.key) in table.entries for row in table.entries)


@given(DOCUMENTS, FLAGS)
def test_a_removed_line_changes_no_other(data: bytes, flags: tuple[str, ...]) -> None:
    table = Table(data, flags=flags)
    for row in table.entries:
        edited = table.remove(row.line)
        lines = physical(data)
        assert edited.render() == b"".join(lines[: row.line - 1] + lines[row.line :])
        assert pairs(edited) == [(each.key, each.value) for each in table.entries if each.line != row.line]


@given(DOCUMENTS, st.sampled_from(["REJECT", "550 go away", "x\xe9"]))
def test_a_set_value_changes_one_line_once(data: bytes, value: str) -> None:
    table = Table(data)
    for row in table.entries:
        try:
            edited = table.set(row.key, value)
        except FormatError:
            assert any(len(line) > 1023 for line in physical(data)) or b"\0" in data
            continue
        at = edited.get(row.key)
        assert at is not None
        assert at.value == value
        assert edited.set(row.key, value).render() == edited.render()
        before, after = physical(data), physical(edited.render())
        changed = [number for number, line in enumerate(after, start=1) if line != before[number - 1]]
        assert changed in ([], [at.line])
        assert len(before) == len(after)


@given(DOCUMENTS)
def test_an_added_entry_comes_last_and_changes_nothing_else(data: bytes) -> None:
    table = Table(data)
    try:
        edited = table.set("New:Key", "some value")
    except FormatError:
        assert b"\0" in data or any(len(line) >= 1022 for line in physical(data))
        return
    assert pairs(edited) == [*pairs(table), ("new:key", "some value")]
    assert edited.render().startswith(data)
    assert edited.set("NEW:KEY", "some value").render() == edited.render()


@pytest.mark.parametrize(
    ("data", "flags", "stored", "faults"),
    [
        # What makemap stored (`makemap -u`), and the lines that it complained of.
        (b"A.b\tRELAY\n", (), {"a.b": "RELAY"}, []),
        (b"a  x y \n", (), {"a": "x y"}, []),
        (b"a\n", (), {}, [1]),
        (b"a \n", (), {}, [1]),
        (b" a x\n", (), {}, [1]),
        (b"\n\n#c\n a\n", (), {}, [4]),
        (b" # c\n\t#c\n#c", (), {}, [1, 2]),
        (b"a x", (), {"a": "x"}, []),
        (b"a x\r\nb\r\n\r\n#c\r\n", (), {"a": "x"}, [2, 3]),
        (b"a 1\nA 2\na 3\n", (), {"a": "1"}, [2, 3]),
        (b'"a b" c\n', (), {'"a': 'b" c'}, []),
        (b"a\tb # c\n", (), {"a": "b # c"}, []),
        (b"a \\\nb c\n", (), {"a": "\\", "b": "c"}, []),
        (b"a\\\n b\n", (), {}, [1, 2]),
        (b"a\x0bb\nc\x0cd\n", (), {"a": "b", "c": "d"}, []),
        (b"a x\0y\nb y\n", (), {"b": "y"}, [1]),
        (b"\0a b\nb y\n", (), {"b": "y"}, [1]),
        (b"a x\0y", (), {"a": "x"}, []),
        (b"\xe9\xc9K x\n", (), {"\udce9\udcc9k": "x"}, []),
        (b"a\xa0b c\n", (), {"a\udca0b": "c"}, []),
        (b"Connect:10\tRELAY\n", (), {"connect:10": "RELAY"}, []),
        (b"a " + b"x" * 1020 + b"\nb y\n", (), {"a": "x" * 1020, "b": "y"}, []),
        (b"a " + b"x" * 1021 + b"\nb y\n", (), {"b": "y"}, [1]),
        (b"a " + b"x" * 1021, (), {}, [1]),
        (b"a " + b"x" * 1023 + b"|b c\nd e\n", (), {"xx|b": "c", "d": "e"}, [1]),
        (b"A x\n", ("-f",), {"A": "x"}, []),
        (b"a\nb c\n", ("-e",), {"a": "", "b": "c"}, []),
        (b"a 1\na 2\n", ("-r",), {"a": "2"}, []),
    ],
)
def test_entries_are_those_of_makemap(
    data: bytes, flags: tuple[str, ...], stored: dict[str, str], faults: list[int]
) -> None:
    table = Table(data, flags=flags)
    found = {row.key: table.get(row.key) for row in table.entries}
    assert {key: row.value for key, row in found.items() if row is not None} == stored
    assert sorted({line for line, _ in table.faults()}) == faults


def test_faults_say_what_is_wrong() -> None:
    table = Table(b"a 1\nb\n c d\nA 2\ne\x1b\0f\ng h\n")
    assert table.faults() == [
        (2, "b: no value"),
        (3, "a leading blank"),
        (4, "a: duplicate key, the first one counts"),
        (5, "over 1023 bytes, or a NUL"),
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_edits_keep_blanks_comments_and_line_ends(end: bytes) -> None:
    table = Table(ACCESS.replace(b"\n", end))
    assert table.get("spam.example") == Row("spam.example", "550 We do not want this", 4)
    edited = table.set_value(4, "REJECT").remove(2, 3).add("New", "OK")
    assert edited.render().replace(end, b"\n") == (
        b"# Relay for us\nspam.example   REJECT\n\nFROM:user@a.example\tDISCARD\nNew\tOK\n"
    )
    assert edited.render().count(end) == 5


def test_what_is_no_entry_is_refused() -> None:
    table = Table(b"# c\na b\n", "/etc/mail/access")
    refused = (("a", "x"), ("c d", "x"), ("#c", "x"), ("", "x"), ("c", ""), ("c", "x "), ("c", "x\ny"))
    for key, value in refused:
        with pytest.raises(ValueError, match=r"has an entry|not one entry"):
            table.add(key, value)
    for value in ("", " x", "x\n", "x\0"):
        with pytest.raises(ValueError, match="no value"):
            table.set_value(2, value)
    for line in (0, 1, 3):
        with pytest.raises(KeyError):
            table.remove(line)
        with pytest.raises(KeyError):
            table.set_value(line, "x")


def test_an_edit_that_would_change_another_entry_is_refused() -> None:
    # The NUL ends the last line only because no line end follows.
    with pytest.raises(FormatError, match="/etc/mail/access:1: "):
        Table(b"a x\0y", "/etc/mail/access").add("b", "c")
    with pytest.raises(FormatError, match="by hand"):
        Table(b"a " + b"x" * 1023 + b"|b c\n").set_value(1, "d")


@pytest.mark.parametrize(
    ("data", "pattern", "words"),
    [
        # What `$={Z}` of sendmail -bt showed of an F line with this file and pattern.
        (b"a\nB c\n# d\n#e\n  f  \n\n", "%s", ["a", "B", "f"]),
        (b"a\nB c\n# d\n#e\n  f  \n\n", "%[^#]", ["a", "B", "c", "f"]),
        (b"a # c\nb#c\n#\n", "%s", ["a", "b#c"]),
        (b"a # c\nb#c\n#\n", "%[^#]", ["a", "b"]),
        (b"a\r\nb c\r\n", "%s", ["a", "b"]),
        (b"a\0b\nc\n", "%s", ["a", "c"]),
        (b" #a\n", "%s", ["#a"]),
        (b" #a\n", "%[^#]", []),
        (b"a,b\n", "%s", ["a,b"]),
        (b'"a b"\n', "%s", ['"a']),
        (b'"a b"\n', "%[^#]", ['"a', 'b"']),
        (b"a\x0bb\n", "%s", ["a"]),
        (b"a\\\nb\n", "%s", ["a\\", "b"]),
        (b"x" * 2047 + b"yy\nz\n", "%s", ["x" * 2047, "yy", "z"]),
        (b"x:y\nz q\n", "%[^:]", ["x", "z", "q"]),
        (b"foo bar\n", "foo %s", ["bar"]),
        (b"foo bar\nfoo\n", "%*s %s", ["bar"]),
        (b"ab\ncd\n", "%1s", ["a", "c"]),
        (b"10 x\n", "%d", []),
    ],
)
def test_words_are_those_of_the_class(data: bytes, pattern: str, words: list[str]) -> None:
    assert [word.text for word in WordList(data, pattern=pattern).words] == words


@given(DOCUMENTS, PATTERNS)
def test_a_removed_word_changes_no_other(data: bytes, pattern: str) -> None:
    listed = WordList(data, pattern=pattern)
    for word in listed.words:
        edited = listed.remove(word.line)
        assert edited.words == tuple(
            Word(each.text, each.line - (each.line > word.line))
            for each in listed.words
            if each.line != word.line
        )


@given(DOCUMENTS)
def test_an_added_word_is_there_once(data: bytes) -> None:
    listed = WordList(data)
    try:
        edited = listed.add("new.example")
    except FormatError:
        assert any(len(line) >= 2046 for line in physical(data))
        return
    assert [word.text for word in edited.words] == [*(word.text for word in listed.words), "new.example"]
    assert edited.has("NEW.example")
    assert edited.add("new.example") is edited


def test_one_word_of_a_line_goes_and_the_comment_stays() -> None:
    listed = WordList(b"a.example b.example # ours\n\nc.example\n", pattern="%[^#]")
    edited = listed.remove_word(1, "a.example")
    assert edited.render() == b"b.example # ours\n\nc.example\n"
    assert edited.remove_word(1, "b.example").render() == b"\nc.example\n"
    with pytest.raises(KeyError):
        listed.remove_word(3, "a.example")
    with pytest.raises(KeyError):
        listed.remove(2)


@pytest.mark.parametrize("word", ["", "a b", "#a", "a\nb", "a\0b"])
def test_only_one_word_can_be_added(word: str) -> None:
    with pytest.raises(ValueError, match="not one word"):
        WordList(b"x\n").add(word)
