# SPDX-License-Identifier: Apache-2.0
"""hardend's own files: every change of one is told, once, whether a guard ran or not."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend import own_files
from hardend.model import Drift
from hardend.own_files import Program, Seen, drift_of, running_program
from tests.unit.own_tree import (
    DROP_IN,
    FILES,
    INTERVAL_S,
    MAIN,
    PACKAGE,
    UNIT,
    Station,
    whole_pass,
    with_files,
)

PROPERTIES = "/etc/systemd/system.control/hardend.service.d"


@pytest.fixture
def station(tmp_path: Path) -> Station:
    return with_files(tmp_path)


# A change in the root of the tree, as a shell command, and what is told of it.
CHANGES = {
    "a comment": ("echo '# x' >> etc/hardend/hardend.toml", {MAIN: "content"}),
    "a touch": ("touch -d @1 etc/hardend/hardend.toml", {}),
    "the same again": ("cd etc/hardend && cp -p hardend.toml x && mv x hardend.toml", {}),
    "a mode": ("chmod 777 usr/sbin/hardend", {"/usr/sbin/hardend": "mode"}),
    "a hook that is gone": (
        "rm etc/apt/apt.conf.d/90hardend",
        {"/etc/apt/apt.conf.d/90hardend": "missing"},
    ),
    "a new fragment": (
        "echo '[guard]' > etc/hardend/conf.d/zz.toml",
        {"/etc/hardend/conf.d/zz.toml": "unexpected"},
    ),
    "a drop-in": (
        f"mkdir -p .{DROP_IN}; touch .{DROP_IN}/x.conf",
        {DROP_IN: "unexpected", f"{DROP_IN}/x.conf": "unexpected"},
    ),
    "a drop-in for every service": (
        "mkdir -p run/systemd/system/service.d; touch run/systemd/system/service.d/x.conf",
        {
            "/run/systemd/system/service.d": "unexpected",
            "/run/systemd/system/service.d/x.conf": "unexpected",
        },
    ),
    "a property": (
        f"mkdir -p .{PROPERTIES}; touch .{PROPERTIES}/50-CPUQuota.conf",
        {PROPERTIES: "unexpected", f"{PROPERTIES}/50-CPUQuota.conf": "unexpected"},
    ),
    "a mask": (
        "mkdir -p etc/systemd/system; ln -s /dev/null etc/systemd/system/hardend.service",
        {"/etc/systemd/system/hardend.service": "unexpected"},
    ),
    "a link to the same": (
        "mv etc/hardend/hardend.toml etc/other; ln -s ../other etc/hardend/hardend.toml",
        {MAIN: "target"},
    ),
    "a directory in its place": (
        "cd etc/hardend; m=$(stat -c %a hardend.toml); rm hardend.toml; mkdir -m $m hardend.toml",
        {MAIN: "content type"},
    ),
    "a directory that others may write to": (
        "chmod 777 etc/hardend/conf.d",
        {"/etc/hardend/conf.d": "mode"},
    ),
    "an owner and a group": (f"chown 65534:65534 .{UNIT}", {UNIT: "group owner"}),
    "what is not hardend's": (
        "cd etc; mkdir -p hardend/taken; touch hardend/conf.d/x.toml.bak hardend/taken/1 apt/apt.conf.d/20x",
        {},
    ),
}
NEEDS_ROOT = {"an owner and a group"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.root) if n in NEEDS_ROOT else n for n in CHANGES]
)
@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a_change_is_told_once(station: Station, name: str, running: bool) -> None:
    own = station.started()
    assert station.told() == []
    command, expected = CHANGES[name]
    subprocess.run(["sh", "-ec", command], cwd=station.root, check=True)
    if running:
        whole_pass(own)
        whole_pass(own)
    else:
        station.started()
    assert station.drifts() == expected
    whole_pass(station.started())
    assert station.told() == []


def test_what_is_put_back_is_told_as_a_change_too(station: Station) -> None:
    own = station.started()
    station.at(MAIN).write_text("other")
    whole_pass(own)
    whole_pass(own)
    station.at(MAIN).write_text(FILES[MAIN])
    whole_pass(own)
    line = f"warning: self-changed: {MAIN} of hardend itself changed: content path={MAIN} drift=content"
    assert station.told() == [line] * 2


def test_a_first_start_tells_nothing_and_remembers_for_root_alone(station: Station) -> None:
    fields = station.own().begin()
    assert station.told() == []
    assert fields["OWN_FILES_COUNT"] == len(FILES) + 2  # /etc/hardend and conf.d
    assert re.fullmatch("[0-9a-f]{64}", str(fields["OWN_FILES"]))
    assert stat.S_IMODE(station.memory.stat().st_mode) == 0o600
    assert os.listdir(station.host.state_dir) == ["own-files.json"]


def test_a_first_start_without_any_file_is_remembered_too(tmp_path: Path) -> None:
    station = Station(tmp_path)
    assert station.own().begin()["OWN_FILES_COUNT"] == 0
    station.put("/etc/hardend/hardend.toml")
    station.started()
    assert station.drifts() == {"/etc/hardend": "unexpected", MAIN: "unexpected"}


def test_the_digest_is_that_of_content_and_attributes(station: Station) -> None:
    first = station.own().begin()["OWN_FILES"]
    assert station.own().begin()["OWN_FILES"] == first
    station.at(MAIN).chmod(0o600)
    assert station.own().begin()["OWN_FILES"] != first
    station.at(MAIN).chmod(0o644)
    assert station.own().begin()["OWN_FILES"] == first
    document = station.own().document
    assert document == {"count": 0, "digest": "", "last_change": 0.0}


def test_an_upgrade_is_one_event_that_names_five(station: Station) -> None:
    own = station.started()
    for number in range(6):
        station.put(f"/etc/hardend/conf.d/{number}.toml")
    station.at(MAIN).chmod(0o600)
    whole_pass(own)
    names = ", ".join([MAIN, *(f"/etc/hardend/conf.d/{number}.toml" for number in range(4))])
    [line] = station.told()
    text = f"7 files of hardend itself changed: {names} and 2 more drift=mode unexpected count=7"
    assert line == f"warning: self-changed: {text}"
    assert own.document["count"] == len(FILES) + 2 + 6
    assert own.document["last_change"] != 0.0
    station.started()
    assert station.told() == []


def test_five_changes_are_five_events(station: Station) -> None:
    station.started()
    for number in range(5):
        station.put(f"/etc/hardend/conf.d/{number}.toml")
    station.started()
    assert len(station.drifts()) == 5


def test_the_program_is_its_modules_and_what_python_reads_before_them(station: Station) -> None:
    site = os.path.dirname(PACKAGE)
    inside = [f"{PACKAGE}/__init__.py", f"{PACKAGE}/kernel/paths.py", f"{site}/structlog/_base.py"]
    before = ["/usr/lib/hardend/venv/pyvenv.cfg", f"{site}/a.pth"]
    other = [f"{PACKAGE}/__pycache__/x.cpython-311.pyc", f"{PACKAGE}/py.typed", f"{site}/pip/__init__.py"]
    for path in (*inside, *before, *other):
        station.put(path, "0\n")
    station.at(f"{PACKAGE}/loop").symlink_to(".")
    assert not {*inside, *before} & set(station.own().paths())
    station.program = Program(PACKAGE, (f"{site}/structlog",), "/usr/lib/hardend/venv")
    station.started()
    for path in (*inside, *before, *other):
        station.put(path, "1\n")
    whole_pass(station.started())
    assert station.drifts() == dict.fromkeys([*inside, *before], "content")


def test_the_program_that_runs_here_is_this_one() -> None:
    known = set(sys.modules)
    program = running_program()
    assert set(sys.modules) == known
    assert Path(program.package).samefile(Path(own_files.__file__).parent)
    assert {os.path.basename(path) for path in program.built_on} >= {"watchdog", "structlog"}


def test_units_of_a_lib_that_is_merged_are_told_once(station: Station) -> None:
    assert station.at("/usr/lib").is_dir()
    station.at("/lib").symlink_to("usr/lib")
    assert f"/lib{UNIT.removeprefix('/usr/lib')}" not in list(station.own().paths())
    station.at("/lib").unlink()
    station.put("/lib/systemd/system/hardend.socket")
    assert "/lib/systemd/system/hardend.socket" in list(station.own().paths())


def test_the_link_that_starts_the_guard_at_boot_is_one_of_them(station: Station) -> None:
    wants = station.at("/etc/systemd/system/multi-user.target.wants")
    wants.mkdir(parents=True)
    (wants / "hardend.service").symlink_to(UNIT)
    (wants / "cron.service").symlink_to("/usr/lib/systemd/system/cron.service")
    own = station.started()
    for name in os.listdir(wants):
        (wants / name).unlink()
    whole_pass(own)
    assert station.drifts() == {"/etc/systemd/system/multi-user.target.wants/hardend.service": "missing"}


def test_nothing_that_lies_there_hangs_or_ends_the_look(station: Station) -> None:
    directory = station.at("/etc/hardend/conf.d")
    os.mkfifo(directory / "fifo.toml")
    (directory / "loop.toml").symlink_to("loop.toml")
    (directory / "nowhere.toml").symlink_to("/nowhere")
    (directory / "below.toml").symlink_to(f"{MAIN}/x")
    with (directory / "sparse.toml").open("wb") as file:
        file.truncate(1 << 40)
    own = station.own()
    seen = {name: own.look_at(f"/etc/hardend/conf.d/{name}") for name in sorted(os.listdir(directory))}
    assert own.look_at("/etc/hardend/conf.d/none.toml") is None
    kinds = {name: stat.S_IFMT(one.mode) for name, one in seen.items() if one is not None}
    assert kinds == {
        "below.toml": stat.S_IFLNK,
        "fifo.toml": stat.S_IFIFO,
        "loop.toml": 0,
        "nowhere.toml": stat.S_IFLNK,
        "site.toml": stat.S_IFREG,
        "sparse.toml": stat.S_IFREG,
    }
    assert (seen["sparse.toml"] or Seen("", 0, 0, 0)).digest == f"{1 << 40} bytes: too large"
    assert "too many symbolic links" in (seen["loop.toml"] or Seen("", 0, 0, 0)).digest


def test_a_link_leads_to_a_file_of_the_tree(station: Station) -> None:
    station.put("/etc/passwd", "of the tree\n")
    station.at(MAIN).unlink()
    station.at(MAIN).symlink_to("/etc/passwd")
    own = station.own()
    linked, real = own.look_at(MAIN), own.look_at("/etc/passwd")
    assert linked is not None
    assert real is not None
    assert (linked.digest, linked.target) == (real.digest, "/etc/passwd")


def test_a_name_can_be_any_bytes_and_commands_no_terminal(station: Station) -> None:
    own = station.started()
    name = b"\xff\x1b[31m\n.toml"
    Path(os.fsdecode(os.fsencode(station.at("/etc/hardend/conf.d")) + b"/" + name)).touch()
    whole_pass(own)
    [line] = station.told()
    assert line.startswith(r"warning: self-changed: /etc/hardend/conf.d/\xff\x1b[31m\x0a.toml of hardend")
    whole_pass(station.started())
    assert station.told() == []


def test_one_slice_is_one_file_when_time_is_short(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_files, "SLICE_S", 0.0)
    own = station.started()
    station.at(MAIN).chmod(0o600)
    paths = len(list(own.paths()))
    assert [own.step(INTERVAL_S) for _ in range(paths)] == [own_files.SLICE_GAP_S] * paths
    assert station.told() == []
    assert own.step(INTERVAL_S) == INTERVAL_S
    assert station.drifts() == {MAIN: "mode"}


def _seen() -> st.SearchStrategy[Seen | None]:
    small = st.integers(0, 2)
    kinds = st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK])
    modes = st.builds(int.__or__, kinds, small)
    words = st.sampled_from(["", "x"])
    return st.none() | st.builds(Seen, words, modes, small, small, words)


@given(_seen(), _seen())
def test_there_is_no_drift_exactly_when_the_same_was_seen(before: Seen | None, now: Seen | None) -> None:
    drift = drift_of(before, now)
    assert (drift == frozenset()) == (before == now)
    assert (Drift.MISSING in drift) == (before is not None and now is None)
    assert (Drift.UNEXPECTED in drift) == (before is None and now is not None)
    assert bool(drift_of(now, before)) == bool(drift)
