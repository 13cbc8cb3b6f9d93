# SPDX-License-Identifier: BSD-2-Clause
"""Traces of which every row and every hit is accounted for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

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
