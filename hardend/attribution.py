# SPDX-License-Identifier: Apache-2.0
"""Who did it: what the witness saw of an object that was set aside, written into its record and told once.

Where no witness ever ran nothing is done. What is not known for a fact is told as candidates.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hardend import witness_log
from hardend.journal import Event, Journal
from hardend.model import Host, printable
from hardend.quarantine import Quarantine, Record
from hardend.witness_log import Told

_PATIENCE_S = 2.0  # the witness reads the kernel's queue within milliseconds, unless the host is loaded
_POLL_S = 0.05
_SHOWN = 3


@dataclass(slots=True)
class Attribution:
    """Looks up who changed what was collected; ``named`` counts those of whom something is known."""

    host: Host
    journal: Journal
    patience_s: float = _PATIENCE_S
    named: int = 0
    _announced: set[str] = field(default_factory=set)

    def judge(self, quarantine: Quarantine, identifiers: Iterable[str]) -> None:
        """Write what is known into the records of these objects, oldest first. Raises OSError."""
        if not witness_log.is_there(self.host):
            return
        records = {}
        for identifier in sorted(identifiers):
            record = quarantine.read_record(identifier)
            if record is None or record.get("mended"):  # no object: the witness tells of these itself
                continue
            if record.get("drift") and not record.get("who"):
                records[identifier] = record
        told = self._told(records)
        for identifier, record in records.items():
            one = told.get(identifier)
            # The path as the guard knows it: two processes that set things aside at once are not mixed up.
            if one is None or one.path != record.get("path"):
                continue
            drift = record["drift"]
            who = one.of([str(word) for word in drift] if isinstance(drift, list) else []).who()
            if not who:
                continue
            quarantine.write_record({**record, "who": who})
            self.named += 1
            key = repr((one.path, _nameless(who)))
            if key not in self._announced:  # a fight is told once in a run
                self._announced.add(key)
                announce(self.journal, one.path, who, identifier)

    def _told(self, records: Mapping[str, Record]) -> dict[str, Told]:
        """Return what the witness tells of these, having waited for one that may not have seen them yet."""
        give_up = time.monotonic() + self.patience_s
        while True:
            told = witness_log.read(self.host)
            if records.keys() <= told.keys() or time.monotonic() >= give_up:
                return told
            if not witness_log.is_running(self.host):
                return told
            time.sleep(_POLL_S)


def announce(journal: Journal, path: str, who: Mapping[str, object], identifier: str = "") -> None:
    """Tell the journal who changed a path, or who may have; ``identifier`` is that of what was set aside."""
    candidates = candidates_of(who)
    if candidates:
        shown = "; ".join(sentence(one) for one in candidates[:_SHOWN])
        more = f"; and {len(candidates) - _SHOWN} more" if len(candidates) > _SHOWN else ""
        text = f"{printable(path)} may have been changed by one of these: {shown}{more}"
    else:
        text = f"{printable(path)} was changed by {sentence(who)}"
    journal.event(
        Event.DRIFT_ATTRIBUTED,
        text,
        PATH=path,
        QUARANTINE_ID=identifier or None,
        WHO_PID=who.get("pid"),
        WHO_EXE=who.get("exe"),
        WHO_COMM=who.get("comm"),
        WHO_UNIT=who.get("unit"),
        WHO_UID=who.get("uid"),
        WHO_LOGINUID=who.get("loginuid"),
        WHO_CANDIDATES=json.dumps(candidates, sort_keys=True) if candidates else None,
    )


def sentence(who: Mapping[str, object]) -> str:
    """Return what is known of a process in one phrase."""
    name = who.get("exe") or who.get("comm") or "a process"
    labels = (("pid", "pid "), ("uid", "uid "), ("loginuid", "login uid "), ("unit", ""))
    known = [f"{label}{printable(str(who[key]))}" for key, label in labels if key in who]
    return printable(str(name)) + (f" ({', '.join(known)})" if known else "")


def candidates_of(who: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Return those that may have been it, where that is not known for a fact."""
    candidates = who.get("candidates")
    return [one for one in candidates if isinstance(one, dict)] if isinstance(candidates, list) else []


def _nameless(who: Mapping[str, object]) -> object:
    """Return what stays the same when the same program does it again as another process."""
    candidates = [{k: v for k, v in one.items() if k != "pid"} for one in candidates_of(who)]
    return sorted((k, str(v)) for k, v in who.items() if k not in {"pid", "candidates"}), candidates
