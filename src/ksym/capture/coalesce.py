# SPDX-License-Identifier: BSD-2-Clause
"""From hits to accesses: one access may trap several times.

Two ways lead there. An instruction that touches two pieces of a split object traps once for each piece. And
an instruction that touches fewer bytes than the register covers may sweep over the variable:
``rep movsb`` over 8 bytes, or the loop of a bytewise strnlen(), is 8 hits of one instruction.

So consecutive hits of a thread, on one CPU and by one instruction, are one access as long as no piece
is hit more often than such a sweep can: piece length / access size. An instruction that touches the whole
piece, or whose size is not known, is never a sweep: each of its hits is an access of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ksym.capture.records import SampleRecord
from ksym.capture.sites import Named, Site
from ksym.watch.plan import PlannedEvent

GAP_NS = 50_000_000
"""Hits further apart than this are not one access."""


@dataclass(slots=True)
class Run:
    """Hits that are one access; ``first`` stands for it."""

    first: SampleRecord
    planned: PlannedEvent
    site: Site
    last_time: int
    per_piece: dict[int, int] = field(default_factory=dict)
    hits: int = 1
    open: bool = True
    comm: str = "?"
    stack: tuple[Named, ...] = ()

    def takes(self, record: SampleRecord, planned: PlannedEvent, site: Site) -> bool:
        """Whether ``record`` is another hit of this access; it is counted if so."""
        if (
            site.address != self.site.address
            or record.cpu != self.first.cpu
            or planned.watch is not self.planned.watch
            or record.time - self.last_time > GAP_NS
        ):
            return False
        seen = self.per_piece.get(planned.piece.offset, 0)
        if seen >= sweep(site, planned):
            return False
        self.per_piece[planned.piece.offset] = seen + 1
        self.hits += 1
        self.last_time = record.time
        return True


def sweep(site: Site, planned: PlannedEvent) -> int:
    """How often one sweep of the instruction at ``site`` can hit a piece."""
    size = site.size
    return -(-planned.piece.length // size) if 0 < size < planned.piece.length else 1


class Coalesce:
    """Groups a stream of hits, keeping its order.

    ``add`` hits in order of time, then take finished accesses with ``done``.
    """

    def __init__(self) -> None:
        self._order: deque[Run] = deque()
        self._open: dict[tuple[int, int], Run] = {}

    def add(self, record: SampleRecord, planned: PlannedEvent, site: Site) -> Run | None:
        """Take one hit; returns the new access if it starts one."""
        key = _thread(record), planned.watch.index
        run = self._open.get(key)
        if run is not None:
            if run.takes(record, planned, site):
                return None
            run.open = False
            del self._open[key]
        run = Run(record, planned, site, record.time)
        self._order.append(run)
        if len(planned.watch.pieces) > 1 or sweep(site, planned) > 1:
            run.per_piece[planned.piece.offset] = 1
            self._open[key] = run
        else:
            run.open = False
        return run

    def done(self, *, until: int | None = None) -> list[Run]:
        """Take the accesses that are complete, in order of their first hits.

        Args:
            until: Time up to which all hits have been added; None: no more will come.
        """
        finished = []
        order = self._order
        while order:
            run = order[0]
            if run.open:
                if until is not None and until - run.last_time <= GAP_NS:
                    break
                run.open = False
                self._open.pop((_thread(run.first), run.planned.watch.index), None)
            finished.append(order.popleft())
        return finished


def _thread(record: SampleRecord) -> int:
    """The thread; the idle task is one on each CPU, and all of them are thread 0."""
    return record.tid or -1 - record.cpu
