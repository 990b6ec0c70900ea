# SPDX-License-Identifier: Apache-2.0
"""Which programs mail may run: the names in smrsh's directory, and the commands of aliases.

smrsh strips the path of a command, looks the name up in its directory, follows links and checks
neither owners nor modes (smrsh.c; sendmail-facts 3): what is there, mail can run.
"""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass

from hardend.model import FileType
from hardend.rules.documents import Documents, NotApplicableError, UnknownError
from hardend.rules.trust import way_to

# What the packages link, without what runs programs of a user's choice. SUSE's directory also holds
# smrsh itself.
_LINKED_BY_DEFAULT = frozenset({"mail.local", "vacation"})
_LINKED_BY_PACKAGE = {"debian": {"sensible-mda"}, "suse": {"smrsh"}}
# What Debian's update_smrsh links again at every upgrade and sendmailconfig.
DEBIAN_LINKS = ("mail.local", "sensible-mda", "vacation", "procmail", "maildrop", "deliver")
# The programs of the same directory that Debian's sensible-mda delivers local mail with: the first.
SENSIBLE_MDA = ("procmail", "maildrop", "deliver", "mail.local")

_SHELLS = (
    "sh ash bash csh dash fish ksh mksh pdksh rbash rksh sash scsh tcsh yash zsh busybox toybox "
    "smrsh.real static-sh"
)
_LANGUAGES = (
    "awk gawk mawk nawk original-awk ed red ex vi vim view rvim emacs nano elvis nvi bc dc gdb guile "
    "java jython lua luajit m4 node nodejs ocaml octave perl php php-cgi phar pike python pypy ruby jruby "
    "irb sed tclsh wish expect sqlite3 sqlite gnuplot"
)
_LAUNCHERS = (
    "at batch chroot crontab env find flock git ionice ld.so less ltrace make man more nc ncat netcat nice "
    "nohup nsenter parallel pkexec rsync rsh run-parts runuser scp screen script setarch setpriv setsid "
    "socat ssh start-stop-daemon stdbuf strace su sudo doas sudoedit systemd-run taskset telnet time "
    "timeout tmux unshare watch xargs xterm curl wget"
)
_WRITERS = "cp cpio dd install ln mv pax tar bsdtar gtar tee uudecode b64decode unzip"
_FILTERS = "procmail maildrop mailagent slocal filter deliver"
_WHY = {
    **dict.fromkeys(_SHELLS.split(), "is a shell"),
    **dict.fromkeys(_LANGUAGES.split(), "runs any command that its arguments or its input hold"),
    **dict.fromkeys(_LAUNCHERS.split(), "runs or fetches whatever its arguments name"),
    **dict.fromkeys(_WRITERS.split(), "writes any file that its arguments or its input name"),
}
_RUNS_USERS_CHOICE = frozenset(_FILTERS.split())
_VARIANT = re.compile(
    r"(?:[-.]?\d[\d.]*|[-.](?:basic|tiny|nox|gtk\d?|static|real|distrib|orig|openbsd|traditional|minimal|dbg))\Z"
)
_SEPARATOR = re.compile(r"&&|\|\||[;|&\n]")
_ASSIGNMENT = re.compile(r"\w+=")
_BUILTINS = frozenset({"echo", "exit"})
_REFUSED = re.compile(r"[<>|^();&`$\r\n]")


@dataclass(frozen=True, slots=True)
class Linked:
    """A name in smrsh's directory that smrsh would run; ``way`` is where it leads, the last what runs."""

    name: str
    path: str
    way: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every name on the way."""
        return tuple(dict.fromkeys((self.name, *map(os.path.basename, self.way))))

    @property
    def leads_to(self) -> str:
        """What is run, for messages: "" where the name is the program itself."""
        return self.way[-1] if len(self.way) > 1 else ""


def linked(documents: Documents) -> tuple[Linked, ...]:
    """Return what smrsh would run. Raises NotApplicableError, UnknownError.

    Directories and files that nobody may execute are none: smrsh refuses them.
    """
    directory = documents.layout.smrsh_dir
    if directory in documents.unreadable:
        raise UnknownError(directory, documents.unreadable[directory])
    if not directory or directory not in documents.names:
        raise NotApplicableError("this host has no directory of smrsh")
    found = []
    for name in documents.names[directory]:
        path = f"{directory}/{name}"
        known = documents.attributes.get(path)
        refused = known is not None and (
            known.kind is FileType.DIRECTORY or (known.kind is FileType.FILE and not known.mode & 0o111)
        )
        if not refused:
            found.append(Linked(name, path, way_to(documents, path)))
    return tuple(found)


def objection(documents: Documents, item: Linked) -> str:
    """Return why mail must not run a program, "" if it may."""
    for name in item.names:
        if why := runs_anything(name):
            return why
        if stem(name) in _RUNS_USERS_CHOICE and not is_listed(documents, *item.names, *item.way):
            return "runs programs of its user's choice, which is what smrsh is to prevent"
    if is_listed(documents, *item.names, *item.way):
        return ""
    allowed = allowed_by_default(documents)
    if item.name in allowed and not allowed.isdisjoint(item.names[1:] or item.names):
        return ""
    return "is not on the list of programs that mail may run"


def is_risky(item: Linked) -> bool:
    """Return whether a program that the configuration lists runs programs of its user's choice."""
    return any(stem(name) in _RUNS_USERS_CHOICE for name in item.names)


def allowed_by_default(documents: Documents) -> frozenset[str]:
    """Return the names that the layout's package links, minus what runs programs of a user's choice."""
    return _LINKED_BY_DEFAULT | _LINKED_BY_PACKAGE.get(documents.layout.profile, set())


def allowed_names(documents: Documents) -> frozenset[str]:
    """Return the names that smrsh runs and may run; none where the host has no such directory."""
    try:
        return frozenset(item.name for item in linked(documents) if not objection(documents, item))
    except NotApplicableError:
        return frozenset()


def is_listed(documents: Documents, *names: str) -> bool:
    """Return whether smrsh_programs of the configuration holds a name or path, or the name of a path."""
    listed = documents.policy.smrsh_programs
    return any(name in listed or (os.path.basename(name) in listed) for name in names)


def runs_anything(name: str) -> str:
    """Return why a program must never be run by mail, whatever its version; "" if it is none such."""
    return next((_WHY[known] for known in _stems(name) if known in _WHY), "")


def stem(name: str) -> str:
    """Return a name without version and variant: ``python`` of ``python3.11``, ``vim`` of ``vim.tiny``."""
    return _stems(name)[-1]


def _stems(name: str) -> list[str]:
    stems = [name.lower()]
    while (shorter := _VARIANT.sub("", stems[-1])) and shorter != stems[-1]:
        stems.append(shorter)
    return stems


def commands_of(text: str) -> tuple[str, ...]:
    """Return the programs that a command line names, as it names them; exec, echo and exit are none."""
    found = []
    for part in _SEPARATOR.split(text):
        words = [word.strip("\"'()`$") for word in part.split()]
        while words and (words[0] in {"exec", "!", "{", ""} or _ASSIGNMENT.match(words[0])):
            words = words[1:]
        if words and words[0] not in _BUILTINS:
            found.append(words[0])
    return tuple(dict.fromkeys(found))


def refused_characters(text: str) -> str:
    """Return the characters of a command that smrsh refuses; it knows && and || (smrsh.c)."""
    rest = text.replace("&&", "").replace("||", "")
    return "".join(dict.fromkeys(char for char in _REFUSED.findall(rest) if char.isprintable()))
