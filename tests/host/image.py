# SPDX-License-Identifier: Apache-2.0
"""Trees of a Debian mail host, built once into a cache outside the repository.

The base image is what a mail host is before hardend, on Debian 12 or 13; the installed image is a copy
of it after ``./run install``, on Debian 12. Each is named by what it is made from, built under a
temporary name and renamed when it is complete, so that an interrupted build is never taken for an image.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
SUITE = "bookworm"
NEXT_SUITE = "trixie"  # on the same mirrors
BUILD_TIMEOUT_S = 1500

BOOTSTRAP = (
    "systemd,systemd-sysv,dbus,python3,iproute2,ca-certificates,e2fsprogs,acl,attr,procps,"
    "util-linux,make,m4,netbase,psmisc,strace"
)
# A fixed machine-id: with none, the first boot would enable every unit that has an [Install]
# section (systemd's preset-all), which no host that hardend is installed on later does.
INSTALL = """\
set -e
export DEBIAN_FRONTEND=noninteractive
systemd-machine-id-setup
echo mail.example.com >/etc/hostname
printf '127.0.0.1 localhost\\n127.0.1.1 mail.example.com mail\\n' >/etc/hosts
apt-get -q update
apt-get -q -y --no-install-recommends install \\
    sendmail sendmail-bin sensible-mda procmail bsd-mailx
systemctl mask apt-daily.timer apt-daily-upgrade.timer
useradd --create-home --shell /bin/bash alice
apt-get clean
"""
FETCH = "apt-get -q -y --download-only --reinstall install sendmail sendmail-bin sendmail-base"
PASSED = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "http_proxy", "https_proxy", "no_proxy")


class ImageError(Exception):
    """An image could not be built; the last words of the command that failed are in the text."""


def cache_dir() -> Path:
    """Return the directory that holds images and running copies, made if it is not there."""
    chosen = os.environ.get("HARDEND_TEST_CACHE", "/var/cache/hardend-test")
    path = Path(chosen)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (created if need be); the kernel releases it if we die."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Source:
    """One line of the machine's own apt sources."""

    site: str
    release: str
    component: str

    def line(self) -> str:
        """Return it as sources.list(5) wants it."""
        return f"deb {self.site} {self.release} {self.component}\n"


def apt_sources(suite: str = SUITE) -> tuple[Source, ...]:
    """Return where this machine gets Debian's main component from, base suite first."""
    done = _call(
        ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)",
         "Created-By: Packages"],
    )  # fmt: skip
    wanted = [SUITE, f"{SUITE}-updates", f"{SUITE}-security"]
    found = []
    for line in dict.fromkeys(done.splitlines()):
        site, release, component = line.split(" ", 2)
        if release in wanted and component == "main":
            found.append(Source(site, release, component))
    found.sort(key=lambda source: wanted.index(source.release))
    if not found or found[0].release != SUITE:
        raise ImageError(f"apt's sources name no mirror of {SUITE} main")
    return tuple(replace(source, release=source.release.replace(SUITE, suite)) for source in found)


def lay(target: Path, *, install: bool, suite: str = SUITE) -> None:
    """Copy a mail host to ``target``, after ``./run install`` or without; builds it if need be.

    ``suite`` is for the host without hardend.

    One at a time on this machine, so that no image is replaced while it is copied.
    """
    with locked(cache_dir() / "build.lock"):
        copy(_installed() if install else _base(suite), target)


def _base(suite: str = SUITE) -> Path:
    """Return the tree of a Debian mail host without hardend."""
    digest = hashlib.sha256(repr((suite, BOOTSTRAP, INSTALL)).encode()).hexdigest()[:16]
    kind = "base" if suite == SUITE else suite
    return _image(f"{kind}-{digest}", lambda tree: _bootstrap(tree, suite))


def _installed() -> Path:
    """Return the base image after ``./run install``."""
    origin = _base()
    digest = hashlib.sha256(origin.name.encode())
    digest.update((REPOSITORY / "run").read_bytes())
    digest.update(_dependencies())

    def install(tree: Path) -> None:
        copy(origin, tree)
        put_source(tree)
        inside(tree, "cd /root/hardend && exec ./run install")

    return _image(f"installed-{digest.hexdigest()[:16]}", install)


def packages(kind: str = "packages", fetching: str = FETCH) -> Path:
    """Return a directory of packages, by default the mail server's in the versions that the image has."""
    with locked(cache_dir() / "build.lock"):
        origin = _base()

        def fetch(target: Path) -> None:
            work = target.with_name("fetching.unfinished")
            remove(work)
            try:
                copy(origin, work)
                inside(work, fetching)
                shutil.copytree(work / "var/cache/apt/archives", target, ignore=_no_package)
            finally:
                remove(work)

        digest = hashlib.sha256(repr((origin.name, fetching)).encode()).hexdigest()[:16]
        return _image(f"{kind}-{digest}", fetch)


def _no_package(directory: str, names: list[str]) -> list[str]:
    del directory
    return [name for name in names if not name.endswith(".deb")]


def copy(origin: Path, target: Path) -> None:
    """Copy a whole tree: owners, modes, times, links; shares blocks where the file system can."""
    _call(["cp", "-a", "--reflink=auto", "--", str(origin), str(target)])


def put_source(tree: Path) -> None:
    """Lay this checkout, without what is built or ignored, into the tree at /root/hardend."""
    target = tree / "root/hardend"
    shutil.rmtree(target, ignore_errors=True)
    listed = _call(
        ["git", "-c", f"safe.directory={REPOSITORY}", "-C", str(REPOSITORY), "ls-files", "-z",
         "--cached", "--others", "--exclude-standard"],
    )  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)


def remove(tree: Path) -> None:
    """Remove a tree, with the inode flags that a test or hardend left in it."""
    if not tree.exists():
        return
    if subprocess.run(["rm", "-rf", "--", str(tree)], check=False, capture_output=True).returncode:
        # lsattr of special files fails, and so does chattr: only what is left afterwards counts.
        subprocess.run(
            ["chattr", "-R", "-f", "-i", "-a", "--", str(tree)], check=False, capture_output=True
        )
        _call(["rm", "-rf", "--", str(tree)])


def inside(tree: Path, script: str) -> None:
    """Run a shell script in the tree, with the machine's network, and its pip and certificates.

    Not chroot: sendmail's maintainer scripts want /proc. The script lies in /root because
    systemd-nspawn hides /tmp.
    """
    (tree / "root/step.sh").write_text(script, encoding="utf-8")
    passed = {k: v for k, v in os.environ.items() if k.startswith("PIP_") or k in PASSED}
    for value in passed.values():
        bundle = Path(value)
        if value.startswith("/") and bundle.is_file():
            place = tree / value.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle, place)
    _call(
        ["setpriv", "--pdeathsig", "KILL", "systemd-nspawn", "-q", "-D", str(tree),
         "--register=no", "--keep-unit", "--link-journal=no", "--pipe",
         f"--machine=build-{os.getpid()}", *[f"--setenv={k}={v}" for k, v in passed.items()],
         "bash", "/root/step.sh"],
    )  # fmt: skip
    (tree / "root/step.sh").unlink()


def _dependencies() -> bytes:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        data = tomllib.load(file)
    return repr((data["project"]["dependencies"], data["build-system"])).encode()


def _image(name: str, build: Callable[[Path], None]) -> Path:
    tree = cache_dir() / name
    if not tree.exists():
        _make_room(name)
        unfinished = tree.with_name(f"{name}.unfinished")
        try:
            build(unfinished)
            unfinished.rename(tree)
        finally:
            remove(unfinished)
    return tree


def _make_room(name: str) -> None:
    """Remove images of the same kind that an older recipe made."""
    for old in cache_dir().glob(f"{name.partition('-')[0]}-*"):
        remove(old)


def _bootstrap(tree: Path, suite: str) -> None:
    sources = apt_sources(suite)
    _call(
        ["debootstrap", "--variant=minbase", f"--include={BOOTSTRAP}", suite, str(tree),
         sources[0].site],
    )  # fmt: skip
    (tree / "etc/apt/sources.list").write_text(
        "".join(source.line() for source in sources), encoding="utf-8"
    )
    # A proxy that this machine's apt goes through is needed inside too.
    settings = [
        line
        for line in _call(["apt-config", "dump", "--format", '%f "%v";%n']).splitlines()
        if line.lower().startswith(("acquire::http::proxy", "acquire::https::proxy"))
    ]
    (tree / "etc/apt/apt.conf.d/90-test-host").write_text("\n".join([*settings, ""]), "utf-8")
    inside(tree, INSTALL)


def _call(argv: list[str]) -> str:
    """Run a command and return what it printed; in a session of its own, so that Ctrl-C is ours.

    An interrupt then comes here first, and the whole group of the command is ended with it.
    """
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="surrogateescape",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=BUILD_TIMEOUT_S)
        except BaseException:
            os.killpg(process.pid, 9)
            raise
    if process.returncode != 0:
        last = "\n".join(output.splitlines()[-25:])
        raise ImageError(f"{' '.join(argv)}: exit status {process.returncode}\n{last}")
    return output
