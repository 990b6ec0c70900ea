# SPDX-License-Identifier: Apache-2.0
"""What the witness watches: directories that hold protected paths, and the files themselves.

A directory that is protected is watched with its children, whatever inodes they are. Of one that merely
leads there, such as /etc, only names are watched: its files are opened all the time by everybody. A file
is watched by its inode too, which is followed when another takes its place: it may have other names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hardend.kernel import fanotify
from hardend.kernel.fanotify import Event, Group, Handle
from hardend.model import Entry, FileType, Host, Role

_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_HOLDERS = frozenset({Role.DIRECTORY, Role.CLOSED})
_WITH_CHILDREN = fanotify.CHANGES | fanotify.OPEN | fanotify.ON_CHILD | fanotify.ONDIR
_NAMES_ONLY = fanotify.NAMES | fanotify.ONDIR
_OF_FILE = fanotify.MODIFY | fanotify.CLOSE_WRITE | fanotify.ATTRIB | fanotify.OPEN


@dataclass(slots=True)
class Marks:
    """The marks of a group for the entries of a generation; ``faults`` says what cannot be watched."""

    host: Host
    group: Group
    faults: dict[str, str] = field(default_factory=dict)
    _entries: Mapping[str, Entry] = field(default_factory=dict)
    _directories: dict[Handle, str] = field(default_factory=dict)
    _files: dict[Handle, str] = field(default_factory=dict)
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    _taken: str = "/etc/hardend/taken"

    def renew(self, entries: Mapping[str, Entry]) -> None:
        """Watch these entries and nothing else."""
        self.group.forget()
        self._entries = entries
        for known in (self._directories, self._files, self._seen, self.faults):
            known.clear()
        self.look()

    def look(self) -> bool:
        """Watch what has another inode than when it was last looked at; True when there was any."""
        changed = False
        for path, mask in self._directory_masks():
            changed = self._mark(path, mask, self._directories) or changed
        for path, entry in self._entries.items():
            if entry.kind is FileType.FILE:
                changed = self._mark(path, _OF_FILE, self._files) or changed
        return changed

    def follow(self, path: str) -> None:
        """Watch the object that now stands at a path, if it is a file that is held."""
        entry = self._entries.get(path)
        if entry is not None and entry.kind is FileType.FILE:
            self._mark(path, _OF_FILE, self._files)

    def path_of(self, event: Event) -> tuple[str, bool]:
        """Return the path that an event is about, "" for none, and whether its name was told.

        Else it is known by its object, which has another name too: that may have gone elsewhere since.
        """
        directory = self._directories.get(event.directory) if event.directory is not None else None
        if directory is not None:
            name = os.fsdecode(event.name)
            path = directory if name == "." else os.path.join(directory, name)
            if path in self._entries or directory == self._taken or self._is_closed(directory):
                return path, True
        return (self._files.get(event.file, "") if event.file is not None else ""), False

    def taken_of(self, path: str) -> str:
        """Return the name of what was set aside, "" for any other path."""
        directory, _, name = path.rpartition("/")
        return name if directory == self._taken else ""

    def _is_closed(self, directory: str) -> bool:
        entry = self._entries.get(directory)
        return entry is not None and entry.role is Role.CLOSED

    def _directory_masks(self) -> Iterator[tuple[str, int]]:
        held = {path for path, entry in self._entries.items() if entry.role in _HOLDERS}
        yield from ((path, _WITH_CHILDREN) for path in sorted(held))
        leading = {os.path.dirname(path) for path in self._entries} - held
        yield from ((path, _NAMES_ONLY) for path in sorted(leading))
        if self._entries:
            yield self._taken, fanotify.MOVED_TO | fanotify.ONDIR

    def _mark(self, path: str, mask: int, known: dict[Handle, str]) -> bool:
        """Watch a path, unless the object there is watched already."""
        try:
            descriptor = os.open(self.host.at(path), _PATH)
            try:
                found = os.fstat(descriptor)
                identity = found.st_dev, found.st_ino
                if self._seen.get(path) == identity:
                    return False
                self.group.mark(descriptor, mask)
                handle = fanotify.handle_of(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._seen.pop(path, None)
            self.faults[path] = error.strerror or str(error)
            return False
        for old in [old for old, of in known.items() if of == path]:
            del known[old]
        known[handle] = path
        self._seen[path] = identity
        self.faults.pop(path, None)
        return True
