# SPDX-License-Identifier: Apache-2.0
"""Telling whoever just changed a guarded file at a terminal what to use instead.

Nobody knows who wrote: inotify does not say. So the line says only what happened, and goes to terminals
where it may have been typed: somebody has just typed there who is root, has become it, or may.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import time
from collections.abc import Iterable, Mapping

from hardend import boot, terminal
from hardend.model import Entry, FileType, Host, Role, printable

# The kernel notes only every 8 seconds that a terminal was read, and telling takes a few more.
_TYPED_S = 20.0
_GAP_S = 60.0  # between two lines on one terminal
_MAY_BECOME_ROOT = ("sudo", "wheel", "admin")
_LARGEST = 1 << 16


def tell(host: Host, entries: Mapping[str, Entry], paths: Iterable[str]) -> int:
    """Write one line about the paths to each terminal in question; return how many took it.

    None where a line was written within the last minute. Raises OSError where that cannot be noted.
    """
    line = sentence(entries, paths)
    told = _read_told(host)
    now = boot.clock()
    told = {path: at for path, at in told.items() if 0 <= now - at < _GAP_S}
    due = [path for path in candidates() if path not in told] if line else []
    if not due:
        return 0
    _write_told(host, {**told, **dict.fromkeys(due, now)})
    return sum(terminal.tell_at(path, line) for path in due)


def sentence(entries: Mapping[str, Entry], paths: Iterable[str]) -> str:
    """Return what is to be said of paths that were put back, "" for none that is held."""
    held = sorted(path for path in paths if path in entries)
    # A file with content first: that is what people edit.
    held.sort(key=lambda path: not entries[path].holds_content)
    if not held:
        return ""
    entry = entries[held[0]]
    more = f" (and {len(held) - 1} more)" if len(held) > 1 else ""
    edits = entry.role is Role.SOURCE and entry.kind is FileType.FILE and entry.holds_content
    how = "edit" if edits else "unlock"
    name = printable(entry.path)
    return f"hardend: {name} is guarded, a change of it{more} was put back: use hardend {how} {name}"


def candidates() -> list[str]:
    """Return the terminals where somebody has just typed who may write what root owns."""
    now = time.time()
    recent = {
        path: known for path, known in terminal.terminals().items() if 0 <= now - known.st_atime < _TYPED_S
    }
    if not recent:
        return []
    lines = _lines_of_root()
    return [
        path
        for path, known in recent.items()
        if known.st_uid == 0 or known.st_rdev in lines or _may_become_root(known.st_uid)
    ]


def _may_become_root(uid: int) -> bool:
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(uid)
        for name in _MAY_BECOME_ROOT:
            with contextlib.suppress(KeyError):
                group = grp.getgrnam(name)
                if user.pw_name in group.gr_mem or user.pw_gid == group.gr_gid:
                    return True
    return False


def _lines_of_root() -> set[int]:
    """Return the devices of the terminals on which a process of root runs, such as the shell of su(1)."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError, ValueError, LookupError):
                line = _line_of(f"/proc/{name}")
                if line and _is_root(f"/proc/{name}"):
                    found.add(line)
    return found


def _line_of(process: str) -> int:
    """Return the device of a process's terminal as st_rdev has it, 0 for none (proc_pid_stat(5))."""
    with open(f"{process}/stat", "rb") as file:
        number = int(file.read(4096).rpartition(b")")[2].split()[4])
    number &= 0xFFFFFFFF
    if not number:
        return 0
    return os.makedev(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00)


def _is_root(process: str) -> bool:
    """Return whether a process is root's; none of a container, which has terminals of the same numbers."""
    with open(f"{process}/status", "rb") as file:
        fields = dict(line.split(b":", 1) for line in file)
    return fields[b"Uid"].split()[1] == b"0" and len(fields[b"NSpid"].split()) == 1


def _told_path(host: Host) -> str:
    return os.path.join(host.run_dir, "told.json")


def _read_told(host: Host) -> dict[str, float]:
    """Return when a line was written to each terminal (boot clock); what cannot be read is nothing."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(_told_path(host), flags), "rb") as file:
            document = json.loads(file.read(_LARGEST))
        return {str(path): float(at) for path, at in document.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _write_told(host: Host, told: Mapping[str, float]) -> None:
    path = _told_path(host)
    with open(f"{path}.new", "w", encoding="ascii") as file:
        json.dump(told, file)
    os.rename(f"{path}.new", path)
