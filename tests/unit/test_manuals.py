# SPDX-License-Identifier: Apache-2.0
"""The manuals say what the code does, all of it and nothing else."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import hardend
from hardend.config import _BLOCK_KEYS, _TRUSTED_KEYS, _WAIVER_KEYS, KEYS
from hardend.errors import Exit
from hardend.journal import KINDS
from hardend.metrics import _BY_CHANNEL, _COUNTERS, _GAUGES, _LATENCIES
from hardend.model import Class, Drift
from hardend.status_view import STATES
from tests.unit import mdoc, varlink_idl
from tests.unit.verbs import Option, Verb, verbs

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = Path(hardend.__file__).parents[1]  # what is tested: the wheel, or this checkout
MAN = REPOSITORY / "man"
COMMAND, CONFIGURATION = MAN / "hardend.8", MAN / "hardend.toml.5"
RULES, INTERFACE = MAN / "hardend-rules.7", MAN / "io.hardend.Status.7"
PAGES = (COMMAND, CONFIGURATION, RULES, INTERFACE)
PRIORITIES = {3: "err", 4: "warning", 5: "notice", 6: "info"}
EVERYWHERE: frozenset[Option] = frozenset({(frozenset({"--root"}), "DIR"), (frozenset({"-h", "--help"}), "")})
OURS = re.compile(r"/(?:etc|run|var/lib|usr/(?:lib|sbin|share))/[\w./@-]*hardend[\w./@-]*")


@cache
def sources() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text("utf-8")) for path in (REPOSITORY / "hardend").rglob("*.py")}


def marked(page: Path, section: str, macro: str) -> list[str]:
    """Return what the heads of a section's items mark with a macro."""
    return [word for item in mdoc.items(mdoc.section(page, section)) for word in item.marked(macro)]


# The form ---------------------------------------------------------------------------------------------


@pytest.mark.mandoc
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_has_nothing_to_say_of_a_manual(page: Path) -> None:
    done = subprocess.run(["mandoc", "-T", "lint", page], capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()
    # Which other manuals this machine has is not the page's fault.
    assert [line for line in said if "referenced manual not found" not in line] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_manual_refers_to_manuals_of_ours_that_are_there(page: Path) -> None:
    there = {f"{name.stem} {name.suffix[1:]}" for name in PAGES}
    referred = set(re.findall(r"Xr (\S*hardend\S* \d)", page.read_text("utf-8")))
    assert referred
    assert referred <= there


def test_the_manual_of_the_rules_is_that_of_the_catalogue() -> None:
    made = subprocess.run(
        [sys.executable, MAN / "rules.py"],
        env={**os.environ, "PYTHONPATH": str(PROGRAM), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=True,
    ).stdout
    assert made == RULES.read_bytes(), "PYTHONPATH=. python3 man/rules.py > man/hardend-rules.7"


# hardend(8) -------------------------------------------------------------------------------------------


def option_of(words: list[str]) -> Option | None:
    """Return the option of a line such as ``Op Fl f , Fl -follow`` or ``Fl -keep Ar N``."""
    flags = {f"-{words[at + 1]}" for at, word in enumerate(words) if word == "Fl"}
    value = words[words.index("Ar") + 1] if "Ar" in words else ""
    return (frozenset(flags), value) if flags else None


def described() -> dict[str, tuple[Verb, list[str]]]:
    """Return the verbs that the manual has, each as its head has it, with the text below."""
    found = {}
    for item in mdoc.items(mdoc.section(COMMAND, "COMMANDS")):
        first, *rest = item.head
        assert first[0] == "Cm"
        options = frozenset(option for words in rest if (option := option_of(words)))
        arguments = tuple(words[words.index("Ar") + 1] for words in rest if "Fl" not in words)
        found[" ".join(first[1:])] = Verb(options, arguments), item.lines
    return found


def test_the_manual_has_every_verb_and_no_other() -> None:
    assert sorted(described()) == sorted(verbs())


@pytest.mark.parametrize("name", verbs())
def test_the_manual_has_every_option_and_argument_of_a_verb_and_no_other(name: str) -> None:
    verb, _ = described()[name]
    assert verb.options == verbs()[name].options - EVERYWHERE
    assert verb.arguments == verbs()[name].arguments


@pytest.mark.parametrize("name", verbs())
def test_the_text_on_a_verb_speaks_of_options_that_it_has(name: str) -> None:
    _, lines = described()[name]
    assert lines, "nothing is said of it"
    spoken = {f"-{flag}" for line in lines for flag in re.findall(r"Fl (-?\w\S*)", line)}
    assert spoken <= verbs()[name].words


def test_the_options_of_every_verb_are_described_once() -> None:
    common = mdoc.items(mdoc.section(COMMAND, "OPTIONS"))
    options = {option_of(item.words) for item in common}
    assert options == EVERYWHERE | {(frozenset({"--version"}), "")}
    without = {word for item in common for line in item.lines for word in re.findall(r"^\.Cm (\S+)", line)}
    assert without == {name for name, verb in verbs().items() if "--root" not in verb.words}


def test_the_manual_has_every_exit_code() -> None:
    codes = [int(item.words[0]) for item in mdoc.items(mdoc.section(COMMAND, "EXIT STATUS"))]
    assert codes == sorted(Exit)


def test_the_manual_has_every_event_with_its_priority_and_id() -> None:
    told = [item.words for item in mdoc.items(mdoc.section(COMMAND, "EVENTS")) if item.words[0] == "Li"]
    expected = [
        ["Li", event.value, "Pq", PRIORITIES[kind.priority], kind.message_id] for event, kind in KINDS.items()
    ]
    assert sorted(told) == sorted(expected)


def test_every_event_is_described_in_the_catalog_with_the_manual_named() -> None:
    catalog = (REPOSITORY / "systemd/catalog/hardend.catalog").read_text("utf-8")
    entries = re.findall(r"^-- (\w{32})\n(?:.+\n)*Documentation: man:hardend\(8\)\n", catalog, re.MULTILINE)
    assert sorted(entries) == sorted(kind.message_id for kind in KINDS.values())


def test_the_manual_has_every_field_of_the_journal() -> None:
    sent = {"EVENT", "TIME_NS"}
    for tree in sources().values():
        told = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        if any(node.module == "hardend.journal" for node in told):
            sent |= fields_of(tree)
    assert set(marked(COMMAND, "Journal fields", "Ev")) == {f"HARDEND_{name}" for name in sent}


def fields_of(tree: ast.Module) -> set[str]:
    """Return the capital names that a module gives to calls, or keeps in a dictionary for one."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            names |= {keyword.arg for keyword in node.keywords if keyword.arg}
        elif isinstance(node, ast.Dict):
            names |= {k.value for k in node.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)}
    return {name for name in names if re.fullmatch(r"[A-Z][A-Z0-9_]+", name)} - {"MESSAGE_ID"}


def test_the_manual_has_every_metric() -> None:
    tree = sources()[REPOSITORY / "hardend/metrics.py"]
    written = {name for _, name, _ in (*_COUNTERS, *_GAUGES, *_BY_CHANNEL, *_LATENCIES)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            of = node.func.id if isinstance(node.func, ast.Name) else ""
            if of in {"_one", "_each", "_numbers", "Metric"}:
                written.add(str(node.args[0].value))
    expected = {f"hardend_{name.removeprefix('hardend_')}" for name in written}
    assert set(marked(COMMAND, "METRICS", "Li")) == expected


def test_the_manual_has_every_state_and_every_drift() -> None:
    told = marked(COMMAND, "STATES AND DRIFT", "Li")
    assert sorted(told) == sorted([*STATES, *Drift])


def test_the_manual_has_every_unit() -> None:
    shipped = {path.name for path in (REPOSITORY / "systemd").iterdir() if path.is_file()}
    assert set(marked(COMMAND, "UNITS", "Pa")) == shipped


def test_every_unit_names_a_manual_that_is_there() -> None:
    for path in (REPOSITORY / "systemd").iterdir():
        if path.is_file():
            named = re.findall(r"^Documentation=man:(\S+)\((\d)\)$", path.read_text("utf-8"), re.MULTILINE)
            assert named, path.name
            assert all((MAN / f"{page}.{number}").exists() for page, number in named), path.name


def installed() -> set[str]:
    """Return what etc/package-files lays on a host, without units and manuals."""
    found = set()
    for line in (REPOSITORY / "etc/package-files").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            source, directory, _ = line.split()
            found |= {f"{directory}/{path.name}" for path in REPOSITORY.glob(source)}
    return {path for path in found if not path.startswith(("/usr/lib/systemd/system/", "/usr/share/man/"))}


def files_of_the_code() -> set[str]:
    """Return the paths of hardend's own that the code, the units and the installation name."""
    found = set()
    for tree in sources().values():
        texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        found |= {text for text in texts if isinstance(text, str) and OURS.fullmatch(text)}
    for path in (REPOSITORY / "run", *(REPOSITORY / "systemd").glob("*.*")):
        found |= set(OURS.findall(path.read_text("utf-8")))
    return {path.rstrip("./") for path in found} | installed()


def test_the_manual_has_every_file() -> None:
    told = marked(COMMAND, "FILES", "Pa")
    missing = {
        path
        for path in files_of_the_code()
        if not any(path == named or f"{named}/".startswith(f"{path}/") for named in told)
        and not any(path.startswith(f"{named}/") for named in told)
    }
    assert missing == set()


def test_every_file_of_the_manual_is_one_of_the_code() -> None:
    everything = [*sources(), REPOSITORY / "run", *(REPOSITORY / "systemd").glob("*.*")]
    text = "".join(path.read_text("utf-8") for path in everything)
    text += " ".join(path.name for path in (REPOSITORY / "etc").rglob("*"))
    told = set(marked(COMMAND, "FILES", "Pa")) - installed()
    assert told
    assert {path for path in told if Path(path).name not in text} == set()


# hardend.toml(5) --------------------------------------------------------------------------------------


def shipped_defaults() -> dict[tuple[str, str], str]:
    """Return table and key of the shipped file with what stands behind them."""
    table, found = "", {}
    for line in (REPOSITORY / "etc/hardend/hardend.toml").read_text("utf-8").splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            table = header[1]
        elif key := re.fullmatch(r"# (\w+) = (.*)", line):
            found[table, key[1]] = key[2]
    return found


def test_the_manual_has_every_key_with_its_default() -> None:
    told = {}
    for table in {table for table, _ in KEYS}:
        for item in mdoc.items(mdoc.section(CONFIGURATION, rf"[{table}]\&")):
            _, key, *default = item.words
            assert default[:2] == ["No", "="]
            told[table, key] = ", ".join(word.rstrip(",") for word in default[2:])
    assert told == {**shipped_defaults(), ("paths", "classes"): "{}"}
    assert told.keys() == KEYS.keys()


def test_the_manual_has_every_table_and_no_other() -> None:
    sections = re.findall(r"^\.Ss (\[+\w+\]+)\\&$", CONFIGURATION.read_text("utf-8"), re.MULTILINE)
    tables = {f"[{table}]" for table, _ in KEYS} | {"[[waivers]]", "[[blocks]]", "[[trusted_units]]"}
    assert sorted(sections) == sorted(tables)


@pytest.mark.parametrize(
    ("table", "keys"),
    [("waivers", _WAIVER_KEYS), ("blocks", _BLOCK_KEYS), ("trusted_units", _TRUSTED_KEYS)],
)
def test_the_manual_has_every_key_of_an_array_of_tables(table: str, keys: tuple[str, ...]) -> None:
    assert sorted(marked(CONFIGURATION, rf"[[{table}]]\&", "Va")) == sorted(keys)


def test_the_manual_has_every_class() -> None:
    found = {
        word
        for item in mdoc.items(mdoc.section(CONFIGURATION, r"[paths]\&"))
        for inner in item.items
        for word in inner.marked("Cm")
    }
    assert found == set(Class)


# io.hardend.Status(7) ---------------------------------------------------------------------------------


def interface_of_the_manual(section: str, macro: str) -> dict[str, list[str]]:
    """Return what a section describes: name -> its fields, with ? where they may be null, or its words."""
    return {
        item.marked(macro)[0]: ["".join(inner.words[1:]).replace("Ns", "") for inner in item.items]
        for item in mdoc.items(mdoc.section(INTERFACE, section))
    }


def fields(of: object) -> list[str]:
    if isinstance(of, dict):
        return [f"{name}?" if isinstance(t, tuple) and t[0] == "?" else name for name, t in of.items()]
    assert isinstance(of, tuple)
    return list(of)


def test_the_manual_has_the_whole_interface() -> None:
    declared = varlink_idl.parse((REPOSITORY / "etc/varlink/io.hardend.Status.varlink").read_text("utf-8"))
    methods = {name: fields(gives) for name, gives in declared.gives.items()}
    types = {name: fields(of) for name, of in declared.types.items()}
    errors = {name.rpartition(".")[2]: fields(of) for name, of in declared.errors.items()}
    assert interface_of_the_manual("METHODS", "Fn") == methods
    assert interface_of_the_manual("TYPES", "Vt") == types
    assert interface_of_the_manual("ERROR REPLIES", "Er") == errors
    taken = {item.words[1]: item.words[2:] for item in mdoc.items(mdoc.section(INTERFACE, "METHODS"))}
    assert taken == {name: list(takes) for name, takes in declared.takes.items() if isinstance(takes, dict)}
