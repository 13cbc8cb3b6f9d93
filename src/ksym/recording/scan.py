# SPDX-License-Identifier: BSD-2-Clause
"""What a recorder must know of the bytes that pass through it: which code made the hits, and what changed processes.

The rings give thousands of records at once and nearly all are samples of one size. So their fields are taken as
columns, without a look at each record: a recorder that unpacked every sample would cost as much as ksym trace.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ksym.capture.records import Record, sideband
from ksym.recording.perf_file import Kind

_HEADER = struct.Struct("=IHH")
_ID, _IP, _PID_TID, _CHAIN = 1, 2, 3, 6
"""Words of a sample: identifier, ip, pid and tid, and where there is one, the length of its call chain."""
_BLOCK = 1024
"""Records that are looked at together: in vain, where another kind stands among them."""
_KERNEL_HALF = 1 << 63


class Found(NamedTuple):
    """What a piece of a ring holds.

    Args:
        samples: How many hits.
        places: (identifier, pid, ip) of the hits, the kernel's with pid 0.
        others: The records that are no samples.
        chains: (identifier, pid, call chain) of the hits.
        values: Words of their values.
    """

    samples: int
    places: set[tuple[int, int, int]]
    others: list[Record]
    chains: set[tuple[int, int, bytes]]
    values: set[int]


def scan(data: bytes, *, chains: bool = False, values: int = 0) -> Found:
    """Look through whole records, as ``Ring.drain`` gives them.

    Args:
        data: The records.
        chains: Whether to look at call chains.
        values: At so many words of each sample's end, as values.
    """
    words = memoryview(data).cast("Q")
    places: set[tuple[int, int, int]] = set()
    others: list[Record] = []
    found_chains: set[tuple[int, int, bytes]] = set()
    found_values: set[int] = set()
    samples = at = 0
    end = len(words)
    while at < end:
        kind, misc, size = _HEADER.unpack_from(data, at * 8)
        step = size // 8
        if kind != Kind.SAMPLE:
            record = sideband(kind, misc, data[at * 8 : at * 8 + size])
            if record is not None:
                others.append(record)
            at += step
            continue
        count = _equal(words, at, step)
        stop = at + count * step
        places.update(
            (event, 0 if ip >= _KERNEL_HALF else pid_tid & 0xFFFFFFFF, ip)
            for event, ip, pid_tid in set(
                zip(
                    words[at + _ID : stop : step],
                    words[at + _IP : stop : step],
                    words[at + _PID_TID : stop : step],
                    strict=True,
                )
            )
        )
        if chains:
            for start in range(at, stop, step):
                first = start + _CHAIN + 1
                chain = data[first * 8 : (first + words[first - 1]) * 8]
                found_chains.add((words[start + _ID], words[start + _PID_TID] & 0xFFFFFFFF, chain))
        for word in range(max(0, step - values), step):
            found_values.update(words[at + word : stop : step])
        samples += count
        at = stop
    return Found(samples, places, others, found_chains, found_values)


def _equal(words: memoryview, at: int, step: int) -> int:
    """How many records from ``at`` on have the same header, each ``step`` words long; not more than `_BLOCK`."""
    header = words[at]
    most = min((len(words) - at) // step, _BLOCK)
    heads = words[at : at + most * step : step].tolist()
    if heads.count(header) == most:
        return most
    # The first other header is a true one: up to it, every record was of this size.
    return next(number for number, head in enumerate(heads) if head != header)
