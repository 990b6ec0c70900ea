# SPDX-License-Identifier: Apache-2.0
"""Small mail hosts, written from text: only what layout, classes and configuration look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardend.model import Host

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SENDMAIL = b"\x7fELF\0Sendmail\0/etc/mail/sendmail.cf\0sendmail.cf\0"
OLD_SENDMAIL = b"\x7fELF\0Sendmail\0/etc/sendmail.cf\0sendmail.cf\0"


def smrsh(directory: str) -> bytes:
    """Return what a smrsh with this directory looks like to a reader of strings."""
    return b"\x7fELF\0/usr/sbin/smrsh\0uid %d: /x smrsh\0" + directory.encode() + b"\0/bin/sh\0"


def write(root: Path, files: Mapping[str, bytes | str | None]) -> Host:
    """Write files (bytes), links (``str``: the target) and directories (None) under a root."""
    for path, content in files.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            place.mkdir(exist_ok=True)
        elif isinstance(content, str):
            place.symlink_to(content)
        else:
            place.write_bytes(content)
    return Host(str(root))


DEBIAN_CF = rb"""V10/Berkeley
Cwlocalhost
Fw/etc/mail/local-host-names %[^\#]
FR-o /etc/mail/relay-domains %[^\#]
Karith arith
Kdequote dequote
Kaccess hash -T<TMPF> /etc/mail/access
DZ8.17.1.9/Debian-2+deb12u2
O AliasFile=/etc/mail/aliases
O HelpFile=/etc/mail/helpfile
O QueueDirectory=/var/spool/mqueue
O TrustedUser=smmta
O PidFile=/var/run/sendmail/mta/sendmail.pid
Mprog,		P=/bin/sh, F=lsDFMoqeu9, S=EnvFromL/HdrFromL, R=EnvToL/HdrToL, D=$z:/,
		T=X-Unix/X-Unix/X-Unix,
		A=sh -c $u
"""

DEBIAN: Mapping[str, bytes | str | None] = {
    "/etc/os-release": b'PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\n',
    "/etc/aliases": b"postmaster: root\n",
    "/etc/mail/sendmail.cf": DEBIAN_CF,
    "/etc/mail/sendmail.mc": b"divert(-1)dnl\n",
    "/etc/mail/submit.cf": b"V10\nO QueueDirectory=/var/spool/mqueue-client\n"
    b"O PidFile=/var/run/sendmail/msp/sendmail.pid\n",
    "/etc/mail/submit.mc": b"divert(-1)dnl\n",
    "/etc/mail/aliases": "../aliases",
    "/etc/mail/aliases.db": b"db",
    "/etc/mail/access": b"Connect:127.0.0.1\tRELAY\n",
    "/etc/mail/access.db": b"db",
    "/etc/mail/access.new": b"",
    "/etc/mail/orphan.db": b"db",
    "/etc/mail/address.resolve": b"",
    "/etc/mail/databases": b"",
    "/etc/mail/Makefile": b"",
    "/etc/mail/sendmail.conf": b"",
    "/etc/mail/helpfile": b"",
    "/etc/mail/local-host-names": b"localhost\n",
    "/etc/mail/authinfo": b"secret",
    "/etc/mail/m4/dialup.m4": b"",
    "/etc/mail/peers/provider": b"",
    "/etc/mail/sasl": None,
    "/etc/mail/tls/sendmail-common.key": b"secret",
    "/etc/mail/smrsh/procmail": "/usr/bin/procmail",
    "/etc/mail/smrsh/own.bak": b"#!/bin/sh\n",
    "/etc/alternatives/sendmail-mta": "/usr/libexec/sendmail/sendmail",
    "/usr/sbin/sendmail": "/etc/alternatives/sendmail-mta",
    "/usr/sbin/newaliases": "/usr/share/sendmail/newaliases",
    "/usr/share/sendmail/newaliases": b"#!/bin/sh\n",
    "/usr/libexec/sendmail/sendmail": SENDMAIL,
    "/usr/libexec/sendmail/makemap": b"\x7fELF",
    "/usr/libexec/sendmail/smrsh": smrsh("/etc/mail/smrsh"),
    "/var/run": "../run",
    "/var/spool/mqueue/qf-of-a-message": b"",
    "/var/spool/mqueue-client": None,
}

REDHAT_CF = rb"""V10/Berkeley
Fw/etc/mail/local-host-names
FR-o /etc/mail/relay-domains
Kmailertable hash -o /etc/mail/mailertable.db
Kvirtuser hash -o -f /etc/mail/virtusertable.db
Kaccess hash -T<TMPF> -o /etc/mail/access.db
Kauthinfo hash -N -o /etc/mail/authinfo
Kuser text -k0 -v1 /etc/mail/users.txt
Kuser2 user
O AliasFile=/etc/aliases
O AliasFile=hash: -N /etc/mailman/aliases, nis:mail.aliases
O HelpFile=/etc/mail/helpfile
O QueueDirectory=/var/spool/mqueue/q*
O PidFile=/run/sendmail.pid
Qslow, P=/var/spool/mqueue/slow, F=f
Mprog,		P=/usr/sbin/smrsh, F=lsDFMoqeu9, S=EnvFromL/HdrFromL, R=EnvToL/HdrToL, D=$z:/,
		T=X-Unix/X-Unix/X-Unix,
		A=smrsh -c $u
"""

REDHAT: Mapping[str, bytes | str | None] = {
    "/etc/os-release": b'ID="almalinux"\nID_LIKE="rhel centos fedora"\n',
    "/etc/aliases": b"postmaster: root\n",
    "/etc/aliases.db": b"db",
    "/etc/mailman/aliases": b"list: |/usr/lib/mailman\n",
    "/etc/mailman/aliases.db": b"db",
    "/etc/mail/sendmail.cf": REDHAT_CF,
    "/etc/mail/sendmail.mc": b"",
    "/etc/mail/submit.cf": b"V10\nO QueueDirectory=/var/spool/clientmqueue\n",
    "/etc/mail/submit.mc": b"",
    "/etc/mail/access": b"",
    "/etc/mail/access.db": b"db",
    "/etc/mail/virtusertable": b"",
    "/etc/mail/virtusertable.db": b"db",
    "/etc/mail/mailertable": b"",
    "/etc/mail/authinfo": b"",
    "/etc/mail/authinfo.db": b"db",
    "/etc/mail/users.txt": b"",
    "/etc/mail/make": b"#!/bin/bash\n",
    "/etc/mail/Makefile": b"",
    "/etc/mail/statistics": b"",
    "/etc/smrsh/vacation": "/usr/bin/vacation",
    "/usr/sbin/sendmail.sendmail": SENDMAIL,
    "/usr/sbin/makemap": b"\x7fELF",
    "/usr/sbin/smrsh": smrsh("/etc/smrsh"),
    "/usr/bin/newaliases": "../sbin/sendmail.sendmail",
    "/usr/lib/systemd/system/sm-client.service": b"[Unit]\n",
    "/var/spool/mqueue/q1/qf": None,
    "/var/spool/mqueue/q2": None,
    "/var/spool/mqueue/slow": None,
    "/var/spool/mqueue/.q": None,
    "/var/spool/mqueue/q-file": b"",
    "/var/spool/clientmqueue": None,
}

CLASSIC_CF = rb"""V8/Berkeley
Fw/etc/sendmail.cw
DeMy host ready
OA/etc/aliases
OL9
O QueueDirectory=/var/spool/mqueue
Kaccess dbm /etc/mail/access
Mprog, P=/usr/sbin/smrsh, F=lsDFMoqeu9, S=10/30, R=20/40, D=$z:/,
	T=X-Unix, A=sh -c $u
"""

CLASSIC: Mapping[str, bytes | str | None] = {
    "/etc/redhat-release": b"Red Hat Linux release 6.0 (Hedwig)\n",
    "/etc/passwd": b"",
    "/etc/sendmail.cf": CLASSIC_CF,
    "/etc/sendmail.cw": b"mail.example.com\n",
    "/etc/sendmail.mc": b"",
    "/etc/null.mc": b"",
    "/etc/aliases": b"postmaster: root\n",
    "/etc/aliases.db": b"db",
    "/etc/mail/access": b"",
    "/etc/mail/access.pag": b"db",
    "/etc/mail/access.dir": b"db",
    "/etc/mail/relay-domains": b"",
    "/etc/smrsh/mail": "/bin/mail",
    "/usr/sbin/sendmail": OLD_SENDMAIL,
    "/usr/bin/newaliases": "/usr/sbin/sendmail",
    "/usr/sbin/smrsh": smrsh("/etc/smrsh"),
    "/var/spool/mqueue": None,
}
