# SPDX-License-Identifier: BSD-2-Clause
"""OLD is what the memory held, whoever has it: processes that share it, copies of it, and writers that nobody saw."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import ksym as api
from ksym.linux import bpf
from ksym.linux.libc import MACHINE
from native.programs import memories
from native.programs.exact import Rows, trace
from native.running import ended, line, started
from support.program import ksym
from synthetic.compile import build

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="elsewhere no programs run at watchpoints"),
]

MODES = {
    "twins": ("rw-", "--twin", "on"),
    "one register": ("rw-", "--twin", "off"),
    "writes": ("-w-", "--twin", "auto"),
}


def changes(rows: Rows) -> list[tuple[Any, Any]]:
    return [(row["old"], row["new"]) for row in rows if row["access"] != "R"]


@pytest.fixture(scope="module")
def relatives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("relatives"), "prog", memories.RELATIVES, "-g", "-O1")


@pytest.mark.parametrize("mode", MODES)
def test_children_with_the_memory_and_children_with_a_copy(mode: str, relatives: Path) -> None:
    access, *options = MODES[mode]
    rows, _ = trace(relatives, f"./prog:turn:{access}", *options)
    assert changes(rows) == memories.RELATIVES_SHOWN
    assert all(row["old"] == row["new"] for row in rows if row["access"] == "R")
    assert len({row["pid"] for row in rows}) == 5


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("changed", memories.RELATIVES_SHOWN),
        ("old == 210", [(210, 211), (210, 200)]),
        ("old == 2", [(2, 6), (2, 22)]),
        ("new > old << 3", [(2, 22), (22, 286)]),
    ],
)
def test_a_condition_knows_what_a_child_began_with(
    condition: str, kept: list[tuple[int, int]], relatives: Path
) -> None:
    rows, result = trace(relatives, f"./prog:turn:-w- if {condition}")
    assert changes(rows) == kept
    assert "not known" not in result.err
    counted = ksym("stat", f"./prog:turn:-w- if {condition}", "--", "./prog", cwd=relatives.parent)
    assert f"ksym: {len(kept)} hits, 0 lost" in counted.err


def test_memory_that_is_shared_only_after_it_was_watched(tmp_path: Path) -> None:
    program = build(tmp_path, "prog", memories.COVERED, "-g", "-O1")
    rows, _ = trace(program, "./prog:common[0]:-w-")
    assert changes(rows) == memories.COVERED_SHOWN
    rows, _ = trace(program, "./prog:common[0]:-w- if old == 15")
    assert changes(rows) == [(15, 17)]


@pytest.mark.parametrize("access", ["-w-", "rw-"])
def test_a_child_of_a_process_that_goes_on_writing(access: str, tmp_path: Path) -> None:
    program = build(tmp_path, "prog", memories.HASTY, "-g", "-O1", "-pthread")
    rows, _ = trace(program, f"./prog:hot:{access}", arguments=["30"])
    parent = rows[0]["pid"]
    left = [row for row in rows if row["pid"] != parent]
    written = [row for row in left if row["access"] != "R"]
    assert len({row["pid"] for row in left}) == len(written) == 30
    assert [row["new"] ^ row["old"] for row in written] == [2**32 - 1] * 30
    assert all(row["old"] == row["new"] for row in left if row["access"] == "R")
    assert [
        (a, b) for a, b in pairwise(row for row in rows if row["pid"] == parent) if a["new"] != b["old"]
    ] == []


def test_memory_that_comes_back_as_anothers(tmp_path: Path) -> None:
    program = build(tmp_path, "prog", memories.SHORT_LIVED, "-g", "-O1")
    rows, _ = trace(program, "./prog:mark:-w-", arguments=["200"])
    assert changes(rows) == [*((7, 1000 + n) for n in range(1, 201)), (7, 8)]


@contextlib.contextmanager
def ticking(
    program: Path, *requests: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes], list[str]]]:
    """A program that ticks until its stdin is closed, ksym once it has shown a tick, and the program's first line."""
    process = subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environment}
    )
    with process:
        assert process.stdout
        said = process.stdout.readline().decode().split()
        words = ["trace", *requests, "./prog:ticks:-w-", "-p", str(process.pid), "--format", "json"]
        with started(*words, cwd=program.parent) as tracer:
            while "ticks" not in line(tracer):
                pass
            yield process, tracer, said


def went_on(process: subprocess.Popen[bytes], tracer: subprocess.Popen[bytes]) -> tuple[Rows, str]:
    """Close the program's stdin; rows of other variables than ``ticks``, and stderr."""
    assert process.stdin
    process.stdin.close()
    out, error = ended(tracer)
    rows = [json.loads(each) for each in out.splitlines()]
    return [row for row in rows if not row["symbol"].endswith("ticks")], error


def test_two_processes_with_one_page(tmp_path: Path) -> None:
    program = build(tmp_path, "prog", memories.IN_COMMON, "-g", "-O1")
    with ticking(program, "./prog:common->shared:-w-", "./prog:own:-w-") as (process, tracer, _):
        rows, error = went_on(process, tracer)
    common = [row for row in rows if "common" in row["symbol"]]
    assert changes(common) == [(n, n + 1) for n in range(40)]
    assert [row["pid"] == process.pid for row in common] == [True, False] * 20
    for of_parent, step in ((True, 1), (False, 100)):
        mine = [row for row in rows if row not in common and (row["pid"] == process.pid) == of_parent]
        assert changes(mine) == [(step * n, step * n + step) for n in range(20)]
    assert "unseen" not in error
    assert "has, too" not in error


def test_a_page_that_another_process_had_before(tmp_path: Path) -> None:
    """One of two is watched: what the other does is found by what it reads, and the other is named."""
    program = build(
        tmp_path, "prog", memories.IN_COMMON, "-g", "-O0"
    )  # so that reads and writes are two accesses
    with ticking(program, "./prog:common->shared", EARLY="1") as (process, tracer, _):
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        rows, error = went_on(process, tracer)
    assert {row["pid"] for row in rows} == {process.pid}
    assert changes(rows) == [(2 * n, 2 * n + 1) for n in range(20)]
    assert [row["old"] for row in rows if row["access"] == "R"] == [0, *(2 * n + 1 for n in range(19))]
    assert f"./prog:common->shared lies in memory that process {child} has, too" in error
    assert "19 reads of ./prog:common->shared found another value than was last seen" in error


@pytest.mark.parametrize("mode", MODES)
def test_what_the_kernel_writes_for_the_program(mode: str, tmp_path: Path) -> None:
    access, *options = MODES[mode]
    program = build(tmp_path, "prog", memories.BY_THE_KERNEL, "-g", "-O1")
    rows, result = trace(program, f"./prog:level:{access}", *options)
    assert changes(rows) == [(4, 5), (6, 6), (9, 6)]
    assert [(row["old"], row["new"]) for row in rows if row["access"] == "R"] == [(6, 6)] * (access == "rw-")
    assert "ksym: the kernel's own " in result.err
    assert "--kernel-accesses shows them" in result.err
    rows, _ = trace(program, f"./prog:level:{access} if changed", *options)
    assert changes(rows) == [(4, 5), (9, 6)]
    _, result = trace(program, f"./prog:level:{access}", *options, "--kernel-accesses")
    assert "kernel's own" not in result.err


def late_exit_tracepoint() -> bool:
    """True before 6.16, where a task that ends has no memory left when programs hear of it."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor)) < (6, 16)


@pytest.mark.skipif(
    late_exit_tracepoint(), reason="of a process that ended, this kernel's programs cannot read the memory"
)
def test_a_value_that_was_written_behind_the_programs_back(tmp_path: Path) -> None:
    program = build(tmp_path, "prog", memories.BEHIND_ITS_BACK, "-g", "-O1")
    for access in ("-w-", "rw-"):
        rows, result = trace(program, f"./prog:level:{access}", "--twin", "on" if access == "rw-" else "auto")
        assert changes(rows) == [(4, 5), (70 if access == "rw-" else 5, 6)]
        assert (
            "./prog:level held 71 when its process ended, where 6 was last seen: it was written unseen"
            in result.err
        )
        assert ("1 read of ./prog:level found another value" in result.err) == (access == "rw-")
        assert "--kernel-accesses" not in result.err


def test_a_value_of_a_live_process_that_was_written_unseen(tmp_path: Path) -> None:
    program = build(tmp_path, "prog", memories.TICKING, "-g", "-O1")
    for write in (True, False):
        with ticking(program, "./prog:level:-w-") as (process, tracer, (address,)):
            if write:
                with open(f"/proc/{process.pid}/mem", "r+b", buffering=0) as memory:
                    memory.seek(int(address, 16))
                    memory.write((23).to_bytes(4, "little"))
            _, error = ended(tracer, signal.SIGINT)
            assert process.stdin
            process.stdin.close()
        assert ("./prog:level holds 23, where 4 was last seen: it was written unseen" in error) == write
        assert ("written unseen" in error) == write


def test_without_hooks_values_go_by_process(
    tmp_path: Path, relatives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel refuses the tracepoints, a child's first value is not known, and what is kept so is counted."""

    def refused(name: str, program: int) -> int:
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(bpf, "raw_tracepoint", refused)
    monkeypatch.chdir(relatives.parent)
    with api.trace("./prog:turn:-w- if old == 30", command=["./prog"]) as accesses:
        found = [(each.old, each.new) for each in accesses]
    assert found == [(None, 6), (None, 30), (None, 211), (None, 22)]
    assert (
        "4 hits of ./prog:turn kept though a value of the condition is not known (OLD or NEW is ?)"
        in accesses.tally.notes
    )
