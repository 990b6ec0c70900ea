# SPDX-License-Identifier: Apache-2.0
"""Telling somebody on his terminals, as write(1) does; a terminal that does not take it is passed over."""

from __future__ import annotations

import os
import stat
import sys

from hardend.model import printable

_PTS = "/dev/pts"
_UTMP = "/run/utmp"
_RECORD = 384  # struct utmp of glibc (utmp(5)): the type is at 0, the line at 8
_USER_PROCESS = 7
_LARGEST = 1 << 20
_OPEN = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_TERMINAL_MAJORS = frozenset({4, *range(136, 144)})  # tty1 ... and ttyS0 ..., pts (devices.txt)


def terminals() -> dict[str, os.stat_result]:
    """Return every terminal where somebody is logged in, or has a shell, and what stat says of it."""
    found = {path: _known(path) for path in (*_pseudo_terminals(), *_lines_in_use())}
    return {path: known for path, known in found.items() if known is not None}


def terminals_of(uid: int) -> list[str]:
    """Return the terminals that belong to a user: login(1) and sshd(8) give them to who logs in.

    Of consoles and serial lines only those where somebody is logged in: root owns all the others, and
    a device may listen there.
    """
    return [path for path, known in terminals().items() if known.st_uid == uid]


def _pseudo_terminals() -> list[str]:
    try:
        return [f"{_PTS}/{name}" for name in sorted(os.listdir(_PTS))]
    except OSError:
        return []


def _lines_in_use() -> list[str]:
    try:
        with open(_UTMP, "rb") as file:
            data = file.read(_LARGEST)
    except OSError:
        return []
    found = []
    for at in range(0, len(data) - _RECORD + 1, _RECORD):
        line = data[at + 8 : at + 40].partition(b"\0")[0]
        if int.from_bytes(data[at : at + 2], sys.byteorder) == _USER_PROCESS and line.startswith(b"tty"):
            found.append(f"/dev/{os.path.basename(os.fsdecode(line))}")
    return found


def _known(path: str) -> os.stat_result | None:
    try:
        known = os.lstat(path)
    except OSError:
        return None
    is_terminal = stat.S_ISCHR(known.st_mode) and os.major(known.st_rdev) in _TERMINAL_MAJORS
    return known if is_terminal else None


def tell(uid: int, text: str) -> int:
    """Write a line to every terminal of a user; return how many took it. Never waits for one."""
    return sum(tell_at(path, text) for path in terminals_of(uid))


def tell_at(path: str, text: str) -> bool:
    """Write a line to a terminal; False when it does not take it at once."""
    line = f"\r\n\a{printable(text)}\r\n".encode("ascii", "replace")
    try:
        descriptor = os.open(path, _OPEN)
    except OSError:
        return False
    try:
        return os.write(descriptor, line) > 0
    except OSError:  # stopped with ^S, or hung up
        return False
    finally:
        os.close(descriptor)
