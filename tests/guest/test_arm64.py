# SPDX-License-Identifier: BSD-2-Clause
"""What is different on arm64: the trap comes before the access, registers cover any bytes, reads have registers."""

from __future__ import annotations

import ctypes
import json
import os
import re
from contextlib import ExitStack

import pytest

from guest.running import PID_MAX, trace
from ksym.linux import perf_event
from ksym.linux.perf_event import Attr, Flag, PerfEvent
from ksym.watch.plan import split
from support.program import ksym, shell

pytestmark = pytest.mark.guest

WRITES = 40
OOPS = "/proc/sys/kernel/panic_on_oops"


def test_a_register_covers_any_bytes_of_a_word() -> None:
    """Each byte of two words is written once, and the pieces see just those of theirs."""
    buffer = (ctypes.c_uint64 * 2)()
    view, base = memoryview(buffer).cast("B"), ctypes.addressof(buffer)
    for offset in range(8):
        for length in range(1, 9):
            pieces = split(base + offset, length)
            assert len(pieces) == 1 + (offset + length > 8)
            assert hits(view, [(base + offset + piece.offset, piece.length) for piece in pieces]) == [
                piece.length for piece in pieces
            ]


def hits(view: memoryview, places: list[tuple[int, int]]) -> list[int]:
    """What watches on writes at those (address, length) see when each byte is written once."""
    with ExitStack() as stack:
        events = []
        for address, length in places:
            attr = Attr(
                perf_event.TYPE_BREAKPOINT,
                flags=Flag.DISABLED | Flag.EXCLUDE_KERNEL | Flag.EXCLUDE_HV,
                bp_type=2,
                bp_address=address,
                bp_length=length,
            )
            events.append(PerfEvent(attr, pid=0, cpu=-1))
            stack.callback(events[-1].close)
        for event in events:
            event.enable()
        for at in range(len(view)):
            view[at] = 1
        for event in events:
            event.disable()
        return [event.read()[0] for event in events]


def test_instructions_tell_reads_from_writes(pid_max: str) -> None:
    value = PID_MAX.read_text().strip()
    result = trace(pid_max, *shell(f"cat {PID_MAX}; echo {value} > {PID_MAX}"))
    rows = [row for row in result.rows() if row["comm"] == "cat" or row["access"] == "W"]
    assert [(row["comm"], row["access"]) for row in rows] == [("cat", "R"), ("sh", "W")]
    assert all(re.fullmatch(r"\.inst 0x[0-9a-f]{8}", row["instruction"]) for row in rows)
    assert "TYPE" not in result.err


def test_a_register_for_reads_alone() -> None:
    """A fork reads the counter, adds one and writes it, by an instruction each."""
    for mode, access in (("r--", "R"), ("-w-", "W")):
        rows = trace(f"total_forks:{mode}", *shell("/bin/true; /bin/true; exit 0")).rows()
        assert [row["access"] for row in rows if row["comm"] == "sh"] == [access] * 2
    assert json.loads(ksym("resolve", "--json", "total_forks:r--").out)["registers"] == 1


def test_the_reported_instruction_is_the_one_that_accesses() -> None:
    rows = trace("total_forks", "-g", *shell("/bin/true; exit 0")).rows()
    mine = [row for row in rows if row["comm"] == "sh"]
    assert len(mine) == 2
    assert {row["stack"][0] for row in mine} == {f"{row['function']}+{row['offset']:#x}" for row in mine}


def test_writes_are_counted_exactly() -> None:
    script = f"i=0; while [ $i -lt {WRITES} ]; do echo 0 > {OOPS}; i=$((i + 1)); done"
    result = ksym("stat", "panic_on_oops:-w-", "--json", *shell(script))
    assert result.status == 0, result.err
    assert json.loads(result.out)["hits"] == WRITES


def test_kernel_variables_are_watched_on_cpus_alone() -> None:
    result = ksym("trace", "total_forks", "-p", str(os.getpid()))
    assert result.status == 125
    assert result.err.splitlines() == [
        "ksym: cannot watch total_forks: this machine watches kernel variables on whole CPUs, not in a process; "
        "leave out -p, and give --if 'pid == PID'"
    ]
    rows = trace("total_forks:-w-", "--if", 'comm == "sh"', *shell("/bin/true; exit 0")).rows()
    assert [(row["comm"], row["access"]) for row in rows] == [("sh", "W")]


def test_variable_of_a_library() -> None:
    script = "import os; os.putenv('a', 'b'); os.putenv('c', 'd')"
    rows = trace("libc.so.6:environ", "--", "/usr/bin/python3", "-c", script).rows()
    kinds = {row["access"] for row in rows}
    assert kinds == {"R", "W"}
    assert ("R", "getenv") in {(row["access"], row["function"]) for row in rows}


def test_atomic_instructions_read_and_write() -> None:
    """A fork takes a lock by such an instruction, and gives it back by a store."""
    for mode, kinds in (("r--", {"RW"}), ("-w-", {"RW", "W"})):
        rows = trace(f"tasklist_lock:{mode}", *shell("/bin/true; exit 0")).rows()
        assert {
            row["access"] for row in rows if row["comm"] == "sh" and row["function"] == "copy_process"
        } == kinds
