# SPDX-License-Identifier: BSD-2-Clause
"""The rows of recordings, many at a time: the same text as `views.rows` makes of one access after the other.

Of a million accesses nearly all differ from the one before in their time and their values alone. So what else a row
says is put together once for each combination that there is, and a row is its time, a text, its values and another
text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ksym.capture.access import Access
from ksym.capture.values import Value, Values, integer_layout
from ksym.recording.accesses import KINDS, Accesses
from ksym.recording.grouping import READ, UNKNOWN
from ksym.recording.hits import Ints, distinct, grouped
from ksym.symbols.variable import Variable
from ksym.views.clock import clock_text
from ksym.views.delimited import OLD, Csv, cell, line
from ksym.views.jsonl import JsonLines
from ksym.views.ksym_format import KsymFormat
from ksym.views.table import TASK_WIDTH, Table, change
from ksym.views.text import printable

ROWS = 1 << 14
"""Rows that are made at a time."""
_EXECUTE = KINDS.index("X")
_FRACTIONS = [f".{number:04d}" for number in range(10_000)]


class BulkRows(Protocol):
    """One format, for many accesses."""

    def header(self) -> str:
        """See views.rows.Rows."""
        ...

    def rows(self, part: Accesses) -> str:
        """The rows of accesses that follow those of the call before."""
        ...


def bulk_rows_for(name: str, accesses: Accesses, *, verbose: bool = False) -> BulkRows:
    """The format called ``name`` (`views.rows.FORMATS`) for the accesses of a recording."""
    if name == "table":
        return _Table(accesses, verbose=verbose)
    makers: dict[str, Callable[[Accesses], BulkRows]] = {"ksym": _Ksym, "json": _Json, "csv": _Csv}
    return makers[name](accesses)


def texts(rows: BulkRows, accesses: Accesses) -> Iterator[tuple[str, int]]:
    """All rows, some at a time, and how many these were."""
    for at in range(0, len(accesses), ROWS):
        part = accesses.select(slice(at, at + ROWS))
        yield rows.rows(part), len(part)


class _Parts:
    """Some accesses, taken apart into what few have in common and what each has for itself."""

    def __init__(self, part: Accesses, values: Sequence[Values]) -> None:
        self.part, self._values = part, values

    def access(self, row: int) -> Access:
        """One of them, as the other formats take it."""
        part = self.part
        watch, stack, uid = part.watches[part.watch[row]], int(part.stack[row]), int(part.uid[row])
        old, new = (
            self._values[watch.index].of(column[row].tobytes()) if known[row] else None
            for column, known in ((part.old, part.old_known), (part.new, part.new_known))
        )
        cpu, pid, tid = (int(column[row]) & 0xFFFFFFFF for column in (part.cpu, part.pid, part.tid))
        return Access(
            int(part.time_ns[row]), cpu, pid, tid, part.comms[part.comm[row]], watch, int(part.address[row]),
            KINDS[part.kind[row]], part.sites[part.site[row]], part.stacks[stack] if stack >= 0 else (),
            int(part.hits[row]), old, new, None if uid < 0 else uid,
        )  # fmt: skip

    def common(
        self, text: Callable[[Access, int], str], *columns: NDArray[Any]
    ) -> tuple[list[int], list[str]]:
        """What rows say that are alike in these columns.

        Args:
            text: Says it of one of them: (access, its row).
            columns: What decides it.

        Returns:
            For each row the number of its text, and the texts.
        """
        number, first = grouped(*columns)
        return number.tolist(), [text(self.access(row), row) for row in first.tolist()]

    def by_watch(self, texts: Callable[[Accesses, int], list[str]]) -> list[str]:
        """Texts of the rows, made for one watch at a time: (its rows, its number)."""
        watches, number = distinct(self.part.watch)
        if len(watches) == 1:
            return texts(self.part, int(watches[0]))
        all_texts = [""] * len(self.part)
        for at, watch in enumerate(watches.tolist()):
            which = np.flatnonzero(number == at)
            for row, text in zip(which.tolist(), texts(self.part.select(which), watch), strict=True):
                all_texts[row] = text
        return all_texts

    def shown(self, name: str, show: Callable[[Value | None], str]) -> list[str]:
        """Texts of the old or the new values.

        Args:
            name: ``old`` or ``new``.
            show: Shows one; a plain integer is its number in every format.
        """

        def texts(part: Accesses, watch: int) -> list[str]:
            column, known = getattr(part, name), getattr(part, f"{name}_known")
            numbers = _numbers(column, part.watches[watch].variable)
            if numbers is not None:
                shown = list(map(str, numbers.tolist()))
            else:
                number, first = grouped(*_words(column))
                decode = self._values[watch].of
                values = [show(decode(column[row].tobytes())) for row in first.tolist()]
                shown = [values[each] for each in number.tolist()]
            for row in np.flatnonzero(~known).tolist():
                shown[row] = show(None)
            return shown

        return self.by_watch(texts)


def _numbers(column: NDArray[np.uint8], variable: Variable) -> NDArray[Any] | None:
    """The values of a plain integer; None: it is something else."""
    layout = integer_layout(variable)
    return np.ascontiguousarray(column).view(layout.format)[:, 0] if layout else None


def _words(column: NDArray[np.uint8]) -> Iterator[NDArray[np.uint64]]:
    words = np.ascontiguousarray(column).view(np.uint64)
    return (words[:, word] for word in range(words.shape[1]))


class _Table:
    """See views.table."""

    def __init__(self, accesses: Accesses, *, verbose: bool) -> None:
        self._values = accesses.decoders()
        self._table = Table(accesses.watches, verbose=verbose)
        self._task_width = TASK_WIDTH

    def header(self) -> str:
        return self._table.header()

    def rows(self, part: Accesses) -> str:
        parts = _Parts(part, self._values)
        seconds, rest = np.divmod(part.time_ns, 1_000_000_000)
        second, first = grouped(seconds)
        clock = [clock_text(each) for each in seconds[first].tolist()]
        widths = self._widths(parts)

        def begin(access: Access, row: int) -> str:
            task = f"{printable(access.comm)}-{access.tid}"
            symbol = self._table.symbol(access.watch)
            return f" {task:<{widths[row]}} {access.cpu:03d}  {symbol}  {access.access:<5} "

        who, begins = parts.common(begin, part.comm, part.tid, part.cpu, part.watch, part.kind, widths)
        where, ends = parts.common(
            lambda access, row: self._table.end(access), part.site, part.hits, part.stack
        )
        rows = zip(
            second.tolist(),
            (rest // 100_000).tolist(),
            who,
            parts.by_watch(self._changes),
            where,
            strict=True,
        )
        return "".join(
            [
                f"{clock[second]}{_FRACTIONS[fraction]}{begins[task]}{values:<19}  {ends[place]}"
                for second, fraction, task, values, place in rows
            ]
        )

    def _widths(self, parts: _Parts) -> Ints:
        """The width of the TASK-PID column in each row: it grows with the longest so far."""
        part = parts.part
        task, texts = parts.common(
            lambda access, row: f"{printable(access.comm)}-{access.tid}", part.comm, part.tid
        )
        longest = np.array([len(text) for text in texts], np.int64)[task]
        widths = np.maximum.accumulate(np.maximum(longest, self._task_width))
        self._task_width = int(widths[-1])
        return widths

    def _changes(self, part: Accesses, watch: int) -> list[str]:
        """What OLD -> NEW says in the rows of one watch (`views.table.change`)."""
        variable = part.watches[watch].variable
        old, new = _numbers(part.old, variable), _numbers(part.new, variable)
        if old is None or new is None:
            parts = _Parts(part, self._values)
            number, texts = parts.common(
                lambda access, row: change(access),
                *_words(part.old), *_words(part.new), part.old_known, part.new_known, part.kind,
            )  # fmt: skip
            return [texts[each] for each in number]
        olds, news = map(str, old.tolist()), list(map(str, new.tolist()))
        texts = [f"{before} -> {after}" for before, after in zip(olds, news, strict=True)]
        known = part.old_known & part.new_known & (part.kind != _EXECUTE)
        for row in np.flatnonzero(
            known & (old == new) & ((part.kind == READ) | (part.kind == UNKNOWN))
        ).tolist():
            texts[row] = news[row]
        parts = _Parts(part, self._values)
        for row in np.flatnonzero(~known).tolist():
            texts[row] = change(parts.access(row))
        return texts


class _Json:
    """See views.jsonl."""

    def __init__(self, accesses: Accesses) -> None:
        self._values, self._json = accesses.decoders(), JsonLines()

    def header(self) -> str:
        return self._json.header()

    def rows(self, part: Accesses) -> str:
        parts = _Parts(part, self._values)
        who, begins = parts.common(
            lambda access, row: self._json.begin(access),
            part.cpu, part.pid, part.tid, part.comm, part.watch, part.kind, part.address, part.site,
        )  # fmt: skip
        where, ends = parts.common(
            lambda access, row: self._json.end(access), part.watch, part.kind, part.address, part.site, part.hits,
            part.stack, part.uid,
        )  # fmt: skip
        old, new = (
            parts.shown(name, lambda value: value.json if value else "null") for name in ("old", "new")
        )
        rows = zip(part.time_ns.tolist(), who, old, new, where, strict=True)
        return "".join(
            [
                f'{{"time_ns": {time}, {begins[task]}, "old": {before}, "new": {after}, {ends[place]}'
                for time, task, before, after, place in rows
            ]
        )


class _Csv:
    """See views.delimited."""

    def __init__(self, accesses: Accesses) -> None:
        self._values, self._csv = accesses.decoders(), Csv()

    def header(self) -> str:
        return self._csv.header()

    def rows(self, part: Accesses) -> str:
        parts = _Parts(part, self._values)
        who, begins = parts.common(
            lambda access, row: line(self._csv.cells(access)[1:OLD]),
            part.cpu, part.pid, part.tid, part.comm, part.watch, part.kind, part.address,
        )  # fmt: skip
        where, ends = parts.common(
            lambda access, row: line(self._csv.cells(access)[OLD + 2 :]),
            part.site,
            part.hits,
            part.stack,
            part.uid,
        )
        old, new = (parts.shown(name, _cell) for name in ("old", "new"))
        rows = zip(part.time_ns.tolist(), who, old, new, where, strict=True)
        return "".join(
            [
                f"{time},{begins[task]},{before},{after},{ends[place]}\n"
                for time, task, before, after, place in rows
            ]
        )


def _cell(value: Value | None) -> str:
    return line([0, cell(value)])[2:]  # alone in its row, an empty cell would be written as ""


class _Ksym:
    """See views.ksym_format."""

    def __init__(self, accesses: Accesses) -> None:
        self._values, self._rows = accesses.decoders(), KsymFormat()

    def header(self) -> str:
        return self._rows.header()

    def rows(self, part: Accesses) -> str:
        number, lines = _Parts(part, self._values).common(
            lambda access, row: self._rows.row(access),
            part.comm, part.tid, part.cpu, part.watch, part.address, part.kind, part.site,
        )  # fmt: skip
        return "".join([lines[each] for each in number])
