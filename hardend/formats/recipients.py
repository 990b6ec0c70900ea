# SPDX-License-Identifier: Apache-2.0
"""What Sendmail makes of one recipient of an alias or a list: address, program, file, include.

Does what prescan(), the ruleset Canonify and buildaddr() of Sendmail 8.17 do (parseaddr.c, proto.m4),
so that a program does not hide in a comment, ``Name <|prog>``, ``group:|prog;``, ``|prog@localhost``
or ``@localhost:|prog``. Every form here was seen with ``sendmail -bv`` and with what the program got.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

_BLANKS = b" \t\n\v\f\r"
# OperatorChars of every V10 sendmail.cf, and the delimiters that sendmail adds.
_OPERATORS = b".:%@!^/[]+()<>,;"
_QUOTING = re.compile(rb'\\(.)|\\|"', re.DOTALL)
_DEQUOTED = re.compile(rb'"([^ \t\n\v\f\r]*)"')
_NEXT_COMMAND = re.compile(r"&&|\|\|")
_INCLUDE = b":include:"
# An address that the scanner would give back as it stands: most are.
_PLAIN = re.compile(
    rb"([\w+=-]+(?:\.[\w+=-]+)*)(?:@([\w+=-]+(?:\.[\w+=-]+)*))?(?=[ \t\n\v\f\r]*(?:,|\Z))"
)
# What smrsh(8) and sh(1) do themselves.
_BUILT_IN = frozenset({"exit", "echo"})


class Kind(StrEnum):
    """What a target is: what Sendmail does with the mail."""

    ADDRESS = "address"  # a name or an address, looked up again
    LOCAL = "local"  # \user: delivered here, no further alias
    PROGRAM = "program"
    FILE = "file"
    INCLUDE = "include"  # :include:/path


@dataclass(frozen=True, slots=True)
class Target:
    r"""One recipient: ``text`` as it stands in the file, ``value`` what Sendmail makes of it.

    ``value`` is the command, the path, the user of ``\user``, or the user part of an address.
    ``host`` is what stands behind ``@`` (``%``, before ``!``): a program, file or include with one is
    run here when that is a name of this host, and else is mail to another host. ``fault`` is what
    Sendmail complains of.
    """

    kind: Kind
    text: str
    value: str
    host: str = ""
    fault: str = ""

    @property
    def command(self) -> str:
        """What the program mailer gets behind ``-c`` (smrsh(8)); "" unless a program."""
        return self.value if self.kind is Kind.PROGRAM else ""

    @property
    def program(self) -> str:
        """The first program of the command, as it is written, without quotes."""
        return next(iter(self.programs), "")

    @property
    def programs(self) -> tuple[str, ...]:
        """The first word of each command between ``&&`` and ``||``, behind ``exec``; no builtins."""
        found = []
        for command in _NEXT_COMMAND.split(self.command):
            words = [word.strip("'\"") for word in command.split()]
            first = words[1:2] if words[:1] == ["exec"] else words[:1]
            found += [word for word in first if word and word not in _BUILT_IN]
        return tuple(found)

    @property
    def include_path(self) -> str:
        """The file of an include; "" unless it is one."""
        return self.value if self.kind is Kind.INCLUDE else ""


@dataclass(frozen=True, slots=True)
class Scan:
    """The tokens of an address as prescan() splits it, where it ended, and what was wrong."""

    tokens: tuple[bytes, ...]
    end: int
    fault: str


class _Scanner:
    """prescan(): blanks and comments go; quoted strings, operators and atoms are tokens."""

    def __init__(self, text: bytes, at: int, delimiter: bytes) -> None:
        self.text = text
        self.at = at
        self.delimiter = delimiter
        self.tokens: list[bytes] = []
        self.token = b""
        self.comments = 0
        self.angles = 0
        self.route = False
        self.quoted = False
        self.fault = ""

    def run(self) -> Scan:
        while self.at < len(self.text):
            char = self.text[self.at : self.at + 1]
            if char == self.delimiter and self._ends():
                break
            self.at += 1
            if char == b"\\":
                self._escape()
            elif self.quoted:
                self._quote(char)
            elif self.comments or char in b"()":
                self._comment(char)
            else:
                self._plain(char)
        self._finish()
        return Scan(tuple(self.tokens), self.at, self.fault)

    def _ends(self) -> bool:
        # A comma ends an address even inside <>, unless that holds a route: <@a,@b:user>.
        in_angles = self.angles and (self.delimiter != b"," or self.route)
        return not (self.quoted or self.comments or in_angles)

    def _escape(self) -> None:
        char = self.text[self.at : self.at + 1]
        # A delimiter ends the address all the same, and \! is a plain !.
        plain = char in {b"!", b""} or (char == self.delimiter and self._ends())
        if self.comments or self.quoted or not plain:
            self.at += len(char)
            if not self.comments:
                self.token += b"\\" + (char or b'"')

    def _quote(self, char: bytes) -> None:
        self.token += char
        if char == b'"':
            self.quoted = False
            self._flush()

    def _comment(self, char: bytes) -> None:
        if char == b"(":
            self.comments += 1
        elif char == b")" and self.comments:
            self.comments -= 1
            self._flush()
        elif char == b")":
            self.fault = "unbalanced )"

    def _plain(self, char: bytes) -> None:
        if char == b">" and not self.angles:
            self.fault = "unbalanced >"
        elif char in _BLANKS:
            self._flush()
        elif char == b'"':
            self._flush()
            self.token = char
            self.quoted = True
        elif char in _OPERATORS:
            self._flush()
            self.tokens.append(char)
            self.angles += (char == b"<") - (char == b">")
            if char in b"<>":
                self.route = char == b"<" and self.text[self.at :].lstrip(_BLANKS)[:1] == b"@"
        else:
            self.token += char

    def _flush(self) -> None:
        if self.token:
            self.tokens.append(self.token)
        self.token = b""

    def _finish(self) -> None:
        if self.quoted:
            self.fault = 'unbalanced "'
            self.token += b'"'
        elif self.comments:
            self.fault = "unbalanced ("
        elif self.angles:
            self.fault = "unbalanced <"
        self._flush()
        self.tokens += [b">"] * self.angles


def scan(text: bytes, at: int = 0, delimiter: bytes = b"") -> Scan:
    """Split an address into tokens, from ``at`` to the delimiter outside quotes and comments."""
    return _Scanner(text, at, delimiter).run()


def user_and_host(tokens: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Return the tokens of the user and of the host that an address comes down to.

    A user that is one quoted string without blanks loses its quotes and is split once more (the map
    ``dequote``): ``"(comment)|prog"`` and ``"|prog@localhost"`` are programs.
    """
    user, host = _split(_canonical(tokens))
    bare = _DEQUOTED.fullmatch(user[0]) if len(user) == 1 else None
    again = scan(bare[1]) if bare else None
    if again is not None and not again.fault:
        plain = tuple(token for token in again.tokens if token not in {b"<", b">"})
        user, inner = _split(_unrouted(plain))
        host = host or inner
    return user, host


def _split(tokens: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    user, host = _split_host(tokens)
    inner = host
    while inner:  # a user with a host of its own is looked at again where the outer one is this host
        user, inner = _split_host(user)
    return user, host


def _canonical(tokens: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Do what the ruleset Canonify does first: group syntax, angle brackets, routes."""
    tokens = _unterminated(tokens)
    if b"<" in tokens:
        last = len(tokens) - tokens[::-1].index(b"<")
        inner = tokens[last:]
        tokens = _unterminated(inner[: inner.index(b">")] if b">" in inner else inner)
    elif b":" in tokens and not _colon_stays(tokens):
        tokens = tokens[tokens.index(b":") + 1 :]
    return _unrouted(tokens)


def _unrouted(tokens: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return what stands behind a route: ``@a,@b:user``."""
    while tokens[:1] == (b"@",):
        end = next((mark for mark in (b",", b":") if mark in tokens[2:-1]), None)
        if end is None:
            break
        tokens = tokens[tokens.index(end, 2) + 1 :]
    return tokens


def _unterminated(tokens: tuple[bytes, ...]) -> tuple[bytes, ...]:
    while tokens[-1:] == (b";",):
        tokens = tokens[:-1]
    return tokens


def _colon_stays(tokens: tuple[bytes, ...]) -> bool:
    """Return whether a colon is no end of a group's name: a route, ``::``, include, [IPv6:...]."""
    lowered = tuple(token.lower() for token in tokens)
    first = tokens.index(b":")
    return (
        tokens[:1] == (b"@",)
        or (b":", b":") in itertools.pairwise(tokens)
        or lowered[:3] == (b":", b"include", b":")
        or lowered[max(first - 2, 0) : first] == (b"[", b"ipv6")
    )


def _split_host(tokens: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    if b"@" in tokens:
        at = len(tokens) - tokens[::-1].index(b"@") - 1
        return tokens[:at], tokens[at + 1 :]
    if b"!" in tokens[1:]:
        at = tokens.index(b"!", 1)
        return tokens[at + 1 :], tokens[:at]
    if b"%" in tokens[1:]:
        at = len(tokens) - tokens[::-1].index(b"%") - 1
        return tokens[:at], tokens[at + 1 :]
    return tokens, ()


def joined(tokens: tuple[bytes, ...], blank: bytes = b".") -> bytes:
    """Put tokens together as cataddr() does: BlankSub (a dot) between two atoms."""
    text = b""
    after_atom = False
    for token in tokens:
        atom = token[:1] not in _OPERATORS and token[:1] != b'"'
        text += blank + token if atom and after_atom else token
        after_atom = atom
    return text


def targets(text: bytes) -> Iterator[tuple[int, int, Target]]:
    """Yield begin, end and meaning of every recipient of a right-hand side; commas part them."""
    at = 0
    while at < len(text):
        if text[at : at + 1] in (b",", *(bytes([blank]) for blank in _BLANKS)):
            at += 1
            continue
        plain = _PLAIN.match(text, at)
        if plain:
            yield at, plain.end(), _plain_target(plain[1], plain[2])
            at = plain.end()
            continue
        found = scan(text, at, b",")
        item = text[at : found.end].rstrip(_BLANKS)
        yield at, at + len(item), _target(item, found)
        at = max(found.end, at + 1)


@lru_cache(maxsize=4096)
def _plain_target(user: bytes, host: bytes | None) -> Target:
    name = decoded(user)
    if host is None:
        return Target(Kind.ADDRESS, name, name)
    return Target(Kind.ADDRESS, f"{name}@{decoded(host)}", name, decoded(host))


def _target(item: bytes, found: Scan) -> Target:
    user, host = user_and_host(found.tokens)
    name = joined(user)
    kind, value = Kind.ADDRESS, name
    # buildaddr() looks behind one quote.
    bare = name[1:] if name[:1] == b'"' else name
    if bare[:1] == b"|":
        kind, value = Kind.PROGRAM, _stripped(name)[1:]
    elif bare[:1] == b"/":
        kind, value = Kind.FILE, _stripped(name)
    elif bare[:1] == b":" and _stripped(name).lower().startswith(_INCLUDE):
        kind, value = Kind.INCLUDE, _stripped(joined(user, b" "))[len(_INCLUDE) :]
    elif bare[:1] == b"\\":
        kind, value = Kind.LOCAL, _stripped(name)
    return Target(kind, decoded(item), decoded(value), decoded(joined(host)), found.fault)


def _stripped(text: bytes) -> bytes:
    """Do what stripquotes() does: quotes go, a backslash gives the character behind it."""
    return _QUOTING.sub(lambda match: match[1] or b"", text)


def decoded(data: bytes) -> str:
    """Return bytes of a file as text, as os.fsdecode does on Linux."""
    return data.decode("utf-8", "surrogateescape")
