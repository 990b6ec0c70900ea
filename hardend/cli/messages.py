# SPDX-License-Identifier: Apache-2.0
"""What a verb tells the administrator beside its output: lines on standard error with our name in front."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hardend.errors import Exit
from hardend.model import printable

if TYPE_CHECKING:
    from hardend.commit import Outcome


def say(*texts: str) -> None:
    """Print a line for each to standard error."""
    for text in texts:
        print(f"hardend: {text}", file=sys.stderr)


def warn(text: str) -> None:
    """Print a warning: the verb goes on."""
    say(f"warning: {text}")


def say_each(failed: Mapping[str, str]) -> None:
    """Print a line for each path that something could not be done to, with the reason."""
    for path, why in failed.items():
        say(f"{printable(path)}: {why}")


def say_outcome(outcome: Outcome) -> int:
    """Tell what of a generation is not in force; returns the verb's exit code."""
    if outcome.withheld:
        warn(f"not enforced yet: {outcome.withheld}")
    say_each(outcome.failed)
    return Exit.DRIFT if outcome.failed or outcome.withheld else Exit.OK
