# SPDX-License-Identifier: Apache-2.0
"""The command: one parser, one place where errors are printed.

Results go to standard output, everything else to standard error with a ``hardend:`` prefix; lower
case, no full stop. Modules of verbs are imported when their verb is asked for.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from hardend import __version__
from hardend.errors import ConfigError, Exit, HardendError
from hardend.model import printable

# Explicit, in the order of the help: which module registers the verb.
VERBS = {
    "audit": "audit",
    "explain": "audit",
    "harden": "harden",
    "verify": "verify",
    "approve": "approval",
    "check": "approval",
    "edit": "edit",
    "baseline": "baseline",
    "quarantine": "quarantine",
    "status": "status",
    "events": "events",
    "metrics": "metrics",
    "alert": "alert",
    "unlock": "window",
    "lock": "window",
    "window": "window",
    "run": "run",
    "package-hook": "packages",
    "off": "emergency",
    "on": "emergency",
    "release": "emergency",
    "layout": "layout",
    "config": "config",
    "guard": "service",
    "rebuild": "rebuild",
    "collect": "collect",
    "tell": "tell",
    "suggest": "suggest",
    "serve-status": "serve_status",
    "demo": "demo",
}


def parser_for(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser; only the module of the verb in ``arguments`` is imported, or all for help."""
    parser = argparse.ArgumentParser(
        prog="hardend", description="Keeps a Sendmail host at its approved, hardened state."
    )
    parser.add_argument("--version", action="version", version=f"hardend {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    asked = next((argument for argument in arguments if not argument.startswith("-")), "")
    modules = [VERBS[asked]] if asked in VERBS else list(dict.fromkeys(VERBS.values()))
    for module in modules:
        importlib.import_module(f"hardend.cli.{module}").register(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    args = parser_for(given).parse_args(given)
    try:
        return int(args.run(args))
    except ConfigError as error:
        for fault in error.faults:
            _say(fault)
        _say(f"hint: {error.hint}")
        return int(error.exit_code)
    except HardendError as error:
        _say(str(error))
        if error.hint:
            _say(f"hint: {error.hint}")
        return int(error.exit_code)
    except BrokenPipeError:
        # The reader of our output went away; nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Exit.OK)
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # a full disk, a file system that failed: nothing a verb can mend
        _say(f"{printable(str(error.filename or 'the operation'))}: {error.strerror or error}")
        return int(Exit.REFUSED)


def _say(text: str) -> None:
    print(f"hardend: {text}", file=sys.stderr)
