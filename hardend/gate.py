# SPDX-License-Identifier: Apache-2.0
"""The gate: whether the MTA may be told to load a sendmail.cf.

Sendmail's own check is half of it: ``-bC`` passes a file whose mailers, maps or certificates are
missing, and a SIGHUP with a file it refuses ends the daemon. And a configuration is a program:
``-bC`` runs ``F{x}|/prog`` lines, so our parser looks first.
"""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from hardend.command import run
from hardend.errors import CommandError, HardendError
from hardend.formats import cf_reread
from hardend.formats.cf import Cf
from hardend.layout import Layout, Tree
from hardend.maps import Tools, program_lines
from hardend.model import Host, printable

_DATABASES = {"hash": ".db", "btree": ".db", "dbm": ".pag"}
_CERTIFICATES = (
    "CACertFile",
    "CACertPath",
    "ClientCertFile",
    "ClientKeyFile",
    "CRLFile",
    "CRLPath",
    "DHParameters",
    "ServerCertFile",
    "ServerKeyFile",
)
_READ_LIMIT = 16 << 20  # bytes of what it prints of the options
_SETPRIV = "/usr/bin/setpriv"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sendmail.cf that the MTA is to load: its path on the host, its bytes, the approved bytes.

    Programs that the approved file names already may stand in the candidate.
    """

    path: str
    content: bytes
    approved: bytes = b""


def gate(candidate: Candidate, host: Host, layout: Layout, tools: Tools) -> tuple[str, ...]:
    """Return every reason why the MTA must not load the file; () when it may.

    Sendmail is asked only about a file without new programs, and never about that of a tree.
    """
    document = Cf(candidate.content)
    new = sorted(set(program_lines(document)) - set(program_lines(Cf(candidate.approved))))
    if new:
        return tuple(f"{candidate.path}: runs an unapproved program: {line}" for line in new)
    problems = tuple(
        f"{candidate.path}:{named.line}: {named.what}: {printable(named.path)}: {why}"
        for named in (*_files(document), *_certificates(document))
        if (why := _fault(Tree(host), host, named))
    )
    if host.is_tree:
        return problems
    return problems + _sendmails_verdict(candidate, layout, tools)


@dataclass(frozen=True, slots=True)
class _Named:
    """A file that a configuration names, and whether it is to be run (X_OK) or opened (R_OK)."""

    line: int
    what: str
    path: str
    access: int = os.R_OK


def _files(document: Cf) -> Iterator[_Named]:
    """Yield the programs of mailers, the class files and the databases that must be there."""
    for mailer in document.mailers():
        path = mailer.path
        if path.startswith("/") and "$" not in path and path != os.devnull:
            yield _Named(mailer.line, f"mailer {mailer.name}", path, os.X_OK)
    for item in document.class_files():
        if not item.program and not item.optional and item.path.startswith("/"):
            yield _Named(item.line, f"class {item.name}", item.path)
    for line in document.maps():
        suffix = _DATABASES.get(line.map_class)
        file = line.arguments[-1] if line.arguments else ""
        if suffix and file.startswith("/") and "-o" not in line.arguments:
            database = file if file.endswith(suffix) else file + suffix
            yield _Named(line.line, f"map {line.name}", database)


def _certificates(document: Cf) -> Iterator[_Named]:
    for name in _CERTIFICATES:
        value = document.option(name)
        if value and value.text.startswith("/") and "$" not in value.text:
            yield _Named(value.line, name, value.text)


def _fault(tree: Tree, host: Host, named: _Named) -> str:
    """Return why a file cannot be opened or run, "" when it can."""
    try:
        where = host.at(tree.real(named.path))
        kind = os.lstat(where).st_mode
    except OSError as error:
        return error.strerror or str(error)
    except HardendError as error:
        return str(error)
    if not stat.S_ISREG(kind) and (named.access == os.X_OK or not stat.S_ISDIR(kind)):
        return "not a regular file"
    return "" if os.access(where, named.access) else "no permission"


def _sendmails_verdict(candidate: Candidate, layout: Layout, tools: Tools) -> tuple[str, ...]:
    """Have Sendmail check a private copy, as its trusted user first, as root if that may not.

    ``-bC`` demands root or the TrustedUser (78 for others), and reads class files that may be
    root's alone; as the trusted user, without privileges, a surprise in the file can do least. The
    network stays: without it a host that knows its own name from the DNS waits for a minute. What it
    accepts it reads once more, to tell how: rules that judge other options than it obeys are worth nothing.
    """
    if not tools.sendmail:
        return ("there is no sendmail on this machine to check it with",)
    with tempfile.TemporaryDirectory(prefix="hardend-gate-") as directory:
        copy = os.path.join(directory, os.path.basename(candidate.path))
        with open(copy, "xb") as file:
            file.write(candidate.content)
        os.chmod(copy, 0o600)
        command = [tools.sendmail, "-C", copy, "-bC"]
        try:
            trusted = _as_trusted_user(layout.trusted_user, directory, copy)
            done = run([*trusted, *command], timeout_s=tools.timeout_s) if trusted else None
            if done is None or done.status:
                if trusted:
                    os.chown(copy, 0, 0)
                    trusted = []
                done = run(command, timeout_s=tools.timeout_s)
            if done.status == 0:
                command = [*trusted, tools.sendmail, "-C", copy, "-bt", "-d37.1"]
                read = run(command, timeout_s=tools.timeout_s, limit=_READ_LIMIT, errors_apart=True)
                differing = cf_reread.differences(Cf(candidate.content), read.output)
                return tuple(f"{candidate.path}: {text}" for text in differing)
        except CommandError as error:
            return (str(error).replace(copy, candidate.path),)
    said = done.last_words.replace(copy, candidate.path)
    return (f"sendmail -bC: exit status {done.status}: {said or 'no message'}",)


def _as_trusted_user(name: str, directory: str, copy: str) -> list[str]:
    """Return a command prefix that becomes the trusted user, who may read the copy; or []."""
    try:
        user = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        return []
    if os.geteuid() != 0 or user.pw_uid == 0 or not os.access(_SETPRIV, os.X_OK):
        return []
    for path, mode in ((directory, 0o710), (copy, 0o640)):
        os.chown(path, 0, user.pw_gid)
        os.chmod(path, mode)
    return [
        _SETPRIV,
        "--no-new-privs",
        f"--reuid={user.pw_uid}",
        f"--regid={user.pw_gid}",
        "--init-groups",
    ]
