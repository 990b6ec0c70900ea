# SPDX-License-Identifier: Apache-2.0
"""Files of a size that nobody writes: an audit gives a result or a clear "unknown", in bounded memory."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardend.errors import Exit
from hardend.formats import aliases as alias_format
from hardend.formats import recipients
from hardend.formats.aliases import Aliases, include_targets
from hardend.formats.cf import Cf
from hardend.formats.table import Table, WordList
from hardend.kernel.tree import FILE_LIMIT
from hardend.rules.catalogue import CATALOGUE
from tests.unit.test_survey import tree

# All of Python, watchdog and what one audit holds; a file of 100 MB held whole would be beyond it twice.
MEMORY = 768 << 20
SECONDS = 120  # of the processor; the kernel ends what takes more
MEASURED: dict[str, list[tuple[int, float, str]]] = {}  # test -> MiB, seconds, verb


def run(verb: str, root: Path, *arguments: str) -> tuple[int, str, str]:
    """Run hardend in a process that may have so much memory and processor time, and no more.

    What it took of both is within the bounds, and in the table at the end.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "hardend", verb, "--root", root, *arguments],
            stdout=out,
            stderr=err,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            preexec_fn=partial(bound, MEMORY, SECONDS),  # noqa: PLW1509 - no threads here
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        took = usage.ru_utime + usage.ru_stime
        test = os.environ["PYTEST_CURRENT_TEST"].partition("::")[2].partition(" ")[0]
        MEASURED.setdefault(test, []).append((usage.ru_maxrss >> 10, took, verb))
        assert usage.ru_maxrss << 10 < MEMORY and took < SECONDS
        out.seek(0)
        err.seek(0)
        return process.returncode, out.read(), err.read()


def bound(memory: int, seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def audited(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the findings of an audit by their rule."""
    status, printed, said = run("audit", root, "--json")
    assert status == Exit.DRIFT, said
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(printed)["findings"]:
        found.setdefault(finding["rule"], []).append(finding)
    assert set(found) == {rule.id for rule in CATALOGUE}
    return found


def test_an_alias_file_of_100_mb_is_unknown_and_says_why(tmp_path: Path) -> None:
    tree(tmp_path)
    with open(tmp_path / "etc/aliases", "wb") as file:
        file.writelines(b"user: somebody.else@example.com\n" * 32_768 for _ in range(100))
    found = audited(tmp_path)
    for rule in ("aliases-decode", "aliases-programs", "aliases-files"):
        [finding] = found[rule]
        assert finding["verdict"] == "unknown"
        assert f"over {FILE_LIMIT >> 20} MiB" in finding["message"]
    planned(tmp_path)


def planned(root: Path) -> str:
    """Plan, commit and approve it all: each has a result or a refusal with its reason, and no traceback."""
    status, shown, said = run("harden", root, "--plan", "--include", "all")
    assert status in {Exit.OK, Exit.USAGE, Exit.REFUSED}, said
    assert "Traceback" not in said and (status == Exit.OK or said.startswith("hardend: "))
    for words in (("check",), ("layout",), ("suggest",), ("approve", "--reason", "x")):
        status, _, said = run(words[0], root, *words[1:])
        assert status in set(Exit), f"{words}: {status}: {said}"
        assert "Traceback" not in said, words
    return shown


@pytest.mark.parametrize("path", ["etc/aliases", "etc/lists/one"])
def test_more_recipients_than_memory_is_for_are_unknown(tmp_path: Path, path: str) -> None:
    tree(tmp_path)
    (tmp_path / "etc/aliases").write_text("postmaster: root\nlist: :include:/etc/lists/one\n")
    (tmp_path / path).write_bytes(_many(path))
    [finding] = [item for item in audited(tmp_path)["aliases-programs"] if item["verdict"] == "unknown"]
    assert finding["file"] == f"/{path}"
    assert "too many to be judged" in finding["message"]


def _many(path: str) -> bytes:
    if path == "etc/aliases":
        return b"".join(b"l%d: %s\n" % (at, b"b," * 4000) for at in range(300))
    return b"".join(b'"|/usr/bin/%d"\n' % at for at in range(50_000))


def test_an_access_table_of_a_million_lines_has_a_result(tmp_path: Path) -> None:
    tree(tmp_path)
    lines = b"".join(b"%d\tOK\n" % at for at in range(1_000_000))
    (tmp_path / "etc/mail/access").write_bytes(lines + b"com\tRELAY\nSrv_Features:192.0.2.1\tx b\n")
    found = audited(tmp_path)
    for rule, line in (("relay-entries", 1_000_001), ("privacy-srv-features", 1_000_002)):
        assert [item["line"] for item in found[rule] if item["verdict"] == "fail"] == [line]
    shown = planned(tmp_path)
    assert "-com\tRELAY" in shown and "-Srv_Features:192.0.2.1\tx b" in shown
    assert len(shown) < 20_000


JUNK = ["etc/aliases", "etc/lists/one", "etc/mail/access", "etc/mail/helpfile", "etc/passwd", "etc/group"]
JUNK += ["etc/mail/sendmail.cf", "etc/mail/sendmail.mc", "etc/mail/submit.cf", "etc/os-release"]
JUNK += ["etc/mail/submit.mc", "etc/mail/local-host-names", "etc/mail/relay-domains", "etc/rsyslog.conf"]
JUNK += ["etc/mail/virtusertable", "etc/mail/mailertable", "etc/mail/trusted-users", "etc/mail/access.db"]
JUNK += ["etc/mail/aliases.db", "etc/mail/sendmail.conf"]


@pytest.mark.parametrize("path", JUNK)
def test_binary_junk_is_judged_or_unknown(tmp_path: Path, path: str) -> None:
    tree(tmp_path)
    (tmp_path / path).write_bytes(random.Random(path).randbytes(200_000))
    audited(tmp_path)
    status, _, said = run("harden", tmp_path, "--plan")
    assert status in {Exit.OK, Exit.USAGE, Exit.REFUSED}
    assert "Traceback" not in said


def test_a_table_of_what_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(MEASURED) >= len(JUNK) + 3, "after the tests above, not alone"
    with capsys.disabled():
        print(f"\n{'':70} most MiB (of {MEMORY >> 20})  most s (of {SECONDS})")
        for test, rows in MEASURED.items():
            memory, took = max(rows), max(rows, key=lambda row: row[1])
            print(f"{test[5:75]:70} {memory[0]:5} {memory[2]:12}  {took[1]:5.1f} {took[2]}")


def test_a_file_of_macros_that_name_each_other_stays_small() -> None:
    bomb = b"".join(b"D%c%s\n" % (letter, b"$%c" % (letter + 1) * 50_000) for letter in range(97, 110))
    bomb += b"C{x}$a\nKx hash $a\n"
    with limited_memory(256 << 20):
        cf = Cf(bomb)
        assert all(len(value.text) <= 100_000 for value in cf.class_words("x"))
        assert len(cf.maps()) <= 1


def test_a_line_with_a_million_continuations_is_read_in_one_pass() -> None:
    data = b"O PrivacyOptions=goaway,\n" + b" noetrn\n" * 1_000_000
    assert len(Cf(data).lines) == 1
    assert Cf(data).render() == data


@contextlib.contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Let this process grow by so much, and no more."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_removing_half_of_many_lines_costs_one_pass() -> None:
    """Of so many lines, one pass for each would not end."""
    many = 30_000
    table = Table(b"".join(b"%d\tOK\n" % at for at in range(many)))
    assert len(table.remove(*range(1, many, 2)).entries) == many // 2
    words = WordList(b"".join(b"%d\n" % at for at in range(many)))
    assert len(words.remove(*range(1, many, 2)).words) == many // 2
    listed = Aliases(b"".join(b"u%d: root\n" % at for at in range(many)))
    assert len(listed.remove(*range(1, many, 2)).entries) == many // 2
    values = dict.fromkeys(range(2, many, 2), "REJECT")
    assert {row.value for row in table.with_values(values).entries} == {"OK", "REJECT"}


# What is read on a short way is what the whole way reads ------------------------------------------------


PIECES = st.sampled_from([
    b"a", b"B.c", b"x+y=z-_", b"@", b".", b",", b" ", b"\t", b"\n", b"\n ", b":", b"::", b"(x)",
    b"\\", b'"', b"|/bin/x", b"/f", b":include:/i", b"<", b">", b"!", b"%", b"\0", b"\x85", b"\xff",
    b"#", b"\r\n", b"\\\n",
])  # fmt: skip
TEXTS = st.lists(PIECES, max_size=14).map(b"".join)


@settings(max_examples=400)
@given(TEXTS)
def test_a_plain_entry_is_read_as_the_scanner_reads_it(text: bytes) -> None:
    quick = told(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipients, "_PLAIN", never())
        patch.setattr(alias_format, "_PLAIN_NAME", never())
        patch.setattr(alias_format, "_simple_line", lambda _lines, _at: None)
        assert told(text) == quick


def told(text: bytes) -> tuple[object, ...]:
    read = Aliases(text)
    spans = list(recipients.targets(text))
    return (read.entries, read.faults(), list(read.lines), spans, list(include_targets(text)))


def never() -> Any:
    return re.compile(rb"(?!)")
