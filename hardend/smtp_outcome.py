# SPDX-License-Identifier: Apache-2.0
"""What the MTA says over SMTP: greeting, EHLO list, EXPN, VRFY, VERB and HELP of every listener.

DEBUG and WIZ are never sent: they are unknown to every Sendmail of this century, and each attempt is
logged as critical. RCPT from this host proves nothing about relaying, and is not sent either.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from hardend.formats.cf import Cf
from hardend.outcome import LISTENER, Check, Question, quoted
from hardend.rules.rule import Section, Verdict
from hardend.smtp_dialogue import GREETING, Dialogue, Reply, converse

EHLO = "EHLO localhost"
EXPN = "EXPN root"
VRFY_KNOWN = "VRFY root"
VRFY_UNKNOWN = "VRFY hardend-no-such-name"
HELP = "HELP"
VERB = "VERB"
# VERB is last: where it is taken, it puts lines of its own before the replies that follow.
COMMANDS = (EHLO, EXPN, VRFY_KNOWN, VRFY_UNKNOWN, HELP, VERB)

_ANY = frozenset({"", "0.0.0.0", "::", "*"})  # noqa: S104 - what the daemon listens on, not we
_SMTP_PORTS = frozenset({"", "smtp", "25"})
_HIGHEST_PORT = 65535
_DIALOGUE_S = 20.0  # greet_pause and ident are 5 s each where a distribution has them
_RETRY_S = 3.0  # a daemon that was told to load its configuration listens again by then

# No such command, not implemented, authentication asked for first.
_REFUSED = frozenset({500, 502, 530})
_TAKES_MAIL = 220
_DONE = 250
_CANNOT_VERIFY = 252
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3} ?")
# Sendmail has been at 8 since 1993; its releases are 8.17.1, 8.17.1.9 (which could be an address).
_VERSION = re.compile(
    r"(?<![\w.:\[])8\.\d{1,2}\.\d{1,2}(?:\.\d+)?(?![\w.]*\])|sendmail\W{0,3}v?\d+(?:\.\d+)+", re.IGNORECASE
)
_HOST = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9])?\.)+[A-Za-z0-9-]*[A-Za-z][A-Za-z0-9-]*")


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a daemon answers on this host; ``tls``: from the first byte on (M=s)."""

    address: str
    port: int
    tls: bool = False

    @property
    def name(self) -> str:
        """How it is called in a report."""
        return f"{self.address} port {self.port}"


def listeners(cf: Cf) -> list[Listener]:
    """Return every TCP listener of DaemonPortOptions (op guide 5.6); port 25 of IPv4 where it has none.

    What listens on every address is asked on the loopback address. UNIX sockets are left out.
    """
    values = cf.options("DaemonPortOptions")
    found = [item for value in values if (item := _listener(value.text)) is not None]
    return list(dict.fromkeys(found)) if values else [Listener("127.0.0.1", 25)]


def _listener(text: str) -> Listener | None:
    """Read one DaemonPortOptions; a key counts by its first letter."""
    fields = dict.fromkeys("FAPM", "")
    for item in text.split(","):
        key, _, value = item.strip().partition("=")
        fields[key.strip()[:1].upper()] = value.strip()
    family = fields["F"].lower()
    port = _port(fields["P"])
    if family in {"local", "unix"} or port is None:
        return None
    loopback = "::1" if family == "inet6" else "127.0.0.1"
    address = fields["A"].strip("[]").removeprefix("IPv6:")
    return Listener(loopback if address in _ANY else address, port, "s" in fields["M"])


def _port(text: str) -> int | None:
    if text.lower() in _SMTP_PORTS:
        return 25
    if text.isascii() and text.isdigit():
        return int(text) if 0 < int(text[:9]) <= _HIGHEST_PORT else None
    try:
        return socket.getservbyname(text)
    except (OSError, ValueError):
        return None


def checks(listener: Listener, *, running: bool, host_name: str, limit_s: float) -> list[Check]:
    """Ask one listener and judge what it says.

    ``running``: the MTA is known to run, so that it must listen; ``host_name`` is its own ($j), "" when
    that is not known; ``limit_s`` is the longest that the dialogue may take.
    """
    ask = partial(
        converse,
        listener.address,
        listener.port,
        COMMANDS,
        within_s=min(limit_s, _DIALOGUE_S),
        tls=listener.tls,
    )
    dialogue = ask()
    deadline = time.monotonic() + min(limit_s, _RETRY_S)
    while dialogue.refused and running and time.monotonic() < deadline:
        time.sleep(0.2)
        dialogue = ask()
    return judged(listener, dialogue, running=running, host_name=host_name)


def judged(listener: Listener, dialogue: Dialogue, *, running: bool, host_name: str) -> list[Check]:
    """Judge a dialogue. Pure; nothing but the listener is judged when it did not answer."""
    question = Question(LISTENER, listener.name, Section.EXPOSURE)
    greeting = dialogue.replies.get(GREETING)
    if dialogue.refused:
        if running:
            return [question.answer(Verdict.FAIL, "nothing listens here, though the MTA runs")]
        return [question.unknown("nothing listens here: the MTA is not known to run")]
    if greeting is None:
        return [question.unknown(f"no greeting: {quoted(dialogue.why)}")]
    if greeting.code != _TAKES_MAIL:
        return [question.unknown(f"it takes no mail now: {quoted(greeting.text)}")]
    return [
        question.answer(Verdict.PASS, "it answers"),
        *_of_replies(listener, dialogue, greeting, host_name),
    ]


def _of_replies(
    listener: Listener, dialogue: Dialogue, greeting: Reply, host_name: str
) -> Iterator[Check]:
    def question(check: str, section: Section) -> Question:
        return Question(check, listener.name, section)

    replies = dialogue.replies
    yield _greeting(question("greeting", Section.GREETING), greeting, host_name)
    for name, commands, judge, section in (
        ("ehlo", (EHLO,), _ehlo, Section.PRIVACY),
        ("expn", (EXPN,), partial(_refusal, "EXPN"), Section.PRIVACY),
        ("vrfy", (VRFY_KNOWN, VRFY_UNKNOWN), _vrfy, Section.PRIVACY),
        ("verb", (VERB,), partial(_refusal, "VERB"), Section.PRIVACY),
        ("help", (HELP,), _help, Section.GREETING),
    ):
        asked = question(name, section)
        given = [replies[command] for command in commands if command in replies]
        if len(given) < len(commands):
            yield asked.unknown(f"no reply: {quoted(dialogue.why)}")
        elif any(400 <= reply.code < 500 for reply in given):  # noqa: PLR2004 - "later" (RFC 5321, 4.2.1)
            yield asked.unknown(f"it would not say now: {quoted(given[-1].text)}")
        else:
            yield judge(asked, *given)


def _greeting(asked: Question, reply: Reply, host_name: str) -> Check:
    version = version_in(reply)
    if version:
        return asked.answer(Verdict.FAIL, f"it shows the version, {quoted(version)}: {quoted(reply.text)}")
    first = reply.lines[0].partition(" ")[0]
    if not _HOST.fullmatch(first) and (not host_name or first.lower() != host_name.lower()):
        return asked.answer(Verdict.FAIL, f"its first word is not the host's name: {quoted(reply.text)}")
    return asked.answer(Verdict.PASS, quoted(reply.text))


def _ehlo(asked: Question, reply: Reply) -> Check:
    if reply.code != _DONE:
        return asked.unknown(f"{EHLO}: {quoted(reply.text)}")
    listed = {line.partition(" ")[0].upper() for line in reply.lines[1:]}
    offered = sorted(listed & {"EXPN", "VERB"})
    if offered:
        return asked.answer(Verdict.FAIL, f"it offers {' and '.join(offered)}")
    return asked.answer(Verdict.PASS, "it offers neither EXPN nor VERB")


def _refusal(command: str, asked: Question, reply: Reply) -> Check:
    if reply.code in _REFUSED:
        return asked.answer(Verdict.PASS, f"refused: {quoted(reply.text)}")
    return asked.answer(Verdict.FAIL, f"{command} is obeyed: {quoted(reply.text)}")


def _vrfy(asked: Question, known: Reply, unknown: Reply) -> Check:
    """Refused or 252 is fine; what differs between a name that exists and one that does not tells names."""
    if known.code != unknown.code:
        return asked.answer(
            Verdict.FAIL, f"it tells names apart: {quoted(known.text)} / {quoted(unknown.text)}"
        )
    if known.code in _REFUSED or known.code == _CANNOT_VERIFY:
        return asked.answer(Verdict.PASS, f"the same for every name: {quoted(known.text)}")
    return asked.answer(Verdict.FAIL, f"it looks names up: {quoted(known.text)}")


def _help(asked: Question, reply: Reply) -> Check:
    version = version_in(reply)
    if version:
        return asked.answer(Verdict.FAIL, f"it shows the version, {quoted(version)}")
    return asked.answer(Verdict.PASS, quoted(reply.text))


def version_in(reply: Reply) -> str:
    """Return the version of Sendmail that a reply shows, "" when it shows none."""
    for line in reply.lines:
        status = _ENHANCED.match(line)
        found = _VERSION.search(line[status.end() :] if status else line)
        if found:
            return found[0]
    return ""
