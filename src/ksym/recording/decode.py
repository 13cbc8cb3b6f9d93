# SPDX-License-Identifier: BSD-2-Clause
"""From a recording's hits to its accesses: sorted by time, with code, names of threads, kinds and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ksym.capture.coalesce import reach_of
from ksym.capture.judge import Judge
from ksym.capture.kinds import KINDS_TOLD, innocent, kind_of, told_by
from ksym.capture.pipeline import USER_CODE
from ksym.capture.records import CONTEXT_LEAST, SampleRecord
from ksym.capture.sites import Named, Site
from ksym.language.request import Mode
from ksym.program.layout import TOLD, Hit, code_bits
from ksym.recording.accesses import KINDS, Accesses, Traits
from ksym.recording.grouping import (
    Bools,
    Hits,
    Joined,
    join,
    seen_twice,
)
from ksym.recording.hits import Chain, Columns, Common, Place
from ksym.recording.noted import Era
from ksym.recording.numbering import Ints, grouped, numbered
from ksym.recording.sideband import Change, ranks
from ksym.recording.timeline import Eras, Ranked, thread_names
from ksym.symbols.variable import KERNEL_HALF
from ksym.watch.plan import PlannedEvent, Role, Watch


class Code(Protocol):
    """Who knows the code that hits came from; asked in order of time."""

    def close(self) -> None:
        """No more questions will come."""
        ...

    def follow(self, changes: Ranked) -> None:
        """Told of what changed processes and mappings, and before which hit, ahead of all questions."""
        ...

    def site(self, pid: int, ip: int, *, execute: bool, bits: int | None, era: Era, hit: int) -> Site | None:
        """The site at an address, as of a hit; None: it is not known, and its hits are left out. See `Sites.site`."""
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
        commons: What they have in common, by number.
        places: Where they came from, by number.
        chains: Call chains, by number.
        changes: Records of tasks and mappings.
        code: Names code.
        offset: What makes nanoseconds since the epoch of their times.
        pointers: What pointers among the values point to.
        judges: Of each watch, who judges its hits; None where nothing is left to judge.
        traps_after: The machine reports an access by the address after the instruction that made it.
        sampled: Only some of the hits were recorded, so that none belongs to the one before.
    """

    columns: Columns
    count: int
    watches: tuple[Watch, ...]
    planned: Sequence[PlannedEvent]
    commons: Sequence[Common]
    places: Sequence[Place]
    chains: Sequence[Chain]
    changes: list[Change]
    code: Code
    offset: int
    pointers: Mapping[int, str]
    judges: Sequence[Judge | None]
    traps_after: bool
    sampled: bool = False
    rejected: int = 0
    """Hits that were found not to match; known once all are decoded."""


def decode(source: Source) -> Accesses:
    """Make the accesses of a recording; the source is used up."""
    return _Decoding(source).accesses()


class _Origins:
    """What all hits of one event at one place have in common (`capture.pipeline`), by number."""

    def __init__(
        self, of: NDArray[Any], planned: list[PlannedEvent], sites: list[Site | None], ips: list[int]
    ) -> None:
        self.of, self.planned, self.ip = of, planned, ips
        self.known = [site is not None for site in sites]
        self.site = [site or _NOWHERE for site in sites]

    def column(self, values: Sequence[Any], kind: type[np.generic]) -> NDArray[Any]:
        """A value of each origin, for all that has one."""
        found: NDArray[Any] = np.array(values, kind)[self.of]
        return found

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
                    self.ip.append(self.ip[number])

    def table(self) -> tuple[tuple[Site, ...], list[int]]:
        """All sites, and the number among them of each origin's."""
        sites = {id(site): site for site in self.site}
        numbers = {each: number for number, each in enumerate(sites)}
        return tuple(sites.values()), [numbers[id(site)] for site in self.site]


_NOWHERE = Site(0, 0, Named(None, 0), None, 0)


class _Decoding:
    """One decoding; hits are numbered in order of time.

    What hits have in common stands in tables, and ``_of`` has each hit's number in them. They are refined on the way:
    hits of a thread that is called something else in between have less in common than their records.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        times = source.columns.take("time", source.count)
        self._order: Ints | None = None
        if (times[1:] < times[:-1]).any():
            self._order = np.argsort(times, kind="stable")
            times = times[self._order]
        self._time: Ints = times
        common = self._column("common")
        self._of, self._first = numbered(common)
        rows = [source.commons[number] for number in common[self._first].tolist()]
        fields = np.array(rows, np.int64).reshape(-1, len(Common._fields)).T
        kinds = {"place": np.intp, "flags": np.int64, "uid": np.int64}
        self._table: dict[str, NDArray[Any]] = {
            name: field.astype(kinds.get(name, np.int32))
            for name, field in zip(Common._fields, fields, strict=True)
        }
        self._by_program = source.columns.has("old")
        when = ranks(source.changes, times, self._order)
        self._changes = sorted(
            zip(when.tolist(), source.changes, strict=True),
            key=lambda change: (change[0], change[1].record.time, change[1].order),
        )

    def _column(self, name: str) -> NDArray[Any]:
        column = self._source.columns.take(name, self._source.count)
        return column if self._order is None else column.take(self._order, axis=0)

    def _split(self, further: Ints) -> None:
        """Tell hits apart by a further number of each."""
        self._of, self._first, of = (*(found := grouped(self._of, further)), self._of[found[1]])
        self._table = {name: column[of] for name, column in self._table.items()}

    def accesses(self) -> Accesses:
        """Through all stages."""
        source, table = self._source, self._table
        source.code.follow(self._changes)
        names = thread_names(self._changes, table["tid"], table["cpu"], self._of, self._first)
        comms, table["comm"], comm_of_hit = names
        if comm_of_hit is not None:
            self._split(comm_of_hit)
            self._table["comm"] = comm_of_hit[self._first].astype(np.int32)
        origins, stack, stacks = self._code()
        table = self._table
        kind, keep = self._kinds(origins)
        old, new = self._values("old"), self._values("new")
        for number, each in enumerate(origins.planned):
            judge = source.judges[each.watch.index]
            if judge:
                theirs = np.flatnonzero(keep & (origins.of == number)[self._of])
                keep[theirs] = [
                    judge(
                        self._record(hit, origins.ip[number], old, new),
                        origins.site[number],
                        KINDS[kind[of]],
                        comms[table["comm"][of]],
                    )
                    for hit, of in zip(theirs.tolist(), self._of[theirs].tolist(), strict=True)
                ]
                source.rejected += int(len(theirs) - keep[theirs].sum())
        origins.acquit(kind)
        sites, site = origins.table()
        traits = Traits(
            cpu=table["cpu"], pid=table["pid"], tid=table["tid"], comm=table["comm"],
            watch=origins.column([each.watch.index for each in origins.planned], np.int32),
            site=origins.column(site, np.int32),
            kind=kind,
            address=self._addresses(origins),
            uid=table["uid"] if self._by_program else np.full(len(kind), -1),
            old_known=table["flags"] & Hit.OLD != 0,
            new_known=table["flags"] & Hit.NEW != 0,
        )  # fmt: skip
        which, joined = self._group(origins, kind, keep)
        traits = self._with_joined(traits, joined)
        self._time += source.offset
        at = joined.first if which is None else np.searchsorted(which, joined.first)
        count = len(self._time) if which is None else len(which)
        hits: NDArray[np.int32] = np.broadcast_to(np.int32(1), count)
        if joined.first:
            hits = np.ones(count, np.int32)
            hits[at] = joined.number

        def taken(values: NDArray[Any]) -> NDArray[Any]:
            return values if which is None else values[which]

        last = taken(new)
        if joined.first and self._by_program:
            last[at] = new[joined.last]  # the value after an access is that after its last hit
        return Accesses(
            source.watches, sites, comms, stacks, traits,
            trait=taken(self._of), time_ns=taken(self._time), old=taken(old), new=last, hits=hits,
            stack=taken(stack), pointers=source.pointers,
        )  # fmt: skip

    def _with_joined(self, traits: Traits, joined: Joined) -> Traits:
        """The same where an access took several hits: its kind is all of theirs, its value the last one's."""
        count, added = len(traits.cpu), dict[tuple[int, int, bool], int]()
        last = traits.new_known[self._of[joined.last]].tolist()
        for hit, key in zip(
            joined.first, zip(self._of[joined.first].tolist(), joined.kind, last, strict=True), strict=True
        ):
            self._of[hit] = added.setdefault(key, count + len(added))
        if not added:
            return traits
        of, kinds, known = zip(*added, strict=True)
        traits = traits.take(np.concatenate((np.arange(count), of)))
        traits.kind[count:], traits.new_known[count:] = kinds, known
        return traits

    def _record(self, hit: int, ip: int, old: NDArray[np.uint8], new: NDArray[np.uint8]) -> SampleRecord:
        of = self._of[hit]
        cpu, pid, tid = (int(self._table[name][of]) & 0xFFFFFFFF for name in ("cpu", "pid", "tid"))
        uid = int(self._table["uid"][of]) if self._by_program else None
        return SampleRecord(
            int(self._time[hit]), cpu, 0, ip, pid, tid, (), int(self._table["flags"][of]), uid,
            old[hit].tobytes(), new[hit].tobytes(),
        )  # fmt: skip

    def _values(self, name: str) -> NDArray[np.uint8]:
        if self._by_program:
            return self._column(name)
        return np.broadcast_to(np.uint8(0), (len(self._time), self._source.columns.width))

    # -- where they came from ----------------------------------------------------------------------

    def _code(self) -> tuple[_Origins, NDArray[np.int32], tuple[tuple[Named, ...], ...]]:
        """The origin of what hits have in common, and the stack of each hit.

        Code is asked for once for each place and each program that its process ran, in order of time.
        """
        source = self._source
        source.code.follow(self._changes)
        place = self._table["place"]
        ip = np.array([ip for _, _, ip in source.places], np.uint64)[place]
        eras = Eras(self._changes, self._table["pid"], ip, self._of, self._first)
        era = np.zeros(len(place), np.intp)
        if eras.of is not None:
            user = np.array([ip < KERNEL_HALF for _, _, ip in source.places], np.bool_)
            self._split(np.where(user[place][self._of], eras.of, 0))
            place = self._table["place"]
            era = np.where(user[place], eras.of[self._first], 0)
        flags = self._table["flags"]
        of, example = grouped(place, era)
        first = np.full(len(example), len(self._time))
        np.minimum.at(first, of, self._first)
        questions = [(hit, 0, number) for number, hit in enumerate(first.tolist())]
        stack: NDArray[np.int32] = np.broadcast_to(np.int32(-1), len(self._time))
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
            in_era = eras.era(hit)
            if what:
                frames = self._stack(chains[number], in_era, hit)
                stack_number[number] = stacks.setdefault(frames, len(stacks)) if frames else -1
                continue
            at, pid, ip = source.places[place[example[number]]]
            ips[number] = ip
            planned[number] = source.planned[at]
            execute = planned[number].watch.mode is Mode.EXECUTE
            sites[number] = source.code.site(
                pid, ip, execute=execute, bits=code_bits(int(flags[example[number]])), era=in_era, hit=hit
            )
        if stack_number:
            stack = np.array(stack_number, np.int32)[stack]
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
        addresses = origins.column([each.address % (1 << 64) for each in origins.planned], np.uint64)
        for number, each in enumerate(origins.planned):
            if each.watch.variable.per_cpu:
                which = np.flatnonzero(origins.of == number)
                own = [
                    (each.watch.base(cpu) + each.piece.offset) % (1 << 64)
                    for cpu in self._table["cpu"][which].tolist()
                ]
                addresses[which] = np.array(own, np.uint64)
        return addresses

    # -- what they were ----------------------------------------------------------------------------

    def _kinds(self, origins: _Origins) -> tuple[NDArray[np.uint8], Bools]:
        """Which access hits were, and whether each is one that was asked for (`Pipeline.take`)."""
        table = self._table
        known = origins.column(origins.known, np.bool_)
        of_each = np.array(
            [
                [
                    KINDS.index(
                        kind_of(each.watch.mode, site, flags, each.role, traps_after=self._source.traps_after)
                    )
                    for flags in KINDS_TOLD
                ]
                for site, each in zip(origins.site, origins.planned, strict=True)
            ],
            np.uint8,
        ).reshape(-1, len(KINDS_TOLD))
        kind: NDArray[np.uint8] = of_each[origins.of, told_by(table["flags"])]
        keep: Bools = np.ones(len(self._of), np.bool_) if known.all() else known[self._of]
        roles = {each.role for each in origins.planned}
        if roles == {Role.ONLY}:
            return kind, keep
        writes, reads = (
            origins.column([each.role is role for each in origins.planned], np.bool_)
            for role in (Role.WRITES, Role.READS)
        )
        columns = table["cpu"], writes, reads, origins.column(origins.ip, np.uint64), table["tid"]
        keep &= ~seen_twice(*(column[self._of] for column in columns))
        unasked = writes & origins.column(
            [each.watch.mode is Mode.READ for each in origins.planned], np.bool_
        )
        if unasked.any():
            keep &= ~unasked[self._of]
        return kind, keep

    def _group(self, origins: _Origins, kind: NDArray[np.uint8], keep: Bools) -> tuple[Ints | None, Joined]:
        """The hits that begin an access (None: all), and the accesses that took several."""
        joined = Joined([], [], [], [], [])
        told = bool((self._table["flags"] & TOLD).any())
        reaches = [
            reach_of(site, planned, told=told, traps_after=self._source.traps_after)
            for site, planned in zip(origins.site, origins.planned, strict=True)
        ]
        if any(reaches) and not self._source.sampled:
            which = np.flatnonzero(keep)
            common = self._of[which]
            tid, cpu, flags = (self._table[name][common].astype(np.int64) for name in ("tid", "cpu", "flags"))
            watch = np.array([each.watch.index for each in origins.planned], np.int64)[origins.of[common]]
            hits = Hits(
                which, np.where(tid == 0, -1 - cpu, tid), watch, cpu, self._time[which], flags, kind[common],
                origins.of[common],
            )  # fmt: skip
            joined = join(hits, reaches, [each.address for each in origins.site])
            keep[joined.further] = False
        return None if keep.all() else np.flatnonzero(keep), joined
