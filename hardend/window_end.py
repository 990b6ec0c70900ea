# SPDX-License-Identifier: Apache-2.0
"""Ending a maintenance window: what may stay becomes a generation, the rest is put back and kept aside.

The guard does the putting back, or this process where none runs; what it replaces goes to the quarantine.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from hardend.window_review import Review, Verdict, intact

_SHOWN = 6


@dataclass(slots=True)
class Ended:
    """What came of a window: the generation that keeps what stays (0 for none), and why the rest went.

    ``reverted`` was put back; ``failed`` are paths that could not be, with the reason.
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
    another one by now, where the store cannot be used, or where the guard refuses the generation: the
    window is open then.
    """
    with window_files.ending(host):
        ending = _Ending(host, settings, review, verdict)
        proposal = verdict.proposal
        if proposal is None and record:
            proposal = Proposal.of(review.current)
        if proposal is not None and (record or proposal.entries != review.current.entries):
            ending.approve(proposal, reason, author)
        else:
            ending.put_back()
    if not ending.by_guard:
        with contextlib.suppress(HardendError):  # maps that answer otherwise, and what the MTA has loaded
            rebuild.run(host, settings)
    return ending.ended


class _Ending:
    """One window on its way out. Raises RefusedError where it, or the baseline, is another one by now."""

    def __init__(self, host: Host, settings: Settings, review: Review, verdict: Verdict) -> None:
        self._host = host
        self._settings = settings
        self._review = review
        now = window_files.read(host, review.window.id)
        if now is None:
            raise RefusedError("the window was ended meanwhile", hint="hardend events tells how")
        self._now = now
        self._left = window.without(now, review.closing)
        if intact(review.store).number != review.current.number:
            raise RefusedError("another generation was approved meanwhile", hint="the same command again")
        self.by_guard = state.guard_is_alive(host)
        self.ended = _what_comes_of(review, verdict)
        entries = review.current.entries
        is_map = (path for path in self.ended.reverted if path in entries and entries[path].role is Role.MAP)
        self._wrong = [*is_map, *verdict.built]
        self._new = [path for path in (*self.ended.reverted, *verdict.dropped) if path not in entries]

    def approve(self, proposal: Proposal, reason: str, author: str) -> None:
        """Make what stays the next generation; what does not stay is put back with it."""
        intact(self._review.store, proposal.entries)
        with self._open_if_it_fails():
            generation, outcome = commit.commit_and_apply(
                self._host, self._settings, proposal, reason=reason, author=author, before_apply=self._shut
            )
            commit.announce(self._host, generation)
            self.ended.generation, self.ended.failed = generation.number, outcome.failed
            self._close()

    def put_back(self) -> None:
        """Have the generation in force back; a guard puts back what it can, and tells of the rest."""
        if not self.by_guard:
            intact(self._review.store, self._review.current.entries)
        with self._open_if_it_fails():
            self._shut(self._review.current)
            if not self.by_guard:
                self.ended.failed = commit.apply(self._host, self._settings, fresh=False).failed
            self._close()

    def _shut(self, _before: Generation) -> None:
        """Take away what is new; without a guard the window is closed before anything is put back."""
        rebuild.note_mta(self._host, self._settings, self._review.current)
        _set_aside(self._host, self._review, self._new)
        if self.by_guard:
            return
        if self._left is None:
            window_files.remove(self._host, self._now.id)
        else:
            window_files.write(self._host, self._left)

    def _close(self) -> None:
        item = self.ended.window
        if self.by_guard:
            self.ended.failed = _closed_by_guard(self._host, item, self._review.closing, self._wrong)
        elif self._left is None:
            window_open.unschedule(self._host, item.id)
        failed = self.ended.failed
        for path in [path for path in self.ended.reverted if printable(path) in failed or path in failed]:
            del self.ended.reverted[path]

    @contextlib.contextmanager
    def _open_if_it_fails(self) -> Iterator[None]:
        """Leave no paths let go without the window that says so."""
        try:
            yield
        except (HardendError, OSError):
            if not self.by_guard:
                window_files.write(self._host, self._now)
            raise


def _what_comes_of(review: Review, verdict: Verdict) -> Ended:
    notes = verdict.notes + [f"{printable(path)}: built from its source" for path in verdict.built]
    reverted = {path: verdict.refused.get(path, "") for path in review.changed if path not in verdict.kept}
    return Ended(review.window, kept=_staying(review, verdict), reverted=reverted, notes=notes)


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


def _closed_by_guard(host: Host, item: Window, paths: Iterable[str], wrong: list[str]) -> dict[str, str]:
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


def expire(host: Host, settings: Settings, item: Window, *, say: Callable[[str], None]) -> Ended:
    """End a window that ran out, as ``on_expiry`` says, and tell the journal.

    Raises HardendError where that cannot be done, which is told too; the guard tries again, then puts
    everything back.
    """
    try:
        ended = _expired(host, settings, item, say)
    except HardendError as error:
        _event(host, Event.WINDOW_EXPIRED, ["expired", f"it could not be ended: {error}"], Ended(item))
        raise
    tell(host, ended, Event.WINDOW_EXPIRED, "expired")
    return ended


def _expired(host: Host, settings: Settings, item: Window, say: Callable[[str], None]) -> Ended:
    review = Review(host, settings, item)
    verdict = Verdict()
    if settings.on_expiry is Expiry.KEEP_IF_NO_WORSE:
        verdict = review.judge(review.changed)
    reason = f"window expired: {item.reason}"
    try:
        return end(host, settings, review, verdict, reason=reason, author=item.by)
    except RefusedError as error:
        if not verdict.kept:
            raise
        say(f"it cannot be kept, everything is put back: {error}")
        why = dict.fromkeys(review.changed, str(error))
        return end(host, settings, review, Verdict(refused=why), reason=reason, author=item.by)


def tell(host: Host, ended: Ended, kind: Event, what: str) -> None:
    """Tell the journal how a window ended: what stays, what was put back and why, and what could not be."""
    words = [what]
    if ended.kept:
        words.append(f"kept as generation {ended.generation}: {_names(ended.kept)}")
    if ended.reverted:
        words.append(f"put back: {_names(ended.reverted)}{_reasons(ended.reverted)}")
    if ended.failed:
        words.append(f"not put back: {_names(ended.failed)}{_reasons(ended.failed)}")
    if len(words) == 1:
        words.append("nothing had changed")
    _event(host, kind, words, ended)


def _event(host: Host, kind: Event, words: Sequence[str], ended: Ended) -> None:
    item = ended.window
    what, *more = words
    journal = Journal(host)
    journal.event(
        kind,
        "; ".join([f"window of {item.by} {what}: {item.reason}", *more]),
        PATH=[*ended.kept, *ended.reverted, *ended.failed],
        GENERATION=ended.generation or None,
        WINDOW_ID=item.id,
        WHO=item.by,
        WHO_UID=item.uid,
    )
    journal.close()


def _reasons(why: Mapping[str, str]) -> str:
    reasons = sorted({reason for reason in why.values() if reason})
    return f" ({'; '.join(reasons)})" if reasons else ""


def _names(paths: Iterable[str]) -> str:
    shown = [printable(path) for path in paths]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
