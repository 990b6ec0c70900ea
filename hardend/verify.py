# SPDX-License-Identifier: Apache-2.0
"""The outcome probe: what the running MTA does, asked of itself, whatever the files say (design section 9).

Over SMTP on every listener, through ``sendmail -bt`` as root, and as an ordinary user of the host. Nothing
is changed, no mail is sent and no queue is run. sendmail.cf is read only to learn where the MTA listens.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from functools import partial

from hardend import mta, ordinary_user, relay_probe, smtp_outcome
from hardend.command import Ran, run
from hardend.errors import CommandError, HardendError
from hardend.formats.cf import Cf
from hardend.layout import Layout, Tree
from hardend.model import Host, printable
from hardend.outcome import Check as Check  # noqa: PLC0414 - part of what this module offers
from hardend.outcome import Question, quoted
from hardend.rules.rule import Section, Verdict
from hardend.settings import Settings

_OUTPUT_LIMIT = 16 << 20  # bytes of a program's output; class w of a large host is among it
_ALL_RUNS = 4  # all programs together may take as long as this many of the slowest allowed ones
_NOT_ROOT = "only root can ask: run it as root"

_PROG = Question("prog-mailer", "Mprog", Section.SMRSH)
_RELAY = Question("relay", "check_rcpt", Section.RELAYING)


def verify(host: Host, layout: Layout, settings: Settings) -> list[Check]:
    """Return what the MTA of this host does, check by check, in the order of the guide.

    What needs root is unknown without it. Every program has command_timeout_s, and all of them four
    times that; a healthy host takes a second or two. Raises HardendError for a tree: it does nothing.
    """
    refuse_a_tree(host)
    programs = _Programs(settings.command_timeout_s)
    known, checks = _by_root(layout, programs)
    checks += _over_smtp(host, layout, settings, known.host_name)
    checks += _as_ordinary_user(host, layout, programs)
    order = list(Section)
    return sorted(checks, key=lambda check: order.index(check.section))


def refuse_a_tree(host: Host) -> None:
    """Raise HardendError for a tree: nothing of it runs, and nothing of it is ever run."""
    if host.is_tree:
        root = printable(host.root)
        raise HardendError(
            f"{root}: a tree has no outcome: verify asks the MTA that runs on this host",
            hint=f"hardend audit --root {root} judges its files",
        )


class _Programs:
    """Runs programs one after the other, each and all of them within their time."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + _ALL_RUNS * timeout_s

    def run(self, argv: Sequence[str], stdin: str = "") -> Ran:
        """Run one. Raises CommandError."""
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise CommandError(f"{argv[0]}: not run: what was run before took too long")
        timeout_s = min(self._timeout_s, left_s)
        return run(argv, timeout_s=timeout_s, stdin=stdin.encode(), limit=_OUTPUT_LIMIT)


def _by_root(layout: Layout, programs: _Programs) -> tuple[relay_probe.Facts, list[Check]]:
    """Ask ``sendmail -bt``, which reads the live sendmail.cf as the MTA does at its start."""
    unknown = relay_probe.Facts()
    if os.geteuid() != 0:
        return unknown, [_PROG.unknown(_NOT_ROOT), _RELAY.unknown(_NOT_ROOT)]
    why = _not_to_be_run(layout)
    if why:
        return unknown, [_PROG.unknown(why), _RELAY.unknown(why)]
    argv = (layout.sendmail, "-C", layout.cf, *relay_probe.OPTIONS, "-bt")

    def ask(script: str) -> Ran:
        return programs.run(argv, script)

    try:
        known = relay_probe.facts(ask)
    except CommandError as error:
        return unknown, [_PROG.unknown(quoted(str(error))), _RELAY.unknown(quoted(str(error)))]
    if not known.is_answer:
        return unknown, [item.unknown(f"sendmail -bt: {quoted(known.said)}") for item in (_PROG, _RELAY)]
    prog = _prog_mailer(layout, known.prog)
    try:
        return known, [prog, *relay_probe.checks(ask, known)]
    except CommandError as error:
        return known, [prog, _RELAY.unknown(quoted(str(error)))]


def _not_to_be_run(layout: Layout) -> str:
    """Return why Sendmail is not to be asked as root: a configuration is a program (design section 8)."""
    if not layout.sendmail:
        return "there is no sendmail on this host"
    return relay_probe.may_be_run(layout.sendmail) or relay_probe.may_be_run(layout.cf)


def _prog_mailer(layout: Layout, path: str | None) -> Check:
    """Judge what runs the programs of aliases and .forward: P= of the prog mailer in force."""
    if path is None or path.startswith("["):
        return _PROG.answer(Verdict.NOT_APPLICABLE, "this MTA runs no programs for mail")
    if os.path.basename(path) != "smrsh":
        return _PROG.answer(Verdict.FAIL, f"programs are run with {quoted(path)}, not with smrsh")
    try:
        is_known = bool(layout.smrsh) and os.path.samefile(path, layout.smrsh)
    except OSError as error:
        return _PROG.answer(Verdict.FAIL, f"{quoted(path)}: {error.strerror}: no program can be run")
    if not is_known:
        return _PROG.answer(Verdict.FAIL, f"programs are run with {quoted(path)}: not the host's smrsh")
    return _PROG.answer(Verdict.PASS, f"programs are run with {quoted(path)}")


def _over_smtp(host: Host, layout: Layout, settings: Settings, host_name: str) -> Iterator[Check]:
    running = mta.find(mta.Kind.DAEMON, host, layout) is not None
    ask = partial(
        smtp_outcome.checks,
        running=running,
        host_name=host_name,
        limit_s=float(settings.command_timeout_s),
    )
    for listener in smtp_outcome.listeners(Cf(Tree(host).read(layout.cf))):
        yield from ask(listener)


def _as_ordinary_user(host: Host, layout: Layout, programs: _Programs) -> Iterator[Check]:
    """Try what an ordinary user must not be able to do."""
    user = ordinary_user.ordinary(host, layout)
    why = _NOT_ROOT if os.geteuid() != 0 else ""
    if not why and user is None:
        why = "this host has no account outside of the mail system to try it with"
    if not why and not layout.sendmail:
        why = "there is no sendmail on this host"
    for probe in ordinary_user.probes(layout):
        if why or user is None:
            yield probe.question.unknown(why)
            continue
        try:
            yield probe.check(user, programs.run)
        except CommandError as error:
            yield probe.question.unknown(quoted(str(error)))
    if not layout.smrsh:
        smrsh = Question("smrsh", "smrsh", Section.SMRSH)
        yield smrsh.answer(Verdict.NOT_APPLICABLE, "there is no smrsh on this host")
