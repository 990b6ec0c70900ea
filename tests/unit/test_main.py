# SPDX-License-Identifier: Apache-2.0
"""The command on a tree: approve, check, baseline, off, on, release; and how errors are said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hardend
from hardend import commit, control, pause, state
from hardend.baseline.store import Store
from hardend.cli import main as main_module
from hardend.cli.main import VERBS, main, parser_for
from hardend.errors import ConfigError, Exit, RefusedError
from hardend.kernel import flags
from tests.unit.conftest import ACCESS, CF, Tree

pytestmark = pytest.mark.root
CF_PATH = "/etc/mail/sendmail.cf"
ACCESS_PATH = "/etc/mail/access"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tree: Tree, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a verb on the tree; returns exit code, output and errors."""
    tree.at("/etc/debian_version").write_text("12\n")

    def call(*arguments: str) -> tuple[int, str, str]:
        words = 2 if arguments[0] == "baseline" else 1
        code = main([*arguments[:words], "--root", str(tree.root), *arguments[words:]])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def approved(tree: Tree, run: Run) -> Iterator[Tree]:
    """A tree with a first generation, locked, and no guard."""
    code, _, err = run("approve", "--reason", "first")
    assert code == Exit.OK, err
    yield tree
    run("release")


def _is_locked(tree: Tree, path: str) -> bool:
    descriptor = os.open(tree.at(path), os.O_RDONLY)
    try:
        return bool(flags.get_flags(descriptor) & flags.IMMUTABLE)
    finally:
        os.close(descriptor)


# Approve and check --------------------------------------------------------------------------------


def test_the_first_approval_makes_a_generation_and_locks(tree: Tree, run: Run) -> None:
    code, out, _ = run("approve", "--reason", "first")
    assert code == Exit.OK
    assert out.startswith("generation 1 approved: ")
    assert "2 locked" in out
    assert "systemctl enable --now hardend" in out
    assert _is_locked(tree, CF_PATH) and _is_locked(tree, ACCESS_PATH)
    assert not _is_locked(tree, "/etc/mail/authinfo")
    generation = Store(tree.host).current()
    assert (generation.number, generation.reason, generation.parent) == (1, "first", "")
    assert run("check")[0] == Exit.OK
    run("release")


def test_the_secret_s_content_is_not_in_the_store(approved: Tree) -> None:
    assert Store(approved.host).current().entries["/etc/mail/authinfo"].digest == ""
    objects = Path(approved.host.store_dir) / "objects"
    assert b"secret" not in [path.read_bytes() for path in objects.iterdir()]


def test_check_names_every_drift_and_changes_nothing(approved: Tree, run: Run) -> None:
    approved.unlock(CF_PATH)
    approved.at(CF_PATH).write_bytes(b"EVIL")
    approved.at("/etc/mail/smrsh/sh").symlink_to("/bin/sh")
    approved.at("/etc/mail/smrsh/.hardend").symlink_to("/bin/sh")
    approved.at("/etc/mail/a\x1b[2J").touch()
    code, out, _ = run("check")
    assert code == Exit.DRIFT
    assert f"{CF_PATH}: content flags stale\n" in out
    assert "/etc/mail/smrsh/sh: unexpected\n" in out
    assert "/etc/mail/smrsh/.hardend: unexpected\n" in out
    assert "/etc/mail/a\\x1b[2J: unexpected\n" in out
    assert "\x1b" not in out
    assert approved.at(CF_PATH).read_bytes() == b"EVIL"
    code, out, _ = run("check", "--json")
    document = json.loads(out)
    assert code == Exit.DRIFT
    assert (document["clean"], document["generation"]) == (False, 1)
    assert document["paths"][CF_PATH] == ["content", "flags", "stale"]


def test_new_content_from_a_file_becomes_the_live_content(approved: Tree, run: Run, tmp_path: Path) -> None:
    for name in ("cf", "access"):
        (tmp_path / name).write_text(f"new {name}\n")
    code, out, err = run(
        *("approve", CF_PATH, "--from", str(tmp_path / "cf"), ACCESS_PATH, "--from", str(tmp_path / "access")),
        *("--reason", "both"),
    )
    assert code == Exit.OK, err
    assert out.startswith("generation 2 approved")
    assert approved.at(CF_PATH).read_text() == "new cf\n"
    assert approved.at(ACCESS_PATH).read_text() == "new access\n"
    assert _is_locked(approved, CF_PATH)
    assert run("check")[0] == Exit.OK
    assert Store(approved.host).verify() == []


def test_a_path_alone_takes_in_its_live_state_and_puts_the_others_back(approved: Tree, run: Run) -> None:
    for path in (CF_PATH, ACCESS_PATH):
        approved.unlock(path)
        approved.at(path).write_bytes(b"edited\n")
    code, _, err = run("approve", CF_PATH, "--reason", "edited by hand")
    assert code == Exit.OK, err
    assert approved.at(CF_PATH).read_bytes() == b"edited\n"
    assert approved.at(ACCESS_PATH).read_bytes() == ACCESS
    assert run("check")[0] == Exit.OK


def test_a_directory_that_is_gone_leaves_the_baseline_with_all_it_held(approved: Tree, run: Run) -> None:
    shutil.rmtree(approved.at("/etc/mail/smrsh"))
    code, _, err = run("approve", "/etc/mail/smrsh", "--reason", "no programs here")
    assert code == Exit.OK, err
    assert not [path for path in Store(approved.host).current().entries if "smrsh" in path]
    assert run("check")[0] == Exit.OK
    assert Store(approved.host).verify() == []


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "an empty reason": (("approve", "--reason", "  "), "--reason is empty"),
    "a path that is not ours": (("approve", "/etc/passwd", "--reason", "x"), "not a path that hardend protects"),
    "a file that is not there": (("approve", CF_PATH, "--from", "/none", "--reason", "x"), "No such file"),
    "content for a secret": (
        ("approve", "/etc/mail/authinfo", "--from", "/etc/passwd", "--reason", "x"),
        "its content is not held",
    ),
    "a rollback to nothing": (("baseline", "rollback", "7", "--reason", "x"), "missing"),
    "a generation that is not there": (("baseline", "show", "7"), "missing"),
    "a time that is too long": (("off", "--for", "99d", "--reason", "x"), "at most 24h"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_one_line_and_changes_nothing(approved: Tree, run: Run, what: str) -> None:
    arguments, sentence = REFUSED[what]
    code, out, err = run(*arguments)
    assert code in {Exit.REFUSED, Exit.USAGE}
    assert out == ""
    assert sentence in err
    assert all(line.startswith("hardend: ") for line in err.splitlines())
    assert Store(approved.host).numbers() == [1]
    assert run("check")[0] == Exit.OK


@pytest.mark.parametrize(
    "arguments",
    [
        ["approve"],
        ["approve", "--from", "x", "--reason", "y"],
        ["off", "--for", "soon", "--reason", "x"],
        ["off", "--for", "0h", "--reason", "x"],
        ["baseline"],
        ["baseline", "show", "one"],
        ["check", "--root", "/none"],
        ["nothing"],
        ["nothing", "status"],
        [],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_refused_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == Exit.USAGE
    assert "usage: hardend" in capsys.readouterr().err


def test_a_word_that_is_no_verb_is_answered_with_all_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["aprove", "status"])
    assert "approve" in capsys.readouterr().err


# The baseline ---------------------------------------------------------------------------------------


@pytest.fixture
def second(approved: Tree, run: Run, tmp_path: Path) -> Tree:
    """Two generations: the second has another sendmail.cf."""
    (tmp_path / "cf").write_bytes(CF.replace(b"goaway\n", b"authwarnings"))
    code, _, err = run("approve", CF_PATH, "--from", str(tmp_path / "cf"), "--reason", "second\n\x1b[2J")
    assert code == Exit.OK, err
    return approved


@pytest.mark.usefixtures("second")
def test_the_log_shows_the_newest_first_and_marks_what_is_in_force(run: Run) -> None:
    code, out, _ = run("baseline", "log")
    lines = out.splitlines()
    assert code == Exit.OK
    assert [line.split()[:2] for line in lines] == [["*", "2"], ["1", lines[1].split()[1]]]
    assert lines[0].endswith("second\\x0a\\x1b[2J")
    document = json.loads(run("baseline", "log", "--json")[1])
    assert [(row["number"], row["current"]) for row in document["generations"]] == [(2, True), (1, False)]


@pytest.mark.usefixtures("second")
def test_show_lists_the_entries_of_any_generation(run: Run) -> None:
    code, out, _ = run("baseline", "show", "1")
    assert code == Exit.OK
    assert out.startswith("generation 1, ")
    assert "/etc/mail/link -> ../aliases" in out
    document = json.loads(run("baseline", "show", "--json")[1])
    assert document["number"] == 2
    assert CF_PATH in [entry["path"] for entry in document["entries"]]


@pytest.mark.usefixtures("second")
def test_diff_shows_lines_and_a_missing_last_newline(run: Run) -> None:
    code, out, _ = run("baseline", "diff")
    assert code == Exit.OK
    assert "-O PrivacyOptions=goaway\n-\n+O PrivacyOptions=authwarnings\n" in out
    assert run("baseline", "diff", "1", "2")[1] == out
    assert "added: " in run("baseline", "diff", "0", "1")[1]


def test_diff_shows_what_hides_from_a_reader(approved: Tree, run: Run, tmp_path: Path) -> None:
    assert approved.root.is_dir()
    for number, content in enumerate((b"a\nb\n", b"a\rb\n", b"a\x0bb\n", "a\u2028b\n".encode(), b"a\xffb\n")):
        (tmp_path / "cf").write_bytes(content)
        code, _, err = run("approve", CF_PATH, "--from", str(tmp_path / "cf"), "--reason", f"{number}")
        assert code == Exit.OK, err
        shown = run("baseline", "diff")[1]
        assert [line for line in shown.splitlines() if line.startswith("+") and not line.startswith("+++")], content
        assert all(line.isprintable() for line in shown.split("\n"))


def test_diff_shows_a_path_that_became_something_else(approved: Tree, run: Run) -> None:
    approved.at("/etc/mail/link").unlink()
    approved.at("/etc/mail/link").write_bytes(b"a file now\n")
    assert run("approve", "--reason", "a file")[0] == Exit.OK
    assert "/etc/mail/link: kind symlink -> file" in run("baseline", "diff")[1]


@pytest.mark.usefixtures("approved")
def test_the_same_again_is_no_difference(run: Run) -> None:
    run("approve", "--reason", "again")
    assert run("baseline", "diff")[1] == "no difference\n"
    code, out, err = run("baseline", "diff", "2")
    assert (code, out) == (Exit.REFUSED, "")
    assert "baseline diff OLD NEW" in err


def test_a_rollback_is_a_new_generation_with_the_old_content(second: Tree, run: Run) -> None:
    code, out, _ = run("baseline", "rollback", "1", "--reason", "it did not work")
    assert code == Exit.OK
    assert "generation 3 has the content of 1" in out
    assert second.at(CF_PATH).read_bytes() == CF
    assert Store(second.host).current().reason == "rollback to 1: it did not work"
    assert Store(second.host).verify() == []
    assert run("check")[0] == Exit.OK


def test_verify_names_every_damaged_part(second: Tree, run: Run) -> None:
    assert run("baseline", "verify")[0] == Exit.OK
    damaged = next((Path(second.host.store_dir) / "objects").iterdir())
    damaged.write_bytes(b"damaged")
    (Path(second.host.store_dir) / "generations/2/digest").write_bytes(b"x")
    code, out, _ = run("baseline", "verify")
    assert code == Exit.REFUSED
    assert "generations/2/manifest.json: its digest is wrong" in out


@pytest.mark.parametrize("verb", [("check",), ("baseline", "log"), ("baseline", "show"), ("baseline", "verify")])
def test_without_a_baseline_the_way_to_the_first_is_said(run: Run, verb: tuple[str, ...]) -> None:
    code, out, err = run(*verb)
    assert (code, out) == (Exit.REFUSED, "")
    assert "hardend: hint: hardend approve --reason TEXT makes the first" in err


def test_a_damaged_store_is_mended_by_a_rollback(second: Tree, run: Run) -> None:
    (Path(second.host.store_dir) / "current").write_bytes(b"damaged")
    code, _, err = run("check")
    assert code == Exit.REFUSED
    assert "hardend baseline verify" in err
    code, _, err = run("baseline", "rollback", "1", "--reason", "the store was damaged")
    assert code == Exit.OK, err
    assert second.at(CF_PATH).read_bytes() == CF
    assert Store(second.host).current().number == 3
    assert run("check")[0] == Exit.OK


def test_a_damaged_object_refuses_the_rollback_that_needs_it_and_changes_nothing(
    second: Tree, run: Run
) -> None:
    live = second.at(CF_PATH).read_bytes()
    digest = Store(second.host).generation(1).entries[CF_PATH].digest
    (Path(second.host.store_dir) / "objects" / digest).write_bytes(b"damaged")
    code, _, err = run("baseline", "rollback", "1", "--reason", "x")
    assert code == Exit.REFUSED
    assert digest in err
    assert second.at(CF_PATH).read_bytes() == live
    assert Store(second.host).current().entries[CF_PATH].digest != digest
    assert run("check")[0] == Exit.OK


# Off, on, release -----------------------------------------------------------------------------------


def test_off_releases_every_lock_without_a_guard_and_on_puts_all_back(approved: Tree, run: Run) -> None:
    code, out, err = run("off", "--for", "2h", "--reason", "repair")
    assert code == Exit.OK
    assert "2 locks released (no guard is running)" in out
    assert "no systemd here" in err
    assert not _is_locked(approved, CF_PATH)
    found = pause.read(approved.host)
    assert found is not None and 7190 < found.remaining_s <= 7200
    approved.at(CF_PATH).write_bytes(b"repaired\n")
    code, out, _ = run("on")
    assert (code, out) == (Exit.OK, "on: 0 paths could not be put back\n")
    assert approved.at(CF_PATH).read_bytes() == CF
    assert _is_locked(approved, CF_PATH)
    assert pause.read(approved.host) is None


def test_an_approval_while_it_is_off_touches_nothing(approved: Tree, run: Run) -> None:
    run("off", "--for", "30m", "--reason", "repair")
    approved.at(CF_PATH).write_bytes(b"repaired\n")
    code, out, _ = run("approve", CF_PATH, "--reason", "repaired")
    assert code == Exit.OK
    assert "enforcement is off: nothing was touched" in out
    assert not _is_locked(approved, CF_PATH)
    run("on")
    assert approved.at(CF_PATH).read_bytes() == b"repaired\n"
    assert _is_locked(approved, CF_PATH)


def test_release_reads_what_it_can_of_a_damaged_store(approved: Tree, run: Run) -> None:
    run("approve", "--reason", "second")
    (Path(approved.host.store_dir) / "generations/2/manifest.json").write_bytes(b"damaged")
    (Path(approved.host.store_dir) / "current").unlink()
    code, out, err = run("release")
    assert (code, out) == (Exit.OK, "2 locks released\n")
    assert "generations/2/manifest.json: its digest is wrong" in err
    assert not _is_locked(approved, CF_PATH)


def test_a_lock_is_not_looked_for_behind_a_link(approved: Tree, run: Run) -> None:
    other = approved.at("/other")
    other.write_bytes(b"x")
    subprocess.run(["chattr", "+i", str(other)], check=True)
    approved.unlock(CF_PATH)
    approved.at(CF_PATH).unlink()
    approved.at(CF_PATH).symlink_to(other)
    assert run("release")[1] == "1 locks released\n"
    assert _is_locked(approved, "/other")
    approved.unlock("/other")


def test_release_is_refused_while_a_guard_would_lock_again(
    approved: Tree, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(state, "guard_is_alive", lambda _host: True)
        code, _, err = run("release")
    assert code == Exit.REFUSED
    assert "a guard is running" in err
    assert _is_locked(approved, CF_PATH)


@pytest.mark.parametrize("verb", ["off", "on"])
def test_a_guard_that_does_not_answer_is_said_so(
    approved: Tree, run: Run, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    arguments = ("--for", "1h", "--reason", "x") if verb == "off" else ()
    with monkeypatch.context() as patched:
        patched.setattr(state, "guard_is_alive", lambda _host: True)
        code, _, err = run(verb, *arguments)
    assert code == Exit.UNREACHABLE
    assert "does not answer" in err
    assert approved.root.is_dir()


def test_a_running_guard_is_asked_and_what_it_says_is_shown(
    approved: Tree, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []
    replies: dict[str, control.Reply] = {
        "off": {"ok": True, "released": 2, "until": "later"},
        "on": {"ok": True, "failed": {CF_PATH: "the disk is full"}},
        "load": {"ok": True, "failed": {}},
    }

    def answer(_host: object, request: dict[str, object], timeout_s: float = 1.0) -> control.Reply:
        assert timeout_s > 0
        asked.append(request)
        return replies[str(request["verb"])]

    with monkeypatch.context() as patched:
        patched.setattr(state, "guard_is_alive", lambda _host: True)
        patched.setattr(control, "ask", answer)
        assert run("off", "--for", "1h", "--reason", "why")[1].startswith("off until later: 2 locks")
        code, out, _ = run("on")
        assert code == Exit.DRIFT
        assert out.startswith(f"{CF_PATH}: the disk is full\n")
        assert run("approve", "--reason", "second")[0] == Exit.OK
        replies["off"] = {"ok": False, "error": "seconds must be less"}
        code, _, err = run("off", "--for", "1h", "--reason", "why")
        assert (code, "seconds must be less" in err) == (Exit.REFUSED, True)
    assert [request["verb"] for request in asked] == ["off", "on", "load", "off"]
    assert (asked[0]["seconds"], asked[0]["reason"], asked[0]["by"]) == (3600, "why", commit.caller())
    assert approved.root.is_dir()


# How errors are said --------------------------------------------------------------------------------


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Return what runs a verb that raises."""

    def call(error: BaseException) -> int:
        def verb(_args: object) -> int:
            raise error

        monkeypatch.setattr("hardend.cli.approval._check", verb)
        return main(["check"])

    return call


def test_an_error_is_a_sentence_and_a_hint(
    raising: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(RefusedError("no", hint="ask again")) == Exit.REFUSED
    assert capsys.readouterr().err == "hardend: no\nhardend: hint: ask again\n"
    assert raising(RefusedError("no")) == Exit.REFUSED
    assert capsys.readouterr().err == "hardend: no\n"


def test_all_faults_of_the_configuration_are_said_at_once(
    raising: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(ConfigError(("one", "two"))) == Exit.USAGE
    assert capsys.readouterr().err.splitlines()[:2] == ["hardend: one", "hardend: two"]


def test_a_disk_that_is_full_is_a_sentence_too(
    raising: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(OSError(28, "No space left on device", "/var/x\n")) == Exit.REFUSED
    assert capsys.readouterr().err == "hardend: /var/x\\x0a: No space left on device\n"


def test_an_interrupt_ends_quietly(
    raising: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = (
        "import sys; from hardend.cli import main; from hardend.cli import approval\n"
        "approval._check = lambda args: [print('x' * 1000) for _ in range(1000)] and 0\n"
        "sys.exit(main.main(['check']))\n"
    )
    with subprocess.Popen(
        [shutil.which("python3") or "python3", "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(_module_path())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.read(10)
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait() == Exit.OK


def _module_path() -> list[str]:
    import sys

    return [path for path in (str(Path(hardend.__file__).parents[1]), *sys.path) if path]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_and_runs_something(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert f"usage: hardend {verb}" in capsys.readouterr().out


def test_only_the_module_of_the_verb_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = []
    real = main_module.importlib.import_module
    monkeypatch.setattr(
        main_module.importlib, "import_module", lambda name: imported.append(name) or real(name)
    )
    parser_for(["check", "--root", "baseline"])
    assert imported == ["hardend.cli.approval"]
    parser_for(["--help"])
    assert set(imported) == {f"hardend.cli.{module}" for module in VERBS.values()}


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"hardend {hardend.__version__}\n"
