# SPDX-License-Identifier: Apache-2.0
"""Which paths are held, as what, and with which lock, per layout and as the configuration says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.classes import class_of, matches, protected
from hardend.config import Block, Settings
from hardend.layout import Layout, find
from hardend.model import Class, MapSpec, Protected, Role
from tests.unit.trees import CLASSIC, DEBIAN, REDHAT, write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LOCKED, CHECKED, ATTRIBUTES, IGNORED = Class.LOCKED, Class.CHECKED, Class.ATTRIBUTES, Class.IGNORED
ACCESS = MapSpec("makemap", "hash", "/etc/mail/access", "/etc/mail/access.db")
ALIASES = MapSpec("newaliases", "hash", "/etc/aliases", "/etc/mail/aliases.db")
VIRTUSER = MapSpec("makemap", "hash", "/etc/mail/virtusertable", "/etc/mail/virtusertable.db")
PLAIN = Layout(
    profile="debian",
    mail_dir="/etc/mail",
    cf="/etc/mail/sendmail.cf",
    aliases=(ALIASES,),
    maps=(ACCESS, VIRTUSER),
    access="/etc/mail/access",
    smrsh_dir="/etc/mail/smrsh",
)
NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1)


def held(
    root: Path, files: Mapping[str, bytes | str | None], settings: Settings | None = None
) -> dict[str, Protected]:
    host = write(root, files)
    found = protected(host, find(host), settings or Settings())
    assert len({item.path for item in found}) == len(found)
    return {item.path: item for item in found}


def locked(found: dict[str, Protected]) -> set[str]:
    return {path for path, item in found.items() if item.immutable}


def roles(found: dict[str, Protected], role: Role) -> set[str]:
    return {path for path, item in found.items() if item.role is role}


def test_debian_is_held_as_the_guide_has_it(tmp_path: Path) -> None:
    found = held(tmp_path, DEBIAN)
    assert locked(found) == {
        "/etc/aliases", "/etc/mail/access", "/etc/mail/local-host-names", "/etc/mail/sendmail.cf",
        "/etc/mail/sendmail.mc", "/etc/mail/submit.cf", "/etc/mail/submit.mc",
    }  # fmt: skip
    assert roles(found, Role.ANCESTOR) == {"/", "/etc", "/var", "/var/spool"}
    assert roles(found, Role.DIRECTORY) == {
        "/etc/mail", "/etc/mail/m4", "/etc/mail/peers", "/etc/mail/sasl", "/etc/mail/tls",
    }  # fmt: skip
    assert roles(found, Role.CLOSED) == {"/etc/mail/smrsh"}
    assert roles(found, Role.LINK) == {"/etc/mail/aliases", "/etc/mail/smrsh/procmail"}
    assert roles(found, Role.QUEUE) == {"/var/spool/mqueue", "/var/spool/mqueue-client"}
    assert roles(found, Role.MAP) == {"/etc/mail/access.db", "/etc/mail/aliases.db"}
    assert {path for path, item in found.items() if item.cls is ATTRIBUTES} == {
        "/etc/mail/authinfo", "/etc/mail/tls/sendmail-common.key",
    }  # fmt: skip


def test_what_debians_scripts_and_editors_write_is_not_held(tmp_path: Path) -> None:
    junk: dict[str, bytes | str | None] = {
        f"/etc/mail/{name}": b""
        for name in ("a~", ".a.swp", "#a#", "sendmail.cf.errors", "x.dpkg-dist", "x.bak", "x.old")
    }
    found = held(tmp_path, {**DEBIAN, **junk})
    assert not set(junk) & set(found)
    for name in ("Makefile", "databases", "sendmail.conf", "m4/dialup.m4", "orphan.db", "access.new"):
        assert f"/etc/mail/{name}" not in found


def test_redhat_is_held_with_its_maps_by_class(tmp_path: Path) -> None:
    found = held(tmp_path, REDHAT)
    assert locked(found) == {
        "/etc/aliases", "/etc/mail/access", "/etc/mail/sendmail.cf", "/etc/mail/sendmail.mc",
        "/etc/mail/submit.cf", "/etc/mail/submit.mc",
    }  # fmt: skip
    expected = {
        "/etc/mail/virtusertable": CHECKED,
        "/etc/mail/virtusertable.db": CHECKED,
        "/etc/mail/mailertable": CHECKED,
        "/etc/mail/authinfo": ATTRIBUTES,
        "/etc/mail/authinfo.db": ATTRIBUTES,
        "/etc/mailman/aliases": CHECKED,
        "/etc/mailman/aliases.db": CHECKED,
        "/etc/aliases.db": LOCKED,
        "/etc/mail/users.txt": LOCKED,
        "/etc/mail/make": LOCKED,
        "/etc/mail/Makefile": LOCKED,
    }
    assert {path: found[path].cls for path in expected} == expected
    assert found["/etc/mail/virtusertable.db"].spec == MapSpec(
        "makemap", "hash", "/etc/mail/virtusertable", "/etc/mail/virtusertable.db", ("-f",)
    )
    assert roles(found, Role.QUEUE) == {
        "/var/spool/mqueue/q1", "/var/spool/mqueue/q1/qf", "/var/spool/mqueue/q2",
        "/var/spool/mqueue/slow", "/var/spool/clientmqueue",
    }  # fmt: skip
    assert found["/var/spool/mqueue"].role is Role.ANCESTOR
    assert found["/etc/smrsh"].role is Role.CLOSED
    assert found["/etc/mailman"].role is Role.ANCESTOR
    assert "/etc/mail/statistics" not in found


def test_the_classic_layout_is_held_outside_the_mail_directory_too(tmp_path: Path) -> None:
    found = held(tmp_path, CLASSIC)
    assert locked(found) == {
        "/etc/aliases", "/etc/mail/access", "/etc/mail/relay-domains", "/etc/null.mc",
        "/etc/sendmail.cf", "/etc/sendmail.cw", "/etc/sendmail.mc",
    }  # fmt: skip
    assert found["/etc"].role is Role.ANCESTOR
    assert "/etc/passwd" not in found
    assert found["/etc/mail/access.pag"].role is Role.MAP
    assert found["/etc/mail/access.dir"] == Protected("/etc/mail/access.dir", Role.SOURCE, ATTRIBUTES)


def test_without_a_mail_directory_etc_is_only_an_ancestor(tmp_path: Path) -> None:
    found = held(tmp_path, {"/etc/sendmail.cf": b"V10\n", "/etc/passwd": b""})
    assert set(found) == {"/", "/etc", "/etc/sendmail.cf"}


@pytest.mark.parametrize("files", [DEBIAN, REDHAT, CLASSIC])
def test_a_directory_stands_before_what_it_holds(
    tmp_path: Path, files: Mapping[str, bytes | str | None]
) -> None:
    host = write(tmp_path, files)
    seen: set[str] = set()
    for item in protected(host, find(host), Settings()):
        assert item.path == "/" or os.path.dirname(item.path) in seen
        seen.add(item.path)


@pytest.mark.parametrize("files", [DEBIAN, REDHAT, CLASSIC])
def test_flags_are_only_for_sources_and_specs_only_for_maps(
    tmp_path: Path, files: Mapping[str, bytes | str | None]
) -> None:
    everything = Settings(lock=("/*", "/*/*", "/*/*/*", "/*/*/*/*"))
    for item in held(tmp_path, files, everything).values():
        assert item.immutable == (item.role is Role.SOURCE and item.cls is LOCKED)
        assert (item.spec is not None) == (item.role is Role.MAP)


def test_every_member_of_a_closed_directory_is_held_whatever_its_name(tmp_path: Path) -> None:
    found = held(tmp_path, DEBIAN)
    assert found["/etc/mail/smrsh/own.bak"] == Protected("/etc/mail/smrsh/own.bak", Role.SOURCE, LOCKED)


def test_a_map_without_its_source_is_not_held(tmp_path: Path) -> None:
    files = {path: content for path, content in DEBIAN.items() if path != "/etc/mail/access"}
    assert "/etc/mail/access.db" not in held(tmp_path, files)


def test_a_link_to_a_queue_is_held_beside_the_queue(tmp_path: Path) -> None:
    files = {path: what for path, what in DEBIAN.items() if "spool/mqueue/" not in path}
    found = held(tmp_path, {**files, "/var/spool/mqueue": "/data/queue", "/data/queue": None})
    assert found["/var/spool/mqueue"].role is Role.LINK
    assert found["/data/queue"].role is Role.QUEUE
    assert found["/data"].role is Role.ANCESTOR


def test_a_fifo_in_the_mail_directory_is_no_part_of_the_plan(tmp_path: Path) -> None:
    write(tmp_path, DEBIAN)
    os.mkfifo(tmp_path / "etc/mail/fifo")
    host = write(tmp_path, {})
    assert "/etc/mail/fifo" not in {item.path for item in protected(host, find(host), Settings())}


def test_a_link_to_a_directory_is_not_entered(tmp_path: Path) -> None:
    found = held(tmp_path, {**DEBIAN, "/etc/mail/all": "/etc", "/etc/shadow": b""})
    assert found["/etc/mail/all"].role is Role.LINK
    assert "/etc/mail/all/shadow" not in found


# What hardend.toml changes ------------------------------------------------------------------------


def test_one_key_moves_a_file_its_map_follows_and_its_lock_goes(tmp_path: Path) -> None:
    found = held(tmp_path, DEBIAN, Settings(classes=(("/etc/mail/access", CHECKED),)))
    assert (found["/etc/mail/access"].cls, found["/etc/mail/access"].immutable) == (CHECKED, False)
    assert found["/etc/mail/access.db"].cls is CHECKED


def test_a_file_with_a_block_is_checked_and_not_locked_and_its_map_follows(tmp_path: Path) -> None:
    block = Block("/etc/aliases", "lists", pattern="*: x")
    found = held(tmp_path, DEBIAN, Settings(blocks=(block,)))
    assert (found["/etc/aliases"].cls, found["/etc/aliases"].immutable) == (CHECKED, False)
    assert found["/etc/mail/aliases.db"].cls is CHECKED
    assert found["/etc/mail/access"].cls is LOCKED


def test_what_is_moved_to_ignored_disappears_with_its_map(tmp_path: Path) -> None:
    found = held(tmp_path, DEBIAN, Settings(classes=(("/etc/mail/access", IGNORED),)))
    assert not {"/etc/mail/access", "/etc/mail/access.db"} & set(found)


def test_an_ignored_directory_takes_its_content_along(tmp_path: Path) -> None:
    found = held(tmp_path, DEBIAN, Settings(classes=(("/etc/mail/tls", IGNORED),)))
    assert not [path for path in found if path.startswith("/etc/mail/tls")]


@pytest.mark.parametrize(
    ("classes", "path", "expected"),
    [
        ((), "/etc/mail/access", LOCKED),
        ((("/etc/mail/*", IGNORED), ("/etc/mail/access", CHECKED)), "/etc/mail/access", CHECKED),
        ((("/etc/mail/access", CHECKED), ("/etc/mail/*", IGNORED)), "/etc/mail/access", CHECKED),
        ((("/etc/mail/*", IGNORED), ("/etc/mail/a*", CHECKED)), "/etc/mail/access", CHECKED),
        ((("/etc/mail/a*", CHECKED), ("/etc/mail/*", IGNORED)), "/etc/mail/access", IGNORED),
        ((("/etc/mail", ATTRIBUTES),), "/etc/mail/peers/provider", ATTRIBUTES),
        ((("/etc/mail", ATTRIBUTES), ("/etc/mail/peers", LOCKED)), "/etc/mail/peers/x", LOCKED),
        ((("/etc/mail/*", IGNORED),), "/etc/aliases", LOCKED),
        ((("/etc/mail/*.db", IGNORED),), "/etc/mail/access.db", IGNORED),
        ((("/etc/mail", ATTRIBUTES), ("/etc/mail/access", LOCKED)), "/etc/mail/access.db", LOCKED),
        ((("/etc/mail/x.new", LOCKED),), "/etc/mail/x.new", LOCKED),
        ((("/etc/mail/smrsh/own", ATTRIBUTES),), "/etc/mail/smrsh/own", ATTRIBUTES),
    ],
)
def test_the_nearest_and_latest_word_counts(
    classes: tuple[tuple[str, Class], ...], path: str, expected: Class
) -> None:
    assert class_of(path, PLAIN, Settings(classes=classes)) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sendmail.cf.new", IGNORED),
        ("orphan.db", IGNORED),
        (".access.swp", IGNORED),
        (".hardend", IGNORED),
        ("m4/provider.m4", IGNORED),
        ("m4/provider.m4.sh", LOCKED),
        ("peers/provider", LOCKED),
        ("new", LOCKED),
        ("virtusertable", CHECKED),
        ("virtusertable.db", CHECKED),
        ("genericstable", CHECKED),
        ("authinfo.txt", ATTRIBUTES),
        ("server.key", ATTRIBUTES),
        ("tls/anything", ATTRIBUTES),
        ("smrsh/sh.bak", LOCKED),
        ("smrsh/x.db", LOCKED),
        ("stranger", LOCKED),
    ],
)
def test_a_file_that_appears_has_a_class_by_its_name(name: str, expected: Class) -> None:
    assert class_of(f"/etc/mail/{name}", PLAIN, Settings()) is expected


def test_a_file_that_the_configuration_names_is_held_whatever_its_name() -> None:
    feed = MapSpec("makemap", "hash", "/etc/mail/feed.old", "/etc/mail/feed.old.db")
    layout = Layout(profile="redhat", mail_dir="/etc/mail", cf="/etc/mail/sendmail.cf", maps=(feed,))
    assert class_of("/etc/mail/feed.old", layout, Settings()) is CHECKED
    assert class_of("/etc/mail/feed.old.db", layout, Settings()) is CHECKED


def test_lock_adds_and_unlock_takes_away_and_counts_more(tmp_path: Path) -> None:
    settings = Settings(
        lock=("/etc/mail/helpfile", "/etc/mail/peers/*", "/etc/mail/*.db", "/etc/mail/authinfo"),
        unlock=("/etc/mail/*.mc", "/etc/mail/helpfile"),
    )
    found = held(tmp_path, DEBIAN, settings)
    assert "/etc/mail/peers/provider" in locked(found)
    for path in ("sendmail.mc", "submit.mc", "helpfile", "access.db", "authinfo"):
        assert f"/etc/mail/{path}" not in locked(found)


def test_further_paths_are_held_with_what_is_above_and_below_them(tmp_path: Path) -> None:
    files: dict[str, bytes | str | None] = {
        **DEBIAN,
        "/opt/filter/etc/a.conf": b"",
        "/opt/filter/etc/b.conf": "a.conf",
        "/opt/filter/README": b"",
        "/srv/one/x": b"",
        "/srv/two/y": b"",
    }
    protect = ("/opt/filter/*/*.conf", "/srv/one", "/srv/missing", "/etc/mail")
    found = held(tmp_path, files, Settings(protect=protect))
    assert found["/opt/filter/etc/a.conf"].role is Role.SOURCE
    assert found["/opt/filter/etc/b.conf"].role is Role.LINK
    assert found["/opt/filter/etc"].role is Role.ANCESTOR
    assert (found["/srv/one"].role, found["/srv/one/x"].role) == (Role.DIRECTORY, Role.SOURCE)
    assert not {"/opt/filter/README", "/srv/two", "/srv/missing"} & set(found)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/etc/mail/*", "/etc/mail/a", True),
        ("/etc/mail/*", "/etc/mail/a/b", False),
        ("/etc/*/a", "/etc/mail/a", True),
        ("/etc/mail/a?", "/etc/mail/a/", False),
        ("/etc/mail/[ab]", "/etc/mail/b", True),
        ("/etc/mail/[ab]", "/etc/mail/[ab]", True),
    ],
)
def test_a_glob_stays_in_its_directory(pattern: str, path: str, *, expected: bool) -> None:
    assert matches(path, pattern) is expected


@given(NAMES, NAMES)
def test_any_name_has_a_class_and_nothing_is_looked_at(directory: str, name: str) -> None:
    for path in (f"/etc/mail/{name}", f"/etc/mail/{directory}/{name}", f"/{name}"):
        assert class_of(path, PLAIN, Settings()) in set(Class)


def test_asking_for_a_class_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for call in ("stat", "lstat", "open", "listdir", "scandir", "readlink"):
        monkeypatch.setattr(os, call, lambda *_, **__: pytest.fail("it looked at the host"))
    result = class_of("/etc/mail/never-asked-before", PLAIN, Settings(lock=("/x",)))
    monkeypatch.undo()
    assert result is LOCKED
