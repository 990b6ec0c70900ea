# SPDX-License-Identifier: Apache-2.0
"""Reads a Varlink interface and says what of a value is not as the interface has it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(r"#[^\n]*|\s+|(->|[A-Za-z][A-Za-z0-9_.-]*|[()\[\]:,?])")
_PLAIN: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "string": (str,),
    "object": (dict,),
}

Enum = tuple[str, ...]  # a struct is its fields; else ("?", T), ("[]", T), ("map", T) or a name


@dataclass
class Interface:
    """An interface: its name, types, what methods take and give, and what errors say."""

    name: str = ""
    types: dict[str, object] = field(default_factory=dict)
    takes: dict[str, object] = field(default_factory=dict)
    gives: dict[str, object] = field(default_factory=dict)
    errors: dict[str, object] = field(default_factory=dict)

    def faults(self, of: object, value: object, where: str = "") -> list[str]:
        """Return where and how ``value`` is not of a type; a field that the type lacks is a fault."""
        if isinstance(of, str) and of in self.types:
            return self.faults(self.types[of], value, where)
        if isinstance(of, str):
            good = isinstance(value, _PLAIN[of]) and (of == "bool" or not isinstance(value, bool))
            return [] if good else [f"{where}: {value!r} is no {of}"]
        if isinstance(of, dict):
            return self._struct(of, value, where)
        assert isinstance(of, tuple)
        if of[0] == "?":
            return [] if value is None else self.faults(of[1], value, where)
        if of[0] == "[]":
            if not isinstance(value, list):
                return [f"{where}: {value!r} is no array"]
            return [fault for each in value for fault in self.faults(of[1], each, f"{where}[]")]
        if of[0] == "map":
            if not isinstance(value, dict):
                return [f"{where}: {value!r} is no map"]
            return [fault for each in value.values() for fault in self.faults(of[1], each, f"{where}[]")]
        return [] if value in of else [f"{where}: {value!r} is none of {of}"]

    def _struct(self, of: dict[str, object], value: object, where: str) -> list[str]:
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no struct"]
        found = [f"{where}.{name}: not declared" for name in value if name not in of]
        for name, inner in of.items():
            found += self.faults(inner, value.get(name), f"{where}.{name}")
        return found


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            assert match, f"not Varlink: {text[at : at + 40]!r}"
            at = match.end()
            if match[1]:
                self._tokens.append(match[1])
        self._tokens.reverse()

    @property
    def more(self) -> bool:
        return bool(self._tokens)

    def take(self, expected: str = "") -> str:
        token = self._tokens.pop()
        assert not expected or token == expected, f"{token!r} instead of {expected!r}"
        return token

    def _at(self, token: str) -> bool:
        return bool(self._tokens) and self._tokens[-1] == token

    def type(self) -> object:
        if self._at("?"):
            self.take()
            return ("?", self.type())
        if self._at("["):
            self.take()
            if self._at("string"):
                self.take()
                self.take("]")
                return ("map", self.type())
            self.take("]")
            return ("[]", self.type())
        return self.fields() if self._at("(") else self.take()

    def fields(self) -> dict[str, object] | Enum:
        """Return a struct, or an enum, whose members have no types."""
        self.take("(")
        struct: dict[str, object] = {}
        words: list[str] = []
        while not self._at(")"):
            name = self.take()
            if self._at(":"):
                self.take()
                struct[name] = self.type()
            else:
                words.append(name)
            if not self._at(")"):
                self.take(",")
        self.take()
        assert not (struct and words), "struct or enum?"
        return tuple(words) if words else struct


def parse(text: str) -> Interface:
    """Return the interface of a .varlink file; an AssertionError where it is none."""
    reader = _Reader(text)
    reader.take("interface")
    interface = Interface(reader.take())
    while reader.more:
        kind, name = reader.take(), reader.take()
        assert name not in interface.types | interface.takes | interface.errors
        if kind == "type":
            interface.types[name] = reader.fields()
        elif kind == "error":
            interface.errors[f"{interface.name}.{name}"] = reader.fields()
        else:
            assert kind == "method"
            interface.takes[name] = reader.fields()
            reader.take("->")
            interface.gives[name] = reader.fields()
    return interface
