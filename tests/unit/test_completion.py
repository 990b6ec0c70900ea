# SPDX-License-Identifier: Apache-2.0
"""Completion in a real bash: the whole command line, paths, ids, and names that are no plain words."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest

import hardend
from hardend.journal import Event
from hardend.model import FileType
from hardend.rules.catalogue import CATALOGUE
from tests.unit import trees
from tests.unit.verbs import verbs

PROGRAM = Path(hardend.__file__).parents[1]  # what is tested: the wheel, or this checkout
SCRIPT = Path(__file__).resolve().parents[2] / "etc/bash-completion/hardend"
# As readline calls it: the words of the line, and which of them is being completed.
CALL = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_hardend hardend "${@: -1}" "${@: -2:1}"
((${#COMPREPLY[@]} == 0)) || printf '%s\\0' "${COMPREPLY[@]}"
"""
IDS = ["20261124T061500.000001-0001", "20261124T061500.000001-0002"]
GROUPS = sorted({name.split()[0] for name in verbs() if " " in name})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with the tested command first."""
    directory = tmp_path_factory.mktemp("bin")
    command = directory / "hardend"
    command.write_text(f'#!/bin/sh\nexec env PYTHONPATH={PROGRAM} {sys.executable} -B -m hardend "$@"\n')
    command.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian mail host in a tree, with two generations and two objects in its quarantine."""
    tree = tmp_path_factory.mktemp("host")
    trees.write(tree, trees.DEBIAN)
    store = tree / "var/lib/hardend"
    for name in ("baseline/generations/1", "baseline/generations/12", "baseline/generations/3.new"):
        (store / name).mkdir(parents=True)
    (store / "quarantine/records").mkdir(parents=True)
    for identifier in IDS:
        (store / f"quarantine/records/{identifier}.json").write_text("{}")
    (store / "quarantine/records/$(touch pwned).json").write_text("{}")
    return tree


def completed(line: Sequence[str], path: str) -> set[str]:
    """Return what bash offers for the last word of a line."""
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", CALL, "bash", SCRIPT, "hardend", *line],
        env={**os.environ, "PATH": path},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b"", done.stderr
    return {os.fsdecode(word) for word in done.stdout.split(b"\0") if word}


# The command line as the parser has it ----------------------------------------------------------------


def test_the_first_word_is_a_verb(path: str) -> None:
    assert completed([""], path) == {name.split()[0] for name in verbs()}


@pytest.mark.parametrize("group", GROUPS)
def test_the_second_word_of_a_group_is_one_of_its_verbs(group: str, path: str) -> None:
    below = {name.split()[1] for name in verbs() if name.startswith(f"{group} ")}
    assert completed([group, ""], path) == below


@pytest.mark.parametrize("name", verbs())
def test_a_verb_has_the_options_of_its_parser_and_no_other(name: str, path: str) -> None:
    assert completed([*name.split(), "-"], path) == verbs()[name].words


@pytest.mark.parametrize("name", verbs())
def test_behind_an_option_comes_its_value_where_it_takes_one(name: str, path: str) -> None:
    for words, value in verbs()[name].options:
        for word in words:
            offered = completed([*name.split(), word, "-"], path)
            assert offered == (set() if value else verbs()[name].words), word


def words_of_lists() -> Iterator[tuple[list[str], set[str]]]:
    """Yield each place of a command line where one of a few words belongs, with the words."""
    for name, verb in verbs().items():
        for words, value in verb.options:
            yield [*name.split(), min(words), ""], set(value.split("|"))
        for value in verb.arguments:
            yield [*name.split(), ""], set(value.split("|"))


def test_where_one_of_a_few_words_belongs_just_these_are_offered(path: str) -> None:
    places = [(line, few) for line, few in words_of_lists() if len(few) > 1 and "".join(few).islower()]
    assert len(places) >= 3
    assert [(line, completed(line, path)) for line, _ in places] == places


def test_a_word_that_is_begun_is_completed_by_what_begins_like_it(path: str) -> None:
    assert completed(["baseline", "ver"], path) == {"verify"}
    assert completed(["sta"], path) == {"status"}
    assert completed(["no-such-verb", ""], path) == set()


# Rules, kinds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [["explain"], ["audit", "--rule"], ["harden", "--yes", "--rule", "="]])
def test_rules_are_those_of_the_catalogue(line: list[str], path: str) -> None:
    assert completed([*line, ""], path) == {rule.id for rule in CATALOGUE}


def test_include_takes_a_rule_or_all(path: str) -> None:
    assert completed(["harden", "--include", ""], path) == {"all", *(rule.id for rule in CATALOGUE)}
    assert completed(["harden", "--include", "="], path) == {"all", *(rule.id for rule in CATALOGUE)}


def test_kinds_are_those_of_the_events_and_those_of_the_quarantine(path: str) -> None:
    assert completed(["events", "--kind", ""], path) == set(Event)
    assert completed(["quarantine", "list", "--kind", ""], path) == set(FileType)


# What the host has ------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [["approve"], ["unlock"], ["lock"], ["events", "--path"], ["run", "--path"]])
def test_paths_are_those_that_are_held(line: list[str], root: Path, path: str) -> None:
    verb, *rest = line
    offered = completed([verb, "--root", str(root), *rest, "/etc/mail/s"], path)
    assert offered >= {"/etc/mail/sendmail.cf", "/etc/mail/sendmail.mc", "/etc/mail/submit.cf"}
    assert all(name.startswith("/etc/mail/s") for name in offered)


def test_generations_and_objects_are_those_of_the_host(root: Path, path: str) -> None:
    at = ["--root", str(root)]
    assert completed(["baseline", "rollback", *at, ""], path) == {"1", "12"}
    assert completed(["baseline", "export", *at, ""], path) == {"1", "12", "current"}
    assert completed(["quarantine", "show", *at, ""], path) == set(IDS)
    assert completed(["quarantine", "purge", *at, "--id", IDS[0], IDS[1][:-1]], path) == set(IDS)


def test_a_host_without_anything_offers_nothing(tmp_path: Path, path: str) -> None:
    at = ["--root", str(tmp_path)]
    for line in (["approve"], ["baseline", "show"], ["quarantine", "diff"]):
        assert completed([*line, *at, ""], path) == set()


def test_a_root_with_a_blank_is_found_however_it_is_quoted(root: Path, path: str, tmp_path: Path) -> None:
    blank = tmp_path / "my host"
    blank.symlink_to(root)
    for written in (str(blank).replace(" ", r"\ "), f"'{blank}'", f'"{blank}"'):
        assert completed(["baseline", "show", "--root", written, ""], path) == {"1", "12"}


def test_behind_run_comes_a_command(path: str) -> None:
    assert "newaliases-of-a-test" not in completed(["run", "--reason", "x", "--", "ls"], path)
    assert "ls" in completed(["run", "--reason", "x", "--", "ls"], path)
    assert completed(["run", "--reason", "x", "--", "ls", "-"], path) == set()


# In a terminal ----------------------------------------------------------------------------------------


@pytest.fixture
def terminal(path: str, tmp_path: Path) -> Iterator[Terminal]:
    """An interactive bash with the completion, in an empty directory."""
    with Terminal(path, tmp_path) as shell:
        yield shell


class Terminal:
    """bash at a terminal of its own; what it is asked to complete, it then shows word by word."""

    def __init__(self, path: str, directory: Path) -> None:
        self._leader, follower = pty.openpty()
        self._directory = directory
        self._shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            cwd=directory,
            start_new_session=True,
            env={"PATH": path, "TERM": "dumb", "PS1": "READY>", "HOME": str(directory)},
        )
        os.close(follower)

    def __enter__(self) -> Self:
        self._until(b"READY>")
        # Completion asks the real command; the line itself is shown and not carried out.
        self.type(f"source {SCRIPT}; hardend() {{ printf '<%s>' \"$@\"; echo END; }}\n")
        self._until(b"READY>")
        return self

    def __exit__(self, *_: object) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._leader)

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def words(self, line: str) -> str:
        """Type a line with a TAB behind it, and return its words as bash then passes them."""
        self.type(f"{line}\t")
        self._until(line.rpartition(" ")[2].encode())
        self.type("\n")
        return self._until(b"END\r\n").rpartition(b"\r\n<")[2].decode()

    def _until(self, mark: bytes) -> bytes:
        seen = b""
        deadline = time.monotonic() + 30
        while mark not in seen:
            assert select.select([self._leader], [], [], max(0, deadline - time.monotonic()))[0], seen
            seen += os.read(self._leader, 4096)
        return seen.partition(mark)[0]


def test_a_name_with_blanks_quotes_and_parentheses_is_one_word(terminal: Terminal, root: Path) -> None:
    odd = "/etc/mail/peers/odd 'name' (touch pwned);x&y"
    trees.write(root, {odd: b"x\n"})
    shown = terminal.words(f"hardend unlock --root {root} /etc/mail/peers/odd")
    assert shown == f"unlock><--root><{root}><{odd}>"


@pytest.mark.parametrize("name", ["$(touch pwned)", "`touch pwned`", "${PATH}", "a\nb", "a\x1b[31m", "a\\b"])
def test_a_name_that_would_be_evaluated_or_garbles_the_terminal_is_not_offered(
    name: str, tmp_path: Path, path: str
) -> None:
    trees.write(tmp_path, {**trees.DEBIAN, f"/etc/mail/peers/{name}": b"x\n", "/etc/mail/peers/fine": b"x\n"})
    offered = completed(["unlock", "--root", str(tmp_path), "/etc/mail/peers/"], path)
    assert offered == {"/etc/mail/peers/fine", "/etc/mail/peers/provider"}
    assert list(tmp_path.rglob("pwned")) == []
