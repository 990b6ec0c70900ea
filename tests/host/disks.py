# SPDX-License-Identifier: Apache-2.0
"""Runs inside the test host: disks that are full, impostors that hold up who opens or walks them.

``cd /root/hardend && python3 -m tests.host.disks VERB ARGUMENT...``: one JSON line each.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import statistics
import sys
import time

from tests.host import drifts
from tests.host.drifts import ACCESS, CF, LINK, QUEUE, SMRSH, WAIT_S, Drift, unlocked

# Beside what it is to be renamed over, whatever is mounted there; of a name that no class holds.
SCRATCH = "/etc/mail/drift.new"
HELP = "/etc/mail/helpfile"
LINKS_TO_ONE = 60_000  # ext4 takes 65,000
# None of them needs a block, nor a spare that an earlier one used up.
SPACELESS: tuple[tuple[str, str, Drift], ...] = (
    ("rewrite", CF, unlocked(drifts.rewrite)),
    ("chmod", ACCESS, unlocked(drifts.chmod)),
    ("delete", HELP, drifts.delete),
    ("removed link", f"{SMRSH}/{LINK}", drifts.delete),
    ("forbidden link", SMRSH, drifts.forbidden_link),
    ("mode of the queue", QUEUE, drifts.queue_mode),
    ("mode of the directory", "/etc/mail", drifts.mail_mode),
)
EVERY: tuple[tuple[str, str, Drift], ...] = (
    *SPACELESS,
    ("rename over", CF, unlocked(drifts.rename_over)),
    ("truncate", CF, unlocked(drifts.truncate)),
    ("delete", CF, unlocked(drifts.delete)),
    ("symlink", CF, unlocked(drifts.to_symlink)),
    ("directory", CF, unlocked(drifts.to_directory)),
    ("fifo", ACCESS, unlocked(drifts.to_fifo)),
    ("chown", ACCESS, unlocked(drifts.chown)),
    ("touch", ACCESS, unlocked(drifts.touch)),
    ("retargeted link", SMRSH, drifts.retargeted_link),
)
LISTS = {"spaceless": SPACELESS, "every": EVERY}
with_flags = drifts.describe
with_ours = drifts.snapshot
HOW: dict[str, Drift] = {"rewrite": unlocked(drifts.rewrite), "fifo": unlocked(drifts.to_fifo)}


def fill(path: str) -> dict[str, object]:
    """Write into a file until the disk is full to the last byte."""
    written = 0
    with open(path, "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1 << 10, 1):
            with contextlib.suppress(OSError):
                while True:
                    written += file.write(b"x" * size)
        try:
            file.write(b"x" * 4096)
        except OSError as error:
            return {"written": written, "full": error.errno == errno.ENOSPC}
    return {"written": written, "full": False}


def drift(how: str, path: str) -> dict[str, object]:
    """Drift one path; says nothing of what becomes of it."""
    HOW[how](path)
    return {"done": True}


def all_of(name: str) -> dict[str, object]:
    """Make each drift of a list, and tell how long it took until all was as before."""
    baseline = drifts.snapshot()
    back = {}
    for kind, path, how in LISTS[name]:
        how(path)
        back[f"{kind} {path}"] = round(drifts.wait_back(baseline), 4)
    return {"back_s": back, "lost": [label for label, took in back.items() if took < 0]}


def describe(path: str) -> object:
    """Return what is held of a path, where the file system has no inode flags or attributes too."""
    with contextlib.suppress(OSError):
        return with_flags(path)
    info = os.lstat(path)
    with open(path, "rb") as file:
        return [info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, file.read()]


def snapshot() -> dict[str, object]:
    """Return all that is held; what was replaced waits beside its path on another mount, in our directory."""
    return {path: state for path, state in with_ours().items() if not path.endswith("/.hardend")}


def lease(path: str) -> dict[str, object]:
    """Hold a write lease until killed; who breaks it waits as long as the kernel lets us."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    print("leased", flush=True)
    time.sleep(600)
    return {}


def many(path: str, count: int) -> dict[str, object]:
    """Make a directory of so many entries: links to a few files, five times as quick as files."""
    start = time.monotonic()
    os.mkdir(path)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    origin = ""
    for number in range(count):
        name = f"{number:x}"
        if number % LINKS_TO_ONE == 0:
            origin = name
            os.close(os.open(origin, os.O_CREAT | os.O_WRONLY, dir_fd=directory))
        else:
            os.link(origin, name, src_dir_fd=directory, dst_dir_fd=directory)
    os.close(directory)
    return {"entries": count, "seconds": round(time.monotonic() - start, 1)}


def times(count: int) -> dict[str, object]:
    """Measure, from the start of the drifting call until the path is seen to be back."""
    wanted = os.lstat(HELP)
    took = []
    for _ in range(count):
        start = time.perf_counter_ns()
        os.chmod(HELP, 0o666)
        end = time.monotonic() + WAIT_S
        while os.lstat(HELP).st_mode != wanted.st_mode:
            if time.monotonic() > end:
                return {"lost": True}
        took.append((time.perf_counter_ns() - start) // 1000)
        time.sleep(0.03)
    took.sort()
    return {
        "lost": False,
        "median_us": int(statistics.median(took)),
        "p90_us": took[len(took) * 9 // 10],
        "max_us": took[-1],
    }


VERBS = {
    "fill": lambda args: fill(args[0]),
    "drift": lambda args: drift(args[0], args[1]),
    "all": lambda args: all_of(args[0]),
    "lease": lambda args: lease(args[0]),
    "many": lambda args: many(args[0], int(args[1])),
    "times": lambda args: times(int(args[0])),
}

def main() -> None:
    """Run what the command line asks for."""
    drifts.SCRATCH = SCRATCH
    drifts.describe = describe
    drifts.snapshot = snapshot
    with contextlib.suppress(OSError):  # a full disk: what is done there needs none
        os.makedirs(SCRATCH, 0o700, exist_ok=True)
    try:
        print(json.dumps(VERBS[sys.argv[1]](sys.argv[2:])))
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)


if __name__ == "__main__":
    main()
