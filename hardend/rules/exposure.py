# SPDX-License-Identifier: Apache-2.0
"""What the guide lacks and a host of today needs, in the options of sendmail.cf: checks, logs, limits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hardend.formats.cf import Cf, Value
from hardend.formats.mc import Mc
from hardend.model import printable
from hardend.rules.documents import CannotMendError, Documents
from hardend.rules.options import Option, defined, line_end, place_of, set_option
from hardend.rules.rule import Example, Fault, Fix, Rule, Section, Severity

DONT_BLAME = Option("DontBlameSendmail", "confDONT_BLAME_SENDMAIL")
_NUMBER = re.compile(r"\s*[+-]?\d+")
_WORD = re.compile(r"[A-Za-z0-9]+")
_PLAIN_LIST = re.compile(r"[A-Za-z0-9, \t\n]*")

# What lets somebody else write what Sendmail then runs, delivers to or believes (op guide 4.9.2). All
# other flags loosen a check for files of the same owner or group; Debian's own ten are among those.
_WRITABLE = "others can write it, and Sendmail believes it all the same"
_LINKED = "a link in a directory that others can write leads Sendmail to any file"
_THROUGH = "Sendmail writes through a link to a file that the owner of the link chose"
_DANGEROUS = {
    **dict.fromkeys(("worldwritablealiasfile", "groupwritablealiasfile"), f"the alias file: {_WRITABLE}"),
    "worldwritableforwardfile": f"a .forward file: {_WRITABLE}",
    "worldwritableincludefile": f"an include file: {_WRITABLE}",
    "groupwritabledirpathsafe": "directories that a group can write count as safe, for every file",
    "mapinunsafedirpath": "a map in a directory that others can write is believed",
    "classfileinunsafedirpath": "a class file in a directory that others can write is believed",
    "forwardfileinunsafedirpath": "a .forward file in a directory that others can write is followed",
    "includefileinunsafedirpath": "an include file in a directory that others can write is followed",
    "forwardfileinunsafedirpathsafe": "programs run from a .forward file that others can replace",
    "includefileinunsafedirpathsafe": "programs run from an include file that others can replace",
    "runprograminunsafedirpath": "a program in a directory that others can write is run",
    "runwritableprogram": "a program that others can write is run",
    "groupwritablesasldbfile": "a group can write the passwords of SMTP AUTH",
    **dict.fromkeys(
        ("linkedaliasfileinwritabledir", "linkedclassfileinwritabledir", "linkedforwardfileinwritabledir",
         "linkedincludefileinwritabledir", "linkedmapinwritabledir", "linkedserviceswitchfileinwritabledir"),
        _LINKED,
    ),
    **dict.fromkeys(
        ("filedeliverytohardlink", "filedeliverytosymlink", "writemaptohardlink", "writemaptosymlink",
         "writestatstohardlink", "writestatstosymlink"),
        _THROUGH,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """An option that is a number: ``value`` is what mend sets, ``least`` the least that passes.

    ``default`` is what is compiled in; ``why`` says what happens without it.
    """

    option: Option
    value: str
    why: str
    least: int = 1
    default: int = 0

    def is_met(self, text: str | None) -> bool:
        """Return whether a value passes; None is an option that is not set."""
        return (self.default if text is None else number(text)) >= self.least


LOG_LEVEL = Setting(
    Option("LogLevel", "confLOG_LEVEL"),
    "9",
    "refused connections and deliveries are not logged",
    least=9,
    default=9,
)
# What is compiled in: conf.c, setdefaults(). 0 is no limit for each of them.
LIMITS = (
    Setting(
        Option("ConnectionRateThrottle", "confCONNECTION_RATE_THROTTLE"), "15",
        "one client opens connections as fast as it can",
    ),
    Setting(
        Option("MaxDaemonChildren", "confMAX_DAEMON_CHILDREN"), "100",
        "every connection gets a process, until the host has none left",
    ),
    Setting(
        Option("MinFreeBlocks", "confMIN_FREE_BLOCKS"), "1000",
        "mail is taken until the file system of the queue is full",
    ),
    Setting(
        Option("MaxHeadersLength", "confMAX_HEADERS_LENGTH"), "32768",
        "the header of one message fills the memory", default=32768,
    ),
    Setting(
        Option("MaxMessageSize", "confMAX_MESSAGE_SIZE"), "52428800",
        "one message fills the queue",
    ),
    Setting(
        Option("MaxMimeHeaderLength", "confMAX_MIME_HEADER_LENGTH"), "2048/1024",
        "MIME headers reach mail programs in any length", default=2048,
    ),
    Setting(
        Option("MaxRecipientsPerMessage", "confMAX_RCPTS_PER_MESSAGE"), "100",
        "one message goes to any number of recipients",
    ),
    Setting(
        Option("BadRcptThrottle", "confBAD_RCPT_THROTTLE"), "3",
        "a client tries names of users at full speed",
    ),
)  # fmt: skip


def number(text: str) -> int:
    """Return the number that a value begins with, as atoi() reads it: 0 where there is none."""
    match = _NUMBER.match(text)
    return int(match[0]) if match else 0


def configurations(documents: Documents) -> list[str]:
    """Return the paths of sendmail.cf and, where the host has one, submit.cf."""
    return [documents.layout.cf, *filter(None, [documents.layout.submit_cf])]


def remedy_at(documents: Documents, cf: str, option: Option, verb: str) -> str:
    """Return what to do about an option, with the file and line where that is done."""
    path, line = place_of(documents, cf, option)
    return f"{verb} {option.macro if path != cf else option.name} in {path}{f':{line}' if line else ''}"


def demand_change(before: Documents, after: Documents, cf: str, option: Option) -> Documents:
    """Return ``after``. Raises CannotMendError where it is ``before``: the .mc says so already."""
    if after is before and cf not in before.stale:
        path, line = place_of(before, cf, option)
        what = f"{option.macro} is right at {path}:{line}, but {cf} has another {option.name}"
        raise CannotMendError(f"{what}: remove the line of the .mc that writes it by hand")
    return after


# Settings that count --------------------------------------------------------------------------------


def setting_faults(documents: Documents, settings: Iterable[Setting]) -> Iterator[Fault]:
    """Yield a fault for each setting that sendmail.cf does not meet."""
    cf = documents.layout.cf
    for setting, value in _unmet(documents, settings):
        name = setting.option.name
        says = f"{name} is {printable(value.text) or 'empty'}" if value else f"{name} is not set"
        remedy = remedy_at(documents, cf, setting.option, f"set {setting.value} with")
        yield Fault(cf, value.line if value else 0, f"{says}: {setting.why}", remedy)


def with_settings(documents: Documents, settings: Iterable[Setting]) -> Documents:
    """Return the documents with every setting met. Raises CannotMendError where none of them can be."""
    cf = documents.layout.cf
    changed = documents
    unmet = [setting for setting, _ in _unmet(documents, settings)]
    for setting in unmet:
        text = defined(changed, cf, setting.option)
        if text is None or not setting.is_met(text):
            changed = set_option(changed, cf, setting.option, setting.value)
    return demand_change(documents, changed, cf, unmet[0].option) if unmet else documents


def _unmet(documents: Documents, settings: Iterable[Setting]) -> list[tuple[Setting, Value | None]]:
    cf = documents.cf()
    found = [(setting, cf.option(setting.option.name)) for setting in settings]
    return [(setting, value) for setting, value in found if not setting.is_met(value.text if value else None)]


def _judge_log_level(documents: Documents) -> Iterator[Fault]:
    return setting_faults(documents, [LOG_LEVEL])


def _mend_log_level(documents: Documents) -> Documents:
    return with_settings(documents, [LOG_LEVEL])


def _judge_limits(documents: Documents) -> Iterator[Fault]:
    return setting_faults(documents, LIMITS)


def _mend_limits(documents: Documents) -> Documents:
    return with_settings(documents, LIMITS)


# DontBlameSendmail ----------------------------------------------------------------------------------


def dont_blame(cf: Cf) -> dict[str, Value]:
    """Return the flags in force by their names in lower case; lines accumulate, "safe" clears them."""
    flags: dict[str, Value] = {}
    for value in cf.options(DONT_BLAME.name):
        for word in _WORD.findall(value.text):
            if word.lower() == "safe":
                flags.clear()
            else:
                flags.setdefault(word.lower(), Value(word, value.line, value.name))
    return flags


def _judge_dont_blame(documents: Documents) -> Iterator[Fault]:
    for cf in configurations(documents):
        flags = dont_blame(documents.cf(cf))
        for name, flag in flags.items():
            if name in _DANGEROUS:
                remedy = remedy_at(documents, cf, DONT_BLAME, f"remove {flag.text} from")
                yield Fault(cf, flag.line, f"DontBlameSendmail has {flag.text}: {_DANGEROUS[name]}", remedy)
        mild = [flag for name, flag in flags.items() if name not in _DANGEROUS]
        if mild:
            names = ", ".join(flag.text for flag in mild)
            remedy = remedy_at(documents, cf, DONT_BLAME, "see which of them you need in")
            what = f"DontBlameSendmail switches checks off: {names}"
            yield Fault(cf, mild[0].line, what, remedy, advice=True)


def _mend_dont_blame(documents: Documents) -> Documents:
    for cf in configurations(documents):
        flags = dont_blame(documents.cf(cf))
        kept = [flag.text for name, flag in flags.items() if name not in _DANGEROUS]
        if len(kept) == len(flags) or _is_cleaned(documents, cf):
            continue
        source = documents.mc_of(cf)
        if source is None:
            documents = documents.with_content(cf, _cleaned(documents.cf(cf)).render())
        else:
            _demand_no_line(*source)
            # A define replaces what DOMAIN and OSTYPE say: all that is in force goes into it.
            changed = set_option(documents, cf, DONT_BLAME, ",".join(kept) or "safe")
            documents = demand_change(documents, changed, cf, DONT_BLAME)
    return documents


def _demand_no_line(path: str, mc: Mc) -> None:
    """Raise CannotMendError where the .mc itself holds a line for the .cf: what it sets adds up."""
    for name, flag in dont_blame(Cf(mc.render())).items():
        if name in _DANGEROUS:
            what = f"adds {flag.text} to {DONT_BLAME.name} in a line of its own"
            raise CannotMendError(f"{path}:{flag.line} {what}: remove it there")


def _is_cleaned(documents: Documents, cf: str) -> bool:
    """Return whether the .mc was mended and only the .cf is not made from it yet."""
    text = defined(documents, cf, DONT_BLAME)
    if cf not in documents.stale or text is None or not _PLAIN_LIST.fullmatch(text):
        return False
    return all(word.lower() not in _DANGEROUS for word in _WORD.findall(text))


def _cleaned(cf: Cf) -> Cf:
    """Return the .cf without the dangerous flags, each line with what it had besides."""
    values = cf.options(DONT_BLAME.name)
    for value in reversed(values):
        words = _WORD.findall(value.text)
        kept = [word for word in words if word.lower() not in _DANGEROUS]
        if kept == words:
            continue
        raw = next(line.raw for line in cf.lines if line.number == value.line)
        # "safe" would clear what the lines before it set.
        text = ",".join(kept) or ("safe" if value is values[0] else "")
        end = line_end(raw) if raw.endswith(b"\n") else b""
        cf = cf.replace(value.line, f"O {DONT_BLAME.name}={text}".encode() + end)
    return cf


def _example(title: str, before: str, after: str = "") -> Example:
    changed = {"/etc/mail/sendmail.cf": f"V10/Berkeley\n{after}"} if after else {}
    return Example(title, {"/etc/mail/sendmail.cf": f"V10/Berkeley\n{before}"}, changed)


_GOOD_LIMITS = (
    "O ConnectionRateThrottle=15\nO MaxDaemonChildren=40\nO MinFreeBlocks=100\nO MaxMessageSize=10000000\n"
    "O MaxRecipientsPerMessage=500\nO BadRcptThrottle=1\n"
)
_DEBIANS_TEN = (
    ",AssumeSafeChown,ForwardFileInGroupWritableDirPath,GroupWritableForwardFileSafe,"
    "GroupWritableIncludeFileSafe,IncludeFileInGroupWritableDirPath,DontWarnForwardFileInUnsafeDirPath,"
    "TrustStickyBit,NonRootSafeAddr,GroupWritableIncludeFile,GroupReadableDefaultAuthInfoFile"
)

RULES = (
    Rule(
        id="exposure-dontblame",
        title="Sendmail's own checks of files and directories are not switched off",
        section=Section.EXPOSURE,
        severity=Severity.HIGH,
        fix=Fix.ASK,
        rationale=(
            "Sendmail refuses files that others can write, because who writes them decides what it runs. "
            "DontBlameSendmail switches these checks off; the operations guide advises against it. The "
            "flags that let somebody else decide fail; the others are advice, also the ten that Debian "
            "sets, and are kept. Mail that went through a file only because of a flag stays in the queue "
            "with an error afterwards: mend the modes of that file first."
        ),
        judge=_judge_dont_blame,
        mend=_mend_dont_blame,
        references=("op guide 4.9.2", "sendmail/SECURITY", "STIG GEN004380", "STIG GEN004420"),
        examples=(
            _example(
                "one flag is dangerous, the other is kept",
                "O DontBlameSendmail=TrustStickyBit,MapInUnsafeDirPath\n",
                "O DontBlameSendmail=TrustStickyBit\n",
            ),
            _example(
                "lines accumulate, and names are read in any case",
                "O DontBlameSendmail=AssumeSafeChown\nO dontblamesendmail=RUNWRITABLEPROGRAM\n",
                "O DontBlameSendmail=AssumeSafeChown\nO DontBlameSendmail=\n",
            ),
            Example(
                "from DOMAIN, which the .mc does not show",
                {
                    "/etc/mail/sendmail.cf": (
                        "V10/Berkeley\nO DontBlameSendmail=,TrustStickyBit,RunWritableProgram\n"
                    ),
                    "/etc/mail/sendmail.mc": "DOMAIN(`site')dnl\nMAILER(`local')dnl\n",
                },
                {
                    "/etc/mail/sendmail.mc": (
                        "DOMAIN(`site')dnl\ndefine(`confDONT_BLAME_SENDMAIL', `TrustStickyBit')dnl\n"
                        "MAILER(`local')dnl\n"
                    ),
                },
            ),
            _example("safe clears what stands before it", "O DontBlameSendmail=RunWritableProgram,safe\n"),
            _example("Debian's own ten", f"O DontBlameSendmail={_DEBIANS_TEN}\n"),
        ),
    ),
    Rule(
        id="exposure-loglevel",
        title="Deliveries and refused connections are logged",
        section=Section.EXPOSURE,
        severity=Severity.LOW,
        fix=Fix.AUTO,
        rationale=(
            "Below 9 the log lacks what explains an incident. The STIG greps for the long form; the short "
            "form OL9 and a file without the option, where 9 is compiled in, are as good. A higher level "
            "is kept."
        ),
        judge=_judge_log_level,
        mend=_mend_log_level,
        references=("STIG GEN004440", "STIG AIX7-00-003038", "op guide 5.6"),
        examples=(
            _example("the short form", "OL5\n", "OL9\n"),
            _example("not a number, which Sendmail reads as 0", "O LogLevel=high\n", "O LogLevel=9\n"),
            _example("the default that is compiled in", "OL14\n"),
            _example("not set: 9 is compiled in", "O SuperSafe=True\n"),
        ),
    ),
    Rule(
        id="exposure-limits",
        title="Connections, sizes and recipients have limits",
        section=Section.EXPOSURE,
        severity=Severity.LOW,
        fix=Fix.ASK,
        rationale=(
            "Without limits one client exhausts processes, disk or memory. ConnectionRateThrottle is "
            "connections in a second; further ones wait. MaxDaemonChildren refuses connections beyond it: a "
            "busy relay wants more than 100, and too low a limit is easy to fill. MinFreeBlocks and "
            "MaxMessageSize keep the queue's file system from filling, in blocks and bytes. RFC 5321 demands "
            "at least 100 for MaxRecipientsPerMessage; a client sends to the rest in a second transaction. "
            "BadRcptThrottle slows who guesses names. MaxHeadersLength and MaxMimeHeaderLength are compiled "
            "in and fail only where they are switched off. Limits of your own are kept, whatever they are."
        ),
        judge=_judge_limits,
        mend=_mend_limits,
        references=("Red Hat Security Guide 2.2.8", "op guide 4.5", "op guide 4.6", "RFC 5321 4.5.3.1.8"),
        examples=(
            _example(
                "0 is no limit, whatever is compiled in",
                _GOOD_LIMITS + "O MaxHeadersLength=0\nO MaxMimeHeaderLength=0/0\n",
                _GOOD_LIMITS + "O MaxHeadersLength=32768\nO MaxMimeHeaderLength=2048/1024\n",
            ),
            _example(
                "behind the comment of Sendmail's own files",
                _GOOD_LIMITS.replace("O MaxMessageSize=10000000", "#O MaxMessageSize=0"),
                _GOOD_LIMITS.replace(
                    "O MaxMessageSize=10000000", "#O MaxMessageSize=0\nO MaxMessageSize=52428800"
                ),
            ),
            _example("limits of one's own", _GOOD_LIMITS),
        ),
    ),
)
