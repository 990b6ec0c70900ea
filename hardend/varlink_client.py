# SPDX-License-Identifier: Apache-2.0
"""Asks the status service: what ``varlinkctl`` does, on every host that has hardend."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from hardend.errors import ProtocolError, UnreachableError
from hardend.model import Host
from hardend.varlink import Call, Parameters, VarlinkError, call_message, parse_object

STATUS_SOCKET = "status"  # in Host.run_dir; hardend-status.socket makes it
_REPLY_LIMIT = 64 << 20
_SUN_PATH = 100  # bytes of sun_path that are used, of 108


class Connection:
    """A connection to the status service; use it in a ``with``.

    Every method raises UnreachableError when the service cannot be reached, does not answer within
    ``timeout_s`` or says what is no Varlink, and VarlinkError when it answers with an error.
    """

    def __init__(self, host: Host, timeout_s: float = 5.0) -> None:
        self._where = os.path.join(host.run_dir, STATUS_SOCKET)
        self._rest = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout_s)
            with _address(host.run_dir, self._where) as address:
                self._socket.connect(address)
        except OSError as error:
            self._socket.close()
            raise self._unreachable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def call(self, method: str, parameters: Parameters | None = None) -> Parameters:
        """Call a method and return the parameters of its reply."""
        self._send(Call(method, parameters or {}))
        return self._reply()[0]

    def stream(self, method: str, parameters: Parameters | None = None) -> Iterator[Parameters]:
        """Call a method with ``more`` and yield each reply; waits for the next without a time limit."""
        self._send(Call(method, parameters or {}, more=True))
        continues = True
        while continues:
            reply, continues = self._reply()
            self._socket.settimeout(None)
            yield reply

    def _send(self, call: Call) -> None:
        try:
            self._socket.sendall(call_message(call))
        except OSError as error:
            raise self._unreachable(error) from error

    def _reply(self) -> tuple[Parameters, bool]:
        try:
            value = parse_object(self._message())
        except (OSError, ProtocolError) as error:
            raise self._unreachable(error) from error
        parameters = value.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise self._unreachable(ProtocolError("no parameters"))
        if isinstance(name := value.get("error"), str):
            raise VarlinkError(name, parameters)
        return parameters, value.get("continues") is True

    def _message(self) -> bytes:
        looked = 0  # not again at what was looked at: a reply comes in many parts
        while (end := self._rest.find(0, looked)) < 0:
            looked = len(self._rest)
            part = self._socket.recv(1 << 18)
            if not part:
                raise ProtocolError("the connection was closed")
            self._rest += part
            if len(self._rest) > _REPLY_LIMIT:
                raise ProtocolError("a reply without end")
        message = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return message

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"the status service does not answer on {self._where}: {error}",
            hint="systemctl enable --now hardend-status.socket; it is for root and the group adm",
        )


@contextlib.contextmanager
def _address(directory: str, where: str) -> Iterator[str]:
    """Give an address that fits sun_path, also for a tree far down."""
    if len(os.fsencode(where)) < _SUN_PATH:
        yield where
        return
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{STATUS_SOCKET}"
    finally:
        os.close(descriptor)
