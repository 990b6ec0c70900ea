# SPDX-License-Identifier: Apache-2.0
"""``./run bench --host``: the same drifts on the booted test host, with status and alerts beside or not.

The installed guard as systemd runs it, and the floor as a unit with the same scheduling. Two conditions
in turn, a quarter of the drifts at a time: the guard alone; and the status service with clients that
stream and ask all the time, and the alert service with a command that it runs.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.bench.mailtree import DRIFTED, LOCKED, SETTINGS, BenchError, content
from tests.bench.processes import RR_PRIORITY, SPIN_US, Drifter, Times
from tests.bench.tables import print_head, print_row
from tests.host.machine import Machine

KINDS = ("write", "chmod", "unlink", "rename-over")
_ROUNDS_EACH = 4
_MAIL = "/etc/mail"
_FLOOR = "/var/tmp/floor"
_PYTHON = "/usr/lib/hardend/venv/bin/python -I"
_STREAMS = 5
_CLIENTS = Path(__file__).parents[1] / "host/clients.py"
_PREPARE = f"""\
mkdir -p {_FLOOR}/mail {_FLOOR}/stage {_FLOOR}/aside
cp -p {_MAIL}/{DRIFTED} {_MAIL}/{LOCKED} {_FLOOR}/mail/
printf '#!/bin/sh\\ncat >/dev/null\\n' >/usr/local/sbin/page
chmod 755 /usr/local/sbin/page /root/floor /root/drifter
install -m 0755 /root/clients.py /usr/local/bin/clients.py
usermod -aG adm nobody
hardend approve --reason bench
systemctl enable --now hardend
systemd-run -q --unit=floor -p CPUSchedulingPolicy=rr -p CPUSchedulingPriority={RR_PRIORITY} \
    /root/floor {_FLOOR}/mail {_FLOOR}/stage {DRIFTED} {LOCKED}
sleep 5
systemctl is-active floor
"""
_SERVE = "systemctl start hardend-status.socket hardend-alert; sleep 1"
_ALONE = "systemctl stop hardend-status.socket hardend-status hardend-alert; sleep 1"


def run(programs: Path, rounds: int, gap_us: int) -> int:
    """Run it with static programs; how many drifts were not restored. Raises BenchError."""
    with Machine() as machine:
        _prepare(machine, programs)
        print(f"{rounds} drifts of each kind on each side, on the booted host, SCHED_RR")
        alone = {kind: Times() for kind in KINDS}
        served = {kind: Times() for kind in KINDS}
        for turn in range(_ROUNDS_EACH):
            machine.run(_ALONE)
            _series(machine, alone, rounds // _ROUNDS_EACH, gap_us, turn)
            machine.run(_SERVE)
            with _clients(machine):
                _series(machine, served, rounds // _ROUNDS_EACH, gap_us, turn)
        for title, series in (("the guard alone", alone), ("status and alerts beside it", served)):
            print_head(title)
            for kind, times in series.items():
                print_row(kind, times)
        done = machine.run("sleep 2; hardend check", check=False)
        print(done.stdout.strip())
    missed = sum(times.missed for series in (alone, served) for times in series.values())
    return missed + (done.returncode != 0)


def _prepare(machine: Machine, programs: Path) -> None:
    for name in ("floor", "drifter"):
        machine.put(programs / name, f"/root/{name}")
    machine.put(_CLIENTS, "/root/clients.py")
    settings = f'{SETTINGS}[alerts]\ncommand = ["/usr/local/sbin/page"]\n'
    machine.run("cat >/etc/hardend/conf.d/bench.toml", input_text=settings)
    machine.run(f"cat >{_MAIL}/{DRIFTED}; chmod 0644 {_MAIL}/{DRIFTED}", input_text=content().decode())
    machine.run(_PREPARE)


def _series(machine: Machine, into: dict[str, Times], rounds: int, gap_us: int, turn: int) -> None:
    for kind, times in into.items():
        numbers = (rounds, gap_us, SPIN_US, 1, turn + len(kind))
        command = ["/root/drifter", kind, *map(str, numbers), f"{_FLOOR}/aside", DRIFTED]
        done = machine.run([*command, _MAIL, f"{_FLOOR}/mail"], timeout=600, check=False)
        if done.returncode:
            raise BenchError(f"{kind}: {done.stderr.strip() or done.returncode}")
        Drifter.count(done.stdout, times)


@contextlib.contextmanager
def _clients(machine: Machine) -> Iterator[None]:
    """Members of adm who stream what changes, and one who asks a thousand times a second."""
    words = [["monitor", "600"]] * _STREAMS + [["ask", "1000000"]]
    with contextlib.ExitStack() as stack:
        for each in words:
            argv = ["nsenter", "--target", str(machine.leader), "--all", "setpriv", "--reuid=nobody"]
            argv += ["--regid=nogroup", "--init-groups", "--pdeathsig", "KILL", *_PYTHON.split()]
            process = subprocess.Popen([*argv, "/usr/local/bin/clients.py", *each], stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield
