# SPDX-License-Identifier: Apache-2.0
"""Blocks: what of a file is somebody else's, and which changes keep to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend import blocks
from hardend.formats.aliases import Aliases
from hardend.settings import Block

PATH = "/etc/aliases"
MARKED = Block(PATH, "lists", begin="# begin lists", end="# end lists")
LINES = Block(PATH, "mailman", pattern='*: "|/usr/lib/mailman/mail/mailman *"')
LIST = b'news: "|/usr/lib/mailman/mail/mailman post news"\n'
BEFORE = b"root: admin\n# begin lists\nold: joe\n# end lists\npostmaster: root\n"


def after(inside: bytes) -> bytes:
    return BEFORE.replace(b"old: joe\n", inside)


def fault(content: bytes, *given: Block, before: bytes = BEFORE, aliases: bool = True) -> str:
    return blocks.fault(PATH, before, content, given or (MARKED,), aliases=aliases)


@pytest.mark.parametrize(
    "inside",
    [b"", b"old: joe\nnew: jim\n", b"# a comment\n", b"x: a,\n  b\n", b"# begin lists\n", b"\xff\0\n"],
)
def test_what_stands_between_the_markers_may_change(inside: bytes) -> None:
    assert fault(after(inside)) == ""


@pytest.mark.parametrize(
    "content",
    [
        b"evil: x\n" + BEFORE,
        BEFORE + b"evil: x\n",
        BEFORE.replace(b"admin", b"evil"),
        BEFORE.replace(b"# end lists\n", b""),
        BEFORE.replace(b"# begin lists\n", b""),
        BEFORE.replace(b"# end lists\n", b"# end lists\nevil: x\n# begin lists\n# end lists\n"),
        after(b"old: joe\n# end lists\nevil: x\n# begin lists\n"),
        after(b"old: joe \\\n"),  # the end marker would be part of the alias
        BEFORE.replace(b"# end lists\n", b" # end lists\n"),
        b"",
    ],
)
def test_nothing_else_may(content: bytes) -> None:
    assert fault(content, aliases=False) == "/etc/aliases was changed outside of its block"


def test_a_file_without_the_markers_gives_nothing_away() -> None:
    plain = b"root: admin\n"
    assert fault(b"root: admin\nx: y\n", before=plain) != ""
    assert fault(plain + b"# begin lists\nx: y\n# end lists\n", before=plain) != ""


@pytest.mark.parametrize("inside", [b"root: evil\n", b"POSTMASTER: evil\n", b'"root": evil\n'])
def test_a_block_may_not_name_again_what_stands_outside(inside: bytes) -> None:
    assert "again, which stands outside" in fault(after(inside))
    assert fault(after(inside), aliases=False) == ""


def test_a_name_that_stands_in_both_already_is_no_obstacle() -> None:
    before = after(b"root: joe\n")
    assert fault(after(b"root: joe\nx: y\n"), before=before) == ""
    assert "postmaster again" in fault(after(b"root: joe\npostmaster: y\n"), before=before)


def test_lines_like_a_pattern_may_come_and_go() -> None:
    before = b"root: admin\n" + LIST
    assert fault(before + LIST.replace(b"news", b"chat"), LINES, before=before) == ""
    assert fault(LIST + b"root: admin\n" + LIST.replace(b"news", b"b"), LINES, before=before) == ""
    assert fault(b"root: admin\n", LINES, before=before) == ""
    assert fault(before + b'evil: "|/bin/sh"\n', LINES, before=before) != ""
    assert fault(LIST, LINES, before=before) != ""


@pytest.mark.parametrize(
    "inside",
    [
        b" " + LIST,  # continues root's alias
        LIST + b" , evil\n",
        b"x: y \\\n" + LIST,
        b'x: "|/usr/lib/mailman/mail/mailman \\\n"\n',
        LIST.rstrip(b"\n"),  # the next append would be part of it
    ],
)
def test_only_whole_logical_lines_are_like_a_pattern(inside: bytes) -> None:
    assert fault(b"root: admin\n" + inside, LINES, before=b"root: admin\n") != ""


def test_a_line_like_a_pattern_may_not_take_the_continuation_of_another() -> None:
    before = b"root: admin,\n other\n"
    assert fault(b"root: admin,\n" + LIST + b" other\n", LINES, before=before) != ""


def test_several_blocks_of_a_file_count_together() -> None:
    content = after(b"") + LIST
    assert fault(content, MARKED, LINES) == ""
    assert fault(content, MARKED) != ""
    assert blocks.of(PATH, [MARKED, Block("/etc/x", "y", pattern="a*"), LINES]) == (MARKED, LINES)


ANYTHING = st.lists(
    st.sampled_from(
        [b"# begin lists", b"# end lists", b"root: a", b"x: b \\", b" , c", b'y: "', b"", b"\0", LIST[:-1]]
    )
    | st.binary(max_size=8)
).map(b"\n".join)


@given(ANYTHING, ANYTHING)
def test_aliases_outside_mean_the_same_after_every_change_taken(before: bytes, changed: bytes) -> None:
    whole = b"root: admin\n" + before
    after_it = b"root: admin\n" + changed
    if fault(after_it, MARKED, LINES, before=whole) or fault(whole, MARKED, LINES, before=whole):
        return
    mine = Aliases(blocks.outside(whole, (MARKED, LINES))).entries
    found = [(entry.key, entry.value) for entry in Aliases(after_it).entries]
    assert all((entry.key, entry.value) in found for entry in mine)


def test_markers_that_are_never_closed_do_not_take_long() -> None:
    content = b"# begin lists\n" * 200_000
    assert blocks.outside(content, (MARKED,)) == content


@given(ANYTHING)
def test_what_is_outside_is_a_part_of_the_file_and_stable(content: bytes) -> None:
    around = blocks.outside(content, (MARKED,))
    assert blocks.outside(around, (MARKED,)) == around
    assert blocks.outside(content, ()) == content
    assert fault(content, before=content, aliases=False) == ""
