# SPDX-License-Identifier: Apache-2.0
"""Section 7 of the guide: the files that make Sendmail what it is cannot be changed in passing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hardend.rules.documents import Documents, NotApplicableError, UnknownError
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity

_UNKNOWN = "its inode flags cannot be read: not root, or a file system without chattr(1)"


def _unlocked(documents: Documents) -> tuple[list[str], str]:
    """Return the paths without the flag, and one of which that is not known ("" for none).

    Raises NotApplicableError where no path is to have it, UnknownError where nothing is known of any.
    """
    known = [path for path in documents.lockable if path in documents.attributes]
    if not known:
        raise NotApplicableError("hardend.toml takes the flag off every file of the list")
    flags = {path: documents.attributes[path].flags for path in known}
    unknown = next((path for path, letters in flags.items() if letters is None), "")
    if all(letters is None for letters in flags.values()):
        raise UnknownError(unknown, _UNKNOWN)
    return [path for path, letters in flags.items() if letters is not None and "i" not in letters], unknown


def _judge(documents: Documents) -> Iterator[Fault]:
    unlocked, unknown = _unlocked(documents)
    for path in unlocked:
        yield Fault(
            path,
            0,
            "not immutable: a script, an editor or an intruder changes it in passing",
            "hardend approve locks it; changes go through hardend from then on",
        )
    if unknown and not unlocked:
        raise UnknownError(unknown, _UNKNOWN)


def _mend(documents: Documents) -> Documents:
    for path in _unlocked(documents)[0]:
        known = documents.attributes[path]
        letters = "ia" if "a" in (known.flags or "") else "i"
        documents = documents.with_attributes(path, replace(known, flags=letters))
    return documents


RULES = (
    Rule(
        id="immutable-files",
        title="The configuration and its sources are immutable (chattr +i)",
        section=Section.IMMUTABLE,
        severity=Severity.MEDIUM,
        fix=Fix.AUTO,
        rationale=(
            "The guide's list as it is today: sendmail.cf, submit.cf, the .mc files, local-host-names "
            "(once sendmail.cw), relay-domains, aliases and access. Never a database: newaliases and "
            "makemap must write it. A locked alias file makes newaliases do nothing and exit 0; hardend "
            "rebuilds the database from a copy instead, and never lifts the lock for it. With the guard "
            "a lock that is taken off is back within a millisecond."
        ),
        judge=_judge,
        mend=_mend,
        references=("guide 7", "chattr(1)"),
        examples=(
            Example(
                "a file without the flag",
                {"/etc/mail/access": "", "/etc/mail/sendmail.cf": "V10/Berkeley\n"},
                modes={
                    "/etc/mail/access": "root:root 0644 -> root:root 0644 i",
                    "/etc/mail/sendmail.cf": "root:root 0644 i",
                },
            ),
            Example(
                "with the flag",
                {"/etc/mail/sendmail.cf": "V10/Berkeley\n"},
                modes={"/etc/mail/sendmail.cf": "root:root 0644 i"},
            ),
        ),
    ),
)
