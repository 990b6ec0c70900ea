# SPDX-License-Identifier: Apache-2.0
"""Options that every verb takes, and the few values that several verbs read from a command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from hardend.model import Host, printable


class _Root(argparse.Action):
    """Set ``args.host`` from ``--root DIR``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Refuse what is not a directory; keep the rest as an absolute path."""
        # Not realpath: /proc/PID/root, the way into a container, would resolve to this host's root.
        root = os.path.abspath(str(values)) if values else ""
        if not os.path.isdir(root):
            shown = printable(str(values))
            parser.error(f"argument {option_string}: {shown}: not a directory")
        setattr(namespace, self.dest, Host(root if root.strip("/") else "/"))


def common_options() -> argparse.ArgumentParser:
    """Return the parent parser of every verb: ``--root DIR`` sets ``args.host``."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--root",
        action=_Root,
        dest="host",
        default=Host(),
        metavar="DIR",
        help="work on the host whose root directory is DIR instead of this one",
    )
    return parser


def json_option(parser: argparse._ActionsContainer, what: str) -> None:
    """Add ``--json``, which sets ``args.json``; ``what`` says what it prints."""
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON")
