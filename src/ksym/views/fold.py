# SPDX-License-Identifier: BSD-2-Clause
"""Folds consecutive rows of the table that are equal in everything but TIME: one row with ``x8`` at its end.

It is for the eye only. Other formats, counts and limits know nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ksym.capture.access import Access
from ksym.views.table import Table


class Fold:
    """Folds rows that come one after the other."""

    def __init__(self) -> None:
        self._time = self._rest = ""
        self._count = 0

    @property
    def holds(self) -> bool:
        """True while a row waits for the next one."""
        return self._count > 0

    def add(self, time: str, rest: str, count: int = 1) -> str:
        """Take a row; return the one before it if that is complete.

        Args:
            time: Its time.
            rest: The row without it, with newline.
            count: How many rows are equal to it, itself included.
        """
        if self._count and rest == self._rest:
            self._count += count
            return ""
        complete = self.flush()
        self._time, self._rest, self._count = time, rest, count
        return complete

    def flush(self) -> str:
        """Return the row that waits, with the time of the first one folded into it; "" if none does."""
        count, self._count = self._count, 0
        return self._time + folded(self._rest, count) if count else ""


def folded(row: str, count: int) -> str:
    """Return a row that so many are folded into; the call chain, if there is one, stands under it."""
    if count == 1:
        return row
    first, newline, stack = row.partition("\n")
    return f"{first}  x{count}{newline}{stack}"


class FoldedRows:
    """The rows of a live table, folded. A row is held back until the next call of ``rows`` at most.

    Args:
        table: The table.
    """

    def __init__(self, table: Table) -> None:
        self._table, self._fold = table, Fold()

    def rows(self, accesses: Sequence[Access]) -> str:
        """Return the rows that are complete with these accesses; there is a call in each round, also with none."""
        fold, parts = self._fold, self._table.parts
        text = [fold.flush()] if not accesses else []
        held = fold.holds
        for access in accesses:
            complete = fold.add(*parts(access))
            if complete:
                text.append(complete)
                held = False
        if held:
            text.append(fold.flush())
        return "".join(text)

    def rest(self) -> str:
        """Return what is held back, at the end."""
        return self._fold.flush()
