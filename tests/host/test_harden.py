# SPDX-License-Identifier: Apache-2.0
"""Hardening the stock Debian mail host, proven over SMTP; and what is in the way."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.host.test_guard import deliver

if TYPE_CHECKING:
    from tests.host.machine import Machine

CF = "/etc/mail/sendmail.cf"


@pytest.fixture(scope="module")
def stock(machine: Machine) -> Machine:
    """The host as Debian leaves it, with no wait between two reloads of the MTA."""
    machine.run("printf '[rebuild]\\nreload_interval = \"1s\"\\n' > /etc/hardend/conf.d/tests.toml")
    return machine


def failing(machine: Machine) -> set[str]:
    document = json.loads(machine.run("hardend audit --json", check=False).stdout)
    return {item["rule"] for item in document["findings"] if item["verdict"] == "fail"}


def digests(machine: Machine) -> str:
    return str(machine.run("cd /etc/mail && sha256sum *.cf *.mc access ../aliases; ls -A").stdout)


def test_the_stock_host_fails_and_a_plan_changes_nothing(stock: Machine) -> None:
    assert failing(stock) >= {"smrsh-mailer", "privacy-flags", "greeting-version", "queue-viewing-client"}
    before = digests(stock)
    planned = stock.run("hardend harden --plan").stdout
    assert "+++ b/etc/mail/sendmail.mc" in planned
    assert "rm /etc/mail/smrsh/procmail" in planned
    left_out = planned.partition("--yes alone leaves out")[2]
    assert "smrsh-mailer" in left_out and "greeting-version" not in left_out
    assert digests(stock) == before
    assert stock.run("hardend verify", check=False).returncode == 1
    assert deliver(stock, "before-hardening")


def test_a_hand_edited_configuration_is_never_overwritten_unasked(stock: Machine) -> None:
    stock.run(f"cp -p {CF} /root/cf; sed -i '1i # by hand' {CF}")
    refused = stock.run("hardend harden --plan", check=False)
    assert refused.returncode == 4
    assert "it was edited by hand" in refused.stderr
    assert "--truth mc" in refused.stderr
    kept = stock.run("hardend harden --plan --truth cf").stdout
    assert "+++ b/etc/mail/sendmail.cf" in kept
    assert "+++ b/etc/mail/sendmail.mc" not in kept
    stock.run(f"cp -p /root/cf {CF}")


def test_the_changes_that_hit_nobody_need_no_question(stock: Machine) -> None:
    done = stock.run("hardend harden --yes --reason first")
    assert "generation " in done.stdout
    assert "--include smrsh-mailer" in done.stdout
    left = failing(stock)
    assert "smrsh-mailer" in left
    assert not left & {"privacy-flags", "greeting-version", "greeting-help", "immutable-files"}
    assert not left & {"queue-viewing", "queue-viewing-client"}


def test_everything_included_makes_the_audit_pass_and_the_outcome_green(stock: Machine) -> None:
    stock.run("hardend harden --yes --include all --reason second")
    assert stock.run("hardend audit", check=False).returncode == 0
    verified = stock.run("hardend verify", check=False)
    assert verified.returncode == 0, verified.stdout
    assert "nothing to do" in stock.run("hardend harden --yes --include all").stdout
    assert stock.run("hardend check", check=False).returncode == 0
    assert deliver(stock, "after-hardening")
    listed = stock.run("setpriv --reuid 65534 --clear-groups sendmail -bp", check=False).stdout
    assert "You are not permitted to see the queue" in listed


def test_a_shell_in_an_alias_bounces_and_an_allowed_program_runs(stock: Machine) -> None:
    stock.run("cp /etc/aliases /root/a; echo 'shell: \"|/bin/sh -c id\"' >> /root/a")
    refused = stock.run("hardend approve /etc/aliases --from /root/a --reason shell", check=False)
    assert refused.returncode == 4
    assert "aliases-programs" in refused.stderr
    stock.run("hardend approve /etc/aliases --from /root/a --reason shell --force")
    stock.run("printf 'Subject: x\\n\\nx\\n' | sendmail -i shell")
    for _ in range(60):
        if "attempt to use" in stock.run("journalctl -t smrsh --no-pager", check=False).stdout:
            break
        time.sleep(0.5)
    else:
        pytest.fail("smrsh did not refuse it")
    stock.run("hardend harden --yes --include all --reason 'no shells'")
    assert "shell:" not in stock.run("cat /etc/aliases").stdout


def test_with_the_guard_running_the_same_verbs_work(stock: Machine) -> None:
    stock.run("systemctl enable --now hardend")
    stock.run("cp /etc/mail/access /root/access; printf 'Srv_Features:192.0.2.9\\tx b\\n' >> /root/access")
    stock.run("hardend approve /etc/mail/access --from /root/access --force --reason features")
    assert "privacy-srv-features" in failing(stock)
    stock.run("hardend harden --yes --include all --reason again")
    assert "privacy-srv-features" not in failing(stock)
    assert stock.run("hardend check", check=False).returncode == 0
    assert stock.run("hardend verify", check=False).returncode == 0


def test_a_service_that_does_not_do_what_its_files_say_is_told_after_its_reload(stock: Machine) -> None:
    stock.run("systemctl stop sendmail")
    stock.run("/usr/sbin/sendmail -L sm-mta -bd -q10m -O SmtpGreetingMessage=here")
    stock.run(f"(cat {CF}; echo '# reload') > /root/cf.new")
    stock.run(f"hardend approve {CF} --from /root/cf.new --reason reload")
    events = "journalctl -q --no-pager -o cat -t hardend-rebuild"
    for _ in range(60):
        told = stock.run(f"{events} HARDEND_EVENT=outcome-failed").stdout
        if told:
            break
        time.sleep(0.5)
    else:
        pytest.fail("it was not told")
    assert "the MTA does not do what its files say: " in told
    assert "127.0.0.1 port 25: greeting: its first word is not the host's name: 220 here" in told
    assert "was reloaded" in stock.run(f"{events} HARDEND_EVENT=mta-restarted").stdout
    stock.run("kill $(head -1 /run/sendmail/mta/sendmail.pid); systemctl start sendmail")
