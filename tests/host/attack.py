# SPDX-License-Identifier: Apache-2.0
"""Runs inside the test host: attacks that take a loop of their own. One JSON line for each call."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import time

CF = "/etc/mail/sendmail.cf"
ACCESS = "/etc/mail/access"
QUEUE = "/var/spool/mqueue"


def shell(count: int) -> dict[str, object]:
    """``chattr -i F; echo evil >> F`` in a shell; how often the write was refused."""
    refused = 0
    script = f"chattr -i {ACCESS}; echo evil >> {ACCESS}"
    for _ in range(count):
        done = subprocess.run(["sh", "-c", script], capture_output=True, check=False)
        refused += done.returncode != 0
        time.sleep(0.02)
    return {"count": count, "refused": refused}


def churn(files: int, drifts: int) -> dict[str, object]:
    """Create and delete queue files while sendmail.cf is drifted."""
    every = max(1, files // drifts)
    done = 0
    for number in range(files):
        path = f"{QUEUE}/qf{number}"
        with open(path, "w") as file:
            file.write("x")
        os.unlink(path)
        if number % every == 0 and done < drifts:
            done += replace_cf()
    return {"files": files, "drifts": done}


def replace_cf() -> bool:
    """Take the lock off and rename another file over it, as often as it takes."""
    evil = f"/etc/evil-{time.monotonic_ns()}"
    with open(evil, "w") as file:
        file.write("evil\n")
    return bool(replace(evil, CF)["done"])


def replace(source: str, target: str) -> dict[str, object]:
    """Rename something over a locked file: no shell is quick enough, this is."""
    end = time.monotonic() + 15
    tries = 0
    while time.monotonic() < end:
        tries += 1
        try:
            descriptor = os.open(target, os.O_RDONLY | os.O_NONBLOCK)
            now = struct.unpack("I4x", fcntl.ioctl(descriptor, 0x80086601, bytes(8)))[0]
            fcntl.ioctl(descriptor, 0x40086602, struct.pack("I4x", now & ~0x10))
            os.close(descriptor)
            if os.path.isdir(source):
                os.unlink(target)
            os.rename(source, target)
        except PermissionError:
            continue
        except NotADirectoryError:
            continue  # the file was back between the two
        return {"done": True, "tries": tries}
    return {"done": False, "tries": tries}


def flood(seconds: float, path: str) -> dict[str, object]:
    """Open a readable protected file in a loop."""
    end = time.monotonic() + seconds
    opens = 0
    while time.monotonic() < end:
        os.close(os.open(path, os.O_RDONLY))
        opens += 1
    return {"opens": opens}


def overflow(path: str, count: int) -> dict[str, object]:
    """Make events that do not merge, with the guard stopped: its queue must overflow."""
    for _ in range(count):
        if os.path.isdir(path):
            with open(f"{path}/a", "w"):
                pass
            os.unlink(f"{path}/a")
        else:
            os.close(os.open(path, os.O_RDONLY))
            os.close(os.open("/etc/mail/submit.cf", os.O_RDONLY))
    return {"path": path, "count": count}


VERBS = {
    "shell": lambda args: shell(int(args[0])),
    "churn": lambda args: churn(int(args[0]), int(args[1])),
    "replace": lambda args: replace(args[0], args[1]),
    "flood": lambda args: flood(float(args[0]), args[1]),
    "overflow": lambda args: overflow(args[0], int(args[1])),
}

if __name__ == "__main__":
    print(json.dumps(VERBS[sys.argv[1]](sys.argv[2:])))
