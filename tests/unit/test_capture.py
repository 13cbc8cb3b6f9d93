# SPDX-License-Identifier: BSD-2-Clause
"""Records, their order, the names of threads, and hits that are one access."""

from __future__ import annotations

import os
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.capture import sites as sites_module
from ksym.capture.instructions import Instruction
from ksym.capture.judge import Judge
from ksym.capture.kinds import kind_of
from ksym.capture.merge import Merge
from ksym.capture.pipeline import Pipeline
from ksym.capture.records import (
    CommRecord,
    ExitRecord,
    ForkRecord,
    LostRecord,
    MmapRecord,
    Record,
    SampleRecord,
    parse,
)
from ksym.capture.sites import Named, Site, Sites
from ksym.capture.tasks import Tasks
from ksym.capture.values import Values
from ksym.language.parser import parse_request
from ksym.linux.libc import MACHINE
from ksym.program.layout import Hit
from ksym.symbols.variable import Space, Variable
from ksym.watch.plan import PlannedEvent, Role, Watch, make_plan
from synthetic import perf


def parsed(data: bytes, *, chains: bool = False, raw: bool = False) -> list[Record]:
    out: list[Record] = []
    parse(data, chains=chains, raw=raw, out=out)
    return out


# -- records -----------------------------------------------------------------------------------------


def test_each_kind_of_record_is_read() -> None:
    data = b"".join(
        (
            perf.sample(5, cpu=3, event=7, ip=0xFFFFFFFF81000000, pid=10, tid=11),
            perf.comm(6, 10, 11, "a name"),
            perf.comm(7, 10, 10, "sh", by_exec=True),
            perf.fork(8, 12, 13, 10, 11),
            perf.leave(9, 12, 13),
            perf.throttle(9),
            perf.mmap2(10, 12, 0x1000, 0x2000, 0x3000, "/bin/with space"),
            perf.mmap2(10, 12, 0x1000, 0x2000, 0x3000, "/x (deleted)", file=(8, 1, 42, 7)),
            perf.mmap2(10, 12, 0x1000, 0x2000, 0x3000, "/y", build_id=bytes(range(20))),
            perf.lost(11, 1, 99),
        )
    )
    assert parsed(data) == [
        SampleRecord(5, 3, 7, 0xFFFFFFFF81000000, 10, 11, ()),
        CommRecord(6, 10, 11, "a name", False),
        CommRecord(7, 10, 10, "sh", True),
        ForkRecord(8, 12, 13, 10, 11),
        ExitRecord(9, 12, 13),
        MmapRecord(10, 12, 0x1000, 0x2000, 0x3000, "/bin/with space"),
        MmapRecord(10, 12, 0x1000, 0x2000, 0x3000, "/x (deleted)", os.makedev(8, 1), 42, 7),
        MmapRecord(10, 12, 0x1000, 0x2000, 0x3000, "/y", build_id=bytes(range(20)).hex()),
        LostRecord(11, 1, 99),
    ]


words = st.integers(0, 2**64 - 1)
halves = st.integers(0, 2**32 - 1)


@given(
    st.lists(st.tuples(words, halves, words, words, halves, halves, st.lists(words, max_size=5)), max_size=8)
)
def test_samples_survive_a_round_trip(rows: list[tuple[int, int, int, int, int, int, list[int]]]) -> None:
    data = b"".join(
        perf.sample(time, cpu=cpu, event=event, ip=ip, pid=pid, tid=tid, chain=chain)
        for time, cpu, event, ip, pid, tid, chain in rows
    )
    assert parsed(data, chains=True) == [SampleRecord(*row[:6], tuple(row[6])) for row in rows]


# -- merge -------------------------------------------------------------------------------------------


class Clock:
    now = 0

    def __call__(self) -> int:
        return self.now


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 40)),  # ring, delay until the record can be seen
        max_size=60,
    ),
    st.integers(1, 15),
)
def test_merging_keeps_order_and_loses_nothing(rows: list[tuple[int, int]], every: int) -> None:
    """A record is seen up to ``delay`` later than its time; a round is longer than any delay."""
    clock, rings = Clock(), [perf.FakeRing() for _ in range(4)]
    merge = Merge(cast(Any, rings), chains=False, clock=clock)
    round_ns = 41
    waiting = [(at, at + delay, ring) for at, (ring, delay) in enumerate(rows, 1)]
    # A ring's own records are in order: what is behind a late one is late, too.
    latest = [0] * 4
    for number, (at, seen, ring) in enumerate(waiting):
        latest[ring] = max(latest[ring], seen)
        waiting[number] = at, latest[ring], ring
    got: list[Record] = []
    while clock.now < 200:
        clock.now += round_ns + every
        for at, seen, ring in waiting:
            if clock.now - round_ns - every < seen <= clock.now:
                rings[ring].put(perf.sample(at, cpu=ring, event=at))
        got += merge.ready()
    got += merge.ready(last=True)
    assert [cast(SampleRecord, record).id for record in got] == [at for at, _, _ in waiting]


def test_a_record_of_this_round_is_held_back() -> None:
    clock, ring = Clock(), perf.FakeRing()
    merge = Merge(cast(Any, [ring]), chains=False, clock=clock)
    clock.now = 100
    ring.put(perf.sample(90))
    assert merge.ready() == []
    clock.now = 200
    assert [record.time for record in merge.ready()] == [90]
    assert merge.horizon == 200


@pytest.mark.parametrize("ends", [True, False])
def test_rings_are_drained_while_what_they_held_waits(ends: bool) -> None:
    """Whatever is collected before it is merged comes out whole, and in order."""
    clock, rings = Clock(), [perf.FakeRing() for _ in range(2)]
    merge = Merge(cast(Any, rings), chains=False, clock=clock)
    for at in range(1, 300):
        clock.now = at * 1_000_000
        rings[at % 2].put(perf.sample(clock.now - 1, cpu=at % 2, event=at))
        merge.collect()
        assert not rings[at % 2].drain()
    got: list[Record] = []
    while merge.behind:
        until = merge.horizon
        sweep = merge.next_sweep()
        assert all(record.time < until for record in sweep)
        got += sweep
    held = merge.rest() if ends else merge.ready() + merge.ready()
    assert [cast(SampleRecord, record).id for record in got + held] == list(range(1, 300))
    assert held


@pytest.mark.parametrize(("taking_ns", "all_wait"), [(50_000, True), (50_000_000, False)])
def test_no_more_waits_than_can_be_done_with_in_time(taking_ns: int, all_wait: bool) -> None:
    """A sweep of 48 KB takes so long: 4 GB or 4 MB in the four seconds that are granted, of the 8 MB that come."""
    clock, ring = Clock(), perf.FakeRing()
    merge = Merge(cast(Any, [ring]), chains=False, clock=clock)
    sweep = perf.sample(1) * 1000
    for _ in range(2):
        ring.put(sweep)
        merge.collect()
        merge.next_sweep()
        clock.now += taking_ns
    for _ in range((8 << 20) // len(sweep)):
        clock.now += 60_000_000
        ring.put(sweep)
        merge.collect()
    left = len(ring.drain())
    assert (left == 0) is all_wait
    assert left < 5 << 20


def test_what_waits_is_bounded_and_the_rings_keep_the_rest() -> None:
    clock, ring = Clock(), perf.FakeRing()
    merge = Merge(cast(Any, [ring]), chains=False, clock=clock, backlog=100)
    for at in (1, 2, 3, 4):
        clock.now += 1000
        ring.put(perf.sample(at, event=at))
        merge.collect()
    size = len(perf.sample(1))
    waiting = -(-100 // size)
    assert len(ring.drain()) == (4 - waiting) * size
    assert len(merge.ready(last=True)) == waiting
    ring.put(perf.sample(5, event=5))
    assert len(merge.ready(last=True)) == 1


# -- what programs write ------------------------------------------------------------------------------

values = st.sampled_from([0, 4, 8, 12, 64]).flatmap(
    lambda size: st.tuples(st.binary(min_size=size, max_size=size), st.binary(min_size=size, max_size=size))
)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**63), st.integers(0, 255), st.integers(0, 2**32 - 1), values, st.booleans()
        )
    ),
    st.booleans(),
)
def test_values_survive_a_round_trip(
    rows: list[tuple[int, int, int, tuple[bytes, bytes], bool]], chains: bool
) -> None:
    data, expected = b"", list[Record]()
    for time, flags, uid, (old, new), sideband in rows:
        chain = (1, 2) if chains else None
        hit = perf.Hit(flags, time, uid, old, new)
        data += perf.sample(time + 100, cpu=1, ip=5, chain=chain, hit=hit)
        # The time is the program's own, which was taken together with the value.
        padded = perf.padded(len(old))
        expected.append(
            SampleRecord(
                time,
                1,
                1,
                5,
                1,
                1,
                chain or (),
                flags,
                uid,
                old.ljust(padded, b"\0"),
                new.ljust(padded, b"\0"),
            )
        )
        if sideband:
            data += perf.leave(9, 12, 13)
            expected.append(ExitRecord(9, 12, 13))
    assert parsed(data, chains=chains, raw=True) == expected


class NoCode:
    """No code is known."""

    def name(self, pid: int, ip: int) -> Named:
        return Named("f", 1)

    def read(self, pid: int, address: int, length: int) -> bytes:
        return b""

    def bits(self, pid: int, ip: int) -> int:
        return 64


def pipeline_of(request: str, *, twin: bool, judge: Judge | None = None) -> tuple[Pipeline, Watch]:
    """A pipeline of one watch; event 1 is its own or its RW register, event 2 a twin's W register."""
    variable = Variable("./p:v", 0x1000, 4, Space.USER)
    of = make_plan([(parse_request(request), variable)], twin=twin).watches[0]
    own = PlannedEvent(of, of.pieces[0], 5, 0, of.roles[-1])
    events = {(1, 0): own, (2, 0): PlannedEvent(of, of.pieces[0], 5, 0, Role.WRITES)}
    sites = Sites(lambda: None, lambda: None, NoCode())
    return Pipeline(events, sites, Tasks(), values=[Values(variable)], judges=[judge]), of


def at(time: int, event: int = 1, *, ip: int = 0x400000, tid: int = 5, cpu: int = 0) -> SampleRecord:
    return SampleRecord(time, cpu, event, ip, 5, tid)


def kinds(pipeline: Pipeline, records: list[SampleRecord]) -> list[str]:
    return [access.access for access in pipeline.take(records, until=None)]


def test_the_records_of_a_twin_are_told_apart_without_programs() -> None:
    pipeline, of = pipeline_of("./p:v:rw-", twin=True)
    records = [
        at(1),
        at(2, 2),
        at(3),
        at(4),
        at(5, 2),
        at(5, cpu=1),
        at(6),
        at(7, 2, tid=6),
        at(8),
        at(9, 2),
        at(10),
    ]
    # The mark of CPU 0 is not one for CPU 1, nor that of thread 6 one for thread 5.
    assert kinds(pipeline, records) == ["R", "W", "R", "W", "R", "W", "R", "W"]
    assert pipeline.hits == {of.index: 8}


def test_writes_are_no_hits_of_a_watch_on_reads() -> None:
    pipeline, of = pipeline_of("./p:v:r--", twin=False)
    assert of.twin == (MACHINE == "x86_64")
    if of.twin:
        assert kinds(pipeline, [at(1), at(2, 2), at(3), at(4)]) == ["R", "R"]
        assert pipeline.hits == {of.index: 2}


class LoadAndStore(NoCode):
    """Two functions of one arm64 instruction each: a load, and a store behind it."""

    def name(self, pid: int, ip: int) -> Named:
        return Named("load" if ip < 0x400004 else "store", ip % 4, 4)

    def read(self, pid: int, address: int, length: int) -> bytes:
        code = bytes.fromhex("010040b9 010000b9")
        return code[address - 0x400000 :][:length]


def test_on_arm64_the_reported_instruction_is_the_one_that_accesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites_module, "MACHINE", "aarch64")
    variable = Variable("./p:v", 0x1000, 4, Space.USER)
    of = make_plan([(parse_request("./p:v"), variable)]).watches[0]
    event = PlannedEvent(of, of.pieces[0], 5, 0)
    pipeline = Pipeline({(1, 0): event}, Sites(lambda: None, lambda: None, LoadAndStore()), Tasks())
    chain = (0x400004, 0x400004)
    records = [at(1), at(2, ip=0x400004)._replace(chain=chain)]
    load, store = pipeline.take(records, until=None)
    assert [(access.access, access.site.named.function, access.site.size) for access in (load, store)] == [
        ("R", "load", 4), ("W", "store", 4),
    ]  # fmt: skip
    assert store.site.instruction == Instruction(0x400004, ".inst 0xb9000001", frozenset("W"), 4)
    # The second address is one that a call returns to, so behind the call.
    assert [frame.function for frame in store.stack] == ["store", "load"]


def test_on_arm64_a_twin_does_not_take_an_atomic_instruction_for_a_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``ldadd`` fires the RW register alone."""

    class Atomic(LoadAndStore):
        def read(self, pid: int, address: int, length: int) -> bytes:
            return bytes.fromhex("020021b8")

    monkeypatch.setattr(sites_module, "MACHINE", "aarch64")
    _, of = pipeline_of("./p:v:rw-", twin=True)
    for code, kind in ((LoadAndStore(), "R"), (Atomic(), "RW")):
        events = {(1, 0): PlannedEvent(of, of.pieces[0], 5, 0, Role.READS)}
        pipeline = Pipeline(events, Sites(lambda: None, lambda: None, code), Tasks())
        assert kinds(pipeline, [at(1)]) == [kind]


def test_a_register_for_reads_alone_tells_the_type() -> None:
    _, of = pipeline_of("./p:v:rw-", twin=False)
    site = Site(0x400000, 0x400000, Named("f", 1), None, 0)
    assert kind_of(of.mode, site) == "?"
    assert kind_of(parse_request("./p:v:r--").mode, site) == "R"


def test_what_a_program_knows_decides_the_type() -> None:
    pipeline, _ = pipeline_of("./p:v:rw-", twin=False)
    old, new = (1).to_bytes(8, "little"), (2).to_bytes(8, "little")
    known = Hit.OLD | Hit.NEW
    records = [
        at(1)._replace(flags=flags | known, old=old, new=new)
        for flags in (Hit.READ, Hit.WROTE, Hit.CHANGED, Hit(0))
    ]
    assert kinds(pipeline, records) == ["R", "W", "W", "?"]


def test_values_that_are_not_known_are_none() -> None:
    pipeline, _ = pipeline_of("./p:v:rw-", twin=False)
    new = (7).to_bytes(8, "little")
    found = pipeline.take([at(1)._replace(flags=Hit.NEW, old=bytes(8), new=new), at(2)], until=None)
    assert [(access.old, access.new and access.new.plain) for access in found] == [(None, 7), (None, None)]


def test_what_was_judged_away_is_counted() -> None:
    pipeline, of = pipeline_of("./p:v:rw-", twin=True, judge=lambda record, site, access, comm: access == "W")
    assert kinds(pipeline, [at(1), at(2, 2), at(3), at(4)]) == ["W"]
    assert (pipeline.hits, pipeline.rejected) == ({of.index: 3}, {of.index: 2})


# -- tasks -------------------------------------------------------------------------------------------

NOBODY = 2**22 + 5
"""Above PID_MAX_LIMIT: no thread has it, so that /proc does not answer."""


def test_names_follow_fork_rename_and_exit() -> None:
    tasks = Tasks()
    tasks.apply(CommRecord(1, NOBODY, NOBODY, "parent", False))
    tasks.apply(ForkRecord(2, NOBODY + 1, NOBODY + 1, NOBODY, NOBODY))
    assert tasks.name(NOBODY + 1, NOBODY + 1, 0) == "parent"
    tasks.apply(CommRecord(3, NOBODY + 1, NOBODY + 1, "child", True))
    assert (tasks.name(NOBODY, NOBODY, 0), tasks.name(NOBODY + 1, NOBODY + 1, 0)) == ("parent", "child")
    tasks.apply(ExitRecord(4, NOBODY + 1, NOBODY + 1))
    assert tasks.name(NOBODY + 1, NOBODY + 1, 0) == "child"  # its exit path may still touch the variable


def test_the_idle_tasks_and_the_unknown() -> None:
    tasks = Tasks()
    assert tasks.name(0, 0, 3) == "swapper/3"
    assert tasks.name(NOBODY, NOBODY, 0) == "?"
    tasks.apply(ForkRecord(1, NOBODY, NOBODY, NOBODY + 1, NOBODY + 1))
    assert tasks.name(NOBODY, NOBODY, 0) == "?"


def test_threads_that_are_gone_are_forgotten_but_a_number_used_again_is_not() -> None:
    tasks = Tasks()
    for tid in range(NOBODY, NOBODY + 5000):
        tasks.apply(CommRecord(1, tid, tid, f"t{tid}", False))
        tasks.apply(ExitRecord(2, tid, tid))
        if tid == NOBODY:
            tasks.apply(ForkRecord(3, tid, tid, tid, tid))
    assert tasks.name(NOBODY + 1, NOBODY + 1, 0) == "?"
    assert tasks.name(NOBODY, NOBODY, 0) == f"t{NOBODY}"
    assert tasks.name(NOBODY + 4999, NOBODY + 4999, 0) == f"t{NOBODY + 4999}"
