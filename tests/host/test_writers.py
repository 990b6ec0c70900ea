# SPDX-License-Identifier: Apache-2.0
"""Others who write into what is guarded: ban lists, panels, list managers, renewals, trusted units."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.host.test_windows import wait, wait_clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.machine import Machine

pytestmark = pytest.mark.host
ACCESS = "/etc/mail/access"
VIRTUAL = "/etc/mail/virtusertable"
ALIASES = "/etc/aliases"
NAMES = "/etc/mail/local-host-names"
DROP_IN = Path(__file__).resolve().parents[2] / "etc/systemd/trusted-unit.conf"
CONFIG = """
[paths.classes]
"/etc/mail/access" = "checked"

[[blocks]]
path = "/etc/aliases"
begin = "# begin lists"
end = "# end lists"
reason = "the list manager's"
"""
SETUP = """
set -e
sed -i "/^MAILER_DEFINITIONS/i FEATURE(\\`virtusertable')dnl" /etc/mail/sendmail.mc
echo 'info@mail.example.com root' > /etc/mail/virtusertable
make -C /etc/mail
makemap hash /etc/mail/virtusertable < /etc/mail/virtusertable # its owner is the trusted user from then on
systemctl restart sendmail
printf 'mailer-daemon: postmaster\\npostmaster: root\\n# begin lists\\n# end lists\\n' >> /etc/aliases
newaliases
hardend approve --reason first
systemctl enable --now hardend
"""


@pytest.fixture(scope="module")
def shared(machine: Machine) -> Machine:
    """The host with an access table, a virtual user table and a part of aliases that others write."""
    path = machine.path("/etc/hardend/conf.d/writers.toml")
    path.write_text(CONFIG)
    machine.run(SETUP, timeout=300)
    assert wait_clean(machine) == ""
    return machine


@pytest.fixture(autouse=True)
def clean(shared: Machine) -> Iterator[Machine]:
    """The host, clean before and after."""
    yield shared
    assert wait_clean(shared) == ""


def number(machine: Machine) -> int:
    return int(machine.json("hardend status --json")["generation"])


def last(machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = machine.json("hardend baseline log --json")["generations"][0]
    return found


def drifts(machine: Machine) -> list[str]:
    """Return what the journal has of drift so far."""
    kinds = ("drift-found", "path-restored", "lock-removed", "restore-failed", "path-contested")
    return [event["MESSAGE"] for event in machine.journal() if event.get("HARDEND_EVENT") in kinds]


def asked(machine: Machine, table: str, key: str) -> str:
    """Return what a live map answers."""
    dump = machine.run(f"makemap -u hash {table}").stdout
    return next((line.partition("\t")[2] for line in dump.splitlines() if line.startswith(f"{key}\t")), "")


def rejected(machine: Machine) -> str:
    machine.run("journalctl --sync")
    return machine.run("journalctl -q -o cat -t hardend-rebuild HARDEND_EVENT=baseline-rejected -n 1").stdout


def test_a_ban_list_is_appended_to_and_nothing_of_it_is_drift(clean: Machine) -> None:
    before, told = number(clean), drifts(clean)
    for count in range(1, 13):
        clean.run(f"echo 'Connect:192.0.2.{count} REJECT' >> {ACCESS}; makemap hash {ACCESS} < {ACCESS}")
        assert clean.run("hardend status").returncode == 0
    assert wait(clean, f"test $(hardend status --json | grep -c '\"generation\": {before}') = 0") == ""
    assert wait_clean(clean) == ""
    assert asked(clean, ACCESS, "connect:192.0.2.12") == "REJECT"
    assert "192.0.2.12" in clean.run(f"cat {ACCESS}").stdout
    assert drifts(clean) == told
    assert last(clean)["author"] == "checked"
    assert number(clean) < before + 12  # what comes together is taken in together


def test_a_panel_replaces_its_table_and_makes_the_map(clean: Machine) -> None:
    before, told = number(clean), drifts(clean)
    clean.run(
        f"cp -p {VIRTUAL} {VIRTUAL}.new; echo 'sales@mail.example.com root' >> {VIRTUAL}.new;"
        f"mv {VIRTUAL}.new {VIRTUAL}; makemap hash {VIRTUAL} < {VIRTUAL}"
    )
    assert wait(clean, f"hardend status --json | grep -q '\"generation\": {before + 1}'") == ""
    assert wait_clean(clean) == ""
    assert drifts(clean) == told
    assert asked(clean, VIRTUAL, "sales@mail.example.com") == "root"
    assert "user root" in clean.run("sendmail -bv sales@mail.example.com").stdout


def test_a_panel_with_another_umask_gets_its_content_and_not_its_mode(clean: Machine) -> None:
    mode = clean.run(f"stat -c %a {VIRTUAL}").stdout
    clean.run(
        f"(cat {VIRTUAL}; echo 'web@mail.example.com root') > {VIRTUAL}.new; chmod 666 {VIRTUAL}.new;"
        f"mv {VIRTUAL}.new {VIRTUAL}"
    )
    assert wait(clean, f"makemap -u hash {VIRTUAL} | grep -q ^web@") == ""
    assert wait_clean(clean) == ""
    assert clean.run(f"stat -c %a {VIRTUAL}").stdout == mode


def test_a_relay_for_a_whole_domain_is_put_back_with_its_map(clean: Machine) -> None:
    before = clean.run(f"sha256sum {ACCESS}").stdout
    clean.run(f"echo 'com RELAY' >> {ACCESS}; makemap hash {ACCESS} < {ACCESS}")
    assert wait(clean, f"! grep -q '^com' {ACCESS} && ! makemap -u hash {ACCESS} | grep -q ^com") == ""
    assert wait_clean(clean) == ""
    assert clean.run(f"sha256sum {ACCESS}").stdout == before
    assert f"{ACCESS} is not taken in: {ACCESS}:" in rejected(clean)
    assert "relay-entries" in rejected(clean)
    assert wait(clean, "grep -rqs 'com RELAY' /var/lib/hardend/quarantine") == ""


def test_what_does_not_build_is_put_back(clean: Machine) -> None:
    clean.run(f"echo 'nothing-behind-it' >> {VIRTUAL}")
    assert wait(clean, f"! grep -q nothing {VIRTUAL}") == ""
    assert "no RHS" in rejected(clean)


def in_block(line: str) -> str:
    return f"sed -i '/^# end lists/i {line}' {ALIASES}"


def test_a_list_manager_writes_its_block_of_aliases(clean: Machine) -> None:
    before, told = number(clean), drifts(clean)
    clean.run(f"{in_block('news: root')}; newaliases")
    assert wait(clean, f"hardend status --json | grep -q '\"generation\": {before + 1}'") == ""
    assert wait_clean(clean) == ""
    assert drifts(clean) == told
    assert clean.run("sendmail -bv news").stdout.startswith("root")
    clean.run(in_block("more: root"))  # and its map follows by itself
    assert wait(clean, "sendmail -bv more | grep -q ^root") == ""


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (in_block('decode: "|/usr/bin/uudecode"'), "aliases-"),
        (in_block("postmaster: news"), "names postmaster again"),
        (f"echo 'evil: root' >> {ALIASES}", "outside of its block"),
        (f"sed -i '/^# end lists/d' {ALIASES}", "outside of its block"),
    ],
)
def test_a_block_is_no_way_around_the_rules_nor_out_of_it(clean: Machine, command: str, why: str) -> None:
    before = clean.run(f"sha256sum {ALIASES}").stdout
    clean.run(f"{command}; newaliases")
    assert wait(clean, f"echo '{before.strip()}' | sha256sum -c") == ""
    assert wait_clean(clean) == ""
    assert why in rejected(clean)
    assert clean.run("sendmail -bv decode", check=False).returncode != 0


def test_certificates_are_renewed(clean: Machine) -> None:
    before, told = number(clean), drifts(clean)
    clean.run(
        "cd /etc/mail/tls; cp -p sendmail-server.crt x.new; echo renewed >> x.new;"
        "mv x.new sendmail-server.crt; echo renewed > /root/key; cp /root/key sendmail-common.key"
    )
    time.sleep(1.5)
    assert drifts(clean) == told and number(clean) == before
    assert clean.run("tail -qn 1 /etc/mail/tls/*.crt /etc/mail/tls/*.key").stdout.count("renewed") == 2


# Trusted units --------------------------------------------------------------------------------------


def install(machine: Machine, command: str) -> None:
    """A unit that runs a command, and the drop-in of etc/ with that command."""
    text = DROP_IN.read_text("utf-8")
    head, dashes, _ = text.partition(" -- ")
    rest = text.partition(" -- ")[2].partition("\n")[2]
    assert dashes
    unit = f"[Service]\nType=oneshot\nExecStart={command}\n"
    machine.path("/etc/systemd/system/config.service").write_text(unit)
    machine.run("mkdir -p /etc/systemd/system/config.service.d")
    place = machine.path("/etc/systemd/system/config.service.d/hardend.conf")
    place.write_text(f"{head} -- {command}\n{rest}")
    machine.run("systemctl daemon-reload")


def test_what_a_trusted_unit_changes_is_kept(clean: Machine) -> None:
    before = number(clean)
    install(clean, f"/bin/sh -c 'echo mail.example.net >> {NAMES}'")
    clean.run("systemctl start config")
    assert number(clean) == before + 1
    assert "mail.example.net" in clean.run(f"cat {NAMES}").stdout
    assert "i" in clean.run(f"lsattr {NAMES}").stdout.split()[0]
    assert "+mail.example.net" not in clean.run("journalctl -u config").stdout


@pytest.mark.parametrize(
    "script",
    [
        "sed -i s/^O\\ PrivacyOptions=.*/O\\ PrivacyOptions=public/ /etc/mail/sendmail.cf",
        f"echo left >> {NAMES}; exit 1",
        f"echo left >> {NAMES}; kill -KILL $$$$",
    ],
)
def test_a_trusted_unit_that_breaks_a_rule_or_fails_changes_nothing(clean: Machine, script: str) -> None:
    before = clean.run(f"sha256sum {NAMES} /etc/mail/sendmail.cf").stdout
    install(clean, f'/bin/sh -c "{script}"')
    assert clean.run("systemctl start config", check=False).returncode != 0
    assert wait_clean(clean) == ""
    assert clean.run(f"sha256sum {NAMES} /etc/mail/sendmail.cf").stdout == before


# Who writes at a terminal ---------------------------------------------------------------------------


def terminal(machine: Machine, name: str, keys: str) -> str:
    """Type into a root shell on a terminal of its own and leave it open; return where its screen is."""
    log = f"/root/{name}.log"
    machine.run(
        f"({keys}) | script -qfc 'bash --norc' {log} > /dev/null 2>&1 &"
        f"for i in $(seq 100); do grep -q DONE {log} 2> /dev/null && break; sleep 0.1; done"
    )
    return log


def test_who_writes_at_a_terminal_is_told_what_to_use_once_a_minute(clean: Machine) -> None:
    quiet = "tty; touch -a -d '1 hour ago' \\$(tty); sleep 30"
    clean.run(f'script -qfc "{quiet}" /root/idle.log < /dev/null > /dev/null 2>&1 &')
    clean.run("rm -f /run/hardend/told.json")
    write = f"chattr -i {NAMES}; echo evil.example > {NAMES}.new; mv -f {NAMES}.new {NAMES}"
    typed = f"sleep 1; echo '{write}'; sleep 6; echo '{write}; echo DO\"\"NE'; sleep 5"
    log = terminal(clean, "typed", typed)
    line = f"hardend: {NAMES} is guarded, a change of it was put back: use hardend edit {NAMES}"
    assert wait(clean, f"grep -qF '{line}' {log}") == ""
    assert wait_clean(clean) == ""
    assert clean.run(f"grep -cF 'is guarded' {log}").stdout.strip() == "1"
    idle = clean.run("cat /root/idle.log").stdout
    assert "/dev/pts/" in idle and "guarded" not in idle
    assert "evil" not in clean.run(f"cat {NAMES}").stdout


# What this host needs -------------------------------------------------------------------------------


def test_what_is_suggested_lets_a_cron_job_write_a_file_that_was_locked(clean: Machine) -> None:
    feed = f"echo feed.example.net >> {NAMES}"
    clean.path("/etc/cron.d/feed").write_text(f"0 0 1 1 * root {feed}\n")
    assert clean.run(feed, check=False).returncode != 0
    clean.run("echo '# nobody knows who' >> /etc/mail/helpfile")
    assert wait_clean(clean) == ""
    said = clean.run("hardend suggest").stdout
    assert f'"{NAMES}" = "checked"' in said.splitlines()
    assert "# Cron job /etc/cron.d/feed:1 writes it." in said.splitlines()
    assert "# Its content changed once." in said.splitlines()
    assert '# "/etc/mail/helpfile" = "checked"' in said.splitlines()
    clean.run("hardend suggest > /etc/hardend/conf.d/suggested.toml; hardend config check")
    clean.run("hardend approve --reason shared; systemctl restart hardend")
    assert wait_clean(clean) == ""
    before, told = number(clean), drifts(clean)
    clean.run(feed)
    assert wait(clean, f"hardend status --json | grep -q '\"generation\": {before + 1}'") == ""
    assert wait_clean(clean) == ""
    assert drifts(clean) == told
    assert "feed.example.net" in clean.run(f"cat {NAMES}").stdout
