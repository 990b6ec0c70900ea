# SPDX-License-Identifier: Apache-2.0
"""Sections 5 and 6 of the guide: who may see the mail queue, and who may run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from hardend.rules.documents import Documents, NotApplicableError, UnknownError
from hardend.rules.flags import faults, with_flags
from hardend.rules.rule import Example, Fault, Fix, Judge, Mend, Rule, Section, Severity

_VIEW = ("restrictmailq",)
_RUN = ("restrictqrun",)
_MAY_VIEW = "every user can list the mail queue: senders, recipients and why mail waits"
_MAY_RUN = "every user can run the mail queue, as often as they like"
_OTHERS = 0o007
_GROUP_WRITE = 0o020


def _judged(path_of: Callable[[Documents], str], flags: Sequence[str], why: str) -> Judge:
    """Return the judgement whether a .cf has flags."""
    return lambda documents: faults(documents, path_of(documents), flags, why)


def _mended(path_of: Callable[[Documents], str], flags: Sequence[str]) -> Mend:
    """Return the fix that gives a .cf flags."""
    return lambda documents: with_flags(documents, path_of(documents), flags)


def _main(documents: Documents) -> str:
    return documents.layout.cf


def _submit(documents: Documents) -> str:
    path = documents.layout.submit_cf
    if not path:
        raise NotApplicableError("this host has no submit.cf")
    return path


def _judge_directory(documents: Documents) -> Iterator[Fault]:
    for path, mode in _queues(documents):
        wanted = mode & ~(_OTHERS | _group_bits(documents))
        if mode != wanted:
            yield Fault(
                path,
                0,
                f"mode {mode:04o}: {_who(mode)} can enter the mail queue",
                f"chmod {wanted:04o} {path}",
            )


def _mend_directory(documents: Documents) -> Documents:
    for path, mode in list(_queues(documents)):
        wanted = mode & ~(_OTHERS | _group_bits(documents))
        documents = documents.with_attributes(path, replace(documents.attributes[path], mode=wanted))
    return documents


def _group_bits(documents: Documents) -> int:
    """Return which bits of the group go. Debian's daemon gives its queue to a group of its own.

    There group smmsp may list (2750), and cron-msp and mailq of its members rely on it; nobody but
    the daemon may write. Elsewhere the group is root's or nobody's, and 0700 breaks nothing.
    """
    return _GROUP_WRITE if documents.layout.profile == "debian" else 0o070


def _who(mode: int) -> str:
    return "everybody" if mode & _OTHERS else "the group"


def _queues(documents: Documents) -> Iterator[tuple[str, int]]:
    queues = [path for path in documents.layout.queues if path != documents.layout.client_queue]
    if not queues:
        raise NotApplicableError("sendmail.cf names no queue directory")
    for path in queues:
        if path in documents.unreadable:
            raise UnknownError(path, documents.unreadable[path])
        if path in documents.attributes:
            yield path, documents.attributes[path].mode


RULES = (
    Rule(
        id="queue-viewing",
        title="Only root and the queue's group list the mail queue",
        section=Section.QUEUE_VIEWING,
        severity=Severity.MEDIUM,
        fix=Fix.AUTO,
        rationale=(
            "mailq shows every user who writes to whom. With restrictmailq the group of the queue "
            "directory decides; the answer to others is polite and exits 0."
        ),
        judge=_judged(_main, _VIEW, _MAY_VIEW),
        mend=_mended(_main, _VIEW),
        references=("guide 5", "op guide 5.6", "KISA U-32"),
        examples=(
            Example(
                "one flag of the guide's line is lacking",
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nO PrivacyOptions=goaway\n"},
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nO PrivacyOptions=goaway,restrictmailq\n"},
            ),
            Example(
                "in a line of its own, in capitals",
                {
                    "/etc/mail/sendmail.cf": (
                        "V10/Berkeley\nO PrivacyOptions=goaway\nO PrivacyOptions=RestrictMailQ\n"
                    )
                },
            ),
        ),
    ),
    Rule(
        id="queue-viewing-client",
        title="Only root and the queue's group list the client queue",
        section=Section.QUEUE_VIEWING,
        severity=Severity.MEDIUM,
        fix=Fix.AUTO,
        rationale=(
            "mailq also lists the queue of the submission program, which reads submit.cf: goaway there "
            "does not include restrictmailq. In submit.mc it must stand after FEATURE(`msp'), which "
            "sets the flags itself."
        ),
        judge=_judged(_submit, _VIEW, _MAY_VIEW),
        mend=_mended(_submit, _VIEW),
        references=("guide 5", "op guide 5.6"),
        examples=(
            Example(
                "what FEATURE(`msp') makes of it",
                {"/etc/mail/submit.cf": "V10/Berkeley\nO PrivacyOptions=goaway,noetrn,restrictqrun\n"},
                {
                    "/etc/mail/submit.cf": (
                        "V10/Berkeley\nO PrivacyOptions=goaway,noetrn,restrictqrun,restrictmailq\n"
                    )
                },
            ),
            Example(
                "the short form of the option; lines accumulate",
                {"/etc/mail/submit.cf": "V10/Berkeley\nOpgoaway\nOpRestrictMailq\n"},
            ),
        ),
    ),
    Rule(
        id="queue-directory",
        title="Nobody but Sendmail enters the queue directory",
        section=Section.QUEUE_VIEWING,
        severity=Severity.MEDIUM,
        fix=Fix.AUTO,
        rationale=(
            "The queue holds the mail itself. The guide's 0700 is right where the queue's group has "
            "no business there. Debian gives group smmsp reading access, and mailq of its members and "
            "cron-msp need it: there the mode stays 2750, and only what is open beyond that goes. The "
            "client queue must stay writable for its group and is left alone."
        ),
        judge=_judge_directory,
        mend=_mend_directory,
        references=("guide 5", "sendmail/SECURITY", "Bat book table 4-1"),
        examples=(
            Example(
                "everybody may list",
                {"/var/spool/mqueue/": ""},
                modes={"/var/spool/mqueue": "root:root 0755 -> root:root 0700"},
                profile="redhat",
            ),
            Example(
                "Debian's own mode, which its group needs",
                {"/var/spool/mqueue/": ""},
                modes={"/var/spool/mqueue": "smmta:smmsp 2750"},
            ),
        ),
    ),
    Rule(
        id="queue-running",
        title="Only root runs the mail queue",
        section=Section.QUEUE_RUNNING,
        severity=Severity.MEDIUM,
        fix=Fix.AUTO,
        rationale="A user who runs the queue again and again slows mail and hastens its time-outs.",
        judge=_judged(_main, _RUN, _MAY_RUN),
        mend=_mended(_main, _RUN),
        references=("guide 6", "op guide 5.6", "KISA U-32"),
        examples=(
            Example(
                "a .cf without the option at all",
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nO LogLevel=9\n"},
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nO LogLevel=9\nO PrivacyOptions=restrictqrun\n"},
            ),
            Example(
                "in a continuation line, and in any case",
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nO privacyoptions = goaway,\n\tRestrictQRun\n"},
            ),
        ),
    ),
    Rule(
        id="queue-running-client",
        title="Only root runs the client queue",
        section=Section.QUEUE_RUNNING,
        severity=Severity.MEDIUM,
        fix=Fix.AUTO,
        rationale="The same for the queue of the submission program, which reads submit.cf.",
        judge=_judged(_submit, _RUN, _MAY_RUN),
        mend=_mended(_submit, _RUN),
        references=("guide 6", "op guide 5.6"),
        examples=(
            Example(
                "only the guide's first flag",
                {"/etc/mail/submit.cf": "V10/Berkeley\nO PrivacyOptions=restrictmailq\n"},
                {"/etc/mail/submit.cf": "V10/Berkeley\nO PrivacyOptions=restrictmailq,restrictqrun\n"},
            ),
            Example(
                "what FEATURE(`msp') makes of it",
                {"/etc/mail/submit.cf": "V10/Berkeley\nO PrivacyOptions=goaway,noetrn,restrictqrun\n"},
            ),
        ),
    ),
)
