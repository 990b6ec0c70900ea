# SPDX-License-Identifier: Apache-2.0
"""Hardening a tree as a pure change of its documents: audit, plan, audit of what the plan makes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from hardend import layout, plan, survey
from hardend.maps import Tools
from hardend.model import Host
from hardend.plan import Plan, Truth
from hardend.rules.catalogue import Judgement, judge_all, mend_all
from hardend.rules.documents import Documents
from hardend.rules.rule import Fix, Rule, Verdict
from hardend.settings import Settings
from tests.unit.cf_corpus import plain_m4

PASSWD = "".join(
    f"{name}:x:{uid}:{gid}::/:/bin/sh\n"
    for name, uid, gid in (("root", 0, 0), ("mail", 8, 8), ("smmta", 105, 110), ("smmsp", 106, 111))
)
GROUP = "root:x:0:\nmail:x:8:\nsmmta:x:110:\nsmmsp:x:111:\n"
ALIASES = 'MAILER-DAEMON: postmaster\npostmaster: root\ndecode: "|/usr/bin/uudecode"\ngames: root\n'


@dataclass
class Tree:
    """A host's tree, and what is known of its hardening."""

    root: Path
    settings: Settings = field(default_factory=Settings)

    @property
    def host(self) -> Host:
        return Host(str(self.root))

    @property
    def tools(self) -> Tools:
        return Tools(sendmail="", makemap="", cf="", timeout_s=60, root=str(self.root))

    def write(self, path: str, content: bytes | str) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())

    def documents(self) -> Documents:
        return survey.survey(self.host, layout.find(self.host), self.settings)

    def plan(self, live: Documents, rules: Iterable[Rule], truth: Truth | None = None) -> Plan:
        decided, _ = plan.with_truth(live, self.host, self.tools, truth)
        return plan.make(live, decided, rules, self.host, self.tools)


def failing(documents: Documents) -> list[Judgement]:
    """Return the rules that a host breaks. Nothing may be unknown."""
    judged = judge_all(documents)
    assert [item.reason for item in judged if item.verdict is Verdict.UNKNOWN] == []
    return [item for item in judged if item.verdict is Verdict.FAIL]


def mendable(judged: Iterable[Judgement], *, only_auto: bool = False) -> tuple[Rule, ...]:
    """Return the rules with a fix: all of them, or those that nobody need be asked about."""
    rules = [item.rule for item in judged if item.rule.mend is not None]
    return tuple(rule for rule in rules if rule.fix is Fix.AUTO or not only_auto)


def left_alone(judged: Iterable[Judgement], refused: Iterable[str] = ()) -> list[str]:
    """Return what still fails and says why and what to do; a failure without that is an error."""
    told = []
    for item in judged:
        for fault in item.failures:
            by_hand = item.rule.mend is None or not fault.mendable or item.rule.id in set(refused)
            assert by_hand, f"{item.rule.id}: {fault.message}: could be mended and was not"
            assert fault.remedy or item.rule.id in set(refused), fault
        told.append(item.rule.id)
    return told


def with_plain_m4(documents: Documents, rules: Iterable[Rule]) -> tuple[Documents, dict[str, str], str]:
    """Return the documents after the fixes, a changed .mc built by m4 alone; refusals; what m4 said."""
    mended = mend_all(documents, rules)
    after, said = mended.documents, ""
    content = dict(after.content)
    for cf in after.stale:
        content[cf], errors = plain_m4(after.content[after.sources[cf]])
        said += errors
    built = replace(after, content=MappingProxyType(content), stale=frozenset())
    return built, mended.refused, said
