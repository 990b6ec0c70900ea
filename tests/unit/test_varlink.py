# SPDX-License-Identifier: Apache-2.0
"""The protocol: any bytes are a call or refused, and what is sent is what varlinkctl can read."""

from __future__ import annotations

import json
import os
import re
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardend import varlink
from hardend.errors import ProtocolError
from hardend.varlink import (
    DEPTH_LIMIT,
    MESSAGE_LIMIT,
    Call,
    VarlinkError,
    call_message,
    error_message,
    original,
    parse_call,
    reply_message,
    service_error,
    shown,
    take_message,
)

GET = b'{"method":"io.hardend.Status.GetStatus"}'
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)

# Nested values take their time to be made up on a machine that does something else as well.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def nested(depth: int) -> bytes:
    """Return a call that is so deep in all."""
    inner = b"[" * (depth - 2) + b"]" * (depth - 2)
    return b'{"method":"a.B","parameters":{"x":' + inner + b"}}"


@PATIENT
@given(st.binary(max_size=200))
def test_any_bytes_are_a_call_or_refused(data: bytes) -> None:
    try:
        call = parse_call(data)
    except (ProtocolError, VarlinkError):
        return
    assert isinstance(call.method, str)
    assert isinstance(call.parameters, dict)


@PATIENT
@given(st.dictionaries(st.sampled_from(["method", "parameters", "more", "oneway", "upgrade"]), VALUES))
def test_any_object_is_a_call_or_refused(value: dict[str, object]) -> None:
    try:
        call = parse_call(json.dumps(value).encode())
    except (ProtocolError, VarlinkError):
        return
    assert call.method == value["method"]
    assert call.parameters == (value.get("parameters") or {})
    assert call.more is bool(value.get("more"))


@PATIENT
@given(st.text(min_size=1), st.dictionaries(st.text(), VALUES, max_size=3), st.booleans(), st.booleans())
def test_a_call_survives_the_way(
    method: str, parameters: dict[str, object], more: bool, oneway: bool
) -> None:
    call = Call(method, parameters, more, oneway)
    message = call_message(call)
    assert message.count(0) == 1
    if varlink._depth(message) <= DEPTH_LIMIT:
        assert parse_call(message[:-1]) == call


REFUSED = {
    "no text": b"\xff\xfe{}",
    "a mark of byte order": b"\xef\xbb\xbf" + GET,
    "no object": b'["io.hardend.Status.GetStatus"]',
    "cut off": GET[:-1],
    "two calls in one message": GET + GET,
    "one level too deep": nested(DEPTH_LIMIT + 1),
    "as deep as it can be": b"[" * (MESSAGE_LIMIT - 1),
    "brackets after a text that does not end": b'"' + b"[" * 5000,
    "a number of more digits than Python takes": b'{"method":"a.B","parameters":' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_call_at_all_is_refused(what: str) -> None:
    with pytest.raises(ProtocolError):
        parse_call(REFUSED[what])


WRONG = {
    b"{}": "method",
    b'{"method":1}': "method",
    b'{"method":"a.B","parameters":[]}': "parameters",
    b'{"method":"a.B","more":1}': "more",
    b'{"method":"a.B","oneway":"yes"}': "oneway",
    b'{"method":"a.B","upgrade":null}': "upgrade",
}


@pytest.mark.parametrize("message", WRONG)
def test_a_field_of_the_wrong_type_is_named(message: bytes) -> None:
    with pytest.raises(VarlinkError) as caught:
        parse_call(message)
    assert caught.value.name == "org.varlink.service.InvalidParameter"
    assert caught.value.parameters == {"parameter": WRONG[message]}


def test_nobody_may_take_the_connection_over_for_another_protocol() -> None:
    with pytest.raises(VarlinkError, match="MethodNotImplemented"):
        parse_call(b'{"method":"a.B","upgrade":true}')


@pytest.mark.parametrize(
    "message",
    [
        nested(DEPTH_LIMIT),
        b'{"method":"a.B","parameters":{"x":"' + b"[" * 100 + b'"}}',  # brackets in a text are text
        b'{"method":"a.B","parameters":{"x":"\\"' + b"{" * 100 + b'"}}',  # a quote too
        b'{"method":"a.B","parameters":null,"more":false}',
        b' \n{"method":"a.B"}\t',
        b'{"method":"a.B","of a later version":{}}',
    ],
)
def test_near_misses_are_calls(message: bytes) -> None:
    assert parse_call(message).method == "a.B"


@PATIENT
@given(VALUES)
def test_the_depth_is_that_of_the_json(value: object) -> None:
    def depth(of: object) -> int:
        if isinstance(of, dict | list):
            inner = of.values() if isinstance(of, dict) else of
            return 1 + max(map(depth, inner), default=0)
        return 0

    assert varlink._depth(json.dumps(value, ensure_ascii=False).encode()) == depth(value)


def test_the_depth_of_a_hostile_message_takes_no_longer_than_that_of_a_harmless_one() -> None:
    # From each of its quotes a text without end begins, and the last backslash ends none of them.
    hostile = b'"' + b'\\"' * (MESSAGE_LIMIT // 2 - 1) + b"\\"
    harmless = b'"' * MESSAGE_LIMIT

    def best(message: bytes) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            varlink._depth(message)
            times.append(time.perf_counter() - start)
        return min(times)

    assert best(hostile) < 20 * best(harmless)


@PATIENT
@given(st.lists(st.binary(max_size=20).filter(lambda part: 0 not in part), max_size=5), st.binary(max_size=9))
def test_messages_are_taken_one_by_one_and_the_rest_stays(messages: list[bytes], rest: bytes) -> None:
    rest = rest.replace(b"\0", b"")
    buffer = bytearray(b"".join(message + b"\0" for message in messages) + rest)
    taken = []
    while (message := take_message(buffer)) is not None:
        taken.append(message)
    assert taken == messages
    assert bytes(buffer) == rest


def test_a_message_has_a_limit_whether_it_ends_or_not() -> None:
    longest = bytearray(b"x" * (MESSAGE_LIMIT - 1) + b"\0")
    assert take_message(longest) == b"x" * (MESSAGE_LIMIT - 1)
    assert take_message(bytearray(b"x" * (MESSAGE_LIMIT - 1))) is None
    for sent in (b"x" * MESSAGE_LIMIT, b"x" * MESSAGE_LIMIT + b"\0"):
        with pytest.raises(ProtocolError, match=str(MESSAGE_LIMIT)):
            take_message(bytearray(sent))


def test_a_reply_says_whether_another_follows() -> None:
    assert reply_message({"a": 1}) == b'{"parameters":{"a":1}}\0'
    assert reply_message({}, continues=True) == b'{"parameters":{},"continues":true}\0'
    error = VarlinkError("io.hardend.Status.NotRunning", {"guard": "dead"})
    assert error_message(error) == b'{"error":"io.hardend.Status.NotRunning","parameters":{"guard":"dead"}}\0'


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("InterfaceNotFound", "interface"),
        ("MethodNotFound", "method"),
        ("MethodNotImplemented", "method"),
        ("InvalidParameter", "parameter"),
    ],
)
def test_an_error_gives_back_what_was_sent_short_and_harmless(name: str, key: str) -> None:
    error = service_error(name, "\x1b[2J\ud800" + "x" * 10_000)
    text = error.parameters[key]
    assert isinstance(text, str)
    assert text.isascii() and text.isprintable()
    assert len(text) < 1000


@PATIENT
@given(VALUES)
def test_a_shown_value_has_nothing_that_another_parser_refuses(value: object) -> None:
    message = reply_message({"x": shown(value)})
    assert message.count(0) == 1
    # Escapes of surrogates in pairs are characters; what printable lets through is printable.
    assert not re.search(rb"\\u(?:00[01]|00[89]|007f)", message)
    alone = re.sub(rb"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}", b"", message)
    assert not re.search(rb"\\ud[89a-f]", alone)


@PATIENT
@given(st.dictionaries(st.binary(max_size=20).map(os.fsdecode), st.binary(max_size=20).map(os.fsdecode)))
def test_what_was_shown_can_be_had_back(names: dict[str, str]) -> None:
    assert original(shown(names)) == names
    assert original(shown([names, 1, None, 2.5])) == [names, 1, None, 2.5]
