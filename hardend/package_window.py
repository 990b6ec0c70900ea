# SPDX-License-Identifier: Apache-2.0
"""A maintenance window around a transaction of dpkg or apt: as long as that process lives, no longer.

apt runs dpkg many times: its window holds for all of them, and ends with one generation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from hardend import window, window_end, window_files, window_open
from hardend.baseline.store import Store
from hardend.config import Settings
from hardend.errors import FileError, HardendError, RefusedError
from hardend.journal import Event
from hardend.model import Entry, Host, Role
from hardend.packages import Package
from hardend.window import Window
from hardend.window_end import Ended
from hardend.window_mend import Mender
from hardend.window_review import Review, Verdict

MANAGERS = ("apt", "dpkg")
_SECONDS = 3600  # prolonged while the transaction goes on
_NAMED = 6


def reason(manager: str, packages: Sequence[Package]) -> str:
    """Return what stands in the baseline's log of a transaction."""
    more = f" and {len(packages) - _NAMED} more" if len(packages) > _NAMED else ""
    return f"{manager}: {', '.join(map(str, packages[:_NAMED]))}{more}"


def held(host: Host) -> list[str]:
    """Return the paths whose mention in a maintainer script counts. Raises StoreError without a baseline."""
    return [path for path, entry in Store(host).current().entries.items() if entry.role is not Role.ANCESTOR]


def of_process(host: Host, ancestors: Sequence[int], manager: str = "") -> Window | None:
    """Return the window that one of these processes holds, of that manager or of any."""
    for item in window_files.read_all(host):
        is_meant = item.command == manager if manager else item.command in MANAGERS
        if is_meant and window_files.holder(host, item.id) in ancestors:
            return item
    return None


def begin(
    host: Host, settings: Settings, manager: str, pid: int, packages: Sequence[Package]
) -> None:
    """Let go what packages may change, until the process ends. Raises HardendError."""
    for item in window_files.read_all(host):
        if item.command in MANAGERS and window_files.is_orphan(host, item):
            end(host, settings, item)  # of a dpkg that died a moment ago
    paths = _free(host, Store(host).current().entries)
    if not paths:
        return
    identifier = window.new_id()
    try:
        window_files.hold_for(host, identifier, pid)
    except OSError as error:
        raise FileError(f"the window cannot be written down: {error.strerror}") from error
    try:
        window_open.open_window(
            host,
            settings,
            paths=paths,
            seconds=min(_SECONDS, settings.max_window_s),
            reason=reason(manager, packages),
            command=manager,
            identifier=identifier,
        )
    except HardendError:
        window_files.remove(host, identifier)
        raise


def _free(host: Host, entries: Mapping[str, Entry]) -> list[str]:
    """Return what no other window holds, nor anything that would be let go with it."""
    windows = window_files.read_all(host)
    wanted = [path for path, entry in entries.items() if entry.role is not Role.ANCESTOR]
    return [
        path
        for path in wanted
        if not any(item.holds(led) for led in window.expand(entries, [path])[0] for item in windows)
    ]


def go_on(host: Host, settings: Settings, item: Window) -> None:
    """Prolong the window of a transaction that takes its time. Raises RefusedError past ``max_window``."""
    if item.remaining_s < _SECONDS / 2:
        window_open.extend(host, settings, item, _SECONDS / 2)


def end(host: Host, settings: Settings, item: Window) -> Ended:
    """End the window of a transaction: what may stay is a generation that names the packages.

    Raises HardendError; the window is open then, and ends by itself when the process has ended.
    """
    review = Review(host, settings, item)
    verdict = review.judge(review.changed, Mender(host, settings, review.current))
    try:
        ended = window_end.end(
            host, settings, review, verdict, reason=item.reason, author=item.by, record=True
        )
    except RefusedError as error:
        if not verdict.kept:
            raise
        nothing = Verdict(refused=dict.fromkeys(review.changed, str(error)))
        ended = window_end.end(host, settings, review, nothing, reason=item.reason, author=item.by)
    window_end.tell(host, ended, Event.WINDOW_CLOSED, "closed")
    return ended


def ancestors() -> list[tuple[int, str]]:
    """Return the processes above this one, the nearest first, each with its name."""
    found: list[tuple[int, str]] = []
    pid = os.getppid()
    while pid > 0 and len(found) < 64:  # noqa: PLR2004 - nobody nests that deep
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                name, _, rest = file.read(4096).partition(b"(")[2].rpartition(b") ")
            found.append((pid, os.fsdecode(name)))
            pid = int(rest.split()[1])
        except (OSError, ValueError, IndexError):
            break
    return found
