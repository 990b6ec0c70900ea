# SPDX-License-Identifier: Apache-2.0
"""The rules of smrsh beyond their examples: near misses, what must not be mended, and what is run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.model import FileType
from hardend.rules.catalogue import BY_ID, judge
from hardend.rules.documents import Attributes, CannotMendError, Documents, Policy
from hardend.rules.programs import commands_of, refused_characters, runs_anything, stem
from hardend.rules.rule import Fault, Verdict
from hardend.rules.trust import opening, way_to
from tests.unit.rulehost import documents_of

CF = "/etc/mail/sendmail.cf"
MC = "/etc/mail/sendmail.mc"
OPEN = "V10/Berkeley\nMprog, P=/bin/sh, F=lsDFMoqeu9, A=sh -c $u\n"
SMRSH = "/usr/libexec/sendmail/smrsh"
DELIVERS = "V10/Berkeley\nMlocal, P=/usr/sbin/sensible-mda, F=lsDFMAw5:/|@q, A=sensible-mda $g $u $h\n"
PROCMAIL = {"/etc/mail/smrsh/procmail": "-> /usr/bin/procmail"}


def failing(rule: str, documents: Documents) -> list[Fault]:
    return [fault for fault in BY_ID[rule].judge(documents) if not fault.advice]


def advice(rule: str, documents: Documents) -> list[Fault]:
    return [fault for fault in BY_ID[rule].judge(documents) if fault.advice]


def mended(rule: str, documents: Documents) -> Documents:
    mend = BY_ID[rule].mend
    assert mend is not None
    return mend(documents)


# The mailer ---------------------------------------------------------------------------------------------

BUILT_FROM = "OSTYPE(`debian')dnl\n{}MAILER(`local')dnl\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            "FEATURE(`smrsh', `/bin/sh')dnl\n",
            "dnl FEATURE(`smrsh', `/bin/sh')dnl\nFEATURE(`smrsh')dnl\n",
            id="a FEATURE with a shell for smrsh",
        ),
        pytest.param(
            "FEATURE(`smrsh')dnl\ndefine(`LOCAL_SHELL_PATH', `/bin/sh')dnl\n",
            f"FEATURE(`smrsh')dnl\ndefine(`LOCAL_SHELL_PATH', `{SMRSH}')dnl\n",
            id="a define behind the FEATURE wins",
        ),
        pytest.param(
            "dnl FEATURE(`smrsh')dnl\n", "dnl FEATURE(`smrsh')dnl\nFEATURE(`smrsh')dnl\n", id="a comment"
        ),
        pytest.param(
            "define(`confEBINDIR', `/usr/lib')dnl\n",
            f"define(`confEBINDIR', `/usr/lib')dnl\nFEATURE(`smrsh', `{SMRSH}')dnl\n",
            id="m4 would look elsewhere",
        ),
    ],
)
def test_the_mc_is_mended_wherever_its_fault_is(before: str, after: str) -> None:
    documents = documents_of({CF: OPEN, MC: BUILT_FROM.format(before)})
    once = mended("smrsh-mailer", documents)
    assert once.content[MC].decode() == BUILT_FROM.format(after)
    assert once.stale == {CF}
    assert mended("smrsh-mailer", once) == once


@pytest.mark.parametrize(
    ("mc", "remedy"),
    [
        ("FEATURE(`smrsh')dnl\nMAILER(`local')dnl\n", "build /etc/mail/sendmail.cf from it"),
        (
            "MAILER(`local')dnl\nMAILER_DEFINITIONS\nMprog, P=/bin/sh, A=sh -c $u\n",
            "an Mprog line of its own",
        ),
        ("define(`a', `no end\nMAILER(`local')dnl\n", "sendmail.mc"),
    ],
)
def test_what_the_mc_does_not_let_us_mend_is_told_and_left_alone(mc: str, remedy: str) -> None:
    documents = documents_of({CF: OPEN, MC: f"OSTYPE(`debian')dnl\n{mc}"})
    (fault,) = failing("smrsh-mailer", documents)
    assert not fault.mendable
    assert remedy in fault.remedy


def test_a_host_without_smrsh_is_told_to_install_it() -> None:
    documents = documents_of({CF: OPEN})
    documents = replace(documents, layout=replace(documents.layout, smrsh="", profile="unknown"))
    (fault,) = failing("smrsh-mailer", documents)
    assert not fault.mendable
    assert "install it" in fault.remedy
    with pytest.raises(CannotMendError, match="no smrsh"):
        mended("smrsh-mailer", documents)


@pytest.mark.parametrize(
    ("line", "is_open"),
    [
        ("Mprog, P=/usr/sbin/smrsh, A=sh -c $u", False),
        ("MPROG,P = /usr/sbin/smrsh, A=sh -c $u", False),
        ("Mprog, P=[IPC], A=TCP $h", False),
        ("Mprog, P=/bin/false, A=false", False),
        ("Mprog, P=/bin/sh, A=smrsh -c $u", True),
        ("Mprog, P=/usr/sbin/smrsh.old, A=smrsh -c $u", True),
        ("Mprog, A=smrsh -c $u", True),
        ("Mprog, P=/usr/sbin/smrsh, A=smrsh -c $u\nMprog, P=/bin/sh, A=smrsh -c $u", True),
        ("Mprog, P=/bin/sh, A=smrsh -c $u\nMprog, P=/usr/sbin/smrsh, A=smrsh -c $u", False),
        ("#Mprog, P=/bin/sh, A=sh -c $u\nMprog, P=/usr/sbin/smrsh, A=sh -c $u", False),
    ],
)
def test_only_p_of_the_last_definition_counts(line: str, is_open: bool) -> None:
    assert bool(failing("smrsh-mailer", documents_of({CF: f"V10/Berkeley\n{line}\n"}))) is is_open


@given(
    st.sampled_from([", ", ",\n\t\t", ",\r\n\t"]),
    st.lists(
        st.sampled_from(["F=lsDFM", "S=EnvFromL/HdrFromL", 'A=sh -c "a, P=b" $u', "D=$z:/"]), max_size=4
    ),
    st.sampled_from(["P=/bin/sh", "P = /bin/sh", 'Path="/bin/sh"']),
)
def test_the_cf_changes_only_in_the_path(comma: str, fields: list[str], path: str) -> None:
    line = comma.join(["Mprog", *fields, path, "T=X-Unix"])
    documents = documents_of({CF: f"V10/Berkeley\n{line}\nO LogLevel=9\n"})
    after = mended("smrsh-mailer", documents).content[CF].decode()
    assert after.count(SMRSH) == 1
    assert after.replace(SMRSH, "/bin/sh").replace('"', "") == documents.content[CF].decode().replace('"', "")
    assert not failing("smrsh-mailer", mended("smrsh-mailer", documents))


def test_of_two_paths_the_last_one_is_set() -> None:
    documents = documents_of({CF: "V10/Berkeley\nMprog, P=/bin/ksh, P=/bin/sh, A=sh -c $u\n"})
    after = mended("smrsh-mailer", documents).content[CF].decode()
    assert after == f"V10/Berkeley\nMprog, P=/bin/ksh, P={SMRSH}, A=sh -c $u\n"


# The programs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "sh",
        "bash",
        "rbash",
        "ksh93",
        "busybox",
        "python3.11",
        "python3",
        "perl5.36.0",
        "perl5.36",
        "lua5.4",
        "php8.2",
        "vim.tiny",
        "tclsh8.6",
        "original-awk",
        "nc.openbsd",
        "sed",
        "env",
        "uudecode",
        "tar",
        "sudo",
        "BASH",
    ],
)
def test_what_runs_anything_is_known_in_every_version(name: str) -> None:
    assert runs_anything(name)


@pytest.mark.parametrize(
    "name",
    [
        "mail.local",
        "vacation",
        "sensible-mda",
        "mailman",
        "queue",
        "rt-mailgate",
        "shield",
        "timer",
        "perlre",
        "7",
        "procmail",
        "x.sh",
    ],
)
def test_other_names_are_no_interpreters(name: str) -> None:
    assert runs_anything(name) == ""


def test_a_name_never_loses_all_of_itself() -> None:
    assert [stem(name) for name in ("7", "2.0", "a2", "-1", "")] == ["7", "2.0", "a", "-1", ""]


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("/usr/bin/vacation alice", ("/usr/bin/vacation",)),
        ("exec /usr/bin/procmail -f- || exit 75 #alice", ("/usr/bin/procmail",)),
        ("IFS=' ' && exec /usr/bin/procmail", ("/usr/bin/procmail",)),
        ("a; b | c & d && e || f", ("a", "b", "c", "d", "e", "f")),
        ("echo $(id)", ()),
        ("'/bin/sh' -c x", ("/bin/sh",)),
        ("", ()),
        ("|", ()),
    ],
)
def test_every_program_of_a_command_is_named(command: str, names: tuple[str, ...]) -> None:
    assert commands_of(command) == names


@pytest.mark.parametrize(
    ("command", "refused"),
    [("a && b || c", ""), ("a & b", "&"), ("echo `id` > $HOME/x", "`>$"), ('a "b" *', ""), ("a; b; c", ";")],
)
def test_the_characters_that_smrsh_refuses(command: str, refused: str) -> None:
    assert refused_characters(command) == refused


@pytest.mark.parametrize(
    ("link", "is_fault"),
    [
        ("vacation -> /usr/bin/vacation", False),
        ("vacation -> /opt/evil", True),
        ("mail -> /bin/sh", True),
        ("mail -> /usr/bin/mail", True),
        ("ticket -> /usr/local/bin/ticket", False),
        ("list -> /usr/lib/mailman/mail/mailman", False),
        ("mailman -> /tmp/mailman", True),
        ("procmail -> /usr/bin/procmail", True),
    ],
)
def test_names_and_what_they_lead_to_are_both_judged(link: str, is_fault: bool) -> None:
    name, _, target = link.partition(" -> ")
    policy = Policy(smrsh_programs=("ticket", "/usr/lib/mailman/mail/mailman"))
    documents = documents_of({f"/etc/mail/smrsh/{name}": f"-> {target}"}, policy=policy)
    assert bool(failing("smrsh-programs", documents)) is is_fault


def test_a_chain_of_links_is_followed_to_the_shell() -> None:
    documents = documents_of(
        {
            "/etc/mail/smrsh/vacation": "-> ../../alternatives/vacation",
            "/etc/alternatives/vacation": "-> /bin/vacation",
            "/bin": "-> usr/bin",
            "/usr/bin/vacation": "-> bash",
        }
    )
    (fault,) = failing("smrsh-programs", documents)
    assert "/usr/bin/bash" in fault.message


@pytest.mark.parametrize(
    "inside",
    [
        {"/etc/mail/smrsh/sh/": ""},
        {"/etc/mail/smrsh/README": "no program: nobody may execute it"},
    ],
)
def test_what_smrsh_does_not_run_is_no_program(inside: dict[str, str]) -> None:
    assert not failing("smrsh-programs", documents_of({"/etc/mail/smrsh/": "", **inside}))


def test_the_last_program_of_local_delivery_is_never_removed() -> None:
    documents = documents_of({CF: DELIVERS, **PROCMAIL})
    (fault,) = failing("smrsh-programs", documents)
    assert not fault.mendable
    assert "link mail.local" in fault.remedy
    assert mended("smrsh-programs", documents) is documents
    assert "of its user's choice" in fault.message
    elsewhere = documents_of(PROCMAIL)
    assert "/etc/mail/smrsh/procmail" not in mended("smrsh-programs", elsewhere).attributes


@pytest.mark.parametrize(
    ("conf", "listed", "is_told"),
    [
        ('HANDS_OFF="No";\n', (), True),
        ("", (), True),
        ('HANDS_OFF="No";\nHANDS_OFF="Yes";\n', (), False),
        ('HANDS_OFF="No";\n', ("procmail",), False),
    ],
)
def test_what_debian_links_again_is_advice(conf: str, listed: tuple[str, ...], is_told: bool) -> None:
    files = {"/etc/mail/smrsh/": "", "/usr/bin/procmail": "(the program)", "/etc/mail/sendmail.conf": conf}
    documents = documents_of(files, policy=Policy(smrsh_programs=listed))
    assert any("again" in fault.message for fault in advice("smrsh-programs", documents)) is is_told
    assert judge(documents, BY_ID["smrsh-programs"]).verdict is Verdict.PASS


def test_a_directory_that_cannot_be_read_is_unknown_and_none_is_not_applicable() -> None:
    documents = documents_of({"/etc/mail/smrsh/": ""})
    closed = replace(documents, unreadable={"/etc/mail/smrsh": "Permission denied"})
    for rule in ("smrsh-programs", "smrsh-listed", "smrsh-ownership"):
        assert judge(closed, BY_ID[rule]).verdict is Verdict.UNKNOWN
        assert judge(documents_of({}), BY_ID[rule]).verdict is Verdict.NOT_APPLICABLE


# What the configuration lists ---------------------------------------------------------------------------


def test_a_program_that_is_listed_by_name_is_linked_where_an_alias_has_it() -> None:
    wrapper = "/usr/lib/mailman/mail/mailman"
    documents = documents_of(
        {
            "/etc/mail/smrsh/": "",
            wrapper: "(the program)",
            "/etc/aliases": f'staff: "|{wrapper} post staff"\n',
        },
        policy=Policy(smrsh_programs=("mailman",)),
    )
    after = mended("smrsh-listed", documents)
    assert after.attributes["/etc/mail/smrsh/mailman"].target == wrapper
    assert after.names["/etc/mail/smrsh"] == ("mailman",)
    assert not failing("smrsh-listed", after)
    assert not failing("smrsh-programs", after)


@pytest.mark.parametrize("listed", ["/usr/bin/none", "none", "/usr/bin/perl5.36", "bash", ""])
def test_what_is_missing_or_may_never_run_is_not_linked(listed: str) -> None:
    files = {"/etc/mail/smrsh/": "", "/usr/bin/perl5.36": "(perl)", "/bin/bash": "(bash)"}
    files["/etc/aliases"] = 'x: "|/bin/bash -c id"\n'
    documents = documents_of(files, policy=Policy(smrsh_programs=(listed,)))
    assert not failing("smrsh-listed", documents)
    assert mended("smrsh-listed", documents) is documents


# Who can change it --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "modes", "mends"),
    [
        ("/home/alice/prog", {"/home/alice/prog": "alice:alice 0755"}, False),
        ("/opt/x/prog", {"/opt/x": "root:alice 0775"}, False),
        ("/tmp/prog", {"/tmp": "root:root 1777"}, False),
        ("/opt/prog", {"/opt/prog": "alice:alice 0700"}, False),
        ("/opt/prog", {"/opt/prog": "alice:alice 0755"}, True),
        ("/opt/prog", {"/opt/prog": "root:root 0777"}, True),
        ("/opt/prog", {"/opt/prog": "smmta:root 0755"}, True),
    ],
)
def test_only_what_nobody_else_needs_is_mended(target: str, modes: dict[str, str], mends: bool) -> None:
    documents = documents_of({"/etc/mail/smrsh/prog": f"-> {target}", target: "(the program)"}, modes)
    assert failing("smrsh-ownership", documents)
    assert (mended("smrsh-ownership", documents) is not documents) is mends


def test_a_set_id_program_never_becomes_roots() -> None:
    files = {"/etc/mail/smrsh/queue": "-> /usr/lib/queue", "/usr/lib/queue": "(the program)"}
    closed = documents_of(files, {"/usr/lib/queue": "mail:mail 6755"})
    assert not failing("smrsh-ownership", closed)
    assert advice("smrsh-ownership", closed)
    after = mended("smrsh-ownership", documents_of(files, {"/usr/lib/queue": "mail:mail 6775"}))
    assert after.attributes == closed.attributes


def test_trusted_user_owns_the_mail_directories_and_nothing_else() -> None:
    files = {"/etc/mail/smrsh/vacation": "-> /usr/bin/vacation"}
    theirs = documents_of(files, {"/etc/mail": "smmta:smmsp 2755", "/etc/mail/smrsh": "smmta:smmsp 2755"})
    assert not failing("smrsh-ownership", theirs)
    assert [f.path for f in failing("smrsh-ownership", documents_of(files, {"/etc": "smmta:root 0755"}))] == [
        "/etc"
    ]
    link = documents_of(files, {"/etc/mail/smrsh/vacation": "alice:root 0777"})
    assert mended("smrsh-ownership", link).attributes["/etc/mail/smrsh/vacation"].uid == 0


@given(
    st.dictionaries(
        st.sampled_from(["/a", "/b", "/a/b", "/c", "/c/a"]),
        st.sampled_from(["/a", "b", "../c", "/c/a/b", "/", ".", "a/../b"]),
    ),
    st.sampled_from(["/a", "/a/b/c", "/c/a", "//b//c"]),
)
def test_any_links_are_followed_to_an_end(links: dict[str, str], path: str) -> None:
    kept = {name: Attributes(FileType.SYMLINK, 0, 0, 0o777, target=target) for name, target in links.items()}
    documents = replace(documents_of({}), attributes=kept)
    way = way_to(documents, path)
    assert way
    assert len(way) <= 40
    assert all(place.startswith("/") and "//" not in place for place in way)
    for place in way:
        opening(documents, place)
