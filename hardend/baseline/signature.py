# SPDX-License-Identifier: Apache-2.0
"""Signatures of manifests: SSHSIG, made and checked by ssh-keygen (ssh-keygen(1), ``-Y``).

Who may sign stands in /etc/hardend/allowed_signers (ALLOWED SIGNERS of ssh-keygen(1)), one line for each
key; ``namespaces="baseline@hardend"`` there binds a key to this use. A key that is taken out of the file
is not trusted any more, for what it signed before neither.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from hardend.command import Ran, run
from hardend.errors import CommandError, FileError, StoreError
from hardend.kernel import paths
from hardend.model import Host, printable

NAMESPACE = "baseline@hardend"
SIGNERS = "/etc/hardend/allowed_signers"
SIGNATURE_LIMIT = 64 << 10  # bytes; of an RSA key of 16384 bits with its certificate it is 6 KiB
_SIGNERS_LIMIT = 1 << 20
_TIMEOUT_S = 20.0
_SIGN_TIMEOUT_S = 120.0  # an agent may ask its user, a security key waits for a touch
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_BEGIN = b"-----BEGIN SSH SIGNATURE-----"
_GOOD = re.compile(r'Good "[^"]*" signature (?:for .* )?with (\S+) key (SHA256:\S+)')
# A time that ssh-keygen takes; before it there was no SSHSIG.
_FIRST_YEAR = 2019


class SignatureError(StoreError):
    """There is no signature, it is not of these bytes, or not of one who may sign."""


@dataclass(frozen=True, slots=True)
class Signed:
    """The bytes of a manifest and those of its signature; nothing says yet that they belong together."""

    manifest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Signer:
    """Whose signature it is: the principal of allowed_signers, the kind and fingerprint of the key."""

    principal: str
    key: str


def has_signers(host: Host) -> bool:
    """Return whether this host has a list of those who may sign, good or not."""
    return os.path.lexists(host.at(SIGNERS))


def verify(host: Host, signed: Signed, where: str, *, at: str = "") -> Signer:
    """Return who signed the manifest; ``where`` names it in errors.

    ``at`` is the moment at which the key must have been valid (ISO 8601), now by default. Raises
    SignatureError when nobody did who may, FileError for an allowed_signers that is not root's alone,
    CommandError without a usable ssh-keygen.
    """
    if not signed.signature.lstrip().startswith(_BEGIN) or len(signed.signature) > SIGNATURE_LIMIT:
        raise SignatureError(f"{where}: what stands for its signature is none", hint=_HOW_TO_SIGN)
    signers = _read_signers(host)
    moment = _moment(at)
    with _aside(signers=signers, sig=signed.signature) as directory:
        asked = ["-s", f"{directory}/sig", "-f", f"{directory}/signers", f"-Overify-time={moment}"]
        found = _keygen("find-principals", *asked)
        said = found.last_words
        for principal in found.output.decode("utf-8", "replace").splitlines() if not found.status else ():
            done = _keygen("verify", "-n", NAMESPACE, "-I", principal, *asked, stdin=signed.manifest)
            said = done.last_words
            if done.status == 0:
                good = _GOOD.search(done.output.decode("utf-8", "replace"))
                return Signer(principal, " ".join(good.groups()) if good else "")
    why = _reason(said.replace(f"{directory}/signers", SIGNERS))
    raise SignatureError(
        f"{where}: its signature is not of one who may sign: {why}",
        hint=f"{SIGNERS} names the keys that are trusted",
    )


def sign(manifest: bytes, key: str, *, agent: str = "") -> bytes:
    """Return the signature of a manifest by a key file, or by the half of it that an agent holds.

    ``key`` is a private key without passphrase, or a public key whose private half is in the agent at
    the socket ``agent``. Raises CommandError when there is none.
    """
    done = _keygen(
        *("sign", "-n", NAMESPACE, "-f", os.path.abspath(key)),
        stdin=manifest,
        agent=agent,
        timeout_s=_SIGN_TIMEOUT_S,
    )
    if done.status or not done.output.startswith(_BEGIN):
        hint = "a key with a passphrase is used through an agent: ssh-add it, then sign with --agent"
        raise CommandError(f"{printable(key)}: cannot sign: {_reason(done.last_words)}", hint=hint)
    return done.output


def sign_by_agent(host: Host, manifest: bytes, agent: str) -> bytes:
    """Return the signature by the one key of an agent that allowed_signers names, or by its only key.

    Raises CommandError when no agent answers, or it is not clear which key is meant.
    """
    if not agent:
        raise CommandError(
            "there is no agent: SSH_AUTH_SOCK is not set",
            hint="sudo --preserve-env=SSH_AUTH_SOCK hardend baseline sign N --agent",
        )
    _require("ssh-add")
    done = run(
        ["env", f"SSH_AUTH_SOCK={agent}", "ssh-add", "-L"], timeout_s=_TIMEOUT_S, errors_apart=True
    )
    keys = done.output.splitlines() if done.status == 0 else []
    if has_signers(host):
        trusted = _read_signers(host)
        keys = [key for key in keys if b" ".join(key.split()[:2]) in b" ".join(trusted.split())]
    if len(keys) != 1:
        count = len(keys) or "no"
        raise CommandError(
            f"the agent holds {count} keys that may sign: {_reason(done.last_words) or 'it must be one'}",
            hint="--key FILE.pub chooses one whose private half is in the agent",
        )
    with _aside(**{"key.pub": keys[0] + b"\n"}) as directory:
        return sign(manifest, f"{directory}/key.pub", agent=agent)


_HOW_TO_SIGN = "hardend baseline sign N --key FILE, or ssh-keygen -Y sign -n baseline@hardend -f KEY FILE"
_NO_KEYGEN = "apt-get install openssh-client (elsewhere the package is called openssh or openssh-clients)"


def _read_signers(host: Host) -> bytes:
    """Return allowed_signers as it is now: a regular file, reached without a link, root's alone."""
    shown = printable(host.at(SIGNERS))
    root = os.open(host.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = paths.open_beneath(root, SIGNERS.lstrip("/"), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError as error:
        hint = f'a line in it: ops@example.com namespaces="{NAMESPACE}" ssh-ed25519 AAAA...'
        raise SignatureError(f"{shown}: missing: nobody may sign", hint=hint) from error
    except OSError as error:
        raise FileError(f"{shown}: {error.strerror}", hint="it must be a plain file") from error
    finally:
        os.close(root)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise FileError(f"{shown}: not a regular file")
        if found.st_uid not in {0, os.geteuid()} or found.st_mode & 0o022:
            hint = f"chown 0:0 {shown}; chmod 644 {shown}"
            raise FileError(f"{shown}: others than root can write it", hint=hint)
        data = file.read(_SIGNERS_LIMIT + 1)
    if len(data) > _SIGNERS_LIMIT:
        raise FileError(f"{shown}: over {_SIGNERS_LIMIT} bytes")
    return data


def _moment(at: str) -> str:
    """Return a moment as ssh-keygen takes it: local time, without a zone, which not every version knows."""
    moment = datetime.now(UTC)
    try:
        given = datetime.fromisoformat(at) if at else moment
        if given.tzinfo is not None and given.year >= _FIRST_YEAR:
            moment = given
        return moment.astimezone().strftime("%Y%m%d%H%M%S")
    except (ValueError, OverflowError):
        return datetime.now(UTC).astimezone().strftime("%Y%m%d%H%M%S")


def _keygen(
    verb: str, *options: str, stdin: bytes = b"", agent: str = "", timeout_s: float = _TIMEOUT_S
) -> Ran:
    _require("ssh-keygen")
    prefix = ["env", f"SSH_AUTH_SOCK={agent}"] if agent else []
    argv = [*prefix, "ssh-keygen", "-Y", verb, *options]
    done = run(argv, timeout_s=timeout_s, stdin=stdin, errors_apart=True)
    said = done.errors.lower()
    if done.status and (b"usage:" in said or b"unknown option" in said):
        raise CommandError(
            "ssh-keygen is too old to check signatures", hint="OpenSSH 8.7 or newer is needed"
        )
    return done


def _require(program: str) -> None:
    if shutil.which(program, path=_PATH) is None:
        raise CommandError(
            f"{program} is missing: signatures can be neither made nor checked", hint=_NO_KEYGEN
        )


def _reason(said: str) -> str:
    """Return what ssh-keygen complained of, on one line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return printable("; ".join(dict.fromkeys(lines)))


@contextmanager
def _aside(**files: bytes) -> Iterator[str]:
    """Write files into a private directory, for ssh-keygen, which takes names only."""
    with tempfile.TemporaryDirectory(prefix="hardend-signature-") as directory:
        for name, content in files.items():
            with open(os.path.join(directory, name), "xb") as file:
                file.write(content)
        yield directory
