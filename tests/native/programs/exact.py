# SPDX-License-Identifier: BSD-2-Clause
"""Traces of which every row and every hit is accounted for."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import ksym as api
from ksym.api.live import Access, Accesses
from native.running import summary
from support.program import Result, ksym

Rows: TypeAlias = list[dict[str, Any]]


def trace(program: Path, *words: str, arguments: Sequence[str] = ()) -> tuple[Rows, Result]:
    """Trace one run of a program, which is called ``prog``: its rows are all that the counters counted.

    Args:
        program: It runs in its own folder.
        words: Requests and options.
        arguments: The program's.
    """
    result = ksym("trace", *words, "--format", "json", "--", "./prog", *arguments, cwd=program.parent)
    assert result.status == 0, (result.status, result.err)
    rows = result.rows()
    counted = re.match(
        r"ksym: (\d+) access(?:es)? \((\d+) hits?\), 0 lost, 0 disarmed; ", summary(result.err)
    )
    assert counted, result.err
    assert [int(number) for number in counted.groups()] == [len(rows), sum(row["hits"] for row in rows)]
    return rows, result


def caught(program: Path, *requests: str, arguments: Sequence[str] = (), **options: Any) -> list[Access]:
    """As `trace` does, from within this process, which is cheaper; ``{}`` in a request stands for the program.

    Args:
        program: The program.
        requests: What to watch.
        arguments: The program's.
        options: Those of `ksym.trace`.
    """
    found, accesses = _caught(program, requests, arguments, options)
    if accesses.status == 128 + signal.SIGTRAP:  # see support.apart
        print("once more, as the program died of SIGTRAP", file=sys.stderr)
        found, accesses = _caught(program, requests, arguments, options)
    tally = accesses.tally
    assert (accesses.status, tally.lost, tally.disarmed, list(tally.notes)) == (0, 0, 0, [])
    assert tally.shown == sum(each.hits for each in found)
    return found


def _caught(
    program: Path, requests: Sequence[str], arguments: Sequence[str], options: dict[str, Any]
) -> tuple[list[Access], Accesses]:
    command = [str(program), *arguments]
    with api.trace(*(each.format(program) for each in requests), command=command, **options) as accesses:
        found = list(accesses)
    return found, accesses
