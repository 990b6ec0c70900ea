# SPDX-License-Identifier: Apache-2.0
"""What a verb tells the administrator beside its output: lines on standard error with our name in front."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from hardend.model import printable


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
