# SPDX-License-Identifier: Apache-2.0
"""The manifest: what is written is what is read, and anything else is refused with a reason."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.baseline import manifest
from hardend.baseline.manifest import Generation
from hardend.errors import StoreError
from hardend.model import Class, Entry, FileType, MapSpec, Role

# Bytes that are no UTF-8 are surrogates in a name (os.fsdecode); newlines and escapes are plain names.
_CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"),
    st.sampled_from([*"\n\r\x1b\t \\", *map(chr, range(0xDC80, 0xDD00))]),
)
NAMES = st.text(_CHARACTERS, min_size=1, max_size=8).filter(lambda name: name not in {".", ".."})
TEXTS = st.text(_CHARACTERS, max_size=12)
PAIRS = st.lists(st.tuples(TEXTS, st.binary(max_size=6).map(bytes.hex)), max_size=3).map(tuple)
DIGESTS = st.sampled_from(["", "0" * 64, "ab" * 32])
SPECS = st.none() | st.builds(
    MapSpec, TEXTS, TEXTS, TEXTS, TEXTS, flags=st.lists(TEXTS, max_size=2).map(tuple)
)


def _directory(path: str) -> Entry:
    return Entry(path, Role.ANCESTOR, Class.LOCKED, FileType.DIRECTORY, 0, 0, 0o755)


@st.composite
def _entries(draw: st.DrawFn) -> dict[str, Entry]:
    entries = {"/": _directory("/")}
    for parts in draw(st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=4)):
        path = "/" + "/".join(parts)
        above = os.path.dirname(path)
        while above not in entries:
            entries[above] = _directory(above)
            above = os.path.dirname(above)
        entries[path] = Entry(
            path=path,
            role=draw(st.sampled_from(Role)),
            cls=draw(st.sampled_from(Class)),
            kind=draw(st.sampled_from(FileType)),
            uid=draw(st.integers(0, 65534)),
            gid=draw(st.integers(0, 65534)),
            mode=draw(st.integers(0, 0o7777)),
            flags=draw(st.sampled_from(["", "i", "a", "ia"])),
            mtime_ns=draw(st.integers(-(1 << 62), 1 << 62)),
            size=draw(st.integers(0, 1 << 50)),
            digest=draw(DIGESTS),
            target=draw(TEXTS),
            xattrs=draw(PAIRS),
            spec=draw(SPECS),
            answers=draw(DIGESTS),
            builder=draw(TEXTS),
            sources=draw(PAIRS),
            opaque=draw(st.booleans()),
            mount=draw(st.booleans()),
        )
    # What holds another entry is a directory.
    for path in list(entries):
        above = os.path.dirname(path)
        if entries[above].kind is not FileType.DIRECTORY:
            entries[above] = _directory(above)
    return entries


GENERATIONS = st.builds(
    Generation,
    number=st.integers(1, 1 << 30),
    parent=DIGESTS,
    time=TEXTS,
    author=TEXTS,
    reason=TEXTS,
    layout=TEXTS,
    hardend=TEXTS,
    sendmail=TEXTS,
    entries=_entries(),
)


def _sample() -> dict[str, Any]:
    """Return a manifest with every field of an entry away from its default, as a JSON document."""
    entries = {
        "/": _directory("/"),
        "/etc": _directory("/etc"),
        "/etc/a.db": Entry(
            path="/etc/a.db",
            role=Role.MAP,
            cls=Class.LOCKED,
            kind=FileType.FILE,
            uid=1,
            gid=2,
            mode=0o640,
            flags="i",
            mtime_ns=5,
            size=7,
            digest="ab" * 32,
            target="x",
            xattrs=(("user.a", "00"),),
            spec=MapSpec("makemap", "hash", "/etc/a", "/etc/a.db", ("-f",)),
            answers="cd" * 32,
            builder="db5",
            sources=(("/etc/a", "ef" * 32),),
            opaque=True,
            mount=True,
        ),
    }
    generation = Generation(2, "ab" * 32, "now", "root", "why", "debian", "0.1", "8.17", entries)
    document = json.loads(manifest.render(generation))
    assert isinstance(document, dict)
    return document


def _bytes(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


@given(GENERATIONS)
def test_what_is_written_is_what_is_read(generation: Generation) -> None:
    data = manifest.render(generation)
    assert manifest.parse(data, "m") == generation
    assert data == manifest.render(manifest.parse(data, "m"))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_generation_or_refused_by_name(data: bytes) -> None:
    said = hint = ""
    try:
        assert manifest.render(manifest.parse(data, "/store/manifest.json")) == data
    except StoreError as error:
        said, hint = str(error), error.hint
    assert said.startswith("/store/manifest.json: ") or not said
    assert "verify" in hint or not said


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_PLACES = [
    *((name,) for name in _sample()),
    *(("entries", 2, name) for name in _sample()["entries"][2]),
    *(("entries", 2, "spec", name) for name in _sample()["entries"][2]["spec"]),
    ("entries", 0),
    ("entries", 2),
]


def _put(document: Any, place: tuple[Any, ...], value: object) -> None:
    for step in place[:-1]:
        document = document[step]
    document[place[-1]] = value


@given(st.sampled_from(_PLACES), _JSON)
def test_any_value_in_any_field_is_a_generation_or_refused(place: tuple[Any, ...], value: object) -> None:
    document = _sample()
    _put(document, place, value)
    data = _bytes(document)
    try:
        generation = manifest.parse(data, "m")
    except StoreError:
        return
    assert manifest.render(generation) == data


@pytest.mark.parametrize("place", _PLACES, ids=lambda place: ".".join(map(str, place)))
@pytest.mark.parametrize("value", [None, 1.5, {"x": 1}, [1], -1, True, "\ud800", ["a", "b"]], ids=repr)
def test_a_field_of_another_type_is_refused(place: tuple[Any, ...], value: object) -> None:
    document = _sample()
    _put(document, place, value)
    text_field = place in {(name,) for name in manifest._TEXTS} or place[-1] in {"builder", "answers"}
    boolean = place[-1] in {"opaque", "mount"} and value is True
    text_in_spec = place[:3] == ("entries", 2, "spec") and place[3:] not in {(), ("flags",)}
    flags_of_spec = place[-2:] == ("spec", "flags") and value == ["a", "b"]
    number = place == ("number",) and value == -1
    signed = place[-1] == "mtime_ns" and value == -1
    text = isinstance(value, str) and (text_field or text_in_spec)
    if boolean or flags_of_spec or number or signed or text:
        # Of the right type: that it is the wrong value is what the digest tells.
        assert manifest.render(manifest.parse(_bytes(document), "m")) == _bytes(document)
        return
    with pytest.raises(StoreError, match=r"^m: damaged manifest: "):
        manifest.parse(_bytes(document), "m")


@pytest.mark.parametrize("name", sorted(_sample()))
def test_a_missing_field_is_refused(name: str) -> None:
    document = _sample()
    del document[name]
    with pytest.raises(StoreError):
        manifest.parse(_bytes(document), "m")


@pytest.mark.parametrize("name", ["path", "role", "cls", "kind", "uid", "gid", "mode"])
def test_an_entry_without_a_field_that_has_no_default_is_refused(name: str) -> None:
    document = _sample()
    del document["entries"][2][name]
    with pytest.raises(StoreError):
        manifest.parse(_bytes(document), "m")


WRONG_VALUES: dict[str, tuple[str, object]] = {
    "a relative path": ("path", "etc/a.db"),
    "a path that climbs": ("path", "/etc/../etc/a.db"),
    "a path with an empty part": ("path", "/etc//a.db"),
    "a path with a dot": ("path", "/etc/./a.db"),
    "a path that ends in a slash": ("path", "/etc/a.db/"),
    "a path with a NUL": ("path", "/etc/a\0.db"),
    "a path that no file system has": ("path", "/etc/\ud800"),
    "an empty path": ("path", ""),
    "a path without its directory": ("path", "/var/a.db"),
    "a path in a file": ("path", "/etc/a.db/x"),
    "a target with a NUL": ("target", "a\0b"),
    "a short digest": ("digest", "ab"),
    "a digest that leads elsewhere": ("digest", "../" * 21 + "x"),
    "an unknown role": ("role", "ruler"),
    "an unknown class": ("cls", "free"),
    "an unknown kind": ("kind", "door"),
    "flags that are none": ("flags", "ai"),
    "a mode beyond chmod": ("mode", 0o10000),
    "a negative owner": ("uid", -1),
    "the owner that means no change": ("uid", (1 << 32) - 1),
    "a negative group": ("gid", -1),
    "a negative size": ("size", -1),
    "a time that utimensat refuses": ("mtime_ns", 1 << 80),
    "an attribute that is not hex": ("xattrs", [["user.a", "zz"]]),
    "an attribute with half a byte": ("xattrs", [["user.a", "0"]]),
    "a pair of three": ("xattrs", [["user.a", "00", "11"]]),
    "a number as a name": ("sources", [[1, "00"]]),
    "an unknown field": ("colour", "red"),
    "a default that is spelled out": ("target", ""),
}


@pytest.mark.parametrize("what", WRONG_VALUES)
def test_a_value_that_no_approval_writes_is_refused(what: str) -> None:
    name, value = WRONG_VALUES[what]
    document = _sample()
    document["entries"][2][name] = value
    with pytest.raises(StoreError):
        manifest.parse(_bytes(document), "m")


def test_a_path_that_stands_twice_is_refused() -> None:
    document = _sample()
    document["entries"].append({**document["entries"][2], "uid": 7})
    with pytest.raises(StoreError):
        manifest.parse(_bytes(document), "m")


def test_another_schema_is_refused() -> None:
    document = _sample()
    document["schema"] = manifest.SCHEMA + 1
    with pytest.raises(StoreError, match="schema"):
        manifest.parse(_bytes(document), "m")


@pytest.mark.parametrize("depth", [10, 500, 900, 950, 990, 5000, 200_000])
def test_nesting_without_end_is_refused(depth: int) -> None:
    for shape in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
        document = _bytes(_sample()).replace(b'"entries":[', b'"entries":[' + shape + b",", 1)
        for data in (shape, document, b"[" * depth):
            with pytest.raises(StoreError):
                manifest.parse(data, "m")


def test_one_changed_byte_is_another_generation_or_refused() -> None:
    data = _bytes(_sample())
    whole = manifest.parse(data, "m")
    for index in range(len(data)):
        changed = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
        try:
            assert manifest.parse(changed, "m") != whole
        except StoreError:
            continue
