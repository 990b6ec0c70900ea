# SPDX-License-Identifier: Apache-2.0
"""What m4 is shown when it reads a .mc: Sendmail's macros, and the files that the .mc includes.

m4 runs confined and sees copies, made here as root; what it is shown ends up in a .cf that everybody
may read. So a .mc cannot have just any file included: those called ``.m4`` in the mail directory are
input of m4 by their name; any other must be one that everybody may read anyway.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from hardend.errors import CommandError, FileError, FormatError
from hardend.formats.cf import Value
from hardend.formats.mc import Mc
from hardend.kernel.paths import open_beneath
from hardend.layout import Tree
from hardend.model import Host, printable
from hardend.sandbox import is_given

# Where the packages keep cf/: Debian and FreeBSD, Red Hat and Gentoo and Arch, SUSE, older ones.
_MACROS = (
    "/usr/share/sendmail/cf", "/usr/share/sendmail-cf", "/usr/share/sendmail", "/usr/lib/sendmail-cf",
)  # fmt: skip
_CF_M4 = "cf.m4"
_MAIL_DIR = "/etc/mail"
# Directories of the macros: FEATURE(`x') reads feature/x.m4.
_BY_NAME = {
    "FEATURE": "feature", "OSTYPE": "ostype", "DOMAIN": "domain", "HACK": "hack", "MAILER": "mailer",
}  # fmt: skip
_MOST_FILES = 2000  # Sendmail has 190
_MOST_BYTES = 32 << 20
_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Macros:
    """Sendmail's m4 directory as the .mc names it, and the directory in which m4 starts.

    ``included`` says that the .mc includes cf.m4 itself.
    """

    directory: str
    start: str
    included: bool


def macros_of(mc: Mc, host: Host) -> Macros:
    """Return the macros that a .mc is built with.

    Raises FormatError when it includes a cf.m4 that is not there, CommandError when there is none.
    """
    tree = Tree(host)
    here = os.path.dirname(mc.path)
    found = [path for path in _MACROS if tree.exists(f"{path}/m4/{_CF_M4}")]
    includes = [item for item in mc.includes() if f"/{item.text}".endswith(f"/m4/{_CF_M4}")]
    if not includes:
        if not found:
            raise CommandError(
                f"no {_CF_M4} in {host.root}: looked for {', '.join(f'{path}/m4' for path in _MACROS)}",
                hint="Sendmail's macros are a package of their own: sendmail-cf",
            )
        return Macros(found[0], here, included=False)
    # A relative one is found from where m4 is started: its own directory, or cf/cf (cf/README).
    for start in (here, *(f"{path}/cf" for path in found)):
        path = _joined(start, includes[0].text)
        if tree.exists(path):
            return Macros(os.path.dirname(os.path.dirname(path)), start, included=True)
    instead = f"; they are in {found[0]}" if found else ""
    shown = printable(includes[0].text)
    raise FormatError(mc.path, includes[0].line, f"includes {shown}, which is not there{instead}")


class M4Files:
    """The files that m4 is shown for a .mc, by their paths on the host."""

    def __init__(self, host: Host, mc: Mc, macros: Macros) -> None:
        self._host = host
        self._tree = Tree(host)
        self._mc = mc
        self._macros = macros
        self._mail_dirs = {
            self._tree.real(path)
            for path in {os.path.dirname(mc.path), _MAIL_DIR} - {"/", "/etc"}
        }
        self._files: dict[str, bytes] = {}
        self._left = _MOST_BYTES

    def readable(self) -> dict[str, bytes]:
        """Return the files. Raises FormatError for an include that may not be shown."""
        directory = self._macros.directory
        for place in dict.fromkeys((directory, self._tree.real(directory))):
            if not is_given(place):
                # All of Sendmail's macros, which include each other, and its script for a .cf's head.
                self._take_all(place, ".m4", ".sh")
            elif self._host.is_tree:
                raise CommandError(f"{place}: m4 cannot be shown a tree's macros in this place")
        self._take_all(self._tree.real(_MAIL_DIR), ".m4")  # their names may be made by macros
        self._take_includes()
        return self._files

    def _take_all(self, directory: str, *suffixes: str) -> None:
        for path in self._walk(directory, *suffixes):
            self._take(path)

    def _walk(self, directory: str, *suffixes: str, depth: int = _DEPTH) -> Iterator[str]:
        """Yield what has one of these endings beneath a directory, as far as it can be listed."""
        try:
            names = self._tree.names(directory)
        except FileError:
            return
        for name in names:
            path = f"{directory}/{name}"
            if stat.S_ISDIR(self._tree.link_mode(path)):
                if depth:
                    yield from self._walk(path, *suffixes, depth=depth - 1)
            elif name.endswith(suffixes):
                yield path

    def _take_includes(self) -> None:
        """Take what the .mc includes, and what that includes."""
        todo = [(self._mc, item) for item in self._mc.includes()]
        while todo:
            mc, item = todo.pop()
            path = self._path_of(item)
            if not path or path in self._files or is_given(path) or not self._tree.exists(path):
                continue  # m4 says itself what is not there
            if reason := self._take(path):
                raise FormatError(mc.path, item.line, f"includes {printable(path)}: {reason}")
            inner = Mc(self._files[path], path)
            todo += [(inner, found) for found in inner.includes()]

    def _path_of(self, item: Value) -> str:
        """Return the path that m4 opens for an include, "" where there is none."""
        directory = _BY_NAME.get(item.name)
        if directory:
            return _joined(self._macros.directory, f"{directory}/{item.text}.m4")
        return _joined(self._macros.start, item.text) if item.text and "\0" not in item.text else ""

    def _take(self, path: str) -> str:
        """Take a file; return why it is not shown, "" when it is.

        What is looked at is what was opened, without a link anywhere in its path: whoever may write in
        the mail directory (Debian's daemon may) could have another file shown by a link.
        """
        try:
            real = self._tree.real(path)
            with open(self._open(real), "rb") as file:
                kind = os.fstat(file.fileno())
                if not stat.S_ISREG(kind.st_mode):
                    return "not a regular file"
                by_name = self._is_input(real) and kind.st_nlink == 1
                if not by_name and not (kind.st_mode & stat.S_IROTH and self._is_open(real)):
                    return "not everybody may read it, and everybody may read the .cf"
                data = file.read(self._left + 1)
        except OSError as error:
            return error.strerror or str(error)
        self._left -= len(data)
        if self._left < 0 or len(self._files) == _MOST_FILES:
            raise CommandError(f"{printable(path)}: too many files, or too large, to show to m4")
        self._files[path] = data
        return ""

    def _open(self, real: str) -> int:
        top = os.open(self._host.root, os.O_PATH | os.O_DIRECTORY)
        try:
            return open_beneath(top, real.lstrip("/"), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        finally:
            os.close(top)

    def _is_input(self, real: str) -> bool:
        """Return whether a file is for m4 by its name and place, whoever may read it."""
        return real.endswith(".m4") and any(real.startswith(f"{top}/") for top in self._mail_dirs)

    def _is_open(self, real: str) -> bool:
        """Return whether everybody may go where a file is."""
        parts = real.split("/")[1:-1]
        above = ["/" + "/".join(parts[: at + 1]) for at in range(len(parts))]
        return all(self._tree.link_mode(part) & stat.S_IXOTH for part in above)


def _joined(directory: str, path: str) -> str:
    joined = os.path.normpath(os.path.join(directory, path))
    return "/" + joined.lstrip("/")  # normpath keeps two slashes at the front
