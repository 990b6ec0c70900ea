# SPDX-License-Identifier: Apache-2.0
"""hardend.toml: defaults, fragments, and every fault at once."""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from argparse import ArgumentParser
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.cli import config as verb
from hardend.config import KEYS, Expiry, Restart, Settings, fragments, load
from hardend.errors import ConfigError
from hardend.model import Class, Host, Mode
from tests.unit.trees import DEBIAN, write

SHIPPED = Path(__file__).resolve().parents[2] / "etc/hardend/hardend.toml"
MAIN = "/etc/hardend/hardend.toml"
KEY_LINE = re.compile(r"^# (\w+ = .*)$", re.MULTILINE)

WORDS = st.sampled_from(["guard", "mode", "enforce", "paths", "classes", "/etc", "5m", "[", "]", "=", '"'])
DOCUMENTS = st.one_of(st.binary(), st.lists(WORDS).map(lambda words: " ".join(words).encode()))


def host_of(root: Path, main: bytes | None = None, **more: bytes) -> Host:
    """Return a host with this hardend.toml and these fragments (by name, without .toml)."""
    files: dict[str, bytes | str | None] = {"/etc": None}
    if main is not None:
        files[MAIN] = main
    files |= {f"/etc/hardend/conf.d/{name}.toml": content for name, content in more.items()}
    return write(root, files)


def faults(host: Host) -> list[str]:
    """Return the faults, the root cut off."""
    with pytest.raises(ConfigError) as caught:
        load(host)
    return [fault.replace(host.root, "") for fault in caught.value.faults]


def fault(root: Path, text: str) -> str:
    found = faults(host_of(root, text.encode()))
    assert len(found) == 1
    return found[0]


# The shipped file ---------------------------------------------------------------------------------


def test_the_shipped_file_sets_nothing(tmp_path: Path) -> None:
    assert load(host_of(tmp_path, SHIPPED.read_bytes())) == Settings()
    document = tomllib.loads(SHIPPED.read_text("utf-8"))
    assert document.pop("paths") == {"classes": {}}
    tables = ("guard", "windows", "rebuild", "quarantine", "baseline", "alerts", "rules")
    assert document == {name: {} for name in tables}


def test_uncommenting_every_line_of_it_gives_exactly_the_defaults(tmp_path: Path) -> None:
    text = KEY_LINE.sub(r"\1", SHIPPED.read_text("utf-8"))
    assert load(host_of(tmp_path, text.encode())) == Settings()
    document = tomllib.loads(text)
    named = {(table, key) for table, content in document.items() for key in content}
    assert named == set(KEYS)
    for (table, key), (name, check) in KEYS.items():
        assert check(document[table][key]) == getattr(Settings(), name)


def test_every_setting_has_a_key_and_every_key_a_setting() -> None:
    names = [name for name, _ in KEYS.values()]
    arrays = ("waivers", "blocks", "trusted_units")
    assert sorted([*names, *arrays]) == sorted(field.name for field in fields(Settings))


def test_every_key_of_it_has_a_sentence_above() -> None:
    lines = SHIPPED.read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        if KEY_LINE.match(line):
            above = lines[number - 1]
            assert above.startswith("# ")
            assert not KEY_LINE.match(above)


# What is read -------------------------------------------------------------------------------------


def test_no_file_is_all_defaults(tmp_path: Path) -> None:
    assert load(host_of(tmp_path)) == Settings()
    assert fragments(host_of(tmp_path)) == []


def test_every_key_is_understood(tmp_path: Path) -> None:
    text = b"""
    [guard]
    mode = "observe"
    sweep_ms = 100
    hash_interval = "1h"
    contested_count = 3
    contested_within = "2m"
    spare_max_mib = 1
    max_off = "7d"
    [windows]
    max_window = "1d"
    default_window = "1h"
    on_expiry = "revert"
    warn = ["2m", "1h", "2m"]
    [rebuild]
    restart = "never"
    reload_interval = "90s"
    map_exchange_interval_ms = 2000
    command_timeout = "5m"
    [quarantine]
    max_mib = 64
    max_age = "30d"
    object_max_mib = 2
    [paths]
    lock = ["/etc/mail/helpfile"]
    unlock = ["/etc/mail/*.mc", "/etc/aliases", "/etc/aliases"]
    protect = ["/"]
    classes = { "/etc/mail/access" = "checked" }
    """
    assert load(host_of(tmp_path, text)) == Settings(
        mode=Mode.OBSERVE,
        sweep_ms=100,
        hash_interval_s=3600,
        contested_count=3,
        contested_within_s=120,
        spare_max_mib=1,
        max_off=604800,
        max_window_s=86400,
        default_window_s=3600,
        on_expiry=Expiry.REVERT,
        warn_s=(3600, 120),
        restart=Restart.NEVER,
        reload_interval_s=90,
        map_exchange_interval_ms=2000,
        command_timeout_s=300,
        quarantine_max_mib=64,
        quarantine_max_days=30,
        quarantine_object_max_mib=2,
        lock=("/etc/mail/helpfile",),
        unlock=("/etc/mail/*.mc", "/etc/aliases"),
        protect=("/",),
        classes=(("/etc/mail/access", Class.CHECKED),),
    )


def test_fragments_count_in_the_order_of_their_names(tmp_path: Path) -> None:
    host = host_of(
        tmp_path,
        b'[guard]\nmode = "observe"\nsweep_ms = 100\n[paths]\nlock = ["/a", "/b"]\n',
        b=b'[paths]\nlock = ["/c"]\n[guard]\nsweep_ms = 300\n',
        a=b"[guard]\nsweep_ms = 200\ncontested_count = 5\n",
    )
    settings = load(host)
    assert (settings.mode, settings.sweep_ms, settings.contested_count) == (Mode.OBSERVE, 300, 5)
    assert settings.lock == ("/c",)
    assert [os.path.basename(path) for path in fragments(host)] == ["hardend.toml", "a.toml", "b.toml"]


def test_classes_of_fragments_merge_and_what_is_named_again_counts_last(tmp_path: Path) -> None:
    host = host_of(
        tmp_path,
        b'[paths.classes]\n"/etc/a" = "checked"\n"/etc/*" = "ignored"\n',
        a=b'[paths.classes]\n"/etc/a" = "locked"\n',
    )
    assert load(host).classes == (("/etc/*", Class.IGNORED), ("/etc/a", Class.LOCKED))


def test_other_files_in_conf_d_are_none_of_it(tmp_path: Path) -> None:
    host = host_of(tmp_path)
    for name in (".hidden.toml", "a.toml~", "a.toml.dpkg-new", "README"):
        write(tmp_path, {f"/etc/hardend/conf.d/{name}": b"nonsense"})
    assert load(host) == Settings()


def test_links_of_a_tree_are_followed_inside_it(tmp_path: Path) -> None:
    host = write(tmp_path, {MAIN: "/srv/h.toml", "/srv/h.toml": b'[guard]\nmode = "observe"\n'})
    assert load(host).mode is Mode.OBSERVE


# Faults -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[guard]\nsweep_ms = true", "guard.sweep_ms = True: must be a whole number from 50 to 60000"),
        ("[guard]\nsweep_ms = 49", "guard.sweep_ms = 49: must be a whole number from 50 to 60000"),
        ("[guard]\nsweep_ms = 100.0", "guard.sweep_ms = 100.0: must be a whole number"),
        ('[guard]\nsweep_ms = "100"', "guard.sweep_ms = '100': must be a whole number"),
        ('[guard]\nmode = "Enforce"', 'guard.mode = \'Enforce\': must be one of "enforce", "observe"'),
        ("[guard]\nmode = 1", 'guard.mode = 1: must be one of "enforce", "observe"'),
        ("[guard]\nhash_interval = 300", 'must be a time such as "30s", "5m", "2h", from "10s" to "1d"'),
        ('[guard]\nhash_interval = "9s"', "guard.hash_interval = '9s': must be a time"),
        ('[guard]\nhash_interval = "5 m"', "guard.hash_interval = '5 m': must be a time"),
        ('[guard]\nhash_interval = "-5m"', "guard.hash_interval = '-5m': must be a time"),
        ('[guard]\nhash_interval = "\u0665m"', "must be a time"),  # a digit, but not one of ours
        ('[quarantine]\nmax_age = "36h"', "quarantine.max_age = '36h': must be a time in whole days"),
        ('[rebuild]\nrestart = ["never"]', 'one of "when-needed", "always", "never"'),
        ('[windows]\nwarn = "10m"', "windows.warn = '10m': must be a list of times"),
        ('[windows]\nwarn = ["10m", "9s"]', 'must be a list of times from "10s" to "1d"'),
        ('[windows]\non_expiry = "keep"', 'one of "keep-if-no-worse", "revert"'),
        ('[windows]\nmax_window = "10m"', "default_window = 1800s: must be at most windows.max_window, 600s"),
        ('[paths]\nlock = "/etc/mail/access"', "paths.lock = '/etc/mail/access': must be a list"),
        ('[paths]\nlock = ["etc"]', "must be a list of absolute paths"),
        ('[paths]\nlock = ["/etc/../x"]', "must be a list of absolute paths"),
        ('[paths]\nlock = ["/etc/mail/"]', "must be a list of absolute paths"),
        ('[paths]\nlock = ["/etc\\u0000"]', "must be a list of absolute paths"),
        ("[paths]\nlock = [1]", "must be a list of absolute paths"),
        ("[paths]\nclasses = []", 'such as "/etc/mail/access" = "checked"'),
        (
            '[paths.classes]\n"/a" = "locked"\n"/b" = "lockd"',
            "each with one of locked, checked, attributes, ignored; this is not: {'/b': 'lockd'}",
        ),
        ('[paths.classes]\n"b" = "locked"', "this is not: {'b': 'locked'}"),
        ('[paths.classes]\n"/b" = ["locked"]', "this is not: {'/b': ['locked']}"),
        ("[guard]\nsweep = 1", "guard.sweep: unknown key; did you mean sweep_ms?"),
        ("[guard]\nzzz = 1", "guard.zzz: unknown key; known are mode, sweep_ms, hash_interval"),
        ("[gaurd]\nmode = 1", "[gaurd]: unknown table; did you mean guard?"),
        ("guard = 1", "guard: must be a table, written [guard]"),
        ("[[guard]]\nsweep_ms = 100", "guard: must be a table, written [guard]"),
        ('[guard]\n"a\\u001b\\n" = 1', r"guard.a\x1b\x0a: unknown key"),
        (
            '[paths]\nlock = ["/a", "/b"]\nunlock = ["/b"]',
            "paths.lock and paths.unlock: both name /b",
        ),
        (
            "[quarantine]\nmax_mib = 4",
            "quarantine.object_max_mib = 8: must be at most quarantine.max_mib, 4",
        ),
        ("[guard\n", "hardend.toml:1: not TOML: "),
        ("[guard]\n\nmode = \n", "hardend.toml:3: not TOML: Invalid value"),
        ("[guard]\nmode = [\n", "hardend.toml: not TOML: Invalid value (at end of document)"),
        ("a = " + "[" * 5000, "hardend.toml: not TOML: nested too deeply"),
    ],
)
def test_a_fault_names_file_key_and_what_is_accepted(tmp_path: Path, text: str, expected: str) -> None:
    found = fault(tmp_path, text)
    assert found.startswith(MAIN)
    assert expected in found
    assert found.isprintable()


def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    host = host_of(
        tmp_path,
        b"[guard]\nsweep_ms = 1\nmod = 2\n[quarantines]\n",
        a=b"[guard]\ncontested_count = 1\n",
        b=b"broken\n",
        c=b"# caf\xe9\n\n\xff",
    )
    assert [found.split(": ")[0] for found in faults(host)] == [
        MAIN, MAIN, MAIN,
        "/etc/hardend/conf.d/a.toml", "/etc/hardend/conf.d/b.toml:1", "/etc/hardend/conf.d/c.toml:1",
    ]  # fmt: skip


def test_what_cannot_be_read_is_a_fault_and_no_traceback(tmp_path: Path) -> None:
    host = host_of(tmp_path)
    links: dict[str, bytes | str | None] = {"loop": "loop.toml", "nowhere": "/gone", "real": None}
    write(tmp_path, {f"/etc/hardend/conf.d/{name}.toml": to for name, to in links.items()})
    os.mkfifo(tmp_path / "etc/hardend/conf.d/fifo.toml")
    (tmp_path / "etc/hardend/hardend.toml").mkdir()
    assert faults(host) == [
        f"{MAIN}: cannot be read: Is a directory",
        "/etc/hardend/conf.d/fifo.toml: cannot be read: not a regular file",
        "/etc/hardend/conf.d/loop.toml: cannot be read: too many symbolic links",
        "/etc/hardend/conf.d/nowhere.toml: cannot be read: No such file or directory",
        "/etc/hardend/conf.d/real.toml: cannot be read: Is a directory",
    ]


def test_a_conf_d_that_is_no_directory_is_a_fault(tmp_path: Path) -> None:
    host = write(tmp_path, {"/etc/hardend/conf.d": b""})
    assert faults(host) == ["/etc/hardend/conf.d: cannot be read: Not a directory"]
    with pytest.raises(ConfigError):
        fragments(host)


@pytest.mark.root
def test_a_file_that_is_not_ours_to_read_is_a_fault() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as root:
        host = host_of(Path(root), b"")
        Path(root).chmod(0o755)
        (Path(root) / "etc/hardend/hardend.toml").chmod(0)
        user = os.geteuid()
        os.seteuid(65534)
        try:
            found = faults(host)
        finally:
            os.seteuid(user)
    assert found == [f"{MAIN}: cannot be read: Permission denied"]


@given(DOCUMENTS)
def test_any_bytes_are_settings_or_faults(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = tmp_path_factory.mktemp("any")
    try:
        assert isinstance(load(host_of(root, data)), Settings)
    except ConfigError as error:
        assert error.faults  # noqa: PT017 - both outcomes are right


# hardend config check -----------------------------------------------------------------------------


def check(host: Host) -> int:
    parser = ArgumentParser()
    verb.register(parser.add_subparsers())
    args = parser.parse_args(["config", "check", "--root", host.root])
    return int(args.run(args))


def test_check_names_the_files_that_were_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = host_of(tmp_path, b"", a=b"")
    assert check(host) == 0
    out = capsys.readouterr().out.replace(host.root, "")
    assert out.startswith(f"no fault in {MAIN}, /etc/hardend/conf.d/a.toml\n")
    assert "its paths were not looked up: no sendmail.cf" in out


def test_check_of_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(write(tmp_path, DEBIAN)) == 0
    assert capsys.readouterr().out == "no fault in the defaults: there is no file\n"


def test_check_tells_what_keeps_a_trusted_unit_from_being_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, DEBIAN)
    host = host_of(
        tmp_path,
        b'[[trusted_units]]\nunit = "puppet.service"\nreason = "x"\n'
        b'paths = ["/etc/mail/access", "/etc/mail/acess"]\n',
    )
    assert check(host) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: trusted_units: /etc/mail/access: immutable, refuses every writer: paths.unlock is for it",
        "note: trusted_units: /etc/mail/acess: no file that is held here has this name (a link has none)",
        "note: trusted_units: nobody tells who writes: systemctl enable --now hardend-witness",
    ]


def test_check_tells_what_is_asked_for_in_vain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, DEBIAN)
    host = host_of(
        tmp_path,
        b'[paths]\nlock = ["/etc/mail/aliases.db", "/etc/mail/helpfile"]\n'
        b'unlock = ["/etc/mail/acess", "/etc/aliases"]\nprotect = ["/opt/x"]\n'
        + b"".join(
            b'[[blocks]]\npath = "%s"\nbegin = "# a"\nend = "# b"\nreason = "x"\n' % path
            for path in (b"/etc/mail/access", b"/etc/mail/acess")
        ),
    )
    assert check(host) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == [
        'note: paths.lock: /etc/mail/aliases.db: no file of class "locked" here has this name',
        "note: paths.unlock: /etc/mail/acess: nothing that is held here has this name",
        "note: paths.protect: /opt/x: nothing that is held here has this name",
        "note: blocks: /etc/mail/access: begin and end do not both stand in it: nothing is given away",
        "note: blocks: /etc/mail/acess: no file that is held here has this name (a link has none)",
    ]


def test_check_refuses_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean guard"):
        check(host_of(tmp_path, b"[gard]\n"))
