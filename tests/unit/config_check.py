# SPDX-License-Identifier: Apache-2.0
"""Sendmail's own check of many .cf files at once: ``sendmail -C FILE -bC`` in a root of its own.

The root has the users, directories and class files that the files name, and nothing else of a host:
what Sendmail says is about the file. No network: the namespace has none.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from hardend.formats.cf import Cf
from tests.unit import programs

_CHECK = """\
set -eu
root=$1 sendmail=$2 programs=$3
hostname mail.example.com
mount -n --bind "$root" "$root"
for name in usr lib lib64 bin sbin "${programs#/}" dev/null dev/urandom; do
    [ -e "/$name" ] || continue
    if [ -h "/$name" ]; then
        ln -s "$(readlink "/$name")" "$root/$name"
        continue
    elif [ -d "/$name" ]; then
        mkdir -p "$root/$name"
    else
        mkdir -p "$root/dev"
        : >"$root/$name"
    fi
    mount -n --bind "/$name" "$root/$name"
done
for file in "$root"/check/*; do
    name=${file##*/}
    status=0
    chroot "$root" "$sendmail" -C "/check/$name" -O QueueDirectory=/var/spool/mqueue -bC \\
        >"$root/said/$name" 2>&1 </dev/null || status=$?
    echo "$status" >"$root/status/$name"
done
"""
# Of users that a .cf names: the default user, the trusted one, those of mailers; alone or USER:GROUP.
_USERS = re.compile(
    r"^O *(?:DefaultUser|TrustedUser|RunAsUser) *= *(\S+)|^.*\bU=([A-Za-z][\w.:-]*)", re.MULTILINE
)
_PASSWD = ("root:x:0", "mail:x:8", "smmta:x:105", "smmsp:x:106")


def checked(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return what Sendmail objects to in each file, "" where it accepts it."""
    sendmail = programs.directory() / "sendmail"
    root = Path(tempfile.mkdtemp(prefix="hardend-check-", dir="/var/tmp"))
    try:
        root.chmod(0o755)
        names = {f"{number}.cf": name for number, name in enumerate(files)}
        for directory in ("check", "said", "status", "etc", "tmp", "var/run", "var/spool/mqueue"):
            (root / directory).mkdir(parents=True)
        for file, name in names.items():
            (root / "check" / file).write_bytes(files[name])
        _furnish(root, [Cf(content) for content in files.values()])
        _run(root, sendmail)
        return {
            name: _verdict(int((root / "status" / file).read_text()), root / "said" / file)
            for file, name in names.items()
        }
    finally:
        shutil.rmtree(root)


def _run(root: Path, sendmail: Path) -> None:
    namespaces = ["unshare", "--mount", "--uts", "--net", "--ipc"]
    command = [*namespaces, "sh", "-c", _CHECK, "sh"]
    command += [str(root), str(sendmail), str(programs.CACHE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def _verdict(status: int, said: Path) -> str:
    return "" if status == 0 else f"exit status {status}: {said.read_text('utf-8', 'replace').strip()}"


def _furnish(root: Path, documents: Iterable[Cf]) -> None:
    """Make the users, the directories and the class files that configurations name."""
    users = {line.partition(":")[0]: line for line in _PASSWD}
    for document in documents:
        text = document.render().decode("utf-8", "replace")
        for match in _USERS.finditer(text):
            for name in {match[1] or match[2], *re.split("[:.]", match[1] or match[2])}:
                if not name.isdigit() and ":" not in name:
                    users.setdefault(name, f"{name}:x:{200 + len(users)}")
        files = [item.path for item in document.class_files() if item.path.startswith("/")]
        for path in files:
            place = root / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
    etc = root / "etc"
    accounts = [f"{line}:{line.split(':')[2]}::/:/bin/sh\n" for line in users.values()]
    etc.joinpath("passwd").write_text("".join(accounts))
    etc.joinpath("group").write_text("".join(f"{line}:\n" for line in users.values()))
    etc.joinpath("hosts").write_text("127.0.0.1 mail.example.com localhost\n")
    etc.joinpath("services").write_text("smtp 25/tcp\nsubmission 587/tcp\n")
    switch = [f"{name}: files\n" for name in ("hosts", "passwd", "group", "services")]
    etc.joinpath("nsswitch.conf").write_text("".join(switch))
