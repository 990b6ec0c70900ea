# SPDX-License-Identifier: Apache-2.0
"""Section 3 of the guide: who is on this host is nobody's business; EXPN, VRFY and VERB are off."""

from __future__ import annotations

from collections.abc import Iterator

from hardend.formats.table import Table, rows_with
from hardend.rules import srv_features
from hardend.rules.documents import Documents
from hardend.rules.flags import faults, with_flags
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity

_FLAGS = ("authwarnings", "noexpn", "novrfy")
_WHY = "EXPN, VRFY or VERB tell strangers who is on this host and what its aliases run"
# Lower case switches a service on for the client that the entry names (cf/README, srv_features).
_GIVEN_BACK = {"x": "EXPN", "b": "VERB"}


def _judge_flags(documents: Documents) -> Iterator[Fault]:
    return faults(documents, documents.layout.cf, _FLAGS, _WHY)


def _mend_flags(documents: Documents) -> Documents:
    return with_flags(documents, documents.layout.cf, _FLAGS)


def _judge_srv_features(documents: Documents) -> Iterator[Fault]:
    for line, words in srv_features.of_rules(documents.cf()):
        if given := _back(words):
            names = " and ".join(given.values())
            what = f"the rules for srv_features give {names} back to whom they answer so"
            remedy = f"remove {' and '.join(given)} from LOCAL_SRV_FEATURES in the .mc"
            yield Fault(documents.layout.cf, line, what, remedy, mendable=False)
    path = documents.layout.access
    for entry in rows_with(srv_features.access_table(documents), srv_features.ENTRY):
        given = _given_back(entry.key, entry.value)
        if given:
            yield Fault(
                path,
                entry.line,
                f"{entry.key} gives {' and '.join(given.values())} back to these clients, "
                "whatever PrivacyOptions says",
                f"remove {' and '.join(given)} from the entry",
            )


def _mend_srv_features(documents: Documents) -> Documents:
    path, data = documents.layout.access, srv_features.access_table(documents)
    values = {
        entry.line: " ".join(word for word in entry.value.split() if word[:1] not in _GIVEN_BACK)
        for entry in rows_with(data, srv_features.ENTRY)
        if _given_back(entry.key, entry.value)
    }
    if not values:
        return documents
    return documents.with_content(path, Table(data, path).with_values(values).render())


def _given_back(key: str, value: str) -> dict[str, str]:
    return _back(srv_features.of_entry(key, value))


def _back(words: list[str]) -> dict[str, str]:
    return {word[0]: _GIVEN_BACK[word[0]] for word in words if word[:1] in _GIVEN_BACK}



RULES = (
    Rule(
        id="privacy-flags",
        title="EXPN, VRFY and VERB are off, and forged senders are marked",
        section=Section.PRIVACY,
        severity=Severity.MEDIUM,
        fix=Fix.AUTO,
        rationale=(
            "EXPN shows what is behind an alias, programs too; VRFY and VERB help to find accounts. "
            "noexpn refuses VERB as well. novrfy answers 252, not 500: a scanner that calls this a "
            "finding, as STIG GEN004680 does, is wrong. STIG GEN004660's own fix names the macro "
            "confPRIVACYFLAGS, which nothing reads. Your own flags are kept."
        ),
        judge=_judge_flags,
        mend=_mend_flags,
        references=("guide 3", "STIG GEN004660", "STIG GEN004680", "CIS AIX 3.1.2.15", "op guide 5.6"),
        examples=(
            Example(
                "the default of the sources",
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nO PrivacyOptions=authwarnings\n"},
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nO PrivacyOptions=authwarnings,noexpn,novrfy\n"},
            ),
            Example(
                "Debian's .mc, in which the arguments begin on the next line",
                {
                    "/etc/mail/sendmail.cf": "V10/Berkeley\nO PrivacyOptions=needmailhelo,authwarnings\n",
                    "/etc/mail/sendmail.mc": (
                        "define(`confPRIVACY_FLAGS',dnl\n`needmailhelo,authwarnings')dnl\nMAILER(`local')dnl\n"
                    ),
                },
                {
                    "/etc/mail/sendmail.mc": (
                        "define(`confPRIVACY_FLAGS',dnl\n`needmailhelo,authwarnings,noexpn,novrfy')dnl\n"
                        "MAILER(`local')dnl\n"
                    ),
                },
            ),
            Example(
                "goaway holds all three",
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nO PrivacyOptions=goaway\n"},
            ),
            Example(
                "lines accumulate, and the short form counts",
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nOpnoexpn,novrfy\nO privacyoptions=authwarnings\n"},
            ),
        ),
    ),
    Rule(
        id="privacy-srv-features",
        title="No client gets EXPN or VERB back",
        section=Section.PRIVACY,
        severity=Severity.MEDIUM,
        fix=Fix.ASK,
        rationale=(
            "An entry Srv_Features:CLIENT with x or b switches EXPN or VERB on for that client although "
            "PrivacyOptions forbids them: a look at the options of sendmail.cf alone misses it. So does a "
            "rule of LOCAL_SRV_FEATURES that answers with them; whom it means is yours to say: it is left."
        ),
        judge=_judge_srv_features,
        mend=_mend_srv_features,
        references=("guide 3", "cf/README, srv_features"),
        examples=(
            Example(
                "two features given back, one that is not ours",
                {"/etc/mail/access": "Srv_Features:192.0.2.7\tx b S\n"},
                {"/etc/mail/access": "Srv_Features:192.0.2.7\tS\n"},
            ),
            Example(
                "an answer of a rule, in upper case",
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nSlocal_srv_features\nR$* $| 192.0.2.7\t$# X B\n"},
            ),
            Example("upper case switches off", {"/etc/mail/access": "Srv_Features:192.0.2.7\tX B\n"}),
        ),
    ),
)
