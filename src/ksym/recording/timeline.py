# SPDX-License-Identifier: BSD-2-Clause
"""What held at the time of each hit: its thread's name, and which program its process ran."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ksym.capture.pipeline import ended_address_space
from ksym.capture.records import CommRecord, ForkRecord
from ksym.recording.noted import ALWAYS, Era
from ksym.recording.numbering import Ints, distinct
from ksym.recording.sideband import Change

Ranked = Sequence[tuple[int, Change]]
"""Changes with their ranks (`sideband.ranks`), in order."""
_RANK_BITS = 40


class Eras:
    """The times between which the addresses of a process meant something else, by number.

    Args:
        changes: What changed processes.
        pid: Of each hit.
    """

    def __init__(self, changes: Ranked, pid: Ints) -> None:
        pids, number = distinct(pid)
        known = {each: at for at, each in enumerate(pids.tolist())}
        ends = []
        for rank, change in changes:
            ended = ended_address_space(change.record)
            if ended in known:
                ends.append((known[ended], rank, change.order, change.record.time))
        ends.sort()
        self._ends = ends
        self.of: Ints | None = None
        """Number of each hit's; None: there is but one."""
        if ends:
            keys = np.array([of << _RANK_BITS | rank for of, rank, _, _ in ends], np.int64)
            hits = number << _RANK_BITS | np.arange(len(pid))
            self.of = np.searchsorted(keys, hits, "right")
            self._pid_of = number

    def era(self, hit: int) -> Era:
        """The era in which a hit was."""
        if self.of is None:
            return ALWAYS
        number, of, era = int(self.of[hit]), int(self._pid_of[hit]), ALWAYS
        if number and self._ends[number - 1][0] == of:
            _, _, start, time = self._ends[number - 1]
            era = era._replace(start=start, start_time=time)
        if number < len(self._ends) and self._ends[number][0] == of:
            _, _, end, time = self._ends[number]
            era = era._replace(end=end, end_time=time)
        return era


def thread_names(changes: Ranked, tid: Ints, cpu: Ints) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """The names of threads at the time of their hits (`capture.tasks`).

    Returns:
        The names, and the number of each hit's.
    """
    tids, number = distinct(tid)
    known = {each: at for at, each in enumerate(tids.tolist())}
    names: dict[str, int] = {}
    current: dict[int, str] = {0: "swapper"}
    entries: list[tuple[int, int, int]] = [(at, 0, names.setdefault("?", 0)) for at in range(len(tids))]
    for rank, change in changes:
        record = change.record
        if isinstance(record, CommRecord):
            name = record.comm
        elif isinstance(record, ForkRecord):
            name = current.get(record.parent_tid) or "?"
        else:
            continue
        current[record.tid] = name
        if record.tid in known:
            entries.append((known[record.tid], rank, names.setdefault(name or "?", len(names))))
    entries.sort(key=lambda entry: entry[:2])
    keys = np.array([of << _RANK_BITS | rank for of, rank, _ in entries], np.int64)
    named = np.array([name for _, _, name in entries], np.int32)
    if len(entries) == len(tids):
        of_hit = named[number]
    else:
        hits = number << _RANK_BITS | np.arange(len(tid))
        of_hit = named[np.searchsorted(keys, hits, "right") - 1]
    idle = np.flatnonzero(tid == 0)
    if len(idle):
        cpus, which = distinct(cpu[idle])
        swappers = [names.setdefault(f"swapper/{each}", len(names)) for each in cpus.tolist()]
        of_hit[idle] = np.array(swappers, np.int32)[which]
    return tuple(names), of_hit
