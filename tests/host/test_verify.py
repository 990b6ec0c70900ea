# SPDX-License-Identifier: Apache-2.0
"""The outcome probe on a real mail host: stock, hardened by hand, an open relay, and not running."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.host.machine import Machine

MC = "/etc/mail/sendmail.mc"
SUBMIT_MC = "/etc/mail/submit.mc"
FLAGS = "authwarnings,noexpn,novrfy,restrictmailq,restrictqrun"
HARDENED = f"""\
define(`confPRIVACY_FLAGS', `{FLAGS}')dnl
define(`confSMTP_LOGIN_MSG', `$j Mail ServerReady; $b')dnl
"""
SMRSH = "FEATURE(`smrsh')dnl\n"
PORTS = ("127.0.0.1 port 25", "127.0.0.1 port 587")

RELAYED = ("relay-stranger", "relay-percent-hack", "relay-forged-name")

# What a stock Debian host does wrong; relaying, running the queue and smrsh itself are right.
STOCK = {
    "prog-mailer": 1,
    "ehlo": 2,
    "expn": 2,
    "vrfy": 2,
    "verb": 2,
    "greeting": 2,
    "help": 2,
    "mailq": 2,
}


def verified(machine: Machine) -> list[dict[str, Any]]:
    """Return the checks; the exit status must be that of the verdicts."""
    document = machine.json("hardend verify --json")
    checks: list[dict[str, Any]] = document["checks"]
    green = all(check["verdict"] in {"pass", "not-applicable"} for check in checks)
    done = machine.run("hardend verify", check=False)
    print(done.stdout)
    assert done.returncode == (0 if green else 1), done.stderr
    assert document["host"] == "mail.example.com"
    assert sum(document["summary"].values()) == len(checks)
    return checks


def failing(checks: list[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for check in checks:
        assert check["verdict"] != "unknown", check
        if check["verdict"] == "fail":
            found[check["check"]] = found.get(check["check"], 0) + 1
    return found


def build(machine: Machine, mc: str, submit_mc: str) -> None:
    """Install configurations made from these, and restart the MTA."""
    machine.path(MC).write_text(mc)
    machine.path(SUBMIT_MC).write_text(submit_mc)
    for source in (MC, SUBMIT_MC):
        machine.run(f"m4 {source} > /root/new.cf 2>/dev/null && cat /root/new.cf > {source[:-2]}cf")
    machine.run("systemctl restart sendmail")
    for _ in range(60):
        if machine.run("ss -Hltn 'sport = :25'").stdout:
            return
        time.sleep(0.5)
    pytest.fail("the MTA does not listen")


@pytest.fixture(scope="module")
def stock(machine: Machine) -> tuple[str, str]:
    """The host's own .mc files."""
    return machine.path(MC).read_text(), machine.path(SUBMIT_MC).read_text()


def with_lines(mc: str, lines: str) -> str:
    return mc.replace("MAILER_DEFINITIONS", f"{lines}MAILER_DEFINITIONS")


def hardened(mc: str) -> str:
    return with_lines(mc, HARDENED + SMRSH)


def test_a_stock_host_fails_wherever_the_guide_says_so(machine: Machine) -> None:
    started = time.monotonic()
    checks = verified(machine)
    print(f"twice in {time.monotonic() - started:.1f} s")
    assert failing(checks) == STOCK
    assert {check["subject"] for check in checks if check["check"] == "expn"} == set(PORTS)


def test_a_host_without_smtp_trouble_is_asked_without_root_too(machine: Machine) -> None:
    done = machine.run("hardend verify", check=False, user="alice")
    assert done.returncode == 1
    assert "unknown  mailq, mail queue: only root can ask: run it as root" in done.stdout
    assert "unknown  relay, check_rcpt: only root can ask: run it as root" in done.stdout
    assert "fail     expn, 127.0.0.1 port 25: EXPN is obeyed: 250 2.1.5 root" in done.stdout


def test_a_probe_logs_no_debug_and_no_wiz_and_leaves_no_message(machine: Machine) -> None:
    log = machine.run("journalctl -q -o cat -t sm-mta -t sendmail").stdout
    assert "EXPN root" in log
    assert '"wiz"' not in log.lower()
    assert '"debug"' not in log.lower()
    assert "lost input channel" not in log
    assert machine.run("find /var/spool/mqueue /var/spool/mqueue-client -type f").stdout == ""


def test_a_host_hardened_by_hand_passes_every_check(machine: Machine, stock: tuple[str, str]) -> None:
    mc, submit_mc = stock
    machine.run("cat /etc/mail/helpfile > /root/helpfile; : > /etc/mail/helpfile")
    build(machine, hardened(mc), submit_mc + f"define(`confPRIVACY_FLAGS', `goaway,noetrn,{FLAGS}')dnl\n")
    checks = verified(machine)
    assert failing(checks) == {}
    messages = {(check["check"], check["subject"]): check["message"] for check in checks}
    assert messages["vrfy", PORTS[0]].startswith("the same for every name: 252 2.5.2")
    assert messages["expn", PORTS[0]].startswith("refused: 502 5.7.0")
    assert messages["help", PORTS[0]] == "214 2.0.0 End of HELP info"


@pytest.mark.parametrize(
    ("feature", "found"),
    [
        ("promiscuous_relay", {*RELAYED, "relay-local-sender"}),
        ("relay_local_from", {"relay-local-sender"}),
        ("accept_unresolvable_domains", {"unresolvable-sender"}),
    ],
)
@pytest.mark.parametrize("delay", [True, False])
def test_an_open_relay_is_found(
    machine: Machine, stock: tuple[str, str], feature: str, found: set[str], *, delay: bool
) -> None:
    mc = with_lines(hardened(stock[0]), f"FEATURE(`{feature}')dnl\n")
    if not delay:
        mc = "".join(line for line in mc.splitlines(keepends=True) if "delay_checks" not in line)
    build(machine, mc, machine.path(SUBMIT_MC).read_text())
    assert set(failing(verified(machine))) == found


def test_a_relayed_domain_is_no_open_relay_unless_recipients_are_read_loosely(
    machine: Machine, stock: tuple[str, str]
) -> None:
    machine.run("echo partner.example > /etc/mail/relay-domains")
    submit_mc = machine.path(SUBMIT_MC).read_text()
    build(machine, hardened(stock[0]), submit_mc)
    assert failing(verified(machine)) == {}
    build(machine, with_lines(hardened(stock[0]), "FEATURE(`loose_relay_check')dnl\n"), submit_mc)
    assert failing(verified(machine)) == {"relay-percent-hack": 1}
    machine.run("rm /etc/mail/relay-domains")


def test_a_rule_by_hand_that_takes_every_recipient_is_found(
    machine: Machine, stock: tuple[str, str]
) -> None:
    rules = "\nLOCAL_RULESETS\nSLocal_check_rcpt\nR$*\t\t\t$# OK\n"
    build(machine, hardened(stock[0]) + rules, machine.path(SUBMIT_MC).read_text())
    assert "relay-stranger" in failing(verified(machine))


def test_what_runs_counts_and_not_what_the_file_says(machine: Machine, stock: tuple[str, str]) -> None:
    submit_mc = machine.path(SUBMIT_MC).read_text()
    build(machine, stock[0], submit_mc)
    machine.path(MC).write_text(hardened(stock[0]))
    machine.run(f"m4 {MC} > /root/new.cf 2>/dev/null && cat /root/new.cf > /etc/mail/sendmail.cf")
    found = failing(verified(machine))
    assert found["expn"] == len(PORTS)  # the MTA was not told to load it
    assert "mailq" not in found  # what reads the file for itself obeys it
    build(machine, hardened(stock[0]), submit_mc)


def test_a_shell_in_the_smrsh_directory_is_found(machine: Machine) -> None:
    machine.run("ln -s /bin/sh /etc/mail/smrsh/sh")
    assert failing(verified(machine)) == {"smrsh": 1}
    machine.run("rm /etc/mail/smrsh/sh")


def test_a_configuration_that_is_not_root_s_alone_is_not_run(machine: Machine) -> None:
    machine.run("chmod g+w /etc/mail/sendmail.cf")
    document = machine.json("hardend verify --json")
    machine.run("chmod g-w /etc/mail/sendmail.cf")
    relay = [check for check in document["checks"] if check["check"] == "relay"]
    assert [check["verdict"] for check in relay] == ["unknown"]
    assert "/etc/mail/sendmail.cf is not root's alone" in relay[0]["message"]


def test_a_listener_that_is_gone_while_the_mta_runs_is_a_failure(machine: Machine) -> None:
    cf = machine.path("/etc/mail/sendmail.cf")
    text = cf.read_text()
    cf.write_text(text.replace("Port=submission", "Port=2525"))
    document = machine.json("hardend verify --json")
    gone = [check for check in document["checks"] if check["subject"] == "127.0.0.1 port 2525"]
    assert [(check["check"], check["verdict"]) for check in gone] == [("listener", "fail")]
    assert "nothing listens here, though the MTA runs" in gone[0]["message"]
    cf.write_text(text)


def test_a_stopped_mta_is_unknown_and_stays_stopped(machine: Machine) -> None:
    machine.run("systemctl stop sendmail")
    document = machine.json("hardend verify --json")
    listeners = [check for check in document["checks"] if check["check"] == "listener"]
    assert [check["verdict"] for check in listeners] == ["unknown", "unknown"]
    assert machine.run("ss -Hltn 'sport = :25'").stdout == ""


def test_a_tree_is_refused(machine: Machine) -> None:
    done = machine.run("mkdir -p /root/tree && hardend verify --root /root/tree", check=False)
    assert done.returncode == 2
    assert "a tree has no outcome" in done.stderr
    assert "hint: hardend audit --root /root/tree" in done.stderr
