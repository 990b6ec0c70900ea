# SPDX-License-Identifier: Apache-2.0
"""What a probe of the running MTA found: one check, one verdict, one sentence (design section 9)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hardend.model import printable
from hardend.rules.rule import Section, Verdict

SCHEMA = 1
LISTENER = "listener"  # the check whose failure means that no mail is taken
_LONGEST = 200  # characters of a peer's or a program's words that are worth showing


@dataclass(frozen=True, slots=True)
class Check:
    """One outcome that was asked for.

    ``check`` names the question and is never renamed, ``subject`` what was asked: a listener, a queue,
    a ruleset. ``verdict`` is pass, fail, unknown or not-applicable. ``section`` is that of the guide.
    """

    check: str
    subject: str
    section: Section
    verdict: Verdict
    message: str

    @property
    def is_fatal(self) -> bool:
        """Whether its failure means that the host takes no mail any more."""
        return self.check == LISTENER and self.verdict is Verdict.FAIL

    def document(self) -> dict[str, str]:
        """Return it as ``verify --json`` has it."""
        return {
            "check": self.check,
            "subject": self.subject,
            "section": self.section.value,
            "verdict": self.verdict.value,
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, of whom: everything of a check but its answer."""

    check: str
    subject: str
    section: Section

    def answer(self, verdict: Verdict, message: str) -> Check:
        """Return the check with this verdict; what others wrote in ``message`` is made safe to show."""
        return Check(self.check, self.subject, self.section, verdict, message)

    def unknown(self, why: str) -> Check:
        """Return the check that could not be made."""
        return self.answer(Verdict.UNKNOWN, why)


def counts(checks: Iterable[Check]) -> dict[str, int]:
    """Count the verdicts, as ``verify --json`` has it in ``summary``."""
    found = dict.fromkeys((Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN, Verdict.NOT_APPLICABLE), 0)
    for item in checks:
        found[item.verdict] += 1
    return {verdict.value: number for verdict, number in found.items()}


def is_proven(checks: Iterable[Check]) -> bool:
    """Return whether every check that applies passed; what is unknown is not proven."""
    return all(item.verdict in {Verdict.PASS, Verdict.NOT_APPLICABLE} for item in checks)


def quoted(text: str) -> str:
    """Return what a peer or a program said, on one line, short and safe to show."""
    shown = printable(" ".join(text.split()))
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 3] + "..."
