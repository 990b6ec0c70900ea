# SPDX-License-Identifier: Apache-2.0
"""What an ordinary user of this host may do: list the queues, run them, run a program through smrsh.

Sendmail decides by the real user and group, so the programs are run as an account that owns nothing of
the mail system. The queue is never run: ``-qI`` names an id that no message can have.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hardend.command import Ran
from hardend.layout import Layout
from hardend.model import Host
from hardend.outcome import Check, Question, quoted
from hardend.rules.rule import Section, Verdict

SETPRIV = "/usr/bin/setpriv"
NO_SUCH_ID = "no-such-id.hardend"  # ids of messages are letters and digits (op guide, 2.3.1)
FORBIDDEN = "sh -c true"

_PREFERRED = "nobody"
_MAIL_GROUPS = frozenset({"mail", "smmsp", "smmta"})
_MAY_NOT_SEE = "not permitted to see the queue"
_MAY_NOT_RUN = "not have permission to process the queue"
_CLOSED = re.compile(r"can ?not chdir|cannot stat|Permission denied", re.IGNORECASE)
_LISTED = re.compile(r"^\S+ is empty$|\(\d+ requests?\)|Q-ID", re.MULTILINE)
_NO_PERMISSION = 77  # EX_NOPERM of sysexits.h
_UNAVAILABLE = 69  # EX_UNAVAILABLE

Run = Callable[[Sequence[str]], Ran]  # raises CommandError


@dataclass(frozen=True, slots=True)
class User:
    """An account that is nobody to the mail system."""

    name: str
    uid: int
    gid: int

    def command(self, *argv: str) -> list[str]:
        """Return a command as this user; set-group-id programs keep working, as they do for users."""
        identity = (f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups")
        return [SETPRIV, *identity, "--", *argv]


def ordinary(host: Host, layout: Layout) -> User | None:
    """Return ``nobody``, or the first account that is neither root nor of the mail system.

    Supplementary groups do not matter: they are dropped.
    """
    uids, gids = {0}, {0}
    paths = (*layout.queues, layout.client_queue, layout.sendmail)
    for path in filter(None, paths):
        try:
            status = os.stat(host.at(path))
        except OSError:
            continue
        uids.add(status.st_uid)
        gids.add(status.st_gid)
    return chosen(pwd.getpwall(), uids, gids, layout.trusted_user)


def chosen(
    accounts: Iterable[pwd.struct_passwd], uids: set[int], gids: set[int], trusted: str
) -> User | None:
    """Choose an account with none of these ids, whose name is no group of the mail system. Pure."""
    fit = [
        account
        for account in accounts
        if account.pw_uid not in uids
        and account.pw_gid not in gids
        and account.pw_name not in {*_MAIL_GROUPS, trusted}
    ]
    fit.sort(key=lambda account: (account.pw_name != _PREFERRED, account.pw_uid))
    return User(fit[0].pw_name, fit[0].pw_uid, fit[0].pw_gid) if fit else None


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing that an ordinary user must not be able to do, and how what came of it is judged."""

    question: Question
    argv: tuple[str, ...]
    judge: Callable[[Ran, str], tuple[Verdict, str]]

    def check(self, user: User, run: Run) -> Check:
        """Try it. Raises CommandError when the program cannot be run or is not done in time."""
        return self.question.answer(*self.judge(run(user.command(*self.argv)), user.name))


def probes(layout: Layout) -> list[Probe]:
    """Return what is to be tried on a host with this layout."""
    found = []
    for check, section, flag, judge in (
        ("mailq", Section.QUEUE_VIEWING, "-bp", judged_listing),
        ("queue-run", Section.QUEUE_RUNNING, f"-qI{NO_SUCH_ID}", judged_run),
    ):
        for subject, options in queues(layout):
            question = Question(check, subject, section)
            found.append(Probe(question, (layout.sendmail, *options, flag), judge))
    if layout.smrsh:
        question = Question("smrsh", layout.smrsh, Section.SMRSH)
        found.append(Probe(question, (layout.smrsh, "-c", FORBIDDEN), judged_smrsh))
    return found


def queues(layout: Layout) -> list[tuple[str, tuple[str, ...]]]:
    """Return the queues by name, with the options that make Sendmail work on them: -Ac is submit.cf."""
    client = [("client queue", ("-Ac",))] if layout.submit_cf else []
    return [("mail queue", ()), *client]


def judged_listing(ran: Ran, user: str) -> tuple[Verdict, str]:
    """Judge ``sendmail -bp``, whose exit status is 0 in any case. Pure."""
    said = _said(ran)
    if _LISTED.search(said):
        return Verdict.FAIL, f"{user} sees it: {quoted(said)}"
    if _MAY_NOT_SEE in said:
        return Verdict.PASS, f"{user} may not see it"
    if _CLOSED.search(said):
        return Verdict.PASS, f"its directory is closed to {user}, though Sendmail does not refuse to list it"
    return Verdict.UNKNOWN, _unexpected(ran)


def judged_run(ran: Ran, user: str) -> tuple[Verdict, str]:
    """Judge ``sendmail -qI``: 77 where only root and the queue's owner may run it. Pure."""
    said = _said(ran)
    if ran.status == _NO_PERMISSION or _MAY_NOT_RUN in said:
        return Verdict.PASS, f"{user} may not run it"
    if ran.status == 0:
        return Verdict.FAIL, f"{user} can run it"
    if _CLOSED.search(said):
        return Verdict.PASS, f"its directory is closed to {user}, though Sendmail does not refuse to run it"
    return Verdict.UNKNOWN, _unexpected(ran)


def judged_smrsh(ran: Ran, _user: str) -> tuple[Verdict, str]:
    """Judge a shell through smrsh: 69 is its refusal (smrsh.c). Pure."""
    if ran.status == _UNAVAILABLE:
        return Verdict.PASS, f"a shell is refused: {quoted(_said(ran))}"
    if ran.status == 0:
        return Verdict.FAIL, f"it runs a shell: {FORBIDDEN}"
    return Verdict.UNKNOWN, _unexpected(ran)


def _said(ran: Ran) -> str:
    return ran.output.decode("utf-8", "surrogateescape")


def _unexpected(ran: Ran) -> str:
    return f"exit status {ran.status}: {quoted(ran.last_words) or 'no message'}"
