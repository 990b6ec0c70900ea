# SPDX-License-Identifier: Apache-2.0
"""What the guide lacks of a .cf and its .mc: that the one is what the other makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hardend.formats.cf_origin import as_comment, shows_another
from hardend.model import printable
from hardend.rules.documents import Attributes, Documents, NotApplicableError, UnknownError
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity


def unmade_by_sight(
    content: Mapping[str, bytes], attributes: Mapping[str, Attributes], sources: Mapping[str, str]
) -> dict[str, str]:
    """Return the .cf files that tell without a build that their .mc was changed since: .cf -> why."""
    found = {}
    for cf, mc in sources.items():
        made, source = attributes.get(cf), attributes.get(mc)
        shown = printable(mc)
        if cf in content and shows_another(content[cf], mc, content[mc]):
            found[cf] = f"it was made from another {shown} than the one that is there"
        elif made and source and made.mtime_ns < source.mtime_ns:
            found[cf] = f"it is older than {shown}: what was changed there is not in force"
    return found


def _judge(documents: Documents) -> Iterator[Fault]:
    if not documents.sources:
        raise NotApplicableError("this host has no .mc")
    for cf, why in documents.unmade.items():
        mc = documents.sources.get(cf, "its .mc")
        remedy = (
            f"hardend harden --plan --truth mc shows what {printable(mc)} makes; to keep what is in force, "
            "bring it into the .mc"
        )
        yield Fault(cf, 0, why, remedy, mendable=False)
    for cf, why in documents.unbuilt.items() if not documents.unmade else ():
        raise UnknownError(cf, why)


_CF = "/etc/mail/sendmail.cf"
_MC = "/etc/mail/sendmail.mc"
_TEXT = "OSTYPE(`debian')dnl\nMAILER(`smtp')dnl\n"


def _made(text: str) -> str:
    return "V10/Berkeley\n" + as_comment(_MC, text.encode()).decode()


RULES = (
    Rule(
        id="exposure-source",
        title="Each .cf is what its .mc makes",
        section=Section.EXPOSURE,
        severity=Severity.LOW,
        fix=Fix.NEVER,
        rationale=(
            "Debian's and Red Hat's start scripts run make: a .cf that is older than its .mc is built anew "
            "at the next start, and what was hardened in it by hand is gone then; on a locked .cf that make "
            "fails, and Debian's start with it. A .cf that its .mc does not make was edited by hand, or the "
            ".mc was changed and is not in force. Which of them is right nobody but you can say. On this "
            "host itself, as root, the .mc is built to the side and compared; of a tree nothing is built, "
            "and the time stamps and the copy of the .mc count that Debian keeps at the end of a .cf."
        ),
        judge=_judge,
        references=("cf/README, introduction", "/etc/mail/Makefile of Debian", "/etc/mail/make of Red Hat"),
        examples=(
            Example(
                "the .mc was changed and not built",
                {_CF: _made(_TEXT), _MC: f"{_TEXT}FEATURE(`nouucp')dnl\n"},
                {_CF: _made(f"{_TEXT}FEATURE(`nouucp')dnl\n")},
            ),
            Example("made from it", {_CF: _made(_TEXT), _MC: _TEXT}),
            Example("made by hand, which keeps no copy", {_CF: "V10/Berkeley\n", _MC: _TEXT}),
        ),
    ),
)
