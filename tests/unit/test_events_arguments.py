# SPDX-License-Identifier: Apache-2.0
"""What ``hardend events`` makes of its arguments."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime, timedelta

import pytest

from hardend.cli import events as verb


def run(*words: str) -> argparse.Namespace:
    """Parse a command line of the verb."""
    parser = argparse.ArgumentParser()
    verb.register(parser.add_subparsers())
    return parser.parse_args(["events", *words])


def test_a_path_is_meant_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/etc")
    assert run("--path", "mail/access").path == "/etc/mail/access"
    assert run().path == ""


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("30m", 1800), ("2h", 7200), ("1w", 604800)])
def test_since_takes_an_age(text: str, seconds: int) -> None:
    before = time.time()
    assert before <= verb._moment(text) + seconds <= time.time()


def test_since_takes_a_local_time() -> None:
    moment = datetime.now(UTC).astimezone().replace(microsecond=0) - timedelta(days=1)
    assert verb._moment(moment.strftime("%Y-%m-%d %H:%M:%S")) == moment.timestamp()


@pytest.mark.parametrize(
    "words", [("--since", "yesterday"), ("--since", ""), ("--kind", "drift"), ("--who", "")]
)
def test_what_is_no_time_and_no_kind_is_refused(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_code:
        run(*words)
    assert exit_code.value.code == 2
    assert words[0] in capsys.readouterr().err
