# SPDX-License-Identifier: Apache-2.0
"""What a test needs from the machine, and what is said at the end when it is not there.

``./run test`` as root on Debian sets HARDEND_REQUIRE: it has installed everything, so that a
missing prerequisite is an error there and a skip elsewhere.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

# How long an example takes is the machine's affair: no test asserts a time.
hypothesis.settings.register_profile("hardend", deadline=None)
hypothesis.settings.load_profile("hardend")

_HOST_PROGRAMS = ("debootstrap", "systemd-nspawn", "nsenter", "setpriv", "apt-get", "git")


def _not_root() -> str:
    return "" if os.geteuid() == 0 else "needs root"


def _no_host() -> str:
    if reason := _not_root():
        return reason
    if not Path("/etc/debian_version").exists():
        return "needs a Debian system, whose mirror the test host is built from"
    missing = [name for name in _HOST_PROGRAMS if shutil.which(name) is None]
    return f"needs {', '.join(missing)}" if missing else ""


def _without(program: str) -> Callable[[], str]:
    return lambda: "" if shutil.which(program) else f"needs {program}"


_NEEDS = {
    "root": _not_root,
    "host": _no_host,
    **{program: _without(program) for program in ("m4", "mandoc", "openssl")},
}
_NEEDS |= {"unshare": _without("unshare"), "python3": _without("/usr/bin/python3")}
_skipped: dict[str, int] = {}


def pytest_configure() -> None:
    """Have the programs that are tested meet the signals as usual, whoever started this.

    What is ignored stays so in every child (nohup ignores SIGHUP, a shell's background jobs SIGINT); a
    handler does not.
    """
    for number, handler in ((signal.SIGHUP, lambda *_: None), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--all``."""
    parser.addoption("--all", action="store_true", help="run what takes longer than CI has, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what lies in tests/host as ``host``; leave out what is only for ``--all``."""
    if not config.getoption("--all"):
        left_out = [item for item in items if item.get_closest_marker("all")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        if Path(__file__).parent / "host" in item.path.parents:
            item.add_marker("host")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose prerequisite is missing, or fail it where that must not be."""
    for mark, missing in _NEEDS.items():
        if item.get_closest_marker(mark) and (reason := missing()):
            if os.environ.get("HARDEND_REQUIRE"):
                pytest.fail(f"{mark} test: {reason}", pytrace=False)
            said = f"{mark} tests: {reason} (./run test as root on Debian 12 runs them)"
            _skipped[said] = _skipped.get(said, 0) + 1
            pytest.skip(said)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in the last lines what did not run, and why."""
    for reason, number in _skipped.items():
        terminalreporter.write_line(f"{number} skipped: {reason}", yellow=True)
