# SPDX-License-Identifier: BSD-2-Clause
"""Parquet: one file, or folders ``host=HOST/date=YYYY-MM-DD/FILE.parquet`` as Spark, Trino and DuckDB read them.

Compression is zstd. What rises by steps (times, counters) is stored as differences, all else as numbers into a
dictionary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import numpy as np
import pyarrow.parquet as pq

from ksym.exports.arrow import table
from ksym.recording.accesses import Accesses
from ksym.recording.ahead import ahead

ROWS = 1 << 17
"""Of a row group: what is in memory at once, and what a reader can pass over by its least and greatest values."""
_RISING = ("time_ns", "time", "old", "new")
_DAY_NS = 86_400 * 10**9
NO_HOST = "__HIVE_DEFAULT_PARTITION__"
"""What Hive, and all who took its folders over, read as null."""


def write(
    accesses: Accesses, out: BinaryIO, step: Callable[[int], None] = lambda done: None, *, fleet: bool = False
) -> None:
    """Write accesses into a file.

    Args:
        accesses: The accesses.
        out: The file, open for writing.
        step: Told how many have been taken.
        fleet: See `exports.arrow.table`.

    Raises:
        OSError: it cannot be written.
    """
    first = table(accesses.select(slice(0, ROWS)), fleet=fleet)
    differences = [name for name in _RISING if str(first.schema.field(name).type) in _WHOLE]
    writer = pq.ParquetWriter(
        out, first.schema, compression="zstd", store_schema=True,
        use_dictionary=[name for name in first.column_names if name not in differences],
        write_statistics=list(_RISING),
        column_encoding=dict.fromkeys(differences, "DELTA_BINARY_PACKED"),
    )  # fmt: skip
    with writer, closing(ahead(_tables(accesses, first, fleet, step))) as tables:
        for each in tables:
            writer.write_table(each)


_WHOLE = ("int64", "uint64", "timestamp[ns, tz=UTC]", "timestamp[us, tz=UTC]")


def _tables(accesses: Accesses, first: Any, fleet: bool, step: Callable[[int], None]) -> Iterator[Any]:
    yield first
    for at in range(ROWS, len(accesses), ROWS):
        step(at)
        yield table(accesses.select(slice(at, at + ROWS)), fleet=fleet)


def partitions(accesses: Accesses, host: str, name: str) -> Iterator[tuple[Path, Accesses]]:
    """The parts of a fleet's folder that a recording fills: path inside of it, and accesses.

    Args:
        accesses: The accesses, in order of time.
        host: Where they were made; from the recording, so it may be anything.
        name: What tells the recording from others of that host and day.
    """
    folder = Path("host=" + (quote(host, safe="") or NO_HOST))
    days = accesses.time_ns // _DAY_NS
    # A day begins where the number of the day is another one than in front of it.
    if not len(days):
        return
    starts = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist()]
    for start, end in zip(starts, [*starts[1:], len(days)], strict=True):
        date = time.strftime("%Y-%m-%d", time.gmtime(int(days[start]) * 86_400))
        yield folder / f"date={date}" / name, accesses.select(slice(start, end))
