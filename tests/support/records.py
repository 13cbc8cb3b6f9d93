# SPDX-License-Identifier: BSD-2-Clause
"""Records of a ring, read without ksym's own reader."""

from __future__ import annotations

import struct
from collections.abc import Iterator

SAMPLE = 9
"""PERF_RECORD_SAMPLE, linux/perf_event.h."""
LOST = 2
THROTTLE, UNTHROTTLE = 5, 6


def records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each."""
    at = 0
    while at < len(data):
        kind, _, size = struct.unpack_from("=IHH", data, at)
        yield kind, data[at + 8 : at + size]
        at += size


def addresses(data: bytes) -> list[int]:
    """PERF_SAMPLE_ADDR of each sample, of an event with IP | ADDR."""
    return [struct.unpack("=QQ", body)[1] for kind, body in records(data) if kind == SAMPLE]


def identifiers(data: bytes) -> list[int]:
    """PERF_SAMPLE_IDENTIFIER of each sample, of an event with that alone."""
    return [struct.unpack("=Q", body)[0] for kind, body in records(data) if kind == SAMPLE]
