# SPDX-License-Identifier: Apache-2.0
"""What a sendmail.cf says of its making: who built it when and where, and from which .mc.

makeinfo.sh of Sendmail writes three lines at its head; Debian's Makefile appends the .mc as a comment.
"""

from __future__ import annotations

import os
import re

_BUILT_BY = re.compile(
    rb"^##### (?:built by .* on .*|in .*|using .* as configuration include directory)\n", re.MULTILINE
)
_SOURCE = re.compile(rb"(?<=\n)### /\S+ ###\n(?:# [^\n]*\n)*(?:# [^\n]*)?\Z")


def lasting(cf: bytes) -> bytes:
    """Return a .cf without what differs from one build of the same .mc to the next."""
    return _SOURCE.sub(b"", _BUILT_BY.sub(b"", cf))


def as_comment(mc_path: str, content: bytes) -> bytes:
    """Return what Debian's Makefile appends: a heading, and the .mc with ``# `` before every line."""
    *lines, last = content.split(b"\n")
    return _heading(mc_path) + b"".join(b"# %s\n" % line for line in lines) + (b"# " + last if last else b"")


def shows_another(cf: bytes, mc_path: str, content: bytes) -> bool:
    """Return whether a .cf holds a copy of its .mc that is not ``content``; a .cf without one does not."""
    _, heading, copy = cf.rpartition(_heading(mc_path))
    return bool(heading) and (heading + copy).rstrip() != as_comment(mc_path, content).rstrip()


def _heading(mc_path: str) -> bytes:
    return b"### %s ###\n" % os.fsencode(mc_path)
