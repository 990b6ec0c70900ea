# SPDX-License-Identifier: Apache-2.0
"""``hardend alert``: whether alerts arrive, which incidents are open, and the service that tells of them."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hardend import commit
from hardend.cli.messages import say
from hardend.cli.options import common_options, json_option
from hardend.errors import Exit
from hardend.model import Host, printable

if TYPE_CHECKING:
    from hardend.alert_incidents import Incident
    from hardend.alert_spool import Spool, Waiting

_WAIT_S = 60.0


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser("alert", help="alerts: try them, list them", description=__doc__)
    below = parser.add_subparsers(metavar="VERB", required=True)
    test = below.add_parser(
        "test",
        parents=[common_options()],
        help="send a test alert and say what became of it",
        description="Send a test alert the way that every alert goes, by the service where it runs.",
        epilog="Exit status: 0 it arrived; 1 it did not.",
    )
    test.set_defaults(run=_test)
    shown = below.add_parser(
        "list",
        parents=[common_options()],
        help="the incidents that are open, and the alerts that wait",
        description="List the incidents that are open, and the alerts that could not be delivered yet.",
    )
    json_option(shown, "both")
    shown.set_defaults(run=_list)
    service = below.add_parser(
        "run",
        parents=[common_options()],
        help="send alerts (the service)",
        description="Follow the journal and the guard, and send alerts: what hardend-alert.service runs.",
    )
    service.set_defaults(run=_serve)


def _test(args: argparse.Namespace) -> int:
    from hardend import alert  # noqa: PLC0415 - smtplib and the journal: not for "alert --help"

    commit.require_root()
    arrived, what = alert.test(args.host, _WAIT_S)
    print(f"{'delivered' if arrived else 'not delivered'}: {what}")
    return Exit.OK if arrived else Exit.DRIFT


def _serve(args: argparse.Namespace) -> int:
    from hardend.alert import AlertService  # noqa: PLC0415 - as above

    commit.require_root()
    service = AlertService(args.host)
    try:
        service.run()
    finally:
        service.close()
    return Exit.OK


def _list(args: argparse.Namespace) -> int:
    from hardend.alert_spool import Spool  # noqa: PLC0415 - as above

    commit.require_root()
    spool = Spool(args.host)
    incidents = _open(args.host, spool)
    waiting = [found for name in spool.names() if (found := spool.read(name))]
    if args.json:
        document = {
            "incidents": [asdict(each) for each in incidents],
            "waiting": [asdict(each) for each in waiting],
            "dropped": spool.dropped,
        }
        sys.stdout.write(json.dumps(document, indent=2, sort_keys=True) + "\n")
        return Exit.OK
    print(f"open incidents: {len(incidents)}" if incidents else "no incident is open")
    for each in incidents:
        times = f" ({each.count} times)" if each.count > 1 else ""
        print(f"  {_local(each.began)} {each.priority:<7} {each.kind}: {printable(each.message)}{times}")
    print(f"alerts to be delivered: {len(waiting)}" if waiting else "every alert was delivered")
    for each_waiting in waiting:
        print(f"  {_line(each_waiting)}")
    if spool.dropped:
        print(f"alerts dropped: {spool.dropped}")
    return Exit.OK


def _open(host: Host, spool: Spool) -> list[Incident]:
    from hardend.alert_incidents import Incidents  # noqa: PLC0415 - as above
    from hardend.settings import Settings  # noqa: PLC0415 - as above

    incidents = Incidents(host.root, Settings())
    state = spool.state()
    if state:
        try:
            incidents.restore(state)
        except (ValueError, TypeError, KeyError):
            say("what was known of incidents is damaged")
    return incidents.open


def _line(waiting: Waiting) -> str:
    subject = printable(str(waiting.document.get("subject", "")))
    tried = f" (tries: {waiting.attempts}, {printable(waiting.error)})" if waiting.attempts else ""
    return f"{printable(str(waiting.document.get('time', '')))} {subject}{tried}"


def _local(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
