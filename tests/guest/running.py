# SPDX-License-Identifier: BSD-2-Clause
"""Running ksym in a guest, and what its rows and its summary say."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from support.program import Result, ksym

PID_MAX = Path("/proc/sys/kernel/pid_max")
SUMMARY = re.compile(
    r"^ksym: (\d+) access(?:es)? \((\d+) hits?\), (\d+) lost, (\d+) disarmed; ", re.MULTILINE
)

Rows = list[dict[str, Any]]


def trace(*arguments: str) -> Result:
    """Trace to the end; nothing is lost, nothing disarmed."""
    result = ksym("trace", "--format", "json", *arguments)
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
