# SPDX-License-Identifier: Apache-2.0
"""A unit that is trusted, on a booted mail host: what it writes is put back, then approved if it passes."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.host.test_guard import wait_clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.machine import Machine

pytestmark = pytest.mark.host
PATH = "/etc/mail/relay-domains"
FIRST = "partner.example\n"
ATTEMPTS = 5  # Puppet comes again, too: a run of it may not be known for a fact
WAIT_S = 15.0
REASON = "what the manifests say is approved"
CONFIGURATION = f"""
[guard]
contested_count = 10000
[paths]
unlock = ["{PATH}"]
[[trusted_units]]
unit = "puppet.service"
reason = "{REASON}"
paths = ["{PATH}"]
"""


APPENDS = """
with open(path, "a") as file:
    file.write(line + "\\n")
"""
RENAMES = """
with open(path) as file:
    before = file.read()
with open("/etc/relay-domains.new", "w") as file:
    file.write(before + line + "\\n")
os.chmod("/etc/relay-domains.new", 0o600)
os.rename("/etc/relay-domains.new", path)
"""


@pytest.fixture(scope="module")
def managed(machine: Machine) -> Machine:
    """The guarded host with a witness, where Puppet is trusted with whom mail is relayed for."""
    machine.run(f"cat > {PATH}", input_text=FIRST)
    machine.run("cat > /etc/hardend/conf.d/puppet.toml", input_text=CONFIGURATION)
    machine.run("hardend approve --reason x")
    machine.run("systemctl enable --now hardend hardend-witness")
    assert wait_clean(machine) == ""
    return machine


@pytest.fixture(autouse=True)
def clean(managed: Machine) -> Iterator[Machine]:
    """The host, clean before and after."""
    yield managed
    assert wait_clean(managed, 30) == ""


def content(machine: Machine) -> str:
    return str(machine.run(["cat", PATH]).stdout)


def generation(machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = machine.json("hardend baseline log --json")["generations"][0]
    return found


def write(machine: Machine, unit: str, line: str, way: str = APPENDS) -> None:
    """Have a unit add a line to the file; it goes on for a while afterwards."""
    machine.run(f"systemctl stop {unit}.service", check=False)
    script = f"import os, time\npath, line = {PATH!r}, {line!r}\n{way}\ntime.sleep(3)"
    command = ["systemd-run", "--quiet", "--collect", f"--unit={unit}.service"]
    machine.run([*command, "/usr/bin/python3", "-c", script])


def kept_of(machine: Machine, unit: str) -> list[dict[str, Any]]:
    """Return what was set aside of the path and is known to be this unit's."""
    found = machine.json(["hardend", "quarantine", "list", "--json", "--path", PATH])["objects"]
    return [item for item in found if item["who"].get("unit") == f"{unit}.service"]


def rejected(machine: Machine) -> list[dict[str, Any]]:
    """Return what was told of content that may not stay; hardend-rebuild tells it."""
    machine.run("journalctl --sync")
    match = ["HARDEND_EVENT=baseline-rejected", f"HARDEND_PATH={PATH}"]
    said = machine.run(["journalctl", "-q", "-o", "json", "--all", *match]).stdout
    return [json.loads(line) for line in said.splitlines()]


def verdict(machine: Machine, identifier: str) -> str:
    """Return what became of an object; it is noted when hardend-collect lets go of the quarantine."""
    said = ""
    end = time.monotonic() + WAIT_S
    while not said and time.monotonic() < end:
        shown = machine.json(["hardend", "quarantine", "show", "--json", identifier])
        said = str(shown["record"].get("trusted", ""))
    return said


@pytest.mark.parametrize(
    ("way", "name"),
    [(APPENDS, "one.partner.example"), (RENAMES, "two.partner.example")],
    ids=["in place", "renamed over it"],
)
def test_what_puppet_writes_is_a_generation_of_its_own_within_seconds(
    clean: Machine, way: str, name: str
) -> None:
    number, wanted = generation(clean)["number"], f"{content(clean)}{name}\n"
    for _ in range(ATTEMPTS):
        begin = time.monotonic()
        write(clean, "puppet", name, way)
        while content(clean) != wanted and time.monotonic() - begin < WAIT_S:
            time.sleep(0.1)
        if content(clean) == wanted:
            print(f"\napproved {time.monotonic() - begin:.1f} s after it was asked for")
            break
    assert content(clean) == wanted
    assert wait_clean(clean, 30) == ""
    made = generation(clean)
    assert (made["number"], made["author"]) == (number + 1, "puppet.service")
    assert f"written by puppet.service, which is trusted: {REASON} (quarantine " in made["reason"]
    identifier = made["reason"].rpartition(" ")[2].rstrip(")")
    assert verdict(clean, identifier) == f"approved in generation {number + 1}"
    shown = clean.run(["hardend", "quarantine", "show", identifier]).stdout
    assert f"approved in generation {number + 1}" in shown
    assert clean.run(["stat", "-c", "%a %U", PATH]).stdout == "644 root\n"
    assert content(clean) == wanted


def test_the_same_by_another_unit_is_put_back_and_stays_so(clean: Machine) -> None:
    before, number = content(clean), generation(clean)["number"]
    for _ in range(ATTEMPTS):
        write(clean, "other", "elsewhere.example")
        end = time.monotonic() + WAIT_S
        while not kept_of(clean, "other") and time.monotonic() < end:
            time.sleep(0.5)
        if kept_of(clean, "other"):
            break
    assert kept_of(clean, "other")
    clean.run("systemctl start hardend-rebuild")  # whatever else has it started
    assert content(clean) == before
    assert generation(clean)["number"] == number


def test_what_breaks_a_rule_is_refused_with_an_event_and_the_old_content_stays(clean: Machine) -> None:
    before, number = content(clean), generation(clean)["number"]
    events: list[dict[str, Any]] = []
    for _ in range(ATTEMPTS):
        write(clean, "puppet", "com")
        end = time.monotonic() + WAIT_S
        while not events and time.monotonic() < end:
            time.sleep(0.5)
            events = rejected(clean)
        if events:
            break
    assert events
    said = events[0]["MESSAGE"]
    print(f"\n{said}")
    assert f"{PATH} as puppet.service wrote it is not taken in: " in said
    assert "relay-" in said
    assert content(clean) == before
    assert generation(clean)["number"] == number
    kept = [item for item in kept_of(clean, "puppet") if item["id"] in said]
    assert verdict(clean, kept[0]["id"]).startswith("refused: ")
