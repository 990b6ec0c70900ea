# SPDX-License-Identifier: Apache-2.0
"""One look at the running MTA: decide, pass the gate, act, and prove the outcome."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from hardend import mta, probe, promises
from hardend.baseline.manifest import Generation
from hardend.errors import CommandError, HardendError
from hardend.gate import Candidate, gate
from hardend.journal import Event
from hardend.maps import copy_live
from hardend.mta import Action, Decision, Kind, Loaded, Process, Seen, Situation
from hardend.offer import Means


class MtaPass:
    """The processes of the MTA, one after the other; ``outcomes`` says what was decided on each.

    ``broken`` are the promises of the files that the MTA does not keep after it was told to load them.
    """

    def __init__(self, means: Means, *, asked: bool = False) -> None:
        self._means = means
        self._asked = asked  # by the administrator, who wants what is not known to be loaded too
        self.outcomes: dict[str, str] = {}
        self.problems: list[str] = []
        self.broken: list[str] = []

    def run(self, generation: Generation, drifts: Mapping[str, tuple[int, int]]) -> float:
        """Do what is to be done, and return in how many seconds something that waits may be done."""
        memory = self._means.memory
        wait_s = 0.0
        for kind in Kind:
            process = mta.find(kind, self._means.host, self._means.layout)
            if process is None and kind is not Kind.DAEMON:
                continue
            situation = self._situation(kind, generation, drifts)
            if situation is None:
                continue
            loaded = None
            if process is not None:
                loaded = mta.knowledge(process, memory.loaded.get(kind), situation)
                memory.loaded[kind] = loaded
            decision = mta.decide(process, loaded, situation)
            if self._asked and decision.action is Action.REPORT_UNKNOWN:
                decision = Decision(Action.HUP, f"asked for: {decision.reason}")
            self.outcomes[kind.value] = f"{decision.action.value}: {decision.reason}"
            wait_s = max(wait_s, decision.wait_s if self._means.may_change else 0.0)
            if process is not None and decision.action in {Action.HUP, Action.RESTART}:
                self._act(process, decision, situation)
        return wait_s

    def note(self, generation: Generation, drifts: Mapping[str, tuple[int, int]]) -> None:
        """Remember what each process is known to have loaded, before files change under it."""
        memory = self._means.memory
        for kind in Kind:
            process = mta.find(kind, self._means.host, self._means.layout)
            situation = self._situation(kind, generation, drifts) if process else None
            if process is not None and situation is not None:
                memory.loaded[kind] = _before(process, memory.loaded.get(kind), situation)

    def _situation(
        self,
        kind: Kind,
        generation: Generation,
        drifts: Mapping[str, tuple[int, int]],
    ) -> Situation | None:
        """Return the facts; None when the baseline does not hold the configuration of this process."""
        paths = mta.files_of(kind, self._means.layout)
        held = {path: generation.entries[path] for path in paths if path in generation.entries}
        baseline = {path: entry.digest for path, entry in held.items() if entry.digest}
        if not paths or paths[0] not in baseline:
            return None
        return Situation(
            baseline=baseline,
            options=mta.daemon_options(self._means.store.object(baseline[paths[0]])),
            live=self._live(baseline),
            restart=self._means.settings.restart,
            interval_s=self._means.settings.reload_interval_s,
            now_ns=time.time_ns(),
            drifts=drifts,
            acted_ns=self._means.memory.acted_ns.get(kind, 0),
        )

    def _live(self, paths: Mapping[str, str]) -> dict[str, Seen]:
        """Return what is on disk; a file that cannot be read proves nothing."""
        live = {}
        for path in paths:
            try:
                copy = copy_live(self._means.host, path)
            except HardendError:
                continue
            if copy is not None:
                live[path] = Seen(copy.digest, copy.ctime_ns)
        return live

    def _act(self, process: Process, decision: Decision, situation: Situation) -> None:
        """Reload or restart behind the gate; remember what was loaded, or say why it was not done."""
        memory = self._means.memory
        subject = f"{process.kind.value} reload"
        refusal = self._refusal(process.kind, decision, situation)
        if refusal:
            self._failed(subject, f"the MTA is not reloaded ({decision.reason}): {refusal}")
            return
        acted_ns = memory.acted_ns[process.kind] = time.time_ns()
        try:
            if decision.action is Action.RESTART and process.kind is Kind.DAEMON:
                after = mta.restart(process, self._means.host, self._means.layout)
            else:
                after = mta.reload(process, self._means.host, self._means.layout)
        except CommandError as error:
            self._failed(subject, f"{error} ({decision.reason})")
            return
        why = self._unproven(process.kind, situation)
        memory.loaded[process.kind] = Loaded(
            after.identity, acted_ns, time.time_ns(), situation.baseline, situation.options
        )
        if why:
            self._failed(subject, f"the MTA does not answer after its reload: {why}")
            return
        memory.told.pop(subject, None)
        verb = "restarted" if decision.action is Action.RESTART else "reloaded"
        self._means.journal.event(
            Event.MTA_RESTARTED,
            f"the MTA ({process.kind.value}, pid {after.pid}) was {verb}: {decision.reason}",
            PATH=[path for path in situation.baseline if path in decision.reason] or None,
        )
        self.outcomes[process.kind.value] = f"{verb}: {decision.reason}"
        if process.kind is Kind.DAEMON:
            self._ask_for_promises()

    def _refusal(self, kind: Kind, decision: Decision, situation: Situation) -> str:
        """Return why nothing may be done now, "" when it may."""
        if not self._means.may_change:
            return "hardend only observes, or enforcement is off"
        drifted = sorted(
            path
            for path, digest in situation.baseline.items()
            if path not in situation.live or situation.live[path].digest != digest
        )
        if drifted:
            return f"{', '.join(drifted)} is not at the baseline now"
        path = mta.files_of(kind, self._means.layout)[0]
        approved = self._means.store.object(situation.baseline[path])
        problems = list(
            gate(Candidate(path, approved, approved), self._means.host, self._means.layout, self._means.tools)
        )
        if decision.action is Action.RESTART and kind is Kind.DAEMON:
            problems += [
                f"the start would rebuild: {stale}"
                for stale in mta.stale_builds(self._means.host, self._means.layout)
            ]
        return "; ".join(problems)

    def _unproven(self, kind: Kind, situation: Situation) -> str:
        """Return why the outcome is not proven: the daemon must greet; runners have no port."""
        if kind is not Kind.DAEMON:
            return ""
        answer = probe.greeting(*probe.listening_address(situation.options))
        return "" if answer.is_welcome else answer.why or answer.text

    def _ask_for_promises(self) -> None:
        """Ask the daemon over SMTP whether it does what the files say; tell the journal once if not."""
        means, subject = self._means, "daemon promises"
        path = means.layout.cf
        try:
            copy = copy_live(means.host, path)
            content = copy.content if copy is not None else b""
            self.broken = promises.broken(means.host, means.layout, means.settings, content)
        except HardendError:
            return  # what cannot be read promises nothing, and is told by who looks at it
        if not self.broken:
            means.memory.told.pop(subject, None)
            return
        text = "; ".join(self.broken)
        means.tell_once(subject, f"the MTA does not do what its files say: {text}", PATH=path)

    def _failed(self, subject: str, text: str) -> None:
        self.problems.append(text)
        self._means.tell_once(subject, text)


def _before(process: Process, memory: Loaded | None, situation: Situation) -> Loaded:
    """Return what a process has loaded before a generation is brought about: what is live now.

    Socket options are known of the generation's configuration only.
    """
    live = {path: seen.digest for path, seen in situation.live.items()}
    known = mta.knowledge(process, memory, replace(situation, baseline=live))
    return known if live == dict(situation.baseline) else replace(known, options=None)
