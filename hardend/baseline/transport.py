# SPDX-License-Identifier: Apache-2.0
"""A generation as plain files or one tar, out of the store and in again.

``manifest.json``, ``manifest.json.sig`` where it is signed, ``objects/<sha256>``; nothing else. The same
generation gives the same bytes: sorted names, no time, owner or mode of the host. Nothing of what comes
in is trusted before the signature of its manifest was checked: no archive library reads it, no name of it
becomes a path, no header of it decides more than where the next one is.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from hardend.baseline import manifest, signature
from hardend.baseline.manifest import Generation
from hardend.baseline.signature import SIGNATURE_LIMIT, Signed, Signer
from hardend.baseline.store import MANIFEST_LIMIT, Store
from hardend.errors import FileError, StoreError
from hardend.kernel import paths
from hardend.model import Class, Entry, Host, Role, printable

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
OBJECTS = "objects"
OBJECT_LIMIT = 512 << 20  # bytes; a map of a million entries is 100 MiB
TOTAL_LIMIT = 2 << 30
_MEMBERS_LIMIT = 10_000
_OBJECT = re.compile(r"objects/([0-9a-f]{64})")
_BLOCK = 512
_MAGIC = (b"ustar\x0000", b"ustar  \x00")  # POSIX, and GNU tar's own (tar(5))
_FILE, _DIRECTORY = (b"0", b"\x00"), b"5"
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a FIFO",
    b"S": "a sparse file",
    b"x": "a pax header",
    b"g": "a pax header",
    b"L": "a long name",
    b"K": "a long name",
}
_OURS = "hardend baseline export writes one that can be imported; a directory of plain files does too"


class Parcel(Protocol):
    """What was carried here: names and sizes, and the bytes of a name."""

    sizes: Mapping[str, int]

    def read(self, name: str) -> bytes:
        """Return the bytes of a name. Raises FileError when they cannot be had in full."""


@dataclass(frozen=True, slots=True)
class Received:
    """A generation of another store whose signature was checked; its objects are read when asked for."""

    generation: Generation
    signed: Signed
    signer: Signer
    parcel: Parcel

    def object(self, entry: Entry) -> bytes:
        """Return the content of an entry. Raises FileError or StoreError when it is not what was signed."""
        name = f"{OBJECTS}/{entry.digest}"
        if self.parcel.sizes.get(name) != entry.size:
            raise StoreError(f"{name} ({printable(entry.path)}): missing, or of another size than signed")
        data = self.parcel.read(name)
        if manifest.digest(data) != entry.digest:
            raise StoreError(f"{name} ({printable(entry.path)}): its digest is wrong")
        return data


# Out ----------------------------------------------------------------------------------------------


def members(store: Store, number: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of everything that a generation consists of, by name. Raises StoreError."""
    generation = store.generation(number)
    yield MANIFEST, store.raw_manifest(number)
    signed = store.signature(number)
    if signed is not None:
        yield SIGNATURE, signed.signature
    for digest in sorted({entry.digest for entry in generation.entries.values() if entry.digest}):
        yield f"{OBJECTS}/{digest}", store.object(digest)


def write_tar(store: Store, number: int, file: BinaryIO) -> None:
    """Write a generation as a tar (ustar). Raises StoreError when any part of it is damaged."""
    for name, data in members(store, number):
        file.writelines((_header(name, len(data)), data, bytes(-len(data) % _BLOCK)))
    file.write(bytes(2 * _BLOCK))


def write_directory(store: Store, number: int, directory: str) -> None:
    """Write a generation into a directory, made if it is not there, root's alone.

    It may hold an earlier export, of which what is not needed is removed. Raises FileError where it
    holds anything else.
    """
    shown = printable(directory)
    for made in (directory, os.path.join(directory, OBJECTS)):
        os.makedirs(made, 0o700, exist_ok=True)
    old = _names(directory, shown)
    last = []
    for name, data in members(store, number):
        old.pop(name, None)
        if name in {MANIFEST, SIGNATURE}:
            last.append((name, data))
        else:
            write_file(os.path.join(directory, name), data)
    # The manifest at the end: what a reader finds before that does not verify.
    for name, data in reversed(last):
        write_file(os.path.join(directory, name), data)
    for name in old:
        os.unlink(os.path.join(directory, name))


def write_file(path: str, data: bytes) -> None:
    """Put a file of root's alone in place, complete or not at all. Raises OSError."""
    aside = f"{path}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(aside, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(aside, path)


def _header(name: str, size: int) -> bytes:
    fields = (
        *(name.encode("ascii").ljust(100, b"\0"), b"0000600\0", b"0000000\0", b"0000000\0"),
        *(b"%011o\0" % size, b"00000000000\0", b" " * 8, b"0", bytes(100), _MAGIC[0], bytes(247)),
    )
    plain = b"".join(fields)
    return plain[:148] + b"%06o\0 " % sum(plain) + plain[156:]


# In -----------------------------------------------------------------------------------------------


@contextmanager
def received(host: Host, path: str) -> Iterator[Received]:
    """Open a directory or tar and check its signature; the parcel is readable inside of the ``with``.

    Raises FileError for anything that is not an export, StoreError (SignatureError among them) for one
    whose manifest is not signed by one of this host's allowed_signers, or is none.
    """
    shown = printable(path)
    with _opened(path) as parcel:
        _require_expected(parcel.sizes, shown)
        if SIGNATURE not in parcel.sizes:
            raise signature.SignatureError(
                f"{shown}: it is not signed",
                hint=f"ssh-keygen -Y sign -n {signature.NAMESPACE} -f KEY {MANIFEST} makes {SIGNATURE}",
            )
        signed = Signed(parcel.read(MANIFEST), parcel.read(SIGNATURE))
        signer = signature.verify(host, signed, shown)
        generation = manifest.parse(signed.manifest, f"{shown}: {MANIFEST}")
        _require_plain(generation, parcel.sizes, shown)
        yield Received(generation, signed, signer, parcel)


def _require_expected(sizes: Mapping[str, int], shown: str) -> None:
    limits = {MANIFEST: MANIFEST_LIMIT, SIGNATURE: SIGNATURE_LIMIT}
    if MANIFEST not in sizes:
        raise FileError(f"{shown}: no {MANIFEST} in it: not an exported generation", hint=_OURS)
    for name, size in sizes.items():
        if size > limits.get(name, OBJECT_LIMIT):
            raise FileError(f"{shown}: {name}: {size} bytes are too many")
    if sum(sizes.values()) > TOTAL_LIMIT:
        raise FileError(f"{shown}: over {TOTAL_LIMIT >> 30} GiB")


def _require_plain(generation: Generation, sizes: Mapping[str, int], shown: str) -> None:
    """Refuse a signed generation that no approval makes: content that is not held, or not there."""
    digests = {entry.digest for entry in generation.entries.values() if entry.digest}
    for entry in generation.entries.values():
        holds = entry.holds_content or (entry.role is Role.MAP and entry.cls is not Class.IGNORED)
        if entry.digest and not holds:
            raise StoreError(f"{shown}: {printable(entry.path)} is held by attributes, and content is given")
    names = {name for name in sizes if _OBJECT.fullmatch(name)}
    if (strange := sorted(names - {f"{OBJECTS}/{digest}" for digest in digests})):
        raise FileError(f"{shown}: {strange[0]} belongs to nothing in the manifest")
    if len(names) != len(digests):
        raise FileError(f"{shown}: {len(digests) - len(names)} objects are missing")


@contextmanager
def _opened(path: str) -> Iterator[Parcel]:
    shown = printable(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise FileError(f"{shown}: {reason}") from error
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            yield _Directory(descriptor, shown)
        elif stat.S_ISREG(kind):
            yield _Tar(descriptor, shown)
        else:
            raise FileError(f"{shown}: neither a directory nor a file", hint=_OURS)
    finally:
        os.close(descriptor)


class _Directory:
    """An export as plain files; no link of it is followed, nothing but files is opened."""

    def __init__(self, descriptor: int, shown: str) -> None:
        self._descriptor = descriptor
        self._shown = shown
        self.sizes: Mapping[str, int] = _names(f"/proc/self/fd/{descriptor}", shown)

    def read(self, name: str) -> bytes:
        """Return the bytes of a file that did not change its size since it was listed."""
        where = f"{self._shown}/{name}"
        try:
            descriptor = paths.open_beneath(
                self._descriptor, name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
            )
            with os.fdopen(descriptor, "rb") as file:
                is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
                data = file.read(self.sizes[name] + 1) if is_file else b""
        except OSError as error:
            raise FileError(f"{where}: {error.strerror}") from error
        if not is_file or len(data) != self.sizes[name]:
            raise FileError(f"{where}: changed while it was read")
        return data


def _names(directory: str, shown: str) -> dict[str, int]:
    """Return names and sizes in an exported directory; anything else that is in it is an error."""
    sizes: dict[str, int] = {}
    for below in ("", OBJECTS):
        try:
            with os.scandir(os.path.join(directory, below)) as entries:
                for entry in entries:
                    name = os.path.join(below, entry.name)
                    found = entry.stat(follow_symlinks=False)
                    if name == OBJECTS and stat.S_ISDIR(found.st_mode):
                        continue
                    _require_name(name, shown)
                    if not stat.S_ISREG(found.st_mode):
                        raise FileError(f"{shown}: {printable(name)}: not a regular file")
                    sizes[name] = found.st_size
                    _require_count(len(sizes), shown)
        except FileNotFoundError as error:
            if not below:
                raise FileError(f"{shown}: {error.strerror}") from error
        except OSError as error:
            raise FileError(f"{shown}: {error.strerror}") from error
    return sizes


def _require_name(name: str, shown: str) -> None:
    if name not in {MANIFEST, SIGNATURE} and not _OBJECT.fullmatch(name):
        raise FileError(f"{shown}: {printable(name)} is no part of an exported generation", hint=_OURS)


def _require_count(count: int, shown: str) -> None:
    if count > _MEMBERS_LIMIT:
        raise FileError(f"{shown}: over {_MEMBERS_LIMIT} members")


class _Tar:
    """An export as a tar: ustar with plain files of the expected names, each once."""

    def __init__(self, descriptor: int, shown: str) -> None:
        self._descriptor = descriptor
        self._shown = shown
        self._offsets: dict[str, int] = {}
        self.sizes: Mapping[str, int] = self._index()

    def read(self, name: str) -> bytes:
        """Return the bytes of a member."""
        size, offset = self.sizes[name], self._offsets[name]
        data = bytearray()
        while len(data) < size:
            part = self._pread(min(size - len(data), 1 << 20), offset + len(data))
            if not part:
                raise FileError(f"{self._shown}: {name}: cut off")
            data += part
        return bytes(data)

    def _pread(self, length: int, offset: int) -> bytes:
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise FileError(f"{self._shown}: {error.strerror}") from error

    def _index(self) -> dict[str, int]:
        """Return names and sizes. Raises FileError for any header that an export does not have."""
        sizes: dict[str, int] = {}
        offset = headers = 0
        length = os.fstat(self._descriptor).st_size
        while (block := self._pread(_BLOCK, offset)) != bytes(_BLOCK):
            if len(block) < _BLOCK:
                raise FileError(f"{self._shown}: not a whole tar", hint=_OURS)
            name, size = self._member(block)
            offset += _BLOCK
            if name:
                if name in sizes:
                    raise FileError(f"{self._shown}: {name} is in it twice")
                sizes[name], self._offsets[name] = size, offset
                offset += size + -size % _BLOCK
            headers += 1
            _require_count(headers, self._shown)
            if offset > length:
                raise FileError(f"{self._shown}: {printable(name)}: longer than the file")
        return sizes

    def _member(self, block: bytes) -> tuple[str, int]:
        """Return name and size of a header, no name for a directory. Raises FileError for all else."""
        magic, kind = block[257:265], block[156:157]
        plain = block[:148] + b" " * 8 + block[156:]
        if magic not in _MAGIC or _octal(block[148:156]) != sum(plain):
            raise FileError(f"{self._shown}: not a tar, or a damaged one", hint=_OURS)
        name = block[:100].rstrip(b"\0").decode("utf-8", "surrogateescape").removeprefix("./")
        shown = printable(name)
        if kind == _DIRECTORY and name.rstrip("/") in {"", ".", OBJECTS} and not _octal(block[124:136]):
            return "", 0
        if kind not in _FILE:
            what = _KINDS.get(kind, "a member of a kind that an export does not have")
            raise FileError(f"{self._shown}: {shown}: {what}", hint=_OURS)
        if any(block[157:257]) or any(block[345:500]):
            raise FileError(f"{self._shown}: {shown}: a header that an export does not have", hint=_OURS)
        _require_name(name, self._shown)
        size = _octal(block[124:136])
        if size is None or size > OBJECT_LIMIT:
            raise FileError(f"{self._shown}: {shown}: no size, or too large a one")
        return name, size


def _octal(field: bytes) -> int | None:
    """Return a number of a header; None for what is none, base-256 among it, which no export needs."""
    text = field.strip(b" \0")
    return int(text, 8) if re.fullmatch(rb"[0-7]{1,11}", text) else None
