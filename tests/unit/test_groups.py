# SPDX-License-Identifier: BSD-2-Clause
"""Accesses grouped, over time, and by call chains."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ksym.capture.sites import Named, Site
from ksym.recording.accesses import KINDS
from ksym.recording.knowledge import named_data, named_from
from ksym.reports.analysis import Analysis
from ksym.reports.call_tree import Node, chains, grow
from ksym.reports.groups import KEYS
from ksym.reports.select import Selection
from ksym.reports.timeline import LANES, draw
from support.accesses import START, Row, make_accesses, make_site
from support.reports import (
    SITES,
    STACKS,
    both,
    json_of,
    rows,
    subject,
    text_of,
)

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
        subject([Row(0, cpu=3), Row(50, cpu=3), Row(99, "R", cpu=1)]), (START, START + 100), 4, "cpu"
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


def test_code_without_a_symbol_is_grouped_by_its_place_in_the_file() -> None:
    def at(offset: int, ip: int) -> Site:
        return replace(SITES[0], ip=ip, named=Named("lib.so", offset, owner="lib.so", in_file=True))

    sites = (at(0x10FF, 0x7F0000010FF), at(0x1107, 0x7F000001107), at(0x10FF, 0x7E00000010FF))
    made = make_accesses([Row(n, "W", site=n % 3) for n in range(6)], sites=sites, stacks=[(sites[0].named,)])
    (each,) = Analysis(made, Selection()).subjects
    groups, _ = each.groups(["function"])
    assert [(group.label, group.fields["offset"], group.accesses) for group in groups] == [
        (("lib.so+0x10ff",), 0x10FF, 4), (("lib.so+0x1107",), 0x1107, 2),
    ]  # fmt: skip
    assert sites[0].named.code == "lib.so+0x10ff"
    assert named_from(named_data(sites[0].named)) == sites[0].named
