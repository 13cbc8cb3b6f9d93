# SPDX-License-Identifier: BSD-2-Clause
"""What the two ways of holding processes have in common: what is asked of them, and how they speak to ksym."""

from __future__ import annotations

import contextlib
import socket
from typing import Protocol

LONGEST = 1 << 12
"""Bytes of a message between the keeper and ksym."""


class Refused(Exception):
    """This way of holding is not allowed here; ``why`` and ``todo`` say so in words."""

    def __init__(self, why: str, todo: str = "") -> None:
        super().__init__(why)
        self.why, self.todo = why, todo


class Way(Protocol):
    """A way of holding processes."""

    def fileno(self) -> int:
        """Readable when there is something to do."""

    def turn(self) -> None:
        """Do what there is to do."""

    def release(self, pid: int) -> None:
        """Let a held process go on."""

    def close(self) -> None:
        """Let all go on."""


class Voice:
    """What the keeper tells ksym."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def share(self, fd: int) -> None:
        """Give ksym the map of those that are held: it lets them go if the keeper is killed."""
        with contextlib.suppress(OSError):
            socket.send_fds(self._connection, [b"waiting"], [fd])

    def say(self, text: str) -> None:
        """Send a message; ksym may be gone."""
        with contextlib.suppress(OSError):
            self._connection.send(text.encode("utf-8", "surrogateescape")[:LONGEST])
