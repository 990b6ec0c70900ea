# SPDX-License-Identifier: Apache-2.0
"""Comparing a host with a generation from outside the guard: reads everything, changes nothing."""

from __future__ import annotations

import contextlib
import os
import stat

from hardend import classes, layout, maps
from hardend.baseline.manifest import Generation
from hardend.capture import Reader, drift_of
from hardend.config import Settings
from hardend.errors import HardendError, RefusedError
from hardend.model import Class, Drift, Host, Mode, Role


def require_same_layout(host: Host, generation: Generation) -> None:
    """Raise RefusedError for a baseline that was approved on a host with another layout.

    Its paths and owners are not this host's: putting them back would break mail. A host whose layout
    cannot be found now (its sendmail.cf is drifted) is not refused: that is what is to be put back.
    """
    try:
        profile = layout.find(host).profile
    except HardendError:
        return
    if generation.layout != profile:
        raise RefusedError(
            f"generation {generation.number} is of a host with the {generation.layout} layout, "
            f"and this one has the {profile} layout: nothing of it is enforced",
            hint="hardend layout shows what was found; hardend approve --reason TEXT takes it in",
        )


def inspect(
    host: Host, generation: Generation, settings: Settings, tools: maps.Tools | None
) -> dict[str, frozenset[Drift]]:
    """Return every path that differs, with how; maps are asked where their programs are at hand.

    Raises FileError for a path that cannot be read.
    """
    reader = Reader(host)
    try:
        drifts = {}
        for path, entry in generation.entries.items():
            drift = drift_of(entry, reader)
            if settings.mode is Mode.OBSERVE:
                drift -= {Drift.FLAGS}  # who only observes locks nothing
            if entry.role is Role.MAP and not entry.opaque and not drift and tools is not None:
                drift |= _map_drift(entry.path, generation, reader, tools)
            if drift:
                drifts[path] = drift
        drifts.update(_strangers(host, generation, settings))
        return drifts
    finally:
        reader.close()


def _map_drift(
    path: str, generation: Generation, reader: Reader, tools: maps.Tools
) -> frozenset[Drift]:
    entry = generation.entries[path]
    live = reader.read(path, content=True)
    if live is None or entry.spec is None:
        return frozenset()
    if live.actual.digest == entry.digest:
        return frozenset()
    try:
        with maps.workdir() as directory:
            answers = maps.answers_of(live.content, entry.spec, directory, tools)
    except maps.NoProgramError:
        return frozenset()
    except HardendError:
        return frozenset({Drift.CONTENT})  # a map that cannot be read answers nothing right
    return frozenset({Drift.CONTENT}) if answers != entry.answers else frozenset()


def _is_ours(path: str) -> bool:
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and not found.st_mode & 0o077
    return False


def _strangers(
    host: Host, generation: Generation, settings: Settings
) -> dict[str, frozenset[Drift]]:
    """Return names in protected directories that are no entries and not of class ``ignored``."""
    found_layout = layout.find(host)
    strangers = {}
    for path, entry in generation.entries.items():
        if entry.role not in {Role.DIRECTORY, Role.CLOSED}:
            continue
        try:
            names = os.listdir(host.at(path))
        except OSError:
            continue  # already told as drift of the directory
        for name in names:
            full = os.path.join(path, name)
            if full in generation.entries or (name == ".hardend" and _is_ours(host.at(full))):
                continue
            if entry.role is Role.CLOSED or (
                classes.class_of(full, found_layout, settings) is not Class.IGNORED
            ):
                strangers[full] = frozenset({Drift.UNEXPECTED})
    return strangers
