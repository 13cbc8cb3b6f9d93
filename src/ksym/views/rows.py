# SPDX-License-Identifier: BSD-2-Clause
"""What every output format of accesses is: a header, and a line an access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ksym.capture.access import Access
from ksym.errors import UsageError
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


def rows_for(name: str, watches: Sequence[Watch], *, verbose: bool = False, raw: bool = False) -> Rows:
    """Return the format called ``name``.

    Args:
        name: One of `FORMATS`.
        watches: The watches whose accesses will come.
        verbose: ``table`` only: show the accessing instructions, too.
        raw: ``csv`` only: see `delimited.Csv`.
    """
    from ksym.views import delimited, jsonl, ksym_format, table

    makers: dict[str, Callable[[], Rows]] = {
        "table": lambda: table.Table(watches, verbose=verbose),
        "ksym": ksym_format.KsymFormat,
        "json": jsonl.JsonLines,
        "csv": lambda: delimited.Csv(raw=raw),
    }
    return makers[name]()


FORMATS = ("table", "ksym", "json", "csv")
RAW_HELP = "csv: leave cells as they are that a spreadsheet would run (else they get a leading ')"


def check_raw(*, raw: bool, name: str) -> None:
    """Refuse ``--raw`` where it means nothing.

    Raises:
        UsageError: if the format is not csv.
    """
    if raw and name != "csv":
        raise UsageError("cannot read the command line", f"--raw is for csv, not for {name}", "leave it out")
