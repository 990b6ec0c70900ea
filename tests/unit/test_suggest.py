# SPDX-License-Identifier: Apache-2.0
"""``hardend suggest``: who writes here, what is to be added for it, and that it is a configuration."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend import classes, config, layout
from hardend.cli.main import main
from hardend.config import Settings
from hardend.kernel.tree import Tree
from hardend.model import Class, Host
from hardend.settings import Block
from hardend.suggest import Suggestion, Suggestions, suggest
from hardend.suggest_sources import values, writers, written
from hardend.suggest_text import as_json, fragment

CF = b"""V10/Berkeley
O AliasFile=/etc/aliases
O QueueDirectory=/var/spool/mqueue
O ServerCertFile=/etc/ours/mail.crt
Kaccess hash /etc/mail/access
Kvirtuser hash /etc/mail/virtusertable
FR-o /etc/mail/relay-domains
"""
LIST = b"""news: "|/usr/lib/mailman/mail/mailman post news"
news-admin: "|/usr/lib/mailman/mail/mailman admin news"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "/etc/mail/sendmail.cf": CF,
        "/etc/mail/access": b"a.example\tREJECT\n",
        "/etc/mail/virtusertable": b"",
        "/etc/mail/relay-domains": b"",
        "/etc/aliases": b"root: admin\n",
        "/etc/ours/mail.crt": b"certificate\n",
        "/etc/hardend/hardend.toml": b'[paths]\nprotect = ["/etc/ours"]\n',
    }
    for path, content in files.items():
        put(tmp_path, path, content)
    (tmp_path / "etc/mail/aliases").symlink_to("../aliases")
    return tmp_path


def put(root: Path, path: str, content: bytes | str) -> None:
    place = root / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content if isinstance(content, bytes) else content.encode())


def found(root: Path) -> Suggestions:
    host = Host(str(root))
    return suggest(host, layout.find(host), config.load(host), since=0)


def known(root: Path) -> dict[str, Class]:
    return {item.path: item.cls for item in found(root).items if item.known and item.block is None}


def why(root: Path, path: str) -> list[str]:
    return [text for item in found(root).items if item.path == path for text in item.why]


def test_a_host_without_other_writers_needs_nothing(tree: Path) -> None:
    assert found(tree).items == []
    assert "Nothing is to be added" in fragment(found(tree))


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/etc/cron.d/feed", "0 * * * * root curl -s https://a.example/x -o /etc/mail/access\n"),
        ("/etc/cron.daily/feed", '#!/bin/sh\nTABLE=/etc/mail/access\ncat /var/feed >> "$TABLE"\n'),
        ("/etc/crontab", "1 1 * * * root sed -i.bak s/a/b/ /etc/mail/access && makemap hash x < y\n"),
        ("/var/spool/cron/crontabs/root", "1 1 * * * mv /tmp/x /etc/mail/access\n"),
        ("/var/spool/cron/root", "1 1 * * * cp /srv/access /etc/mail/\n"),
        ("/etc/systemd/system/feed.service", "[Service]\nExecStart=/bin/sh -c 'tee -a /etc/mail/access'\n"),
        ("/etc/letsencrypt/renewal-hooks/deploy/x", "#!/bin/sh\nprintf x >/etc/mail/access\n"),
    ],
)
def test_who_writes_a_locked_table_makes_it_checked(tree: Path, path: str, content: str) -> None:
    put(tree, path, content)
    assert known(tree) == {"/etc/mail/access": Class.CHECKED}
    assert f"{path}:" in why(tree, "/etc/mail/access")[0]


@pytest.mark.parametrize(
    "line",
    [
        "cat /etc/mail/access | grep x > /tmp/out",
        "makemap hash /etc/mail/access < /etc/mail/access",
        "# echo x > /etc/mail/access",
        "cp /etc/mail/access /var/backups/access",
        "sed s/a/b/ /etc/mail/access",
        "diff -i /etc/mail/access x; chmod 644 /etc/mail/access",
        "echo x > /etc/mail/access.new 2>&1",
        "echo x >> /etc/mail/virtusertable",  # which others may write already
    ],
)
def test_who_only_reads_or_may_already_needs_nothing(tree: Path, line: str) -> None:
    put(tree, "/etc/cron.hourly/x", f"#!/bin/sh\n{line}\n")
    assert found(tree).items == []


def test_a_script_that_a_unit_starts_is_read_too(tree: Path) -> None:
    put(tree, "/etc/systemd/system/x.service", "[Service]\nExecStart=/usr/local/sbin/feed --all\n")
    put(tree, "/usr/local/sbin/feed", "#!/bin/sh\nwget -q -O /etc/mail/relay-domains https://a.example\n")
    assert known(tree) == {"/etc/mail/relay-domains": Class.CHECKED}
    assert why(tree, "/etc/mail/relay-domains") == [
        "systemd unit x.service /usr/local/sbin/feed:2 writes it"
    ]


def test_what_another_users_crontab_claims_is_not_recommended(tree: Path) -> None:
    put(tree, "/var/spool/cron/crontabs/bob", "1 1 * * * echo x > /etc/mail/access\n")
    assert known(tree) == {}
    assert '\n# "/etc/mail/access" = "checked"' in fragment(found(tree))


def test_a_ban_action_counts_where_a_jail_uses_it(tree: Path) -> None:
    put(
        tree,
        "/etc/fail2ban/action.d/mailtable.conf",
        "[Definition]\nactionban = echo 'Connect:<ip> REJECT' >> <table>\n[Init]\ntable = /etc/mail/access\n",
    )
    assert known(tree) == {}
    put(tree, "/etc/fail2ban/jail.local", "[sendmail-auth]\nbanaction = mailtable\n")
    assert known(tree) == {"/etc/mail/access": Class.CHECKED}


def test_a_list_manager_gets_its_lines_of_aliases(tree: Path) -> None:
    put(tree, "/etc/aliases", b"root: admin\n" + LIST)
    (item,) = found(tree).items
    assert item.block == Block(
        "/etc/aliases", "the list manager's lines", pattern='*: "|/usr/lib/mailman/mail/mailman *"'
    )
    assert "2 aliases run /usr/lib/mailman/mail/mailman" in item.why[0]


def test_a_block_goes_before_a_class_for_the_same_file(tree: Path) -> None:
    put(tree, "/etc/aliases", b"root: admin\n" + LIST)
    put(tree, "/etc/cron.d/lists", "1 1 * * * root echo x >> /etc/mail/aliases\n")
    assert [item.block is not None for item in found(tree).items] == [True]


def test_sympa_and_webmin_say_where_they_write(tree: Path) -> None:
    put(tree, "/etc/sympa/sympa.conf", "# x\nsendmail_aliases   /etc/aliases\n")
    assert known(tree) == {"/etc/aliases": Class.CHECKED}
    webmin = "access_file=/etc/mail/access\nsendmail_cf=/etc/mail/sendmail.cf\n"
    put(tree, "/etc/webmin/sendmail/config", webmin)
    assert known(tree) == {"/etc/aliases": Class.CHECKED, "/etc/mail/access": Class.CHECKED}
    assert any("Webmin edits /etc/mail/sendmail.cf" in note for note in found(tree).notes)


def test_renewed_certificates_are_held_by_attributes(tree: Path) -> None:
    put(tree, "/etc/letsencrypt/renewal/mail.conf", "cert = /etc/letsencrypt/live/mail/cert.pem\n")
    assert known(tree) == {"/etc/ours/mail.crt": Class.ATTRIBUTES}


def test_the_configuration_of_sendmail_is_never_given_away(tree: Path) -> None:
    put(tree, "/etc/cron.d/cf", "1 1 * * * root cp /srv/sendmail.cf /etc/mail/sendmail.cf; sendmailconfig\n")
    assert found(tree).items == []
    notes = " ".join(found(tree).notes)
    assert "/etc/mail/sendmail.cf: cron job /etc/cron.d/cf:1 writes it" in notes
    assert "start it as hardend run" in notes


def test_a_panel_is_told_of(tree: Path) -> None:
    (tree / "usr/local/cpanel").mkdir(parents=True)
    assert any("cPanel is here" in note for note in found(tree).notes)


def test_what_is_configured_already_is_not_suggested_again(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tree, "/etc/aliases", b"root: admin\n" + LIST)
    put(tree, "/etc/cron.d/feed", "0 * * * * root echo x >> /etc/mail/access\n")
    put(tree, "/etc/letsencrypt/renewal/mail.conf", "")
    put(tree, "/var/spool/cron/crontabs/bob", "1 1 * * * echo x > /etc/mail/relay-domains\n")
    assert main(["suggest", "--root", str(tree)]) == 0
    said = capsys.readouterr().out
    put(tree, "/etc/hardend/conf.d/local.toml", said)
    assert main(["config", "check", "--root", str(tree)]) == 0
    host = Host(str(tree))
    settings = config.load(host)
    for path, held in (
        ("/etc/aliases", Class.CHECKED),
        ("/etc/mail/access", Class.CHECKED),
        ("/etc/ours/mail.crt", Class.ATTRIBUTES),
        ("/etc/mail/relay-domains", Class.LOCKED),
    ):
        assert classes.class_of(path, layout.find(host), settings) is held
    assert known(tree) == {}


def test_json_says_the_same(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tree, "/etc/aliases", LIST)
    put(tree, "/etc/cron.d/feed", "0 * * * * root echo x >> /etc/mail/access\n")
    assert main(["suggest", "--json", "--root", str(tree)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["classes"] == [
        {
            "path": "/etc/mail/access",
            "class": "checked",
            "known": True,
            "why": ["cron job /etc/cron.d/feed:1 writes it"],
        }
    ]
    assert said["blocks"][0]["path"] == "/etc/aliases"


def test_nothing_of_what_is_found_is_run(tree: Path) -> None:
    put(tree, "/etc/cron.hourly/x", f"#!/bin/sh\ntouch {tree}/ran\necho > /etc/mail/access\n")
    (tree / "etc/cron.hourly/x").chmod(0o755)
    assert known(tree) == {"/etc/mail/access": Class.CHECKED}
    assert not (tree / "ran").exists()


TEXTS = st.text(st.characters(), max_size=30)


@given(st.lists(st.tuples(TEXTS, st.booleans(), TEXTS), max_size=4), st.lists(TEXTS, max_size=3))
def test_every_fragment_is_toml(items: list[tuple[str, bool, str]], notes: list[str]) -> None:
    made = [
        Suggestion(f"/etc/{number}{path}", Class.CHECKED, [reason], is_known)
        for number, (path, is_known, reason) in enumerate(items)
    ]
    block = Block("/etc/x", notes[0] if notes else "x", pattern='*: "|/a\\b *"')
    made.append(Suggestion("/etc/x", Class.CHECKED, notes, block=block))
    document = tomllib.loads(fragment(Suggestions(made, notes)))
    assert document["blocks"][0]["pattern"] == block.pattern
    given_away = document.get("paths", {}).get("classes", {})
    assert set(given_away) <= {item.path for item in made if item.known}
    json.dumps(as_json(Suggestions(made, notes)))


@given(st.text(max_size=80))
def test_any_line_is_read(line: str) -> None:
    assert written(line, {"/etc/mail/access"}) <= {"/etc/mail/access"}
    assert all(name for name, _ in values(line))


@given(content=st.binary(max_size=200))
def test_any_file_is_read(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("host")
    put(root, "/etc/crontab", content)
    put(root, "/etc/fail2ban/action.d/x.conf", content)
    put(root, "/etc/fail2ban/jail.local", content)
    found = list(writers(Tree(Host(str(root))), {"/etc/mail/access"}))
    assert {item.path for item in found} <= {"/etc/mail/access", ""}
    places = {item.where.rpartition(":")[0] for item in found}
    assert places <= {"/etc/crontab", "/etc/fail2ban/action.d/x.conf"}


def test_settings_without_a_file_are_enough(tree: Path) -> None:
    host = Host(str(tree))
    assert suggest(host, layout.find(host), Settings(), since=0).items == []
