# SPDX-License-Identifier: BSD-2-Clause
"""A bar on stderr, where that is a terminal and a command takes longer than a second."""

from __future__ import annotations

import sys
import time

_AFTER, _BETWEEN = 1.0, 0.1
_WIDTH = 30


class Progress:
    """Shows how far something has come; a context manager that wipes it away at the end.

    Args:
        what: What is being done, e.g. ``reading x.data``.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._terminal = sys.stderr.isatty()
        self._next = time.monotonic() + _AFTER
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __call__(self, done: int, total: int) -> None:
        """So much of it is done."""
        if not self._terminal or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _BETWEEN
        share = min(1.0, done / total) if total else 1.0
        bar = "#" * int(share * _WIDTH)
        sys.stderr.write(f"\r\x1b[Kksym: {self._what} [{bar:<{_WIDTH}}] {100 * share:3.0f}%")
        sys.stderr.flush()
        self._shown = True
