# SPDX-License-Identifier: Apache-2.0
"""The rules of this repository that a program can check."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "hardend"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))
SPDX = "# SPDX-License-Identifier: Apache-2.0"
MAX_LINES = 400

# Imports go to a strictly lower rank; inside the packages also to the same.
RANKS = (
    {"errors", "model"},
    {"formats", "kernel", "command", "config_values", "settings", "textdiff"}
    | {"alert_spool", "edit_draft", "editor", "status_interface", "terminal", "varlink"},
    {"layout", "config", "boot", "probe", "quarantine", "removal", "jobs", "sandbox"}
    | {"journal", "state", "control", "smtp_dialogue", "varlink_client"}
    | {"alert_delivery", "blocks", "packages", "suggest_sources", "witness_marks", "witness_process"},
    {"classes", "baseline", "observe", "maps", "events", "own_files", "pause", "rules"}
    | {"status_view", "window"}
    | {"writers", "witness_log", "witness_trail"},
    {"reconcile", "aside", "mta", "gate", "outcome", "ratchet", "survey"}
    | {"affected", "attribution", "m4_files"}
    | {"metrics", "quarantine_reader", "status_answers", "window_diff", "window_files"}
    | {"alert_incidents", "suggest"},
    {"capture", "findings", "mcbuild", "table", "mta_memory"}
    | {"ordinary_user", "relay_probe", "smtp_outcome", "status_service"}
    | {"alert", "breach", "interruption", "suggest_text", "witness"},
    {"inspection", "plan", "propose", "spares", "verify", "watch", "mountwatch", "parties", "pending"}
    | {"origin", "promises"},
    {"restore", "standing", "strangers", "succession", "examine"}
    | {"arrival", "planned", "window_review", "worsening"},
    {"directory", "released", "window_mend"},
    {"enforcer"},
    {"commit", "lookout"},
    {"offer", "window_open", "kept_approval"},
    {"checked"},
    {"map_pass", "mta_pass", "guard_windows", "trusted"},
    {"rebuild", "collect", "report", "guard_verbs"},
    {"edit", "guard", "harden", "quarantine_use", "window_end"},
    {"package_window", "demo_guard", "demo_kept", "demo_packages", "demo_scratch"},
    {"demo_drifts", "demo_host"},
    {"demo"},
    {"cli"},
)
PACKAGES = {"formats", "kernel", "baseline", "rules", "cli"}
# Parts of the guard that are handed the guard itself name its type, under TYPE_CHECKING.
NAME_THE_TYPE_OF = {"report": "guard", "guard_verbs": "guard", "guard_windows": "guard"}
ENTRY = {"__init__", "__main__"}
ALLOWED = {"watchdog": {"watch"}, "systemd": {"journal", "events"}}
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "core", "base"}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def unit_of(path: Path) -> str:
    """Return what a module ranks as: its own name, or that of the package it lies in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rank_of(unit: str) -> int | None:
    return next((rank for rank, units in enumerate(RANKS) if unit in units), None)


def nodes_of(node: ast.AST, *, types: bool) -> Iterator[ast.AST]:
    yield node
    only_types = (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )
    if types or not only_types:
        for child in ast.iter_child_nodes(node):
            yield from nodes_of(child, types=types)


def imports_of(path: Path, *, types: bool = True) -> set[str]:
    """Return the dotted names of what a module imports, wherever it does.

    ``types=False`` leaves out what stands under ``if TYPE_CHECKING:``.
    """
    found = set()
    for node in nodes_of(parsed(path), types=types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_to_a_lower_rank(path: Path) -> None:
    unit = unit_of(path)
    if unit in ENTRY:
        return
    own = rank_of(unit)
    assert own is not None, f"{unit} has no rank: enter it in RANKS"
    run_time = imports_of(path, types=False)
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] != "hardend" or parts[1] == "__version__":
            continue
        if name not in run_time and NAME_THE_TYPE_OF.get(unit) == parts[1]:
            continue
        other = rank_of(parts[1])
        assert other is not None, f"{name}: {parts[1]} has no rank"
        inside = unit == parts[1] and unit in PACKAGES
        assert other < own or inside, f"{unit} (rank {own}) imports {name} (rank {other})"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_dependency_is_imported_only_where_it_belongs(path: Path) -> None:
    for dependency, where in ALLOWED.items():
        if unit_of(path) not in where:
            used = [name for name in imports_of(path) if name.split(".")[0] == dependency]
            assert not used, f"{dependency} is for {', '.join(sorted(where))} only"


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=name_of)
def test_a_module_begins_with_the_licence_and_its_purpose(path: Path) -> None:
    text = path.read_text("utf-8")
    if text or path.name != "__init__.py":
        assert text.partition("\n")[0] == SPDX
        assert ast.get_docstring(parsed(path)), "no docstring"


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=name_of)
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_named_for_what_it_is(path: Path) -> None:
    assert path.stem not in FORBIDDEN
    assert unit_of(path) not in FORBIDDEN


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_everything_public_says_its_contract(path: Path) -> None:
    silent = []

    def look(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                if child.name.startswith("_"):
                    continue
                if not ast.get_docstring(child):
                    silent.append(f"{child.name} (line {child.lineno})")
                if isinstance(child, ast.ClassDef):
                    look(child)

    look(parsed(path))
    assert silent == []


def test_every_rank_names_what_exists() -> None:
    existing = {unit_of(path) for path in MODULES}
    assert set().union(*RANKS) <= existing


def test_no_file_of_the_repository_is_written_by_a_build() -> None:
    """Lists what git would take in: nothing generated, no environment, no cache."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={REPOSITORY}", "ls-files", "-co", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    generated = (".pyc", ".egg-info", ".venv/", "build/", "_cache/")
    assert [name for name in listed if any(mark in name for mark in generated)] == []
