# SPDX-License-Identifier: Apache-2.0
"""Tars that nobody exported: every header that could mislead a reader is refused."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hardend.errors import FileError, StoreError
from hardend.model import Host
from tests.unit.exports import OBJECT, receive, tar_of
from tests.unit.exports import host as host  # noqa: PLC0414 - a fixture
from tests.unit.exports import put as put  # noqa: PLC0414 - a fixture
from tests.unit.generations import CONTENT
from tests.unit.signers import ops as ops  # noqa: PLC0414 - a fixture


def members_of(host: Host) -> list[tuple[tarfile.TarInfo, bytes]]:
    found = []
    with tarfile.open(fileobj=io.BytesIO(tar_of(host))) as tar:
        for item in tar.getmembers():
            content = tar.extractfile(item)
            found.append((item, content.read() if content else b""))
    return found


def packed(members: list[tuple[tarfile.TarInfo, bytes]], kind: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for item, content in members:
            tar.addfile(item, io.BytesIO(content))
    return file.getvalue()


def with_member(host: Host, **fields: object) -> bytes:
    """Return the export with one member more."""
    extra = tarfile.TarInfo(str(fields.pop("name", "extra")))
    data = fields.pop("data", b"")
    assert isinstance(data, bytes)
    extra.size = len(data)
    for name, value in fields.items():
        setattr(extra, name, value)
    return packed([*members_of(host), (extra, data)])


def with_header(host: Host, start: int, value: bytes) -> bytes:
    """Return the export with other bytes in the header of the object, its checksum right."""
    data = bytearray(tar_of(host))
    at = data.index(OBJECT.encode())
    data[at + start : at + start + len(value)] = value
    plain = data[at : at + 148] + b" " * 8 + data[at + 156 : at + 512]
    data[at + 148 : at + 156] = b"%06o\0 " % sum(plain)
    return bytes(data)


def _pax(host: Host) -> bytes:
    members = members_of(host)
    members[0][0].pax_headers = {"path": "/etc/passwd"}
    return packed(members, tarfile.PAX_FORMAT)


def _global_pax(host: Host) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"size": "1"}) as tar:
        for item, content in members_of(host):
            tar.addfile(item, io.BytesIO(content))
    return file.getvalue()


HOSTILE_TARS: dict[str, Callable[[Host], bytes]] = {
    "a stranger": lambda h: with_member(h, name="README"),
    "an absolute name": lambda h: with_member(h, name="/etc/passwd"),
    "a name that leads up": lambda h: with_member(h, name="objects/../../../etc/passwd"),
    "two dots": lambda h: with_member(h, name=".."),
    "a name twice": lambda h: packed([*members_of(h), members_of(h)[0]]),
    "a name twice, one with a dot": lambda h: with_member(h, name="./manifest.json", data=b"{}"),
    "a symbolic link": lambda h: with_member(
        h, name="objects/" + "0" * 64, type=tarfile.SYMTYPE, linkname="/etc/shadow"
    ),
    "a hard link": lambda h: with_member(
        h, name="objects/" + "0" * 64, type=tarfile.LNKTYPE, linkname="manifest.json"
    ),
    "a character device": lambda h: with_member(h, name="objects/" + "0" * 64, type=tarfile.CHRTYPE),
    "a block device": lambda h: with_member(h, name="objects/" + "0" * 64, type=tarfile.BLKTYPE),
    "a fifo": lambda h: with_member(h, name="objects/" + "0" * 64, type=tarfile.FIFOTYPE),
    "a sparse file": lambda h: with_header(h, 156, b"S"),
    "a contiguous file": lambda h: with_header(h, 156, b"7"),
    "a kind that does not exist": lambda h: with_header(h, 156, b"\xff"),
    "a directory": lambda h: with_member(h, name="etc", type=tarfile.DIRTYPE),
    "a directory with content": lambda h: with_member(
        h, name="objects", type=tarfile.DIRTYPE, data=bytes(512)
    ),
    "a pax header": _pax,
    "a pax header for all": _global_pax,
    "a long name": lambda h: with_member(h, name="x" * 300),
    "a long link": lambda h: with_member(h, name="y", type=tarfile.SYMTYPE, linkname="z" * 300),
    "a prefix": lambda h: with_header(h, 345, b"/etc"),
    "a link name on a file": lambda h: with_header(h, 157, b"/etc/shadow"),
    "a size of terabytes": lambda h: with_header(h, 124, b"77777777777\0"),
    "a size in base 256": lambda h: with_header(h, 124, b"\x80" + b"\xff" * 11),
    "a negative size": lambda h: with_header(h, 124, b"-0000000001\0"),
    "no size": lambda h: with_header(h, 124, b"\0" * 12),
    "a larger size": lambda h: with_header(h, 124, b"00000000777\0"),
    "a smaller size": lambda h: with_header(h, 124, b"00000000001\0"),
    "an object that is not named": lambda h: with_member(h, name="objects/" + "0" * 64),
    "a missing object": lambda h: packed(members_of(h)[:-1]),
    "no manifest": lambda h: packed(members_of(h)[1:]),
    "no signature": lambda h: packed([members_of(h)[0], members_of(h)[2]]),
    "a wrong checksum": lambda h: tar_of(h).replace(b"ustar\x0000", b"ustar\x0001", 1),
    "another object": lambda h: tar_of(h).replace(CONTENT[1], CONTENT[1][::-1]),
    "another manifest": lambda h: tar_of(h).replace(b"reason 1", b"reason 9"),
    "cut off in a header": lambda h: tar_of(h)[:700],
    "cut off in the content": lambda h: tar_of(h)[: -1024 - 512],
    "cut off at the end": lambda h: tar_of(h)[:-1024],
    "compressed": lambda h: gzip.compress(tar_of(h)),
    "empty": lambda h: b"",  # noqa: ARG005 - a row of the table
    "only zeros": lambda h: bytes(10240),  # noqa: ARG005 - a row of the table
    "directories without end": lambda h: packed([(_directory(), b"")] * 20_000) + tar_of(h),
}


def _directory() -> tarfile.TarInfo:
    made = tarfile.TarInfo("objects")
    made.type = tarfile.DIRTYPE
    return made


@pytest.mark.parametrize("hostile", HOSTILE_TARS)
def test_a_hostile_tar_is_refused(host: Host, put: Callable[[bytes], Path], hostile: str) -> None:
    with pytest.raises((FileError, StoreError)) as caught:
        receive(host, put(HOSTILE_TARS[hostile](host)))
    assert str(caught.value).isprintable()
