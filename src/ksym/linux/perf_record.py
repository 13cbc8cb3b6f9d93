# SPDX-License-Identifier: BSD-2-Clause
"""The frame of perf's records: ``struct perf_event_header`` and what follows it, padded (linux/perf_event.h)."""

from __future__ import annotations

import struct

RECORD = struct.Struct("<IHH")
"""type, misc, size: ``struct perf_event_header``."""
COMM, EXIT, MMAP2 = 3, 4, 10
"""Types of records, enum perf_event_type."""
MISC_KERNEL, MISC_USER = 1, 2
"""PERF_RECORD_MISC_*: whose address space a mapping is in."""


def record(kind: int, body: bytes, misc: int = 0) -> bytes:
    """Return a record with its header; the body is padded to 8 bytes."""
    body += bytes(-len(body) % 8)
    return RECORD.pack(kind, misc, RECORD.size + len(body)) + body


def padded(name: str) -> bytes:
    """Return a name as records have it: with a NUL, padded to 8 bytes."""
    data = name.encode(errors="surrogateescape") + b"\0"
    return data + bytes(-len(data) % 8)
