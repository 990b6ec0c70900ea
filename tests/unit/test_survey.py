# SPDX-License-Identifier: Apache-2.0
"""The survey: what it takes in of a real tree, what it cannot read, and what it never does."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from hardend import config, layout
from hardend.errors import FileError
from hardend.model import FileType, Host
from hardend.rules.catalogue import judge_all
from hardend.rules.rule import Verdict
from hardend.settings import Settings
from hardend.survey import survey

if TYPE_CHECKING:
    from pathlib import Path

    from hardend.rules.documents import Documents

CF = """V10/Berkeley
O AliasFile=/etc/aliases
O PrivacyOptions=goaway
O QueueDirectory=/var/spool/mqueue
O HelpFile=/etc/mail/helpfile
O ServerKeyFile=/etc/mail/tls/key.pem
Kaccess hash /etc/mail/access
Mprog, P=/usr/sbin/smrsh, F=lsD, A=smrsh -c $u
"""


def tree(root: Path, **files: str) -> Host:
    """Make a host; a name's ``__`` stands for ``/``."""
    texts = {
        "etc/mail/sendmail.cf": CF,
        "etc/passwd": "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbroken\n",
        "etc/group": "root:x:0:\nsmmsp:x:111:\n",
        "etc/aliases": 'postmaster: root\nlist: :include:/etc/lists/one\nprog: "|/usr/local/bin/run it"\n',
        "etc/lists/one": 'bob\n:include:/etc/lists/two\n"|/opt/run"\n',
        "etc/lists/two": "carol\n",
        "etc/mail/access": "192.0.2.1\tRELAY\n",
        "etc/mail/helpfile": "",
        "etc/mail/tls/key.pem": "secret\n",
        "usr/local/bin/run": "",
        "opt/run": "",
        "usr/bin/vacation": "",
        **{name.replace("__", "/"): text for name, text in files.items()},
    }
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "etc/smrsh").mkdir()
    (root / "etc/smrsh/vacation").symlink_to("/etc/alternatives/vacation")
    (root / "etc/alternatives").mkdir()
    (root / "etc/alternatives/vacation").symlink_to("/usr/bin/vacation")
    (root / "var/spool/mqueue").mkdir(parents=True)
    return Host(str(root))


def surveyed(host: Host, settings: Settings | None = None) -> Documents:
    return survey(host, layout.find(host), settings or config.load(host))


def test_what_the_configuration_names_is_taken_in(tmp_path: Path) -> None:
    documents = surveyed(tree(tmp_path))
    assert documents.content["/etc/mail/access"] == b"192.0.2.1\tRELAY\n"
    assert documents.content["/etc/lists/two"] == b"carol\n", "an include of an include"
    assert documents.users == {"root": 0, "alice": 1000}
    assert documents.groups["smmsp"] == 111
    for path in ("/usr/local/bin/run", "/opt/run", "/etc/mail/tls/key.pem", "/var/spool/mqueue"):
        assert path in documents.attributes, path
        assert os.path.dirname(path) in documents.attributes
    assert "/etc/mail/tls/key.pem" not in documents.content, "a key's bytes are nobody's"


def test_links_of_the_smrsh_directory_are_followed_step_by_step(tmp_path: Path) -> None:
    documents = surveyed(tree(tmp_path))
    assert documents.names["/etc/smrsh"] == ("vacation",)
    assert documents.attributes["/etc/smrsh/vacation"].kind is FileType.SYMLINK
    assert documents.attributes["/etc/alternatives/vacation"].target == "/usr/bin/vacation"
    assert documents.attributes["/usr/bin/vacation"].kind is FileType.FILE


def test_a_missing_database_and_an_older_one_are_stale(tmp_path: Path) -> None:
    host = tree(tmp_path)
    assert "missing" in surveyed(host).stale_maps["/etc/mail/access.db"]
    database = tmp_path / "etc/mail/access.db"
    database.write_bytes(b"")
    os.utime(database, (1, 1))
    assert "older" in surveyed(host).stale_maps["/etc/mail/access.db"]
    os.utime(database)
    assert "/etc/mail/access.db" not in surveyed(host).stale_maps


def test_a_fifo_hangs_nothing(tmp_path: Path) -> None:
    host = tree(tmp_path)
    (tmp_path / "etc/lists/two").unlink()
    os.mkfifo(tmp_path / "etc/lists/two")
    assert surveyed(host).unreadable["/etc/lists/two"] == "not a regular file"


def test_a_loop_of_links_is_an_error_that_names_it(tmp_path: Path) -> None:
    host = tree(tmp_path)
    (tmp_path / "etc/mail/helpfile").unlink()
    (tmp_path / "etc/mail/helpfile").symlink_to("other")
    (tmp_path / "etc/mail/other").symlink_to("helpfile")
    with pytest.raises(FileError, match="/etc/mail/helpfile: too many symbolic links"):
        surveyed(host)


def test_a_huge_alias_file_is_unknown_and_costs_no_time(tmp_path: Path) -> None:
    host = tree(tmp_path)
    with (tmp_path / "etc/aliases").open("w") as file:
        file.truncate(100 << 20)
    began = time.monotonic()
    documents = surveyed(host)
    verdicts = {item.rule.id: item.verdict for item in judge_all(documents)}
    print(f"{time.monotonic() - began:.2f} s")
    assert documents.unreadable["/etc/aliases"] == "over 16 MiB"
    assert verdicts["aliases-decode"] is Verdict.UNKNOWN


@pytest.mark.parametrize("junk", [b"\0" * 4096, bytes(range(256)) * 64, b"(" * 50_000, b"`" * 50_000])
@pytest.mark.parametrize(
    "name",
    ["etc/mail/sendmail.cf", "etc/mail/sendmail.mc", "etc/aliases", "etc/mail/access", "etc/lists/one"],
)
def test_junk_in_any_file_gives_a_verdict(tmp_path: Path, name: str, junk: bytes) -> None:
    host = tree(tmp_path)
    path = tmp_path / name
    path.write_bytes((CF.encode() if name.endswith(".cf") else b"") + junk)
    for item in judge_all(surveyed(host)):
        assert item.verdict in set(Verdict)


def test_nothing_of_a_tree_is_written(tmp_path: Path) -> None:
    host = tree(tmp_path)

    def state() -> list[tuple[str, int, int]]:
        found = [path.lstat() for path in sorted(tmp_path.rglob("*"))]
        return [(str(item.st_ino), item.st_mtime_ns, item.st_ctime_ns) for item in found]

    before = state()
    judge_all(surveyed(host))
    assert state() == before


@pytest.mark.root
def test_what_an_unprivileged_user_may_not_read_is_unknown(tmp_path: Path) -> None:
    host = tree(tmp_path)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    (tmp_path / "etc/mail/access").chmod(0o600)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            documents = surveyed(host)
            verdicts = {item.rule.id: item.verdict for item in judge_all(documents)}
            fine = documents.unreadable.get("/etc/mail/access") == "Permission denied"
            status = 0 if fine and verdicts["privacy-srv-features"] is Verdict.UNKNOWN else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
