# SPDX-License-Identifier: BSD-2-Clause
"""From hits to accesses, by column: the same as `capture.pipeline` and `capture.coalesce` make of records.

Most hits are an access of their own, which the place they came from tells. Only for the others is each looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ksym.capture.coalesce import GAP_NS
from ksym.recording.accesses import KINDS
from ksym.recording.numbering import Ints

UNKNOWN, READ, WRITE, READ_WRITE = (KINDS.index(kind) for kind in ("?", "R", "W", "RW"))

Bools = NDArray[np.bool_]
Kinds = NDArray[np.uint8]


def seen_twice(cpu: Ints, writes: Bools, reads: Bools, ip: Ints, tid: Ints) -> Bools:
    """Which hits are the second of a write that fired both registers of a twin, where no program told them apart.

    A write's records come in one exception, the W register's first (`Pipeline._judged`).

    Args:
        cpu: Where.
        writes: Records of a twin's W register.
        reads: Records of its RW register.
        ip: Number of the address that was reported.
        tid: Thread.
    """
    twice = np.zeros(len(cpu), np.bool_)
    which = np.flatnonzero(writes | reads)
    which = which[np.argsort(cpu[which], kind="stable")]
    second, first = which[1:], which[:-1]
    same = reads[second] & writes[first] & (cpu[first] == cpu[second])
    same &= (ip[first] == ip[second]) & (tid[first] == tid[second])
    twice[second[same]] = True
    return twice


@dataclass
class Sweeping:
    """Hits that may belong to an access that took several, in order of time.

    Args:
        which: Their numbers among all hits.
        thread: The thread, or for the idle task, -1 - CPU.
        watch: Number of the watch.
        piece: Number of the piece.
        address: Of the instruction.
        cpu: Where.
        time: When, in nanoseconds.
        kind: Number in KINDS.
        most: How often one access can hit the piece.
        repeats: The instruction repeats itself.
    """

    which: Ints
    thread: Ints
    watch: Ints
    piece: Ints
    address: Ints
    cpu: Ints
    time: Ints
    kind: Kinds
    most: Ints
    repeats: Bools


@dataclass
class Swept:
    """The accesses that took several hits: their first and last hit, and how many; and all hits but the first."""

    first: list[int]
    last: list[int]
    number: list[int]
    kind: list[int]
    further: list[int]


def sweeps(hits: Sweeping) -> Swept:
    """Find the accesses that took several hits, as `capture.coalesce` does."""
    once = ((hits.kind == WRITE) | (hits.kind == READ_WRITE)) & ~hits.repeats
    columns = (
        hits.which, hits.thread, hits.watch, hits.piece, hits.address, hits.cpu, hits.time, hits.kind, hits.most,
    )  # fmt: skip
    rows = zip(*(column.tolist() for column in columns), once.tolist(), strict=True)
    # first hit, last hit, number, kind, address, cpu, time of the last, hits of each piece
    current: dict[tuple[int, int], tuple[int, int, int, int, int, int, int, dict[int, int]]] = {}
    done: list[tuple[int, int, int, int]] = []
    further: list[int] = []
    for hit, thread, watch, piece, address, cpu, time, kind, most, write_once in rows:
        key = thread, watch
        sweep = current.get(key)
        if sweep is not None:
            first, last, number, so_far, its_address, its_cpu, last_time, pieces = sweep
            seen = pieces.get(piece, 0)
            if (
                address == its_address
                and cpu == its_cpu
                and time - last_time <= GAP_NS
                and (kind == so_far or not kind or not so_far)
                and seen < most
                and not (seen and write_once)
            ):
                pieces[piece] = seen + 1
                current[key] = first, hit, number + 1, so_far or kind, address, cpu, time, pieces
                further.append(hit)
                continue
            if number > 1:
                done.append((first, last, number, so_far))
        current[key] = hit, hit, 1, kind, address, cpu, time, {piece: 1}
    done += [sweep[:4] for sweep in current.values() if sweep[2] > 1]
    firsts, lasts, numbers, kinds = (
        (list(column) for column in zip(*done, strict=True)) if done else ([],) * 4
    )
    return Swept(firsts, lasts, numbers, kinds, further)
