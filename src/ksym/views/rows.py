# SPDX-License-Identifier: BSD-2-Clause
"""What every output format of accesses is: a header, and a line an access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ksym.capture.access import Access
from ksym.watch.plan import Watch

PLACES_KEPT = 4096
"""How many places' texts a format keeps; each process that a watched one forks has places of its own."""


class Rows(Protocol):
    """One format of ``--format``."""

    def header(self) -> str:
        """Lines that come before the first row, each with its newline; may be empty."""
        ...

    def row(self, access: Access) -> str:
        """The line (or lines) of one access, with newline."""
        ...


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
