# SPDX-License-Identifier: BSD-2-Clause
"""Draining the rings of all CPUs into one stream in order of time.

A record's time is taken before the record is visible in its ring, so a ring can show a record older than
one already seen in another ring. Records are therefore held back for one *sweep* over the rings: those older than the
start of the *previous* sweep are complete, because a record is written within microseconds of its time
and a sweep later every ring has been read again.

Reading a ring is a copy; making rows of it takes a hundred times as long. So that a ring does not run full
meanwhile, sweeps are collected between the rows, and wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from operator import attrgetter

from ksym.capture.records import Record, parse
from ksym.linux.clock import monotonic_ns
from ksym.linux.ring import Drained

_TIME = attrgetter("time")
BACKLOG_BYTES = 64 << 20
"""What may wait; beyond it the rings run full, and the kernel counts what it drops. Seconds of full load."""
_LEAST_BYTES = 4 << 20
_CATCH_UP_NS = 4_000_000_000
"""What waits is to be done with in this time, on slow machines too: so long a run goes on after its end."""
_SWEEP_NS = 50_000_000
"""Sweeps that wait begin so far apart: a virtual CPU can be held up between a record's time and the record."""


class Merge:
    """The merged stream of several rings.

    Args:
        rings: The rings; may change while running.
        chains: Whether samples carry call chains.
        raw: Whether they carry what a program wrote.
        clock: CLOCK_MONOTONIC in nanoseconds, the clock of the records.
        backlog: Bytes that may wait; less of them where they would take too long.
    """

    def __init__(
        self,
        rings: Collection[Drained],
        *,
        chains: bool,
        raw: bool = False,
        clock: Callable[[], int] = monotonic_ns,
        backlog: int = BACKLOG_BYTES,
    ) -> None:
        self._rings, self._chains, self._raw, self._clock = rings, chains, raw, clock
        self._backlog, self._most = backlog, min(backlog, _LEAST_BYTES)
        self._taken = 0, 0
        self._sweeps: deque[tuple[int, list[bytes]]] = deque()
        self._waiting = 0
        self._held: list[Record] = []
        self._previous = 0

    @property
    def behind(self) -> bool:
        """Whether sweeps wait."""
        return bool(self._sweeps)

    def collect(self) -> None:
        """Drain all rings; what they held waits for `next_sweep`. With too much waiting already, do nothing."""
        if self._waiting >= self._most:
            return
        started = self._clock()
        found = [data for ring in self._rings if (data := ring.drain())]
        self._waiting += sum(map(len, found))
        if self._sweeps and started - self._sweeps[-1][0] < _SWEEP_NS:
            self._sweeps[-1][1].extend(found)
        else:
            self._sweeps.append((started, found))

    def next_sweep(self) -> list[Record]:
        """What the sweep that has waited longest makes certain to be in order, oldest first; needs one to wait."""
        started, found = self._sweeps.popleft()
        size = sum(map(len, found))
        self._waiting -= size
        self._pace(size)
        held = self._held
        for data in found:
            parse(data, chains=self._chains, raw=self._raw, out=held)
        held.sort(key=_TIME)
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

    def _pace(self, size: int) -> None:
        """See from how long the sweep before took how much may wait."""
        now = self._clock()
        (before, since), self._taken = self._taken, (size, now)
        bytes_in_time = before * _CATCH_UP_NS // max(1, now - since)
        self._most = min(self._backlog, max(_LEAST_BYTES, bytes_in_time))

    def rest(self) -> list[Record]:
        """What is held back; to be called when no sweep waits and nothing more will come."""
        rest, self._held = self._held, []
        return rest

    def ready(self, *, last: bool = False) -> list[Record]:
        """Drain all rings; return all that is now certain to be in order, oldest first.

        Args:
            last: Nothing more will come: return everything.
        """
        self.collect()
        records: list[Record] = []
        while self.behind:
            records += self.next_sweep()
        return records + self.rest() if last else records

    @property
    def horizon(self) -> int:
        """All records older than this will have been returned by the next ``next_sweep``."""
        return self._previous
