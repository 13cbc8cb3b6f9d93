# SPDX-License-Identifier: BSD-2-Clause
"""Numbers for what repeats itself in columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_ROWS = 1 << 16
"""Rows that are looked at together: all at once would take much memory."""

_MIXER = np.uint64(0x9E3779B97F4A7C15)
"""Odd, and without a pattern (2**64 divided by the golden ratio)."""
_FEW_RUNS = 8
"""Rows a run of equal ones has on average, from which on it pays to number the runs."""


def grouped(*columns: NDArray[np.generic]) -> tuple[Ints, Ints]:
    """Number rows that are equal in all columns alike.

    Returns:
        The number of each row, and the first row of each number.
    """
    return _by_runs(columns, _grouped)


def alike(*columns: NDArray[np.generic]) -> tuple[Ints, Ints]:
    """The same as `grouped`, numbered in no order of meaning; quicker where there are many columns."""
    different = [column for column in columns if column.strides != (0,)]  # all elements of the others are one
    return _by_runs(different or columns[:1], _alike)


def _by_runs(
    columns: Sequence[NDArray[np.generic]],
    group: Callable[[Sequence[NDArray[np.generic]]], tuple[Ints, Ints]],
) -> tuple[Ints, Ints]:
    """Group one row of each run of equal ones, where there are few runs."""
    count = len(columns[0])
    changes = np.zeros(max(0, count - 1), np.bool_)
    for column in columns:
        changes |= column[1:] != column[:-1]
    ends = np.flatnonzero(changes)
    if not len(ends):
        return np.zeros(count, np.int64), np.arange(min(1, count))
    if len(ends) > count // _FEW_RUNS:
        return group(columns)
    starts = np.concatenate(([0], ends + 1))
    number, first = group([column[starts] for column in columns])
    return np.repeat(number, np.diff(starts, append=count)), starts[first]


def _alike(columns: Sequence[NDArray[Any]]) -> tuple[Ints, Ints]:
    # A mixture of all columns stands for them: equal rows have equal ones.
    mixed = columns[0].astype(np.uint64)
    for column in columns[1:]:
        mixed *= _MIXER
        mixed += column.astype(np.uint64)
    number, first = _grouped([mixed])
    if all(np.array_equal(column, column[first][number]) for column in columns):
        return number, first
    return _grouped(columns)


def _grouped(columns: Sequence[NDArray[np.generic]]) -> tuple[Ints, Ints]:
    group = np.zeros(len(columns[0]), np.int64)
    size = 1
    for column in columns:
        values, number = distinct(column)
        if len(values) > 1:
            group = group * len(values) + number
            size *= len(values)
            if size > 1 << 40:
                values, group = distinct(group)
                size = len(values)
    values, number = distinct(group)
    first = np.empty(len(values), np.int64)
    first[number[::-1]] = np.arange(len(group) - 1, -1, -1)
    return number, first


def numbered(column: NDArray[np.signedinteger[Any]]) -> tuple[NDArray[Any], Ints]:
    """The same of a column of small numbers from -1 on, in less memory and time."""
    low = int(column.min(initial=0))
    missing = np.zeros(int(column.max(initial=-1)) + 1 - low, np.bool_)
    first = np.full(len(missing), -1, np.int64)
    rows = max(_ROWS, len(first))
    for start in range(0, len(column), rows):
        missing[column[start : start + rows] - low] = True
    there = np.flatnonzero(missing)
    for start in range(0, len(column), rows):
        part = column[start : start + rows] - low
        found = np.full(len(first), -1, np.int64)
        found[part[::-1]] = np.arange(start + len(part) - 1, start - 1, -1)
        first = np.where(first < 0, found, first)
        missing &= first < 0
        if not missing.any():
            break
    if len(there) == len(first) and not low:
        return column, first
    number = np.cumsum(first >= 0, dtype=column.dtype) - 1
    return number[column - low], first[there]


def distinct(column: NDArray[np.generic]) -> tuple[NDArray[np.generic], Ints]:
    """The values of a column, sorted, and the number of each row's among them; quick where few follow each other."""
    if not len(column):
        return column, np.zeros(0, np.int64)
    changes = np.flatnonzero(column[1:] != column[:-1])
    if not len(changes):
        return column[:1], np.zeros(len(column), np.int64)
    values = _sorted(np.concatenate((column[:1], column[1:][changes])))
    return values, np.searchsorted(values, column)


def _sorted(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """The different ones, ascending; numpy's own ``unique`` imports a package that nothing else needs."""
    values.sort()
    return values[np.concatenate(([True], values[1:] != values[:-1]))]
