# SPDX-License-Identifier: BSD-2-Clause
"""From records to accesses: what a row of every output says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ksym.capture.coalesce import Coalesce, Run
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
from ksym.capture.sites import Named, Site, Sites
from ksym.capture.tasks import Tasks
from ksym.language.request import Mode
from ksym.watch.plan import PlannedEvent, Watch


@dataclass(slots=True)
class Access:
    """One access to a watched variable.

    Args:
        time_ns: CLOCK_MONOTONIC nanoseconds.
        access: ``R``, ``W``, ``RW``, ``X``, or ``?`` where it cannot be known.
        address: Of the bytes whose register trapped first.
        hits: Traps that this access took.
        stack: Innermost first; empty if stacks were not asked for.
    """

    time_ns: int
    cpu: int
    pid: int
    tid: int
    comm: str
    watch: Watch
    address: int
    access: str
    site: Site
    hits: int
    stack: tuple[Named, ...]


class Accesses:
    """Turns the merged records of a run into accesses, and counts what it sees.

    Args:
        planned: What each record's identifier stands for; may grow while running.
        sites: Names of code.
        tasks: Names of threads.
        follow: Told of each mapping, fork and exec, to name user-space code; may be None.
    """

    def __init__(
        self,
        planned: Mapping[int, PlannedEvent],
        sites: Sites,
        tasks: Tasks,
        follow: MappingFollower | None = None,
    ) -> None:
        self._planned, self._sites, self._tasks, self._follow = planned, sites, tasks, follow
        self._coalesce = Coalesce()
        self.hits: dict[int, int] = {}
        """Samples seen, by watch."""
        self.lost_records = 0

    def take(self, records: Iterable[Record], *, until: int | None) -> list[Access]:
        """Take records in order of time; return the accesses that are complete.

        Args:
            records: The next ones, sorted.
            until: Time up to which all have been given; None: no more will come.
        """
        planned_of, sites, coalesce, hits = self._planned, self._sites, self._coalesce, self.hits
        for record in records:
            if record.__class__ is SampleRecord:
                planned = planned_of.get(record.id)
                if planned is None:
                    continue
                index = planned.watch.index
                hits[index] = hits.get(index, 0) + 1
                execute = planned.watch.mode is Mode.EXECUTE
                site = sites.site(record.pid, record.ip, execute=execute)
                run = coalesce.add(record, planned, site)
                if run is not None:
                    # Named now: a later record may rename the thread, or unmap its code.
                    run.comm = self._tasks.name(record.pid, record.tid, record.cpu)
                    if record.chain:
                        run.stack = self._stack(record, execute)
            else:
                self._sideband(record)
        return [_access(run) for run in coalesce.done(until=until)]

    def _sideband(self, record: Record) -> None:
        if isinstance(record, LostRecord):
            self.lost_records += record.count
        elif isinstance(record, MmapRecord):
            if self._follow:
                self._follow.mapped(record)
        elif isinstance(record, (CommRecord, ForkRecord, ExitRecord)):
            self._tasks.apply(record)
            if self._follow:
                self._follow.changed(record)

    def _stack(self, record: SampleRecord, execute: bool) -> tuple[Named, ...]:
        """The call chain, named; all but the innermost are return addresses, so behind the call.

        The innermost is behind the access, or on the instruction whose execution is watched.
        """
        addresses = [ip for ip in record.chain if 0 < ip < CONTEXT_LEAST]
        return tuple(
            self._sites.name(record.pid, ip, behind=number > 0 or not execute)
            for number, ip in enumerate(addresses)
        )


class MappingFollower:
    """Told of what changes a process's address space."""

    def mapped(self, record: MmapRecord) -> None:
        """A file was mapped executable."""

    def changed(self, record: CommRecord | ForkRecord | ExitRecord) -> None:
        """A process forked, ran a new program, or ended."""


def _access(run: Run) -> Access:
    first, planned = run.first, run.planned
    return Access(
        first.time,
        first.cpu,
        first.pid,
        first.tid,
        run.comm,
        planned.watch,
        planned.address,
        _kind(planned.watch.mode, run.site),
        run.site,
        run.hits,
        run.stack,
    )


def _kind(mode: Mode, site: Site) -> str:
    if mode is Mode.EXECUTE:
        return EXECUTE
    access = site.access(writes_only=mode is Mode.WRITE)
    if access == UNKNOWN and mode is Mode.WRITE:
        return WRITE  # whatever else it did, the register fires for writes alone
    return access
