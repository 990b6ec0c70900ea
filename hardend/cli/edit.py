# SPDX-License-Identifier: Apache-2.0
"""``hardend edit``: one guarded file in the administrator's editor, as visudo(8) does it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from hardend import commit, config, edit_draft, editor, state
from hardend.cli.messages import say, say_each, warn
from hardend.cli.options import common_options
from hardend.edit import Done, Edit, Judged
from hardend.edit_draft import Draft
from hardend.editor import Interrupted, Signals
from hardend.errors import Exit, FileError, RefusedError, UsageError
from hardend.model import Host, Mode, printable
from hardend.plan import Truth

_SHOWN = 12
_CHOICE = "edit again, keep the draft, or quit and throw it away?"


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "edit",
        parents=[common_options()],
        help="edit one guarded file: a copy, checked, shown as a diff, made the next generation",
        description="Edit a copy of a guarded file in $VISUAL or $EDITOR. What comes of it is checked, "
        "judged by the rules and shown; then it is the next generation, with its map or, of a .mc, its .cf.",
        epilog="Exit status: 0 done, or nothing changed; 1 something could not be brought about; 4 refused. "
        "What was typed and is not in force stays in a draft, whose path is printed.",
    )
    parser.add_argument("path", metavar="PATH")
    parser.add_argument("--reason", metavar="TEXT", help="why; asked for when it is missing")
    parser.add_argument("--yes", action="store_true", help="do not ask: refuse what has a fault, do the rest")
    parser.add_argument(
        "--force", action="store_true", help="also where a rule is broken by it that is met now"
    )
    parser.add_argument("--from", dest="source", metavar="FILE", help="begin with this content")
    parser.add_argument(
        "--truth",
        choices=[truth.value for truth in Truth],
        help="where a .cf is not what its .mc makes: which of them counts",
    )
    parser.set_defaults(run=_edit)


def _edit(args: argparse.Namespace) -> int:
    host: Host = args.host
    commit.require_root()
    is_asked = sys.stdin.isatty()
    if not is_asked and not args.yes:
        raise RefusedError("nobody is there to be asked", hint="--yes --reason TEXT do it without asking")
    if args.reason is not None and not args.reason.strip():
        raise UsageError("--reason is empty", hint="say why; it stands in the baseline's log")
    if args.reason is None and (args.force or not is_asked):
        raise UsageError("--reason TEXT is missing", hint="say why; it stands in the baseline's log")
    argv = editor.command(os.environ)
    settings = config.load(host)
    item = Edit(host, settings, os.path.abspath(args.path), Truth(args.truth) if args.truth else None)
    with edit_draft.alone(host, item.lock_name, _who()):
        begun = _begun(args, host, item)
        session = _Session(args, settings, argv, item, begun)
        try:
            with session.signals:
                return session.run()
        except Interrupted as asked:
            return 128 + asked.number
        finally:
            session.settle()


def _who() -> str:
    name = commit.caller()
    with contextlib.suppress(OSError):
        return f"{name} on {os.ttyname(0)}"
    return name


def _begun(args: argparse.Namespace, host: Host, item: Edit) -> bytes:
    """Return what the editor is given; tell of drafts that were left."""
    if args.source:
        try:
            with open(args.source, "rb") as file:
                return file.read()
        except OSError as error:
            raise FileError(f"{printable(args.source)}: {error.strerror}") from error
    for left in edit_draft.left_over(host, item.path):
        say(f"an earlier draft was kept: {printable(left)}; --from begins with it, rm throws it away")
    return item.content


class _Session:
    """One edit with its draft, from the editor to the commit."""

    def __init__(
        self, args: argparse.Namespace, settings: config.Settings, argv: list[str], item: Edit, begun: bytes
    ) -> None:
        self._host: Host = args.host
        self._settings = settings
        self._args = args
        self._argv = argv
        self._item = item
        self.signals = Signals()
        self._draft = Draft(self._host, item.path, begun, item.content)

    def settle(self) -> None:
        """Keep the draft when anything is in it that somebody could miss, and tell where it is."""
        if self._draft.is_untouched:
            self._draft.remove()
            return
        with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
            say(f"the draft is kept: {printable(self._draft.path)}")

    def run(self) -> int:
        """Edit until it is committed, thrown away, kept, or nothing changed."""
        while True:
            status = self.signals.edit(self._argv, self._draft.path)
            why = f"the editor ended with {_status(status)}" if status else ""
            content = None
            try:
                content = self._draft.read()
            except FileError as error:
                why = why or str(error)
            if content == self._item.content and (not status or self._draft.is_untouched):
                print("nothing changed")
                return Exit.REFUSED if status else Exit.OK
            judged = Judged(faults=[why]) if why or content is None else self._item.judge(content)
            answer = self._decided(judged)
            if answer == "y":
                return self._committed(judged)
            if answer == "q":
                self._draft.remove()
                print("nothing was changed, and the draft is thrown away")
                return Exit.REFUSED
            if answer == "k":
                return Exit.REFUSED

    def _decided(self, judged: Judged) -> str:
        """Show what came of it; return y to commit, e to edit again, k to keep the draft, q to drop it."""
        for line in judged.diff:
            print(line)
        for text in judged.warnings:
            warn(text)
        for text in judged.faults:
            say(text)
        for text in judged.worse[:_SHOWN]:
            say(f"{'forced' if self._args.force else 'this gets worse'}: {text}")
        may_be = not judged.faults and (not judged.worse or self._args.force)
        if self._args.yes:
            if may_be:
                return "y"
            way = "" if judged.faults else "; --force --reason TEXT goes past it"
            say(f"refused: nothing was changed{way}")
            return "k"
        if not may_be:
            if not judged.faults:
                say("refused; waive the rule in hardend.toml, or --force --reason TEXT goes past it")
            return _asked(f"{_CHOICE} [e/k/q] ", "ekq")
        return _asked(f"commit this, {_CHOICE} [y/e/k/q] ", "yekq")

    def _committed(self, judged: Judged) -> int:
        reason = self._args.reason
        while not reason:
            _ask("reason (it stands in the baseline's log): ")
            line = sys.stdin.readline()
            if not line:
                return Exit.REFUSED
            reason = line.strip()
        with self.signals.held():
            done = self._item.commit(judged, reason=reason)
            if not done.undone:
                self._draft.remove()
            return self._told(done)

    def _told(self, done: Done) -> int:
        number = done.generation.number
        if done.undone:
            say(f"everything went back, as generation {number}: {done.undone}")
            return Exit.REFUSED
        print(f"generation {number} approved: {printable(self._item.path)}")
        for kind, what in done.mta.items():
            print(f"  {kind}: {what}")
        say_each(done.outcome.failed)
        for text in done.problems:
            say(text)
        if done.outcome.withheld:
            say(f"not enforced yet: {done.outcome.withheld}")
        if self._settings.mode is Mode.OBSERVE or done.outcome.paused:
            say("nothing is enforced now (observe, or off): the live file is as it was")
        elif not done.outcome.by_guard and not state.guard_is_alive(self._host):
            print("no guard is running: systemctl enable --now hardend starts it")
        is_good = not (done.outcome.failed or done.outcome.withheld or done.problems)
        return Exit.OK if is_good else Exit.DRIFT


def _status(status: int) -> str:
    return f"exit status {status}" if status > 0 else f"signal {-status}"


def _ask(question: str) -> None:
    print(question, end="", flush=True)


def _asked(question: str, answers: str) -> str:
    """Return one of the answers; the draft is kept when nobody answers."""
    while True:
        _ask(question)
        line = sys.stdin.readline()
        answer = line.strip().lower()[:1] if line else "k"
        if answer and answer in answers:
            return answer
