# SPDX-License-Identifier: BSD-2-Clause
"""ksym report, on accesses that are made up."""

from __future__ import annotations

import argparse
import builtins
import io
import json
import os
import re
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.capture.sites import Named
from ksym.commands import report as command
from ksym.commands.parser import parse
from ksym.errors import KsymError, UsageError
from ksym.recording import reader
from ksym.recording.accesses import KINDS, Accesses
from ksym.recording.header import Machine
from ksym.reports import layout, progress
from ksym.reports.about import About, length, time_of_day
from ksym.reports.analysis import NEAR_NS, Analysis, Near, Silent, Turns, summarise
from ksym.reports.columns import comparable, last_places, number, same, tally
from ksym.reports.findings import LATE_NS, find
from ksym.reports.groups import KEYS, Subject
from ksym.reports.machine_readable import report
from ksym.reports.select import Selection, When, kinds, when
from ksym.reports.source import Sources
from ksym.reports.stacks import Node, chains, grow
from ksym.reports.terminal import Style, Terminal
from ksym.reports.timeline import LANES, draw
from ksym.symbols.ctext import parse_type
from ksym.symbols.types import Array, Integer
from ksym.symbols.variable import Space, Variable
from support.accesses import START, Row, make_accesses, make_site, make_watch
from synthetic.compile import build

SITES = (make_site("reader", 0x10), make_site("writer", 0x20), make_site("writer", 0x30, ip=0x401030))
STACKS = (
    (Named("reader", 0x10), Named("main", 5)),
    (Named("writer", 0x20), Named("loop", 1), Named("main", 9)),
)


def subject(rows: list[Row], **tables: Any) -> Subject:
    tables.setdefault("sites", SITES)
    (only,) = Analysis(make_accesses(rows, **tables), Selection()).subjects
    return only


@st.composite
def rows(draw: st.DrawFn, most: int = 40) -> list[Row]:
    """Accesses to two variables, close together; values are few, so that they meet again."""
    made = draw(
        st.lists(
            st.tuples(
                st.sampled_from((0, 1, 900, NEAR_NS, NEAR_NS + 1, LATE_NS, LATE_NS + 1)), st.sampled_from(KINDS),
                st.integers(0, 2), st.integers(1, 3), st.sampled_from((None, 0, 1, 2)),
                st.sampled_from((None, 0, 1, 2)), st.integers(0, 2), st.integers(0, 1),
                st.integers(1, 3), st.integers(1, 2), st.integers(-1, 1),
            ),
            max_size=most,
        )
    )  # fmt: skip
    now, found = 0, []
    for gap, kind, cpu, tid, new, old, site, watch, hits, pid, stack in made:
        now += gap
        found.append(Row(now, kind, cpu, tid, f"t{tid}", new, old, site, watch, hits, pid, stack))
    return found


WATCHES = (make_watch(), make_watch("./prog:other", "int", index=1))


def both(found: list[Row], watches: tuple[Any, ...] = WATCHES) -> Accesses:
    return make_accesses(found, watches=watches, sites=SITES, stacks=STACKS)


# -- what is selected -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ns", "of_day"),
    [
        ("0", 0, False), ("1.5", 1_500_000_000, False), ("0.000000001", 1, False), ("90", 90 * 10**9, False),
        ("10:22", (10 * 3600 + 22 * 60) * 10**9, True), ("1:02:03.25", 3_723_250_000_000, True),
    ],
)  # fmt: skip
def test_times(text: str, ns: int, of_day: bool) -> None:
    assert when(text) == When(text, ns, of_day)


@pytest.mark.parametrize(
    "text", ["", "-1", "1e3", "nan", "24:00", "10:60", "10:22:61", "10:22:31.", "\u0661", "1:2:3:4"]
)
def test_no_times(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        when(text)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def local(text: str) -> int:
    return int(time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S"))) * 10**9


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("asked", "expected"),
    [("23:30", "2026-11-23 23:30:00"), ("00:10", "2026-11-24 00:10:00"), ("22:00", "2026-11-23 22:00:00")],
)
def test_a_time_of_day_in_a_recording_over_midnight(asked: str, expected: str) -> None:
    start, end = local("2026-11-23 23:00:00") + 5, local("2026-11-24 01:00:00")
    assert when(asked).on(start, end) == local(expected)


def test_the_selected_accesses() -> None:
    accesses = both(
        [Row(0, "R"), Row(10**9, "W"), Row(2 * 10**9, "RW", watch=1), Row(3 * 10**9, "W", watch=1)]
    )

    def times(selection: Selection) -> list[int]:
        return [int(each - START) // 10**9 for each in accesses.time_ns[selection.mask(accesses)]]

    assert times(Selection()) == [0, 1, 2, 3]
    assert times(Selection(only=kinds("w"))) == [1, 3]
    assert times(Selection(only=kinds("RW,R"))) == [0, 2]
    assert times(Selection(since=when("1"), until=when("3"))) == [1, 2]
    assert times(Selection(symbols=("./prog:other",))) == [2, 3]
    assert times(Selection(kinds("W"), when("1.5"), None, ("./prog:other",))) == [3]
    moment = time_of_day(START + 2 * 10**9)
    assert times(Selection(since=when(moment))) == [2, 3]
    with pytest.raises(KsymError, match=r"no variable ./prog:othr: .*./prog:other"):
        Selection(symbols=("./prog:othr",)).mask(accesses)
    with pytest.raises(argparse.ArgumentTypeError):
        kinds("W,Q")


# -- columns ----------------------------------------------------------------------------------------------


@given(
    st.sampled_from((np.int8, np.uint8, np.int32, np.int64, np.uint64)),
    st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 300), max_size=60),
    st.booleans(),
)
def test_numbers_are_those_of_numpy(kind: type[Any], words: list[int], ordered: bool) -> None:
    column = np.array(words, np.uint64).astype(kind)
    if ordered:
        column.sort()
    found = number(column)
    different, codes = np.unique(column, return_inverse=True)
    assert (found.different.tolist(), found.codes.tolist()) == (different.tolist(), codes.tolist())
    assert found.different.dtype == column.dtype
    last = {code: place for place, code in enumerate(codes.tolist())}
    assert last_places(found.codes, len(different)).tolist() == [last[code] for code in range(len(different))]
    some = np.abs(column.astype(np.int64) >> 1)
    assert dict(zip(*(part.tolist() for part in tally(some)), strict=True)) == Counter(some.tolist())


def variable(kind: str, bits: tuple[int, int] | None = None) -> Variable:
    made = parse_type(kind)
    return Variable("v", 0x4000, made.size, Space.USER, made, bits)


def bytes_of(values: list[bytes], width: int = 8) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.array([list(value.ljust(width, b"\0")) for value in values], np.uint8).reshape(-1, width)


@pytest.mark.parametrize(
    ("kind", "layout"), [("signed char", "b"), ("u8", "B"), ("short", "h"), ("int", "i"), ("unsigned long", "Q"),
                         ("long", "q"), ("float", "f"), ("double", "d")],
)  # fmt: skip
@given(st.data())
def test_values_compare_as_they_do_in_c(kind: str, layout: str, data: st.DataObject) -> None:
    bits = 8 * struct.calcsize(layout)
    if layout in "fd":
        numbers: st.SearchStrategy[Any] = st.floats(width=32, allow_nan=False).filter(
            lambda x: str(x) != "-0.0"
        )
    else:
        numbers = st.integers(
            *((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if layout.islower() else (0, 2**bits - 1))
        )
    values = data.draw(st.lists(numbers, min_size=2, max_size=20))
    found = comparable(variable(kind), bytes_of([struct.pack(f"<{layout}", value) for value in values]))
    assert [bool(a < b) for a, b in pairwise(found)] == [a < b for a, b in pairwise(values)]
    assert number(found).codes.tolist() == [sorted(set(values)).index(value) for value in values]


def test_values_of_bit_fields() -> None:
    field = variable("int", bits=(4, 3))
    data = bytes_of([struct.pack("<I", word) for word in (0b0_011_0000, 0b1_011_1111, 0b0_111_0000)])
    assert comparable(field, data).tolist() == [3, 3, -1]
    assert same(field, data[:2], data[1:]).tolist() == [True, False]


def test_values_that_are_no_numbers_have_no_order_but_are_told_apart() -> None:
    words = Array("long[3]", 24, parse_type("long"), 3)
    watch = make_watch("./prog:words", words)
    values = [bytes([1]) * 24, bytes([1]) * 16 + bytes([2]) * 8, bytes([1]) * 24]
    found = subject([Row(new=value) for value in values], watches=[watch]).values
    assert found is not None
    assert (found.different, found.low, found.high) == (2, None, None)
    assert found.first == found.last
    text = Array("char[16]", 16, parse_type("char"), 16)
    names = subject([Row(new=b"swapper/0"), Row(new=b"sshd")], watches=[make_watch("./p:comm", text)]).values
    assert names is not None
    assert (names.first.plain, names.last.plain) == ("swapper/0", "sshd")


def test_pointers_have_names() -> None:
    watch = make_watch("./prog:where", "void *")
    accesses = replace(make_accesses([Row(new=0x1000)], watches=[watch]), pointers={0x1000: "jiffies"})
    assert "jiffies" in text_of(Analysis(accesses, Selection()))


def test_values_of_some_accesses_are_not_known() -> None:
    found = subject([Row(), Row(new=7), Row(kind="R"), Row(old=3)])
    assert found.values is not None
    assert (found.values.different, found.values.first.plain, found.values.last.plain) == (2, 7, 3)
    groups, _ = found.groups(["value"])
    assert {group.label: group.accesses for group in groups} == {("not known",): 2, ("7",): 1, ("3",): 1}
    assert subject([Row(), Row()]).values is None


# -- findings ---------------------------------------------------------------------------------------------


def test_silent_stores() -> None:
    found = summarise(
        subject([
            Row(old=1, new=1, site=1), Row(old=1, new=2, site=1), Row(kind="RW", old=2, new=2, site=2),
            Row(kind="R", old=2, new=2), Row(new=2, site=1), Row(kind="RW", old=2, new=2, site=1),
        ])
    )  # fmt: skip
    assert found.silent == Silent(3, 4, (("writer [prog]", 3),))


def test_a_write_whose_value_another_cpu_has_shown_is_not_called_silent() -> None:
    read = Row(10**6, "R", cpu=0, old=1, new=2)
    late = Row(10**6 + 9_000, cpu=1, old=2, new=2)
    assert summarise(subject([read, late])).silent is None
    assert summarise(subject([read, late, late._replace(time=10**6 + 10_000)])).silent == Silent(
        1, 1, (("reader [prog]", 1),)
    )
    much_later = late._replace(time=3 * 10**6)
    assert summarise(subject([read, much_later])).silent == Silent(1, 1, (("reader [prog]", 1),))


def test_writers_that_take_turns() -> None:
    cpus = (0, 1, 0, 0, 2)
    found = summarise(subject([Row(i * 10**6, cpu=cpu) for i, cpu in enumerate(cpus)]))
    assert found.turns == Turns(3, 4, (((0, 1), 2), ((0, 2), 1)))
    reads = [Row(0, cpu=0), Row(10**6, "R", cpu=1), Row(2 * 10**6, cpu=0)]
    assert summarise(subject(reads)).turns is None


@pytest.mark.parametrize(
    ("one", "two", "gap", "near"),
    [
        ("W", "W", NEAR_NS, True), ("W", "W", NEAR_NS + 1, False), ("R", "W", 5, True), ("W", "R", 5, True),
        ("R", "R", 5, False), ("RW", "?", 5, True), ("?", "R", 5, False),
    ],
)  # fmt: skip
def test_accesses_close_together(one: str, two: str, gap: int, near: bool) -> None:
    made = [Row(0, one, cpu=0, site=0), Row(gap, two, cpu=1, site=1)]
    expected = Near(1, gap, ((("reader+0x10 [prog]", "writer+0x20 [prog]"), 1),))
    assert summarise(subject(made)).near == (expected if near else None)
    assert summarise(subject([row._replace(cpu=0) for row in made])).near is None


def test_a_write_meets_across_reads_of_its_own_cpu() -> None:
    """CPU 0 writes, then reads; CPU 1's read is close to the write, though a read stands in between."""
    found = summarise(subject([Row(0, cpu=0, site=1), Row(100, "R", cpu=0), Row(200, "R", cpu=1)])).near
    assert found == Near(1, 200, ((("reader+0x10 [prog]", "writer+0x20 [prog]"), 1),))


def test_memory_of_its_own_is_nobody_elses() -> None:
    made = [Row(0, cpu=0, old=1, new=2), Row(1, cpu=1, old=5, new=6)]
    copies = make_watch("runqueues", per_cpu={0: 0x4000, 1: 0x5000})
    for each in (subject(made, watches=[copies]), subject([made[0], made[1]._replace(pid=2)])):
        found = summarise(each)
        assert (found.turns, found.near, found.unseen) == (None, None, None)
    again = [*made, Row(2, cpu=0, old=3, new=3)]
    unseen = summarise(subject(again, watches=[copies])).unseen
    assert unseen is not None
    assert (unseen.count, unseen.first_ns) == (1, START + 2)


def test_changes_that_nobody_was_seen_making() -> None:
    found = summarise(
        subject([
            Row(0, old=0, new=1), Row(10**6, old=1, new=2), Row(2 * 10**6, old=9, new=3),
            Row(3 * 10**6, "R", old=3, new=7), Row(4 * 10**6, "R", old=7, new=7), Row(5 * 10**6, old=8, new=8),
        ])
    ).unseen  # fmt: skip
    assert found is not None
    assert found.found is not None
    assert (found.count, found.first_ns - START, found.found.plain, found.in_doubt) == (3, 2 * 10**6, 9, 0)


@pytest.mark.parametrize(
    ("gap", "cpu", "told"), [(9_000, 1, True), (LATE_NS + 1, 1, False), (9_000, 0, False)]
)
def test_a_write_that_is_seen_before_it_is_told_of(gap: int, cpu: int, told: bool) -> None:
    """CPU 0 reads what CPU 1 has just written; the trap of that write comes to its end later."""
    read = [Row(0, old=0, new=1), Row(10**6, "R", old=1, new=2)]
    found = summarise(subject([*read, Row(10**6 + gap, cpu=cpu, old=2, new=2)]))
    assert (found.unseen is None) == told


def test_a_change_where_two_cpus_meet_is_in_doubt() -> None:
    found = summarise(subject([Row(0, cpu=0, old=0, new=1), Row(9, cpu=1, old=0, new=2)])).unseen
    assert found is not None
    assert (found.count, found.in_doubt) == (1, 1)


def test_what_is_selected_is_judged_by_what_went_before_it() -> None:
    accesses = make_accesses(
        [Row(0, cpu=0, old=0, new=1), Row(9, "R", cpu=1, old=1, new=1), Row(10**6, cpu=1, old=4, new=4)]
    )
    (only,) = Analysis(accesses, Selection(only=kinds("W"), since=when("0.0005"))).subjects
    found = summarise(only)
    assert len(only) == 1
    assert (found.silent, found.turns) == (
        Silent(1, 1, (("main [prog]", 1),)),
        Turns(1, 1, (((0, 1), 1),)),
    )
    assert found.unseen is not None


def by_hand(found: list[Row], per_cpu: bool) -> list[tuple[bool, int, int, bool]]:
    """What `find` marks, in Python: (silent, CPU of the write before, nearest other, unseen) of each access."""
    marks = []
    for place, row in enumerate(found):
        memory = [
            other for other in found[:place]
            if other.watch == row.watch and (other.cpu == row.cpu if per_cpu else other.pid == row.pid)
        ]  # fmt: skip
        before = [
            other
            for other in found[:place]
            if other.watch == row.watch and (not per_cpu or other.cpu == row.cpu)
        ]
        write = "W" in row.kind
        writers = [other for other in memory if "W" in other.kind]
        partners = [other for other in (memory if write else writers) if other.cpu != row.cpu]
        gap = row.time - partners[-1].time if partners else NEAR_NS + 1
        known = row.old is not None and row.new is not None
        unseen = row.kind == "R" and known and row.old != row.new
        if any(
            "W" in other.kind and other.cpu != row.cpu and other.time - row.time <= LATE_NS
            and (other.cpu == row.cpu if per_cpu else other.pid == row.pid)
            for other in found[place + 1 :] if other.watch == row.watch
        ):  # fmt: skip
            unseen = False
        if before:
            last = before[-1]
            differs = row.old is not None and last.new is not None and row.old != last.new
            unseen = unseen or differs if per_cpu else (unseen or differs) and last.pid == row.pid
        since: list[Row] = []
        for other in memory:
            since = [] if other.cpu == row.cpu else [*since, other]
        changes = [other for other in since if None not in (other.old, other.new) and other.old != other.new]
        doubt = bool(changes) and row.time - changes[-1].time <= LATE_NS
        several = len({other.cpu for other in found if other.watch == row.watch}) > 1
        writer = writers[-1].cpu if write and writers and several else -1
        marks.append(
            (
                write and known and row.old == row.new and not doubt,
                writer,
                gap if gap <= NEAR_NS else -1,
                unseen,
            )
        )
    return marks


@given(rows(), st.booleans())
def test_findings_are_those_of_plain_python(found: list[Row], per_cpu: bool) -> None:
    copies = {0: 0x4000, 1: 0x5000, 2: 0x6000} if per_cpu else None
    names = ("one", "two") if per_cpu else ("./prog:one", "./prog:two")
    watches = tuple(make_watch(name, per_cpu=copies, index=number) for number, name in enumerate(names))
    marks = find(both(found, watches))
    columns = (marks.silent, marks.writer_before, marks.near_ns, marks.unseen)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == by_hand(found, per_cpu)


# -- groups -----------------------------------------------------------------------------------------------


@given(rows(), st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True), st.integers(0, 3))
def test_sums_are_conserved(found: list[Row], by: list[str], most: int) -> None:
    analysis = Analysis(both(found), Selection())
    assert len(analysis) == len(found) == sum(map(len, analysis.subjects))
    assert analysis.hits == sum(row.hits for row in found)
    for number_, each in enumerate(analysis.subjects):
        mine = [row for row in found if row.watch == number_]
        groups, different = each.groups(by)
        assert different == len(groups)
        assert sum(group.accesses for group in groups) == len(mine)
        assert sum(group.hits for group in groups) == each.hits == sum(row.hits for row in mine)
        assert sum(group.silent for group in groups) == int(each.marks.silent.sum())
        counts = Counter(row.kind for row in mine)
        assert each.kinds == tuple(map(sum, zip(*(g.kinds for g in groups), strict=True))) or not mine
        assert each.kinds == tuple(counts[kind] for kind in KINDS)
        assert [g.accesses for g in groups] == sorted((g.accesses for g in groups), reverse=True)
        assert len({group.label + group.frames for group in groups}) == different or "instruction" in by
        first, count = each.groups(by, most)
        assert (first, count) == (groups[: most or None], different)
        for group in groups:
            assert 0 < sum(made for _, made in group.tasks.top) <= group.accesses


def test_a_group_has_its_own_tasks_cpus_functions_and_values() -> None:
    found = subject([
        Row(0, "W", 0, 1, "a", 5, 0, site=1), Row(1, "R", 3, 2, "b", 5, 5, site=0),
        Row(2, "W", 1, 1, "a", 2, 5, site=1),
        Row(3, "W", 0, 1, "a", 9, 2, site=2), Row(4, "W", 2, 3, "c", 7, 9, site=1, hits=4),
    ])  # fmt: skip
    groups, different = found.groups(["function"])
    assert different == 2
    writer = groups[0]
    assert (writer.label, writer.accesses, writer.hits, writer.cpus) == (("writer [prog]",), 4, 7, (0, 1, 2))
    assert writer.fields == {"function": "writer", "module": "prog"}
    assert writer.tasks == (2, (("a-1", 3), ("c-3", 1)))
    assert writer.values is not None
    assert [
        value and value.plain
        for value in (writer.values.first, writer.values.last, writer.values.low, writer.values.high)
    ] == [5, 7, 2, 9]
    assert (writer.first_ns - START, writer.last_ns - START) == (0, 4)
    tasks, _ = found.groups(["task"])
    assert [(each.label[0], each.functions.top) for each in tasks] == [
        ("a-1", (("writer [prog]", 3),)), ("b-2", (("reader [prog]", 1),)), ("c-3", (("writer [prog]", 1),)),
    ]  # fmt: skip
    instructions, _ = found.groups(["instruction"])
    assert [each.label[0] for each in instructions] == [
        "writer+0x20 [prog]", "reader+0x10 [prog]", "writer+0x30 [prog]",
    ]  # fmt: skip
    pairs, _ = found.groups(["task", "cpu"])
    assert {each.label: each.accesses for each in pairs} == {
        ("a-1", "000"): 2, ("a-1", "001"): 1, ("b-2", "003"): 1, ("c-3", "002"): 1,
    }  # fmt: skip


def test_the_last_writer_of_each_value() -> None:
    found = subject([
        Row(0, tid=1, new=5), Row(1, tid=2, new=6), Row(2, tid=3, new=5), Row(3, "R", tid=4, new=6), Row(4, tid=5),
    ])  # fmt: skip
    assert [(write.value.plain, write.tid, write.time_ns - START) for write in found.last_writes(5)] == [
        (5, 3, 2),
        (6, 2, 1),
    ]
    assert [write.tid for write in found.last_writes(1)] == [3]
    groups, _ = found.groups(["value"])
    assert {group.label[0]: group.writer and group.writer.tid for group in groups} == {
        "5": 3,
        "6": 2,
        "not known": None,
    }


def test_a_program_that_ran_twice_is_one_place() -> None:
    again = replace(SITES[1], ip=0x7F0000001020)
    groups, different = subject([Row(site=0), Row(site=1)], sites=(SITES[1], again)).groups(["instruction"])
    assert (different, groups[0].accesses) == (1, 2)
    nameless = make_site(None, 0x5000, owner=None, ip=0x5000)
    groups, _ = subject([Row()], sites=(nameless,)).groups(["function"])
    assert groups[0].label == ("0x5000",)


# -- timeline and stacks ----------------------------------------------------------------------------------


@given(rows(), st.sampled_from(("cpu", "task")), st.integers(1, 30))
def test_a_timeline_has_all_accesses(found: list[Row], key: str, columns: int) -> None:
    analysis = Analysis(both(found), Selection())
    for each in analysis.subjects:
        timeline = draw(each, analysis.span, columns, key)
        counts: Counter[str] = Counter()
        for lane in timeline.lanes:
            assert len(lane.counts) == columns
            counts[lane.kind] += lane.total
        assert tuple(counts[kind] for kind in KINDS) == each.kinds


def test_lanes() -> None:
    found = draw(
        subject([Row(0, cpu=3), Row(99, "R", cpu=1), Row(50, cpu=3)]), (START, START + 100), 4, "cpu"
    )
    assert [(lane.who, lane.kind, lane.counts.tolist()) for lane in found.lanes] == [
        ("CPU 1", "R", [0, 0, 0, 1]), ("CPU 3", "W", [1, 0, 1, 0]),
    ]  # fmt: skip
    assert found.column_ns == 25
    many = draw(subject([Row(tid=tid, comm="t") for tid in range(LANES + 3)]), (START, START), 4, "task")
    assert len(many.lanes) == LANES + 1
    assert (many.lanes[-1].who, many.lanes[-1].total) == (None, 3)


def test_times_of_a_damaged_recording_fit_somewhere() -> None:
    accesses = make_accesses([Row(0), Row(1)])
    accesses.time_ns[:] = (-(2**63) + 1, 2**63 - 1)
    analysis = Analysis(accesses, Selection())
    assert sum(lane.total for lane in draw(analysis.subjects[0], analysis.span, 10, "cpu").lanes) == 2
    assert text_of(analysis)


def sums(node: Node) -> None:
    assert sum(caller.accesses for caller in node.callers.values()) <= node.accesses
    for caller in node.callers.values():
        sums(caller)


def test_call_chains_make_a_tree() -> None:
    found = subject([Row(stack=0), Row(stack=1), Row(stack=1), Row()], stacks=STACKS)
    tree = grow(found)
    assert tree is not None
    assert (tree.root.accesses, tree.without, tree.left_out) == (3, 1, 0)
    assert [(node.name, node.accesses) for node in tree.root.by_accesses()] == [("writer", 2), ("reader", 1)]
    sums(tree.root)
    assert list(chains(found)) == [(STACKS[1], 2), (STACKS[0], 1)]
    assert grow(subject([Row()])) is None


def test_a_very_deep_chain() -> None:
    """Deeper than Python's own stack may be."""
    deep = tuple(Named(f"f{depth % 2}", depth) for depth in range(5000))
    found = Analysis(make_accesses([Row(stack=0), Row(stack=1)], stacks=[deep, deep[:3]]), Selection())
    assert "f1" in text_of(found)
    assert len(json.loads(json_of(found))["variables"][0]["stacks"][0]["frames"]) == 5000


def test_a_tree_of_many_branches() -> None:
    stacks = [
        (Named("f", 1), Named(f"caller{number}", 1), Named(f"top{number % 2}", 1)) for number in range(20)
    ]
    text = text_of(
        Analysis(make_accesses([Row(stack=number) for number in range(20)], stacks=stacks), Selection())
    )
    assert "├─   5.0% caller0" in text
    assert "└─  60.0% 12 more" in text


# -- for people -------------------------------------------------------------------------------------------

EVERYTHING = Selection()
ABOUT = About("two.data", None, {"hostname": "vm", "release": "6.1", "arch": "x86_64", "cpus": 2}, "ksym 0.1")


def text_of(
    analysis: Analysis, by: tuple[str, ...] = ("instruction",), *, width: int = 80, about: About = ABOUT,
    most: int = 25, selection: Selection = EVERYTHING, glyphs: layout.Glyphs = layout.UNICODE,
) -> str:  # fmt: skip
    style = Style(width, glyphs, by, most, "cpu")
    return layout.plain(Terminal(about, analysis, selection, style, lambda site: "prog.c:7").lines())


def json_of(analysis: Analysis, by: tuple[str, ...] = ("instruction",), lanes: str | None = "cpu") -> str:
    return json.dumps(report(ABOUT, analysis, by, 0, lanes, lambda site: None))


SMALL = [
    Row(0, "W", 0, 11, "maker", 1, 0, site=1), Row(1_000_000, "R", 1, 12, "taker", 1, 1, site=0),
    Row(1_000_900, "W", 0, 11, "maker", 1, 1, site=1), Row(3_000_000, "W", 1, 12, "taker", 7, 1, site=2, hits=2),
]  # fmt: skip
PAGE = """\
two.data
  watched  ./prog:counter:rw-
  when     2026-11-23 08:17:18.0000 to 08:17:18.0030, 3 ms
  machine  vm, Linux 6.1 x86_64, 2 CPUs, ksym 0.1
  counted  4 accesses (5 hits), 0 lost, 0 suppressed

./prog:counter   unsigned int, 4 bytes at 0x4000 of user space; watched rw-
  4 accesses: 1 R, 3 W   values: first 1, last 7, 2 different

 SHARE  ACCESSES  HITS  R  W  FUNCTION            INSTRUCTION    SOURCE    CPU
 50.0%         2     2  0  2  writer+0x20 [prog]  mov [rdx],eax  prog.c:7  0
        by maker-11   values 1   silent 1
 25.0%         1     1  1  0  reader+0x10 [prog]  mov [rdx],eax  prog.c:7  1
        by taker-12   values 1
 25.0%         1     2  0  1  writer+0x30 [prog]  mov [rdx],eax  prog.c:7  1
        by taker-12   values 7

look here
  • silent stores: 1 of 3 writes (33.3%) stored the value that was there; writer
    [prog] 1
  • taking turns: 1 of 2 writes (50.0%) came from another CPU than the write
    before; CPUs 0 and 1 1
  • close together: 1 access within 2 us behind another CPU's, one of the two a
    write, the closest 900 ns apart; reader+0x10 [prog] and writer+0x20 [prog]
    1. A hint, no proof: look whether one lock is held around both

 VALUE  LAST WRITTEN   TASK-PID  CPU  FUNCTION
     7  08:17:18.0030  taker-12  001  writer+0x30 [prog]
     1  08:17:18.0010  maker-11  000  writer+0x20 [prog]
"""


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("utc")
def test_the_page() -> None:
    text = text_of(Analysis(make_accesses(SMALL, sites=SITES), Selection()))
    assert text.startswith(PAGE)
    rest = text[len(PAGE) :].splitlines()
    assert rest[1].startswith("over time, ")
    assert rest[2].startswith("  CPU 0 W  █")
    assert rest[2].endswith("█" + " " * (len(rest[2]) - rest[2].rindex("█") - 3) + " 2")


@pytest.mark.parametrize("by", [(key,) for key in KEYS] + [("task", "function"), KEYS])
@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_lines_fit(by: tuple[str, ...], width: int) -> None:
    text = text_of(Analysis(both(SMALL), Selection()), by, width=max(width, 80 if len(by) > 1 else 0))
    if len(by) < 3 and width >= 80:
        assert max(map(len, text.splitlines())) <= max(width, 80)
    assert "writer" in text


@given(rows(most=8), st.sampled_from(KEYS))
def test_every_recording_has_a_page(found: list[Row], by: str) -> None:
    analysis = Analysis(both(found), Selection())
    assert f"{len(found):,} access" in text_of(analysis, (by,))
    assert json.loads(json_of(analysis, (by,)))["accesses"] == len(found)


def test_nothing_and_one() -> None:
    nothing = Analysis(make_accesses([]), Selection())
    assert "0 accesses (0 hits)" in text_of(nothing)
    assert "no accesses" in text_of(nothing)
    assert json.loads(json_of(nothing))["variables"][0]["rows"] == []
    one = text_of(Analysis(make_accesses([Row(new=3)]), Selection()))
    assert "1 access (1 hit)" in one
    assert "100.0%" in one
    none_selected = Analysis(make_accesses([Row()]), Selection(only=kinds("R")))
    assert "selected --only R: of 1 access" in text_of(none_selected, selection=Selection(only=kinds("R")))


def test_rows_that_are_left_out_are_summed_up() -> None:
    made = [Row(tid=tid, comm="t", hits=2) for tid in range(5) for _ in range(tid + 1)]
    text = text_of(Analysis(make_accesses(made), Selection()), ("task",), most=2)
    assert re.search(r" 60\.0% +9 +18 .*t-4\b|33\.3%", text)
    assert re.search(r"40\.0% +6 +12 +0 +6  3 more; --top 0 shows all", text)


HOSTILE = "\x1b[31m\r\nevil\u202e\x07"


def test_hostile_names_are_printed_printable() -> None:
    variable_ = Variable("./p:" + HOSTILE, 0x4000, 4, Space.USER, Integer(HOSTILE, 4, True), section=HOSTILE)
    watch = replace(make_watch(), variable=variable_)
    site = make_site(HOSTILE, owner=HOSTILE, text=HOSTILE)
    made = [
        Row(0, cpu=0, comm=HOSTILE, stack=0, old=1, new=1),
        Row(1, cpu=1, comm=HOSTILE, stack=0, old=2, new=3),
    ]
    accesses = make_accesses(made, watches=[watch], sites=[site], stacks=[(Named(HOSTILE, 1, 0, HOSTILE),)])
    about = About(
        HOSTILE,
        1,
        dict.fromkeys(("hostname", "release", "arch"), HOSTILE),
        HOSTILE,
        cut=HOSTILE,
        notes=(HOSTILE,),
    )
    analysis = Analysis(accesses, Selection())
    style = Style(100, layout.UNICODE, ("instruction",), 25, "task")
    for by in (*((key,) for key in KEYS), KEYS):
        lines = Terminal(about, analysis, Selection(), replace(style, by=by), lambda site: HOSTILE).lines()
        for line in lines:
            assert all(text.isprintable() for text, _ in line)
    assert json.loads(json_of(analysis))["variables"][0]["symbol"] == "./p:" + HOSTILE


def test_what_was_missed_is_said() -> None:
    about = replace(
        ABOUT, lost=1234, rejected=5, suppressed=6, disarmed=1, cut="it was killed", notes=("a CPU went",)
    )
    made = [Row(0, old=1, new=2), Row(10**6, old=3, new=4)]
    text = " ".join(text_of(Analysis(make_accesses(made), Selection()), about=about).split())
    for words in (
        "1,234 lost", "5 did not match the condition", "6 suppressed", "1 disarmed", "cut it was killed",
        "note a CPU went", "changed unseen: 1 time",
        "By lost hits, hits that did not match the condition, accesses that",
    ):  # fmt: skip
        assert words in text


def test_a_terminal_without_block_characters() -> None:
    assert layout.glyphs("utf-8") is layout.UNICODE
    for encoding in ("ascii", "latin-1", None, "no such encoding"):
        assert layout.glyphs(encoding) is layout.ASCII
    assert text_of(Analysis(both(SMALL), Selection()), glyphs=layout.ASCII).isascii()


def test_colours_change_no_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    analysis = Analysis(both(SMALL), Selection())
    lines = Terminal(
        ABOUT, analysis, Selection(), Style(80, layout.UNICODE, ("task",), 25, "cpu"), lambda site: None
    ).lines()
    pytest.importorskip("rich")
    coloured = layout.coloured(lines, 80)
    assert "\x1b[" in coloured
    bare = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in bare.splitlines()] == layout.plain(lines).splitlines()


def test_wide_characters_take_two_columns() -> None:
    assert (layout.cells("abc"), layout.cells("日本"), layout.cells("e\u0301")) == (3, 4, 1)
    assert layout.pad("日本", 6) == "日本  "
    assert layout.cut("日本語の名前", 8) == "日本..."
    assert layout.cut("abc", 3) == "abc"


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0 ns"), (999, "999 ns"), (1500, "1.5 us"), (21e6, "21 ms"), (1.24e9, "1.24 s"), (250e9, "4 min 10 s"),
     (7380e9, "2 h 3 min")],
)  # fmt: skip
def test_lengths_of_time(ns: float, text: str) -> None:
    assert length(ns) == text


# -- for programs -----------------------------------------------------------------------------------------


@given(rows())
def test_json_has_the_same_numbers(found: list[Row]) -> None:
    analysis = Analysis(both(found), Selection())
    data = json.loads(json_of(analysis))
    assert (data["accesses"], data["hits"]) == (len(found), sum(row.hits for row in found))
    for each, entry in zip(analysis.subjects, data["variables"], strict=True):
        assert entry["types"] == dict(zip(KINDS, each.kinds, strict=True))
        assert entry["groups"] == len(entry["rows"])
        assert sum(row["accesses"] for row in entry["rows"]) == entry["accesses"] == len(each)
        assert sum(sum(lane["counts"]) for lane in entry["timeline"]["lanes"]) == len(each)
        assert sum(stack["accesses"] for stack in entry["stacks"]) == int((each.accesses.stack >= 0).sum())
        found_ = summarise(each)
        silent = entry["findings"]["silent_stores"]
        assert (silent and silent["count"]) == (found_.silent and found_.silent.count)


def test_json() -> None:
    data = json.loads(
        json_of(Analysis(make_accesses(SMALL, sites=SITES), Selection()), ("value", "task"), None)
    )
    (entry,) = data["variables"]
    assert (entry["symbol"], entry["address"], entry["length"], entry["type"]) == (
        "./prog:counter", "0x4000", 4, "unsigned int",
    )  # fmt: skip
    row = entry["rows"][0]
    assert (row["value"], row["comm"], row["tid"], row["accesses"], row["share"]) == (1, "maker", 11, 2, 0.5)
    assert row["last_writer"]["tid"] == 11
    assert entry["timeline"] is None
    assert entry["findings"]["close_together"] == {
        "count": 1, "window_ns": NEAR_NS, "least_ns": 900,
        "places": [{"places": ["reader+0x10 [prog]", "writer+0x20 [prog]"], "count": 1}],
    }  # fmt: skip
    assert [writer["value"] for writer in entry["last_writers"]] == [7, 1]


# -- source lines -----------------------------------------------------------------------------------------

PROGRAM = "int counter;\nint main(void)\n{\n    counter = 5;\n    return counter;\n}\n"


@pytest.mark.parametrize("flags", [(), ("-gdwarf-4",), ("-gno-as-locview-support",)])
def test_source_lines(tmp_path: Path, flags: tuple[str, ...]) -> None:
    pytest.importorskip("elftools")
    program = build(tmp_path, "prog", PROGRAM, "-g", "-O0", "-Wl,--build-id", *flags)
    from ksym.symbols.elf import ElfFile

    with ElfFile(program) as elf:
        build_id = elf.build_id
        (start,) = (symbol.value for symbol in elf.find("main"))
        size = next(symbol.size for symbol in elf.find("main"))
    assert build_id
    lines = {}
    for known in (build_id, "00" * 20, build_id[:-2] + "zz", ""):
        sources = Sources({str(program): known, "/dev/zero": build_id, "relative/prog": build_id})
        lines[known] = {
            sources.line(make_site("main", offset, text=None, ip=start + offset)) for offset in range(1, size)
        }
        assert sources.line(make_site("no_such", 1)) is None
        assert sources.line(make_site("main", 1, owner=None)) is None
        assert sources.line(make_site(None, 1)) is None
        sources.close()
    assert {"prog.c:4", "prog.c:5"} <= lines[build_id]
    assert all(found == {None} for known, found in lines.items() if known != build_id)


def test_a_path_that_would_wait_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "prog")
    assert Sources({str(tmp_path / "prog"): "ab" * 20}).line(make_site("main")) is None


# -- the command ------------------------------------------------------------------------------------------


class FakeRecording:
    """What open_recording gives."""

    def __init__(self, accesses: Accesses, **counts: Any) -> None:
        self.path, self.machine, self.counts, self.cut = (
            "x.data",
            Machine("vm", "6.1", "x86_64", 2),
            counts,
            None,
        )
        self.by_ksym = True
        self.start = argparse.Namespace(version="0.1")
        self._accesses = accesses

    def accesses(self) -> Accesses:
        return self._accesses


def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str, **counts: Any
) -> str:
    recording = FakeRecording(both(SMALL), **counts)
    monkeypatch.setattr(reader, "open_recording", lambda path, progress: recording)
    monkeypatch.delenv("COLUMNS", raising=False)
    assert command.run(parse("report", command, words)) == 0
    return capfd.readouterr().out


def test_the_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    text = run(
        monkeypatch, capfd, "x.data", "--by", "task", "--only", "W", lost=3, suppressed="many", notes=["n"]
    )
    assert "3 accesses (4 hits), 3 lost, 0 suppressed" in text
    assert "selected --only W: of 4 accesses" in text
    assert "\x1b" not in text
    data = json.loads(run(monkeypatch, capfd, "--json", "--top", "1", "--timeline", "task", notes="none"))
    assert (len(data["variables"][0]["rows"]), data["variables"][0]["groups"], data["notes"]) == (1, 3, [])
    assert data["variables"][0]["timeline"]["by"] == "task"
    assert "over time" not in run(monkeypatch, capfd, "--timeline", "off")


@pytest.mark.parametrize(
    "words",
    [
        ("--by", "pid"),
        ("--by", ""),
        ("--top", "-1"),
        ("--top", "x"),
        ("--only", "Q"),
        ("--since", "now"),
        ("a", "b"),
    ],
)
def test_wrong_usage(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        parse("report", command, words)


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("patience", "screen", "shown"), [(0, Screen(), True), (3600, Screen(), False), (0, io.StringIO(), False)]
)
def test_a_bar_where_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, patience: int, screen: io.StringIO, shown: bool
) -> None:
    monkeypatch.setattr(progress, "_AFTER", patience)
    monkeypatch.setattr(progress, "_BETWEEN", 0)
    monkeypatch.setattr("sys.stderr", screen)
    with progress.Progress("reading x.data") as bar:
        for done in (0, 50, 100):
            bar(done, 100)
    text = screen.getvalue()
    assert bool(text) == shown
    if shown:
        assert f"[{'#' * 15:<30}]  50%" in text
        assert text.endswith("100%\r\x1b[K")


def test_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    importer = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "numpy":
            raise ImportError(name)
        return importer(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(KsymError, match="numpy is not installed"):
        command.run(parse("report", command, ["x.data"]))
