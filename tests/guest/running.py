# SPDX-License-Identifier: BSD-2-Clause
"""Running ksym in a guest, and what its rows and its summary say."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from support.program import Result, ksym

PID_MAX = Path("/proc/sys/kernel/pid_max")
SUMMARY = re.compile(
    r"^ksym: (\d+) access(?:es)? \((\d+) hits?\), (\d+) lost, (\d+) disarmed; ", re.MULTILINE
)

LIMIT = 300
"""Seconds after which a run hangs for certain: an emulated machine is slow, and slower where others are at work."""

Rows = list[dict[str, Any]]


def trace(*arguments: str) -> Result:
    """Trace to the end; nothing is lost, nothing disarmed."""
    result = ksym("trace", "--format", "json", *arguments, timeout=LIMIT)
    assert result.status == 0, result.err
    assert tallied(result)[2:] == [0, 0], result.err
    return result


def tallied(result: Result) -> list[int]:
    """Accesses, hits, lost, disarmed: what the summary says."""
    found = SUMMARY.search(result.err)
    assert found, result.err
    return [int(number) for number in found.groups()]


def changes(rows: Rows, *comms: str) -> list[tuple[str, Any, Any]]:
    """(TYPE, old, new) of each row, or of those of some tasks."""
    return [(row["access"], row["old"], row["new"]) for row in rows if not comms or row["comm"] in comms]


def broken(rows: Rows) -> list[tuple[Any, Any]]:
    """Where the old value of a row is not the new one of the row before."""
    return [(a["new"], b["old"]) for a, b in pairwise(rows) if a["new"] != b["old"]]


# -- a CPU that goes and comes while it is hit ---------------------------------------------------------

CYCLES, EACH = 2, 150
CPU = "/sys/devices/system/cpu/cpu1/online"


def check_hits(hits: int) -> None:
    """All that `hitting` has made were seen, as far as the kernel lets them.

    Before 1cf12e08bc4d (Linux 5.11) tasks were moved off a CPU that goes when perf had left it already: what they
    access on it meanwhile is seen by nobody. What is written on CPU 0 is.
    """
    release = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    everything = 2 * CYCLES * EACH
    least = everything if release >= (5, 11) else CYCLES * EACH
    assert least <= hits <= everything


def hitting(told: Path, folder: Path) -> str:
    """A script that writes ``panic_on_oops`` 2 * CYCLES * EACH times, while CPU 1 goes and comes.

    One task writes on CPU 0 all the while, another one each time on CPU 1 when that goes: it is moved to CPU 0, and
    goes on there. The CPU comes back while it is of no use to anybody, as its first moments are not watched.

    Args:
        told: A file in which ksym tells of CPUs at once.
        folder: For the script's own.
    """

    def write(times: int) -> str:
        return f"i=0; while [ $i -lt {times} ]; do echo 0 > /proc/sys/kernel/panic_on_oops; i=$((i+1)); done"

    def until(text: str) -> str:
        return f"until grep -q '{text}' {told}; do sleep 0.1; done; : > {told}; "

    script = f"cd {folder}; mkfifo going; taskset -c 0 sh -c '{write(CYCLES * EACH)}' & "
    for _ in range(CYCLES):
        script += f"taskset -c 1 sh -c 'echo > going; {write(EACH)}' & n=$!; read line < going; "
        script += f"echo 0 > {CPU}; {until('went offline')}wait $n; "
        script += f"echo 1 > {CPU}; {until('came online')}"
    return script + "wait"
