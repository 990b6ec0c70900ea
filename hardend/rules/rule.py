# SPDX-License-Identifier: Apache-2.0
"""What a rule is: a judgement of a host's documents, and the documents that satisfy it.

``judge`` names every fault; ``mend`` returns the documents without those that it can mend, and the
very same documents when there are none. Both are pure. The laws (tests/unit/test_rule_laws.py): mending
twice is mending once; after it nothing mendable is left; every byte that a rule does not own stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from hardend.model import printable
from hardend.rules.documents import Documents, Policy


class Verdict(StrEnum):
    """What a rule says of a host (design section 2)."""

    PASS = "pass"  # noqa: S105 - the word of the report
    FAIL = "fail"
    WAIVED = "waived"
    NOT_APPLICABLE = "not-applicable"
    UNKNOWN = "unknown"


class Severity(StrEnum):
    """How much a failure matters; an ``advice`` never fails an audit."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    ADVICE = "advice"


class Fix(StrEnum):
    """Who decides on a fix: ``auto`` nobody need, ``ask`` somebody may be hit by it, ``never`` ours."""

    AUTO = "auto"
    ASK = "ask"
    NEVER = "never"


class Section(StrEnum):
    """The sections of the guide, in its order, and what it lacks."""

    SMRSH = "smrsh"
    ALIASES = "aliases"
    PRIVACY = "privacy"
    GREETING = "greeting"
    QUEUE_VIEWING = "queue-viewing"
    QUEUE_RUNNING = "queue-running"
    IMMUTABLE = "immutable"
    RELAYING = "relaying"
    EXPOSURE = "exposure"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where, what, and what to do about it.

    ``line`` counts from 1; 0 is the file itself. ``advice`` does not fail the audit. What ``mend``
    leaves alone says so with ``mendable=False``, and ``remedy`` says what the administrator can do.
    """

    path: str
    line: int
    message: str
    remedy: str = ""
    advice: bool = False
    mendable: bool = True

    @property
    def place(self) -> str:
        """File and line, as a message shows them."""
        return printable(self.path) + (f":{self.line}" if self.line else "")


@dataclass(frozen=True, slots=True)
class Example:
    """A small host before and after the fix: path -> text; the laws run it, ``explain`` prints it.

    ``after`` names only what changes (None: it is gone). Without ``after`` it is a near miss: it looks
    like a fault and is none. A path that ends in ``/`` is a directory, a text that begins with ``-> ``
    a link. ``modes`` gives "OWNER:GROUP MODE" or "OWNER:GROUP MODE -> OWNER:GROUP MODE" where they are
    not root:root 0644 (0755 of directories). A sendmail.mc is taken to make the sendmail.cf beside it.
    """

    title: str
    before: Mapping[str, str]
    after: Mapping[str, str | None] = field(default_factory=dict)
    modes: Mapping[str, str] = field(default_factory=dict)
    profile: str = "debian"
    policy: Policy = field(default_factory=Policy)

    @property
    def is_near_miss(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.after and not any(" -> " in mode for mode in self.modes.values())


Judge = Callable[[Documents], Iterable[Fault]]
Mend = Callable[[Documents], Documents]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One hardening requirement. ``id`` is ``subject-thing`` and is never renamed.

    ``judge`` raises NotApplicableError where the host has no such thing, UnknownError where it could
    not be read. ``mend`` is None where ``fix`` is never.
    """

    id: str
    title: str
    section: Section
    severity: Severity
    fix: Fix
    rationale: str
    judge: Judge
    mend: Mend | None = None
    references: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
