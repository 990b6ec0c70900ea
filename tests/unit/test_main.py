# SPDX-License-Identifier: Apache-2.0
"""The command line: its usage, its help, and how errors are said."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hardend
from hardend.cli.main import VERBS, main, parser_for
from hardend.errors import ConfigError, Exit, RefusedError


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


@pytest.mark.parametrize(
    ("word", "said"),
    [("aprove", "did you mean approve?"), ("event", "did you mean events?"), ("xyzzy", "hardend --help")],
)
def test_a_word_that_is_no_verb_is_answered_with_the_nearest(
    word: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([word, "status"])
    assert f"{word}: no such verb; {said}" in capsys.readouterr().err


def test_what_a_verb_does_not_take_is_said_with_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check", "/etc/mail/access"])
    assert caught.value.code == Exit.USAGE
    assert "check does not take /etc/mail/access; hardend check --help" in capsys.readouterr().err


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
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(hardend.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.read(10)
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait() == Exit.OK


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_and_runs_something(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert f"usage: hardend {verb}" in capsys.readouterr().out


def test_only_the_module_of_the_verb_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    real = importlib.import_module

    def noted(name: str) -> object:
        imported.append(name)
        return real(name)

    monkeypatch.setattr("hardend.cli.main.importlib.import_module", noted)
    parser_for(["check", "--root", "baseline"])
    assert imported == ["hardend.cli.approval"]
    parser_for(["--help"])
    assert set(imported) == {f"hardend.cli.{module}" for module in VERBS.values()}


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"hardend {hardend.__version__}\n"
