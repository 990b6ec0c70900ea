# SPDX-License-Identifier: Apache-2.0
"""sendmail.cf: lossless, and read as sendmail 8.17.1.9 reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.formats.cf import AliasSpec, Cf, ClassFile, Value
from hardend.formats.cf_options import option_name
from tests.unit.trees import CLASSIC_CF, DEBIAN_CF, REDHAT_CF

# Bytes of which configuration lines are made, so that parsers are reached and not only skipped.
PIECES = st.one_of(
    st.sampled_from([b"O ", b"O", b"K", b"F", b"M", b"D", b"C", b"Q", b"V10", b"P=", b"A=", b"-o"]),
    st.sampled_from([b"\n", b"\r\n", b"\t", b" ", b"\0", b"\xff", b"/etc/x", b"AliasFile", b"hash"]),
    st.sampled_from([bytes([char]) for char in b'{}=,#\\"$|@:*']),
)
DOCUMENTS = st.one_of(st.binary(), st.lists(PIECES, max_size=40).map(b"".join))

# What `sendmail -C FILE -bt -d37.1,0.15` printed for this file.
SEEN = rb"""V10/Berkeley
DAalpha
O AliasF=/etc/one, hash: -N /etc/two # trailing
O privacyoptions = goaway # no\
 ,noetrn
Opauthwarnings
OL9
O SmtpGreetingMessage=$j \#x $# y
 second # gone
 third
O QueueDirectory=/var/spool/mqueue
O Timeout.ident = 5s
Mlocal, P=/bin/true, F=lsDFMAw5:/|@qPn9, S=0, R=0, T=DNS/RFC822/X-Unix, A=true "a,b" $u
Mprog,		P=/bin/sh, F=lsDFMoqeu9,
	A=sh -c $u
"""


@given(DOCUMENTS)
def test_every_byte_comes_back(data: bytes) -> None:
    assert Cf(data).render() == data


@given(DOCUMENTS)
def test_any_bytes_can_be_asked_everything(data: bytes) -> None:
    cf = Cf(data)
    lines = {line.number for line in cf.lines}
    values = [*cf.privacy_flags(), *cf.macros(), *cf.programs(), *cf.class_words("w")]
    values += cf.options("AliasFile")
    asked = [value.line for value in values] + [item.line for item in cf.alias_files()]
    asked += [item.line for item in cf.class_files()] + [item.line for item in cf.maps()]
    asked += [item.line for item in (*cf.mailers(), *cf.queue_groups())]
    assert set(asked) <= lines
    assert cf.greeting() is None or cf.greeting() in {
        cf.option("SmtpGreetingMessage"), cf.macro("e")
    }  # fmt: skip


@given(DOCUMENTS)
def test_lines_are_numbered_as_an_editor_does(data: bytes) -> None:
    physical = data.split(b"\n")
    for line in Cf(data).lines:
        assert physical[line.number - 1] == line.raw.split(b"\n")[0]


@pytest.mark.parametrize("text", [DEBIAN_CF, REDHAT_CF, CLASSIC_CF, SEEN])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_real_file_comes_back_with_either_line_end_and_without_the_last(text: bytes, end: bytes) -> None:
    data = text.replace(b"\n", end)
    assert Cf(data).render() == data
    assert Cf(data[: -len(end)]).render() == data[: -len(end)]
    assert [line.text for line in Cf(data).lines] == [line.text for line in Cf(text).lines]


def test_options_are_those_that_sendmail_saw() -> None:
    cf = Cf(SEEN)
    assert [value.text for value in cf.options("AliasFile")] == ["/etc/one, hash: -N /etc/two"]
    assert cf.options("PrivacyOptions") == [
        Value("goaway\n ,noetrn", 4, "PrivacyOptions"),
        Value("authwarnings", 6, "PrivacyOptions"),
    ]
    assert cf.option("loglevel") == Value("9", 7, "LogLevel")
    assert cf.greeting() == Value("$j #x $# y\n second\n third", 8, "SmtpGreetingMessage")
    assert cf.option("Timeout.ident") == Value("5s", 12, "Timeout.ident")


def test_mailers_are_those_that_sendmail_saw() -> None:
    local, prog = Cf(SEEN).mailers()
    assert (local.name, local.path, local.arguments) == ("local", "/bin/true", "true a,b $u")
    assert dict(local.fields)["F"] == "lsDFMAw5:/|@qPn9"
    assert (prog.path, prog.arguments, prog.line) == ("/bin/sh", "sh -c $u", 14)


def test_the_last_mailer_of_a_name_counts() -> None:
    mailer = Cf(b"Mprog, P=/bin/sh, A=sh\nMPROG,P=/usr/sbin/smrsh,A=smrsh -c $u\n").mailer("prog")
    assert mailer is not None
    assert (mailer.path, mailer.line) == ("/usr/sbin/smrsh", 2)


def test_a_mailer_with_a_broken_field_keeps_what_was_read_before() -> None:
    mailer = Cf(b"Mx, P=/bin/x, oops, A=x\n").mailer("x")
    assert mailer is not None
    assert (mailer.path, mailer.arguments) == ("/bin/x", "")


def test_privacy_flags_accumulate_over_lines_and_forms() -> None:
    cf = Cf(b"O PrivacyOptions=goaway,restrictmailq\nOpNOEXPN; novrfy\n")
    assert [(flag.text, flag.line) for flag in cf.privacy_flags()] == [
        ("goaway", 1), ("restrictmailq", 1), ("noexpn", 2), ("novrfy", 2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        (b"O LogLevel=9", "LogLevel", "9"),
        (b"O LOGLEVEL = 9 ", "LogLevel", "9"),
        (b"O LogL=9", "LogLevel", "9"),
        (b"OL9", "LogLevel", "9"),
        (b"OA/etc/aliases", "AliasFile", "/etc/aliases"),
        (b"O HostStatusDirectory", "HostStatusDirectory", ""),
        (b"O SmtpGreetingMessage=a = b", "SmtpGreetingMessage", "a = b"),
    ],
)
def test_an_option_is_found_in_every_form(line: bytes, name: str, value: str) -> None:
    assert Cf(line).option(name) == Value(value, 1, name)


@pytest.mark.parametrize(
    "line",
    [
        b"#O LogLevel=9",
        b"# O LogLevel=1\n O LogLevel=9",  # the second line continues the comment
        b"OLogLevel=9",  # the short option L, of value ogLevel=9
        b"O LogLevel 9",
        b"O\tLogLevel=9",
        b"O  LogLevel=9",
    ],
)
def test_what_sendmail_does_not_take_for_the_option_is_none(line: bytes) -> None:
    value = Cf(line).option("LogLevel")
    assert value is None or value.text == "ogLevel=9"


def test_an_abbreviation_of_two_names_is_no_option() -> None:
    assert option_name("Max", short=False) == "Max"
    assert option_name("SSLEngine", short=False) == "SSLEngine"
    assert option_name("M", short=True) == "M"


def test_the_greeting_of_an_old_file_is_its_macro() -> None:
    assert Cf(CLASSIC_CF).greeting() == Value("My host ready", 3, "e")


def test_a_hash_is_a_comment_only_from_level_three_on() -> None:
    text = b"O HelpFile=/etc/a#b\n"
    for version, value in ((b"V2\n", "/etc/a#b"), (b"V10\n", "/etc/a")):
        option = Cf(version + text).option("HelpFile")
        assert option is not None
        assert option.text == value


def test_a_nul_ends_a_line_as_it_does_for_sendmail() -> None:
    assert Cf(b"O LogLevel=9\x00 hidden\n").option("LogLevel") == Value("9", 1, "LogLevel")


@pytest.mark.parametrize(
    ("value", "specs"),
    [
        (b"/etc/a", [AliasSpec("implicit", "/etc/a", (), 1)]),
        (
            b"hash:/etc/a, btree: -f /etc/b,/etc/c",
            [
                AliasSpec("hash", "/etc/a", (), 1),
                AliasSpec("btree", "/etc/b", ("-f",), 1),
                AliasSpec("implicit", "/etc/c", (), 1),
            ],
        ),
        (b'hash:"/etc/a,b"', [AliasSpec("hash", "/etc/a,b", (), 1)]),
        (b"/etc/a:b", [AliasSpec("implicit", "/etc/a:b", (), 1)]),
        (b",, ", []),
    ],
)
def test_alias_files_are_split_as_setalias_does(value: bytes, specs: list[AliasSpec]) -> None:
    assert Cf(b"O AliasFile=" + value).alias_files() == specs


def test_alias_files_accumulate() -> None:
    cf = Cf(b"O AliasFile=/etc/a\nOAhash:/etc/b\n")
    assert [spec.path for spec in cf.alias_files()] == ["/etc/a", "/etc/b"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"Fw/etc/names", ClassFile("w", "/etc/names", False, False, 1)),
        (
            b"V10\nF{w}-o /etc/my\\ names %[^\\#]",
            ClassFile("w", "/etc/my names", True, False, 2, pattern="%[^#]"),
        ),
        (b"F{x}|/bin/prog -a", ClassFile("x", "/bin/prog -a", False, True, 1)),
        (b"F{R}-o |/bin/prog", ClassFile("R", "/bin/prog", True, True, 1)),
        (b"FR@LDAP", ClassFile("R", "@LDAP", False, False, 1, lookup=True)),
        (b"Fw k@hash:/etc/x", ClassFile("w", "k@hash:/etc/x", False, False, 1, lookup=True)),
    ],
)
def test_class_files_of_every_kind(line: bytes, expected: ClassFile) -> None:
    assert Cf(line).class_files() == [expected]


def test_words_of_a_class_come_from_its_lines() -> None:
    cf = Cf(b"DAa.example\nCwlocalhost $A\nC{w}b.example\nCRother\nTroot daemon\nCtme\n")
    assert [word.text for word in cf.class_words("w")] == ["localhost", "a.example", "b.example"]
    assert [(word.text, word.line) for word in cf.class_words("t")] == [
        ("root", 5), ("daemon", 5), ("me", 6)
    ]  # fmt: skip


def test_a_map_line_tells_flags_from_the_file() -> None:
    line = Cf(b"D{D}/etc/mail\nKaccess  Hash -T<TMPF> -o -f ${D}/access\n").maps()[0]
    assert (line.name, line.map_class, line.path) == ("access", "hash", "/etc/mail/access")
    assert line.flags == ("-T<TMPF>", "-o", "-f")
    assert line.has("f")
    assert not line.has("N")


def test_programs_are_named_wherever_they_hide() -> None:
    cf = Cf(b"Kp program /bin/evil -x\nF{x}|/bin/worse\nKa hash /etc/a\n")
    assert [(value.text, value.line) for value in cf.programs()] == [
        ("/bin/evil -x", 1), ("/bin/worse", 2)
    ]  # fmt: skip


def test_a_macro_that_names_itself_ends() -> None:
    assert Cf(b"DAx$A\n").expand("$A").endswith("$A")
    assert Cf(b"").expand("$A ${b} $$") == "$A ${b} $$"


def test_a_name_that_is_no_text_is_kept() -> None:
    option = Cf(b"O HelpFile=/etc/\xff").option("HelpFile")
    assert option is not None
    assert option.text.encode("utf-8", "surrogateescape") == b"/etc/\xff"


def test_a_replaced_line_changes_nothing_else() -> None:
    cf = Cf(SEEN)
    changed = cf.replace(8, b"O SmtpGreetingMessage=$j\n")
    assert changed.greeting() == Value("$j", 8, "SmtpGreetingMessage")
    before, after = SEEN.split(b"O SmtpGreeting")[0], SEEN.split(b" third\n")[1]
    assert changed.render() == before + b"O SmtpGreetingMessage=$j\n" + after
    assert cf.replace(2, b"").macro("A") is None
    with pytest.raises(KeyError):
        cf.replace(9, b"")  # the second line of the greeting begins nothing
