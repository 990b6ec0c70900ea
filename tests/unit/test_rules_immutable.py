# SPDX-License-Identifier: Apache-2.0
"""Section 7 of the guide beyond the examples: a file of which the flag is not known is no pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hardend.rules.catalogue import BY_ID, judge
from hardend.rules.documents import Documents
from hardend.rules.rule import Verdict
from tests.unit.rulehost import documents_of

RULE = BY_ID["immutable-files"]
CF, ACCESS = "/etc/mail/sendmail.cf", "/etc/mail/access"


def host(cf: str | None, access: str | None) -> Documents:
    documents = documents_of({ACCESS: ""})
    for path, flags in ((CF, cf), (ACCESS, access)):
        documents = documents.with_attributes(path, replace(documents.attributes[path], flags=flags))
    return documents


@pytest.mark.parametrize(
    ("cf", "access", "verdict"),
    [
        ("i", "i", Verdict.PASS),
        ("ia", "i", Verdict.PASS),
        ("i", "", Verdict.FAIL),
        ("", None, Verdict.FAIL),
        ("i", None, Verdict.UNKNOWN),
        (None, None, Verdict.UNKNOWN),
    ],
)
def test_what_is_not_known_is_no_pass_and_what_fails_fails(
    cf: str | None, access: str | None, verdict: Verdict
) -> None:
    assert judge(host(cf, access), RULE).verdict is verdict


def test_the_fix_locks_what_is_known_and_keeps_append_only() -> None:
    assert RULE.mend is not None
    after = RULE.mend(host("a", None))
    assert (after.attributes[CF].flags, after.attributes[ACCESS].flags) == ("ia", None)
    known = host("i", None)
    assert RULE.mend(known) is known
