# SPDX-License-Identifier: BSD-2-Clause
"""Whose memory lies at the addresses of user variables, in order of time.

A register watches an address. When a library is unmapped, other memory may come there before anybody has looked, and
its accesses are not the variable's. Unmapping leaves no record, but nothing can be accessed until something else is
mapped, and that does (perf_event_mmap, with ``mmap_data`` for memory that is not executable). So the record of the next
mapping is where the variable's hits end, to the nanosecond.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ksym.capture.records import CommRecord, DataRecord, ExitRecord, ForkRecord, MmapRecord
from ksym.watch.presence import Hold, maps_of

Held = Mapping[int, Mapping[int, Hold]]
"""By number of the place, by number of the watch: what holds the variable."""


class Ownership:
    """Follows the memory of processes.

    Args:
        holds: Tells what holds the variables of each place.
    """

    def __init__(self, holds: Callable[[], Held]) -> None:
        self._holds = holds
        self._foreign: dict[int, set[int]] = {}
        self._executed: set[int] = set()
        """Processes that run another program, of which nothing is known yet."""
        self.returns: list[tuple[int, int]] = []
        """(time, pid) of each process that has run a program with a variable again."""

    def foreign(self, place: int, pid: int) -> bool:
        """Return True if a process has other memory by now where a place's variables were."""
        return pid in self._foreign.get(place, ())

    def any_foreign(self, place: int) -> bool:
        """Return True if any process has other memory where a place's variables were."""
        return bool(self._foreign.get(place))

    def mapped(self, record: MmapRecord | DataRecord) -> list[int]:
        """Take a mapping; return the numbers of the places whose hits mean something else from now on."""
        changed = []
        for number, holds in self._holds().items():
            for hold in holds.values():
                if record.pid in self._executed and _same(record, hold):
                    self._executed.discard(record.pid)
                    self.returns.append((record.time, record.pid))
                told = self._tells(record, hold)
                if told is None or told == self.foreign(number, record.pid):
                    continue
                pids = self._foreign.setdefault(number, set())
                if told:
                    pids.add(record.pid)
                else:
                    pids.discard(record.pid)
                changed.append(number)
        return changed

    def _tells(self, record: MmapRecord | DataRecord, hold: Hold) -> bool | None:
        """Return True if other memory has come, False if the file is there anew, None if neither is told."""
        if not hold.has_file:
            return None  # an address was asked for, whatever lies there
        memory = range(record.start, record.start + record.length)
        whole = hold.start in memory
        if not whole and hold.address not in memory:
            return None
        if _same(record, hold):
            return False if whole else None
        if whole:
            return True
        if hold.program:
            return None
        # While the file is there it is the program's own doing, which may map what it likes over a variable; and the
        # kernel reports memory without a name anew when its neighbour grows into it, or its protection changes.
        return not hold.there(maps_of(record.pid))

    def changed(self, record: CommRecord | ForkRecord | ExitRecord) -> list[int]:
        """Take a change of a process; returns as `mapped` does."""
        if isinstance(record, ForkRecord):
            if record.pid == record.parent_pid:
                return []
            heirs = [number for number, pids in self._foreign.items() if record.parent_pid in pids]
            for number in heirs:
                self._foreign[number].add(record.pid)
            return heirs
        if isinstance(record, ExitRecord) and record.pid != record.tid:
            return []
        if isinstance(record, CommRecord) and not record.exec:
            return []
        for pids in self._foreign.values():
            pids.discard(record.pid)
        if isinstance(record, CommRecord):
            self._executed.add(record.pid)
        else:
            self._executed.discard(record.pid)
        return []


def _same(record: MmapRecord | DataRecord, hold: Hold) -> bool:
    """Return True if the file that holds a variable was mapped."""
    device, inode, path = hold.key
    # Some file systems (overlayfs) show another device in maps than in records.
    return (record.device, record.inode) == (device, inode) or record.path == path
