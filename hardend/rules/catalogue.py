# SPDX-License-Identifier: Apache-2.0
"""The catalogue of rules, and judging and mending with all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hardend.errors import FormatError
from hardend.rules import (
    aliases,
    exposure,
    exposure_files,
    exposure_host,
    exposure_log,
    exposure_queues,
    exposure_smtp,
    exposure_source,
    exposure_tls,
    greeting,
    immutable,
    privacy,
    queue,
    relay,
    relay_access,
    relay_blocklists,
    relay_table,
    smrsh,
)
from hardend.rules.documents import CannotMendError, Documents, NotApplicableError, UnknownError
from hardend.rules.rule import Fault, Rule, Verdict

# Explicit, in the order of the guide.
CATALOGUE: tuple[Rule, ...] = (
    *smrsh.RULES,
    *aliases.RULES,
    *privacy.RULES,
    *greeting.RULES,
    *queue.RULES,
    *immutable.RULES,
    *relay.RULES,
    *relay_access.RULES,
    *relay_table.RULES,
    *relay_blocklists.RULES,
    *exposure.RULES,
    *exposure_files.RULES,
    *exposure_host.RULES,
    *exposure_queues.RULES,
    *exposure_log.RULES,
    *exposure_smtp.RULES,
    *exposure_source.RULES,
    *exposure_tls.RULES,
)
BY_ID = {rule.id: rule for rule in CATALOGUE}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rule says of a host, with everything that it found; ``reason`` of unknown or not applicable."""

    rule: Rule
    verdict: Verdict
    faults: tuple[Fault, ...] = ()
    reason: str = ""

    @property
    def failures(self) -> tuple[Fault, ...]:
        """The faults that fail the rule; the others are advice."""
        return tuple(fault for fault in self.faults if not fault.advice)


@dataclass(slots=True)
class Mended:
    """The documents after the fixes, and why some fixes could not be made: rule id -> reason."""

    documents: Documents
    refused: dict[str, str] = field(default_factory=dict)


def judge(documents: Documents, rule: Rule) -> Judgement:
    """Return the verdict of a rule on a host."""
    try:
        faults = tuple(rule.judge(documents))
    except NotApplicableError as error:
        return Judgement(rule, Verdict.NOT_APPLICABLE, reason=str(error))
    except UnknownError as error:
        fault = Fault(error.path, 0, f"cannot be judged: {error.why}", "run it as root", mendable=False)
        return Judgement(rule, Verdict.UNKNOWN, (fault,), str(error))
    except FormatError as error:
        fault = Fault(error.path, error.line, f"cannot be judged: {error}", mendable=False)
        return Judgement(rule, Verdict.UNKNOWN, (fault,), str(error))
    fails = any(not fault.advice for fault in faults)
    return Judgement(rule, Verdict.FAIL if fails else Verdict.PASS, faults)


def judge_all(documents: Documents, rules: Iterable[Rule] = CATALOGUE) -> list[Judgement]:
    """Return the verdicts of rules on a host, in their order."""
    return [judge(documents, rule) for rule in rules]


def mend_all(documents: Documents, rules: Iterable[Rule]) -> Mended:
    """Return the documents with the fixes of all rules that have one."""
    result = Mended(documents)
    for rule in rules:
        if rule.mend is None:
            continue
        try:
            result.documents = rule.mend(result.documents)
        except (NotApplicableError, UnknownError):
            continue
        except (CannotMendError, FormatError) as error:
            result.refused[rule.id] = str(error)
    return result
