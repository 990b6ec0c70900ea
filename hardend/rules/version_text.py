# SPDX-License-Identifier: Apache-2.0
"""Whether a text that strangers read names the version of Sendmail, and the text without it.

By the macros $v (the program) and $Z (the configuration), by a macro of the site that leads to one of
them, or in plain figures, as old files and administrators have it.
"""

from __future__ import annotations

import re

from hardend.formats.cf import Cf

_MACRO = re.compile(r"\$\??(?:[vZ]|\{[vZ]\})(?![A-Za-z0-9_{])|\$[vZ]")
# Sendmail has been at 8 since 1993; its releases are 8.12, 8.17.1, and Debian's 8.17.1.9.
_FIGURES = re.compile(
    r"(?<![\w.:\[])8\.\d{1,2}\.\d{1,2}(?:\.\d+)?(?![\w.]*\])"
    r"|sendmail\W{0,3}(?:version\W{0,3}|v)?\d+(?:\.\d+)+",
    re.IGNORECASE,
)
_NUMBER = r"(?:\$(?:v|\{v\})|v?8\.\d{1,2}(?:\.\d+){0,2})"
_PRODUCT = re.compile(
    rf"[ (]*(?:Sendmail)?(?:[ ]*version)?[ ]*{_NUMBER}(?:/(?:\$(?:Z|\{{Z\}})|8\.[\w.+-]*\w))?[ )]*"
    r"|[ (]*\$(?:Z|\{Z\})[ )]*",
    re.IGNORECASE,
)
_OWN_MACRO = re.compile(r"\$(?:\{\w+\}|[A-Za-z])")


def names_version(text: str, cf: Cf) -> bool:
    """Return whether a text names the version, as Sendmail would expand it."""
    return any(pattern.search(said) for said in (text, cf.expand(text)) for pattern in (_MACRO, _FIGURES))


def without_version(text: str, cf: Cf) -> str:
    """Return the text without the version and the name of the program before it; nothing else changes.

    What was beside it is parted by one blank.
    """
    plain = _OWN_MACRO.sub(lambda match: "" if _leads_to_version(match[0], cf) else match[0], text)
    mended = _FIGURES.sub("", _MACRO.sub("", _PRODUCT.sub(" ", plain)))
    return re.sub(r" +;", ";", re.sub(r"[ \t]{2,}", " ", mended).strip())


def _leads_to_version(macro: str, cf: Cf) -> bool:
    return _MACRO.fullmatch(macro) is None and names_version(cf.expand(macro), cf)
