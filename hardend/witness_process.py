# SPDX-License-Identifier: Apache-2.0
"""Who a process is, read while it is there: program, user, login, unit.

Nothing is taken for known that might be another process's: where the kernel says that the process had
ended, /proc is not asked, because its number may be somebody else's by then.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from dataclasses import dataclass, replace

from hardend.kernel import fanotify, pidfd

_UNSET = 0xFFFFFFFF  # loginuid of what no login began
_LINE = 4096
_REMEMBERED = 1024
_FRESH_S = 2.0  # a number is not given to another process so soon: it counts up first
_CGROUPS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")  # the first where the old hierarchies are mounted too
_KERNFS = 0xFE  # FILEID_KERNFS: the handle of a cgroup is its number
_UNITS = (".service", ".scope", ".socket", ".mount", ".swap")


@dataclass(frozen=True, slots=True)
class Process:
    """What is known of a process; "" and None are not known. ``start`` tells it from a later one."""

    pid: int
    start: int = -1
    exe: str = ""
    comm: str = ""
    unit: str = ""
    uid: int | None = None
    loginuid: int | None = None

    def as_json(self) -> dict[str, str | int]:
        """Return what is known, by the names of the quarantine's records."""
        told: dict[str, str | int | None] = {
            "pid": self.pid,
            "exe": self.exe,
            "comm": self.comm,
            "unit": self.unit,
            "uid": self.uid,
            "loginuid": self.loginuid,
        }
        return {name: value for name, value in told.items() if value is not None and value != ""}


class Processes:
    """The processes that were seen lately; ``proc`` is where procfs is."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._known: OrderedDict[int, tuple[Process, float]] = OrderedDict()
        self._mount = -1
        for where in _CGROUPS:
            with contextlib.suppress(OSError):
                self._mount = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                break

    def close(self) -> None:
        """Close what is kept open."""
        if self._mount >= 0:
            os.close(self._mount)

    def of(self, pid: int, descriptor: int, now_s: float) -> Process:
        """Return who has ``pid``; ``descriptor`` is its pidfd, negative when it had ended already."""
        known, at = self._known.get(pid, (None, 0.0))
        is_fresh = now_s - at <= _FRESH_S
        if descriptor >= 0:
            known = self._read(pid, descriptor, known, is_fresh=is_fresh)
        elif not is_fresh:
            known = None
        if known is None:
            return Process(pid)
        self._known[pid] = known, now_s
        self._known.move_to_end(pid)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return known

    def _read(self, pid: int, descriptor: int, known: Process | None, *, is_fresh: bool) -> Process:
        """Read a process that was there a moment ago; first what goes first."""
        where = f"{self._proc}/{pid}"
        exe = ""
        with contextlib.suppress(OSError):
            exe = os.readlink(f"{where}/exe")
        comm, start = parse_stat(_text(f"{where}/stat"))
        if known is not None and (start == known.start or (start == -1 and is_fresh)):
            # What it runs now counts; what it ran when it opened the file helps where it has ended.
            return replace(known, exe=exe or known.exe, comm=comm or known.comm)
        found = Process(
            pid,
            start,
            exe,
            comm,
            parse_unit(_text(f"{where}/cgroup")),
            parse_uid(_text(f"{where}/status")),
            parse_loginuid(_text(f"{where}/loginuid")),
        )
        if found.uid is not None and found.unit:
            return found
        info = pidfd.info_of(descriptor)
        unit = found.unit or (self._unit_of(info.cgroup) if info.cgroup is not None else "")
        return replace(found, unit=unit, uid=info.uid if found.uid is None else found.uid)

    def _unit_of(self, cgroup: int) -> str:
        """Return the unit of a cgroup by its number; "" where it is gone with its unit."""
        try:
            found = fanotify.open_by_id(self._mount, _KERNFS, cgroup)
        except OSError:
            return ""
        try:
            return unit_of(os.readlink(f"/proc/self/fd/{found}"))
        finally:
            os.close(found)


def parse_stat(text: bytes) -> tuple[str, int]:
    """Return name and start time of /proc/PID/stat; ("", -1) where that is none."""
    name, closes, rest = text.partition(b"(")[2].rpartition(b")")
    fields = rest.split()
    if not closes or len(fields) < 20 or not fields[19].isdigit():  # noqa: PLR2004 - proc_pid_stat(5)
        return "", -1
    return os.fsdecode(name), int(fields[19])


def parse_unit(text: bytes) -> str:
    """Return the unit in /proc/PID/cgroup, "" where there is none.

    By systemd's own hierarchy, which a process leaves when it ends, or the unified one, which it does not.
    """
    for line in sorted(text.split(b"\n"), key=lambda line: line.startswith(b"0::")):
        _, _, rest = line.partition(b":")
        controllers, colon, path = rest.partition(b":")
        if colon and controllers in {b"", b"name=systemd"} and (unit := unit_of(os.fsdecode(path))):
            return unit
    return ""


def unit_of(cgroup: str) -> str:
    """Return the system's unit of a cgroup's path, "" where there is none."""
    for part in cgroup.removesuffix(" (deleted)").split("/"):
        name = part.removeprefix("_")  # what could be an attribute's name is escaped so
        if name.endswith(_UNITS):
            return name
    return ""


def parse_uid(text: bytes) -> int | None:
    """Return the real user in /proc/PID/status: who started it, also of a set-user-id program."""
    for line in text.split(b"\n"):
        if line.startswith(b"Uid:"):
            fields = line.split()
            return _number(fields[1]) if len(fields) > 1 else None
    return None


def parse_loginuid(text: bytes) -> int | None:
    """Return who logged in, of /proc/PID/loginuid; None where nobody did."""
    number = _number(text.strip())
    return None if number == _UNSET else number


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) <= 10 else None  # noqa: PLR2004 - 32 bits


def _text(path: str) -> bytes:
    """Return a file of procfs, b"" where it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _LINE)
    except OSError:  # ended in between
        return b""
    finally:
        os.close(descriptor)
