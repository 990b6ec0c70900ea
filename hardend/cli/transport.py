# SPDX-License-Identifier: Apache-2.0
"""``hardend baseline export``, ``sign`` and ``import``: one signed baseline for many hosts."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys

from hardend import commit, config, rebuild
from hardend.arrival import Arrival
from hardend.baseline import manifest, signature, transport, trust
from hardend.baseline.coverage import differences
from hardend.baseline.manifest import Generation
from hardend.baseline.signature import Signed
from hardend.baseline.store import Store
from hardend.baseline.transport import Received
from hardend.cli.messages import say, say_outcome, warn
from hardend.cli.options import common_options
from hardend.config import Settings
from hardend.errors import Exit, RefusedError, StoreError
from hardend.model import Host, printable
from hardend.propose import Proposal
from hardend.worsening import require_no_worse


def register(own: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs to those of ``hardend baseline``."""
    common = common_options()
    export = own.add_parser(
        "export",
        parents=[common],
        help="write a generation as a tar, or as plain files",
        epilog="The same generation gives the same bytes. Files are root's alone: aliases are not for all.",
    )
    export.add_argument("number", type=_number, metavar="N|current")
    export.add_argument(
        "--to", metavar="FILE|DIR", default="", help="a directory, or a path that ends in /, gets plain files"
    )
    export.set_defaults(run=_export)
    sign = own.add_parser("sign", parents=[common], help="sign a generation, in place")
    sign.add_argument("number", type=_number, metavar="N|current")
    how = sign.add_mutually_exclusive_group(required=True)
    how.add_argument("--key", metavar="FILE", help="a private key, or a public one of the agent")
    how.add_argument("--agent", action="store_true", help="the key of the agent that allowed_signers names")
    sign.set_defaults(run=_sign)
    take = own.add_parser(
        "import",
        parents=[common],
        help="make a signed generation, of another host or this one, the next one here",
        epilog=f"Who may sign stands in {signature.SIGNERS}. Exit status 4: refused, nothing was changed.",
    )
    take.add_argument("path", metavar="DIR|TAR")
    take.add_argument("--reason", default="", metavar="TEXT")
    take.add_argument(
        "--allow-rollback", action="store_true", help="take one that is older than what was imported before"
    )
    take.add_argument(
        "--force", action="store_true", help="also where a rule is broken by it that is met now"
    )
    take.set_defaults(run=_import)


def _number(text: str) -> int:
    """Return a number of a generation, 0 for the current one."""
    if text == "current":
        return 0
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is neither a number nor current")
    return int(text)


def _export(args: argparse.Namespace) -> int:
    store = Store(args.host)
    number = args.number or store.current().number
    if args.to.endswith("/") or os.path.isdir(args.to):
        transport.write_directory(store, number, args.to)
    elif args.to:
        tar = io.BytesIO()
        transport.write_tar(store, number, tar)
        transport.write_file(args.to, tar.getvalue())
    elif sys.stdout.isatty():
        raise RefusedError("a tar is not for a terminal", hint="--to FILE, --to DIR/ or a pipe")
    else:
        transport.write_tar(store, number, sys.stdout.buffer)
    if store.signature(number) is None:
        say(f"generation {number} is not signed: hardend baseline sign {number} --key FILE")
    return Exit.OK


def _sign(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    store = Store(host)
    number = args.number or store.current().number
    store.generation(number)  # nobody signs what is damaged
    content = store.raw_manifest(number)
    agent = os.environ.get("SSH_AUTH_SOCK", "")
    if args.agent:
        made = signature.sign_by_agent(host, content, agent)
    else:
        made = signature.sign(content, args.key, agent=agent)
    return _attach(host, number, Signed(content, made))


def _attach(host: Host, number: int, signed: Signed) -> int:
    """Put a signature beside a generation of this host; where that brings it in force, apply it."""
    store = Store(host)
    settings = config.load(host)
    by = "a key that is not checked: there is no allowed_signers here"
    if settings.require_signature or signature.has_signers(host):
        signer = signature.verify(host, signed, f"generation {number}")
        by = f"{signer.principal}, {signer.key}"
    with store.locked():
        if store.raw_manifest(number) != signed.manifest:
            raise StoreError(f"generation {number} is not what was signed")
        store.attach_signature(number, signed.signature)
    print(f"generation {number} is signed by {printable(by)}")
    return say_outcome(commit.apply(host, settings)) if settings.require_signature else Exit.OK


def _import(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    settings = config.load(host)
    store = Store(host)
    with transport.received(host, args.path) as received:
        current = _current(store)
        if current is not None and _is_in_force(store, settings, received, current):
            _mend(store, received, current)
            print(f"nothing to do: generation {current.number} is this one already")
            return Exit.OK
        if current is not None and _is_own(store, received, current.number):
            return _attach(host, current.number, received.signed)
        if not args.allow_rollback:
            _refuse_older(store, received)
        proposal = Arrival(host, settings, received).proposal()
    for warning in proposal.warnings:
        warn(warning)
    if current is not None and dict(current.entries) == proposal.entries:
        # The same already, or an import that died before it could keep whose it is.
        _keep_origin(host, received.signed, proposal)
        print(f"generation {current.number} is this one, signed by {printable(received.signer.principal)}")
        return say_outcome(commit.apply(host, settings))
    worse: list[str] = []
    if current is not None:
        worse = require_no_worse(host, settings, current, proposal, force=args.force)
        for text in worse:
            warn(f"forced: {text}")
    return _commit(args, settings, received, proposal, worse)


def _commit(
    args: argparse.Namespace,
    settings: Settings,
    received: Received,
    proposal: Proposal,
    worse: list[str],
) -> int:
    host: Host = args.host
    there, signer = received.generation, printable(received.signer.principal)
    why = args.reason.strip() or there.reason

    def before_apply(before: Generation) -> None:
        _keep_origin(host, received.signed, proposal)
        rebuild.note_mta(host, settings, before)

    generation, outcome = commit.commit_and_apply(
        host,
        settings,
        proposal,
        reason=f"generation {there.number} by {there.author}, signed by {signer}: {why}",
        before_apply=before_apply,
    )
    commit.announce(host, generation, worse)
    print(
        f"generation {generation.number} is generation {there.number} by {printable(there.author)}, signed by"
        f" {signer} ({received.signer.key}): {len(generation.entries)} paths"
    )
    return say_outcome(outcome)


def _keep_origin(host: Host, signed: Signed, proposal: Proposal) -> None:
    """Keep the signed manifest with the generation that was made of it, before anything live changes."""
    store = Store(host)
    with store.locked():
        current = store.current()
        if dict(current.entries) != proposal.entries:
            raise StoreError("another commit came between", hint="import it again")
        store.attach_origin(current.number, signed)


def _current(store: Store) -> Generation | None:
    """Return the current generation; None where there is none or it is damaged: importing is a way out."""
    with contextlib.suppress(StoreError):
        return store.current()
    return None


def _mend(store: Store, received: Received, current: Generation) -> None:
    """Put content back that was damaged in the store since it came."""
    here = {entry.digest for entry in current.entries.values()}
    for entry in received.generation.entries.values():
        if entry.digest and entry.digest in here:
            store.add_object(received.object(entry))


def _is_own(store: Store, received: Received, number: int) -> bool:
    """Return whether it is a generation of this host, signed elsewhere."""
    with contextlib.suppress(StoreError):
        return store.manifest_digest(number) == manifest.digest(received.signed.manifest)
    return False


def _is_in_force(store: Store, settings: Settings, received: Received, current: Generation) -> bool:
    """Return whether the current generation came from it, and only what may change by itself has changed."""
    known = []
    for number in store.numbers():
        with contextlib.suppress(StoreError):
            known += [store.signature(number) if number == current.number else None, store.origin(number)]
    beyond = differences(current.entries, received.generation.entries, settings.baseline_own)
    return received.signed in known and not beyond


def _refuse_older(store: Store, received: Received) -> None:
    """Refuse what was superseded: whoever carries a baseline must not be able to bring an old one back."""
    there = received.generation.number
    number, digest = trust.newest_origin(store)
    hint = "hardend baseline import --allow-rollback takes it all the same"
    if there in store.numbers() and _is_own(store, received, there):
        raise RefusedError(f"it is generation {there} of this host, which was superseded here", hint=hint)
    if there < number:
        raise RefusedError(f"it is generation {there}, and {number} was imported before", hint=hint)
    if there == number and digest != manifest.digest(received.signed.manifest):
        raise RefusedError(f"it is another generation {there} than the one imported before", hint=hint)
