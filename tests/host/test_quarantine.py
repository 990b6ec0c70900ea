# SPDX-License-Identifier: Apache-2.0
"""What restores replaced, in the hands of the administrator of a running mail host."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.host.test_guard import wait_clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.host.machine import Machine

CF = "/etc/mail/sendmail.cf"
ACCESS = "/etc/mail/access"


@pytest.fixture(scope="module")
def kept(guarded: Machine) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that lists what is kept of a path, once nothing waits any more."""

    def find(*arguments: str) -> list[dict[str, Any]]:
        for _ in range(60):
            objects: list[dict[str, Any]] = guarded.json(
                ["hardend", "quarantine", "list", "--json", *arguments]
            )["objects"]
            if objects and not any(item["waits"] for item in objects):
                return objects
            time.sleep(0.5)
        return []

    return find


INTRUDE = (
    "import os, sys; sys.path.insert(0, '/root'); import drifts;"
    " drifts.unlocked(lambda path: os.rename('/root/new', path))(sys.argv[1])"
)


def drift(machine: Machine, path: str, content: str) -> None:
    """Replace a locked file by what a command prints, as an intruder would; wait until it is back."""
    machine.run(f"({content}) > /root/new; chmod 666 /root/new")
    machine.run(["python3", "-c", INTRUDE, path])
    assert wait_clean(machine) == ""


def test_an_intrusion_is_listed_shown_and_compared(
    guarded: Machine, kept: Callable[..., list[dict[str, Any]]]
) -> None:
    drift(guarded, ACCESS, "printf 'Connect:192.0.2.66\\tRELAY\\nAuthInfo:x \"P:hunter2\"\\n'")
    item = kept("--path", ACCESS)[-1]
    listed = guarded.run("hardend quarantine list | tail -1").stdout
    assert item["id"] in listed
    assert ACCESS in listed
    shown = guarded.run(f"hardend quarantine show {item['id'][:-1]}").stdout
    assert "mode       0666" in shown
    assert "192.0.2.66" in guarded.run(f"hardend quarantine show {item['id']} --content").stdout
    diff = guarded.run(f"hardend quarantine diff {item['id']}").stdout
    approved = guarded.run(f"stat -c %a {ACCESS}").stdout.strip()
    assert f"{ACCESS}: mode 0{approved} -> 0666" in diff
    assert "+Connect:192.0.2.66" in diff
    assert "hunter2" not in diff


def test_the_journal_names_the_rules_that_an_intrusion_broke(
    guarded: Machine, kept: Callable[..., list[dict[str, Any]]]
) -> None:
    drift(guarded, ACCESS, "printf 'com\\tRELAY\\n'")
    guarded.run("mkdir -p /home/eve/bin; cp /bin/true /home/eve/bin/vacation; chown -R 1234 /home/eve")
    guarded.run("ln -s /home/eve/bin/vacation /etc/mail/smrsh/vacation2; sleep 0.3", check=False)
    linked = kept("--path", "/etc/mail/smrsh/vacation2")[-1]
    assert {"smrsh-programs", "smrsh-ownership"} <= set(linked["rules"])
    item = kept("--path", ACCESS)[-1]
    assert {"relay-entries", "exposure-files"} <= set(item["rules"])
    command = f"journalctl HARDEND_QUARANTINE_ID={item['id']} HARDEND_EVENT=rules-broken -o verbose"
    told = guarded.run(f"{command} --no-pager").stdout
    assert f"HARDEND_PATH={ACCESS}" in told
    assert "relay-entries" in next(line for line in told.splitlines() if "HARDEND_RULE=" in line)
    assert "HARDEND_GENERATION=" in told
    assert "com" not in next(line for line in told.splitlines() if "MESSAGE=" in line).split()
    explained = guarded.run(f"journalctl -x HARDEND_QUARANTINE_ID={item['id']} --no-pager").stdout
    assert "had broken rules" in explained
    assert f"{ACCESS}:1: relay-entries: " in guarded.run(f"hardend quarantine show {item['id']}").stdout


def test_the_exit_codes_are_for_scripts(guarded: Machine) -> None:
    for command, code in (
        ("list --path /no/where", 1),
        ("list --since soon", 2),
        ("show 99999999", 1),
        ("purge --yes", 2),
        (f"restore {'0' * 8} --to /root/x", 1),
    ):
        assert guarded.run(f"hardend quarantine {command}", check=False).returncode == code, command


def test_only_root_reads_or_changes_it(
    guarded: Machine, kept: Callable[..., list[dict[str, Any]]]
) -> None:
    identifier = kept()[0]["id"]
    before = guarded.run("find /var/lib/hardend -type f | sort").stdout
    for verb in ("list", f"restore {identifier} --to /tmp/x", f"approve {identifier} --reason x",
                 f"purge --id {identifier} --yes"):  # fmt: skip
        done = guarded.run(f"hardend quarantine {verb}", check=False, user="nobody")
        assert done.returncode == 4, verb
    assert guarded.run("hardend baseline prune --keep 1", check=False, user="nobody").returncode == 4
    assert guarded.run("find /var/lib/hardend -type f | sort").stdout == before


def test_bytes_go_to_a_new_file_and_never_under_guard(
    guarded: Machine, kept: Callable[..., list[dict[str, Any]]]
) -> None:
    identifier = kept("--path", ACCESS)[-1]["id"]
    guarded.run("ln -sfn /etc/mail /root/mail; mkdir -p /mnt/mail; mount --bind /etc/mail /mnt/mail")
    guarded_places = ("/etc/mail", "/etc/mail/smrsh", "/var/spool/mqueue", "/etc/hardend")
    for place in (*guarded_places, "/root/mail", "/mnt/mail"):
        done = guarded.run(f"hardend quarantine restore {identifier} --to {place}/evidence", check=False)
        assert done.returncode == 4, place
        assert "hardend quarantine approve" in done.stderr
        assert guarded.run(f"test -e {place}/evidence", check=False).returncode == 1
    guarded.run("umount /mnt/mail")
    guarded.run(f"hardend quarantine restore {identifier} --to /root/evidence")
    assert guarded.run("stat -c '%a %U' /root/evidence").stdout == "600 root\n"
    again = guarded.run(f"hardend quarantine restore {identifier} --to /root/evidence", check=False)
    assert again.returncode == 4
    assert wait_clean(guarded) == ""


def test_what_was_right_is_approved_and_its_map_follows(
    guarded: Machine, kept: Callable[..., list[dict[str, Any]]]
) -> None:
    drift(guarded, ACCESS, f"cat {ACCESS}; printf 'Connect:192.0.2.7\\tREJECT\\n'")
    identifier = kept("--path", ACCESS)[-1]["id"]
    begin = time.monotonic()
    said = guarded.run(f"hardend quarantine approve {identifier} --reason 'the partner is blocked'").stdout
    print(f"approved in {time.monotonic() - begin:.1f} s: {said.strip()}")
    assert "192.0.2.7" in guarded.run(f"tail -1 {ACCESS}").stdout
    assert "192.0.2.7" in guarded.run("makemap -u hash /etc/mail/access.db | grep 192.0.2.7").stdout
    assert "i" in guarded.run(f"lsattr -d {ACCESS}").stdout.split()[0]
    assert "the partner is blocked (quarantine" in guarded.run("hardend baseline log").stdout
    assert wait_clean(guarded) == ""


def test_a_configuration_that_weakens_a_rule_is_refused_and_one_that_is_none_even_with_force(
    guarded: Machine, kept: Callable[..., list[dict[str, Any]]]
) -> None:
    before = guarded.run(f"sha256sum {CF}; hardend baseline log").stdout
    drift(guarded, CF, f"sed '/^O PrivacyOptions/d' {CF}")
    weaker = kept("--path", CF)[-1]["id"]
    done = guarded.run(f"hardend quarantine approve {weaker} --reason why", check=False)
    assert done.returncode == 4
    assert "privacy" in done.stderr
    drift(guarded, CF, f"cat {CF}; echo 'is no line of a configuration'")
    broken = kept("--path", CF)[-1]["id"]
    done = guarded.run(f"hardend quarantine approve {broken} --reason why --force", check=False)
    assert done.returncode == 4
    assert guarded.run(f"sha256sum {CF}; hardend baseline log").stdout == before
    assert wait_clean(guarded) == ""


def test_ten_thousand_records_are_listed_at_once(guarded: Machine) -> None:
    stamp = guarded.run("date -u -d '40 days ago' +%Y%m%dT000000").stdout.strip()
    script = f"""
import json, os, sys
names = sorted(name for name in os.listdir('.') if name.endswith('.json'))
record = json.load(open(names[0]))
for number in range(10000):
    record['id'] = f'{stamp}.{{number:06d}}-0001'
    record['incident'] = record['id'] if number % 100 == 0 else '{stamp}.000000-0001'
    json.dump(record, open(record['id'] + '.json', 'w'))
"""
    guarded.run("cd /var/lib/hardend/quarantine/records && python3 -", input_text=script)
    for verb in ("list", "list --json", "list --since 1d", f"show {stamp}.005000"):
        begin = time.monotonic()
        guarded.run(f"hardend quarantine {verb}")
        print(f"{verb:32} of 10,000 records: {time.monotonic() - begin:.2f} s")
    begin = time.monotonic()
    said = guarded.run("hardend quarantine purge --older 30d --yes")
    print(f"purge {time.monotonic() - begin:.2f} s: {said.stdout.strip()}; {said.stderr.strip()}")
    assert said.stdout.startswith("9900 objects removed")
    assert "100 first objects of incidents stay" in said.stderr
    guarded.run("hardend quarantine purge --older 30d --all --yes")
    assert guarded.run(f"hardend quarantine list | grep -c {stamp}", check=False).stdout == "0\n"


def test_a_purge_under_a_running_guard_disturbs_nothing(
    guarded: Machine, kept: Callable[..., list[dict[str, Any]]]
) -> None:
    first = kept()[0]["id"]
    assert guarded.run(f"hardend quarantine purge --id {first}", check=False).returncode == 4  # nobody asked
    assert "1 objects removed" in guarded.run(f"hardend quarantine purge --id {first} --yes").stdout
    assert guarded.run(f"hardend quarantine show {first}", check=False).returncode == 1
    drift(guarded, ACCESS, f"cat {ACCESS}; echo '# again'")
    assert kept("--path", ACCESS)


def test_old_generations_are_pruned_under_a_running_guard(guarded: Machine) -> None:
    for number in range(3):
        guarded.run(f"cat {ACCESS} > /root/a; echo '# {number}' >> /root/a;"
                    f" hardend approve {ACCESS} --from /root/a --reason {number}")  # fmt: skip
    document = guarded.json("hardend baseline prune --keep 2 --json")
    assert len(document["kept"]) == 2
    assert document["removed"]
    print(f"pruned {document['removed']}: {document['objects']} objects, {document['freed_bytes']} bytes")
    guarded.run("hardend baseline verify")
    log = guarded.run("hardend baseline log").stdout
    assert "pruned, last" in log
    done = guarded.run("hardend baseline rollback 1 --reason x", check=False)
    assert done.returncode == 4
    assert "generation 1 was pruned" in done.stderr
    drift(guarded, ACCESS, f"cat {ACCESS}; echo '# evil'")
    guarded.run("systemctl restart hardend")
    assert wait_clean(guarded) == ""
    guarded.run(f"hardend baseline rollback {document['kept'][0]} --reason 'the one that is left'")
    assert wait_clean(guarded) == ""
    guarded.run("hardend baseline verify")
