# SPDX-License-Identifier: BSD-2-Clause
"""From merged records to accesses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from ksym.capture.access import Access
from ksym.capture.coalesce import Coalesce, may_sweep
from ksym.capture.instructions import EXECUTE, UNKNOWN, WRITE
from ksym.capture.records import (
    CONTEXT_LEAST,
    CommRecord,
    ExitRecord,
    ForkRecord,
    LostRecord,
    MmapRecord,
    Record,
    SampleRecord,
)
from ksym.capture.sites import KERNEL_HALF, Named, Site, Sites
from ksym.capture.tasks import Tasks
from ksym.language.request import Mode
from ksym.watch.plan import PlannedEvent

_USER_CODE = range(1 << 16, 1 << 47)
"""From vm.mmap_min_addr's default on: what a stack without frame pointers shows outside of it is no code."""


class Follower(Protocol):
    """Told of what changes a process's address space."""

    def mapped(self, record: MmapRecord) -> None:
        """A file was mapped executable."""
        ...

    def changed(self, record: CommRecord | ForkRecord | ExitRecord) -> None:
        """A process forked, ran a new program, or ended."""
        ...


class _Origin(NamedTuple):
    """What all hits of one event at one place have in common."""

    planned: PlannedEvent
    site: Site
    kind: str
    address: int
    sweeps: bool


class Pipeline:
    """Turns the merged records of a run into accesses, and counts what it sees.

    Args:
        planned: What each record's identifier stands for; may grow while running.
        sites: Names of code.
        tasks: Names of threads.
        follower: Told of each mapping, fork and exec, to name user-space code; may be None.
    """

    def __init__(
        self,
        planned: Mapping[int, PlannedEvent],
        sites: Sites,
        tasks: Tasks,
        follower: Follower | None = None,
    ) -> None:
        self._planned, self._sites, self._tasks, self._follower = planned, sites, tasks, follower
        self._coalesce = Coalesce()
        self._origins: dict[tuple[int, int, int], _Origin | None] = {}
        self.hits: dict[int, int] = {}
        """Samples seen, by watch."""
        self.lost_records = 0

    def take(self, records: Iterable[Record], *, until: int | None) -> list[Access]:
        """Take records in order of time; return the accesses that are complete.

        This is the path of every hit, at 100,000 a second: what can be known once is looked up.

        Args:
            records: The next ones, sorted.
            until: Time up to which all have been given; None: no more will come.
        """
        origins, coalesce, hits, name = self._origins, self._coalesce, self.hits, self._tasks.name
        for record in records:
            if record.__class__ is not SampleRecord:
                self._sideband(record)
                continue
            time, cpu, event, ip, pid, tid, chain = record
            key = (event, ip, 0 if ip >= KERNEL_HALF else pid)
            if key in origins:
                origin = origins[key]
            else:
                origin = origins[key] = self._origin(event, ip, pid)
            if origin is None:
                continue
            planned, site, kind, address, sweeps = origin
            watch = planned.watch
            hits[watch.index] = hits.get(watch.index, 0) + 1
            if sweeps and coalesce.extends(record, planned, site):
                continue
            # Named now: a later record may rename the thread, or unmap its code.
            stack = self._stack(pid, chain, watch.mode is Mode.EXECUTE) if chain else ()
            access = Access(time, cpu, pid, tid, name(pid, tid, cpu), watch, address, kind, site, stack)
            coalesce.start(access, record, planned, sweeps=sweeps)
        return coalesce.done(until=until)

    def _origin(self, event: int, ip: int, pid: int) -> _Origin | None:
        planned = self._planned.get(event)
        if planned is None:
            return None
        mode = planned.watch.mode
        site = self._sites.site(pid, ip, execute=mode is Mode.EXECUTE)
        return _Origin(planned, site, _kind(mode, site), planned.address, may_sweep(site, planned))

    def _sideband(self, record: Record) -> None:
        if isinstance(record, LostRecord):
            self.lost_records += record.count
        elif isinstance(record, MmapRecord):
            if self._follower:
                self._follower.mapped(record)
        elif isinstance(record, (CommRecord, ForkRecord, ExitRecord)):
            self._tasks.apply(record)
            if _ends_an_address_space(record) and self._sites.forget(record.pid):
                for key in [key for key in self._origins if key[2] == record.pid]:
                    del self._origins[key]
            if self._follower:
                self._follower.changed(record)

    def _stack(self, pid: int, chain: tuple[int, ...], execute: bool) -> tuple[Named, ...]:
        """The call chain, named; all but the innermost are return addresses, so behind the call.

        The innermost is behind the access, or on the instruction whose execution is watched.
        """
        addresses = [ip for ip in chain if ip in _USER_CODE or KERNEL_HALF <= ip < CONTEXT_LEAST]
        return tuple(
            self._sites.name(pid, ip, behind=number > 0 or not execute) for number, ip in enumerate(addresses)
        )


def _ends_an_address_space(record: CommRecord | ForkRecord | ExitRecord) -> bool:
    """Whether what was known of the process's addresses is over: a new process, a new program in it, its end."""
    if isinstance(record, CommRecord):
        return record.exec
    if isinstance(record, ForkRecord):
        return record.pid != record.parent_pid  # else a thread, in the same memory
    return record.pid == record.tid


def _kind(mode: Mode, site: Site) -> str:
    if mode is Mode.EXECUTE:
        return EXECUTE
    access = site.access(writes_only=mode is Mode.WRITE)
    if access == UNKNOWN and mode is Mode.WRITE:
        return WRITE  # whatever else it did, the register fires for writes alone
    return access
