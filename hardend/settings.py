# SPDX-License-Identifier: Apache-2.0
"""The settings of hardend.toml as values: every one checked, units in the names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from hardend.model import Class, Mode, printable


class Restart(StrEnum):
    """When the MTA is told to load its configuration again (design section 5)."""

    WHEN_NEEDED = "when-needed"
    ALWAYS = "always"
    NEVER = "never"


class Expiry(StrEnum):
    """What becomes of the changes of a window that ran out."""

    KEEP_IF_NO_WORSE = "keep-if-no-worse"
    REVERT = "revert"


class Priority(StrEnum):
    """How much an alert matters, in the words of syslog(3); ``number`` as there, the worst is lowest."""

    CRIT = "crit"
    ERR = "err"
    WARNING = "warning"
    NOTICE = "notice"
    INFO = "info"

    @property
    def number(self) -> int:
        """The number of syslog(3)."""
        return 2 + list(Priority).index(self)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the administrator decided for the rules, in [rules].

    ``smrsh_programs`` are further programs that mail may run, by name or path; ``alias_files`` the
    files that an alias may deliver to; ``remove_redirects`` the redirects of the guide that go;
    ``notice`` the text behind the greeting.
    """

    smrsh_programs: tuple[str, ...] = ()
    alias_files: tuple[str, ...] = ()
    remove_redirects: tuple[str, ...] = ()
    notice: str = ""
    hide_received_version: bool = False


@dataclass(frozen=True, slots=True)
class Waiver:
    """The decision that a rule does not bind here: why, and the last day on which it counts."""

    rule: str
    reason: str
    until: date | None = None

    def holds(self, today: date) -> bool:
        """Return whether it still counts."""
        return self.until is None or today <= self.until


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of a file that somebody else writes: those between ``begin`` and ``end``, or like ``pattern``.

    ``begin`` and ``end`` are whole lines, comments; ``pattern`` is a glob for a whole line.
    """

    path: str
    reason: str
    begin: str = ""
    end: str = ""
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class TrustedUnit:
    """A systemd unit whose changes are approved when they pass: why, and of which paths (none: of all)."""

    unit: str
    reason: str
    paths: tuple[str, ...] = ()

    def covers(self, path: str) -> bool:
        """Return whether it is trusted with a path."""
        return not self.paths or path in self.paths


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, checked; units are in the names, ``max_off`` is seconds."""

    mode: Mode = Mode.ENFORCE
    sweep_ms: int = 250
    hash_interval_s: int = 300
    contested_count: int = 10
    contested_within_s: int = 60
    spare_max_mib: int = 8
    max_off: int = 86400
    max_window_s: int = 28800
    default_window_s: int = 1800
    on_expiry: Expiry = Expiry.KEEP_IF_NO_WORSE
    warn_s: tuple[int, ...] = (600, 120)
    restart: Restart = Restart.WHEN_NEEDED
    reload_interval_s: int = 60
    map_exchange_interval_ms: int = 1000
    command_timeout_s: int = 120
    quarantine_max_mib: int = 256
    quarantine_max_days: int = 90
    quarantine_object_max_mib: int = 8
    require_signature: bool = False
    baseline_own: tuple[str, ...] = ()
    alert_command: tuple[str, ...] = ()
    alert_relay: str = ""
    alert_from: str = ""
    alert_to: tuple[str, ...] = ()
    alert_min_priority: Priority = Priority.WARNING
    alert_burst: int = 5
    alert_repeat_s: int = 86400
    classes: tuple[tuple[str, Class], ...] = ()
    lock: tuple[str, ...] = ()
    unlock: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    smrsh_programs: tuple[str, ...] = ()
    alias_files: tuple[str, ...] = ()
    remove_redirects: tuple[str, ...] = ()
    notice_country: str = ""
    notice_region: str = ""
    received_version: bool = True
    waivers: tuple[Waiver, ...] = ()
    blocks: tuple[Block, ...] = ()
    trusted_units: tuple[TrustedUnit, ...] = ()

    @property
    def policy(self) -> Policy:
        """What the rules need to know of it."""
        parts = (f"C={self.notice_country}", f"L={self.notice_region}")
        words = [part for part in parts if not part.endswith("=")]
        return Policy(
            self.smrsh_programs,
            self.alias_files,
            self.remove_redirects,
            " ".join(["NO UCE", *words]) if words else "",
            not self.received_version,
        )

    def contradictions(self) -> Iterator[str]:
        """Yield what cannot be meant together, with the keys."""
        for path in self.lock:
            if path in self.unlock:
                yield f"paths.lock and paths.unlock: both name {printable(path)}"
        for block in self.blocks:
            held = dict(self.classes).get(block.path, Class.CHECKED)
            if held is not Class.CHECKED:
                yield f"blocks and paths.classes: {printable(block.path)} cannot be {held.value} with a block"
        if self.alert_command and self.alert_relay:
            yield "alerts.command and alerts.relay: give one of them"
        if self.alert_relay and not self.alert_to:
            yield "alerts.relay: alerts.to must say to whom"
        if self.default_window_s > self.max_window_s:
            yield (
                f"windows.default_window = {self.default_window_s}s: must be at most"
                f" windows.max_window, {self.max_window_s}s"
            )
        if self.quarantine_object_max_mib > self.quarantine_max_mib:
            yield (
                f"quarantine.object_max_mib = {self.quarantine_object_max_mib}: must be at"
                f" most quarantine.max_mib, {self.quarantine_max_mib}"
            )
