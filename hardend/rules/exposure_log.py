# SPDX-License-Identifier: Apache-2.0
"""What the guide lacks of the log: that Sendmail's messages are kept, and who can change what is kept."""

from __future__ import annotations

from collections.abc import Iterator

from hardend.formats.syslog import Selector, has_script, selectors
from hardend.model import FileType, printable
from hardend.rules.documents import Documents, NotApplicableError
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity
from hardend.rules.trust import opening

CONFIGURATIONS = ("/etc/rsyslog.conf", "/etc/syslog.conf")
DIRECTORY = "/etc/rsyslog.d"
_FACILITY, _PRIORITY = "mail", "crit"
_LOGGERS = ("syslog", "_syslogd")  # as whom rsyslogd writes where it drops root's rights


def is_configuration(path: str) -> bool:
    """Return whether a path is what a syslog daemon reads: what the survey takes in."""
    return path in CONFIGURATIONS or (path.startswith(f"{DIRECTORY}/") and path.endswith(".conf"))


def log_files(texts: dict[str, bytes]) -> list[str]:
    """Return the files that mail is logged to, of the texts of syslog's configuration."""
    found = (item.file for text in texts.values() for item in _selectors(text) if item.names(_FACILITY))
    return list(dict.fromkeys(path for path in found if path.startswith("/var/")))


def _texts(documents: Documents) -> dict[str, bytes]:
    return {path: data for path, data in documents.content.items() if is_configuration(path)}


def _selectors(data: bytes) -> Iterator[Selector]:
    return selectors(data.decode("utf-8", "surrogateescape"))


def _judge(documents: Documents) -> Iterator[Fault]:
    texts = _texts(documents)
    if not texts:
        raise NotApplicableError("no rsyslogd or syslogd is configured here: the journal keeps everything")
    every = [item for data in texts.values() for item in _selectors(data)]
    if not any(item.keeps and item.takes(_FACILITY, _PRIORITY) for item in every):
        path = next(iter(texts))
        is_unread = any(has_script(data.decode("utf-8", "surrogateescape")) for data in texts.values())
        what = "no selector keeps mail.crit: nobody learns that smrsh or Sendmail refused an attack"
        what += "; statements of rsyslog's own language are not read" if is_unread else ""
        yield Fault(path, 0, what, "mail.* -/var/log/mail.log", advice=is_unread, mendable=False)
    loggers = frozenset({0} | {documents.users[name] for name in _LOGGERS if name in documents.users})
    for path in log_files(texts):
        found = opening(documents, path, loggers)
        if found is not None and found.known.kind is FileType.FILE:
            what = f"{found.what}: who can change the log hides what was done"
            remedy = f"{found.remedy}, and the same in FileCreateMode and in logrotate's create"
            yield Fault(path, 0, what, remedy, mendable=False)
        known = documents.attributes.get(path)
        if known is not None and known.acl:
            what = "has an ACL; its mask, the group's part of the mode, is the most that it gives"
            yield Fault(path, 0, what, f"setfacl --remove-all {printable(path)}", advice=True, mendable=False)


_LOG = "/var/log/mail.log"
_CONF = "/etc/rsyslog.conf"

RULES = (
    Rule(
        id="exposure-log",
        title="Sendmail's messages are kept where only root and the logger change them",
        section=Section.EXPOSURE,
        severity=Severity.MEDIUM,
        fix=Fix.NEVER,
        rationale=(
            "Sendmail and smrsh tell of attacks with mail.crit, and of every delivery with mail.info. A host "
            "with the journal alone keeps all of it. The log must not be writable for others; that others "
            "read it is a matter of privacy, and the STIG's 0644 allows it. Owner and mode are those of "
            "rsyslogd and logrotate, which set them again at every rotation: nothing is changed here."
        ),
        judge=_judge,
        references=("STIG GEN004460", "STIG GEN004480", "STIG GEN004500", "STIG GEN004510", "syslog.conf(5)"),
        examples=(
            Example(
                "mail goes nowhere",
                {_CONF: "*.*;auth,mail.none\t-/var/log/syslog\n"},
                {_CONF: "*.*;auth,mail.none\t-/var/log/syslog\nmail.*\t-/var/log/mail.log\n"},
            ),
            Example(
                "everybody can write the log",
                {_CONF: f"mail.*\t-{_LOG}\n", _LOG: ""},
                {_CONF: f"mail.*\t-{_LOG}\n"},
                modes={_LOG: "root:root 0666"},
            ),
            Example(
                "as Debian has it: with all others, and in a file of its own",
                {_CONF: f"*.*;auth,authpriv.none\t-/var/log/syslog\nmail.*\t-{_LOG}\n", _LOG: ""},
                modes={_LOG: "root:mail 0640"},
            ),
            Example("beside other facilities, from err on", {_CONF: "kern,mail.err\t/dev/console\n"}),
        ),
    ),
)
