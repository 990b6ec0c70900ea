# SPDX-License-Identifier: Apache-2.0
"""The command: one parser, one place where errors are printed.

Results go to standard output, everything else to standard error with a ``hardend:`` prefix; lower
case, no full stop. Modules of verbs are imported when their verb is asked for.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from hardend import __version__
from hardend.cli.messages import say
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
    "witness": "witness",
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
    if asked and asked == arguments[0] and asked not in VERBS:
        near = difflib.get_close_matches(asked, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else "hardend --help lists the verbs"
        parser.error(f"{printable(asked)}: no such verb; {hint}")
    modules = [VERBS[asked]] if asked in VERBS else list(dict.fromkeys(VERBS.values()))
    for module in modules:
        importlib.import_module(f"hardend.cli.{module}").register(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = parser_for(given)
    args, unknown = parser.parse_known_args(given)
    if unknown:
        shown = printable(" ".join(unknown))
        parser.error(f"{given[0]} does not take {shown}; hardend {given[0]} --help shows what it takes")
    try:
        return int(args.run(args))
    except ConfigError as error:
        for fault in error.faults:
            say(fault)
        say(f"hint: {error.hint}")
        return int(error.exit_code)
    except HardendError as error:
        say(str(error))
        if error.hint:
            say(f"hint: {error.hint}")
        return int(error.exit_code)
    except BrokenPipeError:
        # The reader of our output went away; nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Exit.OK)
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # a full disk, a file system that failed: nothing a verb can mend
        say(f"{printable(str(error.filename or 'the operation'))}: {error.strerror or error}")
        return int(Exit.REFUSED)
