# SPDX-License-Identifier: BSD-2-Clause
"""What is known of a recording itself: where, when and how it was made, and what it lacks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class About:
    """A recording.

    Args:
        path: The file.
        start_ns: When it began; None where it does not say, as perf's own files.
        machine: What made it: ``hostname``, ``release``, ``arch``, ``cpus``, as far as it is known.
        made_by: The program and its version.
        lost: Hits of which there is no record.
        rejected: Hits that did not match a condition.
        suppressed: Hits of watches that the guard had given up.
        disarmed: Watches that the guard took off.
        removed: Hits in files of the same run that are not kept (--max-size).
        unwritten: Hits for which the disk had no room.
        continues: It goes on where FILE.1 ends.
        cut: Why it is not whole; None if it is.
        notes: What was missed, in words.
        sampled: Why the accesses are some of those that were made, in a clause; None: they are all.
    """

    path: str
    start_ns: int | None = None
    machine: dict[str, Any] | None = None
    made_by: str = ""
    lost: int = 0
    rejected: int = 0
    suppressed: int = 0
    disarmed: int = 0
    removed: int = 0
    unwritten: int = 0
    continues: bool = False
    cut: str | None = None
    notes: tuple[str, ...] = ()
    sampled: str | None = None


def time_of_day(time_ns: int) -> str:
    """Local time, ``10:22:31.2034``, as the rows of trace have it."""
    second, rest = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%H:%M:%S', _local(second))}.{rest // 100_000:04d}"


def date(time_ns: int) -> str:
    """The local date, ``2026-11-23``."""
    return time.strftime("%Y-%m-%d", _local(time_ns // 1_000_000_000))


def _local(second: int) -> time.struct_time:
    try:
        return time.localtime(second)
    except (OverflowError, ValueError, OSError):  # of a damaged recording
        return time.localtime(0)


def length(ns: float) -> str:
    """A stretch of time: ``21 ms``, ``1.24 s``, ``2 h 3 min``."""
    if ns >= 3600e9:
        return f"{ns // 3600e9:.0f} h {ns % 3600e9 / 60e9:.0f} min"
    if ns >= 120e9:
        return f"{ns // 60e9:.0f} min {ns % 60e9 / 1e9:.0f} s"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}" if ns < 100 * size else f"{ns / size:.0f} {unit}"
    return f"{ns:.0f} ns"
