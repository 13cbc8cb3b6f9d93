# SPDX-License-Identifier: BSD-2-Clause
"""Columns of a recording made comparable: numbered without gaps, values as numbers in their own order.

numpy's own ``unique`` is not used: it takes 0.9 s for a million different numbers where sorting takes 0.1 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ksym.capture.values import Names, Value, Values
from ksym.program.layout import MOST_BYTES
from ksym.symbols.types import Enum, Float, Integer, Pointer, Type, resolve
from ksym.symbols.variable import Variable

Numbers: TypeAlias = NDArray[np.intp]
"""Not int32, though it would be half the size: numpy counts and takes by these alone, and would convert each time."""
Flags: TypeAlias = NDArray[np.bool_]
AnyColumn: TypeAlias = NDArray[Any]

_SMALL = 4096
"""A table of so many elements costs nothing."""


@dataclass(frozen=True)
class Codes:
    """A column, its different elements numbered in ascending order.

    Args:
        different: The elements that there are, ascending.
        codes: The number of each element.
    """

    different: AnyColumn
    codes: Numbers

    def __len__(self) -> int:
        return len(self.different)


def number(column: AnyColumn) -> Codes:
    """Number the different elements of a column of integers."""
    count = len(column)
    if not count:
        return Codes(column, np.zeros(0, np.intp))
    low, high = column.min(), column.max()
    span = int(high) - int(low)
    if not span:
        return Codes(column[:1], np.zeros(count, np.intp))
    if span > _SMALL and bool((column[1:] >= column[:-1]).all()):  # a counter, mostly
        first = _starts(column)
        return Codes(column[first], np.cumsum(first) - 1)
    if span <= 4 * count + _SMALL:
        places = (
            column.astype(np.int64) if column.itemsize < 8 else column
        ) - low  # as int8, 127 - -128 is -1
        places = places.astype(np.intp)
        there = np.zeros(span + 1, np.bool_)
        there[places] = True
        return Codes(np.flatnonzero(there).astype(column.dtype) + low, (np.cumsum(there) - 1)[places])
    order = np.argsort(column)
    ordered = column[order]
    first = _starts(ordered)
    codes = np.empty(count, np.intp)
    codes[order] = np.cumsum(first) - 1
    return Codes(ordered[first], codes)


def count_different(column: AnyColumn) -> int:
    """How many different elements a column of integers has: `number` without the numbers."""
    count = len(column)
    if not count:
        return 0
    low, high = int(column.min()), int(column.max())
    if high - low > 4 * count + _SMALL:
        return len(number(column))
    there = np.zeros(high - low + 1, np.bool_)
    there[(column.astype(np.int64) if column.itemsize < 8 else column) - column.dtype.type(low)] = True
    return int(np.count_nonzero(there))


def _starts(ordered: AnyColumn) -> Flags:
    """Where an element differs from the one before."""
    return np.concatenate(([True], ordered[1:] != ordered[:-1]))


def last_places(codes: Numbers, count: int, places: Numbers | None = None) -> Numbers:
    """Where each of ``count`` codes stands last; -1 where it does not.

    Args:
        codes: A column of codes.
        count: How many codes there are.
        places: What to call the elements; left out: 0, 1, 2...
    """
    last = np.full(count, -1, np.intp)
    if count == 1 and len(codes):
        last[0] = len(codes) - 1 if places is None else places[-1]
        return last
    # Of several values for one element the last is assigned (numpy's guide, "Assigning values to indexed arrays").
    last[codes] = np.arange(len(codes)) if places is None else places
    return last


class _Layout(NamedTuple):
    """How to read a value's bytes as a number: numpy's type, and the bits that count in it."""

    dtype: str
    shift: int = 0
    width: int = 0
    signed: bool = False


def _layout(variable: Variable) -> _Layout | None:
    """How a value is read as a number; None if it is no number."""
    kind: Type | None = variable.type and resolve(variable.type)
    length = variable.length
    if variable.bits:
        first, width = variable.bits
        signed = isinstance(kind, (Integer, Enum)) and kind.signed
        fits = length <= 8 and first >= 0 and width > 0 and first + width <= 8 * length
        return _Layout("<u8", first, width, signed) if fits else None
    if length not in (1, 2, 4, 8):
        return None
    if isinstance(kind, Float):
        return _Layout(f"<f{length}") if kind.size == length and length in (4, 8) else None
    if kind is None or (isinstance(kind, (Integer, Enum, Pointer)) and kind.size == length):
        signed = isinstance(kind, (Integer, Enum)) and kind.signed
        return _Layout(f"<{'i' if signed else 'u'}{length}")
    return None


def is_number(variable: Variable) -> bool:
    """Whether values have an order, so that there is a least and a greatest one."""
    return _layout(variable) is not None


def _words(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Each row of (n, 8) bytes as a number."""
    return np.ascontiguousarray(data).view("<u8")[:, 0]


def comparable(variable: Variable, data: NDArray[np.uint8]) -> AnyColumn:
    """A number for each value: equal where values are equal, and in their order where they have one.

    Args:
        variable: What the values are of.
        data: (n, width) bytes.
    """
    length = min(variable.length, data.shape[1])
    layout = _layout(variable)
    if layout is None or data.shape[1] < 8:
        return _any_bytes(data[:, :length])
    if layout.width:
        numbers = _words(data[:, :8]) >> np.uint64(layout.shift)
        numbers = numbers & np.uint64((1 << layout.width) - 1)
        if not layout.signed:
            return numbers
        sign = np.uint64(1 << (layout.width - 1))
        return ((numbers ^ sign) - sign).view(np.int64)
    column = np.ascontiguousarray(data[:, :length]).view(layout.dtype)[:, 0]
    if column.dtype.kind != "f":
        return column
    # IEEE 754 numbers are in the order of their bits, the negative ones backwards; NaNs lie at both ends.
    bits = column.view(f"<i{length}")
    return np.where(bits < 0, bits ^ np.array(np.iinfo(bits.dtype).max, bits.dtype), bits)


def _any_bytes(data: NDArray[np.uint8]) -> AnyColumn:
    """A number for each row of bytes, 8 bytes at a time."""
    padded = np.zeros((len(data), max(8, -(-data.shape[1] // 8) * 8)), np.uint8)
    padded[:, : data.shape[1]] = data
    column: AnyColumn = _words(padded[:, :8])
    for at in range(8, padded.shape[1], 8):
        more = number(_words(padded[:, at : at + 8]))
        column = number(column).codes * len(more) + more.codes
    return column


def same(variable: Variable, old: NDArray[np.uint8], new: NDArray[np.uint8]) -> Flags:
    """Where two columns of values are equal."""
    length = variable.length
    if _layout(variable) is None:
        return np.asarray((old[:, :length] == new[:, :length]).all(axis=1))
    return np.asarray(comparable(variable, old) == comparable(variable, new))


class Seen:
    """The values that accesses to one variable left or found, numbered.

    Of an access it is the value after it, or the one before it where only that is known.

    Args:
        variable: What was accessed.
        data: (n, width) bytes.
        known: Where there is a value.
        names: Names what pointers point to.
    """

    def __init__(self, variable: Variable, data: NDArray[np.uint8], known: Flags, names: Names) -> None:
        self.ordered = is_number(variable)
        self.decode = Values(variable, names).of
        self._variable, self._data = variable, data
        self._length = min(-(-min(variable.length, MOST_BYTES) // 8) * 8, data.shape[1])
        self._places = None if bool(known.all()) else np.flatnonzero(known)
        there = range(len(data)) if self._places is None else self._places
        self.first, self.last = (int(there[0]), int(there[-1])) if len(there) else (-1, -1)
        """The accesses that have the first and the last one; -1: none has any."""

    @cached_property
    def _column(self) -> AnyColumn:
        """Those that are known, as numbers."""
        return comparable(self._variable, self._data if self._places is None else self._data[self._places])

    @cached_property
    def _numbered(self) -> Codes:
        return number(self._column)

    @cached_property
    def count(self) -> int:
        """How many different ones there are."""
        return count_different(self._column)

    @property
    def lowest(self) -> int:
        """The access that has the lowest one, where they have an order."""
        return self._place(int(self._column.argmin()))

    @property
    def highest(self) -> int:
        """The access that has the highest one."""
        return self._place(int(self._column.argmax()))

    def _place(self, at: int) -> int:
        return at if self._places is None else int(self._places[at])

    @cached_property
    def codes(self) -> Numbers:
        """The number of each access's value, in their order where they have one; -1: it is not known."""
        if self._places is None:
            return self._numbered.codes
        codes = np.full(len(self._data), -1, np.intp)
        codes[self._places] = self._numbered.codes
        return codes

    @cached_property
    def _example(self) -> Numbers:
        return last_places(self._numbered.codes, len(self._numbered), self._places)

    def value(self, code: int) -> Value:
        """The value of that number."""
        return self.at(int(self._example[code]))

    def at(self, place: int) -> Value:
        """The value of that access."""
        return self.decode(self._data[place, : self._length].tobytes())


def tally(column: AnyColumn) -> tuple[AnyColumn, Numbers]:
    """The different elements of a column of numbers from 0 on, ascending, and how often each occurs."""
    if not len(column):
        return column, np.zeros(0, np.intp)
    if int(column.max()) <= 4 * len(column) + _SMALL:
        counts = np.bincount(column)
        there = np.flatnonzero(counts)
        return there, counts[there]
    ordered = np.sort(column)
    starts = np.flatnonzero(_starts(ordered))
    return ordered[starts], np.diff(np.append(starts, len(ordered)))
