# SPDX-License-Identifier: Apache-2.0
"""What a change leaves behind when it does not come to its end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardend import interruption
from hardend.errors import RefusedError
from hardend.interruption import Note
from hardend.kernel import flags
from hardend.model import Class, Entry, FileType, Host, Role
from tests.unit.taken import Scene, in_child, lock, open_scene

HELP = "/etc/mail/helpfile"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(str(tmp_path))


def test_a_note_is_held_by_the_run_that_left_it_and_read_by_the_next(host: Host) -> None:
    note = Note(3, "first", (HELP,))
    assert interruption.read(host) is None
    interruption.require_no_other(host)
    with interruption.noted(host, note):
        assert interruption.read(host) == note
        with pytest.raises(RefusedError, match="another hardend harden is at work"):
            interruption.require_no_other(host)
    interruption.require_no_other(host)
    assert interruption.read(host) == note
    interruption.forget(host)
    assert interruption.read(host) is None
    assert os.listdir(host.state_dir) == []


def test_a_run_that_is_killed_leaves_its_note(host: Host) -> None:
    def run() -> None:
        with interruption.noted(host, Note(1, "x")):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(run) == -signal.SIGKILL
    interruption.require_no_other(host)
    assert interruption.read(host) == Note(1, "x")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["before", "reason", "made"]), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_stands_in_the_note_is_a_note_or_none(host: Host, data: bytes) -> None:
    os.makedirs(host.state_dir, exist_ok=True)
    Path(host.state_dir, "harden.json").write_bytes(data)
    note = interruption.read(host)
    assert note is None or all(path.startswith("/") for path in note.made)


def test_a_link_or_a_fifo_in_the_place_of_the_note_is_none(host: Host) -> None:
    os.makedirs(host.state_dir)
    place = Path(host.state_dir, "harden.json")
    os.mkfifo(place)
    assert interruption.read(host) is None
    place.unlink()
    place.symlink_to("/etc/passwd")
    assert interruption.read(host) is None


def test_ctrl_c_waits_until_what_is_put_in_place_is_there() -> None:
    done = []

    def put_in_place() -> None:
        with interruption.held_off():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("whole")

    with pytest.raises(KeyboardInterrupt):
        put_in_place()
    assert done == ["whole"]


def entry(size: int, path: str = HELP) -> Entry:
    return Entry(path, Role.SOURCE, Class.LOCKED, FileType.FILE, 0, 0, 0o644, size=size)


def test_what_does_not_fit_is_refused_before_anything_is_changed(host: Host) -> None:
    interruption.require_room(host, [entry(100), entry(4097)])
    with pytest.raises(RefusedError, match=r"the disk is full, or nearly: \d+ KiB are needed"):
        interruption.require_room(host, [entry(1 << 60)])


@pytest.mark.root
class TestWithdrawing:
    @pytest.fixture
    def scene(self) -> object:
        with open_scene() as made:
            yield made

    def make(self, scene: Scene, path: str) -> Path:
        place = Path(scene.host.at(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"made\n")
        return place

    def test_what_a_plan_made_goes_to_the_quarantine(self, scene: Scene) -> None:
        place = self.make(scene, HELP)
        lock(place, flags.IMMUTABLE)
        assert interruption.withdraw(scene.host, [HELP, "/etc/mail/never-made"], {}, 4) == []
        assert not place.exists()
        assert scene.collect().collected == 1
        (record,) = [json.loads(one.read_text()) for one in scene.records.iterdir()]
        assert (record["path"], record["drift"], record["generation"]) == (HELP, ["unexpected"], 4)
        assert scene.content(record["digest"]) == b"made\n"

    def test_what_the_baseline_holds_now_stays(self, scene: Scene) -> None:
        place = self.make(scene, HELP)
        assert interruption.withdraw(scene.host, [HELP], {HELP: entry(5)}, 4) == []
        assert place.exists()

    def test_a_link_on_the_way_is_not_followed(self, scene: Scene) -> None:
        place = self.make(scene, "/elsewhere/file")
        Path(scene.host.at("/etc/link")).symlink_to("../elsewhere")
        (failed,) = interruption.withdraw(scene.host, ["/etc/link/file"], {}, 4)
        assert failed.startswith("/etc/link/file: ")
        assert place.exists()
