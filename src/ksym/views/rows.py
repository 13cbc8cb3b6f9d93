# SPDX-License-Identifier: BSD-2-Clause
"""What every output format of accesses is: a header, and a line an access."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ksym.capture.access import Access
from ksym.watch.plan import Watch


class Rows(Protocol):
    """One format of ``--format``."""

    def header(self) -> str:
        """Lines that come before the first row, each with its newline; may be empty."""
        ...

    def row(self, access: Access) -> str:
        """The line (or lines) of one access, with newline."""
        ...


class WallClock:
    """CLOCK_MONOTONIC nanoseconds as local time of day, ``10:22:31.2034``."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()
        self._second, self._text = -1, ""

    def text(self, time_ns: int) -> str:
        """Hours, minutes, seconds and four decimals."""
        second, rest = divmod(time_ns + self._offset, 1_000_000_000)
        if second != self._second:
            self._second, self._text = second, time.strftime("%H:%M:%S", time.localtime(second))
        return f"{self._text}.{rest // 100_000:04d}"


def rows_for(name: str, watches: Sequence[Watch], *, verbose: bool = False) -> Rows:
    """The format called ``name``: ``table``, ``ksym``, ``json`` or ``csv``."""
    from ksym.views import delimited, jsonl, ksym_format, table

    makers: dict[str, Callable[[], Rows]] = {
        "table": lambda: table.Table(watches, verbose=verbose),
        "ksym": ksym_format.KsymFormat,
        "json": jsonl.JsonLines,
        "csv": delimited.Csv,
    }
    return makers[name]()


FORMATS = ("table", "ksym", "json", "csv")
