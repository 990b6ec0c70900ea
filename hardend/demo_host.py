# SPDX-License-Identifier: Apache-2.0
"""A small mail host in a directory, made of the packaged Sendmail as Debian's installation makes it."""

from __future__ import annotations

import os
import re
import shutil

from hardend import layout, maps
from hardend.command import run
from hardend.config import Settings
from hardend.demo_packages import HOST_NAME, Packages
from hardend.errors import CommandError, HardendError
from hardend.model import Host, MapSpec

# Debian gives these users the next free numbers; in a tree that only root can enter, any will do.
_SMMTA, _SMMSP = 990, 991
_CF = "usr/share/sendmail/cf"
_EXAMPLES = "usr/share/sendmail/examples/db"
_TIMEOUT_S = 60.0
_INCLUDE = re.compile(rb"include\(`(/etc/mail/[^']+)'\)")
_FILES = {
    "/etc/os-release": b'PRETTY_NAME="Debian GNU/Linux"\nID=debian\n',
    "/etc/passwd": b"root:x:0:0::/:/bin/sh\nsmmta:x:990:990::/:/bin/false\nsmmsp:x:991:991::/:/bin/false\n",
    "/etc/group": b"root:x:0:\nsmmta:x:990:\nsmmsp:x:991:\n",
    "/etc/mail/local-host-names": f"localhost\n{HOST_NAME}\n".encode(),
}
_LINKS = {
    "/etc/mail/aliases": "../aliases",
    "/etc/mail/smrsh/mail.local": "/usr/libexec/sendmail/mail.local",
    "/etc/mail/smrsh/procmail": "/usr/bin/procmail",
}
_COPIES = {
    "/etc/mail/sendmail.mc": f"{_CF}/debian/sendmail.mc",
    "/etc/mail/submit.mc": f"{_CF}/debian/submit.mc",
    "/etc/mail/access": f"{_EXAMPLES}/access",
    "/etc/aliases": f"{_EXAMPLES}/aliases",
}
# As on a Debian host after installation: owner, group, mode.
_OWNERS = {
    "/etc/mail": (_SMMTA, _SMMSP, 0o2755),
    "/etc/mail/smrsh": (_SMMTA, _SMMSP, 0o2755),
    "/etc/mail/sendmail.cf": (0, _SMMSP, 0o644),
    "/etc/mail/submit.cf": (0, _SMMSP, 0o644),
    "/etc/mail/access": (_SMMTA, _SMMSP, 0o640),
    "/var/spool/mqueue": (_SMMTA, _SMMSP, 0o2750),
    "/var/spool/mqueue-client": (_SMMSP, _SMMSP, 0o2770),
}


def build(directory: str, packages: Packages) -> Host:
    """Make the host beneath ``directory`` and return it; its maps are built by ``build_maps``.

    Raises CommandError when m4 does not make a configuration of the packaged sources, OSError.
    """
    host = Host(os.path.join(directory, "host"))
    for path in ("/", "/etc", "/usr/libexec", "/var/spool/mqueue", "/var/spool/mqueue-client", "/run"):
        os.makedirs(host.at(path), 0o755, exist_ok=True)
    for path in ("etc/mail", "usr/libexec/sendmail"):
        shutil.copytree(os.path.join(packages.root, path), host.at(f"/{path}"), symlinks=True)
    for path, source in _COPIES.items():
        shutil.copyfile(os.path.join(packages.root, source), host.at(path))
    for path, content in _FILES.items():
        _write(host.at(path), content)
    for path, target in _LINKS.items():
        os.symlink(target, host.at(path))
    _localise(packages.root)
    for name in ("sendmail", "submit"):
        _write(host.at(f"/etc/mail/{name}.cf"), _configuration(host, packages, f"/etc/mail/{name}.mc"))
    for path, (uid, gid, mode) in _OWNERS.items():
        os.chown(host.at(path), uid, gid)
        os.chmod(host.at(path), mode)
    return host


def build_maps(host: Host, settings: Settings) -> str:
    """Build aliases.db and access.db with the programs of maps.PROGRAMS; "" or why there are none."""
    where = layout.find(host)
    tools = maps.tools_for(host, where, settings)
    built: list[str] = []
    try:
        for spec in (*where.aliases, *where.maps):
            built.append(spec.database)
            _build_map(host, spec, tools)
    except HardendError as error:
        for path in built:
            if os.path.exists(host.at(path)):
                os.unlink(host.at(path))
        return str(error)
    return ""


def _build_map(host: Host, spec: MapSpec, tools: maps.Tools) -> None:
    with open(host.at(spec.source), "rb") as file:
        source = file.read()
    with maps.workdir() as directory:
        shutil.copyfile(maps.build(spec, source, directory, tools).path, host.at(spec.database))
    os.chown(host.at(spec.database), _SMMTA, _SMMSP)
    os.chmod(host.at(spec.database), 0o640)


def _configuration(host: Host, packages: Packages, mc: str) -> bytes:
    """Return the .cf that the packaged m4 library makes of a .mc of the host."""
    with open(host.at(mc), "rb") as file:
        source = file.read()
    for included in dict.fromkeys(_INCLUDE.findall(source)):
        path = host.at(os.fsdecode(included))
        if not os.path.exists(path):  # made by Debian's installation where there is something to say
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _write(path, b"dnl # nothing to configure\n")
    cf = os.path.join(packages.root, _CF)
    text = _INCLUDE.sub(rb"include(`%s\1')" % os.fsencode(host.root), _at(source, packages.root))
    m4 = os.path.join(packages.programs, "m4")
    argv = [m4 if os.path.exists(m4) else "m4", f"-D_CF_DIR_={cf}/", "-"]
    done = run(argv, timeout_s=_TIMEOUT_S, stdin=text, directory=cf, errors_apart=True)
    if done.status or done.errors:
        raise CommandError(f"m4 makes no configuration of {mc}: {done.last_words}")
    return done.output


def _localise(root: str) -> None:
    """Make the unpacked m4 library include its own files, not those of this machine."""
    for place, _, names in os.walk(os.path.join(root, _CF)):
        for name in names:
            path = os.path.join(place, name)
            with open(path, "rb") as file:
                content = file.read()
            if _at(content, root) != content:
                _write(path, _at(content, root))


def _at(content: bytes, root: str) -> bytes:
    return content.replace(b"`/usr/share/sendmail/", b"`%s/usr/share/sendmail/" % os.fsencode(root))


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
