# SPDX-License-Identifier: Apache-2.0
"""Would it relay: the answers of ``sendmail -bt``, as texts that were seen and from the real program."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardend import relay_probe
from hardend.command import Ran, run
from hardend.outcome import Check
from hardend.relay_probe import Facts, judged_recipient, judged_sender
from hardend.rules.rule import Verdict
from tests.unit import programs
from tests.unit.programs import qualified_name as qualified_name  # noqa: PLC0414 - a fixture

PASS, FAIL, UNKNOWN = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN
DENIED = '$# error $@ 5 . 7 . 1 $: "550 Relaying denied"'
OPEN = "user @ remote . example $| @ user < @ remote . example >"


def returned(answer: str, *inner: str) -> str:
    lines = [f"{name} returns: {value}" for name, value in zip(inner[::2], inner[1::2], strict=True)]
    return "\n".join([*lines, f"check_rcpt       returns: {answer}", "== Ruleset check_rcpt (176) status 75"])


@pytest.mark.parametrize(
    ("block", "verdict"),
    [
        (returned(DENIED), PASS),
        (returned(DENIED, "Basic_check_rcpt", DENIED), PASS),
        (returned('$# error $@ 5 . 7 . 1 $: "550 Relaying denied. Proper authentication required."'), PASS),
        (returned('$# error $: "553 no such thing here"'), PASS),
        (returned("$# error $: no relaying"), PASS),  # an error without a code is for good
        (returned("$# discard $: discard"), PASS),
        (returned("RELAY"), FAIL),
        (returned("OK"), FAIL),
        (returned("$# OK"), FAIL),
        (returned("$# RELAY"), FAIL),
        (returned(OPEN), FAIL),
        (returned("user < @ remote . example >"), FAIL),
        (returned(""), FAIL),
        (returned("$@ error"), FAIL),  # only $# decides
        (returned('$# error $@ 4 . 3 . 0 $: "451 Temporary system failure."'), UNKNOWN),
        (returned('$# TEMP $@ 4 . 3 . 0 $: "451 later"'), UNKNOWN),
        (returned('$# error $: "451 later"'), UNKNOWN),
        (returned("$# error $@ quarantine $: for a look"), UNKNOWN),
        # With delay_checks: the recipient is taken, what was refused is the sender, or this one client.
        (returned('$# error $@ 5 . 5 . 4 $: "553 Domain name required"', "checkrcpt       ", OPEN), UNKNOWN),
        (returned('$# error $@ 5 . 7 . 1 $: "550 Access denied"', "checkrcpt       ", "RELAY"), UNKNOWN),
        ("> Undefined ruleset check_rcpt", FAIL),
        ("", UNKNOWN),
        ("Basic_check_rcpt returns: RELAY", UNKNOWN),
    ],
)  # fmt: skip
def test_only_a_refusal_for_good_is_a_closed_relay(block: str, verdict: Verdict) -> None:
    assert judged_recipient(block)[0] is verdict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ('check_mail       returns: $# error $@ 5 . 1 . 8 $: "553 Domain does not exist"', PASS),
        ('checkmail        returns: $# error $@ 4 . 1 . 8 $: "451 Domain does not resolve"', PASS),
        ("Undefined ruleset check_mail\n> checkmail        returns: @ user < @ no-such . invalid >", FAIL),
        ("check_mail       returns: < OKR >\n> Undefined ruleset checkmail", FAIL),
        ('check_mail       returns: $# error $@ 4 . 3 . 0 $: "451 Temporary system failure"', UNKNOWN),
        ("> Undefined ruleset check_mail\n> Undefined ruleset checkmail", FAIL),
        ("", UNKNOWN),
    ],
)
def test_a_sender_without_a_domain_must_be_refused(answer: str, verdict: Verdict) -> None:
    assert judged_sender(answer)[0] is verdict


def test_an_answer_is_shown_as_the_mta_would_say_it() -> None:
    forged = '$# error $@ 5 . 7 . 1 $: "550 Relaying denied. IP name possibly forged " h . example'
    assert judged_recipient(returned(forged))[1] == (
        "refused: 550 Relaying denied. IP name possibly forged h.example"
    )
    assert judged_recipient(returned(OPEN))[1] == "relayed: user@remote.example $|@user<@remote.example>"


def test_a_probe_stands_for_every_feature_and_few_names_are_tried() -> None:
    many = tuple(f"d{number}.example.org" for number in range(500))
    known = Facts("mail.example.com", ("10.1", "*", "a b.example", "x;y.example", *many))
    tried = relay_probe.probes(known)
    recipients = [probe.recipient for probe in tried if probe.check == "relay-percent-hack"]
    assert recipients == [
        f"user%remote.example@{name}"
        for name in ("mail.example.com", "d0.example.org", "d1.example.org", "d10.example.org")
    ]
    assert [probe.client_name for probe in tried if probe.client_resolve == "FORGED"] == ["d0.example.org"]


# The real program ---------------------------------------------------------------------------------

NAMES = b"Dj mail.example.com\nC{R}partner.example\n"
CLOSED = b'Scheck_rcpt\nR$* @ localhost\t$@ RELAY\nR$*\t\t$#error $@ 5.7.1 $: "550 Relaying denied"\n'
# A hand-made ruleset that shows which macros it was given.
BY_SENDER = (
    b'Scheck_rcpt\nR$*\t\t$: $&{mail_from}\nR$+ @ mail.example.com\t$@ RELAY\n'
    b'R$*\t\t$#error $@ 5.7.1 $: "550 Relaying denied"\n'
)
BY_FORGED_NAME = (
    b"Scheck_rcpt\nR$*\t\t$: $&{client_name}\nR$=R\t\t$@ RELAY\n"
    b'R$*\t\t$#error $@ 5.7.1 $: "550 Relaying denied"\n'
)
SENDERS = b'Scheck_mail\nR$*\t\t$#error $@ 5.1.8 $: "553 Domain of sender does not exist"\n'


def asked(tmp_path: Path, cf: bytes) -> tuple[Facts, dict[str, Check]]:
    path = tmp_path / "sendmail.cf"
    path.write_bytes(programs.CF + NAMES + cf)
    tools = programs.tools(path)

    def bt(script: str) -> Ran:
        argv = [tools.sendmail, "-C", str(path), *relay_probe.OPTIONS, "-bt"]
        return run(argv, timeout_s=tools.timeout_s, stdin=script.encode())

    known = relay_probe.facts(bt)
    return known, {check.check: check for check in relay_probe.checks(bt, known)} if known.is_answer else {}


@pytest.mark.root
@pytest.mark.usefixtures("qualified_name")
def test_sendmail_says_what_it_made_of_its_configuration(tmp_path: Path) -> None:
    known, _ = asked(tmp_path, CLOSED)
    assert known == Facts("mail.example.com", ("partner.example",), "/bin/sh")


@pytest.mark.root
@pytest.mark.usefixtures("qualified_name")
@pytest.mark.parametrize(
    ("cf", "failing"),
    [
        (CLOSED + SENDERS, set()),
        (CLOSED, {"unresolvable-sender"}),
        (BY_SENDER + SENDERS, {"relay-local-sender"}),
        (BY_FORGED_NAME + SENDERS, {"relay-forged-name"}),
        (
            SENDERS,
            {"relay-stranger", "relay-local-sender", "relay-percent-hack", "relay-forged-name"},
        ),
    ],
)
def test_the_real_sendmail_tells_what_it_would_relay(tmp_path: Path, cf: bytes, failing: set[str]) -> None:
    _, checks = asked(tmp_path, cf)
    assert {name for name, check in checks.items() if check.verdict is FAIL} == failing
    assert all(check.verdict in {PASS, FAIL} for check in checks.values())


@pytest.mark.root
@pytest.mark.usefixtures("qualified_name")
def test_a_configuration_that_sendmail_refuses_is_no_answer(tmp_path: Path) -> None:
    known, _ = asked(tmp_path, b"O NoSuchOption=1\n")
    assert not known.is_answer
    assert "NoSuchOption" in known.said


@given(st.binary(max_size=300))
def test_whatever_a_program_says_in_the_place_of_sendmail_there_is_a_result(data: bytes) -> None:
    answers = iter([b"hardend-probe-0\n", b"> hardend-probe-1\n", data, b"\nhardend-probe-2\n", data])
    known = relay_probe.facts(lambda _: Ran(0, b"".join(answers) + data))
    assert known.is_answer
    checks = relay_probe.checks(lambda _: Ran(0, b"hardend-probe-0\n" + data), known)
    assert all(check.message.isprintable() for check in checks)
    for probe in relay_probe.probes(known):
        assert "\n" not in probe.recipient + probe.client_name + probe.sender


# Whose file it is ---------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize(("owner", "mode"), [(0, 0o664), (0, 0o646), (8, 0o644)])
def test_what_others_can_change_is_not_run_as_root(tmp_path: Path, owner: int, mode: int) -> None:
    path = tmp_path / "sendmail.cf"
    path.write_bytes(b"")
    path.chmod(0o644)
    assert relay_probe.may_be_run(str(path)) == ""
    path.chmod(mode)
    os.chown(path, owner, -1)
    assert "not root's alone" in relay_probe.may_be_run(str(path))


def test_a_link_a_directory_and_nothing_are_not_run_as_root(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert "not a regular file" in relay_probe.may_be_run(str(tmp_path / "link"))
    assert "not a regular file" in relay_probe.may_be_run(str(tmp_path))
    assert "No such file" in relay_probe.may_be_run(str(tmp_path / "nothing"))
