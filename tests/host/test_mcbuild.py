# SPDX-License-Identifier: Apache-2.0
"""Building a .cf to the side on a real mail host: what is installed, what is shipped, what is hostile."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.host.test_guard import deliver

if TYPE_CHECKING:
    from tests.host.machine import Machine

PYTHON = "/usr/lib/hardend/venv/bin/python -I"
MACROS = "/usr/share/sendmail/cf"
LOG_LEVEL = "define(`confLOG_LEVEL', `14')dnl\n"
# Builds what standard input names, and tells of each: what was built is the same as FILE, as far as it goes.
BUILD = """
import json, resource, sys, time
from hardend import mcbuild
from hardend.errors import HardendError
from hardend.maps import Tools
from hardend.model import Host
if "--whatever-is-said" in sys.argv:
    mcbuild._judged = lambda done, mc: ()
tools = Tools(sendmail="", makemap="", cf="", timeout_s=float(sys.argv[1]))
for line in sys.stdin:
    mc, cf = line.split()
    told, began = {"mc": mc}, time.monotonic()
    try:
        built = mcbuild.build_cf(mc, open(mc, "rb").read(), Host(), tools)
        live = open(cf, "rb").read()
        told |= {"size": len(built.cf), "warnings": built.warnings}
        told |= {"same": mcbuild.same_configuration(built.cf, live)}
        told |= {"bytes": mcbuild.lasting(built.cf) == live, "diff": mcbuild.difference(live, built.cf)}
    except HardendError as error:
        told["error"] = str(error)
    told["seconds"] = round(time.monotonic() - began, 2)
    told["mib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    print(json.dumps(told))
"""


def build(machine: Machine, *pairs: str, timeout_s: float = 30, whatever: bool = False) -> list[Any]:
    """Build pairs ``MC CF`` in the host and return what was told of each."""
    argv = [*PYTHON.split(), "-c", BUILD, str(timeout_s), *(["--whatever-is-said"] if whatever else [])]
    done = machine.run(argv, input_text="".join(f"{pair}\n" for pair in pairs), timeout=600)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_unchanged_mc_builds_what_is_installed(machine: Machine) -> None:
    files = [f"/etc/mail/{name}.mc /etc/mail/{name}.cf" for name in ("sendmail", "submit")]
    for told in build(machine, *files):
        print(told)
        assert told["same"], told
        assert told["diff"] == "" and told["warnings"] == []


def test_only_the_head_differs_between_builds(machine: Machine) -> None:
    """Another user, host name, directory, time and zone: what m4 itself makes of one .mc."""
    machine.run("chmod 644 /etc/mail/m4/*.m4; mkdir -m 777 /root/two /srv/two")
    machine.run("cd /; m4 /etc/mail/sendmail.mc >/srv/two/one; sleep 1.1")
    machine.run(
        "unshare --uts sh -c 'hostname other.example.org; cd /srv/two; exec runuser -u alice --"
        " env TZ=Asia/Tokyo m4 /etc/mail/sendmail.mc >/srv/two/other'"
    )
    done = machine.run("diff /srv/two/one /srv/two/other", check=False)
    changed = [line for line in done.stdout.splitlines() if line[:1] in "<>"]
    print("\n".join(changed))
    assert [line[:18] for line in changed] == [
        "< ##### built by r", "< ##### in /", "> ##### built by a", "> ##### in /srv/tw",
    ]  # fmt: skip
    machine.run("chmod 640 /etc/mail/m4/*.m4")
    (told,) = build(machine, "/etc/mail/sendmail.mc /srv/two/other")
    assert told["same"], told["diff"]


def test_a_hand_edited_cf_is_told_from_a_built_one(machine: Machine) -> None:
    machine.run("sed 's/^O LogLevel=.*/O LogLevel=1/' /etc/mail/sendmail.cf >/srv/edited.cf")
    (told,) = build(machine, "/etc/mail/sendmail.mc /srv/edited.cf")
    assert not told["same"]
    assert "-O LogLevel=1" in told["diff"] and "built by" not in told["diff"]


def test_debians_own_make_builds_the_same_again(machine: Machine) -> None:
    machine.run("cp -p /etc/mail/sendmail.mc /etc/mail/sendmail.cf /srv/")
    machine.run("cat >>/etc/mail/sendmail.mc; cp /etc/mail/sendmail.mc /srv/x.mc", input_text=LOG_LEVEL)
    (told,) = build(machine, "/etc/mail/sendmail.mc /etc/mail/sendmail.cf")
    assert "+O LogLevel=14" in told["diff"]
    machine.run("make -C /etc/mail sendmail.cf")
    made = [f"{mc} /etc/mail/sendmail.cf" for mc in ("/etc/mail/sendmail.mc", "/srv/x.mc")]
    for told in build(machine, *made):
        assert told["same"], told["diff"]
    machine.run("cp -p /srv/sendmail.mc /srv/sendmail.cf /etc/mail/")


def test_every_mc_that_is_shipped_builds_as_with_plain_m4(machine: Machine) -> None:
    names = machine.run(f"cd {MACROS} && ls cf/*.mc debian/*.mc").stdout.split()
    machine.run(
        f"mkdir -p /srv/plain/cf /srv/plain/debian && cd {MACROS}/cf && for f in {' '.join(names)}; do"
        " if grep -q '^include(.*m4/cf.m4' ../$f; then set --; else set -- ../m4/cf.m4; fi;"
        ' m4 "$@" ../$f 2>/srv/plain/$f.said |'
        " LC_ALL=C grep -av '^##### \\(built by\\|in\\|using\\) ' >/srv/plain/$f; done"
    )
    pairs = [f"{MACROS}/{name} /srv/plain/{name}" for name in names]
    judged = build(machine, *pairs)
    made = build(machine, *pairs, whatever=True)
    for name, one, other in zip(names, judged, made, strict=True):
        said = machine.run(f"cat /srv/plain/{name}.said").stdout
        print(f"{name:28} {other['size']:7} {other['seconds']:5} s  {one.get('error', 'built')[:100]}")
        assert other["same"] and other["bytes"], other["diff"]
        assert ("error" in one) == bool(said), (one, said)
    assert len(names) >= 33
    assert sum("error" not in told for told in judged) >= 14


# Not the times: a run makes and removes a directory in /tmp.
STATE = (
    "find /etc /usr/bin /var/tmp /tmp /usr -maxdepth 1 -printf '%p %M %U\\n' | sort;"
    " find /etc/mail -type f -exec sha256sum {} + | sort; sha256sum /etc/passwd; mailq; mount | wc -l"
)
DIAL = (
    "socket(S,2,1,6) or die q(no socket);"
    "connect(S,pack(q(SnC4x8),2,25,127,0,0,1)) or die q(no answer);print q(answered)"
)
HOSTILE = {
    "touch": "syscmd(`touch /etc/evil /var/tmp/evil /usr/evil /etc/mail/evil')",
    "shadow": "esyscmd(`cat /etc/shadow')",
    "mail": "syscmd(`/usr/sbin/sendmail alice </etc/passwd')",
    "bus": "syscmd(`ls /run/dbus /run/systemd /dev/log')",
    "network": f"syscmd(`perl -e \"{DIAL}\"')",
    "include": "include(`/etc/shadow')",
    "link": "include(`/etc/mail/m4/link.m4')",
    "processes": "syscmd(`perl -e \"fork while 1\"')",
    "loop": "define(`x',`x')x",
    "grow": "define(`x',`x x')x",
    "output": "syscmd(`head -c 1000000000 /dev/zero')",
    "memory": "esyscmd(`head -c 1000000000 /dev/zero')",
    "scratch": "syscmd(`yes >/tmp/a; yes >/tmp/b; yes >/tmp/c; yes >/tmp/d')syscmd(`echo full >&2')",
    "daemon": "syscmd(`setsid sleep 7654329 >/dev/null 2>&1 &')errprint(`left')",
}


def test_what_a_hostile_mc_dials_answers_who_is_not_confined(machine: Machine) -> None:
    assert machine.run(["perl", "-e", DIAL]).stdout == "answered"
    machine.run("cat >/srv/dials.mc", input_text=f"{HOSTILE['network']}\n")
    assert machine.run("m4 /srv/dials.mc").stdout == "answered\n"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_mc_does_nothing(machine: Machine, name: str) -> None:
    machine.run("ln -sf /etc/shadow /etc/mail/m4/link.m4; cat >/srv/hostile", input_text=HOSTILE[name] + "\n")
    machine.run("cat /etc/mail/sendmail.mc /srv/hostile >/etc/mail/hostile.mc")
    before = machine.run(STATE).stdout
    (told,) = build(machine, "/etc/mail/hostile.mc /etc/mail/sendmail.cf", timeout_s=3)
    print(f"{name:10} {told['seconds']:5} s {told['mib']:4} MiB  {told.get('error', 'built')[:120]}")
    assert "error" in told and "root:" not in told["error"]
    assert name != "network" or re.search("no (socket|answer)", told["error"])
    assert machine.run(STATE).stdout == before
    assert machine.run("pgrep -f '[s]leep 7654329|[f]ork while'", check=False).stdout == ""
    machine.run("rm /etc/mail/hostile.mc /etc/mail/m4/link.m4")


def test_an_account_of_its_own_is_used_where_there_is_one(machine: Machine) -> None:
    script = (
        "from hardend.sandbox import run_confined;"
        "print(run_confined(['id'], timeout_s=9).output.decode())"
    )
    machine.run("usermod --append --groups adm hardend-check")  # by hand: nothing confined may use it
    ids = machine.run("id -u hardend-check; id -g hardend-check").stdout.split()
    said = machine.run([*PYTHON.split(), "-c", script]).stdout
    machine.run("userdel hardend-check")
    without = machine.run([*PYTHON.split(), "-c", script]).stdout
    machine.run("systemd-sysusers hardend.conf")
    assert said.startswith(f"uid={ids[0]}(hardend-check) gid={ids[1]} groups={ids[1]}")
    assert without.startswith("uid=65529(hardend-check) gid=65529 groups=65529")


def test_in_a_unit_that_may_not_make_namespaces_nothing_is_run(machine: Machine) -> None:
    script = "from hardend.sandbox import run_confined; run_confined(['touch', '/tmp/x'], timeout_s=9)"
    unit = ["systemd-run", "--wait", "--pipe", "-q", "-p", "RestrictNamespaces=yes"]
    done = machine.run([*unit, *PYTHON.split(), "-c", script], check=False)
    assert done.returncode != 0
    assert "touch: cannot be confined here: unshare" in done.stderr


def test_the_host_is_as_before(machine: Machine) -> None:
    (told,) = build(machine, "/etc/mail/sendmail.mc /etc/mail/sendmail.cf")
    assert told["same"], told["diff"]
    assert deliver(machine, "after-builds")
