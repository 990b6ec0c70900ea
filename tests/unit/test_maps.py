# SPDX-License-Identifier: Apache-2.0
"""Maps built to the side and asked, by Sendmail's real programs."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardend import maps
from hardend.errors import CommandError, FileError, FormatError
from hardend.formats.cf import Cf
from hardend.maps import Built, Tools
from hardend.model import Host, MapSpec
from tests.unit import programs
from tests.unit.programs import qualified_name as qualified_name  # noqa: PLC0414 - a fixture

ALIASES = MapSpec("newaliases", "hash", "/etc/aliases", "/etc/mail/aliases.db")
ACCESS = MapSpec("makemap", "hash", "/etc/mail/access", "/etc/mail/access.db")
SOURCE = b"root: alice\npostmaster: root\n"

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("qualified_name")]


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    cf = tmp_path / "sendmail.cf"
    cf.write_bytes(programs.CF)
    return programs.tools(cf)


def built(spec: MapSpec, source: bytes, tools: Tools) -> Built:
    with maps.workdir() as directory:
        return maps.build(spec, source, directory, tools)


def database(spec: MapSpec, source: bytes, tools: Tools) -> bytes:
    with maps.workdir() as directory:
        return Path(maps.build(spec, source, directory, tools).path).read_bytes()


def answers(content: bytes, spec: MapSpec, tools: Tools) -> str:
    with maps.workdir() as directory:
        return maps.answers_of(content, spec, directory, tools)


def test_two_builds_of_the_same_aliases_differ_in_bytes_and_answer_the_same(tools: Tools) -> None:
    first, second = (database(ALIASES, SOURCE, tools) for _ in range(2))
    assert first != second
    assert answers(first, ALIASES, tools) == answers(second, ALIASES, tools)


@pytest.mark.parametrize(
    "other", [b"root: bob\npostmaster: root\n", b"root: alice\n", SOURCE + b"decode: root\n"]
)
def test_a_map_of_other_aliases_answers_otherwise(other: bytes, tools: Tools) -> None:
    assert built(ALIASES, SOURCE, tools).answers != built(ALIASES, other, tools).answers


def test_the_order_of_the_lines_does_not_matter(tools: Tools) -> None:
    turned = b"postmaster: root\nroot: alice\n"
    assert built(ALIASES, SOURCE, tools).answers == built(ALIASES, turned, tools).answers


def test_an_empty_alias_file_builds_a_map(tools: Tools) -> None:
    assert built(ALIASES, b"", tools).entries == 1  # the "@" that newaliases adds


def test_what_newaliases_complains_of_is_a_warning_with_its_line(tools: Tools) -> None:
    assert built(ALIASES, b"root: alice\nno colon\n", tools).warnings == (
        "/etc/aliases:2: missing colon",
    )


@pytest.mark.parametrize("map_class", ["hash", "btree"])
def test_makemap_builds_with_the_class_of_the_map(map_class: str, tools: Tools) -> None:
    spec = MapSpec("makemap", map_class, "/etc/mail/access", "/etc/mail/access.db")
    made = built(spec, b"a.example\tREJECT\nb.example\tOK\n", tools)
    assert made.entries == 2
    assert made.answers == built(ACCESS, b"b.example OK\na.example REJECT\n", tools).answers


def test_flags_of_the_map_reach_makemap(tools: Tools) -> None:
    kept = MapSpec("makemap", "hash", "/etc/mail/v", "/etc/mail/v.db", ("-f",))
    assert built(kept, b"Upper\tx\n", tools).answers == built(kept, b"Upper\tx\n", tools).answers
    assert built(kept, b"Upper\tx\n", tools).answers != built(ACCESS, b"Upper\tx\n", tools).answers


@pytest.mark.parametrize(
    ("source", "why"), [(b"a\n", "no RHS"), (b"a\tOK\na\tREJECT\n", "duplicate key")]
)
def test_a_source_that_makemap_refuses_names_the_source(
    source: bytes, why: str, tools: Tools
) -> None:
    with pytest.raises(CommandError, match=rf"^/etc/mail/access: makemap:.*{why}"):
        built(ACCESS, source, tools)


@pytest.mark.parametrize(
    "line",
    [
        b"x: " + b"a" * 8192,
        b"x: root,\n" + b"\n".join(b" " + b"b" * 100 for _ in range(90)),
        b"x: root,\\\n" + b"\\\n".join(b"c" * 100 for _ in range(90)),
        b"# \\\n" * 1 + b" " + b"d" * 8191,
    ],
)
def test_a_line_that_newaliases_may_never_finish_is_refused_before_it_runs(line: bytes) -> None:
    unused = Tools("/nonexistent", "/nonexistent", "/nonexistent", 1)
    with pytest.raises(FormatError, match="/etc/aliases:2: ") as caught:
        built(ALIASES, b"root: alice\n" + line + b"\n", unused)
    assert caught.value.line == 2


def test_a_long_file_of_short_lines_is_built(tools: Tools) -> None:
    source = b"".join(b"user%d: root\n" % number for number in range(3000))
    assert built(ALIASES, source, tools).entries == 3001


@given(st.binary(max_size=300).map(lambda data: data.replace(b"\0", b"")))
def test_the_length_check_reads_any_bytes(data: bytes) -> None:
    maps.check_line_lengths("/etc/aliases", data)


def test_bytes_that_are_no_database_cannot_be_read(tools: Tools) -> None:
    with pytest.raises(CommandError, match=r"access\.db: makemap cannot read it"):
        answers(b"garbage", ACCESS, tools)


def test_an_empty_database_file_is_no_map_that_answers_right(tools: Tools) -> None:
    right = built(ACCESS, b"a\tOK\n", tools).answers
    with contextlib.suppress(CommandError):  # makemap refuses it: also not right
        assert answers(b"", ACCESS, tools) != right


def test_a_record_that_hides_another_in_a_line_end_is_found_out(
    tools: Tools, tmp_path: Path
) -> None:
    """Two records dumped as lines look like one whose value holds a line end."""
    honest = database(ACCESS, b"a\tOK\nb\tREJECT\n", tools)
    forged = database(ACCESS, b"a\tOK#b@REJECT\n", tools)
    crafted = forged.replace(b"OK#b@REJECT", b"OK\nb\tREJECT")
    assert crafted != forged
    path = tmp_path / "copy.db"
    dumps = []
    for content in (honest, crafted):
        path.write_bytes(content)
        dumps.append(sorted(maps._dump(str(path), ACCESS, tools, b"\t").splitlines()))
    assert dumps[0] == dumps[1], "the premise: the dumps are the same"
    with pytest.raises(CommandError, match="line end"):
        answers(crafted, ACCESS, tools)


def test_a_machine_without_makemap_says_so(tools: Tools) -> None:
    none = Tools("", "", tools.cf, 1)
    with pytest.raises(maps.NoProgramError, match="there is no makemap"):
        answers(b"", ACCESS, none)
    assert maps.library(none) == ""


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    script = tmp_path / "makemap"
    script.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path}/child\nwait\n")
    script.chmod(0o755)
    slow = Tools("", str(script), "", 0.5)
    with pytest.raises(CommandError, match=r"not done after 0\.5 s"):
        answers(b"", ACCESS, slow)
    child = (tmp_path / "child").read_text().strip()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}/stat").exists() and time.monotonic() < deadline:
        if " Z " in Path(f"/proc/{child}/stat").read_text():
            break
        time.sleep(0.02)
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or " Z " in state.read_text()


def test_a_program_class_of_the_configuration_is_not_run_while_building(
    tmp_path: Path, tools: Tools
) -> None:
    trace = tmp_path / "ran"
    Path(tools.cf).write_bytes(
        b"O DefaultUser=root:root\nF{x}|/usr/bin/touch %s\n" % os.fsencode(trace) + programs.CF
    )
    made = built(ALIASES, SOURCE, tools)
    assert not trace.exists()
    assert any("not run while building" in warning for warning in made.warnings)


def test_users_and_directories_of_another_machine_do_not_matter(tools: Tools) -> None:
    Path(tools.cf).write_bytes(
        programs.CF + b"O TrustedUser=nobody-here\nO QueueDirectory=/nonexistent\n"
        b"O RunAsUser=nobody-here\nO DefaultUser=nobody-here\nOQ/nonexistent\n"
    )
    assert built(ALIASES, SOURCE, tools).entries == 3


def test_class_files_of_a_tree_are_read_in_the_tree(tmp_path: Path) -> None:
    root = tmp_path / "host"
    (root / "etc/mail").mkdir(parents=True)
    (root / "etc/mail/names").write_bytes(b"inside.example\n")
    cf = root / "etc/mail/sendmail.cf"
    cf.write_bytes(programs.CF + b"Fw/etc/mail/names\n")
    assert not Path("/etc/mail/names").exists()
    assert built(ALIASES, SOURCE, programs.tools(cf, str(root))).entries == 3


def test_another_library_is_another_builder(tmp_path: Path, tools: Tools) -> None:
    other = tmp_path / "makemap"
    other.write_bytes(Path(tools.makemap).read_bytes() + b"\n# another\n")
    other.chmod(0o755)
    assert maps.library(tools) == maps.library(tools)
    assert maps.library(Tools(tools.sendmail, str(other), tools.cf, 1)) != maps.library(tools)


def test_lines_that_run_programs_are_found() -> None:
    document = Cf(b"Fw/etc/x\nF{a}|/bin/a\nFb-o |/bin/b\nKp program /bin/c\nKh hash /x\n")
    assert maps.program_lines(document) == ("F{a}|/bin/a", "Fb-o |/bin/b", "Kp program /bin/c")


def test_a_copy_knows_the_inode_it_is_of(tmp_path: Path) -> None:
    path = tmp_path / "access.db"
    path.write_bytes(b"content")
    copy = maps.copy_live(Host(str(tmp_path)), "/access.db")
    found = path.stat()
    assert copy is not None
    assert (copy.content, copy.ino, copy.ctime_ns) == (b"content", found.st_ino, found.st_ctime_ns)


def test_a_missing_file_is_no_copy(tmp_path: Path) -> None:
    assert maps.copy_live(Host(str(tmp_path)), "/nothing/access.db") is None


def test_a_fifo_a_link_and_a_directory_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "directory").mkdir()
    for name in ("fifo", "link", "directory"):
        with pytest.raises(FileError, match=rf"/{name}: (not a regular file|cannot be read)"):
            maps.copy_live(Host(str(tmp_path)), f"/{name}")


def test_a_sparse_giant_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "giant").open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(FileError, match="over 512 MiB"):
        maps.copy_live(Host(str(tmp_path)), "/giant")


def test_a_work_directory_is_private_and_gone_afterwards() -> None:
    with maps.workdir() as directory:
        assert os.stat(directory).st_mode & 0o777 == 0o700
        Path(directory, "file").touch()
    assert not os.path.exists(directory)


@settings(max_examples=8, deadline=None)
@given(
    st.dictionaries(
        st.text("abcdefgh.", min_size=1, max_size=8), st.text("XYZ 0123", min_size=1, max_size=8)
    )
)
def test_answers_depend_on_the_records_alone(records: dict[str, str]) -> None:
    here = programs.tools(os.devnull)
    lines = [f"{key}\t{value.strip() or 'x'}\n".encode() for key, value in records.items()]
    first, second = (built(ACCESS, b"".join(some), here) for some in (lines, lines[::-1]))
    assert first.answers == second.answers
    assert first.entries == len(records)
