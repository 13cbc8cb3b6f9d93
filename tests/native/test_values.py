# SPDX-License-Identifier: BSD-2-Clause
"""Values: of programs that write known ones in a known order, every old and every new value is as it was."""

from __future__ import annotations

import os
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ksym.linux.libc import MACHINE
from ksym.symbols.elf import ElfFile
from native.programs import values
from native.programs.exact import Rows, trace
from native.programs.values import RACES, SEQUENCES, TURNS, Sequence
from support.program import ksym
from synthetic.compile import build

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="elsewhere no programs run at watchpoints"),
]

NAMES = ("even", "odd")
MODES = {
    "twins": ("rw-", "--twin", "on"),
    "one register": ("rw-", "--twin", "off"),
    "writes": ("-w-", "--twin", "auto"),
}


def two_cpus() -> list[str]:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        pytest.skip("there is one CPU alone")
    return [str(cpu) for cpu in cpus]


def broken(rows: Rows) -> list[tuple[Any, Any]]:
    """Where the old value of a row is not the new one of the row before."""
    return [(a["new"], b["old"]) for a, b in pairwise(rows) if a["new"] != b["old"]]


def written(rows: Rows) -> Rows:
    return [row for row in rows if row["access"] in ("W", "RW")]


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(
        tmp_path_factory.mktemp("turns"),
        "prog",
        values.taking_turns(),
        "-g",
        "-O1",
        "-w",
        "-no-pie",
        "-pthread",
    )


def groups() -> list[list[Sequence]]:
    """The sequences, as many at a time as fit into four registers with twins."""
    single = [each for each in SEQUENCES if each.pieces == 1]
    pairs = [single[at : at + 2] for at in range(0, len(single), 2)]
    return pairs + [[each] for each in SEQUENCES if each.pieces > 1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("group", groups(), ids=lambda group: "+".join(each.name for each in group))
def test_two_threads_in_turn(group: list[Sequence], mode: str, turns: Path) -> None:
    cpus = two_cpus()
    access, *options = MODES[mode]
    requests = [f"{each.target}:{access}" for each in group]
    rows, _ = trace(turns, *requests, *options, arguments=cpus)
    assert all(a["time_ns"] < b["time_ns"] for a, b in pairwise(rows))
    for each in group:
        mine = [row for row in rows if row["symbol"] == each.target]
        expected = list(each.shown)
        stores = written(mine)
        assert [row["new"] for row in stores] == expected
        assert [(row["comm"], str(row["cpu"])) for row in stores] == [
            (NAMES[n % 2], cpus[n % 2]) for n in range(TURNS)
        ]
        assert [row["tid"] for row in stores] == [stores[n % 2]["tid"] for n in range(TURNS)]
        assert stores[0]["tid"] != stores[1]["tid"]
        assert {row["pid"] for row in mine} == {stores[0]["pid"]}
        assert {row["hits"] for row in mine} == {1}
        assert mine[0]["old"] == each.first
        assert broken(mine) == []
        loads = [row for row in mine if row not in stores]
        assert {row["access"] for row in loads} <= {"R"}
        assert [row for row in loads if row["old"] != row["new"]] == []
        if access == "-w-":
            assert loads == []
        elif not each.loads:
            assert [row["new"] for row in loads] == ([each.first, *expected[:-1]] if each.load else [])


@pytest.mark.parametrize("mode", MODES)
def test_an_access_of_many_hits_has_the_value_before_all_and_behind_all(mode: str, tmp_path: Path) -> None:
    program = build(tmp_path, "prog", values.SPLIT, "-g", "-O1")
    access, *options = MODES[mode]
    rows, _ = trace(program, f"./prog:split.triple:{access}", *options)
    numbers = [(1, 2, 3), (-1, -2, -3), (-1, -2, -3), (7, -2, -3), (7, -2, 9), (2**31 - 1, -(2**31), 0)]
    assert [tuple(row["new"].values()) for row in rows] == numbers * 2
    assert broken(rows) == []
    assert rows[0]["old"] == {"a": 0, "b": 0, "c": 0}
    assert [row["hits"] for row in rows] == [2] * 6 + [12] * 6
    # Without twins nothing but the change of a value tells whether rep movsb wrote it.
    kinds = ["W" if mode != "one register" or row["old"] != row["new"] else "?" for row in rows]
    assert [row["access"] for row in rows] == ["W"] * 6 + kinds[6:]


@pytest.mark.parametrize("access", ["-w-", "rw-"])
def test_pointers_into_libraries_and_elsewhere(access: str, tmp_path: Path) -> None:
    program = build(tmp_path, "prog", values.POINTING, "-g", "-O1", "-w", "-ldl")
    rows, _ = trace(program, f"./prog:pointer:{access}")
    named = ["0x0", "work", "_IO_2_1_stdout_ [libc.so.6]", "puts [libc.so.6]", "signgam [libm.so.6]"]
    assert [row["old"] for row in rows[:5]] == named
    assert [row["new"] for row in rows[:4]] == named[1:]
    heap, stack = (row["new"] for row in rows[4:])
    assert re.fullmatch("(0x[0-9a-f]+ ?){2}", f"{heap} {stack}")
    result = ksym("trace", f"./prog:pointer:{access}", "--format", "ksym", "--", "./prog", cwd=tmp_path)
    (size,) = (s.size for s in ElfFile(program).find("main"))
    assert re.findall(r"W  main\+0x\w+/(0x\w+) \[prog\]\n", result.out) == [hex(size)] * 6


@pytest.mark.parametrize("name", ["s1", "u4", "real4", "triple", "fields"])
def test_reads_alone(name: str, turns: Path) -> None:
    (each,) = (each for each in SEQUENCES if each.name == name)
    rows, _ = trace(turns, f"{each.target}:r--", arguments=two_cpus())
    assert {row["access"] for row in rows} == {"R"}
    assert [row["new"] for row in rows] == [each.first, *each.shown[:-1]]
    assert [row["old"] for row in rows] == [row["new"] for row in rows]


def test_without_programs_there_are_no_values(turns: Path) -> None:
    rows, _ = trace(turns, "./prog:s4", "--no-bpf", arguments=two_cpus())
    assert len(rows) == 2 * TURNS
    assert {(row["old"], row["new"]) for row in rows} == {(None, None)}


@pytest.fixture(scope="module")
def racing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("racing"), "prog", values.RACING, "-g", "-O1", "-w", "-pthread")


def race(program: Path, request: str, *options: str) -> Rows:
    """Trace a race in which no value was taken without the lock, as the run would say.

    That is when the host takes a virtual CPU away that holds it: then OLD -> NEW may have gaps.
    """
    for _ in range(20):
        rows, result = trace(program, request, *options, arguments=two_cpus())
        if len(result.err.splitlines()) == 1:
            return rows
        assert re.search(r"(?m)^ksym: OLD -> NEW may have gaps: ", result.err)
        assert len(rows) == 2 * RACES
    raise AssertionError("each of many runs had values that were taken without the lock")


@pytest.mark.parametrize("mode", MODES)
def test_two_threads_at_once(mode: str, racing: Path) -> None:
    """At a hit the variable may hold what the other thread has written meanwhile, but nothing else."""
    access, *options = MODES[mode]
    rows = race(racing, f"./prog:shared:{access}", *options)
    assert [row["access"] for row in rows] == ["W"] * 2 * RACES
    assert Counter(row["comm"] for row in rows) == dict.fromkeys(NAMES, RACES)
    assert all(a["time_ns"] <= b["time_ns"] for a, b in pairwise(rows))
    assert rows[0]["old"] == 0
    assert broken(rows) == []
    done = dict.fromkeys(NAMES, 0)
    for row in rows:
        done[row["comm"]] += 1
        writer, number = NAMES[row["new"] >> 32], row["new"] & 0xFFFFFFFF
        # Its own store, or one of the other thread's, whose hit may not be in the rows yet.
        assert number == done[writer] if writer == row["comm"] else number in (done[writer], done[writer] + 1)
    assert rows[-1]["new"] in (RACES, 1 << 32 | RACES)


@pytest.mark.parametrize("mode", ["twins", "writes"])
def test_two_threads_at_two_pieces(mode: str, racing: Path) -> None:
    access, *options = MODES[mode]
    rows = race(racing, f"./prog:pair:{access}", *options)
    assert [(row["access"], row["hits"]) for row in rows] == [("W", 1)] * 2 * RACES
    assert rows[0]["old"] == {"first": 0, "second": 0}
    assert broken(rows) == []
    done = {"even": 0, "odd": 0}
    for row in rows:
        done[row["comm"]] += 1
        mine, other = ("first", "second") if row["comm"] == "even" else ("second", "first")
        behind = done["odd" if row["comm"] == "even" else "even"]
        assert row["new"][mine] == done[row["comm"]]
        assert row["new"][other] in (behind, behind + 1)


@pytest.mark.parametrize("mode", MODES)
def test_each_process_has_a_chain_of_its_own(mode: str, tmp_path: Path) -> None:
    program = build(tmp_path, "prog", values.FORKING, "-g", "-O1", "-w")
    access, *options = MODES[mode]
    rows, _ = trace(program, f"./prog:shared:{access}", *options)
    by_process: dict[int, Rows] = {}
    for row in rows:
        by_process.setdefault(row["pid"], []).append(row)
    chains = [
        [2, *_sums(2, 1), *_sums(17, 1)],
        [*_sums(2, 10), *_sums(152, 10), *_sums(302, 10)],
        _sums(302, 1000),
    ]
    for pid, expected in zip(by_process, chains, strict=True):
        mine = by_process[pid]
        assert [row["new"] for row in written(mine)] == expected
        assert broken(mine) == []
    parent, child, grandchild = by_process.values()
    assert parent[0]["old"] == 1
    # What a fork's copy held before its first access nobody has seen.
    assert child[0]["old"] in (None, 2)
    assert grandchild[0]["old"] in (None, 302)


def _sums(start: int, step: int) -> list[int]:
    return [start + step * number * (number + 1) // 2 for number in range(1, 6)]


@pytest.mark.parametrize("mode", MODES)
def test_what_the_kernel_writes_into_a_program(mode: str, tmp_path: Path) -> None:
    program = build(tmp_path, "prog", values.READING, "-g", "-O1")
    access, *options = MODES[mode]
    rows, _ = trace(program, f"./prog:shared:{access}", *options, "--kernel-accesses")
    by_kernel = [row for row in rows if int(row["ip"], 16) >> 63]
    stores = [row for row in by_kernel if row["access"] != "R"] if access == "rw-" else by_kernel
    assert broken(rows) == []
    assert rows[0]["old"] == 0
    assert (rows[-1]["access"], rows[-1]["function"], rows[-1]["new"]) == ("W", "main", 6)
    if (
        mode == "one register"
    ):  # which of both places of a movs the variable is, is not known where it was read
        assert [row["new"] for row in by_kernel] == [-1, -2, -3, -4, -5, -5]
        return
    assert [(row["access"], row["new"]) for row in stores] == [
        ("W", -1),
        ("W", -2),
        ("W", -3),
        ("W", -4),
        ("W", -5),
    ]
    loads = [(row["access"], row["old"], row["new"]) for row in by_kernel if row not in stores]
    assert loads == ([("R", -5, -5)] if access == "rw-" else [])
    assert {row["hits"] for row in by_kernel} <= {1, 8}  # by words or by bytes, as the processor copies best


@pytest.mark.parametrize("mode", MODES)
def test_a_value_that_cannot_be_read_is_null(mode: str, tmp_path: Path) -> None:
    program = build(tmp_path, "prog", values.UNREADABLE, "-g", "-O1")
    access, *options = MODES[mode]
    rows, _ = trace(program, f"./prog:area.both:{access}", *options)
    assert [(row["access"], row["hits"]) for row in rows] == [("W", 1)] * 5
    assert [_pair(row["new"]) for row in rows] == [(1, 0), (1, 2), None, (4, 2), None]
    # What is not known is null, or what was seen last; it is never made up.
    assert [_pair(row["old"]) for row in rows][:2] == [(0, 0), (1, 0)]
    assert {_pair(row["old"]) for row in rows[2:]} <= {(1, 2), (4, 2), None}


def _pair(value: dict[str, int] | None) -> tuple[int, ...] | None:
    return None if value is None else tuple(value.values())
