# SPDX-License-Identifier: Apache-2.0
"""An Ansible connection into a booted test host over its namespaces; ansible_host is its init's pid."""

from __future__ import annotations

import subprocess

from ansible.errors import AnsibleError  # type: ignore[import-not-found] # in a venv of its own
from ansible.plugins.connection import ConnectionBase  # type: ignore[import-not-found] # as above

DOCUMENTATION = """
name: machine
short_description: a booted test host of hardend
description: [runs commands with nsenter]
author: [hardend]
options: {}
"""
_CLEAN = ("env", "-i", "HOME=/root", "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
_TIMEOUT_S = 120


class Connection(ConnectionBase):  # type: ignore[misc] # what it inherits from is not there for mypy
    """Runs commands in the namespaces of a process."""

    transport = "machine"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        """Run a shell command."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        return self._run(["/bin/sh", "-c", cmd], in_data or b"")

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file into the host."""
        with open(in_path, "rb") as file:
            status, _, said = self._run(["tee", out_path], file.read())
        if status:
            raise AnsibleError(said.decode("utf-8", "replace"))

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Nothing of these tests fetches."""
        raise AnsibleError(f"{in_path} is not fetched to {out_path}")

    def close(self) -> None:
        """Nothing is held."""
        self._connected = False

    def _run(self, argv: list[str], given: bytes) -> tuple[int, bytes, bytes]:
        leader = str(self._play_context.remote_addr)
        done = subprocess.run(
            ["nsenter", "--target", leader, "--all", *_CLEAN, *argv],
            input=given,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr
