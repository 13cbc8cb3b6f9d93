# SPDX-License-Identifier: BSD-2-Clause
"""From a recording's hits to its accesses: sorted by time, with code, names of threads, kinds and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ksym.capture.coalesce import may_sweep, most_hits
from ksym.capture.judge import Judge
from ksym.capture.kinds import innocent, kind_at, written_at
from ksym.capture.pipeline import USER_CODE
from ksym.capture.records import CONTEXT_LEAST, SampleRecord
from ksym.capture.sites import KERNEL_HALF, Named, Site
from ksym.language.request import Mode
from ksym.program.layout import Hit
from ksym.recording.accesses import KINDS, Accesses
from ksym.recording.grouping import (
    READ,
    READ_WRITE,
    UNKNOWN,
    WRITE,
    Bools,
    Sweeping,
    Swept,
    seen_twice,
    sweeps,
)
from ksym.recording.hits import Chain, Columns, Place
from ksym.recording.noted import Era
from ksym.recording.numbering import Ints, distinct, grouped, numbered
from ksym.recording.sideband import Change, ranks
from ksym.recording.timeline import Eras, Ranked, thread_names
from ksym.watch.plan import PlannedEvent, Role, Watch


class Code(Protocol):
    """Who knows the code that hits came from; asked in order of time."""

    def close(self) -> None:
        """No more questions will come."""
        ...

    def follow(self, changes: Ranked) -> None:
        """Told of what changed processes and mappings, and before which hit, ahead of all questions."""
        ...

    def site(self, pid: int, ip: int, *, execute: bool, era: Era, hit: int) -> Site | None:
        """The site at an address, as of a hit; None: it is not known, and its hits are left out."""
        ...

    def name(self, pid: int, ip: int, *, behind: bool, era: Era, hit: int) -> Named:
        """The name of an address, as of a hit; ``behind``: see `Sites.name`."""
        ...


@dataclass
class Source:
    """What accesses are made of.

    Args:
        columns: The hits; used up.
        count: How many of them count.
        watches: What was watched.
        planned: What their events stand for.
        places: Where they came from, by number.
        chains: Call chains, by number.
        changes: Records of tasks and mappings.
        code: Names code.
        offset: What makes nanoseconds since the epoch of their times.
        pointers: What pointers among the values point to.
        judges: Of each watch, who judges its hits; None where nothing is left to judge.
    """

    columns: Columns
    count: int
    watches: tuple[Watch, ...]
    planned: Sequence[PlannedEvent]
    places: Sequence[Place]
    chains: Sequence[Chain]
    changes: list[Change]
    code: Code
    offset: int
    pointers: Mapping[int, str]
    judges: Sequence[Judge | None]
    rejected: int = 0
    """Hits that were found not to match; known once all are decoded."""


def decode(source: Source) -> Accesses:
    """Make the accesses of a recording; the source is used up."""
    return _Decoding(source).accesses()


@dataclass
class _Values:
    """What programs took, of each hit."""

    old: NDArray[np.uint8]
    new: NDArray[np.uint8]
    uid: Ints


class _Origins:
    """What all hits of one event at one place have in common (`capture.pipeline`), by number."""

    def __init__(
        self, of: NDArray[Any], planned: list[PlannedEvent], sites: list[Site | None], ips: list[int]
    ) -> None:
        self.of, self.planned, self.ip = of, planned, ips
        self.known = [site is not None for site in sites]
        self.site = [site or _NOWHERE for site in sites]
        pairs = list(zip(self.site, planned, strict=True))
        self.kind = [KINDS.index(kind_at(each.watch.mode, site)) for site, each in pairs]
        self.wrote = [KINDS.index(written_at(site)) for site in self.site]
        self.sweeps = [may_sweep(site, each) for site, each in pairs]

    def column(self, values: Sequence[Any], kind: type[np.generic]) -> NDArray[Any]:
        """A value of each hit's origin."""
        table = np.array(values, kind)
        return np.full(len(self.of), table[0]) if len(table) == 1 else table[self.of]

    def acquit(self, kind: NDArray[np.uint8]) -> None:
        """Give hits that the decoded instruction cannot have made a site without it (`capture.kinds.innocent`)."""
        others = {id(site): innocent(site) for site in self.site}
        for number, site in enumerate(list(self.site)):
            for name, other in others[id(site)].items():
                which = np.flatnonzero((self.of == number) & (kind == KINDS.index(name)))
                if len(which):
                    self.of[which] = len(self.site)
                    self.site.append(other)
                    self.planned.append(self.planned[number])
                    self.sweeps.append(self.sweeps[number])
                    self.ip.append(self.ip[number])

    def table(self) -> tuple[tuple[Site, ...], list[int]]:
        """All sites, and the number among them of each origin's."""
        sites = {id(site): site for site in self.site}
        numbers = {each: number for number, each in enumerate(sites)}
        return tuple(sites.values()), [numbers[id(site)] for site in self.site]


_NOWHERE = Site(0, 0, Named(None, 0), None, 0)


def _signed(address: int) -> int:
    return address - (1 << 64) if address >= KERNEL_HALF else address


class _Decoding:
    """One decoding; hits are numbered in order of time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        times = source.columns.take("time", source.count)
        self._order: Ints | None = None
        if (times[1:] < times[:-1]).any():
            self._order = np.argsort(times, kind="stable")
            times = times[self._order]
        self._time: Ints = times
        self._cpu, self._pid, self._tid, self._place = map(self._column, ("cpu", "pid", "tid", "place"))
        self._by_program = source.columns.has("flags")
        self._flags = self._column("flags") if self._by_program else np.zeros(len(times), np.uint8)
        when = ranks(source.changes, times, self._order)
        self._changes = sorted(
            zip(when.tolist(), source.changes, strict=True),
            key=lambda change: (change[0], change[1].record.time, change[1].order),
        )

    def _column(self, name: str) -> NDArray[Any]:
        column = self._source.columns.take(name, self._source.count)
        return column if self._order is None else column.take(self._order, axis=0)

    def accesses(self) -> Accesses:
        """Through all stages."""
        source = self._source
        source.code.follow(self._changes)
        origins, stack, stacks = self._code()
        comms, comm = thread_names(self._changes, self._tid, self._cpu)
        kind, keep = self._kinds(origins)
        uid = self._column("uid").astype(np.int64) if self._by_program else np.full(len(self._time), -1)
        values = _Values(self._values("old"), self._values("new"), uid)
        for number, each in enumerate(origins.planned):
            judge = source.judges[each.watch.index]
            if judge:
                theirs = np.flatnonzero(keep & (origins.of == number))
                names = (comms[at] for at in comm[theirs].tolist())
                keep[theirs] = [
                    judge(
                        self._record(hit, origins.ip[number], values),
                        origins.site[number],
                        KINDS[kind[hit]],
                        name,
                    )
                    for hit, name in zip(theirs.tolist(), names, strict=True)
                ]
                source.rejected += int(len(theirs) - keep[theirs].sum())
        origins.acquit(kind)
        sites, site = origins.table()
        which: Ints | None
        which, swept = self._group(origins, kind, keep)
        self._time += source.offset
        at = swept.first if which is None else np.searchsorted(which, swept.first)
        hits = np.ones(len(self._time) if which is None else len(which), np.int32)
        hits[at] = swept.number
        kind[swept.first] = swept.kind

        def taken(values: NDArray[Any]) -> NDArray[Any]:
            return values if which is None else values[which]

        def last(values: NDArray[Any]) -> NDArray[Any]:
            # The value after an access is that after its last hit.
            found = taken(values)
            if len(at):
                found[at] = values[swept.last]
            return found

        return Accesses(
            source.watches,
            sites,
            comms,
            stacks,
            time_ns=taken(self._time),
            cpu=taken(self._cpu),
            pid=taken(self._pid),
            tid=taken(self._tid),
            comm=taken(comm),
            watch=taken(origins.column([each.watch.index for each in origins.planned], np.int32)),
            site=taken(origins.column(site, np.int32)),
            kind=taken(kind),
            address=taken(self._addresses(origins)),
            hits=hits,
            uid=taken(uid),
            old=taken(values.old),
            new=last(values.new),
            old_known=taken(self._flags & Hit.OLD != 0),
            new_known=last(self._flags & Hit.NEW != 0),
            stack=taken(stack),
            pointers=source.pointers,
        )

    def _record(self, hit: int, ip: int, values: _Values) -> SampleRecord:
        uid = int(values.uid[hit])
        cpu, pid, tid = (int(column[hit]) & 0xFFFFFFFF for column in (self._cpu, self._pid, self._tid))
        return SampleRecord(
            int(self._time[hit]), cpu, 0, ip, pid, tid, (), int(self._flags[hit]), None if uid < 0 else uid,
            values.old[hit].tobytes(), values.new[hit].tobytes(),
        )  # fmt: skip

    def _values(self, name: str) -> NDArray[np.uint8]:
        if self._by_program:
            return self._column(name)
        return np.zeros((len(self._time), self._source.columns.width), np.uint8)

    # -- where they came from ----------------------------------------------------------------------

    def _code(self) -> tuple[_Origins, NDArray[np.int32], tuple[tuple[Named, ...], ...]]:
        """The origin and the stack of each hit.

        Code is asked for once for each place and each program that its process ran, in order of time.
        """
        source = self._source
        source.code.follow(self._changes)
        eras = Eras(self._changes, self._pid)
        user = np.array([ip < KERNEL_HALF for _, _, ip in source.places], np.bool_)
        of, first = self._by_era(eras, self._place, user)
        questions = [(hit, 0, number) for number, hit in enumerate(first.tolist())]
        stack = np.full(len(self._time), -1, np.int32)
        if source.columns.has("chain"):
            chain = self._column("chain")
            own = np.array([pid != 0 for pid, _, _ in source.chains] + [False], np.bool_)
            of_stack, first_stack = self._by_era(eras, chain, own)
            chains = chain[first_stack].tolist()
            questions += [(hit, 1, number) for number, hit in enumerate(first_stack.tolist())]
            stack = of_stack.astype(np.int32)
        planned: list[PlannedEvent] = [source.planned[0]] * len(first)
        sites: list[Site | None] = [None] * len(first)
        ips = [0] * len(first)
        stacks: dict[tuple[Named, ...], int] = {}
        stack_number = [-1] * sum(what for _, what, _ in questions)
        for hit, what, number in sorted(questions):
            era = eras.era(hit)
            if what:
                frames = self._stack(chains[number], era, hit)
                stack_number[number] = stacks.setdefault(frames, len(stacks)) if frames else -1
                continue
            at, pid, ip = source.places[int(self._place[hit])]
            ips[number] = ip
            planned[number] = source.planned[at]
            execute = planned[number].watch.mode is Mode.EXECUTE
            sites[number] = source.code.site(pid, ip, execute=execute, era=era, hit=hit)
        if stack_number:
            stack = np.array(stack_number, np.int32)[stack]
        del self._place
        return _Origins(of, planned, sites, ips), stack, tuple(stacks)

    def _by_era(self, eras: Eras, number: NDArray[Any], own: Bools) -> tuple[NDArray[Any], Ints]:
        """Group hits by a number and, where it is of a process's own addresses, by era."""
        if eras.of is None:
            return numbered(number)
        return grouped(number, np.where(own[number], eras.of, 0))

    def _stack(self, number: int, era: Era, hit: int) -> tuple[Named, ...]:
        """A call chain, named (`Pipeline._stack`)."""
        if number < 0:
            return ()
        pid, execute, chain = self._source.chains[number]
        addresses = [ip for ip in chain if ip in USER_CODE or KERNEL_HALF <= ip < CONTEXT_LEAST]
        name = self._source.code.name
        return tuple(
            name(pid, ip, behind=at > 0 or not execute, era=era, hit=hit) for at, ip in enumerate(addresses)
        )

    def _addresses(self, origins: _Origins) -> NDArray[np.uint64]:
        """What was hit, by CPU where each has a copy."""
        planned = origins.planned
        addresses = origins.column([each.address % (1 << 64) for each in planned], np.uint64)
        for number, each in enumerate(planned):
            if each.watch.variable.per_cpu:
                which = np.flatnonzero(origins.of == number)
                cpus, of = distinct(self._cpu[which])
                own = [each.watch.address(each.piece, cpu) % (1 << 64) for cpu in cpus.tolist()]
                addresses[which] = np.array(own, np.uint64)[of]
        return addresses

    # -- what they were ----------------------------------------------------------------------------

    def _kinds(self, origins: _Origins) -> tuple[NDArray[np.uint8], Bools]:
        """Which access each hit was, and whether it is one that was asked for (`Pipeline.take`)."""
        kind = origins.column(origins.kind, np.uint8)
        wrote = origins.column(origins.wrote, np.uint8)
        keep = origins.column(origins.known, np.bool_)
        if self._by_program:
            flags = self._flags
            kind[(kind == UNKNOWN) & (flags & Hit.CHANGED != 0)] = WRITE
            kind[flags & Hit.READ != 0] = READ
            written = flags & Hit.WROTE != 0
            kind[written] = wrote[written]
        roles = {each.role for each in origins.planned}
        if roles == {Role.ONLY}:
            return kind, keep
        writes, reads = (
            origins.column([each.role is role for each in origins.planned], np.bool_)
            for role in (Role.WRITES, Role.READS)
        )
        ip = origins.column(origins.ip, np.uint64)
        kind[writes] = wrote[writes]
        kind[reads] = READ
        keep &= ~seen_twice(self._cpu, writes, reads, ip, self._tid)
        reads_only = origins.column([each.watch.mode is Mode.READ for each in origins.planned], np.bool_)
        keep &= ~((writes | reads) & reads_only & ((kind == WRITE) | (kind == READ_WRITE)))
        return kind, keep

    def _group(self, origins: _Origins, kind: NDArray[np.uint8], keep: Bools) -> tuple[Ints | None, Swept]:
        """The hits that begin an access (None: all), and the accesses that took several."""
        swept = Swept([], [], [], [], [])
        if any(origins.sweeps):
            swept = self._swept(origins, kind, keep)
            keep[swept.further] = False
        return None if keep.all() else np.flatnonzero(keep), swept

    def _swept(self, origins: _Origins, kind: NDArray[np.uint8], keep: Bools) -> Swept:
        which = np.flatnonzero(keep & origins.column(origins.sweeps, np.bool_))
        of = origins.of[which]
        tid, cpu = self._tid[which].astype(np.int64), self._cpu[which].astype(np.int64)

        def column(values: Sequence[Any], dtype: type[np.generic] = np.int64) -> NDArray[Any]:
            found: NDArray[Any] = np.array(values, dtype)[of]
            return found

        return sweeps(
            Sweeping(
                which,
                np.where(tid == 0, -1 - cpu, tid),
                column([each.watch.index for each in origins.planned]),
                column([each.piece.offset for each in origins.planned]),
                column([_signed(each.address) for each in origins.site]),
                cpu,
                self._time[which],
                kind[which],
                column([most_hits(*pair) for pair in zip(origins.site, origins.planned, strict=True)]),
                column([each.repeats for each in origins.site], np.bool_),
            )
        )
