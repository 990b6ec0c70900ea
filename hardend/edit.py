# SPDX-License-Identifier: Apache-2.0
"""Editing one guarded file: what may be edited, what its new content is worth, and the commit of it.

Sendmail's .mc and the .cf that it makes are one: the .cf is built to the side and is in the same
generation. Nothing live is changed before the commit.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from hardend import classes, commit, maps, rebuild, state, verify, window_files
from hardend.baseline import trust
from hardend.baseline.manifest import Generation
from hardend.config import Settings
from hardend.errors import FileError, FormatError, HardendError, RefusedError
from hardend.formats.aliases import Aliases
from hardend.formats.mc import Mc
from hardend.formats.table import Table
from hardend.mcbuild import build_cf, difference, new_programs, same_configuration
from hardend.model import Class, FileType, Host, Mode, Protected, Role, printable
from hardend.offer import ByOwnPass, ToGuard
from hardend.plan import Truth
from hardend.propose import Proposal, Proposer
from hardend.rules.rule import Verdict
from hardend.textdiff import unified
from hardend.worsening import worsened

_REPLACED = "replaced"  # the word on a checked file: no file of sources has answers


@dataclass(slots=True)
class Judged:
    """What new content is worth: ``faults`` refuse it, ``worse`` needs --force."""

    diff: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    worse: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    proposal: Proposal | None = None
    number: int = 0  # of the generation that it was made of


@dataclass(slots=True)
class Done:
    """What a commit came to; ``undone`` says why it went back."""

    generation: Generation
    outcome: commit.Outcome
    mta: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    undone: str = ""


class Edit:
    """One edit of one path; ``content`` is what is approved.

    Raises RefusedError, with what to do, for a path whose content is not held or that may not be
    edited now; StoreError without a baseline.
    """

    def __init__(self, host: Host, settings: Settings, path: str, truth: Truth | None = None) -> None:
        self._host = host
        self._settings = settings
        self._proposer = Proposer(host, settings)
        self._tools = maps.tools_for(host, self._proposer.layout, settings)
        self.path = path
        current = self._proposer.store.current()
        self._protected = self._editable(current)
        self._entry = current.entries[path]
        self._require_at_rest()
        self.content = self._proposer.store.object(self._entry.digest)
        self._partner = self._other_of_pair(current)
        self._partners_entry = current.entries.get(self._partner)
        self.builds = self._decide(truth)

    # What may be edited ---------------------------------------------------------------------------

    def _editable(self, current: Generation) -> Protected:
        path, layout = self.path, self._proposer.layout
        shown = printable(path)
        known = {item.path: item for item in classes.protected(self._host, layout, self._settings)}
        item = known.get(path)
        if item is None:
            raise self._not_held(classes.class_of(path, layout, self._settings))
        if item.role is Role.LINK:
            target = os.path.normpath(os.path.join(os.path.dirname(path), self._read_link()))
            raise RefusedError(f"{shown} is a link", hint=f"hardend edit {printable(target)}")
        if item.role is Role.MAP and item.spec is not None:
            source = printable(item.spec.source)
            raise RefusedError(f"{shown} is built from {source}", hint=f"hardend edit {source}")
        if item.role is not Role.SOURCE:
            raise RefusedError(f"{shown} is a directory, not a file")
        if item.cls is Class.ATTRIBUTES:
            raise RefusedError(
                f"{shown}: its content is not held, as it may be secret; only owner and mode are",
                hint="edit it where it is: nothing puts it back, and no copy of it is made",
            )
        if path not in current.entries:
            raise RefusedError(f"{shown} is not in the baseline", hint=f"hardend approve {shown} takes it in")
        return item

    def _read_link(self) -> str:
        try:
            return os.readlink(self._host.at(self.path))
        except OSError as error:
            raise FileError(f"{printable(self.path)}: {error.strerror}") from error

    def _not_held(self, cls: Class) -> RefusedError:
        shown = printable(self.path)
        try:
            kind = os.lstat(self._host.at(self.path)).st_mode
        except (OSError, ValueError):
            return RefusedError(f"{shown}: no such file", hint="create it, then hardend approve takes it in")
        if stat.S_ISDIR(kind):
            return RefusedError(f"{shown} is a directory, not a file")
        if self.path.endswith((".db", ".pag", ".dir")):
            return RefusedError(f"{shown} is a database: it is built", hint="hardend edit its source")
        how = "of class ignored" if cls is Class.IGNORED else "not a path that hardend protects"
        return RefusedError(
            f"{shown}: not held ({how})",
            hint="edit it where it is; protect in [paths] of hardend.toml has hardend hold it",
        )

    def _require_at_rest(self) -> None:
        """Raise RefusedError when the live file is not the approved one: the edit would undo that."""
        shown = printable(self.path)
        for item in window_files.read_all(self._host):
            if item.holds(self.path):
                raise RefusedError(
                    f"{shown} is let go: {item.describe()}",
                    hint=f"edit it where it is; hardend lock {shown} then keeps it",
                )
        if self._entry.kind is not FileType.FILE or not self._entry.digest:
            raise RefusedError(f"{shown}: its content is not held", hint="edit it where it is")
        live = maps.copy_live(self._host, self.path)
        if live is not None and live.digest != self._entry.digest:
            raise RefusedError(
                f"{shown} is not what is approved: hardend check tells more",
                hint=f"wait until it is put back or taken in, or hardend approve {shown} takes it in now",
            )

    # The .mc and its .cf --------------------------------------------------------------------------

    def _other_of_pair(self, current: Generation) -> str:
        for mc, cf in pairs(self._proposer):
            if self.path in (mc, cf):
                other = cf if self.path == mc else mc
                entry = current.entries.get(other)
                return other if entry is not None and entry.digest else ""
        return ""

    @property
    def lock_name(self) -> str:
        """The path that stands for all that is edited at once: a .mc and its .cf are one."""
        return min(filter(None, (self.path, self._partner)), key=lambda path: not path.endswith(".mc"))

    def _decide(self, truth: Truth | None) -> str:
        """Return the .cf that is built from what is edited, "" for none. Raises RefusedError if unclear."""
        if self._partners_entry is None:
            return ""
        is_mc = self.path.endswith(".mc")
        if is_mc and truth is not None:
            return self._partner if truth is Truth.MC else ""
        if not is_mc and truth is Truth.CF:
            return ""
        other = self._proposer.store.object(self._partners_entry.digest)
        mc, cf = (self.content, other) if is_mc else (other, self.content)
        mc_path = self.path if is_mc else self._partner
        built = build_cf(mc_path, mc, self._host, self._tools).cf
        is_made = same_configuration(built, cf)
        shown, shown_mc = printable(self._partner if is_mc else self.path), printable(mc_path)
        if is_mc and not is_made:
            raise RefusedError(
                f"{shown} is not what {shown_mc} makes: it was edited by hand, or the .mc was not built",
                hint="--truth mc builds it anew (that work is lost), --truth cf leaves it as it is; "
                "hardend harden --plan --truth mc shows the difference",
            )
        if not is_mc and is_made:
            raise RefusedError(
                f"{shown} is made from {shown_mc}: the next build would lose the edit",
                hint=f"hardend edit {shown_mc}; --truth cf edits the .cf all the same",
            )
        return self._partner if is_mc else ""

    # What new content is worth --------------------------------------------------------------------

    def judge(self, content: bytes) -> Judged:
        """Return what new content is worth. Raises RefusedError when the baseline moved under the edit."""
        current = self._proposer.store.current()
        self._require_unmoved(current)
        found = Judged(number=current.number)
        found.diff = list(unified(self.path, self.content, content, mask=True))
        if not content and self.content:
            found.faults.append(f"{printable(self.path)}: the draft is empty")
            return found
        found.faults = self._faults(content, found)
        if found.faults:
            return found
        proposal = Proposal.after(current)
        try:
            self._proposer.put_content(proposal, self._protected, content)
            self._follow(proposal, content, found)
        except HardendError as error:
            found.faults.append(str(error))
            return found
        measure = trust.in_force(self._host, self._proposer.store, self._settings).generation
        found.worse = worsened(self._host, self._settings, measure, proposal)
        found.warnings += proposal.warnings
        found.proposal = proposal
        return found

    def _require_unmoved(self, current: Generation) -> None:
        moved = current.entries.get(self.path) != self._entry
        if moved or (self._partner and current.entries.get(self._partner) != self._partners_entry):
            raise RefusedError(
                f"{printable(self.path)} was changed meanwhile, by {printable(current.author)} in generation "
                f"{current.number} or before it",
                hint="hardend edit it anew, with --from and the draft or by hand",
            )

    def _faults(self, content: bytes, found: Judged) -> list[str]:
        """Return what the format's own reading finds; what was there before is a warning."""
        before = {what for _, what in self._read(self.content)}
        faults: list[str] = []
        for line, what in self._read(content):
            told = f"{printable(self.path)}:{line}: {what}"
            (found.warnings if what in before else faults).append(told)
        return faults

    def _read(self, content: bytes) -> Iterator[tuple[int, str]]:
        layout = self._proposer.layout
        try:
            if self.path in {spec.source for spec in layout.aliases}:
                yield from Aliases(content, self.path).faults()
            for spec in layout.maps:
                if spec.source == self.path:
                    yield from Table(content, self.path, spec.flags).faults()
                    break
        except FormatError as error:
            yield error.line, str(error)
        if self.path in (layout.mc, layout.submit_mc) and (fault := Mc(content, self.path).fault):
            yield fault.line, fault.what

    def _follow(self, proposal: Proposal, content: bytes, found: Judged) -> None:
        """Have the .cf follow its .mc, by a build or by its time stamp. Raises HardendError."""
        entry = proposal.entries.get(self._partner)
        if entry is None or not self.path.endswith(".mc"):
            return
        if not self.builds:  # the start of the distribution would build it, were it older
            proposal.entries[self._partner] = replace(entry, mtime_ns=time.time_ns())
            return
        old = self._proposer.store.object(entry.digest)
        built = build_cf(self.path, content, self._host, self._tools)
        found.warnings += built.warnings
        if added := new_programs(old, built.cf):
            raise RefusedError(f"{printable(self._partner)} would run programs: {'; '.join(added)}")
        protected = Protected(self._partner, entry.role, entry.cls, immutable="i" in entry.flags)
        self._proposer.put_content(proposal, protected, built.cf)
        found.diff += [f"{printable(self._partner)}, built from it:", *difference(old, built.cf).split("\n")]

    # The commit -----------------------------------------------------------------------------------

    def commit(self, judged: Judged, *, reason: str) -> Done:
        """Commit what was judged, bring it about, have the MTA load it; back, where it no longer answers.

        Raises RefusedError when the baseline moved meanwhile, HardendError and OSError where it cannot be.
        """
        if judged.proposal is None:
            raise RefusedError("; ".join(judged.faults) or "nothing was judged")
        store = self._proposer.store
        before = store.current()
        if before.number != judged.number:
            raise RefusedError(f"generation {before.number} came meanwhile", hint="hardend edit it anew")
        is_configuration = self.path in (cf := self._configurations()) or self.builds in cf
        silent = self._silent() if is_configuration else set()
        done = self._carry_out(judged.proposal, reason, judged.worse)
        if is_configuration and (why := self._silent() - silent):
            undone = "; ".join(sorted(why))
            back = f"back from generation {done.generation.number}: {undone}"
            done = self._carry_out(Proposal.of(before), back, [])
            done.undone = undone
        return done

    def _configurations(self) -> tuple[str, ...]:
        layout = self._proposer.layout
        return tuple(filter(None, (layout.cf, layout.submit_cf)))

    def _carry_out(self, proposal: Proposal, reason: str, worse: list[str]) -> Done:
        host, settings = self._host, self._settings
        note = partial(rebuild.note_mta, host, settings)
        # A run meanwhile would take the old content of a checked file for new, and take it in again.
        with rebuild.alone(host, settings) if self._is_shared else contextlib.nullcontext():
            generation, outcome = commit.commit_and_apply(
                host, settings, proposal, reason=reason, before_apply=note
            )
            done = Done(generation, outcome)
            if self._is_shared and settings.mode is Mode.ENFORCE and not outcome.paused:
                self._put_in(done)
        commit.announce(host, generation, worse)
        if host.is_tree or settings.mode is not Mode.ENFORCE or outcome.paused:
            return done
        at_once = replace(settings, reload_interval_s=1)  # who asked for it is no storm of reloads
        try:
            report = rebuild.run(host, at_once, asked=True)
            done.mta = report.mta
            done.problems += report.problems
        except HardendError as error:
            done.problems.append(str(error))
        return done

    @property
    def _is_shared(self) -> bool:
        return self._entry.cls is Class.CHECKED

    def _put_in(self, done: Done) -> None:
        """Have the new content of a checked file replace the old: a pass leaves such a file to its writers.

        Only where it still is what the edit began with.
        """
        entry = done.generation.entries[self.path]
        live = maps.copy_live(self._host, self.path)
        if live is None or live.digest not in {self._entry.digest, entry.digest}:
            done.problems.append(f"{printable(self.path)} was written meanwhile: that is judged by itself")
        elif live.digest != entry.digest:
            by_guard = state.guard_is_alive(self._host)
            offer = ToGuard(self._host) if by_guard else ByOwnPass(self._host, self._settings)
            try:
                offer.tell(entry, live, _REPLACED)
            finally:
                offer.close()
            now = maps.copy_live(self._host, self.path)
            if now is None or now.digest != entry.digest:
                done.problems.append(f"{printable(self.path)} was not put in: what is there stays")

    def _silent(self) -> set[str]:
        """Return how the mail host does not answer, as far as that is so on this host."""
        if self._host.is_tree or self._settings.mode is not Mode.ENFORCE:
            return set()
        checks = verify.verify(self._host, self._proposer.layout, self._settings)
        return {check.message for check in checks if check.is_fatal and check.verdict is Verdict.FAIL}


def pairs(proposer: Proposer) -> tuple[tuple[str, str], ...]:
    """Return each .mc of a host with the .cf that it makes."""
    layout = proposer.layout
    both = ((layout.mc, layout.cf), (layout.submit_mc, layout.submit_cf))
    return tuple(pair for pair in both if all(pair))
