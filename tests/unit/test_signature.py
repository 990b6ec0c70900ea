# SPDX-License-Identifier: Apache-2.0
"""Signatures by the real ssh-keygen: who may sign, what is refused, and what a missing program says."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardend.baseline import signature
from hardend.baseline.signature import NAMESPACE, SIGNERS, SignatureError, Signed, sign, sign_by_agent, verify
from hardend.command import Ran
from hardend.errors import CommandError, Exit, FileError, HardendError
from hardend.model import Host
from tests.unit.signers import OPS, key, line, trust
from tests.unit.signers import mallory as mallory  # noqa: PLC0414 - a fixture
from tests.unit.signers import ops as ops  # noqa: PLC0414 - a fixture

MANIFEST = b'{"number":1}\n'


@pytest.fixture
def host(tmp_path: Path, ops: Path) -> Host:
    made = Host(str(tmp_path))
    trust(made, "# who may sign\n\n", line(ops))
    return made


def test_a_signature_names_its_signer_and_key(host: Host, ops: Path) -> None:
    signer = verify(host, Signed(MANIFEST, sign(MANIFEST, str(ops))), "generation 1")
    assert signer.principal == OPS
    assert signer.key.startswith("ED25519 SHA256:")


def test_a_signature_that_was_made_elsewhere_by_ssh_keygen_alone_counts(
    host: Host, ops: Path, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_bytes(MANIFEST)
    command = f"ssh-keygen -q -Y sign -n {NAMESPACE} -f {ops} {tmp_path}/manifest.json".split()
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    made = (tmp_path / "manifest.json.sig").read_bytes()
    assert verify(host, Signed(MANIFEST, made), "it").principal == OPS


def test_a_key_of_another_kind_and_a_principal_among_several_count(host: Host, tmp_path: Path) -> None:
    rsa = key(tmp_path / "keys", "rsa", kind="rsa")
    trust(host, line(rsa, "*@example.org,b@example.com", ""))
    signer = verify(host, Signed(MANIFEST, sign(MANIFEST, str(rsa))), "it")
    assert signer.principal == "*@example.org"
    assert signer.key.startswith("RSA ")


def _changed(made: bytes, _: Path) -> Signed:
    return Signed(MANIFEST.replace(b"1", b"2"), made)


def _other_key(_: bytes, mallory: Path) -> Signed:
    return Signed(MANIFEST, sign(MANIFEST, str(mallory)))


def _other_namespace(_: bytes, keys: Path) -> Signed:
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", str(keys.with_name("ops"))]
    done = subprocess.run(command, input=MANIFEST, check=True, capture_output=True, timeout=60)
    return Signed(MANIFEST, done.stdout)


FORGED: dict[str, Callable[[bytes, Path], Signed]] = {
    "the manifest changed": _changed,
    "another key": _other_key,
    "another namespace": _other_namespace,
    "empty": lambda _made, _key: Signed(MANIFEST, b""),
    "cut off": lambda made, _key: Signed(MANIFEST, made[: len(made) // 2]),
    "no base64": lambda made, _key: Signed(MANIFEST, made.replace(b"\n", b"\n!!", 1)),
    "a long one": lambda made, _key: Signed(MANIFEST, made + b"\n" * signature.SIGNATURE_LIMIT),
    "one byte more": lambda made, _key: Signed(MANIFEST + b"\n", made),
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_signature_is_refused(host: Host, ops: Path, mallory: Path, forged: str) -> None:
    signed = FORGED[forged](sign(MANIFEST, str(ops)), mallory)
    with pytest.raises(SignatureError, match="the parcel: ") as caught:
        verify(host, signed, "the parcel")
    assert caught.value.exit_code == Exit.REFUSED
    assert caught.value.hint
    assert "/tmp/" not in str(caught.value)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=300).flatmap(lambda raw: st.sampled_from([raw, signature._BEGIN + raw])))
def test_any_bytes_as_signature_are_refused(host: Host, junk: bytes) -> None:
    with pytest.raises(SignatureError):
        verify(host, Signed(MANIFEST, junk), "it")


def test_a_key_that_is_taken_out_is_not_trusted_any_more(host: Host, ops: Path, mallory: Path) -> None:
    signed = Signed(MANIFEST, sign(MANIFEST, str(ops)))
    trust(host, line(mallory))
    with pytest.raises(SignatureError, match=f"No principal matched|{SIGNERS}"):
        verify(host, signed, "it")


def test_a_key_for_another_use_is_not_trusted(host: Host, ops: Path) -> None:
    trust(host, line(ops, options='namespaces="git"'))
    with pytest.raises(SignatureError):
        verify(host, Signed(MANIFEST, sign(MANIFEST, str(ops))), "it")


def test_the_moment_counts_at_which_the_key_was_valid(host: Host, ops: Path) -> None:
    trust(host, line(ops, options='valid-before="20240101"'))
    signed = Signed(MANIFEST, sign(MANIFEST, str(ops)))
    assert verify(host, signed, "it", at="2023-06-01T12:00:00+00:00").principal == OPS
    for at in ("", "2024-06-01T12:00:00+00:00", "yesterday", "0001-01-01T00:00:00+00:00", "2023-06-01"):
        with pytest.raises(SignatureError, match="expired"):
            verify(host, signed, "it", at=at)


# allowed_signers ----------------------------------------------------------------------------------


def test_without_the_file_nobody_may_sign(tmp_path: Path, ops: Path) -> None:
    host = Host(str(tmp_path))
    assert not signature.has_signers(host)
    with pytest.raises(SignatureError, match="allowed_signers: missing") as caught:
        verify(host, Signed(MANIFEST, sign(MANIFEST, str(ops))), "it")
    assert "namespaces" in caught.value.hint


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _other_owner(path: Path) -> None:
    os.chown(path, 65534, 65534)


UNSAFE: dict[str, Callable[[Path], object]] = {
    "a link": _link,
    "a fifo": _fifo,
    "for a group to write": lambda path: path.chmod(0o664),
    "for all to write": lambda path: path.chmod(0o646),
    "somebody else's": _other_owner,
    "huge": lambda path: path.write_bytes(b"#" * ((1 << 20) + 1)),
}


@pytest.mark.root
@pytest.mark.parametrize("unsafe", UNSAFE)
def test_a_list_that_others_can_write_is_not_believed(host: Host, ops: Path, unsafe: str) -> None:
    UNSAFE[unsafe](Path(host.at(SIGNERS)))
    with pytest.raises(FileError, match="allowed_signers"):
        verify(host, Signed(MANIFEST, sign(MANIFEST, str(ops))), "it")


@pytest.mark.parametrize("content", ["", "broken line\n", "\0\xff\n", "ops ssh-ed25519 !!!\n"])
def test_a_list_that_names_nobody_lets_nobody_in(host: Host, ops: Path, content: str) -> None:
    trust(host, content)
    with pytest.raises(SignatureError):
        verify(host, Signed(MANIFEST, sign(MANIFEST, str(ops))), "it")


def test_a_broken_line_does_not_shut_out_the_others(host: Host, ops: Path) -> None:
    trust(host, "broken line\n", line(ops))
    assert verify(host, Signed(MANIFEST, sign(MANIFEST, str(ops))), "it").principal == OPS


# Keys and agents ----------------------------------------------------------------------------------


def test_a_key_with_a_passphrase_is_not_asked_for_but_explained(tmp_path: Path) -> None:
    locked = key(tmp_path, "locked", passphrase="secret")
    with pytest.raises(CommandError, match="incorrect passphrase") as caught:
        sign(MANIFEST, str(locked))
    assert "--agent" in caught.value.hint


@pytest.mark.parametrize("name", ["missing", "ops.pub", "new\nline"])
def test_what_is_no_private_key_is_an_error(tmp_path: Path, ops: Path, name: str) -> None:
    if name == "ops.pub":
        (tmp_path / name).write_bytes(ops.with_suffix(".pub").read_bytes())
    with pytest.raises(CommandError, match="cannot sign: ") as caught:
        sign(MANIFEST, str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """An ssh-agent without keys; its socket."""
    socket = str(tmp_path / "agent")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    while not os.path.exists(socket):
        assert process.poll() is None
    yield socket
    process.send_signal(signal.SIGTERM)
    process.wait(10)


def add(agent: str, *keys: Path) -> None:
    environment = {**os.environ, "SSH_AUTH_SOCK": agent}
    subprocess.run(["ssh-add", "-q", *keys], env=environment, check=True, capture_output=True, timeout=60)


def test_the_key_of_the_agent_that_may_sign_signs(host: Host, ops: Path, mallory: Path, agent: str) -> None:
    with pytest.raises(CommandError, match="holds no keys that may sign: The agent has no identities"):
        sign_by_agent(host, MANIFEST, agent)
    add(agent, mallory, ops)
    made = sign_by_agent(host, MANIFEST, agent)
    assert verify(host, Signed(MANIFEST, made), "it").principal == OPS


def test_where_several_keys_of_the_agent_may_sign_one_is_chosen(
    host: Host, ops: Path, mallory: Path, agent: str, tmp_path: Path
) -> None:
    trust(host, line(ops), line(mallory))
    add(agent, mallory, ops)
    with pytest.raises(CommandError, match="holds 2 keys") as caught:
        sign_by_agent(host, MANIFEST, agent)
    assert "FILE.pub" in caught.value.hint
    public = tmp_path / "only.pub"
    public.write_bytes(mallory.with_suffix(".pub").read_bytes())
    signer = verify(host, Signed(MANIFEST, sign(MANIFEST, str(public), agent=agent)), "it")
    assert signer.key.startswith("ED25519 ")


@pytest.mark.parametrize("socket", ["", "/nonexistent/agent"])
def test_without_an_agent_the_way_to_one_is_said(host: Host, socket: str) -> None:
    with pytest.raises(CommandError, match="agent") as caught:
        sign_by_agent(host, MANIFEST, socket)
    assert caught.value.hint


# The program --------------------------------------------------------------------------------------


def test_without_ssh_keygen_the_package_is_named(
    host: Host, ops: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = Signed(MANIFEST, sign(MANIFEST, str(ops)))
    monkeypatch.setattr(signature, "_PATH", "/nonexistent")
    for attempt in (
        lambda: sign(MANIFEST, str(ops)),
        lambda: verify(host, signed, "it"),
        lambda: sign_by_agent(host, MANIFEST, "/agent"),
    ):
        with pytest.raises(CommandError, match="is missing") as caught:
            attempt()
        assert "openssh-client" in caught.value.hint


def test_an_ssh_keygen_without_signatures_is_called_old(host: Host, ops: Path) -> None:
    signed = Signed(MANIFEST, sign(MANIFEST, str(ops)))
    with pytest.MonkeyPatch.context() as patched:
        # As OpenSSH 8.0 answers; there is none here to ask.
        usage = Ran(1, b"", b"unknown option -- Y\nusage: ssh-keygen [-q] ...\n")
        patched.setattr(signature, "run", lambda *_a, **_k: usage)
        with pytest.raises(CommandError, match="too old"):
            verify(host, signed, "it")


def test_nothing_of_a_check_is_left_behind(
    host: Host, ops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(private))
    verify(host, Signed(MANIFEST, sign(MANIFEST, str(ops))), "it")
    with pytest.raises(HardendError):
        verify(host, Signed(b"other", sign(MANIFEST, str(ops))), "it")
    assert list(private.iterdir()) == []
