# SPDX-License-Identifier: Apache-2.0
"""Windows as values and on disk: what they let go, when they end, and whatever lies in their files."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardend import boot, window, window_files
from hardend.errors import RefusedError
from hardend.model import Class, Drift, Entry, FileType, Host, MapSpec, Role
from hardend.window import Window

ID = "0123456789ab"


@dataclass
class Clock:
    now: float = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(boot, "clock", lambda: made.now)
    return made


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(str(tmp_path))


def make(
    host: Host, *paths: str, seconds: float = 60, trees: tuple[str, ...] = (), by: str = "alice"
) -> Window:
    return window.make(host, paths=paths, trees=trees, seconds=seconds, reason="why\n\udcff", by=by, uid=1000)


def entry(path: str, role: Role = Role.SOURCE, flags: str = "", **more: object) -> Entry:
    kind = {Role.DIRECTORY: FileType.DIRECTORY, Role.CLOSED: FileType.DIRECTORY, Role.LINK: FileType.SYMLINK}
    made = Entry(path, role, Class.LOCKED, kind.get(role, FileType.FILE), 0, 0, 0o644, flags)
    return replace(made, **more)  # type: ignore[arg-type] # fields of Entry by name


ACCESS_MAP = MapSpec("makemap", "hash", "/etc/mail/access", "/etc/mail/access.db")
ALIASES_MAP = MapSpec("newaliases", "hash", "/etc/aliases", "/etc/mail/aliases.db")
ENTRIES = {
    item.path: item
    for item in (
        entry("/etc", Role.ANCESTOR, kind=FileType.DIRECTORY),
        entry("/etc/aliases", flags="i"),
        entry("/etc/mail", Role.DIRECTORY),
        entry("/etc/mail/access", flags="i"),
        entry("/etc/mail/access.db", Role.MAP, spec=ACCESS_MAP),
        entry("/etc/mail/aliases", Role.LINK, target="../aliases"),
        entry("/etc/mail/aliases.db", Role.MAP, spec=ALIASES_MAP),
        entry("/etc/mail/helpfile"),
        entry("/etc/mail/sendmail.cf", flags="i"),
        entry("/etc/mail/sendmail.mc", flags="i"),
        entry("/etc/mail/smrsh", Role.CLOSED),
        entry("/etc/mail/smrsh/mail", Role.LINK, target="/bin/mail"),
        entry("/etc/mailman", Role.DIRECTORY),
    )
}
LOCKED = {"/etc/aliases", "/etc/mail/access", "/etc/mail/sendmail.cf", "/etc/mail/sendmail.mc"}
MAPS = {"/etc/mail/access.db", "/etc/mail/aliases.db"}


# What is let go -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ([], LOCKED | MAPS),
        (["/etc/mail/access"], {"/etc/mail/access", "/etc/mail/access.db"}),
        (["/etc/mail/access.db"], {"/etc/mail/access.db"}),
        (["/etc/mail/helpfile"], {"/etc/mail/helpfile"}),
        (["/etc/mail/sendmail.mc"], {"/etc/mail/sendmail.mc", "/etc/mail/sendmail.cf"}),
        (["/etc/mail/sendmail.cf"], {"/etc/mail/sendmail.cf"}),
        (["/etc/mail/aliases"], {"/etc/mail/aliases", "/etc/aliases", "/etc/mail/aliases.db"}),
        (["/etc/mail/smrsh"], {"/etc/mail/smrsh", "/etc/mail/smrsh/mail"}),
        (["/etc/mail/smrsh/mail"], {"/etc/mail/smrsh/mail"}),  # leads out of what is held
        (["/etc/mail"], {path for path in ENTRIES if path.startswith("/etc/mail/")} | {"/etc/mail"}),
        (["/etc/aliases", "/etc/aliases"], {"/etc/aliases", "/etc/mail/aliases.db"}),
    ],
)
def test_a_window_lets_go_what_belongs_to_what_is_named(named: list[str], expected: set[str]) -> None:
    assert set(window.expand(ENTRIES, named)[0]) == expected


def test_a_directory_lets_go_what_will_be_in_it_and_nothing_beside_it(host: Host) -> None:
    paths, trees = window.expand(ENTRIES, ["/etc/mail"])
    assert trees == ("/etc/mail",)
    made = make(host, *paths, trees=trees)
    assert made.holds("/etc/mail/new/file")
    assert not made.holds("/etc/mailman")
    assert not made.holds("/etc/mailx")


@pytest.mark.parametrize("path", ["/etc", "/etc/mail/nothing", "/etc/mail/", "", "/"])
def test_what_is_not_held_is_refused(path: str) -> None:
    with pytest.raises(RefusedError, match="not a path that hardend holds"):
        window.expand(ENTRIES, [path])


def test_without_locks_a_window_for_all_lets_the_locked_class_go() -> None:
    plain = {path: replace(item, flags="") for path, item in ENTRIES.items()}
    assert set(window.expand(plain, [])[0]) > LOCKED


def test_a_second_window_for_a_path_is_refused_with_who_holds_it(host: Host) -> None:
    held = make(host, "/etc/mail/access", "/etc/mail/access.db", by="bob")
    window.require_free([held], ["/etc/aliases"])
    with pytest.raises(RefusedError, match=r"/etc/mail/access and 1 more: .* by bob: why") as caught:
        window.require_free([held], held.paths)
    assert "--extend" in caught.value.hint


def test_part_of_a_window_can_be_taken_back(host: Host) -> None:
    made = make(host, "/a", "/b", "/b/c", trees=("/b",))
    left = window.without(made, ["/a"])
    assert left is not None and (left.paths, left.trees, left.id) == (("/b", "/b/c"), ("/b",), made.id)
    assert window.without(made, made.paths) is None
    with pytest.raises(RefusedError, match="/x: not in the window of alice"):
        window.without(made, ["/x"])
    with pytest.raises(RefusedError, match="/b/c: let go with /b"):
        window.without(made, ["/b/c"])


# Time -----------------------------------------------------------------------------------------------


def test_a_window_is_open_until_its_time_is_over(host: Host, clock: Clock) -> None:
    made = make(host, "/a", seconds=60)
    assert made.describe().startswith("window open until ")
    assert made.describe().endswith(", by alice: why\n\udcff")
    clock.now += 59.9
    assert made.remaining_s == pytest.approx(0.1)
    clock.now += 0.1
    assert (made.is_over, made.remaining_s) == (True, 0)
    assert made.describe().startswith("window expired at ")


@pytest.mark.parametrize("step_s", [86400 * 365, -86400 * 365])
def test_setting_the_wall_clock_moves_no_end(
    host: Host, clock: Clock, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    made = make(host, "/a", seconds=60)
    window_files.write(host, made)
    before = made.until_text()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + step_s)
    again = window_files.read(host, made.id)
    assert again is not None and again.remaining_s == 60 and not again.is_over
    assert again.until_text()[:4] != before[:4]  # shown by the clock that everybody sees
    clock.now += 60
    assert again.is_over


def test_a_window_can_be_extended_up_to_the_longest(host: Host, clock: Clock) -> None:
    made = make(host, "/a", seconds=60)
    later = window.extended(made, 30, 100)
    assert (later.until, later.id, later.opened) == (made.until + 30, made.id, made.opened)
    assert window.extended(later, 10, 100).until == made.opened + 100
    with pytest.raises(RefusedError, match="lasts 1h at most: this one can be prolonged by 59m"):
        window.extended(made, 3600, 3600)
    clock.now += 60
    with pytest.raises(RefusedError, match="too late"):
        window.extended(made, 30, 100)


@pytest.mark.parametrize(
    ("seconds", "passed", "due"),
    [
        (1800, 1100, False),
        (1800, 1200, True),
        (1800, 1799, True),
        (1800, 1800, False),  # it is over: nothing to warn of
        (600, 1, False),  # never was longer
        (601, 1, True),
    ],
)
def test_an_owner_is_told_when_little_is_left_of_a_longer_window(
    host: Host, clock: Clock, seconds: int, passed: int, due: bool
) -> None:
    made = make(host, "/a", seconds=seconds)
    clock.now += passed
    assert window.is_warning_due(made, 600) is due


# What changed ---------------------------------------------------------------------------------------


def test_changes_are_noted_once_for_each_way_and_counted(host: Host) -> None:
    made = make(host, "/a")
    assert made.note("/a", {Drift.CONTENT})
    assert not made.note("/a", {Drift.CONTENT})
    assert made.note("/a", {Drift.MODE, Drift.CONTENT})
    change = made.changes["/a"]
    assert (change.count, change.drift) == (3, ("content", "mode"))
    assert change.first <= change.last


def test_a_million_names_fill_no_memory(host: Host) -> None:
    made = make(host, "/a", trees=("/a",))
    for number in range(1200):
        made.note(f"/a/{number}", {Drift.UNEXPECTED})
    assert len(made.changes) == 1000
    assert made.note("/a/7", {Drift.CONTENT})


# On disk --------------------------------------------------------------------------------------------


def test_what_is_written_is_what_is_read(host: Host) -> None:
    made = make(host, "/etc/mail/a\n\udcff", trees=("/etc/mail",))
    made.note("/etc/mail/\udcfe", {Drift.CONTENT})
    made.attempts = 1
    window_files.write(host, made)
    assert window_files.read_all(host) == [made]
    assert window_files.identifiers(host) == {made.id}
    assert Path(window_files.directory(host), f"{made.id}.json").stat().st_mode & 0o777 == 0o644
    assert json.loads(json.dumps(made.as_json()))["paths"] == list(made.paths)


def test_windows_are_listed_in_the_order_of_their_opening(host: Host, clock: Clock) -> None:
    first = make(host, "/a")
    clock.now += 1
    second = make(host, "/b")
    for made in (second, first):
        window_files.write(host, made)
    assert [made.id for made in window_files.read_all(host)] == [first.id, second.id]
    window_files.remove(host, first.id)
    window_files.remove(host, first.id)
    assert [made.id for made in window_files.read_all(host)] == [second.id]


def test_a_reboot_ends_every_window(host: Host, clock: Clock) -> None:
    window_files.write(host, make(host, "/a", seconds=86400))
    (Path(host.run_dir) / "boot").unlink()  # /run is empty after a boot
    clock.now = 5.0
    assert window_files.read_all(host) == []


def test_a_host_without_windows_has_none(host: Host) -> None:
    assert window_files.read_all(host) == []
    assert window_files.identifiers(host) == frozenset()


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"paths": 3}'],
    ids=lambda data: repr(data[:12]),
)
def test_a_damaged_file_is_no_window(host: Host, data: bytes) -> None:
    window_files.write(host, replace(make(host, "/a"), id=ID))
    Path(window_files.directory(host), f"{ID}.json").write_bytes(data)
    assert window_files.read_all(host) == []


FIELDS = (
    "boot", "paths", "trees", "opened", "until", "reason", "by", "uid", "command", "attempts", "changes",
)  # fmt: skip
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
    | st.lists(st.text(max_size=3), max_size=2)
    | st.dictionaries(st.text(max_size=2), st.none() | st.dictionaries(st.text(max_size=5), st.integers()))
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(changed=st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1))
def test_any_document_is_a_window_with_an_end_or_none(host: Host, changed: dict[str, object]) -> None:
    window_files.write(host, replace(make(host, "/a"), id=ID))
    path = Path(window_files.directory(host), f"{ID}.json")
    path.write_text(json.dumps({**json.loads(path.read_text("ascii")), **changed}), "ascii")
    found = window_files.read(host, ID)
    assert found is None or (found.until_text() and isinstance(found.holds("/a"), bool))


@pytest.mark.parametrize("name", ["../x", "0123", "0123456789AB", "", None, 7, "0123456789ab/"])
def test_only_an_id_of_ours_becomes_a_file_name(name: object) -> None:
    assert not window.is_id(name)
    assert window.is_id(window.new_id())


def test_the_owner_is_told_once_for_each_time(host: Host) -> None:
    window_files.write(host, replace(make(host, "/a"), id=ID))
    assert window_files.tell_once(host, ID, 600)
    assert not window_files.tell_once(host, ID, 600)
    assert window_files.tell_once(host, ID, 60)
    window_files.remove(host, ID)
    assert os.listdir(window_files.directory(host)) == []


# Who runs a command ---------------------------------------------------------------------------------


def test_a_window_of_a_command_is_orphaned_when_its_process_is_gone(host: Host) -> None:
    descriptor = window_files.hold_runner(host, ID)
    made = replace(make(host, "/a"), id=ID, command="make")
    pid = os.fork()
    if pid == 0:  # another process asks, as the guard does
        os._exit(10 + window_files.is_orphan(host, made))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 10
    os.close(descriptor)
    assert window_files.is_orphan(host, made)
    window_files.remove(host, ID)
    assert window_files.is_orphan(host, made)
    assert not window_files.is_orphan(host, replace(made, command=""))


def test_a_child_of_the_runner_does_not_keep_its_window(host: Host) -> None:
    descriptor = window_files.hold_runner(host, ID)
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], os.environ)
    try:
        os.close(descriptor)
        made = replace(make(host, "/a"), id=ID, command="sleep 60")
        end = time.monotonic() + 10  # the kernel closes a moment after posix_spawn(3) has returned
        while not window_files.is_orphan(host, made) and time.monotonic() < end:
            time.sleep(0.001)
        assert window_files.is_orphan(host, made)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
