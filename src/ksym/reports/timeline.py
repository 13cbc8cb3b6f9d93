# SPDX-License-Identifier: BSD-2-Clause
"""Reads and writes over time, by CPU or task: counts in columns of equal length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ksym.recording.accesses import KINDS
from ksym.reports.comparable import Numbers
from ksym.reports.groups import Subject

LANES = 8
"""So many CPUs or tasks, those with most accesses, have a lane of their own."""
_ORDER = ("R", "W", "RW", "X", "?")


@dataclass(frozen=True)
class Lane:
    """One line: accesses of one kind by one CPU or task; of several, where ``who`` is None."""

    who: str | None
    kind: str
    counts: Numbers

    @property
    def total(self) -> int:
        """All of them."""
        return int(self.counts.sum())


@dataclass(frozen=True)
class Timeline:
    """Lanes over one stretch of time; the sums of all lanes are the accesses.

    Args:
        start_ns: Where the first column begins.
        end_ns: Where the last one ends.
        lanes: Those of CPUs in their order, of tasks those with most accesses first; then the others' together.
    """

    start_ns: int
    end_ns: int
    lanes: tuple[Lane, ...]

    @property
    def column_ns(self) -> float:
        """How long a column is."""
        return (self.end_ns - self.start_ns) / max(1, len(self.lanes[0].counts)) if self.lanes else 0.0


def draw(subject: Subject, span: tuple[int, int], columns: int, key: str) -> Timeline:
    """Count accesses by column.

    Args:
        subject: Accesses to one variable.
        span: First and last time of the whole report, so that all variables' lines compare.
        columns: How many.
        key: ``cpu`` or ``task``.
    """
    start, end = span[0], max(span[1], span[0] + 1)
    accesses = subject.accesses
    if not len(subject):
        return Timeline(start, end, ())
    rows = subject.rows
    codes = subject.codes(key, rows)
    who, lanes = codes.codes, min(len(codes), LANES)
    made = np.bincount(who, rows.counts, len(codes))
    chosen = np.argsort(-made, kind="stable")[:LANES]
    if key == "cpu":
        chosen = np.sort(chosen)
    lane = np.full(len(codes), lanes, np.intp)
    lane[chosen] = np.arange(lanes)
    kind = accesses.traits.kind[accesses.trait[rows.first]]
    cells = (lane[who] * len(KINDS) + kind) * columns
    cell = cells[rows.of] + _columns(accesses.time_ns, start, end, columns)
    counts = np.bincount(cell, minlength=(lanes + 1) * len(KINDS) * columns)
    counts = counts.reshape(lanes + 1, len(KINDS), columns)
    names: list[str | None] = [
        _name(subject, key, int(rows.first[np.argmax(who == code)])) for code in chosen
    ]
    found = [
        Lane(name, kind, counts[number, KINDS.index(kind)])
        for number, name in enumerate([*names, None])
        for kind in _ORDER
        if counts[number, KINDS.index(kind)].any()
    ]
    return Timeline(start, end, tuple(found))


def _columns(times: NDArray[np.int64], start: int, end: int, columns: int) -> Numbers:
    """The column of each time; they are in order, so only where each column begins is looked for."""
    begins = np.array([start - -column * (end - start) // columns for column in range(1, columns)], np.int64)
    edges = [0, *np.searchsorted(times, begins).tolist(), len(times)]
    return np.repeat(np.arange(columns), np.diff(edges))


def _name(subject: Subject, key: str, place: int) -> str:
    label = subject.describe(key, place)[0]
    return f"CPU {int(label)}" if key == "cpu" else label
