# SPDX-License-Identifier: BSD-2-Clause
"""From hits to accesses: one access may trap several times.

Two ways lead there. An instruction that touches two pieces of a split object traps once for each piece. And
an instruction that touches fewer bytes than the register covers may sweep over the variable:
``rep movsb`` over 8 bytes, or the loop of a bytewise strnlen(), is 8 hits of one instruction.

So consecutive hits of a thread, on one CPU and by one instruction, are one access as long as no piece
is hit more often than such a sweep can: piece length / access size. An instruction that touches the whole
piece, or whose size is not known, is never a sweep over it: each of its hits there is an access of its own. One
that touches a whole piece and no more does not reach into the next one either, unless it repeats itself (``rep``).
Nor is a write a sweep, unless it repeats itself: each leaves a value of its own, which somebody may be looking for.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ksym.capture.access import Access
from ksym.capture.instructions import READ_WRITE, UNKNOWN, WRITE
from ksym.capture.records import SampleRecord
from ksym.capture.sites import Site
from ksym.watch.plan import PlannedEvent

_WRITES = (WRITE, READ_WRITE)

GAP_NS = 10_000_000
"""Hits further apart than this are not one access."""


@dataclass(slots=True)
class _Sweep:
    """An access that more hits may belong to."""

    access: Access
    last_time: int
    per_piece: dict[int, int]

    def takes(self, record: SampleRecord, planned: PlannedEvent, site: Site, kind: str) -> bool:
        """Whether ``record`` is another hit of this access; it is counted if so."""
        if (
            site.address != self.access.site.address
            or (kind != self.access.access and UNKNOWN not in (kind, self.access.access))
            or record.cpu != self.access.cpu
            or record.time - self.last_time > GAP_NS
        ):
            return False
        seen = self.per_piece.get(planned.piece.offset, 0)
        if seen >= most_hits(site, planned) or _fills(site, planned):
            return False
        if seen and kind in _WRITES and not site.repeats:
            return False
        self.per_piece[planned.piece.offset] = seen + 1
        self.access.hits += 1
        if self.access.access == UNKNOWN:
            self.access.access = kind
        self.last_time = record.time
        return True


def most_hits(site: Site, planned: PlannedEvent) -> int:
    """How often one sweep of the instruction at ``site`` can hit a piece."""
    size = site.size
    return -(-planned.piece.length // size) if 0 < size < planned.piece.length else 1


def may_sweep(site: Site, planned: PlannedEvent) -> bool:
    """Whether one access from ``site`` can take more than one hit."""
    return not _fills(site, planned) and (len(planned.watch.pieces) > 1 or most_hits(site, planned) > 1)


def _fills(site: Site, planned: PlannedEvent) -> bool:
    """Whether an access from ``site`` is as large as the piece, and aligned accesses so reach no other."""
    return site.size == planned.piece.length and not site.repeats


class Coalesce:
    """Groups a stream of hits into accesses, keeping their order.

    For each hit in order of time: ``extends`` an access, or ``start`` another. Then take what is complete
    with ``done``.
    """

    def __init__(self) -> None:
        self._order: deque[Access] = deque()
        self.whole = self._order.append
        """Take a new access that one hit is all of."""
        self._open: dict[tuple[int, int], _Sweep] = {}

    def extends(self, record: SampleRecord, planned: PlannedEvent, site: Site, kind: str) -> Access | None:
        """The access that is there and that the hit belongs to; None: that thread's access to the watch is complete."""
        if not self._open:
            return None
        key = _thread(record), planned.watch.index
        sweep = self._open.get(key)
        if sweep is None:
            return None
        if sweep.takes(record, planned, site, kind):
            return sweep.access
        del self._open[key]
        return None

    def start(self, access: Access, record: SampleRecord, planned: PlannedEvent) -> None:
        """Take a new access that may take more hits (`may_sweep`).

        Args:
            access: The access.
            record: Its first hit.
            planned: What was hit.
        """
        self.whole(access)
        self._open[_thread(record), planned.watch.index] = _Sweep(
            access, record.time, {planned.piece.offset: 1}
        )

    def done(self, *, until: int | None = None) -> list[Access]:
        """Take the accesses that are complete, in order of their first hits.

        Args:
            until: Time up to which all hits have been added; None: no more will come.
        """
        order = self._order
        if not self._open:
            finished = list(order)
            order.clear()
            return finished
        for key in [key for key, s in self._open.items() if until is None or until - s.last_time > GAP_NS]:
            del self._open[key]
        still = {id(sweep.access) for sweep in self._open.values()}
        finished = []
        while order and id(order[0]) not in still:
            finished.append(order.popleft())
        return finished


def _thread(record: SampleRecord) -> int:
    """The thread; the idle task is one on each CPU, and all of them are thread 0."""
    return record.tid or -1 - record.cpu
