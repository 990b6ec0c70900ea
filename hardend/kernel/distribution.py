# SPDX-License-Identifier: Apache-2.0
"""Which family of distributions a host belongs to: os-release(5), else files that only it has.

platform.freedesktop_os_release() knows only the machine that it runs on.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hardend.kernel.tree import Tree

_RELEASES = ("/etc/os-release", "/usr/lib/os-release")
_ID = re.compile(rb"^(?:ID|ID_LIKE)=[\"']?([^\"'\n]*)", re.MULTILINE)
_FAMILIES = {
    "debian": "debian", "ubuntu": "debian",
    "rhel": "redhat", "fedora": "redhat", "centos": "redhat", "almalinux": "redhat",
    "rocky": "redhat", "ol": "redhat", "openeuler": "redhat",
    "suse": "suse", "opensuse": "suse", "sles": "suse",
    "gentoo": "gentoo", "arch": "arch", "freebsd": "freebsd",
}  # fmt: skip
_MARKS = (
    ("debian", ("/etc/debian_version", "/etc/mail/databases")),
    ("suse", ("/etc/SuSE-release", "/etc/mail/linux.mc", "/usr/lib/sendmail.d")),
    ("redhat", ("/etc/redhat-release", "/etc/sysconfig/sendmail", "/usr/sbin/sendmail.sendmail")),
    ("gentoo", ("/etc/gentoo-release",)),
    ("arch", ("/etc/arch-release",)),
    ("freebsd", ("/etc/mail/freebsd.mc", "/etc/mail/mailer.conf", "/bin/freebsd-version")),
)


def family(tree: Tree) -> tuple[str, str]:
    """Return the family and the file that says so; a file that cannot be read says nothing.

    Families: ``debian redhat suse gentoo arch freebsd``, and ``unknown``.
    """
    for release in _RELEASES:
        for words in _ID.findall(tree.contents(release)):
            for word in os.fsdecode(words).lower().replace("-", " ").split():
                if word in _FAMILIES:
                    return _FAMILIES[word], release
    for name, files in _MARKS:
        mark = next((file for file in files if tree.exists(file)), "")
        if mark:
            return name, mark
    return "unknown", "nothing that tells"
