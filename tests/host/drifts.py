# SPDX-License-Identifier: Apache-2.0
"""Runs inside the test host: drifts protected paths in every way, and tells whether they came back.

``python3 drifts.py each``: every kind once; a JSON line each.
``python3 drifts.py mixed N SEED [KIND]...``: N drifts of all but these kinds; one JSON line.
Stands alone: none of our modules is on its path.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable

CF = "/etc/mail/sendmail.cf"
ACCESS = "/etc/mail/access"
SMRSH = "/etc/mail/smrsh"
QUEUE = "/var/spool/mqueue"
SCRATCH = "/etc/mail-drift-scratch"
WAIT_S = 15.0
Drift = Callable[[str], object]


def set_immutable(path: str, on: bool) -> None:
    """Set or clear +i as chattr(1) does; a missing file or one without flags is passed over."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        now = struct.unpack("I4x", fcntl.ioctl(descriptor, 0x80086601, bytes(8)))[0]
        wanted = now | 0x10 if on else now & ~0x30
        if now != wanted:
            fcntl.ioctl(descriptor, 0x40086602, struct.pack("I4x", wanted))
    except OSError:
        pass
    finally:
        os.close(descriptor)


def unlocked(change: Drift) -> Drift:
    """Change a locked path as an intruder must: the lock comes off first, as often as it takes."""

    def attempt(path: str) -> None:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            set_immutable(path, on=False)
            try:
                change(path)
            except PermissionError:
                continue
            except OSError:
                return  # half of it was done and put back before the other half
            return
        raise SystemExit(f"{path}: the lock came back each time before a change")

    return attempt


def rewrite(path: str) -> None:
    with open(path, "r+b", buffering=0) as file:
        file.write(b"# evil\n")


def rename_over(path: str) -> None:
    ready(f"{SCRATCH}/new", rewrite_new)
    os.rename(f"{SCRATCH}/new", path)


def ready(path: str, make: Drift) -> None:
    """Make what is to be renamed once: between the lock and the rename there is no time for it."""
    if not os.path.lexists(path):
        make(path)


def rewrite_new(path: str) -> None:
    with open(path, "wb") as file:
        file.write(b"another\n")


def truncate(path: str) -> None:
    os.truncate(path, 0)


def delete(path: str) -> None:
    os.unlink(path)


def to_symlink(path: str) -> None:
    ready(f"{SCRATCH}/link", lambda aside: os.symlink("/etc/shadow", aside))
    os.rename(f"{SCRATCH}/link", path)


def to_directory(path: str) -> None:
    os.unlink(path)
    os.mkdir(path)


def to_fifo(path: str) -> None:
    ready(f"{SCRATCH}/fifo", os.mkfifo)
    os.rename(f"{SCRATCH}/fifo", path)


def chmod(path: str) -> None:
    os.chmod(path, 0o666)


def chown(path: str) -> None:
    os.chown(path, 65534, -1)


def chgrp(path: str) -> None:
    os.chown(path, -1, 65534)


def touch(path: str) -> None:
    os.utime(path)


def setfacl(path: str) -> None:
    value = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, perm, identity)
        for tag, perm, identity in (
            (1, 6, 0xFFFFFFFF),
            (2, 6, 65534),
            (4, 4, 0xFFFFFFFF),
            (16, 6, 0xFFFFFFFF),
            (32, 4, 0xFFFFFFFF),
        )
    )
    os.setxattr(path, "system.posix_acl_access", value)


def setfattr(path: str) -> None:
    os.setxattr(path, "user.evil", b"1")


def append_only(path: str) -> None:
    subprocess.run(["chattr", "-i", "+a", path], check=True, stderr=subprocess.DEVNULL)


def chattr_alone(path: str) -> None:
    subprocess.run(["chattr", "-i", path], check=True, stderr=subprocess.DEVNULL)


def forbidden_link(_path: str) -> None:
    os.symlink("/bin/sh", f"{SMRSH}/sh")


def retargeted_link(_path: str) -> None:
    os.symlink("/bin/sh", f"{SCRATCH}/sh")
    os.rename(f"{SCRATCH}/sh", f"{SMRSH}/{LINK}")


def removed_link(_path: str) -> None:
    os.unlink(f"{SMRSH}/{LINK}")


def queue_mode(_path: str) -> None:
    os.chmod(QUEUE, 0o777)


def mail_mode(_path: str) -> None:
    os.chmod("/etc/mail", 0o777)


def mail_moved(_path: str) -> None:
    os.rename("/etc/mail", f"{SCRATCH}/mail-{time.monotonic_ns()}")
    try:
        os.mkdir("/etc/mail")
        with open("/etc/mail/sendmail.cf", "w") as file:
            file.write("impostor\n")
    except OSError:
        pass  # it is home again already


LINK = min(name for name in os.listdir(SMRSH) if os.path.islink(f"{SMRSH}/{name}"))

EACH: dict[str, tuple[str, Drift]] = {
    "rewrite": (CF, unlocked(rewrite)),
    "rename-over": (CF, unlocked(rename_over)),
    "truncate": (CF, unlocked(truncate)),
    "delete": (CF, unlocked(delete)),
    "symlink": (CF, unlocked(to_symlink)),
    "directory": (CF, unlocked(to_directory)),
    "fifo": (CF, unlocked(to_fifo)),
    "chmod": (CF, unlocked(chmod)),
    "chown": (CF, unlocked(chown)),
    "chgrp": (CF, unlocked(chgrp)),
    "touch": (CF, unlocked(touch)),
    "chattr": (CF, chattr_alone),
    "append": (CF, append_only),
    "setfacl": (ACCESS, unlocked(setfacl)),
    "setfattr": (ACCESS, unlocked(setfattr)),
    "forbidden-link": (SMRSH, forbidden_link),
    "retargeted-link": (SMRSH, retargeted_link),
    "removed-link": (SMRSH, removed_link),
    "queue-mode": (QUEUE, queue_mode),
    "mail-mode": ("/etc/mail", mail_mode),
    "mail-moved": ("/etc/mail", mail_moved),
}


def snapshot() -> dict[str, object]:
    """Return everything that is held, of everything that is protected; read by lstat and open."""
    found: dict[str, object] = {}
    for directory in ("/etc/mail", SMRSH, QUEUE):
        found[directory] = describe(directory)
    for directory in ("/etc/mail", SMRSH):
        for name in sorted(os.listdir(directory)):
            path = f"{directory}/{name}"
            if not name.endswith(".db"):
                found[path] = describe(path)
    found["/etc/aliases"] = describe("/etc/aliases")
    return found


def describe(path: str) -> object:
    info = os.lstat(path)
    basic = [info.st_mode, info.st_uid, info.st_gid]
    if stat.S_ISLNK(info.st_mode):
        return [*basic, os.readlink(path)]
    if not stat.S_ISREG(info.st_mode):
        return basic
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        flags = struct.unpack("I4x", fcntl.ioctl(descriptor, 0x80086601, bytes(8)))[0]
        digest = hashlib.sha256(os.pread(descriptor, 1 << 24, 0)).hexdigest()
        attributes = {name: os.getxattr(descriptor, name).hex() for name in os.listxattr(descriptor)}
        return [*basic, digest, info.st_mtime_ns, flags & 0x30, attributes]
    finally:
        os.close(descriptor)


def is_back(baseline: dict[str, object]) -> bool:
    try:
        return snapshot() == baseline
    except OSError:
        return False


def wait_back(baseline: dict[str, object]) -> float:
    start = time.monotonic()
    while time.monotonic() - start < WAIT_S:
        if is_back(baseline):
            return time.monotonic() - start
        time.sleep(0.02)
    return -1.0


def open_unlocked() -> int:
    """Open the access file for writing, in the moment between the lock and its return."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        set_immutable(ACCESS, on=False)
        with contextlib.suppress(PermissionError):
            return os.open(ACCESS, os.O_RDWR)
    raise SystemExit("the access file could not be opened for writing")


def hold_old_descriptor() -> Drift:
    """A descriptor opened before; the write comes later."""
    descriptor = open_unlocked()
    time.sleep(0.5)
    return unlocked(lambda _path: os.pwrite(descriptor, b"LATE", 0))


def hold_old_mapping() -> Drift:
    """A mapping made before, stored into later."""
    descriptor = open_unlocked()
    mapping = mmap.mmap(descriptor, 0)
    time.sleep(0.5)

    def late(_path: str) -> None:
        pid = os.fork()
        if pid == 0:
            set_immutable(ACCESS, on=False)
            mapping[0:1] = b"M"  # SIGBUS while it is immutable: the child dies, as measured
            os._exit(0)
        os.waitpid(pid, 0)

    return late


def hold_hard_link() -> Drift:
    """A second name made before; the write goes through it."""
    alias = f"{SCRATCH}/alias"
    while not os.path.exists(alias):
        set_immutable(ACCESS, on=False)
        try:
            os.link(ACCESS, alias)
        except PermissionError:
            continue
    time.sleep(0.5)

    def late(_path: str) -> None:
        unlocked(rewrite)(alias)

    return late


def bind_mount(_path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    rewrite_new(f"{SCRATCH}/over")
    if libc.mount(f"{SCRATCH}/over".encode(), CF.encode(), None, 4096, None):
        raise OSError(ctypes.get_errno(), "mount")


def each() -> int:
    baseline = snapshot()
    failures = 0
    prepared: dict[str, tuple[str, Callable[[], Drift]]] = {
        "old-descriptor": (ACCESS, hold_old_descriptor),
        "old-mapping": (ACCESS, hold_old_mapping),
        "hard-link": (ACCESS, hold_hard_link),
        "bind-mount": (CF, lambda: bind_mount),
    }
    for name in (*EACH, *prepared):
        if name in EACH:
            path, drift = EACH[name]
        else:
            path, prepare = prepared[name]
            drift = prepare()
        wait_back(baseline)
        drift(path)
        took = wait_back(baseline)
        failures += took < 0
        print(json.dumps({"kind": name, "path": path, "back_s": round(took, 4)}), flush=True)
        time.sleep(0.15)
    return failures


def mixed(count: int, seed: int) -> int:
    baseline = snapshot()
    chance = random.Random(seed)
    names = sorted(set(EACH) - set(sys.argv[4:]))
    tally: dict[str, int] = {}
    for _ in range(count):
        name = chance.choice(names)
        path, drift = EACH[name]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            drift(path)  # it may find that the drift before it is being put back this very moment
        tally[name] = tally.get(name, 0) + 1
        if chance.random() < 0.3:
            time.sleep(chance.random() * 0.01)
    took = wait_back(baseline)
    now = {} if took >= 0 else snapshot()
    wrong = [path for path in baseline if now and now.get(path) != baseline[path]]
    print(json.dumps({"drifts": count, "back_s": round(took, 4), "wrong": wrong, "kinds": tally}))
    return took < 0


def main() -> int:
    """Run what the command line asks for."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    os.makedirs(SCRATCH, 0o700, exist_ok=True)
    try:
        if sys.argv[1] == "each":
            return each()
        return mixed(int(sys.argv[2]), int(sys.argv[3]))
    finally:
        for name in os.listdir(SCRATCH):  # what is ours only: /etc/mail may be on its way home
            set_immutable(f"{SCRATCH}/{name}", on=False)
            if not os.path.isdir(f"{SCRATCH}/{name}"):
                os.unlink(f"{SCRATCH}/{name}")


if __name__ == "__main__":
    sys.exit(main())
