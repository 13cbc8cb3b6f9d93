# SPDX-License-Identifier: BSD-2-Clause
"""Wakes ksym at once when a watched process maps code.

The rings wake it when they fill up, ten times a second else. By then a library that was unlinked right after it was
loaded may be gone with its process. So its mapping is told a second time, in a ring of a page that wakes at each
record; what has no room there is in the other ring, too.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence

from ksym.linux import perf_event
from ksym.linux.perf_event import Attr, Flag, PerfEvent
from ksym.linux.ring import Ring

MOST_EARLY = 64
"""An event takes a descriptor; of a process of more threads (times CPUs), mappings are seen at the regular rounds."""


class Early:
    """Mappings of code as they are made. It is a help only: what cannot be opened is left out.

    Args:
        places: Threads and CPUs, as perf_event_open(2) takes them; processes that they start are followed.
        sample_type: Of the rings, so that records end alike.
    """

    def __init__(self, places: Sequence[tuple[int, int]], sample_type: int) -> None:
        self._events: list[PerfEvent] = []
        self._rings: dict[int, Ring] = {}
        self._fds: set[int] = set()
        flags = (
            Flag.EXCLUDE_KERNEL | Flag.EXCLUDE_HV | Flag.SAMPLE_ID_ALL | Flag.USE_CLOCKID
            | Flag.INHERIT | Flag.MMAP | Flag.MMAP2 | Flag.WATERMARK
        )  # fmt: skip
        self._attr = Attr(
            perf_event.TYPE_SOFTWARE, perf_event.COUNT_SW_DUMMY, sample_type=sample_type, flags=flags, wakeup=1,
            clockid=perf_event.CLOCK_MONOTONIC,
        )  # fmt: skip
        self.follow(places)

    def follow(self, places: Sequence[tuple[int, int]]) -> None:
        """Follow further threads."""
        if len(self._events) + len(places) > MOST_EARLY:
            return
        for pid, cpu in places:
            with contextlib.suppress(OSError):
                self._open(PerfEvent(self._attr, pid=pid, cpu=cpu))

    def _open(self, event: PerfEvent) -> None:
        self._events.append(event)
        ring = self._rings.get(event.cpu)
        if ring is None:
            self._rings[event.cpu] = Ring(event, mmap.PAGESIZE)
            self._fds.add(event.fd)
        else:
            event.output_to(next(other for other in self._events if other.cpu == event.cpu))

    def fds(self) -> set[int]:
        """Descriptors that poll(2) reports readable when something was mapped."""
        return self._fds

    def take(self) -> bytes:
        """The records so far."""
        return b"".join(ring.drain() for ring in self._rings.values())

    def close(self) -> None:
        """Close all events."""
        for ring in self._rings.values():
            ring.close()
        for event in self._events:
            event.close()
        self._rings.clear()
        self._events.clear()
        self._fds = set()
