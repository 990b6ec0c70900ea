# SPDX-License-Identifier: Apache-2.0
"""``hardend collect``: what restores replaced goes from /etc/hardend/taken into the quarantine."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable

from hardend import control, trusted
from hardend.attribution import Attribution
from hardend.breach import Judge
from hardend.cli.messages import say
from hardend.cli.options import common_options, json_option
from hardend.collect import Summary, collect
from hardend.commit import require_root
from hardend.config import load
from hardend.errors import Exit, UnreachableError
from hardend.journal import Journal
from hardend.model import Host
from hardend.quarantine import Limits, Quarantine

_MIB = 1 << 20
_DAY_S = 86400.0
_NICE = 19
_ASK_S = 5.0


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "collect",
        parents=[common_options()],
        help="move what restores replaced into the quarantine",
        description="Move what restores replaced into the quarantine, say who it was where a witness "
        "saw it and which rules it broke, and evict what is over the limits. The guard starts this itself.",
        epilog="Exit status: 0 all moved; 1 something could not be moved and stays where it was.",
    )
    json_option(parser, "the summary")
    parser.add_argument("--quiet", "-q", action="store_true", help="print failures only")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    require_root()
    settings = load(args.host)
    limits = Limits(
        max_bytes=settings.quarantine_max_mib * _MIB,
        max_age_s=settings.quarantine_max_days * _DAY_S,
        object_bytes=settings.quarantine_object_max_mib * _MIB,
    )
    _step_back()
    with contextlib.closing(Journal(args.host)) as journal:
        attribution = Attribution(args.host, journal)
        judge = Judge(args.host, settings, journal)

        def judging(quarantine: Quarantine, identifiers: Iterable[str]) -> None:
            known = list(identifiers)
            attribution.judge(quarantine, known)
            if trusted.wrote(quarantine, known, settings):
                _have_judged(args.host)
            judge.judge(quarantine, known)

        summary = collect(args.host, limits, judging=judging)
    if args.json:
        sys.stdout.write(json.dumps(summary.as_json(), indent=2, sort_keys=True) + "\n")
    elif not args.quiet:
        sys.stdout.write(_line(summary, settings.quarantine_max_mib) + "\n")
    for identifier, reason in summary.failed:
        say(f"{identifier}: not collected: {reason}")
    for fault in judge.faults:
        say(str(fault))
    return Exit.DRIFT if summary.failed else Exit.OK


def _have_judged(host: Host) -> None:
    """Have hardend-rebuild judge what a trusted unit wrote: it may approve, this may not."""
    with contextlib.suppress(UnreachableError):  # no guard, nothing to do
        control.ask(host, {"verb": "rebuild"}, timeout_s=_ASK_S)


def _step_back() -> None:
    """Give way to the guard and to mail: lowest priority, no real-time inherited."""
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(0) != os.SCHED_IDLE:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        os.nice(_NICE)


def _line(summary: Summary, max_mib: int) -> str:
    """Return the summary in one line; counts of nothing are left out."""
    counts = {
        "recovered": summary.recovered,
        "truncated": summary.truncated,
        "unstable": summary.unstable,
        "evicted": summary.evicted,
        "waiting": summary.waiting,
        "failed": len(summary.failed),
    }
    words = [f"{summary.collected} collected"]
    words += [f"{count} {name}" for name, count in counts.items() if count]
    held = f"the quarantine holds {summary.size_bytes / _MIB:.1f} of {max_mib} MiB"
    return f"{', '.join(words)}; {held}"
