# SPDX-License-Identifier: Apache-2.0
"""Flags of PrivacyOptions (op guide 5.6): what is lacking, and the options with it added.

Lines accumulate in a .cf, and the last define counts in a .mc. The administrator's own flags stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from hardend.formats.cf import Cf
from hardend.rules.documents import Documents
from hardend.rules.options import Option, defined, place_of, set_option
from hardend.rules.rule import Fault

PRIVACY = Option("PrivacyOptions", "confPRIVACY_FLAGS")
# conf.c: goaway is these; restrictmailq, restrictqrun and restrictexpand are not among them.
_GOAWAY = frozenset(
    {"needmailhelo", "needexpnhelo", "needvrfyhelo", "noexpn", "novrfy", "authwarnings", "noverb"}
)


def effective_flags(cf: Cf) -> frozenset[str]:
    """Return the flags in force: goaway as what it stands for."""
    return _spelled_out(flag.text for flag in cf.privacy_flags())


def faults(documents: Documents, cf: str, wanted: Iterable[str], why: str) -> Iterator[Fault]:
    """Yield a fault for each flag that a .cf lacks; ``why`` says what that allows."""
    document = documents.cf(cf)
    lacking = _lacking(wanted, effective_flags(document))
    if not lacking:
        return
    values = document.options(PRIVACY.name)
    path, line = place_of(documents, cf, PRIVACY)
    where = f"{path}:{line}" if line else path
    remedy = f"add {', '.join(lacking)} to {PRIVACY.macro if path != cf else PRIVACY.name} in {where}"
    for flag in lacking:
        yield Fault(cf, values[-1].line if values else 0, f"PrivacyOptions lacks {flag}: {why}", remedy)


def with_flags(documents: Documents, cf: str, wanted: Iterable[str]) -> Documents:
    """Return the documents with flags added to what a .cf has; the same where none is lacking."""
    document = documents.cf(cf)
    lacking = _lacking(wanted, effective_flags(document))
    if not lacking:
        return documents
    base = defined(documents, cf, PRIVACY)
    if base is None:
        # A define replaces what the .mc's own includes say: all that is in force goes into it.
        values = document.options(PRIVACY.name)
        is_mc = documents.mc_of(cf) is not None
        base = ",".join(value.text for value in (values if is_mc else values[-1:]))
    there = _words(base)
    # "public" is the flag of no flags: beside others it is only confusing.
    kept = [word for word in there if word != "public"]
    added = _lacking(lacking, _spelled_out(there))
    if not added:
        return documents
    return set_option(documents, cf, PRIVACY, ",".join([*dict.fromkeys(kept), *added]))


def _spelled_out(flags: Iterable[str]) -> frozenset[str]:
    found = frozenset(flags)
    return found | _GOAWAY if "goaway" in found else found


def _lacking(wanted: Iterable[str], present: frozenset[str]) -> list[str]:
    return [flag for flag in wanted if flag not in present]


def _words(text: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Za-z0-9]+", text)]
