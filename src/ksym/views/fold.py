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
        self.waiting: tuple[str, str, int] = "", "", 0
        """The time of the row that waits for the next one, the row without it, and how many are folded into it."""

    def add(self, time: str, rest: str, count: int = 1) -> str:
        """Take a row; return the one before it if that is complete.

        Args:
            time: Its time.
            rest: The row without it, with newline.
            count: How many rows are equal to it, itself included.
        """
        its_time, its_rest, so_far = self.waiting
        if so_far and rest == its_rest:
            self.waiting = its_time, its_rest, so_far + count
            return ""
        complete = self.flush()
        self.waiting = time, rest, count
        return complete

    def flush(self) -> str:
        """Return the row that waits, with the time of the first one folded into it; "" if none does."""
        time, rest, count = self.waiting
        self.waiting = "", "", 0
        return time + folded(rest, count) if count else ""


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
        parts = self._table.parts
        time, rest, count = self._fold.waiting
        text: list[str] = []
        held = count  # since the call before
        for access in accesses:
            its_time, its_rest = parts(access)
            if count and its_rest == rest:
                count += 1
                continue
            if count:
                text += time, rest if count == 1 else folded(rest, count)
            time, rest, count, held = its_time, its_rest, 1, 0
        self._fold.waiting = time, rest, count
        if held:
            text.append(self._fold.flush())
        return "".join(text)

    def rest(self) -> str:
        """Return what is held back, at the end."""
        return self._fold.flush()
