# SPDX-License-Identifier: Apache-2.0
"""hardend baseline export, sign and import: one signed baseline on two small mail hosts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hardend import commit as commits
from hardend import layout, maps
from hardend.baseline.store import Store
from hardend.baseline.trust import in_force
from hardend.cli.main import main
from hardend.config import Settings
from hardend.errors import Exit
from hardend.model import Entry
from hardend.propose import Proposal
from tests.unit.mailhost import ACCESS, USERS, MailHost
from tests.unit.mailhost import mail as mail  # noqa: PLC0414 - a fixture
from tests.unit.programs import qualified_name as qualified_name  # noqa: PLC0414 - a fixture
from tests.unit.signers import OPS, line, trust
from tests.unit.signers import mallory as mallory  # noqa: PLC0414 - a fixture
from tests.unit.signers import ops as ops  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("qualified_name")]

CF = "/etc/mail/sendmail.cf"
ACCESS_PATH = "/etc/mail/access"
NAMES = "/etc/mail/local-host-names"
VIRTUAL = "/etc/mail/virt*"
STRICTER = ACCESS + b"b.example\tREJECT\n"
Hardend = Callable[..., tuple[int, str, str]]


@pytest.fixture
def golden(mail: MailHost, ops: Path) -> MailHost:
    """The host on which the baseline is approved."""
    trust(mail.host, line(ops))
    return mail


@pytest.fixture
def far(golden: MailHost) -> Iterator[MailHost]:
    """Another host of the same kind, without a baseline; its files drifted away from the first."""
    made = MailHost(Path(tempfile.mkdtemp(prefix="hardend-far-", dir="/var/tmp")))
    shutil.copytree(golden.root, made.root, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(made.host.store_dir)
    made.write(ACCESS_PATH, b"weaker.example\tRELAY\n")
    yield made
    made.remove()


@pytest.fixture
def hardend(capsys: pytest.CaptureFixture[str]) -> Hardend:
    """Run a verb of ``hardend baseline`` on a host; exit code, output and errors."""

    def call(host: MailHost, *words: str) -> tuple[int, str, str]:
        code = main(["baseline", words[0], "--root", str(host.root), *words[1:]])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def parcel(golden: MailHost, hardend: Hardend, tmp_path: Path, ops: Path) -> Path:
    """The golden host's first generation, signed there and exported."""
    assert hardend(golden, "sign", "current", "--key", str(ops))[0] == Exit.OK
    assert hardend(golden, "export", "1", "--to", f"{tmp_path}/parcel.tar") == (Exit.OK, "", "")
    return tmp_path / "parcel.tar"


def warnings_of(errors: str) -> list[str]:
    """Return what the command said, without what it told the journal."""
    return [line for line in errors.splitlines() if line.startswith("hardend: ")]


def next_parcel(golden: MailHost, hardend: Hardend, tmp_path: Path, key: Path, content: bytes) -> Path:
    """Approve other content on the golden host, sign it, export it."""
    (tmp_path / "content").write_bytes(content)
    approve = ["approve", "--root", str(golden.root), ACCESS_PATH, "--from", str(tmp_path / "content")]
    assert main([*approve, "--force", "--reason", "next"]) == Exit.OK
    assert hardend(golden, "sign", "current", "--key", str(key))[0] == Exit.OK
    number = golden.current().number
    assert hardend(golden, "export", "current", "--to", f"{tmp_path}/{number}.tar")[0] == Exit.OK
    return tmp_path / f"{number}.tar"


def commit(host: MailHost, *entries: Entry) -> None:
    """Commit the current generation with these entries among it."""
    current = host.current()
    changed = {**current.entries, **{entry.path: entry for entry in entries}}
    commits.commit(host.host, Proposal(changed, current.layout, current.sendmail), reason="test")


def test_a_signed_baseline_becomes_the_first_generation_of_another_host(
    golden: MailHost, far: MailHost, hardend: Hardend, parcel: Path
) -> None:
    code, out, err = hardend(far, "import", str(parcel), "--reason", "the fleet's")
    assert (code, warnings_of(err)) == (Exit.OK, [])
    assert f"generation 1 by {golden.current().author}, signed by {OPS} (ED25519 SHA256:" in out
    assert far.at(ACCESS_PATH).read_bytes() == ACCESS
    assert far.current().entries == golden.current().entries
    assert far.current().reason.endswith(f"signed by {OPS}: the fleet's")
    origin = Store(far.host).origin(1)
    assert origin is not None
    assert origin.manifest == Store(golden.host).raw_manifest(1)
    assert Store(far.host).verify() == []
    assert hardend(far, "verify")[0] == Exit.OK
    found = in_force(far.host, Store(far.host), Settings(require_signature=True))
    assert found.generation.number == 1


@pytest.mark.usefixtures("parcel")
def test_the_next_one_follows_in_the_chain_of_this_host(
    golden: MailHost, far: MailHost, hardend: Hardend, tmp_path: Path, ops: Path
) -> None:
    parcel = tmp_path / "parcel.tar"
    far.approve()
    assert hardend(far, "import", str(parcel))[0] == Exit.OK
    second = next_parcel(golden, hardend, tmp_path, ops, STRICTER)
    assert hardend(far, "import", str(second))[0] == Exit.OK
    current = far.current()
    assert current.number == 3
    assert current.parent == Store(far.host).manifest_digest(2)
    assert far.at(ACCESS_PATH).read_bytes() == STRICTER
    assert far.answers("/etc/mail/access.db") == golden.answers("/etc/mail/access.db")


def test_the_same_again_is_nothing_to_do(far: MailHost, hardend: Hardend, parcel: Path) -> None:
    assert hardend(far, "import", str(parcel))[0] == Exit.OK
    assert hardend(far, "import", str(parcel)) == (
        *(Exit.OK, "nothing to do: generation 1 is this one already\n", ""),
    )
    damaged = Path(far.host.store_dir, "objects", Store.digest_of(ACCESS))
    damaged.write_bytes(b"damaged")
    assert "nothing to do" in hardend(far, "import", str(parcel))[1]
    assert damaged.read_bytes() == ACCESS
    checked = replace(far.entry("/etc/mail/virtusertable"), digest=Store(far.host).add_object(USERS * 2))
    commit(far, replace(checked, size=2 * len(USERS)))
    assert "nothing to do: generation 2" in hardend(far, "import", str(parcel))[1]
    commit(far, replace(far.entry(CF), mode=0o666))  # that is not what was signed any more
    assert hardend(far, "import", str(parcel))[1].startswith("generation 4 is generation 1 ")
    assert far.entry(CF).mode == 0o644


class DiedError(Exception):
    """The process is gone: nothing of ours catches this."""


def _die(*_: object) -> None:
    raise DiedError


def test_an_import_that_died_before_it_kept_whose_it_is_is_finished_by_the_next(
    far: MailHost, hardend: Hardend, parcel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Store, "attach_origin", _die)
        with pytest.raises(DiedError):
            hardend(far, "import", str(parcel))
    assert far.current().number == 1
    assert not Store(far.host).has_signature(1)
    code, out, _ = hardend(far, "import", str(parcel))
    assert (code, out) == (Exit.OK, f"generation 1 is this one, signed by {OPS}\n")
    assert Store(far.host).has_signature(1)
    assert far.at(ACCESS_PATH).read_bytes() == ACCESS


def refused(hardend: Hardend, far: MailHost, parcel: Path, *options: str) -> str:
    """Import something that must be refused and must not have changed anything; why it was."""
    before = {path: path.read_bytes() for path in far.at("/etc").rglob("*") if path.is_file()}
    numbers = Store(far.host).numbers()
    code, out, err = hardend(far, "import", str(parcel), *options)
    assert (code, out) == (Exit.REFUSED, ""), err
    assert {path: path.read_bytes() for path in far.at("/etc").rglob("*") if path.is_file()} == before
    assert Store(far.host).numbers() == numbers
    return err


@pytest.mark.usefixtures("parcel")
def test_a_forged_baseline_is_refused(
    golden: MailHost, far: MailHost, hardend: Hardend, tmp_path: Path, mallory: Path
) -> None:
    parcel = tmp_path / "parcel.tar"
    assert not Store(far.host).has_baseline()
    changed = parcel.read_bytes().replace(b'"mode":420', b'"mode":438', 1)
    assert changed != parcel.read_bytes()
    (tmp_path / "changed.tar").write_bytes(changed)
    assert "incorrect signature" in refused(hardend, far, tmp_path / "changed.tar")
    trust(golden.host, line(mallory))
    forged = next_parcel(golden, hardend, tmp_path, mallory, b"evil.example\tRELAY\n")
    assert "not of one who may sign" in refused(hardend, far, forged)
    shutil.rmtree(far.at("/etc/hardend"))
    assert "allowed_signers: missing" in refused(hardend, far, parcel)


@pytest.mark.usefixtures("parcel")
def test_an_older_one_is_refused_unless_it_is_wanted(
    golden: MailHost, far: MailHost, hardend: Hardend, tmp_path: Path, ops: Path
) -> None:
    parcel = tmp_path / "parcel.tar"
    second = next_parcel(golden, hardend, tmp_path, ops, STRICTER)
    assert hardend(far, "import", str(second))[0] == Exit.OK
    assert "generation 1, and 2 was imported before" in refused(hardend, far, parcel)
    code, out, _ = hardend(far, "import", str(parcel), "--allow-rollback")
    assert (code, far.current().number) == (Exit.OK, 2), out
    assert far.at(ACCESS_PATH).read_bytes() == ACCESS
    settings = Settings(require_signature=True)
    assert in_force(far.host, Store(far.host), settings).generation.number == 2
    third = next_parcel(golden, hardend, tmp_path, ops, STRICTER + b"c.example\tREJECT\n")
    assert hardend(far, "import", str(third))[0] == Exit.OK
    assert "another generation 3" in refused(hardend, far, _another_third(golden, hardend, tmp_path, ops))


def _another_third(golden: MailHost, hardend: Hardend, tmp_path: Path, ops: Path) -> Path:
    """A second line of generations that somebody with the key began."""
    shutil.rmtree(golden.host.store_dir)
    for _ in range(3):
        golden.approve()
    hardend(golden, "sign", "3", "--key", str(ops))
    hardend(golden, "export", "3", "--to", f"{tmp_path}/other.tar")
    return tmp_path / "other.tar"


def test_a_generation_of_this_host_comes_back_with_its_signature(
    golden: MailHost, hardend: Hardend, tmp_path: Path, ops: Path
) -> None:
    code, _, err = hardend(golden, "export", "current", "--to", f"{tmp_path}/out/")
    assert code == Exit.OK
    assert "generation 1 is not signed" in err
    command = f"ssh-keygen -q -Y sign -n baseline@hardend -f {ops} {tmp_path}/out/manifest.json"
    subprocess.run(command.split(), check=True, capture_output=True, timeout=60)
    code, out, _ = hardend(golden, "import", f"{tmp_path}/out")
    assert (code, golden.current().number) == (Exit.OK, 1)
    assert out.startswith(f"generation 1 is signed by {OPS}, ED25519 ")
    assert "nothing to do" in hardend(golden, "import", f"{tmp_path}/out")[1]
    golden.approve()
    assert "superseded here" in refused(hardend, golden, tmp_path / "out")


def test_what_does_not_fit_this_host_is_refused(
    golden: MailHost, far: MailHost, hardend: Hardend, tmp_path: Path, ops: Path
) -> None:
    entry = golden.entry(CF)
    elsewhere = replace(entry, path="/etc/shadow")
    commit(golden, elsewhere)
    hardend(golden, "sign", "current", "--key", str(ops))
    hardend(golden, "export", "current", "--to", f"{tmp_path}/shadow.tar")
    assert "/etc/shadow ([paths] protect" in refused(hardend, far, tmp_path / "shadow.tar")


def test_a_baseline_of_another_layout_is_refused(
    golden: MailHost, far: MailHost, hardend: Hardend, tmp_path: Path, ops: Path
) -> None:
    current = golden.current()
    commits.commit(golden.host, Proposal(dict(current.entries), "redhat", ""), reason="test")
    hardend(golden, "sign", "current", "--key", str(ops))
    hardend(golden, "export", "current", "--to", f"{tmp_path}/layout.tar")
    assert "a host with the redhat layout" in refused(hardend, far, tmp_path / "layout.tar")


def test_a_configuration_that_this_host_cannot_run_is_refused(
    far: MailHost, hardend: Hardend, parcel: Path
) -> None:
    far.at("/bin/true").unlink()
    far.at(CF).write_bytes(far.at(CF).read_bytes() + b"# another\n")
    assert "mailer local: /bin/true" in refused(hardend, far, parcel)


def test_numbers_of_accounts_are_those_of_this_host(
    golden: MailHost, far: MailHost, hardend: Hardend, tmp_path: Path, ops: Path
) -> None:
    for host, group in ((golden, 4001), (far, 4002)):
        os.chown(host.at("/var/spool/mqueue"), 0, group)
        os.chown(host.at("/etc/mail/virtusertable"), 0, group)
    golden.approve()
    hardend(golden, "sign", "current", "--key", str(ops))
    hardend(golden, "export", "current", "--to", f"{tmp_path}/ids.tar")
    assert hardend(far, "import", f"{tmp_path}/ids.tar")[0] == Exit.OK
    assert far.entry("/var/spool/mqueue").gid == far.entry("/etc/mail/virtusertable").gid == 4002
    assert far.at("/var/spool/mqueue").stat().st_gid == 4002
    settings = Settings(require_signature=True)
    assert in_force(far.host, Store(far.host), settings).generation.number == 1
    other = replace(far.entry("/etc/mail/virtusertable"), gid=4003)
    commit(far, other)
    assert "owners do not correspond (gid)" in refused(hardend, far, tmp_path / "ids.tar")


def test_a_map_of_another_library_is_built_anew_and_answers_the_same(
    golden: MailHost, far: MailHost, hardend: Hardend, tmp_path: Path, ops: Path
) -> None:
    database = golden.entry("/etc/mail/access.db")
    commit(golden, replace(database, builder="makemap of another time"))
    hardend(golden, "sign", "current", "--key", str(ops))
    hardend(golden, "export", "current", "--to", f"{tmp_path}/map.tar")
    assert hardend(far, "import", f"{tmp_path}/map.tar")[0] == Exit.OK
    made = far.entry("/etc/mail/access.db")
    tools = maps.tools_for(far.host, layout.find(far.host), far.settings)
    assert made.builder == maps.library(tools)
    assert (made.answers, made.mtime_ns) == (database.answers, database.mtime_ns)
    assert far.answers("/etc/mail/access.db") == database.answers
    assert in_force(far.host, Store(far.host), Settings(require_signature=True)).faults == ()
    wrong = replace(database, builder="another", answers="0" * 64)
    commit(golden, wrong)
    hardend(golden, "sign", "current", "--key", str(ops))
    hardend(golden, "export", "current", "--to", f"{tmp_path}/wrong.tar")
    assert "does not answer as it was signed" in refused(hardend, far, tmp_path / "wrong.tar")


def test_own_paths_stay_with_their_maps(
    golden: MailHost, far: MailHost, hardend: Hardend, tmp_path: Path, ops: Path
) -> None:
    for host, name in ((golden, b"one.example\n"), (far, b"two.example\n")):
        host.write(NAMES, name)
        host.write("/etc/mail/virtusertable", name.strip() + b"\talice\n")
        host.make_map("/etc/mail/virtusertable", name.strip() + b"\talice\n")
        host.write("/etc/hardend/hardend.toml", f'[baseline]\nown = ["{NAMES}", "{VIRTUAL}"]\n'.encode())
    golden.approve()
    hardend(golden, "sign", "current", "--key", str(ops))
    hardend(golden, "export", "current", "--to", f"{tmp_path}/own.tar")
    code, _, err = hardend(far, "import", f"{tmp_path}/own.tar")
    assert (code, warnings_of(err)) == (Exit.OK, [])
    assert far.at(NAMES).read_bytes() == b"two.example\n"
    assert far.at(ACCESS_PATH).read_bytes() == ACCESS
    assert far.entry(NAMES).digest == Store.digest_of(b"two.example\n")
    assert far.answers("/etc/mail/virtusertable.db") != golden.answers("/etc/mail/virtusertable.db")
    own = Settings(require_signature=True, baseline_own=(NAMES, VIRTUAL))
    assert in_force(far.host, Store(far.host), own).faults == ()
    assert "nothing to do" in hardend(far, "import", f"{tmp_path}/own.tar")[1]


def test_a_damaged_store_is_mended_by_an_import(far: MailHost, hardend: Hardend, parcel: Path) -> None:
    far.approve()
    (Path(far.host.store_dir) / "current").write_bytes(b"damaged")
    assert hardend(far, "import", str(parcel))[0] == Exit.OK
    assert far.current().number == 2
    assert far.at(ACCESS_PATH).read_bytes() == ACCESS


# Words of the command -----------------------------------------------------------------------------


def test_an_export_goes_to_a_pipe_a_file_or_a_directory(
    golden: MailHost, hardend: Hardend, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "hardend", "baseline", "export", "--root", str(golden.root), "current"]
    piped = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    for target in (f"{tmp_path}/a.tar", f"{tmp_path}/new/", str(tmp_path / "new")):
        assert hardend(golden, "export", "1", "--to", target)[0] == Exit.OK
    assert (tmp_path / "a.tar").read_bytes() == piped
    assert (tmp_path / "a.tar").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new/manifest.json").read_bytes() == Store(golden.host).raw_manifest(1)


@pytest.mark.parametrize("words", [("export", "9"), ("sign", "9", "--key", "x"), ("import", "/nonexistent")])
def test_what_is_not_there_is_an_error(golden: MailHost, hardend: Hardend, words: tuple[str, ...]) -> None:
    code, out, err = hardend(golden, *words)
    assert code in {Exit.REFUSED, Exit.USAGE}
    assert (out, err.count("Traceback")) == ("", 0)
    assert err.startswith("hardend: ")


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", "\u00b2", ""])
def test_a_number_is_a_number_or_current(golden: MailHost, hardend: Hardend, number: str) -> None:
    with pytest.raises(SystemExit):
        hardend(golden, "export", number)


def test_a_signature_that_would_not_count_here_is_not_attached(
    golden: MailHost, hardend: Hardend, mallory: Path
) -> None:
    code, _, err = hardend(golden, "sign", "1", "--key", str(mallory))
    assert (code, "not of one who may sign" in err) == (Exit.REFUSED, True)
    assert not Store(golden.host).has_signature(1)


def test_a_damaged_generation_is_not_signed(golden: MailHost, hardend: Hardend, ops: Path) -> None:
    (Path(golden.host.store_dir) / "generations/1/digest").write_bytes(b"x")
    assert "its digest is wrong" in hardend(golden, "sign", "1", "--key", str(ops))[2]
    assert not Store(golden.host).has_signature(1)


@pytest.mark.parametrize("words", [("sign", "1", "--key", "/k"), ("import", "/p")])
def test_only_root_signs_and_imports(
    golden: MailHost, hardend: Hardend, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, out, err = hardend(golden, *words)
    assert (code, out) == (Exit.REFUSED, "")
    assert "only root may do this" in err
