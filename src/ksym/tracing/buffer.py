# SPDX-License-Identifier: BSD-2-Clause
"""The trace buffer: a bounded queue for each CPU, of which the oldest entries make room for new ones, as in ftrace."""

from __future__ import annotations

import heapq
import re
from collections import deque
from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

from ksym.capture.access import Access
from ksym.linux.cpus import online_cpus
from ksym.linux.files import read_text

DEFAULT_KB = 1408
"""What tracefs has, for each CPU."""
ENTRY_BYTES = 64
"""What an entry counts for: about as much as its record takes in a ring of the kernel's."""


MEMORY_FACTOR = 11
"""Bytes that an entry truly takes here, to each of those that it counts for."""


def most_kilobytes() -> int:
    """The largest size, for each CPU, with which full buffers take half of the memory that is free now."""
    available = re.search(r"^MemAvailable:\s*(\d+)", read_text("/proc/meminfo"), re.MULTILINE)
    return int(available.group(1) if available else 0) // (2 * MEMORY_FACTOR * len(online_cpus())) or 1


class Marker(NamedTuple):
    """A line that somebody wrote.

    Args:
        time_ns: CLOCK_MONOTONIC nanoseconds.
        cpu: Where the writer ran.
        tid: The writer.
        comm: Its name.
        text: The line, without newline.
    """

    time_ns: int
    cpu: int
    tid: int
    comm: str
    text: str


Entry = Access | Marker
TIME = attrgetter("time_ns")


class _Queue:
    """Of one CPU."""

    def __init__(self, most: int) -> None:
        self.entries: deque[Entry] = deque(maxlen=most)
        self.overrun = 0
        """Entries that were dropped since the buffer was emptied."""
        self.missed = 0
        """Of them, those that no consumer has been told of."""

    def add(self, entries: Iterable[Entry], count: int) -> None:
        """Take so many entries, in order of time."""
        before = len(self.entries)
        self.entries.extend(entries)
        dropped = before + count - len(self.entries)
        self.overrun += dropped
        self.missed += dropped


class Buffer:
    """What an instance has caught and nobody has consumed.

    Args:
        kilobytes: For each CPU.
    """

    def __init__(self, kilobytes: int = DEFAULT_KB) -> None:
        self._kilobytes = kilobytes
        self._queues: dict[int, _Queue] = {}

    @property
    def kilobytes(self) -> int:
        """Its size, for each CPU; what is set keeps the newest entries."""
        return self._kilobytes

    @kilobytes.setter
    def kilobytes(self, kilobytes: int) -> None:
        self._kilobytes = kilobytes
        for queue in self._queues.values():
            entries = queue.entries
            queue.entries = deque(maxlen=self._most)
            queue.add(entries, len(entries))

    @property
    def _most(self) -> int:
        return (self._kilobytes << 10) // ENTRY_BYTES

    def add(self, entries: Iterable[Entry]) -> None:
        """Take entries, those of each CPU in order of time."""
        found: dict[int, list[Entry]] = {}
        for entry in entries:
            if entry.cpu in found:
                found[entry.cpu].append(entry)
            else:
                found[entry.cpu] = [entry]
        for cpu, some in found.items():
            if cpu not in self._queues:
                self._queues[cpu] = _Queue(self._most)
            self._queues[cpu].add(some, len(some))

    def entries(self, cpu: int | None = None) -> list[Entry]:
        """All entries in order of time, or those of one CPU."""
        return list(heapq.merge(*(queue.entries for queue in self._of(cpu)), key=TIME))

    def count(self, cpu: int | None = None) -> int:
        """Entries that are there."""
        return sum(len(queue.entries) for queue in self._of(cpu))

    def written(self, cpu: int | None = None) -> int:
        """Those, and the ones that were dropped."""
        return self.count(cpu) + sum(queue.overrun for queue in self._of(cpu))

    def take(self) -> tuple[int, Entry] | None:
        """Consume the oldest entry.

        Returns:
            How many entries of its CPU were dropped unseen before it, and the entry.
        """
        oldest = min(
            (queue for queue in self._queues.values() if queue.entries),
            key=lambda queue: queue.entries[0].time_ns,
            default=None,
        )
        if oldest is None:
            return None
        entry = oldest.entries.popleft()
        missed, oldest.missed = oldest.missed, 0
        return missed, entry

    def clear(self, cpu: int | None = None) -> None:
        """Empty it, or one CPU's part; its counts begin anew."""
        for number in [cpu] if cpu is not None else list(self._queues):
            self._queues.pop(number, None)

    def _of(self, cpu: int | None) -> Iterable[_Queue]:
        if cpu is None:
            return self._queues.values()
        return [self._queues[cpu]] if cpu in self._queues else []
