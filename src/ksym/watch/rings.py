# SPDX-License-Identifier: BSD-2-Clause
"""The rings of a run: one a CPU, what else is written into it, and which event writes it.

A ring is owned by a dummy event, the *sideband*, which also reports names, forks, exits and mappings.
Breakpoints that sample by themselves write into it; where a program runs at each hit, an *output* event for
each watch and CPU does, whose identifier tells the watches apart.
"""

from __future__ import annotations

import errno
import mmap
import resource
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ksym.errors import KsymError
from ksym.linux import perf_event
from ksym.linux.cpus import online_cpus
from ksym.linux.files import read_text
from ksym.linux.perf_event import Attr, Flag, PerfEvent, Sample
from ksym.linux.ring import Drained, Ring
from ksym.symbols.variable import Space
from ksym.watch.plan import Place, Plan, PlannedEvent, Watch
from ksym.watch.synthetic import Synthetic

if TYPE_CHECKING:
    from ksym.program.engine import Engine

SAMPLE_TYPE = Sample.IDENTIFIER | Sample.IP | Sample.TID | Sample.TIME | Sample.CPU
"""What every record carries; CALLCHAIN is added for stacks, RAW where a program writes it."""

RING_BYTES = 4 << 20
_RINGS_TOTAL = 128 << 20
_RING_LEAST = 256 << 10
_CAP_IPC_LOCK = 14
"""Bit of CapEff, linux/capability.h."""
_MORE_KB = 516
"""Added to perf_event_mlock_kb, it gives each CPU a ring of 512 KiB: the kernel's own default."""


class _NoRoom(Exception):
    """The kernel lets this user lock no more memory for rings."""


class Rings:
    """The rings of an armed watch.

    Args:
        plan: What is watched.
        cpus: CPUs that the run starts with.
        stacks: Samples carry call chains.
        names_user_code: Mappings are reported, too.
        size: Bytes of a ring, a power of two; 0 lets the number of CPUs and the memory that may be locked decide.
        engine: Whose programs write records; None: breakpoints sample by themselves.
    """

    def __init__(
        self, plan: Plan, cpus: int, *, stacks: bool, names_user_code: bool, size: int, engine: Engine | None
    ) -> None:
        self._plan, self._stacks, self._names_user_code, self._engine = plan, stacks, names_user_code, engine
        self.size = size or shared_size(cpus, lockable_pages())
        """Bytes of the rings that are mapped next."""
        self._synthetic = Synthetic()
        self.rings: list[Drained] = [self._synthetic]
        self.planned: dict[tuple[int, int], PlannedEvent] = {}
        """What a record's (identifier, `origin`) stands for; those of events that are gone stay in it."""
        self._sideband_ids: list[int] = []
        self._owners: dict[int, PerfEvent] = {}
        self._others: list[PerfEvent] = []
        self._outputs: list[tuple[PerfEvent, Watch]] = []
        self._places: list[Place] = []

    @property
    def sample_type(self) -> int:
        """Sample type of whatever writes the hits."""
        kind = SAMPLE_TYPE | (Sample.CALLCHAIN if self._stacks else 0)
        return kind | (Sample.RAW if self._engine else 0)

    @property
    def sideband_ids(self) -> tuple[int, ...]:
        """Identifiers of the sideband's events, gone ones included."""
        return tuple(self._sideband_ids)

    def open(
        self, sideband: Iterable[tuple[int, int]], places: Iterable[Place] = (), *, may_vanish: bool
    ) -> None:
        """Open the sideband, and a ring and the output events on each new CPU.

        Where the rings do not all fit into the memory that may be locked, all of them are made smaller.

        Args:
            sideband: Each (pid, cpu) whose names, forks, exits and mappings are to be reported.
            places: Where user variables lie, besides what was told before.
            may_vanish: A thread that has ended meanwhile is passed over.

        Raises:
            OSError: the kernel refused.
            KsymError: it allows no memory for the smallest rings.
        """
        for place in places:
            if place not in self._places:
                self._places.append(place)
                for event, watch in self._outputs:
                    self._note(event, watch, place)
        sideband = list(sideband)
        held = (
            len(self.rings),
            len(self._others),
            len(self._sideband_ids),
            set(self._owners),
            set(self.planned),
        )
        while True:
            try:
                self._open_all(sideband, may_vanish=may_vanish)
                return
            except _NoRoom as error:
                # Events are opened anew, as their wake-ups depend on the size.
                self._undo(*held)
                if self.size // 2 < mmap.PAGESIZE:
                    raise _no_room(len({cpu for _, cpu in sideband})) from error
                self.size //= 2

    def describe(self, pid: int) -> None:
        """Add records of what a process has now; the kernel reports only later changes."""
        if self._names_user_code and self._sideband_ids:
            self._synthetic.describe(pid, self._sideband_ids[-1])

    def _undo(
        self, rings: int, others: int, ids: int, owners: set[int], planned: set[tuple[int, int]]
    ) -> None:
        """Give back what was opened since there were so many."""
        for ring in self.rings[rings:]:
            ring.close()
        for event in self._others[others:]:
            event.close()
        self._outputs = [each for each in self._outputs if each[0] not in self._others[others:]]
        for cpu in self._owners.keys() - owners:
            self._owners.pop(cpu).close()
        for key in self.planned.keys() - planned:
            del self.planned[key]
        del self.rings[rings:], self._others[others:], self._sideband_ids[ids:]

    def _open_all(self, sideband: Sequence[tuple[int, int]], *, may_vanish: bool) -> None:
        for pid, cpu in sideband:
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
        if any(watch.variable.space is Space.USER for watch in self._plan.watches):
            flags |= Flag.MMAP_DATA  # what comes to a variable's address is not the variable
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
        try:
            self.rings.append(Ring(event, self.size))
        except PermissionError as error:
            raise _NoRoom from error
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
            self._outputs.append((event, watch))
            self._note(event, watch, None)
            for place in self._places:
                self._note(event, watch, place)

    def _note(self, event: PerfEvent, watch: Watch, place: Place | None) -> None:
        """Note what the records of an output event stand for."""
        from ksym.program.layout import origin  # needed where programs run alone

        if (place is None) == (watch.variable.space is Space.USER) or (place and not place.has(watch)):
            return
        for number, piece in enumerate(watch.pieces):
            key = event.id, origin(number, place.number if place else 0)
            self.planned[key] = PlannedEvent(watch, piece, -1, event.cpu, place=place)

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
        self._outputs = [each for each in self._outputs if each[0].cpu != cpu]
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
        self._outputs.clear()
        self._owners.clear()


def shared_size(rings: int, pages: int | None) -> int:
    """Return the size of each ring, in bytes, so that all of them fit.

    Args:
        rings: How many there will be.
        pages: Pages that may be locked for all of them together; None: any number. Where even the smallest rings need
            more, the size is that of the smallest.

    >>> shared_size(8, None) >> 20, shared_size(8, 8 * 129 + 16) >> 10
    (4, 512)
    """
    size = RING_BYTES
    while size > _RING_LEAST and size * rings > _RINGS_TOTAL:
        size //= 2
    while pages is not None and size > mmap.PAGESIZE and rings * (size // mmap.PAGESIZE + 1) > pages:
        size //= 2
    return size


def lockable_pages() -> int | None:
    """Return how many pages this user may lock for rings; None: any number.

    The kernel (perf_mmap in kernel/events/core.c) lets the events of a user have perf_event_mlock_kb for each CPU
    that is online, and takes what goes beyond that from the process's RLIMIT_MEMLOCK. Other events of the same user
    count, too, but there is no way to ask for their share.
    """
    if _may_lock_all():
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    kilobytes = _mlock_kb()
    if soft == resource.RLIM_INFINITY or kilobytes is None:
        return None
    return (kilobytes << 10) // mmap.PAGESIZE * len(online_cpus()) + soft // mmap.PAGESIZE


def _may_lock_all() -> bool:
    """Return True with CAP_IPC_LOCK, or with perf_event_paranoid -1 (where that is not the host's, mapping tells)."""
    try:
        status = read_text("/proc/self/status")
        effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
        paranoid = int(read_text("/proc/sys/kernel/perf_event_paranoid"))
    except (OSError, ValueError, StopIteration):
        return True
    return bool(int(effective, 16) >> _CAP_IPC_LOCK & 1) or paranoid < 0


def _mlock_kb() -> int | None:
    try:
        return int(read_text("/proc/sys/kernel/perf_event_mlock_kb"))
    except (OSError, ValueError):
        return None


def _no_room(rings: int) -> KsymError:
    needed = rings * 2 * mmap.PAGESIZE >> 10
    wanted = (_mlock_kb() or 0) + _MORE_KB
    return KsymError(
        f"cannot map {rings} ring buffer{'' if rings == 1 else 's'}",
        "this user's perf events have used up kernel.perf_event_mlock_kb and RLIMIT_MEMLOCK, "
        f"and {needed} kB are needed",
        f"end other perf runs, or: sudo sysctl kernel.perf_event_mlock_kb={wanted}",
    )
