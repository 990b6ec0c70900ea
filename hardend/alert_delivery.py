# SPDX-License-Identifier: Apache-2.0
"""Bringing an alert to people: by a command of the administrator's, or by mail through another relay.

Never through this host's own MTA: it is what the alerts are about.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import signal
import smtplib
import socket
import ssl
import stat
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate
from typing import Any

from hardend import command
from hardend.errors import CommandError, HardendError, RefusedError
from hardend.model import Host, printable
from hardend.settings import Settings

AUTH = "/etc/hardend/alert-auth"
LIMIT_S = 30.0
_SMTP, _SMTPS = 25, 465
_DOMAIN = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
# Readable in whatever shows it: no line is broken, or coded, that need not be.
_POLICY = SMTP.clone(max_line_length=998, cte_type="7bit")
_LINE = 300  # characters of a failure


class DeliveryError(HardendError):
    """An alert did not reach its receiver; the text says why."""


def is_configured(settings: Settings) -> bool:
    """Return whether there is a way to tell anybody."""
    return bool(settings.alert_command or settings.alert_relay)


def deliver(host: Host, settings: Settings, document: dict[str, Any], limit_s: float = LIMIT_S) -> str:
    """Deliver one alert, or raise HardendError; returns how, in words. Main thread only."""
    if settings.alert_command:
        return _by_command(settings.alert_command, document, limit_s)
    if settings.alert_relay:
        return by_mail(host, settings, document, limit_s)
    raise DeliveryError(
        "no way to deliver alerts is configured", hint="alerts.command or alerts.relay in hardend.toml"
    )


def _by_command(argv: tuple[str, ...], document: dict[str, Any], limit_s: float) -> str:
    try:
        given = json.dumps(document, sort_keys=True).encode("ascii") + b"\n"
        ran = command.run(argv, timeout_s=limit_s, stdin=given)
    except CommandError as error:
        raise DeliveryError(str(error)) from error
    if ran.status:
        said = printable(ran.last_words)[-_LINE:]
        raise DeliveryError(f"{printable(argv[0])}: exit status {ran.status}{': ' if said else ''}{said}")
    return f"{printable(argv[0])} took it"


def is_this_host(address: str) -> bool:
    """Return whether packets to an IP address stay on this host. Nothing is sent to find out."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    if found.is_loopback or found.is_unspecified:
        return True
    family = socket.AF_INET if found.version == 4 else socket.AF_INET6  # noqa: PLR2004 - of the IP
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # The kernel talks to an address of its own from that address.
            probe.connect((str(found), 9))
        except OSError:
            return False
        return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == found


def by_mail(
    host: Host,
    settings: Settings,
    document: dict[str, Any],
    limit_s: float,
    *,
    is_own: Callable[[str], bool] = is_this_host,
) -> str:
    """Send one alert as mail; see ``deliver``."""
    name, port = _relay(settings.alert_relay)
    user, password = _credentials(host)
    message = mail_of(settings, document)
    try:
        with _within(limit_s):
            _refuse_this_host(name, port, is_own)
            with contextlib.closing(_connected(name, port, limit_s, trusting=not user)) as relay:
                # What the name says now, not a moment ago: the other end of the connection.
                if relay.sock is None or is_own(relay.sock.getpeername()[0]):
                    raise _own(name)
                _log_in(relay, name, port, user, password)
                refused = relay.send_message(message)
                with contextlib.suppress(OSError, smtplib.SMTPException):
                    relay.quit()  # whatever it says to that, it has the mail
    except (OSError, smtplib.SMTPException, UnicodeError) as error:
        raise DeliveryError(f"{name}:{port}: {_reason(error)}") from error
    not_to = f", but not for {', '.join(map(printable, refused))}" if refused else ""
    return f"{name}:{port} took it{not_to}"


def _log_in(relay: smtplib.SMTP, name: str, port: int, user: str, password: str) -> None:
    """Speak TLS where that is offered, and say who we are where that is configured."""
    relay.ehlo()
    if port != _SMTPS and relay.has_extn("starttls"):
        relay.starttls(context=_context(trusting=not user))
        relay.ehlo()
    if user:
        if not isinstance(relay.sock, ssl.SSLSocket):
            raise DeliveryError(
                f"{name}:{port}: offers no TLS, and a password is not sent without",
                hint="another port of the relay, 587 say",
            )
        relay.login(user, password)


def mail_of(settings: Settings, document: dict[str, Any]) -> EmailMessage:
    """Return an alert as mail: what it is in the subject, the details in plain lines."""
    host = printable(str(document.get("host", "")))
    domain = host if _DOMAIN.fullmatch(host) else "localhost"
    sender = settings.alert_from or f"hardend@{domain}"
    mail = EmailMessage(policy=_POLICY)
    mail["From"] = sender
    mail["To"] = ", ".join(settings.alert_to)
    subject = printable(str(document.get("subject", "")))
    mail["Subject"] = f"[hardend {document.get('priority')}] {host}: {subject}"
    mail["Date"] = formatdate()
    mail["Message-ID"] = f"<{document.get('id')}@{domain}>"  # the same when it is sent again
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(_body(document))
    return mail


def _body(document: dict[str, Any]) -> str:
    event = document.get("event")
    who = event.get("who") if isinstance(event, dict) else None
    kept = event.get("quarantine_id") if isinstance(event, dict) else None
    rows = {
        "host": document.get("host"),
        "path": document.get("path"),
        "kind": document.get("kind"),
        "phase": document.get("phase"),
        "since": document.get("since"),
        "times": document.get("count"),
        "who": ", ".join(f"{name} {value}" for name, value in who.items()) if isinstance(who, dict) else "",
        "kept": kept,
    }
    lines = [printable(str(document.get("subject", ""))), ""]
    lines += [f"{name + ':':7}{printable(str(value))}" for name, value in rows.items() if value]
    more = document.get("lines")
    lines += ["", *(f"- {printable(str(line))}" for line in more)] if isinstance(more, list) else []
    lines += ["", "On the host: hardend status; hardend events --since 1h; journalctl -x -t hardend"]
    return "\n".join(lines) + "\n"


def _relay(text: str) -> tuple[str, int]:
    name, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        name, port = text, str(_SMTP)
    return name.strip("[]"), int(port)


def _credentials(host: Host) -> tuple[str, str]:
    """Return user and password, or two empty texts. Raises RefusedError for a file that others may read."""
    where = host.at(AUTH)
    try:
        descriptor = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            data = file.read(4096)
    except FileNotFoundError:
        return "", ""
    except OSError as error:
        raise RefusedError(f"{where}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid:
        raise RefusedError(f"{where}: others may read it", hint=f"chown root {where}; chmod 600 {where}")
    user, colon, password = data.partition(b"\n")[0].decode("utf-8", "replace").partition(":")
    if not user or not colon:
        raise RefusedError(f"{where}: must be one line, user:password")
    return user, password


def _refuse_this_host(name: str, port: int, is_own: Callable[[str], bool]) -> None:
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    if any(is_own(str(address[4][0])) for address in found):
        raise _own(name)


def _own(name: str) -> RefusedError:
    return RefusedError(
        f"alerts.relay: {name} is this host itself, whose mail system is what alerts are about",
        hint="name a relay on another host, or use alerts.command",
    )


def _connected(name: str, port: int, limit_s: float, *, trusting: bool) -> smtplib.SMTP:
    own_name = os.uname().nodename
    if port == _SMTPS:
        return smtplib.SMTP_SSL(name, port, own_name, timeout=limit_s, context=_context(trusting=trusting))
    return smtplib.SMTP(name, port, own_name, timeout=limit_s)


def _context(*, trusting: bool) -> ssl.SSLContext:
    """Return what TLS is spoken with: as between relays, or with proof of the name where a password goes."""
    context = ssl.create_default_context()
    if trusting:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block when it takes longer, also byte by byte."""

    def late(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    was = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *was)
        signal.signal(signal.SIGALRM, before)


def _reason(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        text = said.decode("utf-8", "backslashreplace") if isinstance(said, bytes) else str(said)
        return f"{error.smtp_code} {printable(text)[:_LINE]}"
    if isinstance(error, OSError) and error.strerror:
        return printable(error.strerror)
    return printable(str(error))[:_LINE] or type(error).__name__
