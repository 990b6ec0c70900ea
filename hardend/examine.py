# SPDX-License-Identifier: Apache-2.0
"""How a held path differs now: by lstat first, through the kept descriptor where that does not settle it."""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import replace
from typing import Protocol

from hardend.config import Settings
from hardend.kernel import flags as inode_flags
from hardend.model import Class, Drift, Entry, FileType, Mode, Role
from hardend.observe import Actual, flags_of, from_descriptor, from_stat, hash_descriptor, xattrs_of
from hardend.reconcile import Act, compare
from hardend.table import ANYTHING, Held, open_live

_SMALL = 1 << 20  # a map up to this size is hashed at once; a larger one is for the rebuild unit


class Settling(Protocol):
    """Who watches the inode that is live now."""

    def settle(self, held: Held) -> None:
        """Watch the live inode of the entry, and no older one."""


class Examiner:
    """Looks at paths; the only thing it changes is a lock that is off, which goes back on at once."""

    def __init__(self, settings: Settings, watcher: Settling) -> None:
        self._settings = settings
        self._watcher = watcher
        self.enforces = settings.mode is Mode.ENFORCE
        self.relocks = 0

    def drift(self, held: Held, found: os.stat_result | None) -> frozenset[Drift]:
        """Return how the path differs; ``found`` is what lstat saw there. Raises OSError."""
        if found is None:
            return frozenset({Drift.MISSING})
        entry = held.entry
        quick = compare(entry, from_stat(found))
        if Drift.TYPE in quick:
            return quick
        if entry.kind is FileType.SYMLINK:
            return quick | self._link_drift(held)
        if held.is_directory:
            return self._directory_drift(held, found, quick)
        return self._file_drift(held, found, quick)

    @staticmethod
    def _directory_drift(
        held: Held, found: os.stat_result, quick: frozenset[Drift]
    ) -> frozenset[Drift]:
        if held.is_same(found):
            return compare(held.entry, from_descriptor(held.descriptor, content=False))
        return quick | {Drift.TYPE} if held.descriptor >= 0 else frozenset({Drift.MISSING})

    def _file_drift(
        self, held: Held, found: os.stat_result, quick: frozenset[Drift]
    ) -> frozenset[Drift]:
        entry = held.entry
        if not held.is_same(found) or held.descriptor < 0:
            if entry.holds_content and self.enforces and entry.cls is Class.LOCKED:
                return of_lstat(entry, found, -1)
            if not self._adopt(held, found):
                return self._unread(held, quick)
        if quick and entry.holds_content:
            return of_lstat(entry, found, held.descriptor)
        return self._thorough_drift(held)

    def _link_drift(self, held: Held) -> frozenset[Drift]:
        try:
            target = os.fsdecode(os.readlink(held.name, dir_fd=held.parent_descriptor))
        except OSError:
            return frozenset({Drift.TYPE})
        return frozenset({Drift.TARGET}) if target != held.entry.target else frozenset()

    def _adopt(self, held: Held, found: os.stat_result) -> bool:
        """Hold the inode that now stands at a path whose content may change."""
        if not open_live(held, found):
            return False
        held.identify(found, 0)
        self._watcher.settle(held)
        return True

    @staticmethod
    def _unread(held: Held, quick: frozenset[Drift]) -> frozenset[Drift]:
        """Judge a file that cannot be opened, for a write lease or because it is another by now.

        The descriptor of the inode before it says nothing of it. Raises BlockingIOError where there is
        no approved content to replace it with.
        """
        held.drop()
        if held.entry.role is Role.MAP and not held.entry.opaque:
            return quick | {Drift.CONTENT}
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), held.entry.path)

    def _thorough_drift(self, held: Held) -> frozenset[Drift]:
        """Compare through the kept descriptor; a lock that is off goes back on before anything is read."""
        entry = held.entry
        descriptor = held.descriptor
        drift: frozenset[Drift] = frozenset()
        letters = flags_of(descriptor)
        # Who only observes locks nothing: a lock that is not there is no drift then.
        off = letters is not None and letters != entry.flags and (self.enforces or letters != "")
        if held.relocked or off:
            drift = frozenset({Drift.FLAGS})
            if self.enforces and entry.kind is FileType.FILE and not held.relocked:
                with contextlib.suppress(OSError):  # the restore tries again, and says why it cannot
                    self.relock(held)
            held.relocked = False
        content = entry.holds_content and entry.size <= self._settings.spare_max_mib << 20
        actual = from_descriptor(descriptor, content=content)
        drift |= compare(entry, actual) - {Drift.FLAGS}
        if entry.role is Role.MAP and not entry.opaque:
            drift |= self._map_drift(held, actual)
        return drift

    def relock(self, held: Held) -> bool:
        """Put the inode flags back through the kept descriptor; True when they were other ones."""
        if not inode_flags.hold_flags(held.descriptor, held.entry.flags):
            return False
        held.relocked = True
        self.relocks += 1
        return True

    def _map_drift(self, held: Held, actual: Actual) -> frozenset[Drift]:
        """A map with other bytes may answer the same: the rebuild unit tells; until then it is unproven."""
        if held.bad_answers:
            return frozenset({Drift.CONTENT})
        found = os.fstat(held.descriptor)
        if (found.st_ctime_ns, found.st_ino) == (held.ctime_ns, held.inode) and held.settled:
            return frozenset()
        if held.fresh:  # approved a moment ago, with the map that its new source makes
            is_same = hash_descriptor(held.descriptor) == held.entry.digest
            return frozenset() if is_same else frozenset({Drift.CONTENT})
        if actual.size <= _SMALL and hash_descriptor(held.descriptor) == held.entry.digest:
            held.unverified = False
        else:
            held.unverified = True
        return frozenset()


def put_in(held: Held, drift: frozenset[Drift], act: Act) -> Act:
    """Return the act for a drift of a path that was approved just now; of any other ``act`` itself.

    A checked file has what its writers wrote, which is judged and not replaced; but what stands there may
    still be what the approval replaces. Raises OSError.
    """
    if not held.fresh or held.entry.cls is not Class.CHECKED or act not in {Act.REBUILD, Act.AMEND}:
        return act
    if not held.entry.holds_content or not drift & {Drift.CONTENT, Drift.STALE}:
        return act
    is_old = held.replaces == ANYTHING or hash_descriptor(held.descriptor) == held.replaces
    return Act.EXCHANGE if is_old else act


def of_lstat(entry: Entry, found: os.stat_result | None, descriptor: int) -> frozenset[Drift]:
    """Return how a file differs by what lstat saw: enough where it differs at all.

    ``descriptor`` is that of the inode seen, if it is the one that was held; another inode, -1, is
    other content. Raises OSError.
    """
    if found is None:
        return frozenset({Drift.MISSING})
    actual = from_stat(found)
    drift = compare(entry, actual)
    if Drift.TYPE in drift:
        return drift
    if descriptor < 0:
        return drift | {Drift.CONTENT}
    if Drift.MODE in drift:  # an ACL shows in the mode; say which it was
        drift |= compare(entry, replace(actual, xattrs=xattrs_of(descriptor)))
    return drift
