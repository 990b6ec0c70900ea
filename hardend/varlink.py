# SPDX-License-Identifier: Apache-2.0
"""The Varlink protocol (varlink.org, "Protocol"): JSON objects, each ended by a NUL byte.

No sockets here: bytes in, calls out, replies in, bytes out. What a peer sends is bounded in size and
depth before the JSON parser sees it. What is sent is ASCII, without lone surrogates or NUL, because
sd-json (varlinkctl) refuses a whole message for one of them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from hardend.errors import ProtocolError
from hardend.model import printable

MESSAGE_LIMIT = 8 << 10  # bytes of a call with its NUL; the largest of ours has under 200
DEPTH_LIMIT = 16
SERVICE = "org.varlink.service"

Parameters = dict[str, object]

# A text, ended or not, or a bracket. A text matches wherever it begins: an expression that failed on
# one without end would look at the rest again from each of its quotes.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.?)*(?:"|\Z)|[\[\]{}]', re.DOTALL)
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")  # as printable writes a byte
_SHOWN = 100  # characters of a peer's own text that an error gives back


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a method: ``more`` asks for a stream of replies, ``oneway`` for none."""

    method: str
    parameters: Parameters = field(default_factory=dict)
    more: bool = False
    oneway: bool = False

    @property
    def interface(self) -> str:
        """The name before the last dot."""
        return self.method.rpartition(".")[0]


class VarlinkError(Exception):
    """A call that is answered with an error: its full name and parameters."""

    def __init__(self, name: str, parameters: Parameters) -> None:
        super().__init__(name)
        self.name = name
        self.parameters = parameters


def service_error(name: str, text: str) -> VarlinkError:
    """Return an error of org.varlink.service about a name that the peer sent."""
    key = {"InterfaceNotFound": "interface", "InvalidParameter": "parameter"}.get(name, "method")
    return VarlinkError(f"{SERVICE}.{name}", {key: printable(text[:_SHOWN])})


def take_message(buffer: bytearray) -> bytes | None:
    """Take the first whole message out of what a peer has sent, without its NUL; None if there is none.

    Raises ProtocolError when it is longer than MESSAGE_LIMIT; nothing sensible can follow.
    """
    end = buffer.find(0, 0, MESSAGE_LIMIT)
    if end >= 0:
        message = bytes(buffer[:end])
        del buffer[: end + 1]
        return message
    if len(buffer) >= MESSAGE_LIMIT:
        raise ProtocolError(f"a message of more than {MESSAGE_LIMIT} bytes")
    return None


def parse_object(message: bytes) -> Parameters:
    """Return the JSON object of a message. Raises ProtocolError for anything else."""
    try:
        value = json.loads(message.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError("not JSON") from error
    if not isinstance(value, dict):
        raise ProtocolError("not a JSON object")
    return value


def parse_call(message: bytes) -> Call:
    """Return a call. Raises ProtocolError for what is no object, VarlinkError for what is no call."""
    if _depth(message) > DEPTH_LIMIT:
        raise ProtocolError(f"nested deeper than {DEPTH_LIMIT}")
    value = parse_object(message)
    method, parameters = value.get("method"), value.get("parameters")
    if not isinstance(method, str):
        raise service_error("InvalidParameter", "method")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise service_error("InvalidParameter", "parameters")
    for flag in ("more", "oneway", "upgrade"):
        if not isinstance(value.get(flag, False), bool):
            raise service_error("InvalidParameter", flag)
    if value.get("upgrade"):
        raise service_error("MethodNotImplemented", method)
    return Call(method, parameters, bool(value.get("more")), bool(value.get("oneway")))


def call_message(call: Call) -> bytes:
    """Return the bytes of a call."""
    flags = {name: True for name, given in (("more", call.more), ("oneway", call.oneway)) if given}
    return _message({"method": call.method, "parameters": call.parameters, **flags})


def reply_message(parameters: Parameters, *, continues: bool = False) -> bytes:
    """Return the bytes of a reply; ``continues`` says that another one follows."""
    reply: Parameters = {"parameters": parameters}
    return _message({**reply, "continues": True} if continues else reply)


def error_message(error: VarlinkError) -> bytes:
    """Return the bytes of an error, which ends its call."""
    return _message({"error": error.name, "parameters": error.parameters})


def shown(value: object) -> object:
    """Return a JSON value with every text and key as ``printable`` shows it, numbers as they are."""
    return _mapped(value, printable)


def original(value: object) -> object:
    """Return what ``shown`` was given, where that was text as os.fsdecode makes it."""
    return _mapped(value, _unescaped)


def _mapped(value: object, change: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _mapped(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [_mapped(each, change) for each in value]
    return value


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    data = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), os.fsencode(text))
    return os.fsdecode(data)


def _message(value: Parameters) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\0"


def _depth(message: bytes) -> int:
    depth = deepest = 0
    for token in _TOKEN.findall(message):
        if token in {b"[", b"{"}:
            depth += 1
            deepest = max(deepest, depth)
        elif token in {b"]", b"}"}:
            depth -= 1
    return deepest
