# SPDX-License-Identifier: Apache-2.0
"""A list manager's wrapper behind an alias: kept, named, at work where allowed; and a hostile .cf."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.host.test_guard import deliver

if TYPE_CHECKING:
    from tests.host.machine import Machine

WRAPPER = "/usr/lib/mailman/mail/mailman"
SYMPA = "/usr/lib/sympa/bin/queue"
ALIAS = f"""list: "|{WRAPPER} post list"
list-request: "|{WRAPPER} request list"
sympa: "|{SYMPA} sympa@mail.example.com"
"""
# What they do as far as mail can tell: they take a message on standard input and keep it.
SCRIPT = """#!/bin/sh
umask 077
printf '%s ' "$(id -un)" "$@" >/var/lib/lists/posted.$$
cat >>/var/lib/lists/posted.$$
"""


@pytest.fixture(scope="module")
def lists(machine: Machine) -> Machine:
    """The stock host with two list managers, whose aliases run their programs."""
    for program in (WRAPPER, SYMPA):
        machine.run(f"install -D -m 0755 /dev/stdin {program}", input_text=SCRIPT)
    machine.run("install -d -m 1777 /var/lib/lists; cat >>/etc/aliases", input_text=ALIAS)
    machine.run("newaliases")
    return machine


def posted(machine: Machine, address: str, word: str) -> bool:
    """Return whether a message to an address reaches the list manager."""
    machine.run(f"printf 'Subject: {word}\\n\\nx\\n' | sendmail -i {address}")
    for _ in range(60):
        if machine.run(f"grep -qr {word} /var/lib/lists", check=False).returncode == 0:
            return True
        if word in machine.run("mailq; cat /var/mail/root", check=False).stdout:
            break
        time.sleep(0.5)
    return False


def planned(machine: Machine, *arguments: str) -> str:
    return str(machine.run(f"hardend harden --plan {' '.join(arguments)}").stdout)


def test_the_wrappers_work_before(lists: Machine) -> None:
    assert posted(lists, "list", "before-mailman")
    assert posted(lists, "sympa", "before-sympa")


def test_the_plan_names_what_the_switch_to_smrsh_would_stop(lists: Machine) -> None:
    shown = planned(lists, "--include", "smrsh-mailer")
    for program, alias in ((WRAPPER, "list"), (WRAPPER, "list-request"), (SYMPA, "sympa")):
        named = [text for text in shown.splitlines() if f"({alias})" in text]
        line = next(text for text in named if text.startswith("smrsh-mailer: would stop: /etc/aliases:"))
        assert program in line and "not in /etc/mail/smrsh" in line


def test_they_survive_what_nobody_is_asked_about(lists: Machine) -> None:
    lists.run("hardend harden --yes --reason auto")
    assert ALIAS in lists.run("cat /etc/aliases").stdout
    assert posted(lists, "list", "hardened-mailman")
    assert posted(lists, "sympa", "hardened-sympa")
    assert deliver(lists, "hardened-alice")


def test_they_work_under_smrsh_when_they_are_on_the_list(lists: Machine) -> None:
    lists.run(f"""mkdir -p /etc/hardend/conf.d
        printf '[rules]\\nsmrsh_programs = ["{WRAPPER}", "{SYMPA}"]\\n' >/etc/hardend/conf.d/lists.toml""")
    shown = planned(lists, "--include", "smrsh-mailer")
    assert "smrsh-mailer: none of the 3 programs that mail is known to run would stop" in shown
    lists.run("hardend harden --yes --include all --reason lists")
    assert ALIAS in lists.run("cat /etc/aliases").stdout
    assert f"{WRAPPER}\n{SYMPA}\n" in lists.run(
        "readlink /etc/mail/smrsh/mailman /etc/mail/smrsh/queue"
    ).stdout
    assert "smrsh" in lists.run("grep -A2 ^Mprog /etc/mail/sendmail.cf").stdout
    assert posted(lists, "list", "listed-mailman")
    assert posted(lists, "sympa", "listed-sympa")
    assert lists.run("hardend audit", check=False).returncode == 0
    assert lists.run("hardend verify", check=False).returncode == 0
    assert "nothing to do" in lists.run("hardend harden --yes --include all").stdout


# What a hostile configuration names is run by nothing that is given it, on the host itself ---------------


def test_a_hostile_configuration_that_is_offered_or_in_place_runs_nothing(lists: Machine) -> None:
    spring = "#!/bin/sh\nid >/var/tmp/canary/$$\n"
    where = "install -d -m 1777 /var/tmp/canary; install -m 0755 /dev/stdin /usr/local/bin/spring"
    lists.run(where, input_text=spring)
    evil = {
        "cf": "O DefaultUser=root:root\nF{x}|/usr/local/bin/spring\n",
        "mc": "syscmd(`/usr/local/bin/spring')\nLOCAL_CONFIG\nF{x}|/usr/local/bin/spring\n",
    }
    for kind, text in evil.items():
        lists.run(f"cat /etc/mail/sendmail.{kind} - >/root/h.{kind}", input_text=text)
    for offered in ("sendmail.cf --from /root/h.cf", "sendmail.mc --from /root/h.mc"):
        lists.run(f"hardend approve /etc/mail/{offered} --reason hostile", check=False)
    lists.run("hardend release; cp /root/h.cf /etc/mail/sendmail.cf; cp /root/h.mc /etc/mail/sendmail.mc")
    verbs = ("audit", "harden --plan", "harden --plan --truth mc", "harden --plan --truth cf", "layout")
    for verb in (*verbs, "suggest", "check", "explain", "approve --reason x"):
        done = lists.run(f"hardend {verb}", check=False)
        assert "Traceback" not in done.stderr, verb
        assert lists.run("ls /var/tmp/canary").stdout == "", verb
    found = json.loads(lists.run("hardend audit --json", check=False).stdout)["findings"]
    assert [item["file"] for item in found if item["rule"] == "exposure-source"] == ["/etc/mail/sendmail.cf"]
