# SPDX-License-Identifier: BSD-2-Clause
"""From hits to accesses, by column: the same as `capture.pipeline` makes of records, by the same rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ksym.capture.coalesce import Executions, Reach, both
from ksym.program.layout import TOLD, Hit
from ksym.recording.accesses import KINDS
from ksym.recording.numbering import Ints

UNKNOWN, READ, WRITE, READ_WRITE = (KINDS.index(kind) for kind in ("?", "R", "W", "RW"))

Bools = NDArray[np.bool_]
Kinds = NDArray[np.uint8]


def seen_twice(cpu: Ints, writes: Bools, reads: Bools, ip: Ints, tid: Ints) -> Bools:
    """Which hits are the second of a write that fired both registers of a twin, where no program told them apart.

    A write's records come in one exception, the W register's first (`Pipeline._asked_for`).

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
class Hits:
    """Hits that are accesses that were asked for, or parts of one: in order of time, columns of an element each.

    Args:
        which: Their numbers among all hits.
        thread: The thread (`thread_of`).
        watch: Number of the watch.
        cpu: Where.
        time: When, in nanoseconds.
        flags: Of `Hit`.
        kind: Number in KINDS.
        origin: Number of the origin.
    """

    which: Ints
    thread: Ints
    watch: Ints
    cpu: Ints
    time: Ints
    flags: Ints
    kind: Kinds
    origin: Ints


@dataclass
class Joined:
    """The accesses that took several hits: their first and last hit, and how many; and all hits but the first."""

    first: list[int]
    last: list[int]
    number: list[int]
    kind: list[int]
    further: list[int]


def join(hits: Hits, reaches: Sequence[Reach | None], addresses: Sequence[int]) -> Joined:
    """Find the accesses that took several hits, by the rule for those that come live (`capture.coalesce`).

    Args:
        hits: The hits.
        reaches: Of each origin, how far the instruction reaches; None: each hit is an access.
        addresses: Of each origin, the instruction's.
    """
    first: list[int] = []
    last: dict[int, int] = {}
    number: dict[int, int] = {}
    kinds: dict[int, int] = {}
    further: list[int] = []
    executions: Executions[int] = Executions()
    may_join, looked_at = _candidates(hits, reaches)
    columns = (
        hits.which, hits.thread, hits.watch, hits.cpu, hits.time, hits.flags, hits.kind, hits.origin, may_join,
    )  # fmt: skip
    for hit, thread, watch, cpu, time, flags, kind, origin, joins in zip(
        *(column[looked_at].tolist() for column in columns), strict=True
    ):
        reach = reaches[origin]
        if reach is None or not joins:
            executions.leave(thread, addresses[origin])
            continue
        begun = executions.find(thread, watch, cpu, time, flags, reach)
        if begun is None:
            executions.begin(thread, watch, cpu, time, reach, hit)
            kinds[hit] = kind
            continue
        if begun not in number:
            first.append(begun)
        number[begun] = number.get(begun, 1) + 1
        last[begun] = hit
        kinds[begun] = KINDS.index(both(KINDS[kinds[begun]], KINDS[kind]))
        further.append(hit)
    return Joined(
        first,
        [last[hit] for hit in first],
        [number[hit] for hit in first],
        [kinds[hit] for hit in first],
        further,
    )


def _candidates(hits: Hits, reaches: Sequence[Reach | None]) -> tuple[Bools, Ints]:
    """Return which hits may have been made by one execution with others, and the places of all to be looked at.

    Of a million hits most are accesses of their own, as their flags tell. To be looked at are those that share their
    trap with others, those of string instructions, those that no program has told of, and what their threads did next.
    """
    reaching = np.array([reach is not None for reach in reaches], np.bool_)[hits.origin]
    repeats = np.array([reach is not None and reach.repeats for reach in reaches], np.bool_)[hits.origin]
    same = hits.flags & Hit.SAME != 0
    candidates = reaching & (repeats | same | (hits.flags & TOLD == 0))
    if not candidates.any():
        return candidates, np.zeros(0, np.int64)
    of = hits.thread * (int(hits.watch.max()) + 1) + hits.watch
    order = np.flatnonzero(reaching)
    order = order[np.argsort(of[order], kind="stable")]
    begins = same[order[1:]] & (of[order[1:]] == of[order[:-1]])
    candidates[order[:-1][begins]] = True
    order = np.argsort(hits.thread, kind="stable")
    follows = candidates[order[:-1]] & (hits.thread[order[1:]] == hits.thread[order[:-1]])
    looked_at = candidates.copy()
    looked_at[order[1:][follows]] = True
    return candidates, np.flatnonzero(looked_at)
