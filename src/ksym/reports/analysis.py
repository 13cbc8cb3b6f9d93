# SPDX-License-Identifier: BSD-2-Clause
"""What a recording says, as data: every report is made from an `Analysis`.

An analysis has a `Subject` for each variable; that is asked for its groups, last writers and values, and
`summarise` and the modules timeline and stacks tell more of it. Nothing is worked out before it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ksym.capture.values import Value
from ksym.recording.accesses import KINDS, Accesses
from ksym.reports.comparable import Flags
from ksym.reports.findings import NEAR_NS, find, pairs
from ksym.reports.groups import Subject
from ksym.reports.select import Selection

__all__ = ["NEAR_NS", "Analysis", "Findings", "Near", "Silent", "Turns", "Unseen", "summarise"]

_TOP = 3


class Analysis:
    """The selected accesses of a recording, variable by variable.

    Args:
        accesses: All of the recording's.
        selection: Which of them are wanted.
        start_ns: When the recording began; left out: with the first access.
        sampled: The accesses are some of those that were made.

    Raises:
        KsymError: it has no variable of a name that is wanted.
    """

    def __init__(
        self, accesses: Accesses, selection: Selection, start_ns: int | None = None, *, sampled: bool = False
    ) -> None:
        self.sampled = sampled
        self.all = len(accesses)
        """Accesses in the recording."""
        marks = find(accesses)
        if selection:
            mask = selection.mask(accesses, start_ns)
            accesses, marks = accesses.select(mask), marks.select(mask)
        self.accesses, self.marks = accesses, marks
        wanted = selection.watches(accesses)
        alone = len(accesses.watches) == 1
        places = [slice(None) if alone else np.flatnonzero(accesses.watch == number) for number in wanted]
        self.subjects = tuple(
            Subject(accesses.watches[number], accesses.select(place), marks.select(place))
            for number, place in zip(wanted, places, strict=True)
        )
        """Accesses by variable, in the order of the requests."""

    def __len__(self) -> int:
        return len(self.accesses)

    @property
    def hits(self) -> int:
        """Traps that the accesses took."""
        return sum(subject.hits for subject in self.subjects)

    def findings(self, subject: Subject) -> Findings:
        """What was found about one variable; nothing among samples, as what lies between two of them decides."""
        return Findings(None, None, None, None) if self.sampled else summarise(subject)

    @property
    def span(self) -> tuple[int, int]:
        """Times of the first and the last access."""
        time = self.accesses.time_ns
        return (int(time[0]), int(time[-1])) if len(time) else (0, 0)


@dataclass(frozen=True)
class Silent:
    """Writes of the value that was there.

    Args:
        count: How many.
        of: Writes of which that can be told.
        functions: Who made most of them.
    """

    count: int
    of: int
    functions: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Turns:
    """Writes that came from another CPU than the write before.

    Args:
        count: How many.
        of: Writes that have one before them.
        cpus: Pairs of CPUs, with how often they took turns.
    """

    count: int
    of: int
    cpus: tuple[tuple[tuple[int, int], int], ...]


@dataclass(frozen=True)
class Near:
    """Accesses at most NEAR_NS behind another CPU's, one of the two a write.

    Args:
        count: How many.
        least_ns: The shortest distance.
        places: Pairs of places in code, as ``function+offset``, with how often they came together.
    """

    count: int
    least_ns: int
    places: tuple[tuple[tuple[str, str], int], ...]


@dataclass(frozen=True)
class Unseen:
    """Changes of the value that no access tells of.

    Args:
        count: How many.
        first_ns: The access that showed the first one.
        found: The value that was there before this access, or that it read.
        in_doubt: Of them, those where another CPU was at most NEAR_NS away, so that the order is in doubt.
    """

    count: int
    first_ns: int
    found: Value | None
    in_doubt: int


@dataclass(frozen=True)
class Findings:
    """What is worth a look; None for what does not occur."""

    silent: Silent | None
    turns: Turns | None
    near: Near | None
    unseen: Unseen | None

    def __bool__(self) -> bool:
        return any((self.silent, self.turns, self.near, self.unseen))


def summarise(subject: Subject) -> Findings:
    """What was found about one variable."""
    return Findings(_silent(subject), _turns(subject), _near(subject), _unseen(subject))


def _silent(subject: Subject) -> Silent | None:
    marks = subject.marks
    count = int(marks.silent.sum())
    if not count:
        return None
    rows = subject.rows
    codes = subject.codes("function", rows).codes
    made = np.bincount(codes[rows.of[marks.silent]])
    top = [int(code) for code in np.argsort(-made, kind="stable")[:_TOP] if made[code]]
    functions = [
        (subject.describe("function", int(rows.first[np.argmax(codes == code)]))[0], int(made[code]))
        for code in top
    ]
    return Silent(count, int(marks.judged.sum()), tuple(functions))


def _turns(subject: Subject) -> Turns | None:
    before, cpu = subject.marks.writer_before, subject.accesses.cpu
    follows = before >= 0
    turned = follows & (before != cpu)
    count = int(turned.sum())
    if not count:
        return None
    made: dict[tuple[int, int], int] = {}
    for one, two, times in pairs(before[turned], cpu[turned]):
        pair = min(one, two), max(one, two)
        made[pair] = made.get(pair, 0) + times
    most = sorted(made.items(), key=lambda item: (-item[1], item[0]))[:_TOP]
    return Turns(count, int(follows.sum()), tuple(most))


def _near(subject: Subject) -> Near | None:
    marks, accesses = subject.marks, subject.accesses
    near: Flags = marks.near_ns >= 0
    if not near.any():
        return None
    made: dict[tuple[str, str], int] = {}
    for behind, ahead, count in pairs(accesses.site[near], marks.near_site[near]):
        one, two = sorted(str(accesses.sites[number].named) for number in (behind, ahead))
        made[one, two] = made.get((one, two), 0) + count
    places = sorted(made.items(), key=lambda item: -item[1])[:_TOP]
    return Near(int(near.sum()), int(marks.near_ns[near].min()), tuple(places))


def _unseen(subject: Subject) -> Unseen | None:
    marks, accesses = subject.marks, subject.accesses
    count = int(marks.unseen.sum())
    if not count:
        return None
    place = int(np.argmax(marks.unseen))
    data = accesses.new if KINDS[accesses.kind[place]] == "R" else accesses.old
    return Unseen(
        count,
        int(accesses.time_ns[place]),
        subject.decode(data[place].tobytes()),
        int((marks.unseen & (marks.near_ns >= 0)).sum()),
    )
