# SPDX-License-Identifier: BSD-2-Clause
"""What held at the time of each hit: its thread's name, and which program its process ran."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ksym.capture.records import CommRecord, ForkRecord, MmapRecord
from ksym.capture.replaced import replaced_code
from ksym.recording.noted import ALWAYS, Era
from ksym.recording.numbering import Ints, distinct, grouped, numbered
from ksym.recording.sideband import Change

Ranked = Sequence[tuple[int, Change]]
"""Changes with their ranks (`sideband.ranks`), in order."""
_RANK_BITS = 40
_FACTOR = 1_000_003
"""Makes one number of the ranks of several changes; a small one, as numbers wrap around."""


class Eras:
    """The times between which an address of a process meant something else, by number.

    Args:
        changes: What changed processes.
        pid: Of what hits have in common.
        ip: The same.
        common: Of each hit, the number of what it has in common with others.
        first: The first hit of each number.
    """

    def __init__(self, changes: Ranked, pid: Ints, ip: Ints, common: Ints, first: Ints) -> None:
        self._spaces, number = _spaces(changes, pid, ip, first)
        ends = []
        for rank, change in changes:
            replaced = replaced_code(change.record)
            if replaced is not None:
                for of in self._spaces.get(replaced[0], {}):
                    if self._spaces[replaced[0]][of] in replaced[1]:
                        ends.append((of, rank, change.order, change.record.time))
        ends.sort()
        self._ends = ends
        self.of: Ints | None = None
        """Number of each hit's; None: no process has hits in several."""
        self._common, self._pid = common, number
        self._own = np.zeros(len(number), np.int64)
        if not ends:
            return
        keys = np.array([of << _RANK_BITS | rank for of, rank, _, _ in ends], np.int64)
        count = int(number.max()) + 1
        begins, last = np.full(count, len(common)), np.full(count, -1)
        np.minimum.at(begins, number, first)
        np.maximum.at(last, number, len(common) - 1 - numbered(common[::-1])[1])
        if not any(begins[of] < rank <= last[of] for of, rank, _, _ in ends):
            self._own = np.searchsorted(keys, number << _RANK_BITS | begins[number], "right")
        else:
            hits = number[common] << _RANK_BITS | np.arange(len(common))
            self.of = np.searchsorted(keys, hits, "right")

    def era(self, hit: int) -> Era:
        """The era in which a hit was."""
        common = self._common[hit]
        of, era = int(self._pid[common]), ALWAYS
        number = int(self._own[common] if self.of is None else self.of[hit])
        if number and self._ends[number - 1][0] == of:
            _, _, start, time = self._ends[number - 1]
            era = era._replace(start=start, start_time=time)
        if number < len(self._ends) and self._ends[number][0] == of:
            _, _, end, time = self._ends[number]
            era = era._replace(end=end, end_time=time)
        return era


def _spaces(changes: Ranked, pid: Ints, ip: Ints, first: Ints) -> tuple[dict[int, dict[int, int]], Ints]:
    """Number the places whose meaning changes at the same times.

    All addresses of a process change together when it runs another program. Those at which it maps files while it has
    hits change by themselves.

    Args:
        changes: What changed processes.
        pid: Of each place.
        ip: Of each place, the address that was reported.
        first: The first hit of each place.

    Returns:
        By process, the number of each of its spaces with an address in it; and the number of each place.
    """
    before = (ip - 1).astype(np.uint64)  # a site is that of the byte before
    covers = np.zeros(len(pid), np.int64)
    begins = dict.fromkeys(pid.tolist(), 1 << 62)
    for each, hit in zip(pid.tolist(), first.tolist(), strict=True):
        begins[each] = min(begins[each], hit)
    for rank, change in changes:
        record = change.record
        if isinstance(record, MmapRecord) and rank > begins.get(record.pid, 1 << 62):
            end = min(record.start + record.length, (1 << 64) - 1)
            inside = (pid == record.pid) & (before >= np.uint64(record.start)) & (before < np.uint64(end))
            covers[inside] = covers[inside] * _FACTOR + rank
    number, example = grouped(pid, covers)
    spaces: dict[int, dict[int, int]] = {}
    for of, place in enumerate(example.tolist()):
        spaces.setdefault(int(pid[place]), {})[of] = int(before[place])
    return spaces, number


def thread_names(
    changes: Ranked, tid: Ints, cpu: Ints, common: Ints, first: Ints
) -> tuple[tuple[str, ...], NDArray[np.int32], Ints | None]:
    """The names of threads at the time of their hits (`capture.tasks`).

    Args:
        changes: What changed threads.
        tid: Of what hits have in common.
        cpu: The same.
        common: Of each hit, the number of what it has in common with others.
        first: The first hit of each number.

    Returns:
        The names; the number of the name for each number in ``common``; and where a thread had
        several, that of each hit as well.
    """
    tids, number = distinct(tid)
    known = {each: at for at, each in enumerate(tids.tolist())}
    begins = np.full(len(tids), np.iinfo(np.int64).max)
    np.minimum.at(begins, number, first)
    names: dict[str, int] = {}
    current: dict[int, str] = {0: "swapper"}
    # Of each thread, from which hit on it had which name; what it was called before its first one does not count.
    named: list[list[tuple[int, int]]] = [[(0, names.setdefault("?", 0))] for _ in tids]
    for rank, change in changes:
        record = change.record
        if isinstance(record, CommRecord):
            name = record.comm
        elif isinstance(record, ForkRecord):
            name = current.get(record.parent_tid) or "?"
        else:
            continue
        current[record.tid] = name
        thread = known.get(record.tid)
        if thread is not None:
            if rank <= begins[thread]:
                named[thread].clear()
            named[thread].append((rank, names.setdefault(name or "?", len(names))))
    swappers = {
        each: names.setdefault(f"swapper/{each}", len(names)) for each in sorted(set(cpu[tid == 0].tolist()))
    }
    comm = np.array([named[at][-1][1] for at in number.tolist()], np.int32)
    for each, swapper in swappers.items():
        comm[(tid == 0) & (cpu == each)] = swapper
    if all(len(each) == 1 for thread, each in zip(tids.tolist(), named, strict=True) if thread):
        return tuple(names), comm, None
    entries = [(at, *each) for at, thread in enumerate(named) for each in thread]
    keys = np.array([at << _RANK_BITS | rank for at, rank, _ in entries], np.int64)
    hits = number[common] << _RANK_BITS | np.arange(len(common))
    of_hit = np.array([name for _, _, name in entries], np.int32)[np.searchsorted(keys, hits, "right") - 1]
    return tuple(names), comm, np.where((tid == 0)[common], comm[common], of_hit)
