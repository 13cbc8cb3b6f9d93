# SPDX-License-Identifier: BSD-2-Clause
"""How a tracing directory's tables look: 2.6.35's own rows in tracefs's frame, or ksym's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ksym.capture.access import Access
from ksym.language.request import Mode
from ksym.tracing.buffer import Entry, Marker
from ksym.views.clock import WallClock
from ksym.views.ksym_format import KsymFormat
from ksym.views.table import TASK_WIDTH, Table, change
from ksym.views.text import printable
from ksym.watch.plan import Watch

TRACER = "ksym_tracer"
_ACCESS = {Mode.READ: "R", Mode.WRITE: "W", Mode.READ_WRITE: "RW", Mode.EXECUTE: "X"}


def frame(tracer: str, present: int, written: int, cpus: int) -> str:
    """The lines that tracefs puts in front of every trace."""
    return f"# tracer: {tracer}\n#\n# entries-in-buffer/entries-written: {present}/{written}   #P:{cpus}\n#\n"


def missed(cpu: int, count: int) -> str:
    """What tracefs says where entries were dropped."""
    return f"CPU:{cpu} [LOST {count} EVENTS]\n"


def profile(rows: Iterable[tuple[Mode, str, int]]) -> str:
    """2.6.35's ``ksym_profile``, byte for byte.

    Args:
        rows: Access that was asked for, name, hits.
    """
    lines = [
        "  Access Type   Symbol                                       Counter\n",
        "  -----------   ------                                       -------\n",
    ]
    for mode, name, hits in rows:
        lines.append(f"  {_ACCESS[mode]:<12}  {printable(name):<36} {hits:>15}\n")
    return "".join(lines)


class SeedRows:
    """2.6.35's table.

    Args:
        values: Behind the function, what the variable held and holds.
    """

    def __init__(self, *, values: bool) -> None:
        self._rows, self._values = KsymFormat(), values

    def header(self) -> str:
        """See Rows."""
        return self._rows.header()

    def text(self, entry: Entry) -> str:
        """The lines of one entry."""
        if isinstance(entry, Marker):
            return f"{printable(entry.comm):>11}-{entry.tid:<5} [{entry.cpu:03d}] {_mark(entry)}"
        row = self._rows.row(entry)
        if self._values:
            row = f"{row[:-1]}  {change(entry)}\n"
        return row + "".join(f" => {printable(str(named))}\n" for named in entry.stack)


class OwnRows:
    """The table of ``ksym trace``.

    Args:
        watches: What is watched, for the width of columns.
    """

    def __init__(self, watches: Sequence[Watch]) -> None:
        self._table, self._clock = Table(watches), WallClock()

    def header(self) -> str:
        """See Rows."""
        return "# " + self._table.header()

    def text(self, entry: Entry) -> str:
        """The lines of one entry."""
        if isinstance(entry, Marker):
            task = f"{printable(entry.comm)}-{entry.tid}"
            return f"  {self._clock.text(entry.time_ns)} {task:<{TASK_WIDTH}} {entry.cpu:03d}  {_mark(entry)}"
        return "  " + self._table.row(entry).replace("\n ", "\n   ")


def _mark(marker: Marker) -> str:
    # As tracefs shows what was written to its trace_marker.
    return f"tracing_mark_write: {printable(marker.text)}\n"


Layout = SeedRows | OwnRows


def watches_of(entries: Iterable[Entry]) -> list[Watch]:
    """What the entries are of."""
    return list({id(entry.watch): entry.watch for entry in entries if isinstance(entry, Access)}.values())
