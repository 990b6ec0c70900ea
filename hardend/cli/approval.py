# SPDX-License-Identifier: Apache-2.0
"""``hardend approve`` and ``hardend check``: taking the host's state in, and comparing it."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from hardend import commit, config, layout, maps, propose, rebuild, state, worsening
from hardend.baseline import trust
from hardend.baseline.manifest import Generation
from hardend.baseline.store import Store
from hardend.capture import built_map
from hardend.cli.messages import say_outcome, warn
from hardend.cli.options import common_options
from hardend.errors import Exit, HardendError, StoreError, UsageError
from hardend.inspection import inspect, require_same_layout
from hardend.model import Host, Mode, printable


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs."""
    approve = verbs.add_parser(
        "approve",
        parents=[common_options()],
        help="make the host's state, or new content for a path, the next generation",
        epilog="Example: hardend approve /etc/mail/access --from access.new --reason 'new partner'",
    )
    approve.add_argument("paths", nargs="*", metavar="PATH", action=_PathAction)
    approve.add_argument(
        "--from",
        dest="source",
        nargs="+",  # argparse takes positionals in one run only: what follows FILE are further paths
        metavar=("FILE", "PATH"),
        action=_FromAction,
        help="new content for the PATH before it",
    )
    approve.add_argument("--reason", required=True, metavar="TEXT")
    approve.add_argument(
        "--force", action="store_true", help="also where a rule is broken by it that is met now"
    )
    approve.add_argument("--json", action="store_true")
    approve.set_defaults(run=_approve, proposed={})
    check = verbs.add_parser(
        "check",
        parents=[common_options()],
        help="compare the host with the baseline, without the daemon; 0 clean, 1 drift",
    )
    check.add_argument("--json", action="store_true")
    check.set_defaults(run=_check)


class _PathAction(argparse.Action):
    """Collects paths in order, so that --from belongs to the path before it."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        _option: str | None = None,
    ) -> None:
        paths = values if isinstance(values, list) else [values]
        proposed = dict(namespace.proposed)
        proposed.update({str(path): proposed.get(str(path), "") for path in paths})
        namespace.proposed = proposed


class _FromAction(argparse.Action):
    """Gives the last path its new content."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        _option: str | None = None,
    ) -> None:
        if not namespace.proposed:
            parser.error("--from FILE follows the PATH that gets the content")
        source, *further = values if isinstance(values, list) else [values]
        last = list(namespace.proposed)[-1]
        namespace.proposed = {**namespace.proposed, last: str(source)}
        for path in further:
            namespace.proposed.setdefault(str(path), "")


def _approve(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    if not args.reason.strip():
        raise UsageError("--reason is empty", hint="say why; it stands in the baseline's log")
    settings = config.load(host)
    proposer = propose.Proposer(host, settings)
    proposal = _proposed(host, settings, proposer, args.proposed)
    worse: list[str] = []
    if proposer.store.has_baseline():
        try:
            current = trust.in_force(host, proposer.store, settings).generation
        except StoreError as error:  # damaged: approving anew is the way out
            proposal.warnings.append(f"{worsening.UNKNOWN}: {error}")
        else:
            worse = worsening.require_no_worse(host, settings, current, proposal, force=args.force)
    for warning in [*proposal.warnings, *(f"forced: {text}" for text in worse)]:
        warn(warning)
    generation, outcome = commit.commit_and_apply(
        host,
        settings,
        proposal,
        reason=args.reason,
        before_apply=partial(rebuild.note_mta, host, settings),
    )
    commit.announce(host, generation, worse)
    locked = [entry.path for entry in generation.entries.values() if "i" in entry.flags]
    if args.json:
        document = {
            "generation": generation.number,
            "entries": len(generation.entries),
            "locked": locked,
            "restored": outcome.restored,
            "failed": outcome.failed,
            "warnings": proposal.warnings,
        }
        print(json.dumps(document, indent=2, sort_keys=True))
    else:
        print(
            f"generation {generation.number} approved: {len(generation.entries)} paths, "
            f"{len(locked)} locked"
        )
        _print_next_step(host, settings, outcome)
    return say_outcome(outcome)


def _proposed(
    host: Host, settings: config.Settings, proposer: propose.Proposer, named: Mapping[str, str]
) -> propose.Proposal:
    """Return the proposal of the paths that are named, each with the file of its new content or ""."""
    if not named:
        return proposer.whole_host()
    paths = {os.path.abspath(path): source for path, source in named.items()}
    current = proposer.store.current()
    proposal = proposer.some_paths(current, paths)
    tools = maps.tools_for(host, proposer.layout, settings)
    _build_maps(tools, proposer, proposal, current, paths)
    return proposal


def _build_maps(
    tools: maps.Tools,
    proposer: propose.Proposer,
    proposal: propose.Proposal,
    before: Generation,
    paths: Mapping[str, str],
) -> None:
    """Have the maps of live sources go with them into the proposal, as with --from: built aside.

    A map that is named itself is taken in as it is.
    """
    for entry in list(proposal.entries.values()):
        spec = entry.spec
        source = proposal.entries.get(spec.source) if spec is not None else None
        if spec is None or source is None or paths.get(source.path) != "" or entry.path in paths:
            continue
        was = before.entries.get(source.path)
        is_new = was is None or was.digest != source.digest or entry.mtime_ns < source.mtime_ns
        if not source.digest or not is_new:
            continue
        made, warnings = built_map(
            *(entry, proposer.store.object(source.digest), proposer.store, tools),
            library=maps.library(tools),
            mtime_ns=max(time.time_ns(), source.mtime_ns),
        )
        proposal.warnings += warnings
        proposal.entries[entry.path] = replace(made, sources=((source.path, source.digest),))


def _print_next_step(host: Host, settings: config.Settings, outcome: commit.Outcome) -> None:
    if settings.mode is Mode.OBSERVE:
        print('mode = "observe": nothing was locked, and drift is only reported')
    elif outcome.paused:
        print("enforcement is off: nothing was touched; hardend on ends that")
    if not outcome.by_guard and not state.guard_is_alive(host):
        print("no guard is running: systemctl enable --now hardend starts it")


def _check(args: argparse.Namespace) -> int:
    host: Host = args.host
    store = Store(host)
    generation = store.current()
    require_same_layout(host, generation)
    settings = config.load(host)
    tools = None
    try:
        tools = maps.tools_for(host, layout.find(host), settings)
    except HardendError as error:
        warn(f"maps are not asked: {error}")
    drifts = inspect(host, generation, settings, tools)
    if args.json:
        document = {
            "generation": generation.number,
            "clean": not drifts,
            "paths": {path: sorted(drift) for path, drift in drifts.items()},
        }
        print(json.dumps(document, indent=2, sort_keys=True))
    else:
        for path, drift in sorted(drifts.items()):
            print(f"{printable(path)}: {' '.join(sorted(drift))}")
        word = "drift" if drifts else "clean"
        print(
            f"{word}: {len(drifts)} of {len(generation.entries)} paths differ from generation "
            f"{generation.number}"
        )
    return Exit.DRIFT if drifts else Exit.OK
