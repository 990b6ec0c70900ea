# SPDX-License-Identifier: Apache-2.0
"""Whether each .cf of a host is what its .mc makes: the .mc is built to the side and compared."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from types import MappingProxyType

from hardend.errors import CommandError, FormatError
from hardend.maps import Tools
from hardend.mcbuild import build_cf, same_configuration
from hardend.model import Host, printable
from hardend.rules.documents import Documents

_DENIED = os.strerror(errno.EACCES)


def compared(documents: Documents, host: Host, tools: Tools) -> Documents:
    """Return the documents with every .cf noted that its .mc does not make.

    Where nothing can be built (no m4, no macros, no right to confine it) nothing more is known than
    before. Nothing of a tree is built.
    """
    if host.is_tree:
        return documents
    unmade, unbuilt = dict(documents.unmade), dict(documents.unbuilt)
    for cf, mc in documents.sources.items():
        if cf in unmade or cf not in documents.content:
            continue
        try:
            built = build_cf(mc, documents.content[mc], host, tools).cf
        except FormatError as error:
            if os.geteuid() and _DENIED in str(error):  # an ordinary user may not read all that it includes
                unbuilt[cf] = str(error)
            else:
                unmade[cf] = f"its .mc makes none: {error}"
        except CommandError:
            continue
        else:
            if not same_configuration(built, documents.content[cf]):
                unmade[cf] = f"it is not what {printable(mc)} makes: one of them was edited by hand"
    return replace(documents, unmade=MappingProxyType(unmade), unbuilt=MappingProxyType(unbuilt))
