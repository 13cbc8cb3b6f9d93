# SPDX-License-Identifier: BSD-2-Clause
"""Hits by who made them: what ``ksym stat --by`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ksym.capture.counted import Who
from ksym.views.text import as_json, printable
from ksym.watch.plan import Watch

_SYMBOL_LEAST, _SYMBOL_MOST = 20, 48
_HEADS = {"function": "FUNCTION", "task": "TASK-PID", "cpu": "CPU"}
_WIDTHS = {"function": 32, "task": 20, "cpu": 3}


class CountsTable:
    """A row for everybody who made hits, request by request, those with most hits first.

    Args:
        watches: The requests.
        by: What is told apart, in the order of the columns: ``function``, ``task``, ``cpu``.
        interval: Rows begin with the time.
    """

    def __init__(self, watches: Sequence[Watch], by: Sequence[str], *, interval: bool) -> None:
        self._names = [printable(watch.name) for watch in watches]
        longest = max((len(name) for name in self._names), default=0)
        self._symbol = min(max(longest, _SYMBOL_LEAST), _SYMBOL_MOST)
        self._by, self._interval = by, interval

    def header(self) -> str:
        """The line above the rows."""
        names = [f"{_HEADS[key]:<{_WIDTHS[key]}}" for key in self._by]
        seconds = f"{'SECONDS':>12} " if self._interval else ""
        line = f"{seconds}{'HITS':>14}  {'SHARE':>6}  {'SYMBOL':<{self._symbol}}  {'TYPE':<4}  {'  '.join(names)}"
        return line.rstrip() + "\n"

    def rows(self, counts: Mapping[Who, int], hits: Sequence[int], seconds: float = 0) -> str:
        """The rows of a run or an interval.

        Args:
            counts: Who made how many; those without any are left out.
            hits: All hits of each request, of which SHARE is a part.
            seconds: Time since the start.
        """
        lines = []
        for watch, name in enumerate(self._names):
            found = sorted(
                (-count, self._who(who), who.access)
                for who, count in counts.items()
                if count and who.watch == watch
            )
            total = max(hits[watch], -sum(row[0] for row in found))
            for count, who, access in found or [(0, "-", "-")]:
                share = f"{-100 * count / total:.1f}%" if total else "-"
                start = f"{seconds:12.6f} " if self._interval else ""
                lines.append(f"{start}{-count:14,}  {share:>6}  {name:<{self._symbol}}  {access:<4}  {who}\n")
        return "".join(lines)

    def _who(self, who: Who) -> str:
        texts = {"function": _function(who), "task": f"{who.comm}-{who.tid}", "cpu": f"{who.cpu or 0:03d}"}
        return "  ".join(f"{printable(texts[key]):<{_WIDTHS[key]}}" for key in self._by).rstrip()


def _function(who: Who) -> str:
    if who.offset is not None:
        return f"{who.function}+{who.offset:#x}"
    name = who.function if who.ip is None else hex(who.ip)
    return f"{name} [{who.module}]" if who.module else str(name)


def json_lines(
    watches: Sequence[Watch], by: Sequence[str], counts: Mapping[Who, int], seconds: float | None = None
) -> str:
    """The same as an object a line.

    Args:
        watches: The requests.
        by: See CountsTable.
        counts: See CountsTable.rows.
        seconds: Time since the start, of an interval.
    """
    lines = []
    for who, count in sorted(counts.items(), key=lambda item: (item[0].watch, -item[1])):
        if not count:
            continue
        watch = watches[who.watch]
        row: dict[str, Any] = {} if seconds is None else {"seconds": round(seconds, 6)}
        row |= {"symbol": watch.name, "access": str(watch.mode), "type": who.access}
        if "function" in by:
            row |= {
                "function": who.function,
                "module": who.module,
                "ip": None if who.ip is None else hex(who.ip),
                "offset": who.offset,
            }
        if "task" in by:
            row |= {"comm": who.comm, "pid": who.pid, "tid": who.tid}
        if "cpu" in by:
            row |= {"cpu": who.cpu}
        lines.append(as_json(row | {"hits": count}) + "\n")
    return "".join(lines)
