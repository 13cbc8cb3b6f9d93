# SPDX-License-Identifier: BSD-2-Clause
"""Numbers for what repeats itself in columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_ROWS = 1 << 20
"""Rows that are looked at together where all at once would take much memory."""

_FEW_RUNS = 8
"""Rows a run of equal ones has on average, from which on it pays to number the runs."""


def grouped(*columns: NDArray[np.generic]) -> tuple[Ints, Ints]:
    """Number rows that are equal in all columns alike.

    Returns:
        The number of each row, and the first row of each number.
    """
    count = len(columns[0])
    changes = np.zeros(max(0, count - 1), np.bool_)
    for column in columns:
        changes |= column[1:] != column[:-1]
    ends = np.flatnonzero(changes)
    if not len(ends):
        return np.zeros(count, np.int64), np.arange(min(1, count))
    if len(ends) > count // _FEW_RUNS:
        return _grouped(*columns)
    starts = np.concatenate(([0], ends + 1))
    number, first = _grouped(*(column[starts] for column in columns))
    return np.repeat(number, np.diff(starts, append=count)), starts[first]


def _grouped(*columns: NDArray[np.generic]) -> tuple[Ints, Ints]:
    group = np.zeros(len(columns[0]), np.int64)
    size = 1
    for column in columns:
        values, number = distinct(column)
        if len(values) > 1:
            group = group * len(values) + number
            size *= len(values)
            if size > 1 << 40:
                group = np.unique(group, return_inverse=True)[1]
                size = int(group.max()) + 1
    values, number = distinct(group)
    first = np.empty(len(values), np.int64)
    first[number[::-1]] = np.arange(len(group) - 1, -1, -1)
    return number, first


def numbered(column: NDArray[np.int32]) -> tuple[NDArray[np.int32], Ints]:
    """The same of a column of small numbers from -1 on, in less memory."""
    low = int(column.min(initial=0))
    first = np.full(int(column.max(initial=-1)) + 1 - low, -1, np.int64)
    for start in range(0, len(column), _ROWS):
        part = column[start : start + _ROWS] - low
        found = np.full(len(first), -1, np.int64)
        found[part[::-1]] = np.arange(start + len(part) - 1, start - 1, -1)
        first = np.where(first < 0, found, first)
    there = np.flatnonzero(first >= 0)
    if len(there) == len(first) and not low:
        return column, first
    number = np.cumsum(first >= 0, dtype=np.int32) - 1
    return number[column - low], first[there]


def distinct(column: NDArray[np.generic]) -> tuple[NDArray[np.generic], Ints]:
    """The values of a column, sorted, and the number of each row's among them; quick where few follow each other."""
    if not len(column):
        return column, np.zeros(0, np.int64)
    changes = np.flatnonzero(column[1:] != column[:-1])
    if not len(changes):
        return column[:1], np.zeros(len(column), np.int64)
    values = np.unique(np.concatenate((column[:1], column[1:][changes])))
    return values, np.searchsorted(values, column)
