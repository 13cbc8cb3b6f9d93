# SPDX-License-Identifier: BSD-2-Clause
"""What a recorder must know of the bytes that pass through it: which code made the hits, and what changed processes.

The rings give thousands of records at once and nearly all are samples of one size. So their fields are taken as
columns, without a look at each record: a recorder that unpacked every sample would cost as much as ksym trace.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate, product
from typing import NamedTuple

from ksym.capture.records import Record, sideband
from ksym.recording.perf_file import Kind
from ksym.symbols.variable import KERNEL_HALF

_HEADER = struct.Struct("=IHH")
_ID, _IP, _PID_TID, _TIME, _CHAIN = 1, 2, 3, 4, 6
"""Words of a sample: identifier, ip, pid and tid, time, and where there is one, the length of its call chain."""
_ENDING_TIME = 3
"""Words from the end of any other record to its time."""
_BLOCK = 1024
"""Records that are looked at together: in vain, where another kind stands among them."""

Place = tuple[int, int, int]
"""Identifier, pid (0 for the kernel's code), ip."""
Chain = tuple[int, int, bytes]
"""Identifier, pid, call chain."""


class Found(NamedTuple):
    """What a piece of a ring holds.

    Args:
        samples: How many hits, by identifier.
        places: Where they came from.
        others: The records that are no samples.
        chains: Their call chains.
        values: Words of their values.
    """

    samples: dict[int, int]
    places: set[Place]
    others: list[Record]
    chains: set[Chain]
    values: set[int]


def scan(data: bytes, *, chains: bool = False, values: int = 0) -> Found:
    """Look through whole records, as ``Ring.drain`` gives them.

    Args:
        data: The records.
        chains: Whether to look at call chains.
        values: At so many words of each sample's end, as values.
    """
    words = memoryview(data).cast("Q")
    places: set[Place] = set()
    others: list[Record] = []
    found_chains: set[Chain] = set()
    found_values: set[int] = set()
    samples: dict[int, int] = {}
    at = 0
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
        columns = [words[at + word : stop : step] for word in (_ID, _IP, _PID_TID)]
        values_of = [_distinct(column) for column in columns]
        # Mostly one column alone has several values: no row has to be looked at then.
        one_varies = sum(len(each) > 1 for each in values_of) <= 1
        places.update(
            (event, 0 if ip >= KERNEL_HALF else pid_tid & 0xFFFFFFFF, ip)
            for event, ip, pid_tid in (product(*values_of) if one_varies else set(zip(*columns, strict=True)))
        )
        events = values_of[0]
        of = columns[0].tolist() if len(events) > 1 else []
        for event in events:
            samples[event] = samples.get(event, 0) + (of.count(event) if of else count)
        if chains:
            for start in range(at, stop, step):
                first = start + _CHAIN + 1
                chain = data[first * 8 : (first + words[first - 1]) * 8]
                found_chains.add((words[start + _ID], words[start + _PID_TID] & 0xFFFFFFFF, chain))
        for word in range(max(0, step - values), step):
            found_values.update(words[at + word : stop : step])
        at = stop
    return Found(samples, places, others, found_chains, found_values)


def one_by_one(data: bytes, *, chains: bool, raw: bool) -> Iterator[tuple[int, Place, Chain | None]]:
    """The time, the place and the call chain of each sample: slow, for rounds in which it matters what came first.

    Args:
        data: The records.
        chains: Whether samples have call chains.
        raw: Whether a program noted the time of the hit.
    """
    words = memoryview(data).cast("Q")
    at, end = 0, len(words)
    while at < end:
        head = words[at]
        if head & 0xFFFFFFFF == Kind.SAMPLE:
            event, ip, pid, time = (
                words[at + _ID],
                words[at + _IP],
                words[at + _PID_TID] & 0xFFFFFFFF,
                words[at + _TIME],
            )
            behind, chain = at + _CHAIN, None
            if chains:
                first = behind + 1
                behind = first + words[behind]
                chain = event, pid, data[first * 8 : behind * 8]
            if raw:
                time = words[behind + 1]
            yield time, (event, 0 if ip >= KERNEL_HALF else pid, ip), chain
        at += head >> 51


def split(batch: Sequence[bytes], room: int) -> tuple[list[bytes], list[bytes]]:
    """Part what several rings held at a point in time, so that the earlier part has about so many bytes."""
    records: list[tuple[int, int, int]] = []
    for ring, data in enumerate(batch):
        words = memoryview(data).cast("Q")
        at = latest = 0
        while at < len(words):
            head = words[at]
            step = head >> 51
            time = words[at + (_TIME if head & 0xFFFFFFFF == Kind.SAMPLE else step - _ENDING_TIME)]
            latest = max(latest, time)  # so that a ring is cut in one place
            records.append((latest, ring, step * 8))
            at += step
    records.sort(key=lambda record: record[0])
    sums = accumulate(size for _, _, size in records)
    count = max(1, sum(total <= room for total in sums))
    cuts = [0] * len(batch)
    for _, ring, size in records[:count]:
        cuts[ring] += size
    parts = list(zip(batch, cuts, strict=True))
    return [data[:cut] for data, cut in parts if cut], [data[cut:] for data, cut in parts if cut < len(data)]


def _equal(words: memoryview, at: int, step: int) -> int:
    """How many records from ``at`` on have the same header, each ``step`` words long; not more than `_BLOCK`."""
    header = words[at]
    most = min((len(words) - at) // step, _BLOCK)
    heads = words[at : at + most * step : step]
    if _same(heads.tobytes()):
        return most
    # The first other header is a true one: up to it, every record was of this size.
    return next(number for number, head in enumerate(heads) if head != header)


def _distinct(column: memoryview) -> set[int]:
    """The values of a column of 64-bit words. To compare bytes takes a tenth of what making numbers does."""
    data = column.tobytes()
    return {column[0]} if _same(data) else set(memoryview(data).cast("Q"))


def _same(data: bytes) -> bool:
    """Whether 64-bit words are all the same."""
    return data == data[:8] * (len(data) // 8)
