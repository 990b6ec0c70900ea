# SPDX-License-Identifier: Apache-2.0
"""Who would be hit by smrsh: what aliases, lists, .forward files and the mail log say that mail runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardend import config, layout
from hardend.affected import Use, uses
from hardend.survey import survey
from tests.unit.test_survey import tree

if TYPE_CHECKING:
    from pathlib import Path

LOG = """\
Nov 24 10:00:00 mail sm-mta[1]: a: to="|/usr/bin/vacation bob, x", ctladdr=b (8/0), mailer=prog, stat=Sent
Nov 24 10:00:01 mail sm-mta[2]: b: to="|/usr/bin/vacation bob, x", ctladdr=b (8/0), mailer=prog, stat=Sent
Nov 24 10:00:02 mail sm-mta[3]: c: to=<bob@example.com>, mailer=local, stat=Sent
"""


def found(tmp_path: Path) -> dict[str, Use]:
    host = tree(tmp_path)
    documents = survey(host, layout.find(host), config.load(host))
    return {use.where: use for use in uses(host, documents)}


def test_each_is_named_where_it_stands_with_why_it_would_stop(tmp_path: Path) -> None:
    hit = found(tmp_path)
    assert hit["/etc/aliases:3 (prog)"].command == "/usr/local/bin/run it"
    assert hit["/etc/aliases:3 (prog)"].why == "/usr/local/bin/run: not in /etc/smrsh"
    assert "/etc/lists/one:3 (list)" in hit, "the file that includes it, and not where the program lies"


def test_a_forward_of_a_user_counts(tmp_path: Path) -> None:
    home = tmp_path / "home/alice"
    home.mkdir(parents=True)
    (home / ".forward").write_text('\\alice\n"|vacation alice"\n"|procmail; id"\n')
    hit = found(tmp_path)
    assert hit["/home/alice/.forward:2"].why == "", "it is in smrsh's directory"
    assert "refuses" in hit["/home/alice/.forward:3"].why


def test_the_mail_log_counts_each_command_once_with_how_often(tmp_path: Path) -> None:
    (tmp_path / "var/log").mkdir(parents=True)
    (tmp_path / "var/log/mail.log").write_text(LOG)
    hit = found(tmp_path)
    assert hit["/var/log/mail.log, 2 times"] == Use("/var/log/mail.log, 2 times", "/usr/bin/vacation bob, x")
    assert not [where for where in hit if "bob@example.com" in where]
