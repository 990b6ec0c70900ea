# SPDX-License-Identifier: Apache-2.0
"""Where each kind of host keeps its Sendmail, told from its files alone."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser
from typing import TYPE_CHECKING

import pytest

from hardend.cli import layout as verb
from hardend.errors import FileError
from hardend.kernel.tree import Tree
from hardend.layout import Layout, find
from hardend.model import Host, MapSpec
from tests.unit.trees import CLASSIC, DEBIAN, DEBIAN_CF, OLD_SENDMAIL, REDHAT, SENDMAIL, smrsh, write

if TYPE_CHECKING:
    from pathlib import Path


def origin(layout: Layout, name: str, value: str) -> str:
    return next(fact.origin for fact in layout.facts if (fact.name, fact.value) == (name, value))


def of(root: Path, cf: bytes, **files: bytes | str | None) -> Layout:
    """Return the layout of a host with this sendmail.cf."""
    return find(write(root, {"/etc/mail/sendmail.cf": cf, **files}))


def test_debian(tmp_path: Path) -> None:
    found = find(write(tmp_path, DEBIAN))
    assert found.profile == "debian"
    assert (found.mail_dir, found.cf, found.mc) == (
        "/etc/mail", "/etc/mail/sendmail.cf", "/etc/mail/sendmail.mc"
    )  # fmt: skip
    assert (found.submit_cf, found.submit_mc) == ("/etc/mail/submit.cf", "/etc/mail/submit.mc")
    # The database lies where the option says, the source where its link leads.
    assert found.aliases == (MapSpec("newaliases", "hash", "/etc/aliases", "/etc/mail/aliases.db"),)
    assert found.links == ("/etc/mail/aliases",)
    assert found.maps == (MapSpec("makemap", "hash", "/etc/mail/access", "/etc/mail/access.db"),)
    assert found.class_files == ("/etc/mail/local-host-names", "/etc/mail/relay-domains")
    assert found.host_names == ("/etc/mail/local-host-names",)
    assert found.relay_domains == ("/etc/mail/relay-domains",)
    assert (found.queues, found.client_queue) == (("/var/spool/mqueue",), "/var/spool/mqueue-client")
    assert (found.smrsh, found.smrsh_dir) == ("/usr/libexec/sendmail/smrsh", "/etc/mail/smrsh")
    assert found.sendmail == "/usr/libexec/sendmail/sendmail"
    assert found.makemap == "/usr/libexec/sendmail/makemap"
    assert found.newaliases == "/usr/sbin/newaliases"
    assert (found.trusted_user, found.client_unit) == ("smmta", "")
    assert found.pid_file == "/run/sendmail/mta/sendmail.pid"
    assert found.client_pid_file == "/run/sendmail/msp/sendmail.pid"


def test_redhat(tmp_path: Path) -> None:
    found = find(write(tmp_path, REDHAT))
    assert found.profile == "redhat"
    assert found.aliases == (
        MapSpec("newaliases", "hash", "/etc/aliases", "/etc/aliases.db"),
        MapSpec("newaliases", "hash", "/etc/mailman/aliases", "/etc/mailman/aliases.db"),
    )
    assert found.maps == (
        MapSpec("makemap", "hash", "/etc/mail/mailertable", "/etc/mail/mailertable.db"),
        MapSpec("makemap", "hash", "/etc/mail/virtusertable", "/etc/mail/virtusertable.db", ("-f",)),
        MapSpec("makemap", "hash", "/etc/mail/access", "/etc/mail/access.db"),
        MapSpec("makemap", "hash", "/etc/mail/authinfo", "/etc/mail/authinfo.db", ("-N",)),
    )
    assert found.access == "/etc/mail/access"
    assert found.text_maps == ("/etc/mail/users.txt",)
    assert found.queues == ("/var/spool/mqueue/q1", "/var/spool/mqueue/q2", "/var/spool/mqueue/slow")
    assert found.client_queue == "/var/spool/clientmqueue"
    assert (found.smrsh, found.smrsh_dir) == ("/usr/sbin/smrsh", "/etc/smrsh")
    assert (found.sendmail, found.makemap) == ("/usr/sbin/sendmail.sendmail", "/usr/sbin/makemap")
    assert (found.newaliases, found.client_unit) == ("/usr/bin/newaliases", "sm-client.service")


def test_the_classic_layout_of_the_guide(tmp_path: Path) -> None:
    found = find(write(tmp_path, CLASSIC))
    assert found.profile == "classic"
    assert (found.mail_dir, found.cf, found.mc) == (
        "/etc/mail", "/etc/sendmail.cf", "/etc/sendmail.mc"
    )  # fmt: skip
    assert (found.submit_cf, found.submit_mc, found.client_queue) == ("", "", "")
    assert found.host_names == ("/etc/sendmail.cw",)
    assert found.maps == (MapSpec("makemap", "dbm", "/etc/mail/access", "/etc/mail/access.pag"),)
    assert found.smrsh_dir == "/etc/smrsh"
    assert (found.sendmail, found.pid_file) == ("/usr/sbin/sendmail", "/var/run/sendmail.pid")


def test_suse_keeps_its_cf_in_etc_and_smrsh_among_its_programs(tmp_path: Path) -> None:
    files: dict[str, bytes | str | None] = {
        "/etc/os-release": b'ID="opensuse-leap"\nID_LIKE="suse opensuse"\n',
        "/etc/sendmail.cf": b"V10\nO AliasFile=/etc/aliases, /etc/aliases.d/all\n",
        "/etc/mail/linux.mc": b"",
        "/etc/mail/submit.cf": b"V10\n",
        "/etc/mail/linux.submit.mc": b"",
        "/usr/lib/sendmail.d/bin/smrsh": smrsh("/usr/lib/sendmail.d/bin"),
        "/usr/lib/systemd/system/sendmail-client.service": b"",
    }
    found = find(write(tmp_path, files))
    assert (found.profile, found.mc) == ("suse", "/etc/mail/linux.mc")
    assert (found.submit_mc, found.client_unit) == (
        "/etc/mail/linux.submit.mc", "sendmail-client.service"
    )  # fmt: skip
    assert found.smrsh_dir == "/usr/lib/sendmail.d/bin"
    assert [spec.source for spec in found.aliases] == ["/etc/aliases", "/etc/aliases.d/all"]


def test_freebsd_prefers_the_hosts_own_mc(tmp_path: Path) -> None:
    own = {"/etc/mail/a.example.mc": b"", "/etc/mail/a.example.submit.mc": b""}
    found = of(tmp_path, b"V10\n", **{"/etc/mail/freebsd.mc": b""}, **own)
    assert (found.profile, found.mc) == ("freebsd", "/etc/mail/a.example.mc")


@pytest.mark.parametrize(
    ("release", "profile"),
    [
        (b"ID=ubuntu\nID_LIKE=debian\n", "debian"),
        (b'ID="rocky"\n', "redhat"),
        (b"ID='gentoo'\n", "gentoo"),
        (b"NAME=x\nID=arch\n", "arch"),
        (b"ID=cachyos\nID_LIKE=arch\n", "arch"),
        (b"ID=other\n", "unknown"),
        (b"", "unknown"),
    ],
)
def test_the_profile_is_what_os_release_says(tmp_path: Path, release: bytes, profile: str) -> None:
    assert of(tmp_path, b"V10\n", **{"/etc/os-release": release}).profile == profile


def test_every_value_says_where_it_was_found(tmp_path: Path) -> None:
    found = find(write(tmp_path, REDHAT))
    assert origin(found, "alias file", "/etc/mailman/aliases") == "/etc/mail/sendmail.cf:11"
    assert origin(found, "map access", "hash:/etc/mail/access.db") == "/etc/mail/sendmail.cf:6"
    assert origin(found, "queue", "/var/spool/mqueue/slow") == "/etc/mail/sendmail.cf:15"
    assert origin(found, "client queue", "/var/spool/clientmqueue") == "/etc/mail/submit.cf:2"
    assert origin(found, "smrsh directory", "/etc/smrsh") == "strings of /usr/sbin/smrsh"
    assert origin(found, "profile", "redhat") == "/etc/os-release"
    assert origin(found, "alias map, not held", "nis:mail.aliases") == "/etc/mail/sendmail.cf:11"


def test_a_missing_cf_is_an_error_that_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no sendmail\.cf in .*/etc/mail/sendmail\.cf, /etc/sen"):
        find(Host(str(tmp_path)))


@pytest.mark.parametrize("content", [None, "sendmail.cf"])
def test_a_cf_that_is_no_file_is_an_error_that_names_it(tmp_path: Path, content: str | None) -> None:
    with pytest.raises(FileError, match=r"^/etc/mail/sendmail\.cf: "):
        find(write(tmp_path, {"/etc/mail/sendmail.cf": content}))


def test_a_fifo_in_place_of_a_cf_hangs_nobody(tmp_path: Path) -> None:
    (tmp_path / "etc/mail").mkdir(parents=True)
    os.mkfifo(tmp_path / "etc/mail/sendmail.cf")
    with pytest.raises(FileError, match="not a regular file"):
        find(Host(str(tmp_path)))


@pytest.mark.parametrize(
    ("binary", "cf"),
    [(SENDMAIL, "/etc/mail/sendmail.cf"), (OLD_SENDMAIL, "/etc/sendmail.cf")],
)
def test_of_two_cf_files_the_one_that_the_binary_reads_counts(tmp_path: Path, binary: bytes, cf: str) -> None:
    other: dict[str, bytes | str | None] = {"/etc/sendmail.cf": b"V10\n", "/usr/sbin/sendmail": binary}
    assert of(tmp_path, b"V10\n", **other).cf == cf


def test_another_mtas_sendmail_is_not_taken_for_sendmail(tmp_path: Path) -> None:
    assert of(tmp_path, b"V10\n", **{"/usr/sbin/sendmail": b"\x7fELF postfix"}).sendmail == ""


def test_etc_is_never_the_mail_directory(tmp_path: Path) -> None:
    assert find(write(tmp_path, {"/etc/sendmail.cf": b"V10\n"})).mail_dir == ""


def test_links_lead_nowhere_outside_the_tree(tmp_path: Path) -> None:
    files: dict[str, bytes | str | None] = {
        "/etc/mail": "/srv/mail",
        "/srv/mail/sendmail.cf": DEBIAN_CF,
        "/srv/mail/aliases": "../../../../../../../etc/aliases",
        "/srv/mail/local-host-names": "/etc/hostnames",
    }
    found = find(write(tmp_path / "root", files))
    assert (found.mail_dir, found.cf) == ("/srv/mail", "/srv/mail/sendmail.cf")
    assert found.aliases[0].source == "/etc/aliases"
    assert found.aliases[0].database == "/srv/mail/aliases.db"
    assert found.host_names == ("/etc/hostnames",)
    assert set(found.links) == {"/etc/mail", "/srv/mail/aliases", "/srv/mail/local-host-names"}


def test_a_loop_of_links_is_an_error_that_names_it(tmp_path: Path) -> None:
    files: dict[str, bytes | str | None] = {"/etc/mail/aliases": "a", "/etc/mail/a": "aliases"}
    with pytest.raises(FileError, match="/etc/mail/aliases: too many symbolic links"):
        of(tmp_path, DEBIAN_CF, **files)


@pytest.mark.parametrize(
    ("there", "map_class", "database"),
    [
        ("", "hash", "/etc/mail/aliases.db"),
        ("/etc/mail/aliases.db", "hash", "/etc/mail/aliases.db"),
        ("/etc/mail/aliases.pag", "dbm", "/etc/mail/aliases.pag"),
    ],
)
def test_an_implicit_alias_file_has_the_database_that_is_there(
    tmp_path: Path, there: str, map_class: str, database: str
) -> None:
    found = of(tmp_path, DEBIAN_CF, **({there: b""} if there else {}))
    assert [(spec.map_class, spec.database) for spec in found.aliases] == [(map_class, database)]


def test_a_glob_that_names_no_queue_names_none(tmp_path: Path) -> None:
    assert of(tmp_path, b"O QueueDirectory=/var/spool/mqueue/q*\n").queues == ()
    write(tmp_path, {"/var/spool/mqueue/q1": "../elsewhere", "/var/spool/elsewhere": None})
    found = find(Host(str(tmp_path)))
    assert found.queues == ("/var/spool/elsewhere",)
    assert found.links == ("/var/spool/mqueue/q1",)


def test_without_a_binary_the_smrsh_directory_is_the_known_one(tmp_path: Path) -> None:
    assert of(tmp_path, b"V10\n", **{"/var/lib/smrsh": None}).smrsh_dir == "/var/lib/smrsh"


def test_mprog_names_the_smrsh_that_counts(tmp_path: Path) -> None:
    files: dict[str, bytes | str | None] = {
        "/opt/bin/smrsh": smrsh("/opt/sm.bin"), "/usr/sbin/smrsh": smrsh("/etc/smrsh")
    }  # fmt: skip
    found = of(tmp_path, b"Mprog, P=/opt/bin/smrsh, A=smrsh -c $u\n", **files)
    assert (found.smrsh, found.smrsh_dir) == ("/opt/bin/smrsh", "/opt/sm.bin")
    assert origin(found, "Mprog", "/opt/bin/smrsh") == "/etc/mail/sendmail.cf:1"


def test_reading_refuses_what_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardend.kernel.tree.FILE_LIMIT", 3)
    host = write(tmp_path, {"/a": b"1234", "/b": b"123"})
    with pytest.raises(FileError, match="over 0 MiB"):
        Tree(host).read("/a")
    assert Tree(host).read("/b") == b"123"
    assert Tree(host).contents("/a") == b""


def run(root: Path, *options: str) -> int:
    parser = ArgumentParser()
    verb.register(parser.add_subparsers())
    args = parser.parse_args(["layout", "--root", str(root), *options])
    return int(args.run(args))


def test_the_verb_prints_what_where_and_from_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, {**DEBIAN, "/etc/mail/evil\x1b[31m\nname": b""})
    assert run(tmp_path) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["alias", "file", "/etc/aliases", "/etc/mail/sendmail.cf:9"] in lines
    assert ["locked", "source", "+i", "/etc/aliases"] in lines
    assert ["locked", "source", "-", r"/etc/mail/evil\x1b[31m\x0aname"] in lines


def test_the_verb_prints_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, DEBIAN)
    assert run(tmp_path, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["profile"] == "debian"
    assert document["aliases"][0]["source"] == "/etc/aliases"
    assert {
        "path": "/etc/mail/access.db", "role": "map", "class": "locked", "immutable": False,
        "source": "/etc/mail/access",
    } in document["protected"]  # fmt: skip


def test_finding_changes_nothing_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = write(tmp_path, DEBIAN)
    before = {path: path.lstat() for path in sorted(tmp_path.rglob("*"))}
    for name in ("fork", "posix_spawn", "execv", "system"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("something was run"))
    find(host)
    after = {path: path.lstat() for path in sorted(tmp_path.rglob("*"))}
    assert [(path, info.st_mtime_ns, info.st_ino) for path, info in before.items()] == [
        (path, info.st_mtime_ns, info.st_ino) for path, info in after.items()
    ]
