# SPDX-License-Identifier: BSD-2-Clause
"""What ksym report says is worth a look, on accesses that are made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.reports.analysis import NEAR_NS, Analysis, Near, Silent, Turns, summarise
from ksym.reports.findings import LATE_NS, find
from ksym.reports.select import Selection, kinds, when
from support.accesses import START, Row, make_accesses, make_watch
from support.reports import (
    both,
    rows,
    subject,
)


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
