# SPDX-License-Identifier: Apache-2.0
"""The rules of aliases beyond their examples: include files, near misses, and what a removal leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.formats.aliases import Aliases, Kind
from hardend.model import MapSpec
from hardend.rules.catalogue import BY_ID, judge, mend_all
from hardend.rules.deliveries import deliveries
from hardend.rules.documents import Documents, Policy
from hardend.rules.rule import Fault, Verdict
from tests.unit.rulehost import documents_of

FILE = "/etc/aliases"
LIST = "/etc/mail/staff"
VACATION = {"/etc/mail/smrsh/vacation": "-> /usr/bin/vacation"}
ACTIVE = ("aliases-decode", "aliases-programs", "aliases-files")


def failing(rule: str, documents: Documents) -> list[Fault]:
    return [fault for fault in BY_ID[rule].judge(documents) if not fault.advice]


def advice(rule: str, documents: Documents) -> list[Fault]:
    return [fault for fault in BY_ID[rule].judge(documents) if fault.advice]


def mended(rule: str, documents: Documents) -> Documents:
    mend = BY_ID[rule].mend
    assert mend is not None
    return mend(documents)


def with_aliases(text: str, *listed: str) -> Documents:
    return documents_of({FILE: text, **VACATION}, policy=Policy(smrsh_programs=listed))


# Programs and files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        'decode: "|/usr/bin/uudecode"',
        "decode: |/usr/bin/uudecode",
        'DECODE: |"/usr/bin/uudecode -c"',
        "x: \"|/bin/sh -c 'cd /tmp; uudecode'\"",
        'x: "|cat | uudecode>/dev/null"',
        'x: "|/usr/bin/b64decode"',
        'decode: "|/usr/bin/uuencode"',
        "uudecode: /var/spool/decoded",
        '"decode": "|/opt/mine"',
    ],
)
def test_a_decoder_is_found_however_it_is_written(entry: str) -> None:
    documents = with_aliases(f"root: admin\n{entry}\nbin: root\n")
    assert [fault.line for fault in failing("aliases-decode", documents)] == [2]
    assert mended("aliases-decode", documents).content[FILE] == b"root: admin\nbin: root\n"


@pytest.mark.parametrize(
    "entry",
    [
        "decode: root",
        "decode: /dev/null",
        "decode: \\root",
        "uudecode: nobody@example.com",
        'x: "|/usr/bin/uudecoder"',
        'decoder: "|/usr/bin/vacation"',
        "# decode: |/usr/bin/uudecode",
        "decode:",
    ],
)
def test_what_decodes_nothing_is_left_alone(entry: str) -> None:
    documents = with_aliases(f"{entry}\n")
    assert failing("aliases-decode", documents) == []
    assert mended("aliases-decode", documents) is documents


@pytest.mark.parametrize(
    ("command", "is_stopped"),
    [
        ("/usr/bin/vacation alice", False),
        ("../../vacation", False),
        ("exec /usr/bin/vacation alice && exit 75", False),
        ("/usr/local/bin/ticket", False),
        ("/opt/lists/post staff", False),
        ("/usr/bin/vacation alice; id", True),
        ("/usr/bin/vacation alice > /tmp/x", True),
        ("/usr/bin/vacation alice || /bin/sh", True),
        ("/usr/bin/vacation-like", True),
        ("/opt/other/ticket2", True),
    ],
)
def test_programs_are_judged_as_smrsh_takes_them(command: str, is_stopped: bool) -> None:
    documents = with_aliases(f'x: "|{command}"\n', "ticket", "/opt/lists/post")
    assert bool(failing("aliases-programs", documents)) is is_stopped


@pytest.mark.parametrize(
    ("wrapper", "name"),
    [
        ("/var/lib/mailman/mail/mailman post staff", "Mailman"),
        ("/usr/lib/sympa/bin/queue staff@example.com", "Sympa"),
        ("/usr/lib/majordomo/wrapper resend -l staff", "Majordomo"),
    ],
)
def test_a_list_manager_is_named_and_stays_when_it_is_listed(wrapper: str, name: str) -> None:
    entry = f'staff: "|{wrapper}"\n'
    (fault,) = failing("aliases-programs", with_aliases(entry))
    assert f"would stop {name}" in fault.message
    program = wrapper.split(maxsplit=1)[0]
    for listed in (program, program.rpartition("/")[2]):
        documents = with_aliases(entry, listed)
        assert mended("aliases-programs", documents) is documents


def test_an_alias_of_a_link_that_goes_is_a_finding_before_it_goes() -> None:
    files = {FILE: 'x: "|/usr/bin/procmail"\n', "/etc/mail/smrsh/procmail": "-> /usr/bin/procmail"}
    documents = documents_of(files)
    assert failing("aliases-programs", documents)
    assert failing("aliases-programs", mended("smrsh-programs", documents))


def test_files_are_compared_as_sendmail_compares_them() -> None:
    policy = Policy(alias_files=("/var/log/archive",))
    text = "a: /var/log/archive\nb: /dev/../dev/null\nc: /dev/null\nd: /var/log/archive2\n"
    documents = documents_of({FILE: text}, policy=policy)
    assert [fault.line for fault in failing("aliases-files", documents)] == [2, 4]
    assert mended("aliases-files", documents).content[FILE] == b"a: /var/log/archive\nc: /dev/null\n"


TARGETS = ["alice", "\\root", '"|/bin/sh -c x, y"', "/var/log/x", ":include:/etc/l", '"|/usr/bin/vacation a"']
ENTRIES = st.lists(st.lists(st.sampled_from(TARGETS), min_size=1, max_size=4), max_size=8)


@given(
    ENTRIES,
    st.sampled_from([", ", ",\n\t", ",  \\\n "]),
    st.sampled_from(["\n", "\n# note\n\n", "\n#c\n\t:d\n"]),
)
def test_what_is_left_after_a_removal_is_what_was_not_removed(
    entries: list[list[str]], comma: str, between: str
) -> None:
    text = "".join(f"u{number}: {comma.join(items)}{between}" for number, items in enumerate(entries))
    after = mend_all(with_aliases(text), [BY_ID[rule] for rule in ACTIVE])
    assert after.refused == {}
    kept = [[item for item in items if "/bin/sh" not in item and item[0] != "/"] for items in entries]
    expected = {f"u{number}": items for number, items in enumerate(kept) if items}
    found = Aliases(after.documents.content[FILE]).entries
    assert {entry.key: [target.text for target in entry.targets] for entry in found} == expected
    assert after.documents.content[FILE].count(b"#") == text.count("#")


# Include files ------------------------------------------------------------------------------------------


def test_what_an_include_file_holds_is_judged_and_left_alone() -> None:
    inner = "/etc/mail/inner"
    documents = documents_of(
        {
            FILE: f"staff: :include:{LIST}\n",
            LIST: f'# |/bin/no\nalice\n"|/bin/sh"\n:include:{inner}\n',
            inner: f'/root/.rhosts\n"|uudecode", bob\n:include:{LIST}\n',
            **VACATION,
        }
    )
    assert [(fault.path, fault.line) for fault in failing("aliases-programs", documents)] == [
        (LIST, 3),
        (inner, 2),
    ]
    assert [(fault.path, fault.line) for fault in failing("aliases-files", documents)] == [(inner, 1)]
    assert [(fault.path, fault.line) for fault in failing("aliases-decode", documents)] == [(inner, 2)]
    for rule in ACTIVE:
        assert not any(fault.mendable for fault in failing(rule, documents))
        assert mended(rule, documents) is documents
    assert {found.alias for found in deliveries(documents, Kind.PROGRAM)} == {"staff"}


def test_an_include_file_that_cannot_be_read_makes_the_verdict_unknown_unless_it_fails_anyway() -> None:
    documents = documents_of({FILE: f"staff: :include:{LIST}\n", **VACATION})
    closed = replace(documents, unreadable={LIST: "Permission denied"})
    for rule in (*ACTIVE, "aliases-includes", "aliases-program-owners"):
        assert judge(closed, BY_ID[rule]).verdict is Verdict.UNKNOWN
    failing_too = closed.with_content(FILE, closed.content[FILE] + b'x: "|/bin/sh"\n')
    assert judge(failing_too, BY_ID["aliases-programs"]).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("path", "modes", "fails"),
    [
        (LIST, {}, False),
        (LIST, {LIST: "alice:alice 0644"}, False),
        (LIST, {LIST: "root:mail 0664"}, True),
        (LIST, {"/etc/mail": "smmta:smmsp 2755"}, False),
        (LIST, {"/etc/mail": "root:root 0777"}, True),
        ("/tmp/staff", {"/tmp": "root:root 1777"}, True),
        ("/home/alice/staff", {}, True),
        ("/root/staff", {}, True),
        ("/homes/staff", {}, False),
    ],
)
def test_a_list_is_judged_by_who_can_write_it(path: str, modes: dict[str, str], fails: bool) -> None:
    documents = documents_of({FILE: f"staff: :include:{path}\n", path: "alice\n"}, modes)
    assert bool(failing("aliases-includes", documents)) is fails


def test_a_list_that_is_missing_is_advice() -> None:
    (fault,) = advice("aliases-includes", documents_of({FILE: f'staff: ":include: {LIST}"\n'}))
    assert "does not exist" in fault.message


# Owners of programs -------------------------------------------------------------------------------------


def test_directories_and_homes_are_named_and_programs_are_mended() -> None:
    documents = documents_of(
        {
            FILE: 'a: "|/home/alice/x"\nb: "|/opt/y"\nc: "|/opt/none"\n',
            "/home/alice/x": "(x)",
            "/opt/y": "(y)",
        },
        {
            "/home/alice": "alice:alice 0755",
            "/home/alice/x": "alice:alice 0755",
            "/opt/y": "alice:alice 0755",
        },
    )
    found = {fault.path: fault.mendable for fault in failing("aliases-program-owners", documents)}
    assert found == {"/home/alice": False, "/home/alice/x": False, "/opt/y": True}
    assert [fault.line for fault in advice("aliases-program-owners", documents)] == [3]
    after = mended("aliases-program-owners", documents)
    changed = {path for path in after.attributes if after.attributes[path] != documents.attributes[path]}
    assert changed == {"/opt/y"}


# Redirects, names and lines -----------------------------------------------------------------------------


def test_redirects_go_only_when_they_are_named_and_only_redirect() -> None:
    kept = "toor: a, |/bin/sh\npostmaster: root\noperator: :include:/l\nroot: a\n"
    text = f"Games: root\n{kept}uucp: root,\n\tb\n"
    policy = Policy(remove_redirects=("games", "TOOR", "postmaster", "operator", "uucp"))
    after = mended("aliases-redirects", documents_of({FILE: text}, policy=policy))
    assert after.content[FILE].decode() == kept
    plain = documents_of({FILE: text})
    assert len(advice("aliases-redirects", plain)) == 2
    assert judge(plain, BY_ID["aliases-redirects"]).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "MAILER-DAEMON: postmaster\npostmaster: root\n"),
        ("root: a", "root: a\nMAILER-DAEMON: postmaster\npostmaster: root\n"),
        ("root: a\r\nPOSTMASTER: b\r\n", "root: a\r\nPOSTMASTER: b\r\nMAILER-DAEMON: postmaster\r\n"),
        (
            "# postmaster: root\nmailer-daemon: b\n",
            "# postmaster: root\nmailer-daemon: b\npostmaster: root\n",
        ),
    ],
)
def test_what_must_be_there_is_added_at_the_end(before: str, after: str) -> None:
    assert mended("aliases-required", documents_of({FILE: before})).content[FILE].decode() == after


def test_another_alias_file_or_map_may_have_them() -> None:
    other = "/etc/mail/other"
    documents = documents_of({FILE: "root: a\n", other: "postmaster: root\nmailer-daemon: root\n"})
    specs = (*documents.layout.aliases, MapSpec("newaliases", "hash", other, f"{other}.db"))
    assert not failing(
        "aliases-required", replace(documents, layout=replace(documents.layout, aliases=specs))
    )
    cf = {"/etc/mail/sendmail.cf": "V10/Berkeley\nO AliasFile=/etc/aliases,nis:mail.aliases\n"}
    documents = documents_of({FILE: "root: a\n", **cf})
    assert not failing("aliases-required", documents)
    assert len(advice("aliases-required", documents)) == 2
    assert mended("aliases-required", documents) is documents


def test_lines_that_newaliases_may_hang_on_are_findings() -> None:
    long_line = "x: " + "a" * 8188 + " b\n"
    documents = documents_of({FILE: f"root: a\n{long_line}\tc\nno colon\nempty:\nroot: b\n"})
    assert [fault.line for fault in failing("aliases-lines", documents)] == [2, 4, 5, 6]


def test_a_host_without_alias_files_is_not_applicable() -> None:
    for rule in (rule for rule in BY_ID if rule.startswith("aliases-")):
        assert judge(documents_of({}), BY_ID[rule]).verdict is Verdict.NOT_APPLICABLE


# Attributes ---------------------------------------------------------------------------------------------

DATABASE = "/etc/mail/aliases.db"


@pytest.mark.parametrize(
    ("path", "mode", "after"),
    [
        (FILE, "root:root 0644", "root:root 0644"),
        (FILE, "root:smmsp 0600", "root:smmsp 0600"),
        (FILE, "root:alice 0640", "root:alice 0640"),
        (FILE, "root:alice 0664", "root:root 0644"),
        (FILE, "smmta:root 0644", "root:root 0644"),
        (FILE, "root:root 0755", "root:root 0644"),
        (DATABASE, "smmta:smmsp 0640", "smmta:smmsp 0640"),
        (DATABASE, "root:root 0644", "root:root 0644"),
        (DATABASE, "alice:smmsp 0640", "root:smmsp 0640"),
        (DATABASE, "smmta:alice 0666", "smmta:root 0644"),
    ],
)
def test_owner_group_and_mode_are_mended_where_they_are_wrong(path: str, mode: str, after: str) -> None:
    files = {FILE: "root: a\n", DATABASE: "(database)"}
    documents = documents_of(files, {path: mode})
    assert mended("aliases-attributes", documents).attributes == documents_of(files, {path: after}).attributes
    assert bool(failing("aliases-attributes", documents)) is (mode != after)


def test_an_acl_is_taken_away_and_a_list_manager_keeps_its_file() -> None:
    documents = documents_of({FILE: "root: a\n"})
    open_to_some = documents.with_attributes(FILE, replace(documents.attributes[FILE], acl=True))
    assert failing("aliases-attributes", open_to_some)
    assert mended("aliases-attributes", open_to_some) == documents
    other = "/var/lib/mailman/data/aliases"
    documents = documents_of({FILE: "root: a\n", other: ""}, {other: "mail:mail 0664"})
    specs = (MapSpec("newaliases", "hash", other, f"{other}.db"),)
    documents = replace(documents, layout=replace(documents.layout, aliases=specs))
    assert [fault.mendable for fault in failing("aliases-attributes", documents)] == [False, True, True]
    after = mended("aliases-attributes", documents).attributes[other]
    assert (after.uid, after.mode) == (8, 0o644)
