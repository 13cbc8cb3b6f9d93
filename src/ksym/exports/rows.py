# SPDX-License-Identifier: BSD-2-Clause
"""CSV and JSON lines: the rows of ``ksym trace`` and ``ksym script``, from the same code."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from ksym.recording.accesses import Accesses
from ksym.views.bulk import bulk_rows_for, texts


def write(
    accesses: Accesses,
    out: BinaryIO,
    step: Callable[[int], None] = lambda done: None,
    *,
    name: str,
    raw: bool = False,
) -> None:
    """Write a row an access.

    Args:
        accesses: The accesses.
        out: The file, open for writing.
        step: Told how many have been taken.
        name: The format, as in ``--format``: ``csv`` or ``json``.
        raw: See `views.delimited.Csv`.

    Raises:
        OSError: it cannot be written.
    """
    rows = bulk_rows_for(name, accesses, raw=raw)
    out.write(rows.header().encode())
    done = 0
    for text, count in texts(rows, accesses):
        out.write(text.encode("utf-8", "backslashreplace"))
        done += count
        step(done)
