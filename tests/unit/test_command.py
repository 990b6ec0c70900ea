# SPDX-License-Identifier: Apache-2.0
"""Running programs: what is kept of what they said."""

from __future__ import annotations

from hardend.command import run

NOISE = "for i in $(seq 0 499); do echo noise-$i >&2; done; echo result; echo reason >&2; exit 3"


def test_the_end_of_what_a_program_complained_of_is_kept() -> None:
    done = run(["sh", "-c", NOISE], timeout_s=20, errors_apart=True)
    assert (done.status, done.output) == (3, b"result\n")
    assert done.errors.endswith(b"noise-499\nreason\n")
    assert len(done.errors) == 2000
    assert done.last_words.endswith("reason")


def test_a_short_complaint_is_kept_whole() -> None:
    done = run(["sh", "-c", "echo why >&2; exit 1"], timeout_s=20, errors_apart=True)
    assert done.errors == b"why\n"


def test_together_the_order_is_that_of_the_program() -> None:
    done = run(["sh", "-c", "echo one; echo two >&2; echo three"], timeout_s=20)
    assert (done.output, done.errors) == (b"one\ntwo\nthree\n", b"")
