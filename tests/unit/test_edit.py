# SPDX-License-Identifier: Apache-2.0
"""hardend edit on a tree: what editors do to a draft, what is refused, and that nothing typed is lost."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend import edit_draft, editor
from hardend.cli.main import main
from hardend.errors import Exit, RefusedError
from hardend.model import Host
from tests.unit.mailhost import ACCESS, USERS, MailHost, mail
from tests.unit.programs import qualified_name

root = pytest.mark.root
pytestmark = [pytest.mark.usefixtures("qualified_name")]
__all__ = ["mail", "qualified_name"]  # fixtures
PATH = "/etc/mail/access"
MORE = ACCESS + b"b.example\tREJECT\n"
APPEND = "printf 'b.example\\tREJECT\\n' >> \"$1\""
Edit = Callable[..., tuple[int, str, str]]


@pytest.fixture
def edit(
    mail: MailHost, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Edit:
    """Run the verb with a shell script as the editor, on a host that is approved and has no guard."""
    mail.write("/etc/debian_version", b"12\n")
    assert main(["approve", "--root", mail.host.root, "--reason", "first"]) == Exit.OK
    capsys.readouterr()
    script = tmp_path / "editor"

    def run(text: str, path: str = PATH, *words: str) -> tuple[int, str, str]:
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
        monkeypatch.setenv("VISUAL", str(script))
        code = main(["edit", "--root", mail.host.root, "--yes", "--reason", "why", *words, path])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def drafts(host: Host) -> dict[str, bytes]:
    place = Path(edit_draft.drafts_dir(host))
    return {file.name: file.read_bytes() for file in place.glob("*/*")}


@root
@pytest.mark.parametrize(
    "script",
    [
        APPEND,
        'cat "$1" > "$1.new"; printf "b.example\\tREJECT\\n" >> "$1.new"; mv "$1.new" "$1"',
        'cp "$1" "$1~"; cat "$1~" > "$1"; printf "b.example\\tREJECT\\n" >> "$1"',
        "sed -i '$a b.example\\tREJECT' \"$1\"",
    ],
    ids=["in place", "renames over", "backup file", "sed -i"],
)
def test_an_edit_is_in_force_with_its_map_and_leaves_nothing(mail: MailHost, edit: Edit, script: str) -> None:
    names, before = set(os.listdir(mail.at("/etc/mail"))), mail.answers(f"{PATH}.db")
    code, out, err = edit(script)
    assert code == Exit.OK, err
    assert "+b.example\tREJECT" in out and "generation 3 approved" in out
    assert mail.at(PATH).read_bytes() == MORE
    assert mail.answers(f"{PATH}.db") != before
    assert mail.answers(f"{PATH}.db") == mail.entry(f"{PATH}.db").answers
    assert (mail.current().reason, set(os.listdir(mail.at("/etc/mail")))) == ("why", names)
    assert drafts(mail.host) == {}


@root
def test_without_a_change_there_is_no_generation(mail: MailHost, edit: Edit) -> None:
    code, out, _ = edit(":")
    assert (code, out) == (Exit.OK, "nothing changed\n")
    assert mail.current().number == 2
    assert drafts(mail.host) == {}


@root
@pytest.mark.parametrize(
    ("script", "why", "kept"),
    [
        (f"{APPEND}; exit 3", "exit status 3", MORE),
        (f"{APPEND}; kill -KILL $$", "signal 9", MORE),
        (': > "$1"', "the draft is empty", b""),
        ('echo alone >> "$1"', f"{PATH}:2: alone: no value", ACCESS + b"alone\n"),
    ],
    ids=["fails", "dies", "truncates", "fault"],
)
def test_what_may_not_be_is_kept_as_a_draft(
    mail: MailHost, edit: Edit, script: str, why: str, kept: bytes
) -> None:
    code, _, err = edit(script)
    assert code == Exit.REFUSED
    assert why in err and "the draft is kept: " in err
    assert drafts(mail.host) == {"access": kept}
    assert (mail.current().number, mail.at(PATH).read_bytes()) == (2, ACCESS)


@root
def test_a_draft_that_the_editor_moved_away_is_kept_with_its_swap_file(mail: MailHost, edit: Edit) -> None:
    code, _, err = edit('mv "$1" "$1~"; touch "$(dirname "$1")/.access.swp"; kill -TERM $$')
    assert code == Exit.REFUSED and "the draft is kept" in err
    assert drafts(mail.host) == {"access~": ACCESS, ".access.swp": b""}


@root
def test_an_earlier_draft_is_told_of_and_can_be_gone_on_with(mail: MailHost, edit: Edit) -> None:
    edit(f"{APPEND}; exit 1")
    (left,) = Path(edit_draft.drafts_dir(mail.host)).glob("*/access")
    assert f"an earlier draft was kept: {left}" in edit(":")[2]
    code, _, err = edit(":", PATH, "--from", str(left))
    assert code == Exit.OK, err
    assert mail.at(PATH).read_bytes() == MORE


@root
def test_a_rule_that_gets_worse_is_refused_and_forced_with_a_reason(mail: MailHost, edit: Edit) -> None:
    script = "printf 'com\\tRELAY\\n' >> \"$1\""
    code, _, err = edit(script)
    assert code == Exit.REFUSED
    assert "this gets worse: " in err and "--force" in err
    assert mail.at(PATH).read_bytes() == ACCESS
    code, _, err = edit(script, PATH, "--force")
    assert code == Exit.OK, err
    assert "forced: " in err and mail.at(PATH).read_bytes().endswith(b"com\tRELAY\n")


@root
def test_a_baseline_that_moved_meanwhile_refuses_and_keeps_the_draft(mail: MailHost, edit: Edit) -> None:
    new = mail.root / "new"
    new.write_bytes(ACCESS + b"other.example\tREJECT\n")
    other = f"{sys.executable} -m hardend approve --root {mail.root} {PATH} --from {new} --reason other"
    code, _, err = edit(f"{APPEND}; {other} > /dev/null")
    assert code == Exit.REFUSED
    assert f"{PATH} was changed meanwhile" in err
    assert drafts(mail.host) == {"access": MORE}
    assert b"other" in mail.at(PATH).read_bytes()


@root
def test_another_path_that_moved_meanwhile_is_not_undone(mail: MailHost, edit: Edit) -> None:
    new = mail.root / "new"
    new.write_bytes(mail.at("/etc/mail/sendmail.cf").read_bytes() + b"# more\n")
    cf = "/etc/mail/sendmail.cf"
    other = f"{sys.executable} -m hardend approve --root {mail.root} {cf} --from {new} --reason other"
    code, _, err = edit(f"{APPEND}; {other} > /dev/null")
    assert code == Exit.OK, err
    assert mail.at(cf).read_bytes() == new.read_bytes() and mail.at(PATH).read_bytes() == MORE


@root
def test_a_checked_file_is_edited_too_and_its_map_follows(mail: MailHost, edit: Edit) -> None:
    table = "/etc/mail/virtusertable"
    code, _, err = edit("printf 'sales@a.example\\tbob\\n' >> \"$1\"", table)
    assert code == Exit.OK, err
    assert mail.at(table).read_bytes() == USERS + b"sales@a.example\tbob\n"
    assert mail.answers(f"{table}.db") == mail.entry(f"{table}.db").answers


@root
def test_two_edits_of_one_file_refuse_each_other_by_name(mail: MailHost, edit: Edit) -> None:
    with edit_draft.alone(mail.host, PATH, "alice on /dev/pts/7"):
        code, _, err = edit(APPEND)
    assert code == Exit.REFUSED
    assert f"{PATH} is being edited by alice on /dev/pts/7 (pid {os.getpid()}, since " in err
    assert edit(APPEND)[0] == Exit.OK  # what is left of the lock holds nobody up


@root
@pytest.mark.parametrize(
    ("path", "why"),
    [
        (f"{PATH}.db", f"hardend edit {PATH}"),
        ("/etc/mail/authinfo", "its content is not held"),
        ("/etc/mail/old.db", "is a database"),
        ("/etc/mail/x.bak", "not held (of class ignored)"),
        ("/etc/mail/link", f"hint: hardend edit {PATH}"),
        ("/etc/mail", "is a directory"),
        ("/etc/mail/nothing", "no such file"),
        ("/etc/motd", "not a path that hardend protects"),
        ("/etc/mail/new", "hardend approve /etc/mail/new"),
    ],
)
def test_what_is_not_held_is_refused_with_what_to_do(mail: MailHost, edit: Edit, path: str, why: str) -> None:
    for name in ("authinfo", "old.db", "x.bak", "new"):
        mail.write(f"/etc/mail/{name}", b"x")
    mail.write("/etc/motd", b"x")
    mail.at("/etc/mail/link").symlink_to("access")
    code, _, err = edit(APPEND, path)
    assert code in {Exit.REFUSED, Exit.USAGE}
    assert why in err
    assert drafts(mail.host) == {} and mail.current().number == 2


@root
def test_a_path_that_a_window_lets_go_is_edited_where_it_is(mail: MailHost, edit: Edit) -> None:
    assert main(["unlock", "--root", mail.host.root, "--reason", "work", PATH]) == Exit.OK
    code, _, err = edit(APPEND)
    assert code == Exit.REFUSED and f"hardend lock {PATH}" in err


@root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_editor_and_edit_and_keeps_what_was_typed(
    mail: MailHost, edit: Edit, number: signal.Signals, tmp_path: Path
) -> None:
    assert edit(":")[0] == Exit.OK
    script = tmp_path / "slow"
    pid = tmp_path / "pid"
    lines = ("#!/bin/sh", APPEND, f"echo $$ > {pid}.new", f"mv {pid}.new {pid}", "exec sleep 60", "")
    script.write_text("\n".join(lines))
    script.chmod(0o755)
    argv = [sys.executable, "-m", "hardend", "edit", "--root", mail.host.root, "--yes", "--reason", "x", PATH]
    with subprocess.Popen(argv, env={**os.environ, "VISUAL": str(script)}, stderr=subprocess.PIPE) as child:
        while not pid.exists():
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)  # the editor's own
        child.send_signal(number)
        _, err = child.communicate()
    assert child.returncode == 128 + number
    assert b"the draft is kept: " in err
    assert drafts(mail.host) == {"access": MORE}
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()
    assert edit(APPEND)[0] == Exit.OK


@root
def test_nobody_to_ask_is_refused_before_the_editor_starts(mail: MailHost, edit: Edit) -> None:
    assert edit(":")[0] == Exit.OK
    argv = ["edit", "--root", mail.host.root, PATH]
    assert main([*argv, "--reason", "x"]) == Exit.REFUSED
    assert main([*argv, "--yes"]) == Exit.USAGE
    assert drafts(mail.host) == {}


def test_visual_counts_before_editor_and_may_have_arguments() -> None:
    assert editor.command({"VISUAL": "sh -c 'a b'", "EDITOR": "cat"}) == ["sh", "-c", "a b"]
    assert editor.command({"VISUAL": " ", "EDITOR": "cat"}) == ["cat"]
    for wrong in ("no-such-editor", "'", "''"):
        with pytest.raises(RefusedError):
            editor.command({"EDITOR": wrong})


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_any_editor_variable_is_a_command_or_refused(text: str) -> None:
    try:
        argv = editor.command({"EDITOR": text})
    except RefusedError:
        return
    assert shutil.which(argv[0])


def test_a_draft_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    with pytest.raises(OSError, match="too long"):
        edit_draft.Draft(host, f"/etc/{'x' * 300}", b"", b"")
    assert os.listdir(edit_draft.drafts_dir(host)) == []


def test_a_lock_that_was_left_says_nothing(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    with edit_draft.alone(host, PATH, "alice"):
        pass
    with edit_draft.alone(host, PATH, "bob"), pytest.raises(RefusedError, match="by bob"):
        with edit_draft.alone(host, PATH, "carol"):
            raise AssertionError
    (lock,) = Path(host.run_dir).glob("edit/*")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
