# SPDX-License-Identifier: Apache-2.0
"""A plan: the documents of a host before and after the fixes, as one diff and a list of what is done.

Making it changes nothing: a .cf is built from its changed .mc to the side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from hardend.errors import HardendError, RefusedError
from hardend.maps import Tools
from hardend.mcbuild import build_cf, difference, new_programs, same_configuration
from hardend.model import FileType, Host, printable
from hardend.rules.catalogue import Judgement, judge, mend_all
from hardend.rules.documents import Attributes, Documents
from hardend.rules.rule import Rule, Verdict
from hardend.textdiff import unified


class Truth(StrEnum):
    """Which file counts where a .cf is not what its .mc makes."""

    MC = "mc"
    CF = "cf"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to become of a host.

    ``refused`` says why the fix of a rule cannot be made, by rule id; ``open`` are the judgements that
    still fail afterwards, of the rules that were asked for; ``warnings`` is what m4 said.
    """

    before: Documents
    after: Documents
    rules: tuple[Rule, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    open: tuple[Judgement, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def contents(self) -> dict[str, bytes]:
        """The files that get other bytes, or are made: sources before what is built from them."""
        built = set(self.after.sources)
        after, before = self.after.content, self.before.content
        changed = [path for path, data in after.items() if before.get(path) != data]
        return {path: after[path] for path in sorted(changed, key=lambda path: (path in built, path))}

    @property
    def attributes(self) -> dict[str, Attributes]:
        """The paths that get another owner, group or mode."""
        return {
            path: new
            for path, new in self.after.attributes.items()
            if (old := self.before.attributes.get(path)) is not None
            and (old.uid, old.gid, old.mode) != (new.uid, new.gid, new.mode)
        }

    @property
    def locks(self) -> tuple[str, ...]:
        """The files that become immutable."""
        return tuple(
            path
            for path, new in self.after.attributes.items()
            if (old := self.before.attributes.get(path)) is not None and old.flags != new.flags
        )

    @property
    def links(self) -> dict[str, str]:
        """The links that are made, or lead elsewhere."""
        return {
            path: new.target
            for path, new in self.after.attributes.items()
            if new.kind is FileType.SYMLINK
            and ((old := self.before.attributes.get(path)) is None or old.target != new.target)
        }

    @property
    def removed(self) -> tuple[str, ...]:
        """The paths that go."""
        return tuple(sorted(self.before.attributes.keys() - self.after.attributes.keys()))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done."""
        changes = (self.contents, self.attributes, self.locks, self.links, self.removed)
        return not any(changes)

    def diff(self) -> Iterator[str]:
        """Yield one unified diff of everything whose bytes change."""
        for path, data in self.contents.items():
            yield from unified(path, self.before.content.get(path, b""), data, mask=True)

    def acts(self) -> Iterator[str]:
        """Yield what else is done, as the command that would do it."""
        for path in self.removed:
            yield f"rm {printable(path)}"
        for path, target in self.links.items():
            yield f"ln -s {printable(target)} {printable(path)}"
        for path in self.attributes:
            yield from self.commands_for(path)
        if self.locks:
            yield f"chattr +i {' '.join(printable(path) for path in self.locks)}"

    def commands_for(self, path: str) -> list[str]:
        """Return the commands that give a path its new owner, group and mode."""
        old, new = self.before.attributes[path], self.after.attributes[path]
        commands = []
        if (old.uid, old.gid) != (new.uid, new.gid):
            of_link = "-h " if new.kind is FileType.SYMLINK else ""
            commands.append(f"chown {of_link}{self._owner(new)} {printable(path)}")
        if old.mode != new.mode:
            commands.append(f"chmod {new.mode:04o} {printable(path)}")
        return commands

    def _owner(self, attributes: Attributes) -> str:
        users = {uid: name for name, uid in self.after.users.items()}
        groups = {gid: name for name, gid in self.after.groups.items()}
        return (
            f"{users.get(attributes.uid, attributes.uid)}:{groups.get(attributes.gid, attributes.gid)}"
        )


def with_truth(
    documents: Documents, host: Host, tools: Tools, truth: Truth | None
) -> tuple[Documents, dict[str, str]]:
    """Return the documents with it decided which .mc are edited, and the difference of each that lies.

    The unchanged .mc is built first. A .cf that it does not make was edited by hand: ``truth`` says
    whether the .mc counts (then the hand's work is lost, as the next make would lose it) or the .cf.
    Raises RefusedError when nothing says so.
    """
    differing: dict[str, str] = {}
    sources = dict(documents.sources)
    content = dict(documents.content)
    unmade = dict(documents.unmade)
    for cf, mc in documents.sources.items():
        built = build_cf(mc, documents.read(mc), host, tools).cf
        if same_configuration(built, documents.read(cf)):
            continue
        differing[cf] = difference(documents.read(cf), built)
        if truth is None:
            raise RefusedError(
                f"{printable(cf)} is not what {printable(mc)} makes: it was edited by hand, or the "
                ".mc was and it was not built",
                hint="--truth mc builds it anew, --truth cf edits the .cf and leaves the .mc; "
                "--plan with either shows the difference",
            )
        if truth is Truth.CF:
            del sources[cf]
        else:
            content[cf] = built
            unmade.pop(cf, None)
    decided = replace(
        documents,
        sources=MappingProxyType(sources),
        content=MappingProxyType(content),
        unmade=MappingProxyType(unmade),
    )
    return decided, differing


def make(
    live: Documents, documents: Documents, rules: Iterable[Rule], host: Host, tools: Tools
) -> Plan:
    """Return the plan that takes a host from ``live`` to where the rules are met, as far as they can be.

    ``documents`` is ``live`` with it decided what the truth is. Raises FormatError, CommandError and
    RefusedError where a changed .mc does not build.
    """
    chosen = tuple(rules)
    mended = mend_all(documents, chosen)
    after, warnings = _built(documents, mended.documents, host, tools)
    still = [judge(after, rule) for rule in chosen]
    failing = tuple(item for item in still if item.verdict is Verdict.FAIL)
    return Plan(live, after, chosen, mended.refused, failing, tuple(warnings))


def _built(
    before: Documents, after: Documents, host: Host, tools: Tools
) -> tuple[Documents, list[str]]:
    """Return the documents with every .cf built anew whose .mc changed."""
    warnings: list[str] = []
    content = dict(after.content)
    unmade = {cf: why for cf, why in after.unmade.items() if cf not in after.stale}
    for cf in sorted(after.stale):
        mc = after.sources[cf]
        build = build_cf(mc, after.read(mc), host, tools)
        added = new_programs(before.read(cf), build.cf)
        if added:
            raise HardendError(
                f"{printable(mc)} would make Sendmail run programs that it did not before: {', '.join(added)}"
            )
        warnings += build.warnings
        content[cf] = build.cf
    made = replace(
        after,
        content=MappingProxyType(content),
        stale=frozenset(),
        unmade=MappingProxyType(unmade),
    )
    return made, warnings
