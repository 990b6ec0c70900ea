# SPDX-License-Identifier: Apache-2.0
"""Whose the queues are, who can replace them, and who can change the log: beyond the examples."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hardend import layout, survey
from hardend.model import Host
from hardend.rules.catalogue import BY_ID, judge
from hardend.rules.documents import Documents
from hardend.rules.rule import Fault, Verdict
from hardend.settings import Settings
from tests.unit.rulehost import documents_of
from tests.unit.test_survey import tree

CF = "/etc/mail/sendmail.cf"
QUEUE, CLIENT = "/var/spool/mqueue", "/var/spool/mqueue-client"
LOG, CONF = "/var/log/mail.log", "/etc/rsyslog.conf"


def found(rule: str, documents: Documents) -> list[Fault]:
    return [fault for fault in judge(documents, BY_ID[rule]).faults if not fault.advice]


def queues(modes: dict[str, str], cf: str = "", **files: str) -> Documents:
    return documents_of({CF: f"V10/Berkeley\n{cf}", f"{QUEUE}/": "", f"{CLIENT}/": "", **files}, modes)


def mended(documents: Documents) -> Documents:
    mend = BY_ID["exposure-queues"].mend
    assert mend is not None
    return mend(documents)


GOOD = {QUEUE: "smmta:smmsp 2750", CLIENT: "smmsp:smmsp 2770"}


@pytest.mark.parametrize(
    ("modes", "cf", "path", "ours"),
    [
        ({}, "", "", False),
        ({QUEUE: "root:root 0700"}, "", "", False),
        ({QUEUE: "mail:mail 0700"}, "O RunAsUser=mail:mail\n", "", False),
        ({QUEUE: "mail:mail 0700"}, "", QUEUE, True),
        ({QUEUE: "alice:root 0700"}, "O RunAsUser=mail\n", QUEUE, True),
        ({"/var/spool": "root:root 0777"}, "", "/var/spool", True),
        ({"/var/spool": "alice:root 0755"}, "", "/var/spool", True),
        ({"/var/spool": "root:root 1777"}, "", "/var/spool", False),
        ({CLIENT: "alice:smmsp 2770"}, "", CLIENT, False),
        ({CLIENT: "smmsp:smmsp 2773"}, "", CLIENT, False),
        ({CLIENT: "root:smmsp 0770"}, "", "", False),
    ],
)
def test_a_queue_is_sendmails_and_nobody_writes_above_it(
    modes: dict[str, str], cf: str, path: str, ours: bool
) -> None:
    documents = queues(GOOD | modes, cf)
    faults = found("exposure-queues", documents)
    assert [fault.path for fault in faults] == ([path] if path else [])
    assert [fault.mendable for fault in faults] == ([ours] if path else [])
    after = mended(documents)
    assert (after is not documents) == ours
    assert [fault.path for fault in found("exposure-queues", after)] == ([path] if path and not ours else [])


def test_a_client_queue_that_others_may_look_into_is_advice() -> None:
    documents = queues(GOOD | {CLIENT: "smmsp:smmsp 2775"})
    [fault] = judge(documents, BY_ID["exposure-queues"]).faults
    assert fault.advice and fault.path == CLIENT


def test_a_queue_behind_a_link_is_judged_where_it_is() -> None:
    files = {CF: "V10/Berkeley\n", QUEUE: "-> /srv/mqueue", "/srv/mqueue/": ""}
    documents = documents_of(files, {"/srv/mqueue": "alice:root 0700", "/srv": "root:alice 0775"})
    assert {(fault.path, fault.mendable) for fault in found("exposure-queues", documents)} == {
        ("/srv/mqueue", True), ("/srv", False),
    }  # fmt: skip


def test_without_any_queue_there_is_nothing_to_judge() -> None:
    documents = documents_of({}, profile="redhat")
    assert judge(documents, BY_ID["exposure-queues"]).verdict is Verdict.PASS  # a client queue's parents


@pytest.mark.root
def test_a_host_s_own_queues_and_what_is_above_them_are_taken_in(tmp_path: Path) -> None:
    tree(tmp_path)
    cf = tmp_path / "etc/mail/sendmail.cf"
    cf.write_bytes(cf.read_bytes() + b"O QueueDirectory=/srv/spool/q*\n")
    (tmp_path / "srv/spool/q1").mkdir(parents=True)
    os.chown(tmp_path / "srv/spool/q1", 1234, 0)
    (tmp_path / "srv").chmod(0o777)
    host = Host(str(tmp_path))
    faults = found("exposure-queues", survey.survey(host, layout.find(host), Settings()))
    assert {"/srv", "/srv/spool/q1"} <= {fault.path for fault in faults}


# The log ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("mail.* -/var/log/mail.log\n", False),
        ("mail.crit\t/dev/console\n", False),
        ("*.*;auth.none;mail.none\t/var/log/messages\nmail.err;mail.!crit\t/var/log/x\n", True),
        ("*.emerg\t:omusrmsg:*\n", True),
        ("mail.=info /var/log/mail.info\n", True),
        ('*.* action(type="omfile" file="/var/log/all")\n', False),
        ("mail.* stop\n", True),
        ("# mail.* /var/log/mail.log\n", True),
        ("mail.*;\\\nauth.none /var/log/x\n", False),
    ],
)
def test_what_becomes_of_an_attack_that_smrsh_refused(text: str, lost: bool) -> None:
    verdict = judge(documents_of({CONF: text}), BY_ID["exposure-log"]).verdict
    assert verdict is (Verdict.FAIL if lost else Verdict.PASS)


def test_rsyslogs_own_language_is_not_read_and_that_is_said() -> None:
    text = "if $syslogfacility-text == 'mail' then action(type=\"omfile\" file=\"/var/log/mail\")\n"
    [fault] = judge(documents_of({CONF: text}), BY_ID["exposure-log"]).faults
    assert fault.advice and "own language" in fault.message


@pytest.mark.parametrize(
    ("mode", "fails"),
    [("root:mail 0640", 0), ("root:root 0644", 0), ("root:mail 0660", 1), ("alice:mail 0640", 1)],
)
def test_the_log_is_the_loggers(mode: str, fails: int) -> None:
    documents = documents_of({CONF: f"mail.*\t-{LOG}\n", LOG: ""}, {LOG: mode})
    faults = found("exposure-log", documents)
    assert len(faults) == fails
    assert all(fault.path == LOG and not fault.mendable and "logrotate" in fault.remedy for fault in faults)


def test_a_host_with_the_journal_alone_has_nothing_to_judge() -> None:
    assert judge(documents_of({}), BY_ID["exposure-log"]).verdict is Verdict.NOT_APPLICABLE


def test_what_syslog_is_configured_with_and_its_log_are_taken_in(tmp_path: Path) -> None:
    tree(tmp_path)
    files = {CONF: "*.emerg /dev/null\n", "/etc/rsyslog.d/50.conf": f"mail.* -{LOG}\n", LOG: ""}
    for path, text in files.items():
        place = tmp_path / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    (tmp_path / "etc/rsyslog.d/old.conf.bak").write_text("junk\n")
    (tmp_path / LOG.lstrip("/")).chmod(0o666)
    host = Host(str(tmp_path))
    documents = survey.survey(host, layout.find(host), Settings())
    assert LOG in [fault.path for fault in found("exposure-log", documents)]
    assert "/etc/rsyslog.d/old.conf.bak" not in documents.content
