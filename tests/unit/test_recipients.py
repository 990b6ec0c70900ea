# SPDX-License-Identifier: Apache-2.0
"""What Sendmail makes of a recipient: the tables are what `sendmail -bv` and the program itself saw."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.formats.recipients import Kind, Target, scan, targets

PIECES = st.one_of(
    st.sampled_from([b"|/bin/x", b"/f", b":include:/x", b"root", b"@localhost", b"grp:", b"(c)", b" "]),
    st.sampled_from([bytes([char]) for char in b'\\",;<>()@%!:.\xe9\0\r']),
)
TEXTS = st.one_of(st.binary(), st.lists(PIECES, max_size=20).map(b"".join))


def meant(text: bytes) -> list[tuple[Kind, str]]:
    return [(target.kind, target.value) for _, _, target in targets(text)]


def only(text: bytes) -> Target:
    ((_, _, target),) = targets(text)
    return target


@pytest.mark.parametrize(
    ("text", "command"),
    [
        # What a program in the place of smrsh got behind -c.
        (b"|/bin/true", "/bin/true"),
        (b'"|/bin/true a, b"', "/bin/true a, b"),
        (b'|"/bin/true a, b"', "/bin/true a, b"),
        (b"|/bin/true -x arg", "/bin/true.-x.arg"),
        (b"|  /bin/true  a   b", "/bin/true.a.b"),
        (b'"|  /bin/true  a   b  "', "  /bin/true  a   b  "),
        (b'"|"/bin/true"', "/bin/true"),
        (b'"|/bin/true', "/bin/true"),
        (b'"|/bin/true \\"a b\\" c"', '/bin/true "a b" c'),
        (b'"|/bin/a\\\\b"', "/bin/a\\b"),
        (b"|/bin/tr\\ue", "/bin/true"),
        (b'"|/bin/x \\, y"', "/bin/x , y"),
        (b'|"/bin/a b" c "d e"', "/bin/a bcd e"),
        (b'"|/bin/true" root', "/bin/trueroot"),
        (b'"|/bin/true"x@localhost', "/bin/truex"),
        (b"|/bin/sh -c 'a b'", "/bin/sh.-c.'a.b'"),
        (b"|/bin/true;root", "/bin/true;root"),
        (b"a:|/bin/true [b]", "/bin/true[b]"),
        (b'"|/bin/\xf3\xe8"', "/bin/\udcf3\udce8"),
        (b"|", ""),
        # Forms that hide it, deliverable to the mailer prog all the same.
        (b"(c)|/bin/true", "/bin/true"),
        (b"(a(b)c)|/bin/true", "/bin/true"),
        (b"|/bin/true (unbal", "/bin/true"),
        (b"|/bin/true (c) x", "/bin/true.x"),
        (b"<|/bin/true>", "/bin/true"),
        (b"<<|/bin/true>>", "/bin/true"),
        (b"Joe Doe <|/bin/true>", "/bin/true"),
        (b"<a> <|/bin/true>", "/bin/true"),
        (b'Joe <"|/bin/true a">', "/bin/true a"),
        (b"grp:|/bin/true;", "/bin/true"),
        (b'grp:"|/bin/true x";', "/bin/true x"),
        (b":|/bin/true", "/bin/true"),
        (b"a:<|/bin/true>", "/bin/true"),
        (b"@localhost:|/bin/true", "/bin/true"),
        (b"<@localhost,@localhost:|/bin/true>", "/bin/true"),
        (b"|/bin/true@localhost", "/bin/true"),
        (b'"|/bin/true"@localhost', "/bin/true"),
        (b'"|/bin/true@localhost"', "/bin/true"),
        (b'"@localhost:|/bin/true"', "/bin/true"),
        (b"|/bin/true%localhost@localhost", "/bin/true"),
        (b"localhost!localhost!|/bin/true", "/bin/true"),
        (b"localhost\\!|/bin/true", "/bin/true"),
        (b'"(c)|/bin/true"', "/bin/true"),
        (b'"((c))|/bin/true"', "/bin/true"),
        (b'"(\\"c)|/bin/true"', "/bin/true"),
        (b'localhost!"(c)|/bin/true"', "/bin/true"),
        (b"|/bin/x[IPv6:::1]", "/bin/x[IPv6:::1]"),
    ],
)
def test_a_program_gets_what_sendmail_gives_it(text: bytes, command: str) -> None:
    assert only(text).kind is Kind.PROGRAM
    assert only(text).command == command


@pytest.mark.parametrize(
    "text",
    [
        # "User unknown", or mail to a person: no program ran.
        b"\\|/bin/true",
        b'"\\|/bin/true"',
        b'" |/bin/true"',
        b'""|/bin/true',
        b"root |/bin/true",
        b'root "|/bin/true"',
        b'"a" |/bin/true',
        b";|/bin/true",
        b"a;|/bin/true",
        b"[|/bin/true]",
        b"*|/bin/true",
        b".|/bin/true",
        b"'|/bin/true'",
        b"`/bin/true`",
        b"a:b:|/bin/true",
        b"x::|/bin/true",
        b"<a:|/bin/true>",
        b'"x:|/bin/true"',
        b"|/bin/true [a:b]",
        b"|/bin/true <root>",
        b"<|/bin/true> <a>",
        b"(unbal |/bin/true",
        b'"(c d)|/bin/true"',
        b'"(c)|/bin/true x"',
        b'"(c)|/bin/true"x',
        b'"\\(c)root"',
        b"|/bin/x a!b",
        b"error:5.1.1 no",
        b"root # note",
        b"::include:/x",
        b"x:include:/x",
        b':"include":/x',
        b'" :include:/x"',
        b'"\\:include:/x"',
        b"root/f",
        b"~/f",
        b"./f",
    ],
)
def test_what_only_looks_like_a_program_or_file_is_an_address(text: bytes) -> None:
    assert {kind for kind, _ in meant(text)} <= {Kind.ADDRESS, Kind.LOCAL}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b"/dev/null", "/dev/null"),
        (b'"/dev/null"', "/dev/null"),
        (b"</dev/null>", "/dev/null"),
        (b'"/tmp/with blank"', "/tmp/with blank"),
        (b"/tmp/f g", "/tmp/f.g"),
        (b'/dev/"null"', "/dev/null"),
        (b"/dev/nu\\ll", "/dev/null"),
        (b"/tmp/f@localhost", "/tmp/f"),
        (b'"(c)/tmp/f"', "/tmp/f"),
        (b"include:/tmp/list", "/tmp/list"),  # a group of that name
        (b"\\:include:/tmp/list", "/tmp/list"),
        (b"|/bin/prog http://x", "//x"),
    ],
)
def test_a_file_is_the_one_that_sendmail_opens(text: bytes, path: str) -> None:
    assert meant(text) == [(Kind.FILE, path)]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b":include:/tmp/list", "/tmp/list"),
        (b":INCLUDE:/tmp/list", "/tmp/list"),
        (b": include : /tmp/list", "/tmp/list"),
        (b'":include:/tmp/list"', "/tmp/list"),
        (b'":include: /tmp/list"', " /tmp/list"),  # it could not open that
        (b'":include:" /tmp/list', "/tmp/list"),
        (b':include:"/tmp/with space/list"', "/tmp/with space/list"),
        (b":include:/tmp/with  space/list", "/tmp/with space/list"),
        (b":include:/tmp/list@localhost", "/tmp/list"),
        (b"<:include:/tmp/list>", "/tmp/list"),
        (b"(x):include:/tmp/list;", "/tmp/list"),
        (b'"(c):include:/tmp/list"', "/tmp/list"),
        (b"@localhost::include:/tmp/list", "/tmp/list"),
    ],
)
def test_an_include_names_the_file_that_sendmail_reads(text: bytes, path: str) -> None:
    assert only(text).kind is Kind.INCLUDE
    assert only(text).include_path == path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"\\root", Target(Kind.LOCAL, "\\root", "root")),
        (b'"\\root"', Target(Kind.LOCAL, '"\\root"', "root")),
        (b"\\root@localhost", Target(Kind.LOCAL, "\\root@localhost", "root", "localhost")),
        (b"Joe <joe@a.example>", Target(Kind.ADDRESS, "Joe <joe@a.example>", "joe", "a.example")),
        # Here it was mail to b.example; on b.example it is a program.
        (b"|/bin/x a@b.example", Target(Kind.PROGRAM, "|/bin/x a@b.example", "/bin/x.a", "b.example")),
        (b"root (", Target(Kind.ADDRESS, "root (", "root", "", "unbalanced (")),
    ],
)
def test_users_hosts_and_faults_are_told(text: bytes, expected: Target) -> None:
    assert only(text) == expected


@pytest.mark.parametrize(
    ("text", "items"),
    [
        (b"root,,mail,", ["root", "mail"]),
        (b' a , "b, c" ,d(e,f)\r', ["a", '"b, c"', "d(e,f)"]),
        (b"root\\, |/bin/true", ["root\\", "|/bin/true"]),  # no backslash saves a comma
        (b"<root, mail>", ["<root", "mail>"]),
        (b"grp:root,|/bin/true;", ["grp:root", "|/bin/true;"]),
        (b'"a, b', ['"a, b']),
        (b"root;mail", ["root;mail"]),
        (b" ,\t", []),
    ],
)
def test_commas_part_recipients_outside_quotes(text: bytes, items: list[str]) -> None:
    assert [target.text for _, _, target in targets(text)] == items


@pytest.mark.parametrize(
    ("command", "programs"),
    [
        (b'"|/usr/bin/vacation -a x joe"', ("/usr/bin/vacation",)),
        (b'"|exec /usr/bin/procmail || exit 75"', ("/usr/bin/procmail",)),
        (b'"|/bin/a x && /bin/b||c"', ("/bin/a", "/bin/b", "c")),
        (b"\"|'/bin/a' b\"", ("/bin/a",)),
        (b'"|echo hello"', ()),
        (b'"|exec"', ()),
        (b"root", ()),
    ],
)
def test_every_program_of_a_command_is_named(command: bytes, programs: tuple[str, ...]) -> None:
    target = only(command)
    assert target.programs == programs
    assert target.program == (programs[0] if programs else "")


@given(TEXTS)
def test_recipients_stand_in_order_where_they_say(text: bytes) -> None:
    at = 0
    for begin, end, target in targets(text):
        assert at <= begin < end
        assert text[begin:end].decode("utf-8", "surrogateescape") == target.text
        at = end


@given(TEXTS, st.integers(0, 30))
def test_any_bytes_can_be_scanned_from_anywhere(text: bytes, at: int) -> None:
    for delimiter in (b"", b",", b":"):
        found = scan(text, at, delimiter)
        assert at <= found.end <= max(at, len(text))
        assert b"" not in found.tokens
