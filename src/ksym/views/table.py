# SPDX-License-Identifier: BSD-2-Clause
"""``--format table``: a row an access, for people."""

from __future__ import annotations

from collections.abc import Sequence

from ksym.capture.access import Access
from ksym.capture.sites import Site
from ksym.capture.values import Value
from ksym.views.clock import WallClock
from ksym.views.rows import PLACES_KEPT
from ksym.views.text import printable
from ksym.watch.plan import Watch

TASK_WIDTH = 15
"""Of the column at the start; it grows with what it holds."""
_SYMBOL_LEAST, _SYMBOL_MOST = 20, 48
_VALUE_MOST = 60


class Table:
    """Aligned columns; the SYMBOL column is as wide as the run's names need.

    Args:
        watches: What is watched, for the width.
        verbose: Show the accessing instruction behind the function.
    """

    def __init__(self, watches: Sequence[Watch], *, verbose: bool = False) -> None:
        longest = max((len(printable(watch.name)) for watch in watches), default=0)
        self._width = min(max(longest, _SYMBOL_LEAST), _SYMBOL_MOST)
        self._task_width = TASK_WIDTH
        self._clock, self._verbose = WallClock(), verbose
        self._symbols = [f"{printable(watch.name):<{self._width}}" for watch in watches]
        self._functions: dict[Site, str] = {}
        self._middles: dict[tuple[str, int, int, int, str], str] = {}

    def header(self) -> str:
        """See Rows."""
        return (
            f"{'TIME':<13} {'TASK-PID':<15} {'CPU':<4} {'SYMBOL':<{self._width}}  {'TYPE':<5} "
            f"{'OLD -> NEW':<20} FUNCTION\n"
        )

    def row(self, access: Access) -> str:
        """See Rows."""
        return "".join(self.parts(access))

    def parts(self, access: Access) -> tuple[str, str]:
        """Return a row's time, and the row without it."""
        key = access.comm, access.tid, access.cpu, access.watch.index, access.access
        middle = self._middles.get(key) or self._middle(key)
        end = self._more(access) if access.hits > 1 or access.stack else "\n"
        rest = f" {middle} {change(access):<19}  {self._function(access.site)}{end}"
        return self._clock.text(access.time_ns), rest

    def _middle(self, key: tuple[str, int, int, int, str]) -> str:
        """What a row says of the task, the CPU, the symbol and the type."""
        comm, tid, cpu, watch, kind = key
        task = f"{printable(comm)}-{tid}"
        if len(task) > self._task_width:
            self._task_width = len(task)  # from here on; the header is written already
            self._middles.clear()
        if len(self._middles) >= PLACES_KEPT:
            self._middles.clear()
        text = f"{task:<{self._task_width}} {cpu:03d}  {self._symbols[watch]}  {kind:<5}"
        self._middles[key] = text
        return text

    def _more(self, access: Access) -> str:
        line = f"  ({access.hits} hits)" if access.hits > 1 else ""
        for frame in access.stack:
            line += f"\n{'':<14}{printable(str(frame))}"
        return line + "\n"

    def end(self, access: Access) -> str:
        """What stands behind the values."""
        return self._function(access.site) + self._more(access)

    def symbol(self, watch: Watch) -> str:
        """The SYMBOL column."""
        return self._symbols[watch.index]

    def _function(self, site: Site) -> str:
        text = self._functions.get(site)
        if text is None:
            text = printable(str(site.named))
            if self._verbose and site.instruction:
                text += f"  {{{printable(site.instruction.text)}}}"
            if len(self._functions) >= PLACES_KEPT:
                self._functions.clear()
            self._functions[site] = text
        return text


def change(access: Access) -> str:
    """What OLD -> NEW says.

    Of a read that found what was there already, the value alone; a store of the same value shows both.
    """
    old, new = access.old, access.new
    if (old is None and new is None) or access.access == "X":
        return "-"
    if access.access in ("R", "?") and old and new and (old is new or old == new):
        return _shown(new)
    if old and new:
        text = f"{old.text} -> {new.text}"
        if len(text) <= _VALUE_MOST and text.isprintable():  # as numbers are, which come by the million
            return text
    return f"{_shown(old)} -> {_shown(new)}"


def _shown(value: Value | None) -> str:
    if value is None:
        return "?"
    text = printable(value.text)
    return text if len(text) <= _VALUE_MOST else text[: _VALUE_MOST - 3] + "..."
