# SPDX-License-Identifier: Apache-2.0
"""Hosts that Debian does not have: Red Hat's, and the guide's own, built with m4 from Sendmail's files.

As far as a tree without programs can: audit, plan, audit of what the plan makes, and no second plan.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hardend.cli.main import main
from hardend.errors import Exit
from hardend.formats.cf import Cf
from hardend.mcbuild import build_cf
from hardend.plan import Plan
from hardend.rules.documents import Documents
from tests.unit.cf_corpus import macros_in, plain_m4, text_of
from tests.unit.config_check import checked
from tests.unit.hardening import GROUP, PASSWD, Tree, failing, left_alone, mendable

pytestmark = [pytest.mark.root, pytest.mark.m4, pytest.mark.unshare]
ALIASES = """\
mailer-daemon:\tpostmaster
postmaster:\troot
games:\t\troot
system:\t\troot
toor:\t\troot
uucp:\t\troot
manager:\troot
dumper:\t\troot
operator:\troot
decode:\t\t"|/usr/bin/uudecode"
list:\t\t"|/usr/local/bin/listserver run"
"""
# As Red Hat's package has it (sendmail-redhat.mc).
REDHAT_MC = """\
divert(-1)dnl
include(`/usr/share/sendmail-cf/m4/cf.m4')dnl
VERSIONID(`setup for linux')dnl
OSTYPE(`linux')dnl
dnl define(`SMART_HOST', `smtp.your.provider')dnl
define(`confDEF_USER_ID', ``8:12'')dnl
define(`confTO_CONNECT', `1m')dnl
define(`confTRY_NULL_MX_LIST', `True')dnl
define(`confDONT_PROBE_INTERFACES', `True')dnl
define(`PROCMAIL_MAILER_PATH', `/usr/bin/procmail')dnl
define(`ALIAS_FILE', `/etc/aliases')dnl
define(`STATUS_FILE', `/var/log/mail/statistics')dnl
define(`UUCP_MAILER_MAX', `2000000')dnl
define(`confUSERDB_SPEC', `/etc/mail/userdb.db')dnl
define(`confPRIVACY_FLAGS', `authwarnings,novrfy,noexpn,restrictqrun')dnl
define(`confAUTH_OPTIONS', `A')dnl
dnl TRUST_AUTH_MECH(`EXTERNAL DIGEST-MD5 CRAM-MD5 LOGIN PLAIN')dnl
define(`confTO_IDENT', `0')dnl
FEATURE(`no_default_msa', `dnl')dnl
FEATURE(`smrsh', `/usr/sbin/smrsh')dnl
FEATURE(`mailertable', `hash -o /etc/mail/mailertable.db')dnl
FEATURE(`virtusertable', `hash -o /etc/mail/virtusertable.db')dnl
FEATURE(redirect)dnl
FEATURE(always_add_domain)dnl
FEATURE(use_cw_file)dnl
FEATURE(use_ct_file)dnl
FEATURE(local_procmail, `', `procmail -t -Y -a $h -d $u')dnl
FEATURE(`access_db', `hash -T<TMPF> -o /etc/mail/access.db')dnl
FEATURE(`blacklist_recipients')dnl
EXPOSED_USER(`root')dnl
DAEMON_OPTIONS(`Port=smtp,Addr=127.0.0.1, Name=MTA')dnl
FEATURE(`accept_unresolvable_domains')dnl
LOCAL_DOMAIN(`localhost.localdomain')dnl
dnl MASQUERADE_AS(`mydomain.com')dnl
MAILER(smtp)dnl
MAILER(procmail)dnl
"""
# What the guide's host has: everything in /etc, FEATUREs that relay, and no client queue.
CLASSIC_MC = """\
divert(-1)
dnl This is the macro config file used to generate the /etc/sendmail.cf file.
divert(0)dnl
include(`../m4/cf.m4')
define(`MAIL_SETTINGS_DIR', `/etc/mail/')
OSTYPE(`linux')
define(`confCW_FILE', `-o /etc/sendmail.cw')
define(`confCT_FILE', `-o /etc/sendmail.ct')
define(`ALIAS_FILE', `/etc/aliases')
define(`HELP_FILE', `/usr/lib/sendmail.hf')
define(`STATUS_FILE', `/var/log/sendmail.st')
define(`PROCMAIL_MAILER_PATH',`/usr/bin/procmail')
FEATURE(redirect)
FEATURE(always_add_domain)
FEATURE(use_cw_file)
FEATURE(`relay_local_from')
FEATURE(`relay_entire_domain')
FEATURE(`access_db', `hash /etc/mail/access')
FEATURE(`no_default_msa')
FEATURE(local_procmail)
MAILER(local)
MAILER(smtp)
"""


def redhat(root: Path) -> Tree:
    """Make a host of the Red Hat family, as the packages leave it."""
    tree = Tree(root)
    macros_in(root, "/usr/share/sendmail-cf")
    for path, content in {
        "/etc/os-release": 'ID="almalinux"\nID_LIKE="rhel centos fedora"\n',
        "/etc/passwd": PASSWD,
        "/etc/group": GROUP,
        "/etc/aliases": ALIASES,
        "/etc/mail/access": "Connect:localhost\tRELAY\nConnect:127.0.0.1\tRELAY\n",
        "/etc/mail/mailertable": "",
        "/etc/mail/virtusertable": "",
        "/etc/mail/local-host-names": "",
        "/etc/mail/trusted-users": "",
        "/etc/mail/helpfile": "smtp\tThis is sendmail version $v\n",
        "/etc/mail/sendmail.mc": REDHAT_MC,
        "/etc/mail/submit.mc": text_of("cf/submit.mc").decode(),
        "/etc/smrsh/.keep": "",
    }.items():
        tree.write(path, content)
    (root / "etc/smrsh/.keep").unlink()
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    for name in ("procmail", "vacation", "perl"):
        tree.write(f"/usr/bin/{name}", "")
        (root / "usr/bin" / name).chmod(0o755)
        (root / "etc/smrsh" / name).symlink_to(f"/usr/bin/{name}")
    for path, mode in (("var/spool/mqueue", 0o755), ("var/spool/clientmqueue", 0o770)):
        (root / path).mkdir(parents=True)
        (root / path).chmod(mode)
    for name in ("sendmail", "submit"):
        mc = f"/etc/mail/{name}.mc"
        built = build_cf(mc, (root / mc[1:]).read_bytes(), tree.host, tree.tools)
        tree.write(f"/etc/mail/{name}.cf", built.cf)
    databases(tree, "/etc/mail/access", "/etc/mail/mailertable", "/etc/mail/virtusertable", "/etc/aliases")
    return tree


def classic(root: Path, *, with_mc: bool) -> Tree:
    """Make the guide's host; its .mc is not always kept."""
    tree = Tree(root)
    macros_in(root, "/usr/share/sendmail-cf")
    for path, content in {
        "/etc/redhat-release": "Red Hat Linux release 6.1 (Cartman)\n",
        "/etc/passwd": PASSWD,
        "/etc/group": GROUP,
        "/etc/aliases": ALIASES,
        "/etc/sendmail.cw": "mail.example.com\n",
        "/etc/mail/access": "spammer@example.net\tREJECT\n10\tRELAY\ncom\tRELAY\n",
        "/etc/mail/relay-domains": "example.com\nnet\n",
        "/usr/lib/sendmail.hf": "smtp\tThis is Sendmail version $v\n",
        "/bin/mail": "",
        "/bin/sh": "",
    }.items():
        tree.write(path, content)
    for name in ("mail", "sh"):
        (root / "bin" / name).chmod(0o755)
        (root / "etc/smrsh").mkdir(parents=True, exist_ok=True)
        (root / "etc/smrsh" / name).symlink_to(f"/bin/{name}")
    (root / "var/spool/mqueue").mkdir(parents=True)
    mc = "/etc/sendmail.mc"
    tree.write("/etc/sendmail.cf", build_cf(mc, CLASSIC_MC.encode(), tree.host, tree.tools).cf)
    if with_mc:
        tree.write(mc, CLASSIC_MC)
        tree.write("/etc/sendmail.cf", (root / "etc/sendmail.cf").read_bytes())
    databases(tree, "/etc/mail/access", "/etc/aliases")
    return tree


def databases(tree: Tree, *sources: str) -> None:
    """Put a database beside each source; of a tree only its age is looked at."""
    for source in sources:
        tree.write(f"{source}.db", b"")


def hardened(tree: Tree, *must_fail: str) -> tuple[Documents, Plan, list[str]]:
    """Return the documents before, the plan of everything, and the rules that it leaves to a hand."""
    before = tree.documents()
    failed = failing(before)
    assert {item.rule.id for item in failed} >= set(must_fail)
    made = tree.plan(before, mendable(failed))
    after = failing(made.after)
    again = tree.plan(made.after, mendable(after))
    assert again.is_empty, list(again.diff())
    return before, made, left_alone(after, made.refused)


def test_red_hat_is_hardened(tmp_path: Path) -> None:
    tree = redhat(tmp_path)
    before, made, left = hardened(
        tree,
        "smrsh-programs", "aliases-decode", "aliases-programs", "greeting-version", "greeting-help",
        "queue-viewing", "queue-viewing-client", "relay-senders", "exposure-limits",
    )  # fmt: skip
    print(left, made.refused)
    assert before.layout.profile == "redhat"
    assert left == []
    mc = made.after.content["/etc/mail/sendmail.mc"].decode()
    assert "dnl FEATURE(`accept_unresolvable_domains')dnl" in mc
    assert "authwarnings,novrfy,noexpn,restrictqrun,restrictmailq" in mc
    assert set(made.removed) >= {"/etc/smrsh/procmail", "/etc/smrsh/perl"}
    assert "/etc/smrsh/vacation" not in made.removed
    aliases = made.after.content["/etc/aliases"].decode()
    assert "decode" not in aliases and "games" in aliases
    files = {name: made.after.content[f"/etc/mail/{name}.cf"] for name in ("sendmail", "submit")}
    assert checked(files) == {"sendmail": "", "submit": ""}


@pytest.mark.parametrize("with_mc", [True, False])
def test_the_guides_own_host_is_hardened(tmp_path: Path, *, with_mc: bool) -> None:
    tree = classic(tmp_path, with_mc=with_mc)
    before, made, left = hardened(
        tree,
        "smrsh-mailer", "smrsh-programs", "aliases-decode", "privacy-flags", "greeting-version",
        "greeting-help", "queue-viewing", "queue-running", "relay-from", "relay-entries", "aliases-programs",
    )  # fmt: skip
    print(left, made.refused)
    assert before.layout.profile == "classic"
    assert before.layout.host_names == ("/etc/sendmail.cw",)
    cf = Cf(made.after.content["/etc/sendmail.cf"])
    mailer = cf.mailer("prog")
    assert mailer is not None and mailer.path.endswith("/smrsh")
    assert "/etc/smrsh/sh" in made.removed
    assert checked({"sendmail.cf": made.after.content["/etc/sendmail.cf"]}) == {"sendmail.cf": ""}


def test_the_verbs_say_of_such_trees_what_the_rules_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    redhat(tmp_path)
    assert main(["audit", "--root", str(tmp_path)]) == Exit.DRIFT
    assert "Sendmail, redhat layout" in capsys.readouterr().out
    assert main(["harden", "--root", str(tmp_path), "--plan"]) == Exit.OK
    shown = capsys.readouterr().out
    assert "+++ b/etc/mail/sendmail.mc" in shown
    assert "rm /etc/smrsh/procmail" in shown
    assert plain_m4(REDHAT_MC.replace("/usr/share/sendmail-cf/", "/usr/share/sendmail/cf/").encode())[0]
