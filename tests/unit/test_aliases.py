# SPDX-License-Identifier: Apache-2.0
"""The alias file comes back byte by byte, means what newaliases says, and edits touch one entry only."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.errors import FormatError
from hardend.formats.aliases import LONGEST_LINE, Alias, Aliases, Kind, Target, include_targets, logical_lines

PIECES = st.one_of(
    st.sampled_from([b"a: b\n", b"A", b"foo", b": ", b":", b"\n", b"\n ", b"\n\t", b"\\\n", b"\r\n", b", "]),
    st.sampled_from([b"|/x", b"/f", b"\0", b"\xe9", b":include:/x", b"@localhost"]),
    st.sampled_from([bytes([char]) for char in b'# "()<>\\']),
)
DOCUMENTS = st.one_of(st.binary(), st.lists(PIECES, max_size=40).map(b"".join))

SHIPPED = b"""# Basic system aliases -- these MUST be present.
MAILER-DAEMON:\tpostmaster
postmaster:\troot

games:\t\troot
# trap decode to catch security attacks
decode:\t\t"|/usr/bin/uudecode"
list:\tone,
\ttwo@example.com,
\t"|/usr/bin/arc a, b",
\tthree
# people
root: \\root, admin
"""


def meaning(aliases: Aliases, without: Alias | None = None) -> list[tuple[str, tuple[Target, ...]]]:
    return [(entry.key, entry.targets) for entry in aliases.entries if entry is not without]


def database(data: bytes) -> dict[str, str]:
    return {entry.key: entry.value for entry in Aliases(data).entries}


@given(DOCUMENTS)
def test_every_byte_comes_back(data: bytes) -> None:
    assert Aliases(data).render() == data


@given(DOCUMENTS)
def test_logical_lines_are_the_whole_file_in_order(data: bytes) -> None:
    physical = data.split(b"\n")
    after = 0
    for line in logical_lines(data):
        assert line.number == after + 1
        assert line.raw.split(b"\n")[0] == physical[line.number - 1]
        assert (line.length >= LONGEST_LINE) == ("may hang" in line.fault)
        after = line.last


@given(DOCUMENTS)
def test_a_removed_entry_takes_its_continuations_and_changes_no_other(data: bytes) -> None:
    aliases = Aliases(data)
    for entry in aliases.entries:
        edited = aliases.remove(entry.line)
        assert meaning(edited) == meaning(aliases, without=entry)
        lines = re.findall(rb"[^\n]*\n|[^\n]+", data)
        assert edited.render() == b"".join(lines[: entry.line - 1] + lines[entry.last_line :])


@given(DOCUMENTS)
def test_a_removed_target_changes_nothing_else(data: bytes) -> None:
    aliases = Aliases(data)
    faulty = {line for line, _ in aliases.faults()}
    for entry in aliases.entries:
        for text in {target.text for target in entry.targets}:
            kept = tuple(target for target in entry.targets if target.text != text)
            try:
                edited = aliases.remove_target(entry.line, text)
            except FormatError:
                # A backslash at the end of what stays would continue the line; a quote that begins
                # in the name goes over the targets.
                assert "\\" in "".join(target.text for target in kept) or entry.line in faulty
                continue
            assert meaning(edited) == [
                (each.key, kept if each is entry else each.targets)
                for each in aliases.entries
                if kept or each is not entry
            ]


@given(DOCUMENTS, st.sampled_from(["newname", "New.Name", "owner-x"]))
def test_an_added_entry_comes_last_and_changes_nothing_else(data: bytes, name: str) -> None:
    aliases = Aliases(data)
    try:
        edited = aliases.add(name, '"|/bin/x, y"')
    except FormatError:
        assert b"\0" in data or data.rstrip(b"\n").endswith(b"\\") or not data.endswith(b"\n")
        return
    except ValueError:
        assert aliases.get(name)
        return
    assert meaning(edited)[:-1] == meaning(aliases)
    assert edited.render().startswith(data)
    assert edited.get(name.upper())[-1].targets[0].command == "/bin/x, y"
    with pytest.raises(ValueError, match="has an entry"):
        edited.add(name, "root")


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        # What `makemap -u` showed after `sendmail -bi` of each.
        (b"a: x \\\ny\nb: z\n", {"a": "x y", "b": "z"}),
        (b"a: x\\\\\n\nb: z\n", {"a": "xb: z"}),
        (b"\\\na: x\n", {"a": "x"}),
        (b"a: x\n\\\n", {"a": "x"}),
        (b"a: x\\", {"a": "x\\"}),
        (b"a: x\n \\", {"a": "x \\"}),
        (b"# c \\\na: x\nb: y\n", {"b": "y"}),
        (b"# c\n  a: x\nb: y\n", {"b": "y"}),
        (b"#a: x\\", {}),
        (b"a: x\n#\\\n\\\nb: y\nc: z\n", {"a": "x", "c": "z"}),
        (b"a: x\n# c\n\ty\nb: z\n", {"a": "x", "b": "z"}),
        (b"a: x # c\n", {"a": "x # c"}),
        (b"\n a: x\nb: y\n", {"b": "y"}),
        (b" a: x\n b: y\nc: z\n", {"c": "z"}),
        (b"a: x\n \nb: y\n", {"a": "x ", "b": "y"}),
        (b"a: x\r\n\ty\r\nb: z\r\n", {"a": "x\r\ty\r", "b": "z\r"}),
        (b"a: x \\\r\nb: y\n", {"a": "x \\\r", "b": "y"}),
        (b"\x0ca: x\nb: z\n", {"a": "x", "b": "z"}),
        (b"a : x\nb\t:y", {"a": "x", "b": "y"}),
        (b"a: ,\nb: y\n", {"a": ",", "b": "y"}),
        (b"a: 1\nA: 2\n", {"a": "2"}),
        # A NUL ends its line; without a continuation the next line is lost with it.
        (b"a: x\0y\nb: z\nc: w\n", {"c": "w"}),
        (b"a: x\0y\n z\nb: w\n", {"a": "x z", "b": "w"}),
        (b"a: x\0y\n", {"a": "x"}),
        (b"a: x\0\nb: z \\\n q\n w\nc: v\n", {"c": "v"}),
        (b"a: x\0\n\\\nb: z\nc: y\n", {"c": "y"}),
        # Lines that its buffer does not hold.
        (b"a: " + b"x" * 8187 + b"\nb: y\n", {"a": "x" * 8187, "b": "y"}),
        (b"a: " + b"x" * 8188 + b"\nb: y\n", {"b": "y"}),
        (b"a: " + b"x" * 8187 + b"\\\nb: y\nc: z\n", {"b": "y", "c": "z"}),
        (b"a: " + b"x" * 4000 + b"\n " + b"x" * 4186 + b"\n", {"a": "x" * 4000 + " " + "x" * 4186}),
        (b"a: " + b"x" * 4000 + b"\n " + b"x" * 4187 + b"\nb: y\n", {"b": "y"}),
        (b"a: " + b"x" * 9000 + b"\\\n\nb: y\nc: z\n", {"c": "z"}),
    ],
)
def test_lines_are_those_of_newaliases(data: bytes, stored: dict[str, str]) -> None:
    assert database(data) == stored


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (b"Foo", "foo"),
        (b"foo (c)", "foo"),
        (b"(co) cob", "cob"),
        (b"foo bar", "foo.bar"),
        (b"de(x)code", "de.code"),
        (b"Joe Doe <joe>", "joe"),
        (b"z@localhost", "z"),
        (b"a%localhost", "a"),
        (b"localhost!a", "a"),
        (b"a@[127.0.0.1]", "a"),
        (b"l;", "l"),
        (b"a\\ b", "a\\ b"),
        (b"\\decode", "\\decode"),
        (b'"DECODE"', "decode"),
        (b'"(f)decode"', "decode"),
        (b'"g@localhost"', "g"),
        (b'"x%localhost"', "x"),
        (b'"<c>"', "c"),
        (b'"quoted Name"', '"quoted name"'),
        (b'"(n"', '"(n"'),
        (b'"de"code', '"de"code'),
        (b'"de" "code"', '"de""code"'),
        (b'a "b c" d', 'a"b c"d'),
        (b"a>b", "ab"),
        (b"*", "*"),
        (b"User+Det", "user+det"),
        (b"\xe9\xc9", "\udce9\udcc9"),
    ],
)
def test_a_name_has_the_key_that_newaliases_stores(name: bytes, key: str) -> None:
    assert database(name + b": x\n") == {key: "x"}


def test_a_colon_in_quotes_ends_the_name_only_for_the_value() -> None:
    # The database really holds this.
    assert database(b'"a:b": root\n') == {"a:b": 'b": root'}
    assert database(b'"x: y"\n  : lead\n') == {'"x: y"': 'y"  : lead'}


@pytest.mark.parametrize(
    ("data", "faults"),
    [
        (b"a: x\nb\n", [(2, "no colon")]),
        (b"a:  \n", [(1, "a: missing value for alias")]),
        (b" a: x\n", [(1, "a leading blank, and no entry that it continues")]),
        (b"\n x\n\n y\nc: z\n", [(1, "a leading blank, and no entry that it continues")]),
        (b": x\n", [(1, ": illegal alias name")]),
        (b"a\x80b: x\n", [(1, "a\\x80b: illegal alias name")]),
        (b"|a: x\n", [(1, "|a: cannot alias a program, a file or a list")]),
        (b'"/a": x\n', [(1, '"/a": cannot alias a program, a file or a list')]),
        (b'"un: b\n', [(1, '"un: b: unbalanced "')]),
        (b"a: 1\nb: 2\nA: 3\n", [(3, "a: duplicate name, the last one counts")]),
        (b"a: 1\0\nb: 2\n", [(1, "a NUL: newaliases passes over this line and the next")]),
        (b"b: 1\na: " + b"x" * 8188, [(2, "a logical line of 8191 bytes or more: newaliases may hang")]),
        (SHIPPED, []),
    ],
)
def test_faults_are_what_newaliases_complains_of(data: bytes, faults: list[tuple[int, str]]) -> None:
    assert Aliases(data).faults() == faults


def test_an_entry_has_its_targets_and_lines() -> None:
    entry = Aliases(SHIPPED).get("LIST")[0]
    assert (entry.name, entry.line, entry.last_line) == ("list", 8, 11)
    assert [(target.kind, target.text) for target in entry.targets] == [
        (Kind.ADDRESS, "one"),
        (Kind.ADDRESS, "two@example.com"),
        (Kind.PROGRAM, '"|/usr/bin/arc a, b"'),
        (Kind.ADDRESS, "three"),
    ]
    assert entry.targets[2].program == "/usr/bin/arc"
    assert [target.kind for target in Aliases(SHIPPED).get("root")[0].targets] == [Kind.LOCAL, Kind.ADDRESS]


def test_names_are_found_by_what_they_come_down_to() -> None:
    data = b'"(c)DeCode": x\ndecode@localhost: y\nencode: z\n'
    assert [entry.line for entry in Aliases(data).get("decode")] == [1, 2]
    assert Aliases(data).get("missing") == ()


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_several_entries_go_at_once(end: bytes) -> None:
    data = SHIPPED.replace(b"\n", end)
    edited = Aliases(data).remove(7, 8)
    lines = data.splitlines(keepends=True)
    assert edited.render() == b"".join(lines[:6] + lines[11:])
    assert [entry.key for entry in edited.entries] == ["mailer-daemon", "postmaster", "games", "root"]


@pytest.mark.parametrize(
    ("before", "text", "after"),
    [
        (b"a: x, y, z\nb: c\n", "y", b"a: x, z\nb: c\n"),
        (b"a: x, y\r\nb: c\r\n", "y", b"a: x\r\nb: c\r\n"),
        (b"a:\tx,\n\ty,\n\tz\nb: c\n", "y", b"a:\tx,\n\tz\nb: c\n"),
        (b"a:\tx,\n\ty,\n\tz\nb: c\n", "x", b"a:\ty,\n\tz\nb: c\n"),
        (b"a:\tx,\n\ty\nb: c\n", "y", b"a:\tx\nb: c\n"),
        (b"a: x, \\\ny, \\\nz", "z", b"a: x, \\\ny"),
        (b"a: x, x,y,x\n", "x", b"a: y\n"),
        (b"a: x, , y,\n", "x", b"a: y,\n"),
        (b"a: x\n , y\nb: c\n", "x", b"a: y\nb: c\n"),
        (b"b: c\na: x\n \n# n\n", "x", b"b: c\n# n\n"),
        (b'a: "|/x, y" , z\n', '"|/x, y"', b"a: z\n"),
    ],
)
def test_a_target_is_cut_out_with_its_comma(before: bytes, text: str, after: bytes) -> None:
    aliases = Aliases(before)
    line = aliases.get("a")[0].line
    assert aliases.remove_target(line, text).render() == after


def test_an_edit_that_would_continue_a_line_is_refused() -> None:
    with pytest.raises(FormatError, match="/etc/aliases:1: "):
        Aliases(b"a: x\\, y\nb: c\n", "/etc/aliases").remove_target(1, "y")
    with pytest.raises(FormatError, match="/etc/aliases:"):
        Aliases(b"a: x\\", "/etc/aliases").add("b", "c")


def test_what_is_not_there_cannot_be_removed() -> None:
    aliases = Aliases(b"# c\na: x\n\ty\n")
    for line in (1, 3, 9):
        with pytest.raises(KeyError):
            aliases.remove(line)
    with pytest.raises(KeyError):
        aliases.remove_target(2, "y")


def test_an_entry_is_added_with_the_line_end_of_the_file() -> None:
    assert Aliases(b"a: b").add("c", "d").render() == b"a: b\nc: d\n"
    assert Aliases(b"a: b\r\n").add("c", "d").render() == b"a: b\r\nc: d\r\n"
    assert Aliases(b"").add("c", "\\root").render() == b"c: \\root\n"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("a", "b\nc: d"), ("a", "b\n"), ("a", "b, c"), ("a", ""), ("a", "b\0"),
        ("a:b", "c"), ("#a", "b"), (" a", "b"),
    ],
)  # fmt: skip
def test_only_one_whole_entry_can_be_added(name: str, target: str) -> None:
    with pytest.raises(ValueError, match="not one alias"):
        Aliases(b"x: y\n").add(name, target)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        # What `sendmail -bv` of an alias with this include file showed.
        (b"# c\nroot, mail\n", [(2, "root"), (2, "mail")]),
        (b"\troot\n", [(1, "root")]),
        (b" # c\n", [(1, "# c")]),
        (b"root,\n mail\n", [(1, "root"), (2, "mail")]),
        (b"root\\\nmail\n", [(1, "root\\"), (2, "mail")]),
        (b"root #@# x\nroot#@# x\n #@# y\nmail #@#", [(1, "root"), (2, "root#@# x"), (4, "mail")]),
        (b"|/bin/true a\r\nroot\r\n", [(1, "|/bin/true a"), (2, "root")]),
        (b"root\0,mail\nbin\n", [(1, "root"), (2, "bin")]),
        (b"x" * 2047 + b"|/bin/true\n", [(1, "x" * 2047), (1, "|/bin/true")]),
        (b"#" + b"x" * 2046 + b"|/bin/true\n", [(1, "|/bin/true")]),
        (b"#" + b"x" * 2047 + b"|/bin/true\n", [(1, "x|/bin/true")]),
        (b"", []),
    ],
)
def test_an_include_file_gives_the_recipients_that_sendmail_saw(
    data: bytes, found: list[tuple[int, str]]
) -> None:
    assert [(line, target.text) for line, target in include_targets(data)] == found


@given(DOCUMENTS)
def test_any_bytes_can_be_asked_everything(data: bytes) -> None:
    aliases = Aliases(data)
    numbers = {line.number for line in aliases.lines}
    faulty = {line for line, _ in aliases.faults()}
    assert faulty <= numbers
    assert all(entry in aliases.get(entry.name) for entry in aliases.entries if entry.line not in faulty)
    assert {line for line, _ in include_targets(data)} <= set(range(1, data.count(b"\n") + 2))
