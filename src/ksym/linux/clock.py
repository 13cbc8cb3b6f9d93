# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's monotonic clock, as perf's records and BPF programs have it.

Those take their times from the host's CLOCK_MONOTONIC. In a time namespace (time_namespaces(7)) clock_gettime(2) adds
an offset to it, so times that are compared with those of records are taken here.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache

from ksym.errors import KsymError
from ksym.linux.files import read_text

_INITIAL = "time:[4026531834]"
"""The host's time namespace: PROC_TIME_INIT_INO of linux/proc_ns.h."""


def monotonic_ns() -> int:
    """Return the time on the clock of the records, in nanoseconds.

    Raises:
        KsymError: see `namespace_offset`.
    """
    return time.monotonic_ns() - namespace_offset()


def wall_offset() -> int:
    """Return the nanoseconds to add to a record's time to make it nanoseconds since the epoch.

    Raises:
        KsymError: see `namespace_offset`.
    """
    return time.time_ns() - monotonic_ns()


@lru_cache(maxsize=1)
def namespace_offset() -> int:
    """Return the nanoseconds that this process's time namespace adds to the host's CLOCK_MONOTONIC.

    They cannot change: the kernel fixes the offsets when the first process enters the namespace.

    Raises:
        KsymError: if the process is in a time namespace and its offset cannot be found out.
    """
    try:
        own = os.readlink("/proc/self/ns/time")
    except OSError:  # a kernel without time namespaces (before 5.6, or without CONFIG_TIME_NS), or no /proc
        return 0
    if own == _INITIAL:
        return 0
    # timens_offsets holds the offsets of the namespace for children (proc_timens_show_offsets in
    # kernel/time/namespace.c). That is another one for a process that has called unshare(2) and was not forked since.
    for pid in ("self", str(os.getppid())):
        try:
            if os.readlink(f"/proc/{pid}/ns/time_for_children") == own:
                return parse_offsets(read_text(f"/proc/{pid}/timens_offsets"))
        except (OSError, ValueError):
            continue
    raise KsymError(
        "cannot tell the time of accesses", "ksym is in a time namespace whose offset it cannot read",
        "run it outside of it, or start it with unshare --time --fork",
    )  # fmt: skip


def parse_offsets(text: str) -> int:
    r"""Return the offset of CLOCK_MONOTONIC in nanoseconds, from the text of ``timens_offsets``.

    >>> parse_offsets("monotonic           -3 500000000\nboottime             0         0\n")
    -2500000000

    Raises:
        ValueError: if there is no such line.
    """
    for row in text.splitlines():
        clock, *numbers = row.split()
        if clock in ("monotonic", "1") and len(numbers) == 2:
            return int(numbers[0]) * 1_000_000_000 + int(numbers[1])
    raise ValueError(text)
