# SPDX-License-Identifier: BSD-2-Clause
"""Each kind of instruction, run once: how many hits it takes, and which TYPE each way of finding out gives it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from ksym.linux.libc import MACHINE
from native.programs.assembly import BOTH_WAYS, source
from native.programs.exact import Rows, trace
from native.programs.instructions import CASES, PLACED, VALUE, WAYS_OF_ONE, Case, Placed
from support.processor import flags, of_processor
from support.program import ksym
from synthetic.compile import build

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="the instructions are x86"),
]

WAYS = {
    "twins": ("rw-", ("--twin", "on")),
    "change": ("rw-", ("--twin", "off")),
    "decoding": ("rw-", ("--twin", "off", "--no-bpf")),
    "-w-": ("-w-", ()),
    "r--": ("r--", ()),
}
WITHOUT_PROGRAMS = {"twins": "rw-", "-w-": "-w-", "r--": "r--"}
"""Ways that must not differ with ``--no-bpf``: the records of twins are told apart outside of the kernel then."""


def can_run(case: Case) -> bool:
    return not case.flag or case.flag in flags()


def need(case: Case) -> None:
    if not can_run(case):
        pytest.skip(f"this processor has no {case.flag}")
    if case.vendor and case.vendor != of_processor("vendor_id"):
        pytest.skip(f"seen on processors of {case.vendor} alone")


def assembled(folder: Path, cases: tuple[Case, ...], more: str = "") -> Path:
    text = source(tuple(case for case in cases if can_run(case))) + more
    return build(folder, "prog", text, "-no-pie", suffix="s")


def by_function(rows: Rows) -> dict[str, list[tuple[str, int]]]:
    """(TYPE, hits) of each row, by the function that it names."""
    found = defaultdict(list)
    for row in rows:
        found[row["function"]].append((row["access"], row["hits"]))
    return found


Runs = Callable[..., Rows]


def runs_of(program: Path) -> Runs:
    """Traces it, once for each choice of options."""
    return cache(lambda *words: trace(program, *words)[0])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return runs_of(assembled(tmp_path_factory.mktemp("instructions"), CASES))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_instruction(case: Case, runs: Runs) -> None:
    need(case)
    expected = {way: [(kind, case.hits)] if kind else [] for way, kind in case.types().items()}
    seen = {
        way: by_function(runs(f"./prog:var:{mode}", *options))[case.function]
        for way, (mode, options) in WAYS.items()
    }
    assert seen == expected
    plain = {
        way: by_function(runs(f"./prog:var:{mode}", "--twin", "on", "--no-bpf"))[case.function]
        for way, mode in WITHOUT_PROGRAMS.items()
    }
    assert plain == {way: expected[way] for way in WITHOUT_PROGRAMS}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_but_the_instructions_has_rows(way: str, runs: Runs) -> None:
    mode, options = WAYS[way]
    found = by_function(runs(f"./prog:var:{mode}", *options))
    made = [case for case in CASES if can_run(case)]
    assert found.pop("reset", []) == ([] if mode == "r--" else [("W", 1)] * len(made))
    assert set(found) <= {case.function for case in made}


@pytest.mark.parametrize("way", [way for way in WAYS if way != "decoding"])
def test_values_form_a_chain(way: str, runs: Runs) -> None:
    mode, options = WAYS[way]
    rows = runs(f"./prog:var:{mode}", *options)
    if mode == "r--":
        assert [row for row in rows if row["old"] != row["new"]] == []
    else:
        assert rows[0]["old"] == 0
        assert [(a, b) for a, b in pairwise(rows) if a["new"] != b["old"]] == []
    assert [row for row in rows if row["access"] == "R" and row["old"] != row["new"]] == []
    values = {case.function: int(case.value, 16) for case in CASES if case.value.startswith("0x")}
    begins = [row for row in rows if row["function"] in values]
    assert {VALUE} < {case.value for case in CASES}
    assert [row for row in begins if row["old"] != values[row["function"]]] == []


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return runs_of(assembled(tmp_path_factory.mktemp("placed"), tuple(each.case for each in PLACED)))


@pytest.mark.parametrize(
    "options", [("--twin", "on"), ("--twin", "off"), ("--twin", "on", "--no-bpf")], ids=" ".join
)
@pytest.mark.parametrize("each", PLACED, ids=lambda each: each.case.name)
def test_more_or_less_than_a_watch(each: Placed, options: tuple[str, ...], placed: Runs) -> None:
    need(each.case)
    both = placed("./prog:var:rw-", "./prog:next:rw-", *options)
    one = placed("./prog:byte3:rw-", *options)
    for name, hits, rows in (("var", each.var, both), ("next", each.next, both), ("byte3", each.byte3, one)):
        here = [row for row in rows if row["symbol"] == f"./prog:{name}"]
        assert by_function(here)[each.case.function] == ([(each.case.made, hits)] if hits else []), name


@pytest.mark.parametrize("output", ["json", "csv"])
@pytest.mark.parametrize("bpf", [(), ("--no-bpf",)], ids=["program", "no program"])
def test_one_instruction_that_writes_here_and_reads_there(
    tmp_path: Path, output: str, bpf: tuple[str, ...]
) -> None:
    program = assembled(tmp_path, WAYS_OF_ONE, BOTH_WAYS)
    words = ("trace", "./prog:var", "--twin", "on", *bpf, "--format")
    result = ksym(*words, output, "--", "./prog", cwd=program.parent)
    if output == "json":
        kinds = [row["access"] for row in result.rows() if row["function"] == "both_ways"]
    else:
        kinds = [line.split(",")[8] for line in result.out.splitlines() if ",both_ways," in line]
    assert kinds == ["W", "R", "W"]
