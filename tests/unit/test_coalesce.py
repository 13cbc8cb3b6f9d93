# SPDX-License-Identifier: BSD-2-Clause
"""One access is one execution of one instruction: hits are joined to accesses, and separate executions kept apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.capture.coalesce import (
    REPEAT_GAP_NS,
    TRAP_GAP_NS,
    Executions,
    Reach,
    both,
    reach_of,
    thread_of,
)
from ksym.capture.instructions import Instruction
from ksym.capture.pipeline import Pipeline
from ksym.capture.records import SampleRecord
from ksym.capture.sites import Named, Site, Sites
from ksym.capture.tasks import Tasks
from ksym.language.parser import parse_request
from ksym.program.layout import PIECE_SHIFT, Hit
from ksym.recording.accesses import KINDS
from ksym.recording.grouping import Hits, join
from ksym.symbols.variable import Space, Variable
from ksym.watch.plan import PlannedEvent, Watch, make_plan

LENGTH, PIECE = 32, 8


def watch(index: int = 0, *, length: int = LENGTH, mode: str = "rw-") -> Watch:
    variable = Variable(f"v{index}", 0x1000 * (index + 1), length, Space.USER)
    requests = [(parse_request(f"v{number}:{mode}"), variable) for number in range(index + 1)]
    return make_plan(requests).watches[index]


def planned(of: Watch, piece: int = 0) -> PlannedEvent:
    return PlannedEvent(of, of.pieces[piece], 5, 0)


def site(
    size: int, *, repeats: bool = False, accesses: str = "W", ended: bool = False, at: int = 0x100
) -> Site:
    instruction = Instruction(at, "some", frozenset(accesses.split()), size, repeats)
    return Site(at + 3 if ended or not repeats else at, at, Named("f", 3), instruction, size, repeats)


def reach(of: Site, piece: int = 0, *, told: bool = True) -> Reach | None:
    return reach_of(of, planned(watch(), piece), told=told, traps_after=True)


def joined(hits: Sequence[tuple[int, int, Site]], *, told: bool, thread: int = 5) -> list[int]:
    """How many hits each execution made; hits as (piece, flags, site), a microsecond apart."""
    executions: Executions[int] = Executions()
    counts: list[int] = []
    for number, (piece, flags, of) in enumerate(hits):
        at = reach(of, piece, told=told)
        if at is None:
            executions.leave(thread, of.address)
            counts.append(1)
            continue
        begun = executions.find(thread, 0, 0, number * 1000, flags, at)
        if begun is None:
            executions.begin(thread, 0, 0, number * 1000, at, len(counts))
            counts.append(1)
        else:
            counts[begun] += 1
    return counts


# -- what programs tell ------------------------------------------------------------------------------

NEW, SAME, LATER = Hit.ANEW, Hit.SAME, Hit.LATER


@pytest.mark.parametrize(
    ("flags", "pieces", "expected"),
    [
        ((NEW, NEW, NEW), (0, 1, 0), [1, 1, 1]),
        ((NEW, SAME, NEW, SAME), (0, 1, 0, 1), [2, 2]),
        ((NEW, SAME, SAME), (1, 2, 3), [3]),
        ((LATER, SAME, LATER), (0, 1, 1), [2, 1]),
        ((NEW, SAME, SAME), (0, 1, 0), [2, 1]),
    ],
    ids=["loop", "unaligned", "32 bytes", "other threads between", "the same registers again"],
)
@pytest.mark.parametrize("size", [0, 4, 8, 16])
def test_one_trap_is_one_access(
    flags: tuple[Hit, ...], pieces: tuple[int, ...], expected: list[int], size: int
) -> None:
    hits = [(piece, int(flag), site(size)) for piece, flag in zip(pieces, flags, strict=True)]
    assert joined(hits, told=True) == expected


def test_steps_of_a_string_instruction_are_one_access_until_the_registers_begin_anew() -> None:
    stos, last = site(1, repeats=True), site(1, repeats=True, ended=True)
    steps = [(0, int(NEW), stos)] + [(0, int(LATER), stos)] * 6 + [(0, int(LATER), last)]
    assert joined(steps + steps[:4], told=True) == [8, 4]
    # Without programs the end of the instruction shows, as the address after it is reported.
    plain = [(piece, 0, of) for piece, _, of in steps]
    assert joined(plain + plain[:4], told=False) == [8, 4]


def test_elements_that_lie_across_pieces_are_steps_of_the_same_instruction() -> None:
    """``rep movsd`` to bytes 6 to 22: the first and the third element hit two pieces each."""
    movs = site(4, repeats=True, accesses="R W")
    hits = [(0, NEW), (1, SAME), (1, LATER), (1, LATER), (2, SAME), (2, LATER)]
    assert joined([(piece, int(flag), movs) for piece, flag in hits], told=True) == [6]


def test_another_instruction_in_between_ends_an_access() -> None:
    stos, load = site(1, repeats=True), site(8, accesses="R", at=0x200)
    hits = [(0, int(LATER), stos), (0, int(LATER), stos), (0, int(LATER), load), (0, int(LATER), stos)]
    assert joined(hits, told=True) == [2, 1, 1]


# -- what the instruction tells ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "pieces", "expected"),
    [
        (4, (0, 1, 1, 2), [1, 1, 1, 1]),
        (8, (0, 1, 2, 3), [1, 1, 1, 1]),
        (16, (0, 1, 2, 3), [2, 2]),
        (16, (1, 2, 1, 2), [2, 2]),
        (32, (0, 1, 2, 3, 0, 1, 2, 3), [4, 4]),
        (16, (1, 0, 2), [1, 1, 1]),
        (0, (0, 1, 0), [1, 1, 1]),
    ],
)
def test_without_programs_an_instruction_reaches_as_far_as_it_is_wide(
    size: int, pieces: tuple[int, ...], expected: list[int]
) -> None:
    assert joined([(piece, 0, site(size)) for piece in pieces], told=False) == expected


def test_without_programs_a_string_instruction_goes_one_way_and_fills_a_piece_once() -> None:
    stosd = site(4, repeats=True)
    up = [(piece, 0, stosd) for piece in (0, 0, 1, 1)]
    assert joined(up + up, told=False) == [4, 4]
    assert joined(up[::-1] + up[::-1], told=False) == [4, 4]
    assert joined(up[2:] + up[:2], told=False) == [4]  # down
    assert joined([*up, (0, 0, stosd)], told=False) == [4, 1]
    assert joined(up[:3] + up[:1], told=False) == [3, 1]


def test_where_each_hit_is_an_access() -> None:
    of = watch()
    one, execute = watch(length=8), watch(length=8, mode="--x")
    assert reach_of(site(8), planned(one), told=True, traps_after=True) is None
    assert reach_of(site(8), planned(execute), told=True, traps_after=True) is None
    assert reach_of(site(8), planned(of), told=True, traps_after=True) is not None
    assert reach_of(site(8), planned(of), told=False, traps_after=True) is None
    assert reach_of(site(1, repeats=True), planned(one), told=False, traps_after=True) is not None
    # arm64 traps before the access and lets it pass with all watchpoints off.
    assert reach_of(site(16), planned(of), told=False, traps_after=False) is None


def test_an_execution_that_reads_and_writes_is_one_access_of_both() -> None:
    assert [both(*kinds) for kinds in ("RR", "WW", "RW", "WR", "?W", "R?", "??")] == [
        "R", "W", "RW", "RW", "W", "R", "?",
    ]  # fmt: skip
    assert both("RW", "R") == "RW"


# -- live --------------------------------------------------------------------------------------------


class Code:
    """Made-up places in code, by ip."""

    def __init__(self, of: dict[int, Site]) -> None:
        self._of = of

    def sites(self) -> Sites:
        found = Sites(lambda: None, lambda: None, None)
        found.traps_after = True
        of = self._of

        def make(pid: int, ip: int, execute: bool, bits: int | None) -> Site:
            return of[ip]

        found._make = make  # type: ignore[method-assign]
        return found


STORE, WIDE, STEP, LAST = 0x103, 0x203, 0x300, 0x303
CODE = {
    STORE: site(8),
    WIDE: site(16, at=0x200),
    STEP: site(4, repeats=True, at=0x300),
    LAST: site(4, repeats=True, ended=True, at=0x300),
}


def pipeline(*watches: Watch) -> Pipeline:
    events = {
        (1 + of.index, number): PlannedEvent(of, piece, 5, 0)
        for of in watches
        for number, piece in enumerate(of.pieces)
    }
    return Pipeline(events, Code(CODE).sites(), Tasks())


def record(
    time: int, piece: int, flags: int, ip: int, *, tid: int = 5, cpu: int = 0, event: int = 1
) -> SampleRecord:
    return SampleRecord(time, cpu, event, ip, 5, tid, (), flags | piece << PIECE_SHIFT)


def test_an_access_that_may_take_more_hits_is_held_back_for_a_while() -> None:
    it = pipeline(watch())
    assert it.take([record(10, 0, NEW, STORE)], until=20) == []
    (access,) = it.take([record(11, 1, SAME, STORE)], until=12 + TRAP_GAP_NS)
    assert access.hits == 2
    assert it.take([record(2 * TRAP_GAP_NS, 0, NEW, STEP)], until=3 * TRAP_GAP_NS + 1) == []
    assert [each.hits for each in it.take([], until=2 * TRAP_GAP_NS + REPEAT_GAP_NS + 1)] == [1]
    assert it.take([], until=None) == []


def test_rows_keep_the_order_of_their_first_hits() -> None:
    of = watch(), watch(1, length=8)
    it = pipeline(*of)
    hits = [record(1, 0, NEW, STEP), record(2, 0, NEW, STORE, tid=6, event=2), record(3, 0, LATER, STEP)]
    assert it.take(hits, until=10) == []
    found = it.take([], until=None)
    assert [(each.time_ns, each.hits, each.tid) for each in found] == [(1, 2, 5), (2, 1, 6)]


@pytest.mark.parametrize(("gap", "expected"), [(REPEAT_GAP_NS, [2]), (REPEAT_GAP_NS + 1, [1, 1])])
def test_a_step_that_comes_too_late_is_an_access(gap: int, expected: list[int]) -> None:
    hits = [record(1, 0, NEW, STEP), record(1 + gap, 0, LATER, STEP, cpu=1)]
    assert [each.hits for each in pipeline(watch()).take(hits, until=None)] == expected


# -- random programs: the truth, live, and by columns ------------------------------------------------


@dataclass
class Run:
    """Executions of instructions by threads, as the hits that they cause, with what is true of them."""

    records: list[SampleRecord] = field(default_factory=list)
    truth: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(tid, ip of the instruction, hits, first piece) of each execution."""


executions = st.lists(
    st.tuples(
        st.sampled_from(["store", "wide", "string"]),
        st.integers(0, 1),  # thread
        st.integers(0, LENGTH - 1),  # first byte
        st.sampled_from([1, 2, 4, 8, 16]),  # bytes, or steps of four
        st.booleans(),  # the other thread runs in between
    ),
    max_size=30,
)


def run_of(rows: Sequence[tuple[str, int, int, int, bool]]) -> Run:
    """Let threads make accesses; hits of one string instruction may have others' in between."""
    run = Run()
    last: dict[int, object] = {}
    time = 0

    def trap(tid: int, ip: int, first: int, size: int, what: object, *, begins: bool) -> int:
        nonlocal time
        hits = 0
        for piece in range(LENGTH // PIECE):
            if first < (piece + 1) * PIECE and first + size > piece * PIECE:
                if hits:
                    flags = SAME
                else:
                    before = last.get(0)
                    # What the programs tell: see program.execution_code.
                    other = before is not None and before[0] != tid  # type: ignore[index]
                    flags = LATER if other or not begins else NEW
                time += 1000
                run.records.append(record(time, piece, int(flags), ip, tid=tid))
                hits += 1
        if hits:
            last[0] = tid, what
        return hits

    for number, (kind, tid, first, size, between) in enumerate(rows, 100):
        tid += 1
        begun = len(run.truth)
        if kind == "string":
            # It ends within the variable. Else its next execution could not be told from it where the other thread
            # has made a hit in between (docs/limits.md).
            hits, steps = 0, max(1, min(size, (LENGTH - first) // 4))
            for step in range(steps):
                end = step == steps - 1
                hits += trap(tid, LAST if end else STEP, first + 4 * step, 4, number, begins=not hits)
                if between and hits and not end:
                    other = trap(3 - tid, STORE, 0, 8, object(), begins=True)
                    run.truth.append((3 - tid, 0x100, other, 0))
            address = 0x300
        else:
            ip, size = (WIDE, 16) if kind == "wide" else (STORE, min(size, 8))
            hits = trap(tid, ip, first, size, number, begins=True)
            address = ip - 3
        if hits:
            run.truth.insert(begun, (tid, address, hits, first // PIECE))
    return run


@given(executions)
def test_the_truth_comes_out(rows: list[tuple[str, int, int, int, bool]]) -> None:
    run = run_of(rows)
    found = pipeline(watch()).take(run.records, until=None)
    assert [
        (each.tid, each.site.address, each.hits, (each.address - 0x1000) // PIECE) for each in found
    ] == run.truth


hits = st.lists(
    st.tuples(
        st.sampled_from([1, 1000, TRAP_GAP_NS, REPEAT_GAP_NS, REPEAT_GAP_NS + 1]),
        st.sampled_from([0, 0, 0, int(NEW), int(SAME), int(LATER)]),
        st.sampled_from(sorted(CODE)),
        st.integers(0, LENGTH // PIECE - 1),
        st.integers(0, 2),  # thread; 0 is the idle task
        st.integers(0, 1),  # cpu
        st.integers(0, 1),  # watch
    ),
    max_size=60,
)


@given(hits, st.booleans())
def test_hits_of_a_recording_are_joined_as_those_that_come_live(
    rows: list[tuple[int, int, int, int, int, int, int]], told: bool
) -> None:
    """Whatever flags, places, threads and times: by columns it comes out the same, and no hit is lost."""
    watches = watch(), watch(1)
    records, time = [], 0
    for step, flags, ip, piece, tid, cpu, of in rows:
        time += step
        flags = (flags or int(NEW)) if told else 0
        records.append(record(time, piece, flags, ip, tid=tid, cpu=cpu, event=1 + of))
    live = [(each.time_ns, each.hits) for each in pipeline(*watches).take(records, until=None)]
    assert live == list(by_columns(records, watches, told=told))
    assert sum(hits for _, hits in live) == len(records)


def by_columns(
    records: Sequence[SampleRecord], watches: Sequence[Watch], *, told: bool
) -> Iterator[tuple[int, int]]:
    ips = sorted(CODE)
    places = [(of, piece, ip) for of in watches for piece in range(len(of.pieces)) for ip in ips]
    number = {(of.index, piece, ip): at for at, (of, piece, ip) in enumerate(places)}
    reaches = [
        reach_of(CODE[ip], planned(of, piece), told=told, traps_after=True) for of, piece, ip in places
    ]

    def column(values: Iterator[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array(list(values), np.int64)

    found = join(
        Hits(
            np.arange(len(records)),
            column(thread_of(each.tid, each.cpu) for each in records),
            column(each.id - 1 for each in records),
            column(each.cpu for each in records),
            column(each.time for each in records),
            column(each.flags & 0xFFF for each in records),
            np.full(len(records), KINDS.index("W"), np.uint8),
            column(number[each.id - 1, each.flags >> PIECE_SHIFT, each.ip] for each in records),
        ),
        reaches,
        [CODE[ip].address for _, _, ip in places],
    )
    counts = dict(zip(found.first, found.number, strict=True))
    further = set(found.further)
    assert all(found.first[at] < last for at, last in enumerate(found.last))
    return (
        (each.time, counts.get(number, 1)) for number, each in enumerate(records) if number not in further
    )


@given(hits, st.lists(st.integers(1, 60), max_size=6))
def test_rounds_change_nothing(rows: list[tuple[int, int, int, int, int, int, int]], cuts: list[int]) -> None:
    """Hits come in rounds, whose accesses are taken when they are complete."""
    records, time = [], 0
    for step, flags, ip, piece, tid, cpu, of in rows:
        time += min(step, 1000)
        records.append(record(time, piece, flags or int(NEW), ip, tid=tid, cpu=cpu, event=1 + of))
    whole = pipeline(watch(), watch(1)).take(records, until=None)
    parts, in_parts = pipeline(watch(), watch(1)), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(records)], strict=True):
        part = records[start:end]
        if part:
            in_parts += parts.take(part, until=part[-1].time)
    in_parts += parts.take([], until=None)
    assert in_parts == whole
