# SPDX-License-Identifier: BSD-2-Clause
"""The one exception that a user may see.

Every failure is told in one line, ``ksym: WHAT: WHY; WHAT TO DO``. Where the cause is a place in
what the user typed, the error carries the text and the span, so that a terminal (or the tracing
directory's ``error_log``) can show a caret under it.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

FAILED = 125
"""Exit status: ksym could not do it."""
USAGE = 2
"""Exit status: wrong usage."""

_FILES = "it needs more open files than are allowed", "raise the limit with `ulimit -n`"
SHORT_OF = {
    errno.ENOMEM: ("there is no memory left", "make room, or raise the limit with `ulimit -v`"),
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
}
"""Refusals that say nothing of what was asked for, but that there is no more of something: why, and what to do."""


@dataclass(frozen=True)
class Span:
    """Half-open range ``[start, end)`` of characters in a request's text."""

    start: int
    end: int


@dataclass(frozen=True)
class Place:
    """Where in the user's own words an error lies."""

    text: str
    span: Span

    def caret(self) -> str:
        """Two lines: the text, and a caret line that marks the span under it."""
        width = max(1, self.span.end - self.span.start)
        return f"  {self.text}\n  {' ' * self.span.start}{'^' * width}"


class KsymError(Exception):
    """Root of all errors that ksym reports.

    Args:
        what: What could not be done, e.g. ``cannot watch pid_maxx``.
        why: The cause.
        todo: What the user can do about it; may be empty.
        place: Where in the request the cause lies.
    """

    status = FAILED

    def __init__(self, what: str, why: str, todo: str = "", *, place: Place | None = None) -> None:
        self.what, self.why, self.todo, self.place = what, why, todo, place
        super().__init__(self.line())

    def line(self) -> str:
        """The message without the leading ``ksym:``; always a single line."""
        text = f"{self.what}: {self.why}" + (f"; {self.todo}" if self.todo else "")
        return " ".join(text.split())


class UsageError(KsymError):
    """The command line itself is wrong (exit status 2)."""

    status = USAGE


class RequestError(KsymError):
    """A request does not follow the language."""

    status = USAGE


class NoSuchVariable(KsymError):
    """No source of knowledge has the name."""


class NotWatchable(KsymError):
    """The variable is known, but hardware or kernel refuse a watch on it."""


class NoRegisters(KsymError):
    """More debug registers are needed than are free."""


class NotTakenOver(NoRegisters):
    """Registers of a watch that gives way cannot be handed on: it has to be closed first."""


class NoMemory(KsymError):
    """It would take more memory than there is."""


class NotPermitted(KsymError):
    """Privileges, lockdown or kernel configuration are in the way."""
