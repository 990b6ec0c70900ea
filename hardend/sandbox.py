# SPDX-License-Identifier: Apache-2.0
"""Running a program that may do anything, so that it can do nothing: no network, no files, no rights.

A sendmail.mc is a program (m4 has syscmd). What runs here runs as a user that owns nothing, without
groups, capabilities or a way back to them (setpriv(1)); in namespaces of its own (unshare(1)), so
without network, sockets and processes of the host; in a root of its own (chroot(2)) that holds the
programs and libraries of /usr, the files that it was given, read-only, and a small /tmp that is gone
afterwards; under limits (prlimit(1)). Inside a chroot the kernel refuses user namespaces, too.

There is no weaker form of it: where a namespace is refused, nothing is run. Namespaces need
CAP_SYS_ADMIN, which root has on a machine and in systemd-nspawn(1), but not in hardend's own units,
nor in a container without it. Who is not root gets them through a user namespace where the machine
allows that, and stays the same user, without files to reach.
"""

from __future__ import annotations

import grp
import math
import os
import pwd
import resource
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from hardend.command import Ran, run
from hardend.errors import CommandError

ACCOUNT = "hardend-check"
# Without that account, a number that belongs to nobody: systemd's and Debian's lists of user ids both
# leave 65520 to 65533 to no one, not even to DynamicUser=. Not nobody: daemons and NFS files are its.
_UNUSED_IDS = range(65529, 65519, -1)

_PROGRAM_DIRS = ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "bin", "sbin", "lib", "lib64")
_DEVICES = ("dev/null", "dev/zero", "dev/urandom")
# The inner limit of time is for when hardend itself is killed; until then the outer one counts.
_GRACE_S = 5
_HINT = (
    "root with CAP_SYS_ADMIN may unshare namespaces and mount; a container or unit without it may not"
)
# Runs as root, or root of a user namespace, as process 1: when it ends, everything inside ends. The
# file "ready" tells a confinement that failed from a program that did. The kernel's out-of-memory
# killer is to take this first.
_CONFINE = """\
set -eu
private=$1 binds=$2 how=$3 scratch=$4 seconds=$5
shift 5
root=$private/root
mount -n --bind "$root" "$root"
for name in $binds; do
    mount -n "$how" "/$name" "$root/$name"
    case $name in
    dev/*) ;;
    *) mount -n -o remount,bind,ro,nosuid,nodev "$root/$name" ;;
    esac
done
mount -n -t tmpfs -o "size=$scratch,nr_inodes=4096,mode=1777,nosuid,nodev,noexec" none "$root/tmp"
mount -n -o remount,bind,ro,nosuid,nodev,noexec "$root"
echo 1000 >/proc/self/oom_score_adj
: >"$private/ready"
exec >"$private/output"
status=0
timeout -s KILL "$seconds" "$@" || status=$?
exit "$status"
"""
_ENTER = 'cd -- "$1" && shift && exec "$@"'


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may use at most: bytes, and a number of processes at a time.

    ``memory`` is that of each process; ``output`` each of standard output, standard error and any
    file; ``scratch`` all of /tmp. The time of the processor is that of the clock, for each process.
    """

    memory: int = 128 << 20
    processes: int = 16
    output: int = 16 << 20
    scratch: int = 32 << 20


def run_confined(
    argv: Sequence[str],
    *,
    timeout_s: float,
    stdin: bytes = b"",
    directory: str = "/tmp",  # noqa: S108 - the run's own
    readable: Mapping[str, bytes] = MappingProxyType({}),
    limits: Limits | None = None,
) -> Ran:
    """Run a program of this machine's /usr to its end; ``errors`` of the result is all that it said.

    ``readable`` are the files that it sees, by absolute path; ``directory`` is where it starts, made
    if need be. Raises CommandError when it cannot be confined here, is not done in time, or writes
    more than it may; ValueError for a path of a file that is not absolute and plain, or ``is_given``.
    """
    bounds = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="hardend-run-") as private:
        user = _user()
        binds = _lay(os.path.join(private, "root"), _with_accounts(readable, user), directory)
        command = [
            *_namespaces(),
            *("sh", "-c", _CONFINE, "hardend-confine"),
            *(private, " ".join(binds), "--bind" if user else "--rbind"),
            *(str(bounds.scratch), str(math.ceil(timeout_s) + _GRACE_S)),
            *("chroot", os.path.join(private, "root")),
            *_limited(bounds, timeout_s),
            *_without_rights(user),
            *("sh", "-c", _ENTER, "sh", directory, *argv),
        ]
        try:
            done = run(command, timeout_s=timeout_s, stdin=stdin, limit=bounds.output)
        except CommandError as error:
            raise CommandError(_named(str(error), command, argv)) from error
        if not os.path.exists(os.path.join(private, "ready")):
            raise CommandError(f"{argv[0]}: cannot be confined here: {done.last_words}", hint=_HINT)
        return Ran(done.status, _output(private, argv, bounds), done.output)


def is_given(path: str) -> bool:
    """Return whether a path lies in what every run sees of this machine: programs and libraries."""
    return any(f"{os.path.normpath(path)}/".startswith(f"/{name}/") for name in _PROGRAM_DIRS)


@dataclass(frozen=True, slots=True)
class _User:
    uid: int
    gid: int


def _user() -> _User | None:
    """Return whom to become; None when this is not root, who cannot become anybody.

    Raises CommandError when there is nobody to become.
    """
    if os.geteuid() != 0:
        return None
    try:
        account = pwd.getpwnam(ACCOUNT)
    except KeyError:
        free = next((number for number in _UNUSED_IDS if _is_unused(number)), 0)
        if not free:
            raise CommandError(
                f"no user to run programs as: {_UNUSED_IDS[-1]} to {_UNUSED_IDS[0]} have accounts",
                hint=f"useradd --system --no-create-home {ACCOUNT}",
            ) from None
        return _User(free, free)
    if account.pw_uid == 0 or account.pw_gid == 0:
        raise CommandError(f"the account {ACCOUNT} is root's", hint="remove it, or give it its own ids")
    return _User(account.pw_uid, account.pw_gid)


def _is_unused(number: int) -> bool:
    try:
        pwd.getpwuid(number)
    except KeyError:
        pass
    else:
        return False
    try:
        grp.getgrgid(number)
    except KeyError:
        return True
    return False


def _with_accounts(readable: Mapping[str, bytes], user: _User | None) -> dict[str, bytes]:
    """Return the files with an /etc/passwd in which programs find their own name, and no other."""
    ids = f"{user.uid}:{user.gid}" if user else "0:0"  # without a user: root of a user namespace
    return {"/etc/passwd": f"{ACCOUNT}:x:{ids}::/:/usr/sbin/nologin\n".encode(), **readable}


def _lay(root: str, readable: Mapping[str, bytes], directory: str) -> list[str]:
    """Make the directory that becomes the root; return what is to be mounted in it."""
    os.mkdir(root)
    binds = []
    for name in _PROGRAM_DIRS:
        if os.path.islink(f"/{name}"):  # /bin of a system whose programs are all in /usr
            os.symlink(os.readlink(f"/{name}"), os.path.join(root, name))
        elif os.path.isdir(f"/{name}"):
            os.makedirs(os.path.join(root, name))
            binds.append(name)
    for name in (*_DEVICES, *readable):
        place = _inside(root, name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "xb") as file:
            file.write(readable.get(name, b""))
    for name in ("/tmp", directory):  # noqa: S108 - the run's own
        if not is_given(name):
            os.makedirs(_inside(root, name), exist_ok=True)
    for place, _, files in os.walk(root):
        os.chmod(place, 0o755)  # noqa: S103 - to be read by the run, whatever the umask is
        for name in files:
            if not os.path.islink(os.path.join(place, name)):
                os.chmod(os.path.join(place, name), 0o644)
    return [*binds, *(name for name in _DEVICES if os.path.exists(f"/{name}"))]


def _inside(root: str, path: str) -> str:
    """Return where a path of the run is beneath its root. Raises ValueError, see run_confined."""
    if path in _DEVICES:
        path = f"/{path}"
    elif not path.startswith("/") or os.path.normpath(path) != path or is_given(path):
        raise ValueError(f"no path for a file of a confined run: {path!r}")
    return root + path


def _namespaces() -> list[str]:
    """Return the command that gives a program namespaces of its own, and ends it when it is ended."""
    new = ["--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child"]
    return ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), *new]


def _limited(bounds: Limits, timeout_s: float) -> list[str]:
    """Return the command that sets the limits; command.run has set that of files already."""
    wanted = {
        "as": (resource.RLIMIT_AS, bounds.memory),
        "nproc": (resource.RLIMIT_NPROC, bounds.processes),
        "cpu": (resource.RLIMIT_CPU, math.ceil(timeout_s)),
        "nofile": (resource.RLIMIT_NOFILE, 256),
        "core": (resource.RLIMIT_CORE, 0),
        "memlock": (resource.RLIMIT_MEMLOCK, 0),
    }
    words = ["prlimit"]
    for name, (number, most) in wanted.items():
        hard = resource.getrlimit(number)[1]  # which only root may raise
        words.append(f"--{name}={most if hard == resource.RLIM_INFINITY else min(most, hard)}")
    return words


def _without_rights(user: _User | None) -> list[str]:
    """Return the command that drops every right for good."""
    drop = ["setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
    if user:
        drop += [f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
    return drop


def _output(private: str, argv: Sequence[str], bounds: Limits) -> bytes:
    with open(os.path.join(private, "output"), "rb") as file:
        data = file.read(bounds.output)
    if len(data) == bounds.output:
        raise CommandError(f"{argv[0]}: wrote more than {bounds.output} bytes")
    return data


def _named(text: str, command: Sequence[str], argv: Sequence[str]) -> str:
    """Return an error of the command as one of the program, which is what the reader knows."""
    return text.replace(" ".join(command), " ".join(argv))
