# SPDX-License-Identifier: Apache-2.0
"""Ending a maintenance window: what may stay becomes a generation, the rest is put back and kept aside.

The guard does the putting back, or this process where none runs; what it replaces goes to the quarantine.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hardend import commit, control, rebuild, state, window, window_files, window_open
from hardend.aside import Aside
from hardend.baseline.manifest import Generation
from hardend.config import Expiry, Settings
from hardend.errors import HardendError, RefusedError
from hardend.journal import Event, Journal
from hardend.kernel.paths import open_beneath
from hardend.model import Drift, Host, Role, printable
from hardend.propose import Proposal
from hardend.window import Window
from hardend.window_review import Review, Verdict

_SHOWN = 6


@dataclass(slots=True)
class Ended:
    """What came of a window: the generation that keeps what stays (0 for none), and why the rest went.

    ``failed`` are paths that could not be put back.
    """

    window: Window
    generation: int = 0
    kept: list[str] = field(default_factory=list)
    reverted: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Return what the verbs print with --json."""
        return {
            "window": self.window.id,
            "generation": self.generation,
            "kept": self.kept,
            "reverted": self.reverted,
            "failed": self.failed,
        }


def end(
    host: Host,
    settings: Settings,
    review: Review,
    verdict: Verdict,
    *,
    reason: str,
    author: str = "",
    record: bool = False,
) -> Ended:
    """End the window of a review, or the part that was reviewed, as the verdict says.

    What neither stays nor was judged goes back. ``record`` has a generation made where nothing stays, too,
    so that the baseline's log tells of it. Raises RefusedError where the window or the baseline is
    another one by now, or where the guard refuses the generation: the window is open then.
    """
    item, closing = review.window, review.closing
    with window_files.ending(host):
        now = window_files.read(host, item.id)
        if now is None:
            raise RefusedError("the window was ended meanwhile", hint="hardend events tells how")
        left = window.without(now, closing)
        if review.store.current().number != review.current.number:
            raise RefusedError("another generation was approved meanwhile", hint="the same command again")
        proposal = verdict.proposal
        if proposal is None and record:
            proposal = Proposal.of(review.current)
        is_new = proposal is not None and proposal.entries != review.current.entries
        notes = verdict.notes + [f"{printable(path)}: built from its source" for path in verdict.built]
        ended = Ended(item, kept=_staying(review, verdict), notes=notes)
        ended.reverted = {
            path: verdict.refused.get(path, "") for path in review.changed if path not in verdict.kept
        }
        entries = review.current.entries
        wrong = [path for path in ended.reverted if path in entries and entries[path].role is Role.MAP]
        wrong += verdict.built
        new = [path for path in (*ended.reverted, *verdict.dropped) if path not in entries]
        by_guard = state.guard_is_alive(host)

        def shut(_before: Generation) -> None:
            """Without a guard it is closed when the generation is written and nothing live is changed."""
            rebuild.note_mta(host, settings, review.current)
            _set_aside(host, review, new)
            if not by_guard:
                _forget(host, item, left)

        if proposal is not None and (is_new or record):
            generation, outcome = commit.commit_and_apply(
                host, settings, proposal, reason=reason, author=author, before_apply=shut
            )
            commit.announce(host, generation)
            ended.generation, ended.failed = generation.number, outcome.failed
        else:
            shut(review.current)
            if not by_guard:
                ended.failed = commit.apply(host, settings, fresh=False).failed
        if by_guard:
            ended.failed = _close(host, item, closing, wrong)
    if not by_guard:
        with contextlib.suppress(HardendError):  # maps that answer otherwise, and what the MTA has loaded
            rebuild.run(host, settings)
    return ended


def _staying(review: Review, verdict: Verdict) -> list[str]:
    """Return what is kept and was not mended to what it was."""
    if verdict.proposal is None:
        return []
    before, after = review.current.entries, verdict.proposal.entries
    stays = (path for path in verdict.kept if path not in verdict.dropped)
    return [path for path in stays if before.get(path) != after.get(path)]


def _set_aside(host: Host, review: Review, paths: Iterable[str]) -> None:
    """Take files away that appeared in a directory that was let go; the quarantine keeps them."""
    aside = Aside(host)
    aside.generation = review.current.number
    root = os.open(host.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    taken: list[str] = []
    try:
        for path in sorted(paths):
            if any(path.startswith(f"{above}/") for above in taken):
                continue
            parent, name = os.path.split(path)
            entry = review.current.entries.get(parent)
            if entry is None:
                continue
            flags = os.O_RDONLY | os.O_DIRECTORY
            with contextlib.suppress(OSError):
                directory = open_beneath(root, parent.lstrip("/") or ".", flags)
                try:
                    drift = frozenset({Drift.UNEXPECTED})
                    what = aside.take(directory, os.fsencode(name), entry, drift, time.time_ns(), path=path)
                    aside.write_record(what, "")
                    taken.append(path)
                finally:
                    os.close(directory)
    finally:
        os.close(root)
        aside.close()


def _close(host: Host, item: Window, paths: Iterable[str], wrong: list[str]) -> dict[str, str]:
    request: control.Request = {
        "verb": "window-close",
        "id": item.id,
        "paths": list(paths),
        "wrong": wrong,
    }
    reply = control.ask(host, request, timeout_s=120.0)
    if not reply.get("ok"):
        raise RefusedError(str(reply.get("error")), hint=str(reply.get("hint") or ""))
    failed = reply.get("failed")
    return {str(path): str(why) for path, why in failed.items()} if isinstance(failed, dict) else {}


def _forget(host: Host, item: Window, left: Window | None) -> None:
    if left is None:
        window_files.remove(host, item.id)
        window_open.unschedule(host, item.id)
    else:
        window_files.write(host, left)


def expire(host: Host, settings: Settings, item: Window, *, say: Callable[[str], None]) -> Ended:
    """End a window that ran out, as ``on_expiry`` says, and tell the journal.

    Raises HardendError where that cannot be done; the guard tries again, then puts everything back.
    """
    review = Review(host, settings, item)
    verdict = Verdict()
    if settings.on_expiry is Expiry.KEEP_IF_NO_WORSE:
        verdict = review.judge(review.changed)
    reason = f"window expired: {item.reason}"
    try:
        ended = end(host, settings, review, verdict, reason=reason, author=item.by)
    except RefusedError as error:
        if not verdict.kept:
            raise
        say(f"it cannot be kept, everything is put back: {error}")
        why = dict.fromkeys(review.changed, str(error))
        ended = end(host, settings, review, Verdict(refused=why), reason=reason, author=item.by)
    tell(host, ended, Event.WINDOW_EXPIRED, "expired")
    return ended


def tell(host: Host, ended: Ended, kind: Event, what: str) -> None:
    """Tell the journal how a window ended: what stays, what was put back and why."""
    item = ended.window
    words = [f"window of {item.by} {what}: {item.reason}"]
    if ended.kept:
        words.append(f"kept as generation {ended.generation}: {_names(ended.kept)}")
    if ended.reverted:
        reasons = sorted({why for why in ended.reverted.values() if why})
        words.append(f"put back: {_names(ended.reverted)}" + (f" ({'; '.join(reasons)})" if reasons else ""))
    if not ended.kept and not ended.reverted:
        words.append("nothing had changed")
    journal = Journal(host)
    journal.event(
        kind,
        "; ".join(words),
        PATH=[*ended.kept, *ended.reverted],
        GENERATION=ended.generation or None,
        WINDOW_ID=item.id,
        WHO=item.by,
        WHO_UID=item.uid,
    )
    journal.close()


def _names(paths: Iterable[str]) -> str:
    shown = [printable(path) for path in paths]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
