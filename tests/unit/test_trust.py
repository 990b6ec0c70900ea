# SPDX-License-Identifier: Apache-2.0
"""Which generation is enforced: how far a signature reaches, and that there is never none for an error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend.baseline import manifest
from hardend.baseline.coverage import correspondence, differences
from hardend.baseline.manifest import Generation
from hardend.baseline.signature import SIGNERS, Signed, sign
from hardend.baseline.store import Store
from hardend.baseline.trust import in_force, newest_origin, signature_faults
from hardend.config import Settings
from hardend.errors import StoreError
from hardend.model import Class, Entry, FileType, Host, MapSpec, Role
from tests.unit.generations import CONTENT
from tests.unit.generations import generation as make
from tests.unit.signers import OPS, line, trust
from tests.unit.signers import mallory as mallory  # noqa: PLC0414 - a fixture
from tests.unit.signers import ops as ops  # noqa: PLC0414 - a fixture

STRICT = Settings(require_signature=True)
LAX = Settings()


def file(path: str, digest: str, cls: Class = Class.LOCKED, **fields: object) -> Entry:
    made = Entry(path, Role.SOURCE, cls, FileType.FILE, 0, 0, 0o644, "i", 5, 1, digest * 64)
    return replace(made, **fields)  # type: ignore[arg-type] # any of its fields


def database(source: str, digest: str, cls: Class = Class.LOCKED, **fields: object) -> Entry:
    spec = MapSpec("makemap", "hash", source, f"{source}.db")
    made = file(f"{source}.db", digest, cls, role=Role.MAP, spec=spec, answers="a" * 64, flags="")
    return replace(made, gid=51, **fields)  # type: ignore[arg-type] # any of its fields


def entries_of(*entries: Entry) -> dict[str, Entry]:
    above = [
        Entry(path, Role.ANCESTOR, Class.LOCKED, FileType.DIRECTORY, 0, 0, 0o755) for path in ("/", "/m")
    ]
    return {entry.path: entry for entry in (*above, *entries)}


SIGNED = entries_of(
    file("/m/cf", "0"),
    file("/m/names", "1"),
    file("/m/access", "2"),
    database("/m/access", "3"),
    file("/m/users", "4", Class.CHECKED),
    database("/m/users", "5", Class.CHECKED),
    file("/m/key", "", Class.ATTRIBUTES, gid=52),
)


def changed(path: str, **fields: object) -> dict[str, Entry]:
    return {**SIGNED, path: replace(SIGNED[path], **fields)}  # type: ignore[arg-type] # as above


REACHED: dict[str, dict[str, Entry]] = {
    "the same": SIGNED,
    "a map of another library": changed("/m/access.db", digest="9" * 64, size=7, mtime_ns=9, builder="x"),
    "checked content": changed("/m/users", digest="9" * 64, size=7, mtime_ns=9),
    "what a checked map answers": changed("/m/users.db", answers="9" * 64, sources=(("/m/users", "9"),)),
    "a mount point": changed("/m", mount=True),
    "a number of a group": {path: replace(e, gid=e.gid and e.gid + 7) for path, e in SIGNED.items()},
    "groups that change places": {
        path: replace(e, gid={51: 52, 52: 51, 0: 0}[e.gid]) for path, e in SIGNED.items()
    },
    "another directory above": {**SIGNED, "/n": replace(SIGNED["/m"], path="/n")},
}

BEYOND: dict[str, dict[str, Entry]] = {
    "content": changed("/m/cf", digest="9" * 64),
    "a time stamp": changed("/m/cf", mtime_ns=6),
    "a mode": changed("/m/cf", mode=0o666),
    "a missing lock": changed("/m/cf", flags=""),
    "an attribute": changed("/m/cf", xattrs=(("user.x", "00"),)),
    "another class": changed("/m/cf", cls=Class.CHECKED),
    "held no more": changed("/m/cf", cls=Class.ATTRIBUTES, digest=""),
    "what a map answers": changed("/m/access.db", answers="9" * 64),
    "another source of a map": changed("/m/access.db", spec=MapSpec("makemap", "hash", "/m/cf", "/m/x")),
    "a map that is opaque": changed("/m/access.db", opaque=True),
    "a checked file's mode": changed("/m/users", mode=0o666),
    "a path more": {**SIGNED, "/m/sh": file("/m/sh", "9")},
    "a link more": {**SIGNED, "/m/sh": replace(file("/m/sh", ""), role=Role.LINK, kind=FileType.SYMLINK)},
    "a path less": {path: entry for path, entry in SIGNED.items() if path != "/m/access"},
    "a user of its own": changed("/m/cf", uid=1000),
    "root's group for another": {path: replace(e, gid=0) for path, e in SIGNED.items()},
    "one group for two": {path: replace(e, gid=e.gid and 51) for path, e in SIGNED.items()},
    "a directory that all can write": changed("/m", mode=0o777),
}


@pytest.mark.parametrize("case", REACHED)
def test_a_signature_reaches_what_a_host_has_of_its_own(case: str) -> None:
    assert differences(REACHED[case], SIGNED) == []


@pytest.mark.parametrize("case", BEYOND)
def test_a_signature_does_not_reach_anything_else(case: str) -> None:
    assert differences(BEYOND[case], SIGNED)


@pytest.mark.parametrize(
    ("path", "own"), [("/m/names", "/m/names"), ("/m/names", "/m/n*"), ("/m/access.db", "/m/access")]
)
def test_own_paths_may_be_anything_with_their_maps(path: str, own: str) -> None:
    other = changed(path, digest="9" * 64, answers="8" * 64, mode=0o600, gid=77)
    assert differences(other, SIGNED) != []
    assert differences(other, SIGNED, [own]) == []
    without = {name: entry for name, entry in SIGNED.items() if name != path}
    assert differences(without, SIGNED, [own]) == differences(SIGNED, without, [own]) == []


@given(pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=6))
def test_numbers_correspond_one_to_one_or_not_at_all(pairs: list[tuple[int, int]]) -> None:
    wanted = {(0, 0), *pairs}
    one_to_one = len({a for a, _ in wanted}) == len({b for _, b in wanted}) == len(wanted)
    try:
        assert correspondence(("/x", there, here) for there, here in pairs) == dict(wanted)
        assert one_to_one
    except ValueError:
        assert not one_to_one


# In force -----------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path, ops: Path) -> Host:
    made = Host(str(tmp_path))
    trust(made, line(ops))
    return made


@pytest.fixture
def store(host: Host, ops: Path) -> Store:
    """Generation 1 signed, generation 2 not, with other content."""
    made = Store(host)
    add(made, 1)
    sign_it(made, 1, ops)
    add(made, 2)
    return made


def add(store: Store, number: int, content: int = 0, **fields: object) -> Generation:
    with store.locked():
        made = make(store, content or number)
        made = replace(made, number=number, time="2026-11-24T00:00:00+00:00", **fields)  # type: ignore[arg-type]
        store.add_generation(made)
    return made


def sign_it(store: Store, number: int, key: Path) -> None:
    with store.locked():
        store.attach_signature(number, sign(store.raw_manifest(number), str(key)))


def test_where_no_signature_is_asked_for_the_current_one_is_in_force(host: Host, store: Store) -> None:
    found = in_force(host, store, LAX)
    assert (found.generation.number, found.signer, found.faults) == (2, None, ())
    (Path(host.store_dir) / "current").write_bytes(b"x")
    found = in_force(host, store, LAX)
    assert found.generation.number == 2
    assert any("current: damaged" in fault for fault in found.faults)


def test_an_unsigned_generation_waits_for_its_signature(host: Host, store: Store, ops: Path) -> None:
    found = in_force(host, store, STRICT)
    assert found.generation.number == 1
    assert found.signer is not None
    assert found.signer.principal == OPS
    assert found.faults == (
        "generation 2 is not enforced: no signature reaches it: /etc/cf is not as it was signed",
    )
    sign_it(store, 2, ops)
    found = in_force(host, store, STRICT)
    assert (found.generation.number, found.faults) == (2, ())


def test_a_generation_that_its_signed_predecessor_reaches_is_in_force(host: Host, store: Store) -> None:
    add(store, 3, content=1)
    assert in_force(host, store, STRICT).generation.number == 3
    add(store, 4, content=2)
    found = in_force(host, store, STRICT)
    assert found.generation.number == 3
    assert len(found.faults) == 1


def test_a_generation_of_another_layout_is_not_reached(host: Host, store: Store) -> None:
    add(store, 3, content=1, layout="redhat")
    found = in_force(host, store, STRICT)
    assert found.generation.number == 1
    assert "its layout redhat is not the signed one" in found.faults[0]


def test_an_imported_generation_stands_on_the_one_it_came_from(host: Host, store: Store, ops: Path) -> None:
    there = manifest.render(replace(make(store, 3), number=77, author="far away"))
    add(store, 3)
    origin = Signed(there, sign(there, str(ops)))
    with store.locked():
        store.attach_origin(3, origin)
    assert store.origin(3) == origin
    assert newest_origin(store) == (77, manifest.digest(there))
    assert in_force(host, store, STRICT).generation.number == 3
    with store.locked():  # of other content than this generation has
        other = manifest.render(replace(make(store, 2), number=78))
        store.attach_origin(3, Signed(other, sign(other, str(ops))))
    found = in_force(host, store, STRICT)
    assert found.generation.number == 1
    assert "generation 3 is not enforced" in found.faults[0]


def test_a_key_that_runs_out_does_not_leave_a_host_unprotected(host: Host, store: Store, ops: Path) -> None:
    trust(host, line(ops, options='valid-before="20261125"'))
    assert in_force(host, store, STRICT).generation.number == 1
    trust(host, line(ops, options='valid-before="20261120"'))
    with pytest.raises(StoreError, match="expired"):
        in_force(host, store, STRICT)


def _flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _link_above(path: Path) -> None:
    path.parent.rename(path.parent.parent / "elsewhere")
    path.parent.symlink_to("elsewhere")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "changed": _flip,
    "a link": _link,
    "a link above": _link_above,
    "emptied": lambda path: path.write_bytes(b""),
    "huge": lambda path: path.write_bytes(b"x" * 100_000),
    "a directory": _directory,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["manifest.json.sig", "manifest.json", "digest"])
def test_the_last_generation_that_verifies_is_in_force_and_the_fault_is_said(
    host: Host, store: Store, ops: Path, name: str, damage: str
) -> None:
    sign_it(store, 2, ops)
    DAMAGES[damage](Path(host.store_dir) / "generations/2" / name)
    found = in_force(host, store, STRICT)
    assert found.generation.number == 1
    assert found.generation.entries["/etc/cf"].digest == Store.digest_of(CONTENT[1])
    assert found.faults
    assert all("generation" in fault for fault in found.faults)
    if damage != "removed" or name != "manifest.json.sig":
        assert signature_faults(host, store) + store.verify() != []


def test_a_generation_that_an_intruder_signed_is_not_in_force(
    host: Host, store: Store, mallory: Path
) -> None:
    sign_it(store, 2, mallory)
    found = in_force(host, store, STRICT)
    assert found.generation.number == 1
    assert "not of one who may sign" in found.faults[0]
    assert len(signature_faults(host, store)) == 1


def test_signatures_are_only_judged_where_somebody_may_sign(host: Host, store: Store, mallory: Path) -> None:
    sign_it(store, 2, mallory)
    Path(host.at(SIGNERS)).unlink()
    assert signature_faults(host, store) == []


def test_where_nothing_verifies_that_is_an_error_and_never_an_empty_baseline(
    host: Host, store: Store, mallory: Path
) -> None:
    trust(host, line(mallory))
    with pytest.raises(StoreError, match="no generation has a signature that verifies: gen") as caught:
        in_force(host, store, STRICT)
    assert "baseline sign" in caught.value.hint
    shutil.rmtree(Path(host.store_dir) / "generations")
    for settings in (STRICT, LAX):
        with pytest.raises(StoreError):
            in_force(host, store, settings)
