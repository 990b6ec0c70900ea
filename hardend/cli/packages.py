# SPDX-License-Identifier: Apache-2.0
"""``hardend package-hook``: what dpkg and apt run before and after they change packages."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from hardend import config, package_window, packages
from hardend.baseline.store import Store
from hardend.cli.messages import say, say_each
from hardend.cli.options import common_options
from hardend.errors import Exit, HardendError
from hardend.model import Host, printable
from hardend.packages import Package
from hardend.window_end import Ended

_SHELLS = frozenset({"sh", "dash", "bash"})
_MOST_INPUT = 64 << 20
_BLOCK = 1 << 20
_SHOWN = 10


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "package-hook",
        parents=[common_options()],
        help="run by dpkg and apt: a window around packages that change what is held",
        description="Open a maintenance window for packages that are Sendmail's, or whose maintainer scripts "
        "name something that is held; afterwards keep what is no worse as a generation that names them.",
        epilog="Exit status: always 0, so that no upgrade fails for it; what went wrong is printed.",
    )
    parser.add_argument(
        "moment",
        choices=tuple(_MOMENTS),
        help="dpkg's pre-invoke and post-invoke; apt's Pre-Install-Pkgs and Post-Invoke",
    )
    parser.set_defaults(run=_hook)


def _hook(args: argparse.Namespace) -> int:
    with contextlib.suppress(BrokenPipeError), _told():
        if os.geteuid() == 0 and Store(args.host).has_baseline():
            _MOMENTS[args.moment](args.host)
    if args.moment == "apt":
        # apt gives up a transaction whose list nobody reads to its end.
        with contextlib.suppress(OSError):
            while sys.stdin.buffer.read(_BLOCK):
                pass
    return Exit.OK


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Print what goes wrong, whatever it is: dpkg must go on."""
    try:
        yield
    except HardendError as error:
        say(str(error))
        if error.hint:
            say(f"hint: {error.hint}")
    except Exception as error:  # noqa: BLE001 - a defect of ours must not leave packages half-configured
        say(f"package hook failed: {type(error).__name__}: {printable(str(error))}")


def _pre(host: Host) -> None:
    above = package_window.ancestors()
    settings = config.load(host)
    item = package_window.of_process(host, [pid for pid, _ in above])
    if item is not None:
        package_window.go_on(host, settings, item)
        return
    pid = next((pid for pid, name in above if name == "dpkg"), 0)
    if not pid:
        return
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    transaction = packages.of_dpkg(words, os.getcwd())
    if not transaction.elsewhere:
        found = packages.concerned(transaction, package_window.held(host))
        _begin(host, "dpkg", pid, found)


def _apt(host: Host) -> None:
    text = sys.stdin.buffer.read(_MOST_INPUT).decode("utf-8", "surrogateescape")
    transaction = packages.of_apt(text)
    pid = next((pid for pid, name in package_window.ancestors() if name not in _SHELLS), 0)
    if pid and not transaction.elsewhere:
        found = packages.concerned(transaction, package_window.held(host))
        _begin(host, "apt", pid, found)


def _begin(host: Host, manager: str, pid: int, found: Sequence[Package]) -> None:
    if found:
        package_window.begin(host, config.load(host), manager, pid, found)


def _post(host: Host) -> None:
    _end(host, "dpkg")


def _apt_end(host: Host) -> None:
    _end(host, "apt")


def _end(host: Host, manager: str) -> None:
    above = [pid for pid, _ in package_window.ancestors()]
    item = package_window.of_process(host, above, manager)
    if item is not None:
        _report(package_window.end(host, config.load(host), item))


def _report(ended: Ended) -> None:
    for note in ended.notes[:_SHOWN]:
        say(note)
    for path, why in list(ended.reverted.items())[:_SHOWN]:
        say(f"put back: {printable(path)}: {why}")
    say_each(ended.failed)
    if ended.generation:
        say(f"generation {ended.generation}: {ended.window.reason} ({len(ended.kept)} paths changed)")


_MOMENTS: dict[str, Callable[[Host], None]] = {"pre": _pre, "post": _post, "apt": _apt, "end": _apt_end}
