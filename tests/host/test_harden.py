# SPDX-License-Identifier: Apache-2.0
"""Hardening the stock Debian mail host, proven over SMTP; what is in the way, and what interrupts it."""

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
    """The host as Debian leaves it, and a copy of that."""
    machine.run("cp -a /etc/mail /root/mail; cp -a /etc/aliases /root/aliases")
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


def test_a_plan_that_is_killed_leaves_the_old_or_the_new_state_whole(stock: Machine) -> None:
    old = digests(stock)
    for delay in (0.3, 0.6, 0.9, 1.2, 1.6):
        stock.run(f"timeout -s KILL {delay} hardend harden --yes --rule queue-viewing", check=False)
        after = stock.run("hardend harden --yes --rule queue-viewing", check=False)
        print(delay, after.stderr.splitlines()[:1])
        assert after.returncode == 0, after.stderr
        assert "queue-viewing" not in failing(stock)
        assert stock.run("hardend check", check=False).returncode == 0
        stock.run("hardend release; rm -rf /var/lib/hardend; mkdir -m 0700 /var/lib/hardend")
        stock.run("cp -a /root/mail/. /etc/mail/; cp -a /root/aliases /etc/aliases")
        assert digests(stock) == old


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
