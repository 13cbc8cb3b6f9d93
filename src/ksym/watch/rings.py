# SPDX-License-Identifier: BSD-2-Clause
"""The rings of a run: one a CPU, what else is written into it, and which event writes it.

A ring is owned by a dummy event, the *sideband*, which also reports names, forks, exits and mappings.
Breakpoints that sample by themselves write into it; where a program runs at each hit, an *output* event for
each watch and CPU does, whose identifier tells the watches apart.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ksym.errors import KsymError
from ksym.linux import perf_event
from ksym.linux.perf_event import Attr, Flag, PerfEvent, Sample
from ksym.linux.ring import Ring
from ksym.watch.plan import Plan, PlannedEvent

if TYPE_CHECKING:
    from ksym.program.engine import Engine

SAMPLE_TYPE = Sample.IDENTIFIER | Sample.IP | Sample.TID | Sample.TIME | Sample.CPU
"""What every record carries; CALLCHAIN is added for stacks, RAW where a program writes it."""

RING_BYTES = 4 << 20
_RINGS_TOTAL = 128 << 20
_RING_LEAST = 256 << 10


class Rings:
    """The rings of an armed watch.

    Args:
        plan: What is watched.
        cpus: CPUs that the run starts with.
        stacks: Samples carry call chains.
        names_user_code: Mappings are reported, too.
        size: Bytes of a ring, a power of two; 0 lets the number of CPUs decide.
        engine: Whose programs write records; None: breakpoints sample by themselves.
    """

    def __init__(
        self, plan: Plan, cpus: int, *, stacks: bool, names_user_code: bool, size: int, engine: Engine | None
    ) -> None:
        self._plan, self._stacks, self._names_user_code, self._engine = plan, stacks, names_user_code, engine
        self.size = size or _size_for(cpus)
        self.rings: list[Ring] = []
        self.planned: dict[tuple[int, int], PlannedEvent] = {}
        """What a record's (identifier, number of the piece) stands for; those of events that are gone stay in it."""
        self._sideband_ids: list[int] = []
        self._owners: dict[int, PerfEvent] = {}
        self._others: list[PerfEvent] = []

    @property
    def sample_type(self) -> int:
        """Sample type of whatever writes the hits."""
        kind = SAMPLE_TYPE | (Sample.CALLCHAIN if self._stacks else 0)
        return kind | (Sample.RAW if self._engine else 0)

    @property
    def sideband_ids(self) -> tuple[int, ...]:
        """Identifiers of the sideband's events, gone ones included."""
        return tuple(self._sideband_ids)

    def open(self, places: Iterable[tuple[int, int]], *, may_vanish: bool) -> None:
        """Open the sideband at each (pid, cpu), and a ring and the output events on each new CPU.

        Args:
            places: Where.
            may_vanish: A thread that has ended meanwhile is passed over.

        Raises:
            OSError: the kernel refused.
            KsymError: it allows no memory for a ring.
        """
        for pid, cpu in places:
            try:
                self._open_sideband(pid, cpu)
            except OSError as error:
                if error.errno != errno.ESRCH or not may_vanish:
                    raise

    def _open_sideband(self, pid: int, cpu: int) -> None:
        flags = (
            Flag.EXCLUDE_KERNEL | Flag.EXCLUDE_HV | Flag.SAMPLE_ID_ALL | Flag.USE_CLOCKID
            | Flag.COMM | Flag.COMM_EXEC | Flag.TASK | Flag.WATERMARK
        )  # fmt: skip
        if pid > 0:
            flags |= Flag.INHERIT
        if self._names_user_code:
            flags |= Flag.MMAP | Flag.MMAP2
        attr = Attr(
            perf_event.TYPE_SOFTWARE,
            perf_event.COUNT_SW_DUMMY,
            sample_type=SAMPLE_TYPE,
            flags=flags,
            wakeup=self.size // 4,
            clockid=perf_event.CLOCK_MONOTONIC,
            read_format=perf_event.FORMAT_ID,
        )
        event = PerfEvent(attr, pid=pid, cpu=cpu)
        self._sideband_ids.append(event.id)
        if cpu in self._owners:
            self._others.append(event)
            event.output_to(self._owners[cpu])
            return
        self._owners[cpu] = event
        self.rings.append(_map_ring(event, self.size))
        if self._engine:
            self._open_outputs(self._engine, cpu)

    def _open_outputs(self, engine: Engine, cpu: int) -> None:
        attr = Attr(
            perf_event.TYPE_SOFTWARE,
            perf_event.COUNT_SW_BPF_OUTPUT,
            sample_period=1,
            sample_type=self.sample_type,
            read_format=perf_event.FORMAT_ID,
            flags=Flag.SAMPLE_ID_ALL | Flag.USE_CLOCKID | Flag.WATERMARK,
            wakeup=self.size // 4,
            clockid=perf_event.CLOCK_MONOTONIC,
        )
        for watch in self._plan.watches:
            outputs = engine.outputs(watch.index)
            if outputs is None:
                continue
            event = PerfEvent(attr, pid=-1, cpu=cpu)
            self._others.append(event)
            event.output_to(self._owners[cpu])
            outputs.update(cpu.to_bytes(4, "little"), event.fd.to_bytes(4, "little"))
            for number, piece in enumerate(watch.pieces):
                self.planned[event.id, number] = PlannedEvent(watch, piece, -1, cpu)

    def take(self, planned: PlannedEvent, event: PerfEvent) -> None:
        """Let a breakpoint write its samples into its CPU's ring."""
        self.planned[event.id, 0] = planned
        event.output_to(self._owners[planned.cpu])

    def fds(self) -> set[int]:
        """Descriptors that poll(2) reports readable when a ring is a quarter full."""
        return {owner.fd for owner in self._owners.values()}

    def retire(self, cpu: int) -> None:
        """Let the next events of ``cpu`` open a ring of their own.

        The old ring is kept, as it may not have been drained; the one before it has been, a CPU's round trip ago.
        """
        for event in [event for event in self._others if event.cpu == cpu]:
            event.close()
            self._others.remove(event)
        owner = self._owners.pop(cpu, None)
        if owner:
            owner.close()
        for ring in [ring for ring in self.rings if ring.cpu == cpu][:-1]:
            ring.close()
            self.rings.remove(ring)

    def close(self) -> None:
        """Give every ring and event back."""
        for ring in self.rings:
            ring.close()
        for event in (*self._others, *self._owners.values()):
            event.close()
        self.rings.clear()
        self._others.clear()
        self._owners.clear()


def _size_for(cpus: int) -> int:
    size = RING_BYTES
    while size > _RING_LEAST and size * cpus > _RINGS_TOTAL:
        size //= 2
    return size


def _map_ring(event: PerfEvent, size: int) -> Ring:
    """Map a ring, a smaller one where ``perf_event_mlock_kb`` allows no larger."""
    while True:
        try:
            return Ring(event, size)
        except PermissionError as error:
            size //= 2
            if size < mmap.PAGESIZE:
                raise KsymError(
                    "cannot map a ring buffer", "kernel.perf_event_mlock_kb leaves no room for it",
                    "end other perf users or raise it: sysctl kernel.perf_event_mlock_kb=2048",
                ) from error  # fmt: skip
