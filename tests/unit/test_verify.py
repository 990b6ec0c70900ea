# SPDX-License-Identifier: Apache-2.0
"""The judgements of the outcome probe: what was said, and what that proves."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend import ordinary_user, relay_probe, smtp_outcome
from hardend.cli.main import main
from hardend.command import Ran
from hardend.errors import CommandError, HardendError
from hardend.formats.cf import Cf
from hardend.layout import Layout
from hardend.model import Host
from hardend.outcome import Check, counts, is_proven
from hardend.rules.rule import Section, Verdict
from hardend.settings import Settings
from hardend.smtp_dialogue import GREETING, Dialogue, Reply
from hardend.smtp_outcome import EHLO, EXPN, HELP, VERB, VRFY_KNOWN, VRFY_UNKNOWN, Listener
from hardend.verify import _prog_mailer, _Programs, verify
from tests.unit.smtp_server import answering, serving, silent

PASS, FAIL, UNKNOWN = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN
MTA = Listener("127.0.0.1", 25)
REFUSED = Reply(502, ("5.7.0 Sorry, we do not allow this operation",))
HARDENED = {
    GREETING: Reply(220, ("mail.example.com ESMTP Mail ServerReady; Tue, 24 Nov 2026 09:00:10 GMT",)),
    EHLO: Reply(250, ("mail.example.com Hello localhost [127.0.0.1], pleased to meet you", "SIZE", "HELP")),
    EXPN: REFUSED,
    VRFY_KNOWN: Reply(252, ("2.5.2 Cannot VRFY user; try RCPT to attempt delivery (or try finger)",)),
    VRFY_UNKNOWN: Reply(252, ("2.5.2 Cannot VRFY user; try RCPT to attempt delivery (or try finger)",)),
    HELP: Reply(214, ("2.0.0 End of HELP info",)),
    VERB: Reply(502, ("5.7.0 Verbose unavailable",)),
}


def judged(
    replies: dict[str, Reply], why: str = "", host_name: str = "mail.example.com"
) -> dict[str, Verdict]:
    checks = smtp_outcome.judged(MTA, Dialogue(replies, why), running=True, host_name=host_name)
    return {check.check: check.verdict for check in checks}


def test_a_hardened_listener_passes_every_check() -> None:
    found = judged(HARDENED)
    assert list(found) == ["listener", "greeting", "ehlo", "expn", "vrfy", "verb", "help"]
    assert set(found.values()) == {PASS}


@pytest.mark.parametrize(
    ("command", "reply", "check", "verdict"),
    [
        (GREETING, Reply(220, ("mail.example.com ESMTP Sendmail 8.17.1.9/8.17.1.9",)), "greeting", FAIL),
        (GREETING, Reply(220, ("mail.example.com ESMTP ready", "8.18.1/8.18.1")), "greeting", FAIL),
        (GREETING, Reply(220, ("Mail ESMTP Server Ready ; date",)), "greeting", FAIL),
        (GREETING, Reply(220, ("mail.example.com; ESMTP date",)), "greeting", FAIL),
        (GREETING, Reply(220, ("ESMTP mail.example.com",)), "greeting", FAIL),
        (GREETING, Reply(220, ("j ESMTP; B",)), "greeting", FAIL),
        (GREETING, Reply(220, ("",)), "greeting", FAIL),
        # Near misses: another name of the host; an address in it.
        (GREETING, Reply(220, ("mx1.example.net ESMTP Mail ServerReady",)), "greeting", PASS),
        (GREETING, Reply(220, ("mail.example.com ESMTP ready, you are [8.8.8.8]",)), "greeting", PASS),
        (EHLO, Reply(250, ("mail", "EXPN", "HELP")), "ehlo", FAIL),
        (EHLO, Reply(250, ("mail", "verb")), "ehlo", FAIL),
        (EHLO, Reply(250, ("EXPN.example.com VERB", "XEXPN")), "ehlo", PASS),
        (EHLO, Reply(502, ("no",)), "ehlo", UNKNOWN),
        (EXPN, Reply(250, ("2.1.5 root <root@mail.example.com>",)), "expn", FAIL),
        (EXPN, Reply(550, ("5.1.1 root... User unknown",)), "expn", FAIL),
        (EXPN, Reply(252, ("2.5.2 perhaps",)), "expn", FAIL),
        (EXPN, Reply(500, ("5.5.1 Command unrecognized",)), "expn", PASS),
        (EXPN, Reply(530, ("5.7.0 Authentication required",)), "expn", PASS),
        (EXPN, Reply(452, ("4.4.5 later",)), "expn", UNKNOWN),
        (VRFY_KNOWN, Reply(250, ("2.1.5 root <root@mail.example.com>",)), "vrfy", FAIL),
        (VRFY_UNKNOWN, Reply(550, ("5.1.1 hardend-no-such-name... User unknown",)), "vrfy", FAIL),
        (VRFY_UNKNOWN, Reply(451, ("4.3.0 later",)), "vrfy", UNKNOWN),
        (VERB, Reply(250, ("2.0.0 Verbose mode",)), "verb", FAIL),
        (HELP, Reply(214, ("2.0.0 This is sendmail version 8.17.1.9", "2.0.0 End")), "help", FAIL),
        (HELP, Reply(502, ("5.3.0 Sendmail 8.17.1.9 -- HELP not implemented",)), "help", FAIL),
        (HELP, Reply(214, ("2.0.0 For local information send email to Postmaster",)), "help", PASS),
    ],
)
def test_one_reply_that_is_other_changes_one_verdict(
    command: str, reply: Reply, check: str, verdict: Verdict
) -> None:
    found = judged({**HARDENED, command: reply})
    assert found.pop(check) is verdict
    assert set(found.values()) == {PASS}


def test_a_vrfy_that_answers_every_name_alike_but_looks_it_up_fails() -> None:
    same = Reply(250, ("2.1.5 accepted",))
    assert judged({**HARDENED, VRFY_KNOWN: same, VRFY_UNKNOWN: same})["vrfy"] is FAIL
    refused = Reply(502, ("5.5.1 no",))
    assert judged({**HARDENED, VRFY_KNOWN: refused, VRFY_UNKNOWN: refused})["vrfy"] is PASS


def test_a_host_without_a_domain_may_greet_by_its_own_name_only() -> None:
    greeting = {**HARDENED, GREETING: Reply(220, ("mail ESMTP ready",))}
    assert judged(greeting, host_name="Mail")["greeting"] is PASS
    assert judged(greeting, host_name="")["greeting"] is FAIL


def test_what_was_not_reached_is_unknown_and_what_was_is_judged() -> None:
    some = {key: HARDENED[key] for key in (GREETING, EHLO, EXPN, VRFY_KNOWN)}
    found = judged(some, "it hung up")
    assert {check for check, verdict in found.items() if verdict is PASS} == {
        *("listener", "greeting", "ehlo", "expn"),
    }
    assert {check for check, verdict in found.items() if verdict is UNKNOWN} == {"vrfy", "verb", "help"}


@pytest.mark.parametrize(
    ("dialogue", "running", "verdict"),
    [
        (Dialogue(refused=True, why="Connection refused"), True, FAIL),
        (Dialogue(refused=True, why="Connection refused"), False, UNKNOWN),
        (Dialogue(why="no answer within 20 s"), True, UNKNOWN),
        (Dialogue({GREETING: Reply(421, ("4.3.2 too busy",))}), True, UNKNOWN),
        (Dialogue({GREETING: Reply(554, ("mail ESMTP not accepting messages",))}), True, UNKNOWN),
    ],
)
def test_a_listener_that_does_not_welcome_is_one_check(
    dialogue: Dialogue, verdict: Verdict, *, running: bool
) -> None:
    (check,) = smtp_outcome.judged(MTA, dialogue, running=running, host_name="")
    assert (check.check, check.verdict, check.is_fatal) == ("listener", verdict, verdict is FAIL)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("", [("127.0.0.1", 25)]),
        ("O DaemonPortOptions=Name=MTA", [("127.0.0.1", 25)]),
        ("O DaemonPortOptions=Family=inet,  Name=MTA-v4, Port=smtp, Addr=192.0.2.1", [("192.0.2.1", 25)]),
        ("O DaemonPortOptions=F=inet6, A=::, P=25\nO DaemonPortOptions=Port=587, M=Ea",
         [("::1", 25), ("127.0.0.1", 587)]),
        ("O DaemonPortOptions=Family=inet6, Addr=IPv6:2001:db8::1", [("2001:db8::1", 25)]),
        ("O DaemonPortOptions=Addr=0.0.0.0\nO DaemonPortOptions=Addr=127.0.0.1", [("127.0.0.1", 25)]),
        ("O DaemonPortOptions=Family=local, Addr=/run/smtp", []),
        ("O DaemonPortOptions=Port=no-such-service", []),
        ("O DaemonPortOptions=Port=99999999999999999999", []),
        ("O DaemonPortOptions=Port=0", []),
        ("O ClientPortOptions=Port=99", [("127.0.0.1", 25)]),
    ],
)  # fmt: skip
def test_every_listener_of_the_configuration_is_found(options: str, found: list[tuple[str, int]]) -> None:
    listeners = smtp_outcome.listeners(Cf(f"V10\n{options}\n".encode()))
    assert [(item.address, item.port) for item in listeners] == found


def test_a_listener_of_smtps_is_asked_in_tls() -> None:
    (listener,) = smtp_outcome.listeners(Cf(b"O DaemonPortOptions=Port=465, M=s\n"))
    assert listener.tls


def test_a_real_dialogue_is_judged() -> None:
    replies = [HARDENED[command] for command in smtp_outcome.COMMANDS]
    answers = [f"{reply.code} {reply.lines[0]}\r\n".encode() for reply in replies]
    with serving(answering(*answers, greeting=b"220 mail.example.com ESMTP\r\n")) as server:
        checks = smtp_outcome.checks(
            Listener("127.0.0.1", server.port), running=True, host_name="", limit_s=10
        )
    assert is_proven(checks)
    assert server.heard == [*(command.encode() for command in smtp_outcome.COMMANDS), b"QUIT"]
    assert not {b"DEBUG", b"WIZ"} & set(server.heard)


def test_a_silent_listener_is_unknown_within_the_limit() -> None:
    with serving(silent) as server:
        (check,) = smtp_outcome.checks(
            Listener("127.0.0.1", server.port), running=True, host_name="", limit_s=0.2
        )
    assert check.verdict is UNKNOWN
    assert check.message == "no greeting: no answer within 0.2 s"


# An ordinary user ---------------------------------------------------------------------------------

NO_QUEUE = b"You are not permitted to see the queue\n\t\tTotal requests: 0\n"
ONE = b"\t\t/var/spool/mqueue (1 request)\n-----Q-ID-----\n\t\tTotal requests: 1\n"
CLOSED = b"can not chdir(/var/spool/mqueue/): Permission denied\n"


@pytest.mark.parametrize(
    ("output", "status", "verdict"),
    [
        (NO_QUEUE, 0, PASS),
        (CLOSED, 78, PASS),
        (b"/var/spool/mqueue is empty\n\t\tTotal requests: 0\n", 0, FAIL),
        (ONE, 0, FAIL),
        (NO_QUEUE + b"/var/spool/q2 is empty\n", 0, FAIL),  # one of two queues is shown
        (b"", 0, UNKNOWN),
        (b"\xff\x1b[2J", 1, UNKNOWN),
    ],
)
def test_a_listing_is_judged_by_what_is_shown(output: bytes, status: int, verdict: Verdict) -> None:
    found, message = ordinary_user.judged_listing(Ran(status, output), "nobody")
    assert found is verdict
    assert message.isprintable()


@pytest.mark.parametrize(
    ("output", "status", "verdict"),
    [
        (b"You do not have permission to process the queue\n", 77, PASS),
        (CLOSED, 78, PASS),
        (b"", 0, FAIL),
        (b"Segmentation fault", -11, UNKNOWN),
    ],
)
def test_a_run_of_the_queue_is_judged(output: bytes, status: int, verdict: Verdict) -> None:
    assert ordinary_user.judged_run(Ran(status, output), "nobody")[0] is verdict


@pytest.mark.parametrize(("status", "verdict"), [(69, PASS), (0, FAIL), (64, UNKNOWN), (71, UNKNOWN)])
def test_smrsh_is_judged_by_its_exit_status(status: int, verdict: Verdict) -> None:
    assert ordinary_user.judged_smrsh(Ran(status, b"smrsh: no\n"), "nobody")[0] is verdict


def account(name: str, uid: int, gid: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, gid, "", "/", "/bin/sh"))


@pytest.mark.parametrize(
    ("accounts", "name"),
    [
        ([account("root", 0, 0), account("bin", 2, 2), account("nobody", 65534, 65534)], "nobody"),
        ([account("root", 0, 0), account("smmsp", 102, 103), account("alice", 1000, 1000)], "alice"),
        # nobody's group is that of a queue: the queue would be shown to it by right.
        ([account("nobody", 65534, 103), account("bob", 1001, 1001), account("al", 1000, 1000)], "al"),
        ([account("mail", 8, 8), account("smmta", 101, 104), account("owner", 7, 7)], None),
        ([], None),
    ],
)
def test_the_ordinary_user_is_of_no_mail_group(accounts: list[pwd.struct_passwd], name: str | None) -> None:
    found = ordinary_user.chosen(accounts, {0, 7}, {0, 103}, "smmta")
    assert (found.name if found else None) == name


def test_the_queue_is_only_run_for_an_id_that_no_message_has() -> None:
    layout = Layout(
        profile="x", mail_dir="", cf="/c", submit_cf="/s", sendmail="/usr/sbin/sendmail", smrsh="/smrsh"
    )
    commands = [probe.argv[1:] for probe in ordinary_user.probes(layout)]
    assert commands == [
        ("-bp",),
        ("-Ac", "-bp"),
        ("-qIno-such-id.hardend",),
        ("-Ac", "-qIno-such-id.hardend"),
        ("-c", "sh -c true"),
    ]


# The whole ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "verdict"),
    [
        (None, Verdict.NOT_APPLICABLE),
        ("[IPC]", Verdict.NOT_APPLICABLE),
        ("/bin/sh", FAIL),
        ("/nowhere/smrsh", FAIL),
        ("OTHER", FAIL),
        ("OWN", PASS),
    ],
)
def test_only_the_host_s_smrsh_may_run_programs(tmp_path: Path, path: str | None, verdict: Verdict) -> None:
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "smrsh").touch()
    layout = Layout(profile="x", mail_dir="", cf="/c", smrsh=str(tmp_path / "own/smrsh"))
    places = {"OWN": layout.smrsh, "OTHER": str(tmp_path / "other/smrsh")}
    assert _prog_mailer(layout, places.get(path or "", path)).verdict is verdict


def test_programs_end_with_their_time_and_with_that_of_all() -> None:
    programs = _Programs(0.1)
    for _ in range(4):
        with pytest.raises(CommandError, match=r"sleep.*(not done after|took too long)"):
            programs.run(["sleep", "600"])
    with pytest.raises(CommandError, match="what was run before took too long"):
        programs.run(["true"])


def test_only_what_applies_must_pass_and_unknown_is_no_proof() -> None:
    def check(verdict: Verdict) -> Check:
        return Check("x", "y", Section.GREETING, verdict, "")

    assert is_proven([check(PASS), check(Verdict.NOT_APPLICABLE)])
    assert not is_proven([check(PASS), check(UNKNOWN)])
    assert not is_proven([check(PASS), check(FAIL)])
    assert counts([check(PASS), check(FAIL)]) == {"pass": 1, "fail": 1, "unknown": 0, "not-applicable": 0}


def test_a_tree_is_refused_before_anything_of_it_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--root", str(tmp_path)]) == 2
    assert "a tree has no outcome" in capsys.readouterr().err
    with pytest.raises(HardendError, match="a tree has no outcome"):
        verify(Host(str(tmp_path)), Layout(profile="x", mail_dir="", cf="/c"), Settings())


@given(st.text(max_size=300))
def test_whatever_a_peer_or_a_program_says_is_shown_safely(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    reply = Reply(250, (text,))
    for check in smtp_outcome.judged(MTA, Dialogue({**HARDENED, EXPN: reply}), running=True, host_name=""):
        assert check.message.isprintable()
    for judge in (ordinary_user.judged_listing, ordinary_user.judged_run, ordinary_user.judged_smrsh):
        assert judge(Ran(1, data), "nobody")[1].isprintable()
    assert relay_probe.judged_recipient(f"check_rcpt       returns: {text}")[1].isprintable()
