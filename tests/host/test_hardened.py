# SPDX-License-Identifier: Apache-2.0
"""What a hardened host does, asked by others than hardend: over SMTP, as nobody, by mail, from outside."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.host.test_guard import deliver
from tests.host.test_windows import wait, wait_clean

if TYPE_CHECKING:
    from tests.host.machine import Machine

HOST = "mail.example.com"
NOBODY = "setpriv --reuid 65534 --regid 65534 --clear-groups"
KEEP = "/usr/local/bin/keep"
# restrictqrun is the one that Debian sets in both of its files; its dash stands for the whole section.
MET_BY_DEBIAN = {"queue-running"}
STATE = (
    "find /etc/mail /etc/aliases /etc/hardend /var/lib/hardend -printf '%p %u %g %m %s %T@ %l\\n' | sort;"
    " lsattr -R /etc/mail /etc/aliases 2> /dev/null | sort; sha256sum /etc/mail/*.* /etc/aliases"
)
# Says each line after the greeting and prints what is answered, one reply a paragraph.
TALK = """
import socket, sys
address, port, *lines = sys.argv[1:]
link = socket.create_connection((address, int(port)), timeout=30)
file = link.makefile("rb")
def reply():
    while True:
        line = file.readline().decode()
        print(line.rstrip())
        if line[3:4] != "-":
            return print(flush=True)
reply()
for line in lines:
    link.sendall(line.encode() + b"\\r\\n")
    reply()
"""


@pytest.fixture(scope="module")
def stock(machine: Machine) -> Machine:
    """The host as Debian leaves it, with no wait between two reloads of the MTA."""
    machine.run("printf '[rebuild]\\nreload_interval = \"1s\"\\n' > /etc/hardend/conf.d/tests.toml")
    return machine


def sections(machine: Machine) -> tuple[set[str], set[str]]:
    """Return the sections of which a rule fails, and all."""
    found = json.loads(machine.run("hardend audit --json", check=False).stdout)["findings"]
    failing = {item["section"] for item in found if item["verdict"] == "fail"}
    return failing, {item["section"] for item in found}


def talk(machine: Machine, *lines: str, prefix: str = "", where: str = "127.0.0.1 25") -> list[str]:
    """Return the replies of the MTA: the greeting, and one to each line."""
    quoted = " ".join(f"'{line}'" for line in lines)
    machine.path("/root/talk.py").write_text(TALK)
    said = machine.run(f"{prefix} /usr/bin/python3 /root/talk.py {where} {quoted}").stdout
    return [part.strip() for part in said.strip().split("\n\n")]


def test_the_stock_host_fails_in_every_section_but_the_one_that_debian_meets(stock: Machine) -> None:
    failing, every = sections(stock)
    assert len(every) == 9
    assert every - failing == MET_BY_DEBIAN
    for cf in ("sendmail", "submit"):
        assert "restrictqrun" in stock.run(f"grep ^O.PrivacyOptions /etc/mail/{cf}.cf").stdout
    stock.run("sed -i.was s/,restrictqrun// /etc/mail/sendmail.cf")
    assert sections(stock)[0] == every
    stock.run("mv /etc/mail/sendmail.cf.was /etc/mail/sendmail.cf")


def test_a_plan_changes_nothing_at_all(stock: Machine) -> None:
    before = stock.run(STATE, check=False).stdout
    planned = stock.run("hardend harden --plan --include all").stdout
    assert "+++ b/etc/mail/sendmail.mc" in planned and "FEATURE(`smrsh')" in planned
    assert stock.run(STATE, check=False).stdout == before


def test_what_hits_nobody_is_done_and_the_rest_is_listed(stock: Machine) -> None:
    done = stock.run("hardend harden --yes --reason auto").stdout
    for rule in ("smrsh-mailer", "smrsh-programs", "relay-access-db", "exposure-limits"):
        assert f"--include {rule}" in done
    assert "P=/bin/sh" in stock.run("grep ^Mprog /etc/mail/sendmail.cf").stdout


def test_everything_included_meets_every_rule_and_the_outcome_is_proven(stock: Machine) -> None:
    stock.run("hardend harden --yes --include all --reason first")
    assert stock.run("hardend audit", check=False).returncode == 0
    checks = json.loads(stock.run("hardend verify --json").stdout)
    assert {item["verdict"] for item in checks["checks"]} == {"pass"}
    before = stock.run(STATE, check=False).stdout
    assert "nothing to do" in stock.run("hardend harden --yes --include all").stdout
    assert stock.run(STATE, check=False).stdout == before


def test_over_smtp_it_tells_neither_who_is_there_nor_what_it_is(stock: Machine) -> None:
    commands = ("EHLO x.example", "EXPN root", "VRFY root", "VRFY no-such-user", "VERB", "HELP", "HELP VRFY")
    greeting, ehlo, expn, known, unknown, verb, help_, topic = talk(stock, *commands)
    assert greeting.startswith(f"220 {HOST} ESMTP ")
    assert not {"EXPN", "VERB"} & {line[4:] for line in ehlo.splitlines()}
    assert expn.startswith("502 5.7.0")
    assert known.startswith("252 2.5.2") and known == unknown
    assert verb.startswith("502 5.7.0")
    said = greeting + help_ + topic
    assert not re.search(r"\b8\.\d+\.\d|sendmail version|^220 .*sendmail", said, re.IGNORECASE)


def test_nobody_neither_lists_nor_runs_a_queue(stock: Machine) -> None:
    for words in ("sendmail -bp", "mailq", "sendmail -Ac -bp"):
        listed = stock.run(f"cd /; {NOBODY} {words}", check=False)
        assert "not permitted to see the queue" in listed.stdout + listed.stderr, words
    for words in ("sendmail -q", "sendmail -Ac -q", "sendmail -qInosuchid"):
        run = stock.run(f"cd /; {NOBODY} {words}", check=False)
        assert run.returncode == 77, words
        assert "You do not have permission to process the queue" in run.stdout + run.stderr
    assert "Mail queue" in stock.run("mailq").stdout or "is empty" in stock.run("mailq").stdout


def test_an_audit_without_root_says_unknown_for_what_it_could_not_read_and_nothing_better(
    stock: Machine,
) -> None:
    def verdicts(command: str) -> dict[str, str]:
        done = stock.run(f"cd /; {command}", check=False)
        assert done.returncode in {0, 1} and done.stderr == "", done.stderr
        findings = json.loads(done.stdout)["findings"]
        # The worst of a rule, and advice of one that passes is no other verdict.
        order = ("pass", "not-applicable", "waived", "unknown", "fail")
        return {
            item["rule"]: max((other["verdict"] for other in findings if other["rule"] == item["rule"]),
                              key=order.index)
            for item in findings
        }  # fmt: skip

    root, nobody = verdicts("hardend audit --json"), verdicts(f"{NOBODY} hardend audit --json")
    changed = {rule: (root[rule], nobody[rule]) for rule in root if root[rule] != nobody[rule]}
    print(changed)
    assert {"privacy-srv-features", "relay-entries", "immutable-files"} <= set(changed)
    assert {now for _, now in changed.values()} <= {"unknown"}


def test_a_shell_in_an_alias_bounces_with_smrshs_words_and_an_allowed_program_runs(stock: Machine) -> None:
    stock.run(f"install -m 0755 /dev/stdin {KEEP}", input_text="#!/bin/sh\ncat >> /var/lib/kept/mail\n")
    stock.run("install -d -o mail -g mail /var/lib/kept")
    stock.run(f"printf '[rules]\\nsmrsh_programs = [\"{KEEP}\"]\\n' > /etc/hardend/conf.d/keep.toml")
    aliases = f'shell: "|/bin/sh -c id"\nkept: "|{KEEP}"\n'
    stock.run("cat /etc/aliases - > /root/aliases", input_text=aliases)
    stock.run("hardend approve /etc/aliases --from /root/aliases --reason shell --force")
    stock.run("hardend harden --yes --rule smrsh-listed --reason keep")
    stock.run("printf 'Subject: to-shell\\n\\nx\\n' | sendmail -i -f alice shell", user="alice")
    stock.run("printf 'Subject: to-kept\\n\\nx\\n' | sendmail -i -f alice kept", user="alice")
    words = 'smrsh: "sh" not available for sendmail programs'
    assert wait(stock, f"grep -q '{words}' /var/mail/alice") == ""
    assert wait(stock, "grep -q to-kept /var/lib/kept/mail") == ""
    assert stock.run("grep -c uid= /var/mail/alice", check=False).stdout.strip() == "0"
    stock.run("hardend harden --yes --include all --reason 'no shells'")
    assert "shell:" not in stock.run("cat /etc/aliases").stdout
    assert "kept:" in stock.run("cat /etc/aliases").stdout
    assert stock.run("hardend audit", check=False).returncode == 0
    assert deliver(stock, "after-hardening")


def test_a_client_from_outside_is_denied_whoever_it_claims_to_be(stock: Machine) -> None:
    """A second daemon with the same configuration listens where another network can reach it."""
    stock.run("echo 203.0.113.7 client.example.net >> /etc/hosts")
    stock.run(
        "unshare --net sleep 300 > /dev/null 2>&1 & echo $! > /root/outside; sleep 0.5;"
        " ip link add in0 type veth peer name out0 netns $(cat /root/outside);"
        " ip address add 203.0.113.1/24 dev in0; ip link set in0 up;"
        " nsenter -n -t $(cat /root/outside) sh -c"
        " 'ip address add 203.0.113.7/24 dev out0; ip link set out0 up; ip link set lo up'"
    )
    listen = "DaemonPortOptions=Name=OUT,Port=25,Addr=203.0.113.1"
    stock.run(f"/usr/sbin/sendmail -L outside -bd -O {listen} -O PidFile=/root/outside.pid")
    outside = "nsenter -n -t $(cat /root/outside)"
    try:
        assert wait(stock, f"{outside} bash -c ': < /dev/tcp/203.0.113.1/25'") == ""
        for sender in ("alice@mail.example.com", ""):
            lines = ("EHLO x.example", f"MAIL FROM:<{sender}>", "RCPT TO:<user@remote.example>")
            *_, mail, denied = talk(stock, *lines, prefix=outside, where="203.0.113.1 25")
            assert mail.startswith("250 "), mail
            assert denied.startswith("550 5.7.1") and "Relaying denied" in denied, denied
        local = ("EHLO x.example", "MAIL FROM:<>", "RCPT TO:<alice@mail.example.com>")
        assert talk(stock, *local, prefix=outside, where="203.0.113.1 25")[-1].startswith("250 ")
    finally:
        stock.run("kill $(head -1 /root/outside.pid) $(cat /root/outside)", check=False)


def test_a_renewed_key_gets_its_content_and_not_a_mode_that_others_read(stock: Machine) -> None:
    key = "/etc/mail/tls/sendmail-common.key"
    stock.run("systemctl enable --now hardend")
    assert wait_clean(stock) == ""
    mode = stock.run(f"stat -c '%a %U:%G' {key}").stdout
    stock.run(f"(cat {key}; echo renewed) > {key}.new; chmod 0666 {key}.new; mv {key}.new {key}")
    assert wait(stock, f"test \"$(stat -c '%a %U:%G' {key})\" = '{mode.strip()}'") == ""
    assert stock.run(f"tail -n 1 {key}").stdout == "renewed\n"
    assert wait_clean(stock) == ""
    time.sleep(1)
    assert stock.run("hardend audit", check=False).returncode == 0
