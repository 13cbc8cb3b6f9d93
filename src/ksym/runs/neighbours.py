# SPDX-License-Identifier: BSD-2-Clause
"""Processes whose accesses a run does not see, though they have the variable, too.

An event is inherited by what its task starts from then on. So the children that a process of ``-p`` had before have
none, as with perf and gdb; and memory that processes share is watched only in those that are named.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ksym.linux.maps import Mapping
from ksym.linux.processes import all_pids, descendants, program_of
from ksym.runs.places import Places
from ksym.watch.plan import Place, Plan, Watch
from ksym.watch.presence import Hold, maps_of


def remarks(
    plan: Plan, places: Places, pids: Sequence[int], *, children: bool, shared: bool = True
) -> list[str]:
    """Return what the summary says of processes that are not watched.

    Args:
        plan: What is watched.
        places: Where.
        pids: The processes that are watched.
        children: Those of ``-p``, which may have had children before.
        shared: Tell of memory that other processes share; else somebody else does.
    """
    before = {pid: descendants(pid) for pid in pids} if children else {}
    memory: dict[int, list[Mapping]] = {}
    return [
        line for watch in plan.watches for line in _of(watch, places, pids, before, memory, shared=shared)
    ]


def _of(
    watch: Watch,
    places: Places,
    pids: Sequence[int],
    before: dict[int, list[int]],
    memory: dict[int, list[Mapping]],
    *,
    shared: bool,
) -> list[str]:
    told = []
    holds = [(place, hold) for place in places.first if (hold := places.holds[place.number].get(watch.index))]
    if any(hold.shared for _, hold in holds):
        others = _sharers(pids, [hold for _, hold in holds if hold.shared], memory) if shared else []
        if others:
            has = "has" if len(others) == 1 else "have"
            told.append(
                f"{watch.name} lies in shared memory, which {_processes(others)} {has}, too, not watched: "
                f"{_option(pids, others)} watches all"
            )
        return told
    for place, hold in holds:
        having = [
            pid for pid in before.get(place.pid, ()) if pid not in pids and _has(pid, place, hold, memory)
        ]
        if having:
            told.append(
                f"{len(having)} {'child' if len(having) == 1 else 'children'} of process {place.pid} from before "
                f"{'has' if len(having) == 1 else 'have'} {watch.name}, too, not watched: "
                f"{_option(pids, having)} watches all"
            )
    return told


def _has(pid: int, place: Place, hold: Hold, memory: dict[int, list[Mapping]]) -> bool:
    if not hold.among(_maps(pid, memory)):
        return False
    return hold.has_file or program_of(pid) == program_of(place.pid)


def _sharers(pids: Sequence[int], holds: list[Hold], memory: dict[int, list[Mapping]]) -> list[int]:
    """The other processes that have the same memory."""
    found = []
    for pid in sorted(set(all_pids()) - set(pids) - {os.getpid()}):
        mappings = _maps(pid, memory)
        if any(
            mapping.file_key[:2] == hold.key[:2] and "s" in mapping.perms
            for hold in holds
            for mapping in mappings
        ):
            found.append(pid)
    return found


def _maps(pid: int, memory: dict[int, list[Mapping]]) -> list[Mapping]:
    if pid not in memory:
        memory[pid] = maps_of(pid)
    return memory[pid]


def _processes(pids: Sequence[int]) -> str:
    return f"process{'' if len(pids) == 1 else 'es'} {', '.join(map(str, pids))}"


def _option(pids: Sequence[int], others: Sequence[int]) -> str:
    return "-p " + ",".join(map(str, (*pids, *others)))
