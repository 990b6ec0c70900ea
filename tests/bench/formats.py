# SPDX-License-Identifier: Apache-2.0
"""What reading large files costs: ``python -m tests.bench.formats`` prints times and memory.

Each file is read in a process of its own, so that the memory is its own. Nothing here fails for being slow.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable

from hardend.formats.aliases import Aliases
from hardend.formats.cf import Cf
from hardend.formats.table import Table, WordList

_Document = Aliases | Cf | Table | WordList
CASES: dict[str, tuple[Callable[[], bytes], Callable[[bytes], _Document]]] = {
    "aliases, 120,000 entries": (
        lambda: b"".join(b"user%d: real.name%d@example.com\n" % (at, at) for at in range(120_000)),
        Aliases,
    ),
    "aliases, 1,000,000 short entries": (lambda: b"a:b\n" * 1_000_000, Aliases),
    "aliases, 100,000 programs": (
        lambda: b"".join(b'list%d: "|/usr/lib/list post %d"\n' % (at, at) for at in range(100_000)),
        Aliases,
    ),
    "access, 1,000,000 entries": (
        lambda: b"".join(
            b"Connect:10.%d.%d.%d\tREJECT\n" % (at >> 16, at >> 8 & 255, at & 255) for at in range(1_000_000)
        ),
        Table,
    ),
    "words, 1,000,000 hosts": (
        lambda: b"".join(b"host%d.example.com\n" % at for at in range(1_000_000)),
        WordList,
    ),
    "sendmail.cf, 100,000 lines": (lambda: b"R$* < @ $+ >\t$: $1 # note\n" * 100_000, Cf),
}


def main() -> None:
    """Print a row for each case."""
    print(f"{'file':34} {'MB':>6} {'read s':>7} {'remove s':>9} {'MiB':>5}")
    for name in CASES:
        child = os.fork()
        if child == 0:
            _measure(name)
            os._exit(0)
        os.waitpid(child, 0)


def _measure(name: str) -> None:
    make, read = CASES[name]
    data = make()
    before = _resident()
    started = time.monotonic()
    document = read(data)
    read_s = time.monotonic() - started
    resident = _resident() - before
    started = time.monotonic()
    if not isinstance(document, Cf):
        found = document.words if isinstance(document, WordList) else document.entries
        document.remove(*(item.line for item in found[::2]))
    removed_s = time.monotonic() - started
    print(f"{name:34} {len(data) / 1e6:6.1f} {read_s:7.2f} {removed_s:9.2f} {resident:5}", flush=True)


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    main()
