# SPDX-License-Identifier: Apache-2.0
"""Small generations for the tests of the store."""

from __future__ import annotations

from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.model import Class, Entry, FileType, Role

CONTENT = {1: b"O PrivacyOptions=goaway\n", 2: b"second\n", 3: b"third\n"}


def generation(store: Store, number: int, parent: str | None = None) -> Generation:
    entries = {
        path: Entry(path, Role.ANCESTOR, Class.LOCKED, FileType.DIRECTORY, 0, 0, 0o755)
        for path in ("/", "/etc")
    }
    entries["/etc/cf"] = Entry(
        path="/etc/cf",
        role=Role.SOURCE,
        cls=Class.LOCKED,
        kind=FileType.FILE,
        uid=0,
        gid=0,
        mode=0o644,
        size=len(CONTENT[number]),
        digest=store.add_object(CONTENT[number]),
    )
    if parent is None:
        parent = store.next()[1]
    return Generation(number, parent, "now", "root", f"reason {number}", "debian", "0", "8", entries)


def commit(store: Store, number: int) -> None:
    with store.locked():
        store.add_generation(generation(store, number))
