# SPDX-License-Identifier: BSD-2-Clause
"""A recording for Python programs and notebooks: accesses one by one, numpy columns, an Arrow table."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ksym.api.live import Access
from ksym.errors import KsymError
from ksym.exports import columns as exported
from ksym.exports.columns import Coded, Known
from ksym.recording.reader import open_recording
from ksym.views.fields import NAMES

if TYPE_CHECKING:
    from ksym.recording.accesses import Accesses
    from ksym.symbols.variable import Variable

_ROWS = 1 << 14
_SHOWN = 20


class Recording:
    """A recording.

    Args:
        path: The file.

    Raises:
        KsymError: it is no recording, or nothing of it can be read.
    """

    def __init__(self, path: str) -> None:
        recording = open_recording(path)
        self._accesses = recording.accesses()
        self.path = path
        self.symbols = tuple(watch.name for watch in recording.watches)
        """What was watched."""
        self.host = recording.machine.hostname
        self.counts: dict[str, Any] = recording.counts
        """What the counters said at the end: ``hits`` of each symbol, ``recorded``, ``lost``, and others."""
        self.cut = recording.cut
        """Why it is not whole, in a clause; None: it is."""
        self.sampled = recording.sampled
        """Why it has not every access, in a clause, where perf was asked for some of them; None: it has."""
        self.columns: Mapping[str, NDArray[Any]] = Columns(self._accesses)

    def __len__(self) -> int:
        return len(self._accesses)

    def __iter__(self) -> Iterator[Access]:
        for start in range(0, len(self), _ROWS):
            accesses = self._accesses.select(slice(start, start + _ROWS))
            part: dict[str, Any] = dict(Columns(accesses))
            # As `ksym.trace` gives them: a column of numbers has C's float as the nearest double.
            part |= {which: _plain_values(accesses, which) for which in ("old", "new")}
            for row in zip(*(part[name].tolist() for name in NAMES), strict=True):
                yield Access(*row)

    def to_arrow(self) -> Any:
        """A ``pyarrow.Table``: the columns, and ``time``, ``old_text`` and ``new_text``.

        Raises:
            KsymError: pyarrow is not installed.
        """
        try:
            from ksym.exports.arrow import table
        except ImportError:
            raise KsymError(
                "cannot make an Arrow table", "pyarrow is not installed", "pip install 'ksym[data]'"
            ) from None
        return table(self._accesses)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` of the same, in which no value is another one than in the recording.

        Integers have nullable types (Int32, Int64, UInt64), reals ``double[pyarrow]``, where NaN is a value and not a
        gap, texts are categories. Where integers with and without a sign were watched together, or integers and reals,
        ``old`` and ``new`` are objects: Python's own numbers.

        Raises:
            KsymError: pyarrow or pandas is not installed.
        """
        table = self.to_arrow()
        try:
            import pandas as pd
        except ImportError:
            raise KsymError(
                "cannot make a data frame", "pandas is not installed", "pip install pandas"
            ) from None
        from ksym.exports.frame import frame

        return frame(pd, table, self._accesses)

    def __repr__(self) -> str:
        return f"<ksym.Recording {self.path!r}: {len(self):,} accesses to {', '.join(self.symbols)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the first accesses."""
        shown = Columns(self._accesses.select(slice(0, _SHOWN)))
        head = ("time", "task", "cpu", "symbol", "access", "old", "new", "function")
        times = np.datetime_as_string(shown["time_ns"].astype("datetime64[ns]")).tolist()
        names = ("comm", "tid", "cpu", "symbol", "access", "old", "new", "function", "offset")
        body = []
        for at, row in zip(times, zip(*(shown[name].tolist() for name in names), strict=True), strict=True):
            comm, tid, cpu, symbol, access, old, new, function, offset = row
            place = "" if function is None else f"{function}+{offset:#x}"
            cells = (
                at,
                f"{comm}-{tid}",
                cpu,
                symbol,
                access,
                *("" if v is None else v for v in (old, new)),
                place,
            )
            body.append("".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells))
        rows = "".join(f"<tr>{cells}</tr>" for cells in body)
        columns = "".join(f"<th>{name}</th>" for name in head)
        more = f"<p>{len(self) - _SHOWN:,} more accesses</p>" if len(self) > _SHOWN else ""
        return f"<table><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table>{more}"


class Columns(Mapping[str, "NDArray[Any]"]):
    """numpy arrays by the names of JSON's keys, in order of time; each is made when it is first asked for.

    Texts, stacks and values that are no plain numbers are Python objects, None where they are not known. Columns of
    numbers of which some are not known are masked arrays.
    """

    def __init__(self, accesses: Accesses) -> None:
        self._accesses = accesses
        self._makers = _makers(accesses)
        self._made: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        column = self._made.get(name)
        if column is None:
            column = self._made[name] = self._makers[name]()
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


def _makers(accesses: Accesses) -> dict[str, Callable[[], NDArray[Any]]]:
    plain = ("time_ns", "cpu", "pid", "tid", "address", "hits")
    uid = accesses.uid
    return {
        **{name: lambda name=name: np.ascontiguousarray(getattr(accesses, name)) for name in plain},  # type: ignore[misc]
        **{name: lambda make=make: _objects(make()) for name, make in exported.texts(accesses).items()},  # type: ignore[misc]
        **{name: lambda make=make: _masked(make()) for name, make in exported.places(accesses).items()},  # type: ignore[misc]
        "length": lambda: exported.lengths(accesses),
        "old": lambda: _values(accesses, "old"),
        "new": lambda: _values(accesses, "new"),
        "stack": lambda: _stacks(accesses),
        "uid": lambda: _masked(Known(uid, None if (uid >= 0).all() else uid >= 0)),
    }


def _objects(column: Coded) -> NDArray[Any]:
    return _spread([*column.words, None], column.codes)


def _spread(words: list[Any], codes: NDArray[np.int32]) -> NDArray[Any]:
    """Objects by their number; the last one is that of NONE."""
    table = np.empty(len(words), object)
    table[:] = words
    return np.asarray(table[codes])


def _masked(column: Known) -> NDArray[Any]:
    if column.known is None:
        return column.numbers
    return np.ma.MaskedArray(column.numbers, mask=~column.known)


def _is_plain(variable: Variable) -> bool:
    """Whether its values are numbers to JSON, too, and all of one kind: no enum, pointer or bool."""
    kind = exported.number_of(variable)
    return kind is exported.Number.REAL or (kind is not None and not exported.says_more(variable))


def _values(accesses: Accesses, which: str) -> NDArray[Any]:
    kinds = {exported.number_of(watch.variable) for watch in accesses.watches}
    kind = next(iter(kinds)) if len(kinds) == 1 else None
    if kind is not None and all(_is_plain(watch.variable) for watch in accesses.watches):
        return _masked(exported.numbers(accesses, which, kind))
    return _plain_values(accesses, which)


def _plain_values(accesses: Accesses, which: str) -> NDArray[Any]:
    codes, values = exported.different_values(accesses, which, lambda variable: True)
    table: list[Any] = [*(value.plain for value in values), None]
    out = np.empty(len(accesses), object)
    out[:] = [table[code] for code in codes.tolist()]
    return out


def _stacks(accesses: Accesses) -> NDArray[Any]:
    return _spread([*(tuple(map(str, stack)) or None for stack in accesses.stacks), None], accesses.stack)
