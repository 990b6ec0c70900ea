# SPDX-License-Identifier: Apache-2.0
"""hardend edit with real editors on a terminal: vi, nano, ed and sed; what they make is in force."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.host import image
from tests.host.test_windows import wait_clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.machine import Machine

pytestmark = pytest.mark.host
EDITORS = "vim-tiny nano ed"
FETCH = f"apt-get -q -y --no-install-recommends --download-only install {EDITORS}"
DRAFTS = "/var/lib/hardend/drafts"
ALIASES, ACCESS, MC, CF = "/etc/aliases", "/etc/mail/access", "/etc/mail/sendmail.mc", "/etc/mail/sendmail.cf"
# Runs a command on a terminal of its own: waits for each text on the screen, then types what belongs to it.
TYPE = """
import json, os, pty, select, sys, time
command, steps = json.loads(sys.argv[1])
pid, screen = pty.fork()
if pid == 0:
    os.environ.update(TERM="vt100", LINES="24", COLUMNS="80")
    os.execvp(command[0], command)
seen, end = b"", time.monotonic() + 60
def more():
    global seen
    if select.select([screen], [], [], max(0, end - time.monotonic()))[0]:
        try:
            data = os.read(screen, 65536)
        except OSError:
            data = b""
        sys.stdout.buffer.write(data)
        seen += data
        return bool(data)
    sys.exit("TIMEOUT")
for text, keys in steps:
    while text.encode() not in seen and more():
        pass
    seen = seen.partition(text.encode())[2]
    for key in keys.split("|"):
        if key.startswith("!"):
            os.kill(int(os.popen("pgrep -n -x " + key[1:]).read()), 9)
        else:
            os.write(screen, key.encode())
        time.sleep(0.3)
while more():
    pass
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.fixture(scope="module")
def shared(machine: Machine) -> Machine:
    """The host with editors, approved and guarded."""
    shutil.copytree(image.packages("editors", FETCH), machine.path("/root/editors"))
    machine.run("dpkg -i /root/editors/*.deb", timeout=120)
    machine.run("hardend approve --reason first; systemctl enable --now hardend")
    assert wait_clean(machine) == ""
    return machine


@pytest.fixture(autouse=True)
def clean(shared: Machine) -> Iterator[Machine]:
    """The host, clean before and after; nothing of ours or of an editor's is where mail's files are."""
    names = shared.run("ls -A /etc/mail /etc").stdout
    yield shared
    shared.run(f"rm -rf {DRAFTS}")
    assert wait_clean(shared) == ""
    assert shared.run("ls -A /etc/mail /etc").stdout == names


def typed(
    machine: Machine, editor: str, path: str, *steps: tuple[str, str], reason: bool = True
) -> tuple[int, str]:
    """Edit a path on a terminal; return the exit status and all that was on the screen."""
    argv = ["env", f"EDITOR={editor}", "hardend", "edit", path, *(["--reason", "typed"] if reason else [])]
    done = machine.run(["/usr/bin/python3", "-c", TYPE, json.dumps([argv, steps])], check=False)
    assert "TIMEOUT" not in done.stderr, done.stdout
    return done.returncode, done.stdout


def edited(machine: Machine, editor: str, path: str, *words: str) -> tuple[int, str, str]:
    """Edit a path without a terminal."""
    argv = ["env", f"EDITOR={editor}", "hardend", "edit", path, "--yes", "--reason", "scripted", *words]
    done = machine.run(argv, check=False)
    return done.returncode, done.stdout, done.stderr


def means(machine: Machine, name: str) -> str:
    return machine.run(f"sendmail -bv {name}", check=False).stdout


def number(machine: Machine) -> int:
    return int(machine.json("hardend status --json")["generation"])


COMMIT = ("commit this", "y\n")


def test_vi_changes_aliases_and_newaliases_answers(clean: Machine) -> None:
    code, screen = typed(clean, "vi", ALIASES, ("aliases", "Go|vinews: root|\x1b|:wq\r"), COMMIT)
    assert code == 0, screen
    assert means(clean, "vinews").startswith("root")
    assert clean.run(f"lsattr {ALIASES}").stdout.split()[0].count("i") == 1
    assert clean.run(f"ls -A {DRAFTS}").stdout == ""


def test_nano_changes_access_and_the_reason_is_asked_for(clean: Machine) -> None:
    keys = "\x1b/|Connect:192.0.2.77 REJECT\r|\x0f|\r|\x18"
    steps = (("access", keys), COMMIT, ("reason (", "a new ban\n"))
    code, screen = typed(clean, "nano", ACCESS, *steps, reason=False)
    assert code == 0, screen
    assert "connect:192.0.2.77\tREJECT" in clean.run(f"makemap -u hash {ACCESS}").stdout
    assert clean.json("hardend baseline log --json")["generations"][0]["reason"] == "a new ban"


def test_ed_makes_a_fault_that_is_corrected(clean: Machine) -> None:
    wrong = "$a\nednews root\n.\nw\nq\n"
    right = "$s/ednews/ednews:/\nw\nq\n"
    steps = (("\n", wrong), ("no colon", ""), ("[e/k/q]", "e\n"), ("\n", right), COMMIT)
    code, screen = typed(clean, "ed", ALIASES, *steps)
    assert code == 0, screen
    assert means(clean, "ednews").startswith("root")


def test_sed_changes_a_file_from_a_script(clean: Machine) -> None:
    code, _, err = edited(clean, "sed -i '$a sednews: root'", ALIASES)
    assert code == 0, err
    assert means(clean, "sednews").startswith("root")


def test_a_vi_that_is_killed_leaves_draft_and_swap_file(clean: Machine) -> None:
    before = number(clean)
    keys = "Go|lost: root|\x1b|:w\r|Go|unsaved: root|\x1b|:preserve\r|!vi"
    code, screen = typed(clean, "vi", ALIASES, ("aliases", keys), ("[e/k/q]", "k\n"))
    assert code == 4 and "signal 9" in screen and "the draft is kept: /var/lib/hardend/drafts/" in screen
    assert "lost: root" in clean.run(f"cat {DRAFTS}/*/aliases").stdout
    assert clean.run(f"grep -c unsaved {DRAFTS}/*/.aliases.swp").stdout.strip() != "0"
    assert number(clean) == before


def test_who_hangs_up_finds_his_draft_again(clean: Machine) -> None:
    hang_up = "Go|hung: root|\x1b|:w\r|!python3"  # the terminal goes with who holds it
    argv = ["env", "EDITOR=vi", "hardend", "edit", ALIASES, "--reason", "x"]
    clean.run(["/usr/bin/python3", "-c", TYPE, json.dumps([argv, [("aliases", hang_up)]])], check=False)
    clean.run("for i in $(seq 100); do pgrep -x vi || break; sleep 0.1; done")
    assert clean.run(f"cat {DRAFTS}/*/aliases").stdout.count("hung") == 1
    code, _, err = edited(clean, "true", ALIASES)
    assert code == 0 and "an earlier draft was kept" in err


def test_a_mc_changes_cf_and_greeting_in_one_generation(clean: Machine) -> None:
    before = number(clean)
    line = "define(`confSMTP_LOGIN_MSG', `$j edited here')dnl"
    clean.path("/root/line").write_text(f"{line}\n")
    code, out, err = edited(clean, "sed -i '/^DAEMON_OPTIONS/r /root/line'", MC)
    assert code == 0, err
    assert "+O SmtpGreetingMessage=$j edited here" in out
    assert number(clean) == before + 1
    grep = f"grep -c '^O SmtpGreetingMessage=.j edited here' {CF}"
    assert clean.run(f"test {CF} -nt {MC} && {grep}").stdout == "1\n"
    greeting = "import socket; print(socket.create_connection(('127.0.0.1', 25)).makefile().readline())"
    assert "edited here" in clean.run(["/usr/bin/python3", "-c", greeting]).stdout


def test_a_syntax_fault_of_a_mc_is_refused(clean: Machine) -> None:
    before = clean.run(f"sha256sum {MC} {CF}").stdout
    code, _, err = edited(clean, "sed -i '$a FEATURE(`no_such_thing'\\'')'", MC)
    assert code == 4 and f"{MC}:" in err and "no_such_thing" in err
    assert clean.run(f"sha256sum {MC} {CF}").stdout == before


def test_a_cf_that_its_mc_makes_is_not_edited_unasked(clean: Machine) -> None:
    code, _, err = edited(clean, "sed -i '$a # by hand'", CF)
    assert code == 4 and f"hardend edit {MC}" in err


def test_everything_works_without_a_guard(clean: Machine) -> None:
    clean.run("systemctl stop hardend")
    try:
        code, _, err = edited(clean, "sed -i '$a deadnews: root'", ALIASES)
        assert code == 0, err
        assert means(clean, "deadnews").startswith("root")
        assert "i" in clean.run(f"lsattr {ALIASES}").stdout.split()[0]
        assert clean.run("hardend check").returncode == 0
    finally:
        clean.run("systemctl start hardend")


def test_a_cf_that_was_edited_by_hand_is_overwritten_only_when_that_is_said(clean: Machine) -> None:
    by_hand = f"grep -c '^# by hand' {CF}; test {CF} -nt {MC}"
    assert edited(clean, "sed -i '/^O SmtpGreetingMessage/i # by hand'", CF, "--truth", "cf")[0] == 0
    code, _, err = edited(clean, "sed -i '$a dnl one'", MC)
    assert code == 4 and "was edited by hand" in err and "--truth cf" in err
    assert edited(clean, "sed -i '$a dnl one'", MC, "--truth", "cf")[0] == 0
    assert clean.run(by_hand).stdout == "1\n"
    code, _, err = edited(clean, "sed -i '$a dnl two'", MC, "--truth", "mc")
    assert code == 0, err
    assert clean.run(by_hand, check=False).stdout == "0\n"
    assert clean.run(f"tail -n 2 {MC}").stdout == "dnl one\ndnl two\n"


def test_a_full_disk_loses_nothing(clean: Machine) -> None:
    store = "/var/lib/hardend/baseline"
    clean.run(
        f"mkdir -p /mnt/full; mount -t tmpfs -o size=64m tmpfs /mnt/full; cp -a {store}/. /mnt/full;"
        f"mount --bind /mnt/full {store}; dd if=/dev/zero of={store}/fill bs=1M status=none || true"
    )
    try:
        code, _, err = edited(clean, "sed -i '$a full: root'", ALIASES)
    finally:
        clean.run(f"umount {store}; umount /mnt/full")
    assert code == 4 and "No space left" in err and "the draft is kept" in err
    assert "full: root" in clean.run(f"cat {DRAFTS}/*/aliases").stdout
    assert "full: root" not in clean.run(f"cat {ALIASES}").stdout


def test_only_root_may(clean: Machine) -> None:
    done = clean.run(f"EDITOR=true hardend edit {ALIASES} --yes --reason x", check=False, user="alice")
    assert done.returncode == 4 and "only root" in done.stderr
