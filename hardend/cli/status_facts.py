# SPDX-License-Identifier: Apache-2.0
"""What ``hardend status`` shows beside what the guard publishes, as far as the user may read it.

Nothing is changed and nobody is waited for. What cannot be read is None, or empty: root sees more.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from hardend import config, layout, maps, mta, mta_memory, rebuild
from hardend.baseline import signature, trust
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.errors import HardendError
from hardend.events import Entry as JournalEntry
from hardend.events import Record, open_journal, to_record
from hardend.journal import KINDS
from hardend.layout import Layout
from hardend.model import Entry, Host
from hardend.settings import Settings

_EVENTS = 5
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Quarantine:
    """How much is kept: objects with a record, what they take on disk, and how many wait for it."""

    kept: int
    waiting: int
    size_bytes: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found; ``signature`` says whose it is on the baseline, ``mta`` one sentence a process.

    ``baseline`` is the generation that is to be enforced, as the store has it; ``faults`` say why it is
    not the newest, ``is_new`` that nothing ever was approved. ``events`` are the last ones, the newest
    last; ``queues`` path, mode and owners.
    """

    baseline: Generation | None = None
    is_new: bool = False
    signature: str = ""
    faults: tuple[str, ...] = ()
    quarantine: Quarantine | None = None
    events: tuple[Record, ...] = ()
    queues: tuple[str, ...] = ()
    mta: tuple[str, ...] = ()


class _Reader(Protocol):
    """What is used of systemd.journal.Reader to read backwards."""

    def add_match(self, **fields: str) -> None: ...

    def seek_tail(self) -> None: ...

    def get_previous(self) -> JournalEntry: ...

    def close(self) -> None: ...


def gather(host: Host, document: Mapping[str, object]) -> Facts:
    """Return what this user may read of it; ``document`` is what the guard published last."""
    try:
        settings = config.load(host)
    except (HardendError, OSError):  # hardend config check says what is wrong
        settings = Settings()
    generation, signed, faults = _baseline(host, settings)
    queues: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()
    with contextlib.suppress(HardendError, OSError):
        found = layout.find(host)
        queues = _queues(host, found)
        held = generation.entries if generation is not None else {}
        processes = _Mta(host, settings, found, held, rebuild.drifts_of(dict(document))).sentences()
    return Facts(
        baseline=generation,
        is_new=_is_new(host),
        signature=signed,
        faults=faults,
        quarantine=_quarantine(host, settings),
        events=_events(host),
        queues=queues,
        mta=processes,
    )


def _baseline(host: Host, settings: Settings) -> tuple[Generation | None, str, tuple[str, ...]]:
    """Return the generation to be enforced, whose signature it has, and why it is not the newest."""
    try:
        store = Store(host)
        found = trust.in_force(host, store, settings)
        signer = found.signer
        number = found.generation.number
        if signer is None and not store.has_signature(number):
            return found.generation, "not signed", found.faults
    except (HardendError, OSError):
        return None, "", ()
    try:
        signed = store.signature(number) or store.origin(number)
        if signer is None and signed is not None:
            where = f"generation {number}"
            signer = signature.verify(host, signed, where, at=found.generation.time)
    except (HardendError, OSError) as error:
        return found.generation, f"its signature does not verify: {error}", found.faults
    said = f"signed by {signer.principal}, {signer.key}" if signer else ""
    return found.generation, said, found.faults


def _is_new(host: Host) -> bool:
    """Return whether it is certain that nothing was ever approved."""
    try:
        os.listdir(host.state_dir)  # who may not read it would find nothing in it
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return not Store(host).has_baseline()


def _quarantine(host: Host, settings: Settings) -> Quarantine | None:
    try:
        records = _sizes(os.path.join(host.quarantine_dir, "records"))
        objects = _sizes(os.path.join(host.quarantine_dir, "objects"))
        waiting = {name.removesuffix(".new").removesuffix(".json") for name in _sizes(host.taken_dir)}
    except OSError:
        return None
    if not waiting and not os.path.isdir(host.quarantine_dir):
        return None
    size = sum(records.values()) + sum(objects.values())
    kept = sum(name.endswith(".json") for name in records)
    return Quarantine(kept, len(waiting), size, settings.quarantine_max_mib * _MIB)


def _sizes(directory: str) -> dict[str, int]:
    """Return what each name of a directory takes; one that is missing is empty. Raises OSError."""
    sizes = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # evicted since
                    sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return {}
    return sizes


def _events(host: Host) -> tuple[Record, ...]:
    """Return the last events, the newest last."""
    try:
        reader = cast("_Reader", open_journal(host))
    except (HardendError, OSError):
        return ()
    try:
        for kind in KINDS.values():
            reader.add_match(MESSAGE_ID=kind.message_id)
        reader.add_match(_UID="0")  # anybody may send our MESSAGE_ID; journald says who did
        reader.seek_tail()
        newest: list[Record] = []
        while len(newest) < _EVENTS and (entry := reader.get_previous()):
            newest.append(to_record(entry))
        return tuple(reversed(newest))
    except OSError:  # a damaged journal
        return ()
    finally:
        reader.close()


def _queues(host: Host, found: Layout) -> tuple[str, ...]:
    """Return path, mode and owners of every queue directory."""
    queues = []
    for path in dict.fromkeys((*found.queues, found.client_queue)):
        with contextlib.suppress(OSError):
            seen = os.lstat(host.at(path)) if path else None
            if seen is not None:
                owners = _owners(host, seen)
                queues.append(f"{path} {stat.S_IMODE(seen.st_mode):04o} {owners}")
    return tuple(queues)


def _owners(host: Host, seen: os.stat_result) -> str:
    """Return owner and group; those of a tree are known by number only."""
    owner, group = str(seen.st_uid), str(seen.st_gid)
    if not host.is_tree:
        with contextlib.suppress(KeyError):
            owner = pwd.getpwuid(seen.st_uid).pw_name
        with contextlib.suppress(KeyError):
            group = grp.getgrgid(seen.st_gid).gr_name
    return f"{owner}:{group}"


@dataclass(frozen=True, slots=True)
class _Mta:
    """What tells with which configuration the MTA runs."""

    host: Host
    settings: Settings
    layout: Layout
    held: Mapping[str, Entry]
    drifts: Mapping[str, tuple[int, int]]

    def sentences(self) -> tuple[str, ...]:
        """Return one on each process, and one where the daemon does not run."""
        if self.host.is_tree or not os.path.exists(os.path.join(self.host.run_dir, "boot")):
            return ()  # without a name of this boot nothing was remembered, and none is made here
        said = []
        for kind in mta.Kind:
            try:
                process = mta.find(kind, self.host, self.layout)
            except OSError:
                continue
            if process is not None:
                said.append(f"{kind.value} runs, pid {process.pid}{self._loaded(process)}")
            elif kind is mta.Kind.DAEMON and _is_readable_or_gone(self.layout.pid_file):
                said.append("the daemon does not run")
        return tuple(said)

    def _loaded(self, process: mta.Process) -> str:
        """Return what is known of what a process has loaded, "" where this user cannot know."""
        paths = mta.files_of(process.kind, self.layout)
        baseline = {path: self.held[path].digest for path in paths if path in self.held}
        baseline = {path: digest for path, digest in baseline.items() if digest}
        if not baseline:
            return ""
        situation = mta.Situation(
            baseline=baseline,
            options=(),
            live=self._live(baseline),
            restart=self.settings.restart,
            interval_s=self.settings.reload_interval_s,
            now_ns=time.time_ns(),
            drifts=self.drifts,
        )
        remembered = mta_memory.read(self.host).loaded.get(process.kind)
        known = mta.knowledge(process, remembered, situation).digests
        different = [path for path, digest in baseline.items() if known[path] not in {mta.UNKNOWN, digest}]
        if different:
            why = 'restart = "never"' if self.settings.restart is config.Restart.NEVER else "hardend rebuild"
            return f", with another {', '.join(different)} than the baseline's ({why})"
        if mta.UNKNOWN in (known[path] for path in baseline):
            return ", with what configuration is not known (hardend rebuild)"
        return ", with the baseline's configuration"

    def _live(self, paths: Iterable[str]) -> dict[str, mta.Seen]:
        live = {}
        for path in paths:
            with contextlib.suppress(HardendError):
                copy = maps.copy_live(self.host, path)
                if copy is not None:
                    live[path] = mta.Seen(copy.digest, copy.ctime_ns)
        return live


def _is_readable_or_gone(path: str) -> bool:
    """Return whether this user would know of a process by its pid file."""
    is_gone = os.access(os.path.dirname(path), os.X_OK) and not os.path.lexists(path)
    return is_gone or os.access(path, os.R_OK)
