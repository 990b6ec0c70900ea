# SPDX-License-Identifier: Apache-2.0
"""The values: paths of a host, names that are shown, what an entry holds."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.model import Class, Entry, FileType, Host, Role, printable

ENTRY = Entry("/etc/mail/access", Role.SOURCE, Class.LOCKED, FileType.FILE, 0, 0, 0o644)


@given(st.text())
def test_what_is_shown_cannot_steer_a_terminal_or_forge_a_line(name: str) -> None:
    shown = printable(name)
    assert shown.isprintable()
    shown.encode("utf-8")


@given(st.binary(max_size=40))
def test_a_name_of_any_bytes_is_shown(name: bytes) -> None:
    shown = printable(os.fsdecode(name))
    assert shown.isprintable()
    if name.isascii() and name.decode().isprintable() and b"\\" not in name:
        assert shown == name.decode()


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_two_escaped_names_are_never_shown_alike(one: bytes, other: bytes) -> None:
    first, second = printable(os.fsdecode(one)), printable(os.fsdecode(other))
    assert (first == second) == (one == other)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/etc/mail/access", "/etc/mail/access"),
        ("/etc/mäil", "/etc/mäil"),
        ("a b", "a b"),
        ("a\nb", "a\\x0ab"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\\x0a", "\\x5cx0a"),
        ("\udcff", "\\xff"),
        ("\u202egpj", "\\xe2\\x80\\xaegpj"),
        ("\x7f", "\\x7f"),
        ("\ud800", "\\xed\\xa0\\x80"),
        ("", ""),
    ],
)
def test_names_are_shown_so(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_this_machine_is_at_its_own_paths_and_a_tree_below_its_root() -> None:
    assert Host().at("/etc/mail") == "/etc/mail"
    assert not Host().is_tree
    for root in ("/srv/tree", "/srv/tree/"):
        assert Host(root).at("/etc/mail") == "/srv/tree/etc/mail"
        assert Host(root).is_tree


def test_every_path_of_our_own_is_in_the_tree() -> None:
    names = [name for name in vars(Host) if name.endswith(("_dir", "_socket", "_file"))]
    assert len(names) >= 8
    for name in names:
        here, there = getattr(Host(), name), getattr(Host("/t"), name)
        assert there == "/t" + here
        assert here.startswith(("/etc/hardend", "/var/lib/hardend", "/run/hardend"))


@pytest.mark.parametrize(
    ("role", "cls", "holds"),
    [
        (Role.SOURCE, Class.LOCKED, True),
        (Role.SOURCE, Class.CHECKED, True),
        (Role.SOURCE, Class.ATTRIBUTES, False),
        (Role.SOURCE, Class.IGNORED, False),
        (Role.MAP, Class.LOCKED, False),
        (Role.LINK, Class.LOCKED, False),
        (Role.QUEUE, Class.LOCKED, False),
    ],
)
def test_bytes_are_held_of_sources_only(role: Role, cls: Class, holds: bool) -> None:
    entry = Entry("/x", role, cls, FileType.FILE, 0, 0, 0)
    assert entry.holds_content is holds


def test_an_entry_with_other_flags_is_otherwise_the_same() -> None:
    locked = ENTRY.with_flags("i")
    assert locked.flags == "i"
    assert locked.with_flags("") == ENTRY
