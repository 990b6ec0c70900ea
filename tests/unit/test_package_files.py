# SPDX-License-Identifier: Apache-2.0
"""What is installed: every file of the checkout that belongs on a host, once, and what the scripts name."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from hardend import __version__, sandbox
from hardend.own_files import running_program

ROOT = Path(__file__).resolve().parents[2]
LIST = "etc/package-files"
NOT_ON_A_HOST = {LIST, "etc/ansible/baseline.yml"}  # the second is for the machine that manages hosts
PROGRAMS = {"/usr/lib/hardend/venv/bin/python", "/usr/bin/systemd-tmpfiles", "/bin/echo"}
SCRIPTS = ("debian/postinst", "debian/prerm", "debian/postrm", "run")


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def rows() -> list[tuple[str, str, str]]:
    found = []
    for line in text(LIST).splitlines():
        if line and not line.startswith("#"):
            sources, directory, mode = line.split()
            found.append((sources, directory, mode))
    return found


def installed() -> dict[str, str]:
    """Return the path on a host of every file of the list, and its mode."""
    return {
        f"{directory}/{path.name}": mode for sources, directory, mode in rows() for path in ROOT.glob(sources)
    }


def units() -> list[Path]:
    return [path for path in (ROOT / "systemd").iterdir() if path.is_file()]


def test_every_file_is_in_the_list_once() -> None:
    listed = Counter(str(path.relative_to(ROOT)) for sources, _, _ in rows() for path in ROOT.glob(sources))
    shipped = {
        str(path.relative_to(ROOT))
        for top in ("etc", "systemd", "man")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    }
    assert set(listed) - {"debian/sbin/hardend"} == shipped - NOT_ON_A_HOST
    assert set(listed.values()) == {1}
    assert len(installed()) == len(listed)  # no two come to lie on one path


@pytest.mark.parametrize("row", rows(), ids=lambda row: str(row[0]))
def test_a_line_of_the_list_finds_a_file(row: tuple[str, str, str]) -> None:
    sources, directory, mode = row
    assert list(ROOT.glob(sources))
    assert directory.startswith("/")
    assert mode in {"0644", "0755", "config"}


@pytest.mark.parametrize("unit", units(), ids=lambda unit: str(unit.name))
def test_a_unit_runs_what_is_installed(unit: Path) -> None:
    for line in unit.read_text("utf-8").splitlines():
        if match := re.match(r"Exec\w+=[-:+!@]*(\S+)", line):
            assert match[1] in {*installed(), *PROGRAMS}
        if match := re.match(r"ExecStartPre=.*--create (\S+)", line):
            assert match[1] in installed()


@pytest.mark.parametrize("script", ["debian/prerm", "run"])
def test_what_can_be_enabled_is_disabled_when_hardend_goes(script: str) -> None:
    enabled = {unit.name for unit in units() if "\n[Install]\n" in unit.read_text("utf-8")}
    assert enabled
    match = re.search(r"for unit in (.*); do\n *systemctl disable --now", text(script))
    assert match
    assert set(match[1].split()) == enabled


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_name_units_that_exist(script: str) -> None:
    made_on_the_way = {"hardend-on.timer"}  # by systemd-run
    named = set(re.findall(r"\bhardend[\w@-]*\.(?:service|socket|timer)\b", text(script)))
    assert named - made_on_the_way <= {unit.name for unit in units()}


def test_the_account_of_confined_checks_is_the_one_that_is_made() -> None:
    lines = [line for line in text("etc/sysusers.d/hardend.conf").splitlines() if not line.startswith("#")]
    assert len(lines) == 1
    assert lines[0].split()[:2] == ["u", sandbox.ACCOUNT]
    assert lines[0].endswith(" / /usr/sbin/nologin")
    for script in ("debian/postrm", "run"):
        assert f"userdel {sandbox.ACCOUNT}" in text(script)


def test_versions_agree() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    match = re.match(r"hardend \((.*?)\) ", text("debian/changelog"))
    assert match
    assert {project["version"], match[1]} == {__version__}


def test_the_package_needs_a_python_that_its_environment_is_linked_for() -> None:
    match = re.search(r"for minor in ([\d ]+); do", text("run"))
    assert match
    minors = [int(minor) for minor in match[1].split()]
    assert minors == list(range(minors[0], minors[-1] + 1))
    depends = f"python3 (>= 3.{minors[0]}), python3 (<< 3.{minors[-1] + 1})"
    assert f"Depends: {depends}, python3-systemd," in text("debian/control")
    project = tomllib.loads(text("pyproject.toml"))["project"]
    assert project["requires-python"] == f">=3.{minors[0]}"


def test_both_ways_to_install_print_the_same_three_commands() -> None:
    command = re.compile(r"^  (?:hardend|systemctl) .*$", re.MULTILINE)
    said = command.findall(text("run"))
    assert len(said) == 3
    assert said == command.findall(text("debian/postinst"))


def test_the_command_is_the_entry_point_of_the_wheel() -> None:
    scripts = tomllib.loads(text("pyproject.toml"))["project"]["scripts"]
    assert scripts == {"hardend": "hardend.cli.main:main"}
    assert "python -I -m hardend" in text("debian/sbin/hardend")
    assert Path(running_program().package, "__main__.py").is_file()
