# SPDX-License-Identifier: BSD-2-Clause
"""From merged records to accesses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from ksym.capture.access import Access
from ksym.capture.coalesce import APART, Coalesce, Reach, reach_of
from ksym.capture.judge import Judge
from ksym.capture.kinds import KINDS_TOLD, innocent, kind_of
from ksym.capture.ownership import Ownership
from ksym.capture.records import (
    CONTEXT_LEAST,
    CommRecord,
    DataRecord,
    ExitRecord,
    ForkRecord,
    LostRecord,
    MmapRecord,
    Record,
    SampleRecord,
)
from ksym.capture.replaced import Follower, replaced_code
from ksym.capture.sites import Named, Site, Sites
from ksym.capture.tasks import Tasks
from ksym.capture.values import Values
from ksym.language.request import Mode
from ksym.program.layout import PIECE_SHIFT, TOLD, Hit, code_bits
from ksym.symbols.variable import KERNEL_HALF
from ksym.watch.plan import PlannedEvent, Role, Watch

USER_CODE = range(1 << 16, 1 << 48)
"""From vm.mmap_min_addr's default on, to where user space ends on arm64 (on x86 half way up there): what a stack
without frame pointers shows outside of it is no code."""


class _Origin(NamedTuple):
    """What all hits of one event at one place have in common.

    ``told`` has the access that a hit was, where it came from, and how far the instruction reaches, for each
    combination of the flags that tell the access.
    ``judged``: such a hit may not be an access that was asked for, so each is looked at.
    """

    planned: PlannedEvent
    watch: Watch
    address: int
    told: tuple[tuple[str, Site, Reach | None], ...]
    judged: bool


# As plain numbers: the operators of enum take a third of the time of this module's hot path.
_NEW, _OLD = int(Hit.NEW), int(Hit.OLD)


class Pipeline:
    """Turns the merged records of a run into accesses, and counts what it sees.

    Args:
        planned: What each record's identifier and piece stand for; may grow while running.
        sites: Names of code.
        tasks: Names of threads.
        follower: Told of each mapping, fork and exec, to name user-space code; may be None.
        ended: Told of each process that has ended.
        values: Decodes the values of each watch; empty where no program takes any.
        judges: For each watch, what the kernel has left to be judged; may be empty.
        ownership: Tells which hits were of other memory at a variable's address; None: none were.
    """

    def __init__(
        self,
        planned: Mapping[tuple[int, int], PlannedEvent],
        sites: Sites,
        tasks: Tasks,
        follower: Follower | None = None,
        ended: Callable[[int], None] = lambda pid: None,
        *,
        values: Sequence[Values] = (),
        judges: Sequence[Judge | None] = (),
        ownership: Ownership | None = None,
    ) -> None:
        self._planned, self._sites, self._tasks, self._follower = planned, sites, tasks, follower
        self._ended = ended
        self._values = values
        self._decode = [each.of for each in values]
        self._judges, self._ownership = judges, ownership
        self._coalesce = Coalesce()
        self._origins: dict[tuple[int, int, int, int], _Origin | None] = {}
        self._marks: dict[int, tuple[int, int]] = {}
        self.hits: dict[int, int] = {}
        """Samples seen, by watch."""
        self.rejected: dict[int, int] = {}
        """Of those, the ones that were not asked for, by watch."""
        self.foreign: dict[int, int] = {}
        """Of those, the ones of other memory, by watch."""
        self.lost_records = 0

    def take(self, records: Iterable[Record], *, until: int | None) -> list[Access]:
        """Take records in order of time; return the accesses that are complete.

        This is the path of every hit, at 100,000 a second: what can be known once is looked up.

        Args:
            records: The next ones, sorted.
            until: Time up to which all have been given; None: no more will come.
        """
        origins, coalesce, hits, name = self._origins, self._coalesce, self.hits, self._tasks.name
        decode, start, executions = self._decode, coalesce.start, coalesce.executions
        begin, threads = executions.begin, executions.threads
        for record in records:
            if record.__class__ is not SampleRecord:
                self._sideband(record)
                continue
            time, cpu, event, ip, pid, tid, chain, flags, uid, old, new = record
            key = (event, flags >> PIECE_SHIFT, ip, 0 if ip >= KERNEL_HALF else pid)
            if key in origins:
                origin = origins[key]
            else:
                origin = origins[key] = self._origin(event, flags, ip, pid)
            if origin is None:
                continue
            planned, watch, address, told, judged = origin
            kind, site, reach = told[flags >> 2 & 7]  # kinds.told_by, without the call
            if judged and not self._asked_for(record, planned, site, kind):
                continue
            index = watch.index
            hits[index] = hits.get(index, 0) + 1
            after = decode[index](new) if flags & _NEW else None
            if reach is None:
                if threads:
                    executions.leave(tid or -1 - cpu, site.address)
            elif not flags & APART or reach.repeats:
                access = coalesce.extends(record, planned, reach, kind)
                if access is not None:
                    access.new = after
                    continue
            # Named now: a later record may rename the thread, or unmap its code.
            stack = self._stack(pid, chain, watch.mode is Mode.EXECUTE) if chain else ()
            before = decode[index](old) if flags & _OLD else None
            comm = name(pid, tid, cpu)
            access = Access(
                time, cpu, pid, tid, comm, watch, address, kind, site, stack, 1, before, after, uid
            )  # fmt: skip
            start(access)
            if reach is not None:
                begin(tid or -1 - cpu, index, cpu, time, reach, access)
        return coalesce.done(until=until)

    def _asked_for(self, record: SampleRecord, planned: PlannedEvent, site: Site, kind: str) -> bool:
        """Return True if a hit is an access that was asked for; count those that the condition refuses.

        Without programs in the kernel, the records of a twin's two registers are told apart here: a write's come in
        one exception, with one ip, the W register's first.
        """
        watch = planned.watch
        if self._is_foreign(planned, record.pid):
            for counts in (self.hits, self.foreign):
                counts[watch.index] = counts.get(watch.index, 0) + 1
            return False
        if planned.role is Role.WRITES:
            self._marks[record.cpu] = record.ip, record.tid
            if watch.mode is Mode.READ:
                return False
        elif planned.role is Role.READS and self._marks.pop(record.cpu, None) == (record.ip, record.tid):
            return False
        judge = self._judges[watch.index] if self._judges else None
        if judge is None or judge(record, site, kind, self._tasks.name(record.pid, record.tid, record.cpu)):
            return True
        self.hits[watch.index] = self.hits.get(watch.index, 0) + 1
        self.rejected[watch.index] = self.rejected.get(watch.index, 0) + 1
        return False

    def _origin(self, event: int, flags: int, ip: int, pid: int) -> _Origin | None:
        planned = self._planned.get((event, flags >> PIECE_SHIFT))
        if planned is None:
            return None
        watch, traps_after = planned.watch, self._sites.traps_after
        site = self._sites.site(pid, ip, execute=watch.mode is Mode.EXECUTE, bits=code_bits(flags))
        others = innocent(site)
        told = []
        for each in KINDS_TOLD:
            kind = kind_of(watch.mode, site, each, planned.role, traps_after=traps_after)
            of = others.get(kind, site)
            told.append((kind, of, reach_of(of, planned, told=bool(flags & TOLD), traps_after=traps_after)))
        judged = (
            planned.role is not Role.ONLY
            or bool(self._judges and self._judges[watch.index])
            or self._may_be_foreign(planned)
        )
        return _Origin(planned, watch, planned.address, tuple(told), judged)

    def _is_foreign(self, planned: PlannedEvent, pid: int) -> bool:
        if self._ownership is None or planned.place is None:
            return False
        return self._ownership.foreign(planned.place.number, pid)

    def _may_be_foreign(self, planned: PlannedEvent) -> bool:
        return bool(self._ownership and planned.place and self._ownership.any_foreign(planned.place.number))

    def _learn(self, places: Collection[int]) -> None:
        """Look anew at what hits of these places mean."""
        if places:
            for key, origin in list(self._origins.items()):
                if origin and origin.planned.place and origin.planned.place.number in places:
                    del self._origins[key]

    def _sideband(self, record: Record) -> None:
        if isinstance(record, LostRecord):
            self.lost_records += record.count
        elif isinstance(record, (MmapRecord, DataRecord)):
            if self._ownership:
                self._learn(self._ownership.mapped(record))
            self._forget(record)
            if self._follower and self._follower.mapped(record):
                self._forget_values()
        elif isinstance(record, (CommRecord, ForkRecord, ExitRecord)):
            self._tasks.apply(record)
            if self._ownership:
                self._learn(self._ownership.changed(record))
            self._forget(record)
            if self._follower:
                self._follower.changed(record)
            if isinstance(record, CommRecord) and record.exec:
                self._forget_values()
            if isinstance(record, ExitRecord) and record.pid == record.tid:
                self._ended(record.pid)

    def _forget_values(self) -> None:
        """Drop decoded values: pointers in them may need other names."""
        for each in self._values:
            each.forget()

    def _forget(self, record: Record) -> None:
        """Drop what is known of code that the record replaces."""
        replaced = replaced_code(record)
        if replaced is not None and self._sites.forget(*replaced):
            pid, addresses = replaced
            for key in [key for key in self._origins if key[3] == pid and key[2] - 1 in addresses]:
                del self._origins[key]

    def _stack(self, pid: int, chain: tuple[int, ...], execute: bool) -> tuple[Named, ...]:
        """The call chain, named; all but the innermost are return addresses, so behind the call.

        The innermost is behind the access, where the machine traps there, or on the instruction that was trapped.
        """
        addresses = [ip for ip in chain if ip in USER_CODE or KERNEL_HALF <= ip < CONTEXT_LEAST]
        behind = self._sites.traps_after and not execute
        return tuple(
            self._sites.name(pid, ip, behind=number > 0 or behind) for number, ip in enumerate(addresses)
        )
