# SPDX-License-Identifier: Apache-2.0
"""The methods of io.hardend.Status and org.varlink.service: a call in, the bytes of its reply out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hardend import __version__
from hardend.status_interface import SERVICE as SERVICE_TEXT
from hardend.status_interface import STATUS as STATUS_TEXT
from hardend.status_view import Outlook, View, Watched
from hardend.varlink import SERVICE, Call, Parameters, VarlinkError, error_message, reply_message
from hardend.varlink import service_error as refused

STATUS = "io.hardend.Status"
MONITOR = f"{STATUS}.Monitor"
_TEXTS = {SERVICE: SERVICE_TEXT, STATUS: STATUS_TEXT}
# What a reply takes from state.json: only what the interface declares. A test compares the two.
STATUS_FIELDS = (
    *("mode", "since", "pid", "heartbeat", "generation", "layout", "approved", "entries", "faults"),
    *("paths", "contested", "off", "windows", "last_drift", "events", "overflows"),
    *("last_pass", "passes"),
    *("restores", "relocks", "looks", "taken", "rebuilds", "watches", "journal_dropped", "restore_us"),
    *("scheduling", "own_files"),
)
MONITOR_FIELDS = ("mode", "generation", "faults", "off", "windows", "restores")


class Answers:
    """Answers calls from an outlook on the guard; each reply is rendered once for each view."""

    def __init__(self, outlook: Outlook) -> None:
        self._outlook = outlook
        self._view: View | None = None
        self._rendered: dict[str, bytes] = {}
        self._methods: dict[str, Callable[[View], Parameters]] = {
            f"{STATUS}.GetStatus": _status,
            f"{STATUS}.GetDrift": _drift,
            f"{STATUS}.GetBaseline": _baseline,
            MONITOR: monitored,
        }

    def answer(self, call: Call) -> bytes:
        """Return the whole message that answers a call, an error where it is one; never raises."""
        try:
            if call.interface == SERVICE:
                return reply_message(_service(call))
            if call.interface != STATUS:
                raise refused("InterfaceNotFound", call.interface)
            method = self._methods.get(call.method)
            if method is None:
                raise refused("MethodNotFound", call.method)
            return self._status_reply(call, method)
        except VarlinkError as error:
            return error_message(error)

    def stream(self) -> bytes:
        """Return the reply of a Monitor that goes on, as it is now."""
        view = self._look()
        if "stream" not in self._rendered:
            self._rendered["stream"] = reply_message(monitored(view), continues=True)
        return self._rendered["stream"]

    def _status_reply(self, call: Call, method: Callable[[View], Parameters]) -> bytes:
        unproven = _parameters(call, "unproven" if method is _status else None)
        view = self._look()
        if not (view.proven or unproven or method is monitored):
            raise _unproven(view)
        if call.method not in self._rendered:
            self._rendered[call.method] = reply_message(method(view))
        return self._rendered[call.method]

    def _look(self) -> View:
        view = self._outlook.look()
        if view is not self._view:
            self._view = view
            self._rendered = {}
        return view


def monitored(view: View) -> Parameters:
    """Return what Monitor says: what an operator would act on, no counter of work."""
    return {
        **_standing(view),
        **{name: view.document.get(name) for name in MONITOR_FIELDS},
        "drifts": view.drifts(),
    }


def _parameters(call: Call, known: str | None) -> bool:
    """Return the one boolean that a method may take. Raises VarlinkError for anything else."""
    for name in call.parameters:
        if name != known:
            raise refused("InvalidParameter", name)
    value = call.parameters.get(known) if known else None
    if value is not None and not isinstance(value, bool):
        raise refused("InvalidParameter", str(known))
    return bool(value)


def _service(call: Call) -> Parameters:
    name = call.method.rpartition(".")[2]
    if name == "GetInfo":
        _parameters(call, None)
        return {
            "vendor": "hardend",
            "product": "hardend status service",
            "version": __version__,
            "url": "man:io.hardend.Status(7)",
            "interfaces": list(_TEXTS),
        }
    if name == "GetInterfaceDescription":
        wanted = call.parameters.get("interface")
        if not isinstance(wanted, str):
            raise refused("InvalidParameter", "interface")
        if wanted not in _TEXTS:
            raise refused("InterfaceNotFound", wanted)
        return {"description": _TEXTS[wanted]}
    raise refused("MethodNotFound", call.method)


def _standing(view: View) -> Parameters:
    return {
        "guard": view.guard.value,
        "unproven_since": view.unproven_since,
        "state": view.state,
    }


def _status(view: View) -> Parameters:
    fields = {name: view.document.get(name) for name in STATUS_FIELDS}
    return {"schema": 1, **_standing(view), **fields}


def _drift(view: View) -> Parameters:
    return {"state": view.state, "drifts": view.drifts()}


def _baseline(view: View) -> Parameters:
    document = view.document
    approved = document.get("approved")
    return {
        "generation": document.get("generation") or 0,
        "approved": approved if isinstance(approved, Mapping) else None,
        "layout": document.get("layout") or "",
        "entries": document.get("entries") or 0,
    }


def _unproven(view: View) -> VarlinkError:
    gone = view.guard in {Watched.DEAD, Watched.NEVER_STARTED}
    return VarlinkError(
        f"{STATUS}.{'NotRunning' if gone else 'Stale'}",
        {
            "guard": view.guard.value,
            "unproven_since": view.unproven_since,
            "last_state": view.state,
        },
    )
