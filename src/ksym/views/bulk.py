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
from ksym.recording.numbering import Ints, distinct, grouped
from ksym.symbols.variable import Variable
from ksym.views.clock import clock_text
from ksym.views.delimited import OLD, Csv, cell
from ksym.views.jsonl import JsonLines
from ksym.views.ksym_format import KsymFormat
from ksym.views.table import TASK_WIDTH, Table, change
from ksym.views.text import printable

ROWS = 1 << 14
"""Rows that are made at a time."""
_EXECUTE = KINDS.index("X")
_SECOND = 1_000_000_000
_FRACTIONS = [f".{number:04d}" for number in range(10_000)]
_NOTHING = "-"
Column = str | list[str]
"""A text of each row, or the one that all of them have."""


class BulkRows(Protocol):
    """One format, for many accesses."""

    def header(self) -> str:
        """See views.rows.Rows."""
        ...

    def rows(self, part: Accesses) -> str:
        """The rows of accesses that follow those of the call before."""
        ...


def bulk_rows_for(name: str, accesses: Accesses, *, verbose: bool = False, raw: bool = False) -> BulkRows:
    """Return the format called ``name`` for the accesses of a recording; see `views.rows.rows_for`."""
    if name == "table":
        return _Table(accesses, verbose=verbose)
    if name == "csv":
        return _Csv(accesses, raw=raw)
    makers: dict[str, Callable[[Accesses], BulkRows]] = {"ksym": _Ksym, "json": _Json}
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

    def common(self, text: Callable[[Access, int], str], *columns: NDArray[Any]) -> Column:
        """What rows say that is alike in those that are alike in these columns.

        Args:
            text: Says it of one of them: (access, its row).
            columns: What decides it.
        """
        number, first = grouped(*columns)
        texts = [text(self.access(row), row) for row in first.tolist()]
        return texts[0] if len(texts) == 1 else [texts[each] for each in number.tolist()]

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
            if not known.any():
                return [show(None)] * len(part)
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


def _joined(rows: int, *columns: Column) -> str:
    """All texts, row by row, and in each column by column: quicker than a text of each row."""
    flat = [""] * (rows * len(columns))
    for at, column in enumerate(columns):
        flat[at :: len(columns)] = [column] * rows if isinstance(column, str) else column
    return "".join(flat)


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
        seconds, rest = np.divmod(part.time_ns, _SECOND)
        widths = self._widths(parts)

        def begin(access: Access, row: int) -> str:
            task = f"{printable(access.comm)}-{access.tid}"
            symbol = self._table.symbol(access.watch)
            return f" {task:<{widths[row]}} {access.cpu:03d}  {symbol}  {access.access:<5} "

        return _joined(
            len(part),
            parts.common(lambda access, row: clock_text(access.time_ns // _SECOND), seconds),
            [_FRACTIONS[each] for each in (rest // 100_000).tolist()],
            parts.common(begin, part.comm, part.tid, part.cpu, part.watch, part.kind, widths),
            [text.ljust(19) for text in parts.by_watch(self._changes)],
            "  ",
            parts.common(lambda access, row: self._table.end(access), part.site, part.hits, part.stack),
        )

    def _widths(self, parts: _Parts) -> Ints:
        """The width of the TASK-PID column in each row: it grows with the longest so far."""
        part = parts.part
        task, first = grouped(part.comm, part.tid)
        accesses = map(parts.access, first.tolist())
        lengths = [len(f"{printable(access.comm)}-{access.tid}") for access in accesses]
        longest = np.array(lengths, np.int64)[task]
        widths = np.maximum.accumulate(np.maximum(longest, self._task_width))
        self._task_width = int(widths[-1])
        return widths

    def _changes(self, part: Accesses, watch: int) -> list[str]:
        """What OLD -> NEW says in the rows of one watch (`views.table.change`)."""
        variable = part.watches[watch].variable
        old, new = _numbers(part.old, variable), _numbers(part.new, variable)
        parts = _Parts(part, self._values)
        if old is None or new is None:
            found = parts.common(
                lambda access, row: change(access),
                *_words(part.old), *_words(part.new), part.old_known, part.new_known, part.kind,
            )  # fmt: skip
            return [found] * len(part) if isinstance(found, str) else found
        shown = (part.old_known | part.new_known) & (part.kind != _EXECUTE)
        if not shown.any():
            return [_NOTHING] * len(part)
        news = list(map(str, new.tolist()))
        # What was there before is mostly what the access before left.
        olds = [str(old[0]), *news[:-1]]
        for row in (np.flatnonzero(old[1:] != new[:-1]) + 1).tolist():
            olds[row] = str(old[row])
        texts = [f"{before} -> {after}" for before, after in zip(olds, news, strict=True)]
        known = part.old_known & part.new_known
        found_there = known & (old == new) & ((part.kind == READ) | (part.kind == UNKNOWN))
        for row in np.flatnonzero(found_there).tolist():
            texts[row] = news[row]
        for row in np.flatnonzero(shown & ~known).tolist():
            texts[row] = change(parts.access(row))
        for row in np.flatnonzero(~shown).tolist():
            texts[row] = _NOTHING
        return texts


class _Json:
    """See views.jsonl."""

    def __init__(self, accesses: Accesses) -> None:
        self._values, self._json = accesses.decoders(), JsonLines()

    def header(self) -> str:
        return self._json.header()

    def rows(self, part: Accesses) -> str:
        parts = _Parts(part, self._values)
        old, new = (
            parts.shown(name, lambda value: value.json if value else "null") for name in ("old", "new")
        )
        return _joined(
            len(part),
            '{"time_ns": ',
            list(map(str, part.time_ns.tolist())),
            parts.common(
                lambda access, row: f', {self._json.begin(access)}, "old": ',
                part.cpu, part.pid, part.tid, part.comm, part.watch, part.kind, part.address, part.site,
            ),
            old,
            ', "new": ',
            new,
            parts.common(
                lambda access, row: f", {self._json.end(access)}",
                part.watch, part.kind, part.address, part.site, part.hits, part.stack, part.uid,
            ),
        )  # fmt: skip


class _Csv:
    """See views.delimited."""

    def __init__(self, accesses: Accesses, *, raw: bool) -> None:
        self._values, self._csv = accesses.decoders(), Csv(raw=raw)

    def header(self) -> str:
        return self._csv.header()

    def rows(self, part: Accesses) -> str:
        parts = _Parts(part, self._values)
        return _joined(
            len(part),
            list(map(str, part.time_ns.tolist())),
            parts.common(
                lambda access, row: f",{self._csv.line(self._csv.cells(access)[1:OLD])},",
                part.cpu, part.pid, part.tid, part.comm, part.watch, part.kind, part.address,
            ),
            parts.shown("old", self._cell),
            ",",
            parts.shown("new", self._cell),
            parts.common(
                lambda access, row: f",{self._csv.line(self._csv.cells(access)[OLD + 2 :])}\n",
                part.site, part.hits, part.stack, part.uid,
            ),
        )  # fmt: skip

    def _cell(self, value: Value | None) -> str:
        return self._csv.line([0, cell(value)])[2:]  # alone in its row, an empty cell would be written as ""


class _Ksym:
    """See views.ksym_format."""

    def __init__(self, accesses: Accesses) -> None:
        self._values, self._rows = accesses.decoders(), KsymFormat()

    def header(self) -> str:
        return self._rows.header()

    def rows(self, part: Accesses) -> str:
        lines = _Parts(part, self._values).common(
            lambda access, row: self._rows.row(access),
            part.comm, part.tid, part.cpu, part.watch, part.address, part.kind, part.site,
        )  # fmt: skip
        return _joined(len(part), lines)
