# SPDX-License-Identifier: Apache-2.0
"""Would the MTA relay for a stranger: ``sendmail -bt`` is asked what it would say to a host far away.

RCPT from this host proves nothing: what comes from the loopback address is relayed. In test mode the
client is whoever the macros say. With FEATURE(`delay_checks') check_rcpt also judges the sender, by
${mail_from}, and the client: so the sender is the null address, which every host must take, and the
client's address is one that no list of bogons is known to hold (Debian's access rejects 192.0.2).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from hardend.command import Ran
from hardend.model import printable
from hardend.outcome import Check, Question, quoted
from hardend.rules.rule import Section, Verdict

# The resolver's patience, so that a dead name server costs seconds: it is asked twice in each probe.
OPTIONS = ("-OTimeout.resolver.retrans=2s", "-OTimeout.resolver.retry=1")
CLIENT = "198.51.100.7"  # TEST-NET-2 (RFC 5737)
_STRANGER = "host.example"
_REMOTE = "user@remote.example"
_NOWHERE = "user@no-such.invalid"
_NULL = "<>"
_MARK = "hardend-probe-"
_BLOCK = re.compile(rf"^(?:> )*{_MARK}([0-9]{{1,4}})$", re.MULTILINE)
_MAILER = re.compile(r"^(?:> )*mailer \d+ \(([^)]*)\): P=(.*?) S=", re.MULTILINE)
_NAME = re.compile(r"(?:[A-Za-z0-9-]{1,63}\.){1,10}[A-Za-z]{2,63}")
_HACKED = 3  # names of class R that the %-hack is tried with
_ENHANCED = re.compile(r"\$@\s*([245])\s*\.\s*(\d+)\s*\.\s*(\d+)")
_CODE = re.compile(r'\$:\s*"?\s*([245])\d\d\b')

_TOKENS = re.compile(r"\s*([.@<>%!|-])\s*")

Run = Callable[[str], Ran]  # gives its input to sendmail -bt; raises CommandError


@dataclass(frozen=True, slots=True)
class Facts:
    """What Sendmail itself makes of its configuration: its name, class R, the prog mailer's P=.

    ``said`` is what it said instead where it refused the configuration.
    """

    host_name: str = ""
    relay_names: tuple[str, ...] = ()
    prog: str | None = None
    said: str = ""

    @property
    def is_answer(self) -> bool:
        """Whether Sendmail answered at all."""
        return not self.said


@dataclass(frozen=True, slots=True)
class Probe:
    """A message that must be refused: who sends it to whom, and who the client is."""

    check: str
    what: str
    recipient: str = _REMOTE
    sender: str = _NULL
    client_name: str = _STRANGER
    client_resolve: str = "OK"

    @property
    def question(self) -> Question:
        """What is asked by it."""
        return Question(self.check, "check_rcpt", Section.RELAYING)


def may_be_run(path: str) -> str:
    """Return why a file is not to be used as root, "" when it is root's alone."""
    shown = printable(path)
    try:
        status = os.lstat(path)
    except OSError as error:
        return f"{shown}: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return f"{shown} is not a regular file"
    if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{shown} is not root's alone: nothing is run with it as root"
    return ""


def facts(run: Run) -> Facts:
    """Ask Sendmail for what the probes need to know. Raises CommandError when it cannot be run."""
    asked = ("$j", "$=R", "=M")
    said = run("".join(_marked(number, [line]) for number, line in enumerate(asked)))
    blocks = _blocks(_text(said))
    if said.status or not blocks.keys() >= set(range(len(asked))):
        return Facts(said=said.last_words or f"exit status {said.status}")
    mailers = dict(_MAILER.findall(blocks[2]))
    return Facts(
        next(iter(_words(blocks[0])), ""),
        tuple(_words(blocks[1])),
        next((path for name, path in mailers.items() if name.lower() == "prog"), None),
    )


def checks(run: Run, known: Facts) -> list[Check]:
    """Run every probe and judge the answers. Raises CommandError when Sendmail cannot be run."""
    tried = probes(known)
    script = "".join(_marked(number, _lines(probe)) for number, probe in enumerate(tried))
    last = _marked(len(tried), _sender_lines())
    blocks = _blocks(_text(run(script + last)))
    judged = [(probe, *judged_recipient(blocks.get(at, ""))) for at, probe in enumerate(tried)]
    found = []
    for check in dict.fromkeys(probe.check for probe in tried):
        probe, verdict, message = _worst(item for item in judged if item[0].check == check)
        found.append(probe.question.answer(verdict, f"{probe.what}: {message}"))
    asked = Question("unresolvable-sender", "check_mail", Section.RELAYING)
    verdict, message = judged_sender(blocks.get(len(tried), ""))
    found.append(asked.answer(verdict, f"a sender whose domain does not exist: {message}"))
    return found


def probes(known: Facts) -> list[Probe]:
    """Return the probes that tell the relaying FEATUREs apart, with this host's own names."""
    own = known.host_name if _NAME.fullmatch(known.host_name) else "localhost"
    relayed = sorted(name for name in known.relay_names if _NAME.fullmatch(name))[:_HACKED]
    hacked = dict.fromkeys((own, *relayed))
    named = relayed[0] if relayed else own
    return [
        Probe("relay-stranger", "a stranger's mail to another host"),
        *(
            Probe(
                "relay-local-sender",
                f"a stranger's mail under the name of {sender}",
                sender=sender,
            )
            for sender in dict.fromkeys((f"spammer@{own}", "spammer@localhost"))
        ),
        *(
            Probe(
                "relay-percent-hack",
                f"a stranger's mail to user%remote.example@{name}",
                recipient=f"user%remote.example@{name}",
            )
            for name in hacked
        ),
        Probe(
            "relay-forged-name",
            f"mail of a client that only calls itself {named}",
            client_name=named,
            client_resolve="FORGED",
        ),
    ]


def _lines(probe: Probe) -> list[str]:
    return [
        f".D{{client_addr}}{CLIENT}",
        f".D{{client_name}}{probe.client_name}",
        f".D{{client_ptr}}{probe.client_name}",
        f".D{{client_resolve}}{probe.client_resolve}",
        f".Df{probe.sender}",
        f".D{{mail_from}}{probe.sender}",
        f".D{{mail_addr}}{probe.sender}",
        f"check_rcpt {probe.recipient}",
    ]


def _sender_lines() -> list[str]:
    """With FEATURE(`delay_checks') the ruleset is called checkmail, and check_mail is not defined."""
    sender = _lines(Probe("", "", sender=_NOWHERE))[:-1]
    return [*sender, f"check_mail {_NOWHERE}", f"checkmail {_NOWHERE}"]


def _marked(number: int, lines: Iterable[str]) -> str:
    """Return lines for test mode under a mark, which Sendmail prints as the value of a macro."""
    mark = (f".D{{hardend}}{_MARK}{number}", "${hardend}")
    return "".join(f"{line}\n" for line in (*mark, *lines))


def _blocks(text: str) -> dict[int, str]:
    """Return what was said under each mark."""
    parts = _BLOCK.split(text)
    return {int(number): said for number, said in zip(parts[1::2], parts[2::2], strict=True)}


def _words(block: str) -> Iterator[str]:
    for line in block.splitlines():
        word = line.removeprefix("> ").strip("> \t")
        if word and not word.startswith("Undefined"):
            yield word


def _text(said: Ran) -> str:
    return said.output.decode("utf-8", "surrogateescape")


class _Answer(Enum):
    ACCEPTED = auto()
    REFUSED = auto()
    LATER = auto()


def _answer(returned: str) -> _Answer:
    """Tell what the MTA makes of what a check ruleset returns (op guide, 5.1.4): only $# decides."""
    match = re.match(r"\$#\s*(\S+)", returned)
    mailer = match[1].lower() if match else ""
    if mailer == "discard":
        return _Answer.REFUSED
    if mailer not in {"error", "temp"}:
        return _Answer.ACCEPTED
    code = _ENHANCED.search(returned) or _CODE.search(returned)
    first = code[1] if code else "5"
    if mailer == "temp" or first != "5" or "$@ quarantine" in returned:
        return _Answer.LATER
    return _Answer.REFUSED


def judged_recipient(block: str) -> tuple[Verdict, str]:
    """Judge what check_rcpt returned for a recipient that must be refused. Pure."""
    returned = _returned(block, "check_rcpt")
    if returned is None:
        if "Undefined ruleset check_rcpt" in block:
            return Verdict.FAIL, "relayed: there is no check_rcpt"
        return Verdict.UNKNOWN, "sendmail -bt gave no answer"
    answer = _answer(returned)
    if answer is _Answer.ACCEPTED:
        return Verdict.FAIL, f"relayed: {_shown(returned)}"
    if answer is _Answer.LATER:
        return Verdict.UNKNOWN, f"not decided: {_shown(returned)}"
    inner = _returned(block, "checkrcpt") or _returned(block, "Basic_check_rcpt")
    if inner is not None and _answer(inner) is _Answer.ACCEPTED:
        return Verdict.UNKNOWN, f"refused, but not for its recipient: {_shown(returned)}"
    return Verdict.PASS, f"refused: {_shown(returned)}"


def judged_sender(block: str) -> tuple[Verdict, str]:
    """Judge what check_mail returned for a sender whose domain does not exist. Pure.

    4.1.8 is its refusal too: "does not resolve", as far as the name server could tell.
    """
    returned = _returned(block, "check_mail") or _returned(block, "checkmail")
    if returned is None:
        if "Undefined ruleset check_mail" in block:
            return Verdict.FAIL, "taken: there is no check_mail"
        return Verdict.UNKNOWN, "sendmail -bt gave no answer"
    answer = _answer(returned)
    code = _ENHANCED.search(returned)
    if answer is _Answer.ACCEPTED:
        return Verdict.FAIL, f"taken: {_shown(returned)}"
    if answer is _Answer.LATER and (code is None or code.groups() != ("4", "1", "8")):
        return Verdict.UNKNOWN, f"not decided: {_shown(returned)}"
    return Verdict.PASS, f"refused: {_shown(returned)}"


def _returned(block: str, ruleset: str) -> str | None:
    """Return what a ruleset returned last, None where it was not run."""
    found = re.findall(rf"^(?:> )*{ruleset} +returns: ?(.*)$", block, re.MULTILINE)
    return found[-1].strip() if found else None


def _worst(judged: Iterable[tuple[Probe, Verdict, str]]) -> tuple[Probe, Verdict, str]:
    order = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.PASS)
    return min(judged, key=lambda item: order.index(item[1]))


def _shown(returned: str) -> str:
    """Return what a ruleset returned as a reply or an address is written: tokens without their blanks."""
    at = returned.find("$:")
    pieces = (returned[at + 2 :] if at >= 0 else returned).split('"')
    pieces[::2] = [_TOKENS.sub(r"\1", piece) for piece in pieces[::2]]
    return quoted("".join(pieces))
