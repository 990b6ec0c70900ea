# SPDX-License-Identifier: Apache-2.0
"""A program that may do anything can do nothing: tried from inside, with real programs."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hardend.command import Ran
from hardend.errors import CommandError
from hardend.sandbox import Limits, is_given, run_confined

pytestmark = pytest.mark.unshare
PYTHON = "/usr/bin/python3"
_CAPBSET_DROP = 24  # prctl(2)
_CAP_SYS_ADMIN = 21


def sh(script: str, timeout_s: float = 20, **given: object) -> Ran:
    return run_confined(["sh", "-c", script], timeout_s=timeout_s, **given)  # type: ignore[arg-type]


def running(words: str) -> bool:
    """Return whether a process on this machine has these words in its command line."""
    wanted = words.replace(" ", "\0").encode()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if wanted in entry.read_bytes():
                return True
        except OSError:
            continue
    return False


def in_child(prepare: Callable[[], object], act: Callable[[], str]) -> str:
    """Return what ``act`` does in a process that ``prepare`` has made another; or what it raised."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            prepare()
            said = act()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writable, said.encode())
        os._exit(0)
    os.close(writable)
    with open(readable, "rb") as file:
        said = file.read().decode()
    os.waitpid(child, 0)
    return said


def become_ordinary() -> None:
    os.setgroups([])
    os.setresgid(12345, 12345, 12345)
    os.setresuid(12345, 12345, 12345)


@pytest.mark.root
def test_it_is_a_user_of_its_own_without_groups_and_rights() -> None:
    said = sh("setpriv --dump; id -un").output.decode()
    uid = re.search(r"^euid: (\d+)$", said, re.MULTILINE)
    assert uid is not None and int(uid[1]) not in {0, 65534}
    for line in (
        f"uid: {uid[1]}",
        "Supplementary groups: [none]",
        "no_new_privs: 1",
        "Inheritable capabilities: [none]",
        "Ambient capabilities: [none]",
        "Capability bounding set: [none]",
        "hardend-check",
    ):
        assert line in said.splitlines()


@pytest.mark.root
def test_nobody_has_its_number() -> None:
    uid = sh("id -u").output.decode().strip()
    account = subprocess.run(["getent", "passwd", uid], capture_output=True, text=True, check=False)
    assert account.stdout.partition(":")[0] in {"", "hardend-check"}


@pytest.mark.root
def test_the_result_is_the_programs_own() -> None:
    done = sh("cat; head -c 100000 /dev/zero | tr '\\0' e >&2; exit 7", stdin=b"given\n")
    assert (done.status, done.output, done.errors) == (7, b"given\n", b"e" * 100_000)


@pytest.mark.root
def test_what_it_is_given_is_there_and_read_only() -> None:
    done = sh(
        "pwd; cat /etc/mail/m4/x.m4 y; echo z >>/etc/mail/m4/x.m4; rm y; ls -a /etc",
        directory="/srv/mail",
        readable={"/etc/mail/m4/x.m4": b"x\n", "/srv/mail/y": b"y\xff\n"},
    )
    assert done.output == b"/srv/mail\nx\ny\xff\n.\n..\nmail\npasswd\n"
    refused = done.errors.count(b"Read-only file system") + done.errors.count(b"Permission denied")
    assert refused == 2


@pytest.mark.root
def test_a_strict_umask_does_not_hide_it() -> None:
    before = os.umask(0o077)
    try:
        assert sh("cat /a/b", readable={"/a/b": b"seen"}).output == b"seen"
    finally:
        os.umask(before)


@pytest.mark.root
@pytest.mark.parametrize("path", ["x", "/a/../b", "/a//b", "/usr/bin/x", "/lib/x", "/a/"])
def test_a_path_that_cannot_be_given_is_an_error(path: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        sh("true", readable={path: b""})


def test_programs_and_libraries_are_given_already() -> None:
    assert is_given("/usr/lib/sendmail-cf/m4") and is_given("/usr/bin")
    assert not is_given("/usr/library") and not is_given("/usr/share/sendmail-cf")
    assert not is_given("/usr/lib/../share/x")


@pytest.mark.root
def test_it_writes_nowhere_but_in_its_scratch_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    places = ("/etc/evil", "/var/tmp/evil", "/usr/evil", "/usr/bin/evil", "/dev/evil", f"{tmp_path}/evil")
    done = sh(
        "echo x >/tmp/evil; cat /tmp/evil; "
        + "".join(f"( echo x >{path} ) && echo wrote {path}; " for path in places)
    )
    assert done.output == b"x\n"
    assert not any(os.path.exists(path) for path in (*places, "/tmp/evil"))


@pytest.mark.root
def test_it_sees_no_file_of_the_host() -> None:
    done = sh("cat /etc/shadow /etc/hostname /root/.profile /proc/1/environ; ls /home /var /run /proc /sys")
    assert done.output == b""
    known = set(b"bin dev etc lib lib32 lib64 libx32 sbin tmp usr".split())
    assert set(sh("ls -A /").output.split()) <= known


@pytest.mark.root
def test_its_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    names = {line.partition(b"=")[0] for line in sh("env").output.splitlines()}
    assert names <= {b"PATH", b"LC_ALL", b"HOME", b"PWD", b"_", b"OLDPWD", b"SHLVL"}


@pytest.mark.root
@pytest.mark.python3
def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind("\0hardend-test-abstract")
        local.listen()
        script = f"""
import socket
print([name for _, name in socket.if_nameindex()])
for family, address in ((2, ("127.0.0.1", {server.getsockname()[1]})), (1, "\\0hardend-test-abstract")):
    try:
        socket.socket(family).connect(address)
        print("connected", address)
    except OSError:
        pass
"""
        done = run_confined([PYTHON, "-c", script], timeout_s=20)
    assert (done.output, done.errors) == (b"['lo']\n", b"")


@pytest.mark.root
def test_it_sees_and_ends_no_process_of_the_host() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        sh(f"kill -9 {sleeper.pid}; kill -9 -1; kill -9 1")
        assert sleeper.poll() is None
        sleeper.kill()


@pytest.mark.root
@pytest.mark.parametrize(
    "script",
    [
        "while :; do :; done",
        "trap '' TERM INT HUP; sleep 7654321",
        "setsid sleep 7654321 & setsid sleep 7654321 & wait",
    ],
)
def test_it_ends_with_everything_it_started_when_the_time_is_over(script: str) -> None:
    with pytest.raises(CommandError, match="not done after 1 s"):
        sh(script, timeout_s=1)
    end = time.monotonic() + 5
    while running("sleep 7654321") and time.monotonic() < end:
        time.sleep(0.02)
    assert not running("sleep 7654321")


@pytest.mark.root
def test_what_it_leaves_running_is_ended() -> None:
    assert sh("setsid sleep 7654322 & exit 3").status == 3
    end = time.monotonic() + 5
    while running("sleep 7654322") and time.monotonic() < end:
        time.sleep(0.02)
    assert not running("sleep 7654322")


@pytest.mark.root
def test_it_ends_when_hardend_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the killed process leaves its files
    child = os.fork()
    if child == 0:
        sh("sleep 7654323", timeout_s=0.5)
        os._exit(0)
    while not running("sleep 7654323"):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    end = time.monotonic() + 15
    while running("sleep 7654323") and time.monotonic() < end:
        time.sleep(0.05)
    assert not running("sleep 7654323")


@pytest.mark.root
def test_a_bomb_of_processes_stays_small() -> None:
    script = "i=0; while [ $i -lt 200 ]; do sleep 5 & i=$((i+1)); done"
    done = sh(f"{script}; echo all", limits=Limits(processes=8))
    assert b"all" not in done.output
    assert b"fork" in done.errors.lower()


@pytest.mark.root
def test_memory_and_files_are_bounded() -> None:
    done = sh("head -c 300000000 /dev/zero | tail -c 300000000 | wc -c")
    assert done.output != b"300000000\n"
    done = sh("yes >/tmp/1; yes >/tmp/2; yes >/tmp/3; du -sm /tmp", limits=Limits(scratch=4 << 20))
    assert done.output.startswith((b"4\t", b"5\t"))


@pytest.mark.root
@pytest.mark.parametrize("where", ["", " >&2"])
def test_output_without_end_is_an_error(where: str) -> None:
    with pytest.raises(CommandError, match="wrote more than 1048576 bytes"):
        sh(f"yes{where}", limits=Limits(output=1 << 20))


@pytest.mark.root
def test_where_namespaces_are_refused_nothing_is_run(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    def without_the_right() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(_CAPBSET_DROP, _CAP_SYS_ADMIN, 0, 0, 0) == 0

    said = in_child(without_the_right, lambda: str(sh(f"echo ran; touch {tmp_path}/ran").output))
    assert re.match(r"CommandError: sh: cannot be confined here: unshare: .*not permitted", said)
    assert not list(tmp_path.iterdir())


@pytest.mark.root
def test_an_ordinary_user_is_confined_just_so_or_refused() -> None:
    """Debian lets everybody make user namespaces; some machines do not."""
    said = in_child(
        become_ordinary,
        lambda: sh(  # noqa: PLW0108 - to be called in the child
            "setpriv --dump; cat /etc/hostname; echo x >/etc/x; ls -A /"
        ).output.decode(),
    )
    if not said.startswith("CommandError: sh: cannot be confined here"):
        assert "Capability bounding set: [none]" in said
        assert "no_new_privs: 1" in said
        assert set(said.splitlines()[-1:]) == {"usr"}


@pytest.mark.root
@pytest.mark.python3
def test_an_ordinary_user_has_no_network_there_either() -> None:
    script = "import socket; print([name for _, name in socket.if_nameindex()])"
    said = in_child(
        become_ordinary,
        lambda: run_confined([PYTHON, "-c", script], timeout_s=20).output.decode(),  # noqa: PLW0108 - as above
    )
    assert said == "['lo']\n" or said.startswith("CommandError: /usr/bin/python3: cannot be confined")


@pytest.mark.root
def test_nothing_of_a_run_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert sh("echo x >/tmp/x; cat /tmp/x").output == b"x\n"
    assert not list(tmp_path.iterdir())
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
