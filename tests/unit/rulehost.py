# SPDX-License-Identifier: Apache-2.0
"""Documents made from the examples of rules: a small host that exists only in memory."""

from __future__ import annotations

import os
from types import MappingProxyType
from typing import TYPE_CHECKING

from hardend.layout import Layout
from hardend.model import FileType, MapSpec
from hardend.rules.documents import Attributes, Documents, Policy
from hardend.rules.exposure_source import unmade_by_sight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hardend.rules.rule import Example

USERS = {"root": 0, "mail": 8, "daemon": 1, "smmta": 105, "smmsp": 106, "alice": 1000, "nobody": 65534}
GROUPS = {"root": 0, "mail": 8, "daemon": 1, "smmta": 110, "smmsp": 111, "alice": 1000, "nogroup": 65534}
CF = "/etc/mail/sendmail.cf"
_GUIDE = (
    CF,
    "/etc/mail/sendmail.mc",
    "/etc/mail/submit.cf",
    "/etc/aliases",
    "/etc/mail/access",
    "/etc/mail/local-host-names",
    "/etc/mail/relay-domains",
)
BARE_CF = "V10/Berkeley\n"


def layout_of(profile: str, paths: set[str]) -> Layout:
    """Return the layout of an example: the paths of Debian, of which those count that are there."""

    def there(path: str) -> str:
        return path if path in paths else ""

    aliases = there("/etc/aliases") or there("/etc/mail/aliases")
    access = there("/etc/mail/access")
    is_debian = profile == "debian"
    specs = (MapSpec("newaliases", "hash", aliases, "/etc/mail/aliases.db"),) if aliases else ()
    maps = [
        MapSpec("makemap", "hash", path, f"{path}.db")
        for name in ("access", "virtusertable", "mailertable", "genericstable", "domaintable")
        if (path := there(f"/etc/mail/{name}"))
    ]
    return Layout(
        profile=profile,
        mail_dir="/etc/mail",
        cf=CF,
        mc=there("/etc/mail/sendmail.mc"),
        submit_cf=there("/etc/mail/submit.cf"),
        submit_mc=there("/etc/mail/submit.mc"),
        aliases=specs,
        maps=tuple(maps),
        queues=("/var/spool/mqueue",) if "/var/spool/mqueue" in paths else (),
        client_queue="/var/spool/mqueue-client" if is_debian else "/var/spool/clientmqueue",
        smrsh="/usr/libexec/sendmail/smrsh" if is_debian else "/usr/sbin/smrsh",
        smrsh_dir="/etc/mail/smrsh" if is_debian else "/etc/smrsh",
        sendmail="/usr/libexec/sendmail/sendmail" if is_debian else "/usr/sbin/sendmail",
        helpfile=there("/etc/mail/helpfile"),
        trusted_user="smmta" if is_debian else "",
        host_names=tuple(filter(None, (there("/etc/mail/local-host-names"),))),
        relay_domains=tuple(filter(None, (there("/etc/mail/relay-domains"),))),
        access=access,
    )


def documents_of(
    files: Mapping[str, str],
    modes: Mapping[str, str] | None = None,
    *,
    profile: str = "debian",
    policy: Policy | None = None,
) -> Documents:
    """Return the documents of a host that holds these files and nothing else."""
    files = {CF: BARE_CF, **files}
    content: dict[str, bytes] = {}
    attributes: dict[str, Attributes] = {}
    names: dict[str, list[str]] = {}
    for name, text in files.items():
        path = name.rstrip("/") or "/"
        for directory in _above(path):
            attributes.setdefault(directory, Attributes(FileType.DIRECTORY, 0, 0, 0o755))
        if name.endswith("/"):
            attributes[path] = Attributes(FileType.DIRECTORY, 0, 0, 0o755)
            names.setdefault(path, [])
        elif text.startswith("-> "):
            attributes[path] = Attributes(FileType.SYMLINK, 0, 0, 0o777, target=text[3:].rstrip("\n"))
        else:
            attributes[path] = Attributes(FileType.FILE, 0, 0, 0o644, flags="")
            content[path] = text.encode("utf-8", "surrogateescape")
    for path in attributes:
        names.setdefault(os.path.dirname(path), []).append(os.path.basename(path))
    for path, mode in (modes or {}).items():
        attributes[path] = with_mode(attributes[path], mode.partition(" -> ")[0])
    layout = layout_of(profile, set(attributes))
    sources = {layout.cf: layout.mc} if layout.mc else {}
    if layout.submit_mc:
        sources[layout.submit_cf] = layout.submit_mc
    return Documents(
        layout=layout,
        content=MappingProxyType(content),
        unmade=MappingProxyType(unmade_by_sight(content, attributes, sources)),
        attributes=MappingProxyType(attributes),
        names=MappingProxyType({path: tuple(sorted(inside)) for path, inside in names.items()}),
        sources=MappingProxyType(sources),
        users=MappingProxyType(USERS),
        groups=MappingProxyType(GROUPS),
        policy=policy or Policy(),
        lockable=tuple(path for path in _GUIDE if path in content),
    )


def of_example(example: Example) -> Documents:
    """Return the host of an example before the fix."""
    return documents_of(
        example.before, example.modes, profile=example.profile, policy=example.policy
    )


def with_mode(attributes: Attributes, text: str) -> Attributes:
    """Return attributes with "OWNER:GROUP MODE", and inode flags behind it where there are any."""
    owners, mode, *flags = text.split()
    owner, _, group = owners.partition(":")
    return Attributes(
        attributes.kind,
        USERS[owner],
        GROUPS[group],
        int(mode, 8),
        target=attributes.target,
        flags=flags[0] if flags else attributes.flags,
    )


def _above(path: str) -> list[str]:
    above = []
    while path != "/":
        path = os.path.dirname(path)
        above.append(path)
    return above
