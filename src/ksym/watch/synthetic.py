# SPDX-License-Identifier: BSD-2-Clause
"""Records like the kernel's, of what was there before it was asked to tell: names of threads, and mapped code.

perf calls them synthetic (tools/perf/util/synthetic-events.c).
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator, Sequence

from ksym.errors import KsymError
from ksym.linux.clock import monotonic_ns
from ksym.linux.maps import Mapping, read_maps
from ksym.linux.perf_record import COMM, MISC_USER, MMAP2, padded, record

Trailer = Callable[[int, int, int], bytes]
"""What a record ends with: (time, pid, tid)."""

_PROT_READ_EXEC, _MAP_PRIVATE = 5, 2
_TRAILER = struct.Struct("=IIQI4xQ")
"""pid, tid, time, CPU, identifier: of records of the sample type of `watch.rings`."""


def comm(pid: int, tid: int, name: str, trailer: Trailer) -> bytes:
    """Return a COMM record."""
    return record(COMM, struct.pack("<II", pid, tid) + padded(name) + trailer(0, pid, tid))


def threads(pids: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    """Give the threads of processes that live: (pid, tid, name)."""
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/comm", "rb") as file:
                    yield pid, int(thread), file.read().rstrip(b"\n").decode(errors="surrogateescape")


def mapping_records(pids: Sequence[int], trailer: Trailer) -> Iterator[bytes]:
    """Give MMAP2 records of what processes may execute."""
    for pid in pids:
        with contextlib.suppress(OSError, KsymError):
            for mapping in read_maps(pid):
                if mapping.executable and mapping.path:
                    yield _mmap2(pid, mapping, trailer)


def _mmap2(pid: int, mapping: Mapping, trailer: Trailer) -> bytes:
    body = struct.pack(
        "<IIQQQIIQQII", pid, pid, mapping.start, mapping.end - mapping.start, mapping.offset,
        os.major(mapping.device), os.minor(mapping.device), mapping.inode, 0, _PROT_READ_EXEC, _MAP_PRIVATE,
    )  # fmt: skip
    return record(MMAP2, body + padded(mapping.path) + trailer(0, pid, pid), MISC_USER)


class Synthetic:
    """Synthetic records of processes that joined a run, with the interface of a ring (`linux.ring.Ring`)."""

    cpu = -1

    def __init__(self) -> None:
        self._records: list[bytes] = []

    def describe(self, pid: int, identifier: int) -> None:
        """Add records of a process's threads and code as they are now.

        Args:
            pid: The process.
            identifier: Of the event that tells what comes behind.
        """
        now = monotonic_ns()

        def trailer(_: int, pid: int, tid: int) -> bytes:
            return _TRAILER.pack(pid, tid, now, 0, identifier)

        self._records += [comm(*thread, trailer) for thread in threads([pid])]
        self._records += mapping_records([pid], trailer)

    def drain(self) -> bytes:
        """See Ring."""
        data = b"".join(self._records)
        self._records.clear()
        return data

    def close(self) -> None:
        """See Ring."""
