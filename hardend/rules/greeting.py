# SPDX-License-Identifier: Apache-2.0
"""Section 4 of the guide: what a stranger is told: the name of the host first, and no version anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from hardend.config import Policy
from hardend.formats.cf import Cf, Value
from hardend.model import FileType
from hardend.rules.documents import Attributes, CannotMendError, Documents, NotApplicableError
from hardend.rules.options import Option, defined, place_of, set_option
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity
from hardend.rules.version_text import names_version, without_version

GREETING = Option("SmtpGreetingMessage", "confSMTP_LOGIN_MSG")
RECEIVED = Option("H?Received", "confRECEIVED_HEADER")
_BUILT_IN = "$j Sendmail $v ready at $b"  # conf.c, where nothing is set
_PLAIN = "$j Mail Server Ready; $b"
_HOST_FIRST = re.compile(r"\$(?:j|\{j\})(?=[ \t])")
_RECEIVED_MACRO = re.compile(r"\$\??(?:[vZ]|\{[vZ]\})(?![A-Za-z0-9_{])|\$[vZ]")
_RECEIVED_LINE = re.compile(r"H(?:\?[^?]*\?)?Received:", re.IGNORECASE)
_OWN_MACRO = re.compile(r"\b(?:_[A-Z][A-Z_]*_|conf[A-Z_]+)\b")  # m4 would expand it; written back it does not
_RECEIVED_VERSION = re.compile(r"[ ]*\(\$v/\$Z\)|[ ]*\(\$v\)|[ ]*\$v/\$Z")


def _greeting(cf: Cf) -> Value:
    return cf.greeting() or Value(_BUILT_IN, 0)


def _judge_version(documents: Documents) -> Iterator[Fault]:
    cf = documents.cf()
    value = _greeting(cf)
    if names_version(value.text, cf):
        where = "the built-in greeting names" if value.line == 0 else "the greeting names"
        yield Fault(
            documents.layout.cf,
            value.line,
            f"{where} the version of Sendmail to everybody who connects: {value.text}",
            _remedy(documents, _without_version(value.text, cf)),
        )


def _judge_host(documents: Documents) -> Iterator[Fault]:
    value = _greeting(documents.cf())
    if not _HOST_FIRST.match(value.text):
        yield Fault(
            documents.layout.cf,
            value.line,
            "the greeting does not begin with the name of the host ($j and a blank), as RFC 5321 wants it: "
            f"{value.text}",
            _remedy(documents, _with_host(value.text)),
        )


def _judge_notice(documents: Documents) -> Iterator[Fault]:
    notice = documents.policy.notice
    if not notice:
        raise NotApplicableError("notice_country in [rules] of hardend.toml asks for the notice")
    value = _greeting(documents.cf())
    if notice not in value.text:
        yield Fault(
            documents.layout.cf,
            value.line,
            f"the greeting lacks the notice {notice}",
            _remedy(documents, f"{value.text} {notice}"),
        )


def _remedy(documents: Documents, value: str) -> str:
    path, line = place_of(documents, documents.layout.cf, GREETING)
    name = GREETING.name if path == documents.layout.cf else GREETING.macro
    return f"set {name} to {value} in {path}" + (f":{line}" if line else "")


def _mend_version(documents: Documents) -> Documents:
    cf = documents.cf()
    return _changed(
        documents, lambda text: names_version(text, cf), lambda text: _without_version(text, cf)
    )


def _mend_host(documents: Documents) -> Documents:
    return _changed(documents, lambda text: _HOST_FIRST.match(text) is None, _with_host)


def _mend_notice(documents: Documents) -> Documents:
    notice = documents.policy.notice
    return _changed(documents, lambda text: notice not in text, lambda text: f"{text} {notice}".lstrip())


def _changed(
    documents: Documents, is_wrong: Callable[[str], bool], mended: Callable[[str], str]
) -> Documents:
    """Return the documents with another greeting where the one in force, and the .mc's, is wrong."""
    cf = documents.layout.cf
    in_force = _greeting(documents.cf(cf)).text
    if not is_wrong(in_force):
        return documents
    in_mc = defined(documents, cf, GREETING)
    text = in_force if in_mc is None else in_mc
    return set_option(documents, cf, GREETING, mended(text)) if is_wrong(text) else documents


def _without_version(text: str, cf: Cf) -> str:
    mended = without_version(text, cf)
    # Sendmail puts ESMTP behind the first word, and "$j;" would make it part of the name.
    if re.fullmatch(r"\$j;?(?: ready at)?(?:;? \$b)?", mended):
        return _PLAIN
    return re.sub(r"^\$j;", "$j Mail Server Ready;", mended) or _PLAIN


def _with_host(text: str) -> str:
    rest = re.sub(r"^\$(?:j|\{j\})", "", text).lstrip(" \t;")
    return f"$j {rest}" if rest else _PLAIN


def _judge_help(documents: Documents) -> Iterator[Fault]:
    value = documents.cf().option("HelpFile")
    path = documents.layout.helpfile
    if value is None or not path:
        yield Fault(
            documents.layout.cf,
            value.line if value else 0,
            "HELP names the version of Sendmail, because there is no helpfile",
            "set HelpFile to an empty regular file",
            mendable=False,
        )
        return
    known = documents.attributes.get(path)
    if known is None and path not in documents.unreadable:
        yield Fault(
            path,
            0,
            "HELP names the version of Sendmail, because the helpfile is missing: "
            "deleting it, as the STIG says, publishes what it hides",
            f"an empty regular file: : > {path}",
        )
    elif known is not None and known.kind is not FileType.FILE:
        yield Fault(
            path,
            0,
            "HELP names the version of Sendmail, because the helpfile is no regular file",
            "an empty regular file",
            mendable=False,
        )
    else:
        lines = documents.read(path).split(b"\n")
        for number, line in enumerate(lines, start=1):
            if _helps_with_version(line, documents.cf()):
                yield Fault(
                    path, number, "HELP names the version of Sendmail", "remove the line, or empty the file"
                )


def _mend_help(documents: Documents) -> Documents:
    path = documents.layout.helpfile
    if not path or documents.cf().option("HelpFile") is None:
        return documents
    known = documents.attributes.get(path)
    if known is None and path not in documents.unreadable:
        made = documents.with_content(path, b"")
        return made.with_attributes(path, Attributes(FileType.FILE, 0, 0, 0o644, flags=""))
    if known is not None and known.kind is not FileType.FILE:
        return documents
    lines = re.findall(rb"[^\n]*\n|[^\n]+", documents.read(path))
    kept = [line for line in lines if not _helps_with_version(line, documents.cf())]
    return documents.with_content(path, b"".join(kept))


def _helps_with_version(line: bytes, cf: Cf) -> bool:
    """Return whether a line of the helpfile names the version; Sendmail expands macros in it."""
    return not line.startswith(b"#") and names_version(line.decode("utf-8", "surrogateescape"), cf)


def _judge_received(documents: Documents) -> Iterator[Fault]:
    if not documents.policy.hide_received_version:
        raise NotApplicableError("received_version = false in [rules] of hardend.toml asks for it")
    for line in documents.cf().lines:
        text = line.text.decode("utf-8", "surrogateescape")
        if _RECEIVED_LINE.match(text) and _RECEIVED_MACRO.search(text):
            yield Fault(
                documents.layout.cf,
                line.number,
                "Received: lines name the version of Sendmail in all mail that passes",
                f"take ($v/$Z) out of {RECEIVED.macro}",
            )


def _mend_received(documents: Documents) -> Documents:
    if not documents.policy.hide_received_version:
        return documents
    cf = documents.layout.cf
    document = documents.cf(cf)
    for line in document.lines:
        text = line.text.decode("utf-8", "surrogateescape")
        if not (_RECEIVED_LINE.match(text) and _RECEIVED_MACRO.search(text)):
            continue
        source = documents.mc_of(cf)
        if source is not None:
            path, mc = source
            known = mc.define(RECEIVED.macro)
            header = known.text if known else text.partition(":")[2].strip().replace("\n", " ")
            mended = _RECEIVED_VERSION.sub("", re.sub(r"[ \t]+", " ", header))
            if _RECEIVED_MACRO.search(mended) or _OWN_MACRO.search(mended):
                raise CannotMendError(f"{path}: {RECEIVED.macro} names the version in a way of its own")
            return documents.with_content(path, mc.set_define(RECEIVED.macro, mended).render())
        raw = _RECEIVED_VERSION.sub("", line.raw.decode("utf-8", "surrogateescape"))
        document = document.replace(line.number, raw.encode("utf-8", "surrogateescape"))
    return documents.with_content(cf, document.render())


def _cf(value: str) -> dict[str, str]:
    return {"/etc/mail/sendmail.cf": f"V10/Berkeley\nO SmtpGreetingMessage={value}\n"}


_RECEIVED_BEFORE = "V10/Berkeley\nH?l?Received: from $s by $j ($v/$Z) with $r\n\tid $i; $b\n"
_RECEIVED_AFTER = "V10/Berkeley\nH?l?Received: from $s by $j with $r\n\tid $i; $b\n"

RULES = (
    Rule(
        id="greeting-version",
        title="The greeting does not name the version",
        section=Section.GREETING,
        severity=Severity.LOW,
        fix=Fix.AUTO,
        rationale=(
            "The version tells an attacker which hole to try first. Removing the option is worse: the "
            "built-in greeting shows the version. The STIG's own value, \"Mail Server Ready ; $b\", loses "
            "the name of the host, which must come first."
        ),
        judge=_judge_version,
        mend=_mend_version,
        references=("guide 4", "STIG GEN004560", "op guide 5.6"),
        examples=(
            Example("the default", _cf("$j Sendmail $v/$Z; $b"), _cf("$j Mail Server Ready; $b")),
            Example(
                "nothing is set",
                {"/etc/mail/sendmail.cf": "V10/Berkeley\nO LogLevel=9\n"},
                {
                    "/etc/mail/sendmail.cf": (
                        "V10/Berkeley\nO LogLevel=9\nO SmtpGreetingMessage=$j Mail Server Ready; $b\n"
                    )
                },
            ),
            Example(
                "the guide's notice keeps the version; its text stays",
                _cf("$j Sendmail $v/$Z; $b NO UCE C=DE L=BY"),
                _cf("$j Mail Server Ready; $b NO UCE C=DE L=BY"),
            ),
            Example(
                "in figures, as an administrator typed it",
                _cf("$j Sendmail 8.12.11/8.12.11; $b"),
                _cf("$j Mail Server Ready; $b"),
            ),
            Example("a host name and a date", _cf("$j Mail Server Ready; $b")),
            Example("figures that are no version", _cf("mail8.12.example.com 10.8.17.1 ready; $b")),
            Example("a word that begins like a macro", _cf("$j vZ; $b")),
        ),
    ),
    Rule(
        id="greeting-host",
        title="The greeting begins with the name of the host",
        section=Section.GREETING,
        severity=Severity.LOW,
        fix=Fix.AUTO,
        rationale=(
            'RFC 5321 wants "220 NAME"; Sendmail puts ESMTP behind the first word, so that "$j;" becomes '
            '"NAME; ESMTP" and no first $j becomes "Mail ESMTP Server".'
        ),
        judge=_judge_host,
        mend=_mend_host,
        references=("guide 4", "RFC 5321 4.2"),
        examples=(
            Example("the STIG's value", _cf("Mail Server Ready ; $b"), _cf("$j Mail Server Ready ; $b")),
            Example("the name in braces", _cf("${j} ready; $b")),
        ),
    ),
    Rule(
        id="greeting-notice",
        title="The greeting carries the notice of the guide",
        section=Section.GREETING,
        severity=Severity.LOW,
        fix=Fix.AUTO,
        rationale=(
            '"NO UCE C=xx L=xx" says that unsolicited commercial mail is not wanted, and under whose law. '
            "It is a notice and no protection; notice_country and notice_region in [rules] ask for it."
        ),
        judge=_judge_notice,
        mend=_mend_notice,
        references=("guide 4",),
        examples=(
            Example(
                "asked for, and not there",
                _cf("$j Mail Server Ready; $b"),
                _cf("$j Mail Server Ready; $b NO UCE C=DE L=BY"),
                policy=Policy(notice="NO UCE C=DE L=BY"),
            ),
            Example("not asked for", _cf("$j Mail Server Ready; $b")),
        ),
    ),
    Rule(
        id="greeting-help",
        title="HELP does not name the version",
        section=Section.GREETING,
        severity=Severity.MEDIUM,
        fix=Fix.AUTO,
        rationale=(
            'The STIG deletes the helpfile; then HELP answers "Sendmail 8.17.1.9 -- HELP not implemented". '
            'An empty regular file answers "End of HELP info" and nothing else.'
        ),
        judge=_judge_help,
        mend=_mend_help,
        references=("guide 4", "STIG GEN004540"),
        examples=(
            Example(
                "the line of the distribution",
                {
                    "/etc/mail/sendmail.cf": "V10/Berkeley\nO HelpFile=/etc/mail/helpfile\n",
                    "/etc/mail/helpfile": "cpyr\tcopy\nsmtp\tThis is sendmail version $v\nsmtp\tTopics:\n",
                },
                {"/etc/mail/helpfile": "cpyr\tcopy\nsmtp\tTopics:\n"},
            ),
            Example(
                "a version in figures, and a comment of its own",
                {
                    "/etc/mail/sendmail.cf": "V10/Berkeley\nO HelpFile=/etc/mail/helpfile\n",
                    "/etc/mail/helpfile": "#vers\t8.17.1\nsmtp\tThis is Sendmail version 8.12\nquit\tQUIT\n",
                },
                {"/etc/mail/helpfile": "#vers\t8.17.1\nquit\tQUIT\n"},
            ),
            Example(
                "an empty file",
                {
                    "/etc/mail/sendmail.cf": "V10/Berkeley\nO HelpFile=/etc/mail/helpfile\n",
                    "/etc/mail/helpfile": "",
                },
            ),
        ),
    ),
    Rule(
        id="greeting-received",
        title="Received: lines do not name the version",
        section=Section.GREETING,
        severity=Severity.LOW,
        fix=Fix.AUTO,
        rationale=(
            "Every mail that passes tells where it passed, and with which version. Some want it for "
            "finding faults: received_version = false in [rules] asks for this rule."
        ),
        judge=_judge_received,
        mend=_mend_received,
        references=("guide 4", "cf/README, confRECEIVED_HEADER"),
        examples=(
            Example(
                "the default header",
                {"/etc/mail/sendmail.cf": _RECEIVED_BEFORE},
                {"/etc/mail/sendmail.cf": _RECEIVED_AFTER},
                policy=Policy(hide_received_version=True),
            ),
            Example("not asked for", {"/etc/mail/sendmail.cf": _RECEIVED_BEFORE}),
        ),
    ),
)
