# SPDX-License-Identifier: Apache-2.0
"""Owners and modes of what the guide lacks, beyond the examples: whose a path is, and what is left alone."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.model import FileType
from hardend.rules.catalogue import BY_ID, judge
from hardend.rules.documents import Attributes, Documents
from hardend.rules.rule import Fault, Verdict
from tests.unit.rulehost import USERS, documents_of

CF = "/etc/mail/sendmail.cf"
ACCESS = "/etc/mail/access"
DB = "/etc/mail/access.db"
SENDMAIL = "/usr/libexec/sendmail/sendmail"
PID = "/run/sendmail/mta/sendmail.pid"
HEAD = "V10/Berkeley\n"
OWNERS = st.sampled_from(sorted(USERS))
MODES = st.integers(0, 0o7777)


def failing(rule: str, documents: Documents) -> list[Fault]:
    return [fault for fault in BY_ID[rule].judge(documents) if not fault.advice]


def advice(rule: str, documents: Documents) -> list[Fault]:
    return [fault for fault in BY_ID[rule].judge(documents) if fault.advice]


def mended(rule: str, documents: Documents) -> Documents:
    mend = BY_ID[rule].mend
    assert mend is not None
    return mend(documents)


def owner_and_mode(documents: Documents, path: str) -> tuple[int, int]:
    return documents.attributes[path].uid, documents.attributes[path].mode


def host(modes: dict[str, str], profile: str = "debian", cf: str = "") -> Documents:
    files = dict.fromkeys((path for path in modes if path not in {"/", "/etc", "/etc/mail"}), "")
    return documents_of({**files, CF: HEAD + cf}, modes, profile=profile)


# The configuration --------------------------------------------------------------------------------------


@given(OWNERS, MODES, OWNERS, MODES, st.sampled_from(["debian", "redhat"]))
def test_after_the_fix_nobody_else_can_write_and_a_second_one_changes_nothing(
    owner: str, mode: int, above: str, above_mode: int, profile: str
) -> None:
    modes = {CF: f"{owner}:mail {mode:o}", "/etc/mail": f"{above}:mail {above_mode & 0o6777:o}"}
    documents = host(modes, profile)
    after = mended("exposure-files", documents)
    assert mended("exposure-files", after) is after
    assert failing("exposure-files", after) == []
    for path in modes:
        assert after.attributes[path].mode & 0o022 == 0
        before = documents.attributes[path]
        assert after.attributes[path].uid in ({0, USERS["smmta"]} if profile == "debian" else {0})
        assert after.attributes[path].gid == before.gid
        assert after.attributes[path].mode & ~before.mode == 0


@pytest.mark.parametrize(
    ("modes", "after"),
    [
        pytest.param({CF: "root:root 0640"}, None, id="nobody else reads it"),
        pytest.param({CF: "smmta:smmsp 0644"}, None, id="TrustedUser's"),
        pytest.param({"/etc/mail": "smmta:smmsp 2755"}, None, id="Debian's directory"),
        pytest.param({"/etc": "root:alice 0755"}, None, id="a group that cannot write"),
        pytest.param({"/": "root:root 0777"}, {"/": (0, 0o755)}, id="the root directory"),
        pytest.param({"/etc": "smmta:root 0755"}, {"/etc": (0, 0o755)}, id="TrustedUser's no more"),
        pytest.param({"/etc/mail": "alice:root 0755"}, {"/etc/mail": (105, 0o755)}, id="TrustedUser again"),
        pytest.param({CF: "alice:alice 4666"}, {CF: (0, 0o644)}, id="root's, and not set-user-ID"),
        pytest.param({ACCESS: "root:root 0602"}, {ACCESS: (0, 0o600)}, id="a source that others can write"),
        pytest.param(
            {"/etc/mail/sendmail.conf": "root:smmsp 0660"}, {"/etc/mail/sendmail.conf": (0, 0o640)},
            id="what the start script reads",
        ),
    ],
)  # fmt: skip
def test_owners_and_modes_are_those_of_the_layout(
    modes: dict[str, str], after: dict[str, tuple[int, int]] | None
) -> None:
    documents = host(modes)
    changed = mended("exposure-files", documents)
    assert [fault.path for fault in failing("exposure-files", documents)] == list(after or {})
    assert (changed is documents) == (after is None)
    assert {path: owner_and_mode(changed, path) for path in after or {}} == (after or {})


def with_class_file(path: str, modes: dict[str, str]) -> Documents:
    documents = documents_of({CF: HEAD, path: ""}, modes)
    return replace(documents, layout=replace(documents.layout, class_files=(path,)))


@pytest.mark.parametrize(
    ("path", "modes"),
    [
        pytest.param("/tmp/hosts", {"/tmp": "root:root 1777"}, id="a shared directory"),
        pytest.param("/home/alice/hosts", {"/home/alice": "alice:alice 0755"}, id="a home"),
        pytest.param("/var/lib/mailman/aliases", {"/var/lib/mailman/aliases": "mail:mail 0660"}, id="a list"),
        pytest.param("/etc/mailman/aliases", {"/etc/mailman": "mail:mail 2775"}, id="a list's, in /etc"),
        pytest.param("/opt/mail/hosts", {"/opt": "root:root 0777"}, id="where other software lives"),
    ],
)
def test_what_others_may_need_so_is_found_and_left(path: str, modes: dict[str, str]) -> None:
    documents = with_class_file(path, modes)
    found = failing("exposure-files", documents)
    assert [fault.path for fault in found] == list(modes)
    assert not any(fault.mendable for fault in found)
    assert "see what else needs it so" in found[0].remedy
    assert mended("exposure-files", documents) is documents


def test_an_owner_and_a_mode_of_one_file_are_mended_together() -> None:
    source = {CF: HEAD, ACCESS: "AuthInfo:mail.example.com\t\n"}
    documents = documents_of(source, {ACCESS: "alice:smmsp 0666"})
    assert len(failing("exposure-files", documents)) == 2
    assert owner_and_mode(mended("exposure-files", documents), ACCESS) == (0, 0o640)


def test_links_are_judged_by_the_directories_above_them() -> None:
    link = "/srv/mail/aliases"
    documents = documents_of({CF: HEAD, link: "-> /etc/aliases"}, {"/srv/mail": "alice:alice 0755"})
    linked = replace(documents, layout=replace(documents.layout, links=(link,)))
    assert failing("exposure-files", documents) == []
    assert [fault.path for fault in failing("exposure-files", linked)] == ["/srv/mail"]


def test_what_could_not_be_looked_at_is_unknown_unless_something_fails_anyway() -> None:
    hidden = MappingProxyType({ACCESS: "permission denied"})
    documents = host({})
    layout = replace(documents.layout, access=ACCESS)
    unknown = replace(documents, layout=layout, unreadable=hidden)
    assert judge(unknown, BY_ID["exposure-files"]).verdict is Verdict.UNKNOWN
    failed = replace(host({CF: "root:root 0666"}), layout=layout, unreadable=hidden)
    assert judge(failed, BY_ID["exposure-files"]).verdict is Verdict.FAIL


@pytest.mark.parametrize(("mode", "fails"), [(0o640, 0), (0o660, 1)])
def test_an_acl_gives_what_its_mask_lets_through(mode: int, fails: int) -> None:
    documents = host({ACCESS: "root:root 0600"})
    documents = documents.with_attributes(ACCESS, Attributes(FileType.FILE, 0, 0, mode, acl=True))
    assert len(failing("exposure-files", documents)) == fails
    assert [fault.path for fault in advice("exposure-files", documents)] == [ACCESS]


# Databases ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "cf", "after"),
    [
        pytest.param("root:root 0640", "", None, id="as makemap makes it"),
        pytest.param("smmta:smmsp 0644", "", None, id="as Debian's make makes it"),
        pytest.param("mail:mail 0600", "O RunAsUser=mail:mail\n", None, id="RunAsUser's"),
        pytest.param("mail:mail 0600", "O RunAsUser=8.8\n", None, id="RunAsUser by number"),
        pytest.param("mail:mail 0600", "", (105, 0o600), id="somebody's"),
        pytest.param("root:root 0755", "", (0, 0o644), id="more than 0644"),
        pytest.param("alice:root 6777", "", (105, 0o644), id="all of it at once"),
    ],
)
def test_a_database_belongs_to_who_may_write_it(mode: str, cf: str, after: tuple[int, int] | None) -> None:
    documents = host({ACCESS: "root:root 0640", DB: mode}, cf=cf)
    changed = mended("exposure-databases", documents)
    assert len(failing("exposure-databases", documents)) == (after is not None)
    assert (changed is documents) == (after is None)
    assert after is None or owner_and_mode(changed, DB) == after
    assert failing("exposure-databases", changed) == []


@pytest.mark.parametrize(("run_as", "ours"), [("", True), ("O RunAsUser=mail\n", False)])
def test_passwords_are_hidden_unless_sendmail_reads_them_as_everybody_does(run_as: str, ours: bool) -> None:
    source = {CF: HEAD + run_as, ACCESS: "authinfo:mail.example.com\t\n", DB: ""}
    documents = documents_of(source, {ACCESS: "root:root 0600", DB: "root:smmsp 0644"})
    assert [fault.mendable for fault in failing("exposure-databases", documents)] == [ours]
    assert owner_and_mode(mended("exposure-databases", documents), DB)[1] == (0o640 if ours else 0o644)


def test_a_database_that_everybody_can_lock_is_advice() -> None:
    documents = host({ACCESS: "root:root 0640", DB: "root:root 0644"})
    assert [fault.path for fault in advice("exposure-databases", documents)] == [DB]
    assert advice("exposure-databases", host({ACCESS: "root:root 0640", DB: "root:root 0640"})) == []


def test_a_host_without_databases_has_nothing_to_judge() -> None:
    assert judge(host({}), BY_ID["exposure-databases"]).verdict is Verdict.NOT_APPLICABLE


# What runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "fails"),
    [
        ("root:smmsp 2755", 0), ("root:mail 2555", 0), ("root:root 0755", 0),
        ("root:smmsp 2775", 1), ("alice:smmsp 2755", 1), ("root:root 4755", 1), ("root:root 2755", 1),
        ("smmta:smmsp 4775", 2),
    ],
)  # fmt: skip
def test_the_binary_is_roots_with_the_group_of_the_client_queue(mode: str, fails: int) -> None:
    documents = host({SENDMAIL: mode})
    found = failing("exposure-binaries", documents)
    assert len(found) == fails
    assert not any(fault.mendable for fault in found)


def test_a_binary_without_the_group_is_advice_where_there_is_a_client_queue() -> None:
    documents = host({SENDMAIL: "root:root 0755", "/etc/mail/submit.cf": "root:root 0644"})
    assert [fault.path for fault in advice("exposure-binaries", documents)] == [SENDMAIL]
    assert advice("exposure-binaries", host({SENDMAIL: "root:root 0755"})) == []


def test_a_binary_that_is_missing_or_hidden_gets_no_pass() -> None:
    documents = host({})
    assert judge(documents, BY_ID["exposure-binaries"]).verdict is Verdict.NOT_APPLICABLE
    hidden = replace(documents, unreadable=MappingProxyType({SENDMAIL: "permission denied"}))
    assert judge(hidden, BY_ID["exposure-binaries"]).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("modes", "fails", "ours"),
    [
        pytest.param({PID: "root:smmsp 0660", "/run/sendmail/mta": "smmsp:smmsp 2775"}, [], [], id="groups"),
        pytest.param({PID: "root:root 0600", "/run": "root:root 1777"}, [], [], id="sticky"),
        pytest.param({PID: "root:root 0602"}, [PID], [True], id="the file"),
        pytest.param({"/run/sendmail": "root:root 0777"}, ["/run/sendmail"], [True], id="its directory"),
    ],
)
def test_pid_files_are_nobody_elses(modes: dict[str, str], fails: list[str], ours: list[bool]) -> None:
    documents = documents_of({CF: f"{HEAD}O PidFile={PID}\n", PID: ""}, modes)
    found = failing("exposure-pidfile", documents)
    assert [fault.path for fault in found] == fails
    assert [fault.mendable for fault in found] == ours
    assert failing("exposure-pidfile", mended("exposure-pidfile", documents)) == []


def test_statistics_in_a_directory_of_others_are_found_and_left() -> None:
    statistics = "/srv/stats/sendmail.st"
    files = {CF: f"{HEAD}O StatusFile={statistics}\n", statistics: ""}
    documents = documents_of(files, {"/srv": "root:root 0777"})
    found = failing("exposure-pidfile", documents)
    assert [(fault.path, fault.mendable) for fault in found] == [("/srv", False)]
    assert [fault.path for fault in advice("exposure-pidfile", documents)] == [statistics]
    assert mended("exposure-pidfile", documents) is documents


# .forward -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "fails", "advised"),
    [
        ("", 0, 1),  # $z/.forward is compiled in
        ("O ForwardPath\n", 0, 0),
        ("O ForwardPath=\n", 0, 0),
        ("O ForwardPath=/var/forward/$u:$z/.forward\n", 0, 1),
        ("O ForwardPath=$z/tmp/.forward\n", 0, 1),
        ("O ForwardPath=/tmp/$u\n", 1, 0),
        ("OJ$z/.forward:/usr/tmp/$u\n", 1, 0),
    ],
)
def test_users_forwards_are_advice_and_shared_directories_fail(line: str, fails: int, advised: int) -> None:
    documents = host({}, cf=line)
    assert len(failing("exposure-forward", documents)) == fails
    assert len(advice("exposure-forward", documents)) == advised


@pytest.mark.parametrize(
    ("mode", "fails"), [("root:root 0600", 0), ("root:root 0620", 1), ("alice:root 0600", 1)]
)
def test_roots_forward_is_told_and_fails_where_others_write_it(mode: str, fails: int) -> None:
    documents = host({"/root/.forward": mode}, cf="O ForwardPath\n")
    assert len(failing("exposure-forward", documents)) == fails
    assert len(advice("exposure-forward", documents)) == 1 - fails
    assert BY_ID["exposure-forward"].mend is None
