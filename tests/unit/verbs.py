# SPDX-License-Identifier: Apache-2.0
"""What the command takes, read from its parser: for tests of what else says it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cache

from hardend.cli.main import parser_for

Option = tuple[frozenset[str], str]  # how it is written, and the name of its value or ""


@dataclass(frozen=True)
class Verb:
    """A verb with its options and the names of its other arguments."""

    options: frozenset[Option]
    arguments: tuple[str, ...]

    @property
    def words(self) -> frozenset[str]:
        """Every way to write an option."""
        return frozenset(word for words, _ in self.options for word in words)


@cache
def verbs() -> dict[str, Verb]:
    """Return every verb that does something, "baseline log" say, with what it takes."""
    found: dict[str, Verb] = {}
    _walk(parser_for([]), "", found)
    return found


def _walk(parser: argparse.ArgumentParser, name: str, found: dict[str, Verb]) -> None:
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in inner:
        for word, below in action.choices.items():
            _walk(below, f"{name} {word}".strip(), found)
    if not inner:
        options = {(frozenset(a.option_strings), _value(a)) for a in parser._actions if a.option_strings}
        arguments = tuple(_value(a).removeprefix("-- ") for a in parser._actions if not a.option_strings)
        found[name] = Verb(frozenset(options), arguments)


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return action.metavar[0]
    if action.metavar:
        return action.metavar
    return "|".join(action.choices) if action.choices else action.dest.upper()
