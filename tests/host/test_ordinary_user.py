# SPDX-License-Identifier: Apache-2.0
"""Every verb that changes something refuses who is not root, with exit code 4, and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.host.test_guard import ACCESS, wait_clean

if TYPE_CHECKING:
    from tests.host.machine import Machine

REFUSED = 4
VERBS = (
    "approve --reason x",
    f"approve {ACCESS} --from /etc/hostname --reason x",
    "harden --yes",
    f"edit {ACCESS} --reason x --yes",
    "unlock --reason x",
    "lock --keep",
    "run --reason x -- touch /tmp/ran",
    "off --for 1h --reason x",
    "on",
    "release",
    "baseline rollback 1 --reason x",
    "baseline prune --keep 1",
    "baseline sign current --key /etc/hostname",
    "baseline import /etc/hostname",
    "quarantine purge --older 1d --yes",
    "collect",
    "rebuild",
    "guard",
)
# Everything that a verb could change: names, owners, modes, flags, content. The spare copies are the
# guard's own: it makes them in the first seconds after an approval, whoever runs what.
STATE = (
    "find /etc/mail /etc/aliases /etc/hardend /var/lib/hardend/baseline /var/lib/hardend/quarantine"
    " -path /etc/hardend/spare -prune -o -printf '%p %u %g %m %s %T@ %l\\n' | sort;"
    " lsattr -R /etc/mail 2>/dev/null | sort;"
    " find /etc/mail /etc/aliases /var/lib/hardend/baseline -type f -exec sha256sum {} + | sort"
)


@pytest.mark.parametrize("words", VERBS, ids=lambda words: " ".join(words.split()[:2]))
def test_a_verb_that_changes_something_refuses_an_ordinary_user(guarded: Machine, words: str) -> None:
    before = guarded.run(STATE).stdout
    nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups"
    done = guarded.run(f"cd /; {nobody} hardend {words} </dev/null", check=False)
    assert done.returncode == REFUSED, f"{words}: {done.returncode}: {done.stdout}{done.stderr}"
    assert "root" in done.stderr and "Traceback" not in done.stderr
    assert guarded.run(STATE).stdout == before
    assert guarded.run("ls /tmp/ran", check=False).returncode != 0
    assert wait_clean(guarded) == ""
