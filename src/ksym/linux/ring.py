# SPDX-License-Identifier: BSD-2-Clause
"""The memory-mapped ring of a perf event: one page of ``struct perf_event_mmap_page``, then 2^n of data."""

from __future__ import annotations

import mmap
from typing import Protocol

from ksym.linux.perf_event import PerfEvent

# Offsets of data_head and data_tail in struct perf_event_mmap_page, linux/perf_event.h, as 64-bit words.
_HEAD, _TAIL = 1024 // 8, 1032 // 8


class Drained(Protocol):
    """What gives records: a ring, or who passes for one."""

    @property
    def cpu(self) -> int:
        """The CPU that the records come from; -1: none."""
        ...

    def drain(self) -> bytes:
        """Take everything that is there: whole records, oldest first."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class Ring:
    """The ring of ``event``; other events of the same CPU may write into it (``PerfEvent.output_to``).

    Args:
        event: The event whose ring it is.
        size: Bytes of data; a power of two, at least a page.

    Raises:
        OSError: EPERM where ``perf_event_mlock_kb`` is used up, ENOMEM where memory is.
    """

    def __init__(self, event: PerfEvent, size: int) -> None:
        self.cpu, self.size = event.cpu, size
        self._page = mmap.PAGESIZE
        self._map = mmap.mmap(event.fd, self._page + size)
        self._words = memoryview(self._map).cast("Q")

    def drain(self) -> bytes:
        """Take everything that is in the ring; whole records, oldest first.

        The kernel writes ``data_head`` after the records (a store with release semantics); reading it
        before the copy and writing ``data_tail`` after it keeps the order that linux/perf_event.h asks
        for. CPython puts thousands of instructions and a lock between these, x86 needs no barrier at all.
        """
        head, tail = self._words[_HEAD], self._words[_TAIL]
        if head == tail:
            return b""
        first, last = tail % self.size, head % self.size
        base = self._page
        if first < last:
            data = self._map[base + first : base + last]
        else:
            data = self._map[base + first : base + self.size] + self._map[base : base + last]
        self._words[_TAIL] = head
        return data

    def close(self) -> None:
        """Unmap; the event's register is free only when its descriptor and its ring are both gone."""
        if not self._map.closed:
            self._words.release()
            self._map.close()
