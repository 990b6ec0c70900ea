# SPDX-License-Identifier: Apache-2.0
"""Who writes into held files besides people: what is read of cron jobs, units, hooks, panels and the like.

Nothing of it is run. A shell script is no configuration that one can parse: what is taken as a write is a
redirection into a path, or a command that is known to write where the path stands.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from hardend.errors import FileError
from hardend.kernel.tree import Tree

_LARGEST = 1 << 20
_MOST = 4096  # names of one directory
_CRON = (
    "/etc/crontab", "/etc/anacrontab", "/etc/cron.d/", "/etc/cron.hourly/", "/etc/cron.daily/",
    "/etc/cron.weekly/", "/etc/cron.monthly/", "/var/spool/cron/", "/var/spool/cron/crontabs/",
    "/var/spool/cron/tabs/",
)  # fmt: skip
_CRONTABS = "/var/spool/cron/"  # of users: anybody may claim there to write something
_UNITS = ("/etc/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/")
_HOOKS = (
    "/etc/letsencrypt/renewal/", "/etc/letsencrypt/renewal-hooks/deploy/",
    "/etc/letsencrypt/renewal-hooks/post/", "/etc/letsencrypt/renewal-hooks/pre/",
    "/etc/dehydrated/hook.sh", "/etc/dehydrated/config", "/etc/lego/",
)  # fmt: skip
_ACTIONS = "/etc/fail2ban/action.d/"
_JAILS = ("/etc/fail2ban/jail.conf", "/etc/fail2ban/jail.local", "/etc/fail2ban/jail.d/")

_COMMANDS = re.compile(r"[;|&()`]+|\b(?:then|do|else)\b")
_REDIRECTED = re.compile(r">>?\s*(/[^\s<>;&|)]+)")
_DEFINED = re.compile(r"^[ \t]*(?:export |readonly )?(\w+)[ \t]*=[ \t]*[\"']?(/[^\s\"';]+)", re.MULTILINE)
_SCRIPT = re.compile(r"/(?:usr/local|opt|root|etc|srv|home|var/lib)/[\w./+-]+")
_TO_THE_LAST = frozenset({"mv", "cp", "install", "rsync", "ln"})
_TO_ALL = frozenset({"tee", "truncate", "ed", "ex"})
_IN_PLACE = frozenset({"sed", "perl"})
_OUTPUT = frozenset({"-o", "-O", "-out", "--output", "--output-document", "--fullchain-file", "--key-file"})
_OUTPUT |= {"--cert-file", "--ca-file"}
_REBUILDS = re.compile(r"\bsendmailconfig\b|\bmake\s[^;|&]*-C\s*/etc/mail\b")


@dataclass(frozen=True, slots=True)
class Writer:
    """Somebody who writes a path: what kind of thing he is, the file and line that say so.

    ``used`` is False where it is not known that it ever runs, and as root. ``path`` is "" for a command
    that builds sendmail.cf anew.
    """

    kind: str
    where: str
    path: str
    used: bool = True


def writers(tree: Tree, paths: Collection[str]) -> Iterator[Writer]:
    """Yield who writes any of the paths, as far as that can be read; unreadable files are passed over."""
    seen = set()
    for kind, places in (("cron job", _CRON), ("systemd unit", _UNITS), ("renewal hook", _HOOKS)):
        for place in places:
            for file in files(tree, place):
                real = _real(tree, file)  # /lib may be a link to /usr/lib
                if real in seen:
                    continue
                seen.add(real)
                if kind != "systemd unit" or file.endswith(".service"):
                    of_root = not file.startswith(_CRONTABS) or os.path.basename(file) == "root"
                    yield from _of_file(tree, kind, file, paths, used=of_root)
    jails = "".join(text(tree, file) for place in _JAILS for file in files(tree, place))
    for file in files(tree, _ACTIONS):
        name = os.path.basename(file).rpartition(".")[0]
        used = re.search(rf"^[^#\n]*\b{re.escape(name)}\b", jails, re.MULTILINE) is not None
        yield from _of_text("fail2ban action", file, text(tree, file), paths, used=used)


def _of_file(
    tree: Tree, kind: str, file: str, paths: Collection[str], *, used: bool
) -> Iterator[Writer]:
    """Yield the writes of a file, and of the scripts that it starts."""
    content = text(tree, file)
    yield from _of_text(kind, file, content, paths, used=used)
    lines = [line for line in content.splitlines() if not line.lstrip().startswith(("#", ";"))]
    for script in dict.fromkeys(_SCRIPT.findall("\n".join(lines))):
        started = text(tree, script) if script != file else ""
        if started.startswith("#!"):
            yield from _of_text(f"{kind} {os.path.basename(file)}", script, started, paths, used=used)


def _of_text(
    kind: str, file: str, content: str, paths: Collection[str], *, used: bool
) -> Iterator[Writer]:
    defined = dict(_DEFINED.findall(content))
    for number, line in enumerate(content.splitlines(), start=1):
        if line.lstrip().startswith("#"):
            continue
        whole = _filled_in(line, defined)
        for path in sorted(written(whole, paths)):
            yield Writer(kind, f"{file}:{number}", path, used)
        if _REBUILDS.search(whole):
            yield Writer(kind, f"{file}:{number}", "", used)


def _filled_in(line: str, defined: dict[str, str]) -> str:
    """Put the paths of shell variables and of fail2ban's <tags> in their places."""

    def value(match: re.Match[str]) -> str:
        return defined.get(match[1] or match[2] or match[3], match[0])

    return re.sub(r"\$\{(\w+)\}|\$(\w+)|<(\w+)>", value, line)


def written(line: str, paths: Collection[str]) -> set[str]:
    """Return those of the paths that a line of shell seems to write."""
    plain = line.replace('"', " ").replace("'", " ")
    found = {path for path in _REDIRECTED.findall(plain) if path in paths}
    for command in _COMMANDS.split(plain):
        words = command.split()
        names = {os.path.basename(word) for word in words}
        held = [word for word in words if word in paths]
        if names & _TO_ALL or (names & _IN_PLACE and any(_is_in_place(word) for word in words)):
            found.update(held)
        found.update(after for word, after in itertools.pairwise(words) if word in _OUTPUT)
        found.update(word[3:] for word in words if word.startswith("of="))
        if names & _TO_THE_LAST and words:
            last = words[-1].rstrip("/")
            found.add(last)
            found.update(f"{last}/{os.path.basename(word)}" for word in words)
    return {path for path in found if path in paths}


def _is_in_place(word: str) -> bool:
    return word == "--in-place" or (word[:1] == "-" and word[:2] != "--" and "i" in word.partition(".")[0])


def values(content: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of lines such as ``name=value`` and ``name value``; comments are none."""
    for line in content.splitlines():
        match = re.fullmatch(r"\s*([A-Za-z_][\w.-]*)(?:\s*=\s*|\s+)(\S.*?)\s*", line)
        if match:
            yield match[1], match[2]


def files(tree: Tree, place: str) -> Iterator[str]:
    """Yield a file, or those of a directory whose name ends in a slash."""
    if not place.endswith("/"):
        yield place
        return
    try:
        names = tree.names(place.rstrip("/")) if stat.S_ISDIR(tree.mode(place.rstrip("/"))) else []
    except FileError:
        return
    yield from (place + name for name in names[:_MOST] if not name.startswith("."))


def _real(tree: Tree, path: str) -> str:
    try:
        return tree.real(path)
    except FileError:  # links that form a loop
        return path


def text(tree: Tree, path: str) -> str:
    """Return a small regular file as text, "" for anything else, and for what cannot be read."""
    try:
        data = tree.contents(path)
    except FileError:  # links that form a loop
        return ""
    return data.decode("utf-8", "surrogateescape") if len(data) <= _LARGEST else ""
