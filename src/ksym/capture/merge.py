# SPDX-License-Identifier: BSD-2-Clause
"""Draining the rings of all CPUs into one stream in order of time.

A record's time is taken before the record is visible in its ring, so a ring can show a record older than
one already seen in another ring. Records are therefore held back for one round: those older than the
start of the *previous* round are complete, because a record is written within microseconds of its time
and a round later every ring has been read again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from operator import attrgetter

from ksym.capture.records import Record, parse
from ksym.linux.ring import Ring

_TIME = attrgetter("time")


class Merge:
    """The merged stream of several rings.

    Args:
        rings: The rings; may change while running.
        chains: Whether samples carry call chains.
        raw: Whether they carry what a program wrote.
        clock: CLOCK_MONOTONIC in nanoseconds, the clock of the records.
    """

    def __init__(
        self,
        rings: Collection[Ring],
        *,
        chains: bool,
        raw: bool = False,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._rings, self._chains, self._raw, self._clock = rings, chains, raw, clock
        self._held: list[Record] = []
        self._previous = 0

    def ready(self, *, last: bool = False) -> list[Record]:
        """Drain all rings; return what is now certain to be in order, oldest first.

        Args:
            last: Nothing more will come: return everything.
        """
        started = self._clock()
        for ring in self._rings:
            data = ring.drain()
            if data:
                parse(data, chains=self._chains, raw=self._raw, out=self._held)
        held = self._held
        held.sort(key=_TIME)
        if last:
            self._held = []
            return held
        horizon, self._previous = self._previous, started
        low, high = 0, len(held)
        while low < high:
            middle = (low + high) // 2
            if held[middle].time < horizon:
                low = middle + 1
            else:
                high = middle
        self._held = held[low:]
        return held[:low]

    @property
    def horizon(self) -> int:
        """All records older than this will have been returned by the next ``ready``."""
        return self._previous
