# SPDX-License-Identifier: BSD-2-Clause
"""``error_log``: why writes failed, the last few, as tracefs shows it (Documentation/trace/ftrace.rst, "error_log")."""

from __future__ import annotations

import errno
import unicodedata
from collections import deque

from ksym.errors import SHORT_OF, KsymError, NoMemory, NoRegisters, NotPermitted
from ksym.linux.clock import monotonic_ns
from ksym.views.text import printable

_KEPT = 8
"""As many as tracefs keeps."""
_COMMAND = "  Command: "
_AHEAD, _BEHIND = 60, 140
"""Characters that are shown in front of the place of an error, and behind it."""
_LINE_MOST = 600


def number_of(error: KsymError) -> int:
    """The errno that a writer gets."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in SHORT_OF:
        return cause.errno
    if isinstance(error, NoRegisters):
        return errno.ENOSPC
    if isinstance(error, NotPermitted):
        return errno.EPERM
    if isinstance(error, NoMemory):
        return errno.ENOMEM
    return errno.EINVAL


def _width(text: str) -> int:
    """Columns that a terminal takes for it."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


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
        first = max(0, start - _AHEAD)
        cut = "..." if first else ""
        behind = "..." if len(shown) > start + _BEHIND else ""
        command = f"{cut}{printable(shown[first : start + _BEHIND])}{behind}"
        line = error.line()
        if len(line) > _LINE_MOST:
            line = f"{line[:_LINE_MOST]}..."
        self._put(file, line, command, " " * _width(cut + printable(shown[first:start])))

    def note(self, file: str, what: str, text: str) -> None:
        """Keep what went wrong later.

        Args:
            file: Where it was asked for.
            what: What was asked for.
            text: What became of it.
        """
        self._put(file, text, printable(what), "")

    def _put(self, file: str, text: str, command: str, ahead: str) -> None:
        seconds, micros = divmod(monotonic_ns() // 1000, 10**6)
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
