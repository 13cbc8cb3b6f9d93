# SPDX-License-Identifier: BSD-2-Clause
"""``error_log``: why writes failed, the last few, as tracefs shows it (Documentation/trace/ftrace.rst, "error_log")."""

from __future__ import annotations

import errno
import time
from collections import deque

from ksym.errors import KsymError, NoRegisters, NotPermitted
from ksym.views.text import printable

_KEPT = 8
"""As many as tracefs keeps."""
_COMMAND = "  Command: "


def number_of(error: KsymError) -> int:
    """The errno that a writer gets."""
    if isinstance(error, NoRegisters):
        return errno.ENOSPC
    if isinstance(error, NotPermitted):
        return errno.EPERM
    return errno.EINVAL


class ErrorLog:
    """The errors of an instance, oldest first."""

    def __init__(self) -> None:
        self._entries: deque[str] = deque(maxlen=_KEPT)

    def add(self, file: str, error: KsymError, command: str) -> None:
        """Keep why a write failed.

        Args:
            file: What was written to.
            error: Why.
            command: What was written.
        """
        place = error.place
        start = place.span.start if place else 0
        # What is wrong with one line of several is shown with that line.
        shown = place.text if place else command.strip()
        ahead = printable(shown[:start])
        self._put(file, error.line(), printable(shown), " " * len(ahead))

    def note(self, file: str, what: str, text: str) -> None:
        """Keep what went wrong later.

        Args:
            file: Where it was asked for.
            what: What was asked for.
            text: What became of it.
        """
        self._put(file, text, printable(what), "")

    def _put(self, file: str, text: str, command: str, ahead: str) -> None:
        seconds, micros = divmod(time.monotonic_ns() // 1000, 10**6)
        self._entries.append(
            f"[{seconds:5d}.{micros:06d}] {file}: error: {printable(text)}\n"
            f"{_COMMAND}{command}\n{' ' * len(_COMMAND)}{ahead}^\n"
        )

    def text(self) -> str:
        """All of them."""
        return "".join(self._entries)

    def clear(self) -> None:
        """Forget them."""
        self._entries.clear()
